"""Checks that measured batches hold the right pixels, labels and counts.

Films are compared with what Pillow makes of the same records, bit by bit; indices
are counted over epochs; labels are those of examples.csv.
"""

import zlib
from collections.abc import Sequence

import numpy as np

from cxr import cli, images, records
from cxr.input.reader import Reader

_SAMPLE = 64  # films whose checksum a report states


class WrongBatch(cli.DataError):
    """A pipeline delivered other films, labels or counts than it should have."""


class FilmAudit:
    """What a split's batches are held against.

    Args:
      record_set: a complete converted set.
      split: its name.
      image_size: height = width in pixels of the films delivered.
    """

    def __init__(self, record_set: records.RecordSet, split: str, *, image_size: int):
        self.reader = Reader(record_set, split, image_size=image_size)
        self._stored_size = record_set.manifest.image_size
        self._encoding = record_set.manifest.encoding

    def films(self, encoded: Sequence[bytes]) -> np.ndarray:
        """Returns what films should look like: uint8 [len(encoded), S, S]."""
        stored, size = self._stored_size, self.reader.image_size
        if self._encoding == "raw":
            found = [np.frombuffer(film, np.uint8) for film in encoded]
            whole = np.reshape(found, (-1, stored, stored))
        else:
            whole = np.stack([images.to_grey(film, stored) for film in encoded])
        return whole if size == stored else images.area_resize(whole, size)

    def check_films(self, films: np.ndarray, indices: np.ndarray) -> None:
        """Raises WrongBatch unless films uint8 [B, S, S(, 1)] are those asked for."""
        expected = self.films(self.reader.encoded(indices))
        same = films.size == expected.size and films.dtype == np.uint8
        if not same or not np.array_equal(films.reshape(expected.shape), expected):
            raise WrongBatch(
                f"films {indices[:4]}...: the pipeline's pixels differ from Pillow's"
            )

    def check_encoded(self, encoded: np.ndarray, indices: np.ndarray) -> None:
        """Raises WrongBatch unless bytes [B] are the encoded films asked for."""
        if list(encoded) != self.reader.encoded(indices):
            raise WrongBatch(f"films {indices[:4]}...: other bytes than recorded")

    def check_records(self, found: np.ndarray, indices: np.ndarray) -> None:
        """Raises WrongBatch unless bytes [B] are whole records of the films asked for.

        However records are framed, they hold the film and more.
        """
        for data, film in zip(found, self.reader.encoded(indices), strict=True):
            if film not in data or len(data) == len(film):
                raise WrongBatch(f"films {indices[:4]}...: other records")

    def check_labels(self, labels: np.ndarray, indices: np.ndarray) -> None:
        """Raises WrongBatch unless labels int32 [B] are those of examples.csv."""
        if not np.array_equal(labels, self.reader.labels[indices]):
            raise WrongBatch(f"films {indices[:4]}...: wrong labels")

    def checksum(self) -> str:
        """Returns the CRC-32 of the first films' pixels, as Pillow decodes them."""
        first = np.arange(min(_SAMPLE, self.reader.n))
        pixels = self.films(self.reader.encoded(first))
        return f"{zlib.crc32(pixels.tobytes()):08x}"


class EpochCount:
    """Counts films: within an epoch no film comes twice.

    Args:
      n: films of the split.
      epoch_films: films of an epoch, at most `n`.
    """

    def __init__(self, n: int, epoch_films: int):
        self._came, self._left = np.zeros(n, bool), epoch_films
        self._epoch_films = epoch_films

    def add(self, indices: np.ndarray) -> None:
        """Notes a batch, int64 [B], no part of which crosses an epoch's end.

        Raises:
          WrongBatch: a film for the second time, or one too many.
        """
        twice = self._came[indices].any() or len(np.unique(indices)) < len(indices)
        if twice or len(indices) > self._left:
            raise WrongBatch(f"films {indices[:4]}...: twice within an epoch")
        self._came[indices] = True
        self._left -= len(indices)
        if not self._left:
            self._came[:] = False
            self._left = self._epoch_films
