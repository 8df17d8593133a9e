"""Evaluates one run on a split and publishes its evaluation folder."""

import collections
import dataclasses
import pathlib
import platform
import time
from typing import Any

import numpy as np

import cxr
from cxr import cli, environment, files, model_card, records, runs
from cxr.evaluation import (
    baseline_predictions,
    checklist,
    film_plots,
    participants,
    report,
    report_figures,
    split_predictions,
)
from cxr.evaluation.opening import EvaluateConfig
from cxr.input import film_measures
from cxr.input.film_measures import Measures
from cxr.metrics.evaluation import Evaluation
from cxr.metrics.predictions import Predictions
from cxr.metrics.summary import summarise
from cxr.metrics.trivial_baseline import Baseline
from cxr.prediction.predictor import Predictor, load_predictor
from cxr.reporting import html
from cxr.training import curves

METRICS = "metrics.json"
REPORT = "report.html"


@dataclasses.dataclass(frozen=True)
class EvaluatedRun:
    """A run's evaluation, with what an ensemble needs of it."""

    run: runs.Run
    record_set: records.RecordSet
    evaluation: Evaluation
    validation: Predictions | None
    baseline: Baseline | None
    summary: dict[str, Any]

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
    begin = time.perf_counter()
    table = split_predictions.obtain(
        run,
        record_set,
        config.split,
        config,
        predictor=predictor,
        folder=folder,
        reuse=False,
    )
    predicted_s = time.perf_counter() - begin
    films = film_measures.measure(record_set, config.split)
    trained = _trained_on(run, record_set)
    validation = baseline = None
    if trained:
        validation = _validation(run, predictor, config, record_set, trained, table)
        baseline = baseline_predictions.predict(
            trained, record_set, config.split, films, table, validation
        )
    begin = time.perf_counter()
    evaluation = ask(run, table, config)
    summary = summarise(evaluation, rows=rows, validation=validation, baseline=baseline)
    summary["input_guard"] = _judge(run, films)
    summary["participants"] = told
    evaluated = EvaluatedRun(run, record_set, evaluation, validation, baseline, summary)
    pictures = draw(evaluated, folder) if config.report else {}
    if config.report and config.explain:
        pictures |= _explain(evaluated, folder, predictor, config.explain)
    reads = runs.count_test_reads(run.workdir) if config.split == "test" else 0
    origins = describe_origins(run, record_set) | remarks(run, record_set, reads)
    publish(folder, summary, origins, pictures)
    model_card.publish(run)
    say(summary, folder)
    for name in {"trained_after_test", "under_way"} & origins.keys():
        cli.warn(origins[name])
    cli.say(
        f"{len(table.labels)} images predicted in {predicted_s:.1f} s, measured and "
        f"drawn in {time.perf_counter() - begin:.1f} s"
    )
    return evaluated


def draw(evaluated: EvaluatedRun, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Draws an evaluation's pictures, all but Grad-CAM; name -> PNG."""
    pictures = report_figures.draw(
        folder, evaluated.summary, evaluated.evaluation, evaluated.validation
    )
    pictures |= film_plots.draw_films(
        folder, evaluated.evaluation, evaluated.read_images
    )
    workdir = evaluated.run.workdir
    if (workdir / runs.HISTORY).is_file() and evaluated.run.is_latest:
        pictures["curves"] = folder / "curves.png"
        curves.training_curves(runs.read_history(workdir), pictures["curves"])
    return pictures


def _explain(
    evaluated: EvaluatedRun, folder: pathlib.Path, predictor: Predictor, count: int
) -> dict[str, pathlib.Path]:
    path = folder / "attention.png"
    attention = film_plots.draw_grad_cam(
        path, predictor, evaluated.evaluation, read=evaluated.read_images, count=count
    )
    evaluated.summary["attention"] = attention
    return {"attention": path} if attention else {}


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


def _judge(run: runs.Run, films: Measures) -> dict[str, Any] | None:
    """How many of the films the run's input guard calls unlike those of training."""
    guard = run.read_guard()
    if guard is None:
        return None
    reasons = collections.Counter(filter(None, guard.judge(films.cells, films.numbers)))
    return {
        "unlike": sum(reasons.values()),
        "of": len(films.labels),
        "reasons": dict(reasons.most_common()),
        "false_alarms": run.info.input_guard and run.info.input_guard.false_alarms,
    }


def _trained_on(
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
    summary: dict[str, Any],
    origins: dict[str, str],
    pictures: dict[str, pathlib.Path],
) -> None:
    """Writes metrics.json, and the page where there are pictures for it."""
    # When it was evaluated is no property of the result: the same run and films give
    # the same file.
    changing = ("evaluated", "test_reads", "under_way")
    summary["provenance"] = {n: t for n, t in origins.items() if n not in changing}
    runs.write_json(folder / METRICS, summary)
    if pictures:
        page = report.render(summary, pictures, origins)
        files.publish(folder / REPORT, page)
        items = checklist.render(summary, origins, html.anchors(page))
        files.publish(folder / checklist.PAGE, items)


def say(summary: dict[str, Any], folder: pathlib.Path) -> None:
    """The answer in a few lines."""
    n, unknown = summary["n"], summary["n_without_patient"]
    patients = (
        "no patient known" if unknown == n else f"{summary['n_patients']} patients"
    )
    some = f", {unknown} of them unknown" if 0 < unknown < n else ""
    cli.say(f"\n{summary['split']}: {n} images, {patients}{some}")
    for name in ("roc_auc", "accuracy", "recall", "specificity"):
        entry = summary["metrics"][name]
        if entry["value"] is None:
            cli.say(f"  {name:12s} undefined")
            continue
        bounds = entry["ci95"]
        shown = f"(95 %: {bounds[0]:.4f} to {bounds[1]:.4f})" if bounds else ""
        cli.say(f"  {name:12s} {entry['value']:.4f} {shown}")
    majority = summary["majority"]
    cli.say(f"  always {majority['class']}: accuracy {majority['accuracy']:.4f}")
    if found := summary.get("trivial_baseline"):
        cli.say(f"  trivial baseline: {_beside(found)}")
    page = folder / REPORT
    cli.say(f"report: {page}" if page.is_file() else f"numbers: {folder / METRICS}")


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


# --- where data, model and numbers come from, in words


def describe_data(record_set: records.RecordSet) -> str:
    """One line on a data set: name, version, how it was split."""
    manifest = record_set.manifest
    policy = manifest.flags.get("split_policy", "unknown")
    return f"{manifest.name} {manifest.version}, split policy {policy}"


def describe_origins(run: runs.Run, record_set: records.RecordSet) -> dict[str, str]:
    """Where data, model and numbers come from, as label -> text."""
    info, trained = run.info, environment.read(run.workdir)
    packages = trained.packages.items() if trained else ()
    return {
        "data": describe_data(record_set),
        "data folder": str(record_set.path),
        "data fingerprint": record_set.manifest.fingerprint,
        "run folder": str(run.workdir),
        "model": f"{info.model}, {info.num_parameters:,} parameters, films of "
        f"{info.image_size} px (stored at {info.stored_image_size} px), "
        f"epoch {info.best_epoch} was best on validation",
        "model sha256": info.model_sha256,
        "trained with": ", ".join(f"{name} {version}" for name, version in packages)
        + f"; {', '.join(trained.devices if trained else ())}",
        "commit": (trained and trained.git_commit) or "not a git checkout",
        "evaluated": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        + f" with cxr {cxr.__version__}, Python {platform.python_version()}",
        "flags": cli.to_flags(run.config),
    }


def remarks(run: runs.Run, record_set: records.RecordSet, reads: int) -> dict[str, str]:
    """What the first screen adds to the numbers."""
    noted = {}
    if reads:
        times = "once" if reads == 1 else f"{reads} times"
        noted["test_reads"] = (
            f"The test split has been read {times} by this run (test_reads.csv)."
        )
    if run.info.trained_after_test:
        noted["trained_after_test"] = (
            f"The test split had been read {run.info.trained_after_test} times before "
            "training went on: it is no unseen test of this model."
        )
    if not run.is_latest:
        noted["under_way"] = (
            "A training with other flags has begun in the run folder since; these "
            "numbers are of the finished model before it."
        )
    if record_set.manifest.fingerprint != run.info.data.fingerprint:
        manifest, own = record_set.manifest, run.data_path
        noted["other_data"] = (
            f"External validation: these films are of {manifest.name} "
            f"{manifest.version}, another data set than the model was trained on "
            f"({own.parent.name} {own.name}); whether patients of its training are "
            "among them was not checked."
        )
    if record_set.manifest.name == "phantom":
        noted["synthetic"] = (
            "The films are synthetic phantoms: the numbers show that the software "
            "works, nothing about patients."
        )
    return noted
