"""Evaluates an ensemble of runs, and compares two runs."""

import dataclasses
import itertools
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from cxr import cli, console, files, folds, records, runs
from cxr.evaluation import (
    evaluator,
    film_plots,
    origins,
    overlap,
    participants,
    plots,
    report,
    report_figures,
    split_predictions,
)
from cxr.evaluation.evaluator import EvaluatedRun
from cxr.evaluation.opening import EvaluateConfig
from cxr.metrics import comparison, findings, predictions, trivial_baseline
from cxr.metrics.evaluation import Evaluation
from cxr.metrics.predictions import Predictions
from cxr.metrics.summary import summarise
from cxr.prediction import together
from cxr.prediction.together import Meaning

COMPARISON = "comparison.json"

OpenedRun = tuple[runs.Run, records.RecordSet]


def evaluate_ensemble(
    members: list[EvaluatedRun], config: EvaluateConfig
) -> EvaluatedRun:
    """Evaluates the runs together, beside the runs' mean and spread.

    Runs on the same images make an ensemble: their probabilities are averaged. Runs of
    the folds of one set are pooled: each image has the prediction of the run that did
    not see it. The threshold is chosen on what validation gives, put together in the
    same way, by the first run's rule.
    """
    first, folder = members[0], config.ensemble_folder()
    pooled = _pooled_folds(members, config.split)
    combine = predictions.pool if pooled else predictions.average
    table = combine([run.evaluation.predictions for run in members])
    validation = baseline = None
    of_validation = [run.validation for run in members if run.validation]
    baselines = [run.baseline for run in members if run.baseline]
    if len(of_validation) == len(baselines) == len(members):
        validation = combine(of_validation)
        baseline = trivial_baseline.together(baselines, combine)
    if pooled:
        # Each film's by the guard of the run that judged it; none where one has none.
        each = [run.statuses for run in members]
        statuses = list(itertools.chain(*each)) if all(each) else []
        first = dataclasses.replace(first, record_set=pooled, statuses=statuses)
    evaluation = dataclasses.replace(
        first.evaluation,
        predictions=table,
        threshold=_ensemble_threshold(first.evaluation, validation),
    )
    summary = summarise(
        evaluation,
        rows=first.record_set.described(config.split),
        validation=validation,
        baseline=baseline,
    )
    summary["participants"] = participants.describe(first.record_set)
    # Of folds each film is judged by a run that has not met it.
    summary["met_in_training"] = None if pooled else _met_by_any(members, config.split)
    summary |= _each_run(members)
    _publish_table(folder, evaluation, members, first.statuses)
    ensemble = dataclasses.replace(
        first,
        evaluation=evaluation,
        validation=validation,
        baseline=baseline,
        summary=summary,
    )
    drawn: dict[str, film_plots.Drawn] = {}
    if config.report:
        drawn = evaluator.draw(ensemble, folder)
        drawn["runs"] = film_plots.Drawn(folder / "runs.png")
        report_figures.draw_runs(drawn["runs"].path, summary, ("roc_auc", "accuracy"))
    described = _origins(members, pooled=pooled is not None)
    found = evaluator.publish(folder, ensemble, described, drawn, config.source_dir)
    evaluator.say(summary, folder, found)
    return ensemble


def _met_by_any(members: list[EvaluatedRun], split: str) -> dict[str, Any] | None:
    trained = [evaluator.trained_on(run.run, run.record_set) for run in members]
    return overlap.describe(trained, members[0].record_set, split)


def _each_run(members: list[EvaluatedRun]) -> dict[str, Any]:
    """What each run reaches alone, and how much they differ."""
    names = short_names([run.run.workdir for run in members])
    measured = [run.summary["metrics"] for run in members]
    return {
        "runs": [
            {"name": name, "workdir": str(run.run.workdir)}
            | {key: run.summary[key] for key in ("threshold", "metrics")}
            for name, run in zip(names, members, strict=True)
        ],
        "across_runs": {
            name: _spread([metrics[name]["value"] for metrics in measured])
            for name in measured[0]
        },
    }


def _publish_table(
    folder: pathlib.Path,
    evaluation: Evaluation,
    members: list[EvaluatedRun],
    statuses: Sequence[str],
) -> None:
    meaning = Meaning(
        class_names=evaluation.class_names,
        positive_class=evaluation.positive_class,
        threshold=evaluation.threshold["value"],
        model_sha256=together.model_sha256([one.run for one in members]),
    )
    table = evaluation.predictions
    names = short_names([one.run.workdir for one in members])
    said = split_predictions.said(table, meaning, statuses)
    predictions.publish(folder, table, {"ensemble": ",".join(names)}, said)


def _origins(members: list[EvaluatedRun], *, pooled: bool) -> dict[str, str]:
    """Where data, models and numbers come from, as label -> text."""
    first = members[0]
    described = origins.describe(first.run, first.record_set)
    described |= origins.remarks(first.run, first.record_set, split="")
    described["runs"] = ", ".join(str(run.run.workdir) for run in members)
    if pooled:
        described["pooled"] = (
            "Predictions of all folds together, each film by the run that did not see "
            "it."
        )
    return described


def _pooled_folds(members: list[EvaluatedRun], split: str) -> folds.FoldSet | None:
    """Returns the tested folds of one set in the order of the runs, None for others.

    Raises:
      DataError: some runs are of folds, and others not, or of another set's.
    """
    sets = [run.record_set for run in members]
    of_folds = [s for s in sets if isinstance(s, folds.FoldSet)]
    if not of_folds or split != "test":
        return None
    wholes = {fold.whole.manifest.fingerprint for fold in of_folds}
    numbers = [run.run.config.fold for run in members]
    if len(of_folds) < len(members) or len(wholes) > 1:
        raise cli.DataError(
            "the runs cannot be pooled: they are not all folds of one set; "
            f"folds {', '.join(map(str, numbers))}"
        )
    if len(set(numbers)) == 1:
        return None  # seeds of one fold: an ensemble
    return folds.tested(of_folds[0].whole, numbers)


def compare_runs(
    first: OpenedRun, second: OpenedRun, config: EvaluateConfig
) -> dict[str, Any]:
    """Compares two runs; publishes comparison.json, a picture and a page."""
    before, after = (
        evaluator.ask(
            run, split_predictions.obtain(run, data, config.split, config), config
        )
        for run, data in (first, second)
    )
    short, other = short_names([first[0].workdir, second[0].workdir])
    result = comparison.compare(before, after, (short, other))
    result["warnings"] = [
        dataclasses.asdict(dataclasses.replace(found, text=f"{name}: {found.text}"))
        for name, (run, data) in ((short, first), (other, second))
        for found in _met_in_training(run, data, config.split)
    ]
    for one in result["warnings"]:
        console.warn(one["text"])
    own_folder = f"comparison-{config.split}-with-{_slug(short)}"
    folder = pathlib.Path(config.output_dir or second[0].workdir / own_folder)
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / "differences.png"
    differences = [
        {"label": name, **entry} for name, entry in result["differences"].items()
    ]
    plots.forest(
        {f"{other} - {short}": differences},
        picture,
        title="Difference with 95 % interval",
        reference=0.0,
    )
    runs.write_json(folder / COMPARISON, result)
    data = origins.describe_data(second[1])
    files.publish(
        folder / evaluator.REPORT, report.render_comparison(result, picture, data)
    )
    console.say(f"written to {folder}")
    return result


def _met_in_training(
    run: runs.Run, data: records.RecordSet, split: str
) -> list[findings.Finding]:
    met = overlap.describe([evaluator.trained_on(run, data)], data, split)
    found = findings.met_in_training(met, data.split(split).num_examples)
    return [one for one in found if one.severity != "info"]


def _ensemble_threshold(
    evaluation: Evaluation, validation: Predictions | None
) -> dict[str, Any]:
    own = dict(evaluation.threshold)
    if own["value"] is None:
        return own
    if validation is None:
        return {"value": 0.5, "rule": "half", "chosen_on": None}
    return evaluation.threshold_on(validation)


def _spread(values: list[float | None]) -> dict[str, float | None]:
    """Mean and sample standard deviation; None where a run has no value."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return {"mean": None, "sd": None}
    return {"mean": statistics.fmean(known), "sd": statistics.stdev(known)}


def short_names(workdirs: list[pathlib.Path]) -> list[str]:
    """Last folder names, or whole paths where those would be equal."""
    names = [workdir.resolve().name for workdir in workdirs]
    return names if len(set(names)) == len(names) else [str(w) for w in workdirs]


def _slug(name: str) -> str:
    return name.strip("/").replace("/", "-")
