"""Compares the scores of a split with validation's: a test for data shift."""

from typing import Any

import numpy as np
from scipy import stats

from cxr.metrics import classification
from cxr.metrics.classification import Scored
from cxr.metrics.evaluation import Evaluation

_METRICS = ("accuracy", "recall", "specificity", "roc_auc", "ece")


def measure(here: Evaluation, reference: Evaluation) -> dict[str, Any]:
    """Returns metrics of both splits side by side, and the scores' distances.

    `ks` is the Kolmogorov-Smirnov distance of two score distributions, 0..1.
    """
    scored, validation = here.scored, reference.scored
    values, before = classification.point(scored), classification.point(validation)
    return {
        "here": {name: values[name] for name in _METRICS},
        "validation": {name: before[name] for name in _METRICS},
        "ks": {
            "positive": _distance(scored, validation, positive=True),
            "negative": _distance(scored, validation, positive=False),
        },
        "positive_share": {
            "here": _positive_share(scored),
            "validation": _positive_share(validation),
        },
    }


def _positive_share(scored: Scored) -> float:
    return float(np.mean(scored.labels == scored.positive))


def _distance(scored: Scored, reference: Scored, *, positive: bool) -> float | None:
    sides = [s.score[(s.labels == s.positive) == positive] for s in (scored, reference)]
    if not all(len(side) for side in sides):
        return None
    return float(stats.ks_2samp(*sides, method="asymp").statistic)
