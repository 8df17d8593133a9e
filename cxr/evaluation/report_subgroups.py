"""The section on subgroups: for whom the model works, and what is not known of whom."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from cxr.metrics import subgroups
from cxr.reporting import formatting, html

Summary = Mapping[str, Any]

# Metric -> how people call it.
LABELS = {
    "roc_auc": "ROC AUC",
    "recall": "sensitivity",
    "specificity": "specificity",
}


def section(summary: Summary, pictures: Mapping[str, pathlib.Path]) -> str:
    """The groups, each on what means the same in each; what was too few, or unknown."""
    notes = summary.get("subgroup_notes")
    if not notes:
        return ""
    least = notes["minimum"]
    parts = [
        html.paragraph(
            f"Judged are groups of at least {least['films']} films of "
            f"{least['patients']} patients. ROC AUC needs both classes, sensitivity "
            "films with the finding, specificity films without; what a group cannot "
            "show is a dash, and accuracy, which moves with the mix of classes, is not "
            "compared. Intervals resample patients. Many groups are looked at, and "
            "about one interval in twenty misses by chance."
        ),
        html.picture(
            pictures.get("subgroups"),
            "subgroups with intervals, each grouping on the metric that it is compared "
            "on; the table below has the numbers",
            "Dashed: all films.",
        ),
        _table(summary),
        *(html.paragraph(f"{text}") for text in _artefacts(notes)),
        _too_few(notes),
        html.notes([("plain", line) for line in unknown(summary)]),
    ]
    return html.section("For whom it works", parts, anchor="subgroups")


def _table(summary: Summary) -> str:
    rows = [
        (
            grouping.replace("_", " "),
            name,
            f"{entry['n']:,}",
            f"{entry['n_patients']:,}",
            *(formatting.with_interval(entry["metrics"][metric]) for metric in LABELS),
        )
        for grouping, groups in summary["subgroups"].items()
        for name, entry in groups.items()
    ]
    if not rows:
        return html.paragraph("No two groups are large enough to be compared.")
    header = ("grouping", "group", "films", "patients", *LABELS.values())
    return html.table(header, rows, text_columns=(0, 1))


def _artefacts(notes: Mapping[str, Any]) -> Iterator[str]:
    """Sentences on what only file names make, each begun as one."""
    for text in notes["artefacts"].values():
        yield text[0].upper() + text[1:]


def _too_few(notes: Mapping[str, Any]) -> str:
    rows = []
    for grouping, found in notes["too_few"].items():
        for name, entry in found["groups"].items():
            few = "fewer than 5"
            counts = (
                few if entry[key] is None else f"{entry[key]:,}"
                for key in ("n", "n_patients")
            )
            rows.append((grouping.replace("_", " "), name, *counts, "too few"))
        if found["others"]:
            name = f"{found['others']:,} smaller groups"
            rows.append((grouping.replace("_", " "), name, "", "", "too few"))
    if not rows:
        return ""
    header = ("grouping", "group", "films", "patients", "judged")
    table = html.table(header, rows, text_columns=(0, 1, 4))
    return html.details("Groups with too few films or patients to be judged", table)


def unknown(summary: Summary) -> Iterator[str]:
    """Lines on age, sex, view and device: not recorded, or not of every film."""
    notes = summary.get("subgroup_notes")
    if not notes:
        return
    card = summary.get("participants", {}).get("card") or {}
    on_card = {"age": "ages", "device": "devices", "view": "devices"}
    columns = {called: name for name, called in subgroups.ATTRIBUTES.items()}
    for called, count in notes["recorded"].items():
        if not count:
            line = f"{called}: not recorded in this set"
            if told := card.get(on_card.get(called, "")):
                line += f" film by film; its card says: {told}"
            yield line
            continue
        line = f"{called}: recorded of {count:,} of {summary['n']:,} films"
        if columns[called] not in summary["subgroups"]:
            line += ", in no two groups that are large enough to be compared"
        yield line
