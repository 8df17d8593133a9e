"""Fixtures shared by the suite, and two CPU devices for tests of mirrored training."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As our commands ask, before numpy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest

from tests.fabricated import write_records as write_records


def pytest_collection_finish(session):
    """Splits the CPU in two before a test touches it, where a test module needs it.

    Tests without TensorFlow do not wait for its import.
    """
    if "tensorflow" not in sys.modules:
        return
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, logical)


@pytest.fixture
def make_records(tmp_path):
    """Returns `write_records` bound to this test's folder."""

    def make(counts, **options):
        return write_records(tmp_path / "data", counts, **options)

    return make
