import re
import subprocess
import sys
import threading

import pytest
from tqdm import tqdm

from cxr import console, pulse


@pytest.fixture
def clock(monkeypatch):
    """A time that only this test moves."""
    now = [100.0]
    monkeypatch.setattr(pulse.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(pulse, "_watch", pulse._Watch(now[0]))
    return now


def due(clock, now):
    clock[0] = now
    return pulse._watch.due(now)


def test_a_line_comes_before_ten_seconds_of_silence_and_again(clock):
    assert [due(clock, now) for now in (100, 105, 108.9)] == ["", "", ""]
    assert due(clock, 109.5) == "... 10 s: starting"
    assert due(clock, 115) == ""
    assert due(clock, 119) == "... 19 s: starting"


def test_it_names_the_last_line_or_what_has_been_reached_since(clock, capsys):
    due(clock, 105)
    console.say("\nfirst", "compiling the first step ...")
    assert due(clock, 110) == ""
    assert due(clock, 115) == "... 10 s: compiling the first step"
    pulse.at("epoch 1, step 3 of 9")
    assert due(clock, 125) == "... 20 s: epoch 1, step 3 of 9"
    console.note("")
    assert due(clock, 135) == "... 10 s: epoch 1, step 3 of 9"


def test_of_several_lines_it_names_what_they_are_about(clock, capsys):
    console.say("\nfinished: runs/a", "  model    runs/a/model", "next: evaluate")
    assert due(clock, 110) == "... 10 s: finished: runs/a"
    console.warn("few patients")
    assert due(clock, 120) == "... 10 s: finished: runs/a"


def test_the_thread_writes_and_ends_with_the_block(monkeypatch):
    monkeypatch.setattr(pulse, "_SILENCE_S", 0.0)
    monkeypatch.setattr(pulse, "_LOOK_S", 0.0)
    written, seen = [], threading.Event()

    def write(line):
        written.append(line)
        seen.set()

    with pulse.beating(write):
        assert seen.wait(60)
    count = len(written)
    assert re.fullmatch(r"\.\.\. \d+ s: starting", written[0])
    assert not [one for one in threading.enumerate() if one.name == "pulse"]
    assert len(written) == count


def test_beside_a_bar_it_is_silent():
    assert not pulse._bar_moves()
    with tqdm(total=1, disable=True):
        assert not pulse._bar_moves()
    with tqdm(total=1, disable=False):
        assert pulse._bar_moves()
    assert not pulse._bar_moves()


def test_a_command_beats_on_stderr_and_no_copy_is_kept():
    code = (
        "import threading\n"
        "from cxr import cli, console, pulse\n"
        "pulse._SILENCE_S = pulse._LOOK_S = 0.0\n"
        "seen, copied, show = threading.Event(), [], cli._show_life\n"
        "def shown(line):\n"
        "    show(line)\n"
        "    seen.set()\n"
        "cli._show_life = shown\n"
        "def main(argv):\n"
        "    with console.copying(copied.append):\n"
        "        seen.wait(60)\n"
        "    assert not copied\n"
        "cli.run(main)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert set(ended.stderr.splitlines()) == {"... 0 s: starting"}
