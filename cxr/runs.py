"""Reads and writes the run folder: model, flags, history, lock.

Training writes it; evaluation and prediction read it. What is read is parsed: a run
folder may be anybody's. Imports no TensorFlow.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cxr import (
    cli,
    documents,
    environment,
    files,
    folds,
    locks,
    model_file,
    records,
    tables,
)
from cxr.config import TrainConfig, result_fields
from cxr.input_guard import InputGuard
from cxr.model_info import ModelInfo
from cxr.storage import places

FLAGS = "run.flags"
HISTORY = "history.csv"
CURVES = "curves.png"
TRAIN_LOG = "train.log"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
FEATURES = "features"
MODEL = "best_xray_model.keras"
# The model that the next model.json speaks of, until it takes the place of the last.
NEXT_MODEL = "best_xray_model.next.keras"
MODEL_INFO = "model.json"
TEST_READS = "test_reads.csv"
_LOCK = ".lock"
CARD = "MODEL_CARD.md"
_FILES = frozenset(
    (CARD, FLAGS, HISTORY, MODEL_INFO, TEST_READS, TRAIN_LOG, environment.FILE)
)

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
_COLUMNS = REPRODUCIBLE_COLUMNS + TIME_COLUMNS
STAGES = ("train", "head", "fine_tune")


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
      workdir: its folder.
      info: what model.json says.
      config: the flags that the model was trained with.
      model_path: the Keras model file, its SHA-256 already checked.
    """

    workdir: pathlib.Path
    info: ModelInfo
    config: TrainConfig
    model_path: pathlib.Path

    @property
    def data_path(self) -> pathlib.Path:
        """The version folder of the set that the run was trained on."""
        data = self.info.data
        root = places.local(data.data_dir, places.SETS)
        return root / data.dataset / data.version

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names; column i of the probabilities is `class_names[i]`."""
        return self.info.class_names

    @property
    def is_latest(self) -> bool:
        """Whether no training with other flags has begun in the folder since."""
        now = read_config(self.workdir)
        return result_fields(now) == result_fields(self.config)

    @property
    def threshold(self) -> float | None:
        """Positive from this probability on; None of more than two classes."""
        return self.info.threshold.value if self.info.threshold else None

    def of_fold(self, record_set: records.RecordSet) -> records.RecordSet:
        """Returns the fold of a set that the run tests on; another set as it is."""
        if self.config.fold < 0 or not record_set.manifest.num_folds:
            return record_set
        fold = folds.fold(record_set, self.config.fold)
        return fold if self._has_trained_on(fold) else record_set

    def trained_on(self) -> records.RecordSet | None:
        """Returns the set that trained the run, None where it has gone or changed.

        Raises:
          DataError: its manifest is damaged.
        """
        if not (self.data_path / records.MANIFEST).is_file():
            return None
        own = self.of_fold(records.load(self.data_path))
        return own if self._has_trained_on(own) else None

    def _has_trained_on(self, record_set: records.RecordSet) -> bool:
        return record_set.manifest.fingerprint == self.info.data.fingerprint

    def read_guard(self) -> InputGuard | None:
        """Returns what tells films unlike those of training; None without one.

        Raises:
          DataError: what the model file holds is no guard.
        """
        with documents.reading(self.model_path):
            return model_file.read_guard(self.model_path)

    @property
    def positive_index(self) -> int:
        """Column of the positive class."""
        return self.class_names.index(self.info.positive_class)


def open_run(workdir: str | os.PathLike) -> Run:
    """Reads a finished run.

    Raises:
      UsageError: no such folder.
      DataError: the run is unfinished, changed since training, or not one of ours.
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
    model = _find_model(workdir, info)
    with documents.reading(model):
        model_file.check(model, info)
    return Run(workdir, info, _trained_with(workdir, info), model)


def read_model_info(workdir: pathlib.Path) -> ModelInfo | None:
    """Returns model.json's content, None where there is none yet.

    Raises:
      DataError: naming the field that is wrong.
    """
    path = workdir / MODEL_INFO
    if not os.path.lexists(path):
        return None
    with documents.reading(path):
        return ModelInfo.parse(documents.read(path))


def publish_model_info(workdir: pathlib.Path, info: ModelInfo) -> None:
    """Publishes model.json; then the model it speaks of takes its place.

    The model must lie under `NEXT_MODEL`. Until model.json changes, the run is the one
    from before; from then on it is the new one, found under either name.
    """
    files.publish(workdir / MODEL_INFO, info.to_json())
    settle(workdir)


def settle(workdir: pathlib.Path) -> None:
    """Finishes what a kill may have left of `publish_model_info`; the lock is held."""
    after = workdir / NEXT_MODEL
    if not after.is_file():
        return
    info = read_model_info(workdir)
    if info and files.sha256_file(after) == info.model_sha256:
        os.replace(after, workdir / info.model_file)
        files.fsync_path(workdir)


def _find_model(workdir: pathlib.Path, info: ModelInfo) -> pathlib.Path:
    for name in (info.model_file, NEXT_MODEL):
        path = workdir / name
        if path.is_file() and files.sha256_file(path) == info.model_sha256:
            return path
    raise cli.DataError(
        f"{workdir / info.model_file}: missing, or changed since training "
        f"({MODEL_INFO} holds another sha256); train again, or restore the file"
    )


def _trained_with(workdir: pathlib.Path, info: ModelInfo) -> TrainConfig:
    """Returns the flags of the published model.

    Its own, because run.flags may be those of a training that goes on since; runs of
    before have no other.
    """
    if info.flags is None:
        return read_config(workdir)
    with documents.reading(workdir / MODEL_INFO):
        return parse_flags(info.flags)


def read_config(workdir: pathlib.Path) -> TrainConfig:
    """Reads run.flags back into the configuration that wrote it.

    Raises:
      DataError: it is missing, or holds anything but flags of training.
    """
    path = workdir / FLAGS
    if not path.exists():
        raise cli.DataError(f"{path}: missing; the run folder is damaged")
    with documents.reading(path):
        return parse_flags(documents.read_text(path).splitlines())


def flag_lines(config: TrainConfig) -> tuple[str, ...]:
    """Returns what `parse_flags` gives `config` back from."""
    return tuple(cli.to_flags(config).splitlines())


def parse_flags(lines: Sequence[str]) -> TrainConfig:
    """Returns the configuration of flags, `--name=value` each; comments are skipped.

    Raises:
      ValueError: another line, such as a flagfile's name.
    """
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    args = [line.strip() for line in lines]
    args = [arg for arg in args if arg and not arg.startswith(("#", "//"))]
    for arg in args:
        match = re.fullmatch(r"--(\w+)(=.*)?", arg)
        if not match or not {match[1], match[1].removeprefix("no")} & known:
            raise ValueError(f"{arg!a}: expected flags of training, --name=value")
    try:
        return cli.parse(["", *args], TrainConfig, usage="")[0]
    except (cli.UsageError, cli.UnavailableError) as error:
        raise ValueError(str(error)) from error


def members(workdirs: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    """Returns run folders; one above seed-0, seed-1, ... stands for all of these."""
    found: list[pathlib.Path] = []
    for workdir in workdirs:
        seeds = sorted(path.parent for path in workdir.glob(f"seed-*/{MODEL_INFO}"))
        found += seeds if seeds and read_model_info(workdir) is None else [workdir]
    return found


def owns(workdir: pathlib.Path, path: str | os.PathLike) -> bool:
    """Whether a path is, or would be, one of the files that make up a run folder.

    A table of predictions beside them is not.
    """
    real, home = pathlib.Path(os.path.realpath(path)), workdir.resolve()
    if not real.is_relative_to(home):
        return False
    return real.parent != home or real.name in _FILES


def write_json(path: pathlib.Path, document: dict[str, Any]) -> None:
    """Publishes a JSON document, indented for people."""
    files.publish(path, json.dumps(document, indent=2) + "\n")


def write_history(workdir: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """Publishes history.csv; equal numbers give equal text."""
    known = ({name: row.get(name) for name in _COLUMNS} for row in rows)
    tables.publish(workdir / HISTORY, _COLUMNS, known, line_end="\r\n")


def read_history(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Returns history.csv's rows: epoch int, stage str, the rest float or None.

    Raises:
      DataError: it is missing, or no history.
    """
    path = workdir / HISTORY
    if not path.exists():
        raise cli.DataError(f"{path}: missing; the run folder is damaged")
    with documents.reading(path):
        rows = tables.parse_records(documents.read_text(path))
        return [parse_row(row, number) for number, row in enumerate(rows, start=1)]


def parse_row(row: dict[str, str], number: int) -> dict[str, Any]:
    """Parses a row of history.csv; ValueError unless it is of epoch `number`."""
    if missing := set(REPRODUCIBLE_COLUMNS) - row.keys():
        raise ValueError(f"no column {min(missing)!r}")
    if row["epoch"] != str(number):
        raise ValueError(f"epoch {row['epoch']!a} in row {number}")
    if row["stage"] not in STAGES:
        raise ValueError(f"stage {row['stage']!a}, expected one of {STAGES}")
    return {
        "epoch": number,
        "stage": row["stage"],
        **{n: _number(n, t) for n, t in row.items() if n not in ("epoch", "stage")},
    }


def _number(name: str, text: str) -> float | None:
    value = float(text) if text else None
    # A validation loss may overflow; what has been trained on has not.
    overflows = name.startswith("val_")
    if value is not None and not math.isfinite(value) and not overflows:
        raise ValueError(f"{name} is {text!a}, expected a finite number")
    return value


def count_test_reads(workdir: pathlib.Path) -> int:
    """Returns how often a run has read a test split."""
    path = workdir / TEST_READS
    if not path.exists():
        return 0
    with documents.reading(path):
        return len(tables.parse(documents.read_text(path))) - 1


def free_bytes(path: pathlib.Path) -> int:
    """Returns the free bytes of the disk on which `path` lies or will lie."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


@contextlib.contextmanager
def lock(workdir: pathlib.Path) -> Iterator[None]:
    """Holds the run folder for one trainer.

    Raises:
      UsageError: another process is training in this folder.
      DataError: a link stands in it, or something else in the lock's place.
    """

    def refusal(holder: str) -> cli.UsageError:
        return cli.UsageError(
            f"--workdir={workdir}: {holder} is training there; wait for it, or choose "
            "another --workdir"
        )

    workdir.mkdir(parents=True, exist_ok=True)
    files.refuse_links(workdir)
    with locks.hold(workdir / _LOCK, refusal):
        yield
