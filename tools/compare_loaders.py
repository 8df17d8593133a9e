"""Runs other input pipelines on the same films beside ours, in turn."""

import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from cxr import cli, conversion, files, records
from tools import loader_worker

USAGE = """
Measures input pipelines on the same films, interleaved, each in its own process:

  python -m tools.compare_loaders --input_dir=FOLDER --output_dir=OUT \\
    --peer_python=torch=/envs/torch/bin/python --peer_python=ffcv=...

FOLDER holds class folders of films. Writes loaders.json, loaders.md and
loaders.png to OUT; OUT/work keeps the converted films for the next run. A peer
that is not installed is reported as such. Time a first and many later epochs.
"""
_WORKER = pathlib.Path(loader_worker.__file__)
_START_TIMEOUT_S = 900  # a peer may compile on its first import
_PEERS = ("torch", "dali", "ffcv")  # families with an environment of their own
# Loaders that must deliver exactly the pixels of the records, and by how many grey
# levels on average the others may differ: other decoders, other resizing.
_EXACT = ("cxr ", "numpy copy", "bare decode", "ffcv raw")
_TOLERANCE = 2.0


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
    epochs: int = cli.option(20, "later epochs of each process", lower=1)
    seconds: float = cli.option(
        15.0, "later epochs of one process end after this many", lower=0.0
    )

    def validate(self) -> None:
        """Raises UsageError for an unknown loader, peer or batch size."""
        for name in self.loaders:
            if name not in loader_worker.LOADERS:
                known = ", ".join(loader_worker.LOADERS)
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
    print(markdown(report))
    print(f"loaders.json, loaders.md and loaders.png in {config.output_dir}")
    return 0


def compare(config: CompareConfig) -> dict[str, Any]:
    """Measures and publishes; returns what loaders.json holds."""
    work = pathlib.Path(config.output_dir) / "work"
    _prepare(config, work)
    names = config.loaders or tuple(loader_worker.LOADERS)
    report = {
        "schema": 1,
        "cores": os.cpu_count(),
        "image_size": config.image_size,
        "input_dir": config.input_dir,
        "missing": {},
        "runs": {},
    }
    for size in map(int, config.batch_sizes):
        measured: dict[str, list[dict]] = {name: [] for name in names}
        for repeat in range(config.repeats):
            _log(f"batch size {size}, repeat {repeat + 1} of {config.repeats}")
            for name, found in _one_round(config, work, names, size).items():
                if "missing" in found:
                    report["missing"][name] = found["missing"]
                else:
                    measured[name].append(found)
        report["runs"][str(size)] = {
            name: _summary(found) for name, found in measured.items() if found
        }
    for run in report["runs"].values():
        _judge_pixels(run)
    report["answers"] = answers(report)
    _publish(report, pathlib.Path(config.output_dir))
    return report


# --- the same films for everyone


def _prepare(config: CompareConfig, work: pathlib.Path) -> None:
    """Converts the films with our converter and lays them out for the peers."""
    import numpy as np

    work.mkdir(parents=True, exist_ok=True)
    sets = {}
    for encoding in ("raw", "jpeg"):
        flags = conversion.ConversionConfig(
            input_dir=config.input_dir,
            output_dir=str(work / "data"),
            dataset=encoding,
            encoding=encoding,
            image_size=config.image_size,
            split_policy="grouped",
            validation_fraction=0.0,
            test_fraction=0.0,
        )
        sets[encoding] = conversion.convert(flags, log=_log)
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
        for payload in records.read_frames(path):
            yield records.decode_example(payload)["image/encoded"]


# --- measuring


class _Process:
    """A loader's process, waiting for commands between its turns."""

    def __init__(self, name: str, python: str, work: pathlib.Path, sizes: tuple):
        command = [python, str(_WORKER), name, str(work.resolve()), *map(str, sizes)]
        self._log = tempfile_for(work, name)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )

    def read(self) -> dict[str, Any]:
        """Returns the next answer, or `{"missing": why}` when the process ended."""
        for line in self._process.stdout:
            if line.startswith("@"):
                return json.loads(line[1:])
        self._process.wait()
        self._log.seek(0)
        lines = self._log.read().strip().splitlines() or ["no output"]
        return {"missing": lines[-1][:200]}

    def ask(self, command: str) -> dict[str, Any]:
        """Sends a command and waits for its answer."""
        with contextlib.suppress(BrokenPipeError):
            print(command, file=self._process.stdin, flush=True)
        return self.read()

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:  # a peer's threads that do not end
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()


def tempfile_for(work: pathlib.Path, name: str):
    """Opens the file that keeps a loader's stderr."""
    folder = work / "logs"
    folder.mkdir(exist_ok=True)
    return open(folder / f"{name.replace(' ', '-')}.txt", "w+", encoding="utf-8")


def _one_round(
    config: CompareConfig, work: pathlib.Path, names: tuple[str, ...], size: int
) -> dict[str, dict]:
    """Starts each loader, times first epochs one by one and later ones in turn."""
    found: dict[str, dict] = {}
    with contextlib.ExitStack() as stack:
        running: dict[str, _Process] = {}
        for name in names:
            python = _interpreter(config, name)
            if python is None:
                found[name] = {"missing": "no --peer_python given"}
                continue
            process = _Process(name, python, work, (config.image_size, size))
            stack.callback(process.close)
            ready = process.read()
            first = ready if "missing" in ready else process.ask("first")
            found[name] = first if "missing" in first else {"first": first, "later": []}
            if "missing" not in first:
                found[name]["imports_rss_mb"] = ready["rss_mb"]
                running[name] = process
        for _ in range(config.epochs):
            for name, process in running.items():
                later = found[name]["later"]
                if sum(epoch["seconds"] for epoch in later) < config.seconds:
                    later.append(process.ask("epoch"))
        for name, process in running.items():
            found[name]["check"] = process.ask("check")
    return found


def _interpreter(config: CompareConfig, name: str) -> str | None:
    family = name.split()[0]
    if family in _PEERS:
        return config.interpreters.get(family)
    return sys.executable


# --- results


def _summary(found: list[dict]) -> dict[str, Any]:
    """Reduces a loader's processes to medians, with the spread."""
    later = [epoch for one in found for epoch in one["later"]]
    rates = [epoch["images"] / epoch["seconds"] for epoch in later]
    first = [one["first"]["images"] / one["first"]["seconds"] for one in found]
    peak = [one["later"][-1]["peak_rss_mb"] - one["imports_rss_mb"] for one in found]
    return {
        "images_per_sec": _spread(rates),
        "first_epoch_images_per_sec": _spread(first),
        "first_batch_s": _spread([one["first"]["first_batch_s"] for one in found]),
        "rss_beyond_imports_mb": statistics.median(peak),
        "rss_slope_mb_per_epoch": statistics.median(
            _slope([epoch["rss_mb"] for epoch in one["later"]]) for one in found
        ),
        "epoch_images": later[-1]["images"],
        "images": found[0]["check"]["images"],
        "pixel_mean": found[0]["check"]["pixel_mean"],
        "later": [[e["images"] / e["seconds"] for e in one["later"]] for one in found],
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "repeats": len(values),
    }


def _slope(values: list[float]) -> float:
    """Returns the least-squares slope over the second half: warm, per step."""
    values = values[len(values) // 2 :]
    if len(values) < 2:
        return 0.0
    return statistics.linear_regression(range(len(values)), values).slope


def _judge_pixels(run: dict[str, dict]) -> None:
    """Says of each loader whether it delivered the films it was to deliver."""
    reference = run.get("numpy copy") or next(iter(run.values()))
    for name, found in run.items():
        exact = name.startswith(_EXACT) and "jpeg" not in name and "bare" not in name
        difference = abs(found["pixel_mean"] - reference["pixel_mean"])
        same_count = found["images"] == reference["images"]
        near = difference <= (0 if exact else _TOLERANCE)
        found["pixels"] = "ok" if same_count and near else "WRONG"


_QUESTIONS = (
    # (question, ours, peer, what of them, asked for)
    ("resident / FFCV raw", "cxr resident raw", "ffcv raw", "later", 1.0),
    ("resident / FFCV raw, random", "cxr resident raw", "ffcv raw random", "later", 1),
    ("resident / numpy copy", "cxr resident raw", "numpy copy", "later", 0.5),
    ("first epoch / FFCV raw's", "cxr resident raw", "ffcv raw", "first", 2.0),
    (
        "streamed JPEG / (cores x decode)",
        "cxr stream jpeg",
        "bare decode",
        "cores",
        0.9,
    ),
    ("streamed JPEG / FFCV JPEG", "cxr stream jpeg", "ffcv jpeg", "later", 1.5),
    ("streamed JPEG / TFDS", "cxr stream jpeg", "tfds", "later", 1.2),
    ("streamed JPEG / Keras folder", "cxr stream jpeg", "keras directory", "later", 20),
    ("resident / Keras folder", "cxr resident raw", "keras directory", "later", 80),
    (
        *("streamed JPEG / Keras, same bytes", "cxr stream jpeg"),
        *("keras directory stored", "later", 1.8),
    ),
    (
        *("memory / Keras cached RGB (at most)", "cxr resident raw"),
        *("keras directory cached", "memory", 0.15),
    ),
    (
        *("first batch / Keras folder (at most)", "cxr resident raw"),
        *("keras directory", "first batch", 0.5),
    ),
)


def answers(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns each question that was measured: asked, reached, at which B.

    Rates of later epochs are compared turn by turn, so that a busy moment of the
    machine hits both; the median of the ratios counts.
    """
    found = []
    for size, run in report["runs"].items():
        for question, ours, peer, what, asked in _QUESTIONS:
            if ours in run and peer in run:
                ratio = _ratio(run[ours], run[peer], what, report["cores"])
                found.append(
                    {
                        "question": question,
                        "batch_size": int(size),
                        "asked": asked,
                        "reached": ratio,
                    }
                )
    return found


def _ratio(ours: dict, peer: dict, what: str, cores: int) -> float:
    if what == "memory":
        return ours["rss_beyond_imports_mb"] / peer["rss_beyond_imports_mb"]
    if what == "first batch":
        return ours["first_batch_s"]["median"] / peer["first_batch_s"]["median"]
    if what == "first":
        rates = [one["first_epoch_images_per_sec"]["median"] for one in (ours, peer)]
        return rates[0] / rates[1]
    ratios = [
        a / b
        for turns in zip(ours["later"], peer["later"], strict=True)
        for a, b in zip(*turns, strict=False)
    ]
    return statistics.median(ratios) / (cores if what == "cores" else 1)


def markdown(report: dict[str, Any]) -> str:
    """Returns the tables of loaders.md."""
    lines = []
    for size, run in report["runs"].items():
        lines += [
            f"\n### Batch size {size}, {report['image_size']} x {report['image_size']}, "
            f"{report['cores']} cores\n",
            "| loader | images/s (min - max) | first epoch | first batch, s "
            "| memory, MB | growth, MB an epoch | films | mean pixel |",
            "| --- | --: | --: | --: | --: | --: | --: | --: |",
        ]
        fastest = sorted(run.items(), key=lambda item: -_median(item[1]))
        for name, one in fastest:
            rate = one["images_per_sec"]
            lines.append(
                f"| {name} | {rate['median']:,.0f} ({rate['min']:,.0f} - "
                f"{rate['max']:,.0f}) "
                f"| {one['first_epoch_images_per_sec']['median']:,.0f} "
                f"| {one['first_batch_s']['median']:.3f} "
                f"| {one['rss_beyond_imports_mb']:,.0f} "
                f"| {one['rss_slope_mb_per_epoch']:.2f} "
                f"| {one['images']:,} | {one['pixel_mean']:.2f} {one['pixels']} |"
            )
    for name, why in report["missing"].items():
        lines.append(f"\n{name}: not measured, {why}")
    if report["answers"]:
        lines += [
            "\n| ratio | batch size | asked | reached |",
            "| --- | --: | --: | --: |",
        ]
    for one in report["answers"]:
        lines.append(
            f"| {one['question']} | {one['batch_size']} | {one['asked']} "
            f"| {one['reached']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def _median(summary: dict) -> float:
    return summary["images_per_sec"]["median"]


def _publish(report: dict[str, Any], folder: pathlib.Path) -> None:
    files.publish(folder / "loaders.json", json.dumps(report, indent=1) + "\n")
    files.publish(folder / "loaders.md", markdown(report))
    _chart(report, folder / "loaders.png")


def _chart(report: dict[str, Any], path: pathlib.Path) -> None:
    from matplotlib.figure import Figure

    from cxr import figures

    runs = report["runs"]
    names = sorted(
        {name for run in runs.values() for name in run},
        key=lambda name: max(
            _median(run[name]) for run in runs.values() if name in run
        ),
    )
    figure = Figure(figsize=(10, 1 + 0.42 * len(names)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(runs)
    for group, (size, run) in enumerate(runs.items()):
        for row, name in enumerate(names):
            if name not in run:
                continue
            rate = run[name]["images_per_sec"]
            place = row - 0.4 + height * (group + 0.5)
            color = figures.BLUE if name.startswith("cxr") else figures.GREY
            axes.barh(place, rate["median"], height * 0.9, color=color)
            spread = [rate["min"], rate["max"]]
            axes.plot(spread, [place, place], color=figures.INK, linewidth=1)
            label = f" {rate['median']:,.0f}  (B = {size})"
            axes.text(rate["max"], place, label, va="center", fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.set_xscale("log")
    axes.margins(x=0.25)
    figures.dress(axes, "Input pipelines, same films, in turn", "images per second")
    figures.save(figure, path)


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(main)
