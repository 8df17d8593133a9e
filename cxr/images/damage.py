"""Finds the damage that image decoders pass over in silence, and what costs too much.

Pillow shows what is left of a JPEG whose coded data are damaged; libjpeg-turbo itself
warns. Its warnings of headers (an odd Adobe or JFIF version, a bad ICC profile) are no
damage to pixels.
"""

import zlib

import numpy as np
import simplejpeg

import cxr.images.limits as limits
from cxr.reasons import BadImage

MAX_SCANS = 100  # progressive encoders write about ten
MAX_SCAN_PIXELS = 500_000_000  # scans times pixels: 50 million take 0.06 s a scan
MAX_SEGMENTS = limits.MAX_PARTS  # of a JPEG's header, or chunks of a PNG

# libjpeg-turbo's warnings (jerror.h, JWRN_*) that speak of coded data.
_DAMAGE = (
    "bad Huffman code",
    "bad arithmetic code",
    "premature end of data segment",
    "extraneous bytes before marker",
    "Inconsistent progression sequence",
    "found marker",  # ... instead of RSTn
    "Premature end of JPEG file",
)
_SCAN, _COMMENT, _APPLICATION = 0xDA, 0xFE, range(0xE0, 0xF0)
# Start-of-frame markers (ITU-T T.81, T.87), without DHT, JPG and DAC.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_LOSSLESS = {
    **dict.fromkeys((0xC3, 0xC7, 0xCB, 0xCF), "lossless JPEG"),
    **dict.fromkeys((0xC5, 0xC6, 0xCD, 0xCE), "hierarchical JPEG"),
    0xF7: "JPEG-LS",
}
_BARE = (0x00, 0x01, *range(0xD0, 0xDA))  # markers without a length
_PNG_SIGNATURE = 8  # bytes
# Beside the critical chunks: transparency, orientation, the mark of an animation.
_PNG_KEPT = (b"tRNS", b"eXIf", b"acTL")


def decode_jpeg(data: bytes, colorspace: str, **scale: int) -> np.ndarray | None:
    """Decodes a JPEG by libjpeg-turbo's own interface.

    Args:
      data: the file's bytes.
      colorspace: `GRAY` or `CMYK`, of the result.
      **scale: `min_height`, `min_width`, as `simplejpeg.decode_jpeg` takes them.

    Returns:
      uint8 [H, W, 1 or 4]; None where the header is odd and the pixels are not: then
      another decoder decides.

    Raises:
      BadImage: the coded data are damaged.
    """
    try:
        return simplejpeg.decode_jpeg(data, colorspace, **scale)
    except ValueError:
        pass  # the first warning alone is told; one of the header may hide another
    try:
        simplejpeg.decode_jpeg(_without_comments(data), colorspace, **scale)
    except ValueError as error:
        if any(words in str(error) for words in _DAMAGE):
            raise BadImage("corrupt", f"JPEG: {error}") from error
    return None


def check_jpeg(data: bytes) -> int:
    """Refuses, before it is decoded, a JPEG that has no end or would take for ever.

    Returns:
      How many scans there are at most.

    Raises:
      BadImage: `truncated`, `too_complex`, or of a kind that is not decoded.
    """
    _check_frame(data)
    if not data.endswith(b"\xff\xd9"):
        # Something stands behind the end, or the end is missing. Neither marker
        # can occur inside coded data, where 0xff is escaped.
        scan = data.rfind(b"\xff\xda")
        if scan < 0:
            raise BadImage("truncated", "JPEG: ends before the first scan")
        if data.find(b"\xff\xd9", scan) < 0:
            raise BadImage("truncated", "JPEG: no end-of-image marker")
    scans = data.count(b"\xff\xda")
    if scans > MAX_SCANS:
        raise BadImage("too_complex", f"JPEG: {scans} scans, the limit is {MAX_SCANS}")
    return scans


def _check_frame(data: bytes) -> None:
    """Refuses by its name a kind of JPEG that our decoders do not know."""
    for marker, begin, _ in _segments(data):
        if marker in _LOSSLESS:
            raise BadImage("unsupported_format", f"{_LOSSLESS[marker]}; accepted: JPEG")
        if marker in _FRAMES and (bits := data[begin + 4]) != 8:
            raise BadImage(
                "unsupported_samples", f"JPEG of {bits}-bit samples; accepted: 8-bit"
            )


def scans_budget() -> limits.Budget:
    """Returns what the scans of one file may cost, in pixels."""
    return limits.Budget(MAX_SCAN_PIXELS, "pixels in all scans of a JPEG")


def sound_png(data: bytes) -> bytes:
    """Returns a PNG of those chunks that the pixels need, their CRCs checked.

    Pillow reads what is left of a damaged one. Text and profiles are left out: damage
    to them is none to the pixels.

    Raises:
      BadImage: `corrupt`, `truncated` or `too_complex`.
    """
    kept, at, view = [data[:_PNG_SIGNATURE]], _PNG_SIGNATURE, memoryview(data)
    for _ in range(MAX_SEGMENTS):
        kind = data[at + 4 : at + 8]
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if len(kind) < 4 or end > len(data):
            raise BadImage("truncated", "PNG: ends before its last chunk")
        critical = not kind[0] & 0x20
        if critical or kind in _PNG_KEPT:
            crc = int.from_bytes(data[end - 4 : end], "big")
            if zlib.crc32(view[at + 4 : end - 4]) == crc:
                kept.append(data[at:end])
            elif critical:
                raise BadImage("corrupt", f"PNG: wrong CRC of a chunk {kind!r}")
        if kind == b"IEND":
            return b"".join(kept)
        at = end
    raise BadImage("too_complex", f"PNG: more than {MAX_SEGMENTS} chunks")


def _segments(data: bytes) -> list[tuple[int, int, int]]:
    """Lists (marker, begin, end) of a JPEG's segments before its first scan.

    Raises:
      BadImage: there are more than `MAX_SEGMENTS`.
    """
    found: list[tuple[int, int, int]] = []
    at = 2
    for _ in range(MAX_SEGMENTS):
        at = data.find(b"\xff", at)
        marker = data[at + 1] if 0 <= at < len(data) - 3 else _SCAN
        if marker == _SCAN:
            return found
        if marker == 0xFF:  # fill, however much
            at = len(data) - len(data[at:].lstrip(b"\xff")) - 1
            continue
        begin, at = at, at + 2
        if marker not in _BARE:
            at += int.from_bytes(data[at : at + 2], "big")
            found.append((marker, begin, at))
    raise BadImage("too_complex", f"JPEG: more than {MAX_SEGMENTS} segments")


def _without_comments(data: bytes) -> bytes:
    """Returns a JPEG without its applications' segments, comments and stray bytes."""
    segments = _segments(data)
    if not segments:
        return data
    kept = [
        data[begin:end]
        for marker, begin, end in segments
        if marker not in _APPLICATION and marker != _COMMENT
    ]
    scan = data.find(b"\xff\xda", segments[-1][2])
    return b"".join([data[:2], *kept, data[scan:]])
