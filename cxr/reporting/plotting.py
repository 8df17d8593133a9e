"""The style of every plot: colours, axes, and how a figure becomes a PNG file.

Plots read well at 800 pixels. Colours are Okabe and Ito's (2008), which colour-blind
people can tell apart; nothing is said by colour alone. Figures are built without
pyplot, so that no global state is touched and any thread may draw. Names come from
folders that others made: they are shown as they are, never read as mathematics.
"""

import os
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator

from cxr import files

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, GREY, INK = "#CC79A7", "#56B4E9", "#8A8F98", "#22272E"
CYCLE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)
STYLE: dict[str, Any] = {"linewidth": 2.0, "solid_capstyle": "round"}
_DPI = 144
_NAME_LENGTH = 24  # characters; legends and axes have room for these


def dress(
    axes: Axes, title: str, xlabel: str | None = None, ylabel: str | None = None
) -> None:
    """Gives a panel the house look."""
    axes.set_title(title, fontsize=13, loc="left", fontweight="bold", color=INK)
    if xlabel:
        axes.set_xlabel(xlabel, fontsize=11)
    if ylabel:
        axes.set_ylabel(ylabel, fontsize=11)
    axes.tick_params(labelsize=10, colors=INK, length=3)
    axes.grid(color="#E3E6EA", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Publishes a figure as PNG; the same numbers give the same bytes."""
    FigureCanvasAgg(figure)
    _take_literally(figure)
    with files.publishing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})


def short_names(names: Sequence[str], length: int = _NAME_LENGTH) -> list[str]:
    """Names that fit a picture, as many different ones as were given.

    A long one loses its middle; where two would then look alike they are numbered.
    What the font lacks is written as its code, so that two names stay apart.

    Args:
      names: each another.
      length: characters that there is room for, at least 8.
    """
    shown = [shorten(name, length) for name in names]
    return [
        f"{short} #{index + 1}" if shown.count(short) > 1 else short
        for index, short in enumerate(shown)
    ]


def shorten(name: str, length: int = _NAME_LENGTH) -> str:
    """One name as `short_names` writes it; two may come out alike."""
    name = _spell_out(name)
    if len(name) > length:
        tail = length // 3
        name = f"{name[: length - tail - 1]}\N{HORIZONTAL ELLIPSIS}{name[-tail:]}"
    # Matplotlib leaves out of a legend what begins with an underscore.
    return f" {name}" if name.startswith("_") else name


def _spell_out(text: str, font: FontProperties | None = None) -> str:
    """Writes characters that the font cannot draw as their codes, `U+75C5`.

    Fonts of the system would make the picture depend on the machine, and the empty
    box that stands for a missing glyph makes any two such names alike.
    """
    known = get_font(findfont(font or FontProperties()))
    return "".join(
        c if c == "\n" or known.get_char_index(ord(c)) else f"U+{ord(c):04X}"
        for c in text
    )


def _take_literally(figure: Figure) -> None:
    """Switches mathematics off in every text but the ticks of numeric axes."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_text(_spell_out(text.get_text(), text.get_fontproperties()))
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            # Asking for the labels makes them; powers of ten are mathematics.
            labels = axis.get_ticklabels(which="both")
            named = isinstance(axis.get_major_locator(), FixedLocator)
            for label in labels:
                label.set_parse_math(not named)
            names = [label.get_text() for label in labels]
            spelled = [_spell_out(name) for name in names]
            # Panels that share an axis share its names; the upper ones show none.
            if named and spelled != names:
                axis.set_ticklabels(spelled)
