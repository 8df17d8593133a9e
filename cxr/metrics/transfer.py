"""What was chosen on validation, judged on another split: thresholds and scores."""

import dataclasses
from typing import Any

import numpy as np

from cxr.metrics import classification, intervals, thresholds

_POINT_METRICS = ("recall", "specificity", "precision", "npv", "accuracy")


def judge_operating_points(
    scored: classification.Scored,
    reference: classification.Scored,
    resamples: intervals.Resamples,
) -> list[dict[str, Any]]:
    """Named thresholds, chosen on the reference (validation), judged here."""
    points = [("the model's own", "frozen in model.json", scored.threshold)]
    truth = reference.labels == reference.positive
    if truth.any() and not truth.all():
        points += [
            (
                name,
                rule,
                thresholds.choose_threshold(truth, reference.score, rule),
            )
            for name, rule in thresholds.NAMED_RULES.items()
        ]
    return [
        {
            "name": name,
            "rule": rule,
            "threshold": value,
            "chosen_on": "validation",
            **_judge_point(dataclasses.replace(scored, threshold=value), resamples),
        }
        for name, rule, value in points
    ]


def _judge_point(
    scored: classification.Scored, resamples: intervals.Resamples
) -> dict[str, Any]:
    value = _point_rates(scored, np.ones((1, len(scored.labels))))
    draws = _point_rates(scored, resamples.weights().astype(np.float64))
    by_prevalence = []
    for prevalence in thresholds.PREVALENCES:
        both = [
            thresholds.predictive_values(
                rates["recall"], rates["specificity"], prevalence
            )
            for rates in (value, draws)
        ]
        found = intervals.intervals(
            dict(zip(("ppv", "npv"), both[0], strict=True)),
            dict(zip(("ppv", "npv"), both[1], strict=True)),
            resamples,
        )
        by_prevalence.append({"prevalence": prevalence, **found})
    return {
        "metrics": intervals.intervals(value, draws, resamples),
        "predictive_values": by_prevalence,
    }


def _point_rates(
    scored: classification.Scored, weights: np.ndarray
) -> dict[str, np.ndarray]:
    table = classification.confusion(scored, weights)
    rates = classification.class_rates(table)
    positive, negative = scored.positive, 1 - scored.positive
    found = {m: rates[m][:, positive] for m in ("recall", "specificity", "precision")}
    found["npv"] = rates["precision"][:, negative]
    right = np.trace(table, axis1=1, axis2=2)
    found["accuracy"] = classification.ratio(right, table.sum(axis=(1, 2)))
    return {name: found[name] for name in _POINT_METRICS}


def shift(
    scored: classification.Scored, reference: classification.Scored
) -> dict[str, Any]:
    """How far this split's scores lie from validation's, class by class.

    `ks` is the Kolmogorov-Smirnov distance of two score distributions, 0..1.
    """
    names = ("accuracy", "recall", "specificity", "roc_auc", "ece")
    here, there = classification.point(scored), classification.point(reference)
    return {
        "here": {name: here[name] for name in names},
        "validation": {name: there[name] for name in names},
        "ks": {
            "positive": _ks(scored, reference, positive=True),
            "negative": _ks(scored, reference, positive=False),
        },
        "positive_share": {
            "here": float(np.mean(scored.labels == scored.positive)),
            "validation": float(np.mean(reference.labels == reference.positive)),
        },
    }


def _ks(
    scored: classification.Scored, reference: classification.Scored, *, positive: bool
) -> float | None:
    sides = [
        np.sort(s.score[(s.labels == s.positive) == positive])
        for s in (scored, reference)
    ]
    if not all(len(side) for side in sides):
        return None
    levels = np.concatenate(sides)
    shares = [np.searchsorted(s, levels, side="right") / len(s) for s in sides]
    return float(np.abs(shares[0] - shares[1]).max())
