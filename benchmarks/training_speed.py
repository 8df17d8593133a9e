"""Measures what training costs beside its arithmetic, and what its stages save.

  python -m benchmarks.training_speed

The host's time of the loop: an epoch of steps that do nothing but count, everything
else as in training (input, progress, TensorBoard, signals, logs every 50 steps).
Training on images from memory against one resident batch. VGG16: full steps against
steps of block 5, of the head alone, and of the head on stored features. All in turn,
medians; prints figures, judges nothing.
"""

import csv
import dataclasses
import pathlib
import statistics
import tempfile
from unittest import mock

import numpy as np

from benchmarks import noise_set
from cxr import cli

_LOOP_IMAGES, _LOOP_BATCH = 16_000, 8  # 2,000 steps an epoch, long enough to time


@dataclasses.dataclass(frozen=True)
class SpeedConfig:
    """How thoroughly."""

    repeats: int = cli.option(
        9, "interleaved windows; of VGG16, whose steps are long, half as many", lower=1
    )


def ratio(windows: dict, first: str, second: str) -> float:
    """Returns the median of the rates' ratios, round by round."""
    pairs = zip(windows[first], windows[second], strict=True)
    return statistics.median(a.per_sec / b.per_sec for a, b in pairs)


def loop_us(folder: pathlib.Path) -> list[float]:
    """Returns the microseconds a step of epochs whose steps only count."""
    from cxr import config, runs
    from cxr.training import steps, trainer

    noise = noise_set.make(folder, _LOOP_IMAGES, image_size=32)
    steps_an_epoch = noise.split("train").num_examples // _LOOP_BATCH
    settings = config.TrainConfig(
        data_dir=str(folder),
        dataset=noise.manifest.name,
        workdir=str(folder / "run"),
        model="small_cnn",
        image_size=32,
        batch_size=_LOOP_BATCH,
        epochs=6,
        augmentation="none",
        early_stopping_patience=0,
    )

    def count(self, batch):
        self.step.assign_add(1)

    with mock.patch.object(steps.TrainingStep, "_run", count):
        trainer.train(settings, noise)
    with open(folder / "run" / runs.HISTORY, newline="") as file:
        seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    return [1e6 * epoch / steps_an_epoch for epoch in seconds[1:]]


def workload(folder: pathlib.Path, **options):
    """Returns the workload of a set of noise."""
    from cxr import config
    from cxr.benchmark.workload import Workload

    noise = noise_set.make(folder, 520, image_size=options["image_size"])
    settings = config.TrainConfig(
        data_dir=str(folder),
        dataset=noise.manifest.name,
        augmentation="none",
        **options,
    )
    return Workload(settings, noise)


def measure(cases: list, repeats: int, seconds: float) -> dict:
    """Warms cases up and measures them in turn."""
    from cxr.benchmark import timing

    for case in cases:
        timing.warm_up(case, steps=2, seconds=0.5)
    return timing.interleave(cases, repeats=repeats, seconds=seconds)


def stepping(name: str, step, batches, batch_size: int):
    """Returns the case of a training step on batches that nobody checks."""
    from cxr.benchmark.timing import Case

    def advance() -> int:
        step.run(next(batches))
        return batch_size

    return Case(name, advance, step.step.numpy)


def show_data_fed(folder: pathlib.Path, repeats: int) -> None:
    """Prints small_cnn's rate on images from memory against one resident batch."""
    from cxr.benchmark import compute_cases
    from cxr.training import devices

    load = workload(folder, model="small_cnn", image_size=96, batch_size=32)
    network = compute_cases.stage_network(load).network
    synthetic = compute_cases.step_case(load, "step", network, batch_size=32)
    batches = devices.iterate(
        load.source, load.source.training(32, 0), strategy=load.devices.strategy
    )
    step = compute_cases.training_step(load, network, augmented=True)
    cases = [synthetic, stepping("fed", step, batches, 32)]
    windows = measure(cases, repeats, 2.0)
    print(f"data-fed / synthetic: {ratio(windows, 'fed', 'step'):.3f}", flush=True)


def show_vgg16(folder: pathlib.Path, repeats: int) -> None:
    """Prints the rates of VGG16's ways to train."""
    from cxr.benchmark import compute_cases
    from cxr.training import builders, devices, feature_cache, models

    options = {"model": "vgg16", "image_size": 224, "batch_size": 16}
    load = workload(folder, fine_tune_epochs=1, **options)
    head, block5 = builders.stages(load.config)
    cases = []
    for name, stage, first in (
        ("full", block5, "all"),
        ("block 5", block5, "block5_conv1"),
        ("frozen", head, "all"),
    ):
        load.config = dataclasses.replace(load.config, fine_tune_from=first)
        load.stage = stage
        network = compute_cases.stage_network(load).network
        cases.append(compute_cases.step_case(load, name, network, batch_size=16))
    spec = builders.model_spec(load.config, load.manifest)
    head_network = models.head_model(models.build(spec, dropout_seed=0))
    stored = np.random.default_rng(0).random((1, load.source.n, 512), np.float32)
    table = feature_cache.FeatureSource(stored, load.source.labels)
    batches = devices.iterate(
        table, table.training(16, 0), strategy=load.devices.strategy
    )
    step = compute_cases.training_step(load, head_network, augmented=False)
    cases.append(stepping("head on features", step, batches, 16))
    windows = measure(cases, repeats, 4.0)
    for name, mine in windows.items():
        rate = statistics.median(window.per_sec for window in mine)
        print(f"{name}: {rate:,.1f} images/s")
    print(f"block 5 / full: {ratio(windows, 'block 5', 'full'):.2f}")
    print(f"head on features / frozen: {ratio(windows, cases[-1].name, 'frozen'):,.0f}")


def main(argv: list[str]) -> int:
    """Prints all figures."""
    config, positional = cli.parse(argv, SpeedConfig, usage=__doc__)
    cli.reject_positional(positional)
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(scratch)
        epochs = loop_us(root / "loop")
        print(
            f"loop: {statistics.median(epochs):.0f} us a step "
            f"({min(epochs):.0f} - {max(epochs):.0f})",
            flush=True,
        )
        show_data_fed(root / "small", config.repeats)
        show_vgg16(root / "vgg16", max(5, config.repeats // 2))
    return 0


if __name__ == "__main__":
    cli.run(main)
