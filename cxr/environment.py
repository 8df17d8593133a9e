"""Records where a run was trained: software, devices, commit, data."""

import dataclasses
import importlib.metadata
import pathlib
import platform
import subprocess
import tomllib

from cxr import documents
from cxr.model_info import DataIdentity

FILE = "environment.json"
# How an epoch is shuffled: a run goes on in the order that it has begun with, wherever
# its images lie then.
WHOLE_SPLIT, NEARBY = "whole", "nearby"
_ORDERS = (WHOLE_SPLIT, NEARBY)
_SHOWN_PACKAGES = ("tensorflow", "keras", "keras-cv", "numpy", "pillow", "scikit-learn")


@dataclasses.dataclass(frozen=True)
class Environment:
    """What environment.json holds.

    Attributes:
      python: version.
      platform: operating system and processor.
      packages: name to version.
      git_commit: of our own checkout; None where the code is not from one.
      devices: what trains.
      replicas: their number.
      precision: Keras' name of the compute type.
      order: `WHOLE_SPLIT` or `NEARBY`, see cxr/input/orders.py; None of an older run.
      data: the set that is trained on.
    """

    python: str
    platform: str
    packages: dict[str, str]
    git_commit: str | None
    devices: tuple[str, ...]
    replicas: int
    precision: str
    order: str | None
    data: DataIdentity

    @classmethod
    def parse(cls, fields: documents.Fields) -> "Environment":
        """Parses environment.json's content; ValueError names what is wrong."""
        packages = fields.section("packages")
        order = fields.text("order", choices=_ORDERS) if fields.has("order") else None
        return cls(
            python=fields.text("python"),
            platform=fields.text("platform"),
            packages={name: packages.text(name) for name in packages.content},
            git_commit=fields.text("git_commit") if fields.has("git_commit") else None,
            devices=fields.texts("devices"),
            replicas=fields.integer("replicas", 1),
            precision=fields.text("precision"),
            order=order,
            data=DataIdentity.parse(fields.section("data")),
        )


def describe(
    data: DataIdentity,
    *,
    devices: tuple[str, ...],
    replicas: int,
    precision: str,
    order: str,
) -> Environment:
    """Returns the environment of this process."""
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        packages={name: importlib.metadata.version(name) for name in _SHOWN_PACKAGES},
        git_commit=git_commit(),
        devices=devices,
        replicas=replicas,
        precision=precision,
        order=order,
        data=data,
    )


def read(workdir: pathlib.Path) -> Environment | None:
    """Returns a run's environment, None where it has no file of it.

    Raises:
      DataError: the file is not what was written.
    """
    path = workdir / FILE
    if not path.exists():
        return None
    with documents.reading(path):
        return Environment.parse(documents.read(path))


def git_commit() -> str | None:
    """Returns the commit of our own checkout, None where this code is not from one.

    Whatever holds an installed package may be in a repository of somebody else's. Ours
    begins in the folder beside the package, has this file and calls its project cxr.
    """
    file = pathlib.Path(__file__)
    root = file.parents[1]
    tracked = f"HEAD:./{file.relative_to(root).as_posix()}"
    command = ["git", "-C", str(root), "rev-parse", "--show-prefix", "HEAD", tracked]
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
        found = subprocess.run(command, capture_output=True, text=True)
    except (OSError, ValueError, KeyError):  # no project, no git
        return None
    if found.returncode or project.get("name") != "cxr":
        return None
    prefix, commit, _ = found.stdout.splitlines()
    return None if prefix else commit
