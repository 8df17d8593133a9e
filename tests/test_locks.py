"""cxr.locks: one process a folder, on every file system."""

import errno
import os
import socket
import subprocess
import sys

import pytest

from cxr import cli, locks, platforms


def refusal(holder: str) -> cli.UsageError:
    return cli.UsageError(f"held by {holder}")


@pytest.fixture
def without_locks(monkeypatch):
    """A file system as some network ones are."""

    def refuse(descriptor):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(platforms, "try_lock", refuse)


@pytest.fixture
def gone():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_held_folder_is_refused_naming_the_process(tmp_path):
    path = tmp_path / "lock"
    with locks.hold(path, refusal):
        with pytest.raises(cli.UsageError, match=f"held by process {os.getpid()}$"):
            with locks.hold(path, refusal):
                pass
    with locks.hold(path, refusal):
        assert path.read_text() == str(os.getpid())


def test_a_lock_that_is_a_link_is_refused_and_nothing_is_cut(tmp_path):
    (tmp_path / "precious").write_text("kept")
    for make in (os.symlink, os.link):
        make(tmp_path / "precious", tmp_path / "lock")
        with pytest.raises(cli.DataError, match="lock: not a plain file"):
            with locks.hold(tmp_path / "lock", refusal):
                pass
        (tmp_path / "lock").unlink()
    assert (tmp_path / "precious").read_text() == "kept"


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(cli.DataError, match=f"{name}: not a plain file"):
            with locks.hold(tmp_path / name, refusal):
                pass


def test_without_locks_a_file_tells_who_works_here(tmp_path, without_locks, capsys):
    path, owner = tmp_path / "lock", tmp_path / "lock-owner"
    with locks.hold(path, refusal):
        assert owner.read_text() == f"{os.getpid()} {socket.gethostname()}"
        with pytest.raises(cli.UsageError, match=rf"held by process {os.getpid()} of"):
            with locks.hold(path, refusal):
                pass
    assert not owner.exists()
    assert f"warning: {path}: this file system has no locks" in capsys.readouterr().err


def test_an_owner_of_this_host_that_is_gone_has_lost_it(tmp_path, without_locks, gone):
    owner = tmp_path / "lock-owner"
    owner.write_text(f"{gone} {socket.gethostname()}")
    with locks.hold(tmp_path / "lock", refusal):
        assert owner.read_text().startswith(f"{os.getpid()} ")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lock"]


@pytest.mark.parametrize("text", ["{gone} elsewhere", "", "x y", "9"])
def test_an_owner_that_nobody_can_look_for_is_refused(
    tmp_path, without_locks, gone, text
):
    owner = tmp_path / "lock-owner"
    owner.write_text(text.format(gone=gone))
    with pytest.raises(cli.UsageError, match=f"if that has ended, remove {owner}"):
        with locks.hold(tmp_path / "lock", refusal):
            pass
    assert owner.exists()


def test_an_owners_file_that_is_a_link_is_not_followed(tmp_path, without_locks):
    (tmp_path / "lock-owner").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        with locks.hold(tmp_path / "lock", refusal):
            pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_disk_that_fails_is_no_file_system_without_locks(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(platforms, "try_lock", fail)
    with pytest.raises(OSError, match="Input/output"):
        with locks.hold(tmp_path / "lock", refusal):
            pass


def test_processes_are_looked_for(gone):
    assert platforms.process_exists(os.getpid())
    assert platforms.process_exists(1)  # perhaps somebody else's
    assert not platforms.process_exists(gone)
    assert not platforms.process_exists(10**30)
