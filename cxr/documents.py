"""Parses JSON documents that may be anybody's: types, ranges and names at the door.

A run or a set travels between people. What is read from one is looked at field by
field, once; the rest of the program then relies on it. Whatever is wrong is a
ValueError that names the field, and `reading` makes it one error that names the file.
"""

import contextlib
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from cxr import cli, console, folders

MAX_BYTES = 16 << 20  # 16 MiB: a manifest of 50,000 shards, a history of a lifetime
_MAX_TEXT = 4096  # characters: the longest path of most systems
_SHOWN = 60  # characters of a wrong value
_SHA256 = re.compile(r"[0-9a-f]{64}")


@contextlib.contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
    """Names the file in what is wrong with its content.

    Raises:
      DataError: in the place of a ValueError.
    """
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise cli.DataError(f"{path}: {error}") from error


def read_text(path: str | os.PathLike, max_bytes: int = MAX_BYTES) -> str:
    """Returns a text file's content; never waits for a pipe.

    Raises:
      ValueError: no regular file, larger than `max_bytes`, or not UTF-8.
      OSError: missing or unreadable.
    """
    return folders.read_file(path, max_bytes).decode("utf-8")


def read(path: str | os.PathLike) -> "Fields":
    """Returns a file's JSON object; errors as `read_text` and `parse`."""
    return parse(read_text(path))


def parse(text: str) -> "Fields":
    """Returns the JSON object that a text holds.

    Raises:
      ValueError: no JSON object, or one with a name twice.
    """
    document = json.loads(
        text, object_pairs_hook=_without_repeats, parse_constant=_refuse_constant
    )
    return Fields(document)


class Fields:
    """A JSON object, whose fields are asked for by name and kind.

    Every method raises ValueError, naming the field and what it holds.

    Attributes:
      content: the object.
    """

    def __init__(self, content: Any, name: str = ""):
        self._name = name
        if not isinstance(content, dict):
            raise self._error(None, content, "an object {...}")
        self.content: dict[str, Any] = content

    def has(self, name: str) -> bool:
        """Whether there is such a field and it is not null."""
        return self.content.get(name) is not None

    def text(
        self, name: str, *, choices: Sequence[str] = (), pattern: str = r"(?s).*"
    ) -> str:
        """Returns a text without control characters, whole matches of `pattern`."""
        value = self._get(name)
        if choices and value not in choices:
            raise self._error(name, value, f"one of {', '.join(choices)}")
        if not isinstance(value, str) or len(value) > _MAX_TEXT:
            raise self._error(name, value, f"a text of at most {_MAX_TEXT} characters")
        if console.holds_controls(value):
            raise self._error(name, value, "a text without control characters")
        if not re.fullmatch(pattern, value, re.ASCII):
            raise self._error(name, value, f"a text like {pattern}")
        return value

    def file_name(self, name: str, pattern: str = r"[^/\\:]+") -> str:
        """Returns a plain file name: it leads nowhere else."""
        value = self.text(name, pattern=pattern)
        if value in (".", "..") or value != os.path.basename(value):
            raise self._error(name, value, "a plain file name")
        return value

    def sha256(self, name: str) -> str:
        """Returns a SHA-256 in hexadecimal."""
        value = self._get(name)
        if not isinstance(value, str) or not _SHA256.fullmatch(value):
            raise self._error(name, value, "a SHA-256, 64 digits of 0-9a-f")
        return value

    def integer(self, name: str, lower: int, upper: int = 1 << 53) -> int:
        """Returns a whole number within bounds."""
        value = self._get(name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not lower <= value <= upper:
            raise self._error(name, value, f"a whole number, {lower} to {upper}")
        return value

    def number(self, name: str, lower: float, upper: float) -> float:
        """Returns a finite number within bounds."""
        value = self._get(name)
        known = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not known or not lower <= value <= upper or not math.isfinite(value):
            raise self._error(name, value, f"a number, {lower:g} to {upper:g}")
        return value

    def section(self, name: str) -> "Fields":
        """Returns the object that a field holds."""
        return Fields(self._get(name), self._full(name))

    def sections(self, name: str) -> list["Fields"]:
        """Returns the objects of a list."""
        listed = enumerate(self._list(name))
        return [Fields(part, f"{self._full(name)}[{i}]") for i, part in listed]

    def texts(self, name: str) -> tuple[str, ...]:
        """Returns a list of texts, each as `text` gives it."""
        parts = {str(index): part for index, part in enumerate(self._list(name))}
        fields = Fields(parts, self._full(name))
        return tuple(fields.text(index) for index in parts)

    def class_names(self, name: str) -> tuple[str, ...]:
        """Returns a list of at least two different, not empty texts."""
        names = self.texts(name)
        if len(names) < 2 or len(set(names)) < len(names) or not all(names):
            raise self._error(name, list(names), "at least two different names")
        return names

    def _list(self, name: str) -> list[Any]:
        value = self._get(name)
        if not isinstance(value, list):
            raise self._error(name, value, "a list [...]")
        return value

    def _get(self, name: str) -> Any:
        if name not in self.content:
            raise ValueError(f"{self._full(name)} is missing")
        return self.content[name]

    def _full(self, name: str | None) -> str:
        return ".".join(filter(None, (self._name, name)))

    def _error(self, name: str | None, value: Any, expected: str) -> ValueError:
        shown = ascii(value)
        if len(shown) > _SHOWN:
            shown = f"{shown[:_SHOWN]}..."
        what = self._full(name) or "the document"
        return ValueError(f"{what} is {shown}, expected {expected}")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!a} stands there twice")
    return document


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")
