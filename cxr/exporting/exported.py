"""What leaves the house: one network with two columns, and what its answers mean."""

import dataclasses
from collections.abc import Callable, Sequence

import keras
import numpy as np

from cxr import runs
from cxr.prediction import together
from cxr.prediction.predictor import Predictor, load_predictor
from cxr.prediction.together import Meaning

# Float32 [N, S, S, 1] in 0..255 to probabilities [N, C].
Forward = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Exported:
    """A model to be written.

    Attributes:
      network: Keras model, float32 [B, S, S, 1] in 0..255 to probabilities [B, C],
        also of a sigmoid head; of several runs their mean.
      predictors: the runs' own models, which every format is checked against.
      run: the finished run; of several the first, whose S all have.
      meaning: of the probabilities.
    """

    network: keras.Model
    predictors: tuple[Predictor, ...]
    run: runs.Run
    meaning: Meaning

    @property
    def name(self) -> str:
        """What it is called for people."""
        model, count = self.run.info.model, len(self.predictors)
        return model if count == 1 else f"the mean of {count} runs"

    @property
    def positive_index(self) -> int:
        """Column of the positive class."""
        return self.meaning.class_names.index(self.meaning.positive_class)

    def probabilities(self, films: np.ndarray) -> np.ndarray:
        """Returns what the runs' own models say of films, float64 [N, C].

        Args:
          films: uint8 [N, S, S, 1].
        """
        return together.mean([one.predict(films) for one in self.predictors])

    def described(self) -> dict[str, str]:
        """Returns what a program must know to use the model, as text."""
        info, meaning = self.run.info, self.meaning
        threshold = meaning.threshold
        return {
            "classes": ",".join(meaning.class_names),
            "positive_class": meaning.positive_class,
            "threshold": "" if threshold is None else repr(threshold),
            "image_size": str(info.image_size),
            "stored_image_size": str(info.stored_image_size),
            "input": "float32 [B, S, S, 1], grey levels 0..255, not normalised",
            "model_sha256": meaning.model_sha256,
            "intended_use": "research only; not a medical device",
        }


def load(members: Sequence[runs.Run]) -> Exported:
    """Loads the model of a run, or the mean of several, to be exported.

    Raises:
      DataError: several runs that do not go together, or take images of other sizes.
    """
    meaning = together.meaning(members)
    together.check_sizes(members, "image_size", "of")
    predictors = tuple(map(load_predictor, members))
    networks = [
        _two_columns(predictor.model, run.info.head)
        for predictor, run in zip(predictors, members, strict=True)
    ]
    network = networks[0] if len(networks) == 1 else _mean(networks)
    network([np.zeros((1, *network.input_shape[1:]), np.float32)])  # Keras asks for it
    return Exported(network, predictors, members[0], meaning)


def _two_columns(network: keras.Model, head: str) -> keras.Model:
    if head != "sigmoid":
        return network
    image = keras.Input(network.input_shape[1:], name="image")
    positive = network(image)
    both = keras.layers.Concatenate(name="both")([1 - positive, positive])
    return keras.Model(image, both, name=network.name)


def _mean(networks: Sequence[keras.Model]) -> keras.Model:
    image = keras.Input(networks[0].input_shape[1:], name="image")
    named = [  # apart, as Keras wants
        keras.Model(network.inputs[0], network.outputs[0], name=f"member_{index}")
        for index, network in enumerate(networks)
    ]
    mean = keras.layers.Average(name="mean")([network(image) for network in named])
    return keras.Model(image, mean, name="ensemble")
