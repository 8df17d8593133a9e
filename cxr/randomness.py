"""Counter-based random numbers: a hash of (seed, step, example, position).

`uniform` is a counter-based generator: each number is a hash of (seed, salt,
step, example, position). So an example gets the same augmentation and dropout
in any batch, on any replica, and after a resume, and nothing needs saving.
"""

import math

import tensorflow as tf

_MASK_32 = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9  # 2**32 / golden ratio: spreads small counters over the range
_MANTISSA_BITS = 24  # what a float32 in [0, 1) can hold exactly


def uniform(
    seed: int,
    step: tf.Tensor | int,
    examples: tf.Tensor,
    *,
    shape: tuple[int, ...] = (),
    salt: int = 0,
) -> tf.Tensor:
    """Draws uniform numbers in [0, 1) for each example of a batch.

    The mixing function is the two-round xor-shift-multiply "lowbias32" of C.
    Wellons (https://nullprogram.com/blog/2018/07/31/), applied in turn to each
    coordinate of the counter. int64 arithmetic masked to 32 bits, because TF has
    int64 multiplication and bit operations on every device.

    Args:
      seed: the run's seed.
      step: global training step, an integer scalar.
      examples: example index, integer [B].
      shape: shape of the numbers of one example.
      salt: tells independent uses of the same (seed, step, example) apart.

    Returns:
      float32 [B, *shape] in [0, 1).
    """
    key = _mix(tf.constant((seed * _GOLDEN + salt) & _MASK_32, tf.int64))
    key = _combine(key, tf.cast(step, tf.int64))
    key = _combine(key, tf.cast(examples, tf.int64))
    key = tf.reshape(key, [-1] + [1] * len(shape))
    if shape:
        positions = tf.reshape(tf.range(math.prod(shape), dtype=tf.int64), (1, *shape))
        key = _combine(key, positions)
    bits = tf.bitwise.right_shift(_mix(key), 32 - _MANTISSA_BITS)
    bits = tf.reshape(bits, tf.concat([tf.shape(bits)[:1], shape], 0))
    return tf.cast(bits, tf.float32) * 2.0**-_MANTISSA_BITS


def _combine(key: tf.Tensor, counter: tf.Tensor) -> tf.Tensor:
    """Mixes a counter (its low and high 32 bits) into a key; both broadcast."""
    high = tf.bitwise.right_shift(counter, 32)
    key = _mix((key + (counter & _MASK_32) * _GOLDEN) & _MASK_32)
    return _mix((key ^ (high & _MASK_32)) & _MASK_32)


def _mix(x: tf.Tensor) -> tf.Tensor:
    """lowbias32: a bijection of [0, 2**32) whose output bits all depend on all."""
    shift = tf.bitwise.right_shift
    x = ((x ^ shift(x, 16)) * 0x21F0AAAD) & _MASK_32
    x = ((x ^ shift(x, 15)) * 0x735A2D97) & _MASK_32
    return x ^ shift(x, 15)
