"""What the run computes on: strategy, precision, determinism, and a banner line."""

import contextlib
import dataclasses

import keras
import tensorflow as tf

from cxr import cli
from cxr.config import TrainConfig

_BFLOAT16_CAPABILITY = (8, 0)  # Ampere: first NVIDIA GPUs with bfloat16 units
_FLOAT16_CAPABILITY = (7, 0)  # Volta: first with float16 tensor cores


@dataclasses.dataclass(frozen=True)
class Devices:
    """Where and how a run computes.

    Attributes:
      strategy: distributes the step; TensorFlow's default one for one device.
      precision: Keras dtype policy, such as `mixed_bfloat16`.
      names: the devices' names, for people.
    """

    strategy: tf.distribute.Strategy
    precision: str
    names: tuple[str, ...]

    @property
    def replicas(self) -> int:
        """Copies of the model that train in step."""
        return self.strategy.num_replicas_in_sync


def setup(config: TrainConfig) -> Devices:
    """Prepares devices as the configuration asks and seeds everything global.

    Raises:
      UsageError: the batch does not divide over the replicas.
      UnavailableError: fewer devices than asked for.
    """
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        _grow_memory(gpu)
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    strategy, names = _strategy(config, gpus)
    replicas = strategy.num_replicas_in_sync
    if config.batch_size % replicas:
        raise cli.UsageError(
            f"--batch_size={config.batch_size} does not divide over {replicas} devices"
        )
    precision = _precision(config.precision, gpus)
    return Devices(strategy, precision, names)


def mirrored_cpus(names: tuple[str, ...]) -> tf.distribute.MirroredStrategy:
    """Returns a MirroredStrategy over virtual CPU devices.

    Without the CPU's collective kernels: each blocks a thread of the shared pool
    until its partners come, and on two cores they can wait for each other for ever.
    """
    return tf.distribute.MirroredStrategy(
        names, cross_device_ops=tf.distribute.ReductionToOneDevice()
    )


def prefetch(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Hides the copy to a single GPU behind the step; strategies do it themselves."""
    gpus = tf.config.list_logical_devices("GPU")
    if len(gpus) == 1 and not tf.distribute.has_strategy():
        return dataset.apply(tf.data.experimental.prefetch_to_device(gpus[0].name))
    return dataset


def _grow_memory(gpu: tf.config.PhysicalDevice) -> None:
    with contextlib.suppress(RuntimeError):  # set by an earlier run of this process
        tf.config.experimental.set_memory_growth(gpu, True)


def _strategy(
    config: TrainConfig, gpus: list
) -> tuple[tf.distribute.Strategy, tuple[str, ...]]:
    if config.virtual_devices:
        names = _virtual_cpus(config.virtual_devices)
        if config.strategy == "none" or len(names) == 1:
            return tf.distribute.get_strategy(), names[:1]
        return mirrored_cpus(names), names
    if config.strategy == "mirrored" and not gpus:
        raise cli.UnavailableError(
            "--strategy=mirrored: no GPU found; use --strategy=none, or "
            "--virtual_devices=2 to try it on the CPU"
        )
    if (len(gpus) > 1 and config.strategy != "none") or config.strategy == "mirrored":
        return tf.distribute.MirroredStrategy(), tuple(map(_describe, gpus))
    names = (_describe(gpus[0]),) if gpus else ("CPU",)
    return tf.distribute.get_strategy(), names


def _virtual_cpus(count: int) -> tuple[str, ...]:
    cpu = tf.config.list_physical_devices("CPU")[0]
    with contextlib.suppress(RuntimeError):  # devices exist already: are they enough?
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * count
        )
    logical = tf.config.list_logical_devices("CPU")
    if len(logical) < count:
        raise cli.UnavailableError(
            f"--virtual_devices={count}: this process already runs on {len(logical)}"
        )
    return tuple(device.name for device in logical[:count])


def _precision(asked: str, gpus: list) -> str:
    if asked != "auto":
        return asked
    if not gpus:
        return "float32"
    details = tf.config.experimental.get_device_details(gpus[0])
    capability = details.get("compute_capability", (0, 0))
    if capability >= _BFLOAT16_CAPABILITY:
        return "mixed_bfloat16"
    return "mixed_float16" if capability >= _FLOAT16_CAPABILITY else "float32"


def _describe(gpu: tf.config.PhysicalDevice) -> str:
    details = tf.config.experimental.get_device_details(gpu)
    return details.get("device_name", gpu.name)
