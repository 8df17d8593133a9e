"""Writes report.html, the answer first."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cxr.evaluation import (
    checklist,
    participants,
    report_films,
    report_sections,
    report_subgroups,
)
from cxr.metrics.findings import Finding
from cxr.reporting import formatting, html


def render(
    summary: Mapping[str, Any],
    pictures: Mapping[str, pathlib.Path],
    provenance: Mapping[str, str],
    found: Sequence[Finding],
    films: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> str:
    """The report as one HTML document.

    Args:
      summary: the content of metrics.json.
      pictures: name -> PNG; what is missing is left out.
      provenance: label -> text, shown in the table of origins; `data` and
        the remarks are also used elsewhere on the page.
      found: what to hear before the numbers.
      films: picture -> `film_table.rows` of its films.

    Returns:
      HTML that needs no other file.
    """
    films = films or {}
    folder = str(next(iter(pictures.values())).parent) if pictures else "."
    body = {
        "discrimination": report_sections.discrimination(summary, pictures),
        "threshold": report_sections.threshold(summary, pictures),
        "calibration": report_sections.calibration(summary, pictures),
        "baseline": report_sections.baseline(summary),
        "shift": report_sections.shift(summary, pictures),
        "participants": participants.section(summary),
        "subgroups": report_subgroups.section(summary, pictures),
        "films": report_films.films(pictures, films, folder=folder),
        "attention": report_films.attention(
            summary, pictures, films.get("attention", ()), folder=folder
        ),
        "runs": report_sections.runs(summary, pictures),
        "training": report_sections.training(pictures),
        "numbers": report_sections.numbers(summary),
        "provenance": report_sections.provenance(provenance),
        "limits": report_sections.limits(summary),
    }
    written = {anchor: part for anchor, part in body.items() if part}
    parts = [
        _first_screen(summary, provenance, found, list(written)),
        *written.values(),
    ]
    return html.page(f"{_what(summary)}, {summary['split']} split", parts)


def _what(summary: Mapping[str, Any]) -> str:
    if summary["positive_class"] is None:
        return " / ".join(summary["class_names"])
    others = [n for n in summary["class_names"] if n != summary["positive_class"]]
    return f"{summary['positive_class']} against {others[0]}"


def _first_screen(
    summary: Mapping[str, Any],
    provenance: Mapping[str, str],
    found: Sequence[Finding],
    anchors: list[str],
) -> str:
    notes = [("plain" if one.severity == "info" else "warn", one.text) for one in found]
    cards = [
        _card(summary["metrics"][name], label)
        for name, label in report_sections.HEADLINE
    ]
    links = "".join(f'<a href="#{anchor}">{anchor}</a>' for anchor in anchors)
    links += f'<a href="{checklist.PAGE}">checklist of reporting standards</a>'
    return "".join(
        [
            "<header>",
            html.paragraph(
                f"cxr evaluation · {provenance.get('data', '')}", kind="eyebrow"
            ),
            f"<h1>{html.escape(_what(summary))}, {html.escape(summary['split'])} "
            "split</h1>",
            html.paragraph(_lead(summary, provenance), kind="lead"),
            f'<div class="answers">{"".join(cards)}</div>',
            html.notes(notes),
            f"<nav>{links}</nav></header>",
        ]
    )


def _card(entry: Mapping[str, Any], label: str) -> str:
    bounds = entry["ci95"]
    bar = (bounds[0], entry["value"], bounds[1]) if bounds else None
    show, text = formatting.percent, "no interval"
    if label == "ROC AUC":
        show = formatting.number
        text = formatting.interval(bounds) if bounds else text
    elif bounds:
        text = f"{100 * bounds[0]:.1f} to {formatting.percent(bounds[1])}"
    return html.answer(label, show(entry["value"]), interval=f"95 %: {text}", bar=bar)


def _lead(summary: Mapping[str, Any], provenance: Mapping[str, str]) -> str:
    counts = ", ".join(f"{n:,} {name}" for name, n in summary["class_counts"].items())
    films = f"{report_sections.films_of_patients(summary)} ({counts}). "
    films += _resampled(summary)
    threshold = summary["threshold"]
    if threshold is None:
        return films + "The predicted class is the most probable; means over classes."
    value = formatting.probability(threshold["value"])
    reached = "is " if threshold["value"] > 1 else "≥ "  # "above 1": nothing does
    positive = f"Positive when p {reached}{value}, "
    if threshold["rule"] == "half":
        return f"{films}{positive}a fixed threshold that no data chose."
    chosen = f"chosen on {threshold['chosen_on']} by the rule {threshold['rule']}"
    # Another set's validation films are not those that it was chosen on.
    here = threshold["chosen_on"] == summary["split"]
    optimistic = here and not provenance.get("other_data")
    return f"{films}{positive}{chosen}" + (
        ", the very films judged here: optimistic." if optimistic else " and frozen."
    )


def _resampled(summary: Mapping[str, Any]) -> str:
    unknown = summary["n_without_patient"]
    if not unknown:
        return "Intervals resample patients, not films. "
    if unknown == summary["n"]:
        return (
            "No film's patient is known, so intervals resample films: they are too "
            "narrow where patients have several. "
        )
    return (
        "Intervals resample patients, not films; a film whose patient is unknown "
        "counts as a patient. "
    )


def render_comparison(
    result: Mapping[str, Any], picture: pathlib.Path, data: str
) -> str:
    """The page of `--compare`: the verdict, the picture, every difference.

    Args:
      result: the content of comparison.json.
      picture: PNG of the differences.
      data: one line on the data set.
    """
    first, second = result["runs"]["a"], result["runs"]["b"]
    rows = []
    for name, entry in result["differences"].items():
        values = [formatting.number(entry[key], 4) for key in ("a", "b", "value")]
        rows.append((name, *values, formatting.interval(entry["ci95"], 4)))
    title = f"{second} against {first}"
    films = report_sections.films_of_patients(result)
    drawn = "films" if result["n_without_patient"] == result["n"] else "patients"
    body = [
        html.paragraph(
            f"cxr comparison · {data}, {result['split']} split", kind="eyebrow"
        ),
        f"<h1>{html.escape(title)}</h1>",
        html.notes(
            [
                ("plain", result["verdict"]),
                *(("warn", one["text"]) for one in result["warnings"]),
            ]
        ),
        html.paragraph(
            f"{films}, judged by both models; the interval of a difference comes from "
            f"{result['draws']:,} resamples of the {drawn}, the same for both. With "
            "two classes each model keeps its own frozen threshold."
        ),
        html.picture(picture, "differences with intervals"),
        html.table(("metric", first, second, "difference", "95 % interval"), rows),
    ]
    return html.page(title, body)
