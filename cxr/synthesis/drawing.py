"""Draws one synthetic chest film: anatomy, disease, exposure, markers.

A film is a sum of attenuations. Everything smooth is drawn on a grid of fixed height
and enlarged; grain and print come after.

The class decides the opacity and nothing else: pose, exposure, size, markers and
wires are drawn alike for all classes, so that no shortcut leads to the label.
"""

import dataclasses
import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cxr.synthesis import anatomy, disease


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A drawn image.

    Attributes:
      pixels: uint8 [H, W], 0 = black (air) .. 255 = white (bone).
      box: (x0, y0, x1, y1) of the opacity in pixels, ends exclusive; None on a
        normal image.
    """

    pixels: np.ndarray
    box: tuple[int, int, int, int] | None


def draw(
    patient: np.random.Generator,
    film: np.random.Generator,
    *,
    pattern: str,
    difficulty: float,
    width: int,
    height: int,
) -> Drawing:
    """Draws one film.

    Args:
      patient: randomness shared by the patient's films: anatomy and disease.
      film: randomness of this film: pose, exposure, course, noise, markers.
      pattern: `none`, `focal` (one lobe consolidated) or `diffuse`
        (interstitial, perihilar, mostly both lungs).
      difficulty: 0 = plain opacities on clean films, 1 = opacities no denser than
        the haze of a normal film.
      width: of the film, pixels.
      height: of the film, pixels.

    Returns:
      The film, with the opacity's box where there is one.

    Raises:
      ValueError: for an unknown pattern.
    """
    if pattern not in disease.PATTERNS:
        raise ValueError(f"pattern={pattern!r}: one of {', '.join(disease.PATTERNS)}")
    body = anatomy.draw_body(patient)
    lesion = disease.draw_lesion(patient, pattern, difficulty)
    grid = anatomy.place(film, body, aspect=width / height)
    air = anatomy.air(grid, body)
    # A stream of its own: the rest of the film is the same with and without disease.
    texture = np.random.default_rng(film.integers(1 << 62))
    opacity = disease.opacity(grid, lesion, texture) * anatomy.smooth(air * 2)
    filled = opacity * np.float32(film.uniform(0.85, 1.15))
    haze = disease.haze(film, grid.u.shape, difficulty)
    aerated = air * np.clip(1 - filled - haze, 0.05, 1)
    attenuation = anatomy.soft_tissue(grid, body, film) * (1 - 0.74 * aerated)
    attenuation += anatomy.bones(grid, body, air)
    attenuation += anatomy.vessels(grid, body, film) * aerated
    enlarged = anatomy.enlarge(attenuation, width, height)
    pixels = _mark(film, _expose(film, enlarged, difficulty))
    box = disease.box(opacity, width, height) if pattern != "none" else None
    return Drawing(pixels, box)


def _expose(
    rng: np.random.Generator, attenuation: np.ndarray, difficulty: float
) -> np.ndarray:
    """Film response: scatter, quantum noise, exposure and contrast; uint8 [H, W]."""
    shape = attenuation.shape
    gain, veil = np.float32(rng.normal(1.25, 0.12)), np.float32(rng.uniform(0, 0.07))
    signal = attenuation * gain + veil
    signal += np.float32(0.02) * anatomy.cloud(rng, shape, 3)
    grain = np.float32((0.012 + 0.016 * difficulty) * rng.uniform(0.7, 1.4))
    signal += grain * rng.standard_normal(shape, dtype=np.float32)
    signal = np.maximum(signal, 0)
    white = np.float32(rng.uniform(225, 262))
    toned = white * signal / np.sqrt(1 + signal * signal)
    return np.clip(toned, 0, 255).astype(np.uint8)


def _mark(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """Side marker, and now and then a wire, an electrode, a shutter or print."""
    height, width = pixels.shape
    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image)
    ink = int(rng.integers(200, 256))
    left = rng.random() < 0.85  # the R marker stands at the patient's right
    at = (rng.uniform(0.02, 0.08) if left else rng.uniform(0.9, 0.95)) * width
    size = max(8, int(height * rng.uniform(0.05, 0.085)))
    where = (at, height * rng.uniform(0.02, 0.35))
    pen.text(where, "R" if left else "L", fill=ink, font=_font(size))
    if rng.random() < 0.12:
        line = f"AP SUPINE {rng.integers(1, 29):02d}-{rng.integers(1000, 9999)}"
        small = _font(max(7, height // 32))
        pen.text((width * 0.72, height * 0.93), line, fill=ink, font=small)
    if rng.random() < 0.2:
        _wire(rng, pen, width, height)
    if rng.random() < 0.15:
        shutter, shade = int(width * rng.uniform(0.01, 0.05)), int(rng.integers(0, 14))
        start = 0 if rng.random() < 0.5 else width - shutter
        pen.rectangle((start, 0, start + shutter, height), fill=shade)
    return np.asarray(image)


@functools.lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # unpacks its font at each call


def _wire(
    rng: np.random.Generator, pen: ImageDraw.ImageDraw, width: int, height: int
) -> None:
    t = np.linspace(0, 1, 40)
    bends = rng.uniform(-0.12, 0.12, 3)
    x = rng.uniform(0.1, 0.9) + (rng.uniform(-0.3, 0.3)) * t
    x = x + sum(bend * np.sin((k + 1) * 3.1 * t) for k, bend in enumerate(bends))
    y = rng.uniform(0.2, 0.6) + t * rng.uniform(0.3, 0.7)
    points = list(zip((x * width).tolist(), (y * height).tolist(), strict=True))
    pen.line(points, fill=int(rng.integers(205, 245)), width=max(1, width // 220))
    dot, radius = points[0], max(2, width // 90)
    pen.ellipse(
        (dot[0] - radius, dot[1] - radius, dot[0] + radius, dot[1] + radius), fill=235
    )
