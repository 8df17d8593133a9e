"""Reads and writes TFRecord frames and tf.train.Example without TensorFlow."""

import os
import pathlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import google_crc32c
import numpy as np
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
)

from cxr import cli

# Framing: https://www.tensorflow.org/tutorials/load_data/tfrecord
# uint64 length, uint32 masked CRC of the length, payload, uint32 masked CRC.
_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
HEADER_BYTES = _LENGTH.size + _CRC.size  # of a record: its payload's length
_CRC_MASK_DELTA = 0xA282EAD8
FOOTER_BYTES = _CRC.size  # of a record: its payload's CRC
FRAME_BYTES = HEADER_BYTES + FOOTER_BYTES


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
    footer = _CRC.pack(_masked_crc(payload))
    return b"".join((frame_header(len(payload)), payload, footer))


def frame_header(payload_bytes: int) -> bytes:
    """Returns what stands before a payload of this length."""
    length = _LENGTH.pack(payload_bytes)
    return length + _CRC.pack(_masked_crc(length))


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
        while header := file.read(HEADER_BYTES):
            if fault := _header_fault(header, size - file.tell()):
                yield b"", fault
                return
            (length,) = _LENGTH.unpack_from(header)
            payload, crc = file.read(length), file.read(_CRC.size)
            sound = _CRC.unpack(crc)[0] == _masked_crc(payload)
            yield payload, "" if sound else "the payload's CRC does not match"


def record_starts(path: str | os.PathLike) -> np.ndarray:
    """Walks a shard's lengths: where each record begins, int64 [N].

    Raises:
      CorruptShard: naming the record whose length leads nowhere.
    """
    starts: list[int] = []
    at = 0
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while at < size:
            file.seek(at)
            header = file.read(HEADER_BYTES)
            if fault := _header_fault(header, size - at - len(header)):
                raise CorruptShard(path, len(starts), fault)
            starts.append(at)
            at += FRAME_BYTES + _LENGTH.unpack_from(header)[0]
    return np.array(starts, np.int64)


def _header_fault(header: bytes, rest: int) -> str:
    """Returns what is wrong with a record's header; `rest` bytes follow it."""
    if len(header) < HEADER_BYTES:
        return "cut inside the record's header"
    length_bytes = header[: _LENGTH.size]
    if _CRC.unpack_from(header, _LENGTH.size)[0] != _masked_crc(length_bytes):
        return "the length's CRC does not match"
    # Before allocating: a forged length is not a memory bomb.
    if _LENGTH.unpack(length_bytes)[0] + _CRC.size > rest:
        return "cut inside the record"
    return ""


def stored_crcs(framed: Sequence[bytes]) -> np.ndarray:
    """Returns the payloads' CRCs as their footers have them, unmasked, uint32 [N].

    Args:
      framed: payload and footer of each record.
    """
    # A file that was cut meanwhile gives less.
    footers = b"".join(
        [record[-FOOTER_BYTES:].ljust(FOOTER_BYTES, b"\0") for record in framed]
    )
    masked = np.frombuffer(footers, "<u4") - np.uint32(_CRC_MASK_DELTA)
    return masked << 15 | masked >> 17


def intact(framed: Sequence[bytes], crcs: np.ndarray) -> list[bool]:
    """Returns whether records, given like `stored_crcs`, have these CRCs.

    Without taking the footer off, which copies the payload: the CRC of both is that
    of the footer continued from the payload's.
    """
    return [
        google_crc32c.value(record) == google_crc32c.extend(crc, record[-FOOTER_BYTES:])
        for record, crc in zip(framed, crcs.tolist(), strict=True)
    ]


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + _CRC_MASK_DELTA) & 0xFFFFFFFF


# --- tf.train.Example


def encode_example(fields: dict[str, bytes | str | int]) -> bytes:
    """Serialises one flat tf.train.Example; equal fields give equal bytes."""
    example = _Example()
    for key, value in fields.items():
        feature = example.features.feature[key]
        if isinstance(value, int):
            feature.int64_list.value.append(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            feature.bytes_list.value.append(data)
    return example.SerializeToString(deterministic=True)


def decode_example(payload: bytes, keys: Iterable[str] | None = None) -> dict[str, Any]:
    """Parses a flat tf.train.Example with one bytes or int64 value a key.

    Args:
      payload: the serialised Example.
      keys: only these, which takes half the time; None is all it has.

    Raises:
      ValueError: the payload is no such Example, or lacks a key.
    """
    try:
        example = _Example.FromString(payload)
    except Exception as error:  # protobuf's DecodeError differs between backends
        raise ValueError(f"not a tf.train.Example: {error}") from error
    features, fields = example.features.feature, {}
    for key in features if keys is None else keys:
        if key not in features:
            raise ValueError(f"no key {key!r}")
        feature = features[key]
        values = feature.bytes_list.value or feature.int64_list.value
        if len(values) != 1:
            raise ValueError(f"key {key!r} holds {len(values)} values, expected 1")
        fields[key] = values[0]
    return fields


# tensorflow/core/example/{example,feature}.proto, as a descriptor.
_SCHEMA = """
name: "cxr/example.proto" package: "tensorflow" syntax: "proto3"
message_type { name: "BytesList"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "FloatList"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT } }
message_type { name: "Int64List"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
message_type { name: "Feature" oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE
          type_name: ".tensorflow.BytesList" oneof_index: 0 }
  field { name: "float_list" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE
          type_name: ".tensorflow.FloatList" oneof_index: 0 }
  field { name: "int64_list" number: 3 label: LABEL_OPTIONAL type: TYPE_MESSAGE
          type_name: ".tensorflow.Int64List" oneof_index: 0 } }
message_type { name: "Features"
  nested_type { name: "FeatureEntry" options { map_entry: true }
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: "value" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE
            type_name: ".tensorflow.Feature" } }
  field { name: "feature" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE
          type_name: ".tensorflow.Features.FeatureEntry" } }
message_type { name: "Example"
  field { name: "features" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE
          type_name: ".tensorflow.Features" } }
"""


def _example_class() -> Any:
    """Returns tf.train.Example, made without TensorFlow or a generated file."""
    proto = text_format.Parse(_SCHEMA, descriptor_pb2.FileDescriptorProto())
    # A pool of its own: TensorFlow registers the same names in the default one.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(proto)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName("tensorflow.Example")
    )


_Example = _example_class()
