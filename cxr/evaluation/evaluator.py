"""From a run folder to its evaluation folder: predictions, numbers, pictures, page."""

import dataclasses
import json
import pathlib
import platform
import time
from typing import Any

import numpy as np

import cxr
from cxr import cli, files, records, runs
from cxr.evaluation import film_plots, report, report_figures, split_predictions
from cxr.metrics import predictions
from cxr.metrics import summary as summary_of
from cxr.metrics.predictions import Predictions
from cxr.metrics.summary import Question
from cxr.prediction.predictor import Predictor, load_predictor
from cxr.training import curves

METRICS = "metrics.json"
REPORT = "report.html"


@dataclasses.dataclass(frozen=True)
class Options:
    """How to judge: the flags of the same names."""

    split: str
    batch_size: int = 32
    cache: str = "auto"
    draws: int = 1000
    seed: int = 0
    explain: int = 24
    report: bool = True


@dataclasses.dataclass(frozen=True)
class Judged:
    """A run's evaluation, with what an ensemble needs of it."""

    run: runs.Run
    record_set: records.RecordSet
    table: Predictions
    validation: Predictions | None
    question: Question
    summary: dict[str, Any]

    def read_films(self, indices: np.ndarray) -> np.ndarray:
        """Films of the judged split, uint8 [n, S, S]."""
        return split_predictions.films(self.record_set, self.question.split, indices)


def judge_run(run: runs.Run, record_set: records.RecordSet, options: Options) -> Judged:
    """Predicts a split, judges it and publishes the run's evaluation folder.

    Args:
      run: the finished run.
      record_set: the data to judge on.
      options: split, batch size, draws, films to explain.
    """
    folder = predictions.folder(run.workdir, options.split)
    reads = log_reading(run, record_set, options.split)
    predictor = load_predictor(run)
    begin = time.perf_counter()
    table = split_predictions.predict(
        record_set,
        options.split,
        predictor=predictor,
        batch_size=options.batch_size,
        cache=options.cache,
    )
    predicted_s = time.perf_counter() - begin
    source = predictions.describe_source(
        run.info, record_set.manifest.fingerprint, options.split
    )
    predictions.publish(folder, table, source)
    validation = _validation(run, predictor, options, record_set, table)
    begin = time.perf_counter()
    question = ask(run, options)
    rows = record_set.examples(options.split)
    summary = summary_of.summarise(table, question, rows=rows, validation=validation)
    judged = Judged(run, record_set, table, validation, question, summary)
    pictures = draw(judged, folder) if options.report else {}
    if options.report and options.explain:
        pictures |= _explain(judged, folder, predictor, options.explain)
    where = describe_origins(run, record_set) | remarks(run, record_set, reads)
    publish(folder, summary, where, pictures)
    say(summary, folder)
    print(
        f"{len(table.labels)} films predicted in {predicted_s:.1f} s, judged and drawn "
        f"in {time.perf_counter() - begin:.1f} s"
    )
    return judged


def draw(judged: Judged, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Draws an evaluation's pictures, all but Grad-CAM; name -> PNG."""
    found = report_figures.draw(
        folder, judged.summary, judged.table, judged.question, judged.validation
    )
    found |= film_plots.draw_films(
        folder, judged.table, judged.question, judged.read_films
    )
    if (judged.run.workdir / runs.HISTORY).is_file():
        found["curves"] = folder / "curves.png"
        curves.training_curves(runs.read_history(judged.run.workdir), found["curves"])
    return found


def _explain(
    judged: Judged, folder: pathlib.Path, predictor: Predictor, count: int
) -> dict[str, pathlib.Path]:
    path = folder / "attention.png"
    found = film_plots.draw_grad_cam(
        path,
        predictor,
        judged.table,
        judged.question,
        read=judged.read_films,
        count=count,
    )
    judged.summary["attention"] = found
    return {"attention": path} if found else {}


def ask(run: runs.Run, options: Options) -> Question:
    """The question a run's own model.json asks: its class, its frozen threshold."""
    nothing = {"value": None, "rule": None, "chosen_on": None}
    return Question(
        split=options.split,
        positive_class=run.info["positive_class"],
        threshold=run.info["threshold"] or nothing,
        draws=options.draws,
        seed=options.seed,
    )


def _validation(
    run: runs.Run,
    predictor: Predictor,
    options: Options,
    record_set: records.RecordSet,
    table: Predictions,
) -> Predictions | None:
    """Predictions of the validation films of the set the run was trained on.

    None where that set has gone or changed: films the threshold was not chosen on
    are no reference.
    """
    trained_on = run.info["data"]
    if record_set.manifest.fingerprint != trained_on["fingerprint"]:
        path = pathlib.Path(
            trained_on["data_dir"], trained_on["dataset"], trained_on["version"]
        )
        if not (path / records.MANIFEST).is_file():
            return None
        record_set = records.load(path)
        if record_set.manifest.fingerprint != trained_on["fingerprint"]:
            return None
    elif options.split == "validation":
        return table
    return split_predictions.reference(
        run,
        record_set,
        predictor=predictor,
        batch_size=options.batch_size,
        cache=options.cache,
    )


def log_reading(run: runs.Run, record_set: records.RecordSet, split: str) -> int | None:
    """Logs a reading of the test split; returns how many there are by now."""
    if split != "test":
        return None
    return split_predictions.log_test_read(run, record_set, split)


def publish(
    folder: pathlib.Path,
    summary: dict[str, Any],
    where: dict[str, str],
    pictures: dict[str, pathlib.Path],
) -> None:
    """Writes metrics.json, and the page where there are pictures for it."""
    # When it was judged is no property of the result: the same run and films give
    # the same file.
    changing = ("evaluated", "test_reads")
    summary["provenance"] = {n: text for n, text in where.items() if n not in changing}
    runs.write_json(folder / METRICS, summary)
    if pictures:
        files.publish(folder / REPORT, report.render(summary, pictures, where))


def say(summary: dict[str, Any], folder: pathlib.Path) -> None:
    """The answer in a few lines."""
    print(
        f"\n{summary['split']}: {summary['n']} films, {summary['n_patients']} patients"
    )
    for name in ("roc_auc", "accuracy", "recall", "specificity"):
        entry = summary["metrics"][name]
        if entry["value"] is None:
            print(f"  {name:12s} undefined")
            continue
        bounds = entry["ci95"]
        shown = f"(95 %: {bounds[0]:.4f} to {bounds[1]:.4f})" if bounds else ""
        print(f"  {name:12s} {entry['value']:.4f} {shown}")
    majority = summary["majority"]
    print(f"  always {majority['class']}: accuracy {majority['accuracy']:.4f}")
    page = folder / REPORT
    print(f"report: {page}" if page.is_file() else f"numbers: {folder / METRICS}")


# --- where data, model and numbers come from, in words


def describe_data(record_set: records.RecordSet) -> str:
    """One line on a data set: name, version, how it was split."""
    manifest = record_set.manifest
    policy = manifest.flags.get("split_policy", "unknown")
    return f"{manifest.name} {manifest.version}, split policy {policy}"


def describe_origins(run: runs.Run, record_set: records.RecordSet) -> dict[str, str]:
    """Where data, model and numbers come from, as label -> text."""
    info, path = run.info, run.workdir / runs.ENVIRONMENT
    environment = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    packages = environment.get("packages", {})
    return {
        "data": describe_data(record_set),
        "data folder": str(record_set.path),
        "data fingerprint": record_set.manifest.fingerprint,
        "run folder": str(run.workdir),
        "model": f"{info['model']}, {info['num_parameters']:,} parameters, films of "
        f"{info['image_size']} px (stored at {info['stored_image_size']} px), "
        f"epoch {info['best_epoch']} was best on validation",
        "model sha256": info["model_sha256"],
        "trained with": ", ".join(f"{n} {v}" for n, v in packages.items())
        + f"; {', '.join(environment.get('devices', []))}",
        "commit": str(environment.get("git_commit") or "not a git checkout"),
        "evaluated": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        + f" with cxr {cxr.__version__}, Python {platform.python_version()}",
        "flags": cli.to_flags(run.config),
    }


def remarks(
    run: runs.Run, record_set: records.RecordSet, reads: int | None
) -> dict[str, str]:
    """What the first screen adds to the numbers."""
    found = {}
    if reads:
        times = "once" if reads == 1 else f"{reads} times"
        found["test_reads"] = (
            f"The test split has been read {times} by this run (test_reads.csv)."
        )
    if record_set.manifest.fingerprint != run.info["data"]["fingerprint"]:
        found["other_data"] = (
            "These films are from another data set than the model was trained on; "
            "whether patients of its training are among them was not checked."
        )
    if record_set.manifest.name == "phantom":
        found["synthetic"] = (
            "The films are synthetic phantoms: the numbers show that the software "
            "works, nothing about patients."
        )
    return found
