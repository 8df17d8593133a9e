"""Two runs on the same films: whether one is better, or it may be chance."""

from typing import Any

import numpy as np

from cxr.metrics import classification, intervals
from cxr.metrics.predictions import Predictions, check_same_films
from cxr.metrics.summary import Question, judge


def compare(
    tables: tuple[Predictions, Predictions],
    questions: tuple[Question, Question],
    names: tuple[str, str],
) -> dict[str, Any]:
    """Paired differences B - A, with intervals from the same patient resamples.

    Args:
      tables: predictions of A and of B for the same films.
      questions: each with its model's own frozen threshold.
      names: what to call A and B.

    Raises:
      DataError: the tables do not hold the same films, labels and classes.
    """
    check_same_films(*tables)
    scored = [judge(t, q) for t, q in zip(tables, questions, strict=True)]
    question = questions[0]
    resamples = intervals.resample(
        tables[0].patient_ids,
        tables[0].labels,
        draws=question.draws,
        seed=question.seed,
    )
    weights = resamples.weights()
    values = [classification.measure(s) for s in scored]
    draws = [classification.measure(s, weights) for s in scored]
    found = {
        name: _entry(
            *(np.concatenate([values[i][name], draws[i][name]]) for i in (0, 1)),
            resamples,
        )
        for name in classification.DEFINITIONS
    }
    return {
        "schema": 1,
        "split": question.split,
        "n": len(tables[0].labels),
        "n_patients": len(resamples.strata),
        "runs": {"a": names[0], "b": names[1]},
        "differences": found,
        "verdict": _verdict(found, names),
        "draws": question.draws,
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
        if not entry["ci95"]:
            continue
        low, high = entry["ci95"]
        word = "better" if low > 0 else "worse" if high < 0 else "no clear difference"
        shown = f"{entry['value']:+.3f}, 95 %: {low:+.3f} to {high:+.3f}"
        parts.append(f"{word} in {label} ({shown})")
    return f"{names[1]} against {names[0]}: " + "; ".join(parts) + "."
