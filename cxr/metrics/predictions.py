"""The table of a split's predictions, and predictions.csv.

A table is only read back for the model and the data that made it, so that numbers of
an older model never slip into a report.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cxr import cli, documents, files, tables
from cxr.metrics import classification

TABLE = "predictions.csv"
SOURCE = "predictions.json"
_MAX_TABLE_BYTES = 4 << 30  # 4 GiB: some ten million images
_COLUMNS = ("filename", "patient_id", "label")
_PREFIX = "probability_"


@dataclasses.dataclass(frozen=True)
class Predictions:
    """One row an image, in the split's index order.

    Attributes:
      filenames: path of each image as in examples.csv.
      patient_ids: patient of each image.
      labels: int64 [n], index into `class_names`.
      probabilities: float64 [n, C].
      class_names: the C classes in column order.
    """

    filenames: tuple[str, ...]
    patient_ids: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    class_names: tuple[str, ...]


def tabulate(
    rows: Sequence[Mapping[str, str]],
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
) -> Predictions:
    """A split's table from what the model gave.

    Args:
      rows: the split's rows of examples.csv, in index order.
      labels: int [n].
      probabilities: float [n, C], brought to float64 whose rows sum to 1.
      class_names: the C classes in column order.
    """
    return Predictions(
        filenames=tuple(row["filename"] for row in rows),
        patient_ids=tuple(row["patient_id"] for row in rows),
        labels=np.asarray(labels, np.int64),
        probabilities=classification.exact_probabilities(probabilities),
        class_names=tuple(class_names),
    )


def folder(workdir: pathlib.Path, split: str) -> pathlib.Path:
    """Where a run's evaluation of a split lies."""
    return workdir / f"evaluation-{split}"


def to_csv(
    predictions: Predictions, said: Sequence[Mapping[str, Any]] | None = None
) -> str:
    """The table as CSV text; probabilities as repr, so reading them back is exact.

    Args:
      predictions: the table.
      said: of each image more columns, which reading back passes over.
    """
    columns = [_PREFIX + name for name in predictions.class_names]
    more = said or [{}] * len(predictions.labels)
    rows = (
        {
            "filename": name,
            "patient_id": patient,
            "label": predictions.class_names[label],
            **dict(zip(columns, map(float, row), strict=True)),
            **rest,
        }
        for name, patient, label, row, rest in zip(
            predictions.filenames,
            predictions.patient_ids,
            predictions.labels,
            predictions.probabilities,
            more,
            strict=True,
        )
    )
    behind = list(more[0]) if more else []
    return tables.to_text([*_COLUMNS, *columns, *behind], rows)


def from_csv(text: str) -> Predictions:
    """Reads what `to_csv` wrote; ValueError when it is something else."""
    header, *cells = tables.parse(text)
    rows = [dict(zip(header, row, strict=True)) for row in cells]
    names = tuple(h.removeprefix(_PREFIX) for h in header if h.startswith(_PREFIX))
    try:
        table = Predictions(
            filenames=tuple(row["filename"] for row in rows),
            patient_ids=tuple(row["patient_id"] for row in rows),
            labels=np.array([names.index(row["label"]) for row in rows], np.int64),
            probabilities=np.array(
                [[float(row[_PREFIX + name]) for name in names] for row in rows]
            ).reshape(len(rows), len(names)),
            class_names=names,
        )
    except KeyError as error:
        raise ValueError(f"not a predictions table: {error}") from error
    if not ((table.probabilities >= 0) & (table.probabilities <= 1)).all():
        raise ValueError("not a predictions table: a probability outside 0..1")
    return table


def publish(
    path: pathlib.Path,
    predictions: Predictions,
    source: Mapping[str, str],
    said: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Writes the table and, beside it, what it was made from.

    Args:
      path: the folder to write to, see `folder`.
      predictions: the table.
      source: what must be equal for a later `recall`, see `describe_source`.
      said: as `to_csv`'s.
    """
    text = to_csv(predictions, said)
    files.publish(path / TABLE, text)
    described = {**source, "sha256": files.sha256_bytes(text.encode())}
    files.publish(path / SOURCE, json.dumps(described, indent=2) + "\n")


def recall(path: pathlib.Path, source: Mapping[str, str]) -> Predictions | None:
    """Reads the table back, None where it is missing, stale or damaged."""
    try:
        described = documents.read(path / SOURCE).content
        text = documents.read_text(path / TABLE, _MAX_TABLE_BYTES)
        if described != {**source, "sha256": files.sha256_bytes(text.encode())}:
            return None
        return from_csv(text)
    except (OSError, ValueError):
        return None


def made_from(path: pathlib.Path) -> dict[str, Any]:
    """Returns what the table in a folder was made from; nothing where none can say."""
    try:
        return documents.read(path / SOURCE).content
    except (OSError, ValueError):
        return {}


def describe_source(model_sha256: str, fingerprint: str, split: str) -> dict[str, str]:
    """What a predictions table depends on: the model, the data and the split.

    Args:
      model_sha256: of the run's model file.
      fingerprint: of the data set that is read, which need not be the training one.
      split: name of the split.
    """
    return {
        "model_sha256": model_sha256,
        "fingerprint": fingerprint,
        "split": split,
    }


def average(tables: Sequence[Predictions]) -> Predictions:
    """The ensemble: the mean of the models' probabilities, image by image.

    Raises:
      DataError: the tables differ in images, labels or classes.
    """
    first = tables[0]
    for other in tables[1:]:
        check_same_examples(first, other)
    mean = np.mean([table.probabilities for table in tables], axis=0)
    return dataclasses.replace(first, probabilities=mean)


def pool(tables: Sequence[Predictions]) -> Predictions:
    """Puts tables of different images below each other.

    Raises:
      DataError: the tables differ in classes, or share an image.
    """
    first = tables[0]
    names = [name for table in tables for name in table.filenames]
    if any(table.class_names != first.class_names for table in tables):
        raise cli.DataError("the runs cannot be pooled: their class_names differ")
    if len(set(names)) < len(names):
        raise cli.DataError("the runs cannot be pooled: they predicted the same images")
    return Predictions(
        filenames=tuple(names),
        patient_ids=tuple(p for table in tables for p in table.patient_ids),
        labels=np.concatenate([table.labels for table in tables]),
        probabilities=np.concatenate([table.probabilities for table in tables]),
        class_names=first.class_names,
    )


def check_same_examples(first: Predictions, other: Predictions) -> None:
    """Raises DataError unless both tables speak of the same images and classes."""
    for field in ("class_names", "filenames", "patient_ids"):
        if getattr(first, field) != getattr(other, field):
            raise cli.DataError(
                f"the runs cannot be put side by side: their {field} differ; "
                "evaluate both on one data set with --data_dir and --dataset"
            )
    if not np.array_equal(first.labels, other.labels):
        raise cli.DataError("the runs cannot be put side by side: their labels differ")
