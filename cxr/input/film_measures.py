"""Measures films of a split without a model: their cells and their nine numbers."""

from typing import NamedTuple

import numpy as np

from cxr import records
from cxr.images import statistics
from cxr.input.reader import Reader, evenly_spaced

_READ = 256  # films at a time


class Measures(NamedTuple):
    """What `images.statistics` tells of films, in index order.

    Attributes:
      cells: uint8 [N, 16, 16].
      numbers: float32 [N, 9].
      labels: int32 [N], of the set's classes.
    """

    cells: np.ndarray
    numbers: np.ndarray
    labels: np.ndarray


def measure(
    record_set: records.RecordSet, split: str, *, at_most: int | None = None
) -> Measures:
    """Reads and measures the films of a split at their stored size.

    Args:
      record_set: the data.
      split: of it.
      at_most: so many films, evenly spaced.
    """
    count = record_set.split(split).num_examples
    chosen = evenly_spaced(count, at_most or count)
    reader = Reader(record_set, split, image_size=record_set.manifest.image_size)
    cells, numbers = [], []
    for first in range(0, len(chosen), _READ):
        for film in reader.images(chosen[first : first + _READ]):
            cells.append(statistics.cells(film))
            numbers.append(statistics.measure(film))
    return Measures(np.stack(cells), np.stack(numbers), reader.labels[chosen])
