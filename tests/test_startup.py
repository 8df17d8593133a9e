import contextlib
import os
import pathlib
import pty
import re
import signal
import subprocess
import sys

import pytest

from cxr import known_lines

ROOT = pathlib.Path(__file__).parents[1]
BY_ABSL = b"I0000 00:00:1795759082.080917    7526 "
KNOWN = (
    b"WARNING: All log messages before absl::InitializeLog() is called are written to "
    b"STDERR",
    BY_ABSL + b"port.cc:153] oneDNN custom operations are on. You may see slightly "
    b"different numerical results due to floating-point round-off errors from "
    b"different computation orders. To turn them off, set the environment variable "
    b"`TF_ENABLE_ONEDNN_OPTS=0`.",
    BY_ABSL + b"cudart_stub.cc:31] Could not find cuda drivers on your machine, GPU "
    b"will not be used.",
    b"E0000 00:00:1795759085.127023    7526 cuda_platform.cc:52] failed call to "
    b"cuInit: INTERNAL: CUDA error: Failed call to cuInit: UNKNOWN ERROR (303)",
)
NOISE = re.compile(r"[IWE]0000 |InitializeLog|oneDNN|cuInit|retracing", re.IGNORECASE)
ANNOUNCED = b"loading TensorFlow (about 6 s) ..."
LOAD = "from cxr import startup; startup.load_tensorflow()"


@pytest.fixture
def load(tmp_path):
    """Runs Python in which `tensorflow` is a module that only does what is asked."""

    def run(imported="", code=LOAD, *args, **options):
        known = b"".join(line + b"\n" for line in KNOWN)
        late = KNOWN[-1] + b"\n"
        (tmp_path / "tensorflow.py").write_text(
            "import os, types\n"
            f"os.write(2, {known!r} + b'unknown \\xff\\n')\n"
            f"{imported}\n"
            "config = types.SimpleNamespace(\n"
            f"    list_physical_devices=lambda: os.write(2, {late!r}))\n"
        )
        return subprocess.run(
            [sys.executable, "-c", code, *args],
            env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
            **({"capture_output": True} | options),
        )

    return run


def test_the_announcement_stands_before_the_import_and_known_lines_nowhere(load):
    ended = load()
    assert ended.stderr == ANNOUNCED + b"\nunknown \xff\n"
    assert (ended.returncode, ended.stdout) == (0, b"")


@pytest.mark.parametrize(
    ("end", "code"), [("os.abort()", -signal.SIGABRT), ("os._exit(7)", 7)]
)
def test_what_a_library_says_when_it_ends_the_process_is_seen(load, end, code):
    ended = load(f"os.write(2, b'F0000 no such instruction'); {end}")
    assert ended.returncode == code
    assert ended.stderr == ANNOUNCED + b"\nunknown \xff\nF0000 no such instruction"


def test_an_import_that_fails_leaves_standard_error_as_it_was(load):
    ended = load("raise ImportError('no numpy')")
    assert ended.stderr.startswith(ANNOUNCED + b"\nunknown \xff\nTraceback")
    assert ended.stderr.endswith(b"ImportError: no numpy\n")


@pytest.mark.parametrize(
    ("before", "args"),
    [
        ("from cxr import platforms; platforms.has_gpu_driver = lambda: True; ", []),
        ("", ["--debug"]),
    ],
    ids=["driver", "debug"],
)
def test_nothing_is_left_out_where_it_may_be_wanted(load, before, args):
    before = before or "from cxr import platforms; "
    ended = load("", before + LOAD, *args)
    assert all(line in ended.stderr for line in KNOWN)


@pytest.mark.parametrize(("args", "shown"), [([], 1), (["--debug"], 2)])
def test_retracing_is_for_developers(load, args, shown):
    code = LOAD + (
        "; import logging; log = logging.getLogger('tensorflow').warning; log('5 out "
        "of the last 9 calls to %r triggered tf.function retracing.', 1); log('other')"
    )
    lines = load("", code, *args).stderr.splitlines()
    assert [line for line in lines if b"retracing" in line or line == b"other"] == (
        [b"5 out of the last 9 calls to 1 triggered tf.function retracing.", b"other"]
    )[-shown:]


def test_loaded_before_it_is_not_announced(load):
    assert ANNOUNCED not in load("", "import tensorflow; " + LOAD).stderr


@pytest.mark.parametrize("closed", ["os.close(2); ", ""])
def test_without_standard_error_it_is_loaded_all_the_same(load, closed):
    code = f"import os, sys; {closed}sys.stderr = open(os.devnull, 'w'); {LOAD}"
    ended = load("", code + "; print('loaded')")
    assert (ended.returncode, ended.stdout) == (0, b"loaded\n")


def test_a_terminal_is_one_afterwards_for_us_and_for_children(load):
    """So bars are drawn, and what begins with a carriage return is left alone."""
    ours, theirs = pty.openpty()
    child = "import sys; sys.stderr.write('child' + str(sys.stderr.isatty()) + chr(10))"
    code = (
        f"import subprocess, sys; {LOAD}; "
        "sys.stderr.write('ours' + str(sys.stderr.isatty()) + chr(10)); "
        f"subprocess.run([sys.executable, '-c', {child!r}]); "
        "sys.stderr.write(chr(13) + 'half')"
    )
    ended = load("", code, capture_output=False, stderr=theirs, stdout=theirs)
    os.close(theirs)
    shown = read_terminal(ours).replace(b"\r\n", b"\n")
    assert ended.returncode == 0
    assert shown == ANNOUNCED + b"\nunknown \xff\noursTrue\nchildTrue\n\rhalf"


def read_terminal(descriptor: int) -> bytes:
    """Returns what was written to a terminal whose other end is closed."""
    found = b""
    with contextlib.suppress(OSError):  # Linux' way to say that it ended
        while part := os.read(descriptor, 1 << 16):
            found += part
    os.close(descriptor)
    return found


# --- the filter alone


@pytest.mark.parametrize("line", KNOWN)
def test_lines_are_known_by_their_whole_text(line):
    assert known_lines.is_known(line)
    for other in (line + b" And so on.", b"so: " + line, line[:-1], line.upper()):
        assert not known_lines.is_known(other)


def test_errors_of_the_same_sources_are_passed_on():
    for line in (
        b"E0000 00:00:1.5 7 cuda_platform.cc:52] failed call to cuInit: out of memory",
        b"I0000 00:00:1.5 7 port.cc:153] oneDNN failed",
        b"F0000 00:00:1.5 7 port.cc:153] " + KNOWN[1].partition(b"] ")[2],
    ):
        assert not known_lines.is_known(line)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 16])
def test_lines_are_found_however_they_arrive(chunk, monkeypatch):
    text = b"one\n" + b"\n".join(KNOWN) + b"\n\r 50%\rtwo\n\nthree"
    parts = [text[i : i + chunk] for i in range(0, len(text), chunk)]
    written = []
    monkeypatch.setattr(
        os, "read", lambda source, count: parts.pop(0) if parts else b""
    )
    monkeypatch.setattr(
        os, "write", lambda target, data: written.append(data[:3]) or len(data[:3])
    )
    known_lines.copy(0, 1)
    assert b"".join(written) == b"one\n\r 50%\rtwo\n\nthree"
