"""A decoded split in memory, usable while it is still being filled."""

import contextlib
import ctypes
import mmap
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from cxr.input.decoding import Reader

_CHUNK = 32  # films decoded at a time by one thread on the way into memory
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGEST_MMAP_THRESHOLD = 32 << 20  # 32 MiB: glibc refuses more


class Resident:
    """The films of a split as one uint8 tensor that threads fill once.

    The tensor shares the memory it is filled through, so no second copy ever
    exists; `wait` tells when given films have arrived. The first batch is ready
    when its own films are, not when the last film of the split is.
    """

    def __init__(self, reader: Reader, threads: int):
        """Reserves the memory; nothing is read before `begin`.

        Args:
          reader: gives the films.
          threads: to decode with.
        """
        self._reader, self._threads = reader, threads
        # Rows of bytes: the gather's inner loop is then one memcpy a film.
        self._films = _huge_array((reader.n, reader.image_size**2))
        self._tensor = tf.experimental.dlpack.from_dlpack(self._films.__dlpack__())
        self._ready = np.zeros(reader.n, bool)
        self._missing = reader.n
        self._changed = threading.Condition()
        self._begun = False
        self._failure: Exception | None = None

    def begin(self, first_use: Callable[[], np.ndarray]) -> None:
        """Starts filling, once.

        Args:
          first_use: gives the order in which films will be asked for, int64 [n], a
            permutation.
        """
        with self._changed:
            if self._begun:
                return
            self._begun = True
        order = first_use()
        chunks = iter(np.split(order, range(_CHUNK, len(order), _CHUNK)))
        for _ in range(self._threads):
            threading.Thread(target=self._fill, args=(chunks,)).start()

    def wait(self, indices: np.ndarray) -> None:
        """Returns when the films are in memory.

        Raises:
          Exception: what stopped a filling thread, such as a DataError.
        """
        if not self._missing:
            return

        def arrived() -> bool:
            return self._failure is not None or bool(self._ready[indices].all())

        with self._changed:
            self._changed.wait_for(arrived)
        if self._failure is not None:
            raise self._failure

    def gather(self, indices: tf.Tensor) -> tf.Tensor:
        """Returns films by index: uint8 [*indices.shape, S, S, 1]."""
        size = self._reader.image_size
        films = tf.gather(self._tensor, indices)
        return tf.reshape(films, tf.concat([tf.shape(indices), [size, size, 1]], 0))

    def _fill(self, chunks: Iterator[np.ndarray]) -> None:
        try:
            for chunk in _shared(chunks, self._changed):
                films = self._reader.films(chunk)
                self._films[chunk] = films.reshape(len(chunk), -1)
                with self._changed:
                    self._ready[chunk] = True
                    self._missing -= len(chunk)
                    self._changed.notify_all()
                if self._failure:
                    return
                if not threading.main_thread().is_alive():
                    raise RuntimeError("the program ended")  # releases who waits
        except Exception as error:  # handed to whoever waits for the films
            with self._changed:
                self._failure = error
                self._changed.notify_all()


def _shared(items: Iterator[Any], lock: threading.Condition) -> Iterator[Any]:
    """Iterates what is left of `items`, which several threads consume."""
    while True:
        with lock:
            item = next(items, None)
        if item is None:
            return
        yield item


def keep_freed_memory() -> None:
    """Asks glibc's malloc to reuse freed batches, not to return them to the kernel.

    A batch of megabytes is otherwise mapped, page-faulted and unmapped each time.
    Elsewhere than on glibc this does nothing.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _huge_array(shape: tuple[int, int]) -> np.ndarray:
    """Returns zeroed uint8 memory in huge pages where the system has them.

    Anonymous memory starts on a page, which TensorFlow's alignment needs, and is
    taken only as it is filled.
    """
    memory = mmap.mmap(-1, max(1, shape[0] * shape[1]))
    with contextlib.suppress(AttributeError, OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    flat = np.frombuffer(memory, np.uint8, count=shape[0] * shape[1])
    return flat.reshape(shape)
