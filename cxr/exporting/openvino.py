"""OpenVINO's intermediate representation."""

import pathlib

import numpy as np

from cxr.exporting.exported import Exported, Forward

FILE = "model.xml"
EXAMPLE = """
import numpy as np, openvino
from PIL import Image

precision = {"INFERENCE_PRECISION_HINT": "f32"}
model = openvino.Core().compile_model("model.xml", "CPU", precision)
STORED, SIZE = {stored_image_size}, {image_size}
film = Image.open("film.png").convert("L").resize((STORED, STORED), Image.BICUBIC)
pixels = np.asarray(film.resize((SIZE, SIZE), Image.BOX), np.float32)
probabilities = model(pixels[None, ..., None])[0][0]
print(dict(zip("{classes}".split(","), probabilities)))
"""


def write(exported: Exported, folder: pathlib.Path) -> None:
    """Writes `folder/model.xml` and `model.bin`."""
    exported.network.export(str(folder / FILE), format="openvino", verbose=False)


def load(folder: pathlib.Path) -> Forward:
    """Returns the written model's forward pass, in float32."""
    import openvino

    precision = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(folder / FILE, "CPU", precision)

    def forward(images: np.ndarray) -> np.ndarray:
        return model(images)[0]

    return forward
