"""What leaves the house: one network with two columns, and what its answers mean."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from cxr import runs
from cxr.prediction.predictor import Predictor, load_predictor

# Float32 [N, S, S, 1] in 0..255 to probabilities [N, C].
Forward = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Exported:
    """A model to be written.

    Attributes:
      network: Keras model, float32 [B, S, S, 1] in 0..255 to probabilities [B, C],
        also of a sigmoid head.
      predictor: the run's own model, which every format is checked against.
      run: the finished run.
    """

    network: keras.Model
    predictor: Predictor
    run: runs.Run

    def meaning(self) -> dict[str, str]:
        """Returns what a program must know to use the model, as text."""
        info, threshold = self.run.info, self.run.threshold
        return {
            "classes": ",".join(info.class_names),
            "positive_class": info.positive_class,
            "threshold": "" if threshold is None else repr(threshold),
            "image_size": str(info.image_size),
            "stored_image_size": str(info.stored_image_size),
            "input": "float32 [B, S, S, 1], grey levels 0..255, not normalised",
            "model_sha256": info.model_sha256,
            "intended_use": "research only; not a medical device",
        }


def load(run: runs.Run) -> Exported:
    """Loads a run's model to be exported."""
    predictor = load_predictor(run)
    network = predictor.model
    if run.info.head == "sigmoid":
        image = keras.Input(network.input_shape[1:], name="image")
        positive = network(image)
        both = keras.layers.Concatenate(name="both")([1 - positive, positive])
        network = keras.Model(image, both, name=network.name)
    network([np.zeros((1, *network.input_shape[1:]), np.float32)])  # Keras asks for it
    return Exported(network, predictor, run)
