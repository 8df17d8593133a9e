"""Shows that a command lives: after ten seconds without a line, what it is at.

One thread for all of a command's work, because what takes long is mostly a call into
a library: importing, compiling, predicting, drawing. Beside a moving bar it is silent.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

_SILENCE_S = 9.0  # so that no silence is longer than ten seconds
_LOOK_S = 0.5
WARNING = "warning: "  # how one begins, behind the name of a run or not
_ANNOUNCES = " ..."  # how a line ends that says what is done next


class _Watch:
    """What was last told, and when.

    Attributes:
      doing: what the command is at, in words.
      said_s: when the last line was printed.
      since_s: since when the command is at it.
    """

    def __init__(self, now_s: float):
        self.doing, self.said_s, self.since_s = "starting", now_s, now_s

    def due(self, now_s: float) -> str:
        """Returns the line to print now; empty as long as there is none."""
        if now_s - self.said_s < _SILENCE_S:
            return ""
        self.said_s = now_s
        return f"... {now_s - self.since_s:.0f} s: {self.doing}"


_watch = _Watch(time.monotonic())


def told(text: str) -> None:
    """Takes note of text that was printed, which says what is being done.

    Of several lines that is the last one, if it announces work with `...`, else the
    first, as the lines below are about it. A warning says nothing of what is done.
    """
    _watch.said_s = _watch.since_s = time.monotonic()
    if WARNING in text:
        return
    lines = text.strip().split("\n")
    if doing := (lines[-1] if lines[-1].endswith(_ANNOUNCES) else lines[0]):
        _watch.doing = doing.removesuffix(_ANNOUNCES)


def at(doing: str) -> None:
    """Says what is being done from now on, without printing it."""
    _watch.doing = doing


@contextlib.contextmanager
def beating(write: Callable[[str], None]) -> Iterator[None]:
    """Gives `write` a line wherever the block has been silent for ten seconds."""
    global _watch
    _watch = _Watch(time.monotonic())
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(_LOOK_S):
            if not _bar_moves() and (line := _watch.due(time.monotonic())):
                write(line)

    thread = threading.Thread(target=beat, name="pulse", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _bar_moves() -> bool:
    """Whether a progress bar is on the terminal."""
    bars = getattr(sys.modules.get("tqdm"), "tqdm", None)
    # Copied first: bars come and go in other threads.
    return any(not bar.disable for bar in list(getattr(bars, "_instances", ())))
