"""Kills training over and over, and checks that repeating the command heals it.

  python -m benchmarks.survival --kills=20 --signals=10

  python -m benchmarks.survival --workers=2

Each trial starts a run, ends it (SIGKILL at a random moment or inside a save,
SIGTERM, SIGINT), repeats the command until it finishes, and compares
`final_weights_sha256` and the reproducible columns of history.csv with those of
an uninterrupted run. With --workers each of them is killed at five moments instead,
and the uninterrupted run is that of as many replicas in one process. The suite runs a
few of these trials; this command all.
"""

import csv
import dataclasses
import itertools
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from benchmarks import noise_set
from cxr import cli, records, runs

ROOT = pathlib.Path(__file__).parents[1]
FLAGS = (
    "--model=small_cnn",
    "--image_size=32",
    "--batch_size=8",
    "--epochs=6",
    "--dropout=0.3",
    "--augmentation=mild",
    "--checkpoint_every_steps=2",
    "--early_stopping_patience=0",
    "--deterministic",
    "--tensorboard=false",
)

# Where SIGKILL strikes inside a save: before the call named, at its n-th time.
# fsync_path is called for arrays, state, commit, the directory and its parent.
SAVE_PHASES = (
    ("cxr.training.checkpoints.np.savez", 3),
    ("cxr.training.checkpoints.files.fsync_path", 11),
    ("cxr.training.checkpoints.files.fsync_path", 12),
    ("cxr.training.checkpoints.files.fsync_path", 13),
    ("cxr.training.checkpoints.files.fsync_path", 14),
    ("cxr.training.checkpoints.os.rename", 3),
    ("cxr.training.checkpoints.files.fsync_path", 15),
    ("cxr.training.checkpoints._prune", 3),
)

_WORKER_MOMENTS = (0, 2, 20, 40, 70)  # saved steps of 90; 0: at the start
_REFERENCE = "reference"

_SABOTAGE = """
import os, pkgutil, signal, sys
from cxr import cli, train
holder, _, name = {target!r}.rpartition(".")
holder = pkgutil.resolve_name(holder)
original, calls = getattr(holder, name), 0
def strike(*args, **kwargs):
    global calls
    calls += 1
    if calls == {count}:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **kwargs)
setattr(holder, name, strike)
cli.run(train.main)
"""


@dataclasses.dataclass(frozen=True)
class SurvivalConfig:
    """How often a run is ended."""

    kills: int = cli.option(20, "SIGKILLs at random moments", lower=1)
    signals: int = cli.option(
        10, "SIGTERMs at random moments, and as many SIGINTs", lower=1
    )
    seed: int = cli.option(0, "seed of the moments", lower=0)
    workers: int = cli.option(1, "processes that train together", lower=1)


class Trials:
    """Runs over one tiny data set, compared with one uninterrupted run.

    Args:
      root: scratch folder.
      films: the set.
      flags: of the training command, without data and run folder.
      workers: that train together.
    """

    def __init__(
        self,
        root: pathlib.Path,
        films: records.RecordSet,
        flags=FLAGS,
        *,
        workers: int = 1,
    ):
        data_dir, dataset = films.path.parents[1], films.manifest.name
        self._flags = (f"--data_dir={data_dir}", f"--dataset={dataset}", *flags)
        self._root, self._expected, self._workers = root, None, workers

    def reference(self):
        """Returns the result of the uninterrupted run, made at the first call."""
        if self._expected is None:
            workdir = self._root / _REFERENCE
            assert self.start(workdir).wait() == 0
            self._expected = result(workdir)
        return self._expected

    def start(self, workdir, sabotage=None):
        """Starts the training command in a process of its own."""
        program, flags = ["-m", "cxr.train"], self._flags
        if self._workers > 1 and workdir.name == _REFERENCE:
            flags = (*flags, f"--virtual_devices={self._workers}")
        elif self._workers > 1:
            launch = ["-m", "tools.launch_local", f"--workers={self._workers}", "--"]
            program = launch
        if sabotage:
            target, count = sabotage
            program = ["-c", _SABOTAGE.format(target=target, count=count)]
        with open(self._root / f"{workdir.name}.log", "a") as log:
            return subprocess.Popen(
                [sys.executable, *program, f"--workdir={workdir}", *flags],
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            )

    def heals(self, workdir) -> bool:
        """Repeats the command; says whether the result is that of the reference."""
        return self.start(workdir).wait() == 0 and result(workdir) == self.reference()

    def kill_inside_save(self, phase) -> bool:
        """One trial: SIGKILL inside a save, at a phase of SAVE_PHASES."""
        workdir = self._fresh(f"phase-{SAVE_PHASES.index(phase)}")
        process = self.start(workdir, sabotage=phase)
        return process.wait() == -signal.SIGKILL and self.heals(workdir)

    def strike(self, number: int, name: str, delay_s: float) -> tuple[bool, float]:
        """One trial: a signal some time after the first checkpoint.

        Returns:
          Whether code and result were right, and the seconds from signal to end.
        """
        workdir = self._fresh(name)
        process = self.start(workdir)
        while not any((workdir / runs.CHECKPOINTS).glob("step-*")):
            assert process.poll() is None, "ended before its first checkpoint"
            time.sleep(0.01)
        time.sleep(delay_s)
        struck = time.monotonic()
        process.send_signal(number)
        code = process.wait()
        seconds = time.monotonic() - struck
        done = (workdir / runs.MODEL_INFO).exists()
        right = code == 0 if done else code in (-number, 128 + number)
        if number != signal.SIGKILL and not done:
            right = right and code == 128 + number
        return right and self.heals(workdir), seconds

    def kill_worker(self, index: int, step: int) -> tuple[bool, float]:
        """One trial of several workers: SIGKILL to one, once a step is saved.

        Returns:
          Whether the result was right, and the seconds until all had ended.
        """
        workdir = self._fresh(f"worker-{index}-{step}")
        process = self.start(workdir)
        while not _reached(workdir, step):
            assert process.poll() is None, "ended before it was killed"
            time.sleep(0.01)
        children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
        os.kill(int(children.read_text().split()[index]), signal.SIGKILL)
        struck = time.monotonic()
        code = process.wait()
        seconds = time.monotonic() - struck
        return code != 0 and self.heals(workdir), seconds

    def _fresh(self, name):
        workdir = self._root / name
        shutil.rmtree(workdir, ignore_errors=True)
        return workdir


def _reached(workdir: pathlib.Path, step: int) -> bool:
    """Returns whether a run has begun, for step 0, or saved a step."""
    if not step:
        return (workdir / runs.FLAGS).exists()
    states = (workdir / runs.CHECKPOINTS).glob("step-*")
    return any(int(path.name.split("-")[1]) >= step for path in states)


def result(workdir):
    """Returns what must repeat: the last weights' hash and the history."""
    info = json.loads((workdir / runs.MODEL_INFO).read_text())
    with open(workdir / runs.HISTORY, newline="") as file:
        rows = [
            tuple(row[name] for name in runs.REPRODUCIBLE_COLUMNS)
            for row in csv.DictReader(file)
        ]
    return info["final_weights_sha256"], rows


def _kill_workers(trials: Trials, workers: int) -> None:
    """Kills each worker at each moment and prints what came of it."""
    found = []
    for index, step in itertools.product(range(workers), _WORKER_MOMENTS):
        found.append(trials.kill_worker(index, step))
        print(f"  worker {index} after step {step}: {found[-1]}", flush=True)
    healed = sum(right for right, _ in found)
    slowest = max(seconds for _, seconds in found)
    print(
        f"SIGKILL to one of {workers} workers: {healed} of {len(found)} healed, at "
        f"most {slowest:.1f} s until all had ended"
    )


def main(argv: list[str]) -> int:
    """Runs all trials and prints a line for each kind."""
    config, positional = cli.parse(argv, SurvivalConfig, usage=__doc__)
    cli.reject_positional(positional)
    chance = random.Random(config.seed)
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(scratch)
        films = noise_set.make(root / "data", 144, image_size=32, held_out=24)
        if config.workers > 1:
            _kill_workers(Trials(root, films, workers=config.workers), config.workers)
            return 0
        trials = Trials(root, films)
        begin = time.monotonic()
        trials.reference()
        span = (time.monotonic() - begin) / 3  # about the training without start-up
        saves = [trials.kill_inside_save(phase) for phase in SAVE_PHASES]
        print(f"SIGKILL inside a save: {sum(saves)} of {len(saves)} healed", flush=True)
        for number, count in (
            (signal.SIGKILL, config.kills),
            (signal.SIGTERM, config.signals),
            (signal.SIGINT, config.signals),
        ):
            found = []
            for index in range(count):
                name = f"{number.name}-{index}"
                found.append(trials.strike(number, name, chance.uniform(0, span)))
                print(f"  {name}: {found[-1]}", flush=True)
            healed = sum(right for right, _ in found)
            slowest = max(seconds for _, seconds in found)
            print(
                f"{number.name} at random moments: {healed} of {count} healed, at most "
                f"{slowest:.1f} s to end",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    cli.run(main)
