"""What `benchmarks.compute_peers` measures: the cases, the peers, a peer's runner.

Read by the command and by every worker, so nothing beyond the standard library.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

NUM_CLASSES = 2
DROPOUT = 0.5
SEED = 0
# The least that falls on one batch within the ten steps that VGG16 is given here and
# does not diverge within the thousand of small_cnn. What a step costs does not depend
# on it.
LEARNING_RATES = {"vgg16": 1e-5, "small_cnn": 1e-4}
EPOCH_LEARNING_RATE = 1e-3
ADAM_EPSILON = 1e-7  # Keras' default; PyTorch's is another
BATCH_NORM_EPSILON, BATCH_NORM_MOMENTUM = 1e-3, 0.9  # as Keras means momentum
BLOCK5 = "block5_conv1"  # the first layer that trains in mode `block 5`
PRODUCT_SIDE = 2048  # of the matrices

FAMILIES = {"cxr": "ours", "keras": "Keras", "torch": "PyTorch"}
PRECISIONS = ("float32", "bfloat16")
COMPILED, CACHED = "compiled", "cached"
PRODUCT, EPOCHS = "matrix product", "epochs"
PRODUCT_OPERATIONS = 2 * PRODUCT_SIDE**3
FORWARD, BLOCK5_MODE, TRAINING = "forward", "block 5", "training"


class Case(NamedTuple):
    """What is computed.

    Attributes:
      network: `vgg16` or `small_cnn`; nothing for the matrix product.
      mode: `forward`, `block 5` (and head trained), `training`, `matrix product`, or
        `epochs` (from image files).
      image_size: S in pixels.
      batch_size: B.
    """

    network: str
    mode: str
    image_size: int = 0
    batch_size: int = 0

    @property
    def name(self) -> str:
        """For people and for the JSON."""
        return f"{self.network} {self.mode}".strip()

    @property
    def files(self) -> str:
        """Stem of the files that hold its batch and weights, and what must come out."""
        return f"{self.network}-{self.image_size}-{self.batch_size}"


class Peer(NamedTuple):
    """Who computes, and how.

    Attributes:
      family: `cxr`, `keras` or `torch`, each with an interpreter of its own.
      precision: `float32` or `bfloat16` (mixed: weights are float32).
      option: `compiled` (XLA, torch.compile), `cached` (batches kept), nothing, or
        `matrix product`: of the machine, in the rounds of a case, for its peak.
    """

    family: str
    precision: str
    option: str = ""

    @property
    def name(self) -> str:
        """For people and for the JSON."""
        return " ".join(filter(None, self))

    @classmethod
    def parse(cls, name: str) -> "Peer":
        """Returns the peer of a name."""
        return cls(*name.split(maxsplit=2))


class Runner(NamedTuple):
    """A case as one peer computes it, ready to run.

    Attributes:
      run: runs a number of steps (epochs) and waits for the device; returns seconds.
      facts: once, before the first step: what must be as it is with the others.
      check: after the last step, the same for what the steps did.
    """

    run: Callable[[int], float]
    facts: Callable[[], dict[str, Any]]
    check: Callable[[], dict[str, Any]] = dict


def cases(vgg16: tuple[int, int], small_cnn: tuple[int, int]) -> list[Case]:
    """Returns the cases that need no files, the matrix product first.

    Args:
      vgg16: its image size in pixels, and B.
      small_cnn: the same.
    """
    return [
        Case("", PRODUCT),
        Case("small_cnn", FORWARD, *small_cnn),
        Case("small_cnn", TRAINING, *small_cnn),
        Case("vgg16", FORWARD, *vgg16),
        Case("vgg16", BLOCK5_MODE, *vgg16),
        Case("vgg16", TRAINING, *vgg16),
    ]


def peers(case: Case) -> list[Peer]:
    """Returns all who compute a case."""
    if case.mode == PRODUCT:
        return [Peer(f, p) for f in ("cxr", "torch") for p in PRECISIONS]
    if case.mode == EPOCHS:
        keras = [Peer("keras", "float32", o) for o in ("", COMPILED, CACHED)]
        return [Peer("cxr", "float32"), *keras, Peer("torch", "float32")]
    return [
        Peer(family, precision, option)
        for family in FAMILIES
        for precision in PRECISIONS
        for option in ("", COMPILED)
    ]


def timed(advance: Callable[[], Any], settle: Callable[[], Any], count: int) -> float:
    """Runs steps; returns their seconds, until the device has finished them."""
    began = time.perf_counter()
    for _ in range(count):
        advance()
    settle()
    return time.perf_counter() - began
