"""Looks for GPUs by way of a child process, whose fate does not matter.

A broken driver or CUDA library can end a process, or keep it waiting for ever.
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from cxr import platforms
from cxr.diagnosis.check import Check

# With this process' path: the child must import what commands would.
_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from cxr.diagnosis import gpu_probe; gpu_probe.main()"
)
_LAST_WAIT_S = 5  # after a kill; a process inside a broken driver may not even end


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """What became of the question to TensorFlow.

    Attributes:
      seconds: how long it took.
      found: what `gpu_probe.probe` returned; None where nothing came.
      fault: what happened instead, one line.
      late: it did not answer in time, and may be just slow.
    """

    seconds: float
    found: dict[str, Any] | None = None
    fault: str = ""
    late: bool = False


def ask_tensorflow(timeout_s: float, command: Sequence[str] = ()) -> ProbeResult:
    """Imports TensorFlow in a child and returns what it says.

    Args:
      timeout_s: seconds after which the child is ended.
      command: prints the answer as its last line of JSON; default: our own probe.
    """
    command = command or (
        sys.executable,
        "-c",
        _CODE,
        json.dumps([*map(str, sys.path)]),
    )
    began = time.monotonic()
    # Files, not pipes: those would be read until the last of the child's own children
    # closed them.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(command, stdout=out, stderr=err)
        try:
            code = child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            fault = f"no answer within {timeout_s:g} s"
            return ProbeResult(time.monotonic() - began, fault=fault, late=True)
        finally:
            _end(child)
        seconds = time.monotonic() - began
        if code:
            return ProbeResult(seconds, fault=_describe_end(code, _last_line(err)))
        try:
            return ProbeResult(seconds, json.loads(_last_line(out)))
        except ValueError:
            return ProbeResult(
                seconds, fault=f"an answer of another kind: {_last_line(out)}"
            )


def tensorflow(answer: ProbeResult) -> list[Check]:
    """Looks at whether TensorFlow runs, and what networks compute in."""
    found = answer.found
    if answer.late:
        text = f"TensorFlow: {answer.fault}; --timeout_s gives it longer"
        return [Check("tensorflow", "import", "missing", None, text)]
    if found is None:
        advice = (
            "; CUDA_VISIBLE_DEVICES=-1 leaves the GPU out"
            if platforms.has_gpu_driver()
            else ""
        )
        text = f"TensorFlow does not run: {answer.fault}{advice}"
        return [Check("tensorflow", "import", "missing", None, text, needed=True)]
    came = f"TensorFlow {found['tensorflow']}, imported in {answer.seconds:.0f} s"
    slow = found["precision"] == "float32"
    return [
        Check("tensorflow", "import", "ok", found["tensorflow"], came),
        Check(
            "tensorflow",
            "precision",
            "slow" if slow else "ok",
            found["precision"],
            f"--precision=auto takes {found['precision']}"
            + (": nothing here multiplies less faster" if slow else ""),
        ),
    ]


def gpus(answer: ProbeResult) -> list[Check]:
    """Looks at GPUs, or says why there are none."""
    if answer.found and (names := answer.found["gpus"]):
        return [Check("gpu", "names", "ok", names, ", ".join(names))]
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not platforms.has_gpu_driver():
        why = "no NVIDIA driver"
    elif hidden in ("", "-1"):
        why = f"CUDA_VISIBLE_DEVICES={hidden} hides them"
    elif answer.found:
        why = f"a driver is here, but {answer.found['why_none']}"
    else:
        why = "a driver is here, but TensorFlow does not answer"
    text = f"no GPU ({why}): configs/vgg16.flags wants one, small_cnn.flags needs none"
    return [Check("gpu", "names", "slow", [], text)]


def _end(child: subprocess.Popen) -> None:
    if child.poll() is None:
        child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_LAST_WAIT_S)


def _last_line(file: Any) -> str:
    file.seek(0)
    lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _describe_end(code: int, last: str) -> str:
    if code > 0:
        return last or f"its process ended with {code}"
    try:
        return f"its process ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"its process ended by signal {-code}"
