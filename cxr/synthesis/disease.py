"""Draws pneumonia on a synthetic chest film: how much air it replaces, and where.

Focal is one consolidated lobe, diffuse an interstitial pattern about both hila.
"""

import dataclasses

import numpy as np

from cxr.synthesis import anatomy

PATTERNS = ("none", "focal", "diffuse")
# Centres of the lobes in (u, v); the left lower one lies lateral to the heart.
_LOBES = ((-0.5, 0.27), (-0.5, 0.55), (-0.58, 0.78), (0.48, 0.27), (0.66, 0.72))


@dataclasses.dataclass(frozen=True)
class Lesion:
    """One patient's opacity; unused fields of a pattern stay drawn all the same."""

    pattern: str
    centre: tuple[float, float]
    radii: tuple[float, float]
    harmonics: np.ndarray  # [3, 2] amplitude, phase of the edge's wobble
    strength: float
    sides: tuple[float, float]  # right and left share of a diffuse pattern


def draw_lesion(rng: np.random.Generator, pattern: str, difficulty: float) -> Lesion:
    """Draws a patient's opacity, at random in one of five lobes."""
    u, v = _LOBES[rng.integers(len(_LOBES))]
    side = np.sign(u)
    # Strength is the share of the air replaced; the spread keeps some films plain
    # and some hardly readable at every difficulty.
    mean = 0.85 - 0.68 * difficulty
    return Lesion(
        pattern=pattern,
        centre=(u + rng.normal(0, 0.05), v + rng.normal(0, 0.05)),
        radii=(rng.uniform(0.2, 0.36), rng.uniform(0.11, 0.2)),
        harmonics=np.stack([rng.uniform(0, 0.16, 3), rng.uniform(0, 6.28, 3)], axis=1),
        strength=float(np.clip(mean * rng.lognormal(0, 0.35), 0.03, 0.95)),
        sides=(1.0, rng.uniform(0.5, 1)) if side < 0 else (rng.uniform(0.5, 1), 1.0),
    )


def opacity(grid: anatomy.Grid, lesion: Lesion, rng: np.random.Generator) -> np.ndarray:
    """Share of the air replaced by disease, 0..1, before the lung's own outline."""
    if lesion.pattern == "none":
        return np.zeros_like(grid.u)
    if lesion.pattern == "focal":
        return _consolidation(grid, lesion, rng)
    return _interstitial(grid, lesion, rng)


def _consolidation(
    grid: anatomy.Grid, lesion: Lesion, rng: np.random.Generator
) -> np.ndarray:
    du = (grid.u - np.float32(lesion.centre[0])) / np.float32(lesion.radii[0])
    dv = (grid.v - np.float32(lesion.centre[1])) / np.float32(lesion.radii[1])
    radius, angle = np.sqrt(du * du + dv * dv), np.arctan2(dv, du)
    edge = np.float32(1)
    for order, (amplitude, phase) in enumerate(lesion.harmonics, start=2):
        edge = edge + np.float32(amplitude) * np.sin(order * angle + np.float32(phase))
    patchy = 1 + np.float32(0.15) * anatomy.cloud(rng, grid.u.shape, 12)
    dense = anatomy.smooth((edge - radius) * np.float32(1.6) + np.float32(0.35))
    return np.float32(lesion.strength) * dense * np.clip(patchy, 0.4, 1.4)


def _interstitial(
    grid: anatomy.Grid, lesion: Lesion, rng: np.random.Generator
) -> np.ndarray:
    du, dv = (grid.a - 0.4) / np.float32(0.42), (grid.v - 0.5) / np.float32(0.38)
    spread = np.exp(-(du * du + dv * dv))
    spread *= np.where(grid.u < 0, *(np.float32(share) for share in lesion.sides))
    # Ridges of smooth noise look like the net of thickened septa.
    net = np.exp(-((anatomy.cloud(rng, grid.u.shape, 36) * 2) ** 2))
    cuffs = np.clip(anatomy.cloud(rng, grid.u.shape, 22), 0, 1.5)
    texture = 0.5 + 0.3 * net + 0.4 * cuffs
    return np.float32(lesion.strength * 0.8) * spread * texture


def haze(
    rng: np.random.Generator, shape: tuple[int, int], difficulty: float
) -> np.ndarray:
    """What a normal lung shows besides air; with difficulty it grows like disease."""
    coarse = np.clip(anatomy.cloud(rng, shape, 6), 0, None)
    return np.float32(0.05 + 0.18 * difficulty) * coarse


def box(opacity: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """Smallest box, in film pixels, about what shows a third of the opacity's peak."""
    shown = opacity > opacity.max() / 3
    edges = []
    for length, lines in ((width, shown.any(axis=0)), (height, shown.any(axis=1))):
        found = np.flatnonzero(lines)
        scale = length / lines.size
        edges.append((int(found[0] * scale), int(np.ceil((found[-1] + 1) * scale))))
    (x0, x1), (y0, y1) = edges
    return x0, y0, x1, y1
