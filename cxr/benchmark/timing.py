"""Times benchmark cases in interleaved windows, with their statistics.

Knows nothing of what it times: a case counts items, be they images, bytes copied or
operations of a matrix product. Every second comes from `time`, in whose place a
test can put its own, and items/s is items / seconds by construction.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

import numpy as np

from cxr import platforms

# A pause lets a pipeline fill its buffers, and a window that begins with full
# buffers reads too fast. The pipeline holds at most three groups of eight batches.
_DRAIN_STEPS = 24
_DRAIN_SHARE = 0.2  # of the window's seconds, for cases too slow to drain that much


@dataclasses.dataclass
class Case:
    """Something that can be run step after step, and what must be true of it.

    Attributes:
      name: for people and for bench.json.
      advance: runs one step; returns the number of items in it.
      settle: returns when the device has finished all steps so far.
      check: called after each window, with the items counted in it; raises where
        the work of the window was not what it should have been.
      steps_per_sample: steps between two looks at the clock, each after a
        `settle`; more than one where settling would cost what it measures.
    """

    name: str
    advance: Callable[[], int]
    settle: Callable[[], None] = lambda: None
    check: Callable[[int], None] = lambda items: None
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


def measure(case: Case, *, seconds: float) -> Window:
    """Drains what was prepared in advance, then times steps for some seconds.

    The window ends with the first step that ends after `seconds`, so it holds at
    least one, however slow.
    """
    drain_s = _DRAIN_SHARE * seconds
    _run_untimed(case, lambda n, s: n >= _DRAIN_STEPS or s >= drain_s)
    items, stamps = 0, [time.perf_counter()]
    cpu_begin = time.process_time()
    while stamps[-1] - stamps[0] < seconds:
        items += sum(case.advance() for _ in range(case.steps_per_sample))
        case.settle()
        stamps.append(time.perf_counter())
    cpu_seconds = time.process_time() - cpu_begin
    step_seconds = np.diff(stamps) / case.steps_per_sample
    memory = platforms.resident_bytes() / 2**20
    case.check(items)
    total = stamps[-1] - stamps[0]
    return Window(items, total, cpu_seconds, tuple(step_seconds.tolist()), memory)


def warm_up(case: Case, *, steps: int, seconds: float) -> float:
    """Runs a case untimed for some steps and some seconds; returns how long it took.

    Its first step traces the graph, and compiles it where XLA does.
    """
    return _run_untimed(case, lambda n, s: n >= steps and s >= seconds)


def _run_untimed(case: Case, enough: Callable[[int, float], bool]) -> float:
    """Runs a case until its steps and seconds are enough; returns the seconds."""
    begin, items, steps = time.perf_counter(), 0, 0
    while not steps or not enough(steps, time.perf_counter() - begin):
        items += case.advance()
        case.settle()
        steps += 1
    case.check(items)
    return time.perf_counter() - begin


def interleave(
    cases: Sequence[Case],
    *,
    repeats: int,
    seconds: float,
    between: Callable[[int, Mapping[str, Window]], None] = lambda repeat, windows: None,
) -> dict[str, list[Window]]:
    """Measures A B C A B C ...: what changes with time meets all cases alike.

    Args:
      cases: warm already; their names differ.
      repeats: windows of each.
      seconds: of a window.
      between: called after each round with its number, from 0, and its windows.

    Returns:
      The windows of each case, in the order of the rounds.
    """
    windows: dict[str, list[Window]] = {case.name: [] for case in cases}
    for repeat in range(repeats):
        for case in cases:
            windows[case.name].append(measure(case, seconds=seconds))
        between(repeat, {name: mine[-1] for name, mine in windows.items()})
    return windows


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
