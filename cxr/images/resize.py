"""Reduces images to the mean over each target pixel's exact area."""

import functools

import numpy as np


def area_resize(image: np.ndarray, size: int) -> np.ndarray:
    """Reduces images to `size` by the mean over each target pixel's exact area.

    Sums are integers held in floating point wide enough to keep them exact, so
    the result does not depend on the batch, the machine or the matrix library.

    Args:
      image: uint8 [H, W] or [N, H, W].
      size: height = width of the result; at most H and W, in any ratio.

    Returns:
      uint8 [size, size] or [N, size, size], halves rounded up.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise ValueError(
            f"image: expected uint8 [H, W] or [N, H, W], got {image.dtype} "
            f"{list(image.shape)}"
        )
    height, width = image.shape[-2:]
    if not 1 <= size <= min(height, width):
        raise ValueError(f"size={size}: expected 1..{min(height, width)}, the source's")
    if height == width == size:
        return image
    if image.ndim == 3:
        result = np.empty((len(image), size, size), np.uint8)
        for index, single in enumerate(image):  # one at a time: bounded memory
            result[index] = area_resize(single, size)
        return result
    # float32 holds integers exactly below 2**24, float64 below 2**53.
    dtype = np.float32 if 255 * height * width < 1 << 24 else np.float64
    rows, columns = _overlaps(height, size, dtype), _overlaps(width, size, dtype)
    area = height * width
    sums = (rows @ image.astype(dtype) @ columns.T).astype(np.int64)
    return ((sums + area // 2) // area).astype(np.uint8)


@functools.lru_cache(maxsize=16)  # a batch asks for the same two again and again
def _overlaps(source: int, target: int, dtype: type) -> np.ndarray:
    """Returns [target, source] overlap lengths in units of 1/target source pixel."""
    edges = np.arange(source + 1) * target
    low = np.arange(target)[:, None] * source
    overlap = np.minimum(edges[1:], low + source) - np.maximum(edges[:-1], low)
    return np.maximum(overlap, 0).astype(dtype)
