"""Decodes images of any accepted format to grey uint8 arrays, or says why not.

The same chain serves the converter, training, evaluation and prediction:
`to_grey(bytes, stored_size)`, then `area_resize` to the model's size. What is
refused is refused here, with a reason code that ends up in `quarantine.csv`.

Rules, by what a file holds:

- Format by content, never by extension; the allow-list is `FORMATS`.
- Size limits are read from the header, before any pixel is decoded.
- Colour: ITU-R 601-2 luma. A JPEG gives its luma plane directly. An alpha
  channel is ignored: the recorded samples count. CMYK and YCCK go through RGB.
- More than 8 bits: full scale is what the header says, or the smallest of 8, 10, 12, 14
  and 16 bits that holds all but the brightest 2 % of the pixels, so that 12 bits stored
  in 16 are not nearly black, with or without burned-in letters; 0..full scale becomes
  0..255 linearly.
- EXIF orientation is applied.
- The whole image is squashed to a square. JPEGs are decoded at the smallest DCT
  scale that covers the target; then one antialiased bicubic reduction. Bicubic
  was the closest of Pillow's filters to the exact area mean on 1024-pixel images
  (0.52 grey levels on average; bilinear 0.64, box 1.03) at the same speed.
"""

import contextlib
import functools
import io
import re
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

import cxr.images.bmp as bmp
import cxr.images.damage as damage
import cxr.images.dicom as dicom
import cxr.images.gif as gif
import cxr.images.limits as limits
import cxr.images.pnm as pnm
import cxr.images.sectors as sectors
import cxr.images.tiff as tiff
import cxr.images.webp as webp
from cxr import platforms
from cxr.images.intensity import check_depth, to_eight_bits
from cxr.reasons import BadImage
from cxr.records import ENCODINGS

MAX_BYTES = 64 << 20  # 64 MiB: no radiograph export comes near
# Threads decode images that take more bytes one at a time: one may take 280 MB.
_LARGE = 60_000_000
_LARGE_DICOM = 12_000_000  # bytes of such a file
_one_at_a_time = threading.Lock()
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
DICOM = "DICOM"
# What a folder's images may end in; a file that is named itself may be called anything.
SUFFIXES = frozenset(
    ("", ".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".pjpeg", ".pjp", ".png")
    + (".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm", ".pbm", ".pnm")
    + (".dcm", ".dicom", ".dic", ".ima")
)

_PNG_BITS, _PNG_COLOUR = 24, 25  # bytes of the file, in IHDR
_ORIENTATION = 0x0112  # EXIF tag
_TRANSPOSE: dict[int | None, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"BM": "BMP",
    **{
        b"P%d%c" % (kind, space): "PPM" for kind in range(1, 7) for space in b" \t\r\n#"
    },
}
_FOREIGN_MAGIC = {
    b"%PDF": "PDF",
    b"PK\x03\x04": "ZIP",
    b"\x1f\x8b": "gzip",
    b"8BPS": "Photoshop",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"II+\0": "BigTIFF",
    b"MM\0+": "BigTIFF",
    b"<svg": "SVG",
}


_LAYOUTS: dict[str, Any] = {
    "TIFF": tiff,
    "WEBP": webp,
    "GIF": gif,
    "BMP": bmp,
    "PPM": pnm,
}


class Decoded(NamedTuple):
    """One image and what its file said about itself.

    Attributes:
      grey: uint8 [size, size].
      width: pixels, as the file's header says, before any EXIF rotation.
      height: pixels, likewise.
      mode: Pillow's name of the file's pixel layout, such as `L`, `RGB`, `I;16`.
      format: one of `FORMATS`.
      unchecked: what kind of file it is, in plain words, if damage to its pixels cannot
        always be seen; empty where coded data must fit.
      tags: of a DICOM's header; None for other formats.
    """

    grey: np.ndarray
    width: int
    height: int
    mode: str
    format: str
    unchecked: str = ""
    tags: dicom.DicomTags | None = None


def read(data: bytes, size: int) -> Decoded:
    """Decodes an image of any accepted format.

    Args:
      data: the file's bytes.
      size: height = width of the result in pixels.

    Raises:
      BadImage: with the reason code for the quarantine.
    """
    kind = _accepted_format(data)
    with warnings.catch_warnings():
        # Pillow warns of odd metadata and of large headers, which are checked here.
        warnings.simplefilter("ignore")
        try:
            return _decode(data, size, kind)
        except (BadImage, MemoryError):
            raise
        except Image.DecompressionBombError as error:
            raise BadImage("too_many_pixels", _one_line(error)) from error
        except Exception as error:  # decoders raise nearly anything on bad bytes
            reason = "truncated" if "truncated" in str(error).lower() else "corrupt"
            raise BadImage(reason, f"{kind}: {_one_line(error)}") from error


def unchecked_note(counts: Mapping[str, int]) -> str:
    """Returns a line about files whose damage cannot always be seen.

    Args:
      counts: number of images by `Decoded.unchecked`, none of them empty.
    """
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    return (
        f"{sum(counts.values())} images are of formats without checksums ({kinds}): "
        "damage to their pixels cannot always be seen"
    )


def thumbnail(data: bytes) -> np.ndarray:
    """Returns a small picture in colour of what `read` takes, uint8 [H, W, 3].

    Of a JPEG the means of 8 x 8 pixels (of its samples, in its own colours), of which
    libjpeg-turbo makes no more: 160 us of a film of 224 pixels, 600 by Pillow.

    Args:
      data: the file's bytes; not DICOM.
    """
    if _accepted_format(data) == "JPEG":
        with contextlib.suppress(ValueError):  # CMYK, say: Pillow converts it
            return simplejpeg.decode_jpeg(
                data, "RGB", min_height=1, min_width=1, min_factor=8
            )
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        image.draft("RGB", (64, 64))
        small = image.convert("RGB").resize((64, 64), Image.Resampling.BOX)
    return np.asarray(small)


def to_grey(data: bytes, size: int) -> np.ndarray:
    """Returns `read(data, size).grey`: uint8 [size, size]."""
    return read(data, size).grey


def encode(grey: np.ndarray, encoding: str, *, quality: int = 95) -> bytes:
    """Encodes a stored image.

    Args:
      grey: uint8 [H, W].
      encoding: one of `ENCODINGS`; `raw` is the samples row by row.
      quality: of `jpeg`, 1..100.
    """
    if encoding == "raw":
        return grey.tobytes()
    buffer = io.BytesIO()
    image = Image.fromarray(grey)
    if encoding == "jpeg":
        # Not simplejpeg: below quality 96 it takes the inaccurate DCT.
        image.save(buffer, "JPEG", quality=quality)
    elif encoding == "png":
        image.save(buffer, "PNG")
    else:
        raise ValueError(f"encoding={encoding!r}: expected one of {ENCODINGS}")
    return buffer.getvalue()


def decode(stored: bytes, encoding: str, *, out: np.ndarray) -> None:
    """Decodes what `encode` made.

    JPEG goes through libjpeg-turbo's own interface: the pixels of Pillow, which
    uses the same library, in 92 us against 129 an image of 224 pixels, and outside
    Python's lock.

    Args:
      stored: an encoded image.
      encoding: one of `ENCODINGS`.
      out: receives the image, uint8 [H, W], contiguous.

    Raises:
      ValueError: the image is damaged, or has another size.
    """
    if encoding == "raw":
        out[:] = np.frombuffer(stored, np.uint8).reshape(out.shape)
        return
    if encoding == "jpeg":
        image = simplejpeg.decode_jpeg(stored, "GRAY", buffer=out)
        if image.shape[:2] != out.shape:
            raise ValueError(f"the image is {image.shape[:2]}, expected {out.shape}")
        return
    try:
        out[:] = Image.open(io.BytesIO(stored), formats=(encoding.upper(),))
    except (OSError, SyntaxError) as error:
        raise ValueError(str(error)) from error


def _accepted_format(data: bytes) -> str:
    if not data:
        raise BadImage("empty", "0 bytes")
    if len(data) > MAX_BYTES:
        raise BadImage("too_many_bytes", f"{len(data)} bytes, the limit is {MAX_BYTES}")
    for magic, kind in _MAGIC.items():
        if data.startswith(magic):
            return kind
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if dicom.is_dicom(data):
        return DICOM
    if foreign := _foreign_format(data):
        raise BadImage(
            "unsupported_format",
            f"{foreign}; accepted: {', '.join((*FORMATS, DICOM))}",
        )
    raise BadImage("not_an_image", f"begins with {data[:12]!r}")


def _foreign_format(data: bytes) -> str | None:
    if data[4:8] == b"ftyp":
        return f"ISO media ({data[8:12].decode('ascii', 'replace')})"
    matches = (name for magic, name in _FOREIGN_MAGIC.items() if data.startswith(magic))
    return next(matches, None)


def _decode(data: bytes, size: int, kind: str) -> Decoded:
    if kind == DICOM:
        return _decode_dicom(data, size)
    prepared = _prepared(data, kind)
    with contextlib.ExitStack() as held:
        image = Image.open(io.BytesIO(prepared.data), formats=(kind,))
        if _memory(image, kind, prepared) > _LARGE:
            held.enter_context(_one_at_a_time)
            held.callback(platforms.return_freed_memory)
        held.callback(image.close)  # its pixels are gone before the next one's come
        width, height, mode = *image.size, image.mode
        prepared.check(prepared.data)
        grey = _luma(data, image, size) if kind == "JPEG" else None
        if grey is None:
            image.draft("L", (size, size))  # acts on JPEG only
            image.load()
            grey = to_eight_bits(image, bits=prepared.bits, inverted=prepared.inverted)
            if prepared.deep_colour:
                check_depth(grey, kind)
        if grey.size != (size, size):
            grey = grey.resize((size, size), Image.Resampling.BICUBIC)
        # Squashing to a square and turning commute: turn the small one.
        turn = _TRANSPOSE.get(image.getexif().get(_ORIENTATION))
        if turn is not None:
            grey = grey.transpose(turn)
        return Decoded(np.array(grey), width, height, mode, kind, prepared.unchecked)


def _decode_dicom(data: bytes, size: int) -> Decoded:
    with contextlib.ExitStack() as held:
        if len(data) > _LARGE_DICOM:
            held.enter_context(_one_at_a_time)
            held.callback(platforms.return_freed_memory)
        radiograph = dicom.read(data)
        width, height = radiograph.grey.size
        grey = radiograph.grey
        if grey.size != (size, size):
            # Halved first where it is much larger: 4.6 ms instead of 9.5 of a film of
            # 2,000 pixels, the same to 1 grey level (in one pixel of 20 films to 2).
            grey = grey.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3)
        return Decoded(
            np.array(grey), width, height, radiograph.mode, DICOM, "", radiograph.tags
        )


class _Prepared(NamedTuple):
    """A file whose structure is sound.

    Attributes:
      data: its bytes, perhaps without what pixels do not need.
      check: of its coded data, for when its size is known to be bearable.
      pixel_bytes: of memory while it is decoded; 0 = by Pillow's mode.
      scans: of a JPEG.
      unchecked: a name for the kind of file whose pixels nothing checks, or empty.
      bits: of full scale, of samples of more than 8; 0 = not told.
      inverted: whether the smallest of such samples is white.
      deep_colour: whether there are several samples a pixel, of more than 8 bits.
    """

    data: bytes
    check: Callable[[bytes], None]
    pixel_bytes: int = 0
    scans: int = 0
    unchecked: str = ""
    bits: int = 0
    inverted: bool = False
    deep_colour: bool = False


def _prepared(data: bytes, kind: str) -> _Prepared:
    """Checks a file's structure, before any library reads it.

    Raises:
      BadImage: the structure is damaged, or too costly.
    """
    if kind == "JPEG":
        scans = damage.check_jpeg(data)
        check = functools.partial(sectors.check_sectors, kind=kind)
        return _Prepared(data, check, scans=scans)
    if kind == "PNG":
        data = damage.sound_png(data)
        deep_colour = data[_PNG_BITS] == 16 and data[_PNG_COLOUR] != 0
        return _Prepared(data, lambda data: None, deep_colour=deep_colour)
    if kind == "TIFF":
        data, layout = tiff.read_layout(data)
    else:
        layout = _LAYOUTS[kind].read_layout(data)
    check = functools.partial(_LAYOUTS[kind].check, layout=layout)
    prepared = _Prepared(data, check, layout.pixel_bytes, 0, layout.unchecked)
    if kind == "PPM":
        return prepared._replace(bits=layout.bits)
    if kind == "TIFF":
        return prepared._replace(
            bits=layout.depth,
            inverted=layout.inverted,
            deep_colour=layout.bits == 16 and layout.samples > 1,
        )
    return prepared


def _memory(image: Image.Image, kind: str, prepared: _Prepared) -> int:
    """Returns the bytes that decoding takes, from the header.

    Raises:
      BadImage: the image is too large or too small, or has several pictures.
    """
    limits.check_size(*image.size)
    bands = len(image.getbands())
    pixel_bytes = prepared.pixel_bytes
    if kind == "JPEG":
        damage.scans_budget().spend(prepared.scans * image.width * image.height)
        pixel_bytes = 2 if image.mode in ("L", "RGB") else 9
        if image.info.get("progressive"):  # coefficients of 16 bits
            pixel_bytes += 2 * bands
    elif kind == "PNG" and getattr(image, "is_animated", False):
        raise BadImage("several_frames", f"{kind}: more than one picture in the file")
    deep = 5 if image.mode.startswith("I") else 2
    return limits.check_memory(*image.size, pixel_bytes or (5 if bands > 1 else deep))


def _luma(data: bytes, image: Image.Image, size: int) -> Image.Image | None:
    """Returns a JPEG's luma plane at the smallest DCT scale that covers `size`.

    By libjpeg-turbo's own interface: the pixels of Pillow, a third of its time where
    nothing is scaled away (106 us against 330 for 224 x 224 RGB).

    Returns:
      None where the file needs another conversion, or where its header is odd: then
      Pillow decides.

    Raises:
      BadImage: the coded data are damaged.
    """
    width, height = image.size
    scale = next((s for s in (8, 4, 2) if min(width, height) // s >= size), 1)
    least = {"min_height": -(-height // scale), "min_width": -(-width // scale)}
    grey = image.mode in ("L", "RGB")
    pixels = damage.decode_jpeg(data, "GRAY" if grey else "CMYK", **least)
    return None if pixels is None or not grey else Image.fromarray(pixels[..., 0])


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    # Not where an object lay in memory: a table must be the same on every run.
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)[:200]
