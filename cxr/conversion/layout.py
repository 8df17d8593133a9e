"""Reads a tree of folders as classes and splits, or says what it could be misread as.

Two layouts: class folders, or split folders (`train/ val/ test/`, by their usual names)
that hold them. What is certain is resolved and said: masks beside images, a wrapping
folder, names that differ in case. Class folders that look like anything else (two data
sets under one root, splits inside classes) are refused, with the flag that decides.
"""

import collections
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping

from cxr import class_names, cli, console, folders
from cxr.conversion.exclusion import Exclusion
from cxr.conversion.source import Source
from cxr.reasons import Rejected
from cxr.reporting.formatting import counted

# Usual names of split folders, case-folded, and the side they mean.
SIDES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_IMAGES = re.compile(r"(images?|imgs?|x-?rays?|cxrs?|films?|png|jpe?gs?)")
_MASKS = re.compile(r"(.*[ _-])?(masks?|segmentations?|segs?|ground[ _-]?truths?)")
_ARE_MASKS = "masks, beside the images of the same films"
# Sub-folders that classes may share without being data sets: views, sexes, years.
_PARTS = re.compile(
    r"(ap|pa|ll|frontal|lateral|front|side|male|female|m|f|adults?|children|child|"
    r"paediatric|pediatric|raw|original|originals|part\W?\d*|(19|20)\d\d)"
)
_MOST_PARTS = 20  # more equal names of sub-folders are patients rather than classes


def side_of(name: str) -> str:
    """Returns `train`, `val` or `test` for a split folder's name, '' for others."""
    return SIDES.get(name.casefold(), "")


class Layout:
    """An input folder, read as class folders.

    Args:
      root: the input folder.
      exclude: what is left aside.
      class_map: class folder to class; a map that names all class folders also says
        that they are classes, whatever they look like.
      pooled: whether splits inside classes are pooled, as a split policy says.

    Attributes:
      notes: what was left aside or resolved, one line each, for people.
      rejected: what is listed in quarantine.csv.

    Raises:
      DataError: no class folders, an empty class, or a tree that could be misread.
    """

    def __init__(
        self,
        root: pathlib.Path,
        exclude: Exclusion,
        class_map: Mapping[str, str],
        *,
        pooled: bool = False,
    ):
        self._root, self._exclude, self._class_map = root, exclude, class_map
        self._pooled = pooled
        self.notes: list[str] = []
        self.rejected: list[Rejected] = []
        self._top = self._descend()
        self._sides = self._split_folders(self._top)

    def files(self) -> Iterator[Source]:
        """Yields every film; its class is the folder's name."""
        if self._sides:
            self._check_siblings()
        offers: collections.Counter[str] = collections.Counter()
        for side, parent in self._sides or [("", self._top)]:
            self._note_loose_files(parent)
            classes = self._classes(side, parent)
            self._check_shared(parent, classes)
            for folder in classes:
                before = len(self.rejected)
                offers[folder.name] += 0
                for path in self._films(folder):
                    offers[folder.name] += 1
                    yield Source(path, folder.name, side)
                offers[folder.name] += len(self.rejected) - before
        self._check_offers(offers)

    # --- finding the class folders

    def _descend(self) -> pathlib.Path:
        """Steps into single wrapping folders until split folders are seen."""
        top = self._root
        while not self._split_folders(top):
            inner = self._without_masks(top)
            if len(inner) != 1 or not self._leads_to_classes(inner[0], top):
                top = self._root if not self._is_image_folder(top) else top
                break
            for folder in sorted(set(self._folders(top)) - set(inner)):
                self._leave_aside(folder, _ARE_MASKS)
            top = inner[0]
        if top != self._root:
            what = "the split folders" if self._split_folders(top) else "the classes"
            self.notes.append(f"using {self._relative(top)}/, which holds {what}")
        return top

    def _leads_to_classes(
        self, folder: pathlib.Path, parent: pathlib.Path, depth: int = 3
    ) -> bool:
        if self._split_folders(folder):
            return True
        inner = self._folders(folder)
        if len(inner) > 1:  # images/CLASS beside masks/CLASS
            return len(self._folders(parent)) > 1 and self._is_image_folder(folder)
        return (
            depth > 0
            and len(inner) == 1
            and self._leads_to_classes(inner[0], folder, depth - 1)
        )

    def _is_image_folder(self, folder: pathlib.Path) -> bool:
        return folder != self._root and bool(_IMAGES.fullmatch(folder.name.casefold()))

    def _without_masks(self, top: pathlib.Path) -> list[pathlib.Path]:
        """Returns the folders in `top`, of images and masks the images alone."""
        inner = self._folders(top)
        return [f for f in inner if f.name not in _mask_names(x.name for x in inner)]

    def _split_folders(self, top: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
        """Returns (side, folder) of each split folder that holds class folders."""
        return [
            (side_of(folder.name), folder)
            for folder in self._folders(top)
            if side_of(folder.name) and self._folders(folder)
        ]

    def _classes(self, side: str, parent: pathlib.Path) -> list[pathlib.Path]:
        """Returns the class folders of a side, without what is none.

        `test/images` beside `train/NORMAL` and `train/PNEUMONIA` holds films without a
        label, not a class of its own.
        """
        found = self._without_masks(parent)
        for folder in sorted(set(self._folders(parent)) - set(found)):
            self._leave_aside(folder, _ARE_MASKS)
        for folder in list(found) if not side else []:
            if side_of(folder.name) and not self._folders(folder):
                self._leave_aside(folder, "no class folders in it, so no labels")
                found.remove(folder)
        if side and side != "train" and not self._any_class(found):
            for folder in found:
                self._leave_aside(folder, "no class of the training folder")
            return []
        return found

    def _any_class(self, found: list[pathlib.Path]) -> bool:
        """Whether any folder of a held-out side may be a class, of training or else."""
        known = {
            folder.name.casefold()
            for side, parent in self._sides
            if side == "train"
            for folder in self._without_masks(parent)
        }
        return len(known) < 2 or any(
            folder.name.casefold() in known
            or folder.name in self._class_map
            or class_names.means_diagnosis(folder.name)
            for folder in found
        )

    # --- what lies in a class folder

    def _films(self, folder: pathlib.Path) -> Iterator[str]:
        """Yields the paths of a class folder's films."""
        entries = []
        for entry in folders.walk(folder, self._relative(folder)):
            if self._exclude.drops(entry.path):
                continue
            if entry.rejected:
                self.rejected.append(entry.rejected)
            else:
                entries.append(entry.path)
        masks: collections.Counter[str] = collections.Counter()
        mask_folders = _mask_folders(entries)
        stems = _mask_stems(entries)
        for path in entries:
            above, _, name = path.rpartition("/")
            aside = next((m for m in mask_folders if f"{above}/".startswith(m)), None)
            if aside is None and _stem_of_mask(name) in stems.get(above, ()):
                aside = f"{above}/"
            if aside is None:
                yield path
                continue
            masks[aside] += 1
            self.rejected.append(
                Rejected(path, "mask", "beside the image of the same film")
            )
        for name, count in sorted(masks.items()):
            self.notes.append(
                f"left aside: {counted(count, 'file')} in {name}: {_ARE_MASKS}"
            )

    # --- what would be misread

    def _check_shared(self, parent: pathlib.Path, classes: list[pathlib.Path]) -> None:
        """Refuses class folders whose sub-folders say that they are no classes."""
        if len(classes) < 2 or self._class_map.keys() >= {f.name for f in classes}:
            return
        inner = {
            folder: {f.name.casefold(): f for f in self._without_masks(folder)}
            for folder in classes
        }
        names = {folder.name.casefold() for folder in classes}
        for folder, own in inner.items():
            if len(names & own.keys()) > 1:
                raise self._misread(parent, classes, folder, sorted(names & own.keys()))
        shared = set.intersection(*(set(own) for own in inner.values()))
        splits = sorted(filter(side_of, shared))
        for name in splits:
            if any(self._folders(own[name]) for own in inner.values()):
                raise self._misread(parent, classes, classes[0], splits)
        if len(splits) > 1:
            if not self._pooled:
                raise self._misread(parent, classes, classes[0], splits, inside=True)
            self.notes.append(
                f"every class folder holds {console.listed(splits)}: pooled, as the "
                "split policy says"
            )
        equal = all(own.keys() == shared for own in inner.values())
        others = sorted(shared - set(splits))
        if _class_like(others, equal):
            raise self._misread(parent, classes, classes[0], others)
        if any(not _IMAGES.fullmatch(name) for name in others):
            self.notes.append(
                f"every class folder holds {console.listed(others)}: taken as parts of "
                "the class"
            )

    def _misread(
        self,
        parent: pathlib.Path,
        classes: list[pathlib.Path],
        folder: pathlib.Path,
        shared: list[str],
        *,
        inside: bool = False,
    ) -> cli.DataError:
        tops = console.listed([f.name for f in classes], 4)
        same = console.listed(shared, 4)
        seen = f"{parent}: {tops} hold folders of the same names, {same}"
        if inside:
            return cli.DataError(
                f"{seen}:\nsplits inside the classes, where classes inside splits are "
                "expected\n--split_policy=grouped pools them and cuts anew by patient; "
                f"--exclude='*/{shared[0]}/*' leaves one\naside; or move the folders "
                f"to {shared[0]}/{folder.name}/ and so on"
            )
        every = ",".join(f"{f.name}={f.name}" for f in classes[:4])
        return cli.DataError(
            f"{seen}:\ndata sets side by side, it seems, not classes\n"
            f"one of them: --input_dir={folder}\nwithout one: --exclude={folder.name}\n"
            f"if they are the classes: --class_map={every}"
        )

    def _check_offers(self, offers: collections.Counter) -> None:
        """Refuses a folder without classes, or with an empty one."""
        if not offers:
            raise cli.DataError(
                f"{self._top}: no class folders; expected one sub-folder a class, or "
                "train/ val/ test/ with one sub-folder a class each; labels in a "
                "table: --labels_csv"
            )
        empty = [name for name, count in offers.items() if not count]
        if empty:
            raise cli.DataError(
                f"{self._top}: the class folder {empty[0]!r} holds no films"
            )

    # --- what is left aside

    def _check_siblings(self) -> None:
        """Names what lies beside the split folders; a second tree must be a copy."""
        self._note_loose_files(self._top)
        inside = {folder for _, folder in self._sides}
        classes = {f.name.casefold() for side in inside for f in self._folders(side)}
        for folder in self._folders(self._top):
            if folder in inside:
                continue
            if side_of(folder.name):
                self._leave_aside(folder, "no class folders in it, so no labels")
                continue
            if folder.name.casefold() in classes:
                raise cli.DataError(
                    f"{folder}: a class folder beside the split folders, which hold "
                    f"{folder.name!r}, too\nmove it to train/{folder.name}/, or leave "
                    f"it aside: --exclude={folder.name}"
                )
            if not self._split_folders(folder):
                self._leave_aside(folder, "beside the split folders")
                continue
            extra = self._listing(folder) - self._listing(self._top)
            if extra:
                raise cli.DataError(
                    f"{folder}: a second tree of split folders with {len(extra)} files "
                    f"that {self._top} lacks, such as {min(extra)[0]!r}; give one of "
                    f"the two as --input_dir, or --exclude={folder.name}"
                )
            name = self._relative(folder)
            self.notes.append(f"left aside: {name}/, a second copy of the same tree")

    def _listing(self, top: pathlib.Path) -> set[tuple[str, int]]:
        """Returns (path below `top`, size) of every file in its split folders."""
        return {
            (entry.path, pathlib.Path(entry.file).stat().st_size)
            for _, side in self._split_folders(top)
            for entry in folders.walk(side, side.name)
            if not entry.rejected
        }

    def _leave_aside(self, folder: pathlib.Path, why: str) -> None:
        name = self._relative(folder)
        count = sum(1 for entry in folders.walk(folder, name) if not entry.is_folder)
        self.notes.append(f"left aside: {name}/, {counted(count, 'file')}: {why}")

    def _note_loose_files(self, folder: pathlib.Path) -> None:
        names = [
            name
            for name, is_folder in folders.entries(folder)
            if not is_folder and not self._exclude.matching(self._inside(folder, name))
        ]
        if not names:
            return
        some = ", ".join(ascii(name) for name in names[:3])
        self.notes.append(
            f"left aside: {counted(len(names), 'file')} outside class folders in "
            f"{self._relative(folder)}: {some}"
        )

    def _folders(self, folder: pathlib.Path) -> list[pathlib.Path]:
        return [
            folder / name
            for name, is_folder in folders.entries(folder)
            if is_folder and not self._exclude.matching(self._inside(folder, name))
        ]

    def _inside(self, folder: pathlib.Path, name: str) -> str:
        return name if folder == self._root else f"{self._relative(folder)}/{name}"

    def _relative(self, path: pathlib.Path) -> str:
        return path.relative_to(self._root).as_posix()


def _class_like(shared: list[str], equal: bool) -> bool:
    """Whether sub-folders that all class folders share look like classes.

    Args:
      shared: their names, case-folded.
      equal: no class folder has another.
    """
    if len(shared) < 2:
        return False
    if any(map(class_names.means_diagnosis, shared)):
        return True
    if shared == ["0", "1"]:
        return equal
    numbered = any(re.search(r"\d", name) for name in shared)  # patients, studies
    parts = any(map(_PARTS.fullmatch, shared))
    return equal and len(shared) <= _MOST_PARTS and not numbered and not parts


def _mask_names(names: Iterable[str]) -> set[str]:
    """Returns which of a folder's folders hold masks of the images in another."""
    names = set(names)
    masks = {name for name in names if _MASKS.fullmatch(name.casefold())}
    others = names - masks
    images = any(_IMAGES.fullmatch(name.casefold()) for name in others)
    return masks if images or len(others) > 1 else set()


def _mask_folders(paths: Iterable[str]) -> list[str]:
    """Returns the folders of masks beside folders of images, each with its slash."""
    inner: dict[str, set[str]] = collections.defaultdict(set)
    for folder in {path.rpartition("/")[0] for path in paths}:
        while folder:
            above, _, name = folder.rpartition("/")
            inner[above].add(name)
            folder = above
    return sorted(
        f"{above}/{name}/"
        for above, names in inner.items()
        for name in _mask_names(names)
    )


def _stem_of_mask(name: str) -> str | None:
    """Returns the stem of the film that `STEM_mask.png` is a mask of."""
    match = re.fullmatch(r"(?i)(.+?)[ _-](?:lung[ _-])?masks?(?:\.\w+)?", name)
    return match[1] if match else None


def _mask_stems(paths: Iterable[str]) -> dict[str, set[str]]:
    """Returns by folder the stems of its files, of folders that hold masks."""
    paths = list(paths)
    holding = {
        p.rpartition("/")[0] for p in paths if _stem_of_mask(p.rpartition("/")[2])
    }
    stems: dict[str, set[str]] = {folder: set() for folder in holding}
    for path in paths if holding else ():
        above, _, name = path.rpartition("/")
        if above in stems:
            stems[above].add(name.partition(".")[0])
    return stems
