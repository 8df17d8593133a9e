"""Writes the table of predictions: columns, decision, CSV or JSON."""

import csv
import json
import math
from collections.abc import Sequence
from typing import Any, TextIO

import numpy as np

from cxr import runs
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
        self._file, self._columns = file, columns
        self._json = name.lower().endswith(".json")
        self._csv = csv.writer(file, lineterminator="\n")
        self._separator = "[\n"
        if not self._json:
            self._csv.writerow(columns)

    def add(self, row: dict[str, Any]) -> None:
        """Appends a row."""
        if self._json:
            text = json.dumps(row, ensure_ascii=False, allow_nan=False)
            self._file.write(self._separator + text)
            self._separator = ",\n"
        else:
            self._csv.writerow([_cell(row[column]) for column in self._columns])

    def close(self) -> None:
        """Ends the table."""
        if self._json:
            self._file.write("\n]\n")


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
    threshold = (run.info["threshold"] or {}).get("value")
    values, name = None, None
    if probabilities is not None:
        values = [float(value) for value in probabilities]
        if not all(map(math.isfinite, values)):
            values, status = (
                None,
                error_status("not_finite", "the model gave no number"),
            )
    if values is not None:
        decided = classification.decide(
            np.array([values]), run.positive_index, threshold
        )
        name = run.class_names[decided[0]]
    cells: dict[str, Any] = {"path": path, "prediction": name}
    for index, class_name in enumerate(run.class_names):
        cells[f"probability_{class_name}"] = None if values is None else values[index]
    return {**cells, "threshold": threshold, "status": status}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value)
