"""The files beside the shards: tables, TFDS metadata, and last the manifest."""

import collections
import csv
import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cxr import files, records, tfds_metadata
from cxr.conversion import planning, spool
from cxr.reasons import Rejected

QUARANTINE = "quarantine.csv"
_TABLES = (records.EXAMPLES, QUARANTINE)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a conversion came to.

    Attributes:
      films: readable films, which the plan refers to.
      plan: where they went.
      rejected: rows of quarantine.csv, by path.
      shards: by split, in order.
    """

    films: Sequence[spool.Film]
    plan: planning.Plan
    rejected: tuple[Rejected, ...]
    shards: dict[str, tuple[records.Shard, ...]]

    def placed(self, split: str) -> Iterator[planning.Placed]:
        """Yields the films of a split in the order of their records."""
        for shard in self.plan.shards[split]:
            yield from shard


def publish(
    folder: pathlib.Path, outcome: Outcome, manifest: records.Manifest
) -> records.Manifest:
    """Writes all files beside the shards, the manifest last.

    Args:
      folder: of the set.
      outcome: what was converted.
      manifest: complete but for its `files`.

    Raises:
      DataError: a patient or an identical film stands on two sides.
      StorageError: the disk refused.
    """
    records.check_disjoint(example_rows(outcome))
    names = manifest.class_names
    _publish_csv(
        folder / records.EXAMPLES, records.EXAMPLE_COLUMNS, example_rows(outcome)
    )
    publish_quarantine(folder / QUARANTINE, outcome.rejected)
    texts = {
        "features.json": tfds_metadata.features_json(
            names, manifest.image_size, manifest.encoding
        ),
        "dataset_info.json": tfds_metadata.dataset_info_json(
            manifest, _describe(manifest)
        ),
        **tfds_metadata.label_files(names),
    }
    for name, text in texts.items():
        spool.store(folder / name, text)
    listed = {n: _describe_file(folder / n) for n in (*_TABLES, *texts)}
    manifest = dataclasses.replace(manifest, files=listed)
    spool.store(folder / records.MANIFEST, manifest.to_json())
    return manifest


def publish_quarantine(path: pathlib.Path, rejected: Iterable[Rejected]) -> None:
    """Writes quarantine.csv."""
    _publish_csv(path, Rejected._fields, (row._asdict() for row in rejected))


def example_rows(outcome: Outcome) -> Iterator[dict[str, Any]]:
    """Yields the rows of examples.csv: by split, shard and record."""
    for split, shards in outcome.plan.shards.items():
        for shard, members in zip(outcome.shards[split], shards, strict=True):
            for record, one in enumerate(members):
                film = outcome.films[one.film]
                yield {
                    "filename": film.path,
                    "split": split,
                    "label": one.label,
                    "patient_id": one.patient_id,
                    "subtype": one.subtype,
                    "source_width": film.width,
                    "source_height": film.height,
                    "source_mode": film.mode,
                    "source_sha256": film.sha256,
                    "shard": shard.file,
                    "record": record,
                    "duplicate_of": one.duplicate_of,
                }


def splits(outcome: Outcome) -> dict[str, records.Split]:
    """Returns the manifest's splits."""
    found = {}
    for name, shards in outcome.shards.items():
        members = list(outcome.placed(name))
        counts = collections.Counter(one.label for one in members)
        found[name] = records.Split(
            name=name,
            num_examples=len(members),
            num_bytes=sum(shard.bytes for shard in shards),
            num_patients=len({one.patient_id for one in members}),
            class_counts={label: counts[label] for label in outcome.plan.class_names},
            shards=shards,
        )
    return found


def _describe_file(path: pathlib.Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": files.sha256_file(path)}


def _describe(manifest: records.Manifest) -> str:
    size = manifest.image_size
    count = sum(split.num_examples for split in manifest.splits.values())
    return (
        f"{count} films, {size} x {size} grey, classes "
        f"{', '.join(manifest.class_names)}; split by patient. Converted by cxr."
    )


def _publish_csv(
    path: pathlib.Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]
) -> None:
    """Writes a table row by row: a large one never stands in memory whole."""
    try:
        with (
            files.publishing(path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise spool.storage_error(path, None, error) from error
