"""Predicts new films with a trained run: files, folders or globs to CSV or JSON."""

import dataclasses
import os
import pathlib
import sys

from cxr import cli, console, images, reasons, runs
from cxr.prediction import predict_files, rows, together
from cxr.reporting.formatting import counted

USAGE = """
Predicts new films with a trained run:

  python -m cxr.predict --workdir=RUN --output=predictions.csv PATH [PATH ...]
  python -m cxr.predict --workdir=RUN,RUN --output=...       the mean of several

PATH is an image, a folder (searched to the bottom for image files), a quoted glob, or
- for a list on standard input, one path a line.
An image that cannot be read becomes a row whose status says why; the exit code is 0
unless every image failed. Research use only; not a medical device.
"""


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """What predicts, and where the table goes."""

    workdir: tuple[str, ...] = cli.required(
        "run folder or URL of a finished training; several, or the folder above "
        "seed-0, seed-1, ..., predict together",
        heading="model, films and table",
        remote=True,
    )
    output: str = cli.required("table to write: .csv, .json or .jsonl")
    recursive: bool = cli.option(
        True, "search folders to the bottom; --norecursive takes their own files alone"
    )
    explain: str = cli.option(
        "", "folder for a picture of each image with what speaks for the class"
    )
    batch_size: int = cli.option(
        32, "images a forward pass", lower=1, upper=4096, heading="computing"
    )
    threads: int = cli.option(
        0, "threads that decode images; 0 = one a core", lower=0, upper=256
    )
    precision: str = cli.option(
        "float32",
        "compute type; the others are faster where the hardware has units for them, "
        "and differ from what evaluate judged",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
    )
    progress: bool = cli.option(True, "show a progress bar when a person watches")

    def validate(self) -> None:
        """Refuses an output that no table can be written to."""
        path = pathlib.Path(self.output)
        if path.suffix.lower() not in rows.SUFFIXES:
            raise cli.UsageError(
                f"--output={self.output}: expected a name ending in "
                f"{', '.join(rows.SUFFIXES)}"
            )
        if path.is_dir():
            raise cli.UsageError(f"--output={self.output}: is a folder")
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if not (above.is_dir() and os.access(above, os.W_OK)):
            raise cli.UsageError(f"--output={self.output}: cannot write in {above}")


def main(argv: list[str]) -> int:
    """Predicts what the command line names; returns the exit code."""
    config, paths = cli.parse(argv, PredictConfig, usage=USAGE)
    members = together.open_runs(config.workdir)
    meaning = together.meaning(members)
    if any(runs.owns(run.workdir, config.output) for run in members):
        raise cli.UsageError(
            f"--output={config.output}: is a file of the run; choose another name"
        )
    if config.explain and len(members) > 1:
        raise cli.UsageError(
            f"--explain={config.explain}: Grad-CAM explains one run, --workdir names "
            f"{len(members)}"
        )
    if len(members) > 1:
        threshold = meaning.threshold
        decides = "" if threshold is None else f", positive from {threshold:.4g} on"
        console.note(f"the mean of {len(members)} runs{decides}")
    if "-" in paths:
        listed = sys.stdin.read().splitlines()
        paths = [path for path in paths if path != "-"] + list(filter(None, listed))
    counts = predict_files.predict_files(
        members,
        paths,
        config.output,
        batch_size=config.batch_size,
        threads=config.threads,
        precision=config.precision,
        recursive=config.recursive,
        explain=config.explain,
        progress=config.progress,
    )
    num_errors = sum(counts.errors.values())
    said = ", ".join(f"{count} {name}" for name, count in counts.classes.items())
    if counts.few:
        positive = "" if meaning.threshold is None else meaning.positive_class
        console.say(rows.to_text(counts.few, positive))
    console.say(
        f"{counted(counts.images, 'image')}: {said}; "
        f"{counted(counts.warnings, 'warning')}, {counted(num_errors, 'error')}; table "
        f"in {config.output}"
    )
    if config.precision != "float32":
        console.say(
            f"computed in {config.precision}, the evaluation's numbers are float32's"
        )
    for code, count in counts.errors.items():
        console.say(f"  {count} {code}: {reasons.MEANINGS[code]}")
    if counts.unchecked:
        console.note(images.unchecked_note(counts.unchecked))
    if num_errors == counts.images:
        raise cli.DataError(
            f"none of the {counts.images} images could be predicted; the column "
            f"'status' in {config.output} says why"
        )
    return 0


if __name__ == "__main__":
    cli.run(main)
