"""Random augmentation of images: drawn per example, applied in one warp.

`POLICIES` names the ranges.
Randomness is a pure function of (seed, step, example), so an image is augmented
alike in any batch, on any replica and after a resume. `draw` makes the numbers,
`apply` the pixels.

All geometry follows keras-cv's conventions: flip, rotation and zoom about the
centre, horizontal shear about the upper left corner, shift in fractions of the
side. keras-cv runs them as five layers and interpolates the image four times;
here they are composed into one affine map and the image is interpolated once.
"""

import dataclasses
import functools
import math

import numpy as np
import tensorflow as tf

from cxr import randomness

Draws = dict[str, tf.Tensor]

_SALT = 0x41554700  # tells these random numbers from dropout's
_NUMBERS = 18  # uniform numbers drawn for each example; the order is in `draw`
_NOISE_FIELD_SIZE = 1 << 20  # 4 MiB of fixed normal noise, entered at random
_MID_GREY = 127.5  # contrast turns about it, cutout fills with it
_WHITE = 255.0


@dataclasses.dataclass(frozen=True)
class Policy:
    """Ranges of the random changes; each default changes nothing.

    Attributes:
      flip_horizontal: mirror half of the images left to right (the heart then
        lies on the right).
      flip_vertical: turn half of the images upside down.
      rotation: largest angle in degrees, either way.
      shear: largest horizontal shear, pixels a row, either way.
      zoom: range of the side of the shown part, 1 is the whole image; below 1
        magnifies, above 1 shrinks the image and smears its border.
      zoom_per_axis: draw width and height apart, which changes the aspect.
      shift: largest shift in fractions of the side, either way, per axis.
      shift_in_source: measure the shift on the source image, whose pixels a zoom
        makes larger or smaller, instead of on the result.
      brightness: largest addition in fractions of white, either way.
      contrast: range of the factor about mid-grey.
      gamma: range of the exponent, 1 is linear; below 1 brightens shadows.
      detail: range of the factors of the two finest octaves of detail, drawn apart;
        0 blurs an octave away, 2 sharpens it.
      noise: largest standard deviation of added noise in grey levels.
      cutout: largest side of a grey square in fractions of the image's side.
    """

    flip_horizontal: bool = False
    flip_vertical: bool = False
    rotation: float = 0.0
    shear: float = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)
    zoom_per_axis: bool = False
    shift: float = 0.0
    shift_in_source: bool = False
    brightness: float = 0.0
    contrast: tuple[float, float] = (1.0, 1.0)
    gamma: tuple[float, float] = (1.0, 1.0)
    detail: tuple[float, float] = (1.0, 1.0)
    noise: float = 0.0
    cutout: float = 0.0

    @property
    def geometry(self) -> "Policy":
        """The same flips, rotation, shear, zoom and shift, and nothing else."""
        kept = ("flip_", "rotation", "shear", "zoom", "shift")
        return Policy(
            **{
                field.name: getattr(self, field.name)
                for field in dataclasses.fields(self)
                if field.name.startswith(kept)
            }
        )


# What a second positioning and exposure of the same child could look like.
MILD = Policy(
    rotation=7.0,
    shear=0.03,
    zoom=(0.9, 1.1),
    shift=0.04,
    brightness=0.08,
    contrast=(0.85, 1.15),
)
# Wide in scale and exposure: images of another hospital and another habit.
STRONG = Policy(
    flip_horizontal=True,
    rotation=15.0,
    shear=0.08,
    zoom=(0.65, 1.2),
    zoom_per_axis=True,
    shift=0.08,
    brightness=0.15,
    contrast=(0.6, 1.4),
    gamma=(0.7, 1.4),
    noise=8.0,
    cutout=0.25,
)
# ImageDataGenerator(rotation_range=30, shear_range=0.1, zoom_range=0.2,
# width_shift_range=0.2, height_shift_range=0.2, both flips, fill "nearest"): its
# shear is in degrees, its zoom draws both axes in 0.8..1.2, its shift comes after
# (keras.src.legacy.preprocessing.image, apply_affine_transform).
SEED = Policy(
    flip_horizontal=True,
    flip_vertical=True,
    rotation=30.0,
    shear=math.tan(math.radians(0.1)),
    zoom=(0.8, 1.2),
    zoom_per_axis=True,
    shift=0.2,
    shift_in_source=True,
)
# What brightness and sharpness give away of the class, taken from them: no film keeps
# its exposure, its resolution or its frame.
ROBUST = Policy(
    rotation=10.0,
    shear=0.05,
    zoom=(0.7, 1.1),
    zoom_per_axis=True,
    shift=0.08,
    brightness=0.2,
    contrast=(0.5, 1.5),
    gamma=(0.6, 1.6),
    detail=(0.0, 2.0),
    noise=6.0,
    cutout=0.3,
)
POLICIES = {
    "none": Policy(),
    "robust": ROBUST,
    "mild": MILD,
    "strong": STRONG,
    "seed": SEED,
    "keras_cv": STRONG.geometry,
}


def draw(
    policy: Policy, examples: tf.Tensor, *, seed: int, step: tf.Tensor | int
) -> Draws:
    """Draws the parameters of each example's changes.

    Args:
      policy: the ranges.
      examples: example index, int64 [B].
      seed: the run's seed.
      step: global step, an integer scalar.

    Returns:
      Float32 [B] each: `flip_x`, `flip_y` (1 or 0), `angle` (radians), `shear`,
      `zoom_x`, `zoom_y`, `shift_x`, `shift_y` (fractions), `gain`, `bias` (of the
      grey level), and where the policy has them `gamma`; `fine` and `coarse` (factors
      of the finest octave and the next); `noise` and `noise_at` (0..1); `hole_x`,
      `hole_y`, `hole_side` (fractions).
    """
    numbers = tf.unstack(
        randomness.uniform(seed, step, examples, shape=(_NUMBERS,), salt=_SALT), axis=1
    )

    def between(number: int, low: float, high: float) -> tf.Tensor:
        # Written so that equal bounds give exactly that bound.
        return low + (high - low) * numbers[number]

    def around_zero(number: int, limit: float) -> tf.Tensor:
        return between(number, -limit, limit)

    zoom_x = between(4, *policy.zoom)
    zoom_y = between(5, *policy.zoom) if policy.zoom_per_axis else zoom_x
    shift_x, shift_y = (around_zero(number, policy.shift) for number in (6, 7))
    if policy.shift_in_source:
        shift_x, shift_y = shift_x / zoom_x, shift_y / zoom_y
    gain = between(8, *policy.contrast)
    draws = {
        "flip_x": tf.cast(numbers[0] < 0.5 * policy.flip_horizontal, tf.float32),
        "flip_y": tf.cast(numbers[1] < 0.5 * policy.flip_vertical, tf.float32),
        "angle": around_zero(2, math.radians(policy.rotation)),
        "shear": around_zero(3, policy.shear),
        "zoom_x": zoom_x,
        "zoom_y": zoom_y,
        "shift_x": shift_x,
        "shift_y": shift_y,
        "gain": gain,
        "bias": (1 - gain) * _MID_GREY + around_zero(9, policy.brightness * _WHITE),
    }
    if policy.gamma != (1.0, 1.0):
        draws["gamma"] = between(10, *policy.gamma)
    if policy.detail != (1.0, 1.0):
        draws["fine"] = between(16, *policy.detail)
        draws["coarse"] = between(17, *policy.detail)
    if policy.noise:
        draws |= {"noise": between(11, 0.0, policy.noise), "noise_at": numbers[12]}
    if policy.cutout:
        draws |= {"hole_x": numbers[13], "hole_y": numbers[14]}
        draws["hole_side"] = between(15, 0.0, policy.cutout)
    return draws


def apply(images: tf.Tensor, draws: Draws) -> tf.Tensor:
    """Applies drawn changes; draws of zero strength return the images bit for bit.

    Args:
      images: float32 [B, H, W, 1] in 0..255.
      draws: from `draw`.

    Returns:
      Float32 [B, H, W, 1] in 0..255. What the warp looks at beyond the border is
      the border's nearest pixel.
    """
    height, width = images.shape[1:3]
    images = _warp(images[..., 0], *_source_points(draws, height, width))
    if "fine" in draws:
        images = _equalise(images, draws["fine"], draws["coarse"])
    images = images * _per_image(draws["gain"]) + _per_image(draws["bias"])
    if "gamma" in draws:
        images = tf.clip_by_value(images, 0.0, _WHITE) / _WHITE
        images = _WHITE * images ** _per_image(draws["gamma"])
    if "noise" in draws:
        images += _per_image(draws["noise"]) * _noise(draws["noise_at"], height, width)
    if "hole_side" in draws:
        images = tf.where(_hole(draws, height, width), _MID_GREY, images)
    return tf.clip_by_value(images, 0.0, _WHITE)[..., tf.newaxis]


def affine(draws: Draws, height: int, width: int) -> tuple[tf.Tensor, ...]:
    """Composes flip, rotation, shear, zoom and shift into one affine map.

    The layers of a stack map target to source points, so the map of the first
    layer is applied last. Composed by hand: a matrix product would run in TF32
    on some GPUs, 0.2 pixels off at the far corner.

    Args:
      draws: from `draw`.
      height: of the image in pixels.
      width: of the image in pixels.

    Returns:
      `(a, b, c, d, e, f)`, float32 [B] each: the pixel at (x, y) of the result is
      taken from `(a x + b y + c, d x + e y + f)` of the image.
    """
    right, bottom = width - 1.0, height - 1.0
    one, zero = tf.ones_like(draws["angle"]), tf.zeros_like(draws["angle"])
    cos, sin = tf.cos(draws["angle"]), tf.sin(draws["angle"])
    mirror_x, mirror_y = 1 - 2 * draws["flip_x"], 1 - 2 * draws["flip_y"]
    flip_offsets = right * draws["flip_x"], bottom * draws["flip_y"]
    rotation_x = (right - cos * right + sin * bottom) / 2
    rotation_y = (bottom - sin * right - cos * bottom) / 2
    zoom_x, zoom_y = draws["zoom_x"], draws["zoom_y"]
    zoom_offsets = right / 2 * (1 - zoom_x), bottom / 2 * (1 - zoom_y)
    shift_x, shift_y = -draws["shift_x"] * width, -draws["shift_y"] * height
    stack = (
        (mirror_x, zero, flip_offsets[0], zero, mirror_y, flip_offsets[1]),
        (cos, -sin, rotation_x, sin, cos, rotation_y),
        (one, draws["shear"], zero, zero, one, zero),
        (zoom_x, zero, zoom_offsets[0], zero, zoom_y, zoom_offsets[1]),
        (one, zero, shift_x, zero, one, shift_y),
    )
    return functools.reduce(_after, stack)


def _after(outer: tuple, inner: tuple) -> tuple:
    """Returns the affine map `outer(inner(point))`."""
    a, b, c, d, e, f = outer
    p, q, r, s, t, u = inner
    first = (a * p + b * s, a * q + b * t, a * r + b * u + c)
    return first + (d * p + e * s, d * q + e * t, d * r + e * u + f)


def _source_points(
    draws: Draws, height: int, width: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns where each pixel comes from: x and y, float32 [B, H, W]."""
    a, b, c, d, e, f = map(_per_image, affine(draws, height, width))
    x = tf.range(width, dtype=tf.float32)
    y = tf.range(height, dtype=tf.float32)[:, tf.newaxis]
    return a * x + b * y + c, d * x + e * y + f


def _warp(images: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Samples images [B, H, W] bilinearly at points, clamped to the border.

    Plain gathers and arithmetic, which XLA fuses into one loop over the pixels;
    TensorFlow's ImageProjectiveTransformV3 has no XLA kernel and took 2 to 2.4
    times as long on 2 cores at 224 x 224.
    """
    height, width = images.shape[1:]
    x = tf.clip_by_value(x, 0.0, width - 1.0)
    y = tf.clip_by_value(y, 0.0, height - 1.0)
    left, top = tf.floor(x), tf.floor(y)
    across, down = x - left, y - top
    left, top = tf.cast(left, tf.int32), tf.cast(top, tf.int32)
    right = tf.minimum(left + 1, width - 1)
    bottom = tf.minimum(top + 1, height - 1)
    pixels = tf.reshape(images, [-1])
    first = tf.range(tf.shape(images)[0])[:, tf.newaxis, tf.newaxis] * (height * width)

    def at(row: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
        return tf.gather(pixels, first + row * width + column)

    above = at(top, left) * (1 - across) + at(top, right) * across
    below = at(bottom, left) * (1 - across) + at(bottom, right) * across
    return above * (1 - down) + below * down


def _equalise(images: tf.Tensor, fine: tf.Tensor, coarse: tf.Tensor) -> tf.Tensor:
    """Multiplies the two finest octaves of images [B, H, W] by their factors.

    The octaves are differences of binomial blurs, as in a Laplacian pyramid without
    its reductions (Burt and Adelson 1983). A blur is a product with a band matrix on
    either side: XLA would compute sums of shifted images anew for every pixel, which
    took 60 ms a batch of 32 at 96 x 96 where this takes 4.
    """
    height, width = images.shape[1:]
    once = _blur(images, _band(height, 1), _band(width, 1))
    twice = _blur(once, _band(height, 2), _band(width, 2))
    added = _per_image(fine - 1) * (images - once)
    return images + added + _per_image(coarse - 1) * (once - twice)


def _blur(images: tf.Tensor, rows: np.ndarray, columns: np.ndarray) -> tf.Tensor:
    down = tf.matmul(tf.constant(rows), images)
    return tf.matmul(down, tf.constant(columns), transpose_b=True)


def _band(size: int, step: int) -> np.ndarray:
    """Returns float32 [size, size]: the binomial 1 4 6 4 1 over pixels `step` apart.

    What lies beyond the border is the image mirrored.
    """
    band = np.zeros((size, size), np.float32)
    for offset, weight in zip(range(-2, 3), (1, 4, 6, 4, 1), strict=True):
        source = np.arange(size) + offset * step
        source = np.where(source < 0, -1 - source, source)
        source = np.where(source >= size, 2 * size - 1 - source, source)
        np.add.at(band, (np.arange(size), source), weight / 16)
    return band


def _noise(start: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Returns normal noise [B, H, W], read from a fixed field from `start` on."""
    span = _NOISE_FIELD_SIZE - height * width
    first = tf.cast(start * span, tf.int32)[:, tf.newaxis]
    noise = tf.gather(_noise_field(), first + tf.range(height * width))
    return tf.reshape(noise, [-1, height, width])


@functools.cache
def _noise_field() -> np.ndarray:
    """Returns the field: a constant of each graph, so on the device it runs on."""
    with tf.init_scope(), tf.device("CPU"):  # also when first asked for while tracing
        field = tf.random.stateless_normal([_NOISE_FIELD_SIZE], seed=(_SALT, 0))
        return field.numpy()


def _hole(draws: Draws, height: int, width: int) -> tf.Tensor:
    """Returns where the cutout lies: bool [B, H, W]."""
    half = _per_image(draws["hole_side"]) / 2
    x = (tf.range(width, dtype=tf.float32) + 0.5) / width
    y = ((tf.range(height, dtype=tf.float32) + 0.5) / height)[:, tf.newaxis]
    across = tf.abs(x - _per_image(draws["hole_x"])) < half
    return tf.logical_and(across, tf.abs(y - _per_image(draws["hole_y"])) < half)


def _per_image(x: tf.Tensor) -> tf.Tensor:
    return x[:, tf.newaxis, tf.newaxis]
