"""A split's predictions with the question asked of them; scores are cached."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from cxr.metrics import classification, intervals, thresholds
from cxr.metrics.classification import Scored
from cxr.metrics.intervals import Resamples
from cxr.metrics.predictions import Predictions


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """Predictions of every example of a split, and the question asked of them.

    Attributes:
      predictions: the table.
      split: name of the split.
      positive_class: class that thresholds speak of.
      threshold: {"value", "rule", "chosen_on"} of the model; value None for C > 2.
      draws: patient resamples behind the intervals.
      seed: of the resampling.
    """

    predictions: Predictions
    split: str
    positive_class: str
    threshold: Mapping[str, Any]
    draws: int = intervals.DRAWS
    seed: int = 0

    @functools.cached_property
    def scored(self) -> Scored:
        """The predictions under the frozen threshold."""
        return classification.scored(
            self.predictions.labels,
            self.predictions.probabilities,
            positive=self.class_names.index(self.positive_class),
            threshold=self.threshold["value"],
        )

    @functools.cached_property
    def resamples(self) -> Resamples:
        """The patients drawn with replacement, for every interval alike."""
        return intervals.resample(
            self.predictions.patient_ids,
            self.predictions.labels,
            draws=self.draws,
            seed=self.seed,
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The C classes in column order."""
        return self.predictions.class_names

    @property
    def binary(self) -> bool:
        """Two classes: a threshold decides; beyond two the most probable class."""
        return len(self.class_names) == 2

    @property
    def class_counts(self) -> dict[str, int]:
        """Examples of each class."""
        counts = np.bincount(self.predictions.labels, minlength=len(self.class_names))
        return {n: int(c) for n, c in zip(self.class_names, counts, strict=True)}

    @property
    def without_patient(self) -> int:
        """Films whose name tells no patient: the converter makes each its own."""
        table = self.predictions
        pairs = zip(table.filenames, table.patient_ids, strict=True)
        return sum(name == patient for name, patient in pairs)

    @property
    def majority(self) -> dict[str, Any]:
        """What always answering the most common class would reach."""
        counts = self.class_counts
        name = max(counts, key=lambda name: counts[name])
        accuracy = counts[name] / len(self.predictions.labels)
        return {"class": name, "accuracy": accuracy}

    def threshold_on(self, validation: Predictions) -> dict[str, Any]:
        """Returns the threshold that the same rule chooses on another model's scores.

        Args:
          validation: that model's predictions, of both classes.
        """
        positive = validation.class_names.index(self.positive_class)
        value = thresholds.choose_threshold(
            validation.labels == positive,
            validation.probabilities[:, positive],
            self.threshold["rule"],
        )
        return {**self.threshold, "value": value}

    def of(self, predictions: Predictions) -> "Evaluation":
        """Returns the same question asked of other predictions."""
        return dataclasses.replace(self, predictions=predictions)


def measure(scored: Scored, resamples: Resamples) -> dict[str, dict[str, Any]]:
    """Returns every metric with its interval, as metrics.json holds them."""
    measured = intervals.intervals(
        classification.measure(scored),
        classification.measure(scored, resamples.weights()),
        resamples,
    )
    for name, losses in classification.losses(scored).items():
        measured[name] = intervals.mean_loss(losses, resamples)
    return measured
