"""Checks the sizes that a BMP's header gives, its run lengths and its lost sectors.

By Microsoft's BITMAPFILEHEADER and BITMAPINFOHEADER. Samples that are not compressed
have no checksum and nothing that must fit: changed ones are seen only where a whole
sector became zeros.
"""

import struct
from typing import NamedTuple

import cxr.images.limits as limits
import cxr.images.sectors as sectors
from cxr.reasons import BadImage

MAX_RUNS = 1_000_000  # of run-length encoding; Pillow reads them in Python
_PLAIN, _RLE8, _MASKS = 0, 1, 3
_OLD_HEADER, _HEADERS = 12, (40, 52, 56, 64, 108, 124)  # bytes
_PADDING = 3  # bytes that writers add to the file or to the size of its samples


class Layout(NamedTuple):
    """What a BMP's header says.

    Attributes:
      width: pixels.
      height: pixels.
      bits: of a pixel.
      compression: 0 = none, 1 = run lengths of 8 bits, 3 = none, with masks.
      offset: of the samples in the file.
    """

    width: int
    height: int
    bits: int
    compression: int
    offset: int

    @property
    def pixel_bytes(self) -> int:
        """Of memory, while it is decoded to grey."""
        return 6 if self.bits > 8 else 4

    @property
    def unchecked(self) -> str:
        """Samples as they are have nothing that must fit."""
        return "" if self.compression == _RLE8 else "BMP"

    @property
    def row_bytes(self) -> int:
        """Of a row in the file: a multiple of 4."""
        return (self.width * self.bits + 31) // 32 * 4


def read_layout(data: bytes) -> Layout:
    """Reads a BMP's header and compares its sizes with the file's.

    Raises:
      BadImage: `truncated`, `corrupt`, `unsupported_format` or a size beyond limits.
    """
    if len(data) < 54:
        raise BadImage("truncated", "BMP: ends inside its header")
    offset, header = struct.unpack_from("<II", data, 10)
    compression = said = 0
    if header == _OLD_HEADER:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    elif header in _HEADERS:
        width, height, _, bits, compression, said = struct.unpack_from(
            "<IiHHII", data, 18
        )
    else:
        raise BadImage("corrupt", f"BMP: a header of {header} bytes")
    layout = Layout(width, abs(height), bits, compression, offset)
    limits.check_size(layout.width, layout.height)
    if compression not in (_PLAIN, _RLE8, _MASKS):
        raise BadImage(
            "unsupported_format",
            f"BMP compression {compression}; accepted: none, 8-bit run lengths",
        )
    if offset < 14 + header:
        raise BadImage("corrupt", f"BMP: samples at byte {offset}, inside its header")
    if compression != _RLE8:
        _check_sizes(layout, said, len(data))
    return layout


def check(data: bytes, layout: Layout) -> None:
    """Refuses a BMP with lost sectors, or whose run lengths do not fill its rows.

    Raises:
      BadImage: `corrupt`, `truncated` or `too_complex`.
    """
    if layout.compression == _RLE8:
        sectors.check_sectors(data, "BMP")
        _check_runs(data, layout)
        return
    natural = sectors.natural_black(data, [layout.offset], layout.row_bytes)
    slack = sectors.BILEVEL_SLACK if layout.bits == 1 else 0
    sectors.check_sectors(data, "BMP", natural, slack)


def _check_sizes(layout: Layout, said: int, file_bytes: int) -> None:
    """Compares the samples' size with what the header says and the file holds."""
    needed = layout.row_bytes * layout.height
    extra = file_bytes - layout.offset - needed
    if extra < 0:
        raise BadImage("truncated", f"BMP: {-extra} of {needed} bytes are missing")
    # Profiles may stand behind the samples, and many writers say 0 or nonsense:
    # one of the two must agree.
    if extra > _PADDING and not 0 <= said - needed <= _PADDING:
        raise BadImage(
            "corrupt", f"BMP: {needed + extra} bytes where its rows need {needed}"
        )


def _check_runs(data: bytes, layout: Layout) -> None:
    """Walks through run lengths: each row must be filled, and all rows there."""
    at, filled, row = layout.offset, 0, 0
    for _ in range(MAX_RUNS):
        if at + 2 > len(data):
            raise BadImage("truncated", f"BMP: ends in row {row} of {layout.height}")
        count, value = data[at], data[at + 1]
        at += 2
        if count:
            filled += count
        elif value > 2:  # so many samples as they are, to an even byte
            filled += value
            at += value + value % 2
        elif value < 2 and filled == layout.width:  # the row's or the picture's end
            row, filled = row + 1, 0
            if row == layout.height:
                return
        else:
            filled = layout.width + 1
        if filled > layout.width:
            raise BadImage(
                "corrupt", f"BMP: run lengths do not fill row {row} of {layout.height}"
            )
    raise BadImage("too_complex", f"BMP: more than {MAX_RUNS} runs")
