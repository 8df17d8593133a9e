"""Keeps what a training prints in RUN/train.log, across resumes; no disk stops it."""

import contextlib
import os
import pathlib
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence

import cxr
from cxr import cli, console, files, runs

_APPEND = (
    os.O_WRONLY
    | os.O_CREAT
    | os.O_APPEND
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a pipe of that name must not wait for a reader
)


@contextlib.contextmanager
def writing(
    workdir: pathlib.Path, what: str, said: Sequence[str] = ()
) -> Iterator[None]:
    """Copies what is printed within the block to the end of the run's log.

    Lines of ours and Python's warnings, each written as it comes, and how the block
    failed, if it did. Progress bars are none of it. Where the log cannot be written
    that is told once, and the work goes on.

    Args:
      workdir: the run folder, whose lock is held.
      what: begins or goes on, for the dated line that stands before.
      said: lines that were printed before there was a log.
    """
    log = _Log(workdir / runs.TRAIN_LOG)
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    try:
        log.write(f"=== {now}: {what} (cxr {cxr.__version__})")
        for lines in said:
            log.write(lines)
        with console.copying(log.write), _copying_warnings(log.write):
            yield
    except BaseException as error:
        failure = cli.failure_of(error)
        log.write(failure.text if failure else traceback.format_exc().rstrip())
        raise
    finally:
        log.close()


class _Log:
    """A text file that grows, and whose failures are told once and no more."""

    def __init__(self, path: pathlib.Path):
        self._path, self._descriptor, self._told = path, -1, False
        try:
            self._descriptor = os.open(path, _APPEND, 0o666)
            files.check_own(self._descriptor, path)
        except (OSError, cli.DataError) as error:
            self.close()
            self._tell(error)

    def write(self, text: str) -> None:
        """Appends lines, unbuffered: a kill loses none."""
        if self._descriptor < 0:
            return
        data = f"{text}\n".encode(errors="replace")
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:  # the next line tries again: there may be room by then
            self._tell(error)

    def close(self) -> None:
        """Closes it; nothing is written any more."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            with contextlib.suppress(OSError):  # some file systems tell here
                os.close(descriptor)

    def _tell(self, error: Exception) -> None:
        if not self._told:
            self._told = True  # first: the warning comes here, too
            console.warn(f"{self._path}: {error}; training goes on without its log")


@contextlib.contextmanager
def _copying_warnings(write: Callable[[str], None]) -> Iterator[None]:
    """Gives Python's warnings to `write` as well."""
    show = warnings.showwarning

    def show_and_write(message, category, filename, lineno, file=None, line=None):
        show(message, category, filename, lineno, file, line)
        text = warnings.formatwarning(message, category, filename, lineno, line)
        write(text.rstrip())

    warnings.showwarning = show_and_write
    try:
        yield
    finally:
        warnings.showwarning = show
