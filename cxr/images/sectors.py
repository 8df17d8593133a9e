"""Finds sectors of a file that a disk or a broken copy left as zeros.

A lost sector is a run of zero bytes that begins and ends on a multiple of 512 bytes of
the file. Long runs of zeros also stand in sound files (black borders, a constant film
in a short code), but both their ends lie there only by a chance of 1 in 262,144.
"""

import bisect
import re
from collections.abc import Callable, Sequence

from cxr.reasons import BadImage

SECTOR = 512  # bytes; those of disks, and a divisor of every file system's blocks
# Bytes by which a run may be longer where eight pixels share a byte: single zeros are
# frequent there.
BILEVEL_SLACK = 16
_ZEROS = bytes(SECTOR)
_NOT_ZERO = re.compile(rb"[^\0]")

Natural = Callable[[int, int], bool]


def check_sectors(
    data: bytes, kind: str, natural: Natural | None = None, slack: int = 0
) -> None:
    """Refuses a file with a lost sector between other data.

    Args:
      data: the file's bytes.
      kind: of the file, for the message.
      natural: says of a run's begin and end in bytes whether the picture explains it.
      slack: bytes by which a run may be longer at either end, for files in which
        single zeros are frequent.

    Raises:
      BadImage: `corrupt`.
    """
    begin = data.find(_ZEROS)
    while begin >= 0:
        other = _NOT_ZERO.search(data, begin)
        end = other.start() if other else len(data)
        at_end = end == len(data) and natural
        aligned = -begin % SECTOR <= slack and (end % SECTOR <= slack or at_end)
        inside = begin > 0 and (end < len(data) or at_end)
        if aligned and inside and not (natural and natural(begin, end)):
            raise BadImage(
                "corrupt", f"{kind}: nothing but zeros in bytes {begin} to {end}"
            )
        begin = data.find(_ZEROS, end)


def natural_black(data: bytes, begins: Sequence[int], stride: int) -> Natural:
    """Explains runs of zeros by black parts of an uncompressed picture.

    Args:
      data: the file's bytes.
      begins: where its strips, tiles or all its samples begin in the file.
      stride: bytes of a row in each of them.

    Returns:
      Whether a run is whole rows, or goes on in the rows above or below; at the file's
      end, whether most of its first row is black above, too.
    """
    begins = sorted(begins)

    def natural(first: int, last: int) -> bool:
        part = bisect.bisect_right(begins, first)
        if not part:
            return False
        if (
            (first - begins[part - 1]) % stride
            == (last - begins[part - 1]) % stride
            == 0
        ):
            return True
        if last == len(data):
            rest = stride - (first - begins[part - 1]) % stride
            above = data[max(first - stride, 0) : max(first - stride + rest, 0)]
            return 2 * above.count(0) >= len(above)
        step = -(-(last - first) // stride) * stride
        above = data[max(first - step, 0) : max(last - step, 0)]
        below = data[first + step : last + step]
        return any(len(part) and not part.strip(b"\0") for part in (above, below))

    return natural
