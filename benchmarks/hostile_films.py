"""Measures what damaged and hostile films cost, and which damage passes unseen.

  python -m benchmarks.hostile_films --damaged=1000 --mutants=3000 --seed=0

Damaged films of all formats: how many are decoded as if sound, and how far the result
is from the sound film's. Mutants and bombs, each in a process of its own, so that a
crash is seen: seconds and added memory; of bombs also four at once. Prints figures,
judges nothing.
"""

import collections
import concurrent.futures
import dataclasses
import multiprocessing
import os
import pathlib
import time
from collections.abc import Iterable
from multiprocessing.connection import Connection

import numpy as np

from benchmarks import damaged_films, hostile_bytes
from cxr import cli, images
from cxr.reasons import BadImage

SIZE = 224  # pixels of the result
SEEN = 2.0  # grey levels of mean difference: less is no other film
THREADS = 4


@dataclasses.dataclass(frozen=True)
class HostileConfig:
    """How many films, from which seed."""

    damaged: int = cli.option(1000, "damaged films", lower=0)
    mutants: int = cli.option(3000, "changed films", lower=0)
    seed: int = cli.option(0, "of both", lower=0)
    bombs: bool = cli.option(True, "measure what is to cost much, too")


def silent(count: int, seed: int) -> None:
    """Prints, by format, the damaged films that are decoded as if they were sound."""
    tried: collections.Counter[str] = collections.Counter()
    passed, changed, told = tried.copy(), tried.copy(), tried.copy()
    worst: dict[str, tuple[float, str]] = {}
    for film in damaged_films.damaged(count, seed):
        kind = film.name.partition(" ")[0]
        tried[kind] += 1
        sound = images.to_grey(film.sound, SIZE).astype(int)
        try:
            found = images.read(film.damaged, SIZE)
        except BadImage:
            continue
        difference = float(np.abs(found.grey - sound).mean())
        passed[kind] += 1
        changed[kind] += difference > SEEN
        told[kind] += difference > SEEN and bool(found.unchecked)
        worst[kind] = max(worst.get(kind, (0.0, "")), (difference, film.name))
    for kind in tried:
        mean, name = worst.get(kind, (0.0, "none"))
        print(
            f"{kind}: {tried[kind]} damaged, {passed[kind]} decoded, {changed[kind]} "
            f"of them more than {SEEN:g} levels off, {told[kind]} of these counted as "
            f"unchecked; worst {mean:.1f} ({name})"
        )
    all_silent = sum(changed.values()) - sum(told.values())
    print(f"all: {all_silent} of {sum(tried.values())} silently another film")


def _memory_mb(field: str) -> float:
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1000


def _outcome(data: bytes) -> str:
    try:
        images.to_grey(data, SIZE)
    except BadImage as error:
        return f"{error.reason}: {error.detail}"
    return "ok"


def _measured(data: bytes, copies: int, answer: Connection) -> None:
    """Sends seconds, added MB and the outcome of decoding a film `copies` times."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff's own words
    before = _memory_mb("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(copies) as pool:
        outcome, *_ = pool.map(_outcome, [data] * copies)
    seconds = time.perf_counter() - began
    answer.send((seconds, _memory_mb("VmHWM") - before, outcome))


def cost(data: bytes, copies: int = 1) -> tuple[float, float, str]:
    """Decodes a film in a process of its own, so that a crash is seen.

    Args:
      data: its file.
      copies: decoded at once, in as many threads.

    Returns:
      Seconds, MB of added memory and `ok`, the refusal, or the crash.
    """
    context = multiprocessing.get_context("fork")
    answer, end = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(data, copies, end))
    process.start()
    end.close()
    try:
        found = answer.recv()
    except EOFError:
        found = None
    process.join()
    return found or (0.0, 0.0, f"CRASH: exit code {process.exitcode}")


def costs(films: Iterable[tuple[str, bytes]], *, listed: bool) -> None:
    """Prints the worst of the films, and each one if `listed`."""
    worst: dict[tuple[int, str], tuple[float, str]] = {}
    outcomes: collections.Counter[str] = collections.Counter()
    for name, data in films:
        name = f"{name} ({len(data) / 1e3:.0f} kB)"
        for copies in (1, THREADS) if listed else (1,):
            seconds, added, outcome = cost(data, copies)
            for unit, number in (("s", seconds), ("MB", added)):
                key = copies, unit
                worst[key] = max(worst.get(key, (0.0, "")), (number, name))
            if listed:
                print(
                    f"  {copies} x {name}: {seconds:.2f} s, {added:.0f} MB, "
                    f"{outcome[:90]}",
                    flush=True,
                )
        outcomes[outcome.partition(":")[0]] += 1
    print("  outcomes:", dict(outcomes.most_common()))
    for (copies, unit), (number, name) in worst.items():
        print(f"  worst of {copies} at once: {number:.2f} {unit}: {name}", flush=True)


def main(argv: list[str]) -> int:
    """Prints all figures."""
    config, positional = cli.parse(argv, HostileConfig, usage=__doc__)
    cli.reject_positional(positional)
    silent(config.damaged, config.seed)
    print(f"{config.mutants} mutants:", flush=True)
    costs(hostile_bytes.mutants(config.mutants, config.seed), listed=False)
    if config.bombs:
        print("bombs:", flush=True)
        made = ((name, make()) for name, make in hostile_bytes.BOMBS.items())
        costs(made, listed=True)
    return 0


if __name__ == "__main__":
    cli.run(main)
