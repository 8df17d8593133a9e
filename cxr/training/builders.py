"""Builds network, loss, optimizer and stages from the flags.

Training and the benchmark build from here, so that they cannot drift apart.
"""

import dataclasses

import keras
import numpy as np

from cxr import records, schedules
from cxr.config import TrainConfig
from cxr.input import pipeline
from cxr.training import models, steps


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of the training with its own trainable layers and optimizer.

    Attributes:
      name: `train`, `head` (frozen backbone) or `fine_tune`.
      epochs: at most so many.
      learning_rate: its peak.
    """

    name: str
    epochs: int
    learning_rate: float


def stages(config: TrainConfig) -> list[Stage]:
    """Returns the stages that a configuration asks for, at least one."""
    if config.model != models.BACKBONE:
        return [Stage("train", config.epochs, config.learning_rate)]
    both = (
        Stage("head", config.epochs, config.learning_rate),
        Stage("fine_tune", config.fine_tune_epochs, config.fine_tune_learning_rate),
    )
    return [stage for stage in both if stage.epochs]


def model_spec(config: TrainConfig, manifest: records.Manifest) -> models.ModelSpec:
    """Returns the network that a configuration trains on a data set."""
    return models.ModelSpec(
        config.model,
        config.image_size,
        len(manifest.class_names),
        head=config.head,
        dropout=config.dropout,
        normalization=config.normalization,
    )


def objective(
    config: TrainConfig,
    manifest: records.Manifest,
    evidence: np.ndarray | None = None,
) -> steps.Objective:
    """Returns the loss that a configuration asks for, with its class weights.

    Args:
      config: the run's flags.
      manifest: of the data set.
      evidence: of `debiasing.evidence`, or None.
    """
    weights = None
    if config.class_weights == "balanced":
        counts = manifest.splits["train"].class_counts
        total = sum(counts.values())
        weights = tuple(
            total / (len(counts) * max(counts[name], 1))
            for name in manifest.class_names
        )
    return steps.Objective(
        config.head,
        len(manifest.class_names),
        label_smoothing=config.label_smoothing,
        class_weights=weights,
        evidence=evidence,
    )


def on_features(config: TrainConfig, stage: Stage) -> bool:
    """Returns whether a stage trains the head on cached features, not on images."""
    return stage.name == "head" and config.feature_cache


def open_split(
    config: TrainConfig, record_set: records.RecordSet, split: str, *, progress: bool
) -> pipeline.ImageSource:
    """Opens a split as a configuration asks; see `pipeline.open_split`."""
    # Validation is read once an epoch: it need not take a device's memory.
    here = config.cache != "device" or split == "train"
    return pipeline.open_split(
        record_set,
        split,
        image_size=config.image_size,
        cache=config.cache if here else "auto",
        ram_budget_bytes=int(config.ram_budget_gib * 2**30) or None,
        progress=progress,
    )


def rates(config: TrainConfig, stage: Stage, steps_per_epoch: int) -> np.ndarray:
    """Returns the learning rate of every step of a stage, float32 [steps]."""
    return schedules.stage_rates(
        config.schedule,
        stage.learning_rate,
        num_steps=stage.epochs * steps_per_epoch,
        warmup_steps=config.warmup_steps,
    )


def set_trainable(model: keras.Model, stage: Stage, config: TrainConfig) -> None:
    """Freezes and unfreezes the layers of a network as a stage asks."""
    if stage.name == "fine_tune":
        models.unfreeze_from(model, config.fine_tune_from)
    else:
        models.freeze_backbone(model)
