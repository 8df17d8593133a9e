"""Publishes files atomically: temporary name, fsync, rename; never through a link."""

import contextlib
import errno
import hashlib
import os
import pathlib
import secrets
import stat
from collections.abc import Iterator

from cxr import cli, console, platforms

TEMPORARY_PREFIX = ".tmp-"
_HASH_CHUNK_BYTES = 1 << 20  # 1 MiB: large enough that Python's loop is free
# Answers of file systems that cannot, not of disks that are full or broken.
UNSUPPORTED = frozenset(
    {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF}
)
_NEW_FILE = (
    os.O_CREAT
    | os.O_EXCL
    | os.O_WRONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_BINARY", 0)
)
_unsynced: set[int] = set()  # file systems that were warned of


def sha256_bytes(data: bytes) -> str:
    """Returns the hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | os.PathLike) -> str:
    """Returns the hexadecimal SHA-256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def fsync_path(path: str | os.PathLike) -> None:
    """Flushes a file's bytes, or a folder's entries, to the disk.

    Where the file system cannot (some network and FUSE ones), that is said once.
    """
    try:
        platforms.fsync(path)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        device = os.stat(path).st_dev
        if device not in _unsynced:
            _unsynced.add(device)
            console.warn(
                f"{path}: this file system does not flush to the disk on demand "
                f"({error.strerror}): what is written now may not survive a power cut"
            )


def create(path: str | os.PathLike) -> int:
    """Creates a file that is not there yet; returns its descriptor, for writing.

    Raises:
      FileExistsError: something has that name, be it a link to nowhere.
    """
    return os.open(path, _NEW_FILE, 0o666)


def temporary_name(path: pathlib.Path) -> pathlib.Path:
    """Returns a name beside `path` that nobody can foresee.

    It begins with a dot, so that no glob for results finds it, and keeps the suffix,
    from which libraries infer the format.
    """
    return path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{path.suffix}")


@contextlib.contextmanager
def publishing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`, published when the block succeeds.

    The file appears under its final name complete and on the disk, or not at all: a
    crash at any moment leaves either the old file or the new one. Of several writers
    each publishes its own whole; the last one stays.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        os.close(create(temporary))
        yield temporary
        fsync_path(temporary)
        os.replace(temporary, path)
    except FileExistsError as error:
        if error.filename != str(temporary):  # else it is not ours to remove
            temporary.unlink(missing_ok=True)
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def publish(path: str | os.PathLike, data: bytes | str) -> None:
    """Writes `data` (text as UTF-8) to `path` atomically."""
    with publishing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def without_links(path: str) -> str:
    """Returns where a path leads, for whoever named it; as it is without a link in it.

    Taken once: whatever a link leads to later, a command writes to one place.
    """
    real = os.path.realpath(path)
    return path if real == os.path.abspath(path) else real


def refuse_links(folder: str | os.PathLike) -> None:
    """Refuses to work in a folder in which a link could lead writes elsewhere.

    The folder itself may be a link: whoever named it meant where it leads.

    Raises:
      DataError: naming the first link inside.
    """
    waiting = [os.fspath(folder)]
    while waiting:
        with contextlib.suppress(FileNotFoundError), os.scandir(waiting.pop()) as found:
            for entry in found:
                if entry.is_symlink() or _is_junction(entry):
                    raise cli.DataError(
                        f"{entry.path}: a link; nothing is written through links "
                        "inside such a folder\nput a real file or folder there, or "
                        "remove the link"
                    )
                if entry.is_dir():
                    waiting.append(entry.path)


def check_own(descriptor: int, path: str | os.PathLike) -> None:
    """Refuses an open file that is not a plain one of a single name.

    Raises:
      DataError: a device, a pipe, or a file that has other names, too.
    """
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise cli.DataError(
            f"{path}: not a plain file of its own (a pipe, a device, or another file's "
            "second name); remove it"
        )


def _is_junction(entry: os.DirEntry) -> bool:
    """Whether it is Windows' other kind of link, which Python tells from 3.12 on."""
    return getattr(entry, "is_junction", lambda: False)()
