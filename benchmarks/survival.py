"""Kills training over and over, and checks that repeating the command heals it.

  python -m benchmarks.survival --kills=20 --signals=10

Each trial starts a run, ends it (SIGKILL at a random moment or inside a save,
SIGTERM, SIGINT), repeats the command until it finishes, and compares
`final_weights_sha256` and the reproducible columns of history.csv with those of
an uninterrupted run. The suite runs a few of these trials; this command all.
"""

import csv
import dataclasses
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


class Trials:
    """Runs over one tiny data set, compared with one uninterrupted run.

    Args:
      root: scratch folder.
      films: the set.
      flags: of the training command, without data and run folder.
    """

    def __init__(self, root: pathlib.Path, films: records.RecordSet, flags=FLAGS):
        data_dir, dataset = films.path.parents[1], films.manifest.name
        self._flags = (f"--data_dir={data_dir}", f"--dataset={dataset}", *flags)
        self._root, self._expected = root, None

    def reference(self):
        """Returns the result of the uninterrupted run, made at the first call."""
        if self._expected is None:
            workdir = self._root / "reference"
            assert self.start(workdir).wait() == 0
            self._expected = result(workdir)
        return self._expected

    def start(self, workdir, sabotage=None):
        """Starts the training command in a process of its own."""
        program = ["-m", "cxr.train"]
        if sabotage:
            target, count = sabotage
            program = ["-c", _SABOTAGE.format(target=target, count=count)]
        with open(self._root / f"{workdir.name}.log", "a") as log:
            return subprocess.Popen(
                [sys.executable, *program, f"--workdir={workdir}", *self._flags],
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

    def _fresh(self, name):
        workdir = self._root / name
        shutil.rmtree(workdir, ignore_errors=True)
        return workdir


def result(workdir):
    """Returns what must repeat: the last weights' hash and the history."""
    info = json.loads((workdir / runs.MODEL_INFO).read_text())
    with open(workdir / runs.HISTORY, newline="") as file:
        rows = [
            tuple(row[name] for name in runs.REPRODUCIBLE_COLUMNS)
            for row in csv.DictReader(file)
        ]
    return info["final_weights_sha256"], rows


def main(argv: list[str]) -> int:
    """Runs all trials and prints a line for each kind."""
    config, positional = cli.parse(argv, SurvivalConfig, usage=__doc__)
    cli.reject_positional(positional)
    chance = random.Random(config.seed)
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(scratch)
        films = noise_set.make(root / "data", 144, image_size=32, held_out=24)
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
