"""Checks the structure and the coded data of a TIFF.

By TIFF 6.0 (Aldus, 1992). libtiff stops when a strip is full: it does not compare
Deflate's checksum, reads on behind a damaged fax code, and passes over what is left.
So each strip or tile must hold exactly the samples of its rows, by our own count.
"""

import itertools
import math
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import simplejpeg

import cxr.images.damage as damage
import cxr.images.limits as limits
import cxr.images.run_codes as run_codes
import cxr.images.sectors as sectors
from cxr.reasons import BadImage

_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_FILL_ORDER, _STRIPS, _SAMPLES, _STRIP_ROWS, _STRIP_SIZES = 266, 273, 277, 278, 279
_PLANES, _TILE_WIDTH, _TILE_LENGTH, _TILES, _TILE_SIZES = 284, 322, 323, 324, 325
_COLOURS, _JPEG_TABLES, _SUBSAMPLING = 320, 347, 530
_PREDICTOR, _ORIENTATION, _EXTRA, _SAMPLE_FORMAT = 317, 274, 338, 339
_MAX_SAMPLE, _WHITE_IS_ZERO = 281, 0
# All that pixels need. Text, profiles and further directories are left out: they cost
# memory, and damage to them is none to the pixels.
_KEPT = frozenset(
    (_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _STRIPS)
    + (_SAMPLES, _STRIP_ROWS, _STRIP_SIZES, _PLANES, _TILE_WIDTH, _TILE_LENGTH)
    + (_TILES, _TILE_SIZES, _COLOURS, _JPEG_TABLES, _SUBSAMPLING, _PREDICTOR)
    + (_ORIENTATION, _EXTRA, _SAMPLE_FORMAT, _MAX_SAMPLE)
)
_NUMBERS = {1: "B", 3: "H", 4: "I"}  # types of the tags above: BYTE, SHORT, LONG
_UNDEFINED = 7
_MAX_COLOURS = 3 << 16  # of a palette of 16 bits
_MAX_TAGS = 1_000
_PLAIN, _LZW, _JPEG, _DEFLATE, _PACKBITS, _OLD_DEFLATE = 1, 5, 7, 8, 32773, 32946
_COMPRESSIONS = (_PLAIN, _LZW, _JPEG, _DEFLATE, _PACKBITS, _OLD_DEFLATE)
_BLOCK = 1 << 20  # bytes unpacked at once: a bomb does not cost memory
_CMYK = 5
_YCBCR = 6


class Piece(NamedTuple):
    """A strip or tile.

    Attributes:
      begin: of its data in the file, bytes.
      end: of its data.
      rows: that it holds.
      full_rows: that others like it hold; some writers fill up the last one.
    """

    begin: int
    end: int
    rows: int
    full_rows: int


class Layout(NamedTuple):
    """What a TIFF's directory says.

    Attributes:
      width: pixels.
      height: pixels.
      bits: of a sample.
      samples: of a pixel.
      compression: TIFF's number of it.
      photometric: TIFF's number of what samples mean.
      piece_width: pixels of a strip's or tile's row.
      row_bytes: of that row, unpacked.
      pieces: strips or tiles.
      jpeg_tables: of JPEG's; empty if there are none.
      brightest: the largest sample, where the directory says it; 0 elsewhere.
    """

    width: int
    height: int
    bits: int
    samples: int
    compression: int
    photometric: int
    piece_width: int
    row_bytes: int
    pieces: list[Piece]
    jpeg_tables: bytes
    brightest: int

    @property
    def depth(self) -> int:
        """Bits of full scale, of samples of more than 8; 0 = not told."""
        if 8 < self.bits < 16:
            return self.bits
        told = self.bits == 16 and 0xFF < self.brightest < 0xFFFF
        return self.brightest.bit_length() if told else 0

    @property
    def inverted(self) -> bool:
        """Whether 0 is white and Pillow, as of more than 8 bits, leaves it so."""
        deep = self.bits > 8 and self.samples == 1
        return deep and self.photometric == _WHITE_IS_ZERO

    @property
    def pixel_bytes(self) -> int:
        """Of memory, while it is decoded to grey: libtiff's, Pillow's and grey."""
        packed = -(-self.samples * self.bits // 8)
        return packed + (4 if self.samples > 1 else 2 * packed) + 1

    @property
    def unchecked(self) -> str:
        """Samples as they are have nothing that must fit."""
        return "uncompressed TIFF" if self.compression == _PLAIN else ""


def read_layout(data: bytes) -> tuple[bytes, Layout]:
    """Reads the first directory.

    Returns:
      A file with nothing but what the pixels need, and what the directory says.

    Raises:
      BadImage: `truncated`, `corrupt`, `too_complex`, `several_frames`,
        `unsupported_format`, or a size beyond the limits.
    """
    order = "<" if data.startswith(b"II") else ">"
    tags, taken = _directory(data, order)
    layout = _layout(data, tags)
    _check_overlap(taken + [(piece.begin, piece.end) for piece in layout.pieces])
    return _rewritten(data, order, tags), layout


def check(data: bytes, layout: Layout) -> None:
    """Refuses a TIFF whose strips or tiles do not hold their rows, no more, no less.

    Raises:
      BadImage: `corrupt`, `truncated` or `too_complex`.
    """
    natural = None
    if layout.compression == _PLAIN:
        begins = [piece.begin for piece in layout.pieces]
        natural = sectors.natural_black(data, begins, layout.row_bytes)
    slack = sectors.BILEVEL_SLACK if layout.bits == 1 else 0
    sectors.check_sectors(data, "TIFF", natural, slack)
    budget = _budget(layout.compression)
    for number, piece in enumerate(layout.pieces):
        part = data[piece.begin : piece.end]
        if layout.compression == _JPEG:
            _check_jpeg(part, piece, layout, budget)
            continue
        wanted = {rows * layout.row_bytes for rows in (piece.rows, piece.full_rows)}
        found = _length(part, layout, max(wanted), budget)
        if found not in wanted:
            raise BadImage(
                "truncated" if found < min(wanted) else "corrupt",
                f"TIFF: {found} bytes of samples in strip or tile {number}, its rows "
                f"need {min(wanted)}",
            )


def _directory(
    data: bytes, order: str
) -> tuple[dict[int, tuple[int, bytes]], list[tuple[int, int]]]:
    """Returns (type, value) of the kept tags, and the file's bytes that tell them."""
    if len(data) < 8:
        raise BadImage("truncated", "TIFF: ends inside its header")
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    if at + 6 > len(data):
        raise BadImage("truncated", "TIFF: ends before its directory")
    (number,) = struct.unpack_from(f"{order}H", data, at)
    end = at + 2 + 12 * number
    if number > _MAX_TAGS:
        raise BadImage("too_complex", f"TIFF: {number} tags, the limit is {_MAX_TAGS}")
    if end + 4 > len(data):
        raise BadImage("truncated", "TIFF: ends inside its directory")
    tags: dict[int, tuple[int, bytes]] = {}
    taken = [(0, 8), (at, end + 4)]
    for entry in range(at + 2, end, 12):
        tag, kind, count = struct.unpack_from(f"{order}HHI", data, entry)
        if tag not in _KEPT:
            continue
        size = _value_bytes(tag, kind, count)
        begin = entry + 8
        if size > 4:
            (begin,) = struct.unpack_from(f"{order}I", data, begin)
            taken.append((begin, begin + size))
        if begin + size > len(data):
            raise BadImage("truncated", f"TIFF: ends before the value of tag {tag}")
        if tag in tags:
            raise BadImage("corrupt", f"TIFF: tag {tag} stands twice")
        tags[tag] = kind, data[begin : begin + size]
    (further,) = struct.unpack_from(f"{order}I", data, end)
    if 0 < further < len(data) - 6:
        raise BadImage("several_frames", "TIFF: more than one picture in the file")
    return tags, taken


def _value_bytes(tag: int, kind: int, count: int) -> int:
    """Bytes of a tag's value, of a type and a length that it may have."""
    if tag == _JPEG_TABLES:
        limit, size = 1 << 16, 1
    else:
        if kind not in _NUMBERS:
            raise BadImage("corrupt", f"TIFF: tag {tag} of type {kind}")
        size = struct.calcsize(_NUMBERS[kind])
        pieces = tag in (_STRIPS, _STRIP_SIZES, _TILES, _TILE_SIZES)
        limit = limits.MAX_PARTS if pieces else 16
        limit = _MAX_COLOURS if tag == _COLOURS else limit
    if not 1 <= count <= limit:
        raise BadImage(
            "too_complex", f"TIFF: {count} values of tag {tag}, the limit is {limit}"
        )
    return size * count


def _rewritten(data: bytes, order: str, tags: dict[int, tuple[int, bytes]]) -> bytes:
    """Returns the file with one new directory of `tags` at its end."""
    begin = len(data) + len(data) % 2
    at = begin + 2 + 12 * len(tags) + 4
    entries, values = [struct.pack(f"{order}H", len(tags))], b""
    for tag, (kind, value) in sorted(tags.items()):
        size = struct.calcsize(_NUMBERS.get(kind, "B"))
        entries.append(struct.pack(f"{order}HHI", tag, kind, len(value) // size))
        if len(value) > 4:
            entries.append(struct.pack(f"{order}I", at + len(values)))
            values += value + bytes(len(value) % 2)
        else:
            entries.append(value.ljust(4, b"\0"))
    head = data[:4] + struct.pack(f"{order}I", begin)
    pad = bytes(begin - len(data))
    return b"".join((head, memoryview(data)[8:], pad, *entries, bytes(4), values))


def _layout(data: bytes, tags: dict[int, tuple[int, bytes]]) -> Layout:
    order = "<" if data.startswith(b"II") else ">"

    def values(tag: int, default: int = 0) -> Sequence[int]:
        kind, value = tags.get(tag, (4, struct.pack(f"{order}I", default)))
        return [n for (n,) in struct.iter_unpack(order + _NUMBERS[kind], value)]

    width, height = values(_WIDTH)[0], values(_LENGTH)[0]
    limits.check_size(width, height)
    compression, samples = values(_COMPRESSION, 1)[0], values(_SAMPLES, 1)[0]
    bits, photometric = values(_BITS, 1), values(_PHOTOMETRIC)[0]
    _check_supported(compression, values, bits)
    if samples > 16 or not 1 <= bits[0] <= 64:
        raise BadImage("corrupt", f"TIFF: {samples} samples of {bits[0]} bits")
    apart = values(_PLANES, 1)[0] == 2 and samples > 1
    tiled = _TILES in tags
    across, down = (_TILE_WIDTH, _TILE_LENGTH) if tiled else (0, _STRIP_ROWS)
    piece_width = values(across)[0] if tiled else width
    piece_rows = values(down, height)[0]
    if not piece_width or not piece_rows:
        raise BadImage("corrupt", "TIFF: strips or tiles without pixels")
    if not tiled:
        piece_rows = min(piece_rows, height)
    columns, rows = math.ceil(width / piece_width), math.ceil(height / piece_rows)
    if columns * piece_width * rows * piece_rows > 2 * limits.MAX_PIXELS:
        raise BadImage(
            "too_many_pixels",
            f"{width} x {height} in tiles of {piece_width} x {piece_rows}, the limit "
            f"is {2 * limits.MAX_PIXELS} pixels in all tiles",
        )
    heights = [piece_rows] * rows
    if not tiled:
        heights[-1] = height - (rows - 1) * piece_rows
    heights = [h for h in heights for _ in range(columns)] * (samples if apart else 1)
    row_bits = piece_width * bits[0] * (1 if apart else samples)
    tables = tags[_JPEG_TABLES][1] if _JPEG_TABLES in tags else b""
    begins = values(_TILES if tiled else _STRIPS)
    sizes = values(_TILE_SIZES if tiled else _STRIP_SIZES)
    if (_TILE_SIZES if tiled else _STRIP_SIZES) not in tags and compression == _PLAIN:
        sizes = [h * -(-row_bits // 8) for h in heights]
    return Layout(
        width,
        height,
        bits[0],
        samples,
        compression,
        photometric,
        piece_width,
        -(-row_bits // 8),
        _pieces(begins, sizes, heights, piece_rows, len(data)),
        tables,
        values(_MAX_SAMPLE)[0],
    )


def _check_supported(compression: int, values, bits: Sequence[int]) -> None:
    """Refuses what our count of samples does not know."""
    if compression not in _COMPRESSIONS:
        raise BadImage(
            "unsupported_format",
            f"TIFF compression {compression}; accepted: none, LZW, Deflate, PackBits, "
            "JPEG",
        )
    if compression not in (_PLAIN, _JPEG) and values(_FILL_ORDER, 1)[0] != 1:
        raise BadImage("unsupported_format", "TIFF: compressed, bits in reverse order")
    subsampled = values(_PHOTOMETRIC)[0] == _YCBCR and any(
        n != 1 for n in values(_SUBSAMPLING, 2)
    )
    if compression != _JPEG and subsampled:
        raise BadImage("unsupported_format", "TIFF: subsampled colour that is not JPEG")
    if len(set(bits)) != 1:
        raise BadImage("unsupported_format", f"TIFF: samples of {bits} bits")


def _pieces(
    begins: Sequence[int],
    sizes: Sequence[int],
    heights: list[int],
    full_rows: int,
    file_bytes: int,
) -> list[Piece]:
    if not len(begins) == len(sizes) == len(heights):
        raise BadImage(
            "corrupt",
            f"TIFF: {len(begins)} places and {len(sizes)} sizes of {len(heights)} "
            "strips or tiles",
        )
    found = [
        Piece(begin, begin + size, rows, full_rows)
        for begin, size, rows in zip(begins, sizes, heights, strict=True)
    ]
    last = max(piece.end for piece in found)
    if last > file_bytes:
        raise BadImage("truncated", f"TIFF: {last - file_bytes} bytes are missing")
    return found


def _check_overlap(ranges: list[tuple[int, int]]) -> None:
    """Refuses parts of a file that share bytes: one of their places is wrong."""
    ranges = sorted(part for part in ranges if part[0] < part[1])
    for (_, end), (begin, _) in itertools.pairwise(ranges):
        if begin < end:
            raise BadImage("corrupt", f"TIFF: two parts of the file share byte {begin}")


def _budget(compression: int) -> limits.Budget:
    """Returns what all strips or tiles together may cost."""
    if compression == _LZW:
        return run_codes.lzw_budget()
    if compression == _PACKBITS:
        return run_codes.packbits_budget()
    return damage.scans_budget()


def _length(part: bytes, layout: Layout, most: int, budget: limits.Budget) -> int:
    """Returns the bytes of samples that a strip or tile holds, or some above `most`."""
    if layout.compression == _PLAIN:
        return len(part)
    if layout.compression == _LZW:
        return run_codes.lzw_length(part, budget)
    if layout.compression == _PACKBITS:
        rows = run_codes.packbits_rows(part, layout.row_bytes, budget)
        return rows * layout.row_bytes
    return _deflated_length(part, most)


def _deflated_length(part: bytes, most: int) -> int:
    """Unpacks Deflate a block at a time, down to its checksum."""
    unpacker, found = zlib.decompressobj(), 0
    for at in range(0, len(part), _BLOCK):
        rest = part[at : at + _BLOCK]
        while rest and not unpacker.eof:
            try:
                found += len(unpacker.decompress(rest, _BLOCK))
            except zlib.error as error:
                raise BadImage("corrupt", f"TIFF: {error}") from error
            rest = unpacker.unconsumed_tail
            if found > most:
                return found
    while not unpacker.eof and found <= most:  # what it still holds back
        piece = unpacker.decompress(b"", _BLOCK)
        found += len(piece)
        if not piece:
            raise BadImage("truncated", "TIFF: Deflate's data end too early")
    return found


def _check_jpeg(
    part: bytes, piece: Piece, layout: Layout, budget: limits.Budget
) -> None:
    """Checks a strip or tile as the JPEG that it is, with the tables it shares."""
    scans = damage.check_jpeg(part)
    budget.spend(scans * layout.piece_width * piece.full_rows)
    whole = layout.jpeg_tables.removesuffix(b"\xff\xd9") + part[2:]
    whole = whole if layout.jpeg_tables else part
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(whole)
    except ValueError as error:
        raise BadImage("corrupt", f"TIFF: JPEG: {error}") from error
    if width != layout.piece_width or height not in (piece.rows, piece.full_rows):
        raise BadImage(
            "corrupt",
            f"TIFF: JPEG of {width} x {height} in a strip or tile of "
            f"{layout.piece_width} x {piece.rows}",
        )
    damage.decode_jpeg(whole, "CMYK" if layout.photometric == _CMYK else "GRAY")
