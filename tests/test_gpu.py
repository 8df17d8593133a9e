"""What only a GPU can show: python -m pytest -m gpu."""

import pytest
import tensorflow as tf

from cxr import train
from cxr.config import TrainConfig

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_training_and_what_it_publishes_compute_on_the_gpu(
    make_records, tmp_path, precision
):
    make_records({"train": 40, "validation": 12, "test": 8}, image_size=32)
    config = TrainConfig(
        data_dir=str(tmp_path / "data"),
        dataset="tiny",
        workdir=str(tmp_path / "run"),
        model="small_cnn",
        image_size=32,
        batch_size=8,
        epochs=2,
        augmentation="mild",
        precision=precision,
        progress=False,
    )
    assert tf.config.list_physical_devices("GPU"), "TensorFlow sees no GPU"
    tf.config.experimental.reset_memory_stats("GPU:0")
    before = tf.config.experimental.get_memory_info("GPU:0")["peak"]
    (run,) = train.train(config)
    assert tf.config.experimental.get_memory_info("GPU:0")["peak"] > before
    assert 0 <= run.info.threshold.value <= 1.1
