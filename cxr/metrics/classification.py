"""Classification metrics under example weights: accuracy, ROC AUC, ECE and others.

Every number is computed once, for a whole matrix of example weights at a time: a
row of ones gives the value itself, a row of bootstrap multiplicities gives the same
value on a resample of the patients. So a metric and its interval cannot disagree
about a definition. Definitions follow scikit-learn with `zero_division=nan`: what is
undefined is NaN here and null in the JSON.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

ECE_BINS = 10
# scikit-learn's clip, so that a confident mistake costs 36, not infinity.
_LOG_EPS = float(np.finfo(np.float64).eps)

DEFINITIONS: Mapping[str, str] = {
    "accuracy": "share of images classified correctly",
    "balanced_accuracy": "mean recall over the classes that occur",
    "precision": "TP / (TP + FP); macro over classes where there are more than two",
    "recall": "TP / (TP + FN), also called sensitivity",
    "specificity": "TN / (TN + FP)",
    "f1": "2 TP / (2 TP + FP + FN)",
    "mcc": "Matthews correlation; 0 where a row or column of the table is empty",
    "roc_auc": "area under the ROC curve, ties count half; macro one-vs-rest",
    "pr_auc": "average precision (step-wise, not interpolated); macro one-vs-rest",
    "brier": "mean squared error of the positive class' probability; macro",
    "ece": f"expected calibration error, {ECE_BINS} equal-mass bins; macro",
    "log_loss": "mean negative log probability of the true class, clipped at 2.2e-16",
    "accuracy_at_0.5": "accuracy if the threshold were 0.5 (two classes only)",
}


@dataclass(frozen=True)
class Scored:
    """Predictions with what is needed to measure them.

    Attributes:
      labels: int [n], 0 .. C-1.
      probabilities: float64 [n, C], rows sum to 1.
      positive: index of the class thresholds speak of; None for C > 2.
      threshold: positive when p >= threshold; None for C > 2 (argmax).
    """

    labels: np.ndarray
    probabilities: np.ndarray
    positive: int | None
    threshold: float | None

    @property
    def num_classes(self) -> int:
        return self.probabilities.shape[1]

    @property
    def classes(self) -> list[int]:
        """The classes that metrics speak of: the positive one of two, else all."""
        if self.positive is None:
            return list(range(self.num_classes))
        return [self.positive]

    @property
    def score(self) -> np.ndarray:
        """The positive class' probability, float64 [n] (two classes only)."""
        return self.probabilities[:, self.positive]

    @property
    def predicted(self) -> np.ndarray:
        """Predicted class index, int [n]."""
        return decide(self.probabilities, self.positive, self.threshold)

    def take(self, examples: np.ndarray) -> "Scored":
        """Returns the predictions of some examples, bool [n]."""
        return replace(
            self,
            labels=self.labels[examples],
            probabilities=self.probabilities[examples],
        )


def decide(
    probabilities: np.ndarray, positive: int | None, threshold: float | None
) -> np.ndarray:
    """The one decision rule: positive when p >= threshold, else the most probable.

    Args:
      probabilities: float [n, C].
      positive: index of the class that the threshold speaks of.
      threshold: None, or more than two classes: the largest probability decides.

    Returns:
      Class index, int [n].
    """
    if positive is None or threshold is None or probabilities.shape[1] != 2:
        return np.argmax(probabilities, axis=1)
    return np.where(probabilities[:, positive] >= threshold, positive, 1 - positive)


def scored(
    labels: np.ndarray,
    probabilities: np.ndarray,
    *,
    positive: int | None,
    threshold: float | None,
) -> Scored:
    """Checks predictions and brings the probabilities to float64.

    Args:
      labels: int [n], 0 .. C-1.
      probabilities: float [n, C].
      positive: index of the positive class; ignored for C > 2.
      threshold: decision threshold of that class; ignored for C > 2.

    Raises:
      ValueError: lengths differ, a label is out of range, a probability is not
        finite or outside [0, 1].
    """
    labels = np.asarray(labels).astype(np.int64)
    exact = exact_probabilities(probabilities)
    if labels.shape != exact.shape[:1]:
        raise ValueError(f"{labels.shape} labels for {exact.shape} probabilities")
    if labels.size and not (labels.min() >= 0 and labels.max() < exact.shape[1]):
        raise ValueError(
            f"labels span {labels.min()}..{labels.max()}, there are "
            f"{exact.shape[1]} classes"
        )
    if exact.shape[1] > 2:
        return Scored(labels, exact, None, None)
    return Scored(labels, exact, positive, threshold)


def exact_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Float [n, C] -> float64 [n, C] whose rows sum to 1 within one ulp.

    Of two columns the smaller keeps its value, to 1e-16, and the first is exactly 1
    less the second: float32 holds 1e-9 but not 1 - 1e-9, and whoever recomputes a
    metric from one column must find what another finds from both.

    Raises:
      ValueError: not two-dimensional with two columns or more, a value that is not
        finite or outside [0, 1] by more than rounding, or an all-zero row.
    """
    values = np.array(probabilities, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] < 2:
        raise ValueError(f"probabilities of shape {values.shape}, wanted [n, C >= 2]")
    if not np.all((values >= -1e-6) & (values <= 1 + 1e-6)):
        raise ValueError("probabilities must be finite and within [0, 1]")
    values = np.clip(values, 0.0, 1.0)
    if values.shape[1] == 2:
        first, second = values.T
        second = np.where(first <= second, 1.0 - first, second)
        return np.stack([1.0 - second, second], axis=1)
    sums = values.sum(axis=1, keepdims=True)
    if np.any(sums == 0):
        raise ValueError("a row of probabilities is all zero")
    # Dividing once more would move last digits and so break ties.
    return np.where(np.abs(sums - 1) < 1e-12, values, values / sums)


def accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Share of rows whose largest probability is the label's; None without rows."""
    if not len(labels):
        return None
    return float(np.mean(np.argmax(probabilities, axis=1) == labels))


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Mean negative log probability of the true class.

    None without rows, and where a probability is not finite.
    """
    if not len(labels) or not np.all(np.isfinite(probabilities)):
        return None
    values = exact_probabilities(probabilities)
    return float(np.mean(_surprise(np.asarray(labels), values)))


def roc_auc(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Area under the ROC curve (macro one-vs-rest beyond two classes).

    Args:
      labels: int [n].
      probabilities: float [n, C].

    Returns:
      0..1, or None where a class has no example, all have the same, or a
      probability is not finite.
    """
    if not len(labels) or not np.all(np.isfinite(probabilities)):
        return None
    values, labels = exact_probabilities(probabilities), np.asarray(labels)
    ones = np.ones((1, len(labels)))
    classes = [1] if values.shape[1] == 2 else range(values.shape[1])
    areas = [ranking_areas(labels == c, values[:, c], ones)[0][0] for c in classes]
    return or_none(float(np.mean(areas)))


def or_none(value: float) -> float | None:
    """The value, or None for NaN: what JSON and people should see."""
    return None if np.isnan(value) else float(value)


def ranking_areas(
    positive: np.ndarray, score: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """ROC AUC and average precision under each row of weights.

    Args:
      positive: bool [n].
      score: float [n].
      weights: float [D, n], >= 0.

    Returns:
      Two float64 [D]; NaN where a row of weights leaves a side without weight
      (average precision only needs positives).
    """
    order, ends = _ranking(score)
    ordered = weights[:, order]
    tp = np.cumsum(ordered * positive[order], axis=1)[:, ends]
    fp = np.cumsum(ordered, axis=1)[:, ends] - tp
    new_tp = np.diff(tp, axis=1, prepend=0.0)
    new_fp = np.diff(fp, axis=1, prepend=0.0)
    all_tp, all_fp = tp[:, -1], fp[:, -1]
    area = np.sum(new_fp * (tp - new_tp / 2), axis=1)
    precision = np.divide(tp, tp + fp, where=tp + fp > 0, out=tp * 0)
    return (
        ratio(area, all_tp * all_fp),
        ratio(np.sum(new_tp * precision, axis=1), all_tp),
    )


def _ranking(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order from the highest score down, and the last place of equal scores."""
    order = np.argsort(-score, kind="stable")
    return order, np.flatnonzero(np.append(np.diff(score[order]) != 0, True))


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Above / below, NaN where below is 0."""
    above, below = np.broadcast_arrays(
        np.asarray(above, np.float64), np.asarray(below, np.float64)
    )
    return np.divide(above, below, where=below != 0, out=np.full(above.shape, np.nan))


def equal_mass_bins(score: np.ndarray, bins: int = ECE_BINS) -> np.ndarray:
    """Bin of each score, int [n], 0 .. bins-1; equal scores share a bin.

    Edges are percentiles, as in scikit-learn's `calibration_curve(strategy=
    "quantile")`; with many ties some bins stay empty.
    """
    edges = np.percentile(score, np.linspace(0, 100, bins + 1)) if len(score) else []
    return np.searchsorted(edges[1:-1], score)


def measure(
    predictions: Scored, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Every metric under each row of weights.

    Args:
      predictions: n checked predictions.
      weights: float [D, n], >= 0; default one row of ones.

    Returns:
      Name -> float64 [D], NaN where undefined; the names of `DEFINITIONS`.
    """
    if weights is None:
        weights = np.ones((1, len(predictions.labels)))
    # Bounds the memory of a large set: 64 MB a block of weights.
    rows = max(1, (64 << 20) // (8 * max(1, weights.shape[1])))
    blocks = [
        _measure_block(predictions, weights[i : i + rows].astype(np.float64))
        for i in range(0, len(weights), rows)
    ]
    return {name: np.concatenate([b[name] for b in blocks]) for name in DEFINITIONS}


def point(predictions: Scored) -> dict[str, float | None]:
    """Every metric's value on the predictions as they are; None where undefined."""
    return {name: or_none(v[0]) for name, v in measure(predictions).items()}


def _measure_block(predictions: Scored, weights: np.ndarray) -> dict[str, np.ndarray]:
    if not len(predictions.labels):
        return {name: np.full(len(weights), np.nan) for name in DEFINITIONS}
    table = confusion(predictions, weights)
    right = np.trace(table, axis1=1, axis2=2)
    result = {
        "accuracy": ratio(right, weights.sum(axis=1)),
        "balanced_accuracy": _mean_defined(class_rates(table)["recall"]),
        "mcc": _matthews(table),
        "log_loss": ratio(
            weights @ _surprise(predictions.labels, predictions.probabilities),
            weights.sum(axis=1),
        ),
    }
    classes = predictions.classes
    if predictions.positive is None:
        result["accuracy_at_0.5"] = np.full(len(weights), np.nan)
    else:
        half = decide(predictions.probabilities, predictions.positive, 0.5)
        result["accuracy_at_0.5"] = ratio(
            weights @ (half == predictions.labels), weights.sum(axis=1)
        )
    rates = class_rates(table)
    for name in ("precision", "recall", "specificity", "f1"):
        result[name] = _mean_defined(rates[name][:, classes])
    scores = [_score_metrics(predictions, c, weights) for c in classes]
    for name in scores[0]:
        result[name] = np.mean([s[name] for s in scores], axis=0)
    return result


def confusion(predictions: Scored, weights: np.ndarray | None = None) -> np.ndarray:
    """Confusion tables, float64 [D, C, C]: rows are truth, columns the prediction."""
    if weights is None:
        weights = np.ones((1, len(predictions.labels)))
    classes = predictions.num_classes
    cell = predictions.labels * classes + predictions.predicted
    one_hot = cell[:, None] == np.arange(classes * classes)
    return (weights @ one_hot.astype(np.float64)).reshape(-1, classes, classes)


def class_rates(table: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall, specificity, F1 of each class against the rest.

    Args:
      table: float [D, C, C] confusion tables.

    Returns:
      Name -> float64 [D, C], NaN where undefined.
    """
    tp = np.diagonal(table, axis1=1, axis2=2)
    truth, claimed = table.sum(axis=2), table.sum(axis=1)
    rest = table.sum(axis=(1, 2))[:, None] - truth
    return {
        "precision": ratio(tp, claimed),
        "recall": ratio(tp, truth),
        "specificity": ratio(rest - (claimed - tp), rest),
        "f1": ratio(2 * tp, truth + claimed),
    }


def _score_metrics(
    predictions: Scored, class_index: int, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Metrics of one class' probability against the rest, each float64 [D]."""
    positive = predictions.labels == class_index
    score = predictions.probabilities[:, class_index]
    areas = ranking_areas(positive, score, weights)
    total, gap = weights.sum(axis=1), positive - score
    # The bins are those of the sample, in every resample too.
    in_bin = equal_mass_bins(score)[:, None] == np.arange(ECE_BINS)
    return {
        "roc_auc": areas[0],
        "pr_auc": areas[1],
        "brier": ratio(weights @ gap**2, total),
        "ece": ratio(np.abs(weights @ (gap[:, None] * in_bin)).sum(axis=1), total),
    }


def losses(predictions: Scored) -> dict[str, np.ndarray]:
    """The metrics that are means of a loss, image by image: float64 [n] each."""
    gaps = [
        (predictions.labels == c) - predictions.probabilities[:, c]
        for c in predictions.classes
    ]
    return {
        "brier": np.mean(np.square(gaps), axis=0),
        "log_loss": _surprise(predictions.labels, predictions.probabilities),
    }


def _matthews(table: np.ndarray) -> np.ndarray:
    """Multi-class Matthews correlation (Gorodkin 2004), 0 where it is 0 / 0."""
    truth, claimed = table.sum(axis=2), table.sum(axis=1)
    total = table.sum(axis=(1, 2))
    right = np.trace(table, axis1=1, axis2=2)
    above = right * total - np.sum(truth * claimed, axis=1)
    below = (total**2 - np.sum(claimed**2, axis=1)) * (
        total**2 - np.sum(truth**2, axis=1)
    )
    return np.nan_to_num(ratio(above, np.sqrt(np.maximum(below, 0.0))))


def _mean_defined(values: np.ndarray) -> np.ndarray:
    """Row means, float64 [D], over what is not NaN; NaN where nothing is."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1))


def _surprise(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """-log p of the true class, float64 [n]."""
    true = probabilities[np.arange(len(labels)), labels]
    return -np.log(np.clip(true, _LOG_EPS, 1 - _LOG_EPS))


def ranking_curves(positive: np.ndarray, score: np.ndarray) -> dict[str, np.ndarray]:
    """The points of the ROC and precision-recall curves, from the highest score down.

    Args:
      positive: bool [n], both classes present.
      score: float [n].

    Returns:
      `false_positive_rate`, `recall` (both from 0) and `precision` (1 at recall 0),
      float64, one point a distinct score and one before the first.
    """
    order, ends = _ranking(score)
    tp = np.cumsum(positive[order])[ends]
    fp = ends + 1 - tp
    return {
        "false_positive_rate": np.append(0.0, fp / max(1, np.sum(~positive))),
        "recall": np.append(0.0, tp / max(1, np.sum(positive))),
        "precision": np.append(1.0, tp / (tp + fp)),
    }


def roc_draws(
    positive: np.ndarray, score: np.ndarray, weights: np.ndarray, grid: np.ndarray
) -> np.ndarray:
    """Sensitivity of each draw at each false positive rate, float64 [D, G].

    Args:
      positive: bool [n].
      score: float [n].
      weights: [D, n], how often each draw holds each film; a draw without one of the
        classes gives NaN.
      grid: float [G], false positive rates, rising from 0 to 1.
    """
    order, ends = _ranking(score)
    found = np.full((len(weights), len(grid)), np.nan)
    ill = positive[order]
    for row, draw in zip(found, weights, strict=True):
        ordered = draw[order].astype(np.float64)
        tp, fp = np.cumsum(ordered * ill)[ends], np.cumsum(ordered * ~ill)[ends]
        if tp[-1] and fp[-1]:
            rates = np.append(0.0, fp / fp[-1]), np.append(0.0, tp / tp[-1])
            row[:] = np.interp(grid, *rates)
    return found
