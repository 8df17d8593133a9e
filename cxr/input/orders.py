"""Decides which examples make which batch, as a function of (seed, epoch) alone."""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from cxr import environment

_BLOCK = 64  # streaming: consecutive records that stay together, one disk seek
_WINDOW = 8192  # streaming: records shuffled among each other, about 100 MB of JPEG


def shuffled(n: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of an epoch, int64 [n], a permutation of 0..n-1.

    The argsort of raw Philox words: numpy promises the words for all versions,
    which it does not for `permutation`.
    """
    key = np.array([seed, epoch]).astype(np.uint64)
    words = np.random.Philox(key=key).random_raw(n)
    return np.argsort(words, kind="stable")


def shuffled_near(shard_sizes: tuple[int, ...], seed: int, epoch: int) -> np.ndarray:
    """Returns a permutation like `shuffled` that is kinder to disks.

    Runs of `_BLOCK` consecutive records of a shard are shuffled, then the records
    within each window of `_WINDOW`: a window touches few places of the disk and
    stays in the page cache while its records are read one by one. A set that fits
    one window is shuffled completely.
    """
    starts = np.cumsum((0, *shard_sizes))
    blocks = [
        np.arange(first, min(first + _BLOCK, stop))
        for start, stop in itertools.pairwise(starts)
        for first in range(start, stop, _BLOCK)
    ]
    order = np.concatenate([blocks[i] for i in shuffled(len(blocks), seed, epoch)])
    ranks = np.argsort(shuffled(len(order), seed ^ _WINDOW, epoch))
    window = np.arange(len(order)) // _WINDOW
    return order[np.lexsort((ranks, window))]


def epoch_order(
    kind: str, shard_sizes: tuple[int, ...], seed: int, epoch: int
) -> np.ndarray:
    """Returns the order of an epoch, int64 [n], of a kind that a run records."""
    if kind == environment.WHOLE_SPLIT:
        return shuffled(sum(shard_sizes), seed, epoch)
    return shuffled_near(shard_sizes, seed, epoch)


@dataclasses.dataclass(frozen=True)
class Share:
    """What one of several workers reads of each batch: its columns.

    Attributes:
      worker: the one that reads, from 0.
      workers: how many share each batch, whose size is a multiple.
    """

    worker: int = 0
    workers: int = 1

    def size(self, batch_size: int) -> int:
        """Returns how many examples of each batch this worker reads."""
        return batch_size // self.workers

    def of(self, order: np.ndarray, batch_size: int) -> np.ndarray:
        """Returns this worker's part of whole batches, int64 [M / workers].

        Args:
          order: int64 [M], M a multiple of `batch_size`.
          batch_size: of all workers together.
        """
        size = self.size(batch_size)
        rows = order.reshape(-1, batch_size)
        return rows[:, self.worker * size : (self.worker + 1) * size].reshape(-1)


WHOLE = Share()


def batches(
    order_of: Callable[[int], np.ndarray],
    steps: int,
    batch_size: int,
    *,
    start_step: int,
    share: Share,
) -> tf.data.Dataset:
    """Returns which examples each training batch holds, from a global step on.

    Args:
      order_of: maps an epoch to its order, int64 [n].
      steps: of an epoch.
      batch_size: of all workers together.
      start_step: global step of the first batch.
      share: what this worker reads of each batch.

    Returns:
      Endless dataset of `(epoch int64 scalar, example indices int64 [b])`, b what is
      this worker's of a batch.
    """
    size = share.size(batch_size)

    def indices(epoch: np.ndarray) -> np.ndarray:
        order = order_of(int(epoch))[: steps * batch_size]
        return share.of(order, batch_size).reshape(steps, size)

    def of_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        rows = tf.ensure_shape(
            tf.numpy_function(indices, [epoch], tf.int64), [steps, size]
        )
        return tf.data.Dataset.from_tensor_slices(rows).map(lambda row: (epoch, row))

    first, skipped = divmod(start_step, steps)
    return tf.data.Dataset.counter(first).flat_map(of_epoch).skip(skipped)
