import dataclasses
import os
import signal
import subprocess
import sys

import pytest

from cxr import bench, cli, console, train
from cxr.config import TrainConfig
from cxr.training import signals


@dataclasses.dataclass(frozen=True)
class Config:
    count: int = cli.option(3, "how many", lower=1, upper=9)
    rate: float = cli.option(0.5, "share", lower=0, upper=1)
    names: tuple[str, ...] = cli.option((), "which")
    fast: bool = cli.option(False, "hurry")
    kind: str = cli.option("a", "sort", choices=("a", "b"))
    text: str = cli.option("", "anything")


@dataclasses.dataclass(frozen=True)
class Needs:
    path: str = cli.required("where")


def parse(*args):
    return cli.parse(["prog", *args], Config, usage="Does things.")


def test_defaults_and_values():
    assert parse() == (Config(), [])
    config, rest = parse(
        "--count=5", "--names=x,y", "--names=z", "--fast", "file", "--rate=0.25"
    )
    assert config == Config(count=5, names=("x", "y", "z"), fast=True, rate=0.25)
    assert rest == ["file"]


@pytest.mark.parametrize(
    ("arg", "words"),
    [
        ("--count=0", ["--count=0", "[1, 9]"]),
        ("--count=ten", ["--count=ten", "INT"]),
        ("--rate=1.5", ["--rate=1.5", "[0, 1]"]),
        ("--kind=c", ["--kind=c", "a|b"]),
        ("--fast=maybe", ["--fast=maybe", "BOOL"]),
        ("--cuont=1", ["--cuont", "did you mean --count"]),
        ("--flagfile=/no/such.flags", ["--flagfile", "/no/such.flags", "quickstart"]),
        ("--flagfile=/no/vgg16.flags", ["--flagfile", "/no/vgg16.flags"]),
        ("--flagfile=other/vgg16", ["--flagfile", "other/vgg16"]),
        ("--flagfile", ["--flagfile"]),
    ],
)
def test_refusals_name_flag_value_and_remedy(arg, words):
    with pytest.raises(cli.UsageError) as caught:
        parse(arg)
    message = str(caught.value)
    assert len(message.splitlines()) <= 6
    for word in words:
        assert word in message


def test_required_flag_is_asked_for():
    with pytest.raises(cli.UsageError, match="--path"):
        cli.parse(["prog"], Needs, usage="")


def test_flagfile_round_trip(tmp_path):
    config = Config(7, 0.125, ("p", "q"), True, "b", "a b=c")
    (tmp_path / "run.flags").write_text("# comment\n" + cli.to_flags(config))
    assert parse(f"--flagfile={tmp_path / 'run.flags'}")[0] == config
    assert parse(f"--flagfile={tmp_path / 'run.flags'}", "--count=2")[0].count == 2


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder without recipes, to which the tests go."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "args",
    [
        ["--flagfile=configs/vgg16.flags"],
        ["--flagfile=vgg16.flags"],
        ["-flagfile=vgg16"],
        ["--flagfile", "vgg16"],
    ],
    ids=" ".join,
)
def test_a_packaged_flagfile_is_found_by_its_name(elsewhere, args, monkeypatch, capsys):
    trained = []
    monkeypatch.setattr(train, "train", trained.append)
    assert train.main(["train", "--flagfile=quickstart", *args]) == 0
    (config,) = trained
    assert (config.model, config.workdir) == ("vgg16", "runs/vgg16")
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 2
    assert shown[1].endswith(str(cli.CONFIGS / "vgg16.flags"))


def test_a_flagfile_of_ones_own_comes_before_the_packaged(elsewhere, capsys):
    (elsewhere / "vgg16").mkdir()  # a folder is no flagfile
    (elsewhere / "vgg16.flags").write_text("--text=own\n")
    assert parse("--flagfile=vgg16.flags")[0].text == "own"
    assert parse("--", "--flagfile=vgg16") == (Config(), ["--flagfile=vgg16"])
    assert capsys.readouterr().err == ""
    with pytest.raises(cli.UsageError, match="--model"):  # of the packaged one
        parse("--flagfile=vgg16")


def test_the_benchmark_runs_the_quickstart_anywhere(elsewhere, monkeypatch):
    measured = []

    def measure(config, options):
        measured.append(config)
        return {"changes": []}

    monkeypatch.setattr(bench, "bench", measure)
    assert bench.main(["bench"]) == 0
    assert bench.main(["bench", "--flagfile=small_cnn"]) == 0
    assert [config.dataset for config in measured] == ["phantom", "chest_xray"]


def test_help_shows_own_flags_and_exits_0(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "Does things." in shown
    for field in dataclasses.fields(Config):
        assert f"--{field.name}=" in shown


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (cli.UsageError("--x=1: no"), 2),
        (cli.DataError("bad"), 65),
        (cli.UnavailableError("missing"), 69),
        (cli.StorageError("disk"), 74),
        (OSError(28, "No space left on device", "/full"), 74),
        (ModuleNotFoundError("No module named 'tensorflow'"), 69),
    ],
)
def test_run_maps_errors_to_exit_codes(error, code, monkeypatch, capsys):
    def main(argv):
        raise error

    monkeypatch.setattr("sys.argv", ["prog"])
    with pytest.raises(SystemExit) as caught:
        cli.run(main)
    shown = capsys.readouterr().err
    assert caught.value.code == code
    assert "Traceback" not in shown
    assert shown.startswith("error: ")


def test_debug_shows_the_traceback_and_is_no_flag_of_the_command(monkeypatch, capsys):
    def main(argv):
        assert argv == ["prog"]
        raise cli.DataError("bad")

    monkeypatch.setattr("sys.argv", ["prog", "--debug"])
    with pytest.raises(SystemExit):
        cli.run(main)
    assert "Traceback" in capsys.readouterr().err


def test_long_errors_are_cut_to_six_lines(monkeypatch, capsys):
    def main(argv):
        raise cli.DataError("\n".join("abcdefghij"))

    monkeypatch.setattr("sys.argv", ["prog"])
    with pytest.raises(SystemExit):
        cli.run(main)
    assert len(capsys.readouterr().err.splitlines()) == 6


def test_sigterm_unwinds_what_is_open(monkeypatch, capsys):
    closed = []

    def main(argv):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            closed.append(True)

    monkeypatch.setattr("sys.argv", ["prog"])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        cli.run(main)
    signal.signal(signal.SIGTERM, before)
    assert (stopped.value.code, closed) == (143, [True])
    assert capsys.readouterr().err == "stopped by SIGTERM\n"


def test_ctrl_c_is_no_error(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["prog"])
    with pytest.raises(SystemExit) as stopped:
        cli.run(lambda argv: signal.raise_signal(signal.SIGINT))
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_work_that_stopped_at_a_safe_moment_is_no_error(monkeypatch, capsys):
    def main(argv):
        raise signals.Interrupted(signal.SIGINT)

    monkeypatch.setattr("sys.argv", ["prog"])
    with pytest.raises(SystemExit) as stopped:
        cli.run(main)
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "stopped by SIGINT\n"


@pytest.mark.parametrize(
    "said", ["console.say('line')", "console.note('line')", "print(1)"]
)
def test_a_reader_that_leaves_is_no_error(said):
    """As behind `| head`: the command ends at once, and says nothing."""
    reads, writes = os.pipe()
    os.close(reads)  # before the first line: nothing depends on time
    stream = "stderr" if "note" in said else "stdout"
    other = "stdout" if stream == "stderr" else "stderr"
    code = f"from cxr import cli, console\ncli.run(lambda argv: {said})\n"
    with open(writes, "wb") as closed:
        ended = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONUNBUFFERED": ""},  # print(1) fails at the end
            **{stream: closed, other: subprocess.PIPE},
        )
    assert ended.returncode == 141
    assert getattr(ended, other) == b""


def test_a_broken_pipe_of_another_kind_is_an_error(monkeypatch, capsys):
    def main(argv):
        raise BrokenPipeError(32, "Broken pipe")  # to a worker

    monkeypatch.setattr("sys.argv", ["prog"])
    with pytest.raises(SystemExit) as ended:
        cli.run(main)
    assert ended.value.code == 74
    assert capsys.readouterr().err == "error: Broken pipe\n"


def test_lines_name_the_run_that_they_are_about(capsys):
    with console.naming("seed-1"):
        console.say("\nfirst\nsecond")
        with console.naming(""):
            console.say("third")
        console.warn("fourth")
    console.say("fifth")
    said = capsys.readouterr()
    assert said.out == "\nseed-1: first\nseed-1: second\nthird\nfifth\n"
    assert said.err == "seed-1: warning: fourth\n"


def test_what_is_printed_is_copied_within_the_block(capsys):
    copied = []
    console.say("before")
    with console.copying(copied.append):
        console.say("one", "two")
        console.note("three\x1b")
    console.say("after")
    assert copied == ["one\ntwo", "three\\x1b"]
    assert capsys.readouterr().out == "before\none\ntwo\nafter\n"


@dataclasses.dataclass(frozen=True)
class Grouped:
    where: str = cli.required("where to", heading="places")
    whence: str = cli.option("", "where from")
    slow: bool = cli.option(False, "hurry not", heading="pace")


def test_help_shows_flags_in_their_groups(capsys):
    with pytest.raises(SystemExit):
        cli.parse(["prog", "--help"], Grouped, Config, usage="Goes.")
    lines = capsys.readouterr().out.splitlines()
    shown = [
        line.split("=")[0].strip()
        for line in lines
        if line.endswith(":") or "=" in line
    ]
    assert shown[:5] == ["places:", "--where", "--whence", "pace:", "--slow"]
    assert shown[-2:] == ["of every command:", "--flagfile"]


@pytest.mark.parametrize("config", [TrainConfig, bench.BenchConfig])
def test_the_first_flag_of_a_large_command_begins_a_group(config):
    assert dataclasses.fields(config)[0].metadata["heading"]


@pytest.mark.parametrize("value", ["a\nb", "a\x1b[2Jb", "\u202eflags", "x\udcff"])
def test_flags_hold_no_control_characters(value):
    for args in ([f"--text={value}"], ["--text", value], [f"--names=a,{value}"]):
        with pytest.raises(cli.UsageError, match="holds control characters") as error:
            parse(*args)
        assert str(error.value).isprintable()


def test_a_terminal_obeys_no_name(capsys):
    console.say("one\x1b[2J", "two\rthree\u202e")
    console.warn("four\x9b5A\x07")
    said = capsys.readouterr()
    assert said.out == "one\\x1b[2J\ntwo\\rthree\\u202e\n"
    assert said.err == "warning: four\\x9b5A\\x07\n"
    assert console.printable("R\u00f6ntgen \u80ba\n") == "R\u00f6ntgen \u80ba\n"


# --- paths behind a `=`


@dataclasses.dataclass(frozen=True)
class Paths:
    input_dir: str = cli.option("", "where from")
    workdir: tuple[str, ...] = cli.option((), "where to")
    text: str = cli.option("", "no path")


def paths(*args):
    return cli.parse(["prog", *args], Paths, usage="Reads paths.")[0]


def test_home_and_variables_are_resolved_in_paths(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("FILMS", "/films")
    assert paths("--input_dir=~/x").input_dir == "/home/me/x"
    assert paths("--input_dir=${FILMS}/x").input_dir == "/films/x"
    assert paths("--workdir=~/a,$FILMS/b").workdir == ("/home/me/a", "/films/b")
    assert paths("--text=~/$FILMS").text == "~/$FILMS"
    assert paths("--input_dir=a~b$").input_dir == "a~b$"


def test_a_path_that_exists_as_it_is_written_stays(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FILMS", "/films")
    (tmp_path / "$FILMS").mkdir()
    assert paths("--input_dir=$FILMS").input_dir == "$FILMS"


def test_a_variable_that_is_not_set_is_named(monkeypatch):
    monkeypatch.delenv("NOWHERE", raising=False)
    with pytest.raises(cli.UsageError, match=r"--input_dir=\$NOWHERE/x: .* NOWHERE"):
        paths("--input_dir=$NOWHERE/x")


def test_names_are_listed_for_a_message():
    assert console.listed(["a", "b"]) == "'a', 'b'"
    assert console.listed(list("abcde"), 2) == "'a', 'b' and 3 more"
