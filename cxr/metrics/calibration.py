"""Whether probabilities mean what they say, and whether one temperature mends it."""

from typing import Any

import numpy as np

from cxr.metrics import classification, intervals

_STEPS = 80  # golden-section steps: the bracket shrinks by 0.618 each, to 1e-16


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature that minimises the log loss (Guo et al. 2017).

    Args:
      labels: int [n].
      probabilities: float64 [n, C].

    Returns:
      T within 0.05 .. 20; above 1 the model was over-confident.
    """

    def loss(log_inverse: float) -> float:
        scaled = apply_temperature(probabilities, float(np.exp(-log_inverse)))
        return classification.log_loss(labels, scaled)

    low, high = -np.log(20.0), np.log(20.0)
    golden = (np.sqrt(5) - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = loss(left), loss(right)
    for _ in range(_STEPS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = loss(right)
    return float(np.exp(-(low + high) / 2))


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(log p / T), float64 [n, C]; T = 1 changes nothing."""
    # Below this a probability is rounding, see `metrics.exact_probabilities`.
    tiny = np.finfo(np.float64).eps
    scaled = np.log(np.maximum(probabilities, tiny)) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    odds = np.exp(scaled)
    return odds / odds.sum(axis=1, keepdims=True)


def reliability(
    positive: np.ndarray, score: np.ndarray, resamples: intervals.Resamples
) -> list[dict[str, Any]]:
    """Observed share against predicted probability, by equal-mass bin.

    Args:
      positive: bool [n].
      score: float [n], predicted probability.
      resamples: for the intervals of the observed shares.

    Returns:
      A row a filled bin: `n`, `predicted`, `observed`, `ci95`.
    """
    rows = []
    bins = classification.equal_mass_bins(score)
    for index in np.unique(bins):
        inside = bins == index
        within = resamples.within(inside)
        weights = within.weights().astype(np.float64)
        draws = classification.ratio(weights @ positive[inside], weights.sum(axis=1))
        share = float(positive[inside].mean())
        observed = intervals.with_interval("observed", share, draws, within)
        rows.append(
            {
                "n": int(inside.sum()),
                "predicted": float(score[inside].mean()),
                "observed": share,
                "ci95": observed["ci95"],
            }
        )
    return rows


def noise_floor(score: np.ndarray, *, seed: int = 0, draws: int = 200) -> float:
    """The ECE that perfectly calibrated probabilities would show on average.

    A finite sample never shows 0; this is what an ECE must be compared with.
    """
    generator = np.random.default_rng(seed)
    labels = generator.random((draws, len(score))) < score
    in_bin = classification.equal_mass_bins(score)[:, None] == np.arange(
        classification.ECE_BINS
    )
    gaps = np.abs((labels - score) @ in_bin.astype(np.float64))
    return float(gaps.sum(axis=1).mean() / len(score))


def temperature_report(
    predictions: classification.Scored,
    validation: classification.Scored,
    resamples: intervals.Resamples,
) -> dict[str, Any]:
    """Fits a temperature on validation and says what it does here.

    Args:
      predictions: the split that is judged.
      validation: the split the temperature is fitted on.
      resamples: patients of the judged split.
    """
    temperature = fit_temperature(validation.labels, validation.probabilities)
    scaled = classification.scored(
        predictions.labels,
        apply_temperature(predictions.probabilities, temperature),
        positive=predictions.positive,
        threshold=predictions.threshold,
    )
    before, after = classification.point(predictions), classification.point(scaled)
    weights = resamples.weights().astype(np.float64)
    draws = [_mean_loss_draws(p, weights) for p in (predictions, scaled)]
    change = intervals.difference(*draws, resamples)
    names = ("ece", "log_loss", "brier")
    return {
        "temperature": temperature,
        "fitted_on": "validation",
        "before": {name: before[name] for name in names},
        "after": {name: after[name] for name in names},
        "log_loss_change": {"value": change[0], "ci95": change[1:]},
        "transfers": change[2] < 0,
        "verdict": _verdict(temperature, before, after, change),
    }


def _mean_loss_draws(
    predictions: classification.Scored, weights: np.ndarray
) -> np.ndarray:
    """The log loss, then the log loss of each draw, float64 [1 + D]."""
    losses = classification.losses(predictions)["log_loss"]
    draws = classification.ratio(weights @ losses, weights.sum(axis=1))
    return np.concatenate([[losses.mean()], draws])


def _verdict(temperature: float, before: dict, after: dict, change: list) -> str:
    moved = (
        f"log loss goes from {before['log_loss']:.3f} to {after['log_loss']:.3f} "
        f"(change {change[0]:+.3f}, 95 % interval {change[1]:+.3f} to "
        f"{change[2]:+.3f}), ECE from {before['ece']:.3f} to {after['ece']:.3f}"
    )
    fitted = f"The temperature {temperature:.2f}, fitted on validation,"
    if change[2] < 0:
        return f"{fitted} transfers: {moved}."
    if change[1] > 0:
        return f"{fitted} does NOT transfer: {moved}. Use the raw probabilities."
    return f"{fitted} makes no clear difference here: {moved}."
