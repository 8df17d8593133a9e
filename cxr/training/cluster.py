"""Knows which workers train together, and lets them agree on what they do.

Each worker is a process with the same flags; TF_CONFIG or SLURM says who there is. The
first, the chief, alone locks and writes the run folder. What all must do alike, they
decide from the same numbers: those that `Workers` gathers. Collectives of its own run
on the CPU, in the order of the calls, which is the same in every worker.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context  # states of tasks have no public name

from cxr import cli, console
from cxr.config import TrainConfig
from cxr.input import orders
from cxr.training import signals

_EXIT_LOST = 75  # sysexits.h EX_TEMPFAIL: schedulers start the job again
_GROUP = 0x637872  # collectives of ours; the strategy counts its own from 1
_LOOK_S = 5.0  # between looks for lost workers; TensorFlow's heartbeats take 10
_LAST_WORDS_S = 20.0  # for who fails to tell why, before its going is an error


class Lost(cli.CommandError):
    """Another worker is gone; the same command in all of them goes on."""

    exit_code = _EXIT_LOST


class Refused(cli.CommandError):
    """The chief cannot begin, and has said why."""

    def __init__(self, reason: str, exit_code: int):
        super().__init__(f"worker 0: {reason}")
        self.exit_code = exit_code


class Workers:
    """The one worker of a training without a cluster.

    Attributes:
      count: workers that train together.
      index: this one's number, from 0.
      strategy: what distributes over all workers' devices; None without a cluster.
    """

    count, index = 1, 0
    strategy: tf.distribute.Strategy | None = None

    @property
    def is_chief(self) -> bool:
        """Whether this worker locks, writes and speaks."""
        return self.index == 0

    @property
    def share(self) -> orders.Share:
        """What this worker reads of each batch."""
        return orders.Share(self.index, self.count)

    def all_gather(self, array: np.ndarray) -> np.ndarray:
        """Returns every worker's array, of one shape, as [count, ...]."""
        return array[np.newaxis]

    def from_chief(self, decide: Callable[[], Any]) -> Any:
        """Returns what `decide` returns at the chief; JSON can hold it."""
        return decide()

    def telling_refusals(self) -> contextlib.AbstractContextManager[None]:
        """Lets the others refuse what the chief refuses within the block.

        They wait in `from_chief`, which raises Refused.
        """
        return contextlib.nullcontext()

    def agree(self, settings: str) -> None:
        """Raises UsageError in all workers where any was started with others."""

    def shared(self, interruption: signals.Interruption) -> signals.Interruption:
        """Returns what stops all workers at the same check."""
        return interruption


class _Cluster(Workers):
    """One of several workers."""

    def __init__(self, strategy: tf.distribute.MultiWorkerMirroredStrategy):
        resolver = strategy.cluster_resolver
        self.strategy = strategy
        self.count = resolver.cluster_spec().num_tasks("worker")
        self.index = resolver.task_id

    def all_gather(self, array: np.ndarray) -> np.ndarray:
        content = np.ascontiguousarray(array).tobytes()
        words = np.frombuffer(content.ljust(-(-len(content) // 4) * 4, b"\0"), np.int32)
        # Collectives of one key have one shape.
        key = tf.constant(len(words), tf.int32)
        found = _gather(tf.constant(words[np.newaxis]), tf.constant(self.count), key)
        parts = [row.tobytes()[: len(content)] for row in found.numpy()]
        whole = np.frombuffer(b"".join(parts), array.dtype)
        return whole.reshape(self.count, *array.shape)

    def from_chief(self, decide: Callable[[], Any]) -> Any:
        answer = self._broadcast({"value": decide()} if self.is_chief else {})
        if "refused" in answer:
            raise Refused(answer["refused"], answer["exit_code"])
        return answer["value"]

    @contextlib.contextmanager
    def telling_refusals(self) -> Iterator[None]:
        try:
            yield
        except cli.CommandError as error:
            self._broadcast({"refused": str(error), "exit_code": error.exit_code})
            raise

    def agree(self, settings: str) -> None:
        own = np.frombuffer(hashlib.sha256(settings.encode()).digest(), np.uint8)
        found = self.all_gather(own)
        others = np.flatnonzero((found != found[0]).any(axis=1)).tolist()
        if others:
            raise cli.UsageError(
                "--strategy=multi_worker: started with other flags or data than worker "
                f"0: worker {', '.join(map(str, others))}"
            )

    def _broadcast(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Returns the chief's answer."""
        text = json.dumps(answer).encode()
        lengths = self.all_gather(np.array(len(text), np.int64))
        padded = np.frombuffer(text.ljust(int(lengths.max())), np.uint8)
        return json.loads(self.all_gather(padded)[0].tobytes())

    def shared(self, interruption: signals.Interruption) -> signals.Interruption:
        return _Shared(interruption, self)


class _Shared(signals.Interruption):
    """A signal that came to any worker, seen by all at the same check."""

    def __init__(self, own: signals.Interruption, workers: Workers):
        super().__init__()
        self._own, self._workers = own, workers

    def check(self) -> None:
        """Raises Interrupted once a signal has come to any worker; all call it."""
        own = np.array(self._own.number or 0, np.int64)
        if number := int(self._workers.all_gather(own).max()):
            raise signals.Interrupted(number)


@tf.function(reduce_retracing=True, autograph=False)
def _gather(rows: tf.Tensor, count: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    with tf.device("CPU:0"):
        return tf.raw_ops.CollectiveGatherV2(
            input=rows,
            group_size=count,
            group_key=_GROUP,
            instance_key=key,
            ordering_token=[],
            communication_hint="ring",
        )


@contextlib.contextmanager
def joined(config: TrainConfig) -> Iterator[Workers]:
    """Joins the cluster that the flags ask for, and leaves it with all others.

    Raises:
      Lost: another worker is gone, or did not come.
    """
    if config.strategy != "multi_worker":
        yield Workers()
        return
    try:
        workers = _Cluster(_strategy())
        with _watching(workers):
            if workers.is_chief:
                yield workers
            else:
                with console.muted():
                    yield workers
    except tf.errors.OpError as error:
        if not _tells_of_others(error):
            raise
        raise Lost(_explain(str(error))) from error


@functools.cache  # TensorFlow joins once a process
def _strategy() -> tf.distribute.MultiWorkerMirroredStrategy:
    resolver = None  # of TF_CONFIG
    if "TF_CONFIG" not in os.environ:
        gpus = len(tf.config.list_physical_devices("GPU"))
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            gpus_per_node=gpus, gpus_per_task=0, auto_set_gpu=False
        )
    console.note("waiting for the other workers ...")
    collectives = tf.distribute.experimental.CommunicationImplementation
    has_gpus = bool(tf.config.list_physical_devices("GPU"))
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=collectives.NCCL if has_gpus else collectives.RING
    )
    return tf.distribute.MultiWorkerMirroredStrategy(
        cluster_resolver=resolver, communication_options=options
    )


@contextlib.contextmanager
def _watching(workers: Workers) -> Iterator[None]:
    """Ends this process when another worker is gone, whatever it waits for."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK_S):
            try:
                states = context.context().get_task_states([("worker", workers.count)])
            except tf.errors.OpError as error:
                reason = _explain(str(error))
            else:
                gone = [i for i, state in enumerate(states) if state is not None]
                if not gone:
                    continue
                reason = f"worker {gone[0]} is gone; start all again"
            if not over.wait(_LAST_WORDS_S):
                console.note(f"error: {reason}")
                os._exit(_EXIT_LOST)

    threading.Thread(target=watch, name="watch", daemon=True).start()
    try:
        yield
        workers.all_gather(np.zeros(1, np.uint8))  # nobody leaves while others work
    except signals.Interrupted:
        workers.all_gather(np.zeros(1, np.uint8))
        raise
    finally:
        over.set()


def _tells_of_others(error: tf.errors.OpError) -> bool:
    kinds = (
        tf.errors.UnavailableError,
        tf.errors.DeadlineExceededError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
    )
    text = str(error)
    return isinstance(error, kinds) or "/job:worker/" in text or "ollective" in text


def _explain(text: str) -> str:
    """Names the worker that an error of TensorFlow is about."""
    if found := re.search(r"(?:remote target |^)\S*/task:(\d+)", text):
        return f"worker {found[1]} is gone or cannot be reached; start all again"
    return f"another worker is gone: {' '.join(text.split())[-300:]}; start all again"
