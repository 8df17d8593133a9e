"""What a reader must hear about an evaluation before its numbers, in code and words.

One list for the page, the terminal and programs (`warnings` in metrics.json).
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from cxr.reporting import formatting

Severity = Literal["info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error")

_SHIFT_ALARM = 0.05  # from validation's value, beyond the interval
_UNLIKE_ALARM = 0.05  # share of films unlike training's
_FEW_PATIENTS = 50  # an interval of so few says little, and misses more often
_CHANCE = 0.5  # the area under the ROC curve of a coin

# Said by `evaluator.remarks` of a run and its data; how loudly.
_REMARKS: dict[str, Severity] = {
    "test_reads": "info",
    "trained_after_test": "warning",
    "under_way": "warning",
    "other_data": "warning",
    "synthetic": "warning",
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing to hear.

    Attributes:
      code: an identifier that stays the same.
      severity: `error`: the numbers must not be used; `warning`: they mislead whoever
        does not know this; `info`.
      text: for people.
    """

    code: str
    severity: Severity
    text: str


def find(summary: Mapping[str, Any], remarks: Mapping[str, str]) -> list[Finding]:
    """Returns what to hear, as a page shows it.

    Args:
      summary: metrics.json's content.
      remarks: of `evaluator.remarks`; other keys are passed over.
    """
    found = [_majority(summary), *_ranking(summary)]
    if collapse := _one_class(summary):
        found.append(collapse)
    if few := _few(summary):
        found.append(few)
    if unlike := summary.get("input_guard"):
        found.append(_guard(unlike))
    found += _baseline(summary.get("trivial_baseline"))
    if summary["split"] == "train" and not remarks.get("other_data"):
        line = "The model was trained on these very films: far too optimistic."
        found.append(Finding("trained_on_these", "error", line))
    found += met_in_training(summary.get("met_in_training"), summary["n"])
    if summary["shift"]:
        found += _shift(summary)
    if temperature := summary["calibration"]["temperature"]:
        fails = temperature["transfers"] is False
        severity: Severity = "warning" if fails else "info"
        found.append(Finding("temperature", severity, temperature["verdict"]))
    return found + [
        Finding(code, loud, remarks[code])
        for code, loud in _REMARKS.items()
        if remarks.get(code)
    ]


def _majority(summary: Mapping[str, Any]) -> Finding:
    majority, accuracy = summary["majority"], summary["metrics"]["accuracy"]
    line = (
        f"Always answering {majority['class']} would be right in "
        f"{formatting.percent(majority['accuracy'])} of these films"
    )
    if accuracy["value"] > majority["accuracy"]:
        return Finding("majority", "info", f"{line}.")
    return Finding(
        "no_better_than_majority",
        "warning",
        f"{line}: the model's accuracy is no better than that.",
    )


def _ranking(summary: Mapping[str, Any]) -> Iterator[Finding]:
    bounds = summary["metrics"]["roc_auc"]["ci95"]
    if not bounds or bounds[0] > _CHANCE:
        return
    shown = f"the interval of its ROC AUC is {formatting.interval(bounds)}"
    if bounds[1] < _CHANCE:
        line = f"The model ranks these films backwards: {shown}, all below one half."
        yield Finding("ranks_backwards", "error", line)
    else:
        line = f"The model may rank these films by chance: {shown}."
        yield Finding("no_better_than_chance", "warning", line)


def _one_class(summary: Mapping[str, Any]) -> Finding | None:
    table = summary["confusion_matrix"]
    called = [sum(column) for column in zip(*table, strict=True)]
    true = [sum(row) for row in table]
    if sum(map(bool, called)) > 1 or sum(map(bool, true)) < 2:
        return None
    name = summary["class_names"][max(range(len(called)), key=called.__getitem__)]
    line = f"Every film is called {name}: the model tells nothing apart."
    return Finding("collapsed", "error", line)


def _few(summary: Mapping[str, Any]) -> Finding | None:
    groups = summary["n_patients"]
    if groups >= _FEW_PATIENTS:
        return None
    whose = "films" if summary["n_without_patient"] == summary["n"] else "patients"
    line = f"Only {groups} {whose}: intervals are wide, and rough themselves."
    return Finding("few_patients", "warning", line)


def _guard(unlike: Mapping[str, Any]) -> Finding:
    """How many films are unlike those of training, and how many would be by chance."""
    share = unlike["unlike"] / unlike["of"]
    line = (
        f"{unlike['unlike']:,} of {unlike['of']:,} films ({formatting.percent(share)}) "
        "look unlike the training films"
    )
    if unlike["reasons"]:
        listed = ", ".join(f"{e['n']:,} {e['reason']}" for e in unlike["reasons"])
        line += f" ({listed})"
    expected = unlike["false_alarms"]
    if expected is not None:
        line += f"; of validation's films {formatting.percent(expected)} do"
    loud: Severity = "warning" if share > _UNLIKE_ALARM else "info"
    return Finding("unlike_training", loud, f"{line}.")


def _baseline(baseline: Mapping[str, Any] | None) -> Iterator[Finding]:
    """What brightness and sharpness alone reach, and whether the model adds to it."""
    if not baseline or baseline["metrics"]["roc_auc"]["value"] is None:
        return
    area = formatting.number(baseline["metrics"]["roc_auc"]["value"])
    line = f"Nine numbers of brightness and sharpness alone reach a ROC AUC of {area}"
    if not baseline["differences"]:
        yield Finding(
            "chosen_against_baseline",
            "warning",
            f"{line}: these films were chosen because the numbers fail on them "
            "(--split_policy=counter). A rehearsal of a shift, no estimate.",
        )
        return
    gap = baseline["differences"]["roc_auc"]
    if not gap["ci95"]:
        yield Finding("trivial_baseline", "info", f"{line}.")
        return
    side = "lower" if gap["value"] < 0 else "higher"
    low, high = (f"{bound:+.3f}" for bound in gap["ci95"])
    line += (
        f"; the model's is {abs(gap['value']):.3f} {side} (95 % interval of the "
        f"difference: {low} to {high})"
    )
    if gap["ci95"][0] > 0:
        yield Finding("trivial_baseline", "info", f"{line}.")
    else:
        text = f"{line}: it shows nothing that these do not."
        yield Finding("trivial_baseline_as_good", "warning", text)


def met_in_training(met: Mapping[str, Any] | None, count: int) -> Iterator[Finding]:
    """Yields what to hear of films of another set that the model had met before.

    Args:
      met: as metrics.json has it; None where a model is judged on its own set.
      count: films of the split.
    """
    if not met:
        return
    if met["films"]:
        line = (
            f"{met['films']:,} of these {formatting.counted(count, 'film')} are, byte "
            "for byte, among those that the model was trained or chosen on: too "
            "optimistic."
        )
        yield Finding("trained_on_these", "error", line)
    if not met["checked"]:
        line = (
            "Whether films of its training are among these was not checked: the set "
            "that it was trained on has gone or changed."
        )
        yield Finding("training_films_unknown", "warning", line)
    elif not met["films"]:
        line = "No film is, byte for byte, one that the model was trained or chosen on."
        yield Finding("no_training_films", "info", line)
    if met["patients"]:
        patients = formatting.counted(met["patients"], "patient")
        line = (
            f"{patients} of this split and of its training have the same name; whoever "
            "knows both sets knows whether they are the same people."
        )
        yield Finding("patients_of_training", "warning", line)


def _shift(summary: Mapping[str, Any]) -> Iterator[Finding]:
    """Warns of what is far from validation, and farther than chance here."""
    why = "these films differ from validation's, or validation had luck"
    threshold = summary["threshold"]
    if threshold["chosen_on"] == "validation" and threshold["rule"] != "half":
        why = (
            "these films differ from those the threshold was chosen on, or it fitted "
            "those by chance"
        )
    for name, label in (("specificity", "Specificity"), ("recall", "Sensitivity")):
        here, there = summary["metrics"][name], summary["shift"]["validation"][name]
        if there is None or not here["ci95"]:
            continue
        low, high = here["ci95"]
        if low <= there <= high or abs(here["value"] - there) < _SHIFT_ALARM:
            continue
        line = (
            f"{label} is {formatting.percent(here['value'])} here and "
            f"{formatting.percent(there)} on validation at the same threshold: {why}."
        )
        yield Finding(f"shift_{name}", "warning", line)
