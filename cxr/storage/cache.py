"""Keeps copies of objects in a folder: verified, published whole, known again.

A note beside the folder says of each copy what it was when it was verified, so that
gigabytes are not hashed again at every start; and which content of the bucket it is,
so that an object that changed since is looked at anew.
"""

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from cxr import cli, console, files, locks
from cxr.storage.remote import Remote

_POLL_S = 0.5
_MIB = 1 << 20


class Wanted(NamedTuple):
    """An object to have a copy of.

    Attributes:
      size: bytes.
      sha256: that the copy must have; empty where nothing says it.
      tag: of the object's content, as a listing has it.
    """

    size: int
    sha256: str
    tag: str


class Note:
    """What was known of the files of a folder when they were last verified or sent.

    Args:
      folder: whose note it is; it lies beside the folder.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder, self._path = folder, beside(folder, "json")
        self._known: dict[str, list[Any]] = {}
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(self._path.read_text())
            self._known = known if isinstance(known, dict) else {}

    def holds(self, name: str, sha256: str, tag: str) -> bool:
        """Whether a file is still the one that had this hash, of this content there."""
        return self._known.get(name) == [sha256, tag, *self._status(name)]

    def knows(self, name: str) -> bool:
        """Whether anything was noted of a file."""
        return name in self._known

    def add(self, name: str, sha256: str, tag: str) -> None:
        """Notes a file that was verified, or sent, just now."""
        self._known[name] = [sha256, tag, *self._status(name)]

    def save(self) -> None:
        """Publishes the note."""
        files.publish(self._path, json.dumps(self._known))

    def _status(self, name: str) -> list[int]:
        with contextlib.suppress(OSError):
            status = os.stat(self._folder / name)
            return [status.st_size, status.st_mtime_ns]
        return []


def beside(folder: pathlib.Path, what: str) -> pathlib.Path:
    """Returns a hidden name beside a folder of the cache."""
    return folder.with_name(f".{folder.name}.{what}")


@contextlib.contextmanager
def alone(folder: pathlib.Path) -> Iterator[None]:
    """Waits until no other process of this machine works on a folder, and holds it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        told = False
        while True:
            try:
                held.enter_context(locks.hold(beside(folder, "lock"), _Busy))
                break
            except _Busy as busy:
                if not told:
                    console.note(
                        f"{folder}: waiting for {busy}, which works on this copy"
                    )
                told = True
            time.sleep(_POLL_S)
        yield


class _Busy(cli.UnavailableError):
    """Another process has the folder, in words for who."""


def fetch(remote: Remote, folder: pathlib.Path, wanted: Mapping[str, Wanted]) -> None:
    """Fetches what a folder lacks, each file whole or not at all; `alone` is held.

    Args:
      remote: where the objects are.
      folder: where the copies go.
      wanted: by name, which the object and its copy share.

    Raises:
      DataError: an object is not what it should be; names it.
      StorageError: the bucket or the disk refused.
    """
    _remove_leftovers(folder)
    note = Note(folder)
    missing = {
        name: object
        for name, object in wanted.items()
        if not _known(folder / name, name, object, note)
    }
    if not missing:
        return
    mebibytes = sum(object.size for object in missing.values()) / _MIB
    console.note(
        f"fetching {len(missing)} files, {mebibytes:.0f} MiB, from {remote.url}"
    )
    parts = {}
    for name in missing:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        parts[name] = files.temporary_name(folder / name)
    try:
        for name in remote.get(parts):
            _check(remote, name, parts[name], missing[name])
            files.fsync_path(parts[name])
            os.replace(parts[name], folder / name)
            note.add(name, missing[name].sha256, missing[name].tag)
        for parent in {(folder / name).parent for name in missing}:
            files.fsync_path(parent)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
        note.save()


def _known(path: pathlib.Path, name: str, wanted: Wanted, note: Note) -> bool:
    """Whether a copy is there: by the note, or where a kill left none, by its hash."""
    if note.holds(name, wanted.sha256, wanted.tag):
        return True
    if not wanted.sha256 or note.knows(name) or not path.is_file():
        return False
    if files.sha256_file(path) != wanted.sha256:
        return False
    note.add(name, wanted.sha256, wanted.tag)
    return True


def _check(remote: Remote, name: str, path: pathlib.Path, wanted: Wanted) -> None:
    size = path.stat().st_size
    if size != wanted.size:
        raise cli.DataError(
            f"{remote.url}/{name}: {size} bytes arrived, expected {wanted.size}"
        )
    if wanted.sha256 and files.sha256_file(path) != wanted.sha256:
        raise cli.DataError(
            f"{remote.url}/{name}: not the bytes that {remote.url}/manifest.json "
            "lists (SHA-256); publish the set again"
        )


def _remove_leftovers(folder: pathlib.Path) -> None:
    for leftover in folder.rglob(f"{files.TEMPORARY_PREFIX}*"):
        if leftover.is_file():
            leftover.unlink(missing_ok=True)
