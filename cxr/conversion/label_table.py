"""Reads which film is of which class, patient and split out of a table.

A row names a film by its path, by a path below some other root, or by its bare name or
stem; it is looked for among the files that lie in the input folder, and never opened by
what the table says. Columns are guessed from the headers of the large public sets.
"""

import collections
import contextlib
import csv
import dataclasses
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from cxr import class_names, cli, console
from cxr.conversion import attributes
from cxr.conversion.attributes import Attributes
from cxr.conversion.exclusion import Exclusion
from cxr.conversion.film_index import FilmIndex
from cxr.conversion.layout import side_of
from cxr.conversion.source import Source
from cxr.reasons import Rejected

# Headers without case and punctuation: of NIH ChestX-ray14, CheXpert, MIMIC-CXR, RSNA,
# VinDr-CXR, PadChest, COVID-QU-Ex and others, the surest first.
_HEADERS = {
    "path": (
        ("path", "imagepath", "filepath", "imageindex", "filename", "file", "image")
        + ("imagename", "xrayimagename", "imageid", "dicomid", "sopinstanceuid", "name")
        + ("patientid", "id")  # RSNA: one film a patient
    ),
    "label": (
        ("findinglabels", "label", "labels", "class", "classname", "diagnosis")
        + ("finding", "findings", "disease", "category", "target")
    ),
    "patient": ("patientid", "patient", "subjectid", "patientnumber", "patientkey"),
    "split": ("split", "subset", "datasettype", "partition", "set"),
    "age": ("patientage", "age"),
    "sex": ("patientsex", "patientgender", "sex", "gender"),
    "view": ("viewposition", "view", "appa", "projection", "frontallateral"),
    "device": (),  # named, never guessed: no set has a usual header
}
_POSITIVE, _NEGATIVE, _UNCERTAIN = "positive", "negative", "uncertain"
_SIGNS = {
    "1": _POSITIVE,
    "1.0": _POSITIVE,
    "0": _NEGATIVE,
    "0.0": _NEGATIVE,
    "": _NEGATIVE,  # not mentioned
    "-1": _UNCERTAIN,
    "-1.0": _UNCERTAIN,
}
_MAX_BYTES = 1 << 30
_CONFLICTS = 0.02  # a larger share of films in rows that differ: several labels a film


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableConfig:
    """The flags of a table of labels."""

    labels_csv: str = cli.option(
        "",
        "table of labels, in the place of class folders; --input_dir holds the films",
        heading="a table of labels",
    )
    csv_path_column: str = cli.option(
        "", "column of the films' paths or names; guessed from the usual headers"
    )
    csv_label_column: str = cli.option(
        "", "column of the labels, several between |; guessed, or one column a class"
    )
    csv_patient_column: str = cli.option("", "column of the patients; guessed")
    csv_split_column: str = cli.option("", "column of train, val, test; guessed")
    csv_age_column: str = cli.option(
        "", "column of ages in years, kept in bands of ten in attributes.csv; guessed"
    )
    csv_sex_column: str = cli.option("", "column of the sex, likewise; guessed")
    csv_view_column: str = cli.option("", "column of the view, likewise; guessed")
    csv_device_column: str = cli.option(
        "", "column of the machine, kept as it stands in attributes.csv"
    )
    label: str = cli.option(
        "",
        "of several labels a film this one against the rest, as NAME and NOT_NAME (or "
        "the label of all the rest, such as No Finding)",
    )
    uncertain: str = cli.option(
        "drop",
        "what becomes of films whose --label is uncertain (-1)",
        choices=("drop", "positive", "negative"),
    )

    def validate(self) -> None:
        """Raises UsageError for flags that mean nothing without a table."""
        if self.labels_csv:
            if not pathlib.Path(self.labels_csv).is_file():
                raise cli.UsageError(
                    f"--labels_csv={self.labels_csv}: no such file; expected a CSV "
                    "table with a row a film"
                )
            return
        for field in dataclasses.fields(TableConfig):
            value = getattr(self, field.name)
            if value != field.default:
                raise cli.UsageError(
                    f"--{field.name}={value}: speaks of a table; give --labels_csv=FILE"
                )

    @property
    def columns(self) -> dict[str, str]:
        """The columns that were named, by role."""
        return {role: getattr(self, f"csv_{role}_column") for role in _HEADERS}


class LabelTable:
    """A table of labels and the films that it speaks of.

    Args:
      config: the flags.
      root: the input folder.
      exclude: what is left aside.

    Attributes:
      films: by path.
      notes: what was guessed and left aside, one line each, for people.
      rejected: rows without a film, films without a row, and others that do not count.

    Raises:
      UsageError: a column or label that the table lacks, or several labels a film
        without `--label`.
      DataError: the table cannot be read, or names a film that could be several.
    """

    def __init__(self, config: TableConfig, root: pathlib.Path, exclude: Exclusion):
        self._config, self._root = config, root
        self.notes: list[str] = []
        self.rejected: list[Rejected] = []
        self._shared: dict[Attributes, Attributes] = {}  # a table has few
        self._index = FilmIndex(root, exclude, self.rejected)
        with _open(config.labels_csv) as (header, rows):
            self._header = header
            self._columns = self._find_columns()
            seen = self._collect(rows)
        self.films = self._label(seen)
        if not self.films:
            raise cli.UsageError(
                f"--labels_csv={config.labels_csv}: none of its films has a label; it "
                f"has the columns {console.listed(self._header)}\nsay which holds the "
                "labels: --csv_label_column=NAME, or which is the one: --label=NAME"
            )
        self._report_unlabelled({film.path for film in self.films})

    # --- columns

    def _find_columns(self) -> dict[str, int]:
        plain = [re.sub(r"[\W_]", "", name).casefold() for name in self._header]
        found: dict[str, int] = {}
        for role, name in self._config.columns.items():
            if name:
                if name not in self._header:
                    raise cli.UsageError(
                        f"--csv_{role}_column={name}: {self._config.labels_csv} has no "
                        f"such column; it has {console.listed(self._header)}"
                    )
                found[role] = self._header.index(name)
                continue
            usual = (n for n in _HEADERS[role] if n in plain)
            if (first := next(usual, None)) is not None:
                found[role] = plain.index(first)
        if "path" not in found:
            raise cli.UsageError(
                f"--labels_csv={self._config.labels_csv}: none of its columns is "
                f"called as films usually are; it has {console.listed(self._header)}\n"
                "say which names the films: --csv_path_column=NAME"
            )
        if (
            found.get("patient") == found["path"]
            and not self._config.csv_patient_column
        ):
            del found["patient"]  # a film's own name tells no patient
        guessed = ", ".join(
            f"{role} from {self._header[index]!r}" for role, index in found.items()
        )
        self.notes.append(f"{self._config.labels_csv}: {guessed}")
        return found

    # --- rows

    def _collect(self, rows: Iterable[tuple[int, list[str]]]) -> dict[str, "_Seen"]:
        """Returns what the rows say of each film, by its path."""
        classes = self._class_columns()
        seen: dict[str, _Seen] = {}
        missing = repeated = 0
        for number, row in rows:
            value = row[self._columns["path"]].strip()
            path = self._index.find(value) if value else None
            if path is None:
                missing += 1
                what = f"row {number} of the table; no such film"
                self.rejected.append(Rejected(_readable(value), "no_file", what))
                continue
            if path == "":  # left aside by --exclude
                continue
            now = self._read_row(row, classes, number)
            before = seen.setdefault(path, now)
            if before is not now:
                repeated += 1
                if before.labels == now.labels:
                    what = f"row {number} of the table repeats row {before.row}"
                    self.rejected.append(Rejected(path, "duplicate_row", what))
                seen[path] = before.joined(now)
        if missing:
            self.notes.append(
                f"{missing:,} rows of the table name no film in {self._root}"
            )
        if repeated:
            self.notes.append(f"{repeated:,} rows of the table repeat a film")
        if not seen:
            raise cli.DataError(
                f"--labels_csv={self._config.labels_csv}: none of its rows names a "
                f"film in {self._root}, by {self._header[self._columns['path']]!r}; "
                "--csv_path_column=NAME says which column does"
            )
        return seen

    def _class_columns(self) -> list[int] | None:
        """Returns the columns of one class each, None where one column holds labels."""
        if "label" in self._columns and not (
            self._config.label in self._header and not self._config.csv_label_column
        ):
            return None
        taken = set(self._columns.values())
        return [index for index in range(len(self._header)) if index not in taken]

    def _read_row(
        self, row: list[str], classes: list[int] | None, number: int
    ) -> "_Seen":
        uncertain: frozenset[str] = frozenset()
        if classes is None:
            text = row[self._columns["label"]]
            names = re.findall(r"'([^']*)'", text) if text.startswith("[") else None
            labels = _names(names if names is not None else re.split(r"[|;]", text))
        else:
            signs = {
                self._header[index]: _SIGNS.get(row[index].strip()) for index in classes
            }
            labels = _names(n for n, sign in signs.items() if sign == _POSITIVE)
            uncertain = _names(n for n, sign in signs.items() if sign == _UNCERTAIN)
        return _Seen(
            labels,
            uncertain,
            self._side(row, number),
            sys.intern(self._cell(row, "patient")),
            self._attributes(row),
            number,
        )

    def _cell(self, row: list[str], role: str) -> str:
        index = self._columns.get(role)
        return "" if index is None else row[index].strip()

    def _side(self, row: list[str], number: int) -> str:
        text = self._cell(row, "split")
        side = side_of(text)
        if text and not side:
            raise cli.DataError(
                f"{self._config.labels_csv}, row {number}: "
                f"{self._header[self._columns['split']]}={text!r} is no split; "
                "expected train, val or test; another column: --csv_split_column=NAME"
            )
        return side

    def _attributes(self, row: list[str]) -> Attributes:
        found = attributes.of_table(
            *(self._cell(row, role) for role in ("age", "sex", "view", "device"))
        )
        return self._shared.setdefault(found, found)

    # --- labels

    def _label(self, seen: Mapping[str, "_Seen"]) -> list[Source]:
        if self._config.label:
            chosen = self._one_against_rest(seen)
        else:
            chosen = self._single_labels(seen)
        return [
            Source(
                path, label, seen[path].side, seen[path].patient, seen[path].attributes
            )
            for path, label in sorted(chosen.items())
        ]

    def _single_labels(self, seen: Mapping[str, "_Seen"]) -> dict[str, str]:
        several = [path for path, film in seen.items() if len(film.labels) > 1]
        conflicts = [path for path in several if seen[path].conflicting]
        if len(several) > len(conflicts) or len(conflicts) > _CONFLICTS * len(seen):
            counts = collections.Counter(
                n for film in seen.values() for n in film.labels
            )
            usual = [name for name, _ in counts.most_common(8)]
            finding = next(
                (n for n in usual if not class_names.means_healthy(n)), usual[0]
            )
            raise cli.UsageError(
                f"--labels_csv={self._config.labels_csv}: {len(several):,} films have "
                f"several labels, such as {several[0]}: "
                f"{console.listed(sorted(seen[several[0]].labels), 4)}\n"
                "training on several labels at once is not supported; choose one "
                f"against the rest: --label={finding}\n"
                f"labels there: {console.listed(usual)}"
            )
        chosen = {}
        for path, film in seen.items():
            if len(film.labels) == 1:
                chosen[path] = min(film.labels)
            elif film.labels:
                what = f"labels {', '.join(sorted(film.labels))} in rows of the table"
                self.rejected.append(Rejected(path, "label_conflict", what))
            else:
                what = f"row {film.row} of the table holds none"
                self.rejected.append(Rejected(path, "no_label", what))
        return chosen

    def _one_against_rest(self, seen: Mapping[str, "_Seen"]) -> dict[str, str]:
        name = self._config.label
        known = {n for film in seen.values() for n in film.labels | film.uncertain}
        if known and known <= _SIGNS.keys():  # a column of 0 and 1, as RSNA's Target
            seen = {path: film.named(name) for path, film in seen.items()}
        elif name not in known:
            raise cli.UsageError(
                f"--label={name}: no film of {self._config.labels_csv} has it; there "
                f"are {console.listed(sorted(known))}"
            )
        rest = [
            film.labels
            for film in seen.values()
            if name not in film.labels | film.uncertain
        ]
        # The negative label's own name, where all the rest carry it.
        common = set.intersection(*map(set, rest)) if rest else set()
        healthy = sorted(n for n in common if class_names.means_healthy(n))
        negative = healthy[0] if healthy else f"NOT_{name}"
        chosen, dropped = {}, 0
        for path, film in seen.items():
            if name in film.labels:
                chosen[path] = name
            elif name not in film.uncertain:
                chosen[path] = negative
            elif self._config.uncertain == "drop":
                dropped += 1
                what = f"{name} is uncertain in row {film.row} of the table"
                self.rejected.append(Rejected(path, "uncertain_label", what))
            else:
                positive = self._config.uncertain == "positive"
                chosen[path] = name if positive else negative
        if dropped:
            self.notes.append(
                f"left aside: {dropped:,} films whose {name} is uncertain; "
                "--uncertain=positive or negative would keep them"
            )
        return chosen

    def _report_unlabelled(self, labelled: set[str]) -> None:
        known = labelled.union(row.path for row in self.rejected)
        without = [path for path in self._index.films if path not in known]
        for path in without:
            self.rejected.append(Rejected(path, "no_label", "no row of the table"))
        if without:
            self.notes.append(
                f"left aside: {len(without):,} films that no row of the table names, "
                f"such as {without[0]}"
            )


class _Seen(NamedTuple):
    """What rows say of one film."""

    labels: frozenset[str]
    uncertain: frozenset[str]
    side: str
    patient: str
    attributes: Attributes
    row: int
    conflicting: bool = False

    def joined(self, other: "_Seen") -> "_Seen":
        """Returns what both rows say together."""
        return self._replace(
            labels=_interned(self.labels | other.labels),
            uncertain=_interned(self.uncertain | other.uncertain),
            conflicting=self.conflicting or self.labels != other.labels,
        )

    def named(self, name: str) -> "_Seen":
        """Returns the same of a film whose label is 1, 0 or -1."""
        signs = {_SIGNS[label] for label in self.labels}
        return self._replace(
            labels=_names([name] if _POSITIVE in signs else []),
            uncertain=_names([name] if signs == {_UNCERTAIN} else []),
        )


@contextlib.contextmanager
def _open(name: str) -> Iterator[tuple[list[str], Iterator[tuple[int, list[str]]]]]:
    """Opens a CSV table: yields its header, and its rows with their line numbers.

    Raises:
      DataError: no table, or not of UTF-8 text.
    """
    path = pathlib.Path(name)
    if path.stat().st_size > _MAX_BYTES:
        raise cli.DataError(f"--labels_csv={name}: more than {_MAX_BYTES >> 20} MiB")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            delimiter = max(",;\t", key=first.count)
            file.seek(0)
            table = csv.reader(file, delimiter=delimiter)
            header = [column.strip() for column in next(table, [])]
            if not any(header):
                raise cli.DataError(f"--labels_csv={name}: no header in its first line")
            yield header, _rows(table, len(header), name)
    except (UnicodeDecodeError, csv.Error) as error:
        raise cli.DataError(
            f"--labels_csv={name}: not a CSV table in UTF-8: {error}"
        ) from error


def _rows(table: Any, width: int, name: str) -> Iterator[tuple[int, list[str]]]:
    for row in table:
        if not any(row):
            continue
        if len(row) > width and any(row[width:]):
            raise cli.DataError(
                f"--labels_csv={name}, line {table.line_num}: {len(row)} cells under "
                f"{width} headings"
            )
        yield table.line_num, row + [""] * (width - len(row))


def _readable(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text) or "(empty)"


_interned_sets: dict[frozenset[str], frozenset[str]] = {}


def _names(names: Iterable[str]) -> frozenset[str]:
    return _interned(frozenset(name.strip() for name in names) - {""})


def _interned(names: frozenset[str]) -> frozenset[str]:
    """Returns one object for equal sets: a table has few, its rows are many."""
    return _interned_sets.setdefault(names, names)
