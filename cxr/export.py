"""Exports a trained run to formats that others load: `python -m cxr.export`."""

import dataclasses
import importlib.util
import pathlib

from cxr import cli, console, startup
from cxr.prediction import together

_USAGE = """
Exports a finished run's model for use without this package:

  python -m cxr.export --workdir=RUN --format=saved_model --output=DIR

saved_model: TensorFlow Serving's layout, DIR/1, taking image files (8-bit grey and RGB
JPEG, 8-bit PNG) or pixels. onnx, litert, openvino: pixels. What was written is checked
against the run's own model on films, and DIR is published whole or not at all, with a
page on what its answers mean, an example and its speed.
"""

# Each format's module in cxr/exporting, and the packages that it needs.
_FORMATS = {
    "saved_model": (),
    "onnx": ("onnx", "tf2onnx", "onnxruntime"),
    "litert": ("ai_edge_litert",),
    "openvino": ("openvino",),
}


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """What is exported, how, and where it goes."""

    workdir: tuple[str, ...] = cli.required(
        "run folder or URL of a finished training; several, or the folder above "
        "seed-0, seed-1, ..., become one model: their mean",
        remote=True,
    )
    output: str = cli.required("folder to write; it must not exist yet")
    format: str = cli.option(
        "saved_model",
        "target format; all but saved_model need the extra 'export'",
        choices=tuple(_FORMATS),
    )
    int8: bool = cli.option(
        False, "8-bit weights and activations (litert); needs the training films"
    )

    def validate(self) -> None:
        """Refuses what cannot be written: before TensorFlow is loaded."""
        if self.int8 and self.format != "litert":
            raise cli.UsageError(f"--int8: of --format=litert alone, not {self.format}")
        target = pathlib.Path(self.output)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise cli.UsageError(
                f"--output={target}: exists; name a new folder, or remove that one"
            )
        needed = _FORMATS[self.format]
        if missing := [name for name in needed if not importlib.util.find_spec(name)]:
            raise cli.UnavailableError(
                f"--format={self.format}: needs {', '.join(missing)}\n"
                "install what exports need: pip install 'cxr[export]'"
            )


def main(argv: list[str]) -> None:
    """Exports what the command line names."""
    config, positional = cli.parse(argv, ExportConfig, usage=_USAGE)
    cli.reject_positional(positional)
    members = together.open_runs(config.workdir)
    startup.load_tensorflow()
    console.note(f"writing {config.format} and checking it on films ...")
    from cxr.exporting import exporter

    result = exporter.export(members, config.format, config.output, int8=config.int8)
    times = ", ".join(
        f"batch {size} {ms:.1f} ms" for size, ms in result.latency_ms.items()
    )
    console.say(
        f"{config.output}: {config.format}, checked on {result.films}: largest "
        f"difference of a probability {result.difference:.1g}; {times}"
    )


if __name__ == "__main__":
    cli.run(main)
