import numpy as np
import pytest
import tensorflow as tf

from cxr import randomness


def draw(seed=1, step=5, examples=range(64), **kwargs):
    return randomness.uniform(
        seed, step, tf.constant(list(examples), tf.int64), **kwargs
    ).numpy()


def test_golden():
    """Pinned: a change here changes every run's augmentation and dropout."""
    np.testing.assert_allclose(draw(examples=range(3)), GOLDEN, rtol=0, atol=1e-7)


GOLDEN = [0.6394281, 0.1924966, 0.90639967]


def test_numbers_belong_to_the_example_not_to_the_batch():
    whole = draw(shape=(4,))
    np.testing.assert_array_equal(draw(examples=range(32, 64), shape=(4,)), whole[32:])
    np.testing.assert_array_equal(draw(examples=[7], shape=(4,)), whole[7:8])


@pytest.mark.parametrize("change", [{"seed": 2}, {"step": 6}, {"salt": 1}])
def test_each_coordinate_matters(change):
    assert np.mean(draw(shape=(16,)) == draw(shape=(16,), **change)) < 0.01


def test_uniform_and_independent():
    numbers = draw(examples=range(500), shape=(200,))
    assert numbers.dtype == np.float32
    assert 0 <= numbers.min() < 1e-4
    assert 0.9999 < numbers.max() < 1
    counts = np.histogram(numbers, 100, (0, 1))[0]
    chi2 = np.sum((counts - 1000) ** 2 / 1000)
    assert chi2 < 150  # 99 degrees of freedom: P(chi2 > 150) = 0.0007
    for a, b in (
        (numbers[:, 1:], numbers[:, :-1]),
        (numbers[1:], numbers[:-1]),
        (numbers, draw(step=6, examples=range(500), shape=(200,))),
        (numbers, draw(seed=2, examples=range(500), shape=(200,))),
    ):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.015


def test_large_counters():
    far = draw(step=2**40 + 3, examples=[2**33, 2**33 + 1, 1])
    assert len(set(far.tolist())) == 3
    assert np.all((far >= 0) & (far < 1))
