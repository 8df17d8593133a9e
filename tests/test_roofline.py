import types

import pytest
import tensorflow as tf

from cxr.benchmark import roofline


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


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_the_product_is_in_what_the_layers_multiply(workload, precision, monkeypatch):
    """Also on a CPU, whose bfloat16 units have another peak than its float32 ones."""
    workload.accelerated, workload.devices.precision = False, precision
    monkeypatch.setattr(roofline, "_SIDE", 8)
    seen = []
    right = tf.linalg.matmul
    monkeypatch.setattr(
        tf.linalg, "matmul", lambda a, b: seen.append(a.dtype) or right(a, b)
    )
    product = roofline.cases(workload)[1]
    product.advance()
    assert seen == [tf.as_dtype(precision.removeprefix("mixed_"))]
