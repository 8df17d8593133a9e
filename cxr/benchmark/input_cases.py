"""Benchmark cases of the input: read, parse, decode, batch.

`read`, `parse` and `decode` bring every film from its shard, as the configured mode
does when it fills memory or streams; `batch` is what the training loop draws.
`augment` and `step` (`cxr.benchmark.compute_cases`) run on one resident batch;
`trivial` is training with a network that costs nothing, `train` with the network
asked for. Nothing here is a copy: readers, sources, augmentation and the compiled
step are the ones that training imports.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from cxr import platforms, records
from cxr.benchmark.checks import EpochCount, FilmAudit, WrongBatch
from cxr.benchmark.timing import Case, Clock
from cxr.config import TrainConfig
from cxr.input import pipeline
from cxr.input.reader import Reader

INPUT_CASES = ("read", "parse", "decode", "batch")
COMPUTE_CASES = ("augment", "step", "trivial", "train")
CASES = INPUT_CASES + COMPUTE_CASES
SPLIT = "train"

# Films or encoded films, labels, indices; shares of several replicas where distributed.
Batches = Iterator[tuple]
Contents = Callable[[np.ndarray, np.ndarray], None]


class ReadOnly(Reader):
    """A reader that hands out whole records, unparsed and unverified."""

    def _checked(self, framed: list[bytes], indices: np.ndarray) -> list[bytes]:
        del indices
        return framed


class Drawn:
    """Draws batches and keeps what their audit needs.

    Args:
      batches: of `(films or encoded films, labels, indices)`.
      epoch_films: films between two repetitions.
      audit: what batches are held against.
      contents: the check of a batch's first part.
      clock: times the waiting.
      shares: splits a tensor into its replicas' shares.

    Attributes:
      waits: seconds spent waiting for batches before each audit.
    """

    def __init__(
        self,
        batches: Batches,
        *,
        epoch_films: int,
        audit: FilmAudit,
        contents: Contents,
        clock: Clock,
        shares: Callable[[tf.Tensor], tuple] = lambda value: (value,),
    ):
        self._batches, self._shares, self._clock = batches, shares, clock
        self._audit, self._contents = audit, contents
        self._count = EpochCount(audit.reader.n, epoch_films)
        self._drawn: list[tuple] = []  # labels and indices: films would fill memory
        self._films: tuple = ()
        self._waited = 0.0
        self.waits: list[float] = []

    def advance(self) -> int:
        """Draws a batch; returns the number of its films."""
        self.draw()
        return sum(len(share) for share in self._drawn[-1][1])

    def draw(self) -> tuple:
        """Returns a batch and notes how long it took to come."""
        begin = self._clock.wall()
        batch = next(self._batches)
        self._waited += self._clock.wall() - begin
        self._films = batch[0]
        self._drawn.append((self._shares(batch[1]), self._shares(batch[2])))
        return batch

    def audit(self, films: int) -> None:
        """Holds all batches since the last audit against what they should be.

        Every index and label is checked, and the contents of the last batch.

        Args:
          films: counted in those batches.

        Raises:
          WrongBatch: they are not.
        """
        delivered = 0
        for part in self._drawn:
            labels, indices = map(np.concatenate, part)
            self._count.add(indices)
            self._audit.check_labels(labels, indices)
            delivered += len(indices)
        if delivered != films:
            raise WrongBatch(f"{films} films counted, {delivered} delivered")
        contents = [np.asarray(share) for share in self._shares(self._films)]
        self._contents(np.concatenate(contents), indices)
        self.waits.append(self._waited)
        self._drawn, self._waited = [], 0.0


@dataclasses.dataclass
class Input:
    """The input cases and what was found out while they were built.

    Attributes:
      cases: `read`, `parse`, `decode`, `batch`.
      source: the split as training opens it.
      first_batch_s: seconds from opening the split to its first batch.
      first_epoch_s: seconds from opening the split to the end of its first epoch,
        when all films are in memory; None where they are not kept there.
    """

    cases: list[Case]
    source: pipeline.Source
    first_batch_s: float
    first_epoch_s: float | None


def open_source(config: TrainConfig, record_set: records.RecordSet) -> pipeline.Source:
    """Opens the training split as training does."""
    return pipeline.open_split(
        record_set,
        SPLIT,
        image_size=config.image_size,
        cache=config.cache,
        ram_budget_bytes=int(config.ram_budget_gib * 2**30) or None,
        progress=False,
    )


def input_cases(
    config: TrainConfig,
    record_set: records.RecordSet,
    *,
    iterate: Callable[[pipeline.Source, tf.data.Dataset], Batches],
    audit: FilmAudit,
    clock: Clock,
    shares: Callable[[tf.Tensor], tuple],
) -> Input:
    """Builds the input cases; in memory mode the first epoch is drawn on the way.

    Args:
      config: the run's flags.
      record_set: a checked data set.
      iterate: iterates over a source's batches as the training loop does.
      audit: of the training split.
      clock: gives the time.
      shares: splits a tensor of those batches into its replicas' shares.
    """
    batch_size = config.batch_size
    begin = clock.wall()
    source = open_source(config, record_set)
    steps = source.n // batch_size
    drawn = Drawn(
        iterate(source, source.training(batch_size, config.seed)),
        epoch_films=steps * batch_size,
        audit=audit,
        contents=audit.check_films,
        clock=clock,
        shares=shares,
    )
    films = drawn.advance()
    first_batch_s, first_epoch_s = clock.wall() - begin, None
    if source.mode == "ram":
        films += sum(drawn.advance() for _ in range(steps - 1))
        first_epoch_s = clock.wall() - begin
    drawn.audit(films)
    cases = [
        _stream_case(name, batches, audit=audit, contents=contents, clock=clock)
        for name, batches, contents in _streams(
            record_set, source, batch_size=batch_size, audit=audit
        )
    ]
    cases.append(Case("batch", drawn.advance, audit=drawn.audit))
    return Input(cases, source, first_batch_s, first_epoch_s)


def _streams(
    record_set: records.RecordSet,
    source: pipeline.Source,
    *,
    batch_size: int,
    audit: FilmAudit,
) -> list[tuple[str, Batches, Contents]]:
    """The films of the split in index order, again and again, to three depths.

    By the calls that fill memory, or that streaming makes when a batch is due.
    """
    size = source.image_size
    reading = ReadOnly(record_set, SPLIT, image_size=size)
    # Memory is filled by first reads, which verify everything.
    remember = source.mode != "ram"
    reader = Reader(record_set, SPLIT, image_size=size, remember=remember)
    return [
        ("read", _threaded(reader, reading.encoded, batch_size), audit.check_records),
        ("parse", _threaded(reader, reader.encoded, batch_size), audit.check_encoded),
        ("decode", _threaded(reader, reader.images, batch_size), audit.check_films),
    ]


def _stream_case(
    name: str, batches: Batches, *, audit: FilmAudit, contents: Contents, clock: Clock
) -> Case:
    drawn = Drawn(
        batches, epoch_films=audit.reader.n, audit=audit, contents=contents, clock=clock
    )
    return Case(name, drawn.advance, audit=drawn.audit)


def _threaded(reader: Reader, function: Callable, batch_size: int) -> Batches:
    """Maps batches of indices on one thread a core, a few batches ahead."""
    threads = platforms.available_cores()
    starts = itertools.cycle(range(0, reader.n, batch_size))
    ahead: collections.deque = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        while True:
            while len(ahead) <= threads:
                first = next(starts)
                indices = np.arange(first, min(first + batch_size, reader.n))
                ahead.append((pool.submit(function, indices), indices))
            found, indices = ahead.popleft()
            yield found.result(), reader.labels[indices], indices
