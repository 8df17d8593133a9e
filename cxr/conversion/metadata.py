"""Writes the files beside the shards: tables, TFDS metadata, and last the manifest."""

import collections
import dataclasses
import io
import itertools
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from cxr import files, records, set_card, tables, tfrecord
from cxr.conversion import attributes, planning, splitting, spool
from cxr.reasons import Rejected

QUARANTINE = records.QUARANTINE
_TABLES = (records.EXAMPLES, records.OFFSETS, QUARANTINE)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a conversion came to.

    Attributes:
      converted: readable images.
      plan: where they went.
      rejected: rows of quarantine.csv, by path.
      manifest: complete but for its `files`.
      looks: cells of `converted`, uint8 [N, 16, 16].
      statistics: numbers of `converted`, float32 [N, 9], of `images.statistics`.
      card: of the set; None without `--set_card`.
    """

    converted: Sequence[spool.Converted]
    plan: planning.Plan
    rejected: Sequence[Rejected]
    manifest: records.Manifest
    looks: np.ndarray
    statistics: np.ndarray
    card: set_card.SetCard | None = None

    @property
    def examples(self) -> Iterator[tuple[str, splitting.Example]]:
        """Yields (split, example) in the order of the records."""
        for split, shards in self.plan.shards.items():
            for shard in shards:
                for example in shard:
                    yield split, example


def publish(folder: pathlib.Path, outcome: Outcome) -> records.Manifest:
    """Writes all files beside the shards, the manifest last.

    Args:
      folder: of the set.
      outcome: what was converted.

    Raises:
      DataError: a patient or an identical image stands on two sides.
      StorageError: the disk refused.
    """
    records.check_disjoint(example_rows(outcome))
    manifest = outcome.manifest
    _publish_csv(
        folder / records.EXAMPLES, records.EXAMPLE_COLUMNS, example_rows(outcome)
    )
    publish_quarantine(folder / QUARANTINE, outcome.rejected)
    tables_there = list(_TABLES)
    optional = (records.ATTRIBUTES, records.FOLDS, set_card.FILE)
    for name in optional:  # of an unfinished conversion
        (folder / name).unlink(missing_ok=True)
    if any(image.attributes != attributes.NONE for image in outcome.converted):
        tables_there.append(records.ATTRIBUTES)
        _publish_csv(
            folder / records.ATTRIBUTES, attributes.COLUMNS, _attribute_rows(outcome)
        )
    if folds := outcome.plan.folds:
        tables_there.append(records.FOLDS)
        rows = (
            {"filename": name, "fold": fold} for name, fold in sorted(folds.items())
        )
        _publish_csv(folder / records.FOLDS, records.FOLD_COLUMNS, rows)
    spool.store(folder / records.OFFSETS, _offsets(folder, manifest))
    texts = {
        "features.json": features_json(manifest),
        "dataset_info.json": dataset_info_json(manifest),
        # TFDS's label names
        "image-class-label.labels.txt": "".join(f"{n}\n" for n in manifest.class_names),
    }
    if outcome.card:
        texts[set_card.FILE] = outcome.card.to_json()
    for name, text in texts.items():
        spool.store(folder / name, text)
    listed = {n: _describe_file(folder / n) for n in (*tables_there, *texts)}
    manifest = dataclasses.replace(manifest, files=listed)
    spool.store(folder / records.MANIFEST, manifest.to_json())
    return manifest


def publish_quarantine(path: pathlib.Path, rejected: Iterable[Rejected]) -> None:
    """Writes quarantine.csv."""
    _publish_csv(path, Rejected._fields, (row._asdict() for row in rejected))


def example_rows(outcome: Outcome) -> Iterator[dict[str, Any]]:
    """Yields the rows of examples.csv: by split, shard and record."""
    for split, shards in outcome.plan.shards.items():
        written = outcome.manifest.splits[split].shards
        for shard, examples in zip(written, shards, strict=True):
            for record, example in enumerate(examples):
                image = example.image
                yield {
                    "filename": image.path,
                    "split": split,
                    "label": example.label,
                    "patient_id": example.patient_id,
                    "subtype": example.subtype,
                    "source_width": image.width,
                    "source_height": image.height,
                    "source_mode": image.mode,
                    "source_sha256": image.sha256,
                    "shard": shard.file,
                    "record": record,
                    "duplicate_of": example.duplicate_of,
                }


def _attribute_rows(outcome: Outcome) -> Iterator[dict[str, str]]:
    """Yields the rows of attributes.csv, in the order of examples.csv."""
    for _, example in outcome.examples:
        image = example.image
        yield {"filename": image.path, **image.attributes._asdict()}


def splits(
    plan: planning.Plan, written: dict[str, tuple[records.Shard, ...]]
) -> dict[str, records.Split]:
    """Returns the manifest's splits; `written` are the plan's shards."""
    by_name = {}
    for name, shards in written.items():
        examples = list(itertools.chain.from_iterable(plan.shards[name]))
        counts = collections.Counter(example.label for example in examples)
        by_name[name] = records.Split(
            name=name,
            num_examples=len(examples),
            num_bytes=sum(shard.bytes for shard in shards),
            num_patients=len({example.patient_id for example in examples}),
            class_counts={label: counts[label] for label in plan.class_names},
            shards=shards,
        )
    return by_name


def _offsets(folder: pathlib.Path, manifest: records.Manifest) -> bytes:
    """Returns offsets.npy: where each record begins, in the order of examples.csv."""
    starts = [tfrecord.record_starts(folder / shard.file) for shard in manifest.shards]
    file = io.BytesIO()
    np.save(file, np.concatenate(starts).astype("<i8"))
    return file.getvalue()


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
    with spool.storing(path):
        tables.publish(path, columns, rows)


# --- what tensorflow_datasets wants to find, written without it


def features_json(manifest: records.Manifest) -> str:
    """Returns features.json as `tfds.features.FeaturesDict.save_config` writes it.

    Images in `jpeg` and `png` become an Image feature, `raw` ones a Tensor.
    """
    side = str(manifest.image_size)
    shape = {"dimensions": [side, side, "1"]}
    if manifest.encoding == "raw":
        encoded = _feature(
            "tensor_feature.Tensor",
            tensor={"shape": shape, "dtype": "uint8", "encoding": "bytes"},
        )
    else:
        encoded = _feature(
            "image_feature.Image",
            image={
                "shape": shape,
                "dtype": "uint8",
                "encodingFormat": manifest.encoding,
            },
        )
    text = _feature("text_feature.Text", text={})
    integer = _feature(
        "scalar.Scalar", tensor={"shape": {}, "dtype": "int64", "encoding": "none"}
    )
    label = _feature(
        "class_label_feature.ClassLabel",
        classLabel={"numClasses": str(len(manifest.class_names))},
    )
    image = {
        "encoded": encoded,
        "format": text,
        "height": integer,
        "width": integer,
        "filename": text,
        "key": _features_dict({"sha256": text}),
        "class": _features_dict({"label": label, "text": text}),
        "patient_id": text,
        "subtype": text,
    }
    tree = _features_dict({"image": _features_dict(image)})
    return json.dumps(tree, indent=4, sort_keys=True) + "\n"


def dataset_info_json(manifest: records.Manifest) -> str:
    """Returns dataset_info.json as TFDS reads it (its DatasetInfo proto)."""
    splits = [
        {
            "name": split.name,
            "numBytes": str(split.num_bytes),
            "shardLengths": [str(shard.count) for shard in split.shards],
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        }
        for split in manifest.splits.values()
    ]
    document = {
        "name": manifest.name,
        "version": manifest.version,
        "description": _describe(manifest),
        "fileFormat": "tfrecord",
        "splits": splits,
        "releaseNotes": {},
    }
    return json.dumps(document, indent=2) + "\n"


def _feature(name: str, **content: Any) -> dict[str, Any]:
    path = f"tensorflow_datasets.core.features.{name}"
    return {"pythonClassName": path, **content}


def _features_dict(features: dict[str, Any]) -> dict[str, Any]:
    return _feature("features_dict.FeaturesDict", featuresDict={"features": features})
