"""Which plots an evaluation gets, made of numbers alone."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cxr.evaluation import plots
from cxr.metrics import classification
from cxr.metrics.predictions import Predictions
from cxr.metrics.summary import Question, judge

_SHOWN_POINTS = 4


def draw(
    folder: pathlib.Path,
    summary: Mapping[str, Any],
    table: Predictions,
    question: Question,
    validation: Predictions | None,
) -> dict[str, pathlib.Path]:
    """Draws what needs numbers only.

    Args:
      folder: where the PNGs go.
      summary: metrics.json's content of the same table.
      table: the judged predictions.
      question: what was asked of them.
      validation: predictions of validation for the shift picture, or None.

    Returns:
      Name -> PNG, as `report.render` wants them.
    """
    scored = judge(table, question)
    names = table.class_names
    shown = range(len(names)) if scored.positive is None else [scored.positive]
    present = [c for c in shown if 0 < np.sum(scored.labels == c) < len(scored.labels)]
    paths = {}

    def place(name: str) -> pathlib.Path:
        paths[name] = folder / f"{name}.png"
        return paths[name]

    if present:
        curves = {
            _with_area(summary, names[c]): classification.ranking_curves(
                scored.labels == c, scored.probabilities[:, c]
            )
            for c in present
        }
        shares = [float(np.mean(scored.labels == c)) for c in present]
        points = operating_points(summary)
        plots.roc(curves, place("roc"), points=points)
        plots.precision_recall(
            curves,
            place("precision_recall"),
            base_rates=dict(zip(curves, shares, strict=True)),
        )
        if points:
            plots.predictive_values(points, place("predictive_values"))
    plots.confusion_matrix(
        summary["confusion_matrix"], names, place("confusion_matrix")
    )
    bins = summary["calibration"]["bins"]
    plots.calibration(
        {names[int(c)]: rows for c, rows in bins.items()}, place("calibration")
    )
    if scored.positive is not None:
        panels = {"validation": validation} if validation else {}
        panels = {**panels, f"{question.split} (judged here)": table}
        plots.score_histograms(
            {
                title: _scores_by_class(t, scored.positive)
                for title, t in panels.items()
            },
            place("score_histograms"),
            threshold=scored.threshold,
            xlabel=f"probability of {question.positive_class}",
        )
    if summary["subgroups"]:
        plots.forest(
            {
                grouping: [
                    {"label": f"{name} ({g['n']:,})", **g["metrics"]["accuracy"]}
                    for name, g in groups.items()
                ]
                for grouping, groups in summary["subgroups"].items()
            },
            place("subgroups"),
            title="Accuracy by subgroup",
            reference=summary["metrics"]["accuracy"]["value"],
        )
    return paths


def draw_runs(
    path: pathlib.Path, summary: Mapping[str, Any], names: tuple[str, ...]
) -> None:
    """Draws several runs and their ensemble beneath each other."""
    titles = {"roc_auc": "ROC AUC", "accuracy": "accuracy"}
    groups = {
        titles[name]: [
            *(
                {"label": run["name"], **run["metrics"][name]}
                for run in summary["runs"]
            ),
            {"label": "ensemble", **summary["metrics"][name]},
        ]
        for name in names
    }
    plots.forest(groups, path, title="Runs and their ensemble", reference=None)


def operating_points(summary: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Label -> (specificity, sensitivity); points that coincide share a label."""
    labels: dict[tuple[float, float], list[str]] = {}
    for point in summary["operating_points"]:
        found = point["metrics"]
        rates = (found["specificity"]["value"], found["recall"]["value"])
        if None not in rates:
            labels.setdefault(rates, []).append(point["name"])
    shown = list(labels.items())[:_SHOWN_POINTS]
    return {" = ".join(names): rates for rates, names in shown}


def _with_area(summary: Mapping[str, Any], name: str) -> str:
    area = summary["per_class"][name]["roc_auc"]
    return name if area is None else f"{name} (AUC {area:.3f})"


def _scores_by_class(table: Predictions, positive: int) -> dict[str, np.ndarray]:
    return {
        name: table.probabilities[table.labels == index, positive]
        for index, name in enumerate(table.class_names)
    }
