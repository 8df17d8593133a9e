"""Holds a folder for one process at a time, also where file systems have no locks."""

import contextlib
import errno
import os
import pathlib
import socket
from collections.abc import Callable, Iterator

from cxr import cli, console, files, platforms

_NO_LOCKS = files.UNSUPPORTED | {errno.ENOLCK}
_MAX_OWNER_BYTES = 1000
_OPEN = (
    os.O_RDWR
    | os.O_CREAT
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a pipe of that name must not wait for a reader
)


@contextlib.contextmanager
def hold(
    path: pathlib.Path, refusal: Callable[[str], cli.CommandError]
) -> Iterator[None]:
    """Holds the lock of a file, which is made where it is missing.

    The system drops the lock when its process ends, however it ends; the file only
    tells who holds it. Where the file system has no locks, that is said, and a file
    beside it does instead, whose owner is looked for: one of this host that is gone
    has lost it.

    Args:
      path: the lock file; its folder exists.
      refusal: makes the error where another process has it, from words for who.

    Raises:
      CommandError: `refusal`'s.
      DataError: a link, or anything but a plain file, has that name.
    """
    descriptor = _open(path)
    try:
        with contextlib.ExitStack() as held:
            try:
                locked = platforms.try_lock(descriptor)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                console.warn(
                    f"{path}: this file system has no locks ({error.strerror}); a file "
                    "beside it tells who works here"
                )
                held.enter_context(
                    _owned(path.with_name(f"{path.name}-owner"), refusal)
                )
                locked = True
            if not locked:
                raise refusal(f"process {_read(descriptor).strip() or '?'}")
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, str(os.getpid()).encode())
            yield
    finally:
        os.close(descriptor)


def _open(path: pathlib.Path) -> int:
    try:
        descriptor = os.open(path, _OPEN, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        raise cli.DataError(
            f"{path}: not a plain file ({error.strerror}); remove it"
        ) from error
    try:
        files.check_own(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def _owned(
    path: pathlib.Path, refusal: Callable[[str], cli.CommandError]
) -> Iterator[None]:
    """Owns a file that tells process and host, as long as the block runs."""
    while True:
        try:
            descriptor = files.create(path)
            break
        except FileExistsError:
            _remove_if_left(path, refusal)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {socket.gethostname()}")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _remove_if_left(
    path: pathlib.Path, refusal: Callable[[str], cli.CommandError]
) -> None:
    """Removes an owner's file whose process is gone, or raises `refusal`'s error."""
    owner = _content(path)
    if owner is None:
        return  # given back just now
    pid, _, host = owner.partition(" ")
    here = host == socket.gethostname() and pid.isdecimal()
    if not here or platforms.process_exists(int(pid)):
        raise refusal(
            f"process {pid or '?'} of host {host or '?'} (if that has ended, remove "
            f"{path})"
        )
    # Under another name first: of two that find the same leftover one gets it, and
    # whoever gets a new owner's by mistake sees it.
    taken = files.temporary_name(path)
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, taken)
        if _content(taken) != owner:
            with contextlib.suppress(OSError):
                os.link(taken, path)
        taken.unlink()


def _content(path: pathlib.Path) -> str | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | (_OPEN & ~(os.O_RDWR | os.O_CREAT)))
    except FileNotFoundError:
        return None
    try:
        return _read(descriptor)
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, _MAX_OWNER_BYTES).decode(errors="replace")
