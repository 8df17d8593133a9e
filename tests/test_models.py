import keras
import numpy as np
import pytest
import tensorflow as tf

from cxr import model_file
from cxr.training import models

pytestmark = pytest.mark.slow  # each test builds networks

SPECS = [
    models.ModelSpec("vgg16", 32, 2),
    models.ModelSpec("vgg16", 32, 3),
    models.ModelSpec("cnn", 128, 2, head="sigmoid"),
    models.ModelSpec("small_cnn", 32, 4),
]


def films(spec, count=3):
    random = np.random.default_rng(0)
    return random.uniform(0, 255, (count, spec.image_size, spec.image_size, 1)).astype(
        np.float32
    )


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.name}-{s.num_classes}")
def test_contract_of_every_network(spec):
    model = models.build(spec)
    assert model.inputs[0].dtype == "float32"
    assert model.inputs[0].shape == (None, spec.image_size, spec.image_size, 1)
    found = model.predict(films(spec), verbose=0)
    columns = 1 if spec.head == "sigmoid" else spec.num_classes
    assert found.shape == (3, columns)
    assert found.dtype == np.float32
    assert np.all((found >= 0) & (found <= 1))
    if columns > 1:
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.name}-{s.num_classes}")
def test_the_saved_model_is_the_trained_one_in_built_in_layers(spec, tmp_path):
    trained = models.build(spec, dropout_seed=1)
    plain = models.build(spec)
    plain.set_weights(trained.get_weights())
    plain.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras", safe_mode=True)
    modules = {type(layer).__module__ for layer in loaded._flatten_layers()}
    assert all(module.startswith("keras.") for module in modules)
    key = np.zeros((3, 2), np.int64)
    expected = trained.predict([films(spec), key], verbose=0)
    np.testing.assert_allclose(
        loaded.predict(films(spec), verbose=0), expected, atol=1e-6
    )


def test_vgg16_normalises_as_its_weights_expect():
    spec = models.ModelSpec("vgg16", 32, 2)
    model = models.build(spec)
    image = films(spec, 1)
    normalised = keras.Model(
        model.inputs, model.get_layer("imagenet_normalization").output
    )
    rgb = np.repeat(image, 3, axis=-1)
    expected = keras.applications.vgg16.preprocess_input(rgb.copy())
    np.testing.assert_allclose(
        normalised.predict(image, verbose=0), expected, atol=1e-4
    )


def test_freezing_and_unfreezing():
    model = models.build(models.ModelSpec("vgg16", 32, 2))
    models.freeze_backbone(model)
    head = [v.path for v in model.trainable_variables]
    assert len(head) == 4
    assert all(path.startswith(("head_dense1", "logits")) for path in head)
    models.unfreeze_from(model, "block5_conv1")
    names = [v.path for v in model.trainable_variables if "block" in v.path]
    assert len(names) == 6
    assert all("block5" in name for name in names)
    models.unfreeze_from(model, "block4_conv3")
    assert sum("block" in v.path for v in model.trainable_variables) == 8
    models.unfreeze_from(model, "all")
    assert len(model.trainable_variables) == 26 + 4


def test_the_head_on_features_equals_the_whole_network():
    spec = models.ModelSpec("vgg16", 32, 2)
    model = models.build(spec, dropout_seed=0)
    key = np.zeros((3, 2), np.int64)
    features = models.feature_model(model).predict(films(spec), verbose=0)
    from_features = models.head_model(model).predict([features, key], verbose=0)
    whole = models.logits_model(model).predict([films(spec), key], verbose=0)
    np.testing.assert_allclose(from_features, whole, atol=1e-5)
    models.freeze_backbone(model)
    assert len(models.head_model(model).trainable_variables) == 4


def test_mixed_precision_keeps_both_ends_float32():
    model = models.build(models.ModelSpec("vgg16", 32, 2), dtype="mixed_bfloat16")
    assert model.get_layer("imagenet_normalization").compute_dtype == "float32"
    assert model.get_layer("logits").compute_dtype == "float32"
    assert model.get_layer("head_dense1").compute_dtype == "bfloat16"
    assert model.output.dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"  # left as it was


class TestStatelessDropout:
    def drop(self, key, rate=0.4, seed=0, training=True):
        layer = models.StatelessDropout(rate, seed)
        ones = np.ones((len(key), 500), np.float32)
        return np.asarray(layer(ones, np.asarray(key, np.int64), training=training))

    def test_rate_and_scale(self):
        found = self.drop([(0, i) for i in range(20)])
        assert set(np.unique(found)) == {0.0, np.float32(1 / 0.6)}
        assert abs(np.mean(found == 0) - 0.4) < 0.02

    def test_the_mask_belongs_to_seed_step_and_example(self):
        both = self.drop([(5, 1), (5, 2)])
        np.testing.assert_array_equal(self.drop([(5, 2)])[0], both[1])
        for other in (self.drop([(6, 1)])[0], both[1], self.drop([(5, 1)], seed=1)[0]):
            assert np.mean(other == both[0]) < 0.7

    def test_off_outside_training(self):
        np.testing.assert_array_equal(self.drop([(0, 0)], training=False), 1)
        np.testing.assert_array_equal(self.drop([(0, 0)], rate=0.0), 1)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_the_fused_normalisation_is_keras_own(policy):
    """Outputs, moving statistics and gradients, over several batches."""
    random = np.random.default_rng(0)
    keras.config.set_dtype_policy(policy)
    try:
        options = {"momentum": 0.9, "epsilon": 1e-3}
        plain = keras.layers.BatchNormalization(**options)
        fused = models.FusedBatchNormalization(**options)
    finally:
        keras.config.set_dtype_policy("float32")
    tolerance = 1e-5 if policy == "float32" else 3e-2
    for _ in range(3):
        images = tf.constant(random.normal(3, 2, (4, 6, 5, 8)), plain.compute_dtype)
        found = []
        for layer in (plain, fused):
            with tf.GradientTape() as tape:
                tape.watch(images)
                outputs = layer(images, training=True)
                loss = tf.reduce_sum(tf.cast(outputs, tf.float32) ** 3)
            assert outputs.dtype == layer.compute_dtype
            gradients = tape.gradient(loss, [images, layer.gamma.value])
            found.append([outputs, *gradients, *layer.get_weights()])
        for one, two in zip(*found, strict=True):
            one, two = (np.asarray(tf.cast(x, tf.float32)) for x in (one, two))
            scale = np.abs(one).max()
            np.testing.assert_allclose(two, one, atol=tolerance * scale)
    inputs = tf.constant(random.normal(size=(2, 3, 3, 8)), tf.float32)
    np.testing.assert_allclose(plain(inputs), fused(inputs), atol=1e-2)


@pytest.mark.parametrize("name", ["vgg16", "small_cnn"])
def test_normalised_by_film_a_network_is_blind_to_exposure(name):
    spec = models.ModelSpec(name, 32, 2, normalization="film")
    keras.utils.set_random_seed(3)  # some weights hardly tell any two films apart
    model = models.build(spec)
    film = np.random.default_rng(0).uniform(0, 120, (1, 32, 32, 1)).astype(np.float32)
    found = [model(film), model(2 * film + 15), model(255 - film)]
    np.testing.assert_allclose(found[0], found[1], atol=5e-5)
    assert np.abs(found[0] - found[2]).max() > 1e-4  # an inverted film is another
    assert np.isfinite(model(np.zeros_like(film))).all()


@pytest.mark.parametrize("name", ["vgg16", "cnn", "small_cnn"])
def test_the_layers_that_stay_float32_are_named(name):
    """As cxr.predict needs, to compute a published model in another precision."""
    spec = models.ModelSpec(name, 128, 2, normalization="film")
    model = models.build(spec, dtype="mixed_bfloat16")
    found = {
        layer.name
        for layer in model.layers
        if layer.dtype_policy.name == "float32"
        and not isinstance(layer, keras.layers.InputLayer)
    }
    assert found == model_file.FLOAT32_LAYERS & {layer.name for layer in model.layers}
