"""Confidence intervals from a bootstrap over patients.

Images of one patient resemble each other, so one is not an independent observation:
resampling images gives intervals that are too narrow. Patients are drawn, each with
all its images (the cluster bootstrap: Field and Welsh 2007), within their class as the
splits are cut, and every metric is computed on all draws at once.

The interval is the value -+ t standard errors of the draws on the logit scale
(Fisher's z for the Matthews correlation), mapped back. Plain percentiles
under-cover for good classifiers, whose metrics sit skewed below 1; the logit scale is
what Korn and Graubard (1998) use for proportions from clustered surveys and Pepe
(2003, section 5.2) for the area under the ROC curve. Mean losses get a bootstrap-t.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import betaincinv, expit, logit, stdtrit

DRAWS = 1000
_FEW = 10
_AREAS = ("roc_auc", "pr_auc")
METHOD = (
    "patient bootstrap, stratified by the patient's class; value -+ t standard "
    "errors of the draws on the logit scale; mean losses by bootstrap-t, the ECE by "
    "percentiles"
)


@dataclass(frozen=True)
class Resamples:
    """Patients drawn with replacement.

    Attributes:
      counts: uint16 [D, P], how often a draw holds each patient.
      patient: int [n], which of the P patients each image belongs to.
      strata: int [P], the class each patient was drawn within.
    """

    counts: np.ndarray
    patient: np.ndarray
    strata: np.ndarray

    def weights(self) -> np.ndarray:
        """How often each draw holds each image, uint16 [D, n]."""
        return self.counts[:, self.patient]

    def within(self, images: np.ndarray) -> "Resamples":
        """The same draws for some images only, bool [n], and their patients."""
        kept, patient = np.unique(self.patient[images], return_inverse=True)
        return Resamples(self.counts[:, kept], patient, self.strata[kept])

    def smallest_stratum(self) -> int:
        """Patients in the smallest class."""
        return int(np.bincount(self.strata)[np.unique(self.strata)].min())


def resample(
    patient_ids: Sequence[str], labels: np.ndarray, *, draws: int = DRAWS, seed: int = 0
) -> Resamples:
    """Draws patients within classes; a patient's class is that of most of its images.

    Args:
      patient_ids: patient of each of the n images.
      labels: int [n].
      draws: number of resamples D.
      seed: of the generator; the same seed gives the same draws.
    """
    names, patient = np.unique(np.asarray(patient_ids, dtype=str), return_inverse=True)
    votes = np.zeros((len(names), int(labels.max()) + 1), np.int64)
    np.add.at(votes, (patient, labels), 1)
    strata = votes.argmax(axis=1)
    generator = np.random.default_rng(seed)
    counts = np.zeros((draws, len(names)), np.uint16)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        even = np.full(len(members), 1 / len(members))
        counts[:, members] = generator.multinomial(len(members), even, size=draws)
    return Resamples(counts, patient, strata)


def intervals(
    values: Mapping[str, np.ndarray],
    draws: Mapping[str, np.ndarray],
    resamples: Resamples,
) -> dict[str, dict[str, Any]]:
    """Each metric with its 95 % interval, as metrics.json holds them.

    Args:
      values: name -> float [1], the metric on the images as they are.
      draws: name -> float [D], the metric on each draw.
      resamples: what the draws were made of.

    Returns:
      name -> {"value": float | None, "ci95": [low, high] | None}.
    """
    return {
        name: with_interval(name, float(value[0]), draws[name], resamples)
        for name, value in values.items()
    }


def exact(share: float, count: int) -> list[float]:
    """The exact 95 % interval of a share of `count` independent draws.

    Clopper and Pearson 1934; of a share that is no multiple of 1 / count, with the
    beta distribution's parameters between.
    """
    hits = share * count
    low = float(betaincinv(hits, count - hits + 1, 0.025)) if hits else 0.0
    high = float(betaincinv(hits + 1, count - hits, 0.975)) if hits < count else 1.0
    return [low, high]


def with_interval(
    name: str, value: float, draws: np.ndarray, resamples: Resamples
) -> dict[str, Any]:
    """One metric with its interval; both null where the metric is undefined."""
    if np.isnan(value):
        return {"value": None, "ci95": None}
    known = draws[np.isfinite(draws)]
    # A metric that most draws cannot compute has no interval worth showing.
    if len(known) < max(2, len(draws) / 2):
        return {"value": value, "ci95": None}
    # One patient of a class says nothing about the next, nor do a few equal ones.
    few = resamples.smallest_stratum()
    if few < 2 or (few < _FEW and np.ptp(known) == 0 and 0 < value < 1):
        return {"value": value, "ci95": None}
    low, high = _interval(name, value, known, resamples)
    return {"value": value, "ci95": [float(low), float(high)]}


def mean_loss(losses: np.ndarray, resamples: Resamples) -> dict[str, Any]:
    """A mean of non-negative losses with its interval: bootstrap-t on the log scale.

    A few large losses carry such a mean, so that its error grows with it; dividing
    each draw by its own standard error (Efron and Tibshirani 1993, section 12.5)
    keeps the coverage that a common error loses.

    Args:
      losses: float [n], one an image.
      resamples: of the same images.
    """
    patients = len(resamples.strata)
    sums = np.bincount(resamples.patient, losses, patients)
    images = np.bincount(resamples.patient, minlength=patients).astype(np.float64)
    value, error = _mean_and_error(np.ones((1, patients)), sums, images)
    if resamples.smallest_stratum() < 2:
        return {"value": float(value[0]), "ci95": None}
    if value[0] <= 0 or error[0] == 0:
        return {"value": float(value[0]), "ci95": [float(value[0])] * 2}
    means, errors = _mean_and_error(resamples.counts.astype(np.float64), sums, images)
    sound = (means > 0) & (errors > 0)
    distance = np.log(means[sound] / value) * means[sound] / errors[sound]
    if sound.sum() < max(2, len(means) / 2):
        return {"value": float(value[0]), "ci95": None}
    low, high = np.quantile(distance, [0.025, 0.975])
    # A handful of patients can send the upper end anywhere; e^20 times is "unknown".
    reach = -np.array([high, low]) * error[0] / value[0]
    if reach[1] > 20:
        return {"value": float(value[0]), "ci95": None}
    return {"value": float(value[0]), "ci95": (value[0] * np.exp(reach)).tolist()}


def _mean_and_error(
    counts: np.ndarray, sums: np.ndarray, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Means over images and their errors from the patients' residuals, float64 [D]."""
    total = np.maximum(counts @ images, 1.0)  # a draw without images is not sound
    mean = counts @ sums / total
    squares = (
        counts @ sums**2
        - 2 * mean * (counts @ (sums * images))
        + mean**2 * (counts @ images**2)
    )
    return mean, np.sqrt(np.maximum(squares, 0.0)) / total


def difference(first: np.ndarray, second: np.ndarray, resamples: Resamples) -> list:
    """95 % interval of a paired difference.

    Args:
      first: float [1 + D], a metric of model A: the value, then its draws.
      second: the same metric of model B on the same draws.
      resamples: the common draws.

    Returns:
      [value, low, high] of B - A; NaN where undefined, as the bounds are where a
      class has one patient: they say nothing about the next.
    """
    gap = np.asarray(second) - np.asarray(first)
    if resamples.smallest_stratum() < 2 or np.isfinite(gap[1:]).sum() < 2:
        return [float(gap[0]), float("nan"), float("nan")]
    half = _quantile(resamples) * np.nanstd(gap[1:], ddof=1)
    return [float(gap[0]), float(gap[0] - half), float(gap[0] + half)]


def _interval(
    name: str, value: float, draws: np.ndarray, resamples: Resamples
) -> tuple[float, float]:
    t, error = _quantile(resamples), draws.std(ddof=1)
    if value in (0.0, 1.0) and error == 0:
        # No draw can show an error that no image shows: the exact binomial bound of
        # "none in n patients" instead, n being the smallest class.
        bound = 0.025 ** (1 / resamples.smallest_stratum())
        return (bound, 1.0) if value == 1.0 else (0.0, 1 - bound)
    if name == "ece":
        # The draws carry the estimate's upward bias a second time. The reverse
        # percentile takes it out of the lower end; the upper end stays.
        top = np.quantile(draws, 0.975)
        return max(0.0, min(value, 2 * value - top)), max(value, top)
    if name == "mcc":
        # (1 + mcc) / 2 lies within 0..1, and its logit is twice Fisher's z.
        low, high = _logit_interval((1 + value) / 2, t * error / 2)
        return 2 * low - 1, 2 * high - 1
    if name in _AREAS:
        return _area_interval(value, draws, resamples)
    return _logit_interval(value, t * error)


def _logit_interval(value: float, half: float) -> tuple[float, float]:
    """Maps value -+ half to the logit scale by its slope there, and back."""
    if not 0 < value < 1:
        return value, value
    reach = half / (value * (1 - value))
    return float(expit(logit(value) - reach)), float(expit(logit(value) + reach))


def _area_interval(
    value: float, draws: np.ndarray, resamples: Resamples
) -> tuple[float, float]:
    """As `_logit_interval`, with the error of the draws' own logits.

    An area near 1 is skewed even locally, which its slope does not see. A draw that
    reaches 1 counts as half a wrongly ordered pair of patients. The smaller class
    limits what is known of an area, so its patients are the degrees of freedom.
    """
    if not 0 < value < 1 or np.ptp(draws) == 0:
        return value, value
    smallest = resamples.smallest_stratum()
    edge = min(0.5 / smallest**2, value / 2, (1 - value) / 2)
    error = logit(np.clip(draws, edge, 1 - edge)).std(ddof=1)
    reach = float(stdtrit(smallest - 1, 0.975)) * error
    return float(expit(logit(value) - reach)), float(expit(logit(value) + reach))


def _quantile(resamples: Resamples) -> float:
    """Student's t at 97.5 %: patients less classes degrees of freedom."""
    freedom = len(resamples.strata) - len(np.unique(resamples.strata))
    return float(stdtrit(max(freedom, 1), 0.975))
