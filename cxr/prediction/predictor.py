"""Loads a finished run's model and predicts probabilities with it."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator

import keras
import numpy as np
import tensorflow as tf

from cxr import documents, model_file, runs

_BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A trained model with what its inputs and outputs mean.

    Attributes:
      model: Keras model, float32 [B, S, S, 1] in 0..255 to probabilities.
      class_names: column i of the probabilities is `class_names[i]`.
      image_size: S, height = width in pixels that the model takes.
      stored_image_size: size at which an image is decoded before the area reduction
        to S, as its records were.
    """

    model: keras.Model
    class_names: tuple[str, ...]
    image_size: int
    stored_image_size: int

    def predict(
        self,
        images: np.ndarray | tf.data.Dataset | Iterable[np.ndarray],
        *,
        batch_size: int = _BATCH_SIZE,
    ) -> np.ndarray:
        """Returns probabilities, float32 [N, C], two columns also for a sigmoid head.

        Args:
          images: uint8 [N, S, S, 1], or batches of such: arrays, or a dataset of
            `(images, labels, indices)`.
          batch_size: images a forward pass; batches given as such must not exceed it.
        """
        batches = images
        if isinstance(images, np.ndarray):
            starts = range(0, len(images), batch_size)
            batches = (images[start : start + batch_size] for start in starts)
        parts = [self._predict_batch(batch, batch_size) for batch in batches]
        return np.concatenate(parts or [np.zeros((0, len(self.class_names)), "f4")])

    def _predict_batch(self, batch, batch_size: int) -> np.ndarray:
        images = batch[0] if isinstance(batch, tuple) else batch
        padded = pad(tf.cast(images, tf.float32), batch_size)
        with _whole_float32():
            outputs = _compiled(self.model)(padded).numpy()[: len(images)]
        if outputs.shape[1] == 1:
            outputs = np.concatenate([1 - outputs, outputs], axis=1)
        return outputs


def load_predictor(run: runs.Run, *, precision: str = "float32") -> Predictor:
    """Loads a run's model, which `runs.open_run` has looked into.

    `safe_mode` refuses code in the file; a model of ours holds none.

    Args:
      run: the finished run.
      precision: Keras dtype policy; what is published is computed in float32.

    Raises:
      DataError: it cannot be loaded, or takes and gives other shapes than the run's.
    """
    side, outputs = run.info.image_size, len(run.class_names)
    if run.info.head == "sigmoid":
        outputs = 1
    with documents.reading(run.model_path):
        model_file.check_weights(run.model_path)
        try:
            model = keras.models.load_model(
                run.model_path, compile=False, safe_mode=True
            )
        except Exception as error:  # Keras raises nearly anything on a strange file
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"Keras cannot load it: {reason}") from error
        shapes = (model.input_shape, model.output_shape)
        if shapes != ((None, side, side, 1), (None, outputs)):
            raise ValueError(
                f"maps {shapes[0]} to {shapes[1]}, expected (None, {side}, {side}, 1) "
                f"to (None, {outputs})"
            )
    if precision != "float32":
        model = _in_precision(model, precision)
    return Predictor(
        model,
        class_names=run.class_names,
        image_size=side,
        stored_image_size=run.info.stored_image_size,
    )


def _in_precision(model: keras.Model, precision: str) -> keras.Model:
    """Returns the model with other compute types and the same weights."""

    def converted(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        inputs = isinstance(layer, keras.layers.InputLayer)
        if not inputs and layer.name not in model_file.FLOAT32_LAYERS:
            config["dtype"] = precision
        return type(layer).from_config(config)

    found = keras.models.clone_model(model, clone_function=converted, recursive=True)
    found.set_weights(model.get_weights())
    return found


@contextlib.contextmanager
def _whole_float32() -> Iterator[None]:
    """Keeps TF32, to which GPUs round the products of float32, out of results."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def _compiled(model: keras.Model) -> tf.types.experimental.PolymorphicFunction:
    """One compiled forward pass a model, kept with it."""
    if not hasattr(model, "_cxr_forward"):
        forward = tf.function(lambda images: model(images, training=False))
        object.__setattr__(model, "_cxr_forward", forward)
    return model._cxr_forward


def pad(batch: tf.Tensor, batch_size: int) -> tf.Tensor:
    """Appends zeros to a batch [b, ...] until it is [batch_size, ...]."""
    missing = batch_size - tf.shape(batch)[0]
    paddings = [[0, missing]] + [[0, 0]] * (batch.shape.rank - 1)
    return tf.ensure_shape(tf.pad(batch, paddings), [batch_size, *batch.shape[1:]])
