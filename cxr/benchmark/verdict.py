"""Says in words what limits training and what would help, from the cases' rates.

Pure functions of numbers. Each case's own seconds an image are found by taking
away those of the cases that it contains: streamed records are read, parsed, decoded
and batched in turn; training is input, augmentation, step, and what the loop adds.
"""

import dataclasses
import math
from collections.abc import Mapping

_STREAM = ("read", "parse", "decode", "batch")
# Augmentation and step follow each other, so input that is slower than either may still
# hide behind both; so near to them it is the case to work on all the same.
_NEAR = 0.75
_NEAR_PEAK = 0.5  # of a matrix product: little is left to win in software


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the rates were measured with.

    Attributes:
      resident: films are kept in memory, so only the first epoch reads and decodes.
      cores: that this process may use.
      memory_mib: of the decoded split.
      memory_fits: the decoded split fits the memory that is free.
      encoding: of the records: `jpeg`, `png` or `raw`.
      mfu: the step's share of the measured matrix-product peak.
    """

    resident: bool
    cores: int
    memory_mib: float = 0.0
    memory_fits: bool = True
    encoding: str = "jpeg"
    mfu: float | None = None


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
      rates: images/s of the cases that were measured.
      resident: `batch` reads from memory and contains no other case.
    """
    own, contained = {}, 0.0
    for name in _STREAM:
        if name == "batch" and resident:
            contained = 0.0
        if name in rates:
            own[name] = max(1 / rates[name] - contained, 0.0)
            contained = max(1 / rates[name], contained)
    fed = contained
    for name in ("augment", "step"):
        if name in rates:
            own[name] = 1 / rates[name]
    if "trivial" in rates:
        own["trivial"] = max(1 / rates["trivial"] - fed - own["augment"], 0.0)
    if "train" in rates:
        parts = fed + own["augment"] + own["step"]
        own["train"] = max(1 / rates["train"] - parts, 0.0)
    return own


def reach(rates: Mapping[str, float], setting: Setting) -> Verdict:
    """Names what limits training and says what to change.

    Args:
      rates: images/s of all cases, or of the input cases alone.
      setting: what they were measured with.
    """
    own = own_seconds(rates, resident=setting.resident)
    if "step" not in rates:
        return _input_alone(rates, own, setting)
    fed = 1 / rates["batch"] if setting.resident else _slowest(rates)
    computed = own["augment"] + own["step"]
    loop = max(("trivial", "train"), key=lambda name: own.get(name, 0.0))
    if own.get(loop, 0.0) > max(fed, computed):
        return _overhead(loop, rates, fed + computed)
    case = "batch" if setting.resident else _largest(own, _STREAM)
    slowest = own[case] > max(own["augment"], own["step"])
    if fed >= computed or (slowest and fed > _NEAR * computed):
        return _input(case, fed, computed, setting)
    case = _largest(own, ("augment", "step"))
    found = _augment(rates, computed) if case == "augment" else _step(rates, setting)
    return _with_first_epoch(found, rates, own, computed, setting)


def _slowest(rates: Mapping[str, float]) -> float:
    return max(1 / rates[name] for name in _STREAM if name in rates)


def _largest(own: Mapping[str, float], names: tuple[str, ...]) -> str:
    return max((name for name in names if name in own), key=own.__getitem__)


def _input(case: str, fed: float, computed: float, setting: Setting) -> Verdict:
    limit = f"{case} limits at {_number(1 / fed)} images/s"
    able = f"augmentation and step together could take {_number(1 / computed)}"
    advice = _input_advice(case, fed / computed, setting)
    text = f"input-bound: {limit}, {able}; use {advice}"
    return Verdict("input", case, text)


def _input_advice(case: str, ratio: float, setting: Setting) -> str:
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


def _augment(rates: Mapping[str, float], computed: float) -> Verdict:
    share = 1 / rates["augment"] / computed
    text = (
        f"augmentation-bound: augment limits at {_number(rates['augment'])} images/s "
        f"({share:.0%} of the computing), the step alone could take "
        f"{_number(rates['step'])}; use a weaker --augmentation, or a smaller "
        "--image_size"
    )
    return Verdict("augmentation", "augment", text)


def _step(rates: Mapping[str, float], setting: Setting) -> Verdict:
    reached = ""
    advice = "try a larger --batch_size, --jit_compile or a lower --precision"
    if setting.mfu is not None:
        reached = f" at {setting.mfu:.0%} of the measured matrix-product peak"
        if setting.mfu >= _NEAR_PEAK:
            advice = (
                "only a faster device, a smaller --image_size or network would help"
            )
    text = (
        f"step-bound: step limits at {_number(rates['step'])} images/s{reached}, the "
        f"input could give {_number(rates['batch'])}; {advice}"
    )
    return Verdict("step", "step", text)


def _overhead(loop: str, rates: Mapping[str, float], parts: float) -> Verdict:
    text = (
        f"overhead-bound: {loop} limits at {_number(rates[loop])} images/s, though "
        f"input, augmentation and step one after the other would reach "
        f"{_number(1 / parts)}; look for other load on this machine, or try "
        "--steps_per_execution=10"
    )
    return Verdict("overhead", loop, text)


def _with_first_epoch(
    found: Verdict,
    rates: Mapping[str, float],
    own: Mapping[str, float],
    computed: float,
    setting: Setting,
) -> Verdict:
    """Adds what limits the first epoch where that is slower than the others."""
    if not setting.resident or 1 / rates["decode"] <= computed:
        return found
    case = _largest(own, _STREAM[:3])
    text = (
        f"{found.text}. The first epoch, while memory fills, is input-bound: {case} "
        f"limits at {_number(rates['decode'])} images/s"
    )
    return dataclasses.replace(found, text=text)


def _input_alone(
    rates: Mapping[str, float], own: Mapping[str, float], setting: Setting
) -> Verdict:
    case = _largest(own, _STREAM[:3] if setting.resident else _STREAM)
    batches = f"batches come at {_number(rates['batch'])} images/s"
    if setting.resident:
        text = (
            f"input only: {batches} from memory; the first epoch, while memory fills, "
            f"at {_number(rates['decode'])}, limited by {case}"
        )
    else:
        advice = _input_advice(case, 2.0, setting)
        text = f"input only: {batches}, limited by {case}; to double that use {advice}"
    return Verdict("input", case, text)


def _number(rate: float) -> str:
    """Returns a rate with three significant digits, 3,900 as such."""
    if rate <= 0 or not math.isfinite(rate):
        return f"{rate}"
    digits = 2 - math.floor(math.log10(rate))
    return f"{round(rate, digits):,.{max(digits, 0)}f}"
