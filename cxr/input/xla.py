"""Compiles functions with XLA where its compiler works, and says where it does not."""

import functools
from collections.abc import Callable

import tensorflow as tf

from cxr import console


def compiled(function: Callable) -> Callable:
    """Returns a tf.function that XLA compiles, a plain one where it cannot.

    On a GPU XLA needs files of the CUDA toolkit (ptxas, libdevice) that an
    installation may lack; the numbers are the same without, the step is slower.
    """
    plain = tf.function(function)
    fused = tf.function(function, jit_compile=True)

    def call(*args):
        return fused(*args) if works() else plain(*args)

    return call


@functools.cache  # said once
def works() -> bool:
    """Whether XLA compiles for the device that computes here."""
    with tf.init_scope():  # also when first asked while tracing
        try:
            tf.function(lambda x: x + 1, jit_compile=True)(tf.zeros(()))
        except Exception as error:  # TensorFlow has many for a compiler that is missing
            reason = " ".join(str(error).split())[:160]
            console.note(
                f"XLA does not compile here, steps are slower without: {reason}"
            )
            return False
    return True
