"""Publishes files atomically: temporary name, fsync, rename."""

import contextlib
import csv
import hashlib
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

_HASH_CHUNK_BYTES = 1 << 20  # 1 MiB: large enough that Python's loop is free


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
    """Flushes a file's bytes, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def publishing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`, published when the block succeeds.

    The file appears under its final name complete and on the disk, or not at
    all: a crash at any moment leaves either the old file or the new one. The
    temporary name begins with a dot, so that no glob for results finds it, and
    keeps the suffix, from which libraries infer the format.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        yield temporary
        fsync_path(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def publish(path: str | os.PathLike, data: bytes | str) -> None:
    """Writes `data` (text as UTF-8) to `path` atomically."""
    with publishing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def publish_csv(
    path: str | os.PathLike,
    columns: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    *,
    line_end: str = "\n",
) -> None:
    """Writes a table to `path` atomically, row by row: never in memory whole.

    Args:
      path: of the table.
      columns: the keys of every row, and the header.
      rows: a float is written so that it reads back the same, None as nothing.
      line_end: closes every line.
    """
    with (
        publishing(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, columns, lineterminator=line_end)
        writer.writeheader()
        writer.writerows(rows)
