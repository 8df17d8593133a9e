"""Builds the networks, their normalisation, and chooses which layers train.

Every network takes float32 [B, S, S, 1] images with values 0..255 (uint8 inputs
would silently truncate augmented images) and ends in float32 probabilities
[B, C], or [B, 1] for a sigmoid head. Channel repeat and normalisation are inside.
"""

import dataclasses
import functools
from collections.abc import Callable

import keras
import tensorflow as tf
from keras import layers

from cxr import randomness

IMAGE_INPUT, KEY_INPUT = "image", "dropout_key"
LOGITS, FEATURES = "logits", "features"
BACKBONE = "vgg16"

_MEAN, _DEVIATION = 127.5, 63.75  # grey levels that `film` gives every film
# Means of ImageNet's channels in BGR order, as VGG16's weights expect them
# (keras.applications.imagenet_utils, mode "caffe"). An image's three channels are
# equal, so the order matters only here.
_IMAGENET_BGR_MEANS = (103.939, 116.779, 123.68)


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """What determines a network's graph.

    Attributes:
      name: `vgg16`, `cnn` or `small_cnn`.
      image_size: height = width in pixels.
      num_classes: C, at least 2.
      head: `softmax` or (two classes) `sigmoid`.
      dropout: rate in front of the last layer, in [0, 1).
      normalization: of intensity: `fixed`, or `film` by each film's mean and deviation.
    """

    name: str
    image_size: int
    num_classes: int
    head: str = "softmax"
    dropout: float = 0.5
    normalization: str = "fixed"


@keras.saving.register_keras_serializable("cxr")
class StatelessDropout(layers.Layer):
    """Dropout whose mask is a function of (seed, step, example) alone.

    So two replicas drop what one device would, and a resumed run drops what the
    uninterrupted one would, with no generator state to save. Only in training
    graphs; the saved model has Keras' own Dropout in its place.

    Args:
      rate: share of the inputs set to zero, in [0, 1); the rest is scaled by
        1 / (1 - rate).
      seed: the run's seed.
    """

    def __init__(self, rate: float, seed: int, **kwargs):
        super().__init__(**kwargs)
        self.rate, self.seed = rate, seed

    def call(self, inputs, key, training=False):
        """Drops parts of `inputs` [B, ...]; `key` int64 [B, 2] is (step, example)."""
        if not training or not self.rate:
            return inputs
        numbers = randomness.uniform(
            self.seed, key[0, 0], key[:, 1], shape=tuple(inputs.shape[1:]), salt=1
        )
        kept = keras.ops.cast(numbers >= self.rate, inputs.dtype)
        return inputs * kept / (1 - self.rate)

    def get_config(self) -> dict:
        """Returns what rebuilds the layer."""
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


@keras.saving.register_keras_serializable("cxr")
class FusedBatchNormalization(layers.BatchNormalization):
    """BatchNormalization by TensorFlow's one kernel each way instead of Keras' dozen.

    The same numbers but for rounding; in bfloat16 the kernel takes and gives bfloat16
    and keeps sums in float32, where Keras casts the images there and back. Only in
    training graphs, as `StatelessDropout`.
    """

    def call(self, inputs, training=None, mask=None):
        """Normalises [B, H, W, C] over all but the last axis."""
        if not training:
            return super().call(inputs, training=training, mask=mask)
        found, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma.value, self.beta.value, epsilon=self.epsilon
        )
        # The kernel's variance is the sample's, Keras' the batch's own.
        count = tf.cast(tf.size(inputs) / inputs.shape[-1], tf.float32)
        for moving, value in (
            (self.moving_mean, mean),
            (self.moving_variance, variance * (count - 1) / count),
        ):
            moving.assign(moving * self.momentum + value * (1 - self.momentum))
        return found


def build(
    spec: ModelSpec,
    *,
    dropout_seed: int | None = None,
    synchronized: bool = False,
    dtype: str | None = None,
) -> keras.Model:
    """Builds a network.

    Args:
      spec: which one.
      dropout_seed: given for a training graph: dropout becomes StatelessDropout
        and the model takes `[image, dropout_key]`. None: one input, built-in
        layers only.
      synchronized: BatchNormalization statistics over all replicas.
      dtype: Keras dtype policy; the global one by default. Normalisation and the
        last layer are float32 in any case.

    Returns:
      A functional model with layers named `features` (what the head sees) and
      `logits`; its weights have the same order with and without `dropout_seed`.
    """
    image = keras.Input((spec.image_size, spec.image_size, 1), name=IMAGE_INPUT)
    inputs = [image]
    if dropout_seed is not None:
        inputs.append(keras.Input((2,), dtype="int64", name=KEY_INPUT))
    normalisation = layers.BatchNormalization
    if synchronized:
        normalisation = functools.partial(normalisation, synchronized=True)
    elif dropout_seed is not None:
        normalisation = FusedBatchNormalization
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype or before)
    try:
        trunk, hidden = _NETWORKS[spec.name]
        film = _standardise(image) if spec.normalization == "film" else image
        features = trunk(film, spec, normalisation)
        outputs = _head(features, inputs[1:], spec, hidden, dropout_seed)
    finally:
        keras.config.set_dtype_policy(before)
    return keras.Model(inputs, outputs, name=spec.name)


def logits_model(model: keras.Model) -> keras.Model:
    """Returns the model up to its logits, from which losses are computed."""
    return keras.Model(model.inputs, model.get_layer(LOGITS).output)


def feature_model(model: keras.Model) -> keras.Model:
    """Returns the frozen part: image to what the head sees."""
    return keras.Model(model.inputs[0], model.get_layer(FEATURES).output)


def head_model(model: keras.Model) -> keras.Model:
    """Returns the part that trains while the backbone is frozen, up to the logits.

    It shares its layers with `model`, and takes `features` in place of `image`.
    """
    features = model.get_layer(FEATURES).output
    inputs = [features, *model.inputs[1:]]
    return keras.Model(inputs, model.get_layer(LOGITS).output)


def freeze_backbone(model: keras.Model) -> None:
    """Leaves only the head to train; a network without a backbone trains whole."""
    if model.name == BACKBONE:
        model.get_layer(BACKBONE).trainable = False


def unfreeze_from(model: keras.Model, first: str) -> None:
    """Lets the backbone train from the layer named `first` on (`all`: whole)."""
    backbone = model.get_layer(BACKBONE)
    backbone.trainable = True
    names = [layer.name for layer in backbone.layers]
    start = 0 if first == "all" else names.index(first)
    for position, layer in enumerate(backbone.layers):
        layer.trainable = position >= start


def _standardise(image):
    """Gives every film the mean and deviation of a usual one, in grey levels.

    So the networks' fixed normalisation behind it fits; built-in layers only.
    """
    unit = layers.LayerNormalization(
        axis=(1, 2, 3),
        center=False,
        scale=False,
        epsilon=1.0,  # of the variance: a blank film stays one
        dtype="float32",
        name="film_normalization",
    )(image)
    rescale = layers.Rescaling(_DEVIATION, _MEAN, dtype="float32", name="film_levels")
    return rescale(unit)


def _vgg16(image, spec: ModelSpec, normalisation: Callable):
    del normalisation  # VGG16 has no BatchNormalization
    size = spec.image_size
    repeated = layers.Concatenate(dtype="float32", name="grey_to_bgr")([image] * 3)
    normalised = layers.Normalization(
        mean=_IMAGENET_BGR_MEANS,
        variance=(1.0, 1.0, 1.0),
        dtype="float32",
        name="imagenet_normalization",
    )(repeated)
    backbone = keras.applications.VGG16(
        include_top=False, weights=None, input_shape=(size, size, 3), name=BACKBONE
    )
    return layers.GlobalAveragePooling2D(name=FEATURES)(backbone(normalised))


def _cnn(image, spec: ModelSpec, normalisation: Callable):
    """Five Conv/MaxPool blocks, the shape of many Kaggle notebooks."""
    del spec, normalisation
    x = layers.Rescaling(1 / 255, dtype="float32", name="rescale")(image)
    for block, width in enumerate((32, 32, 32, 64, 64), start=1):
        x = layers.Conv2D(width, 3, activation="relu", name=f"conv{block}")(x)
        x = layers.MaxPooling2D(name=f"pool{block}")(x)
    return layers.Flatten(name=FEATURES)(x)


def _small_cnn(image, spec: ModelSpec, normalisation: Callable):
    """A compact BatchNorm CNN: trains from scratch in minutes on a CPU."""
    del spec

    def convolve(x, width, name, strides=1):
        x = layers.Conv2D(
            width, 3, strides=strides, padding="same", use_bias=False, name=name
        )(x)
        x = normalisation(momentum=0.9, name=f"{name}_norm")(x)
        return layers.ReLU(name=f"{name}_relu")(x)

    x = layers.Rescaling(1 / 127.5, offset=-1, dtype="float32", name="rescale")(image)
    x = convolve(x, 24, "stem", strides=2)
    for block, width in enumerate((48, 96, 144), start=1):
        x = convolve(x, width, f"block{block}_conv1")
        x = convolve(x, width, f"block{block}_conv2")
        x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
    return layers.GlobalAveragePooling2D(name=FEATURES)(x)


# Name to (trunk, widths of the head's hidden layers).
_NETWORKS = {
    "vgg16": (_vgg16, (256,)),
    "cnn": (_cnn, (128, 64)),
    "small_cnn": (_small_cnn, ()),
}


def _head(features, key: list, spec: ModelSpec, hidden, dropout_seed: int | None):
    x = features
    for index, width in enumerate(hidden, start=1):
        x = layers.Dense(width, activation="relu", name=f"head_dense{index}")(x)
    if dropout_seed is None:
        x = layers.Dropout(spec.dropout, name="head_dropout")(x)
    else:
        x = StatelessDropout(spec.dropout, dropout_seed, name="head_dropout")(x, *key)
    units = 1 if spec.head == "sigmoid" else spec.num_classes
    logits = layers.Dense(units, dtype="float32", name=LOGITS)(x)
    activation = layers.Activation(spec.head, dtype="float32", name="probabilities")
    return activation(logits)
