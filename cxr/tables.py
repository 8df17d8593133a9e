"""Writes and reads CSV tables whose cells no spreadsheet takes for formulas.

A cell or heading that begins with = + - @ or a tab gets an apostrophe before it, which
reading takes off again; numbers are left as they are. (OWASP, "CSV Injection".)
"""

import csv
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from cxr import files

# With apostrophes before it, too: so guarding can be undone whatever the cell holds.
_FORMULA = re.compile(r"'*[=+\-@\t]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def guard(cell: Any) -> Any:
    """Returns what stands in the table for a cell; only text can be a formula."""
    if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def unguard(cell: str) -> str:
    """Returns the cell that `guard` was given, as text."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


class Writer:
    """Writes a table row by row."""

    def __init__(self, file: TextIO, columns: Sequence[str], *, line_end: str = "\n"):
        """Begins the table.

        Args:
          file: opened for writing, without translation of newlines.
          columns: the keys of every row, and the header.
          line_end: closes every line.
        """
        self._columns = columns
        self._writer = csv.writer(file, lineterminator=line_end)
        self._writer.writerow(map(guard, columns))

    def add(self, row: Mapping[str, Any]) -> None:
        """Appends a row: floats read back the same, None is nothing."""
        if row.keys() != set(self._columns):
            raise ValueError(f"columns {list(row)}, expected {list(self._columns)}")
        self._writer.writerow([guard(row[name]) for name in self._columns])


def publish(
    path: str | os.PathLike,
    columns: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    *,
    line_end: str = "\n",
) -> None:
    """Writes a table to `path` atomically, row by row: never in memory whole.

    Args:
      path: of the table.
      columns: the keys of every row, and the header.
      rows: as `Writer.add` takes them.
      line_end: closes every line.
    """
    with (
        files.publishing(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = Writer(file, columns, line_end=line_end)
        for row in rows:
            writer.add(row)


def to_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Returns a table as text."""
    buffer = io.StringIO()
    writer = Writer(buffer, columns)
    for row in rows:
        writer.add(row)
    return buffer.getvalue()


def parse(text: str) -> list[list[str]]:
    """Returns the rows of a table, header first.

    Where lines end with a newline alone, csv writes a carriage return in a file name
    unquoted, but would end a row there when it reads: NUL, which no file name can
    hold, stands in for it.

    Raises:
      ValueError: a row has more or fewer cells than the header, or there is none.
    """
    inner = "\r" in text and not text.partition("\n")[0].endswith("\r")
    if inner:
        text = text.replace("\r", "\0")
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise ValueError(f"not a table: {error}") from error
    if inner:
        rows = [[cell.replace("\0", "\r") for cell in row] for row in rows]
    if "'" in text:
        rows = [list(map(unguard, row)) for row in rows]
    widths = set(map(len, rows))
    if len(widths) != 1:
        raise ValueError(f"not a table: rows of {sorted(widths)[:3]} cells")
    return rows


def parse_records(text: str) -> list[dict[str, str]]:
    """Returns the rows of a table as header -> cell; ValueError as `parse`."""
    header, *rows = parse(text)
    return [dict(zip(header, row, strict=True)) for row in rows]
