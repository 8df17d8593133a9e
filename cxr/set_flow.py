"""How films came into a set and its splits: numbers that add up, for a flow diagram."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cxr import cli, folds, records

# Rows of quarantine.csv that are rows of a table of labels, not films.
_NOT_FILMS = frozenset(("no_file", "duplicate_row"))


@dataclasses.dataclass(frozen=True)
class Flow:
    """Films and patients from the folder to the splits.

    Attributes:
      kept_out: reason code -> files; None where the set no longer tells.
      films: in the set.
      patients: of these films; one whose patient is unknown has its own.
      without_patient: films whose patient is unknown.
      copies: films that are byte-identical to another of the set.
      copied: films that they are copies of.
      splits: split -> {"films", "patients"}.
      apart: films of the set in none of these splits: of a fold, the test split that
        the source had; of some folds, the other folds.
      table_rows: rows of a table of labels that name no film, or one again.
      exclude: patterns of files that were left aside uncounted.
    """

    kept_out: Mapping[str, int] | None
    films: int
    patients: int
    without_patient: int
    copies: int
    copied: int
    splits: Mapping[str, Mapping[str, int]]
    apart: int
    table_rows: int = 0
    exclude: tuple[str, ...] = ()

    @property
    def read(self) -> int | None:
        """Files that were read: those kept out and those taken."""
        if self.kept_out is None:
            return None
        return self.films + sum(self.kept_out.values())

    def content(self) -> dict[str, Any]:
        """Returns the numbers, ready for JSON."""
        numbers = dataclasses.asdict(self)
        return {"read": self.read, **numbers, "exclude": list(self.exclude)}


def count(
    manifest: records.Manifest,
    rows: Iterable[Mapping[str, Any]],
    rejected: Iterable[tuple[str, str]] | None,
    total: int,
) -> Flow:
    """Counts a set's films.

    Args:
      manifest: whose splits are shown.
      rows: of the whole set's examples.csv.
      rejected: (path, reason) of each row of quarantine.csv; None where it is gone.
      total: examples of the whole set, as its manifest says.
    """
    listed = None if rejected is None else list(rejected)
    patients: set[str] = set()
    copies: list[str] = []
    unknown = 0
    for row in rows:
        unknown += row["patient_id"] == row["filename"]
        patients.add(row["patient_id"])
        if row["duplicate_of"]:
            copies.append(row["duplicate_of"])
    return Flow(
        kept_out=None if listed is None else _reasons(listed),
        films=total,
        patients=len(patients),
        without_patient=unknown,
        copies=len(copies),
        copied=len(set(copies)),
        splits={
            name: {"films": split.num_examples, "patients": split.num_patients}
            for name, split in manifest.splits.items()
        },
        apart=total - sum(s.num_examples for s in manifest.splits.values()),
        table_rows=sum(reason in _NOT_FILMS for _, reason in listed or ()),
        exclude=_patterns(manifest.flags.get("exclude")),
    )


def of_set(record_set: records.RecordSet) -> Flow:
    """Counts a set on disk; of a fold also what is no part of it."""
    whole = record_set
    if isinstance(record_set, folds.FoldSet):
        whole = record_set.whole
    rejected: Sequence[tuple[str, str]] | None = None
    if records.QUARANTINE in whole.manifest.files:
        try:
            rows = whole.quarantine()
            rejected = [(row["path"], row["reason"]) for row in rows]
        except cli.DataError:  # edited since: no reason to refuse an evaluation
            rejected = None
    total = sum(split.num_examples for split in whole.manifest.splits.values())
    return count(record_set.manifest, whole.examples(), rejected, total)


def _patterns(flag: Any) -> tuple[str, ...]:
    """Returns the patterns of `--exclude` as a manifest holds them, if it does."""
    return tuple(map(str, flag)) if isinstance(flag, list) else ()


def _reasons(rejected: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Counts files by the first reason that names each, the most common first."""
    reason_of: dict[str, str] = {}
    for path, reason in rejected:
        if reason not in _NOT_FILMS:
            reason_of.setdefault(path, reason)
    return dict(collections.Counter(reason_of.values()).most_common())
