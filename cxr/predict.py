"""Predicts new films with a trained run: files, folders or globs to CSV or JSON."""

import collections
import concurrent.futures
import csv
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import numpy as np
from tqdm import tqdm

from cxr import cli, files, images, platforms, runs
from cxr.prediction import inputs

USAGE = """
Predicts new films with a trained run:

  python -m cxr.predict --workdir=RUN --output=predictions.csv PATH [PATH ...]

PATH is a film, a folder (searched to the bottom for image files) or a quoted glob.
A film that cannot be read becomes a row whose status says why; the exit code is 0
unless every film failed. Research use only; not a medical device.
"""

_SUFFIXES = (".csv", ".json")


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """What predicts, and where the table goes."""

    workdir: str = cli.required("run folder of a finished training")
    output: str = cli.required("table to write: .csv or .json")
    batch_size: int = cli.option(32, "films a forward pass", lower=1, upper=4096)
    threads: int = cli.option(
        0, "threads that decode films; 0 = one a core", lower=0, upper=256
    )
    progress: bool = cli.option(True, "show a progress bar when a person watches")

    def validate(self) -> None:
        """Refuses an output that no table can be written to."""
        path = pathlib.Path(self.output)
        if path.suffix.lower() not in _SUFFIXES:
            raise cli.UsageError(
                f"--output={self.output}: expected a name ending in .csv or .json"
            )
        if path.is_dir():
            raise cli.UsageError(f"--output={self.output}: is a folder")
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if not (above.is_dir() and os.access(above, os.W_OK)):
            raise cli.UsageError(f"--output={self.output}: cannot write in {above}")


@dataclasses.dataclass(frozen=True)
class Summary:
    """What became of the films: `num_films` rows, of which warnings and errors."""

    num_films: int
    num_warnings: int
    num_errors: int
    counts: dict[str, int]


def predict(config: PredictConfig, paths: Sequence[str]) -> Summary:
    """Predicts every film that `paths` name and publishes the table.

    Films are read by a pool of threads and predicted batch by batch, so memory does
    not grow with their number.

    Args:
      config: run, output and sizes.
      paths: films, folders or globs.

    Returns:
      How many films were predicted as what, with how many warnings and errors.

    Raises:
      UsageError: no such run, or nothing that `paths` name exists.
      DataError: the run is unfinished or damaged.
    """
    run = runs.open_run(config.workdir)
    found = inputs.find(paths)
    # TensorFlow: only after everything cheap is checked.
    from cxr.prediction.predictor import load_predictor

    predictor = load_predictor(run)
    # Batches are padded to one size: no larger than what there is to predict.
    config = dataclasses.replace(config, batch_size=min(config.batch_size, len(found)))
    tally: collections.Counter[str] = collections.Counter()
    with (
        files.publishing(config.output) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file,
        tqdm(
            total=len(found), unit="film", disable=None if config.progress else True
        ) as bar,
    ):
        table = _Table(file, config.output, _columns(run))
        for films in _read_batches(found, predictor, config):
            for row in _rows(films, predictor, run, config.batch_size):
                table.add(row)
                tally[row["status"].partition(":")[0]] += 1
                tally[f"class {row['prediction']}"] += 1
            bar.update(len(films))
        table.close()
    counts = {name: tally[f"class {name}"] for name in run.class_names}
    return Summary(len(found), tally["warning"], tally["error"], counts)


def main(argv: list[str]) -> int:
    """Predicts what the command line names; returns the exit code."""
    config, paths = cli.parse(argv, PredictConfig, usage=USAGE)
    summary = predict(config, paths)
    said = ", ".join(f"{count} {name}" for name, count in summary.counts.items())
    print(
        f"{summary.num_films} films: {said}; {summary.num_warnings} warnings, "
        f"{summary.num_errors} errors; table in {config.output}"
    )
    if summary.num_errors == summary.num_films:
        raise cli.DataError(
            f"none of the {summary.num_films} films could be predicted; the column "
            f"'status' in {config.output} says why"
        )
    return 0


class _Table:
    """Writes rows to a CSV or JSON file one by one."""

    def __init__(self, file: TextIO, name: str, columns: Sequence[str]):
        self._file, self._columns = file, columns
        self._json = name.lower().endswith(".json")
        self._csv = csv.writer(file, lineterminator="\n")
        self._separator = "[\n"
        if not self._json:
            self._csv.writerow(columns)

    def add(self, row: dict[str, Any]) -> None:
        if self._json:
            text = json.dumps(row, ensure_ascii=False, allow_nan=False)
            self._file.write(self._separator + text)
            self._separator = ",\n"
        else:
            self._csv.writerow([_cell(row[column]) for column in self._columns])

    def close(self) -> None:
        if self._json:
            self._file.write("\n]\n")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value)


def _columns(run: runs.Run) -> list[str]:
    probabilities = [f"probability_{name}" for name in run.class_names]
    return ["path", "prediction", *probabilities, "threshold", "status"]


def _rows(
    films: list[inputs.Film], predictor: Any, run: runs.Run, batch_size: int
) -> Iterator[dict]:
    """Yields a row a film, in order, from one forward pass."""
    readable = [film.grey for film in films if film.grey is not None]
    if readable:
        batch = images.area_resize(np.stack(readable), predictor.image_size)
        rows = iter(predictor.predict(batch[..., None], batch_size=batch_size))
    for film in films:
        status, values = film.status, None
        if film.grey is not None:
            values = [float(value) for value in next(rows)]
            if not all(map(math.isfinite, values)):
                status, values = "error: not_finite: the model gave no number", None
        yield _row(film.path, values, status, run)


def _row(path: str, values: list[float] | None, status: str, run: runs.Run) -> dict:
    threshold = (run.info["threshold"] or {}).get("value")
    name = None if values is None else run.class_names[_decide(values, threshold, run)]
    row: dict[str, Any] = {"path": path, "prediction": name}
    for index, class_name in enumerate(run.class_names):
        row[f"probability_{class_name}"] = None if values is None else values[index]
    return {**row, "threshold": threshold, "status": status}


def _decide(values: list[float], threshold: float | None, run: runs.Run) -> int:
    """Two classes: positive when p >= threshold; more: the most probable."""
    positive = run.positive_index
    if threshold is None or len(values) != 2:
        return int(np.argmax(values))
    return positive if values[positive] >= threshold else 1 - positive


def _read_batches(
    paths: list[str], predictor: Any, config: PredictConfig
) -> Iterator[list[inputs.Film]]:
    """Yields batches in order; while one is predicted, the next is being read."""
    sizes = predictor.stored_image_size, predictor.image_size
    threads = config.threads or platforms.available_cores()
    pending: collections.deque[list[concurrent.futures.Future]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(paths), config.batch_size):
            chunk = paths[start : start + config.batch_size]
            pending.append([pool.submit(inputs.read, path, *sizes) for path in chunk])
            if len(pending) > 1:
                yield [future.result() for future in pending.popleft()]
        while pending:
            yield [future.result() for future in pending.popleft()]


if __name__ == "__main__":
    cli.run(main)
