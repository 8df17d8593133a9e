"""Measures one input pipeline in a process of its own.

`tools.compare_loaders` runs this module with each peer's interpreter, so it imports
nothing beyond the standard library. Commands come on stdin, a word a line; answers
go to stdout as JSON behind an `@`, because libraries print too.
"""

import contextlib
import importlib.metadata
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.loader_peers import LOADERS, Task
from benchmarks.peer_process import answer

# Seconds of a turn at least. An epoch from memory takes 10 ms, in which waking up
# after the others' turns would be measured, not loading.
_TURN_S = 0.25
# Whose versions say what was compared, where an environment has them.
_PACKAGES = ("numpy", "numba", "tensorflow", "keras", "tensorflow-datasets", "torch")
_PACKAGES += ("ffcv", "nvidia-dali-cuda120", "pillow", "opencv-python-headless")


def serve(name: str, task: Task) -> None:
    """Answers commands until stdin ends: `first`, `epochs`, `check`."""
    imports, arguments = LOADERS[name]
    build = imports(*arguments)
    getattr(build, "prepare", lambda task: None)(task)
    answer({"ready": name, "rss_mb": _rss_mb("VmHWM"), "versions": _versions()})
    loader = None
    for command in sys.stdin:
        began = time.perf_counter()
        if command.strip() == "first":
            loader = build(task)
            answer(_timed(loader.epoch(), began))
        elif command.strip() == "epochs":
            answer(_timed(_repeated(loader.epoch, began), began))
        else:
            answer(_checksum(loader.whole()))


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _repeated(epoch: Callable[[], Iterator[Any]], began: float) -> Iterator[Any]:
    """Iterates whole epochs for a turn's time, one at least."""
    yield from epoch()
    while time.perf_counter() - began < _TURN_S:
        yield from epoch()


def _timed(batches: Iterator[Any], began: float) -> dict[str, float]:
    images, first = 0, None
    for batch in batches:
        if first is None:
            first = time.perf_counter() - began
        images += len(batch)
    seconds = time.perf_counter() - began
    return {
        "images": images,
        "first_batch_s": first,
        "seconds": seconds,
        "rss_mb": _rss_mb("VmRSS"),
        "peak_rss_mb": _rss_mb("VmHWM"),
    }


def _checksum(batches: Iterator[Any]) -> dict[str, float]:
    """Counts films and adds their pixels, so that a fast wrong loader shows."""
    import numpy as np

    images, total, pixels = 0, 0.0, 0
    for batch in batches:
        batch = np.asarray(batch)
        images += len(batch)
        total += float(batch.sum(dtype=np.float64))
        pixels += batch.size
    return {"images": images, "pixel_sum": total, "pixel_mean": total / pixels}


def _rss_mb(field: str) -> float:
    """Resident memory of this process and its children, now or at most (Linux)."""
    total = 0.0
    for status in _family():
        with contextlib.suppress(OSError):
            for line in (status / "status").read_text().splitlines():
                if line.startswith(field + ":"):
                    total += int(line.split()[1]) / 1024  # kB
    return total


def _family() -> Iterator[pathlib.Path]:
    own = pathlib.Path("/proc/self").resolve()
    yield own
    for task in (own / "task").iterdir():
        with contextlib.suppress(OSError):
            for child in (task / "children").read_text().split():
                yield pathlib.Path("/proc") / child


if __name__ == "__main__":
    serve(sys.argv[1], Task(pathlib.Path(sys.argv[2]), *map(int, sys.argv[3:5])))
