"""Measures what training costs beside its arithmetic, and what its stages save.

  python -m benchmarks.training_speed

The host's time of the loop: an epoch of steps that do nothing but count, everything
else as in training (input, progress, TensorBoard, signals, logs every 50 steps).
Training on films from memory against one resident batch. VGG16: full steps against
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

_LOOP_FILMS, _LOOP_BATCH = 16_000, 8  # 2,000 steps an epoch, long enough to time


@dataclasses.dataclass(frozen=True)
class SpeedConfig:
    """How thoroughly."""

    repeats: int = cli.option(
        9, "interleaved windows; of VGG16, whose steps are long, half as many", lower=1
    )


def ratio(found: dict, first: str, second: str) -> float:
    """Returns the median of the rates' ratios, round by round."""
    pairs = zip(found[first], found[second], strict=True)
    return statistics.median(a.per_sec / b.per_sec for a, b in pairs)


def loop_us(folder: pathlib.Path) -> list[float]:
    """Returns the microseconds a step of epochs whose steps only count."""
    from cxr import config, runs
    from cxr.training import steps, trainer

    films = noise_set.make(folder, _LOOP_FILMS, image_size=32)
    steps_an_epoch = films.split("train").num_examples // _LOOP_BATCH
    settings = config.TrainConfig(
        data_dir=str(folder),
        dataset=films.manifest.name,
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
        trainer.train(settings, films)
    with open(folder / "run" / runs.HISTORY, newline="") as file:
        seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    return [1e6 * epoch / steps_an_epoch for epoch in seconds[1:]]


def measured(folder: pathlib.Path, repeats: int, **options) -> tuple:
    """Returns a benchmark's workshop, its input and a function that measures."""
    from cxr import config
    from cxr.benchmark import compute_cases, timing
    from cxr.input import pipeline
    from cxr.training import devices

    size = options["image_size"]
    films = noise_set.make(folder, 520, image_size=size)
    settings = config.TrainConfig(
        data_dir=str(folder),
        dataset=films.manifest.name,
        augmentation="none",
        **options,
    )
    shop = compute_cases.Workshop(settings, films, devices.setup(settings))
    source = pipeline.open_split(films, "train", image_size=size, progress=False)
    clock = timing.Clock()

    def measure(cases, seconds):
        for case in cases:
            timing.warm_up(case, steps=2, seconds=0.5, clock=clock)
        return timing.interleave(cases, repeats=repeats, seconds=seconds, clock=clock)

    return shop, source, measure


def show_data_fed(folder: pathlib.Path, repeats: int) -> None:
    """Prints small_cnn's rate on films from memory against one resident batch."""
    from cxr.benchmark.timing import Case
    from cxr.training import builders

    options = {"model": "small_cnn", "image_size": 96, "batch_size": 32}
    shop, source, measure = measured(folder, repeats, **options)
    network = shop.network(builders.stages(shop.config)[0]).network
    synthetic = shop.step_case(network, 32)
    batches = shop.iterate(source, source.training(32, 0))
    step = shop.step(network, augmented=True)

    def advance() -> int:
        step.run(next(batches))
        return 32

    found = measure([synthetic, Case("fed", advance, step.step.numpy)], 2.0)
    print(f"data-fed / synthetic: {ratio(found, 'fed', 'step'):.3f}", flush=True)


def show_vgg16(folder: pathlib.Path, repeats: int) -> None:
    """Prints the rates of VGG16's ways to train."""
    from cxr.benchmark.timing import Case
    from cxr.training import builders, feature_cache, models

    options = {"model": "vgg16", "image_size": 224, "batch_size": 16}
    shop, source, measure = measured(folder, repeats, fine_tune_epochs=1, **options)
    head, block5 = builders.stages(shop.config)
    cases = []
    for name, stage, first in (
        ("full", block5, "all"),
        ("block 5", block5, "block5_conv1"),
        ("frozen", head, "all"),
    ):
        shop.config = dataclasses.replace(shop.config, fine_tune_from=first)
        case = shop.step_case(shop.network(stage).network, 16)
        cases.append(dataclasses.replace(case, name=name))
    model = models.build(shop._spec, dropout_seed=0)
    stored = np.random.default_rng(0).random((1, source.n, 512), np.float32)
    table = feature_cache.FeatureSource(stored, source.labels)
    batches = shop.iterate(table, table.training(16, 0))
    step = shop.step(models.head_model(model), augmented=False)

    def advance() -> int:
        step.run(next(batches))
        return 16

    cases.append(Case("head on features", advance, step.step.numpy))
    found = measure(cases, 4.0)
    for name, windows in found.items():
        rate = statistics.median(window.per_sec for window in windows)
        print(f"{name}: {rate:,.1f} images/s")
    print(f"block 5 / full: {ratio(found, 'block 5', 'full'):.2f}")
    print(f"head on features / frozen: {ratio(found, cases[-1].name, 'frozen'):,.0f}")


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
