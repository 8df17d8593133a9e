"""Checks that a PGM, PPM or PBM holds just the samples that its header promises.

By Netpbm's pbm(5), pgm(5) and ppm(5), the binary forms. Samples have no checksum:
changed ones are seen only where a whole sector became zeros.
"""

import re
from typing import NamedTuple

import cxr.images.limits as limits
import cxr.images.sectors as sectors
from cxr.reasons import BadImage

_SPACE = rb"(?:\s|#[^\n\r]*[\n\r])+"
_HEADER = re.compile(
    rb"P([456])"
    + _SPACE
    + rb"(\d{1,9})"
    + _SPACE
    + rb"(\d{1,9})(?:"
    + _SPACE
    + rb"(\d{1,5}))?\s"
)
_BILEVEL, _COLOUR = 4, 6
_MAX_HEADER = 1 << 12  # bytes, with its comments
_TRAILING = 2  # bytes of a newline that some writers add


class Layout(NamedTuple):
    """What a header says.

    Attributes:
      kind: 4 = bilevel, 5 = grey, 6 = RGB.
      width: pixels.
      height: pixels.
      brightest: the sample that means white.
      offset: of the samples in the file, bytes.
    """

    kind: int
    width: int
    height: int
    brightest: int
    offset: int

    @property
    def row_bytes(self) -> int:
        """Of a row in the file."""
        if self.kind == _BILEVEL:
            return -(-self.width // 8)
        deep = 2 if self.brightest > 255 else 1
        return self.width * deep * (3 if self.kind == _COLOUR else 1)

    @property
    def pixel_bytes(self) -> int:
        """Of memory, while it is decoded to grey."""
        return 5 if self.kind == _COLOUR or self.brightest > 255 else 2

    @property
    def unchecked(self) -> str:
        """Samples as they are have nothing that must fit."""
        return "PNM"

    @property
    def bits(self) -> int:
        """Of full scale, to which Pillow brings other deep samples; 0 = not told."""
        return 16 if 255 < self.brightest < 0xFFFF else 0


def read_layout(data: bytes) -> Layout:
    """Reads the header and compares it with the file's size.

    Raises:
      BadImage: `truncated`, `corrupt`, `several_frames`, `unsupported_format` or a size
        beyond limits.
    """
    if data[1:2] in b"123":
        raise BadImage("unsupported_format", "PNM in plain text; accepted: binary")
    match = _HEADER.match(data[:_MAX_HEADER])
    if not match or (match[4] is None) != (match[1] == b"4"):
        raise BadImage(
            "corrupt", "PNM: no header of width, height and brightest sample"
        )
    kind, width, height = (int(match[group]) for group in (1, 2, 3))
    layout = Layout(kind, width, height, int(match[4] or 1), match.end())
    limits.check_size(width, height)
    if not 0 < layout.brightest <= 0xFFFF:
        raise BadImage("corrupt", f"PNM: brightest sample {layout.brightest}")
    needed = layout.row_bytes * height
    extra = len(data) - layout.offset - needed
    if extra < 0:
        raise BadImage("truncated", f"PNM: {-extra} of {needed} bytes are missing")
    if extra > _TRAILING:
        if re.match(rb"\s*P[1-7]\s", data[layout.offset + needed :][:16]):
            raise BadImage("several_frames", "PNM: more than one picture in the file")
        raise BadImage("corrupt", f"PNM: {extra} bytes behind its samples")
    return layout


def check(data: bytes, layout: Layout) -> None:
    """Refuses a file with lost sectors; BadImage `corrupt`."""
    natural = sectors.natural_black(data, [layout.offset], layout.row_bytes)
    slack = sectors.BILEVEL_SLACK if layout.kind == _BILEVEL else 0
    sectors.check_sectors(data, "PNM", natural, slack)
