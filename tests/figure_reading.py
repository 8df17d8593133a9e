"""Reads a drawn figure back: its words, its lines, its bars."""

import pathlib
import re
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator

from cxr.reporting import plotting


def watch(monkeypatch) -> dict[str, Figure]:
    """Returns a dictionary that fills with what is saved from now on, by file stem."""
    seen, save = {}, plotting.save
    monkeypatch.setattr(plotting, "_DPI", 40)  # what is read has no pixels

    def saved(figure, path):
        save(figure, path)
        seen[pathlib.Path(path).stem] = figure

    monkeypatch.setattr(plotting, "save", saved)
    return seen


def words(figure: Figure) -> list[str]:
    """Every text that is seen, but for the ticks that a numeric axis sets itself."""
    FigureCanvasAgg(figure).draw()
    automatic = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            automatic.add(id(axis.get_offset_text()))
            if not isinstance(axis.get_major_locator(), FixedLocator):
                automatic |= set(map(id, axis.get_ticklabels(which="both")))
    return [
        text.get_text()
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text() and id(text) not in automatic
    ]


def numbered(figure: Figure) -> list[str]:
    """The texts that hold a number, sorted: each must be explained. F1 is none."""
    return sorted(text for text in words(figure) if re.search(r"(?<!\bF)\d", text))


def line(axes: Axes, label: str) -> np.ndarray:
    """Points of the line that a legend names, float [n, 2]."""
    (found,) = [one for one in axes.lines if one.get_label() == label]
    return np.asarray(found.get_xydata())


def ticks(axis) -> dict[str, float]:
    """Label -> place, of an axis that names its ticks."""
    places = axis.get_major_locator()()
    labels = [label.get_text() for label in axis.get_ticklabels()]
    return dict(zip(labels, places, strict=True))


def segments(axes: Axes) -> list[np.ndarray]:
    """Error bars of every container, float [n, 2, 2] each."""
    return [
        np.array(bars.get_segments())
        for container in axes.containers
        if (errors := getattr(container, "lines", None))
        for bars in errors[2]
    ]


def legend(axes: Axes) -> Sequence[str]:
    """The texts of a panel's legend."""
    return [text.get_text() for text in axes.get_legend().get_texts()]
