"""Looks up what a GPU's maker says that it computes at best, by the device's name."""

import re
from typing import NamedTuple

import tensorflow as tf


class Peaks(NamedTuple):
    """Dense peaks in TFLOP/s, None for what a card has no units for.

    Attributes:
      float32: of the plain units.
      tf32: of the matrix units on float32, since Ampere.
      float16: of the matrix units, sums in float32, as TensorFlow asks.
      bfloat16: of the same.
    """

    float32: float
    tf32: float | None
    float16: float
    bfloat16: float | None


# From the makers' data sheets and architecture papers, without sparsity. A card is
# known by the words of its name; the entry of most words counts.
_CARDS = {
    "T4": Peaks(8.1, None, 65, None),
    "V100 PCIE": Peaks(14, None, 112, None),
    "V100 SXM2": Peaks(15.7, None, 125, None),
    "A10": Peaks(31.2, 62.5, 125, 125),
    "A10G": Peaks(35, 35, 70, 70),
    "A30": Peaks(10.3, 82, 165, 165),
    "A40": Peaks(37.4, 74.8, 149.7, 149.7),
    "A100": Peaks(19.5, 156, 312, 312),  # 40 and 80 GB, PCIe and SXM alike
    "L4": Peaks(30.3, 60, 121, 121),
    "L40": Peaks(90.5, 90.5, 181, 181),
    "L40S": Peaks(91.6, 183, 362, 362),
    "H100": Peaks(67, 494, 989, 989),  # SXM, whose name says HBM3 or nothing
    "H100 PCIE": Peaks(51, 378, 756, 756),
    "H100 NVL": Peaks(60, 417, 835, 835),
    "H200": Peaks(67, 494, 989, 989),
    "H200 NVL": Peaks(60, 417, 835, 835),
    "B200": Peaks(75, 1100, 2250, 2250),
    "RTX 3090": Peaks(35.6, 35.6, 71, 71),
    "RTX 4090": Peaks(82.6, 82.6, 165.2, 165.2),
    "RTX 5090": Peaks(104.8, 104.8, 209.5, 209.5),
    "RTX A6000": Peaks(38.7, 77.4, 154.8, 154.8),
    "RTX 6000 ADA": Peaks(91.1, 182.1, 364.2, 364.2),
}
# What a name may say beside that and still mean the whole card. Any other word makes
# another card of it: "Laptop GPU", "Ti", "D", or a slice, as "MIG 1g.10gb".
_NEUTRAL = re.compile(r"NVIDIA|TESLA|GEFORCE|GENERATION|PCIE|SXM\d?|HBM\d\w?|\d+GB")


def find(device_name: str) -> Peaks | None:
    """Returns the peaks of a device, None where it is not known."""
    words = set(re.findall(r"[\w.]+", device_name.upper()))
    fitting = [name for name in _CARDS if _fits(set(name.split()), words)]
    return _CARDS[max(fitting, key=len)] if fitting else None


def _fits(card: set[str], words: set[str]) -> bool:
    return card <= words and all(map(_NEUTRAL.fullmatch, words - card))


def flops(device_name: str, precision: str) -> float | None:
    """Returns the maker's figure in FLOP/s for how this process multiplies.

    Args:
      device_name: as TensorFlow tells it, such as `NVIDIA A100-SXM4-40GB`.
      precision: Keras dtype policy. float32 means TF32 where TensorFlow may use that.

    Returns:
      None where the device, or its peak in that precision, is not known.
    """
    if not (peaks := find(device_name)):
        return None
    dtype = precision.removeprefix("mixed_")
    tf32 = tf.config.experimental.tensor_float_32_execution_enabled()
    if dtype == "float32" and tf32 and peaks.tf32:
        dtype = "tf32"
    found = getattr(peaks, dtype)
    return found * 1e12 if found else None
