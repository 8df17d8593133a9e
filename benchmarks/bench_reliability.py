"""Tests cxr.bench on what is known: planted bottlenecks, losses, equal builds.

  python -m benchmarks.bench_reliability --verdicts=10 --pairs=10

A verdict trial trains a network of no cost on streamed images with a delay in one
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
from unittest import mock

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


class Delay:
    """Holds a part of the pipeline up, one caller at a time.

    Args:
      seconds: for each image.
    """

    def __init__(self, seconds: float):
        self._seconds, self._one_at_a_time = seconds, threading.Lock()

    def wait(self, images: int) -> None:
        """Lets some images' seconds go by."""
        with self._one_at_a_time:
            time.sleep(self._seconds * images)

    def in_graph(self, tensor):
        """Returns a tensor [B, ...] as it was, later."""
        import tensorflow as tf

        def wait(array):
            self.wait(len(array))
            return array

        waited = tf.numpy_function(wait, [tensor], tensor.dtype)
        return tf.ensure_shape(waited, tensor.shape)

    # --- what takes the place of a function of the pipeline

    def of_reading(self, right, applies=lambda reader: True):
        """Delays a method of readers, those that it applies to."""

        def slow(reader, indices):
            if applies(reader):
                self.wait(len(indices))
            return right(reader, indices)

        return slow

    def of_drawing(self, right):
        """Delays the iteration over batches."""

        def slow(source, dataset):
            for batch in right(source, dataset):
                self.wait(len(batch[1]))
                yield batch

        return slow

    def of_augmenting(self, right):
        """Delays the augmentation that is built."""

        def slow(policy, **options):
            augment = right(policy, **options)
            return lambda images, *rest: self.in_graph(augment(images, *rest))

        return slow

    def of_computing(self, right):
        """Delays the core of a step."""

        def slow(step, inputs, key, labels, scale):
            return right(step, inputs, key, self.in_graph(labels), scale)

        return slow


def planted(case: str, seconds_an_image: float):
    """Delays one part of the pipeline, as a context, by some seconds an image."""
    from cxr.benchmark.input_cases import ReadOnly
    from cxr.input import augmenters
    from cxr.input.pipeline import ImageSource
    from cxr.input.reader import Reader
    from cxr.training.steps import TrainingStep

    delay = Delay(seconds_an_image)

    def of_parsing(right):
        return delay.of_reading(right, lambda reader: not isinstance(reader, ReadOnly))

    holder, name, change = {
        "read": (Reader, "_read", delay.of_reading),
        "parse": (Reader, "encoded", of_parsing),
        "decode": (Reader, "images", delay.of_reading),
        "batch": (ImageSource, "batches", delay.of_drawing),
        "augment": (augmenters, "build", delay.of_augmenting),
        "step": (TrainingStep, "_compute", delay.of_computing),
    }[case]
    return mock.patch.object(holder, name, change(getattr(holder, name)))


def seconds_of_cases(record_set, delay: tuple[str, float] | None = None) -> tuple:
    """Runs the ladder over a network of no cost.

    Returns:
      Each case's seconds an image, and the case that the verdict names.
    """
    from cxr.benchmark import compute_cases, runner
    from cxr.config import TrainConfig

    config = TrainConfig(
        data_dir=str(record_set.path.parent.parent),
        dataset=record_set.manifest.name,
        model="small_cnn",
        image_size=64,
        batch_size=32,
        augmentation="mild",
        cache="none",
        progress=False,
    )
    protocol = runner.Protocol(repeats=3, window_s=0.2, warm_up_s=0.1)

    def trivial(workload):
        return compute_cases.Network(compute_cases.trivial_network(workload), 1, 1)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(compute_cases, "stage_network", trivial))
        if delay:
            stack.enter_context(planted(*delay))
        document = runner.run(config, record_set, protocol)
    rates = {s["name"]: s["images_per_sec"]["median"] for s in document["stages"]}
    limit = document["bottleneck"]["rung"]
    return {name: 1 / rate for name, rate in rates.items()}, limit


def try_verdicts(count: int, chance: random.Random, folder: pathlib.Path) -> None:
    """Prints how often the verdict named the planted case."""
    noise = noise_set.make(folder, 544, image_size=64, encoding="jpeg", held_out=32)
    plain, _ = seconds_of_cases(noise)
    named = 0
    for _ in range(count):
        case = chance.choice(PLANTED)
        slowest = max(plain[name] for name in PLANTED if name != case)
        # What is prepared ahead of the loop is prepared while the loop is delayed.
        own = 0.0 if case == "batch" else plain[case]
        _, limit = seconds_of_cases(noise, (case, 2 * slowest - own))
        named += limit == case
        print(f"  planted in {case}, named {limit}", flush=True)
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
        changes = map(Change.from_json, again["changes"])
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
