"""Decodes a JPEG's coded bytes into pixels in a loop compiled by Numba.

Huffman decoding waits for itself: where a symbol begins depends on the length of the
one before. So one loop takes symbols of three images in turn, two from each, every one
with its extra bits from one table lookup; an image that ends makes room for the next.
A row of blocks that is complete goes through the inverse DCT, 16 blocks at a time.

Source: ITU-T T.81 (F.2.2, coding; B.1.1.5, byte stuffing). The inverse DCT is
libjpeg's accurate integer method, so that pixels are the same to the last bit:
Loeffler, Ligtenberg and Moschytz, ICASSP 1989, with constants of 13 bits and two more
bits kept between its passes.

Nothing here checks bounds. Every index is masked or comes from a table; a block takes
64 symbols of 32 bits at most, and an image that ran behind its last bit is left at the
end of its row of blocks, for which `_Work.bits` has room.
"""

from typing import NamedTuple

import numba
import numpy as np

from cxr.input.jpeg.header import END_OF_BLOCK, LOOKUP_BITS, ZIGZAG, Tables

_LANES = 3  # images side by side; two still wait (+5 us an image), four gain nothing
_BLOCKS = 16  # transformed at a time: two or four SIMD registers of int32
_SLACK = 64  # bytes that may be read behind an image's last bit
_ONES = 0x0101010101010101  # a one in each of eight bytes
_EOI = b"\xff\xd9"

_u64, _i64, _i32, _i16 = np.uint64, np.int64, np.int32, np.int16

# Fields of a lane's state, int64: its image or -1, the block's row, blocks left in it,
# the DC coefficient, the bit behind the image's last, whether all was sound so far.
_IMAGE, _ROW, _LEFT, _DC, _END, _SOUND = range(6)
_NEXT, _ACTIVE = range(2)  # fields of the queue: the next image, lanes with an image
# Where the coefficients of a block stand, the blocks of a chunk side by side. Those
# behind the last, after an end of block or in a damaged image, fall on the DC
# coefficient, which is written last.
_POSITIONS = np.zeros(512, np.uint64)
_POSITIONS[:64] = ZIGZAG * _BLOCKS


class _Work(NamedTuple):
    """What one call of the loop reads and writes."""

    data: np.ndarray  # uint8, the images one after the other
    starts: np.ndarray  # int64 [M], where coded bytes begin
    ends: np.ndarray  # int64 [M], where they end
    symbols: np.ndarray  # see Tables
    codes: np.ndarray
    quantisation: np.ndarray
    positions: np.ndarray  # see _POSITIONS
    bits: np.ndarray  # uint8 [lanes * bytes], an image's coded bytes without stuffing
    coefficients: np.ndarray  # int16 [lanes * chunks * 64 * _BLOCKS], a row of blocks
    columns: np.ndarray  # int32 [64 * _BLOCKS], after the first pass
    pixels: np.ndarray  # uint64 [8, _BLOCKS], eight pixels each
    pixel_bytes: np.ndarray  # the same memory, uint8 [8, 8 * _BLOCKS]
    lanes: np.ndarray  # int64 [lanes, 6]
    queue: np.ndarray  # int64 [2]
    out: np.ndarray  # uint8 [M, H, W]
    done: np.ndarray  # bool [M]


def decode(encoded: list[bytes], out: np.ndarray, tables: Tables) -> np.ndarray:
    """Decodes the images that begin with the tables' header.

    Args:
      encoded: N images, one at least.
      out: receives them, uint8 [N, *tables.size], contiguous.
      tables: of the images.

    Returns:
      bool [N]: which of them were decoded.
    """
    alike = np.array([image.startswith(tables.header) for image in encoded])
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    ends = np.cumsum(lengths)
    starts = ends - lengths + len(tables.header)
    ends -= len(_EOI)
    # An unlike image becomes one without a bit, which the loop finds damaged.
    starts[~alike] = ends[~alike] = 0
    chunks = -(-tables.size[1] // (8 * _BLOCKS))
    longest = max(0, int((ends - starts).max()))
    lane_bytes = longest + chunks * _BLOCKS * 64 * 4 + _SLACK
    pixels = np.empty((8, _BLOCKS), np.uint64)
    work = _Work(
        data=np.frombuffer(b"".join((*encoded, _EOI)), np.uint8),
        starts=starts,
        ends=ends,
        symbols=tables.symbols,
        codes=tables.codes,
        quantisation=tables.quantisation,
        positions=_POSITIONS,
        bits=np.zeros(_LANES * lane_bytes, np.uint8),
        coefficients=np.zeros(_LANES * chunks * 64 * _BLOCKS, np.int16),
        columns=np.empty(64 * _BLOCKS, np.int32),
        pixels=pixels,
        pixel_bytes=pixels.view(np.uint8),
        lanes=np.zeros((_LANES, 6), np.int64),
        queue=np.array([0, _LANES]),
        out=out,
        done=np.zeros(len(encoded), bool),
    )
    _decode(work)
    return work.done


# Without reference counting of arrays, which are the caller's: it would take longer
# than decoding. Indices are unsigned: Python's negative ones cost a test each.
_OPTIONS = {"nogil": True, "_nrt": False, "boundscheck": False}
_compiled = numba.njit(**_OPTIONS)
_inlined = numba.njit(forceinline=True, **_OPTIONS)


def _cached(function):
    """Compiles like `_compiled` and keeps the machine code where it can."""
    try:
        return numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # neither beside the source nor in the home folder
        return _compiled(function)


@_inlined
def _load(data, at):
    """Returns 8 bytes as one number, the first the highest; one instruction."""
    return (
        (_u64(data[at]) << _u64(56))
        | (_u64(data[at + _u64(1)]) << _u64(48))
        | (_u64(data[at + _u64(2)]) << _u64(40))
        | (_u64(data[at + _u64(3)]) << _u64(32))
        | (_u64(data[at + _u64(4)]) << _u64(24))
        | (_u64(data[at + _u64(5)]) << _u64(16))
        | (_u64(data[at + _u64(6)]) << _u64(8))
        | _u64(data[at + _u64(7)])
    )


@_inlined
def _store(data, at, number):
    """Writes what `_load` reads."""
    data[at] = np.uint8(number >> _u64(56))
    data[at + _u64(1)] = np.uint8(number >> _u64(48))
    data[at + _u64(2)] = np.uint8(number >> _u64(40))
    data[at + _u64(3)] = np.uint8(number >> _u64(32))
    data[at + _u64(4)] = np.uint8(number >> _u64(24))
    data[at + _u64(5)] = np.uint8(number >> _u64(16))
    data[at + _u64(6)] = np.uint8(number >> _u64(8))
    data[at + _u64(7)] = np.uint8(number)


@_inlined
def _window(bits, position):
    """Returns the bits from a position on: 57 at least, left-aligned."""
    return _load(bits, position >> _u64(3)) << (position & _u64(7))


@_inlined
def _long_symbol(window, codes, table):
    """Returns what `symbols` has no room for, likewise."""
    entry = _u64(codes[(table << _u64(16)) + (window >> _u64(48))])
    ones = (_u64(1) << (entry >> _u64(16))) - _u64(1)
    extra = (window >> (-entry & _u64(63))) & ones
    # F.2.2.1: the lower half of each size stands for negative values.
    value = extra if extra > ones >> _u64(1) else extra - ones
    return np.uint32(entry & _u64(0xFFFF) | value << _u64(16))


@_inlined
def _coefficient(window, position, index, block, work):
    """Decodes one AC symbol; returns what follows it."""
    ac = _u64(1 << LOOKUP_BITS)
    entry = work.symbols[ac + (window >> _u64(64 - LOOKUP_BITS))]
    if entry == 0:
        entry = _long_symbol(window, work.codes, _u64(1))
    length = _u64(entry) & _u64(63)
    index += _u64((entry >> np.uint32(8)) & np.uint32(255))
    work.coefficients[block + work.positions[index]] = _i16(_i32(entry) >> _i32(16))
    return window << length, position + length, index + _u64(1)


@_inlined
def _next_block(lane, position, index, block, work):
    """Ends a block, perhaps its row or image; returns what `_begin_block` does."""
    state = work.lanes[lane]
    if state[_IMAGE] < 0:  # over and over its last image's first block
        return _first_bit(lane, work), _u64(1), block
    work.coefficients[block] = _i16(state[_DC])
    if index > 64 and not END_OF_BLOCK < index <= END_OF_BLOCK + 64:
        state[_SOUND] = 0  # more coefficients than 64, or a code that is none
    state[_LEFT] -= 1
    block += _u64(1)
    if block % _u64(_BLOCKS) == 0:
        block += _u64(63 * _BLOCKS)  # the next chunk
    if state[_LEFT] == 0:
        block = _first_block(lane, work)
        if _end_row(lane, position, work):
            position = _begin_image(lane, work)
    return _begin_block(lane, position, block, work)


@_inlined
def _begin_block(lane, position, block, work):
    """Decodes a DC coefficient; returns position, coefficient, block that follow."""
    state = work.lanes[lane]
    window = _window(work.bits, position)
    entry = work.symbols[window >> _u64(64 - LOOKUP_BITS)]
    if entry == 0:
        entry = _long_symbol(window, work.codes, _u64(0))
        if entry >> np.uint32(8) & np.uint32(255):
            state[_SOUND] = 0
    state[_DC] += _i32(entry) >> _i32(16)
    return position + (_u64(entry) & _u64(63)), _u64(1), block


@_inlined
def _first_bit(lane, work):
    return _u64(lane * (len(work.bits) // _LANES)) << _u64(3)


@_inlined
def _first_block(lane, work):
    return _u64(lane * (len(work.coefficients) // _LANES))


@_compiled
def _begin_image(lane, work):
    """Takes the next image, if there is one; returns the position of its first bit."""
    state, first = work.lanes[lane], _first_bit(lane, work)
    image = work.queue[_NEXT]
    if image == len(work.starts):
        state[_IMAGE] = -1
        work.queue[_ACTIVE] -= 1
        return first
    work.queue[_NEXT] += 1
    at, end = _u64(work.starts[image]), _u64(work.ends[image])
    to = first >> _u64(3)
    while at < end:
        if at + _u64(8) <= end:
            eight = _load(work.data, at)
            # Zero bytes of the complement, by the borrow they cause.
            if not (~eight - _u64(_ONES)) & eight & _u64(_ONES << 7):
                _store(work.bits, to, eight)
                at += _u64(8)
                to += _u64(8)
                continue
        byte = work.data[at]
        work.bits[to] = byte
        at += _u64(1)
        to += _u64(1)
        if byte == 255:
            if work.data[at] != 0:
                break  # a marker, too early
            at += _u64(1)  # the zero that is stuffed behind 255
    state[_IMAGE], state[_ROW], state[_DC] = image, 0, 0
    state[_LEFT] = -(-work.out.shape[2] // 8)
    state[_END] = to << _u64(3)
    state[_SOUND] = (
        at == end and work.data[end] == 255 and work.data[end + _u64(1)] == 0xD9
    )
    return first


@_compiled
def _begin(lane, work):
    position = _begin_image(lane, work)
    return _begin_block(lane, position, _first_block(lane, work), work)


@_compiled
def _end_row(lane, position, work):
    """Turns a row of blocks into pixels; returns whether the image ended, too."""
    state = work.lanes[lane]
    _, height, width = work.out.shape
    image, top = state[_IMAGE], state[_ROW] * 8
    first = _first_block(lane, work)
    for chunk in range(-(-width // (8 * _BLOCKS))):
        left = chunk * 8 * _BLOCKS
        _inverse_dct(_i64(first) + left * 8, work)
        for row in range(min(8, height - top)):
            for column in range(min(8 * _BLOCKS, width - left)):
                work.out[image, top + row, left + column] = work.pixel_bytes[
                    row, column
                ]
    state[_ROW] += 1
    state[_LEFT] = -(-width // 8)
    unread = state[_END] - _i64(position)
    if not state[_SOUND] or unread < 0:
        return True
    if top + 8 < height:
        return False
    work.done[image] = unread < 8  # the last byte is filled up
    return True


@_inlined
def _butterflies(a0, a1, a2, a3, a4, a5, a6, a7):
    """Returns eight values through the inverse DCT, times 2**13; int32."""
    z1 = _i32(_i32(a2 + a6) * _i32(4433))
    t2 = _i32(z1 - _i32(a6 * _i32(15137)))
    t3 = _i32(z1 + _i32(a2 * _i32(6270)))
    t0 = _i32(_i32(a0 + a4) << _i32(13))
    t1 = _i32(_i32(a0 - a4) << _i32(13))
    e0, e3 = _i32(t0 + t3), _i32(t0 - t3)
    e1, e2 = _i32(t1 + t2), _i32(t1 - t2)
    z5 = _i32(_i32(_i32(a7 + a3) + _i32(a5 + a1)) * _i32(9633))
    z1 = _i32(_i32(a7 + a1) * _i32(-7373))
    z2 = _i32(_i32(a5 + a3) * _i32(-20995))
    z3 = _i32(_i32(_i32(a7 + a3) * _i32(-16069)) + z5)
    z4 = _i32(_i32(_i32(a5 + a1) * _i32(-3196)) + z5)
    o0 = _i32(_i32(a7 * _i32(2446)) + _i32(z1 + z3))
    o1 = _i32(_i32(a5 * _i32(16819)) + _i32(z2 + z4))
    o2 = _i32(_i32(a3 * _i32(25172)) + _i32(z2 + z3))
    o3 = _i32(_i32(a1 * _i32(12299)) + _i32(z1 + z4))
    return (
        _i32(e0 + o3),
        _i32(e1 + o2),
        _i32(e2 + o1),
        _i32(e3 + o0),
        _i32(e3 - o0),
        _i32(e2 - o1),
        _i32(e1 - o2),
        _i32(e0 - o3),
    )


@_compiled
def _inverse_dct(first, work):
    """Turns `_BLOCKS` blocks of coefficients into pixels and zeroes them.

    The loops over lanes are without branches and have a length that is known, so that
    LLVM makes SIMD code of them.
    """
    coefficients = work.coefficients[first : first + 64 * _BLOCKS]
    _transform_columns(coefficients, work)
    _transform_rows(work)
    coefficients[:] = 0


@_compiled
def _transform_columns(coefficients, work):
    """The first pass, over the columns of each block."""
    columns, n = work.columns, _BLOCKS
    for column in range(8):
        q0, q1, q2, q3, q4, q5, q6, q7 = (
            work.quantisation[column],
            work.quantisation[column + 8],
            work.quantisation[column + 16],
            work.quantisation[column + 24],
            work.quantisation[column + 32],
            work.quantisation[column + 40],
            work.quantisation[column + 48],
            work.quantisation[column + 56],
        )
        for lane in range(n):
            at = column * n + lane
            b0, b1, b2, b3, b4, b5, b6, b7 = _butterflies(
                _i32(coefficients[at] * q0),
                _i32(coefficients[at + 8 * n] * q1),
                _i32(coefficients[at + 16 * n] * q2),
                _i32(coefficients[at + 24 * n] * q3),
                _i32(coefficients[at + 32 * n] * q4),
                _i32(coefficients[at + 40 * n] * q5),
                _i32(coefficients[at + 48 * n] * q6),
                _i32(coefficients[at + 56 * n] * q7),
            )
            columns[at] = _rounded(b0)
            columns[at + 8 * n] = _rounded(b1)
            columns[at + 16 * n] = _rounded(b2)
            columns[at + 24 * n] = _rounded(b3)
            columns[at + 32 * n] = _rounded(b4)
            columns[at + 40 * n] = _rounded(b5)
            columns[at + 48 * n] = _rounded(b6)
            columns[at + 56 * n] = _rounded(b7)


@_compiled
def _transform_rows(work):
    """The second pass, over the rows of each block, to pixels."""
    columns, n = work.columns, _BLOCKS
    for row in range(8):
        for lane in range(n):
            at = row * 8 * n + lane
            b0, b1, b2, b3, b4, b5, b6, b7 = _butterflies(
                columns[at],
                columns[at + n],
                columns[at + 2 * n],
                columns[at + 3 * n],
                columns[at + 4 * n],
                columns[at + 5 * n],
                columns[at + 6 * n],
                columns[at + 7 * n],
            )
            work.pixels[row, lane] = (
                _pixel(b0)
                | (_pixel(b1) << _u64(8))
                | (_pixel(b2) << _u64(16))
                | (_pixel(b3) << _u64(24))
                | (_pixel(b4) << _u64(32))
                | (_pixel(b5) << _u64(40))
                | (_pixel(b6) << _u64(48))
                | (_pixel(b7) << _u64(56))
            )


@_inlined
def _rounded(value):
    """Takes the constants' 13 bits back after the first pass, less two."""
    return _i32(_i32(value + _i32(1 << 10)) >> _i32(11))


@_inlined
def _pixel(value):
    """Takes all 18 bits back, moves 0 to 128 and keeps to 0..255."""
    level = _i32(_i32(value + _i32((128 << 18) + (1 << 17))) >> _i32(18))
    return _u64(min(max(level, _i32(0)), _i32(255)))


@_inlined
def _advance(lane, position, index, block, work):
    """Decodes two symbols of a lane; returns position, coefficient, block that follow.

    57 bits always hold two. The second counts where the first did not end the block: a
    choice, not one more branch to guess (-2 us an image).
    """
    end = _u64(64)
    window = _window(work.bits, position)
    window, position, index = _coefficient(window, position, index, block, work)
    _, second_position, second_index = _coefficient(
        window, position, index, block, work
    )
    position = second_position if index < end else position
    index = second_index if index < end else index
    if index >= end:
        return _next_block(lane, position, index, block, work)
    return position, index, block


@_cached
def _decode(work):
    """Decodes images in lanes; see the module's docstring."""
    p0, i0, b0 = _begin(0, work)
    p1, i1, b1 = _begin(1, work)
    p2, i2, b2 = _begin(2, work)
    while work.queue[_ACTIVE] > 0:
        p0, i0, b0 = _advance(0, p0, i0, b0, work)
        p1, i1, b1 = _advance(1, p1, i1, b1, work)
        p2, i2, b2 = _advance(2, p2, i2, b2, work)
