"""Finds the images that a command line names and reads each, or says why not.

Files, folders and globs become a list of paths; each path, or image in memory, becomes
pixels with a status, never an exception: `ok`, `warning: ...` or `error: REASON: ...`.
"""

import collections
import concurrent.futures
import dataclasses
import glob
import io
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from cxr import cli, console, folders, images, platforms
from cxr.reasons import BadImage, error_status

_EXTREME_ASPECT = 2.5  # long side / short side
_COLOUR_SPREAD = 24  # grey levels between channels; leaves room for a tint
# A path, bytes of an image file, a PIL image, an array or a pydicom dataset.
Item = str | os.PathLike | bytes | Image.Image | np.ndarray | Any
_FLAT = 4.0  # standard deviation in grey levels; 1,500 real images had 20-81


@dataclasses.dataclass(frozen=True)
class ReadImage:
    """An image as read.

    Attributes:
      path: as found; `[3]` for the fourth item where that is no path.
      grey: uint8 [size, size]; None where `status` is an error.
      status: `ok`, `warning: ...` or `error: ...`.
      warnings: what makes a prediction doubtful though the image is sound.
      unchecked: as `images.Decoded`'s.
    """

    path: str
    grey: np.ndarray | None
    status: str
    warnings: tuple[str, ...] = ()
    unchecked: str = ""


def find(paths: Sequence[str], *, recursive: bool = True) -> list[str]:
    """Lists the images that files, folders and globs name, each once, in order.

    A folder gives its image files, sorted, to the bottom and through links; hidden
    files and what operating systems leave behind are passed over. A path that does
    not exist stays in the list, to become a row of its own, as long as any other
    exists.

    Args:
      paths: files, folders, globs.
      recursive: also what lies in folders of folders.

    Raises:
      UsageError: no path given, nothing exists, or a folder holds no image file.
    """
    if not paths:
        raise cli.UsageError("no image given: name files, folders or globs after flags")
    listed: dict[str, None] = {}
    missing = []
    for path in paths:
        matches = [path] if os.path.lexists(path) else _glob(path)
        if not matches:
            missing.append(path)
        for match in matches or [path]:
            folder = os.path.isdir(match)
            found = _walk(match, recursive) if folder else [match]
            listed.update(dict.fromkeys(found))
    if len(missing) == len(paths):
        raise cli.UsageError(f"{missing[0]}: no such image, folder or match for a glob")
    if not listed:
        raise cli.UsageError(f"{paths[0]}: holds no image files")
    return list(listed)


def is_item(items: Any) -> bool:
    """Whether it is one image rather than several."""
    several = isinstance(items, list | tuple | Iterator)
    return not several and (
        isinstance(items, str | os.PathLike | bytes | Image.Image)
        or (isinstance(items, np.ndarray) and items.dtype != object)
        or hasattr(items, "save_as")
    )


def read(item: Item, stored_size: int, model_size: int, *, at: int = 0) -> ReadImage:
    """Reads one image; whatever is wrong with it goes into the status.

    Args:
      item: path, bytes of an image file, PIL image, array or pydicom dataset.
      stored_size: height = width of the grey result in pixels.
      model_size: what the model sees; a smaller image earns a warning.
      at: its number among others, which names what is no path.
    """
    path = os.fspath(item) if isinstance(item, str | os.PathLike) else f"[{at}]"
    try:
        data = _bytes_of(item)
        decoded = images.read(data, stored_size)
        warnings = tuple(_warnings(data, decoded, model_size))
    except BadImage as error:
        status = error_status(error.reason, error.detail)
    except FileNotFoundError:
        status = error_status("not_found", "no such file")
    except OSError as error:
        status = error_status("unreadable", error.strerror or str(error))
    except MemoryError:
        status = error_status("out_of_memory", "the image does not fit")
    else:
        status = f"warning: {'; '.join(warnings)}" if warnings else "ok"
        return ReadImage(path, decoded.grey, status, warnings, decoded.unchecked)
    return ReadImage(path, None, status)


def read_batches(
    items: Iterable[Item], sizes: tuple[int, int], batch_size: int, threads: int
) -> Iterator[list[ReadImage]]:
    """Yields batches in order; while one is used, the next is being read.

    Args:
      items: as `read`'s.
      sizes: stored and model's, likewise.
      batch_size: images a batch; the last may have fewer.
      threads: that read; 0 = one a core.
    """
    pending: collections.deque[list[concurrent.futures.Future]] = collections.deque()
    numbered = iter(enumerate(items))
    with concurrent.futures.ThreadPoolExecutor(
        threads or platforms.available_cores()
    ) as pool:
        while some := list(itertools.islice(numbered, batch_size)):
            pending.append(
                [pool.submit(read, item, *sizes, at=at) for at, item in some]
            )
            if len(pending) > 1:
                yield [future.result() for future in pending.popleft()]
        while pending:
            yield [future.result() for future in pending.popleft()]


def _bytes_of(item: Item) -> bytes:
    """Returns an image's file, made without loss where it is none yet.

    So whatever it came as goes the one way of all files.

    Raises:
      BadImage: an array or an image that no file holds.
    """
    if isinstance(item, str | os.PathLike):
        return folders.read_file(item, images.MAX_BYTES, special="not_a_file")
    if isinstance(item, bytes | bytearray | memoryview):
        return bytes(item)
    buffer = io.BytesIO()
    if hasattr(item, "save_as"):  # a pydicom dataset, without importing pydicom
        try:
            item.save_as(buffer, enforce_file_format=True)
        except Exception as error:  # pydicom raises nearly anything on odd elements
            raise BadImage("not_an_image", f"a DICOM dataset: {error}") from error
        return buffer.getvalue()
    if isinstance(item, np.ndarray):
        item = _image_of(item)
    if not isinstance(item, Image.Image):
        raise BadImage(
            "not_an_image",
            f"a {type(item).__name__}; expected a path, bytes, a PIL image, an array "
            "or a pydicom dataset",
        )
    kind = "TIFF" if item.mode in ("CMYK", "F", "YCbCr", "LAB") else "PNG"
    try:
        item.save(buffer, kind, exif=item.getexif())
    except (OSError, ValueError) as error:
        raise BadImage("not_an_image", f"a PIL image: {error}") from error
    return buffer.getvalue()


def _image_of(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    grey = array.ndim == 2 and array.dtype in (np.uint8, np.uint16)
    colour = array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8
    if not (grey or colour) or not array.size:
        raise BadImage(
            "unsupported_samples",
            f"an array {array.dtype} {list(array.shape)}; expected uint8 or uint16 "
            "[H, W], or uint8 [H, W, 3]",
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _warnings(data: bytes, image: images.Decoded, size: int) -> Iterator[str]:
    """Yields what makes a prediction doubtful though the file is sound."""
    short, long = sorted((image.width, image.height))
    if short < size:
        yield f"{image.width} x {image.height} pixels, less than the model's {size}"
    if long > _EXTREME_ASPECT * short:
        yield f"{image.width} x {image.height} is far from a chest film's proportions"
    if image.grey.std() < _FLAT:
        yield "nearly uniform, as a blank or over-exposed image"
    grey = image.mode in ("L", "1", "LA", "I", "F") or image.mode.startswith("I;")
    if not grey and image.format != images.DICOM:
        spread = _colour_spread(data)
        if spread > _COLOUR_SPREAD:
            yield f"in colour (channels differ by {spread} levels): not a radiograph?"


def _colour_spread(data: bytes) -> int:
    """Difference between the channels that one pixel in fifty exceeds, 0..255."""
    channels = images.thumbnail(data)
    spread = channels.max(axis=2) - channels.min(axis=2)
    return int(
        np.searchsorted(np.bincount(spread.ravel()).cumsum(), 0.98 * spread.size)
    )


def _glob(pattern: str) -> list[str]:
    return sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else []


def _walk(folder: str, recursive: bool) -> Iterator[str]:
    """Yields what is named like an image; says what is not read."""
    passed_over = []
    for entry in folders.walk(folder, folder):
        if not recursive and os.path.dirname(entry.file) != folder.rstrip(os.sep):
            continue
        if entry.is_folder and entry.rejected:
            console.note(f"{entry.file}: left out: {entry.rejected.detail}")
        elif os.path.splitext(entry.file)[1].lower() in images.SUFFIXES:
            yield entry.file  # also what cannot be read: its row says why
        else:
            passed_over.append(os.path.relpath(entry.file, folder))
    if passed_over:
        console.note(
            f"{folder}: left out what is not named like an image: "
            f"{console.listed(passed_over, 3)}; name a file on the command line to "
            "try it"
        )
