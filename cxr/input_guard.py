"""Tells films that are unlike those of training: turned, inverted, or no chest at all.

Of the training films alone: the layout, 16 x 16 cells of each film with its brightness
and contrast taken off, in a principal-component model (Mahalanobis distance within the
components, squared residual outside: Moghaddam and Pentland 1997), and the nine numbers
of brightness and sharpness (Mahalanobis distance). A film is unlike them beyond what 3
in 1,000 of them reach, held out in turn; it is turned or inverted where it would be
nearer the other way. No network is asked: what it never saw, it has no say on.
"""

import dataclasses
import io
from collections.abc import Sequence

import numpy as np

from cxr.images import statistics

LEAST = 100  # training films; fewer tell nothing of what is usual
_COMPONENTS = 16
_BEYOND = 0.003  # share of the training films beyond each of three limits
_PARTS = 5  # of the training films, each held out in turn
_CELLS = statistics.CELLS**2
_TURNS = {
    1: "turned by 90 degrees, anticlockwise",
    2: "turned by 180 degrees",
    3: "turned by 90 degrees, clockwise",
}
_INVERTED = "inverted: black and white exchanged"
_LAYOUT = "nothing there looks like a chest film of this set"
_NUMBERS = "its brightness or sharpness"


@dataclasses.dataclass(frozen=True)
class InputGuard:
    """What training films look like.

    Attributes:
      mean: float32 [256], of the cells.
      components: float32 [K, 256], their principal components.
      variances: float32 [K + 1], along these, and of each dimension outside.
      centre: float32 [9], of the numbers.
      precision: float32 [9, 9], their inverse covariance.
      limits: float32 [3], of the layout's distance, of the numbers', and of how much
        nearer another way up may be.
    """

    mean: np.ndarray
    components: np.ndarray
    variances: np.ndarray
    centre: np.ndarray
    precision: np.ndarray
    limits: np.ndarray

    def judge(self, cells: np.ndarray, numbers: np.ndarray) -> list[str]:
        """Returns what is unlike the training films of each film; empty for nothing.

        Args:
          cells: uint8 [N, 16, 16], of `images.statistics`.
          numbers: float32 [N, 9], likewise.
        """
        layout, of_numbers, nearer, names = self._distances(cells, numbers)
        turned = nearer > self.limits[2]
        # A photograph is nearer some other way up, too, but far all ways.
        chest = layout - nearer <= self.limits[0]
        found = np.select(
            [turned & chest, turned | (layout > self.limits[0])],
            [names, np.full(len(names), _LAYOUT)],
            np.where(of_numbers > self.limits[1], _NUMBERS, ""),
        )
        return found.tolist()

    def judge_films(self, films: np.ndarray) -> list[str]:
        """As `judge`, of films uint8 [N, S, S]."""
        return self.judge(
            np.stack([statistics.cells(film) for film in films]),
            np.stack([statistics.measure(film) for film in films]),
        )

    def _distances(
        self, cells: np.ndarray, numbers: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
        """Returns both distances, the gain of the best other way, and its name."""
        layout = self._layout_distance(cells)
        others = {
            name: self._layout_distance(np.rot90(cells, -turn, axes=(1, 2)))
            for turn, name in _TURNS.items()
        }
        others[_INVERTED] = self._layout_distance(255 - cells)
        gains = layout - np.stack(list(others.values()))
        names = [list(others)[index] for index in gains.argmax(axis=0)]
        from_centre = numbers.astype(np.float64) - self.centre
        of_numbers = np.einsum("ni,ij,nj->n", from_centre, self.precision, from_centre)
        return layout, of_numbers, gains.max(axis=0), names

    def _layout_distance(self, cells: np.ndarray) -> np.ndarray:
        """Squared distance from the usual layout, float64 [N]."""
        away = _normalised(cells) - self.mean
        within = away @ self.components.T
        outside = np.maximum((away**2).sum(axis=1) - (within**2).sum(axis=1), 0)
        return (within**2 / self.variances[:-1]).sum(axis=1) + (
            outside / self.variances[-1]
        )

    def to_bytes(self) -> bytes:
        """Returns what `from_bytes` gives the guard back from."""
        buffer = io.BytesIO()
        np.savez(buffer, **dataclasses.asdict(self))
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "InputGuard":
        """Parses a guard; ValueError where it is none."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in arrays.files}
        except Exception as error:  # zipfile and numpy raise nearly anything
            raise ValueError(f"its input guard cannot be read: {error}") from error
        numbers = len(statistics.NAMES)
        count = len(found.get("components", ()))
        shapes = {
            "mean": (_CELLS,),
            "components": (count, _CELLS),
            "variances": (count + 1,),
            "centre": (numbers,),
            "precision": (numbers, numbers),
            "limits": (3,),
        }
        for name, shape in shapes.items():
            array = found.get(name)
            if array is None or array.shape != shape or array.dtype != np.float32:
                raise ValueError(f"its input guard's {name} is not float32 {shape}")
            if not np.isfinite(array).all():
                raise ValueError(f"its input guard's {name} is not finite")
        return cls(**{name: found[name] for name in shapes})


def fit(cells: np.ndarray, numbers: np.ndarray) -> InputGuard | None:
    """Learns what training films look like; None of fewer than `LEAST`.

    Args:
      cells: uint8 [N, 16, 16], of `images.statistics`.
      numbers: float32 [N, 9], likewise.
    """
    if len(cells) < LEAST:
        return None
    # Films that a model has learnt from lie nearer to it than others: the limits are
    # those of films held out.
    part = np.arange(len(cells)) % _PARTS
    found = []
    for held in range(_PARTS):
        rest = _learn(cells[part != held], numbers[part != held])
        found.append(rest._distances(cells[part == held], numbers[part == held])[:3])
    limits = np.quantile(np.concatenate(found, axis=1), 1 - _BEYOND, axis=1)
    limits[2] = max(limits[2], 0)  # nearer the other way, at least
    guard = _learn(cells, numbers)
    return dataclasses.replace(guard, limits=limits.astype(np.float32))


def _learn(cells: np.ndarray, numbers: np.ndarray) -> InputGuard:
    """Returns the guard of these films, its limits yet to be found."""
    # Here and not above: scikit-learn takes a second to import.
    from sklearn.covariance import LedoitWolf
    from sklearn.decomposition import PCA

    layout = PCA(_COMPONENTS, svd_solver="full").fit(_normalised(cells))
    spread = LedoitWolf().fit(numbers.astype(np.float64))
    # Blank films have no layout: nothing is divided by nothing.
    variances = np.maximum([*layout.explained_variance_, layout.noise_variance_], 1e-6)
    of_layout = (layout.mean_, layout.components_, variances)
    of_numbers = (spread.location_, spread.precision_)
    arrays = (*of_layout, *of_numbers, np.zeros(3))
    return InputGuard(*(np.asarray(array, np.float32) for array in arrays))


def status(warnings: Sequence[str], unlike: str) -> str:
    """Returns a film's status: `ok`, or its warnings, the guard's first."""
    said = [f"unlike the training films ({unlike})"] if unlike else []
    said += warnings
    return f"warning: {'; '.join(said)}" if said else "ok"


def _normalised(cells: np.ndarray) -> np.ndarray:
    """Cells of mean 0 and deviation 1 in each film, float64 [N, 256]."""
    films = cells.reshape(len(cells), _CELLS).astype(np.float64)
    films -= films.mean(axis=1, keepdims=True)
    return films / np.maximum(films.std(axis=1, keepdims=True), 1.0)
