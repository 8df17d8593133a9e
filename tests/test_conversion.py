"""cxr.conversion end to end: what lies on the disk, resuming, refusing, reports."""

import collections
import csv
import errno
import hashlib
import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from cxr import (
    cli,
    conversion,
    files,
    images,
    near_duplicates,
    records,
    spool,
    workers,
)
from cxr.conversion import ConversionConfig
from tools import make_tfrecords

SIZE = 24


def write_film(path: pathlib.Path, seed: int, kind: str = "PNG") -> None:
    """Writes a small random film, another for every seed."""
    random = np.random.default_rng(seed)
    # Coarse blocks, so that JPEG keeps them nearly as they are.
    blocks = random.integers(0, 256, (4, 5), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.kron(blocks, np.ones((10, 10), np.uint8))).save(path, kind)


def make_source(root: pathlib.Path, count: int = 12, *, side: str = "") -> pathlib.Path:
    """Writes `count` films of each of two classes, two films a patient."""
    for index in range(count):
        patient = index // 2
        for seed, name in (
            (index, f"NORMAL/IM-{patient:04d}-{index:04d}.png"),
            (1000 + index, f"PNEUMONIA/person{patient}_virus_{index}.png"),
        ):
            write_film(root / side / name, seed + 10_000 * len(side))
    return root


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "films")


def config_for(source: pathlib.Path, **flags) -> ConversionConfig:
    defaults = dict(
        input_dir=str(source),
        output_dir=str(source.parent / "data"),
        dataset="tiny",
        image_size=SIZE,
        encoding="raw",
        workers=1,
    )
    return ConversionConfig(**{**defaults, **flags})


def convert(source: pathlib.Path, **flags) -> records.RecordSet:
    return conversion.convert(config_for(source, **flags), log=lambda line: None)


def contents(folder: pathlib.Path) -> dict[str, str]:
    """Name to SHA-256 of everything that must repeat bit for bit."""
    return {
        path.name: files.sha256_file(path)
        for path in folder.iterdir()
        if path.name not in ("report.html", "report.json")
    }


def read_csv(path: pathlib.Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# --- what lies on the disk


def test_the_set_is_what_the_contract_says(source):
    record_set = convert(source, num_shards=2)
    assert record_set.path == source.parent / "data/tiny/1.0.0"
    assert sorted(path.name for path in record_set.path.iterdir()) == [
        "dataset_info.json",
        "examples.csv",
        "features.json",
        "image-class-label.labels.txt",
        "manifest.json",
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
            for payload in records.read_frames(path)
        ]
        rows = record_set.examples(split)
        for payload, row in zip(payloads, rows, strict=True):
            fields = records.decode_example(payload)
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


# --- the same bytes always


def test_workers_do_not_change_the_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "CHUNK_FILMS", 8)
    source = make_source(tmp_path / "films", 16)
    one = convert(source, num_shards=3)
    three = convert(source, num_shards=3, workers=3, output_dir=str(tmp_path / "three"))
    assert contents(one.path) == contents(three.path)


def test_the_place_of_the_films_does_not_change_the_bytes(source, tmp_path):
    moved = tmp_path / "elsewhere"
    one = convert(source)
    source.rename(moved)
    two = convert(moved, output_dir=str(tmp_path / "data2"))
    assert contents(one.path) == contents(two.path)


# --- again, and after an interruption


def test_a_complete_set_is_left_alone(source):
    before = contents(convert(source).path)
    lines = []
    again = conversion.convert(config_for(source), log=lines.append)
    assert contents(again.path) == before
    assert any("complete already" in line for line in lines)


class Crash(BaseException):
    """Stands for kill -9: nothing may catch it."""


def publications(source: pathlib.Path, monkeypatch, stop_at: int | None) -> int:
    """Converts, and dies at the `stop_at`-th rename; returns the renames seen."""
    seen = 0
    replace = os.replace

    def counting(*args):
        nonlocal seen
        seen += 1
        if seen - 1 == stop_at:
            raise Crash
        replace(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", counting)
        convert(source, num_shards=2)
    return seen


def test_an_interruption_at_any_publication_changes_nothing(source, monkeypatch):
    monkeypatch.setattr(spool, "CHUNK_FILMS", 10)
    total = publications(source, monkeypatch, None)
    folder = source.parent / "data/tiny/1.0.0"
    expected = contents(folder)
    for moment in range(total):
        folder.rename(source.parent / f"old{moment}")
        with pytest.raises(Crash):
            publications(source, monkeypatch, moment)
        published = contents_without_work(folder)
        assert records.MANIFEST not in published
        assert published.items() <= expected.items()
        assert contents(convert(source, num_shards=2).path) == expected


def contents_without_work(folder: pathlib.Path) -> dict[str, str]:
    if not folder.exists():
        return {}
    return {
        path.name: files.sha256_file(path)
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith("report.")
    }


def test_a_rerun_does_only_what_is_missing(source, monkeypatch):
    monkeypatch.setattr(spool, "CHUNK_FILMS", 10)
    last = publications(source, monkeypatch, None) - 1
    (source.parent / "data").rename(source.parent / "old")
    with pytest.raises(Crash):
        publications(source, monkeypatch, last)  # all but the manifest
    monkeypatch.setattr(images, "read", None)  # any decoding would fail
    monkeypatch.setattr(records, "frame", None)  # any shard written too
    convert(source, num_shards=2)


def test_kill_9_of_a_real_run_changes_nothing(tmp_path):
    source = make_source(tmp_path / "films", 80)
    flags = [f"--input_dir={source}", "--dataset=tiny", f"--image_size={SIZE}"]
    command = [sys.executable, "-m", "tools.make_tfrecords", "--workers=2", *flags]
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [*command, f"--output_dir={killed}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not list(killed.rglob("films-*")):
        pass  # until the first spool file appears
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(killed.rglob(records.MANIFEST))
    arguments = dict(dataset="tiny", image_size=SIZE, encoding="jpeg")
    finished = convert(source, output_dir=str(killed), **arguments)
    expected = convert(source, output_dir=str(tmp_path / "whole"), **arguments)
    assert contents(finished.path) == contents(expected.path)


def test_an_unfinished_set_with_other_flags_is_not_mixed_in(source, monkeypatch):
    monkeypatch.setattr(spool, "CHUNK_FILMS", 10)
    last = publications(source, monkeypatch, None) - 1
    (source.parent / "data").rename(source.parent / "old")
    with pytest.raises(Crash):
        publications(source, monkeypatch, last)
    flags = dict(image_size=32, seed=3, num_shards=1)
    finished = convert(source, **flags)
    expected = convert(source, output_dir=str(source.parent / "fresh"), **flags)
    assert contents(finished.path) == contents(expected.path)


def test_a_damaged_set_is_made_again(source):
    record_set = convert(source)
    expected = contents(record_set.path)
    record_set.shard_paths("train")[0].write_bytes(b"damage")
    assert contents(convert(source).path) == expected


# --- refusals


def test_other_flags_are_refused_with_the_way_out(source):
    before = contents(convert(source).path)
    with pytest.raises(cli.UsageError) as caught:
        convert(source, image_size=32, seed=1)
    message = str(caught.value)
    for part in ("--image_size=32 (there: 24)", "--seed=1", "--version=1.0.1"):
        assert part in message
    assert contents(source.parent / "data/tiny/1.0.0") == before
    convert(source, image_size=32, seed=1, version="1.0.1")
    assert records.find(source.parent / "data", "tiny").manifest.version == "1.0.1"


def test_other_sources_are_refused_with_the_difference(source):
    convert(source)
    (source / "NORMAL/IM-0000-0000.png").unlink()
    write_film(source / "NORMAL/IM-0777-0001.png", 777)
    write_film(source / "NORMAL/IM-0001-0002.png", 778)
    with pytest.raises(cli.UsageError) as caught:
        convert(source)
    message = str(caught.value)
    assert "1 added (such as 'NORMAL/IM-0777-0001.png')" in message
    assert "1 removed (such as 'NORMAL/IM-0000-0000.png')" in message
    assert "1 changed (such as 'NORMAL/IM-0001-0002.png')" in message


def test_foreign_files_are_not_mixed_in(source):
    folder = source.parent / "data/tiny/1.0.0"
    folder.mkdir(parents=True)
    (folder / "thesis.doc").write_text("mine")
    with pytest.raises(cli.UsageError, match=r"thesis\.doc"):
        convert(source)
    assert [path.name for path in folder.iterdir()] == ["thesis.doc"]


def test_two_conversions_of_one_set_do_not_meet(source):
    with conversion._work_folder(config_for(source).folder):
        with pytest.raises(cli.UsageError, match="another conversion"):
            convert(source)


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


def test_the_input_is_required():
    with pytest.raises(cli.UsageError, match="input_dir"):
        make_tfrecords.main([""])


# --- the disk


def test_a_full_disk_is_told_and_leaves_the_old_set(source, monkeypatch):
    before = contents(convert(source).path)
    write_bytes = pathlib.Path.write_bytes

    def full(path, data):
        if "films-" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, data)

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(cli.StorageError) as caught:
        convert(source, version="2.0.0")
    message = str(caught.value)
    assert "2.0.0/.converting/films-" in message
    assert re.search(r"cannot write \d+ bytes: No space left on device \(\d+", message)
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


# --- bad files among good ones


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
    encoding = spool.Encoding(SIZE, "raw", 95)
    film, stored = spool._convert_one(
        source, spool.Source("NORMAL/IM-0000-0000.png", "NORMAL", ""), encoding
    )
    assert (film.reason, stored) == ("special_file", b"")


def test_an_unreadable_file_is_quarantined(source, monkeypatch):
    def refuse(path):
        if path.name == "IM-0000-0000.png":
            raise PermissionError(errno.EACCES, "Permission denied")
        return path.read_bytes()

    monkeypatch.setattr(spool, "_read_file", refuse)
    record_set = convert(source)
    assert read_csv(record_set.path / "quarantine.csv") == [
        {
            "path": "NORMAL/IM-0000-0000.png",
            "reason": "unreadable",
            "detail": "Permission denied",
        }
    ]


# --- workers


def die(job: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return job


def test_a_dead_worker_is_told():
    with workers.started(2, preload=__name__) as pool:
        with pytest.raises(cli.UnavailableError, match="fewer --workers"):
            list(pool.map(die, range(3)))


def double(job: int) -> int:
    return 2 * job


def refuse_three(job: int) -> int:
    if job == 3:
        raise cli.StorageError("three")
    return job


@pytest.mark.parametrize("count", [1, 2])
def test_workers_do_every_job(count):
    with workers.started(count, preload=__name__) as pool:
        assert sorted(pool.map(double, iter(range(50)))) == list(range(0, 100, 2))
        with pytest.raises(cli.StorageError, match="three"):
            list(pool.map(refuse_three, range(50)))


# --- the report


def test_the_report_stands_alone_and_says_the_same_in_json(source):
    (source / "NORMAL/<b>.jpeg").write_text("not a film")
    for index in range(12):  # pneumonia films of another size: a shortcut
        path = source / f"PNEUMONIA/person{index // 2}_virus_{index}.png"
        Image.open(path).resize((80, 80)).save(path)
    record_set = convert(source)
    page = (record_set.path / "report.html").read_text()
    content = json.loads((record_set.path / "report.json").read_text())
    assert "http" not in page
    assert "<script" not in page
    assert page.count("data:image/jpeg;base64,") == 2
    assert "NORMAL/&lt;b&gt;.jpeg" in page
    assert content["quarantine"] == {"not_an_image": 1}
    assert content["films"] == 24
    assert content["patients_on_two_sides"] == 0
    assert sum(row["films"] for row in content["splits"]) == 24
    assert sum(row["patients"] for row in content["splits"]) == 12
    virus = content["subtypes"][0]
    assert (virus["class"], virus["subtype"]) == ("PNEUMONIA", "virus")
    assert virus["train"] + virus["validation"] + virus["test"] == 12
    width = {row["class"]: row["width"] for row in content["shortcuts"]}
    assert width == {"NORMAL": 0.0, "PNEUMONIA": 1.0}
    assert "The width of the source files alone tells NORMAL" in page


def test_names_without_patients_are_said_loudly(source):
    lines = []
    config = config_for(source, patient_pattern="^(?P<patient>x)")
    conversion.convert(config, log=lines.append)
    assert any(line.startswith("WARNING: 24 file names") for line in lines)


def test_near_duplicates_are_found_across_sides_only():
    random = np.random.default_rng(0)
    hashes = [int.from_bytes(random.bytes(32), "big") for _ in range(200)]
    sides = np.arange(200) % 2
    twelve_bits = sum(1 << bit for bit in range(0, 240, 20))
    hashes[7] = hashes[10] ^ twelve_bits
    hashes[8] = hashes[20]  # one side
    hashes[31] = hashes[40] ^ twelve_bits ^ 2
    hashes[51] = hashes[60]
    assert near_duplicates.across(hashes, sides) == [(0, 51, 60), (12, 7, 10)]
    assert near_duplicates.across(hashes, sides, at_most=1) == [(0, 51, 60)]


def test_a_film_saved_again_hashes_alike():
    y, x = np.mgrid[0:96, 0:96]
    film = (128 + 60 * np.sin(x / 9) * np.cos(y / 13) + x / 3).astype(np.uint8)
    again = images.to_grey(images.encode(film, "jpeg", quality=60), 96)
    one, two = map(near_duplicates.difference_hash, (film, again))
    other = near_duplicates.difference_hash(film.T.copy())
    assert (one ^ two).bit_count() <= near_duplicates.MAX_DISTANCE
    assert (one ^ other).bit_count() > 60


def test_classes_keep_their_share_in_every_split(tmp_path):
    record_set = convert(make_source(tmp_path / "films", 40))
    counts = collections.Counter()
    for name, split in record_set.manifest.splits.items():
        assert split.class_counts["NORMAL"] == split.class_counts["PNEUMONIA"]
        counts[name] = split.num_examples
    assert counts == {"train": 56, "validation": 12, "test": 12}
