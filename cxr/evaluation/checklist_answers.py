"""What one evaluation answers to an item of the checklist, or who has to answer it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from cxr.evaluation import report_subgroups
from cxr.reporting import formatting
from cxr.set_card import UNKNOWN

_NOT_OURS = "not answerable by software"


@dataclasses.dataclass(frozen=True)
class Answer:
    """What stands beside an item.

    Attributes:
      text: a number or a sentence; or who has to answer.
      anchor: the section of the report that has more, empty for none.
      ours: whether it is answered here.
      unless: why not, where it is not.
    """

    text: str
    anchor: str = ""
    ours: bool = True
    unless: str = _NOT_OURS


@dataclasses.dataclass(frozen=True)
class Facts:
    """What answers draw on: metrics.json's content and where things come from."""

    summary: Mapping[str, Any]
    origins: Mapping[str, str]
    anchors: set[str]

    @property
    def told(self) -> Mapping[str, Any]:
        """Flow and card of the set."""
        return self.summary.get("participants") or {"flow": None, "card": None}


def people(who: str) -> Callable[[Facts], Answer]:
    """An item that only people can answer."""
    return lambda facts: Answer(who, ours=False)


def card(*keys: str) -> Callable[[Facts], Answer]:
    """What the set's card says under some keys; without it, that nobody said."""

    def answer(facts: Facts) -> Answer:
        card = facts.told["card"]
        if card is None:
            return Answer(
                "the set has no card; whoever made it knows (--set_card)", ours=False
            )
        parts = []
        for key in keys:
            value = card.get(key) or UNKNOWN
            text = value if isinstance(value, str) else " ".join(value)
            parts.append(f"{key.replace('_', ' ')}: {text}")
        known = any(card.get(key) for key in keys)
        where = "; ".join(parts)
        if not known:
            return Answer(f"{where}, as the set's card says", ours=False)
        return Answer(f"{where} (the set's card)", "participants")

    return answer


def said(anchor: str, text: str) -> Callable[[Facts], Answer]:
    """A place on the report; where the report has no such section, nobody answered."""

    def answer(facts: Facts) -> Answer:
        if anchor in facts.anchors:
            return Answer(text, anchor)
        return Answer(text, ours=False, unless="not part of this evaluation")

    return answer


def origin(name: str, what: str) -> Callable[[Facts], Answer]:
    """A line of the table of origins."""

    def answer(facts: Facts) -> Answer:
        text = facts.origins.get(name)
        if not text:
            return Answer(f"{what} is not on record; the authors", ours=False)
        return Answer(f"{what}: {text}", "provenance")

    return answer


def _with_interval(entry: Mapping[str, Any]) -> str:
    text = formatting.number(entry["value"])
    if entry["ci95"]:
        text += f" (95 %: {formatting.interval(entry['ci95'])})"
    return text


def classes(facts: Facts) -> Answer:
    """What the model tells apart."""
    names = ", ".join(facts.summary["class_names"])
    positive = facts.summary["positive_class"]
    said = f"; positive is {positive}" if positive else ""
    return Answer(f"a learned model tells {names} apart on chest films{said}")


def flow(facts: Facts) -> Answer:
    """How many films were read, kept out and judged."""
    counts = facts.told["flow"]
    if counts is None:
        return Answer("the flow was not recorded; the authors", ours=False)
    if counts["read"] is None:
        return Answer(f"{counts['films']:,} films in the set", "participants")
    out = sum(counts["kept_out"].values())
    return Answer(
        f"{counts['read']:,} files read, {out:,} kept out by reason, "
        f"{counts['films']:,} films in the set, {facts.summary['n']:,} evaluated",
        "participants",
    )


def copies(facts: Facts) -> Answer:
    """Whether sides share patients or films."""
    counts = facts.told["flow"]
    if met := facts.summary.get("met_in_training"):
        films = f"{formatting.counted(met['films'], 'film')} of the training's"
        checked = films if met["checked"] else "not checked for the training's films"
        return Answer(
            f"another set than the training's: {checked}, byte for byte; whoever knows "
            "both sets knows whether they share patients",
            ours=False,
        )
    copies = counts["copies"] if counts else 0
    return Answer(
        "no patient and no byte-identical film stands on two sides, as far as names "
        "and headers tell patients (checked when the set is opened); copies in the "
        f"set: {copies:,}",
        "participants" if counts else "",
    )


def sides(facts: Facts) -> Answer:
    """How films were divided."""
    counts = facts.told["flow"]
    sides = "; ".join(
        f"{name} {side['films']:,} films of {side['patients']:,} patients"
        for name, side in (counts["splits"].items() if counts else ())
    )
    return Answer(
        f"{facts.origins.get('data', UNKNOWN)}, cut by patient; {sides}", "participants"
    )


def recorded(facts: Facts) -> Answer:
    """What is known of patients and films one by one."""
    lines = list(report_subgroups.unknown(facts.summary))
    if not lines:
        return Answer("nothing was recorded film by film; the set's makers", ours=False)
    return Answer("; ".join(lines), "subgroups")


def subgroups(facts: Facts) -> Answer:
    """Which groups were compared."""
    compared = (facts.summary.get("subgroup_notes") or {}).get("compared_on", {})
    names = [name.replace("_", " ") for name, found in compared.items() if found]
    if not names:
        return Answer("no two groups were large enough to be compared", "subgroups")
    return Answer(f"compared by {', '.join(names)}", "subgroups")


def threshold(facts: Facts) -> Answer:
    """The cut-off, and what chose it."""
    threshold = facts.summary["threshold"]
    if threshold is None:
        return Answer("no threshold: the most probable class is predicted", "numbers")
    chosen = threshold["chosen_on"]
    how = f"chosen on {chosen} by {threshold['rule']}" if chosen else "fixed"
    value = formatting.probability(threshold["value"])
    return Answer(f"p >= {value}, {how}", "threshold")


def accuracy(facts: Facts) -> Answer:
    """The headline metrics with their intervals."""
    metrics = facts.summary["metrics"]
    names = {
        "roc_auc": "ROC AUC",
        "recall": "sensitivity",
        "specificity": "specificity",
    }
    text = ", ".join(f"{n} {_with_interval(metrics[k])}" for k, n in names.items())
    return Answer(text, "discrimination")


def confusion(facts: Facts) -> Answer:
    """How films of each class were called."""
    table = facts.summary["confusion_matrix"]
    names = facts.summary["class_names"]
    rows = [
        f"of {sum(row):,} {name} films "
        + ", ".join(f"{n:,} called {c}" for n, c in zip(row, names, strict=True))
        for name, row in zip(names, table, strict=True)
    ]
    return Answer("; ".join(rows), "discrimination")


def intervals(facts: Facts) -> Answer:
    """How the intervals were made."""
    made = facts.summary["intervals"]
    return Answer(f"{made['draws']:,} draws, seed {made['seed']}: {made['method']}")


def calibration(facts: Facts) -> Answer:
    """The expected calibration error."""
    ece = facts.summary["metrics"]["ece"]
    return Answer(f"expected error {_with_interval(ece)}", "calibration")


def baseline(facts: Facts) -> Answer:
    """What the commonest class and the trivial baseline reach."""
    found = facts.summary.get("trivial_baseline")
    if not found:
        return Answer("no reference model could be fitted; the authors", ours=False)
    area = formatting.number(found["metrics"]["roc_auc"]["value"])
    return Answer(
        f"always {facts.summary['majority']['class']}: accuracy "
        f"{formatting.number(facts.summary['majority']['accuracy'])}; brightness and "
        f"sharpness alone: ROC AUC {area}",
        "baseline",
    )


def external(facts: Facts) -> Answer:
    """Whether the films are of another set than training's."""
    if other := facts.origins.get("other_data"):
        return Answer(other)
    return Answer(
        "internal: these films come from the set that the model was trained on; "
        "--dataset judges it on another"
    )


def reads(facts: Facts) -> Answer:
    """How often test was read, and whether training went on after."""
    split = facts.summary["split"]
    nothing = f"the split evaluated is {split}; thresholds come from validation"
    read = facts.origins.get("test_reads", nothing)
    late = facts.origins.get("trained_after_test", "")
    return Answer(" ".join(filter(None, (read, late))))


def guard(facts: Facts) -> Answer:
    """How many films are unlike those of training."""
    found = facts.summary.get("input_guard")
    if not found:
        return Answer("no input guard was trained; the authors", ours=False)
    return Answer(
        f"{found['unlike']:,} of {found['of']:,} films look unlike those of training "
        "and are warned of; a damaged film is refused with a reason"
    )


def several(facts: Facts) -> Answer:
    """How many runs were judged."""
    runs = facts.summary.get("runs")
    return Answer(f"{len(runs)} runs", "runs") if runs else Answer("a single model")
