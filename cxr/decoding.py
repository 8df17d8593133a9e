"""Record bytes to verified films: where each record lies, whether it is intact.

A `Reader` knows the offset of every record of a split, so films are read in any
order, each with one `pread`. What it hands out was checked: the SHA-256 of the
encoded film, its size, and its label against examples.csv.
"""

import concurrent.futures
import functools
import hashlib
import os
import pathlib
import struct

import numpy as np
import tensorflow as tf

from cxr import cli, images, records

_FRAME_HEADER = struct.Struct("<QI")  # payload length, its CRC
_FRAME_FOOTER_BYTES = 4  # the payload's CRC
_INDEX_THREADS = 8  # shards whose record lengths are read at a time: disk latency
_DECODERS = {
    # TensorFlow's default INTEGER_FAST is up to 16 grey levels from what Pillow
    # reads in `cxr.predict`; INTEGER_ACCURATE gives the same bits.
    "jpeg": functools.partial(
        tf.io.decode_jpeg, channels=1, dct_method="INTEGER_ACCURATE"
    ),
    "png": functools.partial(tf.io.decode_png, channels=1),
}


class Reader:
    """Random access to the films of one split.

    Attributes:
      n: number of examples.
      labels: int32 [n], from examples.csv.
      image_size: height = width in pixels of the films handed out.
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
        self._stored_size = manifest.image_size
        self._encoding = manifest.encoding
        self._paths = record_set.shard_paths(split)
        self.labels = _labels(record_set, split, self.n)
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
            self._verified(os.pread(file, length, offset), int(index))
            for file, (offset, length), index in zip(
                descriptors, extents, indices, strict=True
            )
        ]

    def decoded(self, rows: tf.data.Dataset, batch_size: int, threads: int):
        """Maps rows of indices to films.

        Args:
          rows: dataset of int64 [B] with B <= `batch_size`.
          batch_size: static; shorter rows are decoded at the cost of a full one.
          threads: batches in the making at a time.

        Returns:
          Dataset of `(uint8 [B, image_size, image_size], int64 [B])`.
        """
        shape = (None, self._stored_size, self._stored_size)
        if self._encoding == "raw":

            def read(indices):
                films = tf.numpy_function(self._raw, [indices], tf.uint8)
                return tf.ensure_shape(films, shape), indices

            dataset = rows.map(read, num_parallel_calls=threads)
        else:
            dataset = self._compressed(rows, batch_size, threads)
        if self.image_size == self._stored_size:
            return dataset

        def reduce(films, indices):
            films = tf.numpy_function(self._reduced, [films], tf.uint8)
            return tf.ensure_shape(films, (None, *(self.image_size,) * 2)), indices

        return dataset.map(reduce, num_parallel_calls=threads)

    def _compressed(self, rows, batch_size, threads):
        size = self._stored_size

        def padded(indices):
            films = self.encoded(indices)
            films += films[-1:] * (batch_size - len(films))
            return np.array(films, object)

        def read(indices):
            films = tf.numpy_function(padded, [indices], tf.string)
            return tf.ensure_shape(films, [batch_size]), indices

        def decode(films, indices):
            # One call decodes a batch: 20 us of scheduling an element are saved,
            # and its decodes still run on all threads as separate nodes.
            decoded = [
                tf.ensure_shape(_DECODERS[self._encoding](film), [size, size, 1])
                for film in tf.unstack(films)
            ]
            return tf.stack(decoded)[: tf.size(indices), ..., 0], indices

        rows = rows.map(read, num_parallel_calls=threads)
        return rows.map(decode, num_parallel_calls=threads)

    def _raw(self, indices: np.ndarray) -> np.ndarray:
        size = self._stored_size
        films = np.frombuffer(b"".join(self.encoded(indices)), np.uint8)
        return films.reshape(len(indices), size, size)

    def _reduced(self, films: np.ndarray) -> np.ndarray:
        return images.area_resize(films, self.image_size)

    def _verified(self, payload: bytes, index: int) -> bytes:
        try:
            fields = records.decode_example(payload)
            film = fields["image/encoded"]
            wanted = (
                self._stored_size,
                self._stored_size,
                int(self.labels[index]),
                hashlib.sha256(film).hexdigest(),
            )
            found = (
                fields["image/height"],
                fields["image/width"],
                fields["image/class/label"],
                fields["image/key/sha256"].decode(),
            )
        except (KeyError, ValueError, AttributeError) as error:
            raise self._fault(index, f"unreadable: {error}") from error
        if found != wanted:
            raise self._fault(
                index,
                "height, width, label, sha256 of the film are "
                f"{found} in the record, expected {wanted}",
            )
        if self._encoding == "raw" and len(film) != self._stored_size**2:
            raise self._fault(index, f"{len(film)} bytes of raw film")
        return film

    def _fault(self, index: int, reason: str) -> records.CorruptShard:
        shard = int(self._shard_of[index])
        record = index - int(self._first_of[shard])
        return records.CorruptShard(self._paths[shard], record, reason)


def _labels(record_set: records.RecordSet, split: str, n: int) -> np.ndarray:
    """Returns int32 [n], the labels of examples.csv."""
    rows = record_set.examples(split)
    if len(rows) != n:
        raise cli.DataError(
            f"{record_set.path / records.EXAMPLES}: {len(rows)} rows of {split}, the "
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
