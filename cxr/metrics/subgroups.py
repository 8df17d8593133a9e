"""Groups of examples by size, series or subtype, and the metrics inside each."""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cxr import reference_set
from cxr.metrics.evaluation import Evaluation
from cxr.metrics.evaluation import measure as measure_all

METRICS = ("accuracy", "roc_auc", "recall", "specificity")
MIN_FILMS, MIN_PATIENTS = 20, 10  # of a group that is judged: fewer say nothing
MIN_OF_CLASS = 5  # patients; a group with fewer of a class is not judged on it
_HIDDEN = 5  # films; a smaller group's number would point at single patients
_MOST_GROUPS = 40  # the largest of a grouping are looked at
_ID_BLOCKS = 4
# Columns of attributes.csv -> what people call them.
ATTRIBUTES = {"age_band": "age", "sex": "sex", "view": "view", "device": "device"}
_FROM_NAMES = ("subtype", "series", "id_block")


def groupings(rows: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Assigns each image to one group of every grouping that the data allow.

    Args:
      rows: the split's rows of examples.csv, in index order, with the columns of
        attributes.csv where the set has it.

    Returns:
      Grouping -> group of each image, "" for none. A grouping with fewer than two
      groups is left out.
    """
    found = {
        "subtype": [row["subtype"] for row in rows],
        "series": [reference_set.series(row["filename"]) for row in rows],
        "id_block": _id_blocks(rows),
        "source_size": _sizes(rows),
        "source_mode": [row["source_mode"] for row in rows],
        "films_of_the_patient": _films_per_patient(rows),
    }
    for column in ATTRIBUTES:
        found[column] = [row.get(column, "") for row in rows]
    return {
        name: groups for name, groups in found.items() if len(set(groups) - {""}) > 1
    }


@dataclasses.dataclass(frozen=True)
class _Group:
    """Some films of a split.

    Attributes:
      name: as the grouping calls it.
      inside: which films, bool [n].
      n: films.
      n_patients: of these films.
      classes: indices of those with enough patients in it.
    """

    name: str
    inside: np.ndarray
    n: int
    n_patients: int
    classes: tuple[int, ...]

    @property
    def judged(self) -> bool:
        """Whether it is large enough."""
        enough = self.n >= MIN_FILMS and self.n_patients >= MIN_PATIENTS
        return enough and bool(self.classes)


def measure(
    evaluation: Evaluation, groupings: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """Returns the main metrics inside each group that is large enough.

    A metric that means something else in a group of one class is null there: accuracy
    and ROC AUC need both classes, sensitivity positives, specificity negatives. Beyond
    two classes a group is measured on the films of its `classes`.

    Args:
      evaluation: the whole split.
      groupings: grouping -> group of each example, from `groupings`.

    Returns:
      Grouping -> group -> numbers; a grouping with fewer than two groups that can be
      judged is left out.
    """
    found = {}
    for grouping, groups in groupings.items():
        judged = [g for g in _split(evaluation, groups) if g.judged]
        if len(judged) > 1:
            judged.sort(key=lambda group: order(group.name))
            found[grouping] = {g.name: _measure_group(evaluation, g) for g in judged}
    return found


def notes(
    evaluation: Evaluation,
    rows: Sequence[Mapping[str, str]],
    groupings: Mapping[str, Sequence[str]],
    measured: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any] | None:
    """Returns what a reader of the groups' numbers must know.

    Args:
      evaluation: the whole split.
      rows: as `groupings` takes them.
      groupings: as it returns them.
      measured: of `measure`.

    Returns:
      The `minimum` of a group that is judged; `compared_on`, grouping -> metrics, each
      with the groups in which it means the same; `too_few`, grouping -> groups that
      are not judged (numbers below five are null) and how many smaller `others` were
      not looked at; `artefacts`, grouping -> a sentence, where file names alone make a
      group of one class; `recorded`, what attributes.csv tells -> of how many
      films. None without rows.
    """
    if not rows:
        return None
    too_few = {
        grouping: _too_few(_split(evaluation, groups), len(set(groups) - {""}))
        for grouping, groups in groupings.items()
    }
    artefacts = {
        grouping: _artefact(grouping, measured[grouping])
        for grouping in _FROM_NAMES
        if grouping in measured
    }
    return {
        "minimum": {
            "films": MIN_FILMS,
            "patients": MIN_PATIENTS,
            "patients_of_a_class": MIN_OF_CLASS,
        },
        "compared_on": {
            grouping: compared_on(groups, evaluation)
            for grouping, groups in measured.items()
        },
        "too_few": {name: found for name, found in too_few.items() if found["groups"]},
        "artefacts": {name: text for name, text in artefacts.items() if text},
        "recorded": {
            called: sum(bool(row.get(column)) for row in rows)
            for column, called in ATTRIBUTES.items()
        },
    }


def compared_on(
    groups: Mapping[str, Mapping[str, Any]], evaluation: Evaluation
) -> list[dict[str, Any]]:
    """Returns the metrics on which groups can be set side by side, and which groups.

    ROC AUC where every group holds every class. Else, of two classes, sensitivity of
    those with positives and specificity of those with negatives; of more classes,
    sensitivity of the groups that hold the same ones. One group alone is compared with
    nothing.
    """
    held = {name: tuple(entry["classes"]) for name, entry in groups.items()}
    kinds: dict[tuple[str, ...], list[str]] = {}
    for name, classes in held.items():
        kinds.setdefault(classes, []).append(name)
    if set(kinds) == {evaluation.class_names}:
        return [{"metric": "roc_auc", "groups": list(held)}]
    if not evaluation.binary:
        pairs = [("recall", names) for names in kinds.values()]
    else:
        positive = evaluation.positive_class
        pairs = [
            ("recall", [n for n in held if positive in held[n]]),
            ("specificity", [n for n in held if set(held[n]) != {positive}]),
        ]
    return [{"metric": m, "groups": names} for m, names in pairs if len(names) > 1]


def _split(evaluation: Evaluation, groups: Sequence[str]) -> list[_Group]:
    """Returns the largest groups of a grouping, the largest first."""
    patient, labels = evaluation.resamples.patient, evaluation.scored.labels
    names, group_of = np.unique(np.array(groups), return_inverse=True)
    sizes = np.bincount(group_of, minlength=len(names))
    found = []
    largest = [i for i in np.argsort(-sizes, kind="stable") if names[i]]
    for index in largest[:_MOST_GROUPS]:
        inside = group_of == index
        classes = [
            c
            for c in range(len(evaluation.class_names))
            if len(np.unique(patient[inside & (labels == c)])) >= MIN_OF_CLASS
        ]
        patients = len(np.unique(patient[inside]))
        size, name = int(sizes[index]), str(names[index])
        found.append(_Group(name, inside, size, patients, tuple(classes)))
    return found


def _measure_group(evaluation: Evaluation, group: _Group) -> dict[str, Any]:
    scored, names = evaluation.scored, evaluation.class_names
    inside = group.inside
    whole = len(group.classes) == len(names)
    if not whole:
        inside = inside & np.isin(scored.labels, group.classes)
    measured = measure_all(scored.take(inside), evaluation.resamples.within(inside))
    known = set(METRICS) if whole else {"recall"}
    if not whole and scored.positive is not None:
        known = {"recall" if scored.positive in group.classes else "specificity"}
    counts = np.bincount(scored.labels[group.inside], minlength=len(names))
    nothing = {"value": None, "ci95": None}
    return {
        "n": group.n,
        "n_patients": group.n_patients,
        "class_counts": dict(zip(names, counts.tolist(), strict=True)),
        "classes": [names[index] for index in group.classes],
        "metrics": {n: measured[n] if n in known else nothing for n in METRICS},
    }


def _too_few(groups: Sequence[_Group], total: int) -> dict[str, Any]:
    """Returns the groups that are not judged, the largest first."""
    listed = {
        group.name: {
            "n": group.n if group.n >= _HIDDEN else None,
            "n_patients": group.n_patients if group.n >= _HIDDEN else None,
        }
        for group in groups
        if not group.judged
    }
    return {"groups": listed, "others": total - len(groups)}


def _artefact(grouping: str, groups: Mapping[str, Mapping[str, Any]]) -> str:
    """A sentence on groups that file names make within one class; empty without."""
    of_class: dict[str, list[str]] = {}
    for name, entry in groups.items():
        held = [label for label, count in entry["class_counts"].items() if count]
        if len(held) == 1:
            of_class.setdefault(held[0], []).append(name)
    if not of_class:
        return ""
    where = " and ".join(
        f"{', '.join(names)} for {label} alone" for label, names in of_class.items()
    )
    return (
        f"{grouping} is read from the file names, which have {where}: these groups are "
        "made by the names, and are compared within their class only."
    )


def order(group: str) -> tuple:
    """Sort key that puts sizes and counts in their natural order."""
    number = re.search(r"\d+", group)
    return (int(number[0]) if number else 0, not group.startswith("up to"), group)


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
