"""Asks the benchmark what is known: planted bottlenecks, equal builds, planted losses.

  python -m benchmarks.bench_reliability --verdicts=10 --pairs=10

A verdict trial trains a network of no cost on streamed films with a delay in one
part of the pipeline, drawn at random, that makes its case twice as slow as the
slowest other; the verdict must name it. A pair is two `--quick` runs of this build,
each case of which must agree within the noise that they state, and a third one with a
case, drawn at random, that loses 30 %; it must be flagged and exit with 1.
"""

import contextlib
import dataclasses
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from unittest import mock

import numpy as np

from benchmarks import noise_set
from cxr import cli

ROOT = pathlib.Path(__file__).parents[1]
PLANTED = ("read", "parse", "decode", "batch", "augment", "step")
LOSS = 0.3

# Paces a case: steps come no faster than at a given rate. What lies between two windows
# (an audit, other cases) counts for neither.
_PACED = """
import dataclasses, time
from cxr import bench, cli
from cxr.benchmark import timing
right = timing.measure
def paced(case, **options):
    begin, last, items = 0.0, 0.0, 0
    def slow():
        nonlocal begin, last, items
        if time.perf_counter() - last > 0.01:
            begin, items = time.perf_counter(), 0
        count = case.advance()
        items += count
        while time.perf_counter() - begin < items / {rate}:
            pass
        last = time.perf_counter()
        return count
    if case.name == {case!r}:
        return right(dataclasses.replace(case, advance=slow), **options)
    return right(case, **options)
timing.measure = paced
cli.run(bench.main)
"""


@dataclasses.dataclass(frozen=True)
class TrialsConfig:
    """How many trials of each kind."""

    verdicts: int = cli.option(10, "planted bottlenecks; 0 = none", lower=0)
    pairs: int = cli.option(
        10, "pairs of runs, each with a planted loss; 0 = none", lower=0
    )
    seed: int = cli.option(0, "seed of what is planted where", lower=0)


# --- verdicts


@contextlib.contextmanager
def planted(case: str, seconds_a_film: float):
    """Delays one part of the pipeline by some seconds a film."""
    from cxr.benchmark import compute_cases
    from cxr.benchmark.input_cases import ReadOnly
    from cxr.input.pipeline import Source
    from cxr.input.reader import Reader
    from cxr.training.steps import TrainingStep

    one_at_a_time = threading.Lock()

    def delay(films: int) -> None:
        with one_at_a_time:
            time.sleep(seconds_a_film * films)

    def delay_parsing(reader: Reader, indices: np.ndarray) -> None:
        if not isinstance(reader, ReadOnly):
            delay(len(indices))

    def delay_all(reader: Reader, indices: np.ndarray) -> None:
        delay(len(indices))

    holder, name, slowed = {
        "read": (Reader, "_read", _after(delay_all)),
        "parse": (Reader, "encoded", _after(delay_parsing)),
        "decode": (Reader, "images", _after(delay_all)),
        "batch": (Source, "batches", _drawn_slowly(delay)),
        "augment": (compute_cases.Workshop, "__init__", _augmented_slowly(delay)),
        "step": (TrainingStep, "_compute", _stepped_slowly(delay)),
    }[case]
    with mock.patch.object(holder, name, slowed(getattr(holder, name))):
        yield


def _after(delay: Callable) -> Callable:
    """Makes a method wait before it begins."""

    def change(right):
        def slow(self, indices):
            delay(self, indices)
            return right(self, indices)

        return slow

    return change


def _drawn_slowly(delay: Callable) -> Callable:
    """Makes a source wait before it hands out each batch."""

    def change(right):
        def slow(self, dataset):
            for batch in right(self, dataset):
                delay(len(batch[1]))
                yield batch

        return slow

    return change


def _augmented_slowly(delay: Callable) -> Callable:
    """Makes the augmentation of a new workshop wait after each batch."""

    def change(right):
        def slow(self, config, *rest):
            right(self, config, *rest)
            augment = self.augment
            self.augment = lambda films, *rest: _in_graph(delay, augment(films, *rest))

        return slow

    return change


def _stepped_slowly(delay: Callable) -> Callable:
    """Makes each step wait for its labels."""

    def change(right):
        def slow(self, inputs, key, labels, scale):
            return right(self, inputs, key, _in_graph(delay, labels), scale)

        return slow

    return change


def _in_graph(delay: Callable, tensor):
    """Returns a tensor of films that comes late."""
    import tensorflow as tf

    def wait(tensor):
        delay(len(tensor))
        return tensor

    waited = tf.numpy_function(wait, [tensor], tensor.dtype)
    return tf.ensure_shape(waited, tensor.shape)


def seconds_of_cases(films, delay: tuple[str, float] | None = None) -> tuple:
    """Runs the ladder over a network of no cost.

    Returns:
      Each case's seconds a film, and the case that the verdict names.
    """
    from cxr.benchmark import compute_cases, runner
    from cxr.config import TrainConfig

    config = TrainConfig(
        data_dir=str(films.path.parent.parent),
        dataset=films.manifest.name,
        model="small_cnn",
        image_size=64,
        batch_size=32,
        augmentation="mild",
        cache="none",
        progress=False,
    )
    plan = runner.Plan(repeats=3, window_s=0.2, warm_up_s=0.1)

    def trivial(self, stage):
        return compute_cases.Network(self.trivial_network(), 1, 1)

    with contextlib.ExitStack() as stack:
        stack.enter_context(
            mock.patch.object(compute_cases.Workshop, "network", trivial)
        )
        if delay:
            stack.enter_context(planted(*delay))
        found = runner.run(config, films, plan)
    rates = {s["name"]: s["images_per_sec"]["median"] for s in found["stages"]}
    return {name: 1 / rate for name, rate in rates.items()}, found["bottleneck"]["rung"]


def try_verdicts(count: int, chance: random.Random, folder: pathlib.Path) -> None:
    """Prints how often the verdict named the planted case."""
    films = noise_set.make(folder, 544, image_size=64, encoding="jpeg", held_out=32)
    plain, _ = seconds_of_cases(films)
    named = 0
    for _ in range(count):
        case = chance.choice(PLANTED)
        slowest = max(plain[name] for name in PLANTED if name != case)
        # What is prepared ahead of the loop is prepared while the loop is delayed.
        own = 0.0 if case == "batch" else plain[case]
        _, found = seconds_of_cases(films, (case, 2 * slowest - own))
        named += found == case
        print(f"  planted in {case}, named {found}", flush=True)
    print(f"verdicts: {named} of {count} planted cases named", flush=True)


# --- pairs of runs


def quick(output: pathlib.Path, program: list[str], *flags: str) -> tuple[int, dict]:
    """Runs `--quick`; returns its exit code, its result and its seconds."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, *program, "--quick", f"--output_dir={output}", *flags],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    result = json.loads((output / "bench.json").read_text())
    return done.returncode, result | {"seconds": time.monotonic() - began}


def try_pairs(count: int, chance: random.Random, folder: pathlib.Path) -> None:
    """Prints how often equal builds agreed, and planted losses were flagged."""
    from cxr.benchmark.regression import Change

    agreed = flagged = 0
    command, data = ["-m", "cxr.bench"], f"--data_dir={folder / 'data'}"
    quick(folder / "warm", command, data)  # makes the set
    for number in range(count):
        first = folder / f"first-{number}"
        _, plain = quick(first, command, data)
        baseline = f"--baseline={first / 'bench.json'}"
        _, again = quick(folder / "again", command, data, baseline)
        changes = [Change(**change) for change in again["changes"]]
        apart = [dataclasses.astuple(c) for c in changes if not c.agrees]
        agreed += not apart
        stage = chance.choice(plain["stages"])
        rate = (1 - LOSS) * stage["images_per_sec"]["median"]
        program = ["-c", _PACED.format(case=stage["name"], rate=rate)]
        code, paced = quick(folder / "paced", program, data, baseline)
        changes = map(Change.from_json, paced["changes"])
        slower = [change.case for change in changes if change.slower]
        right = code == 1 and stage["name"] in slower
        flagged += right
        print(
            f"  {plain['seconds']:.0f} s; apart {apart}; loss in {stage['name']}: "
            f"exit {code}, slower {slower}",
            flush=True,
        )
    print(f"pairs: {agreed} of {count} agree; {flagged} of {count} losses flagged")


def main(argv: list[str]) -> int:
    """Runs all trials."""
    config, positional = cli.parse(argv, TrialsConfig, usage=__doc__)
    cli.reject_positional(positional)
    chance = random.Random(config.seed)
    with tempfile.TemporaryDirectory() as scratch:
        if config.verdicts:
            try_verdicts(config.verdicts, chance, pathlib.Path(scratch, "verdicts"))
        if config.pairs:
            try_pairs(config.pairs, chance, pathlib.Path(scratch))
    return 0


if __name__ == "__main__":
    cli.run(main)
