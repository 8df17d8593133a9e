"""Batches of films at memory speed, in an order that is pure arithmetic.

Resident mode decodes each film once into one uint8 array and gathers shuffled
rows from it; streaming mode reads and decodes each film when its batch is due.
In both, batch k of training is a function of (seed, k) alone: a resumed run
computes where it was, and skips nothing and repeats nothing.
"""

import contextlib
import functools
import itertools
import os
import pathlib
import sys
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from cxr import cli, records
from cxr.input.decoding import Reader
from cxr.input.resident import Resident

Batch = tuple[tf.Tensor, tf.Tensor, tf.Tensor]
Rows = Callable[[int], np.ndarray]  # number of a batch to its example indices
FirstUse = Callable[[], np.ndarray]  # the order in which films are asked for first

_GROUP_BYTES = 7 << 20  # 7 MiB gathered by one call, see Source._gathered
_GATHER_THREADS = 2  # 134,000 films/s at B = 32, one thread 112,000
_MAX_GROUP = 8  # batches; more would only delay the first
# These functions hold no Python control flow to convert, and looking for it takes
# AutoGraph half a second before the first batch.
_as_written = tf.autograph.experimental.do_not_convert
_BLOCK = 64  # streaming: consecutive records that stay together, one disk seek
_WINDOW = 8192  # streaming: records shuffled among each other, about 100 MB of JPEG


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
        order = functools.lru_cache(2)(functools.partial(self._order, seed))

        def rows(step: int) -> np.ndarray:
            epoch, done = divmod(step, steps)
            return order(epoch)[done * batch_size : (done + 1) * batch_size]

        if not self._resident:
            return self._streamed(rows, start_step, None, batch_size)

        def first_use() -> np.ndarray:
            epoch, done = divmod(start_step, steps)
            return np.roll(order(epoch), -done * batch_size)

        return self._gathered(rows, first_use, start_step, batch_size)

    def evaluation(self, batch_size: int) -> tf.data.Dataset:
        """Returns each example once, in index order, the last batch partial.

        Args:
          batch_size: B.

        Returns:
          Dataset of `(films uint8 [<=B, S, S, 1], labels int32 [<=B], example
          indices int64 [<=B])`.
        """
        steps = -(-self.n // batch_size)

        def rows(step: int) -> np.ndarray:
            return np.arange(step * batch_size, min((step + 1) * batch_size, self.n))

        if not self._resident:
            return self._streamed(rows, 0, steps, batch_size)
        first_use = functools.partial(np.arange, self.n)
        batches = tf.data.Dataset.range(steps).map(
            _as_written(
                lambda step: self._resident_batch(rows, first_use, step, [None])
            )
        )
        return batches.prefetch(2).with_options(_options(threads=1))

    def batches(self, dataset: tf.data.Dataset) -> Iterator[Batch]:
        """Iterates one of this source's datasets, faster than `iter(dataset)`.

        Python's `tf.data` iterator spends some 200 us a batch on checks of the
        element's structure, as much as the batch itself takes; this one calls the
        op underneath.

        Raises:
          DataError: a damaged record was met.
        """
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

    def _gathered(
        self, rows: Rows, first_use: FirstUse, start_step: int, batch_size: int
    ) -> tf.data.Dataset:
        """Gathers several batches in one call and hands out slices of the result.

        `from_tensor_slices` hands out views, where `unbatch` copies (112,000 against
        92,000 films/s at B = 32), so a group divides the cost of a call (100 us)
        without another copy. One batch a call: 69,000 to 104,000; groups of 13 MB,
        which leave the processor's cache: 87,000.
        """
        batch_bytes = batch_size * self.image_size**2
        group = min(max(1, _GROUP_BYTES // batch_bytes), _MAX_GROUP)

        def grouped_rows(number: int) -> np.ndarray:
            first = start_step + number * group
            return np.stack([rows(step) for step in range(first, first + group)])

        groups = tf.data.Dataset.counter().map(
            _as_written(
                lambda number: self._resident_batch(
                    grouped_rows, first_use, number, [group, batch_size]
                )
            ),
            num_parallel_calls=_GATHER_THREADS,
        )
        batches = groups.flat_map(
            _as_written(lambda *group: tf.data.Dataset.from_tensor_slices(group))
        )
        return batches.with_options(_options(threads=_GATHER_THREADS))

    def _resident_batch(
        self,
        rows: Rows,
        first_use: FirstUse,
        number: tf.Tensor,
        shape: list[int | None],
    ) -> Batch:
        def arrived(number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            # Not before a batch is asked for: until then the filling threads would
            # only hold up the Python that builds the dataset.
            self._resident.begin(first_use)
            indices = rows(int(number))
            self._resident.wait(indices)
            return self.labels[indices], indices

        labels, indices = tf.numpy_function(arrived, [number], (tf.int32, tf.int64))
        indices = tf.ensure_shape(indices, shape)
        films = self._resident.gather(indices)
        return films, tf.ensure_shape(labels, shape), indices

    def _streamed(
        self, rows: Rows, start_step: int, steps: int | None, batch_size: int
    ) -> tf.data.Dataset:
        """Reads each batch in one call; decodes its films on all threads."""
        numbers = tf.data.Dataset.counter(start_step)
        if steps is not None:
            numbers = tf.data.Dataset.range(steps)
        reader, threads = self._reader, self._threads
        raw = reader.encoding == "raw"
        rest = [None] if steps else [batch_size]
        size = reader.image_size if raw else reader.stored_size

        def read(number: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            indices = rows(int(number))
            if raw:
                films = reader.films(indices)[..., np.newaxis]
            else:
                films = np.array(reader.encoded(indices), object)
            return films, self.labels[indices], indices

        def shaped(number: tf.Tensor) -> Batch:
            dtypes = (tf.uint8 if raw else tf.string, tf.int32, tf.int64)
            films, labels, indices = tf.numpy_function(read, [number], dtypes)
            films = tf.ensure_shape(films, [*rest, size, size, 1] if raw else rest)
            return films, tf.ensure_shape(labels, rest), tf.ensure_shape(indices, rest)

        batches = numbers.map(_as_written(shaped), num_parallel_calls=threads)
        if not raw:
            films = batches.unbatch().map(
                _as_written(lambda film, *rest: (reader.decode(film), *rest)),
                num_parallel_calls=threads,
            )
            batches = films.batch(batch_size, drop_remainder=steps is None)
            if size != reader.image_size:
                reduced = _as_written(self._reduced)
                batches = batches.map(reduced, num_parallel_calls=threads)
        return batches.prefetch(2).with_options(_options(threads=threads))

    def _reduced(self, films: tf.Tensor, *rest: tf.Tensor) -> Batch:
        def reduce(films: np.ndarray) -> np.ndarray:
            return self._reader.reduced(films[..., 0])[..., np.newaxis]

        shape = [films.shape[0], self.image_size, self.image_size, 1]
        smaller = tf.numpy_function(reduce, [films], tf.uint8)
        return tf.ensure_shape(smaller, shape), *rest


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
