"""Runs a peer in a process of its own, which answers commands between its turns.

Commands go to its stdin, a line each; answers come on its stdout as JSON behind an
`@`, because libraries print too. The standard library is all that is imported:
workers run in environments of peers.
"""

import contextlib
import json
import os
import pathlib
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

_ROOT = pathlib.Path(__file__).parents[1]


class PeerProcess:
    """A worker's process.

    Args:
      command: the interpreter, then its arguments.
      log: file that keeps the worker's stderr.
      environment: variables beside those of this process.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: pathlib.Path,
        environment: Mapping[str, str] = {},  # only read
    ):
        self._log = _open_log(log)
        self._process = None
        with contextlib.suppress(OSError):  # no such interpreter: `read` says so
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                cwd=_ROOT,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
            )
        self._program = command[0]

    def read(self) -> dict[str, Any]:
        """Returns the next answer, or `{"missing": why}` when the process ended."""
        if self._process is None:
            return {"missing": f"{self._program} cannot be run"}
        for line in self._process.stdout:
            if line.startswith("@"):
                return json.loads(line[1:])
        self._process.wait()
        self._log.seek(0)
        lines = self._log.read().strip().splitlines() or ["no output"]
        return {"missing": lines[-1][:200]}

    def ask(self, command: str) -> dict[str, Any]:
        """Sends a command, one line, and waits for its answer."""
        if self._process is not None:
            with contextlib.suppress(BrokenPipeError):
                print(command, file=self._process.stdin, flush=True)
        return self.read()

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:  # a peer's threads that do not end
                self._process.kill()
                self._process.wait()
            self._process.stdout.close()
        self._log.close()


def _open_log(path: pathlib.Path):
    """Opens the file that keeps a worker's stderr."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return open(path, "w+", encoding="utf-8", errors="replace")


def answer(content: Mapping[str, Any]) -> None:
    """Answers from inside of a worker."""
    print("@" + json.dumps(content), flush=True)
