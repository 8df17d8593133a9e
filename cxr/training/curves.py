"""Draws curves.png: loss, accuracy and learning rate over the epochs."""

import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cxr import schedules
from cxr.config import TrainConfig
from cxr.reporting import plotting

_CAPTION_WIDTH = 150  # characters below the three panels


def training_curves(
    rows: Sequence[Mapping[str, Any]],
    path: str | os.PathLike,
    *,
    config: TrainConfig | None = None,
) -> None:
    """Draws loss, accuracy and learning rate over the epochs of history.csv.

    Args:
      rows: one mapping an epoch with `stage`, `loss`, `accuracy`, `val_loss`,
        `val_accuracy`, `val_roc_auc`, `learning_rate`; None and missing values
        leave a gap.
      path: the PNG to publish.
      config: the run's flags, by which the best epoch is marked and the caption says
        why validation loss can lie below training loss; neither without them.
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
    if config and rows:
        best = schedules.best_row([*map(dict, rows)], config.best_metric)
        for axes in (loss, share):
            _mark_best(axes, best + 1)
        figure.supxlabel(
            textwrap.fill(caption(config), _CAPTION_WIDTH),
            x=0.01,
            horizontalalignment="left",
            fontsize=8.5,
            color=plotting.INK,
        )
    rates = [row["learning_rate"] for row in rows if row.get("learning_rate")]
    if rates and max(rates) > 9 * min(rates):
        rate.set_yscale("log")
    plotting.dress(loss, "Loss", "epoch")
    plotting.dress(share, "Accuracy and ROC AUC", "epoch")
    plotting.dress(rate, "Learning rate", "epoch")
    plotting.save(figure, path)


def caption(config: TrainConfig) -> str:
    """Returns why validation loss can lie below training loss, of what is switched on.

    Validation is measured after the epoch, on films as they are, by the plain loss.
    """
    reasons = ["is a mean over the epoch, while the weights still improve"]
    if config.augmentation != "none":
        reasons.append(f"is of augmented films (--augmentation={config.augmentation})")
    if config.dropout:
        reasons.append(f"drops features (--dropout={config.dropout:g})")
    if config.label_smoothing:
        reasons.append(
            "aims at smoothed labels, which keep it above zero "
            f"(--label_smoothing={config.label_smoothing:g})"
        )
    if config.debias:
        reasons.append(
            "is of the network and what brightness and sharpness tell together "
            f"(--debias={config.debias:g})"
        )
    if config.class_weights != "none":
        reasons.append(f"weights classes (--class_weights={config.class_weights})")
    return (
        f"Dotted: the best epoch by {config.best_metric}, whose weights are published. "
        "Validation loss can lie below training loss, which "
        f"{'; '.join(reasons)}. Validation has none of that."
    )


def _mark_best(axes: Axes, epoch: int) -> None:
    """Marks an epoch; its name goes into the legend, which finds a free place."""
    axes.axvline(
        epoch,
        color=plotting.INK,
        linewidth=1.2,
        linestyle=(0, (1, 1.5)),
        label=f"best: epoch {epoch}",
    )
    axes.legend(frameon=False, fontsize=10)


def _history_panel(
    axes: Axes, rows: Sequence[Mapping[str, Any]], series: Mapping[str, str]
) -> None:
    epochs = np.arange(1, len(rows) + 1)
    marker = "o" if len(rows) < 30 else None
    lines = ("--", "-", "-.") if len(series) > 1 else ("-",)
    for (column, label), color, line in zip(
        series.items(), plotting.CYCLE, lines, strict=False
    ):
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
                **plotting.STYLE,
            )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(series) > 1 and axes.lines:
        axes.legend(frameon=False, fontsize=10)


def _mark_stages(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    stages = [row.get("stage") for row in rows]
    for i in range(1, len(rows)):
        if stages[i] == stages[i - 1]:
            continue
        axes.axvline(i + 0.5, color=plotting.GREY, linewidth=1.2, linestyle=":")
        axes.annotate(
            f" {stages[i]}",
            (i + 0.5, 0.02),
            xycoords=("data", "axes fraction"),
            fontsize=9,
            color=plotting.INK,
        )


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """A history column as float64 [epochs], NaN where it has no number."""
    values = [row.get(name) for row in rows]
    return np.array([np.nan if v in (None, "") else float(v) for v in values])
