"""Groups of examples by size, series or subtype, and the metrics inside each."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cxr import reference_set
from cxr.metrics.evaluation import Evaluation
from cxr.metrics.evaluation import measure as measure_all

_METRICS = ("accuracy", "recall", "specificity", "roc_auc")
_MIN_FILMS = 5  # fewer say nothing, and would name single patients
_ID_BLOCKS = 4


def groupings(rows: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Assigns each image to one group of every grouping that the data allow.

    Args:
      rows: the split's rows of examples.csv, in index order.

    Returns:
      Grouping -> group of each image, "" for none. A grouping with fewer than two
      groups of at least five images is left out.
    """
    found = {
        "subtype": [row["subtype"] for row in rows],
        "series": [reference_set.series(row["filename"]) for row in rows],
        "id block": _id_blocks(rows),
        "source size": _sizes(rows),
        "source mode": [row["source_mode"] for row in rows],
        "films of the patient": _films_per_patient(rows),
    }
    kept = {name: _without_small(groups) for name, groups in found.items()}
    return {
        name: groups for name, groups in kept.items() if len(set(groups) - {""}) > 1
    }


def measure(
    evaluation: Evaluation, groupings: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """Returns the main metrics inside each group.

    A group that holds one class only (a subtype) has no ROC AUC of its own: its
    examples are then ranked against all those of the other classes, which
    `roc_auc_against` says.

    Args:
      evaluation: the whole split.
      groupings: grouping -> group of each example, from `groupings`.
    """
    return {
        grouping: {
            name: _measure_group(evaluation, np.array(groups) == name)
            for name in sorted(set(groups) - {""}, key=order)
        }
        for grouping, groups in groupings.items()
    }


def _measure_group(evaluation: Evaluation, inside: np.ndarray) -> dict[str, Any]:
    scored, resamples = evaluation.scored, evaluation.resamples
    classes = np.unique(scored.labels[inside])
    within = resamples.within(inside)
    measured = measure_all(scored.take(inside), within)
    against = "the group itself"
    if len(classes) == 1 and scored.positive is not None:
        ranked = inside | (scored.labels != classes[0])
        wider = measure_all(scored.take(ranked), resamples.within(ranked))
        measured["roc_auc"] = wider["roc_auc"]
        against = "all films of the other class"
    return {
        "n": int(inside.sum()),
        "n_patients": len(within.strata),
        "roc_auc_against": against,
        "metrics": {name: measured[name] for name in _METRICS},
    }


def order(group: str) -> tuple:
    """Sort key that puts sizes and counts in their natural order."""
    number = re.search(r"\d+", group)
    return (int(number[0]) if number else 0, not group.startswith("up to"), group)


def _without_small(groups: list[str]) -> list[str]:
    sizes = Counter(groups)
    return [group if sizes[group] >= _MIN_FILMS else "" for group in groups]


def _id_blocks(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Quarters of each class' images by the number in the file name.

    Numbers follow the order of collection, and official test sets are often one
    block of it: a model that fails in one quarter has learnt the others' habits.
    """
    numbers = [reference_set.number(row["filename"]) for row in rows]
    blocks = [""] * len(rows)
    for label in {row["label"] for row in rows}:
        members = [
            i
            for i, row in enumerate(rows)
            if row["label"] == label and numbers[i] is not None
        ]
        members.sort(key=lambda i: (numbers[i], rows[i]["filename"]))
        for rank, i in enumerate(members):
            block = rank * _ID_BLOCKS // len(members) + 1
            blocks[i] = f"{block} of {_ID_BLOCKS}"
    return blocks


def _sizes(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Thirds by the geometric mean of the source's sides, in pixels."""
    sides = np.sqrt(
        [float(r["source_width"]) * float(r["source_height"]) for r in rows]
    )
    if not len(sides) or sides.min() == sides.max():
        return [""] * len(rows)
    low, high = np.percentile(sides, [100 / 3, 200 / 3])
    names = (
        f"up to {low:.0f} px",
        f"{low:.0f} to {high:.0f} px",
        f"over {high:.0f} px",
    )
    return [names[int(side > low) + int(side > high)] for side in sides]


def _films_per_patient(rows: Sequence[Mapping[str, str]]) -> list[str]:
    images = Counter(row["patient_id"] for row in rows)
    counts = [images[row["patient_id"]] for row in rows]
    return ["1" if n == 1 else "2 to 4" if n < 5 else "5 or more" for n in counts]
