"""Runs other input pipelines on the same films beside ours, in turn."""

import contextlib
import dataclasses
import os
import pathlib
import platform
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks import loader_report
from benchmarks.loader_peers import LOADERS
from benchmarks.peer_process import PeerProcess
from cxr import cli, console, files, platforms, records, tfrecord
from cxr.conversion import converter

USAGE = """
Measures input pipelines on the same films, interleaved, each in its own process:

  python -m tools.compare_loaders --input_dir=FOLDER --output_dir=OUT \\
    --peer_python=torch=/envs/torch/bin/python --peer_python=ffcv=...

FOLDER holds class folders of films. Writes loaders.json, loaders.md and
loaders.png to OUT; OUT/work keeps the converted films for the next run. A peer
that is not installed is reported as such. With --repeats=5, 5,000 films of 224
pixels take about an hour; --loaders picks a few.
"""
_PEERS = ("torch", "dali", "ffcv")  # families with an environment of their own
_OURS = "cxr"  # what runs in this one


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """Which films, which loaders, how long."""

    input_dir: str = cli.required("class folders of films")
    output_dir: str = cli.required("folder for the results and the converted films")
    peer_python: tuple[str, ...] = cli.option(
        (),
        "NAME=PYTHON: interpreter of the environment of torch, dali or ffcv; repeat",
    )
    loaders: tuple[str, ...] = cli.option((), "only these loaders; all without it")
    image_size: int = cli.option(224, "side of the films in pixels", lower=24)
    batch_sizes: tuple[str, ...] = cli.option(("32", "128"), "B, one or more")
    repeats: int = cli.option(
        3, "fresh processes of each loader: first batches and first epochs", lower=1
    )
    epochs: int = cli.option(
        20, "turns of each process: later epochs, several where they are short", lower=1
    )
    seconds: float = cli.option(
        15.0, "the turns of one process end after this many", lower=0.0
    )

    def validate(self) -> None:
        """Raises UsageError for an unknown loader, peer or batch size."""
        for name in self.loaders:
            if name not in LOADERS:
                known = ", ".join(LOADERS)
                raise cli.UsageError(f"--loaders={name}: expected one of {known}")
        for peer in self.peer_python:
            name, _, python = peer.partition("=")
            if name not in _PEERS or not python:
                expected = " or ".join(f"{name}=PYTHON" for name in _PEERS)
                raise cli.UsageError(f"--peer_python={peer}: expected {expected}")
        for size in self.batch_sizes:
            if not size.isdigit() or not int(size):
                raise cli.UsageError(f"--batch_sizes={size}: expected a number >= 1")

    @property
    def interpreters(self) -> dict[str, str]:
        """Peer family to the Python that runs it."""
        return dict(peer.split("=", 1) for peer in self.peer_python)


def main(argv: list[str]) -> int:
    """Compares as the command line says; returns the exit code."""
    config, positional = cli.parse(argv, CompareConfig, usage=USAGE)
    cli.reject_positional(positional)
    report = compare(config)
    console.say(loader_report.markdown(report))
    console.say(f"loaders.json, loaders.md and loaders.png in {config.output_dir}")
    return 0


def compare(config: CompareConfig) -> dict[str, Any]:
    """Measures and publishes; returns what loaders.json holds."""
    work = pathlib.Path(config.output_dir) / "work"
    _prepare(config, work)
    names = config.loaders or tuple(LOADERS)
    report = {
        "schema": 1,
        "cores": os.cpu_count(),
        "environment": _environment(),
        "image_size": config.image_size,
        "input_dir": config.input_dir,
        "missing": {},
        "runs": {},
    }
    for size in map(int, config.batch_sizes):
        measured: dict[str, list[dict]] = {name: [] for name in names}
        for repeat in range(config.repeats):
            console.note(f"batch size {size}, repeat {repeat + 1} of {config.repeats}")
            for name, found in _one_round(config, work, names, size).items():
                if "missing" in found:
                    report["missing"][name] = found["missing"]
                else:
                    versions = report["environment"]["versions"]
                    versions[_family(name)] = found.pop("versions")
                    measured[name].append(found)
        report["runs"][str(size)] = {
            name: loader_report.summary(found)
            for name, found in measured.items()
            if len(found) == config.repeats  # else turns have no counterpart
        }
    for run in report["runs"].values():
        loader_report.judge_pixels(run)
    report["answers"] = loader_report.answers(report)
    loader_report.publish(report, pathlib.Path(config.output_dir))
    return report


def _environment() -> dict[str, Any]:
    return {
        "processor": platforms.processor_name(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "load_before": platforms.load_average(),  # processes that ran, of a minute
        "versions": {},  # of each family's environment
    }


# --- the same films for everyone


def _prepare(config: CompareConfig, work: pathlib.Path) -> None:
    """Converts the films with our converter and lays them out for the peers."""
    import numpy as np

    work.mkdir(parents=True, exist_ok=True)
    sets = {}
    for encoding in ("raw", "jpeg"):
        flags = converter.ConversionConfig(
            input_dir=config.input_dir,
            output_dir=str(work / "data"),
            dataset=encoding,
            encoding=encoding,
            image_size=config.image_size,
            split_policy="grouped",
            validation_fraction=0.0,
            test_fraction=0.0,
        )
        sets[encoding] = converter.convert(flags, log=console.note)
    if (work / "films.npy").exists():
        return
    films = []
    for row, film, stored in zip(
        sets["raw"].examples("train"),
        _encoded(sets["raw"]),
        _encoded(sets["jpeg"]),
        strict=True,
    ):
        films.append(np.frombuffer(film, np.uint8).reshape((config.image_size,) * 2))
        name = row["filename"].replace("/", "-")
        original = pathlib.Path(config.input_dir, row["filename"]).resolve()
        link = work / "originals" / row["label"] / name
        link.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            link.symlink_to(original)
        files.publish(
            (work / "stored" / row["label"] / name).with_suffix(".jpg"), stored
        )
    with files.publishing(work / "films.npy") as path, open(path, "wb") as file:
        np.save(file, np.stack(films))


def _encoded(record_set: records.RecordSet) -> Iterator[bytes]:
    for path in record_set.shard_paths("train"):
        for payload in tfrecord.read_frames(path):
            yield tfrecord.decode_example(payload)["image/encoded"]


# --- measuring


def _start(
    name: str, python: str, work: pathlib.Path, sizes: tuple[int, int]
) -> PeerProcess:
    """Starts a loader's process, which waits for commands between its turns."""
    command = [python, "-m", "benchmarks.loader_worker", name, str(work.resolve())]
    log = work / "logs" / f"{name.replace(' ', '-')}.txt"
    return PeerProcess([*command, *map(str, sizes)], log)


def _one_round(
    config: CompareConfig, work: pathlib.Path, names: tuple[str, ...], size: int
) -> dict[str, dict]:
    """Starts each loader, times first epochs one by one and later ones in turn."""
    found: dict[str, dict] = {}
    with contextlib.ExitStack() as stack:
        running: dict[str, PeerProcess] = {}
        for name in names:
            python = _interpreter(config, name)
            if python is None:
                found[name] = {"missing": "no --peer_python given"}
                continue
            process = _start(name, python, work, (config.image_size, size))
            stack.callback(process.close)
            ready = process.read()
            first = ready if "missing" in ready else process.ask("first")
            found[name] = first if "missing" in first else {"first": first, "later": []}
            if "missing" not in first:
                found[name]["imports_rss_mb"] = ready["rss_mb"]
                found[name]["versions"] = ready["versions"]
                running[name] = process
        for _ in range(config.epochs):
            for name, process in list(running.items()):
                later = found[name]["later"]
                if sum(epoch["seconds"] for epoch in later) >= config.seconds:
                    continue
                epoch = process.ask("epochs")
                if "missing" in epoch:  # it ended in the middle
                    found[name] = epoch
                    del running[name]
                else:
                    later.append(epoch)
        for name, process in running.items():
            check = process.ask("check")
            found[name] = (
                check if "missing" in check else found[name] | {"check": check}
            )
    return found


def _interpreter(config: CompareConfig, name: str) -> str | None:
    family = _family(name)
    return sys.executable if family == _OURS else config.interpreters.get(family)


def _family(name: str) -> str:
    """Returns whose environment a loader runs in."""
    family = name.split()[0]
    return family if family in _PEERS else _OURS
