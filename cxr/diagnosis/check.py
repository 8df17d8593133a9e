"""One thing that the doctor looked at, and all of them as text and as JSON."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import cxr

SCHEMA = 1
Status = Literal["ok", "slow", "missing"]
_SHOWN = {"ok": "ok", "slow": "slow:", "missing": "missing:"}


@dataclasses.dataclass(frozen=True)
class Check:
    """What was found of one thing.

    Attributes:
      group: heading, an identifier.
      name: identifier, one of its group; never renamed.
      status: `ok`, `slow` (it works, below what is possible) or `missing`.
      value: what was found, for machines: anything that JSON holds.
      text: the same for people, with what to do; one line.
      needed: without it, no command can be relied on.
    """

    group: str
    name: str
    status: Status
    value: Any
    text: str
    needed: bool = False

    @property
    def stops(self) -> bool:
        """Whether something is missing that is needed."""
        return self.needed and self.status == "missing"


def as_text(checks: Sequence[Check]) -> str:
    """Returns one line a check below the heading of its group."""
    lines = []
    for group in dict.fromkeys(check.group for check in checks):
        lines.append(group.replace("_", " "))
        lines += [
            f"  {_SHOWN[check.status]:8} {' '.join(check.text.split())}"
            for check in checks
            if check.group == group
        ]
    return "\n".join(lines)


def as_document(checks: Sequence[Check]) -> dict[str, Any]:
    """Returns what `--format=json` prints.

    `checks` holds group, then name, then `status`, `value`, `text`; `stops` lists the
    names (`group.name`) of what is needed and missing.
    """
    groups: dict[str, dict[str, Any]] = {}
    for check in checks:
        found = {"status": check.status, "value": check.value, "text": check.text}
        groups.setdefault(check.group, {})[check.name] = found
    stops = [f"{check.group}.{check.name}" for check in checks if check.stops]
    return {
        "schema": SCHEMA,
        "cxr": cxr.__version__,
        "stops": stops,
        "checks": groups,
    }
