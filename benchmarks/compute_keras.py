"""Keras as its documentation has it: compile, fit, predict."""

import contextlib
import pathlib
import sys
import time
from typing import Any

from cxr import platforms

platforms.configure_process()  # before TensorFlow looks for GPUs

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from benchmarks import compute_networks as networks  # noqa: E402
from benchmarks import compute_tasks as tasks  # noqa: E402
from benchmarks.compute_tasks import Case, Peer, Runner  # noqa: E402
from cxr.training import models  # noqa: E402

start = networks.start


class _Clock(keras.callbacks.Callback):
    """Stops the time from the end of the first step to the end of all.

    `fit` and `predict` make an iterator and callbacks before they begin, which belongs
    to an epoch of hundreds of steps, not to the few of a turn.
    """

    began = 0.0

    def on_train_batch_end(self, batch, logs=None):
        if batch == 0:
            self.model.optimizer.iterations.numpy()
            self.began = time.perf_counter()

    def on_predict_batch_end(self, batch, logs=None):
        if batch == 0:
            np.asarray(logs["outputs"])
            self.began = time.perf_counter()


def build(case: Case, peer: Peer, work: pathlib.Path, threads: int) -> Runner:
    """Makes a case ready to run."""
    if case.mode == tasks.EPOCHS:
        return _epochs(case, peer, work)
    model = networks.model(case, peer.precision, dropout_seed=None)
    networks.load_weights(model, case, work)
    images, labels = networks.batch(case, work)
    if case.mode == tasks.FORWARD:
        return _forward(model, case, peer, images, labels)
    rate = tasks.LEARNING_RATES[case.network]
    network = _compiled(model, rate, compiled=peer.option == tasks.COMPILED)
    resident = tf.data.Dataset.from_tensors((images, labels)).repeat()
    losses: list[float] = []

    def run(count: int) -> float:
        clock = _Clock()
        history = network.fit(
            resident, steps_per_epoch=count + 1, verbose=0, callbacks=[clock]
        )
        ended = time.perf_counter()  # the loss has been read
        losses.extend(history.history["loss"])
        return ended - clock.began

    def check() -> dict[str, Any]:
        return {
            "finite": bool(np.isfinite(losses).all()),
            "loss": networks.loss_without_dropout(model, images, labels),
            "steps": int(network.optimizer.iterations.numpy()),
        }

    facts = lambda: networks.facts_of(model, case, images, labels)  # noqa: E731
    return Runner(run, facts, check)


def _compiled(model: keras.Model, rate: float, *, compiled: bool) -> keras.Model:
    """Returns the model up to its logits, compiled for training.

    Args:
      model: shares its layers.
      rate: Adam's.
      compiled: by XLA, which is Keras' own choice without the argument.
    """
    network = models.logits_model(model)
    network.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=compiled,
    )
    return network


def _forward(model, case: Case, peer: Peer, images, labels) -> Runner:
    model.compile(jit_compile=peer.option == tasks.COMPILED)
    resident = tf.data.Dataset.from_tensors(images).repeat()
    outputs: list[np.ndarray] = []

    def run(count: int) -> float:
        clock = _Clock()
        outputs[:] = [
            model.predict(resident, steps=count + 1, verbose=0, callbacks=[clock])
        ]
        return time.perf_counter() - clock.began

    def check() -> dict[str, Any]:
        return {"probabilities": outputs[0][: case.batch_size].tolist()}

    facts = lambda: networks.facts_of(model, case, images, labels)  # noqa: E731
    return Runner(run, facts, check)


def _epochs(case: Case, peer: Peer, work: pathlib.Path) -> Runner:
    """Training from class folders, by `image_dataset_from_directory`."""
    began = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        dataset = keras.utils.image_dataset_from_directory(
            work / "films",
            label_mode="int",
            color_mode="grayscale",
            image_size=(case.image_size,) * 2,
            batch_size=case.batch_size,
            seed=tasks.SEED,
        )
    count = len(dataset.file_paths) // case.batch_size
    dataset = dataset.take(count)  # whole batches alone, as with the others
    if peer.option == tasks.CACHED:
        dataset = dataset.cache()
    dataset = dataset.prefetch(tf.data.AUTOTUNE)
    model = networks.model(case, peer.precision, dropout_seed=None)
    networks.load_weights(model, case, work)
    compiled = peer.option == tasks.COMPILED
    network = _compiled(model, tasks.EPOCH_LEARNING_RATE, compiled=compiled)
    opening = [time.perf_counter() - began]
    losses: list[float] = []

    def run(epochs: int) -> float:
        began = time.perf_counter()
        history = network.fit(dataset, epochs=epochs, verbose=0)
        spent = time.perf_counter() - began
        losses.extend(history.history["loss"])
        return spent + (opening.pop() if opening else 0)

    return Runner(
        run,
        lambda: {"parameters": model.count_params()},
        lambda: {"losses": losses, "images": count * case.batch_size},
    )
