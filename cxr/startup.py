"""Loads TensorFlow for a command: says so first, and leaves out its known lines.

TensorFlow's C++ writes to file descriptor 2 before any setting of its log counts. So,
while it starts, that descriptor leads into a process of its own, `known_lines`, which
passes on what it does not know. A process, because it outlives ours: what a library
says when it aborts must be seen. Before and after, standard error is what it was, so
terminals, bars and child processes see nothing of it. Imports no TensorFlow by itself.
"""

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator

from cxr import console, known_lines, platforms

_LAST_LINES_S = 5.0  # a child process may hold the descriptor open: not for ever


def load_tensorflow() -> None:
    """Imports TensorFlow where that is still to be done, and tells that it takes time.

    For commands alone: whoever imports cxr loads TensorFlow as they like.
    """
    if "tensorflow" in sys.modules:
        return
    console.note("loading TensorFlow (about 6 s) ...")
    if _is_quiet():
        logging.getLogger("tensorflow").addFilter(_is_unknown)
    with _without_known_lines():
        import tensorflow as tf

        # The first question for devices looks for a driver, and tells of none.
        tf.config.list_physical_devices()


def _is_quiet() -> bool:
    """Whether known lines are noise: a driver's may say why a GPU is not used."""
    return not (platforms.has_gpu_driver() or "--debug" in sys.argv)


def _is_unknown(record: logging.LogRecord) -> bool:
    """Whether a message of TensorFlow's Python is none of the known ones.

    Every stage and every run of a command compiles its own steps, and where several
    follow each other TensorFlow takes them for one that is compiled again and again.
    """
    return "triggered tf.function retracing" not in record.getMessage()


@contextlib.contextmanager
def _without_known_lines() -> Iterator[None]:
    """Leaves known lines out of what the block's libraries write to standard error."""
    if not _is_quiet():
        yield
        return
    with contextlib.ExitStack() as after:
        with contextlib.suppress(OSError):  # no standard error, no more processes
            _divert(after)
        yield


def _divert(after: contextlib.ExitStack) -> None:
    """Leads descriptor 2 through the filter; `after` leads it back."""
    before = os.dup(2)
    after.callback(os.close, before)
    # A session of its own: Ctrl-C is for us, and its last lines come all the same.
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", known_lines.__file__],
        stdin=subprocess.PIPE,
        stdout=before,
        stderr=before,
        start_new_session=True,
    )
    assert process.stdin is not None  # asked for above

    def lead_back() -> None:
        os.dup2(before, 2)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LAST_LINES_S)

    after.callback(lead_back)  # first: Ctrl-C may come at any moment
    with process.stdin as pipe:
        os.dup2(pipe.fileno(), 2)
