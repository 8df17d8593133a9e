"""Builds self-contained HTML pages: one file, no scripts, nothing fetched.

The building blocks escape what they are given; what they return is HTML. Light and
dark follow the reader's system, and wide tables scroll inside their own box, so that
a phone shows the page without sideways scrolling.
"""

import base64
import html
import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from cxr.reporting import formatting

_STYLE = (pathlib.Path(__file__).parent / "style.css").read_text(encoding="utf-8")


def escape(text: object) -> str:
    """Text made safe inside HTML."""
    return html.escape(str(text))


def page(title: str, body: Sequence[str]) -> str:
    """A whole document from a title and HTML parts, the disclaimer at its foot."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE}</style></head><body><main>",
            *body,
            f"<footer>{escape(formatting.DISCLAIMER)}</footer></main></body></html>\n",
        ]
    )


def anchors(document: str) -> set[str]:
    """Returns what links into one of our pages may point to."""
    return set(re.findall(r'<section id="([^"]+)"', document))


def with_warning(document: str, text: str) -> str:
    """Returns one of our pages with a warning above everything else on it."""
    before, main, after = document.partition("<main>")
    return f"{before}{main}{notes([('warn', text)])}{after}"


def section(title: str, parts: Sequence[str], *, anchor: str) -> str:
    """A titled section that links can point to; empty parts are left out."""
    return (
        f'<section id="{escape(anchor)}"><h2>{escape(title)}</h2>'
        + "\n".join(filter(None, parts))
        + "</section>"
    )


def paragraph(text: str, *, kind: str = "") -> str:
    """A paragraph; `kind` is a class of the style sheet such as `quiet`."""
    return f'<p class="{escape(kind)}">{escape(text)}</p>'


def notes(lines: Sequence[tuple[str, str]]) -> str:
    """A list of (kind, text); kind `warn` or `plain` sets the mark before it."""
    items = [f'<li class="{escape(kind)}">{escape(text)}</li>' for kind, text in lines]
    return f'<ul class="notes">{"".join(items)}</ul>' if items else ""


class Link(NamedTuple):
    """A cell of a table that leads somewhere."""

    text: str
    target: str


class Alarm(NamedTuple):
    """A cell of a table in the warning colour; a sign says it without colour."""

    text: str


def _cell(content: object) -> str:
    if isinstance(content, Link):
        return f'<a href="{escape(content.target)}">{escape(content.text)}</a>'
    if isinstance(content, Alarm):
        return f'<span class="alarm">\N{WARNING SIGN} {escape(content.text)}</span>'
    return escape(content)


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    caption: str = "",
    text_columns: Sequence[int] = (0,),
) -> str:
    """A table; the columns that are not among `text_columns` hold numbers.

    A cell is text, a `Link` or an `Alarm`.
    """
    kinds = ["text" if i in text_columns else "number" for i in range(len(header))]
    head = "".join(
        f'<th scope="col" class="{k}">{escape(h)}</th>'
        for h, k in zip(header, kinds, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="{k}">{_cell(c)}</td>' for c, k in zip(row, kinds, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll" tabindex="0"><table>{title}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def bars(
    header: Sequence[str],
    rows: Sequence[tuple[str, Sequence[float]]],
    *,
    low: float,
    high: float,
    alarm: float,
    said: str,
) -> str:
    """A table of shares, each a number with a bar.

    Args:
      header: of the first column and of each share's.
      rows: label and its shares.
      low: share at which a bar is empty.
      high: share at which it is full.
      alarm: share from which on a bar is a warning.
      said: stands beside such a number, so that colour is not alone in saying it.
    """

    def cell(share: float) -> str:
        width = 100 * min(max((share - low) / (high - low), 0.0), 1.0)
        warned = share >= alarm
        words = f" <strong>{escape(said)}</strong>" if warned else ""
        kind = "level warn" if warned else "level"
        return (
            f'<td class="text">{share:.3f}{words}<div class="{kind}" '
            f'aria-hidden="true"><span style="width:{width:.1f}%"></span></div></td>'
        )

    head = "".join(f'<th scope="col" class="text">{escape(h)}</th>' for h in header)
    body = "".join(
        f'<tr><th scope="row" class="text">{escape(label)}</th>'
        f"{''.join(map(cell, shares))}</tr>"
        for label, shares in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def picture(
    path: str | os.PathLike | None, alt: str, caption: str = "", *, narrow: bool = False
) -> str:
    """A PNG embedded in the page, with a text for those who cannot see it.

    Args:
      path: of the PNG; None for one that was not drawn, which is nothing.
      alt: what it shows, in words.
      caption: stands beneath.
      narrow: shows it no wider than text.
    """
    if path is None:
        return ""
    data = base64.b64encode(pathlib.Path(path).read_bytes()).decode("ascii")
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    kind = ' class="narrow"' if narrow else ""
    return (
        f'<figure{kind}><img alt="{escape(alt)}" src="data:image/png;base64,{data}">'
        f"{below}</figure>"
    )


def side_by_side(parts: Sequence[str]) -> str:
    """Parts in columns where there is room for them."""
    return f'<div class="columns">{"".join(parts)}</div>'


def details(summary: str, content: str) -> str:
    """HTML that a reader opens with a click."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def answer(
    label: str, value: str, *, interval: str, bar: tuple[float, float, float] | None
) -> str:
    """A large number with its interval.

    Args:
      label: what it is.
      value: the number as text.
      interval: the interval as text.
      bar: (low, value, high) within 0..1 to draw, or None.
    """
    drawn = ""
    if bar:
        low, at, high = (100 * min(max(share, 0.0), 1.0) for share in bar)
        drawn = (
            f'<div class="bar"><span class="range" style="left:{low:.2f}%;'
            f'width:{high - low:.2f}%"></span><span class="at" style="left:{at:.2f}%">'
            "</span></div>"
        )
    return (
        f'<div class="answer"><div class="label">{escape(label)}</div>'
        f'<div class="value">{escape(value)}</div>'
        f'<div class="interval">{escape(interval)}</div>{drawn}</div>'
    )
