"""Draws how films came into a set and its splits: boxes, said again in words."""

from collections.abc import Mapping
from typing import Any

from cxr import reasons
from cxr.reporting import html
from cxr.reporting.formatting import counted

_ARROW = '<div class="arrow" aria-hidden="true">\N{DOWNWARDS ARROW}</div>'


def figure(flow: Mapping[str, Any], judged: Mapping[str, Any] | None = None) -> str:
    """A flow diagram, as tall on a phone as it needs to be.

    Args:
      flow: the content of `set_flow.Flow`.
      judged: {"split", "films", "patients"} of an evaluation, or None.
    """
    steps = []
    if flow["read"] is not None:
        steps.append(
            f'<div class="fork">{_box(counted(flow["read"], "file"), "read")}'
            f"{_kept_out(flow['kept_out'])}</div>"
        )
    steps += [_box(_films(flow), _copies(flow)), _splits(flow, judged)]
    if judged:
        films = counted(judged["films"], "film")
        of = f"of {counted(judged['patients'], 'patient')}, split {judged['split']}"
        steps.append(_box(f"{films} evaluated", of, kind="judged"))
    words = html.escape(in_words(flow, judged))
    return (
        f'<figure class="flow"><div role="img" aria-label="{words}">'
        f"{_ARROW.join(steps)}</div>"
        f"<figcaption>{html.escape(_caption(flow))}</figcaption></figure>"
    )


def _caption(flow: Mapping[str, Any]) -> str:
    """Where the numbers come from, and what they leave out."""
    parts = ["Counted in manifest.json, examples.csv and quarantine.csv of the set."]
    if flow["without_patient"]:
        parts.append(
            f"Of {counted(flow['without_patient'], 'film')} the patient is not known; "
            "each counts as a patient."
        )
    if flow["table_rows"]:
        rows = counted(flow["table_rows"], "row")
        parts.append(f"{rows} of the table of labels named no film, or one again.")
    if flow["exclude"]:
        parts.append(f"Not counted: files like {', '.join(flow['exclude'])}.")
    return " ".join(parts)


def in_words(flow: Mapping[str, Any], judged: Mapping[str, Any] | None = None) -> str:
    """The same as one text, for those who cannot see the boxes."""
    parts = ["What was kept out of the set is no longer known."]
    if flow["read"] is not None:
        out = sum(flow["kept_out"].values())
        why = ", ".join(f"{n:,} {_meaning(r)}" for r, n in flow["kept_out"].items())
        why = f" ({why})" if why else ""
        parts = [f"{counted(flow['read'], 'file')} read, {out:,} kept out{why}."]
    sides = [
        f"{name} {counted(s['films'], 'film')} of {counted(s['patients'], 'patient')}"
        for name, s in flow["splits"].items()
    ]
    if flow["apart"]:
        sides.append(f"{counted(flow['apart'], 'film')} in none of these")
    parts.append(f"In the set: {_films(flow)}; {_copies(flow)}. {'; '.join(sides)}.")
    if judged:
        parts.append(
            f"Evaluated here: {counted(judged['films'], 'film')} of "
            f"{counted(judged['patients'], 'patient')}, split {judged['split']}."
        )
    return " ".join(parts)


def _kept_out(kept_out: Mapping[str, int]) -> str:
    rows = [f"{n:,} {_meaning(reason)}" for reason, n in kept_out.items()]
    items = "".join(f"<li>{html.escape(row)}</li>" for row in rows)
    listed = f"<ul>{items}</ul>" if items else ""
    total = sum(kept_out.values())
    return f'<div class="box aside"><strong>{total:,} kept out</strong>{listed}</div>'


def _splits(flow: Mapping[str, Any], judged: Mapping[str, Any] | None) -> str:
    boxes = [
        _box(
            f"{name}: {counted(side['films'], 'film')}",
            f"of {counted(side['patients'], 'patient')}",
            kind="judged" if judged and judged["split"] == name else "",
        )
        for name, side in flow["splits"].items()
    ]
    if flow["apart"]:
        boxes.append(_box(counted(flow["apart"], "film"), "in none of these", "aside"))
    return f'<div class="sides">{"".join(boxes)}</div>'


def _box(title: str, text: str, kind: str = "") -> str:
    return (
        f'<div class="{f"box {kind}".strip()}"><strong>{html.escape(title)}</strong>'
        f"<span>{html.escape(text)}</span></div>"
    )


def _films(flow: Mapping[str, Any]) -> str:
    return (
        f"{counted(flow['films'], 'film')} of {counted(flow['patients'], 'patient')} "
        "in the set"
    )


def _copies(flow: Mapping[str, Any]) -> str:
    if not flow["copies"]:
        return "no two byte-identical"
    return (
        f"{counted(flow['copies'], 'film')} of them byte-identical to one of "
        f"{flow['copied']:,} others, on its side"
    )


def _meaning(reason: str) -> str:
    """A reason code and what it means; a code of another version stands alone."""
    known = reasons.MEANINGS.get(reason)
    return f"{reason}: {known}" if known else reason
