"""tools.verify_tfrecords: every kind of damage is found, and nothing else."""

import dataclasses
import json
import pathlib
import random
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest

from cxr import cli, files, records, tfrecord
from cxr.conversion import verification, workers
from tests.fabricated import write_records
from tools import verify_tfrecords

COUNTS = {"train": 12, "validation": 4, "test": 4}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A sound set and one that differs from it, made once."""
    root = tmp_path_factory.mktemp("sound")
    record_set = write_records(root, COUNTS, image_size=8)
    other = write_records(
        root / "foreign", COUNTS, image_size=8, class_names=("A", "B")
    )
    return record_set, other


@pytest.fixture
def damaged(sound, tmp_path):
    """A copy of the sound set to be damaged."""
    path = tmp_path / "tiny" / "1.0.0"
    shutil.copytree(sound[0].path, path)
    return records.RecordSet(path, sound[0].manifest)


def verify(path: pathlib.Path) -> list[verification.Fault]:
    with workers.started(1, preload=verification.__name__) as pool:
        return verification.verify(path, pool)


def frames(path: pathlib.Path) -> list[bytes]:
    """The framed records of a shard."""
    return [tfrecord.frame(payload) for payload in tfrecord.read_frames(path)]


def flip(path: pathlib.Path, position: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(bytes(data))


class Damage:
    """One kind of damage a method: each changes a shard, returns the record."""

    def __init__(self, record_set, other, seed):
        self.random = random.Random(seed)
        self.split = self.random.choice(list(record_set.manifest.splits))
        self.path = self.random.choice(record_set.shard_paths(self.split))
        self.other = other
        self.frames = frames(self.path)
        self.record = self.random.randrange(len(self.frames))
        self.start = sum(map(len, self.frames[: self.record]))
        self.size = len(self.frames[self.record])

    def _flip(self, low: int, high: int) -> int:
        position = self.start + self.random.randrange(low, high)
        flip(self.path, position, self.random.randrange(8))
        return self.record

    def flip_in_length(self):
        return self._flip(0, 8)

    def flip_in_length_crc(self):
        return self._flip(8, 12)

    def flip_in_payload(self):
        return self._flip(12, self.size - 4)

    def flip_in_payload_crc(self):
        return self._flip(self.size - 4, self.size)

    def cut_inside_a_record(self):
        end = self.start + self.random.randrange(1, self.size)
        self.path.write_bytes(self.path.read_bytes()[:end])
        return self.record

    def cut_between_records(self):
        self.path.write_bytes(b"".join(self.frames[: self.record]))
        return self.record

    def empty_file(self):
        self.path.write_bytes(b"")
        return 0

    def delete_a_record(self):
        del self.frames[self.record]
        self.path.write_bytes(b"".join(self.frames))
        return self.record

    def double_a_record(self):
        self.frames.insert(self.record, self.frames[self.record])
        self.path.write_bytes(b"".join(self.frames))
        return self.record + 1

    def swap_two_records(self):
        one, two = self.random.sample(range(len(self.frames)), 2)
        self.frames[one], self.frames[two] = self.frames[two], self.frames[one]
        self.path.write_bytes(b"".join(self.frames))
        return min(one, two)

    def missing_shard(self):
        self.path.unlink()

    def extra_shard(self):
        self.path = self.path.with_name("tiny-train.tfrecord-00002-of-00002")
        self.path.write_bytes(b"".join(self.frames))

    def foreign_shard(self):
        shutil.copy(self.other.path / self.path.name, self.path)
        return 0

    def forge_an_image(self):
        """Changed pixels under sound CRCs: only the key and the manifest know."""
        fields = tfrecord.decode_example(
            list(tfrecord.read_frames(self.path))[self.record]
        )
        fields["image/encoded"] = fields["image/encoded"][::-1]
        forged = tfrecord.frame(tfrecord.encode_example(fields))
        self.frames[self.record] = forged
        self.path.write_bytes(b"".join(self.frames))
        return self.record


KINDS = [name for name in vars(Damage) if not name.startswith("_")]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_found_and_named(sound, damaged, kind, seed):
    damage = Damage(damaged, sound[1], seed)
    before = damage.path.read_bytes()
    record = getattr(damage, kind)()
    assert (
        not damage.path.exists()
        or damage.path.read_bytes() != before
        or (kind == "extra_shard")
    )
    faults = verify(damaged.path)
    assert {fault.file for fault in faults} == {damage.path.name}
    if record is not None:
        assert record in {fault.record for fault in faults}


def test_a_sound_set_has_no_faults(sound):
    assert verify(sound[0].path) == []


def test_damage_behind_a_damaged_payload_is_found_too(damaged):
    path = damaged.shard_paths("train")[0]
    lengths = [len(frame) for frame in frames(path)]
    for record in (1, 4):
        flip(path, sum(lengths[:record]) + 40, 0)
    named = [fault.record for fault in verify(damaged.path)]
    assert named == [None, 1, 4]


def test_a_forged_length_allocates_nothing(damaged):
    path = damaged.shard_paths("train")[0]
    data = bytearray(path.read_bytes())
    length = struct.pack("<Q", 1 << 60)
    data[:12] = length + struct.pack("<I", tfrecord._masked_crc(length))
    path.write_bytes(bytes(data))
    assert any(fault.record == 0 for fault in verify(damaged.path))


@pytest.mark.parametrize("name", ["examples.csv", "manifest.json"])
def test_damaged_side_files_are_named(damaged, name):
    path = damaged.path / name
    path.write_text(path.read_text().replace("train", "xrain", 1))
    assert name in {fault.file for fault in verify(damaged.path)}


def list_anew(record_set, name):
    """Has the manifest say of a side file what it is now."""
    path = record_set.path / name
    listed = {"bytes": path.stat().st_size, "sha256": files.sha256_file(path)}
    manifest = dataclasses.replace(
        record_set.manifest, files={**record_set.manifest.files, name: listed}
    )
    (record_set.path / records.MANIFEST).write_text(manifest.to_json())


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("at", [0, 3, 13, 19])
def test_a_wrong_offset_is_found(damaged, at, listed):
    """Also one that the manifest vouches for: the shards themselves tell."""
    starts = np.load(damaged.path / records.OFFSETS)
    starts[at] += 1
    np.save(damaged.path / records.OFFSETS, starts)
    if listed:
        list_anew(damaged, records.OFFSETS)
    (fault,) = verify(damaged.path)
    assert fault.file == records.OFFSETS
    if listed:
        row = damaged.examples()[at]
        assert row["shard"] in fault.what


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY"])
def test_offsets_that_are_none_are_found(damaged, content):
    (damaged.path / records.OFFSETS).write_bytes(content)
    list_anew(damaged, records.OFFSETS)
    (fault,) = verify(damaged.path)
    assert fault.file == records.OFFSETS


def test_a_set_without_offsets_is_sound(tmp_path):
    record_set = write_records(tmp_path, COUNTS, image_size=8, offsets=False)
    assert verify(record_set.path) == []


def test_a_missing_manifest_is_an_incomplete_set(damaged):
    (damaged.path / "manifest.json").unlink()
    (fault,) = verify(damaged.path)
    assert fault.file == "manifest.json"
    assert "incomplete" in fault.what


def test_the_command(sound, damaged, capsys):
    root = f"--data_dir={damaged.path.parent.parent}"
    assert verify_tfrecords.main(["", root, "--workers=1"]) == 0
    assert "sound" in capsys.readouterr().out
    path = damaged.shard_paths("test")[1]
    flip(path, 30, 3)
    assert verify_tfrecords.main(["", root, "--workers=1"]) == 65
    assert f"{path} record 0: " in capsys.readouterr().out
    assert verify_tfrecords.main(["", root, "--json", "--workers=1"]) == 65
    (result,) = json.loads(capsys.readouterr().out)
    assert not result["sound"]
    assert {"file": path.name, "record": 0} in [
        {key: fault[key] for key in ("file", "record")} for fault in result["faults"]
    ]


def test_a_set_is_found_by_root_name_version_or_folder(damaged, tmp_path):
    for data_dir, names in (
        (tmp_path, {}),
        (tmp_path, {"dataset": "tiny", "version": "1.0.0"}),
        (damaged.path, {}),
    ):
        assert verification.find_sets(str(data_dir), **names) == [damaged.path]


def test_no_set_is_refused(tmp_path):
    with pytest.raises(cli.DataError, match="no converted set"):
        verify_tfrecords.main(["", f"--data_dir={tmp_path}"])
    with pytest.raises(cli.UsageError, match="no such folder"):
        verify_tfrecords.main(["", f"--data_dir={tmp_path}/none"])


def test_converter_and_verifier_live_without_tensorflow():
    script = (
        "import sys, tools.verify_tfrecords, tools.make_tfrecords\n"
        "heavy = {'tensorflow', 'tensorflow_datasets', 'keras', 'kagglehub'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert done.returncode == 0, done.stderr
