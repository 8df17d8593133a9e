"""Formats numbers for people: counts, digits, per cent, intervals, a dash for none."""

from collections.abc import Sequence

DASH = "\N{EN DASH}"  # stands for what is undefined
DISCLAIMER = "For research only. Not a medical device; never for the care of a patient."


def counted(count: int, what: str) -> str:
    """`1 film`, `1,234 films`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def number(value: float | None, digits: int = 3) -> str:
    """A number for people; a dash where it is undefined."""
    return DASH if value is None else f"{value:.{digits}f}"


def probability(value: float | None) -> str:
    """Three decimals, more where the value would look like 0 or 1 and is not.

    A threshold may lie above 1: then nothing reaches it.
    """
    if value is not None and value > 1:
        return "above 1"
    if value is None or 0.0005 <= value < 0.9995 or value in (0.0, 1.0):
        return number(value)
    return f"{value:.1e}" if value < 0.5 else f"1 - {1 - value:.1e}"


def percent(value: float | None) -> str:
    """A share in per cent with one decimal; a dash where it is undefined."""
    return DASH if value is None else f"{100 * value:.1f} %"


def interval(bounds: Sequence[float] | None, digits: int = 3) -> str:
    """`0.941 to 0.972`, or a dash."""
    if not bounds:
        return DASH
    return f"{number(bounds[0], digits)} to {number(bounds[1], digits)}"


def with_interval(entry: dict, digits: int = 3) -> str:
    """`0.958`, its interval on a second line, of a {"value", "ci95"} entry."""
    if entry["value"] is None:
        return DASH
    text = number(entry["value"], digits)
    return f"{text}\n{interval(entry['ci95'], digits)}" if entry["ci95"] else text
