"""Checks converted sets completely: `python -m tools.verify_tfrecords --help`."""

import dataclasses
import json

from cxr import cli, console
from cxr.conversion import verification, workers
from cxr.reporting.formatting import counted
from cxr.storage import sets

USAGE = """
Checks converted sets against their manifests, every byte of every record:

  python -m tools.verify_tfrecords --data_dir=ROOT

Names each faulty shard and record, and exits 65 on any fault.
"""


@dataclasses.dataclass(frozen=True)
class VerifyConfig:
    """The flags of a verification."""

    data_dir: str = cli.option(
        "data", "root of the converted sets, a folder or URL", remote=True
    )
    dataset: str = cli.option("", "check only this set; default: all below the root")
    version: str = cli.option("", "check only this version; default: all")
    workers: int = cli.option(0, "processes; 0 is one a core", lower=0, upper=1024)
    json: bool = cli.option(False, "print the result as JSON")


def main(argv: list[str]) -> int:
    """Parses the flags and checks."""
    config, positional = cli.parse(argv, VerifyConfig, usage=USAGE)
    cli.reject_positional(positional)
    root = sets.fetch_all(
        config.data_dir, dataset=config.dataset, version=config.version
    )
    paths = verification.find_sets(root, dataset=config.dataset, version=config.version)
    with workers.started(config.workers, preload=verification.__name__) as pool:
        faults = {path: verification.verify(path, pool) for path in paths}
    if config.json:
        console.say(
            json.dumps([_as_dict(path, found) for path, found in faults.items()])
        )
    else:
        for path, found in faults.items():
            for fault in found:
                console.say(f"{path}/{fault}")
            console.say(f"{path}: {counted(len(found), 'fault') if found else 'sound'}")
    return cli.EXIT_DATA if any(faults.values()) else 0


def _as_dict(path: object, faults: list[verification.Fault]) -> dict:
    listed = [fault._asdict() for fault in faults]
    return {"path": str(path), "sound": not faults, "faults": listed}


if __name__ == "__main__":
    cli.run(main)
