"""Thresholds chosen on validation by named rules, measured on another split."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cxr.metrics import classification, intervals, thresholds
from cxr.metrics.classification import Scored
from cxr.metrics.evaluation import Evaluation
from cxr.metrics.intervals import Resamples

NAMED_RULES = {
    "screening": "sensitivity:0.98",
    "balanced": "youden",
    "best F1": "f1",
    "rule-in": "specificity:0.95",
    "one half": "half",
}
PREVALENCES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
_METRICS = ("recall", "specificity", "precision", "npv", "accuracy")


def measure(here: Evaluation, reference: Evaluation) -> list[dict[str, Any]]:
    """Returns the model's own threshold and the named ones, measured here.

    Args:
      here: the split that is evaluated.
      reference: validation, on which the named ones are chosen.
    """
    scored = reference.scored
    points = [("the model's own", "frozen in model.json", here.scored.threshold)]
    truth = scored.labels == scored.positive
    if truth.any() and not truth.all():
        points += [
            (name, rule, thresholds.choose_threshold(truth, scored.score, rule))
            for name, rule in NAMED_RULES.items()
        ]
    return [
        {
            "name": name,
            "rule": rule,
            "threshold": threshold,
            "chosen_on": "validation",
            **_measure_point(
                dataclasses.replace(here.scored, threshold=threshold), here.resamples
            ),
        }
        for name, rule, threshold in points
    ]


def predictive_values(
    sensitivity: ArrayLike, specificity: ArrayLike, prevalence: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """PPV and NPV where a share `prevalence` of those examined is ill (Bayes).

    Args:
      sensitivity: float array.
      specificity: float array.
      prevalence: 0..1, of the population in which the model would be used.

    Returns:
      Two float arrays, NaN where nobody would be called positive, or negative.
    """
    ill = np.asarray(prevalence)
    tp, tn = np.asarray(sensitivity) * ill, np.asarray(specificity) * (1 - ill)
    fn, fp = ill - tp, (1 - ill) - tn
    with np.errstate(invalid="ignore", divide="ignore"):
        return tp / (tp + fp), tn / (tn + fn)


def _measure_point(scored: Scored, resamples: Resamples) -> dict[str, Any]:
    value = _rates(scored, np.ones((1, len(scored.labels))))
    draws = _rates(scored, resamples.weights().astype(np.float64))
    by_prevalence = []
    for prevalence in PREVALENCES:
        both = [
            predictive_values(rates["recall"], rates["specificity"], prevalence)
            for rates in (value, draws)
        ]
        measured = intervals.intervals(
            dict(zip(("ppv", "npv"), both[0], strict=True)),
            dict(zip(("ppv", "npv"), both[1], strict=True)),
            resamples,
        )
        by_prevalence.append({"prevalence": prevalence, **measured})
    return {
        "metrics": intervals.intervals(value, draws, resamples),
        "predictive_values": by_prevalence,
    }


def _rates(scored: Scored, weights: np.ndarray) -> dict[str, np.ndarray]:
    assert scored.positive is not None
    table = classification.confusion(scored, weights)
    rates = classification.class_rates(table)
    positive, negative = scored.positive, 1 - scored.positive
    rates_at = {
        name: rates[name][:, positive]
        for name in ("recall", "specificity", "precision")
    }
    rates_at["npv"] = rates["precision"][:, negative]
    right = np.trace(table, axis1=1, axis2=2)
    rates_at["accuracy"] = classification.ratio(right, table.sum(axis=(1, 2)))
    return {name: rates_at[name] for name in _METRICS}
