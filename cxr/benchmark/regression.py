"""Compares a benchmark with an earlier one: which cases became slower than noise.

Each rate is divided by what the machine could do in the same run (memory copy for
the input cases, matrix product for the computing ones), so that another machine of the
kind is no regression. The best rounds speak for a run: whatever disturbs a round, a
neighbour or another program, only makes it slower. Seven runs of one build varied by
4 % (standard deviation) where their medians varied by 10 %. Pure functions of two
bench.json.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from cxr import cli
from cxr.benchmark import cases

SCHEMA = 1
_BEST_SHARE = 0.4  # of the rounds
# Two runs of one build on one machine differ by this much beyond what the rounds of
# either show: threads, memory and clock fall differently in each process.
_BETWEEN_RUNS = 0.12
# From the gap below the best rounds to three standard deviations of their mean, for
# five rounds of normal noise.
_GAPS = 1.8


@dataclasses.dataclass(frozen=True)
class Change:
    """How a case moved between two runs.

    Attributes:
      case: its name.
      ratio: new rate / old rate, each divided by its run's calibration.
      noise: the largest |ratio - 1| that two runs of one build are expected to show.
    """

    case: str
    ratio: float
    noise: float

    def to_json(self) -> dict[str, Any]:
        """Returns the entry of bench.json's `changes`."""
        return {"rung": self.case, "ratio": self.ratio, "noise": self.noise}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "Change":
        """Reads what `to_json` made."""
        return cls(entry["rung"], entry["ratio"], entry["noise"])

    @property
    def slower(self) -> bool:
        """The case lost more than noise explains."""
        return self.ratio < 1 - self.noise

    @property
    def agrees(self) -> bool:
        """The two runs differ by no more than noise explains."""
        return 1 - self.noise <= self.ratio <= 1 / (1 - self.noise)


def best(values: Sequence[float]) -> float:
    """Returns the mean of the best rounds."""
    return statistics.mean(_sorted_best(values)[0])


def noise(values: Sequence[float]) -> float:
    """Returns how far `best` of such rounds wanders, as a share (3 sigma)."""
    chosen, others = _sorted_best(values)
    gap = chosen[0] - others[0] if others else 0.0
    return math.hypot(_GAPS * gap / statistics.mean(chosen), _BETWEEN_RUNS)


def _sorted_best(values: Sequence[float]) -> tuple[list[float], list[float]]:
    falling = sorted(values, reverse=True)
    count = max(1, int(_BEST_SHARE * len(falling)))
    return falling[:count], falling[count:]


def _normalised(document: Mapping[str, Any], case: Mapping[str, Any]) -> float:
    """Returns a case's rate as a multiple of its run's calibration."""
    roof = "memory_copy" if case["name"] in cases.INPUT else "matrix_product"
    base = document["calibration"][roof]["per_sec"]["repeats"]
    return best(case["images_per_sec"]["repeats"]) / best(base)


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Compares the cases that both runs measured.

    Args:
      old: the earlier bench.json.
      new: the present one.

    Raises:
      UsageError: they measured different things.
    """
    check_comparable(old, new["config"])
    before = {case["name"]: case for case in old["stages"]}
    changes = []
    for case in new["stages"]:
        if earlier := before.get(case["name"]):
            ratio = _normalised(new, case) / _normalised(old, earlier)
            rounds = (run["images_per_sec"]["repeats"] for run in (earlier, case))
            both = math.hypot(*map(noise, rounds))
            changes.append(Change(case["name"], ratio, min(both, 0.9)))
    return changes


def check_comparable(old: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raises UsageError where two runs measured different things.

    Args:
      old: the earlier bench.json.
      config: what the present one measures, as its `config`.
    """
    # Version 0.1 wrote the device's name in one place only.
    before = {"device": old.get("environment", {}).get("device"), **old["config"]}
    for name, value in config.items():
        if before.get(name) != value:
            raise cli.UsageError(
                f"--baseline: measured with {name}={before.get(name)}, now {value}; "
                "compare runs of equal settings"
            )


def check_document(document: Any, path: str) -> None:
    """Raises DataError unless a parsed JSON file is a bench.json of this schema."""
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise cli.DataError(
            f"--baseline={path}: schema {schema!r}, this version reads {SCHEMA}"
        )
