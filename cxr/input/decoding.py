"""Record bytes to verified films: where each record lies, whether it is intact.

A `Reader` knows the offset of every record of a split, so films are read in any
order, each with one `pread`. What it hands out was checked: the record's CRC, the
film's SHA-256 where it is compressed, its size, and its label and name against
examples.csv.
"""

import concurrent.futures
import hashlib
import io
import os
import pathlib
import struct

import numpy as np
import tensorflow as tf
from PIL import Image

from cxr import cli, images, records, tfrecord

_FRAME_HEADER = struct.Struct("<QI")  # payload length, its CRC
_FRAME_FOOTER_BYTES = 4  # the payload's CRC
_KEYS = (
    "image/encoded",
    "image/height",
    "image/width",
    "image/class/label",
    "image/key/sha256",
    "image/filename",
)
_INDEX_THREADS = 8  # shards whose record lengths are read at a time: disk latency


class Reader:
    """Random access to the films of one split.

    Attributes:
      n: number of examples.
      labels: int32 [n], from examples.csv.
      image_size: height = width in pixels of the films handed out.
      stored_size: height = width in pixels of the films in the records.
      encoding: `jpeg`, `png` or `raw`.
      shard_sizes: number of examples of each shard.
      fault: the first error met while reading, or None; inside tf.data an
        exception arrives as a `tf.errors.OpError`, and this is what it was.
    """

    def __init__(self, record_set: records.RecordSet, split: str, *, image_size: int):
        """Finds the records; reads lengths only, no film.

        Raises:
          DataError: a shard is missing, has another size or other records than
            the manifest says, or a label is none of the set's classes.
          UsageError: `image_size` exceeds the stored size.
        """
        manifest = record_set.manifest
        if image_size > manifest.image_size:
            raise cli.UsageError(
                f"--image_size={image_size}: {record_set.path} stores "
                f"{manifest.image_size} pixels; convert again with "
                f"{records.CONVERT_COMMAND} --image_size={image_size}"
            )
        shards = record_set.split(split).shards
        self.image_size = image_size
        self.shard_sizes = tuple(shard.count for shard in shards)
        self.n = sum(self.shard_sizes)
        self.fault: Exception | None = None
        self.stored_size = manifest.image_size
        self.encoding = manifest.encoding
        self._paths = record_set.shard_paths(split)
        rows = record_set.examples(split)
        self.labels = _labels(record_set, rows, self.n)
        self._filenames = [row["filename"].encode() for row in rows]
        with concurrent.futures.ThreadPoolExecutor(_INDEX_THREADS) as pool:
            tables = list(pool.map(_record_table, self._paths, shards))
        self._extents = np.concatenate([np.zeros((0, 2), np.int64), *tables])
        self._shard_of = np.repeat(np.arange(len(shards)), self.shard_sizes)
        self._first_of = np.cumsum((0, *self.shard_sizes))
        # Open for the reader's life: a read is one system call.
        self._files = [path.open("rb", buffering=0) for path in self._paths]

    def encoded(self, indices: np.ndarray) -> list[bytes]:
        """Reads and verifies the encoded films of the examples, in their order.

        Args:
          indices: int64 [B].

        Raises:
          DataError: naming the shard and the record that is not what it was.
        """
        try:
            return self._read(indices)
        except (cli.CommandError, OSError) as error:
            self.fault = self.fault or error
            raise

    def _read(self, indices: np.ndarray) -> list[bytes]:
        extents = self._extents[indices].tolist()
        shards = self._shard_of[indices].tolist()
        descriptors = [self._files[shard].fileno() for shard in shards]
        for file, (offset, length) in zip(descriptors, extents, strict=True):
            # All reads of the batch start now: on a cold disk they overlap.
            os.posix_fadvise(file, offset, length, os.POSIX_FADV_WILLNEED)
        return [
            self._verified(os.pread(file, length + _FRAME_FOOTER_BYTES, offset), index)
            for file, (offset, length), index in zip(
                descriptors, extents, indices.tolist(), strict=True
            )
        ]

    def films(self, indices: np.ndarray) -> np.ndarray:
        """Reads, verifies and decodes films: uint8 [B, image_size, image_size].

        Raises:
          DataError: naming the shard and the record that is not what it was.
        """
        size = self.stored_size
        films = np.empty((len(indices), size, size), np.uint8)
        for film, encoded in zip(films, self.encoded(indices), strict=True):
            if self.encoding == "raw":
                film[:] = np.frombuffer(encoded, np.uint8).reshape(size, size)
            else:
                film[:] = Image.open(io.BytesIO(encoded))
        return self.reduced(films)

    def reduced(self, films: np.ndarray) -> np.ndarray:
        """Reduces films from the stored to the model's size where it is smaller."""
        if self.image_size == self.stored_size:
            return films
        return images.area_resize(films, self.image_size)

    def decode(self, encoded: tf.Tensor) -> tf.Tensor:
        """Decodes one JPEG or PNG in a graph: uint8 [stored_size, stored_size, 1].

        The same pixels as `films`. TensorFlow's default INTEGER_FAST would be up to
        16 grey levels from what Pillow reads in `cxr.predict`.
        """
        if self.encoding == "jpeg":
            film = tf.io.decode_jpeg(encoded, 1, dct_method="INTEGER_ACCURATE")
        else:
            film = tf.io.decode_png(encoded, 1)
        return tf.ensure_shape(film, [self.stored_size, self.stored_size, 1])

    def _verified(self, framed: bytes, index: int) -> bytes:
        payload, crc = framed[:-_FRAME_FOOTER_BYTES], framed[-_FRAME_FOOTER_BYTES:]
        if len(crc) < _FRAME_FOOTER_BYTES or not tfrecord.is_intact(payload, crc):
            raise self._fault(index, "the payload's CRC does not match")
        try:
            fields = records.decode_example(payload, _KEYS)
        except ValueError as error:
            raise self._fault(index, str(error)) from error
        film = fields["image/encoded"]
        size = self.stored_size
        wanted = {
            "image/height": size,
            "image/width": size,
            "image/class/label": int(self.labels[index]),
            # Sound records in another order would carry other films' names.
            "image/filename": self._filenames[index],
        }
        if self.encoding == "raw":
            # Hashing 50 KB takes as long as the rest of reading; the CRC must do.
            wanted["bytes"], fields["bytes"] = size * size, len(film)
        else:
            digest = hashlib.sha256(film).hexdigest()
            wanted["image/key/sha256"] = digest.encode()
        for key, value in wanted.items():
            if fields[key] != value:
                reason = f"{key} is {fields[key]!r}, expected {value!r}"
                raise self._fault(index, reason)
        return film

    def _fault(self, index: int, reason: str) -> records.CorruptShard:
        shard = int(self._shard_of[index])
        record = index - int(self._first_of[shard])
        return records.CorruptShard(self._paths[shard], record, reason)


def _labels(
    record_set: records.RecordSet, rows: list[dict[str, str]], n: int
) -> np.ndarray:
    """Returns int32 [n], the labels of a split's rows of examples.csv."""
    if len(rows) != n:
        raise cli.DataError(
            f"{record_set.path / records.EXAMPLES}: {len(rows)} rows of the split, the "
            f"manifest says {n}"
        )
    names = record_set.manifest.class_names
    numbers = {name: number for number, name in enumerate(names)}
    unknown = {row["label"] for row in rows} - set(names)
    if unknown:
        raise cli.DataError(
            f"{record_set.path / records.EXAMPLES}: label {min(unknown)!r} is none of "
            f"the classes {', '.join(names)}"
        )
    return np.array([numbers[row["label"]] for row in rows], np.int32)


def _record_table(path: pathlib.Path, shard: records.Shard) -> np.ndarray:
    """Walks a shard's record lengths: int64 [count, 2] of payload offset, length."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError as error:
        raise cli.DataError(f"{path}: missing") from error
    table, offset = [], 0
    try:
        if (size := os.fstat(file).st_size) != shard.bytes:
            raise cli.DataError(
                f"{path}: {size} bytes, the manifest says {shard.bytes}; check the set "
                "with python -m tools.verify_tfrecords, then convert again"
            )
        while offset < size:
            header = os.pread(file, _FRAME_HEADER.size, offset)
            length = _FRAME_HEADER.unpack(header)[0] if len(header) == 12 else size
            offset += _FRAME_HEADER.size
            table.append((offset, length))
            offset += length + _FRAME_FOOTER_BYTES
    finally:
        os.close(file)
    if offset != size or len(table) != shard.count:
        raise records.CorruptShard(
            path, len(table) - 1, f"the shard does not hold {shard.count} whole records"
        )
    return np.array(table, np.int64).reshape(-1, 2)
