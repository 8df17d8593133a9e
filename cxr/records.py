"""Reads a converted set: manifest, examples.csv, and what must hold of both.

Shared by the converter that writes them, the verifier and the input pipeline
that read them. Imports no TensorFlow: converter workers and the verifier start
in a fraction of a second. How a record is framed and filled is `cxr.tfrecord`.
"""

import concurrent.futures
import csv
import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from cxr import cli, files, tfrecord

SCHEMA = 1
SPLITS = ("train", "validation", "test")
MANIFEST = "manifest.json"
EXAMPLES = "examples.csv"
OFFSETS = "offsets.npy"  # int64 [examples]: where each record begins in its shard
EXAMPLE_COLUMNS = (
    "filename",
    "split",
    "label",
    "patient_id",
    "subtype",
    "source_width",
    "source_height",
    "source_mode",
    "source_sha256",
    "shard",
    "record",
    "duplicate_of",
)
_WALKS = 8  # shards walked at a time: a cold disk answers several as fast as one
CONVERT_COMMAND = "python -m tools.make_tfrecords --input_dir=FOLDER"


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard file: its name, record count, size in bytes and SHA-256."""

    file: str
    count: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Split:
    """One split: totals and its shards in order."""

    name: str
    num_examples: int
    num_bytes: int
    num_patients: int
    class_counts: dict[str, int]
    shards: tuple[Shard, ...]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a complete set holds; written last, so its presence means complete.

    Attributes:
      name: data set name, such as `chest_xray`.
      version: `MAJOR.MINOR.PATCH`.
      class_names: label i is `class_names[i]`.
      image_size: stored height = width in pixels.
      encoding: `jpeg`, `png` or `raw`.
      splits: by name, only those that hold examples.
      files: side files (`examples.csv`, ...) to `{"bytes", "sha256"}`.
      flags: the conversion's flags, as given.
      versions: software versions that shaped the bytes.
      sources: `files`, their number, and `sha256`, over every path and content.
    """

    name: str
    version: str
    class_names: tuple[str, ...]
    image_size: int
    encoding: str
    splits: dict[str, Split]
    files: dict[str, dict[str, Any]]
    flags: dict[str, Any]
    versions: dict[str, str]
    sources: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def shards(self) -> list[Shard]:
        """All shards, in the order of examples.csv."""
        return [shard for split in self.splits.values() for shard in split.shards]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that training can see."""
        seen = {
            "class_names": self.class_names,
            "image_size": self.image_size,
            "encoding": self.encoding,
            "splits": {
                name: [shard.sha256 for shard in split.shards]
                for name, split in self.splits.items()
            },
        }
        return files.sha256_bytes(json.dumps(seen, sort_keys=True).encode())

    def to_json(self) -> str:
        """Returns manifest.json's text: no time stamps, so reruns are equal."""
        fields = dataclasses.asdict(self)
        for split in fields["splits"].values():
            del split["name"]  # it is the key already
        document = {"schema": SCHEMA, **fields, "fingerprint": self.fingerprint}
        return json.dumps(document, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Parses manifest.json's text.

        Raises:
          ValueError: not a manifest of this schema, or its fingerprint differs.
        """
        try:
            document = json.loads(text)
            schema = document.pop("schema")
            fingerprint = document.pop("fingerprint")
            if schema != SCHEMA:
                raise ValueError(f"schema {schema!r}, this version reads {SCHEMA}")
            document["class_names"] = tuple(document["class_names"])
            document["splits"] = {
                name: _split_from_json(name, split)
                for name, split in document["splits"].items()
            }
            manifest = cls(**document)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a manifest: {error!r}") from error
        if manifest.fingerprint != fingerprint:
            raise ValueError("the fingerprint does not match the shards it lists")
        return manifest


def _split_from_json(name: str, split: dict) -> Split:
    shards = tuple(Shard(**shard) for shard in split["shards"])
    return Split(name=name, **{**split, "shards": shards})


def shard_name(dataset: str, split: str, index: int, total: int) -> str:
    """Returns the name TFDS expects, `chest_xray-train.tfrecord-00000-of-00008`."""
    return f"{dataset}-{split}.tfrecord-{index:05d}-of-{total:05d}"


# --- a complete set on disk


@dataclasses.dataclass(frozen=True)
class RecordSet:
    """A complete converted set: the folder `ROOT/NAME/VERSION` and its manifest."""

    path: pathlib.Path
    manifest: Manifest

    def shard_paths(self, split: str) -> list[pathlib.Path]:
        """Returns the split's shard files in order."""
        return [self.path / shard.file for shard in self.split(split).shards]

    def split(self, name: str) -> Split:
        """Returns a split of the manifest; DataError when the set has none."""
        if name not in self.manifest.splits:
            held = ", ".join(self.manifest.splits) or "none"
            raise cli.DataError(f"{self.path}: no split {name!r}; it holds: {held}")
        return self.manifest.splits[name]

    def record_spans(self, split: str) -> np.ndarray:
        """Returns where each record of a split lies in its shard.

        By offsets.npy; in a set without it, by a walk over the shards.

        Returns:
          int64 [n, 2]: first byte and number of bytes.

        Raises:
          DataError: offsets.npy, or a shard, is not what the manifest says.
        """
        shards, paths = self.split(split).shards, self.shard_paths(split)
        for path, shard in zip(paths, shards, strict=True):
            _check_shard(path, shard)
        if stored := self.stored_starts():
            starts = [stored[shard.file] for shard in shards]
        else:
            with concurrent.futures.ThreadPoolExecutor(_WALKS) as pool:
                starts = list(pool.map(tfrecord.record_starts, paths))
        spans = map(_spans, paths, shards, starts)
        return np.concatenate([np.zeros((0, 2), np.int64), *spans])

    def stored_starts(self) -> dict[str, np.ndarray]:
        """Returns what offsets.npy says, by shard file; nothing where there is none.

        Raises:
          DataError: it was changed since the conversion, or is no list of places.
        """
        path, shards = self.path / OFFSETS, self.manifest.shards
        if not path.is_file():
            return {}  # a set from before there was one
        try:
            starts = np.load(io.BytesIO(self._side_file(OFFSETS))).astype(np.int64)
        except (ValueError, EOFError, TypeError) as error:
            raise cli.DataError(f"{path}: not an array of offsets") from error
        parts = np.split(starts, np.cumsum([shard.count for shard in shards])[:-1])
        return {shard.file: part for shard, part in zip(shards, parts, strict=True)}

    def examples(self, split: str | None = None) -> list[dict[str, str]]:
        """Returns the rows of examples.csv; row i of a split is its example i.

        Args:
          split: only its rows; None is all.
        """
        header, *rows = parse_csv(self._side_file(EXAMPLES).decode())
        at = header.index("split")
        rows = [row for row in rows if split in (None, row[at])]
        return [dict(zip(header, row, strict=True)) for row in rows]

    def _side_file(self, name: str) -> bytes:
        """Reads a file beside the shards; DataError unless it is the manifest's."""
        path = self.path / name
        data = path.read_bytes() if path.is_file() else b""
        listed = self.manifest.files.get(name, {})
        if files.sha256_bytes(data) != listed.get("sha256"):
            raise cli.DataError(
                f"{path}: missing, or changed since the conversion; convert again"
            )
        return data


def parse_csv(text: str) -> list[list[str]]:
    """Returns the rows of one of the set's tables, header first.

    Where lines end with a newline alone, csv writes a carriage return in a file name
    unquoted, but would end a row there when it reads: NUL, which no file name can
    hold, stands in for it.
    """
    if "\r" not in text or text.partition("\n")[0].endswith("\r"):
        return list(csv.reader(io.StringIO(text, newline="")))
    rows = csv.reader(io.StringIO(text.replace("\r", "\0"), newline=""))
    return [[field.replace("\0", "\r") for field in row] for row in rows]


def find(data_dir: str | os.PathLike, dataset: str) -> RecordSet:
    """Returns the highest complete version of a converted set.

    Raises:
      DataError: no complete version below `data_dir/dataset`, or its manifest is
        damaged.
    """
    root = pathlib.Path(data_dir) / dataset
    complete = [path.parent for path in root.glob(f"*/{MANIFEST}")]
    if not complete:
        raise cli.DataError(
            f"--data_dir={data_dir} --dataset={dataset}: no complete set below "
            f"{root}\nmake one: {CONVERT_COMMAND} --output_dir={data_dir} "
            f"--dataset={dataset}"
        )
    path = max(complete, key=_version_key)
    return load(path)


def load(path: str | os.PathLike) -> RecordSet:
    """Reads the set in one version folder; DataError names a damaged manifest."""
    path = pathlib.Path(path)
    manifest_path = path / MANIFEST
    try:
        manifest = Manifest.from_json(manifest_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise cli.DataError(f"{manifest_path}: {error}") from error
    return RecordSet(path, manifest)


def check(record_set: RecordSet) -> None:
    """Checks cheaply (no shard is read) that a set is what its manifest says.

    Raises:
      DataError: a shard is missing or has another size, the counts do not add
        up, or a patient or an identical file stands on two sides of a split.
    """
    for split in record_set.manifest.splits.values():
        for shard in split.shards:
            _check_shard(record_set.path / shard.file, shard)
        if sum(shard.count for shard in split.shards) != split.num_examples:
            raise cli.DataError(
                f"{record_set.path / MANIFEST}: shard counts of {split.name} do not "
                f"add up to {split.num_examples}"
            )
    rows = record_set.examples()
    for split in record_set.manifest.splits.values():
        listed = sum(row["split"] == split.name for row in rows)
        if listed != split.num_examples:
            raise cli.DataError(
                f"{record_set.path / EXAMPLES}: {listed} rows of {split.name}, the "
                f"manifest says {split.num_examples}"
            )
    check_disjoint(rows)


def _check_shard(path: pathlib.Path, shard: Shard) -> None:
    size = path.stat().st_size if path.is_file() else None
    if size != shard.bytes:
        found = "missing" if size is None else f"{size} bytes"
        raise cli.DataError(
            f"{path}: {found}, the manifest says {shard.bytes} bytes; run "
            f"python -m tools.verify_tfrecords on the set, then convert again"
        )


def _spans(path: pathlib.Path, shard: Shard, starts: np.ndarray) -> np.ndarray:
    """Returns first byte and size of records, int64 [count, 2], that fill the shard."""
    sizes = np.diff(starts, append=shard.bytes)
    whole = not starts[:1].any() and (sizes >= tfrecord.FRAME_BYTES).all()
    if len(starts) != shard.count or not whole:
        reason = f"the manifest says {shard.count} whole records"
        raise tfrecord.CorruptShard(path, len(starts), reason)
    return np.stack([starts, sizes], axis=1)


def check_disjoint(rows: Iterable[dict[str, str]]) -> None:
    """Raises DataError when two splits share a patient or an identical file."""
    sides: dict[tuple[str, str], tuple[str, str]] = {}
    for row in rows:
        here = (row["split"], row["filename"])
        for column in ("patient_id", "source_sha256"):
            there = sides.setdefault((column, row[column]), here)
            if there[0] != here[0]:
                raise cli.DataError(
                    f"{column} {row[column]!r} stands in {there[0]} ({there[1]}) and "
                    f"in {here[0]} ({here[1]})"
                )


def _version_key(path: pathlib.Path) -> tuple:
    """Orders `1.10.0` after `1.9.0`; names that are no version come first."""
    parts = path.name.split(".")
    if all(part.isdigit() for part in parts):
        return (1, tuple(int(part) for part in parts))
    return (0, path.name)
