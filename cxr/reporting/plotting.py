"""The style of every plot: colours, axes, and how a figure becomes a PNG file.

Plots read well at 800 pixels. Colours are Okabe and Ito's (2008), which colour-blind
people can tell apart; nothing is said by colour alone. Figures are built without
pyplot, so that no global state is touched and any thread may draw.
"""

import os
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cxr import files

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, GREY, INK = "#CC79A7", "#56B4E9", "#8A8F98", "#22272E"
CYCLE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)
STYLE: dict[str, Any] = {"linewidth": 2.0, "solid_capstyle": "round"}
_DPI = 144


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
    with files.publishing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})
