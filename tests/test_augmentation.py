"""Augmentation: ranges, identity, geometry against the stock layers, and state."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.legacy.preprocessing.image import ImageDataGenerator
from scipy import stats

from cxr.input import augmentation, augmenters, keras_cv_layers
from cxr.input.augmentation import POLICIES, Policy

pytestmark = pytest.mark.slow  # each test compiles augmentations

RANDOM = np.random.default_rng(0)
SIZE = 32
FILMS = RANDOM.integers(0, 256, (6, SIZE, SIZE, 1), np.uint8)
EXAMPLES = np.array([3, 1, 4, 15, 9, 2], np.int64)


def smooth_films(count=4, size=64):
    """Films without single-pixel detail, as float32 [count, size, size, 1]."""
    coarse = RANDOM.uniform(0, 255, (count, 8, 8, 1))
    films = tf.image.resize(coarse, (size, size), "bicubic")
    return tf.clip_by_value(films, 0.0, 255.0)


def augment(policy, films=FILMS, step=7, examples=EXAMPLES, seed=0):
    function = augmenters.build(policy, seed=seed)
    return function(films, tf.constant(step, tf.int64), examples).numpy()


def draws_of(count=1, **changes):
    """Draws that change nothing but what is given."""
    draws = augmentation.draw(Policy(), tf.range(count, dtype=tf.int64), seed=0, step=0)
    return draws | {
        name: tf.fill([count], tf.constant(value, tf.float32))
        for name, value in changes.items()
    }


def apply(films, **changes):
    films = tf.cast(films, tf.float32)
    return augmentation.apply(films, draws_of(len(films), **changes)).numpy()


# --- every policy


@pytest.mark.parametrize("policy", POLICIES)
def test_films_stay_films(policy):
    films = augment(policy)
    assert films.shape == FILMS.shape
    assert films.dtype == np.float32
    assert films.min() >= 0
    assert films.max() <= 255
    assert (policy == "none") == np.array_equal(films, FILMS.astype(np.float32))


@pytest.mark.parametrize("policy", POLICIES)
def test_pixels_depend_on_seed_step_and_example_alone(policy):
    films = augment(policy)
    parts = [
        augment(policy, FILMS[part], examples=EXAMPLES[part])
        for part in (slice(0, 1), slice(1, 6))
    ]
    # Compiled for another batch, sums round in another order: 1e-6 of the range.
    np.testing.assert_allclose(films, np.concatenate(parts), atol=2e-3)
    if policy == "none":
        return
    assert not np.array_equal(films, augment(policy, step=8))
    assert not np.array_equal(films, augment(policy, seed=1))
    assert not np.array_equal(films, augment(policy, examples=EXAMPLES + 1))


@pytest.mark.parametrize("policy", POLICIES)
def test_float32_under_mixed_precision(policy):
    before = keras.config.dtype_policy()
    plain = augment(policy)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        mixed = augment(policy)
    finally:
        keras.config.set_dtype_policy(before)
    assert mixed.dtype == np.float32
    np.testing.assert_array_equal(mixed, plain)


@pytest.mark.parametrize("policy", POLICIES)
def test_inside_a_graph_with_a_varying_batch(policy):
    function = tf.function(
        augmenters.build(policy, seed=0),
        input_signature=[
            tf.TensorSpec((None, SIZE, SIZE, 1), tf.uint8),
            tf.TensorSpec((), tf.int64),
            tf.TensorSpec((None,), tf.int64),
        ],
    )
    for count in (6, 2):
        films = function(FILMS[:count], tf.constant(7, tf.int64), EXAMPLES[:count])
        # The graph may fuse a multiply and an add that the eager draw rounds.
        np.testing.assert_allclose(films, augment(policy)[:count], atol=0.5)


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="wild"):
        augmenters.build("wild", seed=0)


def test_detail_is_blurred_away_or_raised():
    rows = np.arange(SIZE)
    stripes = np.where(rows % 2, 150, 100)[None, :, None, None]
    films = np.broadcast_to(stripes, (1, SIZE, SIZE, 1)).astype(np.float32)
    inside = (0, slice(4, -4), 4, 0)

    def found(fine, coarse=1.0):
        return apply(films, fine=fine, coarse=coarse)[inside]

    np.testing.assert_allclose(found(1), films[inside], atol=1e-4)
    np.testing.assert_allclose(found(0), 125, atol=1e-4)
    np.testing.assert_allclose(found(2), 2 * films[inside] - 125, atol=1e-4)
    wide = np.where(rows // 3 % 2, 150, 100)[None, :, None, None]
    films = np.broadcast_to(wide, (1, SIZE, SIZE, 1)).astype(np.float32)
    deviation = [found(0, coarse).std() for coarse in (0, 1, 2)]
    assert deviation[0] < 0.5 * deviation[1] < 0.4 * deviation[2]


@pytest.mark.parametrize("step", [1, 2])
def test_beyond_the_border_the_blur_sees_the_film_mirrored(step):
    signal = np.random.default_rng(0).normal(size=9)
    kernel = np.zeros(4 * step + 1)
    kernel[::step] = np.array([1, 4, 6, 4, 1]) / 16
    mirrored = np.pad(signal, 2 * step, mode="symmetric")
    expected = np.convolve(mirrored, kernel, mode="valid")
    found = augmentation._band(9, step) @ signal
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# --- draw


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_draws_fill_their_ranges_and_no_more(policy):
    examples = tf.range(2000, dtype=tf.int64)
    draws = augmentation.draw(policy, examples, seed=3, step=5)
    if policy.shift_in_source:
        draws |= {f"shift_{a}": draws[f"shift_{a}"] * draws[f"zoom_{a}"] for a in "xy"}
    limits = {
        "angle": (-np.radians(policy.rotation), np.radians(policy.rotation)),
        "shear": (-policy.shear, policy.shear),
        "zoom_x": policy.zoom,
        "zoom_y": policy.zoom,
        "shift_x": (-policy.shift, policy.shift),
        "shift_y": (-policy.shift, policy.shift),
        "gain": policy.contrast,
        "gamma": policy.gamma,
        "noise": (0, policy.noise),
        "hole_side": (0, policy.cutout),
    }
    for name, (low, high) in limits.items():
        if name not in draws:
            assert low == high
            continue
        drawn, span = draws[name].numpy(), high - low
        assert low - 1e-6 <= drawn.min() <= low + 0.01 * span + 1e-6
        assert high - 0.01 * span - 1e-6 <= drawn.max() <= high + 1e-6
    for name, may in (
        ("flip_x", policy.flip_horizontal),
        ("flip_y", policy.flip_vertical),
    ):
        assert np.mean(draws[name]) == pytest.approx(0.5 * may, abs=0.05)
    same_zoom = np.array_equal(draws["zoom_x"], draws["zoom_y"])
    assert same_zoom == (not policy.zoom_per_axis)


def test_mild_keeps_the_film_upright_and_seed_means_what_it_says():
    assert not POLICIES["mild"].flip_vertical
    assert not POLICIES["mild"].flip_horizontal
    seed = POLICIES["seed"]
    assert seed.flip_vertical
    assert seed.flip_horizontal
    assert np.degrees(np.arctan(seed.shear)) == pytest.approx(0.1)
    assert (seed.rotation, seed.shift, seed.zoom) == (30, 0.2, (0.8, 1.2))
    assert seed.zoom_per_axis


# --- apply


def test_zero_strength_is_the_identity_bit_for_bit():
    np.testing.assert_array_equal(apply(FILMS), FILMS.astype(np.float32))
    layer = keras_cv_layers.Fused(Policy(), seed=0)
    films = tf.cast(FILMS, tf.float32)
    compiled = layer.augment_images(films, draws_of(len(FILMS)))
    np.testing.assert_array_equal(compiled, FILMS.astype(np.float32))
    np.testing.assert_array_equal(layer(FILMS), FILMS.astype(np.float32))


@pytest.mark.parametrize(("axis", "name"), [(2, "flip_x"), (1, "flip_y")])
def test_flips_are_exact(axis, name):
    np.testing.assert_array_equal(apply(FILMS, **{name: 1}), np.flip(FILMS, axis))


def test_a_shift_moves_and_repeats_the_border():
    moved = apply(FILMS, shift_x=2 / SIZE, shift_y=-1 / SIZE)
    expected = np.pad(FILMS, ((0, 0), (0, 1), (2, 0), (0, 0)), "edge")
    np.testing.assert_allclose(moved, expected[:, 1:, :SIZE], atol=1e-3)


def test_a_quarter_turn_is_counter_clockwise_like_keras_cv():
    turned = apply(FILMS, angle=np.pi / 2)
    expected = np.rot90(FILMS, 1, axes=(1, 2))
    np.testing.assert_allclose(turned, expected, atol=0.01)


def test_zoom_below_one_magnifies_the_centre():
    film = np.zeros((1, SIZE, SIZE, 1), np.uint8)
    film[:, 12:20, 12:20] = 255
    area = [apply(film, zoom_x=z, zoom_y=z).mean() for z in (0.5, 1.0, 2.0)]
    assert area == pytest.approx([4 * area[1], area[1], area[1] / 4], rel=0.1)


def test_contrast_turns_about_mid_grey_and_brightness_adds():
    policy = Policy(contrast=(0.5, 0.5), brightness=0.1)
    draws = augmentation.draw(policy, tf.range(6, dtype=tf.int64), seed=0, step=0)
    added = draws["bias"] - 0.5 * 127.5
    assert np.abs(added).max() <= 25.5
    changed = augmentation.apply(tf.cast(FILMS, tf.float32), draws)
    expected = 127.5 + 0.5 * (FILMS - 127.5) + np.reshape(added, (-1, 1, 1, 1))
    np.testing.assert_allclose(changed, np.clip(expected, 0, 255), atol=1e-3)


def test_gamma_noise_and_cutout():
    brighter = apply(FILMS, gamma=0.5)
    np.testing.assert_allclose(brighter, 255 * np.sqrt(FILMS / 255.0), atol=0.01)

    grey = np.full((2, 64, 64, 1), 100, np.uint8)
    noisy = apply(grey, noise=8, noise_at=0.3) - 100
    assert noisy.std() == pytest.approx(8, rel=0.1)
    assert abs(noisy.mean()) < 1
    last = apply(grey, noise=8, noise_at=1 - 2**-24) - 100
    assert last.std() == pytest.approx(8, rel=0.1)

    holed = apply(grey, hole_x=0.5, hole_y=0.25, hole_side=0.25)
    inside = holed[:, 8:24, 24:40]
    np.testing.assert_array_equal(inside, np.full_like(inside, 127.5))
    assert (holed != 100).sum() == 2 * 16 * 16


# --- against keras-cv


@pytest.mark.parametrize(
    "changes",
    [
        {"flip_x": 1.0},
        {"flip_y": 1.0},
        {"angle": 0.2},
        {"shear": -0.07},
        {"zoom_x": 0.7, "zoom_y": 1.15},
        {"shift_x": 0.11, "shift_y": -0.06},
    ],
    ids=lambda changes: "+".join(changes),
)
def test_each_change_alone_equals_the_stock_layer(changes):
    films = smooth_films()
    stock = keras_cv_layers.Stock(POLICIES["keras_cv"], seed=0)
    expected = stock.augment_images(films, draws_of(4, **changes))
    np.testing.assert_allclose(apply(films, **changes), expected, atol=0.1)


def test_the_composed_map_is_the_stack_inside_the_frame():
    films = smooth_films()
    changes = {
        **{"flip_x": 1.0, "angle": 0.1, "shear": 0.05, "zoom_x": 1.1},
        **{"zoom_y": 1.05, "shift_x": 0.03, "shift_y": -0.02},
    }
    stock = keras_cv_layers.Stock(POLICIES["keras_cv"], seed=0)
    expected = stock.augment_images(films, draws_of(4, **changes)).numpy()
    inside = np.s_[:, 16:48, 16:48]
    difference = np.abs(apply(films, **changes) - expected)[inside]
    assert difference.mean() < 2  # grey levels: the stack interpolates four times


def test_the_same_distribution_as_the_stock_layers_draw():
    count, policy = 4000, POLICIES["keras_cv"]
    stock = keras_cv_layers.Stock(policy, seed=11)
    drawn = {
        name: stock.__dict__[f"_{name}"].get_random_transformation_batch(count)
        for name in ("flip", "rotation", "shear", "zoom", "shift")
    }
    theirs = draws_of(count) | {
        "flip_x": tf.cast(drawn["flip"]["flip_horizontals"][:, 0] > 0.5, tf.float32),
        "angle": drawn["rotation"]["angles"],
        "shear": drawn["shear"]["shear_x"][:, 0],
        "zoom_x": drawn["zoom"]["width_zooms"][:, 0],
        "zoom_y": drawn["zoom"]["height_zooms"][:, 0],
        "shift_x": drawn["shift"]["width_translations"][:, 0],
        "shift_y": drawn["shift"]["height_translations"][:, 0],
    }
    examples = tf.range(count, dtype=tf.int64)
    ours = augmentation.draw(policy, examples, seed=5, step=1)
    for x, y in ((0, 0), (223, 0), (0, 223), (223, 223)):
        for row in (0, 3):
            moved = [
                np.asarray(m[row] * x + m[row + 1] * y + m[row + 2])
                for m in (
                    augmentation.affine(theirs, 224, 224),
                    augmentation.affine(ours, 224, 224),
                )
            ]
            assert stats.ks_2samp(*moved).pvalue > 1e-3


# --- against ImageDataGenerator


def test_one_drawn_change_equals_the_image_data_generators():
    films, size = smooth_films(), 64
    params = {"theta": 20, "tx": 5, "ty": -8, "shear": 0, "zx": 0.85, "zy": 1.1}
    generator = ImageDataGenerator(fill_mode="nearest", interpolation_order=1)
    theirs = [generator.apply_transform(film, params) for film in films.numpy()]
    # Its shift moves the source, after the zoom.
    ours = apply(
        films,
        **{"angle": np.radians(20), "zoom_x": 0.85, "zoom_y": 1.1},
        **{"shift_x": -5 / size / 0.85, "shift_y": 8 / size / 1.1},
    )
    np.testing.assert_allclose(ours, theirs, atol=0.01)


def test_the_seed_policy_draws_as_the_image_data_generator():
    count, side = 2000, 100
    generator = ImageDataGenerator(
        rotation_range=30,
        zoom_range=0.2,
        width_shift_range=0.2,
        height_shift_range=0.2,
    )
    np.random.seed(0)
    rows = [generator.get_random_transform((side, side, 1)) for _ in range(count)]
    theirs = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    examples = tf.range(count, dtype=tf.int64)
    ours = augmentation.draw(POLICIES["seed"], examples, seed=0, step=0)
    ours = {name: value.numpy() for name, value in ours.items()}
    for drawn, expected in (
        (np.degrees(ours["angle"]), theirs["theta"]),
        (ours["zoom_x"], theirs["zx"]),
        (ours["shift_x"] * ours["zoom_x"], theirs["tx"] / side),
        (ours["shift_y"] * ours["zoom_y"], theirs["ty"] / side),
    ):
        assert stats.ks_2samp(drawn, expected).pvalue > 1e-3


def test_the_stock_stack_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="geometry only"):
        keras_cv_layers.Stock(POLICIES["strong"], seed=0)
