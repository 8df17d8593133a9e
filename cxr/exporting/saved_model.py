"""TensorFlow's SavedModel, laid out for TensorFlow Serving, taking pixels or files."""

import pathlib

import keras
import numpy as np
import tensorflow as tf

from cxr.exporting import decoding
from cxr.exporting.exported import Exported, Forward

EXAMPLE = """
import tensorflow as tf

model = tf.saved_model.load("1")
with open("film.jpeg", "rb") as file:  # 8-bit grey or RGB JPEG, or 8-bit PNG
    found = model.signatures["serving_default"](tf.constant([file.read()]))
names = [name.decode() for name in found["classes"].numpy()]
print(dict(zip(names, found["probabilities"][0].numpy())))
print("positive" if found["positive"][0] else "negative")
"""


def write(exported: Exported, folder: pathlib.Path) -> None:
    """Writes `folder/1/`, with the signatures `serving_default` and `pixels`."""
    info = exported.run.info
    archive = keras.export.ExportArchive()
    archive.track(exported.network)

    def answers(images: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = exported.network(images, training=False)
        positive, threshold = exported.positive_index, exported.meaning.threshold
        decided = tf.argmax(probabilities, axis=-1) == positive
        if threshold is not None:
            decided = probabilities[:, positive] >= threshold
        return {
            "probabilities": probabilities,
            "classes": tf.constant(exported.meaning.class_names),
            "positive": decided,
        }

    def of_files(images: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels = decoding.decode(images, info.stored_image_size, info.image_size)
        return answers(pixels)

    side = info.image_size
    pixels = tf.TensorSpec((None, side, side, 1), tf.float32, name="images")
    files = tf.TensorSpec((None,), tf.string, name="images")
    archive.add_endpoint("serving_default", of_files, input_signature=[files])
    archive.add_endpoint("pixels", answers, input_signature=[pixels])
    archive.write_out(str(folder / "1"), verbose=False)


def load(folder: pathlib.Path) -> Forward:
    """Returns the written model's forward pass."""
    loaded = tf.saved_model.load(str(folder / "1"))
    pixels = loaded.signatures["pixels"]

    def forward(images: np.ndarray) -> np.ndarray:
        return pixels(images=tf.constant(images))["probabilities"].numpy()

    forward.model = loaded  # type: ignore[attr-defined]  # signatures live as long
    return forward
