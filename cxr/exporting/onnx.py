"""ONNX, with what the answers mean among its metadata."""

import pathlib
import warnings

import numpy as np

from cxr.exporting.exported import Exported, Forward

FILE = "model.onnx"
EXAMPLE = """
import numpy as np, onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("model.onnx")
meaning = session.get_modelmeta().custom_metadata_map
stored, size = int(meaning["stored_image_size"]), int(meaning["image_size"])
film = Image.open("film.png").convert("L").resize((stored, stored), Image.BICUBIC)
pixels = np.asarray(film.resize((size, size), Image.BOX), np.float32)
name = session.get_inputs()[0].name
(probabilities,) = session.run(None, {name: pixels[None, ..., None]})
print(dict(zip(meaning["classes"].split(","), probabilities[0])))
"""


def write(exported: Exported, folder: pathlib.Path) -> None:
    """Writes `folder/model.onnx`."""
    import onnx

    path = folder / FILE
    with warnings.catch_warnings():
        # Keras looks whether numpy has `object`, which numpy warns of.
        warnings.filterwarnings("ignore", "In the future `np.object`", FutureWarning)
        exported.network.export(str(path), format="onnx", verbose=False)
    model = onnx.load(path)
    for name, value in exported.described().items():
        model.metadata_props.add(key=name, value=value)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def load(folder: pathlib.Path) -> Forward:
    """Returns the written model's forward pass."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(folder / FILE), providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name

    def forward(images: np.ndarray) -> np.ndarray:
        return session.run(None, {name: images})[0]

    return forward
