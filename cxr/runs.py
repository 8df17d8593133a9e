"""Reads and writes the run folder: model.json, history, lock, identity.

Training writes it; evaluation and prediction read it. Imports no TensorFlow.
"""

import contextlib
import csv
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from typing import Any

from cxr import cli, files, platforms, records
from cxr.config import TrainConfig, result_fields

SCHEMA = 1
FLAGS = "run.flags"
ENVIRONMENT = "environment.json"
HISTORY = "history.csv"
CURVES = "curves.png"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
FEATURES = "features"
MODEL = "best_xray_model.keras"
MODEL_INFO = "model.json"
_LOCK = ".lock"
_SHOWN_PACKAGES = ("tensorflow", "keras", "keras-cv", "numpy", "pillow", "scikit-learn")

# The first columns repeat bit for bit under --deterministic; times do not.
REPRODUCIBLE_COLUMNS = (
    "epoch",
    "stage",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "val_roc_auc",
    "learning_rate",
)
TIME_COLUMNS = ("seconds", "images_per_sec", "input_wait_share")


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run: its folder, model.json's content and its configuration."""

    workdir: pathlib.Path
    info: dict[str, Any]
    config: TrainConfig

    @property
    def model_path(self) -> pathlib.Path:
        """The Keras model file, its SHA-256 already checked."""
        return self.workdir / self.info["model_file"]

    @property
    def data_path(self) -> pathlib.Path:
        """The version folder of the set that the run was trained on."""
        data = self.info["data"]
        return pathlib.Path(data["data_dir"], data["dataset"], data["version"])

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names; column i of the probabilities is `class_names[i]`."""
        return tuple(self.info["class_names"])

    @property
    def positive_index(self) -> int:
        """Column of the positive class."""
        return self.class_names.index(self.info["positive_class"])


def open_run(workdir: str | os.PathLike) -> Run:
    """Reads a finished run.

    Raises:
      UsageError: no such folder.
      DataError: the run is unfinished, or its model changed since training.
    """
    workdir = pathlib.Path(workdir)
    if not workdir.is_dir():
        raise cli.UsageError(f"--workdir={workdir}: no such folder; train one first")
    info = read_model_info(workdir)
    if info is None:
        raise cli.DataError(
            f"--workdir={workdir}: holds no finished run ({MODEL_INFO} is missing); "
            "repeat the training command to finish it"
        )
    model = workdir / info["model_file"]
    if not model.is_file() or files.sha256_file(model) != info["model_sha256"]:
        raise cli.DataError(
            f"{model}: missing, or changed since training ({MODEL_INFO} holds another "
            "sha256); train again, or restore the file"
        )
    return Run(workdir, info, read_config(workdir))


def read_model_info(workdir: pathlib.Path) -> dict[str, Any] | None:
    """Returns model.json's content, None where there is none yet."""
    path = workdir / MODEL_INFO
    if not path.is_file():
        return None
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        if info["schema"] != SCHEMA:
            raise ValueError(f"schema {info['schema']}, this version reads {SCHEMA}")
    except (ValueError, KeyError, TypeError) as error:
        raise cli.DataError(f"{path}: not a run's model.json: {error}") from error
    return info


def read_config(workdir: pathlib.Path) -> TrainConfig:
    """Reads run.flags back into the configuration that wrote it."""
    path = workdir / FLAGS
    if not path.is_file():
        raise cli.DataError(f"{path}: missing; the run folder is damaged")
    config, _ = cli.parse(["", f"--flagfile={path}"], TrainConfig, usage="")
    return config


def read_data_fingerprint(workdir: pathlib.Path) -> str | None:
    """Returns the fingerprint of the data the run began with, None if unknown."""
    path = workdir / ENVIRONMENT
    if not path.is_file():
        return None
    return json.loads(path.read_text(encoding="utf-8"))["data"]["fingerprint"]


def write_json(path: pathlib.Path, document: dict[str, Any]) -> None:
    """Publishes a JSON document, indented for people."""
    files.publish(path, json.dumps(document, indent=2) + "\n")


def write_history(workdir: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """Publishes history.csv; equal numbers give equal text."""
    columns = REPRODUCIBLE_COLUMNS + TIME_COLUMNS
    known = ({name: row.get(name) for name in columns} for row in rows)
    files.publish_csv(workdir / HISTORY, columns, known, line_end="\r\n")


def read_history(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Returns history.csv's rows: epoch int, stage str, the rest float or None."""
    with open(workdir / HISTORY, newline="", encoding="utf-8") as file:
        return [
            {name: _parse_cell(name, text) for name, text in row.items()}
            for row in csv.DictReader(file)
        ]


def free_bytes(path: pathlib.Path) -> int:
    """Returns the free bytes of the disk on which `path` lies or will lie."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


@contextlib.contextmanager
def lock(workdir: pathlib.Path) -> Iterator[None]:
    """Holds the run folder for one trainer.

    The kernel drops the lock when its process ends, however it ends, so a stale
    lock cannot exist; the file only tells who holds it.

    Raises:
      UsageError: another process is training in this folder.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / _LOCK, "a+", encoding="utf-8") as file:
        if not platforms.try_lock(file):
            file.seek(0)
            raise cli.UsageError(
                f"--workdir={workdir}: process {file.read().strip() or '?'} is "
                "training there; wait for it, or choose another --workdir"
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _parse_cell(name: str, text: str) -> Any:
    if name == "stage":
        return text
    if name == "epoch":
        return int(text)
    return float(text) if text else None


# --- identity: where a run comes from, and whether it may go on


def data_identity(config: TrainConfig, manifest: records.Manifest) -> dict[str, str]:
    """Returns what tells one data set from another in the run folder."""
    return {
        "data_dir": str(pathlib.Path(config.data_dir).resolve()),
        "dataset": manifest.name,
        "version": manifest.version,
        "fingerprint": manifest.fingerprint,
    }


def publish_settings(
    workdir: pathlib.Path,
    config: TrainConfig,
    record_set: records.RecordSet,
    *,
    device_names: tuple[str, ...],
    replicas: int,
    precision: str,
) -> None:
    """Writes run.flags and environment.json; the folder counts as unfinished."""
    environment = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {
            name: importlib.metadata.version(name) for name in _SHOWN_PACKAGES
        },
        "git_commit": _git_commit(),
        "devices": list(device_names),
        "replicas": replicas,
        "precision": precision,
        "data": data_identity(config, record_set.manifest),
    }
    write_json(workdir / ENVIRONMENT, environment)
    files.publish(workdir / FLAGS, cli.to_flags(config))
    # From here on the folder is unfinished, whatever it was before.
    (workdir / MODEL_INFO).unlink(missing_ok=True)


def _git_commit() -> str | None:
    """Returns the commit of our own checkout, None where this code is not from one.

    Whatever holds an installed package may be in a repository of somebody else's. Ours
    begins in the folder beside the package, has this file and calls its project cxr.
    """
    file = pathlib.Path(__file__)
    root = file.parents[1]
    tracked = f"HEAD:./{file.relative_to(root).as_posix()}"
    command = ["git", "-C", str(root), "rev-parse", "--show-prefix", "HEAD", tracked]
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
        found = subprocess.run(command, capture_output=True, text=True)
    except (OSError, ValueError, KeyError):  # no project, no git
        return None
    if found.returncode or project.get("name") != "cxr":
        return None
    prefix, commit, _ = found.stdout.splitlines()
    return None if prefix else commit


def finished(workdir: pathlib.Path, config: TrainConfig) -> Run | None:
    """Returns the run where the folder holds all the epochs asked for, else None."""
    if read_model_info(workdir) is None:
        return None
    run = open_run(workdir)
    lengths = ("epochs", "fine_tune_epochs")
    same = all(getattr(run.config, name) == getattr(config, name) for name in lengths)
    return run if same else None


def check_same_run(
    workdir: pathlib.Path, config: TrainConfig, record_set: records.RecordSet
) -> None:
    """Refuses to go on with a run whose result other flags or data would change.

    Raises:
      UsageError: naming what differs, unless `config.resume` is `force`.
    """
    if not (workdir / FLAGS).exists() or config.resume == "force":
        return
    before, now = result_fields(read_config(workdir)), result_fields(config)
    changed = [
        f"--{name}: {before[name]} in the run, {now[name]} now"
        for name in now
        if before[name] != now[name]
    ]
    identity = data_identity(config, record_set.manifest)["fingerprint"]
    trained_on = read_data_fingerprint(workdir)
    if trained_on not in (None, identity):
        changed.append(
            f"data fingerprint: {trained_on[:12]} in the run, {identity[:12]}"
        )
    if changed:
        shown = "\n".join(changed[:3]) + ("\n..." if len(changed) > 3 else "")
        raise cli.UsageError(
            f"--workdir={workdir} holds a run with other settings:\n{shown}\n"
            "choose another --workdir, or go on all the same: --resume=force"
        )
