"""Views one fold of a set, or the tested ones together, as a set of its own."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from cxr import cli, records


@dataclasses.dataclass(frozen=True)
class FoldSet(records.RecordSet):
    """One fold of a set as a set of its own: the same shards under other splits.

    Attributes:
      whole: the set that it is a fold of.
      rows: of its examples.csv, in the order of its splits and shards.
    """

    whole: records.RecordSet
    rows: tuple[dict[str, str], ...]

    def stored_starts(self) -> dict[str, np.ndarray]:
        """Returns what offsets.npy says, by shard file."""
        return self.whole.stored_starts()

    def examples(self, split: str | None = None) -> list[dict[str, str]]:
        """Returns the rows of examples.csv; row i of a split is its example i."""
        return [row for row in self.rows if split in (None, row["split"])]


def fold(record_set: records.RecordSet, index: int) -> FoldSet:
    """Returns a set whose test split is one of its folds, validation the next.

    The rest trains; a test split that the source had is no part of it.

    Args:
      record_set: converted with `--folds=K`.
      index: 0..K-1.

    Raises:
      UsageError: no such fold.
      DataError: the table of folds is damaged.
    """
    by_fold = _rows_by_fold(record_set, [index])
    count = len(by_fold)
    sides: dict[str, list[dict[str, str]]] = {name: [] for name in records.SPLITS}
    for number, rows in enumerate(by_fold):
        side = {index: "test", (index + 1) % count: "validation"}.get(number, "train")
        sides[side] += rows
    return _regrouped(record_set, sides)


def tested(record_set: records.RecordSet, indices: Sequence[int]) -> FoldSet:
    """Returns a set whose one split, test, holds some folds, in the order given."""
    by_fold = _rows_by_fold(record_set, indices)
    rows = [row for index in indices for row in by_fold[index]]
    return _regrouped(record_set, {"test": rows})


def _rows_by_fold(
    record_set: records.RecordSet, indices: Sequence[int]
) -> list[list[dict[str, str]]]:
    """Returns the rows of each fold; checks that those of `indices` are there."""
    count = record_set.manifest.num_folds
    for index in indices:
        if not 0 <= index < count:
            held = f"folds 0 to {count - 1}"
            held = held if count else "no folds; convert with --folds=5"
            raise cli.UsageError(f"--fold={index}: {record_set.path} has {held}")
    of_film = record_set.fold_of_films()
    by_fold: list[list[dict[str, str]]] = [[] for _ in range(count)]
    fold_of: dict[str, int] = {}
    for row in record_set.examples():
        number = of_film.get(row["filename"], -1)
        if fold_of.setdefault(row["shard"], number) != number or number >= count:
            raise cli.DataError(
                f"{record_set.path / records.FOLDS}: {row['shard']} is no shard of "
                "one fold"
            )
        if number >= 0:
            by_fold[number].append(row)
    return by_fold


def _regrouped(
    record_set: records.RecordSet, sides: Mapping[str, list[dict[str, str]]]
) -> FoldSet:
    """Returns a view of a set with other splits, each of whole shards."""
    manifest = record_set.manifest
    shards = {shard.file: shard for shard in manifest.shards}
    splits = {
        side: _split_of(side, rows, shards, manifest.class_names)
        for side, rows in sides.items()
    }
    view = dataclasses.replace(manifest, splits=splits)
    rows = [{**row, "split": side} for side, own in sides.items() for row in own]
    return FoldSet(record_set.path, view, record_set, tuple(rows))


def _split_of(
    name: str,
    rows: list[dict[str, str]],
    shards: dict[str, records.Shard],
    class_names: tuple[str, ...],
) -> records.Split:
    mine = [shards[file] for file in dict.fromkeys(row["shard"] for row in rows)]
    counts = collections.Counter(row["label"] for row in rows)
    return records.Split(
        name=name,
        num_examples=len(rows),
        num_bytes=sum(shard.bytes for shard in mine),
        num_patients=len({row["patient_id"] for row in rows}),
        class_counts={label: counts[label] for label in class_names},
        shards=tuple(mine),
    )
