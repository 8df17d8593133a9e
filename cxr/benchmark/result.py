"""Computes the content of bench.json (schema 1) from timed windows.

- `environment`: device, processor, cores, memory, versions, load before the start.
- `config`: what must be equal for two files to be comparable; `plan`: how long and
  how often was measured; `method`: the same in words.
- `calibration`: `memory_copy` (bytes/s, one thread), `matrix_product` (operations/s)
  and, for compressed films, `bare_decode` (films/s, one thread), each `{unit, per_sec}`
  with `per_sec` as `images_per_sec` below.
- `stages`: a list in the ladder's order, of `name`, `what`; `images_per_sec`
  `{median, min, max, repeats}`, `repeats` being the rate of each window in order;
  `aa_difference` (odd against even windows, a share); `step_ms` `{p50, p90, p99}`;
  `images`, `seconds`, `cpu_seconds` of all windows, `cores_busy` their quotient;
  `rss_mb`; `roofline` `{limit, images_per_sec, reached}` or null.
- `sweep`: `{batch_size, step, train}` in images/s.
- `input_wait_share` of training's time; `time_to_first_batch_s` from opening the
  split; `first_epoch_s` until all films were in memory; `peak_rss_mb`;
  `pixel_checksum`, CRC-32 of the first 64 films' pixels.
- `mfu`: `value` = `images_per_sec` x `flops_per_image` / `peak_flops`; `mode` (the
  part that trains), `peak_from`, `vendor_peak_flops`; null with `--only=input`.
- `verdict` in words; `bottleneck` `{bound, rung}`, the case that limits.
- `changes` against `--baseline`: `{rung, ratio, noise}`.
"""

import dataclasses
import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

from cxr import platforms, records
from cxr.benchmark import compute_cases, input_cases, report, roofline, verdict
from cxr.benchmark.timing import Window, rates, split_halves_difference, step_quantiles
from cxr.config import TrainConfig
from cxr.input import pipeline
from cxr.training import builders
from cxr.training.devices import Devices

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
    "fine_tune_from",
)


@dataclasses.dataclass(frozen=True)
class Measured:
    """A finished measurement and what it was made with.

    Attributes:
      config: what would be trained.
      manifest: of the data set.
      devices: what the steps ran on.
      source: the training split.
      stage: the stage of training that was measured.
      network: its network; None where only the input was measured.
      windows: of the cases and the calibrations.
    """

    config: TrainConfig
    manifest: records.Manifest
    _: dataclasses.KW_ONLY
    devices: Devices
    source: pipeline.Source
    stage: builders.Stage
    network: compute_cases.Network | None
    windows: Mapping[str, list[Window]]

    @property
    def _processors(self) -> int:
        """Devices that each reach the measured peak; virtual ones share one CPU."""
        return 1 if self.config.virtual_devices else self.devices.replicas

    def medians(self) -> dict[str, float]:
        """Returns the images/s of each case that was measured."""
        return {
            name: rates(self.windows[name])["median"]
            for name in input_cases.CASES
            if name in self.windows
        }

    def stages(self) -> list[dict[str, Any]]:
        """Returns what is known of each case, in the ladder's order."""
        return [self._stage(name) for name in self.medians()]

    def _stage(self, name: str) -> dict[str, Any]:
        mine = self.windows[name]
        found = rates(mine)
        seconds = sum(window.seconds for window in mine)
        cpu_seconds = sum(window.cpu_seconds for window in mine)
        return {
            "name": name,
            "what": report.describe(name),
            "images_per_sec": found,
            "aa_difference": split_halves_difference(found["repeats"]),
            "step_ms": step_quantiles(mine),
            "images": sum(window.items for window in mine),
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "cores_busy": cpu_seconds / seconds,
            "rss_mb": max(window.resident_mib for window in mine),
            "roofline": self._roofline(name, found["median"]),
        }

    def _roofline(self, name: str, rate: float) -> dict[str, Any] | None:
        """Returns how near a case came to what bounds it, None where nothing does."""
        pixels = self.config.image_size**2
        if name in ("read", "parse"):
            split = self.manifest.splits[input_cases.SPLIT]
            limit, best = roofline.COPY, split.num_examples / split.num_bytes
        elif name == "batch":
            limit, best = roofline.COPY, 1 / pixels
        elif name == "augment":  # uint8 in, float32 out
            limit, best = roofline.COPY, 1 / (5 * pixels)
        elif name == "decode":
            limit, best = roofline.BARE_DECODE, platforms.available_cores()
        elif name in ("step", "train") and self.network:
            limit = roofline.PRODUCT
            best = self._processors / self.network.flops_per_image
        else:
            return None
        if limit not in self.windows:
            return None
        best *= rates(self.windows[limit])["max"]
        words = limit + (
            f" x {platforms.available_cores()} cores" if name == "decode" else ""
        )
        return {"limit": words, "images_per_sec": best, "reached": rate / best}

    def mfu(self) -> dict[str, Any] | None:
        """Returns the step's model FLOPs utilisation and all that went into it."""
        if not self.network:
            return None
        rate = rates(self.windows["step"])["median"]
        peak = rates(self.windows[roofline.PRODUCT])["max"] * self._processors
        per_image, precision = self.network.flops_per_image, self.devices.precision
        return {
            "value": rate * per_image / peak,
            "flops_per_image": per_image,
            "forward_flops_per_image": self.network.forward_flops_per_image,
            "mode": compute_cases.mode(self.config, self.stage),
            "images_per_sec": rate,
            "achieved_flops": rate * per_image,
            "peak_flops": peak,
            "peak_from": f"{precision} matrix product in this run",
            "vendor_peak_flops": roofline.vendor_peak(self.devices.names[0], precision),
        }

    def calibration(self) -> dict[str, Any]:
        """Returns what the machine could do at best, in the same rounds."""
        units = {
            roofline.COPY: "bytes",
            roofline.PRODUCT: "floating-point operations",
            roofline.BARE_DECODE: "films, one thread",
        }
        return {
            name.replace(" ", "_"): {"unit": unit, "per_sec": rates(self.windows[name])}
            for name, unit in units.items()
            if name in self.windows
        }

    def setting(self, mfu: Mapping[str, Any] | None) -> verdict.Setting:
        """Returns what the verdict must know beside the rates."""
        return verdict.Setting(
            resident=self.source.mode == "ram",
            cores=platforms.available_cores(),
            memory_mib=self.source.nbytes / 2**20,
            memory_fits=self.source.nbytes < _memory_bytes() / 2,
            encoding=self.manifest.encoding,
            mfu=mfu["value"] if mfu else None,
        )


def settings(
    config: TrainConfig,
    manifest: records.Manifest,
    *,
    devices: Devices,
    source: pipeline.Source,
    stage: builders.Stage,
) -> dict[str, Any]:
    """Returns what must be equal for two runs to be comparable.

    Args:
      config: what would be trained.
      manifest: of the data set.
      devices: what the steps run on.
      source: the training split.
      stage: the stage of training that is measured.
    """
    chosen = {name: getattr(config, name) for name in _SETTINGS}
    return chosen | {
        "precision": devices.precision,
        "replicas": devices.replicas,
        "cache": source.mode,
        "stage": stage.name,
        "films": source.n,
        "encoding": manifest.encoding,
        "stored_image_size": manifest.image_size,
        "data_fingerprint": manifest.fingerprint,
    }


def environment(devices: Devices, load: float) -> dict[str, Any]:
    """Returns the machine and the software.

    Args:
      devices: what the steps ran on.
      load: the machine's load average before the benchmark.
    """
    return {
        "device": ", ".join(devices.names),
        "processor": _processor(),
        "cores": platforms.available_cores(),
        "memory_gib": _memory_bytes() / 2**30,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "load": load,
    }


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _processor() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
