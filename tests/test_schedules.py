import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr import schedules


def rows(*losses):
    return [{"val_loss": loss} for loss in losses]


def test_cosine_with_warm_up():
    rates = schedules.stage_rates("cosine", 1.0, num_steps=12, warmup_steps=4)
    assert rates.dtype == np.float32
    np.testing.assert_allclose(rates[:4], [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(rates[4], 1.0)
    np.testing.assert_allclose(rates[8], 0.5)
    np.testing.assert_allclose(rates[11], (1 + math.cos(math.pi * 7 / 8)) / 2)
    assert np.all(np.diff(rates[4:]) < 0)


@pytest.mark.parametrize("schedule", ["constant", "plateau"])
def test_constant_rates(schedule):
    rates = schedules.stage_rates(schedule, 0.1, num_steps=3)
    np.testing.assert_allclose(rates, [0.1] * 3, rtol=1e-7)


def test_plateau_cuts_after_patience_and_counts_anew():
    cut = schedules.PLATEAU_FACTOR
    assert schedules.plateau_factor(rows(), patience=2) == 1
    assert schedules.plateau_factor(rows(1, 1), patience=2) == 1
    assert schedules.plateau_factor(rows(1, 1, 1), patience=2) == cut
    assert schedules.plateau_factor(rows(1, 1, 1, 1), patience=2) == cut
    assert schedules.plateau_factor(rows(1, 1, 1, 1, 1), patience=2) == cut**2
    assert schedules.plateau_factor(rows(1, 1, 0.5, 1, 1), patience=2) == cut
    assert schedules.plateau_factor(rows(1, 1 - 1e-5, 1 - 2e-5), patience=2) == cut


def test_early_stopping():
    assert not schedules.should_stop(rows(3, 2, 1), patience=1)
    assert not schedules.should_stop(rows(1, 2), patience=2)
    assert schedules.should_stop(rows(1, 2, 2), patience=2)
    assert not schedules.should_stop(rows(1, 2, 0.5, 2), patience=2)
    assert not schedules.should_stop(rows(1, 2, 3, 4), patience=0)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=20), st.integers(1, 5))
def test_stopping_is_when_the_best_is_patience_epochs_ago(losses, patience):
    waited = len(losses) - 1 - int(np.argmin(losses))
    assert schedules.should_stop(rows(*losses), patience=patience) == (
        waited >= patience
    )


def test_best_row_takes_the_first_among_equals_and_never_an_undefined_one():
    history = [
        {"val_loss": 2.0, "val_roc_auc": None},
        {"val_loss": 1.0, "val_roc_auc": 0.7},
        {"val_loss": 1.0, "val_roc_auc": 0.9},
    ]
    assert schedules.best_row(history, "val_loss") == 1
    assert schedules.best_row(history, "val_roc_auc") == 2
    assert schedules.best_row(history[:1], "val_roc_auc") == 0
    assert schedules.best_row(history, "last") == len(history) - 1
