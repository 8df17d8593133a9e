"""Says how large an image may be, and what decoding it may cost.

Sizes come from headers, before any pixel is decoded.
"""

from cxr.reasons import BadImage

MAX_PIXELS = 50_000_000  # the largest image in the reference set has 7 million
MIN_SIDE = 8  # pixels; below it stands an icon or a tracking dot, not an image
MAX_MEMORY = 280_000_000  # bytes while an image is decoded, beside its file
MAX_PARTS = 10_000  # segments, chunks, strips, tiles: sound files have hundreds


class Budget:
    """Counts what a file's parts cost together, and refuses it beyond a limit.

    Args:
      limit: of the sum.
      what: is counted, in plain words.
    """

    def __init__(self, limit: int, what: str):
        self._left, self._said = limit, f"more than {limit} {what}"

    def spend(self, amount: int = 1) -> None:
        """Raises BadImage, `too_complex`, where nothing is left."""
        self._left -= amount
        if self._left < 0:
            raise BadImage("too_complex", self._said)


def check_size(width: int, height: int) -> None:
    """Refuses what is too large or too small.

    Raises:
      BadImage: `too_many_pixels` or `too_small`.
    """
    if width * height > MAX_PIXELS:
        raise BadImage(
            "too_many_pixels", f"{width} x {height}, the limit is {MAX_PIXELS} pixels"
        )
    if min(width, height) < MIN_SIDE:
        raise BadImage("too_small", f"{width} x {height}, at least {MIN_SIDE} a side")


def check_memory(width: int, height: int, pixel_bytes: int) -> int:
    """Returns the bytes that decoding takes.

    Args:
      width: pixels.
      height: pixels.
      pixel_bytes: that the decoder and what follows it hold at once for a pixel.

    Raises:
      BadImage: `too_many_pixels`.
    """
    needed = width * height * pixel_bytes
    if needed > MAX_MEMORY:
        raise BadImage(
            "too_many_pixels",
            f"{width} x {height} at {pixel_bytes} bytes while decoding, the limit is "
            f"{MAX_MEMORY // pixel_bytes} pixels of this kind",
        )
    return needed
