"""bench.md: every number in it is bench.json's, in its place."""

import re

import pytest

from cxr.benchmark import report
from cxr.benchmark.regression import Change

DOCUMENT = {
    "config": {
        "model": "cnn",
        "image_size": 160,
        "batch_size": 32,
        "precision": "float32",
        "dataset": "tiny",
    },
    "verdict": "input-bound: decode limits",
    "bottleneck": {"bound": "input", "rung": "decode"},
    "stages": [
        {
            "name": "decode",
            "what": "+ decoded",
            "images_per_sec": {"median": 3_900.6, "min": 3_500.2, "max": 4_100.1},
            "step_ms": {"p50": 8.214, "p90": 9.1, "p99": 12.06},
            "aa_difference": 0.034,
            "cores_busy": 1.96,
            "roofline": {"limit": "bare decode x 2 cores", "reached": 0.87},
        },
        {
            "name": "step",
            "what": "forward",
            "images_per_sec": {"median": 5_694, "min": 5_500, "max": 5_700},
            "step_ms": {"p50": 5.6, "p90": 5.7, "p99": 5.8},
            "aa_difference": None,
            "cores_busy": 0.5,
            "roofline": None,
        },
    ],
    "sweep": [
        {"batch_size": 16, "step": 5_000.4, "train": 2_200.4},
        {"batch_size": 512, "step": None, "train": None},
    ],
    "time_to_first_batch_s": 0.346,
    "peak_rss_mb": 1_234.4,
    "peak_device_mb": 13_579.6,
    "pixel_checksum": "0a1b2c3d",
    "input_wait_share": 0.4567,
    "mfu": {
        "value": 1.234e9 * 5_694 / 21.9e12,
        "flops_per_image": 1.234e9,
        "mode": "all layers",
        "images_per_sec": 5_694,
        "peak_flops": 21.9e12,
        "peak_from": "float32 matrix product in this run",
        "vendor_peak_flops": 60e12,
    },
    "environment": {
        "device": "CPU",
        "processor": "A",
        "cores": 2,
        "memory_gib": 7.75,
        "python": "3.11",
        "packages": {"numpy": "2.0"},
        "load": 0.25,
    },
    "method": "as told",
}


def rows(text: str) -> list[list[str]]:
    """Cells of every line of every table."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_tables_hold_the_documents_numbers():
    changes = [
        Change("decode", 0.66, 0.2),
        Change("step", 1.04, 0.15),
        Change("train", 1.5, 0.1),
    ]
    text = report.markdown(DOCUMENT, changes)
    found = {row[0]: row[1:] for row in rows(text)}
    share = "87% of bare decode x 2 cores"
    assert found["decode **<-**"] == [
        *("3,901", "3,500 - 4,100", "3%", "8.21 / 9.1 / 12.1", "2.0", share)
    ]
    assert found["16"] == ["5,000", "2,200"]
    assert found["512"] == ["out of memory", "out of memory"]
    assert found["decode"] == ["-34%", "20%", "**slower**"]
    assert found["step"] == ["+4%", "15%", "same"]
    assert found["train"] == ["+50%", "10%", "faster"]
    steps = [row for row in rows(text) if row[0] == "step"]
    expected = ["5,694", "5,500 - 5,700", "-", "5.6 / 5.7 / 5.8", "0.5", "-"]
    assert steps[0][1:] == expected


def test_the_facts_hold_the_documents_numbers():
    text = report.markdown(DOCUMENT)
    assert "cnn at 160 px, batch 32, float32, tiny" in text
    assert "first batch 0.35 s; peak memory 1,234 MiB, of the GPU 13,580 MiB;" in text
    assert "CRC-32 of the first images 0a1b2c3d." in text
    assert "Training waited for input 45.7% of the time." in text
    assert (
        "MFU 32.1%: 1.23 GFLOP an image (all layers) x 5,694 images/s / 21,900 GFLOP/s "
        "(float32 matrix product in this run; the maker states 60 TFLOP/s)."
    ) in text
    assert "CPU; A, 2 cores, 7.8 GiB; Python 3.11, numpy 2.0; load 0.2 " in text
    # The product that is written out is the one that is meant.
    product = re.search(r"MFU ([\d.]+)%: ([\d.]+) .*? x ([\d,]+) .*?/ ([\d,]+) G", text)
    share, each, rate, peak = (float(n.replace(",", "")) for n in product.groups())
    assert share / 100 == pytest.approx(each * rate / peak, rel=0.01)


def test_what_was_not_measured_is_not_spoken_of():
    absent = dict.fromkeys(("mfu", "input_wait_share", "peak_device_mb"))
    bare = DOCUMENT | absent | {"sweep": []}
    text = report.markdown(bare)
    for absent in ("MFU", "waited", "GPU", "batch size", "baseline"):
        assert absent not in text
