"""What ours and Keras' workers share: networks, batch, threads, expected outputs.

As a command it writes, once a network, the batch and the weights that all peers take,
and what must come out:

  python -m benchmarks.compute_networks WORK CASES_AS_JSON
"""

import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks import compute_tasks as tasks
from benchmarks.compute_tasks import Case
from cxr.benchmark import flops
from cxr.training import models

_STATISTICS_PASSES = 20  # after which 12 % of a moving statistic are its first value
_DTYPES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def start(threads: int) -> dict[str, Any]:
    """Sets TensorFlow's threads; says which versions compute on what."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    gpus = tf.config.list_physical_devices("GPU")
    details = map(tf.config.experimental.get_device_details, gpus[:1])
    device = next(details, {"device_name": "CPU"}).get("device_name", "GPU")
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
    return {"device": device, "versions": versions}


def model(case: Case, precision: str, *, dropout_seed: int | None) -> keras.Model:
    """Builds a case's network, frozen as its mode asks, with random weights.

    Args:
      case: which one.
      precision: `float32` or `bfloat16`.
      dropout_seed: as `models.build` takes it.
    """
    spec = models.ModelSpec(
        case.network, case.image_size, tasks.NUM_CLASSES, dropout=tasks.DROPOUT
    )
    built = models.build(spec, dropout_seed=dropout_seed, dtype=_DTYPES[precision])
    if case.mode == tasks.BLOCK5_MODE:
        models.unfreeze_from(built, tasks.BLOCK5)
    return built


def load_weights(network: keras.Model, case: Case, work: pathlib.Path) -> None:
    """Gives a network the weights that every peer begins with."""
    with np.load(work / f"{case.files}.npz") as stored:
        network.set_weights([stored[name] for name in stored.files])


def batch(case: Case, work: pathlib.Path) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the resident batch: images float32 [B, S, S, 1], labels int32 [B]."""
    images = np.load(work / f"{case.files}-images.npy")
    labels = np.load(work / f"{case.files}-labels.npy")
    # Through a graph's identity they come to lie where the device computes.
    return tf.identity(tf.constant(images)), tf.identity(tf.constant(labels))


def loss_without_dropout(
    network: keras.Model, images: tf.Tensor, labels: tf.Tensor
) -> float:
    """Returns the mean cross-entropy of a batch, with its own BatchNorm statistics.

    Without dropout, whose noise is larger than what ten steps change.

    Args:
      network: what `model` returned.
      images: float32 [B, S, S, 1].
      labels: int32 [B].
    """
    features = models.feature_model(network)(images, training=True)
    key = tf.zeros((len(images), 2), tf.int64)
    head = models.head_model(network)
    logits = head([features, key][: len(head.inputs)], training=False)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return float(tf.reduce_mean(losses))


def facts_of(
    network: keras.Model, case: Case, images: tf.Tensor, labels: tf.Tensor
) -> dict[str, Any]:
    """Returns what must be the same with all peers before the first step."""
    found: dict[str, Any] = {"parameters": network.count_params()}
    if case.mode != tasks.FORWARD:
        found["loss"] = loss_without_dropout(network, images, labels)
    return found


def prepare(case: Case, work: pathlib.Path) -> None:
    """Writes batch, weights and expected outputs of a case's network."""
    random = np.random.default_rng(tasks.SEED)
    labels = np.arange(case.batch_size, dtype=np.int32) % tasks.NUM_CLASSES
    shape = (case.batch_size, case.image_size, case.image_size, 1)
    # Brightness tells the class, so that the loss can fall.
    images = random.integers(0, 100, shape) + (60 + 80 * labels[:, None, None, None])
    np.save(work / f"{case.files}-images.npy", images.astype(np.float32))
    np.save(work / f"{case.files}-labels.npy", labels)
    keras.utils.set_random_seed(tasks.SEED)
    network = model(case, "float32", dropout_seed=None)
    tensors = tf.constant(images, tf.float32), tf.constant(labels)
    if any(isinstance(x, keras.layers.BatchNormalization) for x in network.layers):
        # Moving statistics of nothing would make all outputs of small_cnn a half.
        for _ in range(_STATISTICS_PASSES):
            loss_without_dropout(network, *tensors)
    np.savez(work / f"{case.files}.npz", *network.get_weights())
    expected = {
        "parameters": network.count_params(),
        "probabilities": network(tensors[0], training=False).numpy().tolist(),
        "loss": loss_without_dropout(network, *tensors),
    }
    path = work / f"{case.files}.json"
    path.write_text(json.dumps(expected))


def operations(case: Case) -> int:
    """Returns the floating-point operations of a case, an image."""
    if case.mode == tasks.PRODUCT:
        return tasks.PRODUCT_OPERATIONS
    network = models.logits_model(model(case, "float32", dropout_seed=0))
    counted = flops.forward if case.mode == tasks.FORWARD else flops.training
    return counted(network)


def product(precision: str) -> Callable[[], tf.Tensor]:
    """Returns a product of two square matrices, the measure of the machine."""
    random = np.random.default_rng(tasks.SEED)
    side = (tasks.PRODUCT_SIDE,) * 2
    matrix = tf.cast(random.standard_normal(side, np.float32), precision)
    function = tf.function(lambda: tf.linalg.matmul(matrix, matrix))
    return function.get_concrete_function()


def main(argv: list[str]) -> None:
    """Prepares all cases; writes the operations of each."""
    work = pathlib.Path(argv[1])
    cases = [Case(*fields) for fields in json.loads(argv[2])]
    written = set()
    for case in cases:
        if case.network and case.files not in written:
            prepare(case, work)
            written.add(case.files)
    counts = {case.name: operations(case) for case in cases}
    (work / "operations.json").write_text(json.dumps(counts))


if __name__ == "__main__":
    main(sys.argv)
