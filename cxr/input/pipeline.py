"""Batches of films at memory speed, in an order that is pure arithmetic.

Resident mode decodes each film once into one uint8 array and gathers shuffled
rows from it; streaming mode reads and decodes each film when its batch is due.
In both, batch k of training is a function of (seed, k) alone: a resumed run
computes where it was, and skips nothing and repeats nothing.
"""

import atexit
import contextlib
import itertools
import os
import pathlib
import sys
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from cxr import cli, records
from cxr.input.decoding import Reader
from cxr.input.resident import Resident, keep_freed_memory

# Python that a pipeline calls ahead of time would never get Python's lock once the
# interpreter winds up, and the iterator's end would wait for it for ever: iterators
# that are still open are closed before.
_open_iterators: weakref.WeakSet = weakref.WeakSet()

Batch = tuple[tf.Tensor, tf.Tensor, tf.Tensor]
FirstUse = Callable[[], np.ndarray]  # the order in which films are asked for first

_GROUP_BYTES = 7 << 20  # 7 MiB loaded by one call, see Source._in_groups
_GATHER_THREADS = 2  # 338,000 films/s at B = 32, one thread 298,000
_READS_AHEAD = 2  # streaming: reads that wait beside those under way
_MAX_GROUP = 8  # batches; more would only delay the first
# These functions hold no Python control flow to convert, and looking for it takes
# AutoGraph half a second before the first batch.
_as_written = tf.autograph.experimental.do_not_convert
_slices = _as_written(lambda *batches: tf.data.Dataset.from_tensor_slices(batches))
_BLOCK = 64  # streaming: consecutive records that stay together, one disk seek
_WINDOW = 8192  # streaming: records shuffled among each other, about 100 MB of JPEG


@atexit.register
def _close_iterators() -> None:
    for iterator in list(_open_iterators):
        iterator.close()


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of an epoch, int64 [n], a permutation of 0..n-1.

    The argsort of raw Philox words: numpy promises the words for all versions,
    which it does not for `permutation`.
    """
    key = np.array([seed, epoch]).astype(np.uint64)
    words = np.random.Philox(key=key).random_raw(n)
    return np.argsort(words, kind="stable")


def stream_order(shard_sizes: tuple[int, ...], seed: int, epoch: int) -> np.ndarray:
    """Returns a permutation like `epoch_order` that is kinder to disks.

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
    shuffled = epoch_order(len(blocks), seed, epoch)
    order = np.concatenate([blocks[block] for block in shuffled])
    ranks = np.argsort(epoch_order(len(order), seed ^ _WINDOW, epoch))
    window = np.arange(len(order)) // _WINDOW
    return order[np.lexsort((ranks, window))]


def open_split(
    record_set: records.RecordSet,
    split: str,
    *,
    image_size: int,
    cache: str = "auto",
    ram_budget_bytes: int | None = None,
    progress: bool = True,
) -> "Source":
    """Opens a split for training or evaluation.

    Args:
      record_set: a complete converted set.
      split: `train`, `validation` or `test`.
      image_size: height = width of the films handed out; at most the stored size.
      cache: `ram` (resident), `none` (streaming), or `auto`: resident where the
        decoded split fits the budget.
      ram_budget_bytes: for the decoded split; None is half of what is free.
      progress: say on stderr which mode was chosen and why.

    Raises:
      DataError: a shard is not what the manifest says.
      UsageError: `image_size` exceeds the stored size.
      UnavailableError: `cache="ram"` and the split exceeds the free memory.
    """
    reader = Reader(record_set, split, image_size=image_size)
    nbytes = reader.n * image_size**2
    free = _free_bytes()
    budget = free // 2 if ram_budget_bytes is None else ram_budget_bytes
    if cache == "ram" and nbytes > free:
        raise cli.UnavailableError(
            f"--cache=ram: {split} takes {_gib(nbytes)}, {_gib(free)} are free; use "
            "--cache=none, or a smaller --image_size"
        )
    resident = cache == "ram" or (cache == "auto" and nbytes <= budget)
    if progress:
        where = "in memory" if resident else "streamed from disk"
        print(
            f"{split}: {reader.n} films of {image_size} x {image_size} {where} "
            f"({_gib(nbytes)} decoded, budget {_gib(budget)}, --cache={cache})",
            file=sys.stderr,
        )
    return Source(reader, resident=resident)


class Source:
    """One split, as endless training batches or as one pass of evaluation.

    Attributes:
      n: number of examples.
      labels: int32 [n].
      mode: `ram` or `stream`.
      nbytes: size of the decoded split.
      image_size: height = width of the films.
    """

    def __init__(self, reader: Reader, *, resident: bool):
        keep_freed_memory()
        self.n, self.labels = reader.n, reader.labels
        self.image_size = reader.image_size
        self.nbytes = reader.n * reader.image_size**2
        self.mode = "ram" if resident else "stream"
        self._reader = reader
        self._threads = len(os.sched_getaffinity(0))
        self._resident = Resident(reader, self._threads) if resident else None

    def training(
        self, batch_size: int, seed: int, *, start_step: int = 0
    ) -> tf.data.Dataset:
        """Returns the endless training batches from a global step on.

        An epoch is `n // batch_size` steps; the examples left over sit it out,
        others in each epoch.

        Args:
          batch_size: B, at most `n`.
          seed: of the order.
          start_step: global step of the first batch, counted from 0.

        Returns:
          Dataset of `(films uint8 [B, S, S, 1], labels int32 [B], example indices
          int64 [B])`, B static.

        Raises:
          UsageError: `batch_size` exceeds the split.
        """
        steps = self.n // batch_size
        if not steps:
            raise cli.UsageError(
                f"--batch_size={batch_size}: training needs one full batch, the "
                f"split holds {self.n} films"
            )
        epoch, done = divmod(start_step, steps)

        def rows(number: np.ndarray) -> np.ndarray:
            order = self._order(seed, int(number))[: steps * batch_size]
            return order.reshape(steps, batch_size)[done if number == epoch else 0 :]

        def batches_of(number: tf.Tensor) -> tf.Tensor:
            indices = tf.numpy_function(rows, [number], tf.int64)
            return tf.ensure_shape(indices, [None, batch_size])

        def first_use() -> np.ndarray:
            return np.roll(self._order(seed, epoch), -done * batch_size)

        epochs = tf.data.Dataset.counter(epoch).map(_as_written(batches_of))
        return self._in_groups(epochs, first_use, batch_size)

    def evaluation(self, batch_size: int, *, start: int = 0) -> tf.data.Dataset:
        """Returns each example once, in index order, the last batch partial.

        Args:
          batch_size: B.
          start: index of the first example.

        Returns:
          Dataset of `(films uint8 [<=B, S, S, 1], labels int32 [<=B], example
          indices int64 [<=B])`.
        """
        n = self.n
        indices = tf.data.Dataset.range(start, n, batch_size).map(
            _as_written(
                lambda first: tf.range(first, tf.minimum(first + batch_size, n))
            )
        )
        if self._resident:
            indices = indices.map(self._arrived(lambda: np.arange(n)))
        return (
            self._loaded(indices).prefetch(2).with_options(_options(self._load_threads))
        )

    def batches(self, dataset: tf.data.Dataset) -> Iterator[Batch]:
        """Iterates one of this source's datasets, faster than `iter(dataset)`.

        Python's `tf.data` iterator spends some 200 us a batch on checks of the
        element's structure, as much as the batch itself takes; this one calls the
        op underneath. It ends when the program does.

        Raises:
          DataError: a damaged record was met.
        """
        batches = self._iterate(dataset)
        _open_iterators.add(batches)
        return batches

    def _iterate(self, dataset: tf.data.Dataset) -> Iterator[Batch]:
        types = [spec.dtype for spec in dataset.element_spec]
        shapes = [spec.shape for spec in dataset.element_spec]
        iterator = tf.raw_ops.AnonymousIteratorV3(
            output_types=types, output_shapes=shapes
        )
        variant = tf.data.experimental.to_variant(dataset)
        tf.raw_ops.MakeIterator(dataset=variant, iterator=iterator)
        while True:
            try:
                batch = tf.raw_ops.IteratorGetNext(
                    iterator=iterator, output_types=types, output_shapes=shapes
                )
            except tf.errors.OutOfRangeError:
                return
            except tf.errors.OpError as error:
                raise self.fault or error from None
            yield tuple(batch)

    @property
    def fault(self) -> Exception | None:
        """The error behind a `tf.errors.OpError` of this source's datasets."""
        return self._reader.fault

    def _order(self, seed: int, epoch: int) -> np.ndarray:
        if self._resident:
            return epoch_order(self.n, seed, epoch)
        return stream_order(self._reader.shard_sizes, seed, epoch)

    def _in_groups(
        self, epochs: tf.data.Dataset, first_use: FirstUse, batch_size: int
    ) -> tf.data.Dataset:
        """Loads several batches in one call and hands out slices of the result.

        `from_tensor_slices` hands out views, where `unbatch` copies, so a group
        divides the cost of a call (40 us to gather, 200 us to read, where a batch of
        32 itself takes 70 and 1,700) without another copy. In memory mode Python runs
        once an epoch, for its order and to see that all films have come; in the
        first, which need not wait for the last film, once a group.

        Args:
          epochs: the indices of each epoch's batches, int64 [steps, B].
          first_use: see `Resident.begin`.
          batch_size: B.
        """
        batch_bytes = batch_size * self.image_size**2
        group = min(max(1, _GROUP_BYTES // batch_bytes), _MAX_GROUP)

        @_as_written
        def grouped(indices: tf.Tensor) -> tf.data.Dataset:
            starts = tf.data.Dataset.range(0, tf.shape(indices, tf.int64)[0], group)
            return starts.map(_as_written(lambda first: indices[first : first + group]))

        if self._resident:
            arrived = self._arrived(first_use)
            first = epochs.take(1).flat_map(grouped).map(arrived)
            later = epochs.skip(1).map(arrived).prefetch(1).flat_map(grouped)
            groups = self._loaded(first.concatenate(later))
        else:
            # A group ready beside those under way: a thread that is done before its
            # turn need not wait (18,900 against 18,100 films/s at B = 128).
            groups = self._loaded(epochs.prefetch(1).flat_map(grouped)).prefetch(1)
        return groups.flat_map(_slices).with_options(_options(self._load_threads))

    def _loaded(self, indices: tf.data.Dataset) -> tf.data.Dataset:
        calls = self._load_threads + (0 if self._resident else _READS_AHEAD)
        return indices.map(self._load, num_parallel_calls=calls)

    @property
    def _load_threads(self) -> int:
        return _GATHER_THREADS if self._resident else self._threads

    @_as_written
    def _load(self, indices: tf.Tensor) -> Batch:
        """Returns the films of indices int64 [..., B], in one call."""
        shape = [*indices.shape, self.image_size, self.image_size, 1]
        if self._resident:
            films = self._resident.gather(indices)
        else:
            films = tf.numpy_function(self._read, [indices], tf.uint8)
        return tf.ensure_shape(films, shape), tf.gather(self.labels, indices), indices

    def _read(self, indices: np.ndarray) -> np.ndarray:
        """Reads, verifies and decodes films."""
        films = self._reader.films(indices.ravel())
        return films.reshape(*indices.shape, self.image_size, self.image_size, 1)

    def _arrived(self, first_use: FirstUse) -> Callable[[tf.Tensor], tf.Tensor]:
        """Returns the identity, which waits until the films are in memory."""

        def wait(indices: np.ndarray) -> np.ndarray:
            # Not before a batch is asked for: until then the filling threads would
            # only hold up the Python that builds the dataset.
            self._resident.begin(first_use)
            self._resident.wait(indices)
            return indices

        @_as_written
        def arrived(indices: tf.Tensor) -> tf.Tensor:
            waited = tf.numpy_function(wait, [indices], tf.int64)
            return tf.ensure_shape(waited, indices.shape)

        return arrived


def _options(threads: int) -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True  # the order is the contract
    options.autotune.enabled = False  # its bookkeeping costs 70 us an element
    # Nothing here can be fused or hoisted; trying takes 0.2 s before the first batch.
    options.experimental_optimization.apply_default_optimizations = False
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1  # a gather is bound by memory
    return options


def _free_bytes() -> int:
    """Returns the memory this process may still take, its container's limit seen."""
    text = pathlib.Path("/proc/meminfo").read_text()
    fields = dict(line.split(":") for line in text.splitlines())
    free = int(fields["MemAvailable"].split()[0]) << 10  # kB
    control_group = pathlib.Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # no cgroup v2, or "max"
        limit = int((control_group / "memory.max").read_text())
        used = int((control_group / "memory.current").read_text())
        free = min(free, limit - used)
    return max(0, free)


def _gib(nbytes: int) -> str:
    return f"{nbytes / 2**30:.2f} GiB"
