"""A benchmark against an earlier one: which rungs lost more than the noise.

Each rate is divided by what the machine could do in the same round (memory copy
for the input rungs, matrix product for the computing ones), so that a busier hour or
another machine of the kind is no regression. Pure functions of two bench.json.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from cxr import cli

SCHEMA = 1
# Two runs of one build on one machine differ by this much beyond what the repeats of
# either show: threads, memory and clock fall differently in each process.
_BETWEEN_RUNS = 0.08
_SIGMAS = 3.0
_INPUT = ("read", "parse", "decode", "batch")


@dataclasses.dataclass(frozen=True)
class Change:
    """How a rung moved between two runs.

    Attributes:
      rung: its name.
      ratio: new rate / old rate, each divided by its run's calibration.
      noise: the largest |ratio - 1| that two runs of one build are expected to show.
    """

    rung: str
    ratio: float
    noise: float

    @property
    def slower(self) -> bool:
        """The rung lost more than noise explains."""
        return self.ratio < 1 - self.noise

    @property
    def agrees(self) -> bool:
        """The two runs differ by no more than noise explains."""
        return 1 - self.noise <= self.ratio <= 1 / (1 - self.noise)


def normalised(document: Mapping[str, Any], stage: Mapping[str, Any]) -> list[float]:
    """Returns a rung's rate in each round as a multiple of that round's calibration."""
    name = "memory_copy" if stage["name"] in _INPUT else "matrix_product"
    base = document["calibration"][name]["per_sec"]["repeats"]
    rates = stage["images_per_sec"]["repeats"]
    return [rate / unit for rate, unit in zip(rates, base, strict=True)]


def noise(values: Sequence[float]) -> float:
    """Returns how far the median of such repeats wanders, as a share (3 sigma).

    The spread is taken from the median absolute deviation, which a single round
    that was disturbed does not move; 1.25 is the median's own factor.
    """
    middle = statistics.median(values)
    deviation = statistics.median(abs(value - middle) for value in values)
    sigma = 1.4826 * deviation / middle * 1.25 / math.sqrt(len(values))
    return math.hypot(_SIGMAS * sigma, _BETWEEN_RUNS)


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Compares the rungs that both runs measured.

    Args:
      old: the earlier bench.json.
      new: the present one.

    Raises:
      UsageError: they measured different things.
    """
    check_comparable(old, new)
    before = {stage["name"]: normalised(old, stage) for stage in old["stages"]}
    changes = []
    for stage in new["stages"]:
        if stage["name"] in before:
            earlier, now = before[stage["name"]], normalised(new, stage)
            ratio = statistics.median(now) / statistics.median(earlier)
            both = math.hypot(noise(earlier), noise(now))
            changes.append(Change(stage["name"], ratio, min(both, 0.9)))
    return changes


def check_comparable(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raises UsageError where two runs differ in what they measured."""
    for name, value in new["config"].items():
        if old["config"].get(name) != value:
            raise cli.UsageError(
                f"--baseline: measured with {name}={old['config'].get(name)}, now "
                f"{value}; compare runs of equal settings"
            )


def check_document(document: Any, path: str) -> None:
    """Raises DataError unless a parsed JSON file is a bench.json of this schema."""
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise cli.DataError(
            f"--baseline={path}: schema {schema!r}, this version reads {SCHEMA}"
        )
