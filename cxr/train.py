"""Trains a classifier on a converted set: `python -m cxr.train --flagfile=...`."""

import dataclasses
import pathlib

from cxr import cli, files, runs
from cxr.config import PHANTOM, TrainConfig
from cxr.training import preflight

_USAGE = """
Trains a chest X-ray classifier on TFRecords made by tools.make_tfrecords.
The same command again resumes an interrupted run; a finished one says so.

  python -m cxr.train --flagfile=configs/quickstart.flags
  python -m cxr.train --flagfile=configs/vgg16.flags --data_dir=data --seed=1
"""


def train(config: TrainConfig) -> list[runs.Run]:
    """Trains one run, or one for each of `config.seeds`; returns them finished."""
    if config.dataset == PHANTOM:
        from cxr.synthesis import phantom_set

        phantom_set.ensure(config.data_dir)
    each = _one_config_a_seed(config)
    for single in each:
        preflight.check_run_folder(single)
    record_set = preflight.open_data(config)

    # TensorFlow comes in here: only after everything that can be refused.
    from cxr.training import trainer

    found = [trainer.train(single, record_set) for single in each]
    for run in found:
        _say_what_next(run)
    return found


def main(argv: list[str]) -> int:
    """Runs the command line."""
    config, positional = cli.parse(argv, TrainConfig, usage=_USAGE)
    cli.reject_positional(positional)
    default = _default_workdir(argv) + (
        f"-fold{config.fold}" if config.fold >= 0 else ""
    )
    workdir = files.without_links(config.workdir or default)
    train(dataclasses.replace(config, workdir=workdir))
    return 0


def _default_workdir(argv: list[str]) -> str:
    """Returns runs/ + the stem of the last flagfile, the model's name without one."""
    stem = "default"
    for index, arg in enumerate(argv):
        name, _, value = arg.partition("=")
        if name.lstrip("-") == "flagfile":
            stem = pathlib.Path(value or argv[index + 1]).stem
    return str(pathlib.Path("runs") / stem)


def _one_config_a_seed(config: TrainConfig) -> list[TrainConfig]:
    if not config.seeds:
        return [config]
    root = pathlib.Path(config.workdir)
    return [
        dataclasses.replace(
            config, seed=int(seed), seeds=(), workdir=str(root / f"seed-{seed}")
        )
        for seed in config.seeds
    ]


def _say_what_next(run: runs.Run) -> None:
    epoch = run.info.best_epoch
    row = runs.read_history(run.workdir)[epoch - 1]
    cli.say(
        f"\nfinished: {run.workdir}\n"
        f"  model     {run.model_path} (epoch {epoch}, validation loss "
        f"{row['val_loss']:.4f})\n"
        f"  history   {run.workdir / runs.HISTORY}, {run.workdir / runs.CURVES}\n"
        f"next: python -m cxr.evaluate --workdir={run.workdir} --split=test"
    )


if __name__ == "__main__":
    cli.run(main)
