"""Benchmark cases that compute: augmentation, compiled step, whole training."""

import dataclasses
import functools

import keras
import numpy as np
import tensorflow as tf

from cxr import cli, optimizers
from cxr.benchmark import flops
from cxr.benchmark.checks import CheckedBatches
from cxr.benchmark.timing import Case
from cxr.benchmark.workload import Workload
from cxr.training import builders, devices, models, steps

# Training at full rate on few images for minutes could diverge, and a step that is
# not finite does less. The rate does not change what a step computes.
_LEARNING_RATE = 1e-6
_MOST_STEPS = 1 << 20


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


def stage_network(workload: Workload) -> Network:
    """Builds the network of the workload's stage and counts its operations."""
    config = workload.config
    with workload.devices.strategy.scope():
        model = models.build(
            builders.model_spec(config, workload.manifest),
            dropout_seed=config.seed,
            synchronized=workload.devices.replicas > 1,
        )
    builders.set_trainable(model, workload.stage, config)
    network = models.logits_model(model)
    return Network(network, flops.training(network), flops.forward(network))


def trivial_network(workload: Workload) -> keras.Model:
    """Builds a network that costs nothing beside its input: mean grey, linear."""
    spec = builders.model_spec(workload.config, workload.manifest)
    with workload.devices.strategy.scope():
        image = keras.Input((spec.image_size, spec.image_size, 1))
        key = keras.Input((2,), dtype="int64")
        grey = keras.layers.GlobalAveragePooling2D(dtype="float32")(image)
        units = 1 if spec.head == "sigmoid" else spec.num_classes
        logits = keras.layers.Dense(units, dtype="float32")(grey)
    return keras.Model([image, key], logits)


def training_step(
    workload: Workload, network: keras.Model, *, augmented: bool
) -> steps.TrainingStep:
    """Returns a new training step of a network, with or without augmentation."""
    config, prepared = workload.config, workload.devices
    with prepared.strategy.scope():
        optimizer = optimizers.make(config.optimizer, weight_decay=config.weight_decay)
    return steps.TrainingStep(
        network,
        optimizer,
        builders.objective(config, workload.manifest),
        augment=workload.augment if augmented else None,
        rates=np.full(_MOST_STEPS, _LEARNING_RATE),
        strategy=prepared.strategy,
        loss_scaling=prepared.precision == "mixed_float16",
        jit_compile=config.jit_compile and prepared.replicas == 1,
    )


def cases(
    workload: Workload, network: keras.Model, batches: CheckedBatches
) -> list[Case]:
    """Returns the computing cases.

    Args:
      workload: what is measured.
      network: the stage's.
      batches: that it is trained on.
    """
    size = workload.config.batch_size
    case = functools.partial(step_case, workload, batch_size=size)
    trivial, others = trivial_network(workload), workload.training_batches(size)
    return [
        augment_case(workload),
        case("step", network),
        case("trivial", trivial, batches=others),
        case("train", network, batches=batches),
    ]


def augment_case(workload: Workload) -> Case:
    """Returns augmentation alone, on one resident batch."""
    strategy, batch_size = workload.devices.strategy, workload.config.batch_size
    augment, shares = workload.augment, strategy.experimental_local_results
    images, _, indices = _resident_batch(workload, batch_size, tf.uint8)
    step = tf.Variable(0, dtype=tf.int64)

    @tf.function
    def run():
        augmented = strategy.run(augment, args=(images, step.value(), indices))
        step.assign_add(1)
        return augmented

    newest: list = []

    def advance() -> int:
        newest[:] = [run()]
        return batch_size

    def check(count: int) -> None:
        for result, image, index in zip(
            *map(shares, (newest[0], images, indices)), strict=True
        ):
            if not np.allclose(result, augment(image, step - 1, index), atol=0.5):
                raise WrongStep("augment: the graph differs from eager execution")

    return Case("augment", advance, step.numpy, check, workload.steps_per_sample)


def step_case(
    workload: Workload,
    name: str,
    network: keras.Model,
    *,
    batch_size: int,
    batches: CheckedBatches | None = None,
) -> Case:
    """Returns the training of a network.

    Args:
      workload: what is measured.
      name: the case's.
      network: what is trained.
      batch_size: images a step.
      batches: real ones: input, copy, augmentation and step; without them it is the
        step alone, on one resident batch that needs no augmentation.
    """
    step = training_step(workload, network, augmented=batches is not None)
    if not batches:
        resident = _resident_batch(workload, batch_size, tf.float32)
    done = 0

    def advance() -> int:
        nonlocal done
        step.run(batches.draw() if batches else resident)
        done += 1
        return batch_size

    def check(count: int) -> None:
        if batches:
            batches.check(count)
        loss = step.read_totals()["loss"]
        if int(step.step.numpy()) != done or int(step.first_bad_step.numpy()) >= 0:
            raise WrongStep(f"{name}: not all of {done} steps updated the weights")
        if loss is None or not np.isfinite(loss):
            raise WrongStep(f"{name}: the loss is {loss}")

    return Case(name, advance, step.step.numpy, check, workload.steps_per_sample)


def _resident_batch(workload: Workload, batch_size: int, dtype: tf.DType) -> tuple:
    """Returns one synthetic batch, on the device."""
    random = np.random.default_rng(0)
    size = workload.config.image_size
    images = random.integers(0, 256, (batch_size, size, size, 1))
    labels = random.integers(0, len(workload.manifest.class_names), batch_size)
    parts = (
        tf.cast(images, dtype),
        tf.cast(labels, tf.int32),
        tf.range(batch_size, dtype=tf.int64),
    )
    batches = tf.data.Dataset.from_tensors(parts)
    return next(devices.iterate(None, batches, strategy=workload.devices.strategy))
