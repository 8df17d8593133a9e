"""Bytes on disk: TFRecord framing, tf.train.Example, TFDS metadata, manifest.

Shared by the converter that writes them, the verifier and the input pipeline
that read them. Imports no TensorFlow: converter workers and the verifier start
in a fraction of a second.
"""

import csv
import dataclasses
import functools
import json
import os
import pathlib
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import google_crc32c
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from cxr import cli, files

SCHEMA = 1
SPLITS = ("train", "validation", "test")
MANIFEST = "manifest.json"
EXAMPLES = "examples.csv"
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
CONVERT_COMMAND = "python -m tools.make_tfrecords --input_dir=FOLDER"

# --- TFRecord framing: https://www.tensorflow.org/tutorials/load_data/tfrecord
# uint64 length, uint32 masked CRC of the length, payload, uint32 masked CRC.
_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_HEADER_BYTES = _LENGTH.size + _CRC.size
_CRC_MASK_DELTA = 0xA282EAD8


class CorruptShard(cli.DataError):
    """A shard whose bytes are not what the framing promises.

    Attributes:
      path: the shard.
      index: the first bad record, counted from 0.
      reason: what is wrong with it.
    """

    def __init__(self, path: str | os.PathLike, index: int, reason: str):
        super().__init__(f"{path}: record {index}: {reason}")
        self.path, self.index, self.reason = pathlib.Path(path), index, reason


def frame(payload: bytes) -> bytes:
    """Returns `payload` framed as one TFRecord."""
    length = _LENGTH.pack(len(payload))
    return b"".join(
        (
            length,
            _CRC.pack(_masked_crc(length)),
            payload,
            _CRC.pack(_masked_crc(payload)),
        )
    )


def read_frames(path: str | os.PathLike) -> Iterator[bytes]:
    """Yields the payload of each record of a shard, both CRCs checked.

    Raises:
      CorruptShard: naming the record, at the first byte that cannot be right.
    """
    for index, (payload, fault) in enumerate(scan_frames(path)):
        if fault:
            raise CorruptShard(path, index, fault)
        yield payload


def scan_frames(path: str | os.PathLike) -> Iterator[tuple[bytes, str]]:
    """Yields (payload, fault) of each record, as far as the lengths can be trusted.

    The fault is empty for a sound record. A record whose payload alone is damaged
    does not hide those after it; a damaged length ends the scan.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while header := file.read(_HEADER_BYTES):
            if fault := _judge_header(header, size - file.tell()):
                yield b"", fault
                return
            (length,) = _LENGTH.unpack_from(header)
            payload, crc = file.read(length), file.read(_CRC.size)
            sound = _CRC.unpack(crc)[0] == _masked_crc(payload)
            yield payload, "" if sound else "the payload's CRC does not match"


def _judge_header(header: bytes, rest: int) -> str:
    """Returns what is wrong with a record's header; `rest` bytes follow it."""
    if len(header) < _HEADER_BYTES:
        return "cut inside the record's header"
    length_bytes = header[: _LENGTH.size]
    if _CRC.unpack_from(header, _LENGTH.size)[0] != _masked_crc(length_bytes):
        return "the length's CRC does not match"
    # Before allocating: a forged length is not a memory bomb.
    if _LENGTH.unpack(length_bytes)[0] + _CRC.size > rest:
        return "cut inside the record"
    return ""


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + _CRC_MASK_DELTA) & 0xFFFFFFFF


# --- tf.train.Example


def encode_example(fields: dict[str, bytes | str | int]) -> bytes:
    """Serialises one flat tf.train.Example; equal fields give equal bytes."""
    example = _example_class()()
    for key, value in fields.items():
        feature = example.features.feature[key]
        if isinstance(value, int):
            feature.int64_list.value.append(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            feature.bytes_list.value.append(data)
    return example.SerializeToString(deterministic=True)


def decode_example(payload: bytes) -> dict[str, bytes | int]:
    """Parses a flat tf.train.Example with one bytes or int64 value a key.

    Raises:
      ValueError: the payload is no such Example.
    """
    try:
        example = _example_class().FromString(payload)
    except Exception as error:  # protobuf's DecodeError differs between backends
        raise ValueError(f"not a tf.train.Example: {error}") from error
    fields = {}
    for key, feature in example.features.feature.items():
        values = feature.bytes_list.value or feature.int64_list.value
        if len(values) != 1:
            raise ValueError(f"key {key!r} holds {len(values)} values, expected 1")
        fields[key] = values[0]
    return fields


@functools.cache
def _example_class() -> type:
    """tf.train.Example built from a descriptor: no TensorFlow, no generated file.

    Schema: tensorflow/core/example/{example,feature}.proto. A pool of its own,
    because TensorFlow registers the same names in the default pool.
    """
    proto = descriptor_pb2.FileDescriptorProto(
        name="cxr/example.proto", package="tensorflow", syntax="proto3"
    )
    field = descriptor_pb2.FieldDescriptorProto
    for name, kind in (
        ("BytesList", field.TYPE_BYTES),
        ("FloatList", field.TYPE_FLOAT),
        ("Int64List", field.TYPE_INT64),
    ):
        message = proto.message_type.add(name=name)
        message.field.add(name="value", number=1, type=kind, label=field.LABEL_REPEATED)
    feature = proto.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("bytes", "float", "int64"), start=1):
        feature.field.add(
            name=f"{name}_list",
            number=number,
            type=field.TYPE_MESSAGE,
            label=field.LABEL_OPTIONAL,
            type_name=f".tensorflow.{name.capitalize()}List",
            oneof_index=0,
        )
    features = proto.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(
        name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL
    )
    entry.field.add(
        name="value",
        number=2,
        type=field.TYPE_MESSAGE,
        label=field.LABEL_OPTIONAL,
        type_name=".tensorflow.Feature",
    )
    features.field.add(
        name="feature",
        number=1,
        type=field.TYPE_MESSAGE,
        label=field.LABEL_REPEATED,
        type_name=".tensorflow.Features.FeatureEntry",
    )
    example = proto.message_type.add(name="Example")
    example.field.add(
        name="features",
        number=1,
        type=field.TYPE_MESSAGE,
        label=field.LABEL_OPTIONAL,
        type_name=".tensorflow.Features",
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(proto)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName("tensorflow.Example")
    )


# --- the manifest


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

    def examples(self, split: str) -> list[dict[str, str]]:
        """Returns the split's rows of examples.csv; row i is example i."""
        return [row for row in self._rows() if row["split"] == split]

    def _rows(self) -> list[dict[str, str]]:
        path = self.path / EXAMPLES
        listed = self.manifest.files.get(EXAMPLES, {})
        if not path.is_file() or files.sha256_file(path) != listed.get("sha256"):
            raise cli.DataError(
                f"{path}: missing, or changed since the conversion; convert again"
            )
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


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
    rows = record_set._rows()
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


# --- TFDS metadata, so that tfds.load and builder_from_directory open the set


def features_json(class_names: tuple[str, ...], image_size: int, encoding: str) -> str:
    """Returns features.json as `tfds.features.FeaturesDict.save_config` writes it.

    Args:
      class_names: label i is `class_names[i]`.
      image_size: stored height = width in pixels.
      encoding: `jpeg` and `png` become an Image feature, `raw` a Tensor.
    """
    shape = {"dimensions": [str(image_size), str(image_size), "1"]}
    if encoding == "raw":
        encoded = _feature(
            "tensor_feature.Tensor",
            tensor={"shape": shape, "dtype": "uint8", "encoding": "bytes"},
        )
    else:
        encoded = _feature(
            "image_feature.Image",
            image={"shape": shape, "dtype": "uint8", "encodingFormat": encoding},
        )
    text = _feature("text_feature.Text", text={})
    integer = _feature(
        "scalar.Scalar",
        tensor={"shape": {}, "dtype": "int64", "encoding": "none"},
    )
    label = _feature(
        "class_label_feature.ClassLabel",
        classLabel={"numClasses": str(len(class_names))},
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


def label_files(class_names: tuple[str, ...]) -> dict[str, str]:
    """Returns TFDS's label-name side file: name to text."""
    return {"image-class-label.labels.txt": "".join(f"{n}\n" for n in class_names)}


def dataset_info_json(manifest: Manifest, description: str) -> str:
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
        "description": description,
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
