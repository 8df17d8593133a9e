"""Trains a classifier on a converted set: `python -m cxr.train --flagfile=...`."""

import dataclasses
import pathlib

from cxr import cli, console, files, runs, startup
from cxr.config import PHANTOM, TrainConfig
from cxr.storage import places, run_folders
from cxr.training import preflight

_USAGE = """
Trains a chest X-ray classifier on TFRecords made by tools.make_tfrecords.
The same command again resumes an interrupted run; a finished one says so.

  python -m cxr.train --flagfile=configs/quickstart.flags
  python -m cxr.train --flagfile=configs/vgg16.flags --data_dir=data --seed=1
"""


def train(config: TrainConfig) -> list[runs.Run]:
    """Trains one run, or one for each of `config.seeds`; returns them finished."""
    said: list[str] = []  # there is no log before there is a run folder
    with console.copying(said.append):
        preflight.check_cluster(config)
        if config.dataset == PHANTOM:
            from cxr.synthesis import phantom_set

            if places.is_remote(config.data_dir):
                raise cli.UsageError(
                    f"--data_dir={config.data_dir}: --dataset={PHANTOM} is made on the "
                    "spot, in a folder of this machine"
                )
            if config.strategy == "multi_worker" and not phantom_set.is_made(
                config.data_dir
            ):
                raise cli.UsageError(
                    f"--dataset={PHANTOM}: is drawn by one process; begin this "
                    "training once without --strategy=multi_worker"
                )
            phantom_set.ensure(config.data_dir)
        each = _one_config_a_seed(config)
        for single in each:
            run_folders.fetched(single.workdir)
            preflight.check_run_folder(single)
        record_set = preflight.open_data(config)

        # TensorFlow comes in here: only after everything that can be refused.
        startup.load_tensorflow()
    from cxr.training import trainer

    found = []
    for single in each:
        with console.naming(f"seed-{single.seed}" if config.seeds else ""):
            found.append(trainer.train(single, record_set, said=said))
    return found


def main(argv: list[str]) -> int:
    """Runs the command line."""
    config, positional = cli.parse(argv, TrainConfig, usage=_USAGE)
    cli.reject_positional(positional)
    default = _default_workdir(argv) + (
        f"-fold{config.fold}" if config.fold >= 0 else ""
    )
    workdir = config.workdir or default
    if not places.is_remote(workdir):
        workdir = files.without_links(workdir)
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
    return [
        dataclasses.replace(
            config,
            seed=int(seed),
            seeds=(),
            workdir=places.joined(config.workdir, f"seed-{seed}"),
        )
        for seed in config.seeds
    ]


if __name__ == "__main__":
    cli.run(main)
