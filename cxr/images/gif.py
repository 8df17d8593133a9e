"""Checks the structure and the coded data of a GIF, which has no checksum.

By GIF89a (CompuServe, 1990).
"""

from typing import NamedTuple

import cxr.images.limits as limits
import cxr.images.run_codes as run_codes
import cxr.images.sectors as sectors
from cxr.reasons import BadImage

MAX_BLOCKS = 500_000  # of at most 255 bytes; 64 MiB of full blocks are 260,000
_EXTENSION, _PICTURE = 0x21, 0x2C


class Layout(NamedTuple):
    """What a GIF's header says, and its one picture's codes.

    Attributes:
      width: pixels.
      height: pixels.
      symbol_bits: of an index.
      codes: LZW codes.
      pixel_bytes: of memory, while it is decoded to grey.
      unchecked: empty: codes must fit their picture.
    """

    width: int
    height: int
    symbol_bits: int
    codes: bytes
    pixel_bytes: int = 3  # of memory: indices, the picture in grey, what is resized
    unchecked: str = ""


def read_layout(data: bytes) -> Layout:
    """Walks through a GIF's blocks.

    Raises:
      BadImage: `truncated`, `corrupt`, `too_complex`, `several_frames`, or a size
        beyond the limits.
    """
    if len(data) < 13:
        raise BadImage("truncated", "GIF: ends inside its header")
    screen = _size(data, 6)
    limits.check_size(*screen)
    blocks = limits.Budget(MAX_BLOCKS, "GIF blocks")
    at = _next_picture(data, 13 + _palette(data[10]), blocks)
    if at < 0 or at + 11 > len(data):
        raise BadImage("truncated", "GIF: ends before its picture")
    size = _size(data, at + 5)
    if size != screen or any(data[at + 1 : at + 5]):
        raise BadImage(
            "corrupt",
            f"GIF: a picture of {size[0]} x {size[1]} does not fill its screen of "
            f"{screen[0]} x {screen[1]}",
        )
    at += 10 + _palette(data[at + 9])
    symbol_bits = data[at] if at < len(data) else 0
    if not 2 <= symbol_bits <= 8:
        raise BadImage("corrupt", f"GIF: indices of {symbol_bits} bits")
    codes, at = _blocks(data, at + 1, blocks)
    if _next_picture(data, at, blocks) >= 0:
        raise BadImage("several_frames", "GIF: more than one picture in the file")
    return Layout(*size, symbol_bits, codes)


def check(data: bytes, layout: Layout) -> None:
    """Refuses a GIF whose codes are not exactly those of its picture.

    Raises:
      BadImage: `corrupt` or `too_complex`.
    """
    sectors.check_sectors(data, "GIF")
    found = run_codes.lzw_length(
        layout.codes,
        run_codes.lzw_budget(),
        symbol_bits=layout.symbol_bits,
        gif=True,
    )
    if found != layout.width * layout.height:
        raise BadImage(
            "truncated" if found < layout.width * layout.height else "corrupt",
            f"GIF: coded data of {found} pixels for {layout.width} x {layout.height}",
        )


def _size(data: bytes, at: int) -> tuple[int, int]:
    width, height = (int.from_bytes(data[i : i + 2], "little") for i in (at, at + 2))
    return width, height


def _palette(flags: int) -> int:
    """Bytes of the palette that a descriptor's flags announce."""
    return 3 * (2 << (flags & 7)) if flags & 0x80 else 0


def _next_picture(data: bytes, at: int, blocks: limits.Budget) -> int:
    """Passes over extensions; returns where a picture begins, -1 where none does."""
    while at < len(data) and data[at] == _EXTENSION:
        _, at = _blocks(data, at + 2, blocks)
    return at if at < len(data) and data[at] == _PICTURE else -1


def _blocks(data: bytes, at: int, left: limits.Budget) -> tuple[bytes, int]:
    """Joins sub-blocks; returns them and where the next block begins.

    Args:
      data: the file.
      at: of the first sub-block.
      left: of the sub-blocks that the file may have.
    """
    parts = []
    while at < len(data):
        size = data[at]
        left.spend()
        parts.append(data[at + 1 : at + 1 + size])
        at += 1 + size
        if not size:
            return b"".join(parts), at
    raise BadImage("truncated", "GIF: ends inside a block")
