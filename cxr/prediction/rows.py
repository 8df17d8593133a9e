"""What is said of a film: one decision, one row, one table for people and programs."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import numpy as np

from cxr import files, tables
from cxr.metrics import classification
from cxr.prediction.together import Meaning
from cxr.reasons import error_status

SUFFIXES = (".csv", ".json", ".jsonl")
_SHOWN = 48  # characters of a path on the terminal


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model says of one film.

    Attributes:
      path: as given; `[3]` for the fourth item where that is no path.
      prediction: the class decided for; None where `status` is an error.
      probabilities: class to probability, 0..1, which sum to 1; None likewise.
      threshold: of the positive class; None where the most probable of more than two
        classes decides.
      patient_id: as the file's name tells it; empty without.
      above_threshold: whether the positive class's probability reaches the threshold.
      model_sha256: of the model file.
      status: `ok`, `warning: ...` or `error: REASON: ...`.
    """

    path: str
    prediction: str | None
    probabilities: dict[str, float] | None
    threshold: float | None
    patient_id: str
    above_threshold: bool | None
    model_sha256: str
    status: str

    def to_row(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Returns the table's row, its keys those of `columns`."""
        found = self.probabilities or dict.fromkeys(class_names)
        cells = [self.path, self.prediction, *(found[name] for name in class_names)]
        cells += [self.threshold, self.patient_id, self.above_threshold]
        cells += [self.model_sha256, self.status]
        return dict(zip(columns(class_names), cells, strict=True))


def columns(class_names: Sequence[str]) -> list[str]:
    """Returns the columns of a table."""
    probabilities = [f"probability_{name}" for name in class_names]
    behind = ["threshold", "patient_id", "above_threshold", "model_sha256", "status"]
    return ["path", "prediction", *probabilities, *behind]


def decisions(
    probabilities: np.ndarray, meaning: Meaning
) -> list[tuple[str, bool | None]]:
    """Returns of each film the class decided for, and whether that is the positive one.

    Args:
      probabilities: float [n, C], finite.
      meaning: of them; without a threshold the most probable class is decided for,
        and the second is None.
    """
    names, threshold = meaning.class_names, meaning.threshold
    positive = names.index(meaning.positive_class) if len(names) == 2 else None
    decided = classification.decide(probabilities, positive, threshold)
    return [
        (names[index], None if threshold is None else bool(index == positive))
        for index in decided
    ]


def decide(
    path: str,
    probabilities: np.ndarray | None,
    status: str,
    meaning: Meaning,
    patient_id: str = "",
) -> Prediction:
    """Returns what is said of a film.

    Args:
      path: of the film.
      probabilities: float [C]; None for what could not be read.
      status: `ok`, `warning: ...` or `error: ...`; replaced where the model gave no
        number.
      meaning: of the probabilities.
      patient_id: of the film.
    """
    if probabilities is not None and not np.isfinite(probabilities).all():
        probabilities = None
        status = error_status("not_finite", "the model gave no number")
    name = above = found = None
    if probabilities is not None:
        values = [float(value) for value in probabilities]
        found = dict(zip(meaning.class_names, values, strict=True))
        ((name, above),) = decisions(np.array([values]), meaning)
    return Prediction(
        path=path,
        prediction=name,
        probabilities=found,
        threshold=meaning.threshold,
        patient_id=patient_id,
        above_threshold=above,
        model_sha256=meaning.model_sha256,
        status=status,
    )


class Writer:
    """Writes rows to a CSV, JSON or JSON lines file one by one."""

    def __init__(self, file: TextIO, name: str, columns: Sequence[str]):
        """Begins the table.

        Args:
          file: opened for writing.
          name: whose suffix, one of `SUFFIXES`, tells the format.
          columns: the keys of every row.
        """
        self._file = file
        self._table = None
        name = name.lower()
        self._before, self._between, self._after = "[\n", ",\n", "\n]\n"
        if name.endswith(".jsonl"):
            self._before, self._between, self._after = "", "\n", "\n"
        elif not name.endswith(".json"):
            self._table = tables.Writer(file, columns)

    def add(self, row: dict[str, Any]) -> None:
        """Appends a row."""
        if self._table:
            self._table.add(row)
        else:
            text = json.dumps(row, ensure_ascii=False, allow_nan=False)
            self._file.write(self._before + text)
            self._before = self._between

    def close(self) -> None:
        """Ends the table."""
        if not self._table:
            self._file.write(self._after)


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


def to_text(predictions: Sequence[Prediction], positive: str = "") -> str:
    """Returns a few rows as a table for the terminal.

    Args:
      predictions: the rows.
      positive: class whose probability is shown; that of the prediction if empty.
    """
    heading = f"p of {positive}" if positive else "probability"
    rows = [("film", "prediction", heading, "status")]
    for one in predictions:
        path = one.path if len(one.path) <= _SHOWN else f"...{one.path[3 - _SHOWN :]}"
        name, value = one.prediction or "-", "-"
        if one.probabilities:
            value = f"{one.probabilities[positive or name]:.3f}"
        rows.append((ascii(path)[1:-1], name, value, one.status))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = (
        f"{path:{widths[0]}}  {name:{widths[1]}}  {value:>{widths[2]}}  {status}"
        for path, name, value, status in rows
    )
    return "\n".join(lines)
