"""Decodes batches of grey baseline JPEGs to libjpeg-turbo's pixels, but sooner.

Of the 90 us that libjpeg-turbo takes for an image of 224 pixels, 70 go into Huffman
codes. The images of a set share their tables, so `cxr.input.jpeg.loop` decodes three of
them side by side: 50 us an image, by one thread.
"""

import importlib.util
import threading
from collections.abc import Callable

import numpy as np

from cxr import images
from cxr.input.jpeg import header

_WORTHWHILE = 10_000  # images; libjpeg-turbo takes a second for so many


class Decoder:
    """Decodes the images of one set; threads may share it.

    The loop is compiled once a set has shown to be worth that: after `_WORTHWHILE`
    images, in the background. Until then nothing is decoded here.
    """

    def __init__(self):
        self._asked = 0
        self._tables: header.Tables | None = None

    def decode(self, encoded: list[bytes], out: np.ndarray) -> np.ndarray:
        """Decodes images, outside Python's lock.

        Args:
          encoded: N images.
          out: receives them, uint8 [N, H, W], contiguous.

        Returns:
          bool [N]: which of them were decoded. The others have another size or header
          than the set's first image, are damaged, or are no grey baseline JPEG; their
          places in `out` hold nothing. Damage that leaves the codes readable is not
          found: that is what records have checksums for.
        """
        if _loop.decode is None:
            self._asked += len(encoded)
            if self._asked > _WORTHWHILE:
                prepare()
        elif encoded:
            if self._tables is None:
                self._tables = header.read(encoded[0])
            if self._tables and self._tables.size == out.shape[1:]:
                return _loop.decode(encoded, out, self._tables)
        return np.zeros(len(encoded), bool)


class _Loop:
    """The loop, compiled in the background, once in a process."""

    def __init__(self):
        self.decode: Callable | None = None  # until it is compiled
        self._lock = threading.Lock()
        self.thread: threading.Thread | None = None

    def begin(self) -> threading.Thread:
        with self._lock:
            if self.thread is None:
                # Not a daemon: the compiler must not be cut off at exit.
                self.thread = threading.Thread(target=self._compile)
                self.thread.start()
            return self.thread

    def _compile(self) -> None:
        from cxr.input.jpeg import loop  # imports Numba

        image = images.encode(np.zeros((8, 8), np.uint8), "jpeg")
        out = np.empty((1, 8, 8), np.uint8)
        tables = header.read(image)
        assert tables is not None
        loop.decode([image], out, tables)  # the first call compiles
        self.decode = loop.decode


_loop = _Loop()


def available() -> bool:
    """Returns whether Numba, which compiles the loop, is installed; imports nothing."""
    return importlib.util.find_spec("numba") is not None


def prepare() -> threading.Thread:
    """Begins to compile the loop, unless that was done; returns the thread that does.

    It takes 4 s on a machine's first use, 0.3 s where Numba finds what it kept.
    """
    return _loop.begin()
