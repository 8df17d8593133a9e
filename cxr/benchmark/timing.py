"""Times benchmark cases in interleaved windows, with their statistics.

Knows nothing of what it times: a case counts items, be they images, bytes copied or
operations of a matrix product. Every second comes from a `Clock`, in whose place a
test can put its own, and items/s is items / seconds by construction.
"""

import dataclasses
import os
import pathlib
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

import numpy as np

# A pause lets a pipeline fill its buffers, and a window that begins with full
# buffers reads too fast. The pipeline holds at most three groups of eight batches.
_DRAIN_STEPS = 24
_DRAIN_SHARE = 0.2  # of the window's seconds, for cases too slow to drain that much


class Clock:
    """The seconds of this machine and the memory of this process."""

    def wall(self) -> float:
        """Returns seconds since some moment."""
        return time.perf_counter()

    def cpu(self) -> float:
        """Returns the processor seconds of all threads of this process so far."""
        return time.process_time()

    def resident_mib(self) -> float:
        """Returns the memory of this process now."""
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def peak_mib(self) -> float:
        """Returns the most memory that this process ever had."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # from KiB


@dataclasses.dataclass
class Case:
    """Something that can be run step after step, and what must be true of it.

    Attributes:
      name: for people and for bench.json.
      advance: runs one step; returns the number of items in it.
      settle: returns when the device has finished all steps so far.
      audit: called after each window, with the items counted in it; raises where
        the work of the window was not what it should have been.
      steps_per_sample: steps between two looks at the clock, each after a
        `settle`; more than one where settling would cost what it measures.
    """

    name: str
    advance: Callable[[], int]
    settle: Callable[[], None] = lambda: None
    audit: Callable[[int], None] = lambda items: None
    steps_per_sample: int = 1


@dataclasses.dataclass(frozen=True)
class Window:
    """What one timed window held.

    Attributes:
      items: finished in it.
      seconds: from its first to its last look at the clock.
      cpu_seconds: of all threads in that time.
      step_seconds: of each step, or the mean of each group of steps.
      resident_mib: memory of the process at its end.
    """

    items: int
    seconds: float
    cpu_seconds: float
    step_seconds: tuple[float, ...]
    resident_mib: float

    @property
    def per_sec(self) -> float:
        """The rate: items / seconds."""
        return self.items / self.seconds


def measure(case: Case, *, seconds: float, clock: Clock) -> Window:
    """Drains what was prepared in advance, then times steps for some seconds.

    The window ends with the first step that ends after `seconds`, so it holds at
    least one, however slow.
    """
    _drain(case, seconds=_DRAIN_SHARE * seconds, clock=clock)
    items, stamps = 0, [clock.wall()]
    cpu_begin = clock.cpu()
    while stamps[-1] - stamps[0] < seconds:
        items += sum(case.advance() for _ in range(case.steps_per_sample))
        case.settle()
        stamps.append(clock.wall())
    cpu_seconds = clock.cpu() - cpu_begin
    each = np.diff(stamps) / case.steps_per_sample
    memory = clock.resident_mib()
    case.audit(items)
    total = stamps[-1] - stamps[0]
    return Window(items, total, cpu_seconds, tuple(each.tolist()), memory)


def warm_up(case: Case, *, steps: int, seconds: float, clock: Clock) -> float:
    """Runs a case untimed for some steps and some seconds; returns how long it took.

    Its first step traces the graph, and compiles it where XLA does.
    """
    begin, items, done = clock.wall(), 0, 0
    while done < steps or clock.wall() - begin < seconds:
        items += case.advance()
        case.settle()
        done += 1
    case.audit(items)
    return clock.wall() - begin


def _drain(case: Case, *, seconds: float, clock: Clock) -> None:
    begin, items = clock.wall(), 0
    for _ in range(_DRAIN_STEPS):
        items += case.advance()
        case.settle()
        if clock.wall() - begin >= seconds:
            break
    case.audit(items)


def interleave(
    cases: Sequence[Case],
    *,
    repeats: int,
    seconds: float,
    clock: Clock,
    between: Callable[[int, Mapping[str, Window]], None] = lambda repeat, windows: None,
) -> dict[str, list[Window]]:
    """Measures A B C A B C ...: what changes with time meets all cases alike.

    Args:
      cases: warm already; their names differ.
      repeats: windows of each.
      seconds: of a window.
      clock: gives the time.
      between: called after each round with its number, from 0, and its windows.

    Returns:
      The windows of each case, in the order of the rounds.
    """
    found: dict[str, list[Window]] = {case.name: [] for case in cases}
    for repeat in range(repeats):
        for case in cases:
            found[case.name].append(measure(case, seconds=seconds, clock=clock))
        between(repeat, {name: windows[-1] for name, windows in found.items()})
    return found


class Rates(TypedDict):
    """Median, min and max of windows' items/s, and all of them in order."""

    median: float
    min: float
    max: float
    repeats: list[float]


def rates(windows: Sequence[Window]) -> Rates:
    """Returns the rates of windows, ready for JSON."""
    values = [window.per_sec for window in windows]
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "repeats": values,
    }


def step_quantiles(windows: Sequence[Window]) -> dict[str, float]:
    """Returns p50, p90 and p99 of all steps of all windows, in milliseconds."""
    steps = np.concatenate([window.step_seconds for window in windows]) * 1000
    return {f"p{q}": float(np.percentile(steps, q)) for q in (50, 90, 99)}


def split_halves_difference(values: Sequence[float]) -> float | None:
    """Returns how far two halves of equal repeats are apart, as a share.

    The A/A test: repeats 1, 3, 5, ... against 2, 4, 6, ..., which measured the same
    thing under the same conditions; None for a single repeat.
    """
    first, second = values[::2], values[1::2]
    if not second:
        return None
    return abs(statistics.median(first) / statistics.median(second) - 1)
