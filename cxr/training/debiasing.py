"""What brightness and sharpness tell of each training film, for a network to add to.

A network that is told in training what nine trivial numbers already say of a film gains
nothing by learning them again: it learns the rest, and is asked without them. A product
of experts with a bias-only model (Clark, Yatskar and Zettlemoyer, "Don't Take the Easy
Way Out", 2019; He, Zha and Wang, "Unlearn Dataset Bias", 2019).
"""

import numpy as np

from cxr import records
from cxr.input import film_measures
from cxr.input.reader import evenly_spaced
from cxr.metrics import trivial_baseline

_LEAST = 1e-6  # a probability: no film's evidence outweighs every image
_MOST_FITTED = 50_000  # films; ten coefficients need no more


def evidence(record_set: records.RecordSet, strength: float) -> np.ndarray | None:
    """Returns the trivial baseline's log-probabilities times `strength`.

    Args:
      record_set: whose training films fit the baseline, and are judged by it.
      strength: 0..1.

    Returns:
      float32 [N, C] in index order; None for a strength of 0.
    """
    if not strength:
        return None
    films = film_measures.measure(record_set, "train")
    chosen = evenly_spaced(len(films.labels), _MOST_FITTED)
    regression = trivial_baseline.Regression(
        films.numbers[chosen], films.labels[chosen]
    )
    classes = len(record_set.manifest.class_names)
    known = regression.probabilities(films.numbers, classes)
    return (strength * np.log(np.maximum(known, _LEAST))).astype(np.float32)
