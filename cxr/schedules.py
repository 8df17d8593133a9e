"""Learning rates, early stopping and the best epoch, as pure functions.

They see only numbers (steps, history rows), so they need no model to be tested,
and a resumed run decides exactly as the uninterrupted one.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

PLATEAU_FACTOR = 0.2  # a fifth: Keras' ReduceLROnPlateau example, and common use
_MIN_DELTA = 1e-4  # an improvement smaller than this is noise (Keras' own default)
LAST = "last"
_HIGHER_IS_BETTER = {"val_loss": False, "val_accuracy": True, "val_roc_auc": True}

Rows = list[dict[str, Any]]


class Schedule(NamedTuple):
    """How the learning rate moves over a stage.

    Attributes:
      factor: float64 [steps] in 0..1, the share of the stage done since the warm-up,
        to what multiplies the peak rate.
      words: the same for `--help`.
      ends: it aims at the stage's end, so a longer stage has other rates from its
        first step on.
    """

    factor: Callable[[np.ndarray], np.ndarray]
    words: str
    ends: bool = False


SCHEDULES = {
    "plateau": Schedule(
        np.ones_like,
        f"multiplies by {PLATEAU_FACTOR:g} after --reduce_lr_patience epochs without a "
        "better validation loss",
    ),
    # Loshchilov and Hutter 2017, one cycle.
    "cosine": Schedule(
        lambda done: (1 + np.cos(math.pi * done)) / 2,
        "falls to zero over the stage",
        ends=True,
    ),
    "constant": Schedule(np.ones_like, "stays"),
}


def stage_rates(
    schedule: str, peak: float, *, num_steps: int, warmup_steps: int = 0
) -> np.ndarray:
    """Returns the learning rate of every step of a stage, before plateau cuts.

    Args:
      schedule: one of `SCHEDULES`.
      peak: highest learning rate, reached at the end of the warm-up.
      num_steps: steps of the stage when it is not stopped early.
      warmup_steps: steps of linear growth from peak / warmup_steps.

    Returns:
      float32 [num_steps].
    """
    steps = np.arange(num_steps, dtype=np.float64)
    span = max(num_steps - warmup_steps, 1)
    done = np.clip((steps - warmup_steps) / span, 0, 1)
    rates = peak * SCHEDULES[schedule].factor(done)
    if warmup_steps:
        rates = np.where(steps < warmup_steps, peak * (steps + 1) / warmup_steps, rates)
    return rates.astype(np.float32)


def plateau_factor(rows: Rows, *, patience: int) -> float:
    """Returns what multiplies the rate after these epochs of a stage.

    A fifth for each run of `patience` epochs without a better validation loss;
    a cut restarts the count, as Keras' ReduceLROnPlateau does.
    """
    factor, best, waited = 1.0, math.inf, 0
    for row in rows:
        if row["val_loss"] < best - _MIN_DELTA:
            best, waited = row["val_loss"], 0
            continue
        waited += 1
        if waited >= patience:
            factor, waited = factor * PLATEAU_FACTOR, 0
    return factor


def should_stop(rows: Rows, *, patience: int) -> bool:
    """Says whether a stage's last `patience` epochs brought no better loss.

    `patience` 0 never stops.
    """
    if not patience:
        return False
    best, waited = math.inf, 0
    for row in rows:
        improved = row["val_loss"] < best
        best, waited = min(best, row["val_loss"]), 0 if improved else waited + 1
    return waited >= patience


def best_row(rows: Rows, metric: str) -> int:
    """Returns the index of the best row of the history, the first among equals.

    Args:
      rows: history rows of the whole run.
      metric: `val_loss`, `val_accuracy` or `val_roc_auc`; where it is undefined
        (None) in a row, that row is the worst. `last`: the last row, whatever it says.
    """
    if metric == LAST:
        return len(rows) - 1
    sign = 1 if _HIGHER_IS_BETTER[metric] else -1
    scores = [-math.inf if row[metric] is None else sign * row[metric] for row in rows]
    return int(np.argmax(scores))
