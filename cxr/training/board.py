"""Writes TensorBoard's summaries: curves of both splits in one chart, flags, images.

Two writers, `train` and `validation`, use the same tags, which TensorBoard lays over
each other. The flags are hyperparameters, the published epoch's figures their metrics.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from cxr.config import TrainConfig

_TRAIN, _VALIDATION = "train", "validation"
# Of the epoch whose weights are published, on validation.
_PUBLISHED = ("loss", "accuracy", "roc_auc")


class Board:
    """A run's TensorBoard folder.

    Args:
      folder: `tensorboard/` of the run.
      config: the run's flags.
    """

    def __init__(self, folder: pathlib.Path, config: TrainConfig):
        self._writers = {
            name: tf.summary.create_file_writer(str(folder / name))
            for name in (_TRAIN, _VALIDATION)
        }
        flags = _hyperparameters(config)
        writer = tf.summary.create_file_writer(str(folder))
        with writer.as_default(step=0):
            hparams.hparams_config(
                hparams=[hparams.HParam(name) for name in flags],
                metrics=[
                    hparams.Metric(f"published_{name}", group=_VALIDATION)
                    for name in _PUBLISHED
                ],
            )
            hparams.hparams(flags, trial_id=str(folder.parent))
        writer.close()

    def step(self, step: int, numbers: Mapping[str, float | None]) -> None:
        """Writes training's figures after a step; the loss is the epoch's so far."""
        self._write(_TRAIN, "step", step, numbers)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Writes a row of the history, each split's figures by its own writer."""
        numbers = {n: v for n, v in row.items() if isinstance(v, float)}
        theirs = {n: v for n, v in numbers.items() if not n.startswith("val_")}
        self._write(_TRAIN, "epoch", row["epoch"], theirs)
        self._write(_VALIDATION, "epoch", row["epoch"], _validation(numbers))

    def published(self, row: Mapping[str, Any]) -> None:
        """Writes the validation figures of the epoch that became the model."""
        found = _validation({n: v for n, v in row.items() if isinstance(v, float)})
        numbers = {name: found.get(name) for name in _PUBLISHED}
        self._write(_VALIDATION, "published", row["epoch"], numbers)

    def images(self, images: np.ndarray) -> None:
        """Writes a few augmented images, float32 [n, S, S, 1] in 0..255."""
        with self._writers[_TRAIN].as_default(step=0):
            tf.summary.image("augmented images", images / 255, max_outputs=8)

    def _write(
        self, writer: str, kind: str, step: int, numbers: Mapping[str, float | None]
    ) -> None:
        with self._writers[writer].as_default(step=step):
            for name, value in numbers.items():
                if value is not None:
                    tf.summary.scalar(f"{kind}_{name}", value)
        self._writers[writer].flush()


def _validation(numbers: Mapping[str, float]) -> dict[str, float]:
    """The columns of validation, under the names of training's."""
    named = ((name.removeprefix("val_"), name) for name in numbers)
    return {short: numbers[name] for short, name in named if short != name}


def _hyperparameters(config: TrainConfig) -> dict[str, Any]:
    """Every flag; what is a list, as text."""
    flags = dataclasses.asdict(config)
    return {
        name: ",".join(value) if isinstance(value, tuple) else value
        for name, value in flags.items()
    }
