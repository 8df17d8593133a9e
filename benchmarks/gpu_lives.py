"""What `gpu_acceptance` tries with whole commands: kill, resume, two at once.

Without TensorFlow: this process leaves the card to the commands.
"""

import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks import survival
from benchmarks.gpu_acceptance import ROOT, Row, Settings
from cxr import records, runs

_MIDDLE = 14  # steps: in the second of two epochs, or on a GPU in the first
_MEMORY = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader"]


def resume(settings: Settings) -> Iterator[Row]:
    """Yields whether a run that was killed ends like one that was not."""
    trials = _trials(settings, "--epochs=2")
    begin = time.monotonic()
    expected, _ = trials.reference()
    yield Row(
        "cxr.train, whole",
        f"{time.monotonic() - begin:.1f} s",
        values={"sha256": expected},
    )
    workdir = pathlib.Path(settings.scratch, "killed")
    process = trials.start(workdir)
    step = _await_step(process, workdir, _MIDDLE)
    process.kill()
    process.wait()
    if (workdir / runs.MODEL_INFO).exists():
        raise RuntimeError("the run was done before it was killed")
    if not trials.heals(workdir):
        raise RuntimeError(
            f"killed at step {step}, it did not end like the other: {_tail(workdir)}"
        )
    words = f"final_weights_sha256 as of the uninterrupted run: {expected[:12]}..."
    yield Row(f"killed at step {step}, resumed", words, values={"step": step})


def beside(settings: Settings) -> Iterator[Row]:
    """Yields whether an evaluation finds room beside a training."""
    reference = pathlib.Path(settings.scratch, "reference")
    if not (reference / runs.MODEL_INFO).exists():
        raise RuntimeError("needs the run that 'resume' makes")
    workdir = pathlib.Path(settings.scratch, "long")
    process = _trials(settings, "--epochs=100000", "--checkpoint_every_steps=20").start(
        workdir
    )
    try:
        begun = _await_step(process, workdir, 1)
        begin = time.monotonic()
        evaluated = _evaluate(reference)
        seconds = time.monotonic() - begin
        memory = _memory()
        if evaluated.returncode:
            raise RuntimeError(f"cxr.evaluate: {_last(evaluated.stdout)}")
        ended = _await_step(process, workdir, begun + 1)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait()
    words = f"{seconds:.1f} s, while training went from step {begun} to {ended}"
    yield Row(
        "cxr.evaluate beside cxr.train",
        words + (f"; {memory} in use" if memory else ""),
        values={"seconds": seconds, "memory_used": memory},
    )


def _trials(settings: Settings, *flags: str) -> survival.Trials:
    films = records.find(settings.scratch, "noise")
    chosen = (*survival.FLAGS, *flags, "--strategy=none")
    if not settings.gpus:  # a CPU compiles its warp for seconds, in each process
        chosen += ("--augmentation=none",)
    return survival.Trials(pathlib.Path(settings.scratch), films, chosen)


def _await_step(process: subprocess.Popen, workdir: pathlib.Path, step: int) -> int:
    """Waits for a checkpoint of that step or a later one; returns its step."""
    while True:
        found = (workdir / runs.CHECKPOINTS).glob("step-*")
        newest = max((int(path.name.split("-")[1]) for path in found), default=0)
        if newest >= step:
            return newest
        if process.poll() is not None:
            raise RuntimeError(f"training ended too early: {_tail(workdir)}")
        time.sleep(0.01)


def _evaluate(workdir: pathlib.Path) -> subprocess.CompletedProcess:
    flags = ("--split=validation", "--explain=0", "--draws=100", "--report=false")
    return subprocess.run(
        [sys.executable, "-m", "cxr.evaluate", f"--workdir={workdir}", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _memory() -> str:
    """Returns what all processes hold on the cards, nothing where nobody can tell."""
    try:
        found = subprocess.run(_MEMORY, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ", ".join(found.stdout.split("\n")).strip(", ")


def _tail(workdir: pathlib.Path) -> str:
    return _last((workdir.parent / f"{workdir.name}.log").read_text(errors="replace"))


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]
