"""Computes one case with the peers of one family, in a process of its own.

`benchmarks.compute_peers` runs this module with each family's interpreter, so it
imports nothing beyond the standard library at the top. Commands come on stdin, a line
each: `build PEER`, `turn PEER`, `check PEER`. What a peer cannot do is answered with
the reason, not a crash.
"""

import importlib
import json
import pathlib
import sys
from typing import Any

from benchmarks.compute_tasks import EPOCHS, Case, Peer, Runner
from benchmarks.peer_process import answer


class TooSlow(Exception):
    """A step takes so long that turns would take an hour."""


def serve(
    family: str,
    case: Case,
    work: pathlib.Path,
    *,
    threads: int,
    seconds: float,
    max_step_s: float,
) -> None:
    """Answers commands until stdin ends.

    Args:
      family: of peers.
      case: what they compute.
      work: folder with batches, weights and films.
      threads: for all peers the same.
      seconds: of a turn, about; a turn is at least one step.
      max_step_s: a peer whose steps take longer is not measured.
    """
    module = importlib.import_module(f"benchmarks.compute_{family}")
    answer({"ready": family, **module.start(threads)})
    runners: dict[str, Runner] = {}
    steps: dict[str, int] = {}
    for line in sys.stdin:
        command, _, name = line.strip().partition(" ")
        try:
            if command == "build":
                runners[name] = module.build(case, Peer.parse(name), work, threads)
                facts = runners[name].facts()
                steps[name] = _steps(runners[name], case, seconds, max_step_s)
                answer({"facts": facts})
            elif command == "turn":
                count = steps[name]
                answer({"steps": count, "seconds": runners[name].run(count)})
            else:
                answer({"check": runners[name].check()})
        except Exception as error:  # of any library
            answer({"missing": reason(error)})


def _steps(runner: Runner, case: Case, seconds: float, max_step_s: float) -> int:
    """Warms up; returns the steps of a turn."""
    if case.mode == EPOCHS:
        return 1
    runner.run(1)  # traces and compiles
    step_s = runner.run(1)
    if step_s > max_step_s:
        raise TooSlow(f"a step took {step_s:.0f} s, more than --max_step_s")
    if step_s < seconds / 4:  # a short one, which a moment's noise could double
        step_s = runner.run(3) / 3
    return max(1, round(seconds / step_s))


def reason(error: Exception) -> str:
    """Returns one line that says what went wrong."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}"[:300]


def main(argv: list[str]) -> None:
    """Serves as the command line, JSON, says."""
    options: dict[str, Any] = json.loads(argv[1])
    serve(
        options["family"],
        Case(*options["case"]),
        pathlib.Path(options["work"]),
        threads=options["threads"],
        seconds=options["seconds"],
        max_step_s=options["max_step_s"],
    )


if __name__ == "__main__":
    main(sys.argv)
