"""Judges trained runs on a split: `python -m cxr.evaluate --workdir=RUN`."""

import dataclasses
import os
import pathlib
from typing import Any

from cxr import cli, records, runs

_USAGE = """
Judges a trained run on a split of its data set, and writes metrics.json,
predictions.csv, pictures and report.html to RUN/evaluation-SPLIT/. Thresholds come
from validation; every reading of the test split is logged in the run folder.

  python -m cxr.evaluate --workdir=runs/vgg16 --split=test
  python -m cxr.evaluate --workdir=runs/a,runs/b,runs/c      also their ensemble
  python -m cxr.evaluate --compare runs/a runs/b             is b better than a?
"""


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """What is judged, on which films, and how thoroughly."""

    workdir: tuple[str, ...] = cli.option(
        (),
        "run folder; several (repeat the flag, or commas) also give mean, standard "
        "deviation and ensemble; a folder of --seeds runs stands for all of them",
    )
    split: str = cli.option("test", "films to judge on", choices=records.SPLITS)
    data_dir: str = cli.option("", "root of the converted sets (default: the run's)")
    dataset: str = cli.option("", "name of the converted set (default: the run's)")
    compare: tuple[str, ...] = cli.option(
        (), "two run folders: paired difference of the second to the first"
    )
    output_dir: str = cli.option(
        "",
        "where an ensemble or a comparison goes (default: evaluation-SPLIT in the "
        "runs' common parent, or comparison-SPLIT-with-A in the second run)",
    )
    batch_size: int = cli.option(32, "films a forward pass", lower=1, upper=4096)
    cache: str = cli.option(
        "auto", "decoded films in memory or streamed", choices=("auto", "ram", "none")
    )
    draws: int = cli.option(
        1000, "patient resamples behind each interval", lower=100, upper=100_000
    )
    seed: int = cli.option(0, "seed of resampling and of the films shown", lower=0)
    explain: int = cli.option(
        24, "films explained by Grad-CAM; 0 = none", lower=0, upper=10_000
    )
    report: bool = cli.option(True, "also draw the pictures and write report.html")

    def validate(self) -> None:
        """Refuses what does not go together."""
        if bool(self.workdir) == bool(self.compare):
            raise cli.UsageError(
                "expected either --workdir=RUN (one or several) or "
                f"--compare RUN_A RUN_B, received --workdir={','.join(self.workdir)} "
                f"--compare={','.join(self.compare)}"
            )


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Judges each run of `config.workdir`, and their ensemble if there are several.

    Returns:
      The content of metrics.json: of the run, or of the ensemble.

    Raises:
      UsageError: no such run folder, or films smaller than the model's input.
      DataError: an unfinished or damaged run, or data that do not fit it.
    """
    opened = [_open(path, config) for path in _expand(config.workdir)]
    from cxr.evaluation import evaluator, several_runs

    options = _options(config)
    found = [
        evaluator.judge_run(run, record_set, options) for run, record_set in opened
    ]
    if len(found) == 1:
        return found[0].summary
    return several_runs.judge_ensemble(found, options, _ensemble_folder(config)).summary


def compare(config: EvaluateConfig) -> dict[str, Any]:
    """Compares two runs on the same films; returns comparison.json's content.

    Raises:
      UsageError, DataError: as `evaluate`, or the runs' films differ.
    """
    if len(config.compare) != 2:
        raise cli.UsageError(
            f"--compare {' '.join(config.compare)}: expected two run folders, received "
            f"{len(config.compare)}"
        )
    opened = [_open(pathlib.Path(path), config) for path in config.compare]
    from cxr.evaluation import several_runs

    folder = pathlib.Path(config.output_dir) if config.output_dir else None
    return several_runs.judge_pair(opened[0], opened[1], _options(config), folder)


def main(argv: list[str]) -> int:
    """Runs the command line."""
    config, positional = cli.parse(argv, EvaluateConfig, usage=_USAGE)
    if config.compare:
        both = dataclasses.replace(config, compare=(*config.compare, *positional))
        print(compare(both)["verdict"])
        return 0
    cli.reject_positional(positional)
    evaluate(config)
    return 0


def _options(config: EvaluateConfig) -> Any:
    from cxr.evaluation import evaluator

    shared = [field.name for field in dataclasses.fields(evaluator.Options)]
    return evaluator.Options(**{name: getattr(config, name) for name in shared})


def _expand(workdirs: tuple[str, ...]) -> list[pathlib.Path]:
    """Run folders; the folder above seed-0, seed-1, ... stands for all of them."""
    found = []
    for workdir in map(pathlib.Path, workdirs):
        seeds = sorted(p.parent for p in workdir.glob(f"seed-*/{runs.MODEL_INFO}"))
        found += seeds if seeds and runs.read_model_info(workdir) is None else [workdir]
    return found


def _open(
    workdir: pathlib.Path, config: EvaluateConfig
) -> tuple[runs.Run, records.RecordSet]:
    run = runs.open_run(workdir)
    record_set = find_data(run, config.data_dir, config.dataset)
    if record_set.manifest.class_names != run.class_names:
        raise cli.DataError(
            f"{record_set.path} has the classes "
            f"{', '.join(record_set.manifest.class_names)}, {workdir} was trained on "
            f"{', '.join(run.class_names)}"
        )
    if run.info["image_size"] > record_set.manifest.image_size:
        raise cli.UsageError(
            f"{record_set.path} stores {record_set.manifest.image_size} pixels, the "
            f"model of {workdir} takes {run.info['image_size']}; convert again with "
            f"{records.CONVERT_COMMAND} --image_size={run.info['image_size']}"
        )
    if not record_set.split(config.split).num_examples:
        raise cli.DataError(f"{record_set.path}: the split {config.split} is empty")
    records.check(record_set)
    return run, record_set


def find_data(
    run: runs.Run, data_dir: str = "", dataset: str = ""
) -> records.RecordSet:
    """The set that is asked for, by default the very version the run trained on."""
    trained_on = run.info["data"]
    root = pathlib.Path(data_dir or trained_on["data_dir"])
    own = root / trained_on["dataset"] / trained_on["version"]
    if not dataset and (own / records.MANIFEST).is_file():
        return records.load(own)
    return records.find(root, dataset or trained_on["dataset"])


def _ensemble_folder(config: EvaluateConfig) -> pathlib.Path:
    if config.output_dir:
        return pathlib.Path(config.output_dir)
    parents = [str(path.resolve().parent) for path in _expand(config.workdir)]
    return pathlib.Path(os.path.commonpath(parents)) / f"evaluation-{config.split}"


if __name__ == "__main__":
    cli.run(main)
