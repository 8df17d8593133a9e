"""Fixtures shared by the suite, and the devices that its tests see."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As our commands ask, before numpy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest

from tests.fabricated import write_records as write_records


def pytest_configure(config):
    """Hides GPUs, for equal numbers, unless `-m gpu` asks for the tests that need one.

    In the environment, so that commands that tests start see none either.
    """
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Shares the whole suite, but for what needs a GPU, between two processes.

    Named files stay in this one: they would wait for TensorFlow's import twice.
    """
    whole = config.args_source is config.ArgsSource.TESTPATHS
    return 2 if whole and config.option.markexpr != "gpu" else 0


def pytest_collection_modifyitems(config, items):
    """Leaves out what needs a GPU, unless `-m gpu` asks for it."""
    if config.option.markexpr != "gpu":
        out = [item for item in items if item.get_closest_marker("gpu")]
        items[:] = [item for item in items if item not in out]
        config.hook.pytest_deselected(items=out)


def pytest_collection_finish(session):
    """Shows tests two CPUs, for mirrored training, before a test touches a device.

    Tests without TensorFlow do not wait for its import.
    """
    if "tensorflow" not in sys.modules:
        return
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, logical)


@pytest.fixture(autouse=True)
def plain_precision():
    """Gives back Keras' precision, which a training sets for its whole process."""
    yield
    if "keras" in sys.modules:
        import keras

        keras.config.set_dtype_policy("float32")


@pytest.fixture
def make_records(tmp_path):
    """Returns `write_records` bound to this test's folder."""

    def make(counts, **options):
        return write_records(tmp_path / "data", counts, **options)

    return make
