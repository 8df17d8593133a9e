"""Counts the samples that LZW, PackBits and run-length codes stand for.

These codes have no checksum, and their decoders stop when the picture is full. A count
that must be the picture's own finds nearly every change of the codes.
"""

import functools

import numpy as np

import cxr.images.limits as limits
from cxr.reasons import BadImage

MAX_CODES = 20_000_000  # of LZW: a film of 7 million pixels has about 5 million
MAX_RUNS = 3_000_000  # of PackBits
_RESTART_CODES = 1_000  # cost as much time as a restart of LZW's table, 30 us
_TABLE = 4096  # entries of an LZW table, GIF's and TIFF's
_BLOCK = 1 << 16  # codes looked up at once


def lzw_budget() -> limits.Budget:
    """Returns what the LZW codes of one file may cost."""
    what = f"LZW codes, {_RESTART_CODES} for each restart"
    return limits.Budget(MAX_CODES, what)


def packbits_budget() -> limits.Budget:
    """Returns what the PackBits runs of one file may cost."""
    return limits.Budget(MAX_RUNS, "PackBits runs")


def lzw_length(
    data: bytes,
    budget: limits.Budget,
    *,
    symbol_bits: int = 8,
    gif: bool = False,
) -> int:
    """Returns how many samples LZW codes stand for, up to their end mark.

    By TIFF 6.0, section 13, or GIF89a, appendix F: GIF's codes begin at the lowest bit
    and become longer one code later. Strings are not built: the length of a string is
    that of the one it extends plus one.

    Args:
      data: the codes.
      budget: of `lzw_budget`.
      symbol_bits: of a sample.
      gif: GIF's order of bits and moment of longer codes, instead of TIFF's.

    Raises:
      BadImage: `corrupt` for a code not yet in the table, `too_complex` beyond
        the budget.
    """
    reader = _Codes(data, symbol_bits, gif)
    total = at = 0
    while True:
        length, codes, at, ended = reader.until_restart(at)
        total += length
        if ended:
            return total
        budget.spend(codes + _RESTART_CODES)


class _Codes:
    """Reads LZW codes of growing length from bytes."""

    def __init__(self, data: bytes, symbol_bits: int, gif: bool):
        self._bytes = np.frombuffer(data + bytes(3), np.uint8)
        self._bits = 8 * len(data)
        self._gif = gif
        self._clear = 1 << symbol_bits
        self._widths, self._starts = _schedule(symbol_bits, gif)
        self._guess = 512

    def until_restart(self, at: int) -> tuple[int, int, int, bool]:
        """Reads from bit `at` to the next restart, the end mark or the data's end.

        Returns:
          Samples, codes, the bit behind them and whether the data end there.
        """
        codes, at, stop = self._growing(at)
        lengths = self._lengths(codes)
        total, count = int(lengths.sum()), len(codes)
        if stop is None and count == len(self._widths):  # the table is full
            table = np.ones(_TABLE, np.int32)
            table[self._clear + 2 :] = lengths[: _TABLE - self._clear - 2] + 1
            block = 64  # most encoders restart at once
            while stop is None and at + 12 <= self._bits and count <= MAX_CODES:
                codes, at, stop = self._read(at, np.full(block, 12), None)
                block = min(4 * block, _BLOCK)
                total, count = total + int(table[codes].sum()), count + len(codes)
        over = stop == self._clear + 1 or (stop is None and at + 12 > self._bits)
        return total, count + 1, at, over or stop is None

    def _growing(self, at: int) -> tuple[np.ndarray, int, int | None]:
        """Reads codes while the table grows, no more at a time than is likely."""
        while True:
            number = min(self._guess, len(self._widths))
            widths, starts = self._widths[:number], self._starts[:number]
            codes, end, stop = self._read(at, widths, starts)
            if stop is not None or len(codes) < number or number == len(self._widths):
                self._guess = max(256, 2 * len(codes))
                return codes, end, stop
            self._guess *= 8

    def _read(
        self, at: int, widths: np.ndarray, starts: np.ndarray | None
    ) -> tuple[np.ndarray, int, int | None]:
        """Returns codes, the bit behind them, and the special code that ended them."""
        if starts is None:
            starts = np.arange(len(widths)) * 12
        begins = starts + at
        number = int(np.searchsorted(begins + widths, self._bits, side="right"))
        begins, widths = begins[:number], widths[:number]
        first = begins >> 3
        parts = [self._bytes[first + i].astype(np.int32) for i in range(3)]
        if self._gif:
            word = parts[0] | parts[1] << 8 | parts[2] << 16
            codes = word >> (begins & 7)
        else:
            word = parts[0] << 16 | parts[1] << 8 | parts[2]
            codes = word >> (24 - (begins & 7) - widths)
        codes &= (1 << widths) - 1
        special = np.flatnonzero((codes == self._clear) | (codes == self._clear + 1))
        if len(special):
            stop = int(special[0])
            end = int(begins[stop] + widths[stop])
            return codes[:stop], end, int(codes[stop])
        end = int(begins[-1] + widths[-1]) if number else at
        return codes, end, None

    def _lengths(self, codes: np.ndarray) -> np.ndarray:
        """Returns the length of the string that each code stands for.

        Entry j of the table is the string of code j and one sample more, so a code is
        a chain of earlier codes; chains are followed by doubling steps.
        """
        parents = np.where(codes < self._clear, -1, codes - self._clear - 2)
        if (parents >= np.arange(len(codes))).any():
            raise BadImage("corrupt", "LZW: a code that is not yet in the table")
        lengths = np.ones(len(codes), np.int32)
        open_ = np.flatnonzero(parents >= 0)
        while len(open_):
            to = parents[open_]
            lengths[open_] += lengths[to]
            parents[open_] = parents[to]
            open_ = open_[parents[open_] >= 0]
        return lengths


@functools.cache
def _schedule(symbol_bits: int, gif: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns the bits of each code after a restart until the table is full.

    Returns:
      Their widths and the bits before each.
    """
    first = (1 << symbol_bits) + 2
    free = first + np.maximum(np.arange(_TABLE - first + 1) - 1, 0)
    limit = free + (0 if gif else 1)  # the entry that no longer fits
    widths = np.clip(np.ceil(np.log2(limit + 1)).astype(int), symbol_bits + 1, 12)
    return widths, np.cumsum(widths) - widths


def packbits_rows(data: bytes, row_bytes: int, budget: limits.Budget) -> int:
    """Returns how many rows PackBits holds.

    By TIFF 6.0, section 9: each row is packed by itself.

    Args:
      data: the codes of a strip or tile.
      row_bytes: of an unpacked row.
      budget: of `packbits_budget`.

    Raises:
      BadImage: `corrupt` where a run does not end with its row or the data,
        `too_complex` beyond the budget.
    """
    at = rows = filled = runs = 0
    end = len(data) - 1  # of the last byte; alone it is a writer's padding
    while at < end:
        code = data[at]
        if code == 128:  # nothing, says the specification
            at += 1
            continue
        filled += code + 1 if code < 128 else 257 - code
        at += code + 2 if code < 128 else 2
        runs += 1
        if filled == row_bytes:
            rows, filled = rows + 1, 0
        elif filled > row_bytes or runs > MAX_RUNS:
            break
    budget.spend(runs)
    if filled or at > len(data):
        raise BadImage("corrupt", f"PackBits: row {rows} does not fill its width")
    return rows
