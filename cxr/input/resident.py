"""Keeps a decoded split in memory, usable while threads still fill it."""

import math
import mmap
import threading
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from cxr.input.reader import Reader

_CHUNK = 16  # images decoded at a time by one thread; more delay the first batch


class Resident:
    """The images of a split as one uint8 tensor that threads fill once.

    The tensor shares the memory it is filled through, so no second copy ever
    exists; `wait` tells when given images have arrived. The first batch is ready
    when its own images are, not when the last image of the split is.
    """

    def __init__(self, reader: Reader, threads: int):
        """Reserves the memory; nothing is read before `wait`.

        Args:
          reader: gives the images.
          threads: to decode with.
        """
        self._reader, self._threads = reader, threads
        self._first_use = np.arange(reader.n)
        self._chunks: Iterator[np.ndarray] | None = None  # None: not begun
        shape = (reader.n, reader.image_size, reader.image_size, 1)
        self._images = _small_pages(shape)
        self._tensor = tf.experimental.dlpack.from_dlpack(self._images.__dlpack__())
        self._ready = np.zeros(reader.n, bool)
        self._missing = reader.n
        self._changed = threading.Condition()
        self._failure: Exception | None = None

    def expect(self, first_use: np.ndarray) -> None:
        """Tells in which order images will be asked for first; without, by index.

        Args:
          first_use: int64 [n], a permutation.
        """
        self._first_use = first_use

    def wait(self, indices: np.ndarray) -> None:
        """Returns when the images are in memory; the first call begins to fill it.

        Raises:
          Exception: what stopped a filling thread, such as a DataError.
        """
        if not self._missing:
            return

        def arrived() -> bool:
            return self._failure is not None or bool(self._ready[indices].all())

        with self._changed:
            if self._chunks is None:
                edges = range(_CHUNK, len(self._first_use), _CHUNK)
                self._chunks = iter(np.split(self._first_use, edges))
                for _ in range(self._threads):
                    threading.Thread(target=self._fill).start()
            self._changed.wait_for(arrived)
        if self._failure is not None:
            raise self._failure

    def gather(self, indices: tf.Tensor) -> tf.Tensor:
        """Returns images by index, int64 [M]: uint8 [M, S, S, 1]."""
        return tf.gather(self._tensor, indices)

    def _fill(self) -> None:
        try:
            while (chunk := self._next_chunk()) is not None:
                images = self._reader.images(chunk)
                self._images[chunk] = images[..., None]
                with self._changed:
                    self._ready[chunk] = True
                    self._missing -= len(chunk)
                    self._changed.notify_all()
                if self._failure:
                    return
                if not threading.main_thread().is_alive():
                    raise RuntimeError("the program ended")  # releases who waits
        except Exception as error:  # handed to whoever waits for the images
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _next_chunk(self) -> np.ndarray | None:
        with self._changed:
            return next(self._chunks, None)


def _small_pages(shape: tuple[int, ...]) -> np.ndarray:
    """Returns zeroed uint8 memory, taken in pages of 4 KiB as it is filled.

    numpy would ask for huge pages, and the first batch wait while the kernel clears
    2 MiB for each of its images (100 ms here). A page is aligned as TensorFlow needs.
    """
    size = math.prod(shape)
    memory = mmap.mmap(-1, max(1, size))
    return np.frombuffer(memory, np.uint8, count=size).reshape(shape)
