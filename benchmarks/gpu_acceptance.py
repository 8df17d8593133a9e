"""Tries everything that only a GPU can show, in one table to send with a bug report.

  python -m benchmarks.gpu_acceptance --output=gpu.json
  python -m benchmarks.gpu_acceptance --quick

What the cards are; which operations of a training step run beside them; VGG16 full
fine-tuning at 224 px in each precision, with and without XLA, mirrored, and fed with
data; a training that is killed and goes on; an evaluation beside a training. Each part
runs in a process of its own: what fails, hangs or finds no memory is a row with its
reason, and the rest goes on. Exit code 1 where a part failed. Without a GPU the CPU
stands in, with tiny sizes, to show that the parts run.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import pkgutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks import noise_set
from cxr import cli, console, files, platforms

ROOT = pathlib.Path(__file__).parents[1]
OK, FAILED, SKIPPED = "ok", "FAILED", "skipped"
_FIRST = "machine"
NO_TIME = "no time left (--budget_s)"
_LONGEST_REASON = 300  # characters
_WORK = """
import sys
from benchmarks import gpu_acceptance
gpu_acceptance.work_alone(sys.argv[1])
"""


@dataclasses.dataclass(frozen=True)
class AcceptanceConfig:
    """How long, how much, and where to."""

    output: str = cli.option("", "JSON file for all rows and figures")
    budget_s: int = cli.option(
        450, "seconds for everything; what does not fit says so", lower=1
    )
    quick: bool = cli.option(
        False, "half the parts, in short windows: what a first report needs"
    )
    only: tuple[str, ...] = cli.option((), "names of parts, e.g. machine,resume")

    def validate(self) -> None:
        """Refuses names of no part; raises UsageError."""
        for name in set(self.only) - set(PARTS):
            raise cli.UsageError(f"--only={name}: expected some of {', '.join(PARTS)}")

    def parts(self) -> list[str]:
        """Returns the parts to run, in their order; the first finds the cards."""
        chosen = self.only or [n for n, p in PARTS.items() if p.quick or not self.quick]
        return [name for name in PARTS if name in (_FIRST, *chosen)]


@dataclasses.dataclass(frozen=True)
class Part:
    """Something to try.

    Attributes:
      function: `module:name`, called with the settings; yields rows.
      limit_s: after so long it hangs, be there time left or not.
      quick: belongs to a quick look, too.
      environment: of its process, where it has one to itself.
    """

    function: str
    limit_s: int
    quick: bool = True
    environment: tuple[tuple[str, str], ...] = ()


# In the order of what a report cannot do without. One limit is long: a card newer than
# TensorFlow's kernels compiles them for minutes, and is then done with it.
PARTS = {
    _FIRST: Part("benchmarks.gpu_parts:machine", 60),
    "placement": Part("benchmarks.gpu_parts:placement", 240),
    "bfloat16": Part("benchmarks.gpu_parts:bfloat16", 180),
    "resume": Part("benchmarks.gpu_lives:resume", 120),
    "beside": Part("benchmarks.gpu_lives:beside", 90),
    "training": Part("benchmarks.gpu_parts:training", 120),
    "mirrored": Part("benchmarks.gpu_parts:mirrored", 90, quick=False),
    "float16": Part("benchmarks.gpu_parts:float16", 180, quick=False),
    "TF32": Part("benchmarks.gpu_parts:tf32", 180, quick=False),
    "float32": Part("benchmarks.gpu_parts:float32", 180, quick=False),
    "mirrored, one": Part(
        "benchmarks.gpu_parts:mirrored_on_one",
        90,
        quick=False,
        environment=(("CUDA_VISIBLE_DEVICES", "0"),),
    ),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a part must know.

    Attributes:
      scratch: a folder; holds the set `noise`, and the runs of earlier parts.
      gpus: that TensorFlow sees; 0 where the CPU stands in, with tiny sizes.
      quick: measure in short windows.
    """

    scratch: str
    gpus: int = 0
    quick: bool = False

    @property
    def model(self) -> str:
        """The network whose speed is measured."""
        return "vgg16" if self.gpus else "small_cnn"

    @property
    def image_size(self) -> int:
        """Height = width of what the steps see, in pixels."""
        return 224 if self.gpus else 32

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Images a step and card: the first that fits into memory counts."""
        return (256, 128, 64, 32, 16) if self.gpus else (8,)

    @property
    def window_s(self) -> float:
        """Seconds of a timed window."""
        return (0.5 if self.quick else 1.0) if self.gpus else 0.02


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
      what: was tried.
      result: figures in words, or why there are none.
      status: OK, FAILED or SKIPPED.
      values: the figures, for JSON.
    """

    what: str
    result: str
    status: str = OK
    values: dict[str, Any] = dataclasses.field(default_factory=dict)


class Skip(Exception):
    """A part, or one figure of it, has no place on this machine; says why."""


def attempt(what: str, measure: Callable[[], Row]) -> Row:
    """Returns the row of a measurement, or one that says why there is none."""
    try:
        return measure()
    except Skip as reason:
        return Row(what, str(reason), SKIPPED)
    except Exception as error:
        return Row(what, _reason(error), FAILED)


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:_LONGEST_REASON]


def rows_of(name: str, settings: Settings) -> Iterator[Row]:
    """Yields the rows of a part; its error is the last of them."""
    try:
        yield from pkgutil.resolve_name(PARTS[name].function)(settings)
    except Skip as reason:
        yield Row(name, str(reason), SKIPPED)
    except Exception as error:
        yield Row(name, _reason(error), FAILED)


# --- a process for each part


def work(names: Sequence[str], settings: Settings, path: pathlib.Path) -> None:
    """Runs parts and appends to a file, a JSON line each: rows, and what is done."""
    with open(path, "a", encoding="utf-8") as file:
        for name in names:
            for row in rows_of(name, settings):
                print(json.dumps(dataclasses.asdict(row)), file=file, flush=True)
            print(json.dumps({"done": name}), file=file, flush=True)


def work_alone(job: str) -> None:
    """Runs parts in this process, which has no other purpose.

    Args:
      job: JSON of `names`, `settings` and `path`.
    """
    platforms.configure_process()  # before TensorFlow, as our commands do
    asked = json.loads(job)
    settings = Settings(**asked["settings"])
    work(asked["names"], settings, pathlib.Path(asked["path"]))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a process.

    Attributes:
      rows: it wrote.
      done: parts that it ended.
      reason: why it ended no more; empty where it did all.
    """

    rows: list[Row]
    done: list[str]
    reason: str = ""


def run_process(names: Sequence[str], settings: Settings, limit_s: float) -> Outcome:
    """Runs parts in one process, for at most so many seconds."""
    scratch = pathlib.Path(settings.scratch)
    path, log = scratch / f"{names[0]}.jsonl", scratch / f"{names[0]}.log"
    job = {"names": names, "settings": dataclasses.asdict(settings), "path": str(path)}
    added = dict(PARTS[names[0]].environment) if len(names) == 1 else {}
    path.touch()
    with open(log, "w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _WORK, json.dumps(job)],
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env=_environment(added),
            start_new_session=True,
        )
        reason = _wait(process, limit_s)
    return _read(path, reason and f"{reason}; {_last_line(log)}")


def _environment(added: dict[str, str]) -> dict[str, str]:
    """Returns this process' environment; among cards it hides, the first stays."""
    found = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ}
    for name, value in added.items():
        found[name] = found.get(name, value).split(",")[0]
    return found


def _wait(process: subprocess.Popen, limit_s: float) -> str:
    """Returns why a process did not end well, or nothing; ends what it has begun."""
    try:
        code = process.wait(limit_s)
        if code >= 0:
            return f"exit code {code}" if code else ""
        return f"died of {signal.Signals(-code).name}"
    except subprocess.TimeoutExpired:
        return f"stopped after {limit_s:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and the trainings it started
        process.wait()


def _read(path: pathlib.Path, reason: str) -> Outcome:
    """Returns what a process has written; its last line may be cut off."""
    rows, done = [], []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            entry = json.loads(line)
            if "done" in entry:
                done.append(entry["done"])
            else:
                rows.append(Row(**entry))
    return Outcome(rows, done, reason)


def _last_line(log: pathlib.Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    return lines[-1][-_LONGEST_REASON:]


# --- all of them, in time


class Session:
    """Runs parts one after the other until the time is over.

    Args:
      settings: of the parts; `gpus` becomes what the first part finds.
      budget_s: seconds for all together.
      run: runs parts in a process.
      clock: tells the seconds.
    """

    def __init__(
        self,
        settings: Settings,
        budget_s: float,
        *,
        run: Callable[[Sequence[str], Settings, float], Outcome] = run_process,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.settings, self._run, self._clock = settings, run, clock
        self._end = clock() + budget_s
        self.rows: list[Row] = []

    def run(self, names: Sequence[str], *, apart: bool) -> list[Row]:
        """Runs parts and returns all rows.

        Args:
          names: of the parts, in order.
          apart: each in a process of its own; without, one process does what it can,
            and another what it left.
        """
        waiting = list(names)
        while waiting:
            self._next(waiting, 1 if apart else None)
        return self.rows

    def _next(self, waiting: list[str], most: int | None) -> None:
        """Runs what waits first; takes from `waiting` what is done with."""
        left = self._end - self._clock()
        if left <= 0:
            for name in waiting:
                self._add(Row(name, NO_TIME, SKIPPED))
            waiting.clear()
            return
        names = waiting[:most]
        limit_s = sum(PARTS[name].limit_s for name in names)
        outcome = self._run(names, self.settings, min(left, limit_s))
        for row in outcome.rows:
            self._add(row)
        for name in outcome.done:
            waiting.remove(name)
        unfinished = [name for name in names if name in waiting]
        if unfinished:
            waiting.remove(unfinished[0])
            over = left < limit_s and self._clock() >= self._end
            reason = f"{NO_TIME}; {outcome.reason}" if over else outcome.reason
            self._add(Row(unfinished[0], reason, SKIPPED if over else FAILED))

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        gpus = row.values.get("gpus", self.settings.gpus)
        self.settings = dataclasses.replace(self.settings, gpus=gpus)
        console.say(f"{row.status}: {row.what}: {row.result}")


# --- what is told


def table(rows: Sequence[Row]) -> str:
    """Returns rows as a Markdown table."""
    cells = [("what", "", "result"), ("---", "---", "---")]
    cells += [(row.what, row.status, row.result.replace("|", "/")) for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def report(rows: Sequence[Row], seconds: float, gpus: int) -> str:
    """Returns the table and what must be known of it."""
    where = f"{gpus} GPU{'s' if gpus > 1 else ''}"
    if not gpus:
        where = "not run on a GPU: the CPU stood in, tiny; its rates say nothing"
    counts = {
        word: sum(row.status == word for row in rows) for word in (FAILED, SKIPPED)
    }
    return (
        f"## GPU acceptance: {where}\n\n{table(rows)}\n\n{len(rows)} rows, "
        f"{counts[FAILED]} failed, {counts[SKIPPED]} skipped, {seconds:.0f} s"
    )


def main(argv: list[str]) -> int:
    """Runs the parts; 1 where one of them failed."""
    config, positional = cli.parse(argv, AcceptanceConfig, usage=__doc__)
    cli.reject_positional(positional)
    begin = time.monotonic()
    # A driver, be it ever so broken, means that crashes are to be expected.
    apart = platforms.has_gpu_driver()
    with tempfile.TemporaryDirectory() as scratch:
        count, size = (300, 224) if apart else (120, 32)
        noise_set.make(pathlib.Path(scratch), count, image_size=size, held_out=24)
        settings = Settings(scratch, quick=config.quick)
        left = config.budget_s - (time.monotonic() - begin)
        session = Session(settings, left)
        rows = session.run(config.parts(), apart=apart)
    seconds, gpus = time.monotonic() - begin, session.settings.gpus
    console.say("\n" + report(rows, seconds, gpus))
    if config.output:
        content = {
            "schema": 1,
            "gpus": gpus,
            "quick": config.quick,
            "seconds": seconds,
            "rows": [dataclasses.asdict(row) for row in rows],
        }
        files.publish(pathlib.Path(config.output), json.dumps(content, indent=1) + "\n")
    return 1 if any(row.status == FAILED for row in rows) else 0


if __name__ == "__main__":
    cli.run(main)
