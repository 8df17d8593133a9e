"""Decodes, resizes and encodes images into spool files, which shards are made from.

Which shard an image belongs to depends on the bytes of all images (duplicates,
unreadable files), yet each is to be read and decoded only once. So images are
converted in chunks of the sorted sources, each chunk into one spool file that
is published whole: one line of JSON about its images, then their stored images.
A chunk file carries a key of everything that shaped it, and a later run takes
it over where the key still fits.
"""

import base64
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

import numpy as np
import PIL
import simplejpeg
from PIL import features

from cxr import cli, files, folders, images
from cxr.conversion import attributes
from cxr.conversion.attributes import Attributes
from cxr.conversion.source import Source
from cxr.images import statistics
from cxr.reasons import BadImage

_shared_sides: dict[int, int] = {}  # widths and heights, which repeat
_headers: dict[Attributes, Attributes] = {}  # likewise
# A worker's turn is so many images, or fewer large ones: about 0.2 s, so that little is
# lost or waits.
CHUNK_IMAGES = 64
_CHUNK_BYTES = 32 << 20
_SAMPLED = 16  # files looked at for their size
_FORMAT = 2  # of spool files: another version's are not taken over


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
      patient_key: of a DICOM's PatientID; empty without.
      header: what else its header tells.
      burned_in: whether it says that there are annotations in its pixels.
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
    patient_key: str = ""
    header: Attributes = attributes.NONE
    burned_in: bool = False
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
    def label(self) -> str:
        """The class, from its folder or a table."""
        return self.source.label

    @property
    def patient(self) -> str:
        """As a table has it, else the key of the header's; empty without."""
        return self.source.patient or self.patient_key

    @property
    def attributes(self) -> Attributes:
        """Of the table, else of the header."""
        return self.source.attributes.filled(self.header)

    @property
    def side(self) -> str:
        """The side on which the source has it, or empty."""
        return self.source.side


@dataclasses.dataclass(frozen=True)
class Chunk:
    """One worker's turn: a run of the sorted sources and where they go.

    `key_file` makes keys of the patients in DICOM headers.
    """

    root: pathlib.Path
    sources: tuple[Source, ...]
    path: pathlib.Path
    encoding: Encoding
    key_file: pathlib.Path


def versions() -> dict[str, str]:
    """Returns the versions of the software that shapes stored bytes."""
    return {
        "pillow": PIL.__version__,
        "libjpeg_turbo": str(features.version_feature("libjpeg_turbo")),
        "simplejpeg": simplejpeg.__version__,
        "numpy": np.__version__,
    }


def images_a_chunk(root: pathlib.Path, sources: Sequence[Source]) -> int:
    """Returns how many images make a worker's turn, by the size of some of them."""
    sizes = []
    for source in sources[:: max(len(sources) // _SAMPLED, 1)]:
        with contextlib.suppress(OSError):
            sizes.append(os.stat(root / source.path).st_size)
    mean = sum(sizes) / max(len(sizes), 1)
    return max(1, min(CHUNK_IMAGES, int(_CHUNK_BYTES / max(mean, 1))))


def is_current(chunk: Chunk) -> bool:
    """Whether the chunk's file exists and would be written again just so."""
    try:
        return _read_head(chunk.path)[0]["key"] == _key(chunk)
    except (OSError, ValueError, KeyError):
        return False


def convert(chunk: Chunk) -> int:
    """Reads, decodes, resizes and encodes a chunk's images, and publishes them.

    A chunk that lies there already, just so, is left alone.

    Returns:
      the number of images taken.

    Raises:
      StorageError: the chunk could not be written.
    """
    if is_current(chunk):
        return sum(not row["reason"] for row in _read_head(chunk.path)[0]["images"])
    key = _key(chunk)  # before reading: an image that changes now is read again
    rows, looks, numbers, blobs, offset = [], [], [], [], 0
    for source in chunk.sources:
        image, stored, grey = _convert_one(chunk, source)
        rows.append(image._replace(offset=offset))
        if grey is not None:
            looks.append(statistics.cells(grey).tobytes())
            numbers.append(statistics.measure(grey).tobytes())
        blobs.append(stored)
        offset += len(stored)
    head = {
        "key": key,
        "images": [_to_json(row) for row in rows],
        "looks": base64.b64encode(b"".join(looks)).decode(),
        "statistics": base64.b64encode(b"".join(numbers)).decode(),
    }
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
    for name in (
        "mode",
        "format",
        "reason",
        "patient_key",
    ):  # equal values are held once
        row[name] = sys.intern(row[name])
    for name in ("width", "height"):
        row[name] = _shared_sides.setdefault(row[name], row[name])
    row["header"] = _headers.setdefault(h := Attributes(*row["header"]), h)
    row["digest"] = bytes.fromhex(row["digest"])
    row["offset"] += start
    return Converted(source, file=file, **row)


def read_measured(readable: Sequence[Converted]) -> tuple[np.ndarray, np.ndarray]:
    """Returns what was measured of every image while it was decoded.

    Args:
      readable: all that the spool holds of these files, in its order.

    Returns:
      Cells, uint8 [N, 16, 16], and numbers, float32 [N, 9], of `images.statistics`.
    """
    looks, numbers = [], []
    for file in dict.fromkeys(image.file for image in readable):
        head, _ = _read_head(file)
        looks.append(base64.b64decode(head["looks"]))
        numbers.append(base64.b64decode(head["statistics"]))
    side = statistics.CELLS
    return (
        np.frombuffer(b"".join(looks), np.uint8).reshape(-1, side, side),
        np.frombuffer(b"".join(numbers), np.float32).reshape(-1, len(statistics.NAMES)),
    )


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
    seen: list[Any] = [
        _FORMAT,
        dataclasses.asdict(chunk.encoding),
        versions(),
        str(chunk.key_file),
    ]
    for source in chunk.sources:
        try:
            status = os.stat(chunk.root / source.path)
            seen.append([source.path, status.st_size, status.st_mtime_ns])
        except OSError as error:
            seen.append([source.path, error.errno])
    return files.sha256_bytes(json.dumps(seen).encode())


def _convert_one(
    chunk: Chunk, source: Source
) -> tuple[Converted, bytes, np.ndarray | None]:
    """Returns what became of one source, its stored image and its pixels."""
    image, encoding = Converted(source), chunk.encoding
    try:
        data = folders.read_file(chunk.root / source.path, images.MAX_BYTES)
        image = image._replace(
            source_bytes=len(data), digest=hashlib.sha256(data).digest()
        )
        decoded = images.read(data, encoding.image_size)
    except BadImage as bad:
        return image._replace(reason=bad.reason, detail=bad.detail), b"", None
    except OSError as error:
        detail = error.strerror or str(error)
        return image._replace(reason="unreadable", detail=detail), b"", None
    stored = images.encode(decoded.grey, encoding.encoding, quality=encoding.quality)
    image = image._replace(
        width=decoded.width,
        height=decoded.height,
        mode=decoded.mode,
        format=decoded.format,
        unchecked=decoded.unchecked,
        length=len(stored),
    )
    if tags := decoded.tags:
        image = image._replace(
            header=attributes.of_header(tags), burned_in=tags.burned_in
        )
        if tags.patient:
            key = attributes.read_key(chunk.key_file)
            patient = attributes.patient_key(key, tags.patient)
            image = image._replace(patient_key=patient)
    return image, stored, decoded.grey
