"""Reliability bins, expected calibration error's noise floor, temperature scaling."""

from typing import Any

import numpy as np
from scipy import optimize

from cxr.metrics import classification, intervals
from cxr.metrics.classification import Scored
from cxr.metrics.evaluation import Evaluation

_LOG_BOUND = float(np.log(20.0))
_RANGES = (0.0, 0.1, 0.5, 0.9, 1.0)  # of scores, for words


def measure(here: Evaluation, reference: Evaluation | None) -> dict[str, Any]:
    """Returns reliability bins, the ECE's noise floor, and the fitted temperature.

    Args:
      here: the split that is evaluated.
      reference: validation, on which the temperature is fitted; None for none.
    """
    scored = here.scored
    columns = {c: scored.probabilities[:, c] for c in scored.classes}
    return {
        "bins": {
            c: reliability(scored.labels == c, score, here.resamples)
            for c, score in columns.items()
        },
        "ece_if_perfect": float(np.mean([noise_floor(s) for s in columns.values()])),
        "mean_predicted": [float(v) for v in scored.probabilities.mean(axis=0)],
        "observed": [
            float(np.mean(scored.labels == c)) for c in range(scored.num_classes)
        ],
        "in_words": in_words(here) if here.binary else None,
        "temperature": temperature_report(here, reference) if reference else None,
    }


def in_words(here: Evaluation) -> list[dict[str, Any]]:
    """Of the films scored within a range, how many were of the positive class.

    Returns:
      A row a range with films: `low`, `high` (the range, its end in it only at 1), `n`,
      `predicted`, `observed`, `ci95`.
    """
    scored = here.scored
    at = np.digitize(scored.score, _RANGES[1:-1])
    return [
        {
            "low": _RANGES[index],
            "high": _RANGES[index + 1],
            **_observed(
                scored.labels == scored.positive, scored.score, here.resamples, inside
            ),
        }
        for index in range(len(_RANGES) - 1)
        if (inside := at == index).any()
    ]


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature that minimises the log loss (Guo et al. 2017).

    Args:
      labels: int [n].
      probabilities: float64 [n, C].

    Returns:
      T within 0.05 .. 20; above 1 the model was over-confident.
    """

    def loss(log_temperature: float) -> float:
        scaled = apply_temperature(probabilities, float(np.exp(log_temperature)))
        value = classification.log_loss(labels, scaled)
        return np.inf if value is None else value

    fitted = optimize.minimize_scalar(
        loss,
        bounds=(-_LOG_BOUND, _LOG_BOUND),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return float(np.exp(fitted.x))


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(log p / T), float64 [n, C]; T = 1 changes nothing."""
    # Below this a probability is rounding, see `classification.exact_probabilities`.
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
    bins = classification.equal_mass_bins(score)
    return [
        _observed(positive, score, resamples, bins == index)
        for index in np.unique(bins)
    ]


def _observed(
    positive: np.ndarray,
    score: np.ndarray,
    resamples: intervals.Resamples,
    inside: np.ndarray,
) -> dict[str, Any]:
    """`n`, `predicted`, `observed` and `ci95` of the films `inside`, bool [n].

    Where the bootstrap cannot tell (all films of one kind, say), the interval is the
    exact one of as many patients (Clopper and Pearson 1934): none looks certain.
    """
    within = resamples.within(inside)
    weights = within.weights().astype(np.float64)
    draws = classification.ratio(weights @ positive[inside], weights.sum(axis=1))
    share = float(positive[inside].mean())
    bounds = intervals.with_interval("observed", share, draws, within)["ci95"]
    if bounds is None or bounds[0] == bounds[1]:
        bounds = intervals.exact(share, len(within.strata))
    return {
        "n": int(inside.sum()),
        "predicted": float(score[inside].mean()),
        "observed": share,
        "ci95": bounds,
    }


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


def temperature_report(here: Evaluation, reference: Evaluation) -> dict[str, Any]:
    """Fits a temperature on validation and says what it does here.

    Args:
      here: the split that is evaluated.
      reference: validation, on which the temperature is fitted.
    """
    temperature = fit_temperature(
        reference.scored.labels, reference.scored.probabilities
    )
    raw, resamples = here.scored, here.resamples
    scaled = classification.scored(
        raw.labels,
        apply_temperature(raw.probabilities, temperature),
        positive=raw.positive,
        threshold=raw.threshold,
    )
    before, after = classification.point(raw), classification.point(scaled)
    weights = resamples.weights().astype(np.float64)
    change = intervals.difference(
        _mean_loss_draws(raw, weights), _mean_loss_draws(scaled, weights), resamples
    )
    names = ("ece", "log_loss", "brier")
    known = bool(np.isfinite(change).all())
    here_fitted = same_films(here, reference)
    return {
        "temperature": temperature,
        "fitted_on": "validation",
        "before": {name: before[name] for name in names},
        "after": {name: after[name] for name in names},
        "log_loss_change": {"value": change[0], "ci95": change[1:] if known else None},
        "transfers": None if here_fitted or not known else change[2] < 0,
        "verdict": _verdict(temperature, before, after, change, here_fitted),
    }


def same_films(here: Evaluation, reference: Evaluation) -> bool:
    """Whether both are predictions of the very same films, as on validation itself."""
    one, other = here.predictions, reference.predictions
    return one.filenames == other.filenames and np.array_equal(
        one.probabilities, other.probabilities
    )


def _mean_loss_draws(scored: Scored, weights: np.ndarray) -> np.ndarray:
    """The log loss, then the log loss of each draw, float64 [1 + D]."""
    losses = classification.losses(scored)["log_loss"]
    draws = classification.ratio(weights @ losses, weights.sum(axis=1))
    return np.concatenate([[losses.mean()], draws])


def _verdict(
    temperature: float, before: dict, after: dict, change: list, here_fitted: bool
) -> str:
    known = np.isfinite(change).all()
    bounds = f"95 % interval {change[1]:+.3f} to {change[2]:+.3f}"
    moved = (
        f"log loss goes from {before['log_loss']:.3f} to {after['log_loss']:.3f} "
        f"(change {change[0]:+.3f}, {bounds if known else 'no interval'}), ECE from "
        f"{before['ece']:.3f} to {after['ece']:.3f}"
    )
    fitted = f"The temperature {temperature:.2f}, fitted on validation,"
    if here_fitted:
        return (
            f"The temperature {temperature:.2f} was fitted on these very films: "
            f"{moved}. Whether it transfers, other films tell."
        )
    if not known:
        return f"{fitted} cannot be judged on so few patients: {moved}."
    if change[2] < 0:
        return f"{fitted} transfers: {moved}."
    if change[1] > 0:
        return f"{fitted} does NOT transfer: {moved}. Use the raw probabilities."
    return f"{fitted} makes no clear difference here: {moved}."
