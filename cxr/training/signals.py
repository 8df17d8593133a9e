"""Catches SIGINT and SIGTERM so that training stops at a safe moment."""

import contextlib
import signal
import threading
from collections.abc import Iterator

from cxr import cli, console

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(cli.Stopped):
    """Work that stopped at a safe moment because a signal asked for it.

    Args:
      number: the signal's.
      step: of training, at which the state was saved.
    """

    def __init__(self, number: int, step: int | None = None):
        at = "" if step is None else f" at step {step}"
        super().__init__(f"stopped by {signal.Signals(number).name}{at}")
        self.number, self.exit_code = number, 128 + number


class Interruption:
    """Whether a signal has come.

    Attributes:
      number: the signal's number, None as long as none has come.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    def check(self) -> None:
        """Raises Interrupted once a signal has come."""
        if self.number is not None:
            raise Interrupted(self.number)

    def _receive(self, number: int, frame) -> None:
        if self.number is not None:  # the second signal stops at once
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.number = number
        name = signal.Signals(number).name
        console.note(
            f"\n{name}: finishing the step in flight, then saving; again to stop at "
            "once without saving"
        )


@contextlib.contextmanager
def watch() -> Iterator[Interruption]:
    """Catches SIGINT and SIGTERM within the block, and restores what was before.

    Outside the main thread, where Python has no handlers, it watches nothing.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = {n: signal.signal(n, interruption._receive) for n in _SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
