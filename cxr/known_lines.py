"""Copies standard input to standard output without lines that TensorFlow starts with.

A program of its own, run by `startup`. It knows lines by their whole text; numbers,
dates and addresses vary. Whatever it does not know is passed on byte for byte.
"""

import os
import re

_BY_ABSL = rb"[IWE]0000 \d\d:\d\d:\d+\.\d+ +\d+ "
# TensorFlow 2.21 on a machine without a GPU driver.
_KNOWN = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\) is called are written "
    rb"to STDERR"
    rb"|" + _BY_ABSL + rb"port\.cc:\d+\] oneDNN custom operations are on\. You may see "
    rb"slightly different numerical results due to floating-point round-off errors "
    rb"from different computation orders\. To turn them off, set the environment "
    rb"variable `TF_ENABLE_ONEDNN_OPTS=0`\."
    rb"|" + _BY_ABSL + rb"cudart_stub\.cc:\d+\] Could not find cuda drivers on your "
    rb"machine, GPU will not be used\."
    rb"|"
    + _BY_ABSL
    + rb"cuda_platform\.cc:\d+\] failed call to cuInit: INTERNAL: CUDA "
    rb"error: Failed call to cuInit: [A-Z _]+ \(\d+\)"
)
_CHUNK_BYTES = 1 << 16  # 64 KiB: what a pipe holds


def is_known(line: bytes) -> bool:
    """Whether a line, without its end, is one of TensorFlow's start."""
    return _KNOWN.fullmatch(line) is not None


def copy(source: int, target: int) -> None:
    """Copies lines from one descriptor to another until the source ends.

    The last line may lack its end: a library that aborts leaves what it has.
    """
    rest = b""
    while chunk := os.read(source, _CHUNK_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        _write(target, b"".join(line + b"\n" for line in lines if not is_known(line)))
    _write(target, b"" if is_known(rest) else rest)


def _write(target: int, data: bytes) -> None:
    while data:
        data = data[os.write(target, data) :]


if __name__ == "__main__":
    copy(0, 1)
