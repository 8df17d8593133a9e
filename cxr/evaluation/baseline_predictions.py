"""Predicts a split by the trivial baseline, fitted on what trained the run."""

import dataclasses

from cxr import folds, records
from cxr.input import film_measures
from cxr.input.film_measures import Measures
from cxr.metrics.predictions import Predictions
from cxr.metrics.trivial_baseline import Baseline, Regression

_MOST_FITTED = 20_000  # films, evenly spaced: nine numbers need no more


def predict(
    trained: records.RecordSet,
    record_set: records.RecordSet,
    split: str,
    films: Measures,
    table: Predictions,
    validation: Predictions,
) -> Baseline:
    """Returns what the baseline says where the model said `table`.

    Args:
      trained: the set that the model was trained on.
      record_set: the data that is evaluated.
      split: of it.
      films: of that split.
      table: the model's predictions there.
      validation: the model's on validation of `trained`.
    """
    seen = film_measures.measure(trained, "train", at_most=_MOST_FITTED)
    regression = Regression(seen.numbers, seen.labels)

    def of(films: Measures, model: Predictions) -> Predictions:
        found = regression.probabilities(films.numbers, len(model.class_names))
        return dataclasses.replace(model, probabilities=found)

    # A fold of such a set is no such split.
    whole = not isinstance(record_set, folds.FoldSet)
    policy = record_set.manifest.flags.get("split_policy") if whole else None
    return Baseline(
        predictions=of(films, table),
        validation=of(film_measures.measure(trained, "validation"), validation),
        fitted_on=len(seen.labels),
        countered=split == "test" and policy == "counter",
    )
