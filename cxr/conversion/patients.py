"""Tells whose each film is: by a table, its header, its path, or as a copy.

Augmented and duplicated files (`aug_1_X`, `X - Copy`, `X (1)`) belong to the patient of
their original. The reference set's names count only where they can be meant: viewers
export every patient as `IM-0001-0001.jpg`, in a folder of its own.
"""

import collections
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from cxr import cli, reference_set
from cxr.conversion.layout import side_of
from cxr.conversion.spool import Converted

_MADE = (
    r"aug(?:mented)?|h?flip(?:ped)?|vflip(?:ped)?|mirror(?:ed)?|rot(?:ated?)?|turned|"
    r"re-?saved|zoom(?:ed)?|shift(?:ed)?|shear(?:ed)?|scaled?|crop(?:ped)?|blur(?:red)?|"
    r"nois[ey]|bright(?:ness)?|contrast|gamma|clahe|equalized|enhanced"
)
_PREFIX = re.compile(rf"(?i)^(?:(?:{_MADE}|copy[ _-]of)[ _-]*\d*[ _-]+)+(?=\w)")
_SUFFIX = re.compile(
    rf"(?i)(?:[ _-]+(?:{_MADE}|copy|kopie|copie)[ _-]*\d*(?: ?\(\d+\))?)+$"
)
_NUMBERED = re.compile(r" ?\(\d+\)$")  # of browsers; but also how Windows renames many
_PATIENT_FOLDER = re.compile(r"(?i)(patient|subject|case|pat|pid)[ _-]?\d+")
_FEW = 4  # films of which one patient is no wonder


class Identity(NamedTuple):
    """Whose a film is.

    Attributes:
      patient_id: `SUBTYPE:PATIENT`, `PATIENT`, or the path of a film that tells none.
      subtype: empty where the name tells none.
    """

    patient_id: str
    subtype: str


def identify(images: Sequence[Converted], pattern: str) -> tuple[list[Identity], int]:
    """Tells whose each image is.

    Args:
      images: sorted by path.
      pattern: `--patient_pattern`; empty for the reference set's two.

    Returns:
      one identity an image, and how many are copies by their names.

    Raises:
      DataError: the reference set's patterns make one patient of many.
    """
    parse = parser(pattern)
    originals = _originals(images)
    found, names = [], dict[str, str]()  # the films of a patient share one text
    told = collections.defaultdict(list)  # (path, patient) by label, of the names
    for image in images:
        path = originals.get(image.path, image.path)
        subtype, patient = parse(path)
        key = f"{subtype}:{patient}" if subtype and patient else patient
        name = image.patient or key or path
        found.append(Identity(names.setdefault(name, name), subtype))
        if key and not image.patient and not pattern:
            told[image.label].append((image.path, key))
    if not pattern:
        _check_plausible(told)
    return found, len(originals)


def parser(pattern: str) -> Callable[[str], tuple[str, str]]:
    """Returns a function from a file's path to (subtype, patient), '' where unknown.

    Args:
      pattern: searched in the path, then in the file's name, which `^` may begin;
        empty for the reference set's two, of file names.

    Raises:
      UsageError: no regular expression, or one without a group `patient`.
    """
    own = [compile_pattern(p) for p in reference_set.PATIENT_PATTERNS]
    given = compile_pattern(pattern) if pattern else None

    def parse(path: str) -> tuple[str, str]:
        name = path.rpartition("/")[2]
        if given is None:
            match = own[0].search(name) or own[1].search(name)
        else:
            match = given.search(path) or given.search(name)
        if match is None:
            return "", ""
        groups = match.groupdict()
        return groups.get("subtype") or "", groups["patient"] or ""

    return parse


def compile_pattern(pattern: str) -> re.Pattern:
    """Returns `--patient_pattern` compiled; UsageError where it cannot be one."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise cli.UsageError(
            f"--patient_pattern={pattern}: not a regular expression: {error}"
        ) from error
    if "patient" not in compiled.groupindex:
        raise cli.UsageError(
            f"--patient_pattern={pattern}: needs a named group 'patient', such as "
            r"'^(?P<patient>\d+)_'"
        )
    return compiled


def advice(paths: Iterable[str], classes: Iterable[str]) -> str:
    """Returns the flag that would tell patients by their folders, '' for flat ones.

    Args:
      paths: of films.
      classes: names of the classes, which a folder of a patient has not.
    """
    paths = list(paths)
    taken = {name.casefold() for name in classes}
    named = [match for path in paths if (match := _PATIENT_FOLDER.search(path))]
    if len(named) == len(paths) and len(named) > 1:
        pattern = rf"(?P<patient>(?i:{named[0][1]})[ _-]?\d+)"
    else:
        pattern = "(?P<patient>[^/]+)/[^/]+$"
        folders = {path.split("/")[-2].casefold() for path in paths if "/" in path}
        if len(folders) < _FEW or not taken.isdisjoint(folders):
            return ""
    count = len({m["patient"] for path in paths if (m := re.search(pattern, path))})
    return f"--patient_pattern='{pattern}' would make {count:,} patients"


def _originals(images: Sequence[Converted]) -> dict[str, str]:
    """Returns the path of the original of each file that is a copy by its name."""
    suspects = {}
    for image in images:
        folder, _, name = image.path.rpartition("/")
        stem = os.path.splitext(name)[0]
        bare, sure = _without_marks(stem)
        if bare != stem:
            suspects[image.path] = (image.label, folder, bare, sure)
    if not suspects:
        return {}
    inside: dict[tuple[str, str], str] = {}
    by_label: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    for image in images:
        if image.path not in suspects:
            folder, _, name = image.path.rpartition("/")
            stem = os.path.splitext(name)[0]
            inside.setdefault((folder, stem), image.path)
            by_label[image.label, stem].append(image.path)
    found = {}
    for path, (label, folder, bare, sure) in suspects.items():
        elsewhere = by_label.get((label, bare), [])
        if (folder, bare) in inside:
            found[path] = inside[folder, bare]
        elif len(elsewhere) == 1:
            found[path] = elsewhere[0]
        elif sure:  # its original is not there: the copies belong together
            found[path] = f"{folder}/{bare}{os.path.splitext(path)[1]}"
    return found


def _without_marks(stem: str) -> tuple[str, bool]:
    """Returns a stem without the marks of copies, and whether these are sure."""
    plain = _NUMBERED.sub("", stem)
    bare = _SUFFIX.sub("", _PREFIX.sub("", plain))
    if bare != plain:
        return bare, True
    return plain, False


def _check_plausible(told: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """Refuses names of viewers, by which all patients would be one.

    Args:
      told: (path, patient) of the films of each label whose names tell one.
    """
    for label, films in sorted(told.items()):
        paths = [path for path, _ in films]
        patients = sorted({patient for _, patient in films})
        places = {_inner_folder(path) for path in paths}
        one = len(patients) == 1 and len(films) >= _FEW
        if not one and not 1 < len(places) > len(patients):
            continue
        name = paths[0].rpartition("/")[2]
        every = "each file a patient of its own: --patient_pattern='(?P<patient>.+)'"
        raise cli.DataError(
            f"class {label!r}: names such as {name} would make "
            f"{len(patients)} patient{'s' * (len(patients) > 1)} of {len(films):,} "
            f"films in {len(places):,} folder{'s' * (len(places) > 1)}\n"
            "viewers name the films of every patient so; say what tells a patient:\n"
            f"{advice(paths, [label]) or every}"
        )


def _inner_folder(path: str) -> str:
    """The folder of a file, without the names of split folders in its path."""
    names = path.split("/")[:-1]
    return "/".join(name for name in names if not side_of(name))
