"""cxr.input.on_device: images that lie on the devices train like images in memory."""

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import survival
from cxr import cli, records, train
from cxr.config import TrainConfig
from cxr.input import on_device, orders, pipeline
from cxr.training import trainer
from tests.fabricated import write_records


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("on_device") / "data"
    write_records(root, {"train": 40, "validation": 12}, image_size=33)
    return root


def opened(data, image_size, cache):
    record_set = records.find(data, "tiny")
    return pipeline.open_split(
        record_set, "train", image_size=image_size, cache=cache, progress=False
    )


@pytest.mark.parametrize("image_size", [32, 33])  # 33 x 33 fill no whole words
@pytest.mark.parametrize("share", [orders.WHOLE, orders.Share(1, 2)])
def test_batches_are_those_of_a_split_in_memory(data, image_size, share):
    there = on_device.OnDevice(opened(data, image_size, "device"), ["CPU:0"])
    here = opened(data, image_size, "ram")
    batches = [
        list(source.training(8, 3, start_step=4, share=share).take(4))
        for source in (there, here)
    ]
    for (carried, labels, indices), wanted in zip(*batches, strict=True):
        found = (there.images(carried), labels, indices)
        for a, b in zip(found, wanted, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def run(data, workdir, **changes):
    options = {
        "dataset": "tiny",
        "model": "small_cnn",
        "image_size": 32,
        "batch_size": 8,
        "epochs": 2,
        "augmentation": "mild",
        "progress": False,
        "tensorboard": False,
        "early_stopping_patience": 0,
    }
    return TrainConfig(data_dir=str(data), workdir=str(workdir), **options | changes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags", [{"tensorboard": True}, {"virtual_devices": 2}, {"steps_per_execution": 3}]
)
def test_training_equals_training_from_memory(data, tmp_path, flags):
    for cache in ("ram", "device"):
        train.train(run(data, tmp_path / cache, cache=cache, **flags))
    assert survival.result(tmp_path / "device") == survival.result(tmp_path / "ram")


@pytest.mark.slow
def test_a_bad_number_names_the_films_of_its_step(data, tmp_path):
    words = []
    for cache in ("ram", "device"):
        with pytest.raises(trainer.Diverged) as found:
            train.train(
                run(data, tmp_path / cache, cache=cache, learning_rate=1e30, epochs=9)
            )
        words.append(str(found.value).split("images of that step")[1])
    assert words[0] == words[1]


def test_a_device_that_is_full_is_told(data, monkeypatch):
    def full(value):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM")

    source = opened(data, 32, "device")
    monkeypatch.setattr(tf, "constant", full)
    with pytest.raises(cli.UnavailableError, match="use --cache=ram"):
        on_device.OnDevice(source, ["CPU:0"])
