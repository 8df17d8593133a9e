"""Whose films are evaluated: the flow into the set, its card; numbers and section."""

from collections.abc import Mapping
from typing import Any

from cxr import records, set_flow
from cxr.reporting import card, flow, html


def describe(record_set: records.RecordSet) -> dict[str, Any]:
    """Returns the flow and the card of a set, ready for metrics.json.

    Raises:
      DataError: the card was changed since the conversion.
    """
    found = record_set.card()
    return {
        "flow": set_flow.of_set(record_set).content(),
        "card": found.content() if found else None,
    }


def section(summary: Mapping[str, Any]) -> str:
    """From the folder to the films evaluated; population and reference standard."""
    told = summary.get("participants")
    if not told:
        return ""
    judged = {
        "split": summary["split"],
        "films": summary["n"],
        "patients": summary["n_patients"],
    }
    parts = [flow.figure(told["flow"], judged), card.table(told["card"])]
    return html.section("Whose films these are", parts, anchor="participants")
