"""Holds what a benchmark measures: configuration, data, devices, training stage."""

import time
from typing import Any

import keras
import tensorflow as tf

from cxr import records
from cxr.benchmark.checks import CheckedBatches, ImageCheck
from cxr.config import TrainConfig
from cxr.input import augmenters
from cxr.training import builders, devices, models

SPLIT = "train"
# What must be equal for two runs to be comparable.
_SETTINGS = (
    "dataset",
    "model",
    "image_size",
    "head",
    "batch_size",
    "optimizer",
    "augmentation",
    "jit_compile",
    "fine_tune_from",
)
_SETTLE_EVERY = 8  # steps, where settling waits for an accelerator


class Workload:
    """A training that the benchmark takes apart, without a run folder.

    Args:
      config: the run's flags.
      record_set: a checked data set that fits them.
      stage: `first` or `last` of the training's stages.

    Attributes:
      devices: what the steps run on.
      stage: of training, that is measured.
      augment: as training augments.
      image_check: what batches are held against.
      source: the split as training opens it.
      opened_at: when it was opened, in `time.perf_counter` seconds.
    """

    def __init__(
        self, config: TrainConfig, record_set: records.RecordSet, *, stage: str = "last"
    ):
        self.config, self.record_set = config, record_set
        self.manifest = record_set.manifest
        self.devices = devices.setup(config)
        keras.config.set_dtype_policy(self.devices.precision)
        self.stage = builders.stages(config)[0 if stage == "first" else -1]
        self.augment = augmenters.build(config.augmentation, seed=config.seed)
        size = config.image_size
        self.image_check = ImageCheck(record_set, SPLIT, image_size=size)
        self.opened_at = time.perf_counter()
        self.source = builders.open_split(config, record_set, SPLIT, progress=False)

    @property
    def accelerated(self) -> bool:
        """A GPU computes, and none stands by while virtual devices do."""
        return bool(self.gpus)

    @property
    def gpus(self) -> list[str]:
        """Names of the GPUs that compute, as memory statistics know them."""
        return [f"GPU:{i}" for i in range(len(tf.config.list_logical_devices("GPU")))]

    def peak_device_mib(self) -> float | None:
        """Returns the most memory that this process had on any card; None without."""
        used = map(tf.config.experimental.get_memory_info, self.gpus)
        return max((memory["peak"] / 2**20 for memory in used), default=None)

    @property
    def steps_per_sample(self) -> int:
        """Steps between two looks at the clock."""
        return _SETTLE_EVERY if self.accelerated else 1

    @property
    def mode(self) -> str:
        """Which part of the network is trained, in words."""
        if self.config.model != models.BACKBONE:
            return "full"
        if self.stage.name == "head":
            return "frozen"
        first = self.config.fine_tune_from
        return "full" if first == "all" else f"from {first}"

    def training_batches(self, batch_size: int) -> CheckedBatches:
        """Returns batches as the training loop draws them."""
        batches = devices.iterate(
            self.source,
            self.source.training(batch_size, self.config.seed),
            strategy=self.devices.strategy,
        )
        return CheckedBatches(
            batches,
            self.image_check,
            self.image_check.check_images,
            epoch_images=self.source.n // batch_size * batch_size,
            strategy=self.devices.strategy,
        )

    def settings(self) -> dict[str, Any]:
        """Returns what must be equal for two runs to be comparable."""
        chosen = {name: getattr(self.config, name) for name in _SETTINGS}
        return chosen | {
            "device": ", ".join(self.devices.names),
            "precision": self.devices.precision,
            "replicas": self.devices.replicas,
            "cache": self.source.mode,
            "stage": self.stage.name,
            "films": self.source.n,
            "encoding": self.manifest.encoding,
            "stored_image_size": self.manifest.image_size,
            "data_fingerprint": self.manifest.fingerprint,
        }
