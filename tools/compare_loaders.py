"""Runs other input pipelines on the same films beside ours, in turn."""

import pathlib
import sys

from cxr import cli

_CHECKOUT = pathlib.Path(__file__).parents[1]


def main(argv: list[str]) -> int:
    """Runs the comparison, which an installed wheel does not hold."""
    if not (_CHECKOUT / "benchmarks" / "loader_speed.py").is_file():
        raise cli.UnavailableError(
            "tools.compare_loaders needs a checkout: its loaders are in benchmarks/, "
            "which is not installed"
        )
    # In front: installed as editable nothing else leads there, and the folder at hand
    # may have benchmarks of its own.
    sys.path.insert(0, str(_CHECKOUT))
    from benchmarks import loader_speed

    return loader_speed.main(argv)


if __name__ == "__main__":
    cli.run(main)
