"""Lists the files of an input folder with their class and split.

Two layouts: class folders, or any of `train/ val/ test/` holding them. What is
not a regular file is listed with a reason instead of being opened; what lies
outside the layout is named in the notes. Nothing is skipped in silence except
dot-files and other litter of operating systems (`folders`).
"""

import collections
import dataclasses
import os
import pathlib
from typing import NamedTuple

from cxr import cli, folders
from cxr.reasons import Rejected

KAGGLE_PREFIX = "kaggle:"
SIDES = {"train": "train", "val": "val", "validation": "val", "test": "test"}


class Source(NamedTuple):
    """One file offered as an image.

    Attributes:
      path: POSIX path relative to the input folder.
      folder: its class folder's name.
      side: `train`, `val` or `test` as the source has it; empty without.
    """

    path: str
    folder: str
    side: str


@dataclasses.dataclass(frozen=True)
class Tree:
    """What an input folder offers.

    Attributes:
      root: the input folder.
      sources: sorted by path.
      rejected: entries that cannot be opened as files, sorted by path.
      notes: what was left aside, one line each, for people.
    """

    root: pathlib.Path
    sources: tuple[Source, ...]
    rejected: tuple[Rejected, ...]
    notes: tuple[str, ...]


def find(input_dir: str | os.PathLike) -> Tree:
    """Lists what an input folder offers.

    Raises:
      UsageError: no such folder.
      DataError: no class folders, one class only, or an empty class.
    """
    root = pathlib.Path(input_dir)
    if not root.is_dir():
        what = "not a folder" if root.exists() else "no such folder"
        raise cli.UsageError(
            f"--input_dir={input_dir}: {what}; expected a folder of class folders, or "
            f"of train/ val/ test/, or {KAGGLE_PREFIX}OWNER/DATASET"
        )
    top, notes = _descend(root)
    sides = _side_folders(top)
    offers: collections.Counter[str] = collections.Counter()
    sources, rejected = [], []
    if sides:
        notes += _check_siblings(top, root)
    for side, parent in sides or [("", top)]:
        notes += _loose_files(parent, root)
        for folder in _folders(parent):
            offers[folder.name] += 0
            start = _relative(folder, root)
            for entry in folders.walk(folder, start):
                offers[folder.name] += 1
                if entry.rejected:
                    rejected.append(entry.rejected)
                else:
                    sources.append(Source(entry.path, folder.name, side))
    _check_classes(offers, top)
    return Tree(root, tuple(sorted(sources)), tuple(sorted(rejected)), tuple(notes))


def download(handle: str) -> pathlib.Path:
    """Fetches `OWNER/DATASET` from Kaggle, or finds the copy fetched before.

    Raises:
      UsageError: the handle has another form.
      UnavailableError: no network, no such set, no permission; says what to do
        by hand.
    """
    owner, _, dataset = handle.partition("/")
    if not owner or not dataset or "/" in dataset:
        raise cli.UsageError(
            f"--input_dir={KAGGLE_PREFIX}{handle}: expected {KAGGLE_PREFIX}OWNER/"
            f"DATASET, such as {KAGGLE_PREFIX}paultimothymooney/chest-xray-pneumonia"
        )
    try:
        import kagglehub  # late: it costs 0.5 s, and only this source needs it

        return pathlib.Path(kagglehub.dataset_download(handle))
    except Exception as error:  # network, HTTP, credentials, missing package
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise cli.UnavailableError(
            f"--input_dir={KAGGLE_PREFIX}{handle}: download failed: {reason}\n"
            f"by hand: open https://www.kaggle.com/datasets/{handle} and choose\n"
            "Download, unpack archive.zip, and give --input_dir=FOLDER, the one that\n"
            "holds train/ val/ test/ or the class folders"
        ) from error


def _descend(root: pathlib.Path) -> tuple[pathlib.Path, list[str]]:
    """Steps into single wrapping folders until train/ val/ test/ are seen."""
    top = root
    while not _side_folders(top):
        inner = _folders(top)
        if len(inner) != 1 or not _leads_to_sides(inner[0]):
            return root, []
        top = inner[0]
    if top == root:
        return root, []
    return top, [f"using {_relative(top, root)}/, which holds the split folders"]


def _leads_to_sides(folder: pathlib.Path, depth: int = 3) -> bool:
    if _side_folders(folder):
        return True
    inner = _folders(folder)
    return depth > 0 and len(inner) == 1 and _leads_to_sides(inner[0], depth - 1)


def _side_folders(top: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
    """Returns (side, folder) of each split folder that holds class folders."""
    return [
        (SIDES[folder.name], folder)
        for folder in _folders(top)
        if folder.name in SIDES and _folders(folder)
    ]


def _check_siblings(top: pathlib.Path, root: pathlib.Path) -> list[str]:
    """Names what lies beside the split folders; a second tree must be a copy."""
    notes = _loose_files(top, root)
    for folder in _folders(top):
        if folder.name in SIDES:
            continue
        name = _relative(folder, root)
        if not _side_folders(folder):
            notes.append(f"left aside: {name}/, beside the split folders")
            continue
        extra = _listing(folder) - _listing(top)
        if extra:
            raise cli.DataError(
                f"{folder}: a second tree of split folders with {len(extra)} files "
                f"that {top} lacks, such as {min(extra)[0]!r}; give one of the two as "
                "--input_dir"
            )
        notes.append(f"left aside: {name}/, a second copy of the same tree")
    return notes


def _listing(top: pathlib.Path) -> set[tuple[str, int]]:
    """Returns (path below `top`, size) of every file in its split folders."""
    return {
        (entry.path, os.stat(entry.file).st_size)
        for _, side in _side_folders(top)
        for entry in folders.walk(side, side.name)
        if not entry.rejected
    }


def _loose_files(folder: pathlib.Path, root: pathlib.Path) -> list[str]:
    names = [name for name, is_folder in folders.entries(folder) if not is_folder]
    if not names:
        return []
    where = _relative(folder, root)
    some = ", ".join(ascii(name) for name in names[:3])
    return [f"left aside: {len(names)} files outside class folders in {where}: {some}"]


def _check_classes(offers: collections.Counter, top: pathlib.Path) -> None:
    """Refuses a folder that cannot make a classifier; `offers` counts its files."""
    if not offers:
        raise cli.DataError(
            f"{top}: no class folders; expected one sub-folder a class, or train/ val/ "
            "test/ with one sub-folder a class each"
        )
    empty = [name for name, count in offers.items() if not count]
    if empty:
        raise cli.DataError(f"{top}: the class folder {empty[0]!r} holds no files")
    if len(offers) == 1:
        raise cli.DataError(
            f"{top}: only one class folder, {min(offers)!r}; at least two are needed. "
            "Give the folder that holds all class folders as --input_dir"
        )


def _folders(folder: pathlib.Path) -> list[pathlib.Path]:
    return [folder / name for name, is_folder in folders.entries(folder) if is_folder]


def _relative(path: pathlib.Path, root: pathlib.Path) -> str:
    return path.relative_to(root).as_posix()
