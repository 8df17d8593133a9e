"""Refuses what cannot work before TensorFlow is imported, within a second."""

import os

from cxr import cli, folds, records, runs
from cxr.config import TrainConfig
from cxr.storage import sets
from cxr.training import pretrained

_RUN_FOLDER_BYTES = 64 << 20  # 64 MiB: curves, TensorBoard, a small model's states


def open_data(config: TrainConfig) -> records.RecordSet:
    """Finds and checks the data set of a run.

    Raises:
      DataError: no complete set, a damaged one, or one too small to train on.
      UsageError: flags that do not fit the set.
    """
    record_set = sets.find(config.data_dir, config.dataset)
    if config.fold >= 0:
        record_set = folds.fold(record_set, config.fold)
    records.check(record_set)
    check_fits(config, record_set)
    return record_set


def check_fits(config: TrainConfig, record_set: records.RecordSet) -> None:
    """Raises UsageError or DataError where flags and data set do not fit."""
    manifest = record_set.manifest
    if config.image_size > manifest.image_size:
        raise cli.UsageError(
            f"--image_size={config.image_size}: {record_set.path} stores "
            f"{manifest.image_size} pixels; use a smaller size, or convert again: "
            f"{records.CONVERT_COMMAND} --image_size={config.image_size} "
            "--version=NEW"
        )
    for split in ("train", "validation"):
        record_set.split(split)  # DataError when there is none
    count = manifest.splits["train"].num_examples
    if config.batch_size > count:
        raise cli.UsageError(
            f"--batch_size={config.batch_size}: the train split holds only {count} "
            "examples; use a smaller batch"
        )
    classes = manifest.class_names
    if config.head == "sigmoid" and len(classes) != 2:
        raise cli.UsageError(
            f"--head=sigmoid: needs two classes, {config.dataset} has {len(classes)}; "
            "use --head=softmax"
        )
    if config.positive_class and config.positive_class not in classes:
        raise cli.UsageError(
            f"--positive_class={config.positive_class}: expected one of "
            f"{', '.join(classes)}"
        )


def check_cluster(config: TrainConfig) -> None:
    """Raises UsageError where several workers are asked for and nobody names them."""
    if config.strategy != "multi_worker":
        return
    if not {"TF_CONFIG", "SLURM_PROCID"} & os.environ.keys():
        raise cli.UsageError(
            "--strategy=multi_worker: TF_CONFIG is not set, and this is no task of "
            "SLURM; to try it here: python -m tools.launch_local --workers=2 -- FLAGS"
        )


def check_run_folder(config: TrainConfig) -> None:
    """Raises where the run folder cannot be used; creates nothing."""
    workdir = config.run_folder
    if workdir.exists() and not workdir.is_dir():
        raise cli.UsageError(f"--workdir={workdir}: is a file; expected a folder")
    if config.resume == "never" and (workdir / runs.FLAGS).exists():
        raise cli.UsageError(
            f"--resume=never: {workdir} holds a run already; choose another --workdir"
        )
    if (free := runs.free_bytes(workdir)) < _RUN_FOLDER_BYTES:
        raise cli.StorageError(
            f"--workdir={workdir}: {free >> 20} MiB free on that disk, at least "
            f"{_RUN_FOLDER_BYTES >> 20} MiB needed"
        )
    if config.model == "vgg16":
        pretrained.check_weights_flag(config.weights)
