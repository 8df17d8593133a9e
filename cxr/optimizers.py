"""The optimizers by name, the choices of --optimizer; Keras is imported on use."""

from collections.abc import Callable
from typing import Any


def make(name: str, *, weight_decay: float) -> Any:
    """Returns a new Keras optimizer; the training step sets its rate every step.

    Args:
      name: one of `OPTIMIZERS`.
      weight_decay: decoupled weight decay, of `adamw`.
    """
    return OPTIMIZERS[name](weight_decay)


def _adam(weight_decay: float) -> Any:
    import keras

    return keras.optimizers.Adam()


def _adamw(weight_decay: float) -> Any:
    import keras

    optimizer = keras.optimizers.AdamW(weight_decay=weight_decay)
    # Decay pulls weights, not offsets and scales, towards zero.
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def _sgd(weight_decay: float) -> Any:
    import keras

    return keras.optimizers.SGD(momentum=0.9, nesterov=True)


OPTIMIZERS: dict[str, Callable[[float], Any]] = {
    "adam": _adam,
    "adamw": _adamw,
    "sgd": _sgd,
}
