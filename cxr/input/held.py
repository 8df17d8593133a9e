"""Keeps a share of a streamed split in memory, as it is read."""

import numpy as np

from cxr.input.reader import Reader, aligned_empty


class Held:
    """Images of a split by index, the first of them read and decoded only once.

    Which images are kept does not depend on the order, so that every batch holds its
    share of both kinds and costs the same.
    """

    def __init__(self, reader: Reader, count: int):
        """Reserves the memory, which is taken only as it fills.

        Args:
          reader: gives the images.
          count: of images kept, from the first of the split on.
        """
        self._reader = reader
        size = reader.image_size
        self._kept = np.empty((min(count, reader.n), size, size), np.uint8)
        self._ready = np.zeros(reader.n, bool)

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Like `Reader.images`: uint8 [B, image_size, image_size], from any thread."""
        ready = self._ready[indices]
        if not ready.any():
            found = self._reader.images(indices)
        else:
            found = aligned_empty((len(indices), *self._kept.shape[1:]))
            found[ready] = self._kept[indices[ready]]
            if not ready.all():
                found[~ready] = self._reader.images(indices[~ready])
        new = ~ready & (indices < len(self._kept))
        self._kept[indices[new]] = found[new]
        self._ready[indices[new]] = True  # after its pixels: another thread may look
        return found
