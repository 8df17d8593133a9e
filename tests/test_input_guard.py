"""What tells a film that is unlike those of training, and what it says of it."""

import numpy as np
import pytest

from cxr import input_guard
from cxr.input_guard import InputGuard


def films(count: int, seed: int = 0) -> np.ndarray:
    """Chests in 16 x 16 cells: dark lungs, a bright middle and belly, all different."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16] / 15 - 0.5
    found = []
    for _ in range(count):
        width, height, low = random.normal((0.16, 0.32, 0.05), 0.015)
        lungs = sum(
            np.exp(-(((x - side) / width) ** 2) - ((y + low) / height) ** 2)
            for side in (-0.24, 0.24)
        )
        film = 150 + 60 * y - 110 * lungs + random.normal(0, 4, x.shape)
        film = random.normal(1, 0.08) * film + random.normal(0, 8)
        found.append(np.clip(film, 0, 255))
    return np.array(found).astype(np.uint8)


def numbers(cells: np.ndarray) -> np.ndarray:
    flat = cells.reshape(len(cells), -1).astype(np.float32)
    steps = np.abs(np.diff(cells.astype(np.float32), axis=1)).mean(axis=(1, 2))
    columns = [flat.mean(1), flat.std(1), flat.min(1), flat.max(1), steps]
    quarters = [cells[:, a : a + 4].mean(axis=(1, 2)) for a in (0, 4, 8, 12)]
    return np.stack([*columns, *quarters], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def guard() -> InputGuard:
    cells = films(600)
    found = input_guard.fit(cells, numbers(cells))
    assert found is not None
    return found


def judged(guard: InputGuard, cells: np.ndarray) -> list[str]:
    return guard.judge(cells, numbers(cells))


def test_films_of_the_same_kind_pass(guard):
    alarms = [why for why in judged(guard, films(1000, seed=1)) if why]
    assert len(alarms) <= 20


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        (1, "turned by 90 degrees, anticlockwise"),
        (2, "turned by 180 degrees"),
        (3, "turned by 90 degrees, clockwise"),
    ],
)
def test_turned_films_are_told_by_how_far(guard, turn, said):
    found = judged(guard, np.rot90(films(100, seed=2), turn, axes=(1, 2)))
    assert found.count(said) >= 95


def test_inverted_films_are_told(guard):
    found = judged(guard, 255 - films(100, seed=2))
    assert sum(why.startswith("inverted") for why in found) >= 95


def test_what_is_no_chest_is_told(guard):
    random = np.random.default_rng(3)
    noise = random.integers(0, 256, (50, 16, 16)).astype(np.uint8)
    blank = np.repeat(np.arange(0, 250, 5), 256).reshape(-1, 16, 16).astype(np.uint8)
    y, x = np.mgrid[:16, :16]
    board = np.where((x // 4 + y // 4) % 2, 220, 30)[None].astype(np.uint8)
    assert all(judged(guard, np.concatenate([noise, blank, board])))


def test_a_layout_as_usual_in_another_brightness_is_told(guard):
    bright = np.clip(films(50, seed=4).astype(int) + 70, 0, 255).astype(np.uint8)
    found = judged(guard, bright)
    assert all(found)
    assert found.count("its brightness or sharpness") >= 40


def test_it_comes_back_from_its_bytes(guard):
    again = InputGuard.from_bytes(guard.to_bytes())
    mixed = np.concatenate([films(20, seed=5), 255 - films(20, seed=6)])
    assert judged(again, mixed) == judged(guard, mixed)


def test_bytes_that_are_no_guard_are_refused(guard):
    with pytest.raises(ValueError, match="cannot be read"):
        InputGuard.from_bytes(b"no archive")
    import io

    arrays = dict(np.load(io.BytesIO(guard.to_bytes())))
    for name, wrong in (
        ("mean", np.zeros(7, "f4")),
        ("limits", np.full(3, np.nan, "f4")),
    ):
        buffer = io.BytesIO()
        np.savez(buffer, **{**arrays, name: wrong})
        with pytest.raises(ValueError, match=f"guard's {name}"):
            InputGuard.from_bytes(buffer.getvalue())
    buffer = io.BytesIO()
    np.savez(buffer, **{**arrays, "mean": np.array([{}], dtype=object)})
    with pytest.raises(ValueError, match="input guard"):
        InputGuard.from_bytes(buffer.getvalue())


def test_few_films_make_no_guard():
    cells = films(input_guard.LEAST - 1)
    assert input_guard.fit(cells, numbers(cells)) is None


def test_its_word_stands_first_in_the_status():
    assert input_guard.status([], "") == "ok"
    said = input_guard.status(["small"], "inverted")
    assert said == "warning: unlike the training films (inverted); small"
