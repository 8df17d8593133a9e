"""Brings samples of any depth to 8 bits of grey, by fixed rules."""

import numpy as np
from PIL import Image

from cxr.reasons import BadImage

_BIT_DEPTHS = (8, 10, 12, 14, 16)
# What may be brighter than full scale: letters burned in at 65535 over 12 bits of chest
# would make every film that has them black, and all of them of one class.
_BRIGHTEST = 0.02  # of the pixels
_ROWS = 64


def to_eight_bits(
    image: Image.Image, *, bits: int = 0, inverted: bool = False
) -> Image.Image:
    """Returns an image of mode L.

    Args:
      image: of any mode, its pixels loaded.
      bits: of a sample as the file's header says; 0 where it does not.
      inverted: whether the smallest sample of more than 8 bits is white.

    Raises:
      BadImage: samples without a scale.
    """
    if image.mode == "L":
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = window(np.asarray(image), bits)
        return Image.fromarray(np.invert(grey, out=grey) if inverted else grey)
    if image.mode == "F":
        raise BadImage("unsupported_samples", "floating-point samples have no scale")
    return image.convert("L")


def window(samples: np.ndarray, bits: int = 0) -> np.ndarray:
    """Maps samples to grey: 0..full scale becomes 0..255, what is brighter 255.

    Args:
      samples: integers [H, W] of up to 16 bits.
      bits: of full scale; 0 takes the smallest of 8, 10, 12, 14 and 16 that holds all
        but the brightest pixels in a hundred, `_BRIGHTEST`.

    Returns:
      uint8 [H, W].

    Raises:
      BadImage: samples outside 0..65535.
    """
    low, high = int(samples.min()), int(samples.max())
    if low < 0 or high > 0xFFFF:
        raise BadImage(
            "unsupported_samples", f"samples {low}..{high}, expected 0..65535"
        )
    bits = bits or depth(samples, high)
    full_scale = (1 << bits) - 1
    grey = np.empty(samples.shape, np.uint8)
    for row in range(0, len(samples), _ROWS):  # 50 megapixels at once: 600 MB
        block = np.minimum(samples[row : row + _ROWS], full_scale).astype(np.uint32)
        grey[row : row + _ROWS] = (block * 255 + full_scale // 2) // full_scale
    return grey


def check_depth(grey: Image.Image, kind: str) -> None:
    """Refuses deep colour that does not use its 16 bits: Pillow keeps the upper 8.

    Args:
      grey: mode L, of those upper bits.
      kind: the file's format, for the message.

    Raises:
      BadImage: full scale would be of 14 bits or fewer, by the rule of `window`.
    """
    samples = np.asarray(grey)
    if np.count_nonzero(samples >= 1 << 6) <= int(_BRIGHTEST * samples.size):
        raise BadImage(
            "unsupported_samples",
            f"{kind}: colour of 16-bit samples that use fewer; save it as grey",
        )


def depth(samples: np.ndarray, high: int) -> int:
    """Returns the bits of full scale that samples were made with.

    Args:
      samples: integers [H, W], 0..65535.
      high: the brightest.
    """
    largest = next(bits for bits in _BIT_DEPTHS if high < 1 << bits)
    allowed = int(_BRIGHTEST * samples.size)
    for bits in _BIT_DEPTHS:
        if bits == largest or np.count_nonzero(samples >= 1 << bits) <= allowed:
            return bits
    raise AssertionError("no depth holds the samples")
