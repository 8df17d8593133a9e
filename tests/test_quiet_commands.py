"""The real commands, as a person sees them: what is said, when, and no noise."""

import fcntl
import os
import pathlib
import pty
import struct
import subprocess
import sys
import termios
from concurrent import futures

import pytest

from cxr import platforms
from tests.test_startup import ANNOUNCED, NOISE, read_terminal

pytestmark = [
    pytest.mark.slow,  # each command loads TensorFlow
    pytest.mark.skipif(
        platforms.has_gpu_driver(), reason="beside a GPU's driver nothing is left out"
    ),
]
ROOT = pathlib.Path(__file__).parents[1]
LOADING = ANNOUNCED.decode()


def run(home, module, *flags, **options):
    """Runs a command in an environment that asks TensorFlow for nothing."""
    env = {name: text for name, text in os.environ.items() if name[:3] != "TF_"}
    env.pop("CUDA_VISIBLE_DEVICES", None)
    return subprocess.run(
        [sys.executable, "-m", module, *flags],
        cwd=home,
        env={**env, "PYTHONPATH": str(ROOT)},
        **({"capture_output": True} | options),
    )


def quiet(ended) -> tuple[list[str], list[str]]:
    """Lines of stdout and stderr of a command that ended well and without noise."""
    out, err = (part.decode().splitlines() for part in (ended.stdout, ended.stderr))
    assert ended.returncode == 0, err
    assert not [line for line in err if NOISE.search(line)]
    return out, err


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with films, a set, and what training two seeds showed on a terminal."""
    home = tmp_path_factory.mktemp("quiet")
    _, err = quiet(
        run(home, "tools.make_phantoms", "--output_dir=films", "--num_patients=40")
    )
    assert err == []
    quiet(run(home, "tools.make_tfrecords", "--input_dir=films", "--image_size=32"))
    quiet(run(home, "tools.verify_tfrecords"))
    ours, theirs = pty.openpty()
    # Lines and columns: on a terminal without any no bar is drawn.
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    flags = ("--model=small_cnn", "--image_size=32", "--batch_size=8", "--epochs=1")
    # Read meanwhile: a terminal holds a few thousand characters.
    with futures.ThreadPoolExecutor(1) as reader:
        shown = reader.submit(read_terminal, ours)
        ended = run(
            home,
            "cxr.train",
            *flags,
            "--seeds=0,1",
            "--workdir=both",
            capture_output=False,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        (home / "shown").write_bytes(shown.result())
    assert ended.returncode == 0, (home / "shown").read_text()
    return home


def test_a_terminal_sees_what_comes_before_it_comes(home):
    shown = (home / "shown").read_bytes().decode()
    assert not NOISE.search(shown)
    assert shown.splitlines()[0] == LOADING
    order = [
        LOADING,
        "seed-0: small_cnn at 32 px",
        "seed-0: each epoch leaves out ",
        "seed-0: compiling the first step ...",
        "seed-0: epoch   1 train: loss ",
        "seed-0: writing the model and choosing its threshold ...",
        "seed-0: finished: both/seed-0",
        "seed-1: compiling the first step ...",
        "seed-1: finished: both/seed-1",
    ]
    places = [shown.index(words) for words in order]
    assert places == sorted(places)
    assert "\r" in shown.replace("\r\n", "")  # bars are drawn: it is a terminal
    log = (home / "both" / "seed-0" / "train.log").read_text()
    assert "\r" not in log
    assert log.splitlines()[1] == LOADING


def test_evaluations_name_their_run(home):
    out, err = quiet(run(home, "cxr.evaluate", "--workdir=both", "--noreport"))
    assert err[0] == LOADING
    assert {line.partition(": ")[0] for line in out if line} == {
        "seed-0",
        "seed-1",
        "together",
    }


@pytest.mark.parametrize(
    ("module", "flags"),
    [
        ("cxr.predict", ["--output=films.csv", "films/test"]),
        ("cxr.export", ["--output=served"]),
        ("cxr.evaluate", ["--split=validation"]),
    ],
    ids=["predict", "export", "evaluate"],
)
def test_a_run_is_used_quietly(home, module, flags):
    out, err = quiet(run(home, module, "--workdir=both/seed-0", *flags))
    assert err[0] == LOADING
    assert out


def test_debug_shows_what_tensorflow_says(home):
    ended = run(home, "cxr.export", "--workdir=both/seed-0", "--output=d", "--debug")
    assert ended.returncode == 0
    assert NOISE.search(ended.stderr.decode())
