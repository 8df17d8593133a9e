"""Computes the content of metrics.json from a split's predictions.

Works on predictions alone (no model, no images, no TensorFlow), so that whoever has
predictions.csv can repeat it. Thresholds and the temperature come from validation;
nothing here chooses anything on the split that is evaluated.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cxr import class_names
from cxr.metrics import (
    calibration,
    classification,
    intervals,
    operating_points,
    shift,
    subgroups,
    thresholds,
    trivial_baseline,
)
from cxr.metrics.classification import Scored
from cxr.metrics.evaluation import Evaluation, measure
from cxr.metrics.predictions import Predictions

SCHEMA = 1
_PER_CLASS = ("precision", "recall", "specificity", "f1", "roc_auc", "pr_auc")


def summarise(
    evaluation: Evaluation,
    *,
    rows: Sequence[Mapping[str, str]] = (),
    validation: Predictions | None = None,
    baseline: trivial_baseline.Baseline | None = None,
) -> dict[str, Any]:
    """Measures predictions.

    Args:
      evaluation: predictions of a split and what is asked of them.
      rows: the split's rows of examples.csv and attributes.csv, for the subgroups.
      validation: predictions of validation, for operating points, temperature and
        the shift report; left out, so are those.
      baseline: the trivial baseline's predictions.

    Returns:
      The content of metrics.json (without provenance), ready for JSON.
    """
    scored, binary = evaluation.scored, evaluation.binary
    reference = evaluation.of(validation) if validation else None
    groupings = subgroups.groupings(rows)
    result = {
        "schema": SCHEMA,
        "split": evaluation.split,
        "n": len(scored.labels),
        "n_patients": len(evaluation.resamples.strata),
        "n_without_patient": evaluation.without_patient,
        "class_names": list(evaluation.class_names),
        "positive_class": evaluation.positive_class if binary else None,
        "class_counts": evaluation.class_counts,
        "threshold": dict(evaluation.threshold) if binary else None,
        "metrics": measure(scored, evaluation.resamples),
        "majority": evaluation.majority,
        "confusion_matrix": _confusion_matrix(scored),
        "per_class": per_class(evaluation),
        "subgroups": (groups := subgroups.measure(evaluation, groupings)),
        "subgroup_notes": subgroups.notes(evaluation, rows, groupings, groups),
        "operating_points": [],
        "calibration": calibration.measure(evaluation, reference),
        "shift": None,
        "collapsed": None,
        "trivial_baseline": None,
        "intervals": {
            "method": intervals.METHOD,
            "level": 0.95,
            "draws": evaluation.draws,
            "seed": evaluation.seed,
        },
        "definitions": dict(classification.DEFINITIONS),
    }
    if baseline:
        result["trivial_baseline"] = trivial_baseline.compare(evaluation, baseline)
    if binary and reference:
        result["operating_points"] = operating_points.measure(evaluation, reference)
        result["shift"] = shift.measure(evaluation, reference)
    if not binary:
        result["collapsed"] = collapsed(evaluation, validation)
    return result


def per_class(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """Each class against the rest: plain values, their intervals under `ci95`."""
    scored, resamples = evaluation.scored, evaluation.resamples
    values = _class_metrics(scored, np.ones((1, len(scored.labels))))
    draws = _class_metrics(scored, resamples.weights())
    result = {}
    for index, name in enumerate(evaluation.class_names):
        measured = intervals.intervals(
            {m: values[m][:, index] for m in _PER_CLASS},
            {m: draws[m][:, index] for m in _PER_CLASS},
            resamples,
        )
        result[name] = {
            "n": int(np.sum(scored.labels == index)),
            **{m: entry["value"] for m, entry in measured.items()},
            "ci95": {m: entry["ci95"] for m, entry in measured.items()},
        }
    return result


def _class_metrics(scored: Scored, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The per-class metrics under each row of weights, float64 [D, C] each."""
    weights = weights.astype(np.float64)
    areas = [
        classification.ranking_areas(
            scored.labels == c, scored.probabilities[:, c], weights
        )
        for c in range(scored.num_classes)
    ]
    roc, pr = (np.stack(parts, axis=1) for parts in zip(*areas, strict=True))
    rates = classification.class_rates(classification.confusion(scored, weights))
    return {**rates, "roc_auc": roc, "pr_auc": pr}


def _confusion_matrix(scored: Scored) -> list[list[int]]:
    return classification.confusion(scored)[0].astype(int).tolist()


def collapsed(
    evaluation: Evaluation, validation: Predictions | None
) -> dict[str, Any] | None:
    """The binary reading of a subtype model: the class NORMAL against all others.

    The threshold is Youden's on validation; 0.5 without validation, or where it lacks
    one of the two. None where no class is called normal.
    """
    normal = [n for n in evaluation.class_names if class_names.means_healthy(n)]
    if not normal:
        return None
    threshold = {"value": 0.5, "rule": "half", "chosen_on": None}
    reference = collapse(validation, normal[0]) if validation else None
    if reference and len(np.unique(reference.labels)) == 2:
        value = thresholds.choose_threshold(
            reference.labels == 1, reference.probabilities[:, 1], "youden"
        )
        threshold = {"value": value, "rule": "youden", "chosen_on": "validation"}
    predictions = collapse(evaluation.predictions, normal[0])
    binary = dataclasses.replace(
        evaluation,
        predictions=predictions,
        positive_class=predictions.class_names[1],
        threshold=threshold,
    )
    return {
        "negative_class": normal[0],
        "positive_class": binary.positive_class,
        "threshold": threshold,
        "metrics": measure(binary.scored, binary.resamples),
        "majority": binary.majority,
        "confusion_matrix": _confusion_matrix(binary.scored),
    }


def collapse(predictions: Predictions, negative_class: str) -> Predictions:
    """Two classes out of many: `negative_class` (0) against all others (1)."""
    index = predictions.class_names.index(negative_class)
    others = [name for name in predictions.class_names if name != negative_class]
    negative = predictions.probabilities[:, index]
    return dataclasses.replace(
        predictions,
        labels=(predictions.labels != index).astype(np.int64),
        probabilities=np.stack([negative, 1 - negative], axis=1),
        class_names=(negative_class, " or ".join(others)),
    )
