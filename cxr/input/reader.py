"""Reads, verifies and decodes records of a TFRecord split, in any order.

A `Reader` knows the offset of every record of a split, so images are read in any
order, each with one `pread`. What it hands out was checked: the record's CRC each
time; the image's SHA-256, its size, its label and name against examples.csv the
first time, and again whenever the CRC is not what it was then.
"""

import hashlib
import math
from collections.abc import Callable

import numpy as np

from cxr import cli, images, platforms, records, tfrecord
from cxr.input.jpeg import decoder as jpeg

_KEYS = (
    "image/encoded",
    "image/height",
    "image/width",
    "image/class/label",
    "image/key/sha256",
    "image/filename",
    "image/patient_id",
    "image/subtype",
)
_TENSOR_ALIGNMENT = 64  # bytes; TensorFlow copies arrays that start elsewhere
_PREFIX = 16  # bytes of an image looked for before all of them
_HASH_CHUNK_BYTES = 1 << 20  # 1 MiB: large enough that Python's loop is free
_REDUCED = 8  # images decoded at their stored size at a time, where that is larger


class Reader:
    """Random access to the images of one split.

    Attributes:
      n: number of examples.
      labels: int32 [n], from examples.csv.
      image_size: height = width in pixels of the images handed out.
      stored_size: height = width in pixels of the images in the records.
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
        """Finds the records; reads no image.

        Args:
          record_set: a complete converted set.
          split: `train`, `validation` or `test`.
          image_size: height = width of the images handed out.
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
        optional = self.encoding == "jpeg" and jpeg.available()
        self._jpeg = jpeg.Decoder() if optional else None
        self._shards, self._paths = shards, record_set.shard_paths(split)
        rows = record_set.examples(split)
        self.labels = _labels(record_set, [row["label"] for row in rows], self.n)
        self._filenames = [row["filename"].encode() for row in rows]
        self._patient_ids = [row["patient_id"].encode() for row in rows]
        self._subtypes = [row["subtype"].encode() for row in rows]
        self._shard_of = np.repeat(np.arange(len(shards)), self.shard_sizes)
        self._first_of = np.cumsum((0, *self.shard_sizes))
        # Of each record: file descriptor, offset, length of payload and footer.
        self._places = np.zeros((self.n, 3), np.int64)
        before = tfrecord.HEADER_BYTES
        self._places[:, 1:] = record_set.record_spans(split) + (before, -before)
        # Open for the reader's life: a read is one system call.
        self._files = [path.open("rb", buffering=0) for path in self._paths]
        descriptors = np.array([file.fileno() for file in self._files], np.int64)
        self._places[:, 0] = descriptors[self._shard_of]
        # Where the image stands in each verified record, [begin, end], and the CRC
        # that the record had; an end of 0: not verified yet.
        self._remember = remember
        self._image_at = np.zeros((self.n, 2), np.int64)
        self._crcs = np.zeros(self.n, np.uint32)

    def encoded(self, indices: np.ndarray) -> list[bytes]:
        """Reads and verifies the encoded images of the examples, in their order.

        Args:
          indices: int64 [B].

        Raises:
          DataError: naming the shard and the record that is not what it was.
        """
        try:
            return self._checked(self._read(indices), indices)
        except (cli.CommandError, OSError) as error:
            self.fault = self.fault or error
            raise

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Reads, verifies and decodes images: uint8 [B, image_size, image_size].

        Threads may call it at the same time: most of it runs without Python's lock.

        Raises:
          DataError: naming the shard and the record that is not what it was.
        """
        found = aligned_empty((len(indices), self.image_size, self.image_size))
        encoded = self.encoded(indices)
        if self.image_size == self.stored_size:
            self.decode(encoded, indices, out=found)
            return found
        stored = np.empty((_REDUCED, self.stored_size, self.stored_size), np.uint8)
        for first in range(0, len(indices), _REDUCED):
            some = slice(first, first + _REDUCED)
            decoded = stored[: len(encoded[some])]
            self.decode(encoded[some], indices[some], out=decoded)
            found[some] = images.area_resize(decoded, self.image_size)
        return found

    def decode(
        self, encoded: list[bytes], indices: np.ndarray, *, out: np.ndarray
    ) -> None:
        """Decodes verified images.

        Args:
          encoded: the images.
          indices: theirs, int64 [B].
          out: receives them, uint8 [B, stored_size, stored_size], contiguous.

        Raises:
          DataError: naming the shard and the record that cannot be decoded.
        """
        done = np.zeros(len(encoded), bool)
        if self._jpeg:
            done = self._jpeg.decode(encoded, out)
        for at in np.flatnonzero(~done).tolist():
            try:
                images.decode(encoded[at], self.encoding, out=out[at])
            except ValueError as error:
                self.fault = self.fault or self._fault(int(indices[at]), str(error))
                raise self.fault from error

    def check_shards(self, go_on: Callable[[], bool] = lambda: True) -> None:
        """Compares every shard's SHA-256 with the manifest's.

        What a record says of itself cannot tell a set from another sound one; this
        does. The files are those that images are read from, even where others have
        taken their names since.

        Args:
          go_on: asked now and then; False leaves.

        Raises:
          DataError: naming the shard that is not the manifest's.
        """
        for path, file, shard in zip(
            self._paths, self._files, self._shards, strict=True
        ):
            digest, at = hashlib.sha256(), 0
            while go_on() and (
                part := platforms.read_at(file.fileno(), at, _HASH_CHUNK_BYTES)
            ):
                digest.update(part)
                at += len(part)
            if go_on() and digest.hexdigest() != shard.sha256:
                raise cli.DataError(
                    f"{path}: its sha256 is not the manifest's: another file took its "
                    "place; restore it, or convert again"
                )

    def _read(self, indices: np.ndarray) -> list[bytes]:
        """Returns payload and footer of records."""
        places = self._places[indices].tolist()
        for place in places:
            # All reads of the batch start now: on a cold disk they overlap.
            platforms.will_read(*place)
        return [platforms.read_at(*place) for place in places]

    def _checked(self, framed: list[bytes], indices: np.ndarray) -> list[bytes]:
        """Returns the images of records, given as payload and footer."""
        # Step by step for all records: a call for each would take as long again.
        crcs = tfrecord.stored_crcs(framed)
        sound = tfrecord.intact(framed, crcs)
        if not all(sound):
            raise self._fault(
                int(indices[sound.index(False)]), "the payload's CRC does not match"
            )
        image_at = self._image_at[indices]
        known = (image_at[:, 1] > 0) & (self._crcs[indices] == crcs)
        found = [
            record[begin:end]
            for record, (begin, end) in zip(framed, image_at.tolist(), strict=True)
        ]
        for at in np.flatnonzero(~known).tolist():
            index, record = int(indices[at]), framed[at]
            found[at] = self._verified(record[: -tfrecord.FOOTER_BYTES], index)
            if self._remember:
                begin = _position(found[at], record)
                self._image_at[index] = begin, begin + len(found[at])
                self._crcs[index] = crcs[at]
        return found

    def _verified(self, payload: bytes, index: int) -> bytes:
        """Returns the image of an intact record that is the one it should be."""
        file, offset, _ = self._places[index].tolist()
        before = platforms.read_at(
            file, offset - tfrecord.HEADER_BYTES, tfrecord.HEADER_BYTES
        )
        if before != tfrecord.frame_header(len(payload)):
            raise self._fault(index, "the length is not the payload's")
        try:
            fields = tfrecord.decode_example(payload, _KEYS)
        except ValueError as error:
            raise self._fault(index, str(error)) from error
        image = fields["image/encoded"]
        wanted = {
            "image/height": self.stored_size,
            "image/width": self.stored_size,
            "image/class/label": int(self.labels[index]),
            # Sound records in another order would carry other images' names.
            "image/filename": self._filenames[index],
            "image/patient_id": self._patient_ids[index],
            "image/subtype": self._subtypes[index],
            "image/key/sha256": hashlib.sha256(image).hexdigest().encode(),
        }
        for key, value in wanted.items():
            if fields[key] != value:
                reason = f"{key} is {fields[key]!r}, expected {value!r}"
                raise self._fault(index, reason)
        return image

    def _fault(self, index: int, reason: str) -> tfrecord.CorruptShard:
        shard = int(self._shard_of[index])
        record = index - int(self._first_of[shard])
        return tfrecord.CorruptShard(self._paths[shard], record, reason)


def _labels(record_set: records.RecordSet, labels: list[str], n: int) -> np.ndarray:
    """Returns int32 [n], the labels of a split's rows of examples.csv."""
    if len(labels) != n:
        raise cli.DataError(
            f"{record_set.path / records.EXAMPLES}: {len(labels)} rows of the split, "
            f"the manifest says {n}"
        )
    names = record_set.manifest.class_names
    numbers = {name: number for number, name in enumerate(names)}
    unknown = set(labels) - set(names)
    if unknown:
        raise cli.DataError(
            f"{record_set.path / records.EXAMPLES}: label {min(unknown)!r} is none of "
            f"the classes {', '.join(names)}"
        )
    return np.array([numbers[label] for label in labels], np.int32)


def _position(image: bytes, record: bytes) -> int:
    """Returns where a record holds its image: 1 us, `bytes.index` takes 34 of 50 kB."""
    begin = record.index(image[:_PREFIX])
    while not record.startswith(image, begin):
        begin = record.index(image[:_PREFIX], begin + 1)
    return begin


def evenly_spaced(count: int, at_most: int) -> np.ndarray:
    """Returns some of `count` indices, ends included, int64 [<= at_most]."""
    return np.linspace(0, count - 1, min(at_most, count)).astype(np.int64)


def aligned_empty(shape: tuple[int, ...]) -> np.ndarray:
    """Returns uint8 memory that TensorFlow takes over without a copy."""
    flat = np.empty(math.prod(shape) + _TENSOR_ALIGNMENT, np.uint8)
    skip = -flat.ctypes.data % _TENSOR_ALIGNMENT
    return flat[skip : skip + math.prod(shape)].reshape(shape)
