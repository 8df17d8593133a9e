"""Measures the memory of a plan of many images, without images.

  python -m benchmarks.plan_memory --rows=10000000

What the plan is made from is made up: 3 films a patient, a copy in a thousand, as the
spool would give it. Prints seconds and the process's peak memory. Pairs that look
alike are no part of it: their search is measured by benchmarks.conversion_speed.
"""

import dataclasses
import hashlib
import pathlib
import resource
import time

from cxr import cli, console
from cxr.conversion import planning
from cxr.conversion.source import Source
from cxr.conversion.spool import Converted

_CLASSES = ("NORMAL", "PNEUMONIA")
_FILMS_A_PATIENT = 3
_CHUNK = 64  # images of a spool file
_COPY_EVERY = 1000


@dataclasses.dataclass(frozen=True)
class PlanMemoryConfig:
    """How much is planned."""

    rows: int = cli.option(1_000_000, "images", lower=100)


def images(count: int) -> list[Converted]:
    """Returns made-up images, of which equal values are held once, as in the spool."""
    made, file = [], pathlib.Path()
    for number in range(count):
        if number % _CHUNK == 0:
            file = pathlib.Path(f".converting/images-{number // _CHUNK:06d}")
        patient = number // _FILMS_A_PATIENT
        label = _CLASSES[patient % 2]
        content = number - 1 if number % _COPY_EVERY == 1 else number
        source = Source(f"{label}/{patient:08d}_{number:08d}.png", label, "")
        made.append(
            Converted(
                source,
                source_bytes=400_000 + number % 100_000,
                digest=hashlib.sha256(b"%d" % content).digest(),
                width=1024,
                height=1024,
                mode="L",
                format="PNG",
                offset=(number % _CHUNK) * 10_000,
                length=10_000 + number % 5000,
                file=file,
            )
        )
    return made


def main(argv: list[str]) -> int:
    """Parses the flags, plans and prints."""
    config, positional = cli.parse(argv, PlanMemoryConfig, usage=__doc__ or "")
    cli.reject_positional(positional)
    made = images(config.rows)
    before = _peak_gib()
    began = time.monotonic()
    flags = planning.PlanConfig(patient_pattern=r"(?P<patient>\d{8})_")
    plan = planning.make(made, flags)
    seconds = time.monotonic() - began
    shards = sum(len(shards) for shards in plan.shards.values())
    console.say(
        f"{config.rows} images in {shards} shards, {seconds:.0f} s; peak memory "
        f"{_peak_gib():.2f} GiB, of which the images {before:.2f}"
    )
    return 0


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


if __name__ == "__main__":
    cli.run(main)
