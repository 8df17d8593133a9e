"""Reserved: exports a trained run to other formats: `python -m cxr.export`."""

import dataclasses

from cxr import cli

_USAGE = """
Exports a trained run for use without Keras. Not yet supported; until it is, the run's
best_xray_model.keras loads with Keras alone.
"""


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """The reserved flags."""

    workdir: str = cli.option("", "run folder")
    format: str = cli.option(
        "saved_model", "target format", choices=("saved_model", "litert", "onnx")
    )
    output: str = cli.option("", "where to write")


def main(argv: list[str]) -> int:
    """Refuses, as long as there is nothing behind the name."""
    config, positional = cli.parse(argv, ExportConfig, usage=_USAGE)
    cli.reject_positional(positional)
    raise cli.UnavailableError(f"--format={config.format}: not yet supported")


if __name__ == "__main__":
    cli.run(main)
