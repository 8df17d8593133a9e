"""Saves and loads training state: a checkpoint directory is whole or ignored.

Layout of `checkpoints/step-00000120-epoch-0003/`: `arrays.npz` (every variable),
`state.json` (stage, step, history) and, written last, `commit.json` with the
SHA-256 of both. The directory is written under a temporary name, its files are
fsynced, then it is renamed. Imports no TensorFlow.
"""

import dataclasses
import io
import json
import os
import pathlib
import shutil
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from cxr import cli, documents, files, folders, runs, schedules

_ARRAYS, _STATE, _COMMIT = "arrays.npz", "state.json", "commit.json"
_KEPT_IN_TRAINING = 3  # states to walk back over when the newest are damaged
_MAX_ARRAYS_BYTES = 1 << 40  # 1 TiB: what the file holds is read, no more


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One saved state.

    Attributes:
      name: the directory's name; later states have later names in text order.
      arrays: variables by name.
      state: everything else, JSON-serialisable.
    """

    name: str
    arrays: dict[str, np.ndarray]
    state: dict[str, Any]


class Damaged(ValueError):
    """A checkpoint directory that is not what was written."""


def save(root: pathlib.Path, checkpoint: Checkpoint, *, keep: int) -> pathlib.Path:
    """Writes a checkpoint atomically, then removes all but the newest `keep`.

    Only names with the same first part (up to the first `-`) count as of its
    kind. One of the same name stays as it is when it holds the same state, so the
    moment of a save is never without a valid checkpoint.

    Raises:
      OSError: the disk is full or refuses; older checkpoints are untouched.
    """
    final = root / checkpoint.name
    temporary = files.temporary_name(final)
    root.mkdir(parents=True, exist_ok=True)
    if not _holds(final, checkpoint):
        shutil.rmtree(final, ignore_errors=True)
        try:
            _write(temporary, checkpoint)
            os.rename(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        files.fsync_path(root)
    _prune(root, checkpoint.name.partition("-")[0], keep)
    return final


def load_newest(root: pathlib.Path, kind: str) -> tuple[Checkpoint | None, list[str]]:
    """Loads the newest valid checkpoint, walking back over damaged ones.

    Args:
      root: the run's checkpoint folder; need not exist.
      kind: first part of the names, such as `step`.

    Returns:
      The checkpoint, None where there is no valid one, and a line for each
      damaged one that was passed over.
    """
    passed: list[str] = []
    for path in reversed(_find(root, kind)):
        try:
            return load(path), passed
        except Damaged as error:
            passed.append(f"{path}: {error}")
    return None, passed


def load(path: pathlib.Path) -> Checkpoint:
    """Loads one checkpoint; Damaged unless every byte is as it was written."""
    try:
        commit = documents.read(path / _COMMIT)
        contents = {
            name: folders.read_file(path / name, _MAX_ARRAYS_BYTES)
            for name in (_ARRAYS, _STATE)
        }
        for name, content in contents.items():
            if files.sha256_bytes(content) != commit.sha256(name):
                raise Damaged(f"{name} has changed since it was saved")
        loaded = _unpack(contents[_ARRAYS])
        state = documents.parse(contents[_STATE].decode()).content
    except Damaged:
        raise
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        MemoryError,
        zipfile.BadZipFile,
    ) as error:
        raise Damaged(str(error)) from error
    return Checkpoint(path.name, loaded, state)


def _unpack(data: bytes) -> dict[str, np.ndarray]:
    """Returns the arrays of an npz file, whose members are as large as they say."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if any(member.compress_type for member in archive.infolist()):
            raise ValueError(f"{_ARRAYS}: compressed members, which are not ours")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return dict(arrays)


def _holds(path: pathlib.Path, checkpoint: Checkpoint) -> bool:
    try:
        saved = load(path)
    except Damaged:
        return False
    return saved.state == checkpoint.state and (
        saved.arrays.keys() == checkpoint.arrays.keys()
        and all(
            saved.arrays[name].tobytes() == array.tobytes()
            for name, array in checkpoint.arrays.items()
        )
    )


def _write(temporary: pathlib.Path, checkpoint: Checkpoint) -> None:
    temporary.mkdir()
    np.savez(temporary / _ARRAYS, allow_pickle=False, **checkpoint.arrays)
    state = json.dumps(checkpoint.state).encode()
    (temporary / _STATE).write_bytes(state)
    commit = {
        _ARRAYS: files.sha256_file(temporary / _ARRAYS),
        _STATE: files.sha256_bytes(state),
    }
    for name in (_ARRAYS, _STATE):
        files.fsync_path(temporary / name)
    (temporary / _COMMIT).write_text(json.dumps(commit))
    files.fsync_path(temporary / _COMMIT)
    files.fsync_path(temporary)


def _find(root: pathlib.Path, kind: str) -> list[pathlib.Path]:
    return sorted(path for path in root.glob(f"{kind}-*") if path.is_dir())


def _prune(root: pathlib.Path, kind: str, keep: int) -> None:
    stale = _find(root, kind)[:-keep]
    stale += root.glob(f"{files.TEMPORARY_PREFIX}*")  # left by killed processes
    for path in stale:
        shutil.rmtree(path, ignore_errors=True)


# --- a run's checkpoints


@dataclasses.dataclass
class Position:
    """Where a run is; together with the step's variables, all of its state.

    Attributes:
      stage: index into the stages.
      first_step: global step at which the stage began.
      step: global step, the number of steps done.
      rows: the history, a row for each finished epoch.
    """

    stage: int = 0
    first_step: int = 0
    step: int = 0
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @classmethod
    def parse(cls, fields: documents.Fields) -> "Position":
        """Parses a checkpoint's state; ValueError names what is wrong."""
        first_step = fields.integer("first_step", 0)
        rows = [row.content for row in fields.sections("rows")]
        for number, row in enumerate(rows, start=1):
            as_text = {n: "" if v is None else str(v) for n, v in row.items()}
            runs.parse_row(as_text, number)
        return cls(
            stage=fields.integer("stage", 0, len(runs.STAGES)),
            first_step=first_step,
            step=fields.integer("step", first_step),
            rows=rows,
        )

    @property
    def name(self) -> str:
        """Name of the checkpoint at this moment; later moments sort later."""
        return f"step-{self.step:08d}-epoch-{len(self.rows):04d}-stage-{self.stage}"


def position_of(checkpoint: Checkpoint) -> Position:
    """Returns where a run was when a state was saved; ValueError if it holds none."""
    return Position.parse(documents.Fields(checkpoint.state))


class StateFolder:
    """A run's `checkpoints/`: states to resume from, and the best epochs' weights.

    Args:
      workdir: the run folder.
      keep: newest states that stay when the run is finished.
      best_metric: which epoch counts as best, see `schedules.best_row`.
      writes: False where another worker of the same run does.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        keep: int,
        best_metric: str,
        writes: bool = True,
    ):
        self._folder, self._writes = workdir / runs.CHECKPOINTS, writes
        self._keep, self._best_metric = keep, best_metric

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """Returns the newest valid state and a line for each damaged one after it.

        Raises:
          DataError: its state is none of a run.
        """
        checkpoint, passed = load_newest(self._folder, "step")
        if checkpoint is not None:
            with documents.reading(self._folder / checkpoint.name / _STATE):
                position_of(checkpoint)
        return checkpoint, passed

    def named(self, name: str) -> Checkpoint:
        """Returns the state of that name, which another worker has found valid.

        Raises:
          DataError: it cannot be read here.
        """
        try:
            return load(self._folder / name)
        except Damaged as error:
            raise cli.DataError(
                f"{self._folder / name}: the chief can read it, this worker cannot "
                f"({error}); do all share --workdir?"
            ) from error

    def save(self, position: Position, variables: dict[str, np.ndarray]) -> None:
        """Saves the state of this moment."""
        if not self._writes:
            return
        state = dataclasses.asdict(position)
        checkpoint = Checkpoint(position.name, variables, state)
        save(self._folder, checkpoint, keep=max(self._keep, _KEPT_IN_TRAINING))

    def save_if_best(
        self, position: Position, weights: Callable[[], list[np.ndarray]]
    ) -> None:
        """Keeps the weights when the epoch that just ended is the best so far.

        Args:
          position: where the run is.
          weights: called for them only then.
        """
        epoch = len(position.rows)
        if not self._writes or self.best_epoch(position) != epoch:
            return
        self.save_best(epoch, weights())

    def save_best(self, epoch: int, weights: list[np.ndarray]) -> None:
        """Keeps the weights of the best epoch."""
        arrays = {f"{index:03d}": array for index, array in enumerate(weights)}
        checkpoint = Checkpoint(_best_name(epoch), arrays, {})
        # One more than states: falling back over damaged ones finds the best epoch
        # of that time, too.
        save(self._folder, checkpoint, keep=max(self._keep, _KEPT_IN_TRAINING) + 1)

    def lacks_best(self, position: Position) -> bool:
        """Whether the best epoch's weights are none of the folder's.

        They are the published model's alone when the run was finished before.
        """
        if not position.rows:
            return False
        return not (self._folder / _best_name(self.best_epoch(position))).exists()

    def finish(self) -> None:
        """Removes what a finished run does not need to go on with more epochs.

        The best weights are its model's; where several states are kept, those of their
        best epochs are, too.
        """
        if self._keep > 1:
            _prune(self._folder, "best", self._keep + 1)
        else:
            for path in _find(self._folder, "best"):
                shutil.rmtree(path, ignore_errors=True)
        _prune(self._folder, "step", self._keep)

    def best_epoch(self, position: Position) -> int:
        """Returns the best epoch of the history, counted from 1."""
        return schedules.best_row(position.rows, self._best_metric) + 1

    def best_weights(self, position: Position) -> list[np.ndarray]:
        """Reads the best epoch's weights; DataError when they are damaged."""
        path = self._folder / _best_name(self.best_epoch(position))
        try:
            arrays = load(path).arrays
        except Damaged as error:
            raise cli.DataError(
                f"{path}: the best epoch's weights are damaged ({error}); train again "
                "in another --workdir"
            ) from error
        return [arrays[name] for name in sorted(arrays)]


def _best_name(epoch: int) -> str:
    return f"best-{epoch:04d}"
