"""Builds the tf.data pipelines of training and evaluation, exactly resumable.

Resident mode decodes each image once into one uint8 array and gathers shuffled
rows from it; streaming mode reads and decodes each image when its batch is due.
In both, batch k of training is a function of (seed, k) alone: a resumed run
computes where it was, and skips nothing and repeats nothing.
"""

import atexit
import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from cxr import cli, console, environment, platforms, records
from cxr.input import orders
from cxr.input.held import Held
from cxr.input.jpeg import decoder as jpeg
from cxr.input.reader import Reader
from cxr.input.resident import Resident
from cxr.input.shard_check import ShardCheck

# Python that a pipeline calls ahead of time would never get Python's lock once the
# interpreter winds up, and the iterator's end would wait for it for ever: iterators
# that are still open are closed before.
_open_readers: weakref.WeakSet = weakref.WeakSet()

# AutoGraph would look for Python control flow, of which there is none, for 0.1 s.
_as_it_stands = tf.autograph.experimental.do_not_convert

Batch = tuple[tf.Tensor, tf.Tensor, tf.Tensor]

_GROUP_BYTES = 7 << 20  # 7 MiB loaded by one call, see ImageSource.training
_GATHER_THREADS = 2  # 490,000 images/s at B = 32, one thread 340,000
_READS_AHEAD = 2  # streaming: reads that wait beside those under way
_MAX_GROUP = 8  # batches; more would only delay the first


def close_at_exit(reader: Any) -> None:
    """Calls `reader.close()` before the interpreter winds up, if it is still there."""
    _open_readers.add(reader)


@atexit.register
def _close_readers() -> None:
    for reader in list(_open_readers):
        reader.close()


def _part(
    number: int, edges: np.ndarray, epoch: int, order_of: Callable[[int], np.ndarray]
) -> np.ndarray:
    """Returns the indices of some batches: of a group, then of an epoch."""
    later = number - (len(edges) - 1)
    if later >= 0:
        return order_of(epoch + 1 + later)[: edges[-1]]
    return order_of(epoch)[edges[number] : edges[number + 1]]


def open_split(
    record_set: records.RecordSet,
    split: str,
    *,
    image_size: int,
    cache: str = "auto",
    ram_budget_bytes: int | None = None,
    progress: bool = True,
) -> "ImageSource":
    """Opens a split for training or evaluation.

    Args:
      record_set: a complete converted set.
      split: `train`, `validation` or `test`.
      image_size: height = width of the images handed out; at most the stored size.
      cache: `ram` (resident), `none` (streaming), `hybrid` (streaming, in the same
        order, but the share of images that fits the budget is kept), `device`
        (streaming, until they lie there: `on_device.OnDevice`), or `auto`: resident
        where the decoded split fits the budget.
      ram_budget_bytes: for the decoded split; None is half of what is free.
      progress: say on stderr which mode was chosen and why.

    Raises:
      DataError: a shard is not what the manifest says.
      UsageError: `image_size` exceeds the stored size.
      UnavailableError: `cache="ram"` and the split exceeds the free memory.
    """
    reader = Reader(record_set, split, image_size=image_size)
    nbytes = reader.n * image_size**2
    free = platforms.free_memory_bytes()
    budget = free // 2 if ram_budget_bytes is None else ram_budget_bytes
    if cache == "ram" and nbytes > free:
        raise cli.UnavailableError(
            f"--cache=ram: {split} takes {_gib(nbytes)}, {_gib(free)} are free; use "
            "--cache=none, or a smaller --image_size"
        )
    resident = cache == "ram" or (cache == "auto" and nbytes <= budget)
    held = budget // image_size**2 if cache == "hybrid" else 0
    if progress:
        where = "in memory" if resident else "streamed from disk"
        if cache == "device":
            where = "kept on each device"
        if held:
            where = f"streamed, {min(held, reader.n)} of them kept in memory"
        console.note(
            f"{split}: {reader.n} images of {image_size} x {image_size} {where} "
            f"({_gib(nbytes)} decoded, budget {_gib(budget)}, --cache={cache})"
        )
        if not resident and reader.encoding == "jpeg":
            _say_decoder()
    whole = cache == "device"
    return ImageSource(reader, resident=resident, held=held, whole=whole)


@functools.cache  # once
def _say_decoder() -> None:
    how = "libjpeg-turbo; the extra fast-jpeg (numba) nearly halves the time"
    if jpeg.available():
        how = "the compiled loop (numba)"
    console.note(f"JPEG: decoded by {how}")


class ImageSource:
    """One split, as endless training batches or as one pass of evaluation.

    Attributes:
      n: number of examples.
      labels: int32 [n].
      mode: `ram`, `stream` or `hybrid`.
      nbytes: size of the decoded split.
      image_size: height = width of the images.
      order: how an epoch of training is shuffled, `environment.WHOLE_SPLIT` in memory,
        else `environment.NEARBY`; may be set to what a run has begun with.
    """

    def __init__(
        self, reader: Reader, *, resident: bool, held: int = 0, whole: bool = False
    ):
        self.n, self.labels = reader.n, reader.labels
        self.image_size = reader.image_size
        self.nbytes = reader.n * reader.image_size**2
        self.mode = "ram" if resident else "hybrid" if held else "stream"
        self.order = (
            environment.WHOLE_SPLIT if resident or whole else environment.NEARBY
        )
        self._reader = reader
        self._threads = platforms.available_cores()
        self._resident = Resident(reader, self._threads) if resident else None
        images = Held(reader, held).images if held else reader.images
        self._read = lambda indices: images(indices)[..., np.newaxis]
        self._python_functions: set[Callable] = set()

    def training(
        self,
        batch_size: int,
        seed: int,
        *,
        start_step: int = 0,
        share: orders.Share = orders.WHOLE,
    ) -> tf.data.Dataset:
        """Returns the endless training batches from a global step on.

        An epoch is `n // batch_size` steps; the examples left over sit it out,
        others in each epoch.

        Args:
          batch_size: B, at most `n`.
          seed: of the order.
          start_step: global step of the first batch, counted from 0.
          share: what this worker reads of each batch.

        Returns:
          Dataset of `(images uint8 [b, S, S, 1], labels int32 [b], example indices
          int64 [b])`, b = `share.size(B)`, static.

        Raises:
          UsageError: `batch_size` exceeds the split.
        """
        steps = self._steps(batch_size)
        epoch, done = divmod(start_step, steps)
        # Several batches are loaded in one call and handed out as slices: the cost of a
        # call (40 us to gather, 200 us to read, where a batch of 32 itself takes 70 and
        # 1,000) is divided.
        batch_bytes = batch_size * self.image_size**2
        group = min(max(1, _GROUP_BYTES // batch_bytes), _MAX_GROUP)
        # Python runs once an epoch; in the first, where memory mode need not wait for
        # the last image, once a group. The first batch comes alone, so sooner.
        edges = np.array([done, *range(done + 1, steps, group), steps]) * batch_size

        order_of = functools.lru_cache(maxsize=1)(
            functools.partial(self.epoch_order, seed)
        )

        def part(number: int) -> np.ndarray:
            batches = _part(number, edges, epoch, order_of)
            return share.of(batches, batch_size)

        if self._resident:
            self._resident.expect(np.roll(order_of(epoch), -edges[0]))
        numbers = tf.data.Dataset.range(np.iinfo(np.int64).max)
        parts = numbers.map(self._choosing(part))
        # Again and again, so now and then one batch comes alone.
        size = share.size(batch_size)
        chosen = parts.rebatch([size, *[group * size] * 999])
        groups = chosen.map(_as_it_stands(self._load), self._calls)
        if not self._resident:
            # One ready beside those under way: a thread that is done before its turn
            # need not wait (2 % more images a second at B = 32).
            groups = groups.prefetch(1)
        # As slices; to make a dataset of each group's (`from_tensor_slices`, `unbatch`)
        # took a fifth of the images a second at B = 32.
        return self._finished(groups.rebatch(size, drop_remainder=True))

    def _steps(self, batch_size: int) -> int:
        """Returns the full batches of an epoch, at least one."""
        steps = self.n // batch_size
        if not steps:
            raise cli.UsageError(
                f"--batch_size={batch_size}: training needs one full batch, the "
                f"split holds {self.n} images"
            )
        return steps

    def evaluation(self, batch_size: int, *, start: int = 0) -> tf.data.Dataset:
        """Returns each example once, in index order, the last batch partial.

        Args:
          batch_size: B.
          start: index of the first example.

        Returns:
          Dataset of `(images uint8 [<=B, S, S, 1], labels int32 [<=B], example
          indices int64 [<=B])`.
        """
        choose = self._choosing(
            lambda first: np.arange(first, min(first + batch_size, self.n))
        )
        firsts = tf.data.Dataset.range(start, self.n, batch_size)
        batches = firsts.map(choose).map(_as_it_stands(self._load), self._calls)
        return self._finished(batches.prefetch(2))

    def check_shards(self) -> ShardCheck:
        """Begins to compare the shards' SHA-256 with the manifest's, in a thread."""
        return ShardCheck(self._reader)

    def batches(self, dataset: tf.data.Dataset) -> Iterator[Batch]:
        """Iterates one of this source's datasets, faster than `iter(dataset)`.

        Python's `tf.data` iterator spends some 200 us a batch on checks of the
        element's structure, as much as the batch itself takes; this one calls the
        op underneath. It ends when the program does.

        Raises:
          DataError: a damaged record was met.
        """
        batches = self._iterate(dataset)
        close_at_exit(batches)
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

    def epoch_order(self, seed: int, epoch: int) -> np.ndarray:
        """Returns the order of an epoch of training, int64 [n]."""
        return orders.epoch_order(self.order, self._reader.shard_sizes, seed, epoch)

    def _choosing(self, indices_of: Callable[[int], np.ndarray]) -> Callable:
        """Returns the choice of images; in memory mode it waits until they are there.

        Args:
          indices_of: maps a number to indices of images.

        Returns:
          To be mapped, from a number, int64, to indices, int64 [M].
        """

        def choose(number: np.ndarray) -> np.ndarray:
            indices = indices_of(int(number))
            if self._resident:
                self._resident.wait(indices)
            return indices

        def chosen(number: tf.Tensor) -> tf.Tensor:
            indices = self._python(choose, number, tf.int64)
            indices.set_shape([None])
            return indices

        return _as_it_stands(chosen)

    def _load(self, indices: tf.Tensor) -> Batch:
        """Loads examples by index, int64 [M]; to be mapped."""
        if self._resident:
            images = self._resident.gather(indices)
        else:
            images = self._python(self._read, indices, tf.uint8)
            images.set_shape([None, self.image_size, self.image_size, 1])
        return images, tf.gather(self.labels, indices), indices

    def _python(
        self, function: Callable, argument: tf.Tensor, dtype: tf.DType
    ) -> tf.Tensor:
        """Calls Python from a graph, as long as this source lives.

        By itself `tf.numpy_function` keeps its function, and with it the source and
        its images, until the program ends.
        """
        self._python_functions.add(function)
        known = weakref.ref(function)

        def call(array: np.ndarray) -> np.ndarray:
            alive = known()
            assert alive is not None  # a dataset keeps its source
            return alive(array)

        return tf.numpy_function(call, [argument], dtype)

    def _finished(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        finished = dataset.with_options(self._options)
        finished.source = self  # whose Python it calls; iterators keep their dataset
        return finished

    @property
    def _calls(self) -> int:
        """The calls of `_load` at a time."""
        return _GATHER_THREADS if self._resident else self._threads + _READS_AHEAD

    @property
    def _options(self) -> tf.data.Options:
        options = tf.data.Options()
        options.deterministic = True  # the order is the contract
        options.autotune.enabled = False  # its bookkeeping costs 70 us an element
        # Nothing here can be fused or hoisted; trying takes 0.2 s before the first
        # batch.
        options.experimental_optimization.apply_default_optimizations = False
        threads = _GATHER_THREADS if self._resident else self._threads
        options.threading.private_threadpool_size = threads
        options.threading.max_intra_op_parallelism = 1  # a gather is bound by memory
        return options


def _gib(nbytes: int) -> str:
    return f"{nbytes / 2**30:.2f} GiB"
