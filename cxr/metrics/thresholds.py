"""Decision thresholds: the parser of their rules, and how a rule chooses."""

import numpy as np

RULES = ("youden", "f1", "half", "sensitivity:VALUE", "specificity:VALUE")


def parse_rule(rule: str) -> tuple[str, float | None]:
    """Splits a threshold rule into its name and target.

    Raises:
      ValueError: it is none of `RULES`, or its target is not within (0, 1].
    """
    name, _, text = rule.partition(":")
    if rule in RULES and ":" not in rule:
        return rule, None
    try:
        target = float(text)
    except ValueError:
        target = float("nan")
    if f"{name}:VALUE" not in RULES or not 0 < target <= 1:
        raise ValueError(
            f"threshold_rule={rule}: expected one of {', '.join(RULES)} with a VALUE "
            "above 0 and at most 1"
        )
    return name, target


def choose_threshold(positive: np.ndarray, probability: np.ndarray, rule: str) -> float:
    """Picks the decision threshold (positive when p >= threshold) by a rule.

    Candidates are the midpoints between neighbouring distinct scores, 0 (everything
    positive) and a value above the highest score (nothing positive). Among equals
    the one nearest to 0.5 wins, then the lower.

    Args:
      positive: bool or 0/1 [n].
      probability: float [n], 0..1.
      rule: `youden` (largest sensitivity + specificity), `f1` (largest F1), `half`
        (0.5), `sensitivity:X` (the highest threshold that keeps sensitivity >= X),
        `specificity:X` (the lowest that keeps specificity >= X).

    Raises:
      ValueError: unknown rule, a probability that is not finite, or a rule that
        needs both classes where one is missing.
    """
    name, target = parse_rule(rule)
    if name == "half":
        return 0.5
    positive = np.asarray(positive).astype(bool)
    score = np.asarray(probability, dtype=np.float64)
    if positive.all() or not positive.any() or not np.all(np.isfinite(score)):
        raise ValueError(
            f"threshold rule {rule!r} needs finite scores of both classes, got "
            f"{positive.sum()} positives of {positive.size}"
        )
    candidates = threshold_candidates(score)
    sensitivity, specificity = rates_at(positive, score, candidates)
    if name == "sensitivity":
        return float(candidates[sensitivity >= target].max())
    if name == "specificity":
        return float(candidates[specificity >= target].min())
    if name == "f1":
        tp, fp = sensitivity * positive.sum(), (1 - specificity) * (~positive).sum()
        gain = 2 * tp / (tp + fp + positive.sum())
    else:  # youden
        gain = sensitivity + specificity
    # Rounding must not decide between equals.
    best = candidates[gain >= gain.max() - 1e-12]
    return float(best[np.lexsort((best, np.abs(best - 0.5)))[0]])


def threshold_candidates(score: np.ndarray) -> np.ndarray:
    """Every threshold that classifies differently, ascending, float64 [G + 1]."""
    levels = np.unique(np.asarray(score, dtype=np.float64))
    middle = levels[:-1] + np.diff(levels) / 2
    # Between adjacent floats the midpoint may round down to the lower one.
    middle = np.where(middle <= levels[:-1], levels[1:], middle)
    above = np.nextafter(1.0, 2.0) if levels[-1] >= 1 else (levels[-1] + 1) / 2
    return np.concatenate([[0.0], middle, [above]])


def rates_at(
    positive: np.ndarray, score: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sensitivity and specificity, float64 [T] each, at ascending thresholds.

    Both classes must occur.
    """
    ill, well = np.sort(score[positive]), np.sort(score[~positive])
    fn = np.searchsorted(ill, thresholds, side="left")
    tn = np.searchsorted(well, thresholds, side="left")
    return 1 - fn / len(ill), tn / len(well)
