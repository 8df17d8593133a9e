"""Benchmark cases that compute: augmentation, compiled step, whole training."""

import dataclasses
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from cxr import cli, optimizers, records
from cxr.benchmark import flops
from cxr.benchmark.input_cases import Drawn
from cxr.benchmark.timing import Case
from cxr.config import TrainConfig
from cxr.input import augmenters, pipeline
from cxr.training import builders, devices, models, steps

# Training at full rate on few films for minutes could diverge, and a step that is
# not finite does less. The rate does not change what a step computes.
_LEARNING_RATE = 1e-6
_MOST_STEPS = 1 << 20
_SETTLE_EVERY = 8  # steps, where settling waits for an accelerator


class WrongStep(cli.DataError):
    """A step computed something else than it should have."""


@dataclasses.dataclass
class Network:
    """What the steps are made of.

    Attributes:
      network: `[inputs, dropout_key] -> logits`, frozen as the stage asks.
      flops_per_image: of a step in this mode.
      forward_flops_per_image: of the forward pass alone.
    """

    network: keras.Model
    flops_per_image: int
    forward_flops_per_image: int


class Workshop:
    """Builds training steps as training does, without a run folder.

    Args:
      config: the run's flags.
      record_set: a checked data set.
      prepared: of `devices.setup`.
    """

    def __init__(
        self,
        config: TrainConfig,
        record_set: records.RecordSet,
        prepared: devices.Devices,
    ):
        self.config, self.manifest = config, record_set.manifest
        self.devices, self.strategy = prepared, prepared.strategy
        self.augment = augmenters.build(config.augmentation, seed=config.seed)
        self._spec = builders.model_spec(config, record_set.manifest)

    def iterate(self, source: pipeline.Source, batches: tf.data.Dataset) -> Iterator:
        """Returns the batches as the training loop iterates over them."""
        return devices.iterate(source, batches, strategy=self.strategy)

    def shares(self, value: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Returns the shares of all replicas."""
        return self.strategy.experimental_local_results(value)

    def network(self, stage: builders.Stage) -> Network:
        """Builds the network of a stage and counts its operations."""
        with self.strategy.scope():
            model = models.build(
                self._spec,
                dropout_seed=self.config.seed,
                synchronized=self.devices.replicas > 1,
            )
        builders.set_trainable(model, stage, self.config)
        network = models.logits_model(model)
        return Network(network, flops.training(network), flops.forward(network))

    def trivial_network(self) -> keras.Model:
        """Builds a network that costs nothing beside its input: mean grey, linear."""
        spec = self._spec
        with self.strategy.scope():
            image = keras.Input((spec.image_size, spec.image_size, 1))
            key = keras.Input((2,), dtype="int64")
            grey = keras.layers.GlobalAveragePooling2D(dtype="float32")(image)
            units = 1 if spec.head == "sigmoid" else spec.num_classes
            logits = keras.layers.Dense(units, dtype="float32")(grey)
        return keras.Model([image, key], logits)

    def step(self, network: keras.Model, *, augmented: bool) -> steps.TrainingStep:
        """Returns a new training step of a network, with or without augmentation."""
        with self.strategy.scope():
            optimizer = optimizers.make(
                self.config.optimizer, weight_decay=self.config.weight_decay
            )
        return steps.TrainingStep(
            network,
            optimizer,
            builders.objective(self.config, self.manifest),
            augment=self.augment if augmented else None,
            rates=np.full(_MOST_STEPS, _LEARNING_RATE),
            strategy=self.strategy,
            loss_scaling=self.devices.precision == "mixed_float16",
            jit_compile=self.config.jit_compile and self.devices.replicas == 1,
        )

    def resident_batch(self, batch_size: int, dtype: tf.DType) -> tuple:
        """Returns one synthetic batch, on the device."""
        random = np.random.default_rng(0)
        size = self.config.image_size
        films = random.integers(0, 256, (batch_size, size, size, 1))
        labels = random.integers(0, len(self.manifest.class_names), batch_size)
        parts = (
            tf.cast(films, dtype),
            tf.cast(labels, tf.int32),
            tf.range(batch_size, dtype=tf.int64),
        )
        batches = tf.data.Dataset.from_tensors(parts)
        return next(devices.iterate(None, batches, strategy=self.strategy))

    # --- cases

    @property
    def steps_per_sample(self) -> int:
        """Steps between two looks at the clock."""
        return _SETTLE_EVERY if tf.config.list_physical_devices("GPU") else 1

    def augment_case(self, batch_size: int) -> Case:
        """Returns augmentation alone, on one resident batch."""
        images, _, indices = self.resident_batch(batch_size, tf.uint8)
        step = tf.Variable(0, dtype=tf.int64)

        @tf.function
        def run():
            augmented = self.strategy.run(
                self.augment, args=(images, step.value(), indices)
            )
            step.assign_add(1)
            return augmented

        newest: list = []

        def advance() -> int:
            newest[:] = [run()]
            return batch_size

        def audit(films: int) -> None:
            expected = [
                self.augment(*share)
                for share in zip(
                    self.shares(images),
                    [step - 1] * self.devices.replicas,
                    self.shares(indices),
                    strict=True,
                )
            ]
            for found, wanted in zip(self.shares(newest[0]), expected, strict=True):
                if not np.allclose(found, wanted, atol=0.5):
                    raise WrongStep("augment: the graph differs from eager execution")

        return Case("augment", advance, step.numpy, audit, self.steps_per_sample)

    def step_case(self, network: keras.Model, batch_size: int) -> Case:
        """Returns the step alone, on one resident batch that needs no augmentation."""
        batch = self.resident_batch(batch_size, tf.float32)
        return self._stepping(
            "step", self.step(network, augmented=False), lambda: batch, batch_size
        )

    def training_case(
        self, name: str, network: keras.Model, drawn: Drawn, batch_size: int
    ) -> Case:
        """Returns training on real batches: input, copy, augmentation and step."""
        step = self.step(network, augmented=True)
        return self._stepping(name, step, drawn.draw, batch_size, drawn.audit)

    def _stepping(
        self,
        name: str,
        step: steps.TrainingStep,
        draw: Callable[[], tuple],
        batch_size: int,
        audit_batches: Callable[[int], None] = lambda films: None,
    ) -> Case:
        done = 0

        def advance() -> int:
            nonlocal done
            step.run(draw())
            done += 1
            return batch_size

        def audit(films: int) -> None:
            audit_batches(films)
            totals = step.read_totals()
            if int(step.step.numpy()) != done or int(step.first_bad_step.numpy()) >= 0:
                raise WrongStep(f"{name}: not all of {done} steps updated the weights")
            if totals["loss"] is None or not np.isfinite(totals["loss"]):
                raise WrongStep(f"{name}: the loss is {totals['loss']}")

        return Case(name, advance, step.step.numpy, audit, self.steps_per_sample)


def mode(config: TrainConfig, stage: builders.Stage) -> str:
    """Returns in words which part of the network a stage trains."""
    if config.model != models.BACKBONE:
        return "full"
    if stage.name == "head":
        return "frozen"
    if config.fine_tune_from == "all":
        return "full"
    return f"from {config.fine_tune_from}"
