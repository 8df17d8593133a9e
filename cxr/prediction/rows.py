"""Writes the table of predictions: columns, decision, CSV or JSON."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import numpy as np

from cxr import files, runs, tables
from cxr.metrics import classification
from cxr.reasons import error_status

SUFFIXES = (".csv", ".json")


class Writer:
    """Writes rows to a CSV or JSON file one by one."""

    def __init__(self, file: TextIO, name: str, columns: Sequence[str]):
        """Begins the table.

        Args:
          file: opened for writing.
          name: whose suffix, one of `SUFFIXES`, tells the format.
          columns: the keys of every row.
        """
        self._file = file
        self._table = None
        self._separator = "[\n"
        if not name.lower().endswith(".json"):
            self._table = tables.Writer(file, columns)

    def add(self, row: dict[str, Any]) -> None:
        """Appends a row."""
        if self._table:
            self._table.add(row)
        else:
            text = json.dumps(row, ensure_ascii=False, allow_nan=False)
            self._file.write(self._separator + text)
            self._separator = ",\n"

    def close(self) -> None:
        """Ends the table."""
        if not self._table:
            self._file.write("\n]\n")


@contextlib.contextmanager
def publishing(path: str, columns: Sequence[str]) -> Iterator[Writer]:
    """Yields the writer of a table that is published when the block succeeds."""
    with (
        files.publishing(path) as temporary,
        open(
            temporary, "w", newline="", encoding="utf-8", errors="backslashreplace"
        ) as file,
    ):
        table = Writer(file, path, columns)
        yield table
        table.close()


def columns(run: runs.Run) -> list[str]:
    """Returns the columns of a run's tables."""
    probabilities = [f"probability_{name}" for name in run.class_names]
    return ["path", "prediction", *probabilities, "threshold", "status"]


def row(
    path: str, probabilities: np.ndarray | None, status: str, run: runs.Run
) -> dict[str, Any]:
    """Returns an image's row.

    Args:
      path: of the image.
      probabilities: float [C] from the run's model; None for what could not be read.
      status: `ok`, `warning: ...` or `error: ...`; replaced where the model gave no
        number.
      run: whose threshold decides.
    """
    threshold = run.info.threshold.value if run.info.threshold else None
    if probabilities is not None and not np.isfinite(probabilities).all():
        probabilities = None
        status = error_status("not_finite", "the model gave no number")
    name = None
    values: list[float | None] = [None] * len(run.class_names)
    if probabilities is not None:
        values = [float(value) for value in probabilities]
        decided = classification.decide(
            np.array([values]), run.positive_index, threshold
        )
        name = run.class_names[decided[0]]
    cells = [path, name, *values, threshold, status]
    return dict(zip(columns(run), cells, strict=True))
