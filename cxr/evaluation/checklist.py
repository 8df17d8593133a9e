"""checklist.html: what reporting standards ask, answered by this evaluation or not.

An answer is a number or a place on the report, or says who else has to give it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cxr.evaluation.checklist_answers import Answer, Facts
from cxr.evaluation.checklist_items import ITEMS, Item
from cxr.reporting import html

PAGE = "checklist.html"
_REPORT = "report.html"


def render(
    summary: Mapping[str, Any], origins: Mapping[str, str], anchors: set[str]
) -> str:
    """The page beside report.html, as one HTML document.

    Args:
      summary: the content of metrics.json.
      origins: label -> text, of `origins.describe` and `origins.remarks`.
      anchors: sections that the report has.
    """
    facts = Facts(summary, origins, anchors)
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
