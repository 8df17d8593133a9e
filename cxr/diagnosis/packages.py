"""Compares what is installed with what cxr asks for, its extras included.

What is asked for stands in pyproject.toml of a checkout, else in what pip recorded.
"""

import contextlib
import importlib
import importlib.metadata
import pathlib
import platform
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cxr
from cxr.diagnosis.check import Check, Status

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_SHOWN = 3  # lacking packages named in a line
# What is lost without an extra, for the line that says so.
_LOST = {
    "beam": "--runner=beam is refused",
    "cloud": "s3://, gs:// and az:// are refused",
    "dicom": "DICOM films are refused",
    "export": "cxr export writes SavedModel alone",
    "fast-jpeg": "streams of JPEG are decoded at half the rate",
    "kaggle": "--input_dir=kaggle:OWNER/DATASET fetches nothing",
    "test": "only for working on cxr",
}


class Requirements:
    """What cxr asks for.

    Attributes:
      python: version specifiers, such as `>=3.11`.
      extras: extra to requirements; those of every installation under "".
      install: pip's command for an extra, `{}` in its place.
    """

    def __init__(self, python: str, extras: Mapping[str, Sequence[str]], install: str):
        """Keeps what was read."""
        self.python, self.extras, self.install = python, extras, install


def requirements() -> Requirements:
    """Reads what cxr asks for; of an installation that is neither, nothing."""
    project = _own_project()
    if project is not None:
        extras = {"": project["dependencies"], **project["optional-dependencies"]}
        python = project["requires-python"]
        return Requirements(python, extras, "pip install -e '.[{}]'")
    recorded: Any = {}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        recorded = importlib.metadata.metadata("cxr").json
    lines = recorded.get("requires_dist", [])
    names = ["", *recorded.get("provides_extra", [])]
    extras = {name: [line for line in lines if _is_of(line, name)] for name in names}
    python = recorded.get("requires_python", "")
    return Requirements(python, extras, "pip install 'cxr[{}]'")


def base(asked: Requirements) -> list[Check]:
    """Looks at Python and at what every installation brings.

    Every package is one check of the name that pip knows it by; `needed`.
    """
    try:
        import packaging.specifiers as specifiers
    except ImportError:
        text = "packaging: no version can be compared; pip install packaging"
        return [Check("packages", "packaging", "missing", None, text, needed=True)]
    version = platform.python_version()
    fits = specifiers.SpecifierSet(asked.python).contains(version, prereleases=True)
    text = f"Python {version}" + ("" if fits else f": needs {asked.python}")
    status: Status = "ok" if fits else "missing"
    return [
        Check("packages", "python", status, version, text, needed=True),
        *(_package(requirement) for requirement in _parsed(asked.extras[""])),
    ]


def extras(
    asked: Requirements, *, has_driver: bool, gpus: Sequence[str]
) -> list[Check]:
    """Looks at the optional parts.

    Args:
      asked: what cxr asks for.
      has_driver: a GPU's driver is loaded, so its libraries are wanted.
      gpus: those that TensorFlow sees: their libraries are here, by whatever way.
    """
    names = sorted(name for name in asked.extras if name)
    with contextlib.suppress(ImportError):
        return [_extra(name, asked, has_driver, gpus) for name in names]
    return []  # without packaging, which `base` tells


def codecs() -> list[Check]:
    """Looks at what decodes films."""
    return [_codec("pillow", _pillow), _codec("simplejpeg", _simplejpeg)]


def _own_project() -> dict[str, Any] | None:
    path = pathlib.Path(cxr.__file__).parents[1] / "pyproject.toml"
    with contextlib.suppress(OSError, ValueError, KeyError):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        return project if project["name"] == "cxr" else None
    return None


def _is_of(line: str, extra: str) -> bool:
    """Whether a recorded requirement is one of an extra, and not of all."""
    _, _, marker = line.partition(";")
    named = "extra ==" in marker
    return f'extra == "{extra}"' in marker.replace("'", '"') if extra else not named


def _parsed(lines: Sequence[str], extra: str = "") -> Iterator["Requirement"]:
    """Yields the requirements that count on this system."""
    from packaging.requirements import Requirement

    for line in lines:
        requirement = Requirement(line)
        if not requirement.marker or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _package(requirement: "Requirement") -> Check:
    name, version = requirement.name, _installed(requirement.name)
    asked = f"{name}{requirement.specifier}"
    if version is None:
        text = f"{name}: pip install '{asked}'"
        return Check("packages", name, "missing", None, text, needed=True)
    fits = requirement.specifier.contains(version, prereleases=True)
    text = f"{name} {version}" + ("" if fits else f": pip install '{asked}'")
    return Check(
        "packages", name, "ok" if fits else "missing", version, text, needed=True
    )


def _extra(
    name: str, asked: Requirements, has_driver: bool, gpus: Sequence[str]
) -> Check:
    lacking = list(_lacking(asked.extras[name], name, asked))
    if not lacking or (name == "gpu" and gpus):
        return Check("extras", name, "ok", [], f"{name}: installed")
    if name == "gpu" and not has_driver:
        return Check("extras", name, "ok", lacking, f"{name}: no NVIDIA driver here")
    more = f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
    lost = f" ({_LOST[name]})" if name in _LOST else ""
    text = (
        f"{name}: {', '.join(lacking[:_SHOWN])}{more}{lost}: "
        f"{asked.install.format(name)}"
    )
    status: Status = "slow" if name == "fast-jpeg" else "missing"
    return Check("extras", name, status, lacking, text)


def _lacking(lines: Sequence[str], extra: str, asked: Requirements) -> Iterator[str]:
    """Yields what an extra asks for and this installation has not."""
    for requirement in _parsed(lines, extra):
        if requirement.name == "cxr":  # an extra that takes in others of ours
            for other in sorted(requirement.extras):
                yield from _lacking(asked.extras[other], other, asked)
            continue
        version = _installed(requirement.name)
        if version is None:
            yield requirement.name
        elif not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement.name}{requirement.specifier} (not {version})"
        for other in requirement.extras if version is not None else ():
            lines_of = importlib.metadata.requires(requirement.name) or []
            theirs = [line for line in lines_of if _is_of(line, other)]
            yield from _lacking(theirs, other, asked)


def _codec(name: str, describe: Callable[[], str]) -> Check:
    version = _installed(name)
    try:
        text = f"{name} {version}, {describe()}"
    except Exception as error:  # a broken library fails in many ways
        text = f"{name} does not run: {error}"
        return Check("codecs", name, "missing", None, text, needed=True)
    return Check("codecs", name, "ok", version, text)


def _pillow() -> str:
    from PIL import features

    turbo = features.version("libjpeg_turbo")
    return f"libjpeg-turbo {turbo}" if turbo else "with a libjpeg that is not turbo"


def _simplejpeg() -> str:
    importlib.import_module("simplejpeg")
    return "with a libjpeg-turbo of its own"  # whose version it does not tell
