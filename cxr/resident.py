"""A decoded split in memory, usable while it is still being filled."""

import contextlib
import ctypes
import mmap
import threading
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from cxr.decoding import Reader

_FILL_BATCH = 32  # films decoded at a time on the way into memory
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h
_LARGEST_MMAP_THRESHOLD = 32 << 20  # 32 MiB: glibc refuses more


class Resident:
    """The films of a split as one uint8 tensor that a thread fills once.

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
        keep_freed_memory()
        self._reader, self._threads = reader, threads
        # Rows of bytes: the gather's inner loop is then one memcpy a film.
        self._films = _huge_array((reader.n, reader.image_size**2))
        self._tensor = tf.experimental.dlpack.from_dlpack(self._films.__dlpack__())
        self._ready = np.zeros(reader.n, bool)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._complete = False

    def begin(self, order: np.ndarray) -> None:
        """Starts filling in the order in which films will be asked for, once.

        Args:
          order: int64 [n], a permutation.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._fill, args=(order,))
            self._thread.start()

    def wait(self, indices: np.ndarray | None = None) -> None:
        """Returns when the films (None: all) are in memory.

        Raises:
          Exception: what stopped the filling thread, such as a DataError.
        """
        if self._complete:
            return

        def arrived() -> bool:
            wanted = self._ready if indices is None else self._ready[indices]
            return self._failure is not None or bool(wanted.all())

        with self._changed:
            self._changed.wait_for(arrived)
        if self._failure is not None:
            raise self._reader.fault or self._failure

    def gather(self, indices: tf.Tensor) -> tf.Tensor:
        """Returns films by index: uint8 [*indices.shape, S, S, 1]."""
        size = self._reader.image_size
        films = tf.gather(self._tensor, indices)
        return tf.reshape(films, tf.concat([tf.shape(indices), [size, size, 1]], 0))

    def _fill(self, order: np.ndarray) -> None:
        try:
            for films, indices in self._decoded(order):
                rows = indices.numpy()
                self._films[rows] = films.numpy().reshape(len(rows), -1)
                with self._changed:
                    self._ready[rows] = True
                    self._changed.notify_all()
                if not threading.main_thread().is_alive():
                    return  # the program is over: do not hold up its exit
            self._complete = True
        except Exception as error:  # handed to whoever waits for the films
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _decoded(self, order: np.ndarray) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        rows = tf.data.Dataset.from_tensor_slices(order).batch(_FILL_BATCH)
        dataset = self._reader.decoded(rows, _FILL_BATCH, self._threads)
        options = tf.data.Options()
        options.threading.private_threadpool_size = self._threads
        options.autotune.enabled = False
        return iter(dataset.prefetch(self._threads).with_options(options))


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
