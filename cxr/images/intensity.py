"""Brings samples of any depth to 8 bits of grey, by fixed rules."""

import numpy as np
from PIL import Image

from cxr.reasons import BadImage

_BIT_DEPTHS = (8, 10, 12, 14, 16)
_ROWS = 64


def to_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode == "L":
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        return Image.fromarray(_window(np.asarray(image)))
    if image.mode == "F":
        raise BadImage("unsupported_samples", "floating-point samples have no scale")
    return image.convert("L")


def _window(samples: np.ndarray) -> np.ndarray:
    """Maps integer samples [H, W] of up to 16 bits to uint8 by the rule above."""
    low, high = int(samples.min()), int(samples.max())
    if low < 0 or high > 0xFFFF:
        raise BadImage(
            "unsupported_samples", f"samples {low}..{high}, expected 0..65535"
        )
    bits = next(bits for bits in _BIT_DEPTHS if high < 1 << bits)
    full_scale = (1 << bits) - 1
    grey = np.empty(samples.shape, np.uint8)
    for row in range(0, len(samples), _ROWS):  # 50 megapixels at once: 600 MB
        block = samples[row : row + _ROWS].astype(np.uint32)
        grey[row : row + _ROWS] = (block * 255 + full_scale // 2) // full_scale
    return grey
