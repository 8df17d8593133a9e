"""Finds the images that a command line names and reads each, or says why not.

Files, folders and globs become a list of paths; each path becomes pixels with a
status, never an exception: `ok`, `warning: ...` or `error: REASON: ...`.
"""

import dataclasses
import glob
import io
import os
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from cxr import cli, folders, images
from cxr.reasons import BadImage, error_status

_EXTREME_ASPECT = 2.5  # long side / short side
_COLOUR_SPREAD = 24  # grey levels between channels; leaves room for a tint
_FLAT = 4.0  # standard deviation in grey levels; 1,500 real images had 20-81


@dataclasses.dataclass(frozen=True)
class ReadImage:
    """An image as read.

    Attributes:
      path: as found.
      grey: uint8 [size, size]; None where `status` is an error.
      status: `ok`, `warning: ...` or `error: ...`.
      unchecked: as `images.Decoded`'s.
    """

    path: str
    grey: np.ndarray | None
    status: str
    unchecked: str = ""


def find(paths: Sequence[str]) -> list[str]:
    """Lists the images that files, folders and globs name, each once, in order.

    A folder gives its image files, sorted, to the bottom and through links; hidden
    files and what operating systems leave behind are passed over. A path that does
    not exist stays in the list, to become a row of its own, as long as any other
    exists.

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
            listed.update(dict.fromkeys(_walk(match) if folder else [match]))
    if len(missing) == len(paths):
        raise cli.UsageError(f"{missing[0]}: no such image, folder or match for a glob")
    if not listed:
        raise cli.UsageError(f"{paths[0]}: holds no image files")
    return list(listed)


def read(path: str, stored_size: int, model_size: int) -> ReadImage:
    """Reads one image; whatever is wrong with it goes into the status.

    Args:
      path: of a file.
      stored_size: height = width of the grey result in pixels.
      model_size: what the model sees; a smaller image earns a warning.
    """
    try:
        data = folders.read_file(path, images.MAX_BYTES, special="not_a_file")
        decoded = images.read(data, stored_size)
        warnings = list(_warnings(data, decoded, model_size))
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
        return ReadImage(path, decoded.grey, status, decoded.unchecked)
    return ReadImage(path, None, status)


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
    with Image.open(io.BytesIO(data), formats=images.FORMATS) as image:
        image.draft("RGB", (64, 64))  # decodes a JPEG at a fraction of its size
        thumbnail = image.convert("RGB").resize((64, 64), Image.Resampling.BOX)
    channels = np.asarray(thumbnail).astype(np.int16)
    return int(np.percentile(channels.max(axis=2) - channels.min(axis=2), 98))


def _glob(pattern: str) -> list[str]:
    return sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else []


def _walk(folder: str) -> Iterator[str]:
    """Yields what is named like an image; says what is not read."""
    passed_over = []
    for entry in folders.walk(folder, folder):
        if entry.is_folder and entry.rejected:
            cli.note(f"{entry.file}: left out: {entry.rejected.detail}")
        elif os.path.splitext(entry.file)[1].lower() in images.SUFFIXES:
            yield entry.file  # also what cannot be read: its row says why
        else:
            passed_over.append(os.path.relpath(entry.file, folder))
    if passed_over:
        cli.note(
            f"{folder}: left out what is not named like an image: "
            f"{cli.listed(passed_over, 3)}; name a file on the command line to try it"
        )
