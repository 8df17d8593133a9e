"""Ours: the compiled training step, the forward pass, an epoch from records."""

import pathlib
import time
from typing import Any

from cxr import platforms

platforms.configure_process()  # as our commands do, before TensorFlow looks for GPUs

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from benchmarks import compute_networks as networks  # noqa: E402
from benchmarks import compute_tasks as tasks  # noqa: E402
from benchmarks.compute_tasks import Case, Peer, Runner  # noqa: E402
from cxr import optimizers, records  # noqa: E402
from cxr.input import pipeline  # noqa: E402
from cxr.training import devices, models, steps  # noqa: E402

start = networks.start
_MOST_STEPS = 1 << 20


def build(case: Case, peer: Peer, work: pathlib.Path, threads: int) -> Runner:
    """Makes a case ready to run."""
    if tasks.PRODUCT in (case.mode, peer.option):
        return _product(peer)
    if case.mode == tasks.EPOCHS:
        return _epochs(case, peer, work)
    if case.mode == tasks.FORWARD:
        return _forward(case, peer, work)
    return _training(case, peer, work)


def _product(peer: Peer) -> Runner:
    multiply = networks.product(peer.precision)
    newest: list[tf.Tensor] = []

    def advance() -> None:
        newest[:] = [multiply()]

    def run(count: int) -> float:
        return tasks.timed(advance, lambda: newest[0][0, 0].numpy(), count)

    return Runner(run, dict)


def _forward(case: Case, peer: Peer, work: pathlib.Path) -> Runner:
    """The forward pass as `cxr.predict` compiles it."""
    model = networks.model(case, peer.precision, dropout_seed=None)
    networks.load_weights(model, case, work)
    images, labels = networks.batch(case, work)
    forward = tf.function(
        lambda images: model(images, training=False),
        jit_compile=peer.option == tasks.COMPILED,
    )
    newest: list[tf.Tensor] = []

    def advance() -> None:
        newest[:] = [forward(images)]

    return Runner(
        lambda count: tasks.timed(advance, lambda: newest[0].numpy(), count),
        lambda: networks.facts_of(model, case, images, labels),
        lambda: {"probabilities": newest[0].numpy().tolist()},
    )


def _step(model: Any, rate: float, *, compiled: bool) -> steps.TrainingStep:
    return steps.TrainingStep(
        models.logits_model(model),
        optimizers.make("adam", weight_decay=0.0),
        steps.Objective("softmax", tasks.NUM_CLASSES),
        rates=np.full(_MOST_STEPS, rate),
        jit_compile=compiled,
    )


def _training(case: Case, peer: Peer, work: pathlib.Path) -> Runner:
    model = networks.model(case, peer.precision, dropout_seed=tasks.SEED)
    networks.load_weights(model, case, work)
    images, labels = networks.batch(case, work)
    resident = images, labels, tf.range(case.batch_size, dtype=tf.int64)
    rate = tasks.LEARNING_RATES[case.network]
    step = _step(model, rate, compiled=peer.option == tasks.COMPILED)

    def check() -> dict[str, Any]:
        loss = step.read_totals()["loss"]
        finite = int(step.first_bad_step.numpy()) < 0 and np.isfinite(loss)
        return {
            "finite": bool(finite),
            "loss": networks.loss_without_dropout(model, images, labels),
            "steps": int(step.step.numpy()),
        }

    return Runner(
        lambda count: tasks.timed(lambda: step.run(resident), step.step.numpy, count),
        lambda: networks.facts_of(model, case, images, labels),
        check,
    )


def _epochs(case: Case, peer: Peer, work: pathlib.Path) -> Runner:
    """Training from a converted set kept in memory, as `cxr.train` has it."""
    began = time.perf_counter()
    source = pipeline.open_split(
        records.find(work / "data", "films"),
        "train",
        image_size=case.image_size,
        cache="ram",
        progress=False,
    )
    model = networks.model(case, peer.precision, dropout_seed=tasks.SEED)
    networks.load_weights(model, case, work)
    compiled = peer.option == tasks.COMPILED
    step = _step(model, tasks.EPOCH_LEARNING_RATE, compiled=compiled)
    drawn = source.training(case.batch_size, tasks.SEED)
    batches = devices.iterate(source, drawn, strategy=tf.distribute.get_strategy())
    count = source.n // case.batch_size
    opening = [time.perf_counter() - began]
    losses: list[float] = []

    def run(epochs: int) -> float:
        step.reset_totals()
        spent = tasks.timed(
            lambda: step.run(next(batches)), step.step.numpy, count * epochs
        )
        losses.append(step.read_totals()["loss"] or float("nan"))
        return spent + (opening.pop() if opening else 0)

    return Runner(
        run,
        lambda: {"parameters": model.count_params()},
        lambda: {"losses": losses, "images": count * case.batch_size},
    )
