"""Pictures made of films: what the model said, where it erred, where it looked."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from cxr.reporting import plotting

_COLUMNS = 6
# Against (blue) to for (vermilion), clear in the middle.
_SIGNED = LinearSegmentedColormap.from_list(
    "signed", [plotting.BLUE, "#9ecae8", "#ffffff", "#f3b08a", plotting.RED]
)


@dataclass(frozen=True)
class Film:
    """One film with what is said about it.

    Attributes:
      image: uint8 [S, S].
      caption: one or two short lines below it.
      right: whether the model was right; its frame tells.
      heat: float [S, S], positive where it speaks for the class, or None.
    """

    image: np.ndarray
    caption: str
    right: bool
    heat: np.ndarray | None = None


def grid(
    sections: Mapping[str, Sequence[Film]],
    path: str | os.PathLike,
    *,
    with_plain: bool = False,
) -> None:
    """Draws films under headings, six a row.

    Args:
      sections: heading -> films; empty sections are left out.
      path: the PNG to publish.
      with_plain: put each film without its heat to the left of the one with it.
    """
    blocks = [
        (heading if start == 0 else None, films[start : start + step])
        for heading, films in sections.items()
        for step in [_COLUMNS // 2 if with_plain else _COLUMNS]
        for start in range(0, len(films), step)
    ]
    heights = [2.1 + (0.35 if heading else 0.0) for heading, _ in blocks]
    figure = Figure(figsize=(10, max(1.0, sum(heights))), layout="constrained")
    parts = figure.subfigures(max(1, len(blocks)), 1, height_ratios=heights or [1])
    for part, (heading, films) in zip(np.atleast_1d(parts), blocks, strict=False):
        if heading:
            part.suptitle(heading, x=0.01, ha="left", fontsize=13, fontweight="bold")
        row = part.subplots(1, _COLUMNS)
        for axes in row:
            axes.set_axis_off()
        if with_plain:
            for pair, film in zip(row.reshape(-1, 2), films, strict=False):
                _show(pair[0], film, with_heat=False)
                _show(pair[1], film, with_heat=True)
        else:
            for axes, film in zip(row, films, strict=False):
                _show(axes, film, with_heat=True)
    plotting.save(figure, path)


def _show(axes: Axes, film: Film, *, with_heat: bool) -> None:
    axes.set_axis_on()
    axes.set_xticks([])
    axes.set_yticks([])
    axes.imshow(film.image, cmap="gray", vmin=0, vmax=255)
    if film.heat is not None and with_heat:
        strongest = max(float(np.abs(film.heat).max()), 1e-12)
        share = film.heat / strongest
        axes.imshow(share, cmap=_SIGNED, vmin=-1, vmax=1, alpha=0.65 * np.abs(share))
        axes.set_xlabel("for (orange), against (blue)", fontsize=8.5)
    else:
        axes.set_xlabel(film.caption, fontsize=8.5)
    for spine in axes.spines.values():
        spine.set(
            color=plotting.GREEN if film.right else plotting.RED,
            linewidth=2.5,
            linestyle="-" if film.right else "--",
        )
