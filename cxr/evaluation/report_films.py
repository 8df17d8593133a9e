"""The sections of report.html that show films: samples, mistakes, where it looked."""

import os
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from cxr.reporting import formatting, html

Summary = Mapping[str, Any]
Pictures = Mapping[str, pathlib.Path]


def films(
    pictures: Pictures,
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    folder: str = ".",
) -> str:
    """Sample predictions and the hardest mistakes, with tables that lead to the films.

    Args:
      pictures: name -> PNG.
      rows: picture -> `film_table.rows` of its films.
      folder: where the page lies; links to films start there.
    """
    parts = []
    for name, alt, caption in (
        (
            "samples",
            "sample predictions",
            "Drawn at random with a fixed seed, not picked, in the proportions that "
            "the films had (the model sees them squashed to a square). Solid green "
            "frame: right; dashed orange frame: wrong. With two classes p is the "
            "positive class' probability.",
        ),
        (
            "mistakes",
            "hardest mistakes",
            "The mistakes it was surest of; some may be label errors. mistakes.csv "
            "has all.",
        ),
    ):
        parts.append(html.picture(pictures.get(name), alt, caption))
        parts.append(film_rows(rows.get(name, ()), folder=folder))
    if not any(parts):
        return ""
    return html.section("The films themselves", parts, anchor="films")


def film_rows(rows: Sequence[Mapping[str, Any]], *, folder: str) -> str:
    """The films of a picture as a table to open; empty without rows."""
    if not rows:
        return ""
    header = ("film", "file", "patient", "truth", "said", "p", "margin", "status")
    cells = []
    for row in rows:
        margin = row["margin"]
        name: object = row["path"]
        if row["source"]:
            target = urllib.parse.quote(os.path.relpath(row["source"], folder))
            name = html.Link(row["path"], target)
        cells.append(
            (
                f"#{row['number']}",
                name,
                row["patient_id"],
                row["label"],
                row["prediction"],
                formatting.probability(row["probability"]),
                formatting.DASH if margin is None else f"{margin:+.3f}",
                row["status"],
            )
        )
    content = html.table(header, cells, text_columns=(0, 1, 2, 3, 4, 7))
    return html.details("These films: file, patient, margin to the threshold", content)


def attention(
    summary: Summary,
    pictures: Pictures,
    rows: Sequence[Mapping[str, Any]] = (),
    *,
    folder: str = ".",
) -> str:
    """Grad-CAM overlays with their limits."""
    found, title = summary.get("attention"), "Where it looked"
    if not found:
        return ""
    if why := found.get("not_shown"):
        return html.section(title, [html.paragraph(why)], anchor="attention")
    if "attention" not in pictures:
        return ""
    lines = [("warn" if found["alarm"] else "plain", found["line"])]
    lines += _limits_of_attention(found)
    parts = [
        html.picture(
            pictures.get("attention"),
            "Grad-CAM overlays",
            f"Grad-CAM for {found['class']}: orange speaks for it, blue against, each "
            "film on its own scale. A coarse hint at where the model looked, not proof "
            "of why.",
        ),
        html.notes(lines),
        _edges(found),
        film_rows(rows, folder=folder),
    ]
    return html.section(title, parts, anchor="attention")


def _edges(found: Mapping[str, Any]) -> str:
    """The share of each edge and outside the body, with intervals over films."""
    parts = dict(found["parts"])
    outside = found.get("outside_body")
    if outside and outside["films"]:
        parts[f"black outside the body ({outside['films']} films have some)"] = outside
    cells = [
        (
            name,
            formatting.percent(entry["share"]),
            " to ".join(map(formatting.percent, entry["ci95"]))
            if entry["ci95"]
            else formatting.DASH,
            formatting.percent(entry["area"]),
        )
        for name, entry in parts.items()
    ]
    header = ("part of the film", "of what speaks for it", "95 % over films", "area")
    return html.table(header, cells)


def _limits_of_attention(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the sanity check says of the maps."""
    sanity = found.get("sanity")
    if not sanity or sanity["rank_correlation"] is None:
        return []
    line = (
        "Maps of the same network with shuffled weights have a rank correlation of "
        f"{sanity['rank_correlation']:.2f} to these, over {sanity['films']} films"
    )
    if sanity["alarm"]:
        return [("warn", f"{line}: they show the film more than what was learnt.")]
    return [("plain", f"{line}: they depend on what was learnt.")]
