"""What nine trivial numbers of a film already tell, and what a model adds to them.

A logistic regression on `cxr.images.statistics`: brightness and sharpness, no lung. On
Kermany's training films it reaches an area under the ROC curve of .97 with patients
apart, so a network's .99 on such a split is no proof that it looks at lungs. A model
is judged beside it: by the paired difference on the same patients, and by how well it
ranks films that the baseline cannot tell apart.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cxr.metrics import classification, comparison, intervals
from cxr.metrics.evaluation import Evaluation, measure
from cxr.metrics.predictions import Predictions

FOLDS = 5
STRATA = 5
_COMPARED = ("roc_auc", "accuracy")


class Regression:
    """Logistic regression on standardised numbers, with scikit-learn's L2 of C = 1."""

    def __init__(self, statistics: np.ndarray, labels: np.ndarray):
        """Fits.

        Args:
          statistics: float [N, 9], as `cxr.images.statistics`' of each film.
          labels: int [N], of at least two classes.
        """
        # Here and not above: scikit-learn takes a second to import.
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        # Newton's method ends at the optimum itself, on any machine alike.
        solver = LogisticRegression(solver="newton-cholesky", tol=1e-10)
        self._model = make_pipeline(StandardScaler(), solver)
        self._model.fit(np.asarray(statistics, np.float64), labels)

    def probabilities(self, statistics: np.ndarray, num_classes: int) -> np.ndarray:
        """Returns each film's probabilities, float64 [N, C]; 0 for classes not met."""
        found = np.zeros((len(statistics), num_classes))
        columns = self._model.classes_
        found[:, columns] = self._model.predict_proba(
            np.asarray(statistics, np.float64)
        )
        return found


def cross_validated(
    statistics: np.ndarray, labels: np.ndarray, folds: np.ndarray
) -> np.ndarray:
    """Returns each film's probabilities by a regression that saw other folds only.

    Args:
      statistics: float [N, 9].
      labels: int [N], 0 .. C-1.
      folds: int [N]; every fold's others hold at least two classes.

    Returns:
      float64 [N, C].
    """
    num_classes = int(labels.max()) + 1
    found = np.empty((len(labels), num_classes))
    for fold in np.unique(folds):
        here = folds == fold
        regression = Regression(statistics[~here], labels[~here])
        found[here] = regression.probabilities(statistics[here], num_classes)
    return found


@dataclasses.dataclass(frozen=True)
class Baseline:
    """The baseline's own predictions, as a model's.

    Attributes:
      predictions: of the split that is evaluated.
      validation: of the films that the model's threshold was chosen on.
      fitted_on: number of films that trained it.
      countered: whether the films were chosen because it fails on them, so that a
        difference to a model would mean nothing.
    """

    predictions: Predictions
    validation: Predictions
    fitted_on: int
    countered: bool = False


def together(
    baselines: Sequence[Baseline],
    combine: Callable[[Sequence[Predictions]], Predictions],
) -> Baseline:
    """Returns the baseline beside an ensemble or pooled folds, put together alike."""
    return Baseline(
        predictions=combine([baseline.predictions for baseline in baselines]),
        validation=combine([baseline.validation for baseline in baselines]),
        fitted_on=max(baseline.fitted_on for baseline in baselines),
        countered=any(baseline.countered for baseline in baselines),
    )


def compare(model: Evaluation, baseline: Baseline) -> dict[str, Any]:
    """Puts the baseline beside a model, as metrics.json holds it.

    Args:
      model: its evaluation.
      baseline: on the same films.

    Returns:
      `fitted_on`; `threshold`, chosen on validation by the model's rule; `metrics`;
      `differences`, model - baseline; `strata`; None for what is undefined.
    """
    other = dataclasses.replace(
        model,
        predictions=baseline.predictions,
        threshold=_threshold(model, baseline.validation),
    )
    differences = None
    if not baseline.countered:
        found = comparison.compare(other, model, ("baseline", "model"))["differences"]
        differences = {
            name: {key: found[name][key] for key in ("value", "ci95")}
            for name in _COMPARED
        }
    metrics = measure(other.scored, other.resamples)
    return {
        "fitted_on": baseline.fitted_on,
        "threshold": other.threshold if model.binary else None,
        "metrics": {name: metrics[name] for name in _COMPARED},
        "differences": differences,
        "strata": _strata(model, other) if model.binary else None,
    }


def _threshold(model: Evaluation, validation: Predictions) -> dict[str, Any]:
    """The baseline's threshold, chosen as the model's was; 0.5 where none was."""
    own = dict(model.threshold)
    if own["value"] is None or own["chosen_on"] is None:
        return own
    return model.threshold_on(validation)


def _strata(model: Evaluation, baseline: Evaluation) -> dict[str, Any]:
    """How well both rank films among those that the baseline scores alike.

    Films are cut into strata of equal size by the baseline's score. Of all pairs of a
    positive and a negative in one stratum, `model` and `baseline` are the shares that
    each ranks rightly; the baseline's shows what is left for it within the strata.
    """
    scores = {"model": model.scored.score, "baseline": baseline.scored.score}
    truth = model.scored.labels == model.scored.positive
    stratum = classification.equal_mass_bins(scores["baseline"], STRATA)
    draws = model.resamples.weights()
    weights = np.concatenate([np.ones((1, len(truth)), draws.dtype), draws])
    pairs = np.zeros(len(weights))
    right = {name: np.zeros(len(weights)) for name in scores}
    each = []
    for index in np.unique(stratum):
        here = stratum == index
        ill, of = truth[here], weights[:, here].astype(np.float64)
        count = (of * ill).sum(axis=1) * (of * ~ill).sum(axis=1)
        pairs += count
        row: dict[str, Any] = {
            "lowest": float(scores["baseline"][here].min()),
            "highest": float(scores["baseline"][here].max()),
            "n": len(ill),
            "positives": int(ill.sum()),
        }
        for name, score in scores.items():
            area, _ = classification.ranking_areas(ill, score[here], of)
            right[name] += np.where(count > 0, area * count, 0)
            row[name] = classification.or_none(area[0])
        each.append(row)
    shares = {name: classification.ratio(n, pairs) for name, n in right.items()}
    pooled = {
        name: intervals.with_interval("roc_auc", share[0], share[1:], model.resamples)
        for name, share in shares.items()
    }
    return {**pooled, "each": each}
