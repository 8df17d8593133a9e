"""Walks folders that others made and reads their files, safely.

What lies in a foreign folder may be a link in a circle, a FIFO that never answers or
a name that no table can hold. The walk raises for none of it, opens none of it and
passes nothing over in silence, except what operating systems and archives leave
behind on their own. The read never blocks and never takes more than it may.
"""

import errno
import os
import stat
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from cxr.reasons import BadImage, Rejected

# Case-folded. Of macOS archives, Windows Explorer, Windows volumes, Synology.
_LITTER = frozenset(
    ("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini")
    + ("$recycle.bin", "system volume information", "@eadir")
)


class Entry(NamedTuple):
    """What `walk` found.

    Attributes:
      file: its path as the operating system takes it.
      path: its POSIX path, beginning with what `walk` was given.
      is_folder: a folder that cannot be entered; always rejected.
      rejected: why it cannot be read, None for a regular file.
    """

    file: str
    path: str
    is_folder: bool
    rejected: Rejected | None


_Waiting = tuple[str, str, tuple[str, ...]]  # folder, path, real paths above it


def walk(folder: str | os.PathLike[str], path: str) -> Iterator[Entry]:
    """Yields the files below a folder: each folder's own by name, then its folders'.

    Links are followed, unless they lead back to a folder they lie in. Paths are joined
    as text: a `pathlib` object a file would cost a large tree more time and memory
    than all the rest of the walk.

    Args:
      folder: to be walked.
      path: the POSIX path that the entries' paths begin with.
    """
    waiting: list[_Waiting] = [(os.fspath(folder), path, (os.path.realpath(folder),))]
    while waiting:
        folder, path, ancestors = waiting.pop()
        try:
            listed = entries(folder)
        except OSError as error:
            reason = Rejected(path, "unreadable", error.strerror or str(error))
            yield Entry(folder, path, True, reason)
            continue
        inner_folders = []
        for name, is_folder in listed:
            file, inner = os.path.join(folder, name), f"{path}/{name}"
            if not is_folder:
                yield Entry(file, inner, False, _fault_of(file, inner))
                continue
            link = os.path.islink(file)
            target = os.path.realpath(file) if link else f"{ancestors[-1]}/{name}"
            if target in ancestors:
                reason = Rejected(inner, "link_loop", f"leads back to {target}")
                yield Entry(file, inner, True, reason)
            else:
                inner_folders.append((file, inner, (*ancestors, target)))
        waiting += reversed(inner_folders)


def entries(folder: str | os.PathLike[str]) -> list[tuple[str, bool]]:
    """Returns (name, is a folder) of each entry by name, litter left out.

    Raises:
      OSError: the folder cannot be listed.
    """
    with os.scandir(folder) as listed:
        return sorted(
            (entry.name, _is_folder(entry))
            for entry in listed
            if not is_litter(entry.name)
        )


def read_file(
    path: str | os.PathLike, max_bytes: int, *, special: str = "special_file"
) -> bytes:
    """Returns the bytes of a regular file.

    Args:
      path: of the file; links are followed.
      max_bytes: a larger file is refused unread.
      special: the reason code of what is no regular file.

    Raises:
      BadImage: no regular file, or more than `max_bytes`.
      OSError: missing or unreadable.
    """
    _check_regular(os.stat(path), special)  # opening a device may do something
    # Non-blocking and looked at again: the path may have come to name a FIFO since.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        _check_regular(status, special)
        _check_size(status.st_size, max_bytes)
        data = file.read(status.st_size + 1)
        if len(data) > status.st_size:  # it grew, or its system does not tell sizes
            data += file.read(max_bytes)
            _check_size(len(data), max_bytes)
        return data


def is_litter(name: str) -> bool:
    """Whether systems and archives leave an entry of this name on their own."""
    return name.startswith(".") or name.casefold() in _LITTER


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _fault_of(file: str, path: str) -> Rejected | None:
    """Returns why an entry that is no folder cannot be read, None when it can."""
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in path):
        detail = f"control characters or broken UTF-8: {path!a}"
        readable = os.fsencode(path).decode("utf-8", "backslashreplace")
        return Rejected(readable, "bad_name", detail)
    try:
        mode = os.stat(file).st_mode
    except OSError as error:
        code = {errno.ENOENT: "dangling_link", errno.ELOOP: "link_loop"}.get(
            error.errno or 0, "unreadable"
        )
        return Rejected(path, code, error.strerror or str(error))
    if not stat.S_ISREG(mode):
        return Rejected(path, "special_file", _kind(mode))
    return None


def _check_regular(status: os.stat_result, special: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise BadImage(special, f"{_kind(status.st_mode)}, not a regular file")


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise BadImage("too_many_bytes", f"{size} bytes, the limit is {max_bytes}")


def _kind(mode: int) -> str:
    tests = {
        "folder": stat.S_ISDIR,
        "FIFO": stat.S_ISFIFO,
        "socket": stat.S_ISSOCK,
        "character device": stat.S_ISCHR,
        "block device": stat.S_ISBLK,
    }
    return next((name for name, test in tests.items() if test(mode)), oct(mode))
