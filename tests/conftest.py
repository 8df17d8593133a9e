"""Fixtures shared by the suite, and the devices that its tests see."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As our commands ask, before numpy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest

from tests.fabricated import write_records as write_records


def pytest_collection_finish(session):
    """Shows tests two CPUs, for mirrored training, and no GPU, for equal numbers.

    Before a test touches a device. Tests without TensorFlow do not wait for its import.
    With `-m gpu` the GPUs are there.
    """
    if "tensorflow" not in sys.modules:
        return
    import tensorflow as tf

    if session.config.option.markexpr != "gpu":
        tf.config.set_visible_devices([], "GPU")
    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, logical)


@pytest.fixture
def make_records(tmp_path):
    """Returns `write_records` bound to this test's folder."""

    def make(counts, **options):
        return write_records(tmp_path / "data", counts, **options)

    return make
