"""Curves of an evaluation: ROC, precision-recall, calibration, predictive values."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cxr.reporting import plotting

_LINES = ("-", "--", "-.", ":")


def roc(
    curves: Mapping[str, Mapping[str, np.ndarray]],
    path: str | os.PathLike,
    *,
    points: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Draws ROC curves, whole and enlarged at the corner that matters.

    Args:
      curves: legend text -> `metrics.ranking_curves(...)`.
      path: the PNG to publish.
      points: legend text -> (specificity, sensitivity) of operating points.
    """
    figure = Figure(figsize=(10, 5.2), layout="constrained")
    whole, corner = figure.subplots(1, 2)
    for axes in (whole, corner):
        for (label, curve), color, line in _styles(curves):
            axes.plot(
                curve["false_positive_rate"],
                curve["recall"],
                color=color,
                linestyle=line,
                label=label,
                **plotting.STYLE,
            )
        for (label, point), marker in zip(
            (points or {}).items(), "osD^v", strict=False
        ):
            axes.plot(
                1 - point[0],
                point[1],
                marker,
                color=plotting.INK,
                markersize=8,
                markerfacecolor="white",
                markeredgewidth=1.8,
                label=label,
                linestyle="none",
                clip_on=axes is corner,
                zorder=5,
            )
        axes.plot([0, 1], [0, 1], color=plotting.GREY, linewidth=1, linestyle=":")
    whole.set(xlim=(-0.01, 1), ylim=(0, 1.01), aspect="equal")
    corner.set(xlim=(-0.003, 0.3), ylim=(0.7, 1.003), aspect="equal")
    plotting.dress(whole, "ROC curve", "1 - specificity", "sensitivity")
    plotting.dress(corner, "the upper left corner", "1 - specificity", "sensitivity")
    whole.legend(frameon=False, fontsize=10, loc="lower right")
    plotting.save(figure, path)


def precision_recall(
    curves: Mapping[str, Mapping[str, np.ndarray]],
    path: str | os.PathLike,
    *,
    base_rates: Mapping[str, float],
) -> None:
    """Draws precision-recall curves with each class' base rate as a dotted line.

    Args:
      curves: legend text -> `metrics.ranking_curves(...)`.
      path: the PNG to publish.
      base_rates: the same legend texts -> share of that class.
    """
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    axes = figure.subplots()
    for (label, curve), color, line in _styles(curves):
        axes.step(
            curve["recall"],
            curve["precision"],
            where="pre",
            color=color,
            linestyle=line,
            label=label,
            **plotting.STYLE,
        )
        axes.axhline(base_rates[label], color=color, linewidth=1, linestyle=":")
    axes.set(xlim=(0, 1.005), ylim=(0, 1.01))
    plotting.dress(axes, "Precision-recall curve", "recall (sensitivity)", "precision")
    axes.legend(frameon=False, fontsize=10, loc="lower left")
    axes.annotate(
        "dotted: share of the class among the films",
        (0.99, 0.02),
        xycoords="axes fraction",
        ha="right",
        fontsize=9,
        color=plotting.INK,
    )
    plotting.save(figure, path)


def calibration(
    panels: Mapping[str, Sequence[Mapping[str, Any]]], path: str | os.PathLike
) -> None:
    """Draws observed shares against predicted probabilities, with intervals.

    Args:
      panels: legend text -> rows with `predicted`, `observed`, `ci95`, `n`.
      path: the PNG to publish.
    """
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=plotting.GREY, linewidth=1.2, linestyle=":")
    for ((label, rows), color, line), marker in zip(
        _styles(panels), "os^Dv<", strict=False
    ):
        predicted = np.array([row["predicted"] for row in rows])
        observed = np.array([row["observed"] for row in rows])
        bounds = np.array([row["ci95"] or [row["observed"]] * 2 for row in rows])
        axes.errorbar(
            predicted,
            observed,
            yerr=np.abs(bounds - observed[:, None]).T,
            color=color,
            linestyle=line,
            marker=marker,
            markersize=6,
            capsize=3,
            linewidth=1.6,
            elinewidth=1,
            label=label,
        )
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    plotting.dress(axes, "Calibration", "predicted probability", "observed share")
    axes.legend(frameon=False, fontsize=10, loc="upper left")
    plotting.save(figure, path)


def predictive_values(
    points: Mapping[str, tuple[float, float]], path: str | os.PathLike
) -> None:
    """Draws PPV and NPV against the prevalence of the population it is used in.

    Args:
      points: operating point -> (specificity, sensitivity).
      path: the PNG to publish.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    prevalence = np.geomspace(0.005, 0.8, 200)
    panels = figure.subplots(1, 2, sharex=True)
    for (label, (specificity, sensitivity)), color, line in _styles(points):
        hits = sensitivity * prevalence
        alarms = (1 - specificity) * (1 - prevalence)
        cleared = specificity * (1 - prevalence)
        misses = (1 - sensitivity) * prevalence
        style = dict(color=color, linestyle=line, label=label, **plotting.STYLE)
        with np.errstate(invalid="ignore"):
            panels[0].plot(prevalence, hits / (hits + alarms), **style)
            panels[1].plot(prevalence, cleared / (cleared + misses), **style)
    for axes, title in zip(
        panels, ("a positive is right (PPV)", "a negative is right (NPV)"), strict=True
    ):
        axes.set_xscale("log")
        ticks = [0.01, 0.03, 0.1, 0.3, 0.7]
        axes.set_xticks(ticks, [f"{t:.0%}" for t in ticks])
        axes.minorticks_off()
        axes.set_ylim(top=1.01)
        plotting.dress(
            axes, f"How often {title}", "prevalence where it is used", "share"
        )
    panels[0].legend(frameon=False, fontsize=10)
    plotting.save(figure, path)


def _styles(series: Mapping[str, Any]) -> list:
    """((label, content), colour, line style) for each, told apart without colour."""
    return [
        (item, plotting.CYCLE[i % len(plotting.CYCLE)], _LINES[i % len(_LINES)])
        for i, item in enumerate(series.items())
    ]
