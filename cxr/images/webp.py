"""Checks the structure of a WebP, and that its coded data end where its picture does.

By RFC 9649. Neither VP8 nor VP8L has a checksum. Damaged codes stand for other numbers
of bits: a decoder that runs out of them says so, one that has some left says nothing.
"""

import io
import struct
from typing import NamedTuple

from PIL import Image

import cxr.images.limits as limits
import cxr.images.sectors as sectors
from cxr.reasons import BadImage

# Without its last bytes no picture of sound data can be read (libwebp's encoder fills
# up to 3 bytes of VP8, 1 of VP8L: measured on 200 films).
_NEEDED = {b"VP8 ": 4, b"VP8L": 2}
_ANIMATION = 0x02  # of VP8X's flags


class Layout(NamedTuple):
    """What a WebP's header says.

    Attributes:
      width: pixels.
      height: pixels.
      name: of the chunk with the coded data, `VP8 ` or `VP8L`.
      begin: of that chunk's body in the file, bytes.
      end: of that body.
      pixel_bytes: of memory, while it is decoded to grey.
    """

    width: int
    height: int
    name: bytes
    begin: int
    end: int
    pixel_bytes: int = 17  # RGBA in the decoder, twice in its canvas, in Pillow; grey

    @property
    def unchecked(self) -> str:
        """Codes of VP8L fall into step again soon, with other pixels."""
        return "lossless WEBP" if self.name == b"VP8L" else ""


def read_layout(data: bytes) -> Layout:
    """Walks through a WebP's chunks.

    Raises:
      BadImage: `truncated`, `corrupt`, `too_complex`, `several_frames`, or a size
        beyond the limits.
    """
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise BadImage("truncated", f"WEBP: {end - len(data)} bytes are missing")
    at, canvas, found = 12, None, None
    for _ in range(limits.MAX_PARTS):
        if at + 8 > end:
            break
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = at + 8
        at = body + size + size % 2
        if body + size > end:
            raise BadImage("corrupt", f"WEBP: a chunk {name!r} beyond the file's end")
        if name == b"VP8X" and size >= 10:
            canvas = _canvas(data, body)
        if name in _NEEDED and not found:
            found = Layout(*_frame(data, body, name), name, body, body + size)
    else:
        raise BadImage("too_complex", f"WEBP: more than {limits.MAX_PARTS} chunks")
    if not found:
        raise BadImage("corrupt", "WEBP: no picture in the file")
    limits.check_size(found.width, found.height)
    if canvas not in (None, (found.width, found.height)):
        raise BadImage("corrupt", "WEBP: the picture does not fill its canvas")
    return found


def check(data: bytes, layout: Layout) -> None:
    """Refuses a WebP whose coded data are longer than its picture.

    Raises:
      BadImage: `corrupt`.
    """
    sectors.check_sectors(data, "WEBP")
    size = layout.end - layout.begin - _NEEDED[layout.name]
    # An odd chunk gets a byte of padding, which libwebp would read, too.
    body = data[layout.begin : layout.begin + max(size - size % 2, 0)]
    chunk = layout.name + struct.pack("<I", len(body)) + body
    riff = b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk
    try:
        with Image.open(io.BytesIO(riff), formats=("WEBP",)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):
        return
    raise BadImage("corrupt", "WEBP: coded data go on behind the picture")


def _canvas(data: bytes, at: int) -> tuple[int, int]:
    if data[at] & _ANIMATION:
        raise BadImage("several_frames", "WEBP: an animation")
    width, height = (
        int.from_bytes(data[i : i + 3], "little") + 1 for i in (at + 4, at + 7)
    )
    return width, height


def _frame(data: bytes, at: int, name: bytes) -> tuple[int, int]:
    """Returns width and height in pixels from a frame's own header."""
    if name == b"VP8L":
        bits = int.from_bytes(data[at + 1 : at + 5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = (
        int.from_bytes(data[i : i + 2], "little") & 0x3FFF for i in (at + 6, at + 8)
    )
    return width, height
