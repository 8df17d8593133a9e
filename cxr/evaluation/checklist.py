"""checklist.html: what reporting standards ask, answered by this evaluation or not.

The items are those of STARD-AI, CLAIM and TRIPOD+AI as we understand them, in our own
words; the standards' own texts decide. An answer is a number or a place on the report,
or says who else has to give it.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cxr.evaluation import report_subgroups
from cxr.reporting import formatting, html
from cxr.set_card import UNKNOWN

PAGE = "checklist.html"
_REPORT = "report.html"
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
class _Facts:
    """What answers draw on: metrics.json's content and where things come from."""

    summary: Mapping[str, Any]
    origins: Mapping[str, str]
    anchors: set[str]

    @property
    def told(self) -> Mapping[str, Any]:
        """Flow and card of the set."""
        return self.summary.get("participants") or {"flow": None, "card": None}


@dataclasses.dataclass(frozen=True)
class Item:
    """One thing that readers should be told.

    Attributes:
      topic: the part of a paper where it belongs.
      asks: in our words.
      standards: that ask for it.
      answer: what this evaluation says.
    """

    topic: str
    asks: str
    standards: tuple[str, ...]
    answer: Callable[[_Facts], Answer]


def render(
    summary: Mapping[str, Any], origins: Mapping[str, str], anchors: set[str]
) -> str:
    """The page beside report.html, as one HTML document.

    Args:
      summary: the content of metrics.json.
      origins: label -> text, of `evaluator.describe_origins`.
      anchors: sections that the report has.
    """
    facts = _Facts(summary, origins, anchors)
    answers = [(item, item.answer(facts)) for item in ITEMS]
    ours = sum(answer.ours for _, answer in answers)
    title = f"Checklist of reporting standards, {summary['split']} split"
    body = [
        html.paragraph(f"cxr evaluation · {origins.get('data', '')}", kind="eyebrow"),
        f"<h1>{html.escape(title)}</h1>",
        html.paragraph(
            "What STARD-AI (accuracy of AI as a test), CLAIM (AI in medical imaging) "
            "and TRIPOD+AI (prediction models) want a reader to be told, in our own "
            f"words; the standards' own texts decide. {ours} of {len(answers)} items "
            "are answered by this evaluation or its set, the others only by people: "
            "this page is a help to them and no proof that a standard was met.",
            kind="lead",
        ),
        f'<nav><a href="{_REPORT}">back to the report</a></nav>',
    ]
    for topic in dict.fromkeys(item.topic for item in ITEMS):
        rows = [pair for pair in answers if pair[0].topic == topic]
        anchor = topic.lower().replace(" ", "-")
        body.append(html.section(topic, [_table(rows, anchors)], anchor=anchor))
    return html.page(title, body)


def _table(rows: Sequence[tuple[Item, Answer]], anchors: set[str]) -> str:
    cells = "".join(
        f'<tr><td class="text">{html.escape(item.asks)}</td>'
        f'<td class="text">{html.escape(", ".join(item.standards))}</td>'
        f'<td class="text">{_shown(answer, anchors)}</td></tr>'
        for item, answer in rows
    )
    head = "".join(
        f'<th scope="col" class="text">{name}</th>'
        for name in ("asked", "by", "answered by")
    )
    return (
        f'<div class="scroll" tabindex="0"><table class="items"><thead><tr>{head}</tr>'
        f"</thead><tbody>{cells}</tbody></table></div>"
    )


def _shown(answer: Answer, anchors: set[str]) -> str:
    text = html.escape(answer.text)
    if not answer.ours:
        return f"{html.escape(answer.unless)}: {text}"
    if answer.anchor in anchors:
        text += f' (<a href="{_REPORT}#{answer.anchor}">report: {answer.anchor}</a>)'
    return text


# --- answers


def _people(who: str) -> Callable[[_Facts], Answer]:
    """An item that only people can answer."""
    return lambda facts: Answer(who, ours=False)


def _card(*keys: str) -> Callable[[_Facts], Answer]:
    """What the set's card says under some keys; without it, that nobody said."""

    def answer(facts: _Facts) -> Answer:
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


def _said(anchor: str, text: str) -> Callable[[_Facts], Answer]:
    """A place on the report; where the report has no such section, nobody answered."""

    def answer(facts: _Facts) -> Answer:
        if anchor in facts.anchors:
            return Answer(text, anchor)
        return Answer(text, ours=False, unless="not part of this evaluation")

    return answer


def _origin(name: str, what: str) -> Callable[[_Facts], Answer]:
    """A line of the table of origins."""

    def answer(facts: _Facts) -> Answer:
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


def _classes(facts: _Facts) -> Answer:
    names = ", ".join(facts.summary["class_names"])
    positive = facts.summary["positive_class"]
    said = f"; positive is {positive}" if positive else ""
    return Answer(f"a learned model tells {names} apart on chest films{said}")


def _flow(facts: _Facts) -> Answer:
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


def _copies(facts: _Facts) -> Answer:
    counts = facts.told["flow"]
    if facts.origins.get("other_data"):
        return Answer(
            "another set than the training's: whether they share patients or films was "
            "not checked; whoever knows both sets",
            ours=False,
        )
    copies = counts["copies"] if counts else 0
    return Answer(
        "no patient and no byte-identical film stands on two sides, as far as names "
        "and headers tell patients (checked when the set is opened); copies in the "
        f"set: {copies:,}",
        "participants" if counts else "",
    )


def _sides(facts: _Facts) -> Answer:
    counts = facts.told["flow"]
    sides = "; ".join(
        f"{name} {side['films']:,} films of {side['patients']:,} patients"
        for name, side in (counts["splits"].items() if counts else ())
    )
    return Answer(
        f"{facts.origins.get('data', UNKNOWN)}, cut by patient; {sides}", "participants"
    )


def _recorded(facts: _Facts) -> Answer:
    lines = list(report_subgroups.unknown(facts.summary))
    if not lines:
        return Answer("nothing was recorded film by film; the set's makers", ours=False)
    return Answer("; ".join(lines), "subgroups")


def _subgroups(facts: _Facts) -> Answer:
    compared = (facts.summary.get("subgroup_notes") or {}).get("compared_on", {})
    names = [name.replace("_", " ") for name, found in compared.items() if found]
    if not names:
        return Answer("no two groups were large enough to be compared", "subgroups")
    return Answer(f"compared by {', '.join(names)}", "subgroups")


def _threshold(facts: _Facts) -> Answer:
    threshold = facts.summary["threshold"]
    if threshold is None:
        return Answer("no threshold: the most probable class is predicted", "numbers")
    chosen = threshold["chosen_on"]
    how = f"chosen on {chosen} by {threshold['rule']}" if chosen else "fixed"
    value = formatting.probability(threshold["value"])
    return Answer(f"p >= {value}, {how}", "threshold")


def _accuracy(facts: _Facts) -> Answer:
    metrics = facts.summary["metrics"]
    names = {
        "roc_auc": "ROC AUC",
        "recall": "sensitivity",
        "specificity": "specificity",
    }
    text = ", ".join(f"{n} {_with_interval(metrics[k])}" for k, n in names.items())
    return Answer(text, "discrimination")


def _confusion(facts: _Facts) -> Answer:
    table = facts.summary["confusion_matrix"]
    names = facts.summary["class_names"]
    rows = [
        f"of {sum(row):,} {name} films "
        + ", ".join(f"{n:,} called {c}" for n, c in zip(row, names, strict=True))
        for name, row in zip(names, table, strict=True)
    ]
    return Answer("; ".join(rows), "discrimination")


def _intervals(facts: _Facts) -> Answer:
    made = facts.summary["intervals"]
    return Answer(f"{made['draws']:,} draws, seed {made['seed']}: {made['method']}")


def _calibration(facts: _Facts) -> Answer:
    ece = facts.summary["metrics"]["ece"]
    return Answer(f"expected error {_with_interval(ece)}", "calibration")


def _baseline(facts: _Facts) -> Answer:
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


def _external(facts: _Facts) -> Answer:
    if other := facts.origins.get("other_data"):
        return Answer(other)
    return Answer(
        "internal: these films come from the set that the model was trained on; "
        "--dataset judges it on another"
    )


def _reads(facts: _Facts) -> Answer:
    split = facts.summary["split"]
    nothing = f"the split evaluated is {split}; thresholds come from validation"
    read = facts.origins.get("test_reads", nothing)
    late = facts.origins.get("trained_after_test", "")
    return Answer(" ".join(filter(None, (read, late))))


def _guard(facts: _Facts) -> Answer:
    found = facts.summary.get("input_guard")
    if not found:
        return Answer("no input guard was trained; the authors", ours=False)
    return Answer(
        f"{found['unlike']:,} of {found['of']:,} films look unlike those of training "
        "and are warned of; a damaged film is refused with a reason"
    )


def _several(facts: _Facts) -> Answer:
    runs = facts.summary.get("runs")
    return Answer(f"{len(runs)} runs", "runs") if runs else Answer("a single model")


_ALL = ("STARD-AI", "CLAIM", "TRIPOD+AI")
_STARD, _CLAIM, _TRIPOD = _ALL
_AUTHORS = "the authors of a study"

ITEMS = (
    Item(
        "Purpose",
        "That a learned model judges films, and what it looks for",
        _ALL,
        _classes,
    ),
    Item(
        "Purpose",
        "A structured summary of design and results",
        _ALL,
        _people(f"{_AUTHORS} write it"),
    ),
    Item(
        "Purpose",
        "The clinical question, and where in care the model would stand",
        _ALL,
        _people(f"{_AUTHORS}; MODEL_CARD.md of the run folder allows research only"),
    ),
    Item(
        "Purpose",
        "Aims or hypotheses fixed beforehand, and the study's design",
        _ALL,
        _people(_AUTHORS),
    ),
    Item("Purpose", "Protocol and registration", _ALL, _people(_AUTHORS)),
    Item(
        "Purpose",
        "Ethics approval and consent",
        (_STARD, _TRIPOD),
        _people("the set's makers and the study's ethics board"),
    ),
    Item(
        "Films and patients",
        "Where the films come from, and in which setting they were taken",
        _ALL,
        _card("source", "setting"),
    ),
    Item("Films and patients", "When they were taken", _ALL, _card("period")),
    Item(
        "Films and patients",
        "Who was eligible, and how they were chosen",
        _ALL,
        _card("population"),
    ),
    Item(
        "Films and patients",
        "How many were found, kept out and why, and judged: a flow diagram",
        _ALL,
        _flow,
    ),
    Item(
        "Films and patients",
        "Age and what else describes the patients",
        _ALL,
        _card("population", "ages"),
    ),
    Item(
        "Films and patients", "Age, sex, view and device film by film", _ALL, _recorded
    ),
    Item(
        "Films and patients",
        "Machines and how films were acquired",
        (_STARD, _CLAIM),
        _card("devices"),
    ),
    Item(
        "Films and patients",
        "How severe the disease is, and what other diseases there are",
        (_STARD,),
        _people("the set's makers; labels tell classes alone"),
    ),
    Item(
        "Films and patients",
        "How films were prepared before the model saw them",
        (_CLAIM, _TRIPOD),
        _origin("model", "grey, squashed to a square by area reduction"),
    ),
    Item(
        "Films and patients",
        "How identities were removed",
        (_CLAIM,),
        _people(
            "whoever gave the films away; of a DICOM header the converter keeps "
            "bands and an HMAC, file names stay as they are"
        ),
    ),
    Item(
        "Films and patients", "How missing and damaged data were handled", _ALL, _flow
    ),
    Item(
        "Films and patients",
        "How the sample's size was decided",
        _ALL,
        _people(f"{_AUTHORS}; the intervals show the precision reached"),
    ),
    Item(
        "Films and patients",
        "How films were divided, and at which level",
        (_CLAIM, _TRIPOD),
        _sides,
    ),
    Item(
        "Films and patients",
        "Whether training and test share patients or films",
        _ALL,
        _copies,
    ),
    Item(
        "Reference standard",
        "What a label rests on, and why that was chosen",
        _ALL,
        _card("reference_standard"),
    ),
    Item(
        "Reference standard",
        "Who labelled, with which training",
        _ALL,
        _card("labelled_by"),
    ),
    Item(
        "Reference standard",
        "How far those who label agree",
        (_STARD, _CLAIM),
        _people("the set's makers; a table of labels holds one a film"),
    ),
    Item(
        "Reference standard",
        "Whether labels and predictions were made without knowing each other",
        (_STARD, _TRIPOD),
        _people("the set's makers; the model sees pixels alone when it predicts"),
    ),
    Item(
        "Reference standard",
        "Time and treatment between film and reference standard",
        (_STARD,),
        _people("the set's makers"),
    ),
    Item(
        "Model",
        "Architecture, input and output, in enough detail to repeat it",
        _ALL,
        _origin("model", "model"),
    ),
    Item(
        "Model",
        "How it was initialised and trained, with every setting",
        (_CLAIM, _TRIPOD),
        _said("provenance", "every flag of the run, and the training curves"),
    ),
    Item(
        "Model",
        "Software and hardware",
        (_CLAIM, _TRIPOD),
        _origin("trained_with", "packages and devices"),
    ),
    Item(
        "Model",
        "How the final model was chosen",
        (_CLAIM, _TRIPOD),
        _said("training", "the best epoch on validation"),
    ),
    Item(
        "Model",
        "How several models were combined, or how much runs differ",
        (_CLAIM, _TRIPOD),
        _several,
    ),
    Item(
        "Model",
        "The cut-off for a positive call, and whether it was fixed beforehand",
        _ALL,
        _threshold,
    ),
    Item(
        "Model",
        "The very version that was judged",
        _ALL,
        _origin("model_sha256", "SHA-256 of the model file"),
    ),
    Item(
        "Model",
        "Whether code and model can be had",
        _ALL,
        _people(f"{_AUTHORS}; the commit stands under provenance"),
    ),
    Item(
        "Evaluation",
        "Which measures were used, and their definitions",
        _ALL,
        _said("numbers", "every measure with its definition"),
    ),
    Item("Evaluation", "How uncertainty was computed", _ALL, _intervals),
    Item("Evaluation", "How well the model does, with intervals", _ALL, _accuracy),
    Item(
        "Evaluation", "Every film counted: predictions against labels", _ALL, _confusion
    ),
    Item(
        "Evaluation",
        "Whether probabilities mean what they say",
        (_CLAIM, _TRIPOD),
        _calibration,
    ),
    Item(
        "Evaluation",
        "What simpler means reach on the same films",
        (_CLAIM, _TRIPOD),
        _baseline,
    ),
    Item(
        "Evaluation",
        "What readers or the present practice reach on the same films",
        (_STARD, _CLAIM),
        _people("a reader study"),
    ),
    Item(
        "Evaluation",
        "What other prevalences would mean",
        (_STARD, _TRIPOD),
        _said("threshold", "predictive values by prevalence"),
    ),
    Item("Evaluation", "For whom it works: subgroups and fairness", _ALL, _subgroups),
    Item(
        "Evaluation",
        "Whether the films differ from those of training",
        (_STARD, _TRIPOD),
        _said("shift", "scores here and on validation"),
    ),
    Item("Evaluation", "Judged on films of another place or time", _ALL, _external),
    Item(
        "Evaluation",
        "Whether test decided anything, and how often it was read",
        (_CLAIM, _TRIPOD),
        _reads,
    ),
    Item(
        "Evaluation",
        "Which films it gets wrong",
        (_STARD, _CLAIM),
        _said("films", "the hardest mistakes"),
    ),
    Item(
        "Evaluation",
        "How a call can be explained, and whether that was checked",
        (_CLAIM,),
        _said("attention", "Grad-CAM, a hint and no proof"),
    ),
    Item(
        "Evaluation",
        "What happens to inputs that it was not made for",
        (_STARD, _CLAIM),
        _guard,
    ),
    Item(
        "Evaluation",
        "Harm to patients during the study",
        (_STARD,),
        _people("nobody was treated by this evaluation; " + _AUTHORS),
    ),
    Item(
        "Discussion",
        "Limits, bias and what is uncertain",
        _ALL,
        _said("limits", "what the numbers do not say"),
    ),
    Item("Discussion", "Known biases of the set", _ALL, _card("known_biases")),
    Item(
        "Discussion",
        "What it means for care, and for whom it may hold",
        _ALL,
        _people(_AUTHORS),
    ),
    Item(
        "Discussion",
        "Who uses it, with which skill and oversight",
        (_STARD, _TRIPOD),
        _people("whoever would use it; this is no medical device"),
    ),
    Item(
        "Discussion",
        "How patients and the public took part",
        (_TRIPOD,),
        _people(_AUTHORS),
    ),
    Item(
        "Discussion",
        "Licence of the data, and how to cite them",
        _ALL,
        _card("licence", "citation"),
    ),
    Item("Discussion", "Funding and conflicts of interest", _ALL, _people(_AUTHORS)),
)
