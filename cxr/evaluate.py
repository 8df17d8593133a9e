"""Evaluates trained runs on a split: `python -m cxr.evaluate --workdir=RUN`."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cxr import cli, console, startup
from cxr.evaluation import opening
from cxr.evaluation.opening import EvaluateConfig
from cxr.storage import run_folders

_USAGE = """
Evaluates a trained run on a split of its data set, and writes metrics.json,
predictions.csv, pictures and report.html to RUN/evaluation-SPLIT/. Thresholds come
from validation; every reading of the test split is logged in the run folder.

  python -m cxr.evaluate --workdir=runs/vgg16 --split=test
  python -m cxr.evaluate --workdir=runs/a,runs/b,runs/c      also their ensemble
  python -m cxr.evaluate --compare runs/a runs/b             is b better than a?
"""


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluates each run of `config.workdir`, and their ensemble if there are several.

    Returns:
      The content of metrics.json: of the run, or of the ensemble.

    Raises:
      UsageError: no such run folder, or images smaller than the model's input.
      DataError: an unfinished or damaged run, or data that do not fit it; a finding
        that `--fail_on` forbids, after all is written; runs that cannot be put side
        by side.
    """
    workdirs = config.workdirs()
    opened = opening.open_runs(workdirs, config)
    startup.load_tensorflow()
    from cxr.evaluation import evaluator, several_runs

    console.note(f"evaluating on {config.split} ...")
    evaluated = []
    for name, pair in zip(several_runs.short_names(workdirs), opened, strict=True):
        with console.naming(name if len(opened) > 1 else ""):
            evaluated.append(evaluator.evaluate_run(*pair, config))
    summaries = [run.summary for run in evaluated]
    if len(evaluated) > 1:
        with console.naming("together"):
            together = several_runs.evaluate_ensemble(evaluated, config)
        summaries.append(together.summary)
    _fail(summaries, config.fail_on)
    return summaries[-1]


def _fail(summaries: Sequence[Mapping[str, Any]], fail_on: str) -> None:
    """Raises DataError where `--fail_on` forbids what was found."""
    severities = {"none": (), "warning": ("warning", "error"), "error": ("error",)}
    codes = [
        warning["code"]
        for summary in summaries
        for warning in summary["warnings"]
        if warning["severity"] in severities[fail_on]
    ]
    if codes:
        raise cli.DataError(
            f"--fail_on={fail_on}: {', '.join(dict.fromkeys(codes))}; metrics.json "
            "says more under warnings"
        )


def compare(config: EvaluateConfig) -> dict[str, Any]:
    """Compares two runs on the same images; returns comparison.json's content.

    Raises:
      UsageError, DataError: as `evaluate`, or the runs' images differ.
    """
    if len(config.compare) != 2:
        raise cli.UsageError(
            f"--compare {' '.join(config.compare)}: expected two run folders, received "
            f"{len(config.compare)}"
        )
    opened = opening.open_runs([pathlib.Path(p) for p in config.compare], config)
    startup.load_tensorflow()
    from cxr.evaluation import several_runs

    return several_runs.compare_runs(opened[0], opened[1], config)


def main(argv: list[str]) -> int:
    """Runs the command line."""
    config, positional = cli.parse(argv, EvaluateConfig, usage=_USAGE)
    if config.compare:
        both = dataclasses.replace(config, compare=(*config.compare, *positional))
        console.say(compare(both)["verdict"])
        return 0
    cli.reject_positional(positional)
    with contextlib.ExitStack() as sent:
        for run in run_folders.opened(config.workdir):
            sent.enter_context(run.sending())
        evaluate(config)
    return 0


if __name__ == "__main__":
    cli.run(main)
