"""cxr.conversion.near_duplicates: films that look alike, also mirrored or turned."""

import numpy as np
import pytest

from cxr import images
from cxr.conversion import near_duplicates
from cxr.conversion.near_duplicates import Pair
from cxr.images import statistics
from tests.sample_images import chest

TURNS = [(turn, mirrored) for turn in range(4) for mirrored in (False, True)]


def turned(film: np.ndarray, turn: int, mirrored: bool) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(film[:, ::-1] if mirrored else film, turn))


def looks(films: list[np.ndarray]) -> np.ndarray:
    return np.stack([statistics.cells(film) for film in films])


@pytest.fixture(scope="module")
def films() -> list[np.ndarray]:
    return [chest(seed, (96, 96)) for seed in range(60)]


def test_different_films_make_no_pair(films):
    assert near_duplicates.find(looks(films)) == []


@pytest.mark.parametrize(("turn", "mirrored"), TURNS)
def test_a_turned_film_is_found(films, turn, mirrored):
    copy = turned(films[7], turn, mirrored)
    again = images.to_grey(images.encode(copy, "jpeg", quality=70), 96)
    [pair] = near_duplicates.find(looks([*films, again]))
    assert (pair.first, pair.second) == (7, len(films))
    assert pair.turned == ((turn, mirrored) != (0, False))
    assert pair.bits <= near_duplicates.MAX_DISTANCE


def test_every_pair_within_seven_bits_is_found_and_no_other():
    random = np.random.default_rng(0)
    cells = random.integers(0, 256, (200, 16, 16), np.uint8)
    for bits in range(1, 10):  # changes the order of so many neighbours, in other rows
        other = cells[bits].copy()
        for row in range(bits):
            other[row, [0, 1]] = other[row, [1, 0]]
            assert other[row, 0] != other[row, 1]
        cells[100 + bits] = other
    plain = (cells[:, :, 1:] > cells[:, :, :-1]).reshape(200, -1)
    expected = {
        (int((plain[i] != plain[100 + i]).sum()), i, 100 + i)
        for i in range(1, 10)
        if (plain[i] != plain[100 + i]).sum() <= 7
    }
    found = near_duplicates.find(cells)
    assert {tuple(pair[:3]) for pair in found} == expected
    assert len(expected) > 3


def test_nearly_blank_images_look_like_nothing():
    blank = np.zeros((5, 16, 16), np.uint8)
    blank[:, :3, 4] = 200
    assert near_duplicates.find(blank) == []


def test_identical_looks_are_paired_with_the_first(films):
    found = near_duplicates.find(looks([films[0], films[1], films[0], films[0]]))
    assert found == [Pair(0, 0, 2, False), Pair(0, 0, 3, False)]


def test_pairs_make_clusters():
    pairs = [Pair(0, 1, 5, False), Pair(1, 5, 9, True), Pair(2, 3, 4, False)]
    assert near_duplicates.clusters(pairs) == [[1, 5, 9], [3, 4]]
    assert near_duplicates.clusters([]) == []
