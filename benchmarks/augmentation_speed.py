"""Shows what each augmentation policy does to films, and what it costs."""

import dataclasses
import json
import os
import statistics
import time

from cxr import cli, files, records

USAGE = """
Draws films of a converted set beside their augmented versions, a row a policy:

  python -m benchmarks.augmentation_speed --data_dir=data --output_dir=augmentations

Writes augmentations.png and augmentations.json (milliseconds a film of each
policy, and of keras_cv's geometry fused into one warp, measured in turn).
"""
_DRAWS = 4  # augmented versions of each of the two films
_TIMED_FILMS = 32


@dataclasses.dataclass(frozen=True)
class ShowConfig:
    """Which films, and where to."""

    output_dir: str = cli.required("folder for augmentations.png and .json")
    data_dir: str = cli.option("data", "root of the converted sets")
    dataset: str = cli.option("chest_xray", "name of the converted set")
    split: str = cli.option("train", "split the films are from")
    image_size: int = cli.option(
        224, "side of the films in pixels, at most the stored one", lower=8
    )
    seed: int = cli.option(0, "seed of the films and of the augmentation", lower=0)
    repeats: int = cli.option(5, "timings of each policy", lower=1)


def main(argv: list[str]) -> int:
    """Draws the picture named by the command line; returns the exit code."""
    config, positional = cli.parse(argv, ShowConfig, usage=USAGE)
    cli.reject_positional(positional)
    for name, value in show(config)["ms_per_film"].items():
        print(f"{name:>16}: {value:.2f} ms a film")
    print(f"augmentations.png and augmentations.json in {config.output_dir}")
    return 0


def show(config: ShowConfig) -> dict:
    """Draws and measures; returns what augmentations.json holds."""
    record_set = records.find(config.data_dir, config.dataset)
    record_set.split(config.split)
    # TensorFlow after the checks: a wrong path is refused at once.
    import tensorflow as tf

    from cxr.input import augmentation, augmenters, keras_cv_layers, pipeline

    source = pipeline.open_split(
        record_set, config.split, image_size=config.image_size, progress=False
    )
    batch_size = min(_TIMED_FILMS, source.n)
    films, labels, indices = next(
        source.batches(source.training(batch_size, config.seed))
    )
    applied = {
        name: augmenters.build(name, seed=config.seed) for name in augmentation.POLICIES
    }
    geometry = augmentation.POLICIES["keras_cv"]
    fused = keras_cv_layers.Fused(geometry, seed=config.seed)
    applied["keras_cv fused"] = augmenters.with_layer(fused, geometry, seed=config.seed)
    compiled = {name: tf.function(policy) for name, policy in applied.items()}

    def augmented(name: str, step: int):
        return compiled[name](films, tf.constant(step, tf.int64), indices).numpy()

    timings = _timings(augmented, list(applied), config.repeats)
    report = {
        "schema": 1,
        "image_size": config.image_size,
        "batch_size": batch_size,
        "repeats": config.repeats,
        "ms_per_film": {
            name: 1e3 * statistics.median(seconds) / batch_size
            for name, seconds in timings.items()
        },
    }
    shown = _one_of_each_class(labels.numpy())
    rows = {
        name: [
            augmented(name, step)[film, ..., 0]
            for film in shown
            for step in range(_DRAWS)
        ]
        for name in applied
        if name != "none"
    }
    originals = [films.numpy()[film, ..., 0] for film in shown]
    os.makedirs(config.output_dir, exist_ok=True)
    _draw(originals, rows, report, os.path.join(config.output_dir, "augmentations.png"))
    text = json.dumps(report, indent=1) + "\n"
    files.publish(os.path.join(config.output_dir, "augmentations.json"), text)
    return report


def _timings(augmented, names: list[str], repeats: int) -> dict[str, list[float]]:
    """Times each policy in turn, so that a busy moment hits all alike."""
    seconds = {name: [] for name in names}
    for repeat in range(repeats + 1):
        for name in names:
            start = time.perf_counter()
            augmented(name, repeat)
            if repeat:  # the first call traces and compiles
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _one_of_each_class(labels) -> list[int]:
    """Returns two positions of the batch, of different classes where it has them."""
    other = [i for i, label in enumerate(labels) if label != labels[0]]
    return [0, (other or [len(labels) - 1])[0]]


def _draw(originals: list, rows: dict[str, list], report: dict, path: str) -> None:
    from matplotlib.figure import Figure

    from cxr.reporting import plotting

    columns = len(originals) * (_DRAWS + 1)
    figure = Figure(figsize=(1.5 * columns, 1.65 * len(rows)), layout="constrained")
    for line, (name, films) in zip(
        figure.subplots(len(rows), columns), rows.items(), strict=True
    ):
        panels = []
        for film, original in enumerate(originals):
            drawn = films[film * _DRAWS : (film + 1) * _DRAWS]
            panels += [("original", original), *[("", image) for image in drawn]]
        for axes, (title, image) in zip(line, panels, strict=True):
            axes.imshow(image, cmap="gray", vmin=0, vmax=255)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(title, fontsize=9, color=plotting.GREY)
        label = f"{name}\n{report['ms_per_film'][name]:.2f} ms a film"
        line[0].set_ylabel(label, fontsize=10, fontweight="bold")
    plotting.save(figure, path)


if __name__ == "__main__":
    cli.run(main)
