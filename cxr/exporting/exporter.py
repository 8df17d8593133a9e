"""Writes a run's model in a format, checks it against the run, publishes it whole."""

import importlib
import json
import os
import pathlib
import shutil
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

import cxr
from cxr import cli, files, images, records, runs
from cxr.exporting import exported as models
from cxr.exporting.exported import Exported, Forward
from cxr.input.reader import Reader, evenly_spaced
from cxr.reporting import formatting
from cxr.synthesis import phantoms

_CHECKED = 64  # films
_REPRESENTATIVE = 200  # training films that set the ranges of 8 bits
_TOLERANCE, _TOLERANCE_INT8 = 1e-5, 0.05  # of a probability
_BATCHES = (1, 32)
_REPEATS = 9


class Result(NamedTuple):
    """What an export came to.

    Attributes:
      difference: largest difference of a probability to the run's model.
      films: what it was measured on, in words.
      latency_ms: batch size to the median time of a forward pass.
    """

    difference: float
    films: str
    latency_ms: dict[int, float]


def export(
    members: Sequence[runs.Run], name: str, output: str, *, int8: bool = False
) -> Result:
    """Writes a model, checks it, and publishes the folder whole or not at all.

    Args:
      members: finished runs; of several the mean is written.
      name: `saved_model`, `onnx`, `litert` or `openvino`.
      output: folder that does not exist yet, or is empty.
      int8: 8-bit weights and activations, of `litert`.

    Raises:
      DataError: what was written answers differently from the run's model, or the
        runs do not go together.
    """
    target = pathlib.Path(output)
    module = importlib.import_module(f"cxr.exporting.{name}")
    source = models.load(members)
    films, films_are = _films(source.run)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = files.temporary_name(target.absolute())
    folder.mkdir()
    try:
        options = {"films": _representative(source.run)} if int8 else {}
        module.write(source, folder, **options)
        forward = module.load(folder)
        difference = _check(source, forward, films, int8=int8)
        result = Result(difference, films_are, _latency(forward, films))
        _describe(folder, source, name, module.EXAMPLE, result, int8=int8)
        _publish(folder, target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return result


def _films(run: runs.Run) -> tuple[np.ndarray, str]:
    """Returns films to check with, float32 [N, S, S, 1], and which they are."""
    size = run.info.image_size
    try:
        if record_set := run.trained_on():
            found = _read(record_set, "validation", _CHECKED, size)
            return found, f"{len(found)} films of the run's validation split"
    except cli.CommandError:
        pass  # gone or damaged: phantoms do
    stored = run.info.stored_image_size
    drawn = [
        images.to_grey(phantoms.render(film)[0], stored)
        for film in phantoms.plan(_CHECKED)[:_CHECKED]
    ]
    pixels = images.area_resize(np.stack(drawn), size)
    found = pixels[..., None].astype(np.float32)
    return found, f"{_CHECKED} phantoms, the run's validation films not being at hand"


def _representative(run: runs.Run) -> np.ndarray:
    """Returns training films that set the ranges of 8 bits."""
    record_set = run.trained_on()
    if record_set is None:
        raise cli.DataError(
            f"--int8: needs the run's training films, but {run.data_path} has gone or "
            "changed since"
        )
    return _read(record_set, "train", _REPRESENTATIVE, run.info.image_size)


def _read(
    record_set: records.RecordSet, split: str, at_most: int, size: int
) -> np.ndarray:
    reader = Reader(record_set, split, image_size=size)
    found = reader.images(evenly_spaced(reader.n, at_most))
    return found[..., None].astype(np.float32)


def _check(
    source: Exported, forward: Forward, films: np.ndarray, *, int8: bool
) -> float:
    """Returns the largest difference of a probability; DataError if it is too large."""
    expected = source.probabilities(films.astype(np.uint8))
    parts = [forward(films[i : i + 32]) for i in range(0, len(films), 32)]
    difference = float(np.abs(np.concatenate(parts) - expected).max())
    allowed = _TOLERANCE_INT8 if int8 else _TOLERANCE
    if not difference <= allowed:
        raise cli.DataError(
            f"the exported model differs from the run's by {difference:.2g} in a "
            f"probability, more than {allowed:g}; nothing was published"
        )
    return difference


def _latency(forward: Forward, films: np.ndarray) -> dict[int, float]:
    """Returns the median milliseconds of a forward pass by batch size."""
    found = {}
    for batch_size in _BATCHES:
        batch = np.resize(films, (batch_size, *films.shape[1:]))
        forward(batch)
        times = []
        for _ in range(_REPEATS):
            began = time.perf_counter()
            forward(batch)
            times.append(time.perf_counter() - began)
        found[batch_size] = 1000 * statistics.median(times)
    return found


def _describe(
    folder: pathlib.Path,
    source: Exported,
    name: str,
    example: str,
    result: Result,
    *,
    int8: bool,
) -> None:
    """Writes export.json for programs and README.md for people."""
    meaning = source.described()
    document = {
        "schema": 1,
        "format": name,
        "int8": int8,
        "cxr": cxr.__version__,
        **meaning,
        "classes": list(source.meaning.class_names),
        "threshold": source.meaning.threshold,
        "largest_difference": result.difference,
        "checked_on": result.films,
        "latency_ms": result.latency_ms,
    }
    (folder / "export.json").write_text(json.dumps(document, indent=2) + "\n")
    for key, value in meaning.items():
        example = example.replace(f"{{{key}}}", value)
    rows = "\n".join(
        f"| {key.replace('_', ' ')} | {value} |" for key, value in meaning.items()
    )
    times = "\n".join(
        f"| {size} | {ms:.1f} |" for size, ms in result.latency_ms.items()
    )
    (folder / "README.md").write_text(
        f"# {source.name}, exported as {name}{' (int8)' if int8 else ''}\n\n"
        f"{formatting.DISCLAIMER}\n\n"
        f"| what | value |\n| --- | --- |\n{rows}\n\n"
        f"Checked on {result.films}: the largest difference of a probability to the "
        f"run's own model is {result.difference:.1g}.\n\n"
        f"| batch | ms a forward pass, this machine |\n| ---: | ---: |\n{times}\n\n"
        f"```python\n{example.strip()}\n```\n"
    )


def _publish(folder: pathlib.Path, target: pathlib.Path) -> None:
    """Moves the complete folder to its name, on the disk before."""
    for above, _, names in os.walk(folder):
        for name in names:
            files.fsync_path(os.path.join(above, name))
        files.fsync_path(above)
    if target.exists():
        target.rmdir()  # empty
    os.rename(folder, target)
    files.fsync_path(target.absolute().parent)
