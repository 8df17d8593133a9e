"""Self-contained HTML: one file, no scripts, no outside address, prints well.

The building blocks escape what they are given; what they return is HTML. Light and
dark follow the reader's system, and wide tables scroll inside their own box, so that
a phone shows the page without sideways scrolling.
"""

import base64
import html
import os
import pathlib
from collections.abc import Sequence

DASH = "\N{EN DASH}"  # stands for what is undefined


def escape(text: object) -> str:
    """Text made safe inside HTML."""
    return html.escape(str(text))


def page(title: str, body: Sequence[str]) -> str:
    """A whole document from a title and HTML parts."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE}</style></head><body><main>",
            *body,
            "</main></body></html>\n",
        ]
    )


def section(title: str, parts: Sequence[str], *, anchor: str) -> str:
    """A titled section that links can point to."""
    return (
        f'<section id="{escape(anchor)}"><h2>{escape(title)}</h2>'
        + "\n".join(parts)
        + "</section>"
    )


def paragraph(text: str, *, kind: str = "") -> str:
    """A paragraph; `kind` is a class of the style sheet such as `quiet`."""
    return f'<p class="{escape(kind)}">{escape(text)}</p>'


def notes(lines: Sequence[tuple[str, str]]) -> str:
    """A list of (kind, text); kind `warn` or `plain` sets the mark before it."""
    items = [f'<li class="{escape(kind)}">{escape(text)}</li>' for kind, text in lines]
    return f'<ul class="notes">{"".join(items)}</ul>' if items else ""


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    caption: str = "",
    text_columns: Sequence[int] = (0,),
) -> str:
    """A table; the columns that are not among `text_columns` hold numbers."""
    kinds = ["text" if i in text_columns else "number" for i in range(len(header))]
    head = "".join(
        f'<th scope="col" class="{k}">{escape(h)}</th>'
        for h, k in zip(header, kinds, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="{k}">{escape(c)}</td>' for c, k in zip(row, kinds, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll" tabindex="0"><table>{title}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def picture(
    path: str | os.PathLike, *, alt: str, caption: str = "", narrow: bool = False
) -> str:
    """A PNG embedded in the page, with a text for those who cannot see it."""
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


def number(value: float | None, digits: int = 3) -> str:
    """A number for people; a dash where it is undefined."""
    return DASH if value is None else f"{value:.{digits}f}"


def probability(value: float | None) -> str:
    """Three decimals, more where the value would look like 0 or 1 and is not."""
    if value is None or 0.0005 <= value < 0.9995 or value in (0.0, 1.0):
        return number(value)
    return f"{value:.1e}" if value < 0.5 else f"1 - {1 - value:.1e}"


def percent(value: float | None) -> str:
    """A share in per cent with one decimal; a dash where it is undefined."""
    return DASH if value is None else f"{100 * value:.1f} %"


def interval(bounds: Sequence[float] | None, digits: int = 3) -> str:
    """`0.941 to 0.972`, or a dash."""
    if not bounds:
        return DASH
    return f"{number(bounds[0], digits)} to {number(bounds[1], digits)}"


def with_interval(entry: dict, digits: int = 3) -> str:
    """`0.958`, its interval on a second line, of a {"value", "ci95"} entry."""
    if entry["value"] is None:
        return DASH
    text = number(entry["value"], digits)
    return f"{text}\n{interval(entry['ci95'], digits)}" if entry["ci95"] else text


_STYLE = """
:root { --ink:#1b2430; --soft:#5a6675; --line:#dfe4ea; --paper:#fff; --card:#f5f7f9;
  --accent:#0072b2; --warn:#b84a00; --warn-paper:#fff3ea; }
@media (prefers-color-scheme: dark) { :root { --ink:#e6eaf0; --soft:#9aa7b6;
  --line:#323b47; --paper:#12171e; --card:#1b222b; --accent:#56b4e9; --warn:#f0a35e;
  --warn-paper:#2b2119; } }
* { box-sizing:border-box; }
body { margin:0; background:var(--paper); color:var(--ink);
  font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,sans-serif; }
main { max-width:1040px; margin:0 auto; padding:28px 20px 60px; }
.eyebrow { color:var(--soft); font-size:.85rem; letter-spacing:.02em; margin:0; }
h1 { font-size:clamp(1.5rem,4.5vw,2.3rem); line-height:1.15; margin:.15em 0 .35em;
  letter-spacing:-.015em; text-wrap:balance; }
h2 { font-size:1.35rem; margin:0 0 .5em; letter-spacing:-.01em; }
h3 { font-size:1rem; margin:1.4em 0 .4em; }
p { margin:.4em 0 .8em; max-width:46em; }
.lead { font-size:1.05rem; }
.quiet { color:var(--soft); font-size:.9rem; }
.answers { display:grid; grid-template-columns:repeat(4,1fr); gap:12px; margin:18px 0; }
.answer { background:var(--card); border:1px solid var(--line); border-radius:12px;
  padding:14px 16px 16px; }
.answer .label { font-size:.85rem; color:var(--soft); }
.answer .value { font-size:2.1rem; font-weight:650; line-height:1.2;
  font-variant-numeric:tabular-nums; letter-spacing:-.02em; }
.answer .interval { font-size:.82rem; color:var(--soft);
  font-variant-numeric:tabular-nums; }
.bar { position:relative; height:6px; border-radius:3px; background:var(--line);
  margin-top:12px; }
.bar .range { position:absolute; top:0; height:6px; min-width:3px; border-radius:3px;
  background:var(--accent); opacity:.5; }
.bar .at { position:absolute; top:-4px; width:4px; height:14px; margin-left:-2px;
  border-radius:2px; background:var(--accent); }
.notes { list-style:none; padding:0; margin:14px 0; }
.notes li { padding:7px 12px 7px 14px; margin:6px 0; border-left:4px solid var(--line);
  background:var(--card); border-radius:0 8px 8px 0; font-size:.95rem; }
.notes li.warn { border-color:var(--warn); background:var(--warn-paper); }
nav { display:flex; flex-wrap:wrap; gap:4px 16px; margin:18px 0 0; font-size:.9rem; }
a { color:var(--accent); }
section { border-top:1px solid var(--line); margin-top:34px; padding-top:26px; }
figure { margin:14px 0; background:#fff; border:1px solid var(--line);
  border-radius:12px; padding:12px; break-inside:avoid; }
figure.narrow { max-width:640px; margin-left:auto; margin-right:auto; }
img { display:block; max-width:100%; height:auto; margin:0 auto; }
figcaption { color:#4a5563; font-size:.85rem; margin-top:8px; }
.columns { display:grid; gap:0 16px;
  grid-template-columns:repeat(auto-fit,minmax(min(100%,380px),1fr));
  align-items:start; }
.scroll { overflow-x:auto; margin:10px 0 16px; }
table { border-collapse:collapse; font-size:.88rem; width:100%; }
caption { text-align:left; color:var(--soft); padding-bottom:4px; }
th,td { padding:6px 10px; border-bottom:1px solid var(--line); vertical-align:top; }
th { font-weight:600; color:var(--soft); border-bottom-width:2px; }
.text { text-align:left; min-width:6em; overflow-wrap:break-word; }
.number { text-align:right; font-variant-numeric:tabular-nums; white-space:pre;
  color:var(--soft); font-size:.8rem; }
td.number::first-line { color:var(--ink); font-size:.92rem; }
td.long { overflow-wrap:anywhere; color:var(--ink); }
pre { background:var(--card); border:1px solid var(--line); border-radius:8px;
  padding:12px; overflow-x:auto; font-size:.82rem; white-space:pre-wrap;
  overflow-wrap:anywhere; }
details summary { cursor:pointer; color:var(--accent); }
footer { border-top:1px solid var(--line); margin-top:34px; padding-top:16px;
  color:var(--soft); font-size:.88rem; }
@media (max-width:760px) { .answers { grid-template-columns:repeat(2,1fr); }
  main { padding:18px 14px 40px; } .answer .value { font-size:1.6rem; }
  figure { padding:6px; } }
@media print { :root { --ink:#000; --soft:#444; --paper:#fff; --card:#fff;
  --line:#bbb; --accent:#0072b2; --warn:#b84a00; --warn-paper:#fff; }
  body { font-size:11pt; } nav { display:none; } section { break-inside:auto; }
  h2 { break-after:avoid; } .scroll { overflow:visible; } main { max-width:none; } }
"""
