"""Writes synthetic chest X-ray folders and phantoms.csv."""

import dataclasses

from cxr import cli, console
from cxr.synthesis import phantoms

USAGE = """
Draws synthetic chest X-rays in the reference set's folders:

  python -m tools.make_phantoms --output_dir=phantoms
  python -m tools.make_tfrecords --input_dir=phantoms --dataset=phantom

phantoms.csv (path,class,patient,box) is written last: with it the set is complete;
without it the same command finishes the set.
"""


@dataclasses.dataclass(frozen=True)
class PhantomConfig:
    """What to draw, and where."""

    output_dir: str = cli.required("folder for train/, val/, test/ and phantoms.csv")
    num_patients: int = cli.option(240, "patients, about 1.5 films each", lower=1)
    seed: int = cli.option(0, "seed of everything random", lower=0)
    difficulty: float = cli.option(
        0.5, "0 = plain opacities on clean films, 1 = hardly readable", lower=0, upper=1
    )
    film_width: int = cli.option(
        288, "median width of the films in pixels", lower=32, upper=4000
    )
    patterns: str = cli.option(
        "mixed",
        "opacities: bacteria mostly focal and virus mostly diffuse, or all alike",
        choices=phantoms.MIXES,
    )
    progress: bool = cli.option(True, "show a progress bar when a person watches")


def main(argv: list[str]) -> int:
    """Draws the set named by the command line; returns the exit code."""
    config, positional = cli.parse(argv, PhantomConfig, usage=USAGE)
    cli.reject_positional(positional)
    counts = phantoms.write(**dataclasses.asdict(config))
    for folder, count in counts.items():
        console.say(f"{folder}: {count} films")
    console.say(
        f"{sum(counts.values())} films and {phantoms.CSV_NAME} in {config.output_dir}"
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
