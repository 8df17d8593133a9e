"""cxr.platforms: what is done where a system lacks what Linux has."""

import os
import pathlib

import numpy as np
import pytest

from cxr import cli, platforms, runs
from cxr.input.reader import Reader


def test_cores_are_those_this_process_may_use(monkeypatch):
    assert platforms.available_cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert platforms.available_cores() == 7


def test_free_memory_is_assumed_where_no_one_tells(monkeypatch):
    assert 0 < platforms.free_memory_bytes() < 1 << 50
    monkeypatch.setattr(platforms, "_MEMORY", pathlib.Path("/no/where"))
    assert platforms.free_memory_bytes() == 4 << 30


@pytest.mark.parametrize("missing", ["pread", "posix_fadvise"])
def test_images_are_read_without_what_other_systems_lack(
    make_records, monkeypatch, missing
):
    reader = Reader(make_records({"train": 9}), "train", image_size=16)
    indices = np.array([8, 0, 3])
    expected = reader.films(indices)
    monkeypatch.delattr(os, missing)
    np.testing.assert_array_equal(reader.films(indices), expected)


def test_a_folder_is_locked_without_fcntl(tmp_path, monkeypatch):
    """By Windows' module, whose part a stand-in plays here."""
    held = []

    class Msvcrt:
        LK_NBLCK = 2

        @staticmethod
        def locking(descriptor, mode, count):
            if held:
                raise PermissionError
            held.append((mode, count))

    monkeypatch.setattr(platforms, "fcntl", None)
    monkeypatch.setattr(platforms, "msvcrt", Msvcrt, raising=False)
    with runs.lock(tmp_path):
        assert held == [(2, 1)]
        with pytest.raises(cli.UsageError, match="--workdir"):
            with runs.lock(tmp_path):
                pass
