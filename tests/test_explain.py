"""Grad-CAM: the right gradient, in the right place, with the right sign."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from cxr.evaluation import attention
from cxr.metrics.evaluation import Evaluation
from cxr.prediction import gradcam
from cxr.synthesis import drawing
from cxr.training import models
from tests import fabricated
from tests.figure_reading import numbered, watch

pytestmark = pytest.mark.slow  # each test explains a network


def films(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 1), np.uint8)


def small_trunk(image):
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="a")(image)
    x = keras.layers.MaxPooling2D(name="a_pool")(x)
    x = keras.layers.Conv2D(6, 3, padding="same", activation="relu", name="b")(x)
    return keras.layers.MaxPooling2D(name="b_pool")(x)


def finish(image, features, units: int, activation: str) -> keras.Model:
    x = keras.layers.GlobalAveragePooling2D()(features)
    logits = keras.layers.Dense(units, name="logits")(x)
    return keras.Model(image, keras.layers.Activation(activation)(logits))


def flat_and_nested(units: int = 2, activation: str = "softmax"):
    """The same network twice: plain, and with its trunk as a model inside."""
    image = keras.Input((24, 24, 1))
    scaled = keras.layers.Rescaling(1 / 255)(image)
    flat = finish(image, small_trunk(scaled), units, activation)
    inner_input = keras.Input((24, 24, 1))
    inner = keras.Model(inner_input, small_trunk(inner_input), name="trunk")
    image = keras.Input((24, 24, 1))
    scaled = keras.layers.Rescaling(1 / 255)(image)
    nested = finish(image, inner(scaled), units, activation)
    nested.set_weights(flat.get_weights())
    return flat, nested


def by_definition(model: keras.Model, images: np.ndarray, column: int) -> np.ndarray:
    """Grad-CAM of the flat network's layer `b`, written out in one tape."""
    to_map = keras.Model(model.inputs, model.get_layer("b").output)
    rest = keras.Model(model.get_layer("b").output, model.get_layer("logits").output)
    with tf.GradientTape() as tape:
        maps = to_map(tf.cast(images, tf.float32))
        tape.watch(maps)
        odds = tf.exp(rest(maps))
        score = tf.math.log(
            odds[:, column] / (tf.reduce_sum(odds, 1) - odds[:, column])
        )
    weights = tape.gradient(score, maps).numpy().mean(axis=(1, 2))
    return np.einsum("bhwc,bc->bhw", maps.numpy(), weights)


@pytest.mark.parametrize(("units", "column"), [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)])
def test_plain_and_nested_models_agree_with_the_definition(units, column):
    flat, nested = flat_and_nested(units)
    images = films(3, 24)
    expected = by_definition(flat, images, column)
    assert np.abs(expected).max() > 0
    for model in (flat, nested):
        cam = gradcam.GradCam(model)
        assert cam.layer_name == "b"
        np.testing.assert_allclose(
            cam.cells(images, column), expected, rtol=1e-4, atol=1e-7
        )


def test_two_classes_mirror_each_other_for_both_heads():
    softmax, _ = flat_and_nested()
    sigmoid, _ = flat_and_nested(1, "sigmoid")
    *trunk, kernel, bias = softmax.get_weights()
    sigmoid.set_weights([*trunk, kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1]])
    images = films(2, 24)
    expected = gradcam.GradCam(softmax).heat(images, 1)
    for model in (softmax, sigmoid):
        cam = gradcam.GradCam(model)
        np.testing.assert_allclose(cam.heat(images, 1), expected, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(cam.heat(images, 0), -expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "size", "head", "layer"),
    [
        ("vgg16", 64, "softmax", "block5_conv3"),
        ("cnn", 160, "sigmoid", "conv5"),
        ("small_cnn", 64, "softmax", "block3_conv2_relu"),
    ],
)
def test_every_network_of_the_project(name, size, head, layer):
    model = models.build(models.ModelSpec(name, size, 2, head))
    cam = gradcam.GradCam(model)
    assert cam.layer_name == layer
    images = films(3, size)
    heat = cam.heat(images, 1, batch_size=2)
    assert heat.shape == (3, size, size)
    assert heat.dtype == np.float32
    assert np.isfinite(heat).all()
    assert heat.std() > 0
    np.testing.assert_allclose(
        heat[2], cam.heat(images[2:], 1)[0], rtol=1e-3, atol=1e-7
    )


def test_a_saved_model_is_explained_alike(tmp_path):
    _, nested = flat_and_nested()
    nested.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    images = films(2, 24)
    np.testing.assert_array_equal(
        gradcam.GradCam(loaded).heat(images, 1), gradcam.GradCam(nested).heat(images, 1)
    )


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [40, 41])
def test_cells_lie_where_their_receptive_fields_lie(padding, stride, size):
    """The gradient of one cell, averaged over the film, is centred on the cell."""
    image = keras.Input((size, size, 1))
    options = {"padding": padding, "kernel_initializer": "ones"}
    x = keras.layers.Conv2D(1, 3, strides=stride, **options)(image)
    x = keras.layers.AveragePooling2D(2)(x)
    x = keras.layers.Conv2D(1, 5, **options, name="map")(x)
    model = finish(image, x, 2, "softmax")
    geometry = gradcam.GradCam(model).geometry
    to_map = keras.Model(model.inputs, model.get_layer("map").output)
    cell = geometry.cells // 2
    ones = tf.ones((1, size, size, 1))
    with tf.GradientTape() as tape:
        tape.watch(ones)
        value = to_map(ones)[0, cell, cell, 0]
    weight = tape.gradient(value, ones).numpy()[0, :, :, 0].sum(axis=1)
    centre = (weight * (np.arange(size) + 0.5)).sum() / weight.sum()
    assert geometry.cells == to_map.output.shape[1]
    assert geometry.start + geometry.step * cell == pytest.approx(centre, abs=1e-4)


def test_the_peak_of_the_heat_lies_on_the_cell_that_caused_it():
    """A bright spot, and a model that answers to brightness alone."""
    image = keras.Input((48, 48, 1))
    options = {"kernel_initializer": "ones", "use_bias": False}
    x = keras.layers.Conv2D(1, 3, strides=2, padding="same", name="stem", **options)(
        image
    )
    x = keras.layers.MaxPooling2D()(x)
    model = finish(image, keras.layers.ReLU()(x), 2, "softmax")
    model.get_layer("logits").set_weights([np.array([[-1.0, 1.0]]), np.zeros(2)])
    cam = gradcam.GradCam(model)
    for row, column in ((9, 30), (24, 24), (41, 13)):
        film = np.zeros((1, 48, 48, 1), np.uint8)
        film[0, row - 2 : row + 3, column - 2 : column + 3] = 200
        heat = cam.heat(film, 1)[0]
        peak = np.unravel_index(heat.argmax(), heat.shape)
        assert np.abs(np.subtract(peak, (row, column))).max() <= cam.geometry.step
        assert heat.max() > 0
        assert cam.heat(film, 0).min() < 0
        assert cam.heat(film, 0).max() <= 0


def test_border_shares():
    inner, even, edge = np.zeros((3, 1, 50, 40), np.float32)
    inner[:, 10:40, 10:30] = 1
    even[:] = 1
    edge[:, 20:30, -4:] = 1  # the right edge as it is seen
    edge[:, -5:, 10:20] = 1  # the bottom
    corner = np.full((1, 50, 40), -1, np.float32)
    corner[:, :4, :4] = 3
    heat = np.concatenate([inner, even, corner, edge, -even])
    shares = gradcam.border_shares(heat)
    areas = gradcam.border_areas(heat.shape[1:])
    assert list(shares) == list(areas)
    assert areas == pytest.approx(
        {"left": 0.08, "right": 0.08, "top": 0.08, "bottom": 0.08, "corners": 0.04}
    )
    for part, share in shares.items():
        assert share[0] == 0
        assert share[1] == pytest.approx(areas[part])
        assert share[2] == (part == "corners")
        assert share[3] == pytest.approx(
            {"right": 40 / 90, "bottom": 50 / 90}.get(part, 0)
        )
        assert np.isnan(share[4])


def test_the_margin_is_measured_in_whole_pixels():
    """A tenth of 64 pixels is six: less than 36 % of the area lies outside."""
    assert sum(gradcam.border_areas((64, 64)).values()) == 1 - (52 / 64) ** 2


def test_the_picture_explains_what_the_summary_counts(tmp_path, monkeypatch):
    figures = watch(monkeypatch)
    keras.utils.set_random_seed(2)
    flat, _ = flat_and_nested()
    table = fabricated.clustered(3, separation=1.0)
    frozen = {"value": 0.4, "rule": "youden", "chosen_on": "validation"}
    evaluation = Evaluation(table, "test", "PNEUMONIA", frozen, draws=20)
    stored = np.random.default_rng(1).integers(0, 256, (256, 24, 24), np.uint8)
    stored[:, 0, 0] = np.arange(256)  # a pixel that tells the film
    found, drawn = attention.draw(
        tmp_path / "attention.png",
        SimpleNamespace(model=flat, image_size=24),
        evaluation,
        read=lambda indices: stored[indices],
        count=12,
    )
    shown = [axes for axes in figures["attention"].axes if axes.images]
    plain, heated = shown[::2], shown[1::2]
    films = [int(axes.images[0].get_array()[0, 0]) for axes in plain]
    heat = gradcam.GradCam(flat).heat(stored[films][..., None], 1)
    for axes, twin, index, one in zip(plain, heated, films, heat, strict=True):
        truth, p = table.labels[index], table.probabilities[index, 1]
        names = table.class_names[truth], table.class_names[int(p >= 0.4)]
        said = f"#{index + 1}, truth {names[0]}\nsaid {names[1]}, p {p:.3f}"
        assert axes.get_xlabel() == said
        np.testing.assert_array_equal(twin.images[0].get_array(), stored[index])
        np.testing.assert_allclose(
            twin.images[1].get_array(), one / np.abs(one).max(), atol=1e-4
        )
    captions = [axes.get_xlabel() for axes in plain]
    assert numbered(figures["attention"]) == sorted(captions)
    assert found["films"] == len(films) == 12
    assert drawn.indices.tolist() == films
    shares = gradcam.border_shares(heat)
    assert found["films_known"] > 0
    for name, part in found["parts"].items():
        known = shares[name][np.isfinite(shares[name])]
        assert part["share"] == pytest.approx(known.mean(), rel=1e-3)
        assert part["area"] == gradcam.border_areas((24, 24))[name]
    assert found["border_share"] == pytest.approx(
        sum(part["share"] for part in found["parts"].values())
    )


def test_models_of_another_structure_are_refused():
    image = keras.Input((8,))
    output = keras.layers.Activation("softmax")(keras.layers.Dense(2)(image))
    with pytest.raises(ValueError, match="no convolutional map"):
        gradcam.GradCam(keras.Model(image, output, name="dense"))
    image = keras.Input((16, 16, 1))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3)(image))
    model = keras.Model(image, keras.layers.Dense(2, "softmax")(x), name="fused")
    with pytest.raises(ValueError, match="'fused' ends in Dense"):
        gradcam.GradCam(model)


SIDE, PAIRS, HELD_OUT = 64, 200, 50


@pytest.fixture(scope="module")
def pairs():
    """Films of patients with one plain focal opacity, and the same without it.

    So equal but for the opacity that a small network finds it within seconds.
    Images uint8 [2, PAIRS, SIDE, SIDE, 1] (well, ill), boxes float [PAIRS, 4].
    """
    images, boxes = np.zeros((2, PAIRS, SIDE, SIDE, 1), np.uint8), np.zeros((PAIRS, 4))
    for number in range(PAIRS):
        for ill, pattern in enumerate(("none", "focal")):
            film = drawing.draw(
                np.random.default_rng([number, 1]),
                np.random.default_rng([number, 2]),
                pattern=pattern,
                difficulty=0.0,
                width=128,
                height=96,
            )
            small = Image.fromarray(film.pixels).resize((SIDE, SIDE))
            images[ill, number, ..., 0] = small
        boxes[number] = np.array(film.box) * np.tile([SIDE / 128, SIDE / 96], 2)
    return images, boxes


def localiser() -> keras.Model:
    image = keras.Input((SIDE, SIDE, 1))
    x = keras.layers.Rescaling(1 / 64, offset=-2)(image)
    for width, stride in ((12, 2), (24, 2), (32, 1), (32, 1)):
        x = keras.layers.Conv2D(
            width, 3, strides=stride, padding="same", use_bias=False
        )(x)
        x = keras.layers.BatchNormalization(momentum=0.8)(x)
        x = keras.layers.ReLU()(x)
    return finish(image, x, 2, "softmax")


def train(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> None:
    epochs, batch_size = 10, 32
    steps = epochs * -(-len(images) // batch_size)
    rate = keras.optimizers.schedules.CosineDecay(4e-3, steps)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=epochs, batch_size=batch_size, verbose=0)


def hits(model: keras.Model, images: np.ndarray, boxes: np.ndarray) -> float:
    """Share of the films whose heat peaks inside the box grown by one cell."""
    cam = gradcam.GradCam(model)
    heat = cam.heat(images, 1)
    peaks = [np.unravel_index(one.argmax(), one.shape) for one in heat]
    y, x = np.array(peaks).T + 0.5
    grown = boxes + np.array([-1, -1, 1, 1]) * cam.geometry.step
    x0, y0, x1, y1 = grown.T
    return float(np.mean((x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1)))


@pytest.mark.slow
def test_a_trained_model_is_seen_to_look_at_the_opacity(pairs):
    """The peak lies in the box on most true positives; random weights lose that."""
    images, boxes = pairs
    fit = images[:, :-HELD_OUT].reshape(-1, SIDE, SIDE, 1)
    fit = np.concatenate([fit, fit[:, :, ::-1]])
    labels = np.tile(np.repeat([0, 1], PAIRS - HELD_OUT), 2)
    keras.utils.set_random_seed(1)
    model = localiser()
    train(model, fit, labels)
    threshold = np.median(model.predict(fit, verbose=0)[:, 1])
    well, ill = images[:, -HELD_OUT:]
    found = model.predict(ill, verbose=0)[:, 1] >= threshold
    fooled = model.predict(well, verbose=0)[:, 1] >= threshold
    assert found.mean() - fooled.mean() > 0.3, "it never learned: nothing to explain"
    true_positives = ill[found], boxes[-HELD_OUT:][found]
    trained = hits(model, *true_positives)
    random = np.mean([hits(localiser(), *true_positives) for _ in range(5)])
    assert trained >= 0.6
    assert random < trained / 2


def test_shuffled_weights_are_the_same_numbers_in_another_order():
    keras.utils.set_random_seed(2)
    flat, _ = flat_and_nested()
    before = flat.get_weights()
    shuffled = gradcam.with_shuffled_weights(flat, seed=0)
    moved = 0
    for old, new, kept in zip(
        before, shuffled.get_weights(), flat.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(old, kept)  # the model itself stays
        np.testing.assert_array_equal(np.sort(old, None), np.sort(new, None))
        moved += not np.array_equal(old, new)
    assert moved


def test_maps_that_ignore_what_was_learnt_are_told(monkeypatch):
    keras.utils.set_random_seed(2)
    flat, _ = flat_and_nested()
    films = np.random.default_rng(1).integers(0, 256, (4, 24, 24), np.uint8)
    predictor = SimpleNamespace(model=flat)
    explainer = gradcam.GradCam(flat)
    found = attention._sanity(predictor, explainer, films, 1)
    assert found["films"] == 4 and -1 <= found["rank_correlation"] <= 1
    monkeypatch.setattr(gradcam, "with_shuffled_weights", lambda model, seed: model)
    same = attention._sanity(predictor, explainer, films, 1)
    assert same["rank_correlation"] == pytest.approx(1)
    assert same["alarm"] and not found["alarm"]


def test_a_model_that_ranks_by_chance_is_not_explained(tmp_path):
    from cxr.evaluation import evaluator, report_films

    area = {"value": 0.55, "ci95": [0.45, 0.65]}
    evaluated = SimpleNamespace(summary={"metrics": {"roc_auc": area}})
    assert evaluator._explain(evaluated, tmp_path, predictor=None, count=8) == {}
    section = report_films.attention(evaluated.summary, {})
    assert "Not shown: the interval of the ROC AUC reaches one half" in section
