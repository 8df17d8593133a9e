"""Starts a cluster of workers on this machine: `python -m tools.launch_local ...`."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import IO

from cxr import cli, console

_USAGE = """
Starts a training as several workers on this machine, to try --strategy=multi_worker:

  python -m tools.launch_local --workers=2 -- --flagfile=configs/small_cnn.flags

What follows -- are flags of cxr.train. Each worker's lines begin with its number.
SIGINT and SIGTERM are passed on. When one worker fails, all are ended; the exit code is
that of the first to fail.
"""
_GRACE_S = 10.0  # for the others of one that failed to say so and end, before SIGKILL


@dataclasses.dataclass(frozen=True)
class LaunchConfig:
    """How many workers are started."""

    workers: int = cli.option(2, "processes that train together", lower=1)


def main(argv: list[str]) -> int:
    """Runs the command line."""
    config, flags = cli.parse(argv, LaunchConfig, usage=_USAGE)
    addresses = free_addresses(config.workers)
    workers = [start(index, addresses, flags) for index in range(len(addresses))]
    with _passing_signals_on(workers):
        threads = [
            threading.Thread(target=_copy, args=(index, worker.stdout))
            for index, worker in enumerate(workers)
        ]
        for thread in threads:
            thread.start()
        code = _wait(workers)
        for thread in threads:
            thread.join()
    return code


def free_addresses(count: int) -> list[str]:
    """Returns addresses of ports that nobody listens on now."""
    with contextlib.ExitStack() as held:
        found = []
        for _ in range(count):
            listener = held.enter_context(socket.create_server(("127.0.0.1", 0)))
            found.append(f"127.0.0.1:{listener.getsockname()[1]}")
        return found


def tf_config(index: int, addresses: list[str]) -> str:
    """Returns what tells a worker who there is, and which of them it is."""
    task = {"type": "worker", "index": index}
    return json.dumps({"cluster": {"worker": addresses}, "task": task})


def start(index: int, addresses: list[str], flags: list[str]) -> subprocess.Popen:
    """Starts a worker of those at the addresses; what it says comes in a pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", "cxr.train", *flags, "--strategy=multi_worker"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "TF_CONFIG": tf_config(index, addresses)},
        start_new_session=True,  # Ctrl-C comes once, by way of us
    )


def _copy(index: int, lines: IO[str]) -> None:
    for line in lines:
        console.say(f"[{index}] {line.rstrip()}")


@contextlib.contextmanager
def _passing_signals_on(workers: list[subprocess.Popen]) -> Iterator[None]:
    def pass_on(number: int, frame: object) -> None:
        for worker in workers:
            worker.send_signal(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(workers: list[subprocess.Popen]) -> int:
    """Returns when all have ended: 0, or the code of the first that failed."""
    ended: list[int] = []
    done = [threading.Event() for _ in workers]

    def watch(worker: subprocess.Popen, over: threading.Event) -> None:
        if code := worker.wait():
            ended.append(code if code > 0 else 128 - code)
        over.set()

    for worker, over in zip(workers, done, strict=True):
        threading.Thread(target=watch, args=(worker, over), daemon=True).start()
    for over in done:
        while not over.wait(0.2):
            if ended:
                _end(workers, done)
    return ended[0] if ended else 0


def _end(workers: list[subprocess.Popen], done: list[threading.Event]) -> None:
    """Ends the others of one that failed, after their last words."""
    for worker, over in zip(workers, done, strict=True):
        if not over.wait(_GRACE_S):
            worker.kill()


if __name__ == "__main__":
    cli.run(main)
