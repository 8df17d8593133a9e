"""Record sets, predictions and runs made up for tests, with known properties."""

import contextlib
import csv
import dataclasses
import io
import pathlib
import zipfile
from collections.abc import Iterator
from unittest import mock

import numpy as np
from PIL import Image

from cxr import cli, files, records, runs, tfrecord
from cxr.config import TrainConfig
from cxr.evaluation import report
from cxr.metrics import classification, findings
from cxr.metrics.predictions import Predictions
from cxr.model_info import DataIdentity, ModelInfo, Threshold


def encode(pixels: np.ndarray, encoding: str) -> bytes:
    """Encodes one grey uint8 [S, S] image as jpeg, png or raw bytes."""
    if encoding == "raw":
        return pixels.tobytes()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, encoding.upper())
    return buffer.getvalue()


def write_records(
    root: pathlib.Path,
    counts: dict[str, int],
    *,
    image_size: int = 16,
    encoding: str = "raw",
    class_names: tuple[str, ...] = ("NORMAL", "PNEUMONIA"),
    num_shards: int = 2,
    name: str = "tiny",
    offsets: bool = True,
) -> records.RecordSet:
    """Writes a complete set below `root/name/1.0.0` and returns it.

    Image i of all has label i % classes, a patient of its own, and random pixels
    whose mean tells the label, so that a small network can learn it. Without
    `offsets` it is a set of an older version, whose records are found by a walk.
    """
    (path := root / name / "1.0.0").mkdir(parents=True)
    random = np.random.default_rng(0)
    rows, starts, splits = [], [], {}
    for split, count in counts.items():
        shards = []
        for index, members in enumerate(np.array_split(np.arange(count), num_shards)):
            file, payload = records.shard_name(name, split, index, num_shards), b""
            for record, member in enumerate(members):
                label = int(member) % len(class_names)
                low = 60 + 80 * label
                size = (image_size,) * 2
                pixels = random.integers(low, min(low + 100, 256), size, np.uint8)
                row = _example_row(split, int(member), class_names[label], pixels)
                rows.append({**row, "shard": file, "record": record})
                starts.append(len(payload))
                payload += _record(row, label, encode(pixels, encoding), encoding)
            (path / file).write_bytes(payload)
            sha256 = files.sha256_bytes(payload)
            shards.append(records.Shard(file, len(members), len(payload), sha256))
        labels = [row["label"] for row in rows if row["split"] == split]
        class_counts = {c: labels.count(c) for c in class_names}
        num_bytes = sum(shard.bytes for shard in shards)
        splits[split] = records.Split(
            split, count, num_bytes, count, class_counts, tuple(shards)
        )
    _write_examples(path, rows)
    side_files = [records.EXAMPLES]
    if offsets:
        np.save(path / records.OFFSETS, np.array(starts, np.int64))
        side_files.append(records.OFFSETS)
    manifest = records.Manifest(
        name=name,
        version="1.0.0",
        class_names=class_names,
        image_size=image_size,
        encoding=encoding,
        splits=splits,
        files={file: _described(path / file) for file in side_files},
        flags={"split_policy": "grouped"},
        versions={},
    )
    (path / records.MANIFEST).write_text(manifest.to_json())
    return records.RecordSet(path, manifest)


def _example_row(split: str, member: int, label: str, pixels: np.ndarray) -> dict:
    return {
        "filename": f"{label}/{split}-{member}.png",
        "split": split,
        "label": label,
        "patient_id": f"{split}-{member}",
        "subtype": "",
        "source_width": len(pixels),
        "source_height": len(pixels),
        "source_mode": "L",
        "source_sha256": files.sha256_bytes(pixels.tobytes()),
        "duplicate_of": "",
    }


def _record(row: dict, label: int, encoded: bytes, encoding: str) -> bytes:
    example = {
        "image/encoded": encoded,
        "image/format": encoding,
        "image/height": row["source_height"],
        "image/width": row["source_width"],
        "image/filename": row["filename"],
        "image/key/sha256": files.sha256_bytes(encoded),
        "image/class/label": label,
        "image/class/text": row["label"],
        "image/patient_id": row["patient_id"],
        "image/subtype": "",
    }
    return tfrecord.frame(tfrecord.encode_example(example))


def _write_examples(path: pathlib.Path, rows: list[dict]) -> None:
    with open(path / records.EXAMPLES, "w", newline="") as file:
        writer = csv.DictWriter(file, records.EXAMPLE_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def model_info(model: pathlib.Path, **changes) -> ModelInfo:
    """What model.json says of a model file, where `changes` say nothing else."""
    classes = changes.get("class_names", ("NORMAL", "PNEUMONIA"))
    info = ModelInfo(
        model="cnn",
        class_names=classes,
        positive_class=classes[-1],
        head="softmax",
        stored_image_size=48,
        image_size=32,
        threshold=Threshold(0.5, "youden", "validation") if len(classes) == 2 else None,
        temperature=1.0,
        data=DataIdentity("data", "tiny", "1.0.0", "0" * 64),
        model_file=model.name,
        model_sha256=files.sha256_file(model),
        final_weights_sha256="0" * 64,
        best_epoch=1,
        num_parameters=1,
    )
    return dataclasses.replace(info, **changes)


def write_hollow_model(path: pathlib.Path) -> None:
    """Writes what looks like a Keras model file, without any layer in it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")


def _described(path: pathlib.Path) -> dict:
    return {"bytes": path.stat().st_size, "sha256": files.sha256_file(path)}


def clustered(
    seed: int,
    *,
    patients: int = 60,
    classes: int = 2,
    separation: float = 2.5,
    moved: float = 0.0,
) -> Predictions:
    """Predictions of films that resemble each other within a patient.

    `patients` are of each class; `moved` raises the score of the first class, as a
    shifted test set does.
    """
    random = np.random.default_rng(seed)
    strata = np.repeat(np.arange(classes), patients)
    films = 1 + random.poisson(np.where(strata > 0, 1.0, 0.4))
    patient = np.repeat(np.arange(len(strata)), films)
    labels = strata[patient]
    own = random.normal(0, 0.8, (len(strata), classes))[patient]
    scores = separation * np.eye(classes)[labels] + own
    scores += 0.6 * random.normal(size=scores.shape)
    scores[:, 1] += moved * (labels == 0)
    odds = np.exp(1.5 * scores)
    names = ("NORMAL", "PNEUMONIA") if classes == 2 else ("BACTERIA", "NORMAL", "VIRUS")
    return Predictions(
        filenames=tuple(f"{names[c]}/{i}.png" for i, c in enumerate(labels)),
        patient_ids=tuple(f"patient-{p}" for p in patient),
        labels=labels,
        probabilities=classification.exact_probabilities(
            odds / odds.sum(1, keepdims=True)
        ),
        class_names=names,
    )


def take(table: Predictions, films: np.ndarray) -> Predictions:
    """The table of some films only, by their indices."""
    return dataclasses.replace(
        table,
        filenames=tuple(table.filenames[i] for i in films),
        patient_ids=tuple(table.patient_ids[i] for i in films),
        labels=table.labels[films],
        probabilities=table.probabilities[films],
    )


def example_rows(table: Predictions) -> list[dict[str, str]]:
    """Rows of examples.csv that fit a table: sizes, modes and subtypes vary."""
    return [
        {
            "filename": f"x/person{i}_{'virus' if i % 3 else 'bacteria'}_{i}.png",
            "label": table.class_names[label],
            "patient_id": patient,
            "subtype": "virus" if i % 3 else "bacteria",
            "source_width": str(300 + 7 * (i % 90)),
            "source_height": "400",
            "source_mode": "RGB" if i % 9 == 0 else "L",
        }
        for i, (label, patient) in enumerate(
            zip(table.labels, table.patient_ids, strict=True)
        )
    ]


@contextlib.contextmanager
def shallow_network() -> Iterator[None]:
    """Gives `small_cnn` one convolution instead of seven, with their normalisation.

    For tests of what becomes of a run: most of a tiny training is compiling its step,
    and this one's takes two fifths of the time.
    """
    from keras import layers

    from cxr.training import models

    def trunk(image, spec, normalisation):
        scale = layers.Rescaling(1 / 127.5, offset=-1, dtype="float32", name="rescale")
        x = layers.Conv2D(8, 3, strides=2, use_bias=False, name="stem")(scale(image))
        x = layers.ReLU(name="stem_relu")(normalisation(name="stem_norm")(x))
        return layers.GlobalAveragePooling2D(name=models.FEATURES)(x)

    with mock.patch.dict(models._NETWORKS, small_cnn=(trunk, ())):
        yield


def write_run(
    workdir: pathlib.Path, record_set: records.RecordSet, *, seed: int = 0
) -> runs.Run:
    """A finished run whose linear model is right more often than not.

    The weights tell classes by brightness, which differs in `write_records`,
    drowned in noise that differs by `seed`.
    """
    import keras

    manifest = record_set.manifest
    size, classes = manifest.image_size, len(manifest.class_names)
    films = keras.Input((size, size, 1))
    maps = keras.layers.Conv2D(1, 1, use_bias=False, kernel_initializer="ones")(films)
    dense = keras.layers.Dense(classes)
    logits = dense(keras.layers.Flatten()(maps))
    model = keras.Model(films, keras.layers.Activation("softmax")(logits))
    random = np.random.default_rng(seed)
    noise = random.normal(size=(size**2, classes))
    brightness = np.linspace(-0.02, 0.02, classes)
    kernel = 0.002 * (noise - noise.mean(axis=0) + brightness)
    middle = 110 + 40 * (classes - 1)
    bias = -middle * kernel.sum(axis=0)
    dense.set_weights([kernel, bias])
    workdir.mkdir(parents=True)
    model.save(workdir / runs.MODEL)
    config = TrainConfig(
        data_dir=str(record_set.path.parent.parent),
        dataset=manifest.name,
        workdir=str(workdir),
        image_size=max(32, size),
    )
    files.publish(workdir / runs.FLAGS, cli.to_flags(config))
    runs.write_history(workdir, [{"epoch": 1, "stage": "train", "loss": 0.5}])
    info = model_info(
        workdir / runs.MODEL,
        class_names=manifest.class_names,
        stored_image_size=size,
        image_size=size,
        data=DataIdentity(
            config.data_dir, manifest.name, manifest.version, manifest.fingerprint
        ),
        num_parameters=model.count_params(),
    )
    runs.publish_model_info(workdir, info)
    return runs.open_run(workdir)


def page(summary: dict, pictures: dict, origins: dict) -> str:
    """Renders report.html with what an evaluation finds."""
    return report.render(summary, pictures, origins, findings.find(summary, origins))
