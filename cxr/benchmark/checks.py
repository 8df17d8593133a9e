"""Checks that measured batches hold the right pixels, labels and counts.

Images are compared with what Pillow makes of the same records, bit by bit; indices
are counted over epochs; labels are those of examples.csv.
"""

import time
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from cxr import cli, images, records
from cxr.input.reader import Reader

_SAMPLE = 64  # images whose checksum a report states

# Images or encoded images, labels, indices; shares of several replicas where
# distributed.
Batches = Iterator[tuple]


class WrongBatch(cli.DataError):
    """A pipeline delivered other images, labels or counts than it should have."""


class ImageCheck:
    """What a split's batches are held against.

    Args:
      record_set: a complete converted set.
      split: its name.
      image_size: height = width in pixels of the images delivered.
    """

    def __init__(self, record_set: records.RecordSet, split: str, *, image_size: int):
        self.reader = Reader(record_set, split, image_size=image_size)

    def expected_images(self, indices: np.ndarray) -> np.ndarray:
        """Returns what images should look like: uint8 [len(indices), S, S]."""
        encoded, stored = self.reader.encoded(indices), self.reader.stored_size
        if self.reader.encoding == "raw":
            whole = np.frombuffer(b"".join(encoded), np.uint8)
            whole = whole.reshape(-1, stored, stored)
        else:
            whole = np.stack([images.to_grey(image, stored) for image in encoded])
        size = self.reader.image_size
        return whole if size == stored else images.area_resize(whole, size)

    def check_images(self, pixels: np.ndarray, indices: np.ndarray) -> None:
        """Raises WrongBatch unless pixels uint8 [B, S, S(, 1)] are those asked for."""
        expected = self.expected_images(indices)
        same = pixels.size == expected.size and pixels.dtype == np.uint8
        same = same and np.array_equal(pixels.reshape(expected.shape), expected)
        _require(same, indices, "the pipeline's pixels differ from Pillow's")

    def check_encoded(self, encoded: np.ndarray, indices: np.ndarray) -> None:
        """Raises WrongBatch unless bytes [B] are the encoded images asked for."""
        same = list(encoded) == self.reader.encoded(indices)
        _require(same, indices, "other bytes than recorded")

    def check_records(self, framed: np.ndarray, indices: np.ndarray) -> None:
        """Raises WrongBatch unless bytes [B] are whole records of the images asked for.

        However records are framed, they hold the image and more.
        """
        for record, image in zip(framed, self.reader.encoded(indices), strict=True):
            holds = image in record and len(record) > len(image)
            _require(holds, indices, "other records")

    def check_labels(self, labels: np.ndarray, indices: np.ndarray) -> None:
        """Raises WrongBatch unless labels int32 [B] are those of examples.csv."""
        same = np.array_equal(labels, self.reader.labels[indices])
        _require(same, indices, "wrong labels")

    def checksum(self) -> str:
        """Returns the CRC-32 of the first images' pixels, as Pillow decodes them."""
        pixels = self.expected_images(np.arange(min(_SAMPLE, self.reader.n)))
        return f"{zlib.crc32(pixels.tobytes()):08x}"


class CheckedBatches:
    """Draws batches and keeps what their check needs.

    Args:
      batches: of `(images or encoded images, labels, indices)`.
      image_check: what they are held against.
      contents: its check of a batch's first part.
      epoch_images: images between two repetitions.
      strategy: that the batches are distributed by.

    Attributes:
      waits: seconds spent waiting for batches before each check.
    """

    def __init__(
        self,
        batches: Batches,
        image_check: ImageCheck,
        contents: Callable[[np.ndarray, np.ndarray], None],
        *,
        epoch_images: int,
        strategy: tf.distribute.Strategy | None = None,
    ):
        self._batches, self._contents = batches, contents
        self._image_check = image_check
        strategy = strategy or tf.distribute.get_strategy()
        self._shares = strategy.experimental_local_results
        self._drawn: list[tuple] = []  # labels and indices: images would fill memory
        self._newest: tuple = ()
        self._waited = 0.0
        self.waits: list[float] = []
        self._epoch_images = self._left = epoch_images
        self._came = np.zeros(image_check.reader.n, bool)  # in this epoch

    def draw(self) -> tuple:
        """Returns a batch and notes how long it took to come."""
        begin = time.perf_counter()
        self._newest = next(self._batches)
        self._waited += time.perf_counter() - begin
        self._drawn.append(self._newest[1:])
        return self._newest

    def advance(self) -> int:
        """Draws a batch; returns the number of its images."""
        _, _, indices = self.draw()
        return sum(len(share) for share in self._shares(indices))

    def check(self, count: int) -> None:
        """Holds all batches since the last check against what they should be.

        Every index and label is checked, and the contents of the last batch.

        Args:
          count: images in those batches.

        Raises:
          WrongBatch: they are not.
        """
        delivered = 0
        for part in self._drawn:
            labels, indices = map(self._whole, part)
            self._check_epoch(indices)
            self._image_check.check_labels(labels, indices)
            delivered += len(indices)
        if delivered != count:
            raise WrongBatch(f"{count} images counted, {delivered} delivered")
        self._contents(self._whole(self._newest[0]), indices)
        self.waits.append(self._waited)
        self._drawn, self._waited = [], 0.0

    def _whole(self, value: tf.Tensor | Sequence) -> np.ndarray:
        """Returns the shares of all replicas as one array."""
        return np.concatenate([np.asarray(share) for share in self._shares(value)])

    def _check_epoch(self, indices: np.ndarray) -> None:
        """Notes a batch, no part of which crosses an epoch's end: no image twice."""
        again = self._came[indices].any() or len(np.unique(indices)) < len(indices)
        within = not again and len(indices) <= self._left
        _require(within, indices, "twice within an epoch")
        self._came[indices] = True
        self._left -= len(indices)
        if not self._left:
            self._came[:] = False
            self._left = self._epoch_images


def _require(fulfilled: bool, indices: np.ndarray, fault: str) -> None:
    if not fulfilled:
        raise WrongBatch(f"images {indices[:4]}...: {fault}")
