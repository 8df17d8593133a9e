"""Conversion end to end: what lies on the disk, what is refused, bad films."""

import collections
import errno
import hashlib
import io
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from cxr import cli, files, folders, images, records, tfrecord
from cxr.conversion import converter, sources, spool
from cxr.images import statistics
from tests.sample_images import (
    SIZE,
    config_for,
    contents,
    convert,
    make_source,
    read_csv,
)
from tools import make_tfrecords


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "films")


def test_the_set_is_what_the_contract_says(source):
    record_set = convert(source, num_shards=2)
    assert record_set.path == source.parent / "data/tiny/1.0.0"
    assert sorted(path.name for path in record_set.path.iterdir()) == [
        "dataset_info.json",
        "examples.csv",
        "features.json",
        "image-class-label.labels.txt",
        "manifest.json",
        "offsets.npy",
        "quarantine.csv",
        "report.html",
        "report.json",
        *(
            f"tiny-{split}.tfrecord-{index:05d}-of-00002"
            for split in ("test", "train", "validation")
            for index in range(2)
        ),
    ]
    records.check(record_set)
    again = records.find(source.parent / "data", "tiny")
    assert again.manifest == record_set.manifest
    assert record_set.manifest.class_names == ("NORMAL", "PNEUMONIA")
    total = sum(s.num_examples for s in record_set.manifest.splits.values())
    assert total == 24


@pytest.mark.parametrize("encoding", images.ENCODINGS)
def test_every_record_says_what_its_film_is(source, encoding):
    record_set = convert(source, encoding=encoding)
    for split in record_set.manifest.splits:
        payloads = [
            payload
            for path in record_set.shard_paths(split)
            for payload in tfrecord.read_frames(path)
        ]
        rows = record_set.examples(split)
        for payload, row in zip(payloads, rows, strict=True):
            fields = tfrecord.decode_example(payload)
            data = (source / row["filename"]).read_bytes()
            expected = images.to_grey(data, SIZE)
            stored = fields.pop("image/encoded")
            assert fields.pop("image/key/sha256").decode() == files.sha256_bytes(stored)
            assert fields == {
                "image/format": encoding.encode(),
                "image/height": SIZE,
                "image/width": SIZE,
                "image/filename": row["filename"].encode(),
                "image/class/label": int("PNEUMONIA" in row["filename"]),
                "image/class/text": row["filename"].split("/")[0].encode(),
                "image/patient_id": row["patient_id"].encode(),
                "image/subtype": row["subtype"].encode(),
            }
            assert row["label"] == row["filename"].split("/")[0]
            assert row["source_sha256"] == files.sha256_bytes(data)
            assert (row["source_width"], row["source_height"]) == ("50", "40")
            assert row["source_mode"] == "L"
            if encoding == "raw":
                grey = np.frombuffer(stored, np.uint8).reshape(SIZE, SIZE)
            else:
                grey = images.to_grey(stored, SIZE)
            tolerance = 20 if encoding == "jpeg" else 0
            assert np.abs(grey.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("num_shards", [1, 3])
def test_offsets_tell_where_each_record_begins(source, num_shards):
    record_set = convert(source, num_shards=num_shards)
    rows, starts = record_set.examples(), np.load(record_set.path / records.OFFSETS)
    assert starts.dtype == np.int64
    for row, start in zip(rows, starts.tolist(), strict=True):
        behind = (record_set.path / row["shard"]).read_bytes()[start:]
        (record_set.path / "behind").write_bytes(behind)
        first = next(tfrecord.read_frames(record_set.path / "behind"))
        name = tfrecord.decode_example(first)["image/filename"]
        assert name.decode() == row["filename"]


@pytest.mark.parametrize("encoding", images.ENCODINGS)
def test_tfds_opens_the_set(source, encoding):
    tfds = pytest.importorskip("tensorflow_datasets")
    record_set = convert(source, encoding=encoding, num_shards=2)
    builder = tfds.builder_from_directory(str(record_set.path))
    assert builder.info.features["image"]["class"]["label"].names == [
        "NORMAL",
        "PNEUMONIA",
    ]
    for split in record_set.manifest.splits:
        rows = {row["filename"]: row for row in record_set.examples(split)}
        assert builder.info.splits[split].num_examples == len(rows)
        loaded = tfds.load("tiny", data_dir=str(source.parent / "data"), split=split)
        seen = set()
        for example in tfds.as_numpy(loaded):
            image = example["image"]
            name = image["filename"].decode()
            seen.add(name)
            label = builder.info.features["image"]["class"]["label"].int2str(
                image["class"]["label"]
            )
            assert label == rows[name]["label"]
            expected = images.to_grey((source / name).read_bytes(), SIZE)
            pixels = image["encoded"][..., 0].astype(int)
            tolerance = 20 if encoding == "jpeg" else 0
            assert np.abs(pixels - expected).max() <= tolerance
        assert seen == set(rows)


def test_these_are_the_bytes(source):
    """A golden: whoever changes what is stored must notice, and raise a version."""
    record_set = convert(source)
    digests = [s.sha256 for p in record_set.manifest.splits.values() for s in p.shards]
    assert hashlib.sha256("".join(digests).encode()).hexdigest() == GOLDEN


GOLDEN = "90fbbda8d608aac240b70df42c3e17509349b3c3a088b3fa689f23221ed5c3de"


def test_the_source_s_own_splits(tmp_path):
    source = make_source(tmp_path / "films", side="train")
    make_source(source, 3, side="test")
    make_source(source, 2, side="val")
    record_set = convert(source, patient_pattern=r"^(?P<patient>no such name)")
    assert record_set.manifest.splits["test"].num_examples == 6
    assert {row["filename"][:5] for row in record_set.examples("test")} == {"test/"}


def test_too_many_bad_files_publish_nothing(source):
    for index in range(3):
        (source / f"NORMAL/text{index}.jpeg").write_text("not a film")
    with pytest.raises(cli.DataError, match=r"3 of 27 files \(11\.1%\)") as caught:
        convert(source)
    folder = source.parent / "data/tiny/1.0.0"
    assert [path.name for path in folder.iterdir()] == [".converting"]
    listing = folder / ".converting/quarantine.csv"
    assert str(listing) in str(caught.value)
    assert len(read_csv(listing)) == 3
    record_set = convert(source, max_bad_fraction=0.2)
    rows = read_csv(record_set.path / "quarantine.csv")
    assert {row["reason"] for row in rows} == {"not_an_image"}
    assert [row["path"] for row in rows] == [f"NORMAL/text{i}.jpeg" for i in range(3)]


@pytest.mark.parametrize(
    ("flag", "complaint"),
    [
        ("--version=1.0", "--version=1.0: expected MAJOR.MINOR.PATCH"),
        ("--dataset=chest-xray", "--dataset=chest-xray: expected letters"),
        ("--image_size=0", "--image_size"),
        ("--encoding=webp", "--encoding"),
        ("--max_bad_fraction=2", "--max_bad_fraction"),
        ("--split_policy=random", "--split_policy"),
        ("extra", "'extra'"),
    ],
)
def test_wrong_flags_are_refused(source, flag, complaint):
    with pytest.raises(cli.UsageError) as caught:
        make_tfrecords.main(["", f"--input_dir={source}", flag])
    assert complaint in str(caught.value)


def test_the_command_ends_with_zero(source):
    flags = [f"--input_dir={source}", f"--output_dir={source.parent / 'data'}"]
    assert make_tfrecords.main(["", *flags, f"--image_size={SIZE}"]) == 0


def test_the_input_is_required():
    with pytest.raises(cli.UsageError, match="input_dir"):
        make_tfrecords.main([""])


def test_a_full_disk_is_told_and_leaves_the_old_set(source, monkeypatch):
    before = contents(convert(source).path)
    write_bytes = pathlib.Path.write_bytes

    def full(path, data):
        if path.parent.name == ".converting":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, data)

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(cli.StorageError) as caught:
        convert(source, version="2.0.0")
    message = str(caught.value)
    assert "2.0.0/.converting/images-" in message
    assert re.search(r"cannot write \d+ bytes: No space left on device\n", message)
    assert re.search(r"make room \(\d+ bytes are free\)", message)
    assert caught.value.exit_code == 74
    assert contents(source.parent / "data/tiny/1.0.0") == before


def test_a_file_size_limit_is_told(source):
    """The kernel's own refusal, in a shard: RLIMIT_FSIZE in a child process."""
    script = (
        "import resource, sys\n"
        "from cxr import cli\n"
        "from tools import make_tfrecords\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "cli.run(make_tfrecords.main)\n"
    )
    flags = [f"--input_dir={source}", f"--image_size={SIZE}", "--encoding=raw"]
    output = source.parent / "small"
    done = subprocess.run(
        [sys.executable, "-c", script, *flags, f"--output_dir={output}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 74
    assert str(output) in done.stderr
    assert "bytes" in done.stderr
    assert not list(output.rglob("manifest.json"))
    assert not list(output.rglob("*.tfrecord-*"))


def make_bad_files(folder: pathlib.Path) -> dict[str, str]:
    """Writes one file of each bad kind; returns name to reason."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(buffer, "JPEG")
    jpeg = buffer.getvalue()
    kinds = {
        "empty.jpeg": (b"", "empty"),
        "text.jpeg": (b"hello", "not_an_image"),
        "half.jpeg": (jpeg[: len(jpeg) // 2], "truncated"),
        "scan.pdf": (b"%PDF-1.4", "unsupported_format"),
    }
    for name, (data, _) in kinds.items():
        (folder / name).write_bytes(data)
    os.mkfifo(folder / "fifo.jpeg")
    (folder / "gone.jpeg").symlink_to(folder / "missing")
    (folder / "two\nlines.jpeg").write_bytes(jpeg)
    found = {name: reason for name, (_, reason) in kinds.items()}
    return found | {
        "fifo.jpeg": "special_file",
        "gone.jpeg": "dangling_link",
        "two\nlines.jpeg": "bad_name",
    }


def test_bad_files_are_quarantined_by_name_and_reason(source):
    bad = make_bad_files(source / "NORMAL")
    record_set = convert(source, max_bad_fraction=0.5)
    rows = read_csv(record_set.path / "quarantine.csv")
    assert {row["path"].removeprefix("NORMAL/"): row["reason"] for row in rows} == bad
    total = sum(s.num_examples for s in record_set.manifest.splits.values())
    assert total == 24


def test_a_fifo_put_in_place_of_a_film_does_not_hang(source):
    path = source / "NORMAL/IM-0000-0000.png"
    path.unlink()
    os.mkfifo(path)
    one = spool.Source("NORMAL/IM-0000-0000.png", "NORMAL", "")
    encoding, key = spool.Encoding(SIZE, "raw", 95), source / "patients.key"
    chunk = spool.Chunk(source, (one,), source / "spool", encoding, key)
    film, stored, _ = spool._convert_one(chunk, one)
    assert (film.reason, stored) == ("special_file", b"")


def test_a_spooled_image_knows_its_bytes_and_its_look(source, tmp_path):
    (source / "NORMAL/IM-0001-0002.png").write_text("not a film")
    tree, encoding = sources.find(source), spool.Encoding(SIZE, "raw", 95)
    found = []
    for start in range(0, len(tree.sources), 5):
        some = tree.sources[start : start + 5]
        path, key = tmp_path / f"spool-{start}", tmp_path / "patients.key"
        chunk = spool.Chunk(source, some, path, encoding, key)
        spool.convert(chunk)
        found += spool.read_converted(chunk)
    readable = [image for image in found if not image.reason]
    assert len(readable) == len(found) - 1 == 23
    assert not key.exists()  # no DICOM among them
    looks, numbers = spool.read_measured(readable)
    for image, look, nine in zip(readable, looks, numbers, strict=True):
        grey = images.to_grey((source / image.path).read_bytes(), SIZE)
        assert spool.read_stored(image) == grey.tobytes()
        np.testing.assert_array_equal(look, statistics.cells(grey))
        np.testing.assert_array_equal(nine, statistics.measure(grey))


def test_an_unreadable_file_is_quarantined(source, monkeypatch):
    def refuse(path, max_bytes):
        if path.name == "IM-0000-0000.png":
            raise PermissionError(errno.EACCES, "Permission denied")
        return path.read_bytes()

    monkeypatch.setattr(folders, "read_file", refuse)
    record_set = convert(source)
    assert read_csv(record_set.path / "quarantine.csv") == [
        {
            "path": "NORMAL/IM-0000-0000.png",
            "reason": "unreadable",
            "detail": "Permission denied",
        }
    ]


def test_progress_and_rate_count_images(source):
    lines = []
    converter.convert(config_for(source), log=lines.append)
    pattern = r"converted 24 images in \d+\.\d s \(\d+ images/s\)"
    assert any(re.fullmatch(pattern, line) for line in lines)


def test_classes_keep_their_share_in_every_split(tmp_path):
    record_set = convert(make_source(tmp_path / "films", 40))
    counts = collections.Counter()
    for name, split in record_set.manifest.splits.items():
        assert split.class_counts["NORMAL"] == split.class_counts["PNEUMONIA"]
        counts[name] = split.num_examples
    assert counts == {"train": 56, "validation": 12, "test": 12}


def test_films_of_formats_without_checksums_are_counted(tmp_path):
    source, said = make_source(tmp_path / "films"), []
    for path in sorted(source.rglob("*.png"))[:3]:
        with Image.open(path) as image:
            image.save(path.with_suffix(".bmp"))
        path.unlink()
    converter.convert(config_for(source), log=said.append)
    notes = [line for line in said if "checksums" in line]
    assert len(notes) == 1
    assert notes[0].startswith("3 images are of formats without checksums (3 BMP)")
