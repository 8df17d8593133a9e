"""Draws ROC, precision-recall, calibration, confusion matrix and histograms.

Every function takes plain arrays and a path, and publishes one PNG.
"""

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import special

from cxr.metrics import operating_points
from cxr.reporting import plotting

_LINES = ("-", "--", "-.", ":")
_MARKERS = "os^Dv<P"
_CORNER = 0.3  # of the ROC's sides, enlarged
_LOGIT_EDGE = 9.0  # probabilities beyond 1e-4 of 0 or 1 share the outer bars


def roc(
    curves: Mapping[str, Mapping[str, np.ndarray]],
    path: str | os.PathLike,
    *,
    points: Mapping[str, tuple[float, float]] | None = None,
    bands: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> None:
    """Draws ROC curves, and enlarged the corner that matters where a point lies in it.

    Args:
      curves: legend text -> `metrics.ranking_curves(...)`.
      path: the PNG to publish.
      points: legend text -> (specificity, sensitivity) of operating points.
      bands: legend text -> `false_positive_rate`, `low` and `high` of an interval.
    """
    enlarged = any(
        1 - specificity <= _CORNER and sensitivity >= 1 - _CORNER
        for specificity, sensitivity in (points or {}).values()
    )
    figure = Figure(figsize=(10 if enlarged else 6, 5.4), layout="constrained")
    panels = figure.subplots(1, 1 + enlarged, squeeze=False)[0]
    whole, corner = panels[0], panels[1] if enlarged else None
    for axes in panels:
        _roc_panel(axes, curves, points or {}, bands or {}, clipped=axes is corner)
    whole.set(xlim=(-0.01, 1), ylim=(0, 1.01), aspect="equal")
    plotting.dress(whole, "ROC curve", "1 - specificity", "sensitivity")
    if corner:
        corner.set(xlim=(-0.003, _CORNER), ylim=(1 - _CORNER, 1.003), aspect="equal")
        title = "the upper left corner"
        plotting.dress(corner, title, "1 - specificity", "sensitivity")
    whole.legend(frameon=False, fontsize=10, loc="lower right")
    plotting.save(figure, path)


def _roc_panel(
    axes: Axes,
    curves: Mapping[str, Mapping[str, np.ndarray]],
    points: Mapping[str, tuple[float, float]],
    bands: Mapping[str, Mapping[str, np.ndarray]],
    *,
    clipped: bool,
) -> None:
    for (label, curve), color, line in _styles(curves):
        if band := bands.get(label):
            axes.fill_between(
                band["false_positive_rate"],
                band["low"],
                band["high"],
                color=color,
                alpha=0.15,
                linewidth=0,
                label="95 % of patient resamples",
            )
        axes.plot(
            curve["false_positive_rate"],
            curve["recall"],
            color=color,
            linestyle=line,
            label=label,
            **plotting.STYLE,
        )
    for (label, point), marker in zip(points.items(), itertools.cycle(_MARKERS)):
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
            clip_on=clipped,
            zorder=5,
        )
    axes.plot([0, 1], [0, 1], color=plotting.GREY, linewidth=1, linestyle=":")


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
    axes.legend(
        frameon=False,
        fontsize=10,
        loc="lower left",
        title="dotted: share of the class among the films",
        title_fontsize=9,
        alignment="left",
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
        _styles(panels), itertools.cycle(_MARKERS)
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
        style = dict(color=color, linestyle=line, label=label, **plotting.STYLE)
        values = operating_points.predictive_values(
            sensitivity, specificity, prevalence
        )
        for axes, value in zip(panels, values, strict=True):
            axes.plot(prevalence, value, **style)
    titles = ("a positive is right (PPV)", "a negative is right (NPV)")
    for axes, title in zip(panels, titles, strict=True):
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
    films = table.sum(axis=1)
    shares = table / np.maximum(1, films[:, None])
    size = 3.2 + 1.1 * len(class_names)
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(table):
        axes.text(
            column,
            row,
            f"{count:,}\n{shares[row, column]:.1%}" if films[row] else f"{count:,}",
            ha="center",
            va="center",
            fontsize=14 if len(class_names) < 5 else 10,
            color="white" if shares[row, column] > 0.55 else plotting.INK,
        )
    places = np.arange(len(class_names))
    names = plotting.short_names(class_names, length=14)
    axes.set_xticks(places, names)
    axes.set_yticks(places, names, rotation=90, va="center")
    plotting.dress(axes, "Confusion matrix", "predicted", "truth")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    plotting.save(figure, path)


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
            classes.items(), plotting.CYCLE, ("", "///", "..."), strict=False
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
            axes.axvline(
                _logits(np.array([threshold]))[0], color=plotting.INK, linestyle="--"
            )
        plotting.dress(axes, title, None, "share of the class")
        axes.legend(
            frameon=False, fontsize=10, loc="center left", bbox_to_anchor=(1, 0.5)
        )
    ticks = np.array([0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999])
    axes.set_xticks(_logits(ticks), [f"{tick:g}" for tick in ticks])
    dashed = "" if threshold is None else "; dashed: threshold"
    axes.set_xlabel(f"{xlabel} (logit scale{dashed})", fontsize=11)
    plotting.save(figure, path)


def _logits(scores: np.ndarray) -> np.ndarray:
    # A threshold that nothing reaches lies just above 1, where the logit is NaN.
    logits = special.logit(np.clip(scores, 0.0, 1.0))
    return np.clip(logits, -_LOGIT_EDGE + 1e-6, _LOGIT_EDGE - 1e-6)


def forest(
    groups: Mapping[str, Sequence[Mapping[str, Any]]],
    path: str | os.PathLike,
    *,
    title: str,
    reference: float | Mapping[str, float | None] | None,
) -> None:
    """Draws values with intervals, a line each, under headings.

    Args:
      groups: heading -> rows with `label`, `value` (None leaves a gap), `ci95`.
      path: the PNG to publish.
      title: what the values are.
      reference: a dashed vertical line, such as the value of the whole split; or one
        a heading, beside its rows.
    """
    lines = [
        (plotting.shorten(text, 48), row)
        for heading, rows in groups.items()
        for text, row in [(heading, None), *((row["label"], row) for row in rows)]
    ]
    figure = Figure(figsize=(8, 1.2 + 0.32 * len(lines)), layout="constrained")
    axes = figure.subplots()
    for y, (_, row) in enumerate(lines):
        if row is None or row["value"] is None:
            continue
        low, high = row["ci95"] or [row["value"]] * 2
        axes.plot([low, high], [y, y], color=plotting.BLUE, linewidth=2.2)
        axes.plot(row["value"], y, "o", color=plotting.BLUE, markersize=6.5)
    dashed: dict[str, Any] = {
        "color": plotting.INK,
        "linestyle": "--",
        "linewidth": 1.2,
    }
    if isinstance(reference, Mapping):
        top = 0
        for heading, rows in groups.items():
            if (at := reference[heading]) is not None:
                axes.plot([at, at], [top + 0.55, top + len(rows) + 0.45], **dashed)
            top += 1 + len(rows)
    elif reference is not None:
        axes.axvline(reference, **dashed)
    axes.set_yticks(range(len(lines)), [text for text, _ in lines])
    axes.set_ylim(len(lines) - 0.4, -0.7)
    plotting.dress(axes, title)
    for tick, (_, row) in zip(axes.get_yticklabels(), lines, strict=True):
        tick.set_fontweight("bold" if row is None else "normal")
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    plotting.save(figure, path)


def _styles(series: Mapping[str, Any]) -> list[tuple[tuple[str, Any], str, str]]:
    """((label, content), colour, line style) for each, told apart without colour."""
    return [
        (item, plotting.CYCLE[i % len(plotting.CYCLE)], _LINES[i % len(_LINES)])
        for i, item in enumerate(series.items())
    ]
