"""Runs a benchmark: builds the cases, measures them in turn, reaches a verdict."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import keras

from cxr import records
from cxr.benchmark import (
    compute_cases,
    input_cases,
    regression,
    result,
    roofline,
    timing,
    verdict,
)
from cxr.benchmark.checks import FilmAudit
from cxr.benchmark.timing import Case, Clock, Window
from cxr.config import TrainConfig
from cxr.training import builders, devices, progress


@dataclasses.dataclass(frozen=True)
class Plan:
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


def run(
    config: TrainConfig,
    record_set: records.RecordSet,
    plan: Plan,
    *,
    baseline: Mapping[str, Any] | None = None,
    clock: Clock | None = None,
) -> dict[str, Any]:
    """Measures the ladder; returns bench.json's content.

    Args:
      config: what would be trained.
      record_set: a checked data set that fits it.
      plan: how to measure.
      baseline: an earlier result that this one will be compared with.
      clock: gives the time; this machine's by default.

    Raises:
      UsageError: the baseline measured something else.
      WrongBatch: the pipeline delivered other films than it should have.
      WrongStep: a step did not compute what it should have.
    """
    bench = Bench(config, record_set, plan, clock or Clock())
    if baseline:
        regression.check_comparable(baseline, {"config": bench.settings})
    windows = bench.measure()
    return bench.document(windows)


class Bench:
    """One benchmark in the making.

    Args:
      config: what would be trained.
      record_set: a checked data set that fits it.
      plan: how to measure.
      clock: gives the time.

    Attributes:
      settings: what must be equal for two benchmarks to be comparable.
    """

    def __init__(
        self,
        config: TrainConfig,
        record_set: records.RecordSet,
        plan: Plan,
        clock: Clock,
    ):
        self._config, self._record_set, self._plan = config, record_set, plan
        self._clock = clock
        self._load = os.getloadavg()[0]
        self._devices = devices.setup(config)
        keras.config.set_dtype_policy(self._devices.precision)
        self._workshop = compute_cases.Workshop(config, record_set, self._devices)
        size = config.image_size
        self._audit = FilmAudit(record_set, input_cases.SPLIT, image_size=size)
        progress.say("input: opening the split, drawing the first epoch")
        self._input = input_cases.input_cases(
            config,
            record_set,
            iterate=self._workshop.iterate,
            audit=self._audit,
            clock=clock,
            shares=self._workshop.shares,
        )
        self._stage = builders.stages(config)[0 if plan.stage == "first" else -1]
        self.settings = result.settings(
            config,
            record_set.manifest,
            devices=self._devices,
            source=self._input.source,
            stage=self._stage,
        )
        self._network: compute_cases.Network | None = None
        self._training: input_cases.Drawn | None = None
        self._sweep: list[dict[str, float]] = []
        self._wait_share: float | None = None

    def measure(self) -> dict[str, list[Window]]:
        """Warms all cases up, then measures them in turn; returns their windows."""
        cases = [*self._input.cases]
        if not self._plan.input_only:
            cases += self._compute_cases(self._config.batch_size)
        cases += self._calibrations()
        self._warm_up(cases)
        found = timing.interleave(
            cases,
            repeats=self._plan.repeats,
            seconds=self._plan.window_s,
            clock=self._clock,
            between=self._show_round,
        )
        self._wait_share = self._share_of_waiting(found)
        self._sweep = self._measure_sweep(self._sweep_sizes(found))
        return found

    # --- what is measured

    def _compute_cases(self, batch_size: int) -> list[Case]:
        progress.say(f"network: building {self._config.model}, counting operations")
        shop = self._workshop
        self._network = shop.network(self._stage)
        network = self._network.network
        self._training = self._drawn(batch_size)
        trivial = shop.trivial_network()
        return [
            shop.augment_case(batch_size),
            shop.step_case(network, batch_size),
            shop.training_case("trivial", trivial, self._drawn(batch_size), batch_size),
            shop.training_case("train", network, self._training, batch_size),
        ]

    def _drawn(self, batch_size: int) -> input_cases.Drawn:
        source = self._input.source
        return input_cases.Drawn(
            self._workshop.iterate(
                source, source.training(batch_size, self._config.seed)
            ),
            epoch_films=source.n // batch_size * batch_size,
            audit=self._audit,
            contents=self._audit.check_films,
            clock=self._clock,
            shares=self._workshop.shares,
        )

    def _calibrations(self) -> list[Case]:
        cases = [roofline.copy_case(), roofline.product_case(self._devices.precision)]
        if self._record_set.manifest.encoding != "raw":
            cases.append(roofline.bare_decode_case(self._audit.reader))
        return cases

    def _sweep_sizes(self, windows: Mapping[str, list[Window]]) -> list[int]:
        sizes, batch_size = self._plan.sweep, self._config.batch_size
        if sizes is None:
            slowest = max(window.step_seconds[0] for window in windows["train"])
            if slowest > self._plan.window_s:
                progress.say(
                    f"no sweep: a step takes {slowest:.1f} s; ask with --sweep"
                )
                return []
            sizes = (batch_size // 2, batch_size, 2 * batch_size)
        fitting = [size for size in sizes if 0 < size <= self._input.source.n]
        return fitting if self._network else []

    def _measure_sweep(self, sizes: list[int]) -> list[dict[str, float]]:
        """Returns step and training rates by batch size, measured in turn."""
        if not sizes:
            return []
        assert self._network is not None  # sizes come of windows that it made
        network, cases = self._network.network, []
        for size in sizes:
            drawn = self._drawn(size)
            pair = (
                self._workshop.step_case(network, size),
                self._workshop.training_case("train", network, drawn, size),
            )
            cases += [
                dataclasses.replace(case, name=f"{case.name} of {size}")
                for case in pair
            ]
        self._warm_up(cases)
        found = timing.interleave(
            cases,
            repeats=self._plan.repeats,
            seconds=self._plan.window_s / 2,
            clock=self._clock,
        )
        rates = {name: timing.rates(each)["median"] for name, each in found.items()}
        return [
            {
                "batch_size": size,
                "step": rates[f"step of {size}"],
                "train": rates[f"train of {size}"],
            }
            for size in sizes
        ]

    # --- progress

    def _warm_up(self, cases: list[Case]) -> None:
        for number, case in enumerate(cases, start=1):
            seconds = timing.warm_up(
                case,
                steps=self._plan.warm_up_steps,
                seconds=self._plan.warm_up_s,
                clock=self._clock,
            )
            progress.say(f"warm [{number}/{len(cases)}] {case.name}: {seconds:.1f} s")

    def _show_round(self, repeat: int, windows: Mapping[str, Window]) -> None:
        rates = ", ".join(
            f"{name} {window.per_sec:,.0f}"
            for name, window in windows.items()
            if name in input_cases.CASES
        )
        progress.say(f"round {repeat + 1}/{self._plan.repeats}, images/s: {rates}")

    # --- the result

    def document(self, windows: Mapping[str, list[Window]]) -> dict[str, Any]:
        """Returns bench.json's content.

        Args:
          windows: of the cases and the calibrations, from `measure`.
        """
        measured = result.Measured(
            self._config,
            self._record_set.manifest,
            devices=self._devices,
            source=self._input.source,
            stage=self._stage,
            network=self._network,
            windows=windows,
        )
        mfu = measured.mfu()
        found = verdict.reach(measured.medians(), measured.setting(mfu))
        return {
            "schema": regression.SCHEMA,
            "environment": result.environment(self._devices, self._load),
            "config": self.settings,
            "plan": dataclasses.asdict(self._plan),
            "calibration": measured.calibration(),
            "stages": measured.stages(),
            "sweep": self._sweep,
            "input_wait_share": self._wait_share,
            "time_to_first_batch_s": self._input.first_batch_s,
            "first_epoch_s": self._input.first_epoch_s,
            "peak_rss_mb": self._clock.peak_mib(),
            "pixel_checksum": self._audit.checksum(),
            "mfu": mfu,
            "verdict": found.text,
            "bottleneck": {"bound": found.bound, "rung": found.case},
            "method": self._method(),
        }

    def _share_of_waiting(self, windows: Mapping[str, list[Window]]) -> float | None:
        if not self._training:
            return None
        # Audits come after the warm-up, then in pairs: after draining, after a window.
        waited = self._training.waits[2::2]
        return sum(waited) / sum(window.seconds for window in windows["train"])

    def _method(self) -> str:
        plan = self._plan
        return (
            f"Each case ran untimed for at least {plan.warm_up_steps} steps and "
            f"{plan.warm_up_s:g} s, then {plan.repeats} windows of {plan.window_s:g} s "
            "in turn with all others (A B C A B C ...), each after draining what had "
            "been prepared. images/s = images / seconds of a window; the median of the "
            "windows counts. A/A: odd against even windows. cores: CPU seconds / "
            "seconds. Training ran one step a call. Shards were in the page cache. "
            "Counts, order, labels and pixels were checked against an independent "
            "decode in every window."
        )
