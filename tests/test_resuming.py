"""A conversion again: after an interruption, on another machine, over another set."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from cxr import cli, files, images, records, tfrecord
from cxr.conversion import converter, spool
from tests.sample_images import (
    SIZE,
    config_for,
    contents,
    convert,
    make_source,
    write_image,
)


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "films")


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


def test_workers_do_not_change_the_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "CHUNK_IMAGES", 8)
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


def test_a_complete_set_is_left_alone(source):
    before = contents(convert(source).path)
    lines = []
    again = converter.convert(config_for(source), log=lines.append)
    assert contents(again.path) == before
    assert any("complete already" in line for line in lines)


def test_an_interruption_at_any_publication_changes_nothing(source, monkeypatch):
    monkeypatch.setattr(spool, "CHUNK_IMAGES", 10)
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
    monkeypatch.setattr(spool, "CHUNK_IMAGES", 10)
    last = publications(source, monkeypatch, None) - 1
    (source.parent / "data").rename(source.parent / "old")
    with pytest.raises(Crash):
        publications(source, monkeypatch, last)  # all but the manifest
    monkeypatch.setattr(images, "read", None)  # any decoding would fail
    monkeypatch.setattr(tfrecord, "frame", None)  # any shard written too
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
    while process.poll() is None and not list(killed.rglob("images-*")):
        pass  # until the first spool file appears
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(killed.rglob(records.MANIFEST))
    arguments = dict(dataset="tiny", image_size=SIZE, encoding="jpeg")
    finished = convert(source, output_dir=str(killed), **arguments)
    expected = convert(source, output_dir=str(tmp_path / "whole"), **arguments)
    assert contents(finished.path) == contents(expected.path)


@pytest.fixture
def unfinished(source, monkeypatch):
    """Sources of which everything is converted and published but the manifest."""
    monkeypatch.setattr(spool, "CHUNK_IMAGES", 10)
    last = publications(source, monkeypatch, None) - 1
    (source.parent / "data").rename(source.parent / "old")
    with pytest.raises(Crash):
        publications(source, monkeypatch, last)
    return source


def test_films_that_changed_meanwhile_are_converted_again(unfinished):
    write_image(unfinished / "NORMAL/IM-0001-0002.png", 5000)
    finished = convert(unfinished, num_shards=2)
    expected = convert(unfinished, num_shards=2, output_dir=f"{unfinished}-fresh")
    assert contents(finished.path) == contents(expected.path)


@pytest.mark.parametrize(
    "flags",
    [
        {"image_size": 32, "num_shards": 2},
        {"seed": 3, "num_shards": 2},
        {"seed": 3, "num_shards": 1},
    ],
)
def test_an_unfinished_set_with_other_flags_is_not_mixed_in(unfinished, flags):
    source = unfinished
    finished = convert(source, **flags)
    expected = convert(source, output_dir=str(source.parent / "fresh"), **flags)
    assert contents(finished.path) == contents(expected.path)


def test_a_damaged_set_is_made_again(source):
    record_set = convert(source)
    expected = contents(record_set.path)
    record_set.shard_paths("train")[0].write_bytes(b"damage")
    assert contents(convert(source).path) == expected


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
    write_image(source / "NORMAL/IM-0777-0001.png", 777)
    write_image(source / "NORMAL/IM-0001-0002.png", 778)
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
    with converter._work_folder(config_for(source).folder):
        with pytest.raises(cli.UsageError, match="another conversion"):
            convert(source)


def test_sigterm_to_all_processes_leaves_no_temporary_file(tmp_path):
    """Of a conversion and its workers, as a service manager sends it."""
    source = make_source(tmp_path / "films", 80)
    output = tmp_path / "stopped"
    command = [sys.executable, "-m", "tools.make_tfrecords", "--workers=2"]
    process = subprocess.Popen(
        [*command, f"--input_dir={source}", f"--output_dir={output}"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and not list(output.rglob("images-*")):
        pass  # until the first spool file appears
    os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 143
    assert said.strip() == "stopped by SIGTERM"
    assert list(output.rglob("images-*"))
    assert not list(output.rglob(".tmp-*"))


def test_links_in_a_sets_folder_are_refused(source, tmp_path):
    """Also where a later run would write what an interrupted one has not."""
    folder, outside = source.parent / "data" / "tiny" / "1.0.0", tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    for name in ("", ".converting", ".converting/lock", ".converting/images-000000"):
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(outside / "file" if "/" in name else outside)
        with pytest.raises(cli.DataError, match=f"{link}: a link"):
            convert(source)
        link.unlink()
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == "precious"
    (source.parent / "linked").symlink_to(outside)  # named: followed
    convert(source, output_dir=str(source.parent / "linked"))
    assert (outside / "tiny" / "1.0.0" / records.MANIFEST).is_file()


def test_a_set_is_not_written_among_its_own_images(source, tmp_path):
    for output in (source / "NORMAL", source / "PNEUMONIA" / "deep"):
        with pytest.raises(cli.UsageError, match="among the images"):
            convert(source, output_dir=str(output))
        assert not (output / "tiny").exists()
    images_in_set = source.parent / "data" / "tiny" / "1.0.0"
    images_in_set.parent.mkdir(parents=True)
    source.rename(images_in_set)
    with pytest.raises(cli.UsageError, match="among the images"):
        convert(images_in_set, output_dir=str(images_in_set.parents[1]))
