"""cxr.folders: every file below a folder, or why it cannot be one; no exception."""

import inspect
import os
import socket
import stat
import sys

import pytest

from cxr import folders
from cxr.reasons import BadImage


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())


def walked(root):
    """Path -> reason, empty for a file that can be read."""
    found = list(folders.walk(root, "top"))
    assert all(e.file.endswith(e.path.removeprefix("top")) for e in found)
    return {e.path: e.rejected.reason if e.rejected else "" for e in found}


def test_files_come_by_name_each_folder_s_own_before_its_folders(tmp_path):
    touch(tmp_path, "z.png", "b/2.png", "b/1.png", "a/x/3.png", "a/9.png", "c.png")
    assert list(walked(tmp_path)) == [
        "top/c.png",
        "top/z.png",
        "top/a/9.png",
        "top/a/x/3.png",
        "top/b/1.png",
        "top/b/2.png",
    ]


def test_what_systems_leave_behind_is_passed_over(tmp_path):
    touch(tmp_path, "1.png", "._1.png", ".DS_Store", ".git/x", "a/__MACOSX/1.png")
    touch(tmp_path, "Thumbs.db", "a/ehthumbs.db", "Desktop.ini", "@eaDir/1.png/M.jpg")
    touch(tmp_path, "$RECYCLE.BIN/1.png", "System Volume Information/x")
    assert walked(tmp_path) == {"top/1.png": ""}


def test_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path / "in", "a/1.png")
    touch(tmp_path, "elsewhere/2.png")
    (tmp_path / "in/a/up").symlink_to(tmp_path / "in")
    (tmp_path / "in/a/here").symlink_to(".")
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/self.png").symlink_to(tmp_path / "in/self.png")
    (tmp_path / "in/gone.png").symlink_to(tmp_path / "gone")
    assert walked(tmp_path / "in") == {
        "top/a/1.png": "",
        "top/a/up": "link_loop",
        "top/a/here": "link_loop",
        "top/linked/2.png": "",
        "top/linked/back": "link_loop",
        "top/self.png": "link_loop",
        "top/gone.png": "dangling_link",
    }


def test_special_files_and_odd_names_are_rejected_unopened(tmp_path):
    touch(tmp_path, "new\nline.png")
    os.mkfifo(tmp_path / "fifo.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.png"))
        with open(os.fsencode(tmp_path) + b"/broken\xff.png", "wb"):
            pass
        found = list(folders.walk(tmp_path, "top"))
    assert {e.rejected.path: e.rejected[1:] for e in found} == {
        "top/fifo.png": ("special_file", "FIFO"),
        "top/socket.png": ("special_file", "socket"),
        "top/new\nline.png": (
            "bad_name",
            "control characters or broken UTF-8: 'top/new\\nline.png'",
        ),
        "top/broken\\xff.png": (
            "bad_name",
            "control characters or broken UTF-8: 'top/broken\\udcff.png'",
        ),
    }


def test_a_folder_that_cannot_be_listed_is_one_rejection(tmp_path, monkeypatch):
    touch(tmp_path, "a/1.png", "b/2.png")
    listing = os.scandir

    def refuse(folder):
        if os.path.basename(folder) == "a":
            raise PermissionError(13, "Permission denied", folder)
        return listing(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    found = list(folders.walk(tmp_path, "top"))
    assert [(e.path, e.is_folder) for e in found] == [
        ("top/a", True),
        ("top/b/2.png", False),
    ]
    assert found[0].rejected == ("top/a", "unreadable", "Permission denied")


def test_a_folder_that_is_gone_is_one_rejection(tmp_path):
    assert walked(tmp_path / "gone") == {"top": "unreadable"}


def test_a_tree_deeper_than_python_s_stack_is_walked(tmp_path):
    touch(tmp_path, f"{'d/' * 150}1.png")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        found = walked(tmp_path)
    finally:
        sys.setrecursionlimit(limit)
    assert found == {f"top/{'d/' * 150}1.png": ""}


# --- reading


def test_a_file_up_to_the_limit_is_read_whole(tmp_path):
    path = tmp_path / "film"
    path.write_bytes(b"12345")
    (tmp_path / "link").symlink_to(path)
    assert folders.read_file(path, 5) == b"12345"
    assert folders.read_file(tmp_path / "link", 6) == b"12345"
    with pytest.raises(BadImage, match="too_many_bytes: 5 bytes, the limit is 4"):
        folders.read_file(path, 4)


def test_a_larger_file_is_refused_unread(tmp_path):
    with open(tmp_path / "film", "wb") as file:
        file.truncate(1 << 36)  # a hole: no memory could take it
    with pytest.raises(BadImage, match=f"{1 << 36} bytes, the limit is 10"):
        folders.read_file(tmp_path / "film", 10)


@pytest.mark.parametrize("told", [0, 3])
def test_a_file_that_is_longer_than_it_says_is_read_to_the_limit(
    tmp_path, monkeypatch, told
):
    """As one that grows, or one of a file system that tells no size."""
    (tmp_path / "film").write_bytes(b"0123456789")
    truth = os.fstat

    def fstat(descriptor):
        status = list(truth(descriptor))
        status[stat.ST_SIZE] = told
        return os.stat_result(status)

    monkeypatch.setattr(os, "fstat", fstat)
    assert folders.read_file(tmp_path / "film", 10) == b"0123456789"
    with pytest.raises(BadImage, match="too_many_bytes"):
        folders.read_file(tmp_path / "film", 9)


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path, kind in (("fifo", "FIFO"), ("socket", "socket"), (".", "folder")):
            with pytest.raises(BadImage, match=f"special_file: {kind}, not a regular"):
                folders.read_file(tmp_path / path, 10)
    with pytest.raises(BadImage, match="not_a_file: character device"):
        folders.read_file("/dev/zero", 10, special="not_a_file")
    with pytest.raises(FileNotFoundError):
        folders.read_file(tmp_path / "gone", 10)


def test_a_file_that_turns_into_a_fifo_does_not_hang(tmp_path, monkeypatch):
    (tmp_path / "film").write_bytes(b"12345")
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.setattr(os, "stat", lambda path: os.lstat(tmp_path / "film"))
    with pytest.raises(BadImage, match="special_file: FIFO"):
        folders.read_file(tmp_path / "fifo", 10)
