"""The widely copied notebook's recipe, written out: the peer for time to quality.

  python -m benchmarks.notebook_recipe --input_dir=FOLDER --output_dir=OUT

Keras' ImageDataGenerator decodes, resizes and augments the original files, and
`Model.fit` trains the five-block CNN at 500 x 500, batch 40, on the split of a
converted set. Writes `recipe.json`: seconds since the start and test AUC after each
epoch. Its mistakes (choosing on test, flips upside down) are kept out of cxr's
defaults; here only the choice of the epoch is left out, the rest is as it is.
"""

import dataclasses
import json
import pathlib
import tempfile
import time

from cxr import cli, files, records

_SIZE, _BATCH_SIZE = 500, 40


@dataclasses.dataclass(frozen=True)
class RecipeConfig:
    """What the recipe reads and how long it trains."""

    input_dir: str = cli.required("the class folders that the set was made from")
    output_dir: str = cli.required("where recipe.json goes")
    data_dir: str = cli.option("data", "root of the converted sets")
    dataset: str = cli.option("chest_xray", "name of the converted set")
    epochs: int = cli.option(3, "epochs to train", lower=1)


def run(config: RecipeConfig) -> dict:
    """Trains by the recipe; returns what recipe.json holds."""
    began = time.monotonic()
    record_set = records.find(config.data_dir, config.dataset)
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(scratch)
        for split in record_set.manifest.splits:
            _link_split(record_set, split, pathlib.Path(config.input_dir), root / split)
        epochs = _train(config, root, began)
    found = {"start": "process start-up excluded", "epochs": epochs}
    files.publish(
        pathlib.Path(config.output_dir) / "recipe.json", json.dumps(found, indent=2)
    )
    return found


def _link_split(record_set, split, source: pathlib.Path, target: pathlib.Path) -> None:
    """Makes class folders of symbolic links, as flow_from_directory wants them."""
    for row in record_set.examples(split):
        link = target / row["label"] / pathlib.PurePosixPath(row["filename"]).name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((source / row["filename"]).resolve())


def _train(config: RecipeConfig, root: pathlib.Path, began: float) -> list[dict]:
    import keras
    from keras.src.legacy.preprocessing.image import ImageDataGenerator
    from sklearn.metrics import roc_auc_score

    keras.utils.set_random_seed(0)
    augmented = ImageDataGenerator(
        rescale=1 / 255,
        rotation_range=30,
        shear_range=0.1,
        zoom_range=0.2,
        width_shift_range=0.2,
        height_shift_range=0.2,
        horizontal_flip=True,
        vertical_flip=True,
    )
    plain = ImageDataGenerator(rescale=1 / 255)

    def flow(generator, split, shuffle):
        return generator.flow_from_directory(
            root / split,
            target_size=(_SIZE, _SIZE),
            color_mode="grayscale",
            class_mode="binary",
            batch_size=_BATCH_SIZE,
            shuffle=shuffle,
            seed=0,
            follow_links=True,
        )

    train, validation = flow(augmented, "train", True), flow(plain, "validation", False)
    test = flow(plain, "test", False)
    model = _network(keras)
    found = []
    for epoch in range(config.epochs):
        model.fit(train, validation_data=validation, verbose=2)
        seconds = time.monotonic() - began
        scores = model.predict(test, verbose=0)[:, 0]
        auc = float(roc_auc_score(test.classes, scores))
        found.append({"epoch": epoch + 1, "seconds": seconds, "test_roc_auc": auc})
        print(found[-1], flush=True)
    return found


def _network(keras):
    layers = keras.layers
    model = keras.Sequential([keras.Input((_SIZE, _SIZE, 1))])
    for width in (32, 32, 32, 64, 64):
        model.add(layers.Conv2D(width, 3, activation="relu"))
        model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    for width in (128, 64):
        model.add(layers.Dense(width, activation="relu"))
    model.add(layers.Dropout(0.5))
    model.add(layers.Dense(1, activation="sigmoid"))
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    return model


def main(argv: list[str]) -> int:
    """Runs the command line."""
    config, positional = cli.parse(argv, RecipeConfig, usage=__doc__)
    cli.reject_positional(positional)
    run(config)
    return 0


if __name__ == "__main__":
    cli.run(main)
