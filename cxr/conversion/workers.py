"""Runs jobs in worker processes, few of them under way at once.

Processes are started afresh (forkserver or spawn), never as copies of a process
that may hold TensorFlow's threads, and they import no TensorFlow themselves.
"""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

from tqdm import tqdm

from cxr import cli, platforms, pulse

_at_work, _leaving = threading.Lock(), threading.Event()  # of a worker
_AHEAD = 1  # jobs that wait beside those under way: memory stays bounded


class Mapper(Protocol):
    """Runs functions over jobs somewhere."""

    def map(self, function: Callable[[Any], Any], jobs: Iterable) -> Iterator[Any]:
        """Yields the results, in any order."""
        ...


@dataclasses.dataclass(frozen=True)
class WorkerPool:
    """Runs functions over jobs in `count` processes; in this one without a pool."""

    count: int
    pool: concurrent.futures.Executor | None

    def map(self, function: Callable[[Any], Any], jobs: Iterable) -> Iterator[Any]:
        """Yields the results in the order in which they are ready.

        Raises:
          UnavailableError: a worker process died.
        """
        if self.pool is None:
            yield from map(function, jobs)
            return
        jobs = iter(jobs)
        pending: set[concurrent.futures.Future] = set()
        try:
            while True:
                room = self.count + _AHEAD - len(pending)
                for job in itertools.islice(jobs, room):
                    pending.add(self.pool.submit(_do, function, job))
                if not pending:
                    return
                done, pending = concurrent.futures.wait(
                    pending, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in done:
                    yield future.result()
        except BrokenProcessPool as error:
            raise cli.UnavailableError(
                f"one of {self.count} worker processes died: killed from outside, or "
                "out of memory\nrepeat the command, with fewer --workers if memory is "
                "short: it goes on from what is complete"
            ) from error


@contextlib.contextmanager
def started(count: int, *, preload: str) -> Iterator[WorkerPool]:
    """Yields workers, which end with the block.

    Args:
      count: processes; 0 means one a core.
      preload: the module whose functions they run.
    """
    count = count or platforms.available_cores()
    if count == 1:
        yield WorkerPool(1, None)
        return
    pool = concurrent.futures.ProcessPoolExecutor(
        count, mp_context=_context(preload), initializer=_start
    )
    try:
        yield WorkerPool(count, pool)
    finally:
        pool.shutdown(cancel_futures=True)  # waits for the jobs under way


def watch(results: Iterable, *, total: int, label: str, unit: str) -> Iterator[Any]:
    """Passes results on, with a progress bar where a person watches, else a pulse.

    Args:
      results: each an int, the units done, or a tuple that begins with it.
      total: units in all.
      label: what is being done.
      unit: what is counted.
    """
    with tqdm(
        total=total, desc=label, unit=unit, disable=None, dynamic_ncols=True
    ) as bar:
        done = 0
        for result in results:
            new = result[0] if isinstance(result, tuple) else result
            done += new
            bar.update(new)
            pulse.at(f"{label}: {done:,} of {total:,} {unit}s")
            yield result


def _context(preload: str) -> multiprocessing.context.BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver  # for those systems that have it

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    # A signal to the whole group must not end the server: its workers would count as
    # dead. What is blocked stays so in a new process.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    forkserver.ensure_running()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    return context


def _start() -> None:
    """Prepares a worker: it leaves Ctrl-C to its parent, and dies with it.

    But never inside a job, which may be about to publish a file.
    """
    platforms.keep_freed_memory()  # files of megabytes: a third of a large film's time
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker has one

    def follow() -> None:
        parent.join()  # after kill -9 of the parent nobody would ever stop us
        _leaving.set()
        with _at_work:
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _do(function: Callable[[Any], Any], job: Any) -> Any:
    with _at_work:
        result = function(job)
        if _leaving.is_set():
            os._exit(1)
    return result


def _leave(number: int, frame: Any) -> None:
    """Ends a worker, after the job that it is at."""
    _leaving.set()
    if not _at_work.locked():
        os._exit(1)
