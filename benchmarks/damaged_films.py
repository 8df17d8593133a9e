"""Draws films, saves them in every format and compression, and damages the files.

Everything comes from a seed. What Pillow cannot write (tiles, strips of a given
height, run-length BMP, interlaced PNG) is put together here.
"""

import functools
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

SIZES = ((160, 150), (300, 256), (420, 512), (600, 500))  # height, width in pixels
_UNDER = 8  # grey levels of noise


@functools.cache
def film(seed: int, height: int, width: int) -> np.ndarray:
    """Draws two dark lungs, ribs and noise on a film of uneven grey.

    Returns:
      uint8 [height, width].
    """
    rng = np.random.default_rng([seed, height, width])
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    grey = 175 - 45 * x**2 + 10 * np.sin(13 * y + rng.uniform(0, 6))
    for centre in (-0.42, 0.42):
        middle = rng.uniform(-0.1, 0.1)
        grey -= 85 * np.exp(
            -((((x - centre) / 0.3) ** 2 + ((y - middle) / 0.6) ** 2) ** 2)
        )
    coarse = rng.normal(0, 18, (6, 6)).astype(np.float32)
    own = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noisy = grey + np.asarray(own) + rng.normal(0, _UNDER, (height, width))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def bordered(seed: int, height: int, width: int) -> np.ndarray:
    """Draws a film with black collimated edges, uint8 [height, width]."""
    pixels = film(seed, height, width).copy()
    rng = np.random.default_rng(seed)
    top, bottom, left, right = rng.integers(1, min(height, width) // 5, 4)
    pixels[:top] = pixels[-bottom:] = 0
    pixels[:, :left] = pixels[:, -right:] = 0
    return pixels


def saved(pixels: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    """Saves a picture with Pillow."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _mode(mode: str) -> Callable[[np.ndarray], Image.Image]:
    return lambda pixels: Image.fromarray(pixels).convert(mode)


def _deep(pixels: np.ndarray) -> Image.Image:
    """Returns 12-bit samples in 16 bits."""
    noise = np.random.default_rng(0).integers(0, 16, pixels.shape)
    return Image.fromarray((pixels.astype(np.uint16) * 16 + noise).astype(np.uint16))


def _colours(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels).convert("RGB").quantize(200)


def _with_alpha(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(pixels).convert("RGBA")
    image.putalpha(Image.fromarray(255 - pixels // 2))
    return image


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 3, "a film"
    return exif


# --- TIFF of any layout


def tags(data: bytes) -> dict[int, tuple[int, ...]]:
    """Reads the first directory of a little-endian TIFF."""
    with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
        items = dict(image.tag_v2.items())
    return {
        tag: value if isinstance(value, tuple) else (value,)
        for tag, value in items.items()
    }


def tiff(
    pixels: Image.Image, compression: str, *, tile: int = 0, rows: int = 0, **options
) -> bytes:
    """Saves a TIFF in strips of `rows` rows or in tiles of `tile` x `tile` pixels.

    Pillow compresses each piece, as a TIFF of its own; the directory stands in front.
    """
    width, height = pixels.size
    step = (tile, tile) if tile else (width, rows or height)
    boxes = [
        (x, y, x + step[0], y + step[1] if tile else min(y + step[1], height))
        for y in range(0, height, step[1])
        for x in range(0, width, step[0])
    ]
    parts = [_piece(pixels.crop(box), compression, **options) for box in boxes]
    found = {
        tag: value
        for tag, value in parts[0][0].items()
        if tag in (258, 259, 262, 266, 277, 284, 317, 320, 347, 530)
    }
    found |= {256: (width,), 257: (height,)}
    found |= {322: step[:1], 323: step[1:]} if tile else {278: step[1:]}
    where, sizes = (324, 325) if tile else (273, 279)
    found |= {where: (0,) * len(parts), sizes: tuple(len(body) for _, body in parts)}
    begin = len(directory(found))
    starts = np.cumsum([begin, *found[sizes][:-1]])
    found[where] = tuple(int(start) for start in starts)
    return directory(found) + b"".join(body for _, body in parts)


def _piece(
    pixels: Image.Image, compression: str, **options
) -> tuple[dict[int, tuple], bytes]:
    single = {278: pixels.height, **options.pop("tiffinfo", {})}
    data = saved(
        pixels,
        "TIFF",
        compression=compression,
        strip_size=1 << 30,
        tiffinfo=single,
        **options,
    )
    found = tags(data)
    assert len(found[273]) == 1, "one strip"
    at, size = found[273][0], found[279][0]
    return found, data[at : at + size]


def directory(found: dict[int, tuple]) -> bytes:
    """Writes the header, one directory and its values, of little-endian TIFF."""
    entries, values, at = [], b"", 8 + 2 + 12 * len(found) + 4
    for tag, value in sorted(found.items()):
        if tag == 347:  # JPEG's tables
            kind, body = 7, bytes(value[0])
            count = len(body)
        else:
            short = tag in (258, 259, 262, 266, 277, 284, 317, 320, 530)
            kind, count = (3, len(value)) if short else (4, len(value))
            body = struct.pack(f"<{count}{'H' if short else 'I'}", *value)
        if len(body) > 4:
            body, values = struct.pack("<I", at + len(values)), values + body
        entries.append(struct.pack("<HHI", tag, kind, count) + body.ljust(4, b"\0"))
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + b"".join(entries) + bytes(4) + values


# --- other files that Pillow does not write


def run_length_bmp(pixels: np.ndarray) -> bytes:
    """Saves an 8-bit BMP in run-length encoding, bottom row first."""
    body = b"".join(_run_length_row(row) for row in pixels[::-1]) + b"\0\1"
    height, width = pixels.shape
    palette = b"".join(bytes((grey, grey, grey, 0)) for grey in range(256))
    offset = 14 + 40 + len(palette)
    head = b"BM" + struct.pack("<IHHI", offset + len(body), 0, 0, offset)
    info = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 0, 0, 256, 0
    )
    return head + info + palette + body


def _run_length_row(row: np.ndarray) -> bytes:
    edges = np.flatnonzero(np.diff(row)) + 1
    out, literal = [], b""
    for run in [*np.split(row, edges), row[:0]]:
        if len(run) in (1, 2) and len(literal) < 250:
            literal += run.tobytes()
            continue
        if len(literal) > 2:
            out.append(bytes((0, len(literal))) + literal + bytes(len(literal) % 2))
        else:
            out.extend(bytes((1, grey)) for grey in literal)
        literal = b""
        for begin in range(0, len(run), 255):
            out.append(bytes((len(run[begin : begin + 255]), run[0])))
    return b"".join(out) + b"\0\0"


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Returns a PNG's chunk with its checksum."""
    crc = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def interlaced_png(pixels: np.ndarray) -> bytes:
    """Saves an 8-bit grey PNG in the seven passes of Adam7."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4))
    passes += ((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = b"".join(
        b"\0" + row.tobytes()
        for top, left, down, right in passes
        for row in pixels[top::down, left::right]
        if row.size
    )
    head = struct.pack(">IIBBBBB", *pixels.shape[::-1], 8, 0, 0, 0, 1)
    body = png_chunk(b"IDAT", zlib.compress(rows))
    return (
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + body + png_chunk(b"IEND", b"")
    )


Maker = Callable[[np.ndarray], bytes]


def _by_pillow(kind: str, mode: Callable = Image.fromarray, **options) -> Maker:
    return lambda pixels: saved(mode(pixels), kind, **options)


def _tiff(compression: str, mode: Callable = Image.fromarray, **options) -> Maker:
    return lambda pixels: tiff(mode(pixels), compression, **options)


PREDICTED = {"tiffinfo": {317: 2}}
FORMATS: dict[str, dict[str, Maker]] = {
    "JPEG": {
        "baseline": _by_pillow("JPEG", quality=92),
        "progressive": _by_pillow("JPEG", quality=85, progressive=True),
        "restarts": _by_pillow("JPEG", quality=92, restart_marker_blocks=8),
        "rgb": _by_pillow("JPEG", _mode("RGB"), quality=90),
        "cmyk": _by_pillow("JPEG", _mode("CMYK"), quality=90),
    },
    "PNG": {
        "grey": _by_pillow("PNG"),
        "rgb": _by_pillow("PNG", _mode("RGB")),
        "deep": _by_pillow("PNG", _deep),
        "palette": _by_pillow("PNG", _colours),
        "1-bit": _by_pillow("PNG", _mode("1")),
        "interlaced": interlaced_png,
    },
    "TIFF": {
        "raw": _by_pillow("TIFF"),
        "raw strips": _tiff("raw", rows=16),
        "raw tiles": _tiff("raw", tile=64),
        "raw rgb": _by_pillow("TIFF", _mode("RGB")),
        "raw deep": _by_pillow("TIFF", _deep),
        "lzw": _by_pillow("TIFF", compression="tiff_lzw"),
        "lzw predicted": _tiff("tiff_lzw", rows=64, **PREDICTED),
        "lzw tiles": _tiff("tiff_lzw", tile=128),
        "lzw rgb": _tiff("tiff_lzw", _mode("RGB"), **PREDICTED),
        "lzw deep": _tiff("tiff_lzw", _deep),
        "deflate": _by_pillow("TIFF", compression="tiff_adobe_deflate"),
        "deflate deep": _tiff("tiff_adobe_deflate", _deep, **PREDICTED),
        "deflate tiles": _tiff("tiff_adobe_deflate", tile=64),
        "old deflate": _tiff("tiff_deflate", rows=100),
        "packbits": _by_pillow("TIFF", compression="packbits"),
        "packbits strips": _tiff("packbits", rows=8),
        "jpeg": _tiff("jpeg", quality=90),
        "jpeg rgb": _tiff("jpeg", _mode("RGB"), rows=64, quality=90),
        "jpeg tiles": _tiff("jpeg", tile=128, quality=90),
    },
    "WEBP": {
        "lossy": _by_pillow("WEBP", quality=90),
        "lossless": _by_pillow("WEBP", lossless=True),
        "coarse": _by_pillow("WEBP", quality=60),
        "alpha": _by_pillow("WEBP", _with_alpha, quality=85),
        "exif": _by_pillow("WEBP", quality=85, exif=_exif()),
        "lossless exif": _by_pillow("WEBP", lossless=True, exif=_exif()),
    },
    "GIF": {
        "grey": _by_pillow("GIF"),
        "in order": _by_pillow("GIF", interlace=0),
        "colours": _by_pillow("GIF", _colours),
        "1-bit": _by_pillow("GIF", _mode("1")),
    },
    "BMP": {
        "grey": _by_pillow("BMP"),
        "rgb": _by_pillow("BMP", _mode("RGB")),
        "1-bit": _by_pillow("BMP", _mode("1")),
        "run lengths": run_length_bmp,
    },
}


# --- damage


def cut(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """Leaves the first part of a file."""
    return data[: int(len(data) * rng.uniform(0.1, 0.95))]


def cut_and_closed(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """Cuts the pixels' data and makes the file's ends and sizes agree with that."""
    return _CLOSED[kind](data, rng.uniform(0.2, 0.9))


def _closed_jpeg(data: bytes, share: float) -> bytes:
    scan = data.index(b"\xff\xda")
    return data[: scan + int((len(data) - scan) * share)] + b"\xff\xd9"


def _closed_png(data: bytes, share: float) -> bytes:
    begin = data.index(b"IDAT") + 4
    body = data[begin : begin + int((len(data) - begin) * share)]
    end = png_chunk(b"IEND", b"")
    return data[: begin - 8] + png_chunk(b"IDAT", body) + end


def _closed_tiff(data: bytes, share: float) -> bytes:
    """Shortens one strip or tile to `share` of it, its size in the directory too."""
    found = tags(data)
    where, sizes = (324, 325) if 324 in found else (273, 279)
    index = int(len(found[sizes]) * share)
    old = found[sizes][index]
    new = int(old * share)
    at = _value_at(data, sizes, index)
    width = 2 if _entry(data, sizes)[0] == 3 else 4
    changed = data[:at] + new.to_bytes(width, "little") + data[at + width :]
    gap = found[where][index]
    return changed[: gap + new] + bytes(old - new) + changed[gap + old :]


def _entry(data: bytes, tag: int) -> tuple[int, int, int]:
    """Returns (type, count, where the value or its offset stands) of a tag."""
    at = int.from_bytes(data[4:8], "little")
    for number in range(int.from_bytes(data[at : at + 2], "little")):
        entry = at + 2 + 12 * number
        found, kind, count = struct.unpack_from("<HHI", data, entry)
        if found == tag:
            return kind, count, entry + 8
    raise KeyError(tag)


def _value_at(data: bytes, tag: int, index: int) -> int:
    kind, count, at = _entry(data, tag)
    width = 2 if kind == 3 else 4
    if width * count > 4:
        at = int.from_bytes(data[at : at + 4], "little")
    return at + width * index


def _closed_webp(data: bytes, share: float) -> bytes:
    at, parts = 12, []
    while at < len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = data[at + 8 : at + 8 + size]
        if name in (b"VP8 ", b"VP8L"):
            body = body[: int(size * share)]
        parts.append(name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2))
        at += 8 + size + size % 2
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _closed_gif(data: bytes, share: float) -> bytes:
    begin = gif_data(data) + 1
    blocks, at = [], begin
    while data[at]:
        blocks.append(data[at : at + 1 + data[at]])
        at += 1 + data[at]
    kept = blocks[: int(len(blocks) * share)]
    return data[:begin] + b"".join(kept) + b"\0;"


def gif_data(data: bytes) -> int:
    """Finds the byte of a GIF's first picture that says the size of its codes."""
    at = 13 + (3 * (2 << (data[10] & 7)) if data[10] & 0x80 else 0)
    while data[at] == 0x21:
        at += 2
        while data[at]:
            at += 1 + data[at]
        at += 1
    flags = data[at + 9]
    return at + 10 + (3 * (2 << (flags & 7)) if flags & 0x80 else 0)


def _closed_bmp(data: bytes, share: float) -> bytes:
    offset = int.from_bytes(data[10:14], "little")
    body = data[offset : offset + int((len(data) - offset) * share)]
    changed = bytearray(data[:offset] + body)
    struct.pack_into("<I", changed, 2, len(changed))
    struct.pack_into("<I", changed, 34, len(body))
    return bytes(changed)


_CLOSED = {
    "JPEG": _closed_jpeg,
    "PNG": _closed_png,
    "TIFF": _closed_tiff,
    "WEBP": _closed_webp,
    "GIF": _closed_gif,
    "BMP": _closed_bmp,
}


def _zeroed(sector: int, count: int) -> Callable:
    def zeroed(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
        changed = bytearray(data)
        for number in rng.integers(0, -(-len(data) // sector), count):
            at = int(number) * sector
            end = min(at + sector, len(data))
            changed[at:end] = bytes(end - at)
        return bytes(changed)

    return zeroed


def _flipped(count: int, mask: int) -> Callable:
    def flipped(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
        changed = bytearray(data)
        for at in rng.integers(0, len(data), count):
            changed[at] ^= mask or 1 << int(rng.integers(8))
        return bytes(changed)

    return flipped


HARMS: dict[str, Callable[[bytes, str, np.random.Generator], bytes]] = {
    "cut": cut,
    "cut and closed": cut_and_closed,
    "one sector": _zeroed(512, 1),
    "sectors": _zeroed(512, 6),
    "one page": _zeroed(4096, 1),
    "pages": _zeroed(4096, 4),
    "a bit": _flipped(1, 0),
    "bits": _flipped(20, 0),
    "a byte": _flipped(1, 0xFF),
    "bytes": _flipped(8, 0xFF),
}


class Damaged(NamedTuple):
    """A film's file before and after.

    Attributes:
      name: format, variant and harm.
      sound: the file's bytes.
      damaged: other bytes.
    """

    name: str
    sound: bytes
    damaged: bytes


@functools.cache
def sound(kind: str, variant: str, seed: int, height: int, width: int) -> bytes:
    """Returns a sound file of a drawn film."""
    return FORMATS[kind][variant](film(seed, height, width))


def damaged(count: int, seed: int) -> Iterator[Damaged]:
    """Yields damaged files, the six formats in turn, their variants and harms too."""
    rng = np.random.default_rng(seed)
    kinds, harms = list(FORMATS), list(HARMS)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        variants = list(FORMATS[kind])
        variant = variants[number // len(kinds) % len(variants)]
        harm = harms[int(rng.integers(len(harms)))]
        size = SIZES[int(rng.integers(len(SIZES)))]
        before = sound(kind, variant, int(rng.integers(3)), *size)
        after = HARMS[harm](before, kind, rng)
        if after != before:
            yield Damaged(f"{kind} {variant}, {harm}", before, after)
