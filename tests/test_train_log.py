import errno
import os
import re
import warnings

import pytest

from cxr import cli, console, runs
from cxr.training import signals, train_log

DATED = r"=== \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC: training (begins|goes on) \(cxr .+\)"


def lines(folder):
    return (folder / runs.TRAIN_LOG).read_text().splitlines()


def test_it_holds_what_is_printed_and_grows(tmp_path, capsys):
    for what, line in (("training begins", "one"), ("training goes on", "two")):
        with train_log.writing(tmp_path, what, ["before"]):
            console.say(line)
            console.warn("three")
            # Line by line: a kill loses none.
            assert lines(tmp_path)[-2:] == [line, "warning: three"]
        console.say("not this")
    found = lines(tmp_path)
    assert [bool(re.fullmatch(DATED, line)) for line in found] == [
        True,
        *[False] * 3,
    ] * 2
    assert found[1:4] == ["before", "one", "warning: three"]
    assert found[5:] == ["before", "two", "warning: three"]
    assert capsys.readouterr().out == "one\nnot this\ntwo\nnot this\n"


def test_warnings_of_libraries_are_shown_and_kept(tmp_path):
    with pytest.warns(RuntimeWarning, match="overflow"):
        with train_log.writing(tmp_path, "training begins"):
            warnings.warn("overflow", RuntimeWarning, stacklevel=1)
    assert "RuntimeWarning: overflow" in "\n".join(lines(tmp_path))


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (cli.DataError("bad films"), "error: bad films"),
        (signals.Interrupted(15), "stopped by SIGTERM"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), "error: x: No space"),
        (ZeroDivisionError("ours"), "ZeroDivisionError: ours"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_how_a_training_failed_stands_at_the_end(tmp_path, error, last):
    with pytest.raises(type(error)):
        with train_log.writing(tmp_path, "training begins"):
            raise error
    assert lines(tmp_path)[-1].startswith(last)


def test_a_full_disk_is_told_once_and_stops_nothing(tmp_path, monkeypatch, capsys):
    write, full = os.write, []

    def fails(descriptor, data):
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", fails)
    with train_log.writing(tmp_path, "training begins"):
        console.say("one")
        full.append(True)
        console.say("two")
        console.say("three")
        full.clear()
        console.say("four")
    said = capsys.readouterr()
    assert said.out == "one\ntwo\nthree\nfour\n"
    assert said.err.count("training goes on without its log") == 1
    assert lines(tmp_path)[1:] == ["one", "four"]


@pytest.mark.parametrize("kind", ["link", "second name", "pipe", "folder"])
def test_nothing_is_written_through_what_stands_in_its_place(tmp_path, kind, capsys):
    other, path = tmp_path / "other", tmp_path / runs.TRAIN_LOG
    other.write_text("theirs")
    if kind == "link":
        path.symlink_to(other)
    elif kind == "second name":
        path.hardlink_to(other)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with train_log.writing(tmp_path, "training begins"):
        console.say("one")
    assert other.read_text() == "theirs"
    assert "without its log" in capsys.readouterr().err


def test_it_is_one_of_the_runs_own_files(tmp_path):
    assert runs.owns(tmp_path, tmp_path / "train.log")
