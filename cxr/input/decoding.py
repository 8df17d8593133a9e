"""Record bytes to verified films: where each record lies, whether it is intact.

A `Reader` knows the offset of every record of a split, so films are read in any
order, each with one `pread`. What it hands out was checked: the record's CRC each
time; the film's SHA-256, its size, its label and name against examples.csv the
first time, and again whenever the CRC is not what it was then.
"""

import concurrent.futures
import hashlib
import math
import os
import pathlib
import struct
from collections.abc import Iterator

import numpy as np

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
_TENSOR_ALIGNMENT = 64  # bytes; TensorFlow copies arrays that start elsewhere
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

    def __init__(
        self,
        record_set: records.RecordSet,
        split: str,
        *,
        image_size: int,
        remember: bool = True,
    ):
        """Finds the records; reads lengths only, no film.

        Args:
          record_set: a complete converted set.
          split: `train`, `validation` or `test`.
          image_size: height = width of the films handed out.
          remember: check a record that was verified before by its CRC alone; without
            it every read verifies everything, as the first one does.

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
        # Where the film stands in each verified record, [begin, end], and the CRC
        # that the record had; an end of 0: not verified yet.
        self._remember = remember
        self._film_at = np.zeros((self.n, 2), np.int64)
        self._crcs = np.zeros(self.n, np.dtype("V4"))

    def encoded(self, indices: np.ndarray) -> list[bytes]:
        """Reads and verifies the encoded films of the examples, in their order.

        Args:
          indices: int64 [B].

        Raises:
          DataError: naming the shard and the record that is not what it was.
        """
        return list(self._read(indices))

    def _read(self, indices: np.ndarray) -> Iterator[bytes]:
        """Yields the encoded films one by one; what goes wrong becomes the fault."""
        extents = self._extents[indices].tolist()
        shards = self._shard_of[indices].tolist()
        descriptors = [self._files[shard].fileno() for shard in shards]
        for file, (offset, length) in zip(descriptors, extents, strict=True):
            # All reads of the batch start now: on a cold disk they overlap.
            os.posix_fadvise(file, offset, length, os.POSIX_FADV_WILLNEED)
        try:
            for file, (offset, length), *known in zip(
                descriptors,
                extents,
                indices.tolist(),
                self._film_at[indices].tolist(),
                self._crcs[indices].tolist(),
                strict=True,
            ):
                framed = os.pread(file, length + _FRAME_FOOTER_BYTES, offset)
                yield self._film(framed, *known)
        except (cli.CommandError, OSError) as error:
            self.fault = self.fault or error
            raise

    def films(self, indices: np.ndarray) -> np.ndarray:
        """Reads, verifies and decodes films: uint8 [B, image_size, image_size].

        Threads may call it at the same time: most of it runs without Python's lock.

        Raises:
          DataError: naming the shard and the record that is not what it was.
        """
        films = _aligned_empty((len(indices), self.image_size, self.image_size))
        # The film itself, or one stored film from which it is reduced.
        stored = np.empty((self.stored_size,) * 2, np.uint8)
        same_size = self.image_size == self.stored_size
        for index, film, encoded in zip(
            indices.tolist(), films, self._read(indices), strict=True
        ):
            out = film if same_size else stored
            try:
                images.decode(encoded, self.encoding, out=out)
            except ValueError as error:
                self.fault = self.fault or self._fault(index, str(error))
                raise self.fault from error
            if not same_size:
                film[:] = images.area_resize(stored, self.image_size)
        return films

    def _film(
        self, framed: bytes, index: int, known_at: list[int], known_crc: bytes
    ) -> bytes:
        """Returns the film of a record, given as payload and footer."""
        payload, crc = framed[:-_FRAME_FOOTER_BYTES], framed[-_FRAME_FOOTER_BYTES:]
        if len(crc) < _FRAME_FOOTER_BYTES or not tfrecord.is_intact(payload, crc):
            raise self._fault(index, "the payload's CRC does not match")
        begin, end = known_at
        if end and crc == known_crc:
            return payload[begin:end]
        film = self._verified(payload, index)
        if self._remember:
            begin = payload.index(film)
            self._film_at[index] = begin, begin + len(film)
            self._crcs[index] = crc
        return film

    def _verified(self, payload: bytes, index: int) -> bytes:
        """Returns the film of an intact record that is the one it should be."""
        try:
            fields = records.decode_example(payload, _KEYS)
        except ValueError as error:
            raise self._fault(index, str(error)) from error
        film = fields["image/encoded"]
        wanted = {
            "image/height": self.stored_size,
            "image/width": self.stored_size,
            "image/class/label": int(self.labels[index]),
            # Sound records in another order would carry other films' names.
            "image/filename": self._filenames[index],
            "image/key/sha256": hashlib.sha256(film).hexdigest().encode(),
        }
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


def _aligned_empty(shape: tuple[int, ...]) -> np.ndarray:
    """Returns uint8 memory that TensorFlow takes over without a copy."""
    flat = np.empty(math.prod(shape) + _TENSOR_ALIGNMENT, np.uint8)
    skip = -flat.ctypes.data % _TENSOR_ALIGNMENT
    return flat[skip : skip + math.prod(shape)].reshape(shape)
