"""Evaluates one run on a split and publishes its evaluation folder."""

import collections
import dataclasses
import functools
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from cxr import console, files, input_guard, model_card, records, runs, tables
from cxr.evaluation import (
    attention,
    baseline_predictions,
    checklist,
    film_plots,
    film_table,
    origins,
    overlap,
    participants,
    report,
    report_figures,
    split_predictions,
)
from cxr.evaluation.film_plots import Drawn
from cxr.evaluation.opening import EvaluateConfig
from cxr.input import film_measures
from cxr.input.film_measures import Measures
from cxr.metrics import findings
from cxr.metrics.evaluation import Evaluation
from cxr.metrics.findings import Finding
from cxr.metrics.predictions import Predictions
from cxr.metrics.summary import summarise
from cxr.metrics.trivial_baseline import Baseline
from cxr.prediction.predictor import Predictor, load_predictor
from cxr.reporting import formatting, html
from cxr.training import curves

METRICS = "metrics.json"
REPORT = "report.html"
_BY_CHANCE = (
    "Not shown: the interval of the ROC AUC reaches one half, so the model may rank "
    "these films by chance, and where it looked would mean nothing."
)


@dataclasses.dataclass(frozen=True)
class EvaluatedRun:
    """A run's evaluation, with what an ensemble needs of it.

    `statuses` are of each film, as cxr.predict's; empty where the run has no guard.
    """

    run: runs.Run
    record_set: records.RecordSet
    evaluation: Evaluation
    validation: Predictions | None
    baseline: Baseline | None
    summary: dict[str, Any]
    statuses: Sequence[str] = ()

    @functools.cached_property
    def shapes(self) -> np.ndarray:
        """Height by width of each film as it was, float64 [n]."""
        return film_plots.proportions(self.record_set.examples(self.evaluation.split))

    def read_images(self, indices: np.ndarray) -> np.ndarray:
        """Images of the evaluated split at the stored size, uint8 [n, S, S]."""
        return split_predictions.read_images(
            self.record_set, self.evaluation.split, indices
        )


def evaluate_run(
    run: runs.Run, record_set: records.RecordSet, config: EvaluateConfig
) -> EvaluatedRun:
    """Predicts a split, measures the predictions, publishes the evaluation folder.

    Args:
      run: the finished run.
      record_set: the data to evaluate on.
      config: split, batch size, draws, films to explain.
    """
    folder = config.own_folder() or split_predictions.evaluation_folder(
        run, record_set, config.split
    )
    # What was edited in the set is refused before anything is predicted.
    told, rows = participants.describe(record_set), record_set.described(config.split)
    predictor = load_predictor(run)
    films = film_measures.measure(record_set, config.split)
    unlike = _judge(run, films)
    statuses = [input_guard.status((), why) for why in unlike or ()]
    begin = time.perf_counter()
    table = split_predictions.obtain(
        run,
        record_set,
        config.split,
        config,
        predictor=predictor,
        folder=folder,
        statuses=statuses,
        reuse=False,
    )
    predicted_s = time.perf_counter() - begin
    trained = trained_on(run, record_set)
    validation = baseline = None
    if trained:
        validation = _validation(run, predictor, config, record_set, trained, table)
        baseline = baseline_predictions.predict(
            trained, record_set, config.split, films, table, validation
        )
    begin = time.perf_counter()
    evaluation = ask(run, table, config)
    summary = summarise(evaluation, rows=rows, validation=validation, baseline=baseline)
    summary["input_guard"] = _summarise_guard(run, unlike)
    summary["participants"] = told
    summary["met_in_training"] = overlap.describe([trained], record_set, config.split)
    evaluated = EvaluatedRun(
        run, record_set, evaluation, validation, baseline, summary, statuses
    )
    drawn = draw(evaluated, folder) if config.report else {}
    if config.report and config.explain:
        drawn |= _explain(evaluated, folder, predictor, config.explain)
    described = origins.describe(run, record_set)
    described |= origins.remarks(run, record_set, config.split)
    found = publish(folder, evaluated, described, drawn, config.source_dir)
    model_card.publish(run)
    say(summary, folder, found)
    console.say(
        f"{len(table.labels)} images predicted in {predicted_s:.1f} s, measured and "
        f"drawn in {time.perf_counter() - begin:.1f} s"
    )
    return evaluated


def draw(evaluated: EvaluatedRun, folder: pathlib.Path) -> dict[str, Drawn]:
    """Draws an evaluation's pictures, all but Grad-CAM, by name."""
    pictures = report_figures.draw(
        folder, evaluated.summary, evaluated.evaluation, evaluated.validation
    )
    workdir = evaluated.run.workdir
    if (workdir / runs.HISTORY).is_file() and evaluated.run.is_latest:
        pictures["curves"] = folder / "curves.png"
        curves.training_curves(
            runs.read_history(workdir), pictures["curves"], config=evaluated.run.config
        )
    drawn = {name: Drawn(path) for name, path in pictures.items()}
    return drawn | film_plots.draw_films(
        folder, evaluated.evaluation, evaluated.read_images, evaluated.shapes
    )


def _explain(
    evaluated: EvaluatedRun, folder: pathlib.Path, predictor: Predictor, count: int
) -> dict[str, Drawn]:
    """Draws Grad-CAM, but of a model that ranks films by chance, where it misleads."""
    bounds = evaluated.summary["metrics"]["roc_auc"]["ci95"]
    if bounds and bounds[0] <= 0.5:
        evaluated.summary["attention"] = {"not_shown": _BY_CHANCE}
        return {}
    found, drawn = attention.draw(
        folder / "attention.png",
        predictor,
        evaluated.evaluation,
        read=evaluated.read_images,
        count=count,
        shapes=evaluated.shapes,
    )
    evaluated.summary["attention"] = found
    return {"attention": drawn} if drawn else {}


def ask(run: runs.Run, table: Predictions, config: EvaluateConfig) -> Evaluation:
    """Asks what a run's own model.json asks: its class, its frozen threshold."""
    threshold = run.info.threshold
    nothing = {"value": None, "rule": None, "chosen_on": None}
    return Evaluation(
        table,
        split=config.split,
        positive_class=run.info.positive_class,
        threshold=dataclasses.asdict(threshold) if threshold else nothing,
        draws=config.draws,
        seed=config.seed,
    )


def _judge(run: runs.Run, films: Measures) -> list[str] | None:
    """What the run's input guard says of each film; None where it has none."""
    guard = run.read_guard()
    return guard.judge(films.cells, films.numbers) if guard else None


def _summarise_guard(
    run: runs.Run, unlike: Sequence[str] | None
) -> dict[str, Any] | None:
    """How many of the films are unlike those of training, and why."""
    if unlike is None:
        return None
    reasons = collections.Counter(filter(None, unlike))
    return {
        "unlike": sum(reasons.values()),
        "of": len(unlike),
        "reasons": [{"reason": why, "n": n} for why, n in reasons.most_common()],
        "false_alarms": run.info.input_guard and run.info.input_guard.false_alarms,
    }


def trained_on(
    run: runs.Run, record_set: records.RecordSet
) -> records.RecordSet | None:
    """The set that the run was trained on, None where it has gone or changed.

    Then there is no reference: neither the films that the threshold was chosen on, nor
    those that a baseline would have to learn from.
    """
    if record_set.manifest.fingerprint == run.info.data.fingerprint:
        return record_set
    return run.trained_on()


def _validation(
    run: runs.Run,
    predictor: Predictor,
    config: EvaluateConfig,
    record_set: records.RecordSet,
    trained: records.RecordSet,
    table: Predictions,
) -> Predictions:
    """Predictions of the validation films of the set the run was trained on."""
    if trained is not record_set:
        config = dataclasses.replace(config, class_map=())  # of the other set's names
    elif config.split == "validation":
        return table
    return split_predictions.obtain(
        run, trained, "validation", config, predictor=predictor
    )


def publish(
    folder: pathlib.Path,
    evaluated: EvaluatedRun,
    described: dict[str, str],
    drawn: dict[str, Drawn],
    source_dir: str = "",
) -> list[Finding]:
    """Writes metrics.json, mistakes.csv, and the page where there are pictures for it.

    Args:
      folder: the evaluation's.
      evaluated: what is published.
      described: of `origins`.
      drawn: name -> picture; empty for no page.
      source_dir: as `film_table.rows`'.

    Returns:
      what a reader must hear before the numbers.
    """
    # When it was evaluated is no property of the result: the same run and films give
    # the same file.
    changing = ("evaluated", "test_reads", "under_way")
    summary = evaluated.summary
    summary["split_policy"] = evaluated.record_set.split_policy
    summary["provenance"] = {n: t for n, t in described.items() if n not in changing}
    found = findings.find(summary, described)
    summary["warnings"] = [
        dataclasses.asdict(one) for one in found if one.code not in changing
    ]
    runs.write_json(folder / METRICS, summary)
    to_rows = functools.partial(
        film_table.rows,
        evaluated.evaluation,
        statuses=evaluated.statuses,
        source_dir=source_dir,
    )
    wrong = to_rows(film_table.wrong(evaluated.evaluation))
    tables.publish(folder / film_table.MISTAKES, film_table.COLUMNS, wrong)
    if not drawn:
        return found
    films = {
        name: to_rows(one.indices)
        for name, one in drawn.items()
        if one.indices is not None
    }
    pictures = {name: one.path for name, one in drawn.items()}
    page = report.render(summary, pictures, described, found, films)
    files.publish(folder / REPORT, page)
    items = checklist.render(summary, described, html.anchors(page))
    files.publish(folder / checklist.PAGE, items)
    return found


def say(
    summary: dict[str, Any], folder: pathlib.Path, found: Sequence[Finding]
) -> None:
    """The answer in a few lines."""
    n, unknown = summary["n"], summary["n_without_patient"]
    patients = formatting.counted(summary["n_patients"], "patient")
    if unknown == n:
        patients = "no patient known"
    some = f", {unknown} of them unknown" if 0 < unknown < n else ""
    images = formatting.counted(n, "image")
    console.say(f"\n{summary['split']}: {images}, {patients}{some}")
    for name in ("roc_auc", "accuracy", "recall", "specificity"):
        entry = summary["metrics"][name]
        if entry["value"] is None:
            console.say(f"  {name:12s} undefined")
            continue
        bounds = entry["ci95"]
        shown = f"(95 %: {bounds[0]:.4f} to {bounds[1]:.4f})" if bounds else ""
        console.say(f"  {name:12s} {entry['value']:.4f} {shown}")
    majority = summary["majority"]
    console.say(f"  always {majority['class']}: accuracy {majority['accuracy']:.4f}")
    if baseline := summary.get("trivial_baseline"):
        console.say(f"  trivial baseline: {_beside(baseline)}")
    for finding in found:
        if finding.severity != "info":
            console.warn(finding.text)
    page = folder / REPORT
    console.say(f"report: {page}" if page.is_file() else f"numbers: {folder / METRICS}")


def _beside(found: dict[str, Any]) -> str:
    """One line on the trivial baseline: its values, and what the model adds."""
    parts = []
    for name in ("roc_auc", "accuracy"):
        if found["metrics"][name]["value"] is None:
            continue
        parts.append(f"{name} {found['metrics'][name]['value']:.4f}")
        gap = found["differences"] and found["differences"][name]
        if gap and gap["ci95"]:
            low, high = gap["ci95"]
            parts[-1] += (
                f" (model {gap['value']:+.4f}, 95 %: {low:+.4f} to {high:+.4f})"
            )
    return ", ".join(parts) or "undefined"
