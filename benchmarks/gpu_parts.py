"""What `gpu_acceptance` measures inside of one process: cards, placement, speed."""

import collections
import contextlib
import dataclasses
import functools
import gc
import json
import re
import statistics
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context

import cxr
from benchmarks.gpu_acceptance import Row, Settings, Skip, attempt
from cxr import environment, platforms, records
from cxr.benchmark import compute_cases, result, runner, timing, vendor_peaks
from cxr.benchmark.workload import Workload
from cxr.config import TrainConfig
from cxr.training import devices

_AMPERE = (8, 0)  # compute capability: the first with TF32 and bfloat16
_REPEATS = 3
# They compute nothing: constants, arguments, copies between devices, control flow.
_PLUMBING = re.compile(
    r"_Arg|_Retval|_?(Host)?(Send|Recv)|_?(Eager)?Const|NoOp|(Ref)?(Identity|Switch|Merge)N?"
    r"|(Placeholder|Var|ReadVariable|Resource)\w*|_DeviceArg|_DeviceRetval"
)


# --- the machine


def machine(settings: Settings) -> Iterator[Row]:
    """Yields what a report must say of cards, driver and software."""
    cards = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(card) for card in cards]
    if not cards:
        _halve_cpu()
    if platforms.has_gpu_driver() and not cards:
        why = platforms.why_no_gpu() or "CUDA_VISIBLE_DEVICES hides them"
        yield Row("cards", f"a driver, but TensorFlow sees no GPU: {why}", "FAILED")
    for index, card in enumerate(details):
        name, capability = card.get("device_name"), card.get("compute_capability")
        words = f"{name}, compute capability {'.'.join(map(str, capability or '?'))}"
        yield Row(f"card {index}", words, values=_plain(card))
    words = f"TensorFlow sees {len(cards)} GPUs"
    yield Row("cards", words, values={"gpus": len(cards)})
    yield attempt("driver", _driver)
    yield attempt("versions", _versions)


def _halve_cpu() -> None:
    """Makes two devices of the CPU, for mirrored training without a card."""
    halves = [tf.config.LogicalDeviceConfiguration()] * 2
    with contextlib.suppress(RuntimeError):  # somebody has used it already
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, halves)


def _driver() -> Row:
    asked = "driver_version,memory.total,memory.used,power.limit,clocks.max.sm"
    if not platforms.has_gpu_driver():
        raise Skip("no driver of NVIDIA's is loaded")
    found = _nvidia_smi(asked)
    return Row("driver", "; ".join(found), values={asked: found})


def _nvidia_smi(asked: str) -> list[str]:
    """Returns what the driver says of each card."""
    command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=20)
    if found.returncode:
        raise OSError(f"nvidia-smi: {(found.stdout + found.stderr).strip()}")
    return found.stdout.strip().splitlines()


def _versions() -> Row:
    software = result.environment(devices.Devices(None, "", ()), 0.0)
    build = tf.sysconfig.get_build_info()
    software |= {
        "cxr": cxr.__version__,
        "commit": environment.git_commit(),
        **{name: build.get(name) for name in ("cuda_version", "cudnn_version")},
    }
    del software["device"], software["load"]
    packages = ", ".join(f"{k} {v}" for k, v in software["packages"].items())
    words = (
        f"cxr {software['cxr']} ({software['commit']}), Python {software['python']}, "
        f"{packages}, CUDA {software['cuda_version']}, cuDNN "
        f"{software['cudnn_version']}; {software['processor']}, {software['cores']} "
        f"cores, {software['memory_gib']:.1f} GiB"
    )
    return Row("versions", words, values=_plain(software))


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(values, default=str))


# --- what is measured


def workload(settings: Settings, batch_size: int, **options: Any) -> Workload:
    """Returns a network's full training on noise; prepares this process' devices."""
    gc.collect()  # an earlier one's memory is not counted
    config = TrainConfig(
        **{
            "data_dir": settings.scratch,
            "dataset": "noise",
            "model": settings.model,
            "fine_tune_epochs": int(options.get("model", settings.model) == "vgg16"),
            "fine_tune_from": "all",
            "image_size": settings.image_size,
            "batch_size": batch_size,
            "strategy": "none",
            "progress": False,
            **options,
        }
    )
    return Workload(config, records.find(settings.scratch, "noise"))


def largest_fitting(sizes: tuple[int, ...], measure: Callable[[int], Any]) -> Any:
    """Returns what is measured with the first batch size that fits into memory."""
    *others, last = sizes
    for size in others:
        try:
            return measure(size)
        except Exception as error:
            cause = error.__cause__ or error  # the benchmark says it in a sentence
            if not devices.is_out_of_memory(cause):
                raise
    return measure(last)


@dataclasses.dataclass(frozen=True)
class Speed:
    """How fast a step is.

    Attributes:
      batch_size: images a step, over all cards together.
      images_per_sec: median of the windows.
      flops: of an image.
      peak_mib: of the fullest card; None without.
    """

    batch_size: int
    images_per_sec: float
    flops: int
    peak_mib: float | None

    def row(self, what: str, load: Workload) -> Row:
        """Returns the line of the table."""
        names, precision = load.devices.names, load.devices.precision
        maker = vendor_peaks.flops(names[0], precision)
        step_ms = 1000 * self.batch_size / self.images_per_sec
        digits = 1 if self.images_per_sec < 100 else 0
        words = f"{self.images_per_sec:,.{digits}f}"
        words += f" images/s, {step_ms:,.1f} ms a step of {self.batch_size}"
        mfu = None
        if maker:
            mfu = self.images_per_sec * self.flops / (maker * load.devices.replicas)
            words += f", MFU {mfu:.0%} of the maker's {maker / 1e12:,.0f} TFLOP/s"
        if self.peak_mib is not None:
            words += f", {self.peak_mib:,.0f} MiB at most"
        values = {**dataclasses.asdict(self), "step_ms": step_ms, "mfu": mfu}
        return Row(what, words, values=values | {"maker_flops": maker})


def step_speed(load: Workload, settings: Settings, batch_size: int) -> Speed:
    """Times the compiled step on a resident batch."""
    network = compute_cases.stage_network(load)
    for card in load.gpus:
        tf.config.experimental.reset_memory_stats(card)
    case = compute_cases.step_case(load, "step", network.network, batch_size=batch_size)
    timing.warm_up(case, steps=2, seconds=settings.window_s / 2)
    windows = [timing.measure(case, seconds=settings.window_s) for _ in range(_REPEATS)]
    rate = statistics.median(window.per_sec for window in windows)
    return Speed(batch_size, rate, network.flops_per_image, load.peak_device_mib())


def _speeds(
    settings: Settings,
    name: str,
    *,
    compiled: tuple[bool, ...] = (False,),
    replicas: int = 1,
    **options: Any,
) -> Iterator[Row]:
    """Yields a row of a way to compute, without and with XLA where asked for."""
    for jit_compile in compiled:
        what = f"{settings.model} full, {name}" + (", XLA" if jit_compile else "")

        def measure(batch_size: int, what=what, jit_compile=jit_compile) -> Row:
            images = batch_size * replicas
            load = workload(settings, images, jit_compile=jit_compile, **options)
            return step_speed(load, settings, images).row(what, load)

        sizes = settings.batch_sizes
        yield attempt(what, functools.partial(largest_fitting, sizes, measure))


def _precision(
    settings: Settings, name: str, precision: str, *, tf32: bool | None = None
) -> Iterator[Row]:
    cards = tf.config.list_physical_devices("GPU")
    if not cards and name not in ("float32", "bfloat16"):
        raise Skip("a GPU's")
    if cards and (tf32 or precision == "mixed_bfloat16"):
        details = tf.config.experimental.get_device_details(cards[0])
        if details.get("compute_capability", _AMPERE) < _AMPERE:
            raise Skip("no units for it in this card")
    if tf32 is not None:
        tf.config.experimental.enable_tensor_float_32_execution(tf32)
    # Compiling takes a CPU long; one precision shows that it works.
    compiled = (False, True) if cards or name == "float32" else (False,)
    yield from _speeds(settings, name, compiled=compiled, precision=precision)


def bfloat16(settings: Settings) -> Iterator[Row]:
    """Yields the speed of full training in bfloat16."""
    return _precision(settings, "bfloat16", "mixed_bfloat16")


def float16(settings: Settings) -> Iterator[Row]:
    """Yields the speed of full training in float16 with loss scaling."""
    return _precision(settings, "float16", "mixed_float16")


def tf32(settings: Settings) -> Iterator[Row]:
    """Yields the speed of full training in float32 by way of TF32, as is usual."""
    return _precision(settings, "TF32", "float32", tf32=True)


def float32(settings: Settings) -> Iterator[Row]:
    """Yields the speed of full training in float32 alone."""
    return _precision(settings, "float32", "float32", tf32=False)


def mirrored(settings: Settings) -> Iterator[Row]:
    """Yields the speed on all cards; on two halves of the CPU without."""
    if settings.gpus == 1:
        raise Skip("one card alone")
    name, replicas = f"mirrored on {settings.gpus} cards", settings.gpus
    options: dict[str, Any] = {"strategy": "mirrored"}
    if not settings.gpus:
        name, replicas = "mirrored on 2 virtual CPUs", 2
        options["virtual_devices"] = 2
    yield from _speeds(settings, name, replicas=replicas, **options)


def mirrored_on_one(settings: Settings) -> Iterator[Row]:
    """Yields the speed on one card by way of the strategy for several."""
    if not settings.gpus:
        raise Skip("a GPU's")
    yield from _speeds(settings, "mirrored on one card", strategy="mirrored")


# --- where operations run


def placement(settings: Settings) -> Iterator[Row]:
    """Yields which operations of a training step, augmentation included, run where.

    As TensorFlow divides the graph at last, after all its optimizers.
    """
    load = workload(settings, batch_size := 8, model="vgg16")
    network = compute_cases.stage_network(load).network
    step = compute_cases.training_step(load, network, augmented=True)
    shape = (batch_size, settings.image_size, settings.image_size, 1)
    batch = (
        tf.zeros(shape, tf.uint8),
        tf.zeros(batch_size, tf.int32),
        tf.range(batch_size, dtype=tf.int64),
    )
    ran = devices_of(lambda: step.run(batch))
    kinds = collections.Counter(device.rpartition(":")[0] for device, _ in ran)
    total = ", ".join(f"{count} on {kind}" for kind, count in sorted(kinds.items()))
    yield Row("operations of a step", total, values={"count": dict(kinds)})
    left = collections.Counter(op for device, op in ran if device.startswith("CPU"))
    listed = ", ".join(f"{op} x {n}" for op, n in left.most_common())
    words = listed or "none"
    if not settings.gpus:
        words = f"all, without a GPU; the most: {', '.join(dict(left.most_common(5)))}"
    yield Row("left on the CPU", words, values={"count": dict(left)})


def devices_of(run: Callable[[], Any]) -> list[tuple[str, str]]:
    """Returns what graphs compute: `(device, such as GPU:0, operation's type)`."""
    context.context().enable_graph_collection()
    try:
        run()
        metadata = context.context().export_run_metadata()
    finally:
        context.context().disable_graph_collection()
    return [
        (node.device.rpartition("device:")[2], node.op)
        for graphs in metadata.function_graphs
        for graph in graphs.partition_graphs
        for node in graph.node
        if not _PLUMBING.fullmatch(node.op)
    ]


# --- training as a whole


def training(settings: Settings) -> Iterator[Row]:
    """Yields what `cxr.bench` says of training, in the precision chosen by itself."""
    protocol = runner.Protocol(
        repeats=_REPEATS, window_s=settings.window_s / 2, warm_up_s=0.0
    )

    def measure(batch_size: int) -> dict[str, Any]:
        load = workload(settings, batch_size)
        return runner.run(load.config, load.record_set, protocol)

    document = largest_fitting(settings.batch_sizes, measure)
    yield from _shares(document)
    yield Row("cxr.bench says", document["verdict"], values={"bench": document})


def _shares(document: dict[str, Any]) -> Iterator[Row]:
    rates = {
        case["name"]: case["images_per_sec"]["median"] for case in document["stages"]
    }
    batch = (
        f"batch {document['config']['batch_size']}, {document['config']['precision']}"
    )
    augment, step = 1 / rates["augment"], 1 / rates["step"]
    share = augment / (augment + step)
    yield Row(
        "augmentation's share of a step",
        f"{share:.1%} ({batch})",
        values={"value": share},
    )
    fed = rates["train"] / rates["step"]
    words = (
        f"{fed:.2f}: {rates['train']:,.0f} against {rates['step']:,.0f} images/s; "
        f"waited for input {document['input_wait_share']:.1%} of the time"
    )
    yield Row("training fed with data / one resident batch", words, values=rates)
    mfu, memory = document["mfu"], document["peak_device_mb"]
    words = f"{mfu['value']:.0%} of {mfu['peak_from']}"
    yield Row("MFU of the step", words, values=mfu)
    words = "no GPU" if memory is None else f"{memory:,.0f} MiB ({batch})"
    yield Row("peak memory, all cases together", words, values={"mib": memory})
