"""Predicts a split by the trivial baseline, fitted on what trained the run."""

import dataclasses

import numpy as np

from cxr import records
from cxr.images import statistics
from cxr.input.reader import Reader
from cxr.metrics.predictions import Predictions
from cxr.metrics.trivial_baseline import Baseline, Regression

_MOST_FITTED = 20_000  # films, evenly spaced: nine numbers need no more
_READ = 256  # films at a time


def predict(
    trained: records.RecordSet,
    record_set: records.RecordSet,
    split: str,
    table: Predictions,
    validation: Predictions,
) -> Baseline:
    """Returns what the baseline says where the model said `table`.

    Args:
      trained: the set that the model was trained on.
      record_set: the data that is evaluated.
      split: of it.
      table: the model's predictions there.
      validation: the model's on validation of `trained`.
    """
    count = trained.split("train").num_examples
    chosen = np.linspace(0, count - 1, min(count, _MOST_FITTED)).astype(np.int64)
    regression = Regression(*_measure(trained, "train", chosen))

    def of(data: records.RecordSet, split: str, model: Predictions) -> Predictions:
        numbers, _ = _measure(data, split, np.arange(len(model.labels)))
        found = regression.probabilities(numbers, len(model.class_names))
        return dataclasses.replace(model, probabilities=found)

    policy = record_set.manifest.flags.get("split_policy")
    return Baseline(
        predictions=of(record_set, split, table),
        validation=of(trained, "validation", validation),
        fitted_on=len(chosen),
        countered=split == "test" and policy == "counter",
    )


def _measure(
    record_set: records.RecordSet, split: str, indices: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns numbers, float32 [N, 9], and labels, int32 [N], of some films."""
    reader = Reader(record_set, split, image_size=record_set.manifest.image_size)
    numbers = [
        statistics.measure(film)
        for first in range(0, len(indices), _READ)
        for film in reader.images(indices[first : first + _READ])
    ]
    return np.stack(numbers), reader.labels[indices]
