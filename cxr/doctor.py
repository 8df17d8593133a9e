"""Says what this machine has, lacks and will be slow at: `python -m cxr.doctor`."""

import dataclasses
import json

from cxr import cli, console, platforms
from cxr.diagnosis import accelerators, check, machine, packages
from cxr.diagnosis.check import Check

_USAGE = """
Looks at this machine before anything else does: Python and packages, CPU, GPUs, memory,
disks, optional parts, pretrained weights. A line each, which begins with ok, slow: or
missing:, and says what to do. Nothing is sent anywhere or fetched.

  python -m cxr.doctor
  python -m cxr.doctor --format=json      for a bug report

Exit code 69 where a package that every installation has is missing or does not run, 0
otherwise: what is optional or slow is only said.
"""


@dataclasses.dataclass(frozen=True)
class DoctorConfig:
    """What is looked at, and how it is told."""

    data_dir: str = cli.option("data", "root of the converted sets")
    format: str = cli.option(
        "text", "lines for people or JSON for machines", choices=("text", "json")
    )
    timeout_s: float = cli.option(
        120.0, "seconds that TensorFlow has to answer, in a child process", lower=1
    )


def examine(config: DoctorConfig) -> list[Check]:
    """Looks at everything; imports no TensorFlow into this process."""
    asked = packages.requirements()
    console.note("asking TensorFlow, in a process of its own (about 10 s) ...")
    answer = accelerators.ask_tensorflow(config.timeout_s)
    seen = answer.found["gpus"] if answer.found else ()
    return [
        *packages.base(asked),
        *packages.codecs(),
        *accelerators.tensorflow(answer),
        *accelerators.gpus(answer),
        *machine.cpu(),
        *machine.memory(),
        *machine.disks(config.data_dir),
        *packages.extras(asked, has_driver=platforms.has_gpu_driver(), gpus=seen),
        *machine.weights(),
    ]


def main(argv: list[str]) -> int:
    """Runs the command line."""
    config, positional = cli.parse(argv, DoctorConfig, usage=_USAGE)
    cli.reject_positional(positional)
    checks = examine(config)
    if config.format == "json":
        print(json.dumps(check.as_document(checks), indent=2))
    else:
        console.say(check.as_text(checks))
    return cli.EXIT_UNAVAILABLE if any(one.stops for one in checks) else 0


if __name__ == "__main__":
    cli.run(main)
