"""Prints what a command says, whatever names it is about, to whoever listens."""

import contextlib
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from cxr import pulse

# They turn the order of what is shown: embeddings, overrides, isolates.
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_copies: list[Callable[[str], None]] = []  # who else gets what is printed
_muted = False  # whether another process says the same
_name = ""  # of the run that the lines are about
_reword: Callable[[str], str] = str  # how this command's lines name other commands


class OutputClosed(BaseException):
    """Nobody reads our output any more, as behind `| head`: no error, and no more work.

    A kind of its own, because a broken pipe to a worker is an error.
    """


def printable(text: str) -> str:
    """Returns text in which only newlines control a terminal.

    Names come out of other people's folders and files; one could hold what a terminal
    obeys.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char == "\n" or not holds_controls(char) else ascii(char)[1:-1]
        for char in text
    )


def listed(names: Sequence[str], most: int = 8) -> str:
    """Returns `'A', 'B' and 3 more`, for a message."""
    shown = ", ".join(map(repr, names[:most]))
    more = len(names) - most
    return f"{shown} and {more} more" if more > 0 else shown


def holds_controls(text: str) -> bool:
    """Whether text holds control characters, newlines and broken UTF-8 among them."""
    return not text.isprintable() and any(
        unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or char in _BIDI
        for char in text
    )


def say(*lines: str) -> None:
    """Prints lines on stdout at once, also into a pipe."""
    if _muted:
        return
    _print("\n".join(lines), sys.stdout)


def warn(message: str) -> None:
    """Prints a line on stderr that begins with `warning: `."""
    note(f"{pulse.WARNING}{message}")


def note(message: str) -> None:
    """Prints a line on stderr."""
    _print(message, sys.stderr)


@contextlib.contextmanager
def copying(write: Callable[[str], None]) -> Iterator[None]:
    """Gives what is said, warned of and noted within the block to `write`, too."""
    _copies.append(write)
    try:
        yield
    finally:
        _copies.remove(write)


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Says nothing within the block, because another process does; notes still come."""
    global _muted
    before, _muted = _muted, True
    try:
        yield
    finally:
        _muted = before


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Begins each line within the block with a run's name: `seed-0: epoch 1 ...`.

    Args:
      name: empty where there is one run only, which needs none.
    """
    global _name
    before, _name = _name, name
    try:
        yield
    finally:
        _name = before


@contextlib.contextmanager
def rewording(reword: Callable[[str], str]) -> Iterator[None]:
    """Prints within the block what `reword` makes of each text."""
    global _reword
    before, _reword = _reword, reword
    try:
        yield
    finally:
        _reword = before


def _print(text: str, stream: TextIO) -> None:
    text = _reword(text)
    if _name:
        lines = text.split("\n")
        text = "\n".join(f"{_name}: {line}" if line else line for line in lines)
    text = printable(text)
    pulse.told(text)
    for write in _copies:
        write(text)
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError as error:
        raise OutputClosed from error
