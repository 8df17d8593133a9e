"""The pictures of a run and of its evaluation: matplotlib only, PNG files.

Every function takes plain arrays and a path, and publishes one PNG that reads well
at 800 pixels. Colours are Okabe and Ito's (2008), which colour-blind people can tell
apart; nothing is said by colour alone. Figures are built without pyplot, so that no
global state is touched and any thread may draw.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cxr import files

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, GREY, INK = "#CC79A7", "#56B4E9", "#8A8F98", "#22272E"
CYCLE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)
STYLE = {"linewidth": 2.0, "solid_capstyle": "round"}
_DPI = 144
_LOGIT_EDGE = 9.0  # probabilities beyond 1e-4 of 0 or 1 share the outer bars


def training_curves(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> None:
    """Draws loss, accuracy and learning rate over the epochs of history.csv.

    Args:
      rows: one mapping an epoch with `stage`, `loss`, `accuracy`, `val_loss`,
        `val_accuracy`, `val_roc_auc`, `learning_rate`; None and missing values
        leave a gap.
      path: the PNG to publish.
    """
    figure = Figure(figsize=(10, 4.1), layout="constrained")
    loss, share, rate = figure.subplots(1, 3, width_ratios=(3, 3, 2))
    _history_panel(loss, rows, {"loss": "training", "val_loss": "validation"})
    names = {"accuracy": "training", "val_accuracy": "validation"}
    _history_panel(share, rows, {**names, "val_roc_auc": "validation ROC AUC"})
    _history_panel(rate, rows, {"learning_rate": ""})
    _mark_stages(loss, rows)
    _mark_stages(share, rows)
    share.set_ylim(top=1.005)
    rates = [row["learning_rate"] for row in rows if row.get("learning_rate")]
    if rates and max(rates) > 9 * min(rates):
        rate.set_yscale("log")
    dress(loss, "Loss", "epoch")
    dress(share, "Accuracy and ROC AUC", "epoch")
    dress(rate, "Learning rate", "epoch")
    save(figure, path)


def _history_panel(
    axes: Axes, rows: Sequence[Mapping[str, Any]], series: Mapping[str, str]
) -> None:
    epochs = np.arange(1, len(rows) + 1)
    marker = "o" if len(rows) < 30 else None
    lines = ("--", "-", "-.") if len(series) > 1 else ("-",)
    for (column, label), color, line in zip(series.items(), CYCLE, lines, strict=False):
        values = _column(rows, column)
        if np.isfinite(values).any():
            axes.plot(
                epochs,
                values,
                color=color,
                linestyle=line,
                label=label,
                marker=marker,
                markersize=4,
                **STYLE,
            )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(series) > 1 and axes.lines:
        axes.legend(frameon=False, fontsize=10)


def _mark_stages(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    stages = [row.get("stage") for row in rows]
    for i in range(1, len(rows)):
        if stages[i] == stages[i - 1]:
            continue
        axes.axvline(i + 0.5, color=GREY, linewidth=1.2, linestyle=":")
        axes.annotate(
            f" {stages[i]}",
            (i + 0.5, 0.02),
            xycoords=("data", "axes fraction"),
            fontsize=9,
            color=INK,
        )


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """A history column as float64 [epochs], NaN where it has no number."""
    values = [row.get(name) for row in rows]
    return np.array([np.nan if v in (None, "") else float(v) for v in values])


def confusion_matrix(
    table: np.ndarray, class_names: Sequence[str], path: str | os.PathLike
) -> None:
    """Draws counts and the share of each true class.

    Args:
      table: int [C, C], rows the truth, columns the prediction.
      class_names: the C names.
      path: the PNG to publish.
    """
    table = np.asarray(table)
    shares = table / np.maximum(1, table.sum(axis=1, keepdims=True))
    size = 3.2 + 1.1 * len(class_names)
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(table):
        axes.text(
            column,
            row,
            f"{count:,}\n{shares[row, column]:.1%}",
            ha="center",
            va="center",
            fontsize=14 if len(class_names) < 5 else 10,
            color="white" if shares[row, column] > 0.55 else INK,
        )
    places = np.arange(len(class_names))
    axes.set_xticks(places, class_names)
    axes.set_yticks(places, class_names, rotation=90, va="center")
    dress(axes, "Confusion matrix", "predicted", "truth")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    save(figure, path)


def score_histograms(
    panels: Mapping[str, Mapping[str, np.ndarray]],
    path: str | os.PathLike,
    *,
    threshold: float | None,
    xlabel: str,
) -> None:
    """Draws how scores spread within each class, one panel a split.

    Args:
      panels: split -> class -> float [n] probabilities of one class.
      path: the PNG to publish.
      threshold: the decision threshold, marked in each panel.
      xlabel: whose probability it is.
    """
    figure = Figure(figsize=(10, 1.1 + 2.2 * len(panels)), layout="constrained")
    edges = np.linspace(-_LOGIT_EDGE, _LOGIT_EDGE, 49)
    for axes, (title, classes) in zip(
        figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0],
        panels.items(),
        strict=True,
    ):
        for (label, scores), color, hatch in zip(
            classes.items(), CYCLE, ("", "///", "..."), strict=False
        ):
            axes.hist(
                _logits(scores),
                edges,
                weights=np.full(len(scores), 1 / max(1, len(scores))),
                color=color,
                alpha=0.45,
                hatch=hatch,
                edgecolor=color,
                histtype="stepfilled",
                linewidth=1.4,
                label=f"{label} ({len(scores):,})",
            )
        if threshold is not None:
            axes.axvline(_logits(np.array([threshold]))[0], color=INK, linestyle="--")
        dress(axes, title, None, "share of the class")
        axes.legend(
            frameon=False, fontsize=10, loc="center left", bbox_to_anchor=(1, 0.5)
        )
    ticks = np.array([0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999])
    axes.set_xticks(_logits(ticks), [f"{tick:g}" for tick in ticks])
    axes.set_xlabel(xlabel + " (logit scale; dashed: threshold)", fontsize=11)
    save(figure, path)


def _logits(scores: np.ndarray) -> np.ndarray:
    clipped = np.clip(scores, 1e-9, 1 - 1e-9)
    return np.clip(
        np.log(clipped / (1 - clipped)), -_LOGIT_EDGE + 1e-6, _LOGIT_EDGE - 1e-6
    )


def forest(
    groups: Mapping[str, Sequence[Mapping[str, Any]]],
    path: str | os.PathLike,
    *,
    title: str,
    reference: float | None,
) -> None:
    """Draws values with intervals, a line each, under headings.

    Args:
      groups: heading -> rows with `label`, `value` (None leaves a gap), `ci95`.
      path: the PNG to publish.
      title: what the values are.
      reference: a dashed vertical line, such as the value of the whole split.
    """
    lines = []
    for heading, rows in groups.items():
        lines.append((heading, None))
        lines += [(row["label"], row) for row in rows]
    figure = Figure(figsize=(8, 1.2 + 0.32 * len(lines)), layout="constrained")
    axes = figure.subplots()
    for y, (_, row) in enumerate(lines):
        if row is None or row["value"] is None:
            continue
        low, high = row["ci95"] or [row["value"]] * 2
        axes.plot([low, high], [y, y], color=BLUE, linewidth=2.2)
        axes.plot(row["value"], y, "o", color=BLUE, markersize=6.5)
    if reference is not None:
        axes.axvline(reference, color=INK, linestyle="--", linewidth=1.2)
    axes.set_yticks(range(len(lines)), [text for text, _ in lines])
    axes.set_ylim(len(lines) - 0.4, -0.7)
    dress(axes, title)
    for tick, (_, row) in zip(axes.get_yticklabels(), lines, strict=True):
        tick.set_fontweight("bold" if row is None else "normal")
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    save(figure, path)


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
