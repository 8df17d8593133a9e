"""LiteRT (TensorFlow Lite), in float32 or with 8-bit weights and activations."""

import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from cxr.exporting.exported import Exported, Forward

FILE = "model.tflite"
EXAMPLE = """
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

STORED, SIZE = {stored_image_size}, {image_size}
film = Image.open("film.png").convert("L").resize((STORED, STORED), Image.BICUBIC)
pixels = np.asarray(film.resize((SIZE, SIZE), Image.BOX), np.float32)
run = Interpreter("model.tflite").get_signature_runner()
(probabilities,) = run(images=pixels[None, ..., None]).values()
print(dict(zip("{classes}".split(","), probabilities[0])))
"""


def write(
    exported: Exported, folder: pathlib.Path, films: np.ndarray | None = None
) -> None:
    """Writes `folder/model.tflite`.

    Args:
      exported: the model.
      folder: to write to.
      films: float32 [N, S, S, 1]; given, weights and activations take 8 bits, their
        ranges those of these films. Input and output stay float32.
    """
    side = exported.run.info.image_size
    options: dict = {}
    if films is not None:

        def representative() -> Iterator[list[np.ndarray]]:
            for film in films:
                yield [film[None]]

        options = {
            "optimizations": [tf.lite.Optimize.DEFAULT],
            "representative_dataset": representative,
        }
    exported.network.export(
        str(folder / FILE),
        format="litert",
        verbose=False,
        input_signature=[tf.TensorSpec((None, side, side, 1), tf.float32, "images")],
        # Weights as constants: as variables, interpreters find them not initialised.
        experimental_enable_resource_variables=False,
        target_spec={"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]},
        **options,
    )


def load(folder: pathlib.Path) -> Forward:
    """Returns the written model's forward pass."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / FILE))
    (given,), (taken,) = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )
    shape: list[int] = []

    def forward(images: np.ndarray) -> np.ndarray:
        if shape != list(images.shape):
            shape[:] = images.shape
            interpreter.resize_tensor_input(given["index"], shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(taken["index"])

    return forward
