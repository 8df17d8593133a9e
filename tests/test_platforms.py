"""cxr.platforms: what is done where a system lacks what Linux has."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from cxr import cli, platforms, runs
from cxr.input.reader import Reader


def test_cores_are_those_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", {0: {2, 3, 5}}.__getitem__)
    assert platforms.available_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert platforms.available_cores() == 7


def test_free_memory_is_assumed_where_no_one_tells(monkeypatch):
    assert 0 < platforms.free_memory_bytes() < 1 << 50
    monkeypatch.setattr(platforms, "_MEMORY", pathlib.Path("/no/where"))
    assert platforms.free_memory_bytes() == 4 << 30


@pytest.mark.parametrize("missing", ["pread", "posix_fadvise"])
def test_images_are_read_without_what_other_systems_lack(
    make_records, monkeypatch, missing
):
    reader = Reader(make_records({"train": 9}), "train", image_size=16)
    indices = np.array([8, 0, 3])
    expected = reader.images(indices)
    monkeypatch.delattr(os, missing)
    np.testing.assert_array_equal(reader.images(indices), expected)


def test_a_folder_is_locked_without_fcntl(tmp_path, monkeypatch):
    """By Windows' module, whose part a stand-in plays here."""
    held = []

    class Msvcrt:
        LK_NBLCK = 2

        @staticmethod
        def locking(descriptor, mode, count):
            if held:
                raise PermissionError
            held.append((mode, count))

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(platforms, "msvcrt", Msvcrt, raising=False)
    with runs.lock(tmp_path):
        assert held == [(2, 1)]
        with pytest.raises(cli.UsageError, match="--workdir"):
            with runs.lock(tmp_path):
                pass


# --- settings of a whole process

SETTINGS = """
{imports}
from cxr import platforms
platforms.configure_process()
import numpy, scipy.linalg, threadpoolctl
blas = [p for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"]
assert len(blas) > 1, blas  # numpy's and scipy's
print(*(p["num_threads"] for p in blas))
"""
ENV = {k: v for k, v in os.environ.items() if k != "OPENBLAS_NUM_THREADS"}


def outcome(script: str, **variables: str) -> str:
    """Returns what a process prints in which no one has set OpenBLAS's threads."""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=ENV | variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("imports", ["", "import numpy", "import cxr.records"])
def test_commands_give_blas_one_thread(imports):
    assert set(outcome(SETTINGS.format(imports=imports)).split()) == {"1"}


def test_a_number_of_threads_that_is_given_stays():
    script = SETTINGS.format(imports="")
    assert set(outcome(script, OPENBLAS_NUM_THREADS="2").split()) == {"2"}


def test_every_command_makes_the_settings_and_no_import_does():
    tell = "print('OPENBLAS_NUM_THREADS' in os.environ)"
    imported = f"import os, cxr.cli, cxr.input.reader; {tell}"
    assert outcome(imported) == "False\n"
    command = f"import os; from cxr import cli; cli.run(lambda argv: {tell})"
    assert outcome(command) == "True\n"


# --- the whole, where a system has nothing that only Linux has

ELSEWHERE = """
import os, signal, sys
import multiprocessing
sys.modules["fcntl"] = sys.modules["resource"] = None
for holder, names in {
    os: "sched_getaffinity pread preadv posix_fadvise O_NOFOLLOW O_NONBLOCK "
    "getloadavg sysconf".split(),
    signal: ["pthread_sigmask"],
}.items():
    for name in names:
        delattr(holder, name)
multiprocessing.get_all_start_methods = lambda: ["spawn"]

def no_proc(event, args):
    if event == "open" and str(args[0]).startswith(("/proc", "/sys")):
        raise FileNotFoundError(2, "No such file or directory", args[0])

if __name__ == "__main__":
    sys.addaudithook(no_proc)
    from cxr import bench, evaluate, predict, train
    from tools import make_phantoms, make_tfrecords, verify_tfrecords

    make_phantoms.main(["", "--output_dir=films", "--num_patients=40"])
    make_tfrecords.main(
        ["", "--input_dir=films", "--image_size=64", "--workers=2"]
    )
    assert verify_tfrecords.main(["", "--workers=1"]) == 0
    flags = ["--model=small_cnn", "--image_size=64", "--epochs=1", "--batch_size=16"]
    train.main(["", *flags, "--workdir=run"])
    train.main(["", *flags, "--workdir=run"])
    evaluate.main(["", "--workdir=run", "--draws=100"])
    predict.main(["", "--workdir=run", "--output=out.csv", "films/test"])
    short = ["--only=input", "--repeats=1", "--window_ms=20"]
    assert bench.main(["", "--dataset=chest_xray", "--batch_size=16", *short]) == 0
"""


@pytest.mark.slow
def test_everything_runs_without_what_only_linux_has(tmp_path):
    script = tmp_path / "elsewhere.py"
    script.write_text(ELSEWHERE)
    root = str(pathlib.Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "run/.lock: this file system has no locks" in done.stderr
    assert "lock-owner" not in [path.name for path in tmp_path.rglob("*")]
    assert (tmp_path / "run" / "evaluation-test" / "report.html").is_file()
    assert (tmp_path / "out.csv").read_text().startswith("path,prediction")
    measured = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert measured["stages"] and measured["peak_rss_mb"] == 0


def test_numpys_products_run_in_one_thread_inside_and_as_before_behind():
    import threadpoolctl

    def threads():
        found = threadpoolctl.ThreadpoolController().select(user_api="blas").info()
        return [library["num_threads"] for library in found]

    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = threads()
        with platforms.one_blas_thread():
            assert set(threads()) == {1}
        assert threads() == before and 2 in before
