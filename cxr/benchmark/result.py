"""Computes the content of bench.json (schema 1) from timed windows.

- `environment`: device, processor, cores, memory, versions, load before the start.
- `config`: what must be equal for two files to be comparable; `plan`: how long and
  how often was measured; `method`: the same in words.
- `calibration`: `memory_copy` (bytes/s, one thread), `matrix_product` (operations/s),
  on a GPU `device_copy` (bytes/s)
  and, for compressed images, `bare_decode` (images/s, one thread), each
  `{unit, per_sec}` with `per_sec` as `images_per_sec` below.
- `stages`: a list in the order of `cases`, of `name`, `what`; `images_per_sec`
  `{median, min, max, repeats}`, `repeats` being the rate of each window in order;
  `aa_difference` (odd against even windows, a share); `step_ms` `{p50, p90, p99}`;
  `images`, `seconds`, `cpu_seconds` of all windows, `cores_busy` their quotient;
  `rss_mb`; `roofline` `{limit, images_per_sec, reached}` or null.
- `sweep`: `{batch_size, step, train}` in images/s, null where memory did not suffice.
- `input_wait_share` of training's time; `time_to_first_batch_s` from opening the
  split; `first_epoch_s` until all images were in memory; `peak_rss_mb` of the process,
  `peak_device_mb` of the fullest GPU with all cases on it (MiB; null without one);
  `pixel_checksum`, CRC-32 of the first 64 images' pixels.
- `mfu`: `value` = `images_per_sec` x `flops_per_image` / `peak_flops`; `mode` (the
  part that trains), `peak_from`, `vendor_peak_flops`; null with `--only=input`.
- `verdict` in words; `bottleneck` `{bound, rung}`, the case that limits.
- `changes` against `--baseline`: `{rung, ratio, noise}`.
"""

import dataclasses
import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

from cxr import platforms
from cxr.benchmark import (
    cases,
    compute_cases,
    roofline,
    timing,
    vendor_peaks,
    verdict,
)
from cxr.benchmark.checks import CheckedBatches
from cxr.benchmark.timing import Window, rates
from cxr.benchmark.workload import SPLIT, Workload
from cxr.training.devices import Devices

_PACKAGES = ("tensorflow", "keras", "numpy")


@dataclasses.dataclass(frozen=True)
class Measured:
    """A finished measurement.

    Attributes:
      workload: what was measured.
      windows: of the cases and the calibrations.
      start_times: seconds until the input's first batch and the end of its epoch.
      network: the stage's; None where only the input was measured.
      training: the batches that it was trained on; None likewise.
      peak_device_mib: the most memory in use on a GPU; None without one.
    """

    workload: Workload
    windows: Mapping[str, list[Window]]
    start_times: Mapping[str, float | None]
    network: compute_cases.Network | None
    training: CheckedBatches | None
    peak_device_mib: float | None = None

    def document(self) -> dict[str, Any]:
        """Returns the measurement's part of bench.json."""
        mfu = self._mfu()
        limit = verdict.reach(self._medians(), self._setting(mfu))
        return {
            "calibration": self._calibration(),
            "stages": [self._case(name) for name in self._medians()],
            "input_wait_share": self._wait_share(),
            **self.start_times,
            "peak_rss_mb": platforms.peak_resident_bytes() / 2**20,
            "peak_device_mb": self.peak_device_mib,
            "pixel_checksum": self.workload.image_check.checksum(),
            "mfu": mfu,
            "verdict": limit.text,
            "bottleneck": {"bound": limit.bound, "rung": limit.case},
        }

    def _wait_share(self) -> float | None:
        """Returns the share of training's time that it waited for input."""
        if not self.training:
            return None
        # Checks come after the warm-up, then in pairs: after draining, after a window.
        waited = sum(self.training.waits[2::2])
        return waited / sum(window.seconds for window in self.windows["train"])

    @property
    def _processors(self) -> int:
        """Devices that each reach the measured peak; virtual ones share one CPU."""
        if self.workload.config.virtual_devices:
            return 1
        return self.workload.devices.replicas

    def _medians(self) -> dict[str, float]:
        """Returns the images/s of each case that was measured, in their order."""
        return {
            name: rates(self.windows[name])["median"]
            for name in cases.CASES
            if name in self.windows
        }

    def _case(self, name: str) -> dict[str, Any]:
        """Returns what is known of a case."""
        windows = self.windows[name]
        images_per_sec = rates(windows)
        seconds = sum(window.seconds for window in windows)
        cpu_seconds = sum(window.cpu_seconds for window in windows)
        return {
            "name": name,
            "what": cases.CASES[name],
            "images_per_sec": images_per_sec,
            "aa_difference": timing.split_halves_difference(images_per_sec["repeats"]),
            "step_ms": timing.step_quantiles(windows),
            "images": sum(window.items for window in windows),
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "cores_busy": cpu_seconds / seconds,
            "rss_mb": max(window.resident_mib for window in windows),
            "roofline": self._roofline(name, images_per_sec["median"]),
        }

    def _roofline(self, name: str, rate: float) -> dict[str, Any] | None:
        """Returns how near a case came to what bounds it, None where nothing does."""
        split = self.workload.manifest.splits[SPLIT]
        pixels = self.workload.config.image_size**2
        cores = platforms.available_cores()
        recorded = (roofline.COPY, split.num_examples / split.num_bytes)
        copied = roofline.DEVICE_COPY in self.windows
        copy = roofline.DEVICE_COPY if copied else roofline.COPY
        bounds = {  # of each case: what bounds it, and images for one item of that
            "read": recorded,
            "parse": recorded,
            "decode": (roofline.BARE_DECODE, cores),
            "batch": (roofline.COPY, 1 / pixels),
            "augment": (copy, 2 / (5 * pixels)),  # uint8 read, float32 written
        }
        if self.network:
            each = self._processors / self.network.flops_per_image
            bounds["step"] = bounds["train"] = (roofline.PRODUCT, each)
        limit, images = bounds.get(name, ("", 0))
        if limit not in self.windows:
            return None
        best = images * rates(self.windows[limit])["max"]
        words = limit + (f" x {cores} cores" if name == "decode" else "")
        return {"limit": words, "images_per_sec": best, "reached": rate / best}

    def _mfu(self) -> dict[str, Any] | None:
        """Returns the step's model FLOPs utilisation and all that went into it."""
        if not self.network:
            return None
        devices = self.workload.devices
        rate = rates(self.windows["step"])["median"]
        peak = rates(self.windows[roofline.PRODUCT])["max"] * self._processors
        per_image, precision = self.network.flops_per_image, devices.precision
        return {
            "value": rate * per_image / peak,
            "flops_per_image": per_image,
            "forward_flops_per_image": self.network.forward_flops_per_image,
            "mode": self.workload.mode,
            "images_per_sec": rate,
            "achieved_flops": rate * per_image,
            "peak_flops": peak,
            "peak_from": self._peak_from(),
            "vendor_peak_flops": vendor_peaks.flops(devices.names[0], precision),
        }

    def _peak_from(self) -> str:
        """Returns in words what the peak was measured by."""
        dtype = roofline.product_dtype(self.workload)
        where = "" if self.workload.accelerated else "this CPU's "
        return f"{where}{dtype} matrix product in this run"

    def _calibration(self) -> dict[str, Any]:
        """Returns what the machine could do at best, in the same rounds."""
        return {
            name.replace(" ", "_"): {"unit": unit, "per_sec": rates(self.windows[name])}
            for name, unit in roofline.UNITS.items()
            if name in self.windows
        }

    def _setting(self, mfu: Mapping[str, Any] | None) -> verdict.Setting:
        """Returns what the verdict must know beside the rates."""
        source = self.workload.source
        return verdict.Setting(
            resident=source.mode == "ram",
            cores=platforms.available_cores(),
            memory_mib=source.nbytes / 2**20,
            memory_fits=source.nbytes < platforms.total_memory_bytes() / 2,
            encoding=self.workload.manifest.encoding,
            mfu=mfu["value"] if mfu else None,
            jit_compile=self.workload.config.jit_compile,
            may_lower_precision=self._may_lower_precision(),
        )

    def _may_lower_precision(self) -> bool:
        """Whether 16 bits are left to try, on units that are faster with them."""
        units = self.workload.accelerated or platforms.bfloat16_unit()
        return self.workload.devices.precision == "float32" and bool(units)


def environment(devices: Devices, load: float) -> dict[str, Any]:
    """Returns the machine and the software.

    Args:
      devices: what the steps ran on.
      load: the machine's load average before the benchmark.
    """
    return {
        "device": ", ".join(devices.names),
        "processor": platforms.processor_name(),
        "cores": platforms.available_cores(),
        "memory_gib": platforms.total_memory_bytes() / 2**30,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "load": load,
    }
