"""Lists the films that an input folder offers, with their class and split.

Labels come from class folders (`layout`) or from a table (`label_table`). What is not
a regular file is listed with a reason instead of being opened; what lies outside the
layout is named in the notes. Nothing is skipped in silence except dot-files and other
litter of operating systems (`folders`).
"""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Iterable

from cxr import class_names, cli, files
from cxr.conversion.exclusion import Exclusion
from cxr.conversion.label_table import LabelTable, TableConfig
from cxr.conversion.layout import Layout
from cxr.conversion.source import Source
from cxr.reasons import Rejected

KAGGLE_PREFIX = "kaggle:"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceConfig(TableConfig):
    """The flags that say which film is of which class."""

    exclude: tuple[str, ...] = cli.option(
        (),
        "glob of paths below --input_dir to leave aside; repeatable. Without a slash "
        "it matches any file's or folder's name",
        heading="which films, of which class",
    )
    class_map: tuple[str, ...] = cli.option(
        (), "NAME=CLASS,...: folder or table label to class, such as Healthy=NORMAL"
    )

    def validate(self) -> None:
        """Raises UsageError for a map that is none, or flags of no table."""
        super().validate()
        class_names.parse_map("class_map", self.class_map)


@dataclasses.dataclass(frozen=True)
class Tree:
    """What an input folder offers.

    Attributes:
      root: the input folder.
      sources: sorted by path.
      rejected: entries that are not taken, sorted by path.
      notes: what was left aside, one line each, for people.
      table_sha256: of the table of labels; empty without one.
    """

    root: pathlib.Path
    sources: tuple[Source, ...]
    rejected: tuple[Rejected, ...]
    notes: tuple[str, ...]
    table_sha256: str = ""


def find(
    input_dir: str | os.PathLike,
    config: SourceConfig = SourceConfig(),
    *,
    split_policy: str = "auto",
) -> Tree:
    """Lists what an input folder offers.

    Args:
      input_dir: the folder.
      config: which film is of which class.
      split_policy: `--split_policy`; some pool what others must be told apart.

    Raises:
      UsageError: no such folder, or a flag names what there is not.
      DataError: no class folders, one class only, or a folder that could be misread.
    """
    root = pathlib.Path(input_dir)
    if not root.is_dir():
        what = "not a folder" if root.exists() else "no such folder"
        raise cli.UsageError(
            f"--input_dir={input_dir}: {what}; expected a folder of class folders, or "
            f"of train/ val/ test/, or {KAGGLE_PREFIX}OWNER/DATASET"
        )
    exclude = Exclusion(config.exclude)
    class_map = class_names.parse_map("class_map", config.class_map)
    if config.labels_csv:
        table = LabelTable(config, root, exclude)
        found = table.films
        rejected, notes = table.rejected, table.notes
        table_sha256 = files.sha256_file(pathlib.Path(config.labels_csv))
    else:
        pooled = split_policy in ("grouped", "blocks", "counter", "test_only")
        layout = Layout(root, exclude, class_map, pooled=pooled)
        found = list(layout.files())
        rejected, notes, table_sha256 = layout.rejected, layout.notes, ""
    notes += exclude.notes()
    found = _rename(found, class_map, notes)
    only_test = split_policy == "test_only" or all(s.side == "test" for s in found)
    _check_classes({source.label for source in found}, input_dir, only_test)
    return Tree(
        root, tuple(sorted(found)), tuple(sorted(rejected)), tuple(notes), table_sha256
    )


def _rename(
    found: list[Source], class_map: dict[str, str], notes: list[str]
) -> list[Source]:
    """Gives classes their names by the map, then names of different case one."""
    class_names.check_map("class_map", class_map, {source.label for source in found})
    found = _relabelled(found, class_map)
    counts = collections.Counter(source.label for source in found)
    cases = class_names.merge_cases(counts)
    for name, kept in cases.items():
        notes.append(
            f"the classes {name!r} and {kept!r} differ in case alone: one, {kept!r}"
        )
    return _relabelled(found, cases)


def _relabelled(found: list[Source], names: dict[str, str]) -> list[Source]:
    if not names:
        return found
    return [s._replace(label=names.get(s.label, s.label)) for s in found]


def _check_classes(
    classes: Iterable[str], input_dir: str | os.PathLike, only_test: bool
) -> None:
    names = sorted(classes)
    if len(names) == 1 and not only_test:
        raise cli.DataError(
            f"{input_dir}: only one class, {names[0]!r}; at least two are needed. "
            "Give the folder that holds all class folders as --input_dir; labels in a "
            "table: --labels_csv"
        )


def download(handle: str) -> pathlib.Path:
    """Fetches `OWNER/DATASET` from Kaggle, or finds the copy fetched before.

    Raises:
      UsageError: the handle has another form.
      UnavailableError: no extra `kaggle`, no network, no such set, no permission;
        says what to do.
    """
    owner, _, dataset = handle.partition("/")
    if not owner or not dataset or "/" in dataset:
        raise cli.UsageError(
            f"--input_dir={KAGGLE_PREFIX}{handle}: expected {KAGGLE_PREFIX}OWNER/"
            f"DATASET, such as {KAGGLE_PREFIX}paultimothymooney/chest-xray-pneumonia"
        )
    try:
        import kagglehub  # late: it costs 0.5 s, and only this source needs it
    except ImportError as error:
        raise cli.UnavailableError(
            f"--input_dir={KAGGLE_PREFIX}{handle}: needs kagglehub: pip install "
            "'cxr[kaggle]'"
        ) from error
    try:
        return pathlib.Path(kagglehub.dataset_download(handle))
    except Exception as error:  # network, HTTP, credentials
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise cli.UnavailableError(
            f"--input_dir={KAGGLE_PREFIX}{handle}: download failed: {reason}\n"
            f"by hand: open https://www.kaggle.com/datasets/{handle} and choose\n"
            "Download, unpack archive.zip, and give --input_dir=FOLDER, the one that\n"
            "holds train/ val/ test/ or the class folders"
        ) from error
