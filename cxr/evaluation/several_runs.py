"""More than one run: the ensemble of seeds, and the comparison of two."""

import dataclasses
import pathlib
import statistics
from typing import Any

from cxr import files, records, runs
from cxr.evaluation import (
    evaluator,
    plots,
    report,
    report_figures,
    split_predictions,
)
from cxr.metrics import comparison, predictions, thresholds
from cxr.metrics import summary as summary_of
from cxr.metrics.predictions import Predictions
from cxr.metrics.summary import Question
from cxr.prediction.predictor import load_predictor

COMPARISON = "comparison.json"


def judge_ensemble(
    judged: list[evaluator.Judged], options: evaluator.Options, folder: pathlib.Path
) -> evaluator.Judged:
    """Judges the runs' averaged probabilities, beside the runs' mean and spread.

    The ensemble's threshold is chosen on the averaged validation probabilities by
    the first run's rule.
    """
    first = judged[0]
    table = predictions.average([each.table for each in judged])
    validation = None
    if all(each.validation for each in judged):
        validation = predictions.average([each.validation for each in judged])
    question = dataclasses.replace(
        first.question, threshold=_ensemble_threshold(first.question, validation)
    )
    rows = first.record_set.examples(options.split)
    summary = summary_of.summarise(table, question, rows=rows, validation=validation)
    names = _short_names([each.run.workdir for each in judged])
    summary["runs"] = [
        {
            "name": name,
            "workdir": str(each.run.workdir),
            "threshold": each.summary["threshold"],
            "metrics": each.summary["metrics"],
        }
        for name, each in zip(names, judged, strict=True)
    ]
    summary["across_runs"] = {
        name: _spread([each.summary["metrics"][name]["value"] for each in judged])
        for name in summary["metrics"]
    }
    predictions.publish(folder, table, {"ensemble": ",".join(names)})
    judged_together = dataclasses.replace(
        first, table=table, validation=validation, question=question, summary=summary
    )
    pictures = {}
    if options.report:
        pictures = evaluator.draw(judged_together, folder)
        pictures["runs"] = folder / "runs.png"
        report_figures.draw_runs(pictures["runs"], summary, ("roc_auc", "accuracy"))
    where = evaluator.describe_origins(first.run, first.record_set)
    where["runs"] = ", ".join(str(each.run.workdir) for each in judged)
    evaluator.publish(folder, summary, where, pictures)
    evaluator.say(summary, folder)
    return judged_together


def judge_pair(
    first: tuple[runs.Run, records.RecordSet],
    second: tuple[runs.Run, records.RecordSet],
    options: evaluator.Options,
    folder: pathlib.Path | None = None,
) -> dict[str, Any]:
    """Compares two runs; publishes comparison.json, a picture and a page."""
    tables = tuple(_table(run, data, options) for run, data in (first, second))
    questions = tuple(evaluator.ask(run, options) for run, _ in (first, second))
    names = tuple(_short_names([first[0].workdir, second[0].workdir]))
    result = comparison.compare(tables, questions, names)
    own_folder = f"comparison-{options.split}-with-{_slug(names[0])}"
    folder = folder or second[0].workdir / own_folder
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / "differences.png"
    plots.forest(
        {
            f"{names[1]} - {names[0]}": [
                {"label": name, **entry}
                for name, entry in result["differences"].items()
            ]
        },
        picture,
        title="Difference with 95 % interval",
        reference=0.0,
    )
    runs.write_json(folder / COMPARISON, result)
    data = evaluator.describe_data(second[1])
    files.publish(
        folder / evaluator.REPORT, report.render_comparison(result, picture, data)
    )
    print(f"written to {folder}")
    return result


def _table(
    run: runs.Run, record_set: records.RecordSet, options: evaluator.Options
) -> Predictions:
    """A run's predictions of the split, from its evaluation folder where valid."""
    source = predictions.describe_source(
        run.info, record_set.manifest.fingerprint, options.split
    )
    folder = predictions.folder(run.workdir, options.split)
    kept = predictions.recall(folder, source)
    if kept is not None:
        return kept
    evaluator.log_reading(run, record_set, options.split)
    found = split_predictions.predict(
        record_set,
        options.split,
        predictor=load_predictor(run),
        batch_size=options.batch_size,
        cache=options.cache,
    )
    predictions.publish(folder, found, source)
    return found


def _ensemble_threshold(
    question: Question, validation: Predictions | None
) -> dict[str, Any]:
    own = dict(question.threshold)
    if own["value"] is None:
        return own
    if validation is None:
        return {"value": 0.5, "rule": "half", "chosen_on": None}
    positive = validation.class_names.index(question.positive_class)
    value = thresholds.choose_threshold(
        validation.labels == positive,
        validation.probabilities[:, positive],
        own["rule"],
    )
    return {**own, "value": value}


def _spread(values: list[float | None]) -> dict[str, float | None]:
    """Mean and sample standard deviation; None where a run has no value."""
    if any(value is None for value in values):
        return {"mean": None, "sd": None}
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values)}


def _short_names(workdirs: list[pathlib.Path]) -> list[str]:
    """Last folder names, or whole paths where those would be equal."""
    names = [workdir.resolve().name for workdir in workdirs]
    return names if len(set(names)) == len(names) else [str(w) for w in workdirs]


def _slug(name: str) -> str:
    return name.strip("/").replace("/", "-")
