"""A split's predictions judged: everything that metrics.json says.

Works on predictions alone (no model, no films, no TensorFlow), so that whoever has
predictions.csv can repeat it. Thresholds and the temperature come from validation;
nothing here chooses anything on the split that is judged.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cxr import reference_set
from cxr.metrics import (
    calibration,
    classification,
    intervals,
    subgroups,
    thresholds,
    transfer,
)
from cxr.metrics.predictions import Predictions

SCHEMA = 1
_SUBGROUP_METRICS = ("accuracy", "recall", "specificity", "roc_auc")
_PER_CLASS = ("precision", "recall", "specificity", "f1", "roc_auc", "pr_auc")


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked of a table of predictions.

    Attributes:
      split: name of the split that is judged.
      positive_class: class that thresholds speak of.
      threshold: {"value", "rule", "chosen_on"} of the model; value None for C > 2.
      draws: patient resamples behind the intervals.
      seed: of the resampling.
    """

    split: str
    positive_class: str
    threshold: Mapping[str, Any]
    draws: int = intervals.DRAWS
    seed: int = 0


def summarise(
    table: Predictions,
    question: Question,
    *,
    rows: Sequence[Mapping[str, str]] = (),
    validation: Predictions | None = None,
) -> dict[str, Any]:
    """Judges a table of predictions.

    Args:
      table: predictions of every film of the split.
      question: what to ask.
      rows: the split's rows of examples.csv, for the subgroups.
      validation: predictions of the validation split, for operating points,
        temperature and the shift report; left out, so are those.

    Returns:
      The content of metrics.json (without provenance), ready for JSON.
    """
    scored = judge(table, question)
    resamples = intervals.resample(
        table.patient_ids, scored.labels, draws=question.draws, seed=question.seed
    )
    binary = scored.positive is not None
    reference = judge(validation, question) if validation else None
    result = {
        "schema": SCHEMA,
        "split": question.split,
        "n": len(scored.labels),
        "n_patients": len(resamples.strata),
        "class_names": list(table.class_names),
        "positive_class": question.positive_class if binary else None,
        "class_counts": _class_counts(table),
        "threshold": dict(question.threshold) if binary else None,
        "metrics": measure(scored, resamples),
        "majority": _majority(table),
        "confusion_matrix": classification.confusion(scored)[0].astype(int).tolist(),
        "per_class": per_class(scored, table.class_names, resamples),
        "subgroups": judge_subgroups(scored, resamples, subgroups.groupings(rows)),
        "operating_points": [],
        "calibration": judge_calibration(scored, reference, resamples),
        "shift": None,
        "collapsed": None,
        "intervals": {
            "method": intervals.METHOD,
            "level": 0.95,
            "draws": question.draws,
            "seed": question.seed,
        },
        "definitions": dict(classification.DEFINITIONS),
    }
    if binary and reference:
        result["operating_points"] = transfer.judge_operating_points(
            scored, reference, resamples
        )
        result["shift"] = transfer.shift(scored, reference)
    if not binary:
        result["collapsed"] = collapsed(table, question, validation)
    return result


def judge(table: Predictions, question: Question) -> classification.Scored:
    """Brings a table together with the frozen threshold."""
    return classification.scored(
        table.labels,
        table.probabilities,
        positive=table.class_names.index(question.positive_class),
        threshold=question.threshold["value"],
    )


def measure(
    scored: classification.Scored, resamples: intervals.Resamples
) -> dict[str, dict[str, Any]]:
    """Every metric with its interval."""
    found = intervals.intervals(
        classification.measure(scored),
        classification.measure(scored, resamples.weights()),
        resamples,
    )
    for name, losses in classification.losses(scored).items():
        found[name] = intervals.mean_loss(losses, resamples)
    return found


def per_class(
    scored: classification.Scored,
    class_names: Sequence[str],
    resamples: intervals.Resamples,
) -> dict[str, dict[str, Any]]:
    """Each class against the rest: plain values, their intervals under `ci95`."""
    values = _class_metrics(scored, np.ones((1, len(scored.labels))))
    draws = _class_metrics(scored, resamples.weights())
    result = {}
    for index, name in enumerate(class_names):
        found = intervals.intervals(
            {m: values[m][:, index] for m in _PER_CLASS},
            {m: draws[m][:, index] for m in _PER_CLASS},
            resamples,
        )
        result[name] = {
            "n": int(np.sum(scored.labels == index)),
            **{m: entry["value"] for m, entry in found.items()},
            "ci95": {m: entry["ci95"] for m, entry in found.items()},
        }
    return result


def _class_metrics(
    scored: classification.Scored, weights: np.ndarray
) -> dict[str, np.ndarray]:
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


def judge_subgroups(
    scored: classification.Scored,
    resamples: intervals.Resamples,
    groupings: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, Any]]:
    """The main metrics inside each group.

    A group that holds one class only (a subtype) has no ROC AUC of its own: its
    films are then ranked against all films of the other classes, which
    `roc_auc_against` says.
    """
    result = {}
    for grouping, groups in groupings.items():
        groups = np.array(groups)
        result[grouping] = {
            name: _judge_group(scored, resamples, groups == name)
            for name in sorted(set(groups) - {""}, key=subgroups.order)
        }
    return result


def _judge_group(
    scored: classification.Scored, resamples: intervals.Resamples, inside: np.ndarray
) -> dict[str, Any]:
    classes = np.unique(scored.labels[inside])
    found = measure(_take(scored, inside), resamples.within(inside))
    against = "the group itself"
    if len(classes) == 1 and scored.positive is not None:
        ranked = inside | (scored.labels != classes[0])
        wider = resamples.within(ranked)
        found["roc_auc"] = measure(_take(scored, ranked), wider)["roc_auc"]
        against = "all films of the other class"
    return {
        "n": int(inside.sum()),
        "n_patients": len(resamples.within(inside).strata),
        "roc_auc_against": against,
        "metrics": {name: found[name] for name in _SUBGROUP_METRICS},
    }


def _take(scored: classification.Scored, films: np.ndarray) -> classification.Scored:
    return dataclasses.replace(
        scored, labels=scored.labels[films], probabilities=scored.probabilities[films]
    )


def judge_calibration(
    scored: classification.Scored,
    reference: classification.Scored | None,
    resamples: intervals.Resamples,
) -> dict[str, Any]:
    """Reliability bins, the noise floor of the ECE, and the fitted temperature."""
    classes = (
        range(scored.num_classes) if scored.positive is None else [scored.positive]
    )
    result = {
        "bins": {
            int(c): calibration.reliability(
                scored.labels == c, scored.probabilities[:, c], resamples
            )
            for c in classes
        },
        "ece_if_perfect": float(
            np.mean(
                [calibration.noise_floor(scored.probabilities[:, c]) for c in classes]
            )
        ),
        "mean_predicted": [float(v) for v in scored.probabilities.mean(axis=0)],
        "observed": [
            float(np.mean(scored.labels == c)) for c in range(scored.num_classes)
        ],
        "temperature": None,
    }
    if reference:
        result["temperature"] = calibration.temperature_report(
            scored, reference, resamples
        )
    return result


def collapsed(
    table: Predictions, question: Question, validation: Predictions | None
) -> dict[str, Any] | None:
    """The binary reading of a subtype model: the class NORMAL against all others.

    The threshold is Youden's on validation, 0.5 without validation. None where no
    class is called normal.
    """
    normal = [n for n in table.class_names if reference_set.is_normal(n)]
    if not normal:
        return None
    binary = collapse(table, normal[0])
    positive = binary.class_names[1]
    threshold = {"value": 0.5, "rule": "half", "chosen_on": None}
    if validation:
        reference = collapse(validation, normal[0])
        threshold["value"] = thresholds.choose_threshold(
            reference.labels == 1, reference.probabilities[:, 1], "youden"
        )
        threshold.update(rule="youden", chosen_on="validation")
    asked = dataclasses.replace(question, positive_class=positive, threshold=threshold)
    scored = judge(binary, asked)
    resamples = intervals.resample(
        binary.patient_ids, binary.labels, draws=question.draws, seed=question.seed
    )
    return {
        "negative_class": normal[0],
        "positive_class": positive,
        "threshold": threshold,
        "metrics": measure(scored, resamples),
        "majority": _majority(binary),
        "confusion_matrix": classification.confusion(scored)[0].astype(int).tolist(),
    }


def collapse(table: Predictions, negative_class: str) -> Predictions:
    """Two classes out of many: `negative_class` (0) against all others (1)."""
    index = table.class_names.index(negative_class)
    others = [name for name in table.class_names if name != negative_class]
    negative = table.probabilities[:, index]
    return dataclasses.replace(
        table,
        labels=(table.labels != index).astype(np.int64),
        probabilities=np.stack([negative, 1 - negative], axis=1),
        class_names=(negative_class, " or ".join(others)),
    )


def _class_counts(table: Predictions) -> dict[str, int]:
    counts = np.bincount(table.labels, minlength=len(table.class_names))
    return {n: int(c) for n, c in zip(table.class_names, counts, strict=True)}


def _majority(table: Predictions) -> dict[str, Any]:
    """What always answering the most common class would reach."""
    counts = _class_counts(table)
    name = max(counts, key=counts.get)
    return {"class": name, "accuracy": counts[name] / len(table.labels)}
