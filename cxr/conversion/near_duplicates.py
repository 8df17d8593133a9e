"""Finds images that look alike although their bytes differ, also mirrored or turned.

An image is known by its brightness in 16 x 16 cells, and compared by 240 bits: whether
each cell is brighter than its left neighbour. On the reference set's 5,216 training
images 7 bits find the 28 identical pairs and no other, also among all eight turns and
mirrorings: the next pair is 12 bits apart, the next mirrored one 18.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from cxr.conversion.components import Components

MAX_DISTANCE = 7  # bits; less than the 8 bands, one of which then agrees
_BANDS = 8  # of two rows, 30 bits
_LEAST = 120  # cells that differ from their neighbours: a blank image looks like others
_MAX_BUCKET = 64  # images whose band agrees: more tell nothing, as black margins


class Pair(NamedTuple):
    """Two images that look alike.

    Attributes:
      bits: that differ.
      first: index of one, the smaller.
      second: index of the other.
      turned: whether one is the other mirrored or turned by a right angle.
    """

    bits: int
    first: int
    second: int
    turned: bool


_FAR = Pair(MAX_DISTANCE + 1, 0, 0, False)


def find(looks: np.ndarray) -> list[Pair]:
    """Finds all pairs within `MAX_DISTANCE` bits, each once, by distance.

    Hashes so close agree in at least one of eight bands, so only images that share
    a band are compared. Identical cells count as one image: the first. Images with
    too few differences, nearly blank ones, are not compared.

    Args:
      looks: uint8 [N, 16, 16], of `images.statistics.cells`.
    """
    differing = (looks[:, :, 1:] != looks[:, :, :-1]).sum(axis=(1, 2))
    told = np.flatnonzero(differing >= _LEAST)
    first: dict[bytes, int] = {}
    best: dict[tuple[int, int], Pair] = {}
    for index in told.tolist():
        original = first.setdefault(looks[index].tobytes(), index)
        if original != index:
            best[original, index] = Pair(0, original, index, False)
    chosen = np.fromiter(first.values(), np.int64)
    if not len(chosen):
        return []
    plain = _hashes(looks[chosen], 0)
    for turn in range(8):
        other = plain if turn == 0 else _hashes(looks[chosen], turn)
        for bits, i, j in _close(plain, other):
            low, high = sorted((int(chosen[i]), int(chosen[j])))
            pair = Pair(bits, low, high, turn > 0)
            if low != high and pair < best.get((low, high), _FAR):  # or its own mirror
                best[low, high] = pair
    return sorted(best.values())


def clusters(pairs: Iterable[Pair]) -> list[list[int]]:
    """Returns the sets of indices that pairs connect, each sorted, by their first."""
    return list(Components((pair.first, pair.second) for pair in pairs))


def _hashes(looks: np.ndarray, turn: int) -> np.ndarray:
    """Returns uint32 [N, 8]: the bits of images turned in one of eight ways."""
    turned = looks.transpose(0, 2, 1) if turn & 4 else looks
    turned = turned[:, :: -1 if turn & 2 else 1, :: -1 if turn & 1 else 1]
    bits = turned[:, :, 1:] > turned[:, :, :-1]
    bands = np.zeros((len(looks), _BANDS, 32), bool)
    bands[:, :, 2:] = bits.reshape(len(looks), _BANDS, -1)
    return np.packbits(bands, axis=2).view(">u4")[:, :, 0].astype(np.uint32)


def _close(plain: np.ndarray, other: np.ndarray) -> Iterable[tuple[int, int, int]]:
    """Yields (bits, i, j) of close `plain[i]` and `other[j]`, some repeatedly."""
    for band in range(_BANDS):
        order = np.argsort(plain[:, band], kind="stable")
        keys = plain[order, band]
        low = np.searchsorted(keys, other[:, band], "left")
        count = np.searchsorted(keys, other[:, band], "right") - low
        count[count > _MAX_BUCKET] = 0
        second = np.repeat(np.arange(len(other)), count)
        within = np.arange(len(second)) - np.repeat(np.cumsum(count) - count, count)
        first = order[np.repeat(low, count) + within]
        if other is plain:
            first, second = first[first < second], second[first < second]
        distance = np.zeros(len(first), np.uint8)
        for part in range(_BANDS):
            distance += np.bitwise_count(plain[first, part] ^ other[second, part])
        near = distance <= MAX_DISTANCE
        columns = (values[near].tolist() for values in (distance, first, second))
        yield from zip(*columns, strict=True)
