"""Runs a benchmark: builds the cases, measures them in turn, reaches a verdict."""

import dataclasses
import gc
from collections.abc import Mapping, Sequence
from typing import Any

from cxr import cli, platforms, records
from cxr.benchmark import (
    compute_cases,
    input_cases,
    regression,
    result,
    roofline,
    timing,
)
from cxr.benchmark.timing import Case, Window
from cxr.benchmark.workload import Workload
from cxr.config import TrainConfig
from cxr.training import devices, progress

_SWEPT = ("step", "train")  # cases of each batch size


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How long and how often to measure.

    Attributes:
      repeats: windows of each case.
      window_s: seconds of a window, at least one step.
      warm_up_s: seconds of untimed steps before, at least `warm_up_steps`.
      warm_up_steps: the first traces the graph.
      input_only: leave the computing cases out.
      sweep: batch sizes to train with; None chooses half, once and twice the
        configured one where a step fits into a window.
      stage: `first` or `last` of the training's stages.
    """

    repeats: int
    window_s: float
    warm_up_s: float = 0.3
    warm_up_steps: int = 2
    input_only: bool = False
    sweep: tuple[int, ...] | None = ()
    stage: str = "last"

    def measure(self, cases: list[Case], seconds: float) -> dict[str, list[Window]]:
        """Warms cases up, then measures them in turn, in windows of some seconds."""
        for number, case in enumerate(cases, start=1):
            took_s = timing.warm_up(
                case, steps=self.warm_up_steps, seconds=self.warm_up_s
            )
            progress.say(f"warm [{number}/{len(cases)}] {case.name}: {took_s:.1f} s")
        return timing.interleave(
            cases, repeats=self.repeats, seconds=seconds, between=self._show_round
        )

    def _show_round(self, number: int, windows: Mapping[str, Window]) -> None:
        rates = ", ".join(
            f"{name} {window.per_sec:,.0f}"
            for name, window in windows.items()
            if name not in roofline.UNITS
        )
        progress.say(f"round {number + 1}/{self.repeats}, images/s: {rates}")

    def describe(self) -> str:
        """Returns in words how was measured."""
        return (
            f"Each case ran untimed for at least {self.warm_up_steps} steps and "
            f"{self.warm_up_s:g} s, then {self.repeats} windows of {self.window_s:g} s "
            "in turn with all others (A B C A B C ...), each after draining what had "
            "been prepared. images/s = images / seconds of a window; the median of the "
            "windows counts. A/A: odd against even windows. cores: CPU seconds / "
            "seconds. Training ran one step a call. Shards were in the page cache. "
            "Counts, order, labels and pixels were checked against an independent "
            "decode in every window."
        )


def run(
    config: TrainConfig,
    record_set: records.RecordSet,
    protocol: Protocol,
    *,
    baseline: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measures every case; returns bench.json's content.

    Args:
      config: what would be trained.
      record_set: a checked data set that fits it.
      protocol: how to measure.
      baseline: an earlier result that this one will be compared with.

    Raises:
      UsageError: the baseline measured something else.
      WrongBatch: the pipeline delivered other images than it should have.
      WrongStep: a step did not compute what it should have.
      UnavailableError: a device's memory does not hold what is asked for.
    """
    load = platforms.load_average()
    progress.say("input: opening the split, drawing the first epoch")
    workload = Workload(config, record_set, stage=protocol.stage)
    if baseline:
        regression.check_comparable(baseline, workload.settings())
    measured = _measure_in_memory(workload, protocol)
    sweep = _sweep(measured, protocol)
    return {
        "schema": regression.SCHEMA,
        "environment": result.environment(workload.devices, load),
        "config": workload.settings(),
        "plan": dataclasses.asdict(protocol),
        **measured.document(),
        "sweep": sweep,
        "method": protocol.describe(),
    }


def _measure_in_memory(workload: Workload, protocol: Protocol) -> result.Measured:
    try:
        return measure(workload, protocol)
    except Exception as error:
        if not devices.is_out_of_memory(error):
            raise
        raise cli.UnavailableError(
            f"out of memory with --batch_size={workload.config.batch_size} "
            f"--image_size={workload.config.image_size}: try half the batch size"
        ) from error


def measure(workload: Workload, protocol: Protocol) -> result.Measured:
    """Measures all cases of a workload and what bounds them."""
    batches, times = input_cases.start(workload)
    cases = input_cases.cases(workload, batches)
    network = training = None
    if not protocol.input_only:
        progress.say(f"network: building {workload.config.model}, counting operations")
        network = compute_cases.stage_network(workload)
        training = workload.training_batches(workload.config.batch_size)
        cases += compute_cases.cases(workload, network.network, training)
    cases += roofline.cases(workload)
    windows = protocol.measure(cases, protocol.window_s)
    peak_mib = workload.peak_device_mib()
    return result.Measured(workload, windows, times, network, training, peak_mib)


def _sweep(
    measured: result.Measured, protocol: Protocol
) -> list[dict[str, float | None]]:
    """Returns step and training rates by batch size, measured in turn.

    Where memory does not suffice, the largest batch is left out and the others begin
    anew: a smaller one was perhaps only in the way of its neighbours.
    """
    sizes = sorted(_sweep_sizes(measured, protocol))
    rows: list[dict[str, float | None]] = []
    while sizes and measured.network:
        try:
            return _sweep_rows(measured, protocol, sizes) + rows
        except Exception as error:
            if not devices.is_out_of_memory(error):
                raise
            largest = sizes.pop()
        progress.say(f"sweep: out of memory with a batch of {largest}")
        rows.insert(0, {"batch_size": largest} | dict.fromkeys(_SWEPT))
        gc.collect()  # graphs refer to themselves, and hold the device's memory
    return rows


def _sweep_rows(
    measured: result.Measured, protocol: Protocol, sizes: Sequence[int]
) -> list[dict[str, float | None]]:
    """Measures training with each batch size, all of which lie in memory together."""
    workload, network = measured.workload, measured.network
    assert network is not None
    cases = [
        compute_cases.step_case(
            workload,
            f"{name} of {size}",
            network.network,
            batch_size=size,
            batches=workload.training_batches(size) if name == "train" else None,
        )
        for size in sizes
        for name in _SWEPT
    ]
    windows = protocol.measure(cases, protocol.window_s / 2)
    rates = {name: timing.rates(mine)["median"] for name, mine in windows.items()}
    return [
        {"batch_size": size} | {name: rates[f"{name} of {size}"] for name in _SWEPT}
        for size in sizes
    ]


def _sweep_sizes(measured: result.Measured, protocol: Protocol) -> Sequence[int]:
    sizes, batch_size = protocol.sweep, measured.workload.config.batch_size
    if sizes is None and measured.network:
        slowest_s = max(w.step_seconds[0] for w in measured.windows["train"])
        if slowest_s > protocol.window_s:
            progress.say(f"no sweep: a step takes {slowest_s:.1f} s; ask with --sweep")
            return ()
        sizes = (batch_size // 2, batch_size, 2 * batch_size)
    return [size for size in sizes or () if 0 < size <= measured.workload.source.n]
