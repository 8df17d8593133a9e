"""Shows training to a person: progress bar, a line an epoch, TensorBoard."""

import time
from typing import Any

import numpy as np
from tqdm import tqdm

from cxr import console, pulse, records, runs
from cxr.config import TrainConfig
from cxr.storage import places
from cxr.training import board, curves

_MIB = 1 << 20


def size(num_bytes: float) -> str:
    """Returns bytes as MiB or GiB for people."""
    mebibytes = num_bytes / _MIB
    return (
        f"{mebibytes / 1024:.1f} GiB" if mebibytes >= 1024 else f"{mebibytes:.0f} MiB"
    )


def counts(manifest: records.Manifest) -> str:
    """Returns `train 4,434 (1,140 NORMAL, ...)` and so on, for people."""
    parts = []
    for split in manifest.splits.values():
        classes = ", ".join(f"{n:,} {name}" for name, n in split.class_counts.items())
        parts.append(f"{split.name} {split.num_examples:,} ({classes})")
    return ", ".join(parts)


def say(message: str) -> None:
    """Prints a line at once, also into a pipe."""
    console.say(message)


def say_finished(run: runs.Run, workdir: str, *, latest: bool) -> None:
    """Says what a finished run has, and what may be done with it.

    Args:
      run: the run.
      workdir: how the flags name it: a folder, or a URL whose copy was trained in.
      latest: whether history.csv is its own, and not that of a training begun since.
    """
    best = f"epoch {run.info.best_epoch}"
    if latest:
        row = runs.read_history(run.workdir)[run.info.best_epoch - 1]
        best += f", validation loss {row['val_loss']:.4f}"
    names = (run.model_path.name, runs.HISTORY, runs.CURVES)
    model, table, curve = (places.joined(workdir, name) for name in names)
    say(
        f"\nfinished: {workdir}\n"
        f"  model     {model} ({best})\n"
        f"  history   {table}, {curve}\n"
        f"next: python -m cxr.evaluate --workdir={workdir} --split=test"
    )


class EpochProgress:
    """A progress bar over an epoch's steps that also keeps the times.

    Args:
      title: what the bar says, such as `epoch 3/10`.
      steps: steps of the epoch.
      done: steps already done before a resume.
      batch_size: images a step.
      show: on terminals only; False never.
    """

    def __init__(
        self, title: str, *, steps: int, done: int, batch_size: int, show: bool
    ):
        self._bar = tqdm(
            total=steps * batch_size,
            initial=done * batch_size,
            desc=title,
            unit="image",
            disable=None if show else True,
            leave=False,
        )
        self._title, self._begun, self._all = title, done, steps
        self._batch_size, self._steps = batch_size, 0
        self._begin = time.perf_counter()
        self._shown = (0, self._begin)  # steps and time of the last figures
        self._waited: float | None = 0.0

    def advance(self, steps: int, waited: float | None) -> None:
        """Counts steps; `waited` is the seconds spent on input, None if unknown."""
        self._steps += steps
        self._waited = None if waited is None else (self._waited or 0.0) + waited
        self._bar.update(steps * self._batch_size)
        pulse.at(f"{self._title}, step {self._begun + self._steps} of {self._all}")

    def show(self, totals: dict[str, float | None]) -> None:
        """Shows the running loss and accuracy beside the bar."""
        shown = {name: f"{v:.4f}" for name, v in totals.items() if v is not None}
        if self._waited is not None:
            seconds = max(time.perf_counter() - self._begin, 1e-9)
            shown["input wait"] = f"{self._waited / seconds:.0%}"
        self._bar.set_postfix(shown)

    def images_per_sec(self) -> float:
        """Returns the rate since it was last asked for, of an epoch at first."""
        steps, begin = self._shown
        self._shown = (self._steps, time.perf_counter())
        seconds = max(self._shown[1] - begin, 1e-9)
        return (self._steps - steps) * self._batch_size / seconds

    def close(self) -> dict[str, float | None]:
        """Removes the bar; returns the history's time columns."""
        self._bar.close()
        seconds = max(time.perf_counter() - self._begin, 1e-9)
        share = None if self._waited is None else self._waited / seconds
        return {
            "seconds": seconds,
            "images_per_sec": self._steps * self._batch_size / seconds,
            "input_wait_share": share,
        }


class RunLog:
    """Everything written for people after an epoch: CSV, curves, TensorBoard.

    Args:
      config: the run's flags.
    """

    def __init__(self, config: TrainConfig):
        self._config, self._workdir = config, config.run_folder
        self._board = None
        if config.tensorboard:
            self._board = board.Board(self._workdir / runs.TENSORBOARD, config)

    def step(
        self,
        step: int,
        totals: dict[str, float | None],
        *,
        rate: float,
        images_per_sec: float,
    ) -> None:
        """Writes the figures of a moment within an epoch."""
        if self._board:
            numbers = {"learning_rate": rate, "images_per_sec": images_per_sec}
            self._board.step(step, totals | numbers)

    def epoch(self, rows: list[dict[str, Any]]) -> None:
        """Publishes the history up to its last row, and says it in one line."""
        runs.write_history(self._workdir, rows)
        curves.training_curves(rows, self._workdir / runs.CURVES, config=self._config)
        if self._board:
            self._board.epoch(rows[-1])
        say(_line(rows[-1]))

    def published(self, row: dict[str, Any]) -> None:
        """Writes the figures of the epoch whose weights became the model."""
        if self._board:
            self._board.published(row)

    def images(self, images: np.ndarray) -> None:
        """Writes a few augmented images, float32 [n, S, S, 1] in 0..255."""
        if self._board:
            self._board.images(images)


def _line(row: dict[str, Any]) -> str:
    def show(name: str, spec: str) -> str:
        return "-" if row[name] is None else format(row[name], spec)

    return (
        f"epoch {row['epoch']:3d} {row['stage']}: loss {show('loss', '.4f')} "
        f"accuracy {show('accuracy', '.4f')} | validation loss "
        f"{show('val_loss', '.4f')} accuracy {show('val_accuracy', '.4f')} AUC "
        f"{show('val_roc_auc', '.4f')} | rate {row['learning_rate']:.2g}, "
        f"{row['images_per_sec']:.0f} images/s, input wait "
        f"{show('input_wait_share', '.1%')}, {row['seconds']:.1f} s"
    )
