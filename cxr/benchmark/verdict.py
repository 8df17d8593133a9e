"""Says in words what limits training and what would help, from the cases' rates.

Pure functions of numbers. Each case's own seconds an image are found by taking
away those of the cases that it contains: streamed records are read, parsed, decoded
and batched in turn; training is input, augmentation, step, and what the loop adds.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping

from cxr.benchmark import cases

_STREAM = tuple(cases.INPUT)
# Augmentation and step follow each other, so input that is slower than either may still
# hide behind both; so near to them it is the case to work on all the same.
_NEAR = 0.75
_BOUNDS = {
    "augment": "augmentation",
    "step": "step",
    "trivial": "overhead",
    "train": "overhead",
}
_NEAR_PEAK = 0.5  # of a matrix product: little is left to win in software


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the rates were measured with.

    Attributes:
      resident: images are kept in memory, so only the first epoch reads and decodes.
      cores: that this process may use.
      memory_mib: of the decoded split.
      memory_fits: the decoded split fits the memory that is free.
      encoding: of the records: `jpeg`, `png` or `raw`.
      mfu: the step's share of the measured matrix-product peak.
      jit_compile: XLA compiles the step already.
      may_lower_precision: 16 bits are not used yet and would be faster here.
    """

    resident: bool
    cores: int
    memory_mib: float = 0.0
    memory_fits: bool = True
    encoding: str = "jpeg"
    mfu: float | None = None
    jit_compile: bool = False
    may_lower_precision: bool = False


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What limits training.

    Attributes:
      bound: `input`, `augmentation`, `step` or `overhead`.
      case: the case that limits.
      text: one or two sentences for people.
    """

    bound: str
    case: str
    text: str


def own_seconds(rates: Mapping[str, float], *, resident: bool) -> dict[str, float]:
    """Returns each case's own seconds an image, without what it contains.

    Args:
      rates: images/s of all cases, or of the input cases alone.
      resident: `batch` reads from memory and contains no other case.
    """
    own, fed = {}, 0.0
    for name in _STREAM:
        if name == "batch" and resident:
            fed = 0.0
        own[name] = max(1 / rates[name] - fed, 0.0)
        fed = max(1 / rates[name], fed)
    if "step" in rates:
        own["augment"], own["step"] = 1 / rates["augment"], 1 / rates["step"]
        own["trivial"] = max(1 / rates["trivial"] - fed - own["augment"], 0.0)
        parts = fed + own["augment"] + own["step"]
        own["train"] = max(1 / rates["train"] - parts, 0.0)
    return own


def reach(rates: Mapping[str, float], setting: Setting) -> Verdict:
    """Names what limits training and says what to change.

    Args:
      rates: images/s of all cases, or of the input cases alone.
      setting: what they were measured with.
    """
    return _Judge(rates, setting).verdict()


class _Judge:
    """The rates and what follows from them, in seconds an image.

    Attributes:
      own: of each case alone.
      fed: of the input, as the training loop waits for it.
      computed: of augmentation and step together; 0 where they were not measured.
    """

    def __init__(self, rates: Mapping[str, float], setting: Setting):
        self.rates, self.setting = rates, setting
        self.own = own_seconds(rates, resident=setting.resident)
        awaited = ("batch",) if setting.resident else _STREAM
        self.fed = max(1 / rates[name] for name in awaited)
        self.computed = sum(self.own.get(name, 0.0) for name in ("augment", "step"))

    def verdict(self) -> Verdict:
        if "step" not in self.own:
            return self._input_alone()
        case = self._limit()
        bound = _BOUNDS.get(case, "input")
        rate = _number(1 / self.fed) if bound == "input" else self._rate(case)
        text = f"{bound}-bound: {case} limits at {rate} images/s"
        text += self._reasons(case, bound)
        hides = bound in ("augmentation", "step") and self.setting.resident
        if hides and 1 / self.rates["decode"] > self.computed:
            text += (
                ". The first epoch, while memory fills, is input-bound: "
                f"{self._largest(_STREAM[:3])} limits at {self._rate('decode')} "
                "images/s"
            )
        return Verdict(bound, case, text)

    def _limit(self) -> str:
        """Returns the case that limits training."""
        own = self.own
        loop = self._largest(("trivial", "train"))
        if own[loop] > max(self.fed, self.computed):
            return loop
        case = "batch" if self.setting.resident else self._largest(_STREAM)
        slowest = own[case] > max(own["augment"], own["step"])
        if self.fed >= self.computed or (slowest and self.fed > _NEAR * self.computed):
            return case
        return self._largest(("augment", "step"))

    def _largest(self, names: Iterable[str]) -> str:
        return max(
            (name for name in names if name in self.own), key=self.own.__getitem__
        )

    def _rate(self, name: str) -> str:
        return _number(self.rates[name])

    def _reasons(self, case: str, bound: str) -> str:
        """Returns what is said of a limit: what the others could, what would help."""
        if bound == "overhead":
            return (
                ", though input, augmentation and step one after the other would reach "
                f"{_number(1 / (self.fed + self.computed))}; look for other load on "
                "this machine, or try --steps_per_execution=10"
            )
        if bound == "augmentation":
            return (
                f" ({self.own['augment'] / self.computed:.0%} of the computing), the "
                f"step alone could take {self._rate('step')}; use a weaker "
                "--augmentation, or a smaller --image_size"
            )
        if bound == "step":
            mfu = self.setting.mfu
            share = f" at {mfu:.0%} of the measured matrix-product peak" if mfu else ""
            together = ""
            if self.fed > self.own["step"]:  # faster than the step only with these
                together = f", with augmentation {_number(1 / self.computed)}"
            return (
                f"{share}{together}, the input could give {_number(1 / self.fed)}; "
                f"{self._step_advice()}"
            )
        others = "augmentation and step together"
        rate = _number(1 / self.computed)
        says = f"{others} could take {rate}"
        if self.computed > self.fed:  # near enough to them to be named first
            says = f"nearly as slow as {others}, which could take {rate}"
        return f", {says}; use {self._input_advice(case, self.fed / self.computed)}"

    def _step_advice(self) -> str:
        if (self.setting.mfu or 0.0) >= _NEAR_PEAK:
            return "only a faster device, a smaller --image_size or network would help"
        advice = ["a larger --batch_size"]
        if not self.setting.jit_compile:
            advice.append("--jit_compile")
        if self.setting.may_lower_precision:
            advice.append("a lower --precision")
        *others, last = advice
        return "try " + " or ".join([", ".join(others), last] if others else [last])

    def _input_advice(self, case: str, ratio: float) -> str:
        setting = self.setting
        more = max(math.ceil(setting.cores * ratio) - setting.cores, 1)
        cores = f"{more} more core{'s' if more > 1 else ''}"
        if setting.resident:
            return "a larger --batch_size, or faster memory"
        if setting.memory_fits:
            return f"--cache=ram (needs {setting.memory_mib:,.0f} MiB) or {cores}"
        if case == "decode" and setting.encoding != "raw":
            return f"records stored with --encoding=raw (no decoding), or {cores}"
        if case == "read":
            return "a faster disk, or a smaller stored --image_size"
        return cores

    def _input_alone(self) -> Verdict:
        case = self._largest(_STREAM[:3] if self.setting.resident else _STREAM)
        text = f"input only: batches come at {self._rate('batch')} images/s"
        if self.setting.resident:
            text += (
                " from memory; the first epoch, while memory fills, at "
                f"{self._rate('decode')}, limited by {case}"
            )
        else:
            advice = self._input_advice(case, 2.0)
            text += f", limited by {case}; to double that use {advice}"
        return Verdict("input", case, text)


def _number(rate: float) -> str:
    """Returns a rate with three significant digits, 3,900 as such."""
    if rate <= 0 or not math.isfinite(rate):
        return f"{rate}"
    digits = 2 - math.floor(math.log10(rate))
    return f"{round(rate, digits):,.{max(digits, 0)}f}"
