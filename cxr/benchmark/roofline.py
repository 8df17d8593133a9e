"""Measures what this machine can do at best: memory copy, matrix product, decode.

Measured in the same rounds as the cases, so that a case can be given as a share of
what was possible at that moment.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from cxr.benchmark.timing import Case
from cxr.benchmark.workload import Workload
from cxr.input.jpeg import decoder as jpeg

COPY, DEVICE_COPY = "memory copy", "device copy"
PRODUCT, BARE_DECODE = "matrix product", "bare decode"
UNITS = {
    COPY: "bytes",
    DEVICE_COPY: "bytes",
    PRODUCT: "floating-point operations",
    BARE_DECODE: "films, one thread",
}
_COPY_BYTES = 32 << 20  # 32 MiB: beyond the caches that a core has to itself
_DEVICE_COPY_BYTES = 256 << 20  # 256 MiB: beyond the caches of any GPU
_SIDE, _ACCELERATOR_SIDE = 1024, 8192  # of the matrices; 10 ms each, or so
_DECODED_IMAGES = 48  # enough for those decoded together


def cases(workload: Workload) -> list[Case]:
    """Returns what the cases of a workload are held against."""
    cases = [_copy_case(), _product_case(workload)]
    if workload.accelerated:
        cases.append(_device_copy_case(workload))
    if workload.manifest.encoding != "raw":
        cases.append(_bare_decode_case(workload))
    return cases


def product_dtype(workload: Workload) -> str:
    """Returns what the layers multiply, on a CPU as on a GPU: such as `bfloat16`."""
    return workload.devices.precision.removeprefix("mixed_")


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
    dtype = product_dtype(workload)
    side = _ACCELERATOR_SIDE if workload.accelerated else _SIDE
    matrix = tf.cast(tf.random.stateless_normal([side, side], (0, 0)), dtype)
    return _device_case(
        PRODUCT, lambda: tf.linalg.matmul(matrix, matrix), 2 * side**3, workload
    )


def _device_copy_case(workload: Workload) -> Case:
    """Returns an accelerator copying its memory; an item is a byte.

    By an addition, which reads and writes every value once: `tf.identity` copies none.
    """
    source = tf.zeros(_DEVICE_COPY_BYTES // 4)  # float32
    return _device_case(DEVICE_COPY, lambda: source + 1, _DEVICE_COPY_BYTES, workload)


def _device_case(
    name: str, run: Callable[[], tf.Tensor], items: int, workload: Workload
) -> Case:
    newest: list[tf.Tensor] = []

    def advance() -> int:
        newest[:] = [run()]
        return items

    def settle() -> None:
        tf.reshape(newest[0], [-1])[0].numpy()

    return Case(name, advance, settle, steps_per_sample=workload.steps_per_sample)


def _bare_decode_case(workload: Workload) -> Case:
    """Returns one thread decoding verified images; an item is an image."""
    reader = workload.image_check.reader
    if reader.encoding == "jpeg" and jpeg.available():
        jpeg.prepare().join()  # as training does after some images
    indices = np.arange(min(_DECODED_IMAGES, reader.n))
    encoded = reader.encoded(indices)
    out = np.empty((len(encoded), *(reader.stored_size,) * 2), np.uint8)

    def advance() -> int:
        reader.decode(encoded, indices, out=out)
        return len(encoded)

    return Case(BARE_DECODE, advance)
