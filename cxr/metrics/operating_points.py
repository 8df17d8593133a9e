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
_LOW, _HIGH = "screening", "rule-in"
_TARGETS = {"sensitivity": "recall", "specificity": "specificity"}
_METRICS = ("recall", "specificity", "precision", "npv", "accuracy")


def measure(here: Evaluation, reference: Evaluation) -> list[dict[str, Any]]:
    """Returns the model's own threshold and the named ones, measured here.

    Each has `name`, `rule` (which chose the threshold), `threshold`, `chosen_on`
    (None for a fixed one), `target` (None, or the `metric` and the `value` that its
    name promises), `missed` (whether it is not reached here), `metrics`, `validation`
    (the same there) and `predictive_values`.

    Args:
      here: the split that is evaluated.
      reference: validation, on which the named ones are chosen.
    """
    scored = reference.scored
    own = {
        "name": "the model's own",
        "rule": here.threshold["rule"],
        "threshold": here.scored.threshold,
        "chosen_on": _chosen_on(here.threshold["rule"], here.threshold["chosen_on"]),
        "target": None,
    }
    truth = scored.labels == scored.positive
    named = choose(truth, scored.score) if truth.any() and not truth.all() else []
    return [_measured(point, here, reference) for point in (own, *named)]


def _measured(
    point: dict[str, Any], here: Evaluation, reference: Evaluation
) -> dict[str, Any]:
    """Adds what the threshold reaches, here and on validation."""
    rates = _drawn_rates(here, point["threshold"])
    before = _drawn_rates(reference, point["threshold"])
    metrics = intervals.intervals(*rates, here.resamples)
    target, missed = point["target"], False
    if target:
        reached = metrics[target["metric"]]["value"]
        missed = reached is not None and reached < target["value"]
    return {
        **point,
        "missed": missed,
        "metrics": metrics,
        "predictive_values": _predictive_values(*rates, here.resamples),
        "validation": intervals.intervals(*before, reference.resamples),
    }


def choose(positive: np.ndarray, score: np.ndarray) -> list[dict[str, Any]]:
    """Chooses the named thresholds; ruling in never cuts below screening.

    Screening takes the highest threshold that keeps its sensitivity, ruling in the
    lowest that keeps its specificity. Of a model good enough to keep both at once the
    first lies above the second. Then they change places: each keeps its own target
    all the more, and the names mean what they say.

    Args:
      positive: bool [n], both classes present.
      score: float [n], 0..1.
    """
    rules = dict(NAMED_RULES)
    chosen = {
        name: thresholds.choose_threshold(positive, score, rule)
        for name, rule in rules.items()
    }
    if chosen[_HIGH] < chosen[_LOW]:
        chosen[_LOW], chosen[_HIGH] = chosen[_HIGH], chosen[_LOW]
        rules[_LOW], rules[_HIGH] = rules[_HIGH], rules[_LOW]
    return [
        {
            "name": name,
            "rule": rules[name],
            "threshold": threshold,
            "chosen_on": _chosen_on(rules[name], "validation"),
            "target": _target(NAMED_RULES[name]),
        }
        for name, threshold in chosen.items()
    ]


def _target(rule: str) -> dict[str, Any] | None:
    """What a rule such as `sensitivity:0.98` promises; None of the others."""
    name, colon, value = rule.partition(":")
    if not colon:
        return None
    return {"metric": _TARGETS[name], "value": float(value)}


def _chosen_on(rule: str, split: str | None) -> str | None:
    return None if rule == "half" else split


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


def _drawn_rates(
    evaluation: Evaluation, threshold: float
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns the rates at a threshold, float64 [1] each, and of the draws, [D]."""
    scored = dataclasses.replace(evaluation.scored, threshold=threshold)
    weights = evaluation.resamples.weights().astype(np.float64)
    return _rates(scored, np.ones((1, len(scored.labels)))), _rates(scored, weights)


def _predictive_values(
    value: dict[str, np.ndarray], draws: dict[str, np.ndarray], resamples: Resamples
) -> list[dict[str, Any]]:
    """Returns PPV and NPV at each prevalence, of `_drawn_rates`."""
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
    return by_prevalence


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
