"""Chooses the plots of an evaluation and draws them from its numbers."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cxr.evaluation import plots, report_subgroups
from cxr.metrics import classification
from cxr.metrics.evaluation import Evaluation
from cxr.metrics.predictions import Predictions
from cxr.reporting import formatting, plotting

_BAND_DRAWS = 500  # of the resamples: enough for a band, in a quarter of a second

Pictures = dict[str, pathlib.Path]


def draw(
    folder: pathlib.Path,
    summary: Mapping[str, Any],
    evaluation: Evaluation,
    validation: Predictions | None,
) -> Pictures:
    """Draws what needs numbers only.

    Args:
      folder: where the PNGs go.
      summary: metrics.json's content of the same evaluation.
      evaluation: the predictions and what was asked of them.
      validation: predictions of validation for the shift picture, or None.

    Returns:
      Name -> PNG, as `report.render` wants them.
    """
    pictures = _draw_ranking(folder, summary, evaluation)
    names = evaluation.class_names
    pictures["confusion_matrix"] = folder / "confusion_matrix.png"
    plots.confusion_matrix(
        summary["confusion_matrix"], names, pictures["confusion_matrix"]
    )
    pictures["calibration"] = folder / "calibration.png"
    bins, short = summary["calibration"]["bins"], plotting.short_names(names)
    plots.calibration(
        {short[int(c)]: rows for c, rows in bins.items()}, pictures["calibration"]
    )
    if evaluation.binary:
        pictures["score_histograms"] = folder / "score_histograms.png"
        _draw_histograms(pictures["score_histograms"], evaluation, validation)
    if summary["subgroups"] and any(compared_groups(summary)):
        pictures["subgroups"] = folder / "subgroups.png"
        _draw_subgroups(pictures["subgroups"], summary)
    return pictures


def _draw_ranking(
    folder: pathlib.Path, summary: Mapping[str, Any], evaluation: Evaluation
) -> Pictures:
    """Draws ROC, precision-recall and predictive values of the classes that occur."""
    scored, names = evaluation.scored, evaluation.class_names
    truth = {c: scored.labels == c for c in scored.classes}
    present = [c for c in truth if 0 < truth[c].sum() < len(scored.labels)]
    if not present:
        return {}
    curves = {
        names[c]: classification.ranking_curves(truth[c], scored.probabilities[:, c])
        for c in present
    }
    shares = {names[c]: float(truth[c].mean()) for c in present}
    points = operating_points(summary)
    pictures = {n: folder / f"{n}.png" for n in ("roc", "precision_recall")}
    legends = _legends(summary, names, "AUC", "roc_auc")
    labelled = {legends[name]: curve for name, curve in curves.items()}
    bands = {}
    if evaluation.binary:
        band = _roc_band(evaluation)
        bands = {legends[evaluation.positive_class]: band} if band else {}
    plots.roc(labelled, pictures["roc"], points=points, bands=bands)
    legends = _legends(summary, names, "AP", "pr_auc")
    labelled = {legends[name]: curve for name, curve in curves.items()}
    base_rates = {legends[name]: share for name, share in shares.items()}
    plots.precision_recall(
        labelled, pictures["precision_recall"], base_rates=base_rates
    )
    if points:
        pictures["predictive_values"] = folder / "predictive_values.png"
        plots.predictive_values(points, pictures["predictive_values"])
    return pictures


def _roc_band(evaluation: Evaluation) -> dict[str, np.ndarray] | None:
    """Where the curves of 95 % of the patient resamples lie, at each rate."""
    scored, grid = evaluation.scored, np.linspace(0, 1, 201)
    draws = classification.roc_draws(
        scored.labels == scored.positive,
        scored.score,
        evaluation.resamples.weights()[:_BAND_DRAWS],
        grid,
    )
    draws = draws[np.isfinite(draws).all(axis=1)]
    if len(draws) < 2 or evaluation.resamples.smallest_stratum() < 2:
        return None
    low, high = np.quantile(draws, (0.025, 0.975), axis=0)
    return {"false_positive_rate": grid, "low": low, "high": high}


def _draw_histograms(
    path: pathlib.Path, evaluation: Evaluation, validation: Predictions | None
) -> None:
    positive = evaluation.class_names.index(evaluation.positive_class)
    name = plotting.short_names(evaluation.class_names)[positive]
    panels = {"validation": validation} if validation else {}
    panels[f"{evaluation.split} (judged here)"] = evaluation.predictions
    plots.score_histograms(
        {title: _scores_by_class(table, positive) for title, table in panels.items()},
        path,
        threshold=evaluation.threshold["value"],
        xlabel=f"probability of {name}",
    )


def _draw_subgroups(path: pathlib.Path, summary: Mapping[str, Any]) -> None:
    blocks, references = {}, {}
    for grouping, metric, names in compared_groups(summary):
        groups = summary["subgroups"][grouping]
        heading = f"{grouping.replace('_', ' ')}: {report_subgroups.LABELS[metric]}"
        if heading in blocks:  # beyond two classes, of other groups
            heading += f", {', '.join(groups[names[0]]['classes'])}"
        blocks[heading] = [
            {"label": f"{short} ({groups[n]['n']:,})", **groups[n]["metrics"][metric]}
            for short, n in zip(plotting.short_names(names), names, strict=True)
        ]
        references[heading] = summary["metrics"][metric]["value"]
    plots.forest(blocks, path, title="Subgroups", reference=references)


def compared_groups(
    summary: Mapping[str, Any],
) -> Iterator[tuple[str, str, list[str]]]:
    """Yields grouping, metric and the groups that it compares."""
    for grouping, comparisons in summary["subgroup_notes"]["compared_on"].items():
        for comparison in comparisons:
            yield grouping, comparison["metric"], comparison["groups"]


def draw_runs(
    path: pathlib.Path, summary: Mapping[str, Any], names: Sequence[str]
) -> None:
    """Draws several runs and their ensemble beneath each other."""
    titles = {"roc_auc": "ROC AUC", "accuracy": "accuracy"}
    shown = plotting.short_names([run["name"] for run in summary["runs"]], length=40)
    groups = {
        titles[name]: [
            *(
                {"label": short, **run["metrics"][name]}
                for short, run in zip(shown, summary["runs"], strict=True)
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
    return {_join(names): rates for rates, names in labels.items()}


def _join(names: Sequence[str]) -> str:
    """`a = b = c`, two a line."""
    lines = [" = ".join(names[i : i + 2]) for i in range(0, len(names), 2)]
    return "\n= ".join(lines)


def _legends(
    summary: Mapping[str, Any], names: Sequence[str], label: str, area: str
) -> dict[str, str]:
    """Class -> legend text with the area under its own curve, where there is one."""
    per_class = summary["per_class"]
    return {
        name: f"{short} ({label} {formatting.number(per_class[name][area])})"
        for name, short in zip(names, plotting.short_names(names), strict=True)
    }


def _scores_by_class(table: Predictions, positive: int) -> dict[str, np.ndarray]:
    return {
        name: table.probabilities[table.labels == index, positive]
        for index, name in enumerate(plotting.short_names(table.class_names))
    }
