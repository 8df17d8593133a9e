"""Compares two runs' metrics on the same examples, with paired intervals."""

from typing import Any

import numpy as np

from cxr.metrics import classification, intervals
from cxr.metrics.evaluation import Evaluation
from cxr.metrics.predictions import check_same_examples


def compare(
    first: Evaluation, second: Evaluation, names: tuple[str, str]
) -> dict[str, Any]:
    """Paired differences B - A, with intervals from the same patient resamples.

    Args:
      first: of A.
      second: of B on the same examples; each has its model's own frozen threshold.
      names: what to call A and B.

    Raises:
      DataError: they do not hold the same examples, labels and classes.
    """
    check_same_examples(first.predictions, second.predictions)
    resamples = first.resamples
    weights = resamples.weights()
    values = [classification.measure(e.scored) for e in (first, second)]
    draws = [classification.measure(e.scored, weights) for e in (first, second)]
    differences = {
        name: _entry(
            np.concatenate([values[0][name], draws[0][name]]),
            np.concatenate([values[1][name], draws[1][name]]),
            resamples,
        )
        for name in classification.DEFINITIONS
    }
    return {
        "schema": 1,
        "split": first.split,
        "n": len(first.predictions.labels),
        "n_patients": len(resamples.strata),
        "n_without_patient": first.without_patient,
        "runs": {"a": names[0], "b": names[1]},
        "differences": differences,
        "verdict": _verdict(differences, names),
        "draws": first.draws,
    }


def _entry(
    first: np.ndarray, second: np.ndarray, resamples: intervals.Resamples
) -> dict[str, Any]:
    gap, low, high = intervals.difference(first, second, resamples)
    known = np.isfinite([gap, low, high]).all()
    return {
        "a": classification.or_none(first[0]),
        "b": classification.or_none(second[0]),
        "value": classification.or_none(gap),
        "ci95": [low, high] if known else None,
    }


def _verdict(found: dict[str, dict[str, Any]], names: tuple[str, str]) -> str:
    """One line: the ranking first, then the decisions."""
    parts = []
    for name, label in (("roc_auc", "ROC AUC"), ("accuracy", "accuracy")):
        entry = found[name]
        if entry["value"] is None:
            parts.append(f"{label} is undefined here")
            continue
        if not entry["ci95"]:
            parts.append(f"{entry['value']:+.3f} in {label}, no interval")
            continue
        low, high = entry["ci95"]
        word = "better" if low > 0 else "worse" if high < 0 else "no clear difference"
        shown = f"{entry['value']:+.3f}, 95 %: {low:+.3f} to {high:+.3f}"
        parts.append(f"{word} in {label} ({shown})")
    return f"{names[1]} against {names[0]}: " + "; ".join(parts) + "."
