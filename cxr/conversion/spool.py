"""Decodes, resizes and encodes images into spool files, which shards are made from.

Which shard an image belongs to depends on the bytes of all images (duplicates,
unreadable files), yet each is to be read and decoded only once. So images are
converted in chunks of the sorted sources, each chunk into one spool file that
is published whole: one line of JSON about its images, then their stored images.
A chunk file carries a key of everything that shaped it, and a later run takes
it over where the key still fits.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy
import PIL
import simplejpeg
from PIL import features

from cxr import cli, files, folders, images
from cxr.conversion import near_duplicates
from cxr.conversion.sources import Source
from cxr.reasons import BadImage

_shared_sides: dict[int, int] = {}  # widths and heights, which repeat
CHUNK_IMAGES = 64  # a worker's turn: about 0.2 s, so that little is lost or waits


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How images are stored.

    Attributes:
      image_size: height = width in pixels.
      encoding: `jpeg`, `png` or `raw`.
      quality: of `jpeg`, 1..100.
    """

    image_size: int
    encoding: str
    quality: int


class Converted(NamedTuple):
    """One source after its conversion.

    Attributes:
      source: where it lies.
      source_bytes: size of the source file.
      digest: SHA-256 of the source file; empty where it was not read.
      reason: empty, or the code why it is not taken.
      detail: the same for people.
      width: pixels, from the source's header.
      height: likewise.
      mode: Pillow's name of the source's pixel layout.
      format: the source's format.
      unchecked: as `images.Decoded`'s.
      offset: of the stored image in its spool file.
      length: its bytes.
      file: the spool file that holds it, one object for all of its images.
    """

    source: Source
    source_bytes: int = 0
    digest: bytes = b""  # not in hexadecimal: all images stand in memory
    reason: str = ""
    detail: str = ""
    width: int = 0
    height: int = 0
    mode: str = ""
    format: str = ""
    unchecked: str = ""
    offset: int = 0
    length: int = 0
    file: pathlib.Path = pathlib.Path()

    @property
    def sha256(self) -> str:
        """The digest in hexadecimal."""
        return self.digest.hex()

    @property
    def path(self) -> str:
        """POSIX path relative to the input folder."""
        return self.source.path

    @property
    def folder(self) -> str:
        """The class folder's name."""
        return self.source.folder

    @property
    def side(self) -> str:
        """The side on which the source has it, or empty."""
        return self.source.side


@dataclasses.dataclass(frozen=True)
class Chunk:
    """One worker's turn: a run of the sorted sources and where they go."""

    root: pathlib.Path
    sources: tuple[Source, ...]
    path: pathlib.Path
    encoding: Encoding


def versions() -> dict[str, str]:
    """Returns the versions of the software that shapes stored bytes."""
    return {
        "pillow": PIL.__version__,
        "libjpeg_turbo": str(features.version_feature("libjpeg_turbo")),
        "simplejpeg": simplejpeg.__version__,
        "numpy": numpy.__version__,
    }


def is_current(chunk: Chunk) -> bool:
    """Whether the chunk's file exists and would be written again just so."""
    try:
        return _read_head(chunk.path)[0]["key"] == _key(chunk)
    except (OSError, ValueError, KeyError):
        return False


def convert(chunk: Chunk) -> int:
    """Reads, decodes, resizes and encodes a chunk's images, and publishes them.

    Returns:
      the number of images taken.

    Raises:
      StorageError: the chunk could not be written.
    """
    key = _key(chunk)  # before reading: an image that changes now is read again
    rows, hashes, blobs, offset = [], [], [], 0
    for source in chunk.sources:
        image, stored, difference_hash = _convert_one(
            chunk.root, source, chunk.encoding
        )
        rows.append(image._replace(offset=offset))
        hashes.append(difference_hash)
        blobs.append(stored)
        offset += len(stored)
    head = {"key": key, "images": [_to_json(row) for row in rows], "hashes": hashes}
    store(chunk.path, b"".join([json.dumps(head).encode(), b"\n", *blobs]))
    return sum(not row.reason for row in rows)


def read_converted(chunk: Chunk) -> list[Converted]:
    """Returns a chunk's images, offsets counted from the start of the file."""
    head, start = _read_head(chunk.path)
    return [
        _from_json(source, row, chunk.path, start)
        for source, row in zip(chunk.sources, head["images"], strict=True)
    ]


def _read_head(path: pathlib.Path) -> tuple[dict[str, Any], int]:
    """Returns what a spool file says of its images, and where the first begins."""
    with open(path, "rb") as file:
        line = file.readline()
    return json.loads(line), len(line)


def _to_json(image: Converted) -> dict[str, Any]:
    fields = image._asdict()
    del fields["source"], fields["file"]  # known from the chunk
    return fields | {"digest": image.sha256}


def _from_json(
    source: Source, row: dict[str, Any], file: pathlib.Path, start: int
) -> Converted:
    """Returns an image of a spool file whose stored images begin at `start`."""
    for name in ("mode", "format", "reason"):  # equal values are held once
        row[name] = sys.intern(row[name])
    for name in ("width", "height"):
        row[name] = _shared_sides.setdefault(row[name], row[name])
    row["digest"] = bytes.fromhex(row["digest"])
    row["offset"] += start
    return Converted(source, file=file, **row)


def read_hashes(readable: Sequence[Converted]) -> dict[str, int]:
    """Returns the difference hash of every image by path.

    Args:
      readable: all of these that the spool holds, in its order.
    """
    heads = (_read_head(file)[0] for file in dict.fromkeys(i.file for i in readable))
    hashes = (
        difference_hash
        for head in heads
        for row, difference_hash in zip(head["images"], head["hashes"], strict=True)
        if not row["reason"]
    )
    return dict(zip((image.path for image in readable), hashes, strict=True))


def read_stored(image: Converted) -> bytes:
    """Returns the stored image out of its spool file."""
    with open(image.file, "rb") as file:
        file.seek(image.offset)
        return file.read(image.length)


def identify(root: pathlib.Path, path: str) -> str:
    """Returns a source's SHA-256, or the reason why it cannot be read."""
    try:
        return files.sha256_bytes(folders.read_file(root / path, images.MAX_BYTES))
    except BadImage as bad:
        return bad.reason
    except OSError:
        return "unreadable"


def store(path: pathlib.Path, data: bytes | str) -> None:
    """Publishes `data`; StorageError names the path and the bytes."""
    with storing(path, len(data)):
        files.publish(path, data)


@contextlib.contextmanager
def storing(path: pathlib.Path, size: int | None = None) -> Iterator[None]:
    """Tells people of a file of `size` bytes that could not be written.

    Raises:
      StorageError: in the place of any OSError.
    """
    try:
        yield
    except OSError as error:
        what = "" if size is None else f" {size} bytes"
        advice = "then repeat the command: it goes on from what is complete"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(path.parent).free
            advice = f"make room ({free} bytes are free), {advice}"
        else:
            advice = f"see what the disk or its rights lack, {advice}"
        raise cli.StorageError(
            f"{path}: cannot write{what}: {error.strerror or error}\n{advice}"
        ) from error


def _key(chunk: Chunk) -> str:
    """Returns a hash over everything that shapes the chunk's bytes."""
    seen: list[Any] = [dataclasses.asdict(chunk.encoding), versions()]
    for source in chunk.sources:
        try:
            status = os.stat(chunk.root / source.path)
            seen.append([source.path, status.st_size, status.st_mtime_ns])
        except OSError as error:
            seen.append([source.path, error.errno])
    return files.sha256_bytes(json.dumps(seen).encode())


def _convert_one(
    root: pathlib.Path, source: Source, encoding: Encoding
) -> tuple[Converted, bytes, int]:
    """Returns what became of one source, its stored image and difference hash."""
    image = Converted(source)
    try:
        data = folders.read_file(root / source.path, images.MAX_BYTES)
        image = image._replace(
            source_bytes=len(data), digest=hashlib.sha256(data).digest()
        )
        decoded = images.read(data, encoding.image_size)
    except BadImage as bad:
        return image._replace(reason=bad.reason, detail=bad.detail), b"", 0
    except OSError as error:
        detail = error.strerror or str(error)
        return image._replace(reason="unreadable", detail=detail), b"", 0
    stored = images.encode(decoded.grey, encoding.encoding, quality=encoding.quality)
    image = image._replace(
        width=decoded.width,
        height=decoded.height,
        mode=decoded.mode,
        format=decoded.format,
        unchecked=decoded.unchecked,
        length=len(stored),
    )
    return image, stored, near_duplicates.difference_hash(decoded.grey)
