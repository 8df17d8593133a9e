"""The makers' peaks: the right card by its name, the right figure by the precision."""

import pytest
import tensorflow as tf

from cxr.benchmark import vendor_peaks

NAMES = {  # as drivers tell them
    "Tesla T4": "T4",
    "Tesla V100-SXM2-16GB": "V100 SXM2",
    "Tesla V100-PCIE-32GB": "V100 PCIE",
    "NVIDIA A10": "A10",
    "NVIDIA A10G": "A10G",
    "NVIDIA A30": "A30",
    "NVIDIA A40": "A40",
    "NVIDIA A100-SXM4-40GB": "A100",
    "NVIDIA A100-PCIE-40GB": "A100",
    "NVIDIA A100 80GB PCIe": "A100",
    "NVIDIA L4": "L4",
    "NVIDIA L40": "L40",
    "NVIDIA L40S": "L40S",
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H100 PCIe": "H100 PCIE",
    "NVIDIA H100 NVL": "H100 NVL",
    "NVIDIA H200": "H200",
    "NVIDIA H200 NVL": "H200 NVL",
    "NVIDIA B200": "B200",
    "NVIDIA GeForce RTX 3090": "RTX 3090",
    "NVIDIA GeForce RTX 4090": "RTX 4090",
    "NVIDIA GeForce RTX 5090": "RTX 5090",
    "NVIDIA RTX A6000": "RTX A6000",
    "NVIDIA RTX 6000 Ada Generation": "RTX 6000 ADA",
}
OTHERS = (  # alike in name, not in what they compute
    "NVIDIA GeForce RTX 4090 Laptop GPU",
    "NVIDIA GeForce RTX 4090 D",
    "NVIDIA GeForce RTX 3090 Ti",
    "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
    "NVIDIA GH200 480GB",
    "Tesla V100-SXM3-32GB",
    "GRID T4-16Q",
    "NVIDIA T400",
    "NVIDIA A1000",
    "Quadro RTX 6000",
    "CPU with AMX",
    "",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_known_by_the_words_of_its_name(name, monkeypatch):
    cards = vendor_peaks._CARDS
    for table in (cards, dict(reversed(cards.items()))):
        monkeypatch.setattr(vendor_peaks, "_CARDS", table)
        assert vendor_peaks.find(name) is table[NAMES[name]]


def test_every_entry_is_some_card():
    assert set(NAMES.values()) == set(vendor_peaks._CARDS)


@pytest.mark.parametrize("name", OTHERS)
def test_another_card_is_not_taken_for_one_of_them(name):
    assert vendor_peaks.find(name) is None
    assert vendor_peaks.flops(name, "float32") is None


def test_no_peak_is_above_those_of_fewer_bits():
    for name, peaks in vendor_peaks._CARDS.items():
        assert peaks.float32 <= (peaks.tf32 or peaks.float32) <= peaks.float16, name
        assert peaks.bfloat16 in (None, peaks.float16), name
        assert (peaks.tf32 is None) == (peaks.bfloat16 is None), name  # before Ampere


@pytest.fixture
def tf32():
    yield tf.config.experimental.enable_tensor_float_32_execution
    tf.config.experimental.enable_tensor_float_32_execution(True)


@pytest.mark.parametrize(
    ("name", "precision", "with_tf32", "without"),
    [
        ("NVIDIA A100-SXM4-40GB", "float32", 156e12, 19.5e12),
        ("NVIDIA A100-SXM4-40GB", "mixed_bfloat16", 312e12, 312e12),
        ("NVIDIA H100 PCIe", "mixed_float16", 756e12, 756e12),
        ("Tesla T4", "float32", 8.1e12, 8.1e12),
        ("Tesla T4", "mixed_float16", 65e12, 65e12),
        ("Tesla T4", "mixed_bfloat16", None, None),
    ],
)
def test_float32_means_tf32_where_tensorflow_may_use_it(
    name, precision, with_tf32, without, tf32
):
    for allowed, peak in ((True, with_tf32), (False, without)):
        tf32(allowed)
        assert vendor_peaks.flops(name, precision) == peak
