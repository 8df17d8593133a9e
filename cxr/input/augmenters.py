"""Augmentation by name: what the training step calls on the device.

Randomness is a pure function of (seed, step, example), so an image is augmented
alike in any batch, on any replica and after a resume. `augmentation` draws and
applies the changes; `keras_cv_layers` puts them on keras-cv's layers.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from cxr.input import xla
from cxr.input.augmentation import POLICIES, Policy, draw

Augment = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


def build(policy: str, *, seed: int) -> Augment:
    """Returns the augmentation of a policy.

    Args:
      policy: a name in `POLICIES`. `keras_cv` runs keras-cv's stock layers one
        after the other; it is the comparator of the others.
      seed: the run's seed.

    Returns:
      A function of `(images uint8 [B, H, W, 1], step int64 scalar, example indices
      int64 [B])` to augmented images, float32 [B, H, W, 1] in 0..255, whatever the
      Keras precision policy.

    Raises:
      ValueError: an unknown policy.
    """
    if policy not in POLICIES:
        raise ValueError(f"augmentation={policy!r}: expected one of {list(POLICIES)}")
    if policy == "none":
        return lambda images, step, examples: tf.cast(images, tf.float32)
    # Here and not above: keras-cv takes two seconds to import.
    from cxr.input import keras_cv_layers

    stock = policy == "keras_cv"
    kind = keras_cv_layers.Stock if stock else keras_cv_layers.Fused
    augment = with_layer(kind(POLICIES[policy], seed=seed), POLICIES[policy], seed=seed)
    # Drawing is 230 small kernels: compiled with the warp it is one.
    return augment if stock else xla.compiled(augment)


def with_layer(layer: Any, policy: Policy, *, seed: int) -> Augment:
    """Returns the augmentation that draws by `policy` and applies by `layer`.

    Args:
      layer: has `augment_images(images float32, draws)`, see `keras_cv_layers`.
      policy: the ranges.
      seed: the run's seed.
    """

    def augment(images: tf.Tensor, step: tf.Tensor, examples: tf.Tensor) -> tf.Tensor:
        draws = draw(policy, examples, seed=seed, step=step)
        return layer.augment_images(tf.cast(images, tf.float32), draws)

    return augment
