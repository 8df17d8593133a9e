"""Runs one stage of training: network, compiled step, batches, validation."""

import time
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from cxr import optimizers, pulse, records
from cxr.config import TrainConfig
from cxr.input import augmenters, pipeline
from cxr.metrics import classification
from cxr.training import builders, devices, feature_cache, models, progress, steps
from cxr.training.checkpoints import Position
from cxr.training.cluster import Workers
from cxr.training.signals import Interruption


class StageRun:
    """What lives as long as one stage.

    Args:
      config: the run's flags.
      manifest: of the data set.
      stage: what trains, and for how long.
      model: the whole network; its layers are frozen as the stage asks.
      prepared: the devices to train on.
      augment: what changes images on the device, see `augmenters.build`.
      position: where the run is; the stage began at its `first_step`.
      steps_per_epoch: full batches of the training split.
      evidence: of `debiasing.evidence`, or None.
      workers: who train together.

    Attributes:
      stage: as given.
      on_features: trains the head on cached features instead of images.
      step: the compiled training step with its state.
    """

    def __init__(
        self,
        config: TrainConfig,
        manifest: records.Manifest,
        *,
        stage: builders.Stage,
        model: keras.Model,
        prepared: devices.Devices,
        augment: augmenters.Augment,
        position: Position,
        steps_per_epoch: int,
        evidence: np.ndarray | None = None,
        workers: Workers,
    ):
        self.stage = stage
        self.on_features = builders.on_features(config, stage)
        self._config, self._strategy = config, prepared.strategy
        self._workers = workers
        builders.set_trainable(model, stage, config)
        cut = models.head_model if self.on_features else models.logits_model
        with self._strategy.scope():
            network = cut(model)
            optimizer = optimizers.make(
                config.optimizer, weight_decay=config.weight_decay
            )
        self.step = steps.TrainingStep(
            network,
            optimizer,
            builders.objective(config, manifest, evidence),
            augment=None if self.on_features else augment,
            rates=builders.rates(config, stage, steps_per_epoch),
            first_step=position.first_step,
            step=position.step,
            strategy=self._strategy,
            loss_scaling=prepared.precision == "mixed_float16",
            jit_compile=self._use_xla(prepared.replicas),
            state_of=model,
        )
        self._predict = steps.BatchMap(
            steps.probabilities(network, config.head),
            strategy=self._strategy,
            gather=workers.all_gather,
        )

    def _use_xla(self, replicas: int) -> bool:
        if self._config.jit_compile and replicas > 1:
            progress.say("--jit_compile: off, XLA does not compile mirrored steps")
            return False
        return self._config.jit_compile

    def open(
        self,
        train: feature_cache.AnySource,
        validation: pipeline.ImageSource | feature_cache.FeatureSource,
        *,
        start_step: int,
    ) -> None:
        """Takes the examples to train and to validate on, from a global step on."""
        self._validation = validation
        batches = train.training(
            self._config.batch_size,
            self._config.seed,
            start_step=start_step,
            share=self._workers.share,
        )
        pipeline.close_at_exit(self)
        self._iterator: Iterator | None = devices.iterate(
            train,
            batches,
            strategy=self._strategy,
            in_graph=self._config.steps_per_execution > 1,
            share=self._workers.share,
        )

    def close(self) -> None:
        """Drops the iterator: nothing reads ahead of a stage that is over."""
        self._iterator = None

    def execute(self, count: int) -> float | None:
        """Runs steps; returns the seconds spent waiting for input where known."""
        if count > 1:
            self.step.run_many(self._iterator, tf.constant(count))
            return None
        assert self._iterator is not None  # opened, not closed
        begin = time.perf_counter()
        batch = next(self._iterator)
        waited = time.perf_counter() - begin
        self.step.run(batch)
        return waited

    def validate(self, interruption: Interruption) -> dict[str, float | None]:
        """Returns the history's validation columns.

        Args:
          interruption: asked between batches; raises where a signal has come.
        """
        pulse.at("validation")
        probabilities = self._predict.run(
            self._validation.evaluation(self._config.batch_size),
            count=self._validation.n,
            batch_size=self._config.batch_size,
            check=interruption.check,
        )
        labels = self._validation.labels
        return {
            "val_loss": classification.log_loss(labels, probabilities),
            "val_accuracy": classification.accuracy(labels, probabilities),
            "val_roc_auc": classification.roc_auc(labels, probabilities),
        }
