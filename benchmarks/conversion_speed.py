"""Measures the converter against a bare Pillow loop, and its memory.

  python -m benchmarks.conversion_speed --input_dir=FOLDER --films=3840 --repeats=5

FOLDER holds class folders of films, repeated by symbolic links until there are
enough. In turn: our converter, with and without the start of its workers; a Pillow
loop that only opens, drafts, converts, resizes and encodes, in as many warm processes;
one thread of the fastest libraries at hand on bytes in memory. Then the memory of the
whole process tree at 2,000 and 20,000 films. Prints figures, judges nothing.
"""

import concurrent.futures
import contextlib
import dataclasses
import io
import itertools
import multiprocessing
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import simplejpeg
from PIL import Image

from cxr import cli, platforms
from cxr.conversion import converter, workers

SIZE, QUALITY = 224, 95
CHUNK = 64  # films a task, as the converter's
BARE_FILMS = 240
SAMPLE_S = 0.02  # between two looks at the memory


@dataclasses.dataclass(frozen=True)
class SpeedConfig:
    """Which films are converted, how many, how often."""

    input_dir: str = cli.required("class folders of films")
    films: int = cli.option(3840, "films of each conversion", lower=1)
    repeats: int = cli.option(5, "conversions, in turn; 0 = memory alone", lower=0)
    memory: tuple[str, ...] = cli.option(
        ("2000", "20000"), "numbers of films at which memory is measured; '' = none"
    )

    def validate(self) -> None:
        """Raises UsageError for a folder without films or a wrong number of films."""
        if not any(pathlib.Path(self.input_dir).glob("*/*")):
            raise cli.UsageError(
                f"--input_dir={self.input_dir}: expected class folders of films"
            )
        if not all(count.isdigit() and int(count) for count in self.memory):
            raise cli.UsageError(
                f"--memory={','.join(self.memory)}: expected numbers such as 2000,20000"
            )


def repeat(source: pathlib.Path, target: pathlib.Path, count: int) -> list[str]:
    """Makes class folders of `count` links to the films below `source`."""
    films = sorted(path for path in source.glob("*/*") if path.is_file())
    links = []
    for number, film in zip(range(count), itertools.cycle(films), strict=False):
        link = target / film.parent.name / f"{number // len(films):03d}-{film.name}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(film.resolve())
        links.append(str(link))
    return links


def pillow(paths: list[str]) -> int:
    """The peer: nothing but decoding, resizing and encoding."""
    for path in paths:
        with Image.open(path) as film:
            film.draft("L", (SIZE, SIZE))
            small = film.convert("L").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            small.save(io.BytesIO(), "JPEG", quality=QUALITY)
    return len(paths)


def peer_seconds(
    pool: concurrent.futures.Executor,
    peer: Callable[[list[str]], int],
    paths: list[str],
    chunk: int = CHUNK,
) -> float:
    """Returns a peer's seconds for all films, its processes running already.

    Args:
      pool: its processes.
      peer: converts films; returns how many.
      paths: of the films.
      chunk: films a task.
    """
    began = time.perf_counter()
    chunks = [paths[start : start + chunk] for start in range(0, len(paths), chunk)]
    assert sum(pool.map(peer, chunks)) == len(paths)
    return time.perf_counter() - began


def our_seconds(films: pathlib.Path, output: pathlib.Path) -> float:
    """Returns the seconds of a whole conversion, from folders to the manifest."""
    config = converter.ConversionConfig(
        input_dir=str(films), output_dir=str(output), image_size=SIZE, quality=QUALITY
    )
    began = time.perf_counter()
    converter.convert(config, log=lambda line: None)
    return time.perf_counter() - began


def start_seconds() -> float:
    """Returns how long the converter's workers take to start."""
    began = time.perf_counter()
    with workers.started(0, preload=converter.__name__) as pool:
        jobs = [""] * platforms.available_cores()
        assert list(pool.map(len, jobs)) == [0] * len(jobs)
    return time.perf_counter() - began


def bare_rate(paths: list[str]) -> float:
    """Returns films/s of one thread: decode, resize and encode, nothing else."""
    encoded = [pathlib.Path(path).read_bytes() for path in paths[:BARE_FILMS]]
    least = {"min_height": SIZE, "min_width": SIZE}
    began = time.perf_counter()
    for data in encoded:
        film = Image.fromarray(simplejpeg.decode_jpeg(data, "GRAY", **least)[..., 0])
        small = film.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        pixels = memoryview(small.tobytes()).cast("B", (SIZE, SIZE, 1))
        simplejpeg.encode_jpeg(pixels, QUALITY, "GRAY", "GRAY")
    return len(encoded) / (time.perf_counter() - began)


def compare(source: pathlib.Path, scratch: pathlib.Path, count: int, repeats: int):
    """Prints the rates of the converter, the peer and the bare libraries."""
    paths = repeat(source, scratch / "films", count)
    cores = platforms.available_cores()
    context = multiprocessing.get_context("forkserver")
    rates = {"ours": [], "ours, started": [], "pillow": [], "bare": []}
    with concurrent.futures.ProcessPoolExecutor(cores, context) as pool:
        peer_seconds(pool, pillow, paths[: 4 * CHUNK])
        for turn in range(repeats):
            output = scratch / f"data-{turn}"
            seconds = our_seconds(scratch / "films", output)
            rates["ours"].append(count / seconds)
            rates["ours, started"].append(count / (seconds - start_seconds()))
            rates["pillow"].append(count / peer_seconds(pool, pillow, paths))
            rates["bare"].append(cores * bare_rate(paths))
    for name, found in rates.items():
        print(
            f"{name:>13}: {statistics.median(found):,.0f} films/s "
            f"({min(found):,.0f} - {max(found):,.0f})"
        )
    for ours, peer in itertools.product(("ours", "ours, started"), ("pillow", "bare")):
        pairs = [a / b for a, b in zip(rates[ours], rates[peer], strict=True)]
        print(f"{ours} / {peer}: {statistics.median(pairs):.2f}")


def tree_mib(process: int) -> float:
    """Returns the resident memory of a process and all its descendants."""
    total, waiting = 0, [process]
    while waiting:
        folder = pathlib.Path(f"/proc/{waiting.pop()}")
        with contextlib.suppress(OSError):
            for line in (folder / "status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1])  # kB
            for task in (folder / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
    return total / 1024


def peak_mib(source: pathlib.Path, scratch: pathlib.Path, count: int) -> float:
    """Returns the most memory that converting `count` films takes."""
    repeat(source, scratch / f"films-{count}", count)
    command = [sys.executable, "-m", "tools.make_tfrecords"]
    flags = [f"--input_dir={scratch}/films-{count}", f"--output_dir={scratch}/{count}"]
    process = subprocess.Popen([*command, *flags], stdout=subprocess.DEVNULL)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, tree_mib(process.pid))
        time.sleep(SAMPLE_S)
    assert process.returncode == 0
    return peak


def main(argv: list[str]) -> int:
    """Prints all figures."""
    config, positional = cli.parse(argv, SpeedConfig, usage=__doc__)
    cli.reject_positional(positional)
    source, counts = pathlib.Path(config.input_dir), [int(n) for n in config.memory]
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        if config.repeats:
            compare(source, scratch, config.films, config.repeats)
        peaks = [peak_mib(source, scratch, count) for count in counts]
        for count, peak in zip(counts, peaks, strict=True):
            print(f"{count:,} films: {peak:.0f} MiB at most, {peak / peaks[0]:.2f}")
    return 0


if __name__ == "__main__":
    cli.run(main)
