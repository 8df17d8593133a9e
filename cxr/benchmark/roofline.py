"""Measures what this machine can do at best: memory copy, matrix product, decode.

Measured in the same rounds as the cases, so that a case can be given as a share of
what was possible at that moment.
"""

import numpy as np
import tensorflow as tf

from cxr.benchmark.timing import Case
from cxr.benchmark.workload import Workload
from cxr.input.jpeg import decoder as jpeg

COPY, PRODUCT, BARE_DECODE = "memory copy", "matrix product", "bare decode"
UNITS = {
    COPY: "bytes",
    PRODUCT: "floating-point operations",
    BARE_DECODE: "films, one thread",
}
_COPY_BYTES = 32 << 20  # 32 MiB: beyond the caches that a core has to itself
_SIDE, _ACCELERATOR_SIDE = 1024, 8192  # of the matrices; 10 ms each, or so

_DECODED_IMAGES = 48  # enough for those decoded together

# Dense peaks in FLOP/s from the makers' data sheets: (16-bit matrix units with
# 32-bit accumulation, what TensorFlow runs float32 products in: TF32 since Ampere).
_VENDOR_PEAKS = {
    "H200": (989e12, 494e12),
    "H100 PCIe": (756e12, 378e12),
    "H100": (989e12, 494e12),
    "A100": (312e12, 156e12),
    "L40S": (362e12, 183e12),
    "L4": (121e12, 60e12),
    "A10G": (70e12, 35e12),
    "RTX 4090": (165e12, 83e12),
    "RTX 3090": (71e12, 36e12),
    "V100": (125e12, 16e12),
    "T4": (65e12, 8e12),
}


def vendor_peak(device_name: str, precision: str) -> float | None:
    """Returns the maker's figure in FLOP/s, None where the device is not known."""
    for name, (half, single) in _VENDOR_PEAKS.items():
        if name in device_name:
            return single if precision == "float32" else half
    return None


def cases(workload: Workload) -> list[Case]:
    """Returns what the cases of a workload are held against."""
    copy, product = _copy_case(), _product_case(workload)
    if workload.manifest.encoding == "raw":
        return [copy, product]
    return [copy, product, _bare_decode_case(workload)]


def _copy_case() -> Case:
    """Returns one thread copying memory; an item is a byte."""
    source = np.ones(_COPY_BYTES, np.uint8)
    target = np.zeros_like(source)

    def advance() -> int:
        np.copyto(target, source)
        return source.nbytes

    return Case(COPY, advance)


def _product_case(workload: Workload) -> Case:
    """Returns a square matrix product on the device; an item is an operation."""
    dtype = workload.devices.precision.removeprefix("mixed_")
    side = _ACCELERATOR_SIDE if workload.accelerated else _SIDE
    matrix = tf.cast(tf.random.stateless_normal([side, side], (0, 0)), dtype)
    newest: list[tf.Tensor] = [matrix]

    def advance() -> int:
        newest[0] = tf.linalg.matmul(matrix, matrix)
        return 2 * side**3

    def settle() -> None:
        newest[0][0, 0].numpy()

    return Case(PRODUCT, advance, settle)


def _bare_decode_case(workload: Workload) -> Case:
    """Returns one thread decoding verified images; an item is an image."""
    reader = workload.image_check.reader
    if reader.encoding == "jpeg":
        jpeg.prepare().join()  # as training does after some images
    indices = np.arange(min(_DECODED_IMAGES, reader.n))
    encoded = reader.encoded(indices)
    out = np.empty((len(encoded), *(reader.stored_size,) * 2), np.uint8)

    def advance() -> int:
        reader.decode(encoded, indices, out=out)
        return len(encoded)

    return Case(BARE_DECODE, advance)
