"""The benchmark from flags to a result: builds the ladder, measures it, judges it."""

import dataclasses
import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from cxr import (
    bench_report,
    compute_rungs,
    console,
    devices,
    ladder,
    recipe,
    records,
    regression,
    roofline,
    timing,
    verdict,
)
from cxr.config import TrainConfig
from cxr.film_audit import FilmAudit
from cxr.timing import Clock, Rung, Window

_PACKAGES = ("tensorflow", "keras", "numpy")
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
    "steps_per_execution",
    "fine_tune_from",
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long and how often to measure.

    Attributes:
      repeats: windows of each rung.
      window_s: seconds of a window, at least one step.
      warm_up_s: seconds of untimed steps before, at least `warm_up_steps`.
      warm_up_steps: the first traces the graph.
      input_only: leave the computing rungs out.
      sweep: batch sizes to train with beside the configured one.
      stage: `first` or `last` of the training's stages.
    """

    repeats: int
    window_s: float
    warm_up_s: float = 0.3
    warm_up_steps: int = 2
    input_only: bool = False
    sweep: tuple[int, ...] = ()
    stage: str = "last"


def run(
    config: TrainConfig,
    record_set: records.RecordSet,
    plan: Plan,
    *,
    clock: Clock | None = None,
) -> dict[str, Any]:
    """Measures the ladder; returns bench.json's content.

    Args:
      config: what would be trained.
      record_set: a checked data set that fits it.
      plan: how to measure.
      clock: gives the time; this machine's by default.

    Raises:
      WrongBatch: the pipeline delivered other films than it should have.
      WrongStep: a step did not compute what it should have.
    """
    bench = Bench(config, record_set, plan, clock or Clock())
    windows = bench.measure()
    return bench.document(windows)


class Bench:
    """One benchmark in the making.

    Args:
      config: what would be trained.
      record_set: a checked data set that fits it.
      plan: how to measure.
      clock: gives the time.
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
        self._workshop = compute_rungs.Workshop(config, record_set, self._devices)
        size = config.image_size
        self._audit = FilmAudit(record_set, ladder.SPLIT, image_size=size)
        console.say("input: opening the split, drawing the first epoch")
        self._input = ladder.input_rungs(
            config,
            record_set,
            iterate=self._workshop.iterate,
            audit=self._audit,
            clock=clock,
            shares=self._workshop.shares,
        )
        self._stage = recipe.stages(config)[0 if plan.stage == "first" else -1]
        self._network: compute_rungs.Network | None = None
        self._training: ladder.Drawn | None = None
        self._sweep: list[dict[str, float]] = []

    def measure(self) -> dict[str, list[Window]]:
        """Warms all rungs up, then measures them in turn; returns their windows."""
        rungs = [*self._input.rungs]
        if not self._plan.input_only:
            rungs += self._compute_rungs(self._config.batch_size)
        rungs += self._calibrations()
        self._warm_up(rungs)
        found = timing.interleave(
            rungs,
            repeats=self._plan.repeats,
            seconds=self._plan.window_s,
            clock=self._clock,
            between=self._show_round,
        )
        self._sweep = self._measure_sweep()
        return found

    # --- what is measured

    def _compute_rungs(self, batch_size: int) -> list[Rung]:
        console.say(f"network: building {self._config.model}, counting operations")
        shop = self._workshop
        self._network = self._network or shop.network(self._stage)
        network = self._network.network
        self._training = self._drawn(batch_size)
        trivial = shop.trivial_network()
        return [
            shop.augment_rung(batch_size),
            shop.step_rung(network, batch_size),
            shop.training_rung("trivial", trivial, self._drawn(batch_size), batch_size),
            shop.training_rung("train", network, self._training, batch_size),
        ]

    def _drawn(self, batch_size: int) -> ladder.Drawn:
        source = self._input.source
        return ladder.Drawn(
            self._workshop.iterate(
                source, source.training(batch_size, self._config.seed)
            ),
            epoch_films=source.n // batch_size * batch_size,
            audit=self._audit,
            contents=self._audit.check_films,
            clock=self._clock,
            shares=self._workshop.shares,
        )

    def _calibrations(self) -> list[Rung]:
        rungs = [roofline.copy_rung(), roofline.product_rung(self._devices.precision)]
        if self._record_set.manifest.encoding != "raw":
            rungs.append(roofline.bare_decode_rung(self._audit.reader))
        return rungs

    def _measure_sweep(self) -> list[dict[str, float]]:
        """Returns step and training rates by batch size, measured in turn."""
        sizes = [b for b in self._plan.sweep if b <= self._input.source.n]
        rungs = []
        for size in sizes:
            network, drawn = self._network.network, self._drawn(size)
            pair = (
                self._workshop.step_rung(network, size),
                self._workshop.training_rung("train", network, drawn, size),
            )
            rungs += [
                dataclasses.replace(rung, name=f"{rung.name} of {size}")
                for rung in pair
            ]
        self._warm_up(rungs)
        found = timing.interleave(
            rungs,
            repeats=self._plan.repeats,
            seconds=self._plan.window_s / 2,
            clock=self._clock,
        )
        rates = {name: _rates(windows)["median"] for name, windows in found.items()}
        return [
            {
                "batch_size": size,
                "step": rates[f"step of {size}"],
                "train": rates[f"train of {size}"],
            }
            for size in sizes
        ]

    # --- progress

    def _warm_up(self, rungs: list[Rung]) -> None:
        for number, rung in enumerate(rungs, start=1):
            seconds = timing.warm_up(
                rung,
                steps=self._plan.warm_up_steps,
                seconds=self._plan.warm_up_s,
                clock=self._clock,
            )
            console.say(f"warm [{number}/{len(rungs)}] {rung.name}: {seconds:.1f} s")
        if self._training:
            self._training.waits.clear()

    def _show_round(self, repeat: int, windows: Mapping[str, Window]) -> None:
        rates = ", ".join(
            f"{name} {window.per_sec:,.0f}"
            for name, window in windows.items()
            if name in ladder.RUNGS
        )
        console.say(f"round {repeat + 1}/{self._plan.repeats}, images/s: {rates}")

    # --- the result

    def document(self, windows: Mapping[str, list[Window]]) -> dict[str, Any]:
        """Returns bench.json's content, the sweep left for the caller to add."""
        medians = {
            name: _rates(windows[name])["median"]
            for name in ladder.RUNGS
            if name in windows
        }
        mfu = self._mfu(windows)
        found = verdict.judge(medians, self._setting(mfu))
        return {
            "schema": regression.SCHEMA,
            "environment": self._environment(),
            "config": self._settings(),
            "calibration": self._calibration(windows),
            "stages": [self._stage_entry(name, windows) for name in medians],
            "sweep": self._sweep,
            "input_wait_share": self._wait_share(windows),
            "time_to_first_batch_s": self._input.first_batch_s,
            "first_epoch_s": self._input.first_epoch_s,
            "peak_rss_mb": self._clock.peak_mib(),
            "pixel_checksum": self._audit.checksum(),
            "mfu": mfu,
            "verdict": found.text,
            "bottleneck": {"bound": found.bound, "rung": found.rung},
            "method": self._method(),
        }

    def _stage_entry(
        self, name: str, windows: Mapping[str, list[Window]]
    ) -> dict[str, Any]:
        mine = windows[name]
        rates = _rates(mine)
        seconds = sum(window.seconds for window in mine)
        cpu_seconds = sum(window.cpu_seconds for window in mine)
        images = sum(window.items for window in mine)
        return {
            "name": name,
            "what": bench_report.describe(name),
            "images_per_sec": rates,
            "aa_difference": timing.split_halves_difference(rates["repeats"]),
            "step_ms": timing.step_quantiles(mine),
            "images": images,
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "cores_busy": cpu_seconds / seconds,
            "rss_mb": max(window.resident_mib for window in mine),
            "roofline": self._roofline(name, rates["median"], windows),
        }

    def _roofline(
        self, name: str, rate: float, windows: Mapping[str, list[Window]]
    ) -> dict[str, Any] | None:
        pixels = self._config.image_size**2
        split = self._record_set.split(ladder.SPLIT)
        copied = _rates(windows[roofline.COPY])["max"]
        if name in ("read", "parse"):
            limit, best = "memory copy", copied * split.num_examples / split.num_bytes
        elif name == "batch":
            limit, best = "memory copy", copied / pixels
        elif name == "augment":  # uint8 in, float32 out
            limit, best = "memory copy", copied / (5 * pixels)
        elif name == "decode" and roofline.BARE_DECODE in windows:
            cores = len(os.sched_getaffinity(0))
            limit = f"bare decode x {cores} cores"
            best = _rates(windows[roofline.BARE_DECODE])["max"] * cores
        elif name in ("step", "train") and self._network:
            limit = "matrix product"
            peak = _rates(windows[roofline.PRODUCT])["max"]
            best = peak / self._network.flops_per_image
        else:
            return None
        return {"limit": limit, "images_per_sec": best, "reached": rate / best}

    def _mfu(self, windows: Mapping[str, list[Window]]) -> dict[str, Any] | None:
        if not self._network:
            return None
        rate = _rates(windows["step"])["median"]
        peak = _rates(windows[roofline.PRODUCT])["max"] * self._devices.replicas
        per_image = self._network.flops_per_image
        return {
            "value": rate * per_image / peak,
            "flops_per_image": per_image,
            "forward_flops_per_image": self._network.forward_flops_per_image,
            "mode": compute_rungs.mode(self._config, self._stage),
            "images_per_sec": rate,
            "achieved_flops": rate * per_image,
            "peak_flops": peak,
            "peak_from": f"{self._devices.precision} matrix product in this run",
            "vendor_peak_flops": roofline.vendor_peak(
                self._devices.names[0], self._devices.precision
            ),
        }

    def _calibration(self, windows: Mapping[str, list[Window]]) -> dict[str, Any]:
        units = {
            roofline.COPY: "bytes",
            roofline.PRODUCT: "floating-point operations",
            roofline.BARE_DECODE: "films, one thread",
        }
        return {
            name.replace(" ", "_"): {"unit": unit, "per_sec": _rates(windows[name])}
            for name, unit in units.items()
            if name in windows
        }

    def _wait_share(self, windows: Mapping[str, list[Window]]) -> float | None:
        if not self._training:
            return None
        # Audits come in pairs: after draining, after the window.
        waited = self._training.waits[1::2][: len(windows["train"])]
        return sum(waited) / sum(window.seconds for window in windows["train"])

    def _setting(self, mfu: Mapping[str, Any] | None) -> verdict.Setting:
        source = self._input.source
        return verdict.Setting(
            resident=source.mode == "ram",
            cores=len(os.sched_getaffinity(0)),
            accelerator=bool(tf.config.list_physical_devices("GPU")),
            memory_mib=source.nbytes / 2**20,
            memory_fits=source.nbytes < _memory_bytes() / 2,
            encoding=self._record_set.manifest.encoding,
            mfu=mfu and mfu["value"],
        )

    def _settings(self) -> dict[str, Any]:
        manifest = self._record_set.manifest
        chosen = {name: getattr(self._config, name) for name in _SETTINGS}
        return {
            **chosen,
            "precision": self._devices.precision,
            "replicas": self._devices.replicas,
            "cache": self._input.source.mode,
            "stage": self._stage.name,
            "films": self._input.source.n,
            "encoding": manifest.encoding,
            "stored_image_size": manifest.image_size,
            "data_fingerprint": manifest.fingerprint,
            "window_s": self._plan.window_s,
        }

    def _environment(self) -> dict[str, Any]:
        return {
            "device": ", ".join(self._devices.names),
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": _memory_bytes() / 2**30,
            "platform": platform.platform(),
            "python": platform.python_version(),
            "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
            "load": self._load,
        }

    def _method(self) -> str:
        plan = self._plan
        return (
            f"Each rung ran untimed for at least {plan.warm_up_steps} steps and "
            f"{plan.warm_up_s:g} s, then {plan.repeats} windows of {plan.window_s:g} s "
            "in turn with all others (A B C A B C ...), each after draining what had "
            "been prepared. images/s = images / seconds of a window; the median of the "
            "windows counts. A/A: odd against even windows. cores: CPU seconds / "
            "seconds. Shards were in the page cache. Counts, order, labels and pixels "
            "were checked against an independent decode in every window."
        )


def _rates(windows: list[Window]) -> dict[str, Any]:
    return timing.spread([window.per_sec for window in windows])


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _processor() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
