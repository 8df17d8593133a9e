"""What a film tells without a network: nine numbers, and its layout in 16 x 16 cells.

The numbers, of brightness and sharpness, know nothing of lungs: what they give away of
the class, any network may learn in place of the disease (`metrics.trivial_baseline`).
By its cells a film is known again, and told from what is no chest film.
"""

import numpy as np
from PIL import Image

NAMES = (
    "mean",
    "deviation",
    "percentile_1",
    "percentile_99",
    "gradient",
    "border",
    "centre",
    "top",
    "bottom",
)
SIDE = 96  # pixels that a film is measured at; a smaller one as it is
CELLS = 16  # a side


def cells(grey: np.ndarray) -> np.ndarray:
    """Returns the mean grey level of each of 16 x 16 cells, uint8 [16, 16].

    Args:
      grey: uint8 [S, S], S at least 16.
    """
    # Not with `reducing_gap`: cells of a mirrored image would be of other pixels.
    return _reduced(grey, CELLS)


def measure(grey: np.ndarray) -> np.ndarray:
    """Measures a film at 96 x 96 pixels, so that its size tells nothing.

    Args:
      grey: uint8 [S, S].

    Returns:
      float32 [9], in grey levels, as `NAMES`: mean, standard deviation, 1st and 99th
      percentile; the mean absolute difference of neighbours, across and down; means of
      the outer eighth on every side, the middle half, the upper and the lower quarter.
    """
    side = min(SIDE, len(grey))
    film = _reduced(grey, side)
    counts = np.bincount(film.ravel(), minlength=256)
    levels = np.arange(256)
    mean = counts @ levels / film.size
    below = np.cumsum(counts)
    signed = film.astype(np.int16)
    across = np.abs(np.diff(signed, axis=1)).mean()
    down = np.abs(np.diff(signed, axis=0)).mean()
    eighth, quarter = side // 8, side // 4
    inner = film[eighth:-eighth, eighth:-eighth]
    total = float(film.sum())
    return np.array(
        [
            mean,
            np.sqrt(counts @ (levels - mean) ** 2 / film.size),
            np.searchsorted(below, 0.01 * film.size),
            np.searchsorted(below, 0.99 * film.size),
            (across + down) / 2,
            (total - float(inner.sum())) / (film.size - inner.size),
            film[quarter:-quarter, quarter:-quarter].mean(),
            film[:quarter].mean(),
            film[-quarter:].mean(),
        ],
        np.float32,
    )


def _reduced(grey: np.ndarray, side: int) -> np.ndarray:
    """Means over areas as `area_resize`'s but for rounding, in a third of its time."""
    size = (side, side)
    return np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BOX))
