import types

import pytest

from cxr.benchmark import roofline


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA A10", None),
        ("NVIDIA L40", None),
        ("Quadro T400", None),
        ("CPU", None),
    ],
)
def test_a_device_is_known_by_whole_words_the_longest_name_first(
    device, peak, monkeypatch
):
    upside_down = dict(reversed(roofline._VENDOR_PEAKS.items()))
    for table in (roofline._VENDOR_PEAKS, upside_down):
        monkeypatch.setattr(roofline, "_VENDOR_PEAKS", table)
        assert roofline.vendor_peak(device, "mixed_bfloat16") == peak


@pytest.fixture
def workload(monkeypatch):
    monkeypatch.setattr(roofline, "_ACCELERATOR_SIDE", 8)
    monkeypatch.setattr(roofline, "_DEVICE_COPY_BYTES", 4096)
    return types.SimpleNamespace(
        accelerated=True,
        steps_per_sample=8,
        manifest=types.SimpleNamespace(encoding="raw"),
        devices=types.SimpleNamespace(precision="mixed_bfloat16"),
    )


def test_an_accelerator_copies_and_multiplies_several_times_a_sample(workload):
    cases = {case.name: case for case in roofline.cases(workload)}
    assert set(cases) == {"memory copy", "matrix product", "device copy"}
    assert cases["memory copy"].steps_per_sample == 1  # the host waits for itself
    assert cases["matrix product"].steps_per_sample == 8
    assert cases["device copy"].steps_per_sample == 8
    assert cases["matrix product"].advance() == 2 * 8**3
    assert cases["device copy"].advance() == 4096
    cases["device copy"].settle()


def test_the_host_is_its_own_device(workload):
    workload.accelerated, workload.steps_per_sample = False, 1
    names = [case.name for case in roofline.cases(workload)]
    assert names == ["memory copy", "matrix product"]
