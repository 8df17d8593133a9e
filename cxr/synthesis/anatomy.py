"""Draws the anatomy of a synthetic chest film, as attenuation on body coordinates.

``u`` runs across the body (0 = midline, -1 / +1 = inner chest wall; the patient's
right lung lies at ``u < 0``, as on every film), ``v`` runs down it (0 = lung apex,
1 = diaphragm). Shapes are soft implicit functions of (u, v), and all ribs of one set
are one periodic function, so a film costs a few dozen passes over its grid and no
loop. Arrays are float32 [H, W] of the grid unless said otherwise.
"""

import dataclasses

import numpy as np
from PIL import Image

_GRID_HEIGHT = 168  # rows: finer than any edge drawn on it
_RIB_SPACING = 0.118  # in v: nine posterior ribs above the diaphragm


@dataclasses.dataclass(frozen=True)
class Body:
    """What stays the same on every film of a patient (in u, v units)."""

    chest: float
    heart: tuple[float, float, float, float, float]  # u, v, half axes, tilt
    mediastinum: float
    thymus: float
    domes: tuple[float, float]  # top of the right and left diaphragm in v
    ribs: tuple[float, float, float]  # phase, slope, strength
    clavicle: tuple[float, float]  # height of the inner end, rise
    scoliosis: float
    fat: float
    arms_up: bool
    vessels: np.ndarray  # [2, 1024] brightness by angle: trunks and branches
    bubble: float


@dataclasses.dataclass(frozen=True)
class Grid:
    """Body coordinates of every pixel, float32 [H, W] each."""

    u: np.ndarray
    v: np.ndarray
    a: np.ndarray  # |u|
    wall: np.ndarray  # half width of the thorax at this v
    depth: np.ndarray  # a / wall: 0 on the midline, 1 on the chest wall


def draw_body(rng: np.random.Generator) -> Body:
    """Draws a patient."""
    angles = np.arange(1024, dtype=np.float32) * (2 * np.pi / 1024)
    uniform = rng.uniform
    return Body(
        chest=uniform(0.325, 0.385),
        heart=(
            uniform(0.10, 0.18),
            uniform(0.66, 0.74),
            uniform(0.42, 0.52),
            uniform(0.27, 0.33),
            uniform(0.45, 0.8),
        ),
        mediastinum=uniform(0.15, 0.2),
        thymus=uniform(0, 0.1),
        domes=(uniform(0.80, 0.90), uniform(0.85, 0.95)),
        ribs=(uniform(0, 1), uniform(0.8, 1.25), uniform(0.8, 1.2)),
        clavicle=(uniform(0.04, 0.12), uniform(0.08, 0.22)),
        scoliosis=rng.normal(0, 0.025),
        fat=uniform(0, 1),
        arms_up=rng.random() < 0.7,
        vessels=np.stack(
            [_spokes(rng, angles, 9, 0.10), _spokes(rng, angles, 34, 0.03)]
        ),
        bubble=uniform(-0.5, 1),
    )


def _spokes(
    rng: np.random.Generator, angles: np.ndarray, count: int, width: float
) -> np.ndarray:
    """Brightness of `count` vessels leaving the hilum, by angle; float32 [1024]."""
    centres = rng.uniform(0, 2 * np.pi, (count, 1)).astype(np.float32)
    weights = rng.uniform(0.4, 1.0, (count, 1)).astype(np.float32)
    away = np.abs(np.abs(angles - centres) - np.pi) - np.pi  # around the circle
    return (weights * np.exp(-((away / width) ** 2))).max(axis=0)


def place(rng: np.random.Generator, body: Body, *, aspect: float) -> Grid:
    """Body coordinates of the grid, for a patient laid a little differently."""
    width, height = max(8, round(_GRID_HEIGHT * aspect)), _GRID_HEIGHT
    x = ((np.arange(width, dtype=np.float32) + 0.5) / width - 0.5)[None, :]
    y = ((np.arange(height, dtype=np.float32) + 0.5) / height - 0.5)[:, None]
    tilt = np.float32(rng.normal(0, 0.045))
    zoom = np.float32(np.clip(rng.normal(1, 0.05), 0.87, 1.15))
    across = (x * np.cos(tilt) + y * np.sin(tilt) / aspect) - rng.normal(0, 0.025)
    down = (y * np.cos(tilt) - x * aspect * np.sin(tilt)) - rng.normal(-0.3, 0.03)
    v = (down / np.float32(rng.normal(0.56, 0.03) * zoom)).astype(np.float32)
    u = (across / np.float32(body.chest * zoom)).astype(np.float32)
    u -= np.float32(body.scoliosis) * np.sin(3 * v)
    # A patient turned about the long axis shows one lung wider than the other.
    turn = np.float32(np.clip(rng.normal(0, 0.05), -0.12, 0.12))
    u *= 1 - turn * np.sign(u)
    a = np.abs(u)
    rise = np.clip((0.85 - v) / 0.88, 0, 1)
    wall = np.sqrt(np.maximum(1 - rise * rise * rise, 0.01))
    return Grid(u=u, v=v, a=a, wall=wall, depth=a / wall)


def smooth(t: np.ndarray) -> np.ndarray:
    """Smoothstep: 0 below 0, 1 above 1, no corner between."""
    t = np.clip(t, 0, 1)
    cubic = t * np.float32(-2)
    cubic += np.float32(3)
    cubic *= t
    cubic *= t
    return cubic


def _inside(distance: np.ndarray, softness: float) -> np.ndarray:
    """0 outside .. 1 inside, over `softness` about the border distance == 0."""
    return smooth(distance * np.float32(1 / softness) + np.float32(0.5))


def _ellipse(grid: Grid, u: float, v: float, ru: float, rv: float) -> np.ndarray:
    """1 in the centre, 0 on the border, negative outside."""
    du, dv = (grid.u - np.float32(u)) / np.float32(ru), (grid.v - v) / np.float32(rv)
    return 1 - np.sqrt(du * du + dv * dv)


def enlarge(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Bicubic resize of a float32 image to [height, width]."""
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def cloud(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> np.ndarray:
    """Smooth noise, about unit variance, `cells` bumps down the film; float32."""
    height, width = shape
    coarse = rng.standard_normal((cells, max(2, cells * width // height)))
    return enlarge(coarse.astype(np.float32), width, height)


def air(grid: Grid, body: Body) -> np.ndarray:
    """Aerated lung, 0..1: the thorax less mediastinum, heart and diaphragm."""
    u, v, a = grid.u, grid.v, grid.a
    right = u < 0
    dome = np.where(right, *(np.float32(top) for top in body.domes))
    off = a - np.float32(0.48)
    lungs = _inside(dome + 0.55 * off * off - v, 0.035)
    lungs *= _inside(grid.wall - a, 0.05)
    top = np.exp(-(((v - 0.22) / 0.14) ** 2)) * np.where(
        right, np.float32(0.5), np.float32(1)
    )
    border = np.float32(body.mediastinum) + np.float32(body.thymus) * top
    border += np.float32(0.3) * smooth(0.85 - v * 6)  # rounds the apices off
    lungs *= _inside(a - border, 0.07)
    hu, hv, ru, rv, tilt = body.heart
    du, dv = u - np.float32(hu), v - np.float32(hv)
    c, s = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
    along = (du * c + dv * s) / np.float32(ru)
    beside = (dv * c - du * s) / np.float32(rv)
    lungs *= 1 - _inside(1 - np.sqrt(along * along + beside * beside), 0.2)
    return lungs


def soft_tissue(grid: Grid, body: Body, rng: np.random.Generator) -> np.ndarray:
    """Torso, neck, head and arms: how much flesh the beam crosses, about 0..1.2."""
    v, a = grid.v, grid.a
    half = 1.13 + 0.1 * body.fat + 0.04 * smooth(v)
    shoulder = smooth((v + 0.34) / 0.36)
    half = np.float32(0.36) + (half - np.float32(0.36)) * shoulder
    flesh = np.clip(1 - (a / half) ** 2, 0, 1) ** np.float32(0.62)
    flesh *= np.float32(0.82) + np.float32(0.26) * smooth(v * np.float32(0.9))
    head = _ellipse(grid, rng.normal(0, 0.1), rng.normal(-0.6, 0.05), 0.5, 0.27)
    flesh += np.float32(0.45) * smooth(head * 4)
    lift = np.float32(-0.55 if body.arms_up else 0.75)
    along = np.clip((v + np.float32(0.02)) / lift, 0, 2)
    axis = np.float32(1.12) + np.float32(0.3 if body.arms_up else 0.2) * along
    off = (a - axis) / np.float32(0.21)
    arm = np.clip(1 - off * off, 0, 1) * smooth(along * 6 + np.float32(0.5))
    humerus = np.clip(1 - (off / np.float32(0.3)) ** 2, 0, 1) * smooth(along * 9)
    flesh = np.maximum(flesh, np.float32(0.38) * np.sqrt(arm))
    flesh += np.float32(0.14) * humerus * (np.float32(1.5) - along * 0.4).clip(0, 1)
    bubble = _ellipse(grid, 0.45, body.domes[1] + 0.2, 0.24, 0.1)
    return flesh - np.float32(0.28 * max(body.bubble, 0)) * smooth(bubble * 3)


def bones(grid: Grid, body: Body, air: np.ndarray) -> np.ndarray:
    """Ribs, spine, clavicles and scapulae."""
    v, a = grid.v, grid.a
    phase, slope, strength = body.ribs
    posterior, anterior = _ribs(grid, phase, slope)
    cage = _inside(1.03 - grid.depth, 0.05) * smooth((v + 0.06) * 8)
    cage *= smooth((1.35 - v) * 4)
    bones = np.float32(0.115) * posterior * (0.45 + 0.55 * air)
    bones += np.float32(0.075) * anterior * air
    rim = (grid.depth - np.float32(0.985)) * np.float32(28)
    bones += np.float32(0.14) * np.exp(-rim * rim) * (0.35 + 0.65 * posterior)
    bones *= cage * np.float32(strength)
    level = np.cos(v * np.float32(2 * np.pi / 0.092) + np.float32(6.28 * phase))
    spine = _inside(np.float32(0.1) - a, 0.035) * (0.8 + 0.2 * level)
    pedicle = np.exp(-(((a - 0.068) / 0.02) ** 2)) * np.clip(level, 0, 1)
    bones += np.float32(0.13) * spine + np.float32(0.05) * pedicle
    trachea = _inside(np.float32(0.05) - np.abs(grid.u - 0.015), 0.04)
    bones -= np.float32(0.13) * trachea * smooth((0.3 - v) * 6)
    return bones + _shoulder_girdle(grid, body)


def _ribs(grid: Grid, phase: float, slope: float) -> tuple[np.ndarray, np.ndarray]:
    """Posterior ribs (arching out and down) and anterior ones (down and inwards)."""
    depth = np.minimum(grid.depth, np.float32(1.1))
    back = grid.v - np.float32(slope) * (0.32 * depth**3 - 0.13 * depth)
    front = grid.v - np.float32(slope) * (0.22 + 0.34 * (1 - depth))
    bands = []
    for height in (back, front):
        turn = height * np.float32(1 / _RIB_SPACING) + np.float32(phase)
        off = np.abs(turn - np.floor(turn) - np.float32(0.5)) * np.float32(2)
        # A tube of bone: cortex brighter than marrow, so the edges stand out.
        bands.append(_inside(0.42 - off, 0.16) * (0.72 + 0.9 * off))
    bands[1] *= smooth((grid.depth - 0.42) * 5)
    return bands[0], bands[1]


def _shoulder_girdle(grid: Grid, body: Body) -> np.ndarray:
    v, a = grid.v, grid.a
    height, rise = body.clavicle
    bow = np.float32(height) - np.float32(rise) * smooth((a - 0.1) * 1.1)
    off = (v - bow - 0.02 * np.sin(a * 7)) * np.float32(1 / 0.024)
    clavicle = np.clip(1 - off * off, 0, 1) * (_inside(a - 0.12, 0.05))
    clavicle *= _inside(np.float32(1.0) - a, 0.08)
    scapula = _inside(0.15 - np.abs(a - 1.0 + 0.25 * v), 0.05)
    scapula *= smooth((v + 0.06) * 12) * smooth((0.42 - v) * 4)
    return np.float32(0.2) * np.sqrt(clavicle) + np.float32(0.05) * scapula


def vessels(grid: Grid, body: Body, rng: np.random.Generator) -> np.ndarray:
    """Hila and the vessels that fan out from them."""
    side = np.where(grid.u < 0, np.float32(-0.17), np.float32(0.2))
    du, dv = grid.a - np.abs(side), grid.v - np.float32(0.45)
    radius = np.sqrt(du * du + dv * dv)
    bend = cloud(rng, grid.u.shape, 5) * np.float32(0.25)
    angle = np.arctan2(dv, np.copysign(du, grid.u) + 1e-6) + bend
    index = (angle * np.float32(1024 / (2 * np.pi))).astype(np.intp) & 1023
    reach = smooth(radius * 2.2)
    trunks, branches = (table.take(index) for table in body.vessels)
    lines = trunks * (1 - reach) + branches * reach
    fade = np.clip(1 - radius * np.float32(1.3), 0, 1)
    hilum = np.exp(-((radius * np.float32(1 / 0.11)) ** 2))
    return np.float32(0.2) * lines * fade + np.float32(0.12) * hilum
