"""Parses a baseline JPEG header into decoding tables.

Source: ITU-T T.81 (B.2, headers; C.2 and F.2.2, Huffman codes; figure 5, zigzag).
"""

import struct
from typing import NamedTuple

import numpy as np

LOOKUP_BITS = (
    13  # 64 KiB of symbols; 12 bits leave more to the slow way: +5 us an image
)
END_OF_BLOCK = 128  # a run of zeros that leaves the block from any position
_NO_CODE = 192  # so does this; it tells damage

_SOI = b"\xff\xd8"
_SOF0, _DHT, _SOS, _DQT = 0xC0, 0xC4, 0xDA, 0xDB
_APP0, _COM = 0xE0, 0xFE  # APP0 to APP15, and comments, are skipped


class Tables(NamedTuple):
    """What an image's header says, as the decoding loop wants it.

    Attributes:
      header: the image's bytes up to the entropy-coded ones.
      size: height, width in pixels.
      quantisation: int32 [64], row by row.
      symbols: uint32 [2 << 13], by the next 13 bits, for DC, then AC coefficients:
        bits to skip | run of zeros << 8 | value << 16; 0 where 13 bits do not hold
        code and value.
      codes: uint32 [2 << 16], by the next 16 bits: bits to skip | run of zeros << 8 |
        number of the value's bits << 16; a run of 192 where no code begins so.
    """

    header: bytes
    size: tuple[int, int]
    quantisation: np.ndarray
    symbols: np.ndarray
    codes: np.ndarray


def read(image: bytes) -> Tables | None:
    """Returns what an image's header says.

    Args:
      image: one encoded image.

    Returns:
      None unless it is 8-bit grey baseline JPEG in one scan without restarts.
    """
    if not image.startswith(_SOI):
        return None
    at, size = 2, None
    quantisation: dict[int, np.ndarray] = {}
    huffman: dict[int, list[tuple[int, int, int]]] = {}
    try:
        while True:
            escape, marker, length = struct.unpack_from(">BBH", image, at)
            segment = image[at + 4 : at + 2 + length]
            at += 2 + length
            if escape != 0xFF or len(segment) != length - 2:
                return None
            if marker == _DQT:
                quantisation |= _quantisation_tables(segment)
            elif marker == _DHT:
                huffman |= _huffman_tables(segment)
            elif marker == _SOF0:
                depth, height, width, *component = struct.unpack(">BHHBBBB", segment)
                # One component, not subsampled.
                if depth != 8 or component[0] != 1 or component[2] != 0x11:
                    return None
                size, table = (height, width), component[3]
            elif marker == _SOS:
                count, _, chosen, *spectrum = struct.unpack("6B", segment)
                if count != 1 or spectrum != [0, 63, 0] or size is None:
                    return None
                return Tables(
                    image[:at],
                    size,
                    quantisation[table],
                    *_lookup_tables(huffman[chosen >> 4], huffman[16 | chosen & 15]),
                )
            elif not (_APP0 <= marker < _APP0 + 16 or marker == _COM):
                return None  # progressive, restart intervals, ...
    except (struct.error, KeyError, IndexError, ValueError):
        return None


def _quantisation_tables(segment: bytes) -> dict[int, np.ndarray]:
    """Returns the 8-bit tables of a DQT segment, int32 [64], row by row."""
    tables = {}
    for at in range(0, len(segment), 65):
        zigzag = np.frombuffer(segment, np.uint8, 64, at + 1)
        natural = np.empty(64, np.int32)
        natural[ZIGZAG] = zigzag
        tables[segment[at]] = natural  # 16-bit tables have another number
    return tables


def _huffman_tables(segment: bytes) -> dict[int, list[tuple[int, int, int]]]:
    """Returns (code, length, symbol) of the tables of a DHT segment."""
    tables, at = {}, 0
    while at < len(segment):
        number, counts = segment[at], segment[at + 1 : at + 17]
        at += 17
        codes, code = [], 0
        for length, count in enumerate(counts, 1):
            for symbol in segment[at : at + count]:
                codes.append((code, length, symbol))
                code += 1
            if code > 1 << length:
                raise ValueError("more codes than their lengths allow")
            code, at = code << 1, at + count
        tables[number] = codes
    return tables


def _lookup_tables(
    dc: list[tuple[int, int, int]], ac: list[tuple[int, int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns `symbols` and `codes` of Tables."""
    symbols = np.zeros((2, 1 << LOOKUP_BITS), np.uint32)
    codes = np.full((2, 1 << 16), _NO_CODE << 8, np.uint32)
    for table, huffman in enumerate((dc, ac)):
        for code, length, symbol in huffman:
            run, size = symbol >> 4, symbol & 15
            if size > (10 if table else 11) or (size == 0 and run not in (0, 15)):
                raise ValueError("not a symbol of 8-bit images")
            if table == 0 and run:
                raise ValueError("not the size of a DC difference")
            if table and symbol == 0:
                run = END_OF_BLOCK
            packed = (length + size) | run << 8
            first = code << 16 - length
            codes[table, first : first + (1 << 16 - length)] = packed | size << 16
            rest = LOOKUP_BITS - length - size
            if rest < 0:
                continue
            extra = np.arange(1 << size)
            # F.2.2.1: the lower half of each size stands for negative values.
            value = np.where(extra >> max(size - 1, 0), extra, extra - (1 << size) + 1)
            entry = packed | (value & 0xFFFF) << 16
            first = code << size + rest
            last = first + (1 << size + rest)
            symbols[table, first:last] = np.repeat(entry, 1 << rest)
    return symbols.ravel(), codes.ravel()


def _zigzag() -> np.ndarray:
    """Returns int64 [64], the place row by row of each coefficient as coded."""
    place = np.arange(64)
    row, column = place // 8, place % 8
    diagonal = row + column
    along = np.where(diagonal % 2, row, column)
    return np.lexsort((along, diagonal))


ZIGZAG = _zigzag()
