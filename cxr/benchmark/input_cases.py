"""Benchmark cases of the input: read, parse, decode, batch."""

import collections
import concurrent.futures
import itertools
import time
from collections.abc import Callable

import numpy as np

from cxr import platforms
from cxr.benchmark.checks import Batches, CheckedBatches
from cxr.benchmark.timing import Case
from cxr.benchmark.workload import SPLIT, Workload
from cxr.input.reader import Reader


class ReadOnly(Reader):
    """A reader that hands out whole records, unparsed and unverified."""

    def _checked(self, framed: list[bytes], indices: np.ndarray) -> list[bytes]:
        del indices
        return framed


def start(workload: Workload) -> tuple[CheckedBatches, dict[str, float | None]]:
    """Draws the first batch; in memory mode the first epoch.

    Returns:
      What goes on where that ended, and what bench.json says of it: the seconds from
      opening the split to its first batch, and to the end of its first epoch, when all
      images are in memory; None where they are not kept there.
    """
    batch_size, source = workload.config.batch_size, workload.source
    batches = workload.training_batches(batch_size)
    count = batches.advance()
    first_batch_s, first_epoch_s = time.perf_counter() - workload.opened_at, None
    if source.mode == "ram":
        count += sum(batches.advance() for _ in range(source.n // batch_size - 1))
        first_epoch_s = time.perf_counter() - workload.opened_at
    batches.check(count)
    times = {"time_to_first_batch_s": first_batch_s, "first_epoch_s": first_epoch_s}
    return batches, times


def cases(workload: Workload, batches: CheckedBatches) -> list[Case]:
    """Returns the input cases.

    Those before `batch` bring the images in index order, again and again, to three
    depths: by the calls that fill memory, or that streaming makes when a batch is due.

    Args:
      workload: what is measured.
      batches: of training, from its second epoch on where memory keeps them.
    """
    size = workload.config.image_size
    reading = ReadOnly(workload.record_set, SPLIT, image_size=size)
    # Memory is filled by first reads, which verify everything.
    remember = workload.source.mode != "ram"
    reader = Reader(workload.record_set, SPLIT, image_size=size, remember=remember)
    check = workload.image_check
    streams = {
        "read": (reading.encoded, check.check_records),
        "parse": (reader.encoded, check.check_encoded),
        "decode": (reader.images, check.check_images),
    }
    checked = {}
    for name, (function, contents) in streams.items():
        stream = _threaded(function, reader.labels, workload.config.batch_size)
        checked[name] = CheckedBatches(stream, check, contents, epoch_images=reader.n)
    checked["batch"] = batches
    return [
        Case(name, each.advance, check=each.check) for name, each in checked.items()
    ]


def _threaded(function: Callable, labels: np.ndarray, batch_size: int) -> Batches:
    """Maps batches of indices on one thread a core, a few batches ahead."""
    threads, n = platforms.available_cores(), len(labels)
    firsts = itertools.cycle(range(0, n, batch_size))
    ahead: collections.deque = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        while True:
            while len(ahead) <= threads:
                first = next(firsts)
                indices = np.arange(first, min(first + batch_size, n))
                ahead.append((pool.submit(function, indices), indices))
            future, indices = ahead.popleft()
            yield future.result(), labels[indices], indices
