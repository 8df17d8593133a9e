"""Reads a converted set: manifest, examples.csv, and what must hold of both.

Shared by the converter that writes them, the verifier and the input pipeline
that read them. Imports no TensorFlow: converter workers and the verifier start
in a fraction of a second. How a record is framed and filled is `cxr.tfrecord`.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import io
import json
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from cxr import cli, console, documents, files, folders, set_card, tables, tfrecord
from cxr.reasons import BadImage

SCHEMA = 1
ENCODINGS = ("jpeg", "png", "raw")  # of `image/encoded`
_MAX_SIDE = 4096  # pixels; the converter stores no more
SPLITS = ("train", "validation", "test")
MANIFEST = "manifest.json"
EXAMPLES = "examples.csv"
QUARANTINE = "quarantine.csv"
ATTRIBUTES = "attributes.csv"  # only of sets whose table or headers tell some
FOLDS = "folds.csv"  # of sets converted with --folds
MAX_FOLDS = 100
FOLD_COLUMNS = ("filename", "fold")
REPORT_JSON = "report.json"  # what the conversion found; not in the manifest
OFFSETS = "offsets.npy"  # int64 [examples]: where each record begins in its shard
SPLIT_POLICIES = ("official", "grouped", "blocks", "counter", "test_only")
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

    @classmethod
    def parse(cls, fields: documents.Fields, prefix: str) -> "Shard":
        """Parses a shard, whose name begins with `prefix`; ValueError if wrong."""
        pattern = rf"{re.escape(prefix)}\.tfrecord-\d{{5}}-of-\d{{5}}"
        size = fields.integer("bytes", 0)
        return cls(
            file=fields.text("file", pattern=pattern),
            count=fields.integer("count", 0, size // tfrecord.FRAME_BYTES),
            bytes=size,
            sha256=fields.sha256("sha256"),
        )


@dataclasses.dataclass(frozen=True)
class Split:
    """One split: totals and its shards in order."""

    name: str
    num_examples: int
    num_bytes: int
    num_patients: int
    class_counts: dict[str, int]
    shards: tuple[Shard, ...]

    @classmethod
    def parse(
        cls,
        name: str,
        fields: documents.Fields,
        dataset: str,
        class_names: tuple[str, ...],
    ) -> "Split":
        """Parses a split of a data set; ValueError names what is wrong."""
        if name not in SPLITS:
            raise ValueError(f"splits holds {name!a}, expected {', '.join(SPLITS)}")
        prefix = f"{dataset}-{name}"
        shards = [Shard.parse(shard, prefix) for shard in fields.sections("shards")]
        if len({shard.file for shard in shards}) < len(shards):
            raise ValueError(f"splits.{name}.shards lists a file twice")
        counts = fields.section("class_counts")
        if counts.content.keys() != set(class_names):
            raise ValueError(f"splits.{name}.class_counts is not of the class names")
        return cls(
            name=name,
            num_examples=fields.integer("num_examples", 0),
            num_bytes=fields.integer("num_bytes", 0),
            num_patients=fields.integer("num_patients", 0),
            class_counts={label: counts.integer(label, 0) for label in class_names},
            shards=tuple(shards),
        )


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
    def positive_class(self) -> str:
        """Chosen at the conversion; empty where it was not."""
        chosen = self.flags.get("positive_class")
        return chosen if chosen in self.class_names else ""

    @property
    def num_folds(self) -> int:
        """Of a set converted with `--folds`; 0 without."""
        folds = self.flags.get("folds")
        if not isinstance(folds, int) or not 0 < folds <= MAX_FOLDS:
            return 0
        return folds

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
          ValueError: naming the field that is missing or wrong; or the fingerprint is
            of other shards.
        """
        fields = documents.parse(text)
        fields.integer("schema", SCHEMA, SCHEMA)
        name = fields.text("name", pattern=r"[A-Za-z]\w*")
        class_names = fields.class_names("class_names")
        splits = fields.section("splits")
        manifest = cls(
            name=name,
            version=fields.text("version", pattern=r"\d+\.\d+\.\d+"),
            class_names=class_names,
            image_size=fields.integer("image_size", 1, _MAX_SIDE),
            encoding=fields.text("encoding", choices=ENCODINGS),
            splits={
                split: Split.parse(split, splits.section(split), name, class_names)
                for split in splits.content
            },
            files=_parse_files(fields.section("files")),
            flags=fields.section("flags").content,
            versions=fields.section("versions").content,
            sources=fields.section("sources").content if fields.has("sources") else {},
        )
        if manifest.fingerprint != fields.sha256("fingerprint"):
            raise ValueError("the fingerprint does not match the shards it lists")
        return manifest


def _parse_files(fields: documents.Fields) -> dict[str, dict[str, Any]]:
    for name in fields.content:
        if name != os.path.basename(name) or console.holds_controls(name):
            raise ValueError(f"files holds {name!a}, expected plain file names")
        described = fields.section(name)
        described.integer("bytes", 0)
        described.sha256("sha256")
    return fields.content


def shard_name(dataset: str, split: str, index: int, total: int) -> str:
    """Returns the name TFDS expects, `chest_xray-train.tfrecord-00000-of-00008`."""
    return f"{dataset}-{split}.tfrecord-{index:05d}-of-{total:05d}"


# --- a complete set on disk


@dataclasses.dataclass(frozen=True)
class RecordSet:
    """A complete converted set: the folder `ROOT/NAME/VERSION` and its manifest."""

    path: pathlib.Path
    manifest: Manifest

    @property
    def split_policy(self) -> str:
        """How the splits were cut: what `auto` chose, where the set's report says it.

        For people only: the report is no part of what the manifest vouches for.
        """
        policy = str(self.manifest.flags.get("split_policy", "unknown"))
        if policy == "auto":
            with contextlib.suppress(ValueError, RecursionError, OSError, BadImage):
                report = documents.read(self.path / REPORT_JSON)
                policy = report.text("split_policy", choices=SPLIT_POLICIES)
        return policy

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
            starts = np.load(io.BytesIO(self._side_file(OFFSETS)))
        except (ValueError, EOFError, TypeError, MemoryError) as error:
            raise cli.DataError(f"{path}: not an array of offsets") from error
        total = sum(shard.count for shard in shards)
        if starts.dtype.kind not in "iu" or starts.shape != (total,):
            raise cli.DataError(
                f"{path}: {starts.dtype} {starts.shape}, expected {total} whole numbers"
            )
        starts = starts.astype(np.int64)
        parts = np.split(starts, np.cumsum([shard.count for shard in shards])[:-1])
        return {shard.file: part for shard, part in zip(shards, parts, strict=True)}

    def examples(self, split: str | None = None) -> list[dict[str, str]]:
        """Returns the rows of examples.csv; row i of a split is its example i.

        Args:
          split: only its rows; None is all.
        """
        with documents.reading(self.path / EXAMPLES):
            header, *rows = tables.parse(self._side_file(EXAMPLES).decode())
            if missing := set(EXAMPLE_COLUMNS) - set(header):
                raise ValueError(f"no column {min(missing)!r}")
        at = header.index("split")
        rows = [row for row in rows if split in (None, row[at])]
        return [dict(zip(header, row, strict=True)) for row in rows]

    def described(self, split: str | None = None) -> list[dict[str, str]]:
        """Returns the rows of examples.csv with what attributes.csv says of each.

        Args:
          split: only its rows; None is all.
        """
        rows = self.examples(split)
        if ATTRIBUTES not in self.manifest.files:
            return rows
        with documents.reading(self.path / ATTRIBUTES):
            told = tables.parse_records(self._side_file(ATTRIBUTES).decode())
            if told and "filename" not in told[0]:
                raise ValueError("no column 'filename'")
        by_film = {row["filename"]: row for row in told}
        return [{**by_film.get(row["filename"], {}), **row} for row in rows]

    def quarantine(self) -> list[dict[str, str]]:
        """Returns the rows of quarantine.csv: `path`, `reason`, `detail`."""
        with documents.reading(self.path / QUARANTINE):
            rows = tables.parse_records(self._side_file(QUARANTINE).decode())
            if rows and not {"path", "reason"} <= rows[0].keys():
                raise ValueError("no columns 'path', 'reason'")
        return rows

    def fold_of_films(self) -> dict[str, int]:
        """Returns the fold of each film, by folds.csv of a set that has folds."""
        with documents.reading(self.path / FOLDS):
            _, *lines = tables.parse(self._side_file(FOLDS).decode())
            return {name: int(number) for name, number in lines}

    def card(self) -> set_card.SetCard | None:
        """Returns the card of the set, None where it was converted without one."""
        if set_card.FILE not in self.manifest.files:
            return None
        with documents.reading(self.path / set_card.FILE):
            return set_card.parse(self._side_file(set_card.FILE).decode())

    def _side_file(self, name: str) -> bytes:
        """Reads a file beside the shards; DataError unless it is the manifest's."""
        path = self.path / name
        listed = self.manifest.files.get(name, {})
        try:
            data = folders.read_file(path, listed.get("bytes", 0))
        except (BadImage, FileNotFoundError):
            data = b""
        if files.sha256_bytes(data) != listed.get("sha256"):
            raise cli.DataError(
                f"{path}: missing, or changed since the conversion; convert again"
            )
        return data


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
    path = max(complete, key=lambda path: version_key(path.name))
    return load(path)


def load(path: str | os.PathLike) -> RecordSet:
    """Reads the set in one version folder; DataError names a damaged manifest."""
    path = pathlib.Path(path)
    manifest_path = path / MANIFEST
    try:
        with documents.reading(manifest_path):
            text = documents.read_text(manifest_path)
            return RecordSet(path, Manifest.from_json(text))
    except FileNotFoundError as error:
        raise cli.DataError(f"{manifest_path}: missing: no complete set") from error


def check(record_set: RecordSet) -> None:
    """Checks cheaply (no shard is read) that a set is what its manifest says.

    Raises:
      DataError: a shard is missing or has another size, the counts do not add
        up, or a patient or an identical file stands on two sides of a split.
    """
    for shard in record_set.manifest.shards:
        _check_shard(record_set.path / shard.file, shard)
    rows = record_set.examples()
    by_split = group(rows, "split")
    if unknown := by_split.keys() - record_set.manifest.splits.keys():
        raise cli.DataError(
            f"{record_set.path / EXAMPLES}: split {min(unknown)!a} is none of the "
            "manifest's"
        )
    for split in record_set.manifest.splits.values():
        for what, listed, found in _totals(split, by_split.get(split.name, [])):
            if listed != found:
                raise cli.DataError(
                    f"{record_set.path / MANIFEST}: {what} of {split.name} is "
                    f"{listed!a}, its shards and {EXAMPLES} make it {found!a}"
                )
    check_disjoint(rows)


def _totals(split: Split, rows: list[dict[str, str]]) -> Iterator[tuple[str, Any, Any]]:
    """Yields what the manifest says of a split, and what its parts say."""
    yield "num_examples", split.num_examples, sum(s.count for s in split.shards)
    yield "num_examples", split.num_examples, len(rows)
    yield "num_bytes", split.num_bytes, sum(shard.bytes for shard in split.shards)
    patients = {row["patient_id"] for row in rows}
    yield "num_patients", split.num_patients, len(patients)
    labels = collections.Counter(row["label"] for row in rows)
    yield "class_counts", {k: n for k, n in split.class_counts.items() if n}, labels
    placed = [(row["shard"], row["record"]) for row in rows]
    expected = [(s.file, str(i)) for s in split.shards for i in range(s.count)]
    yield "order", True, placed == expected


def group(
    rows: Iterable[dict[str, str]], column: str
) -> collections.defaultdict[str, list[dict[str, str]]]:
    """Returns the rows of each value of a column, in their order."""
    groups: collections.defaultdict[str, list[dict[str, str]]]
    groups = collections.defaultdict(list)
    for row in rows:
        groups[row[column]].append(row)
    return groups


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


def version_key(name: str) -> tuple:
    """Orders `1.10.0` after `1.9.0`; names that are no version come first."""
    parts = name.split(".")
    if all(part.isdigit() for part in parts):
        return (1, tuple(int(part) for part in parts))
    return (0, name)
