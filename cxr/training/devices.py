"""Chooses strategy, precision and determinism for this machine's devices."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from cxr import cli, console, platforms
from cxr.config import TrainConfig
from cxr.input import orders

_BFLOAT16_CAPABILITY = (8, 0)  # Ampere: first NVIDIA GPUs with bfloat16 units
_FLOAT16_CAPABILITY = (7, 0)  # Volta: first with float16 tensor cores
_NOT_IN_THE_WHEEL = (10, 0)  # Blackwell: TensorFlow 2.21 has PTX alone for it
# On two cores of a Zen 5 VGG16 trains twice as fast by AVX512-BF16 as in float32, six
# times by AMX on a Xeon.
_FAST_CPU_UNITS = ("AMX", "AVX512-BF16")


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


def setup(
    config: TrainConfig,
    *,
    recorded: str | None = None,
    strategy: tf.distribute.Strategy | None = None,
) -> Devices:
    """Prepares devices as the configuration asks and seeds everything global.

    Args:
      config: the flags.
      recorded: the precision that the run has begun with, which `auto` keeps.
      strategy: of a cluster, where one has been joined.

    Raises:
      UsageError: the batch does not divide over the replicas.
      UnavailableError: fewer devices than asked for.
    """
    gpus = _use_gpus(config)
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    if strategy:
        names = tuple(map(_describe, gpus)) or (_describe_cpu(),)
    else:
        strategy, names = _strategy(config, gpus)
    replicas = strategy.num_replicas_in_sync
    if config.batch_size % replicas:
        raise cli.UsageError(
            f"--batch_size={config.batch_size} does not divide over {replicas} devices"
        )
    precision = config.precision
    if precision == "auto":
        precision = recorded or _best_precision(gpus)
    return Devices(strategy, precision, names)


def mirrored_cpus(names: tuple[str, ...]) -> tf.distribute.MirroredStrategy:
    """Returns a MirroredStrategy over virtual CPU devices.

    Without the CPU's collective kernels: each blocks a thread of the shared pool
    until its partners come, and on two cores they can wait for each other for ever.
    """
    return tf.distribute.MirroredStrategy(
        names, cross_device_ops=tf.distribute.ReductionToOneDevice()
    )


def iterate(
    source: Any,
    batches: tf.data.Dataset,
    *,
    strategy: tf.distribute.Strategy,
    in_graph: bool = False,
    share: orders.Share = orders.WHOLE,
) -> Iterator:
    """Iterates training batches the fastest way that the devices allow.

    Args:
      source: what `batches` come from; a `pipeline.ImageSource` has an iterator of its
        own, which spares 200 us a batch.
      batches: training batches.
      strategy: hands each replica its share.
      in_graph: a tf.data iterator is needed, to draw from inside a tf.function.
      share: what `batches` hold of each batch, where several workers train.
    """
    if share.workers > 1:
        local = strategy.num_replicas_in_sync // share.workers
        size = batches.element_spec[0].shape[0] // local
        # Else the workers would ask each other before each step who has a batch left.
        endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
        replica = batches.rebatch(size, drop_remainder=True).apply(endless)
        return iter(strategy.distribute_datasets_from_function(lambda _: replica))
    if strategy.num_replicas_in_sync > 1:  # it also copies to the devices ahead
        return iter(strategy.experimental_distribute_dataset(batches))
    if gpus := tf.config.list_logical_devices("GPU"):
        ahead = tf.data.experimental.prefetch_to_device(gpus[0].name)
        return iter(batches.apply(ahead))
    if in_graph or not hasattr(source, "batches"):
        return iter(batches)
    return source.batches(batches)


def training_devices(strategy: tf.distribute.Strategy) -> list[str]:
    """Returns the names of the devices that train here, in the replicas' order."""
    if strategy.num_replicas_in_sync > 1:
        return list(strategy.extended.worker_devices)
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return [tf.config.list_logical_devices(kind)[0].name]


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device or the host had no memory left, whatever TensorFlow calls it."""
    if isinstance(error, (tf.errors.ResourceExhaustedError, MemoryError)):
        return True
    words = ("out of memory", "OUT_OF_MEMORY", "ALLOC_FAILED", "failed to allocate")
    kinds = (tf.errors.InternalError, tf.errors.UnknownError, tf.errors.AbortedError)
    return isinstance(error, kinds) and any(word in str(error) for word in words)


def _use_gpus(config: TrainConfig) -> list[tf.config.PhysicalDevice]:
    """Returns the GPUs that train; the others stay free for other programs."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus and (reason := platforms.why_no_gpu()):
        console.warn(f"an NVIDIA driver is here, but TensorFlow sees no GPU: {reason}")
    used = gpus[: 1 if config.strategy == "none" else None]
    used = [] if config.virtual_devices else used
    with contextlib.suppress(RuntimeError):  # set by an earlier run of this process
        if used != gpus:
            tf.config.set_visible_devices(used, "GPU")
        for gpu in used:
            tf.config.experimental.set_memory_growth(gpu, True)
    if used and _capability(used[0]) >= _NOT_IN_THE_WHEEL:
        console.note(
            "this GPU is newer than TensorFlow's kernels: the first steps compile "
            "them, for minutes; later runs find them in the driver's cache"
        )
    return used


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
    names = (_describe(gpus[0]),) if gpus else (_describe_cpu(),)
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


def _best_precision(gpus: list) -> str:
    """Returns the fastest precision that these devices compute in hardware."""
    if not gpus:
        fast = platforms.bfloat16_unit() in _FAST_CPU_UNITS
        return "mixed_bfloat16" if fast else "float32"
    capability = _capability(gpus[0])
    if capability >= _BFLOAT16_CAPABILITY:
        return "mixed_bfloat16"
    return "mixed_float16" if capability >= _FLOAT16_CAPABILITY else "float32"


def _capability(gpu: tf.config.PhysicalDevice) -> tuple[int, int]:
    details = tf.config.experimental.get_device_details(gpu)
    return details.get("compute_capability", (0, 0))


def _describe_cpu() -> str:
    unit = platforms.bfloat16_unit()
    return f"CPU with {unit}" if unit else "CPU"


def _describe(gpu: tf.config.PhysicalDevice) -> str:
    details = tf.config.experimental.get_device_details(gpu)
    return details.get("device_name", gpu.name)
