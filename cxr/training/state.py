"""Where a run is, and its checkpoints: the newest states and the best weights."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from cxr import cli, runs
from cxr.training import checkpoints, schedules


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

    @property
    def name(self) -> str:
        """Name of the checkpoint at this moment; later moments sort later."""
        return f"step-{self.step:08d}-epoch-{len(self.rows):04d}-stage-{self.stage}"


class StateFolder:
    """A run's `checkpoints/`: states to resume from, and the best epochs' weights.

    Args:
      workdir: the run folder.
      keep: newest states that stay.
      best_metric: which epoch counts as best, see `schedules.best_row`.
    """

    def __init__(self, workdir: pathlib.Path, *, keep: int, best_metric: str):
        self._folder = workdir / runs.CHECKPOINTS
        self._keep, self._best_metric = keep, best_metric

    def newest(self) -> tuple[checkpoints.Checkpoint | None, list[str]]:
        """Returns the newest valid state and a line for each damaged one after it."""
        return checkpoints.load_newest(self._folder, "step")

    def save(self, position: Position, variables: dict[str, np.ndarray]) -> None:
        """Saves the state of this moment."""
        state = dataclasses.asdict(position)
        checkpoint = checkpoints.Checkpoint(position.name, variables, state)
        checkpoints.save(self._folder, checkpoint, keep=self._keep)

    def save_if_best(self, position: Position, weights: list[np.ndarray]) -> None:
        """Keeps the weights when the epoch that just ended is the best so far."""
        epoch = len(position.rows)
        if self.best_epoch(position) != epoch:
            return
        arrays = {f"{index:03d}": array for index, array in enumerate(weights)}
        checkpoint = checkpoints.Checkpoint(_best_name(epoch), arrays, {})
        # One more than states: falling back over damaged ones finds the best epoch
        # of that time, too.
        checkpoints.save(self._folder, checkpoint, keep=self._keep + 1)

    def best_epoch(self, position: Position) -> int:
        """Returns the best epoch of the history, counted from 1."""
        return schedules.best_row(position.rows, self._best_metric) + 1

    def best_weights(self, position: Position) -> list[np.ndarray]:
        """Reads the best epoch's weights; DataError when they are damaged."""
        path = self._folder / _best_name(self.best_epoch(position))
        try:
            arrays = checkpoints.load(path).arrays
        except checkpoints.Damaged as error:
            raise cli.DataError(
                f"{path}: the best epoch's weights are damaged ({error}); train again "
                "in another --workdir"
            ) from error
        return [arrays[name] for name in sorted(arrays)]


def _best_name(epoch: int) -> str:
    return f"best-{epoch:04d}"
