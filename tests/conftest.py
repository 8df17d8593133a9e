"""Fixtures shared by the suite: tiny record sets made on the spot."""

import csv
import io
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As our commands ask.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from cxr import files, records

# Before anything else touches a device: two CPUs, for tests of mirrored training.
_CPU = tf.config.list_physical_devices("CPU")[0]
_LOGICAL = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(_CPU, _LOGICAL)


def encode(image: np.ndarray, encoding: str) -> bytes:
    """Encodes one grey uint8 [S, S] film as jpeg, png or raw bytes."""
    if encoding == "raw":
        return image.tobytes()
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, encoding.upper())
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

    Film i of all has label i % classes, a patient of its own, and random pixels
    whose mean tells the label, so that a small network can learn it. Without
    `offsets` it is a set of an older version, whose records are found by a walk.
    """
    path = root / name / "1.0.0"
    path.mkdir(parents=True)
    random = np.random.default_rng(0)
    rows, starts, splits = [], [], {}
    for split, count in counts.items():
        shards, labels = [], []
        for index, members in enumerate(np.array_split(np.arange(count), num_shards)):
            payload = b""
            file = records.shard_name(name, split, index, num_shards)
            for record, member in enumerate(members):
                label = int(member) % len(class_names)
                labels.append(class_names[label])
                low = 60 + 80 * label
                high = min(low + 100, 256)
                pixels = random.integers(low, high, (image_size,) * 2, np.uint8)
                filename = f"{class_names[label]}/{split}-{member}.png"
                encoded = encode(pixels, encoding)
                example = _example(
                    encoded, encoding, image_size, label, class_names[label], filename
                )
                starts.append(len(payload))
                payload += records.frame(records.encode_example(example))
                rows.append(
                    {
                        "filename": filename,
                        "split": split,
                        "label": class_names[label],
                        "patient_id": f"{split}-{member}",
                        "subtype": "",
                        "source_width": image_size,
                        "source_height": image_size,
                        "source_mode": "L",
                        "source_sha256": files.sha256_bytes(pixels.tobytes()),
                        "shard": file,
                        "record": record,
                        "duplicate_of": "",
                    }
                )
            (path / file).write_bytes(payload)
            shards.append(
                records.Shard(
                    file, len(members), len(payload), files.sha256_bytes(payload)
                )
            )
        splits[split] = records.Split(
            name=split,
            num_examples=count,
            num_bytes=sum(shard.bytes for shard in shards),
            num_patients=count,
            class_counts={c: labels.count(c) for c in class_names},
            shards=tuple(shards),
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


def _example(encoded, encoding, size, label, text, filename) -> dict:
    return {
        "image/encoded": encoded,
        "image/format": encoding,
        "image/height": size,
        "image/width": size,
        "image/filename": filename,
        "image/key/sha256": files.sha256_bytes(encoded),
        "image/class/label": label,
        "image/class/text": text,
        "image/patient_id": filename.rpartition("/")[2].removesuffix(".png"),
        "image/subtype": "",
    }


def _write_examples(path: pathlib.Path, rows: list[dict]) -> None:
    with open(path / records.EXAMPLES, "w", newline="") as file:
        writer = csv.DictWriter(file, records.EXAMPLE_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def _described(path: pathlib.Path) -> dict:
    return {"bytes": path.stat().st_size, "sha256": files.sha256_file(path)}


@pytest.fixture
def make_records(tmp_path):
    """Returns `write_records` bound to this test's folder."""

    def make(counts, **options):
        return write_records(tmp_path / "data", counts, **options)

    return make
