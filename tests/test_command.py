"""The one command `cxr VERB`: each verb is its module's entry point, word for word."""

import importlib
import pathlib
import subprocess
import sys
import tomllib
import types

import pytest

from cxr import __main__ as command
from cxr import cli, console

ROOT = pathlib.Path(__file__).parents[1]


def call(monkeypatch, *args):
    """Runs the command in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["cxr", *args])
    # What is of a whole process stays out of the suite's.
    monkeypatch.setattr(cli.platforms, "configure_process", lambda: None)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    try:
        command.main()
    except SystemExit as end:
        return end.code
    return 0


def python(code, folder):
    """Runs code in a process of its own, in `folder`, with cxr on its path."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({str(ROOT)!r})\n{code}"],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin"},
    )


@pytest.mark.parametrize("args", [(), ("--help",), ("-h",), ("help",)])
def test_the_verbs_are_listed_a_line_each(args, monkeypatch, capsys):
    assert call(monkeypatch, *args) == 0
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(line.split()[0] for line in lines[2:-3]) == (
        "convert verify train evaluate predict export bench doctor"
    )
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("args", [["--version"], ["--help"], []])
def test_version_and_help_import_no_package(args, tmp_path):
    done = python(
        f"sys.argv = ['cxr', *{args}]\nfrom cxr.__main__ import main\nmain()\n"
        "print(sorted({'absl', 'numpy', 'tensorflow'} & set(sys.modules)))",
        tmp_path,
    )
    assert done.stdout.endswith("[]\n"), done.stderr
    if args == ["--version"]:
        assert done.stdout.startswith("cxr 0.")
        assert "Python 3." in done.stdout


def test_importing_cxr_imports_the_standard_library_alone(tmp_path):
    done = python(
        "before = set(sys.modules)\nimport cxr\nnew = set(sys.modules) - before\n"
        "print({name.split('.')[0] for name in new} - sys.stdlib_module_names)",
        tmp_path,
    )
    assert done.stdout == "{'cxr'}\n", done.stderr


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("trian", "did you mean 'train'?"),
        ("Doctor", "did you mean 'doctor'?"),
        ("make_tfrecords", "did you mean 'convert'?"),
        ("zzz", "expected one of convert, verify, train"),
        ("--debug", "expected cxr VERB --flag=value"),
        ("\x1b[2J", "expected one of"),
    ],
)
def test_what_is_no_verb_is_refused_with_the_nearest(verb, said, monkeypatch, capsys):
    assert call(monkeypatch, verb, "--data_dir=x") == cli.EXIT_USAGE
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert "\x1b" not in told


@pytest.mark.parametrize("verb", command.VERBS)
def test_help_is_the_modules_own_in_the_commands_words(verb, monkeypatch, capsys):
    name = command.VERBS[verb][0]
    with pytest.raises(SystemExit):
        importlib.import_module(name).main([name, "--help"])
    expected = capsys.readouterr().out
    assert f"python -m {name}" in expected
    assert call(monkeypatch, verb, "--help") == 0
    found = capsys.readouterr().out
    assert f"cxr {verb}" in found
    assert f"python -m {name}" not in found
    assert (
        found.replace(f"cxr {verb}", f"python -m {name}").splitlines()[-9:]
        == (expected.splitlines()[-9:])
    )
    assert len(found.splitlines()) == len(expected.splitlines())


def test_arguments_and_exit_codes_pass_through(monkeypatch, capsys):
    seen = []

    def entry(argv):
        seen.append(argv)
        if "--bad" in argv:
            raise cli.DataError("no good")
        return 1

    module = types.SimpleNamespace(main=entry)
    monkeypatch.setattr(command, "_load", lambda name: module)
    assert call(monkeypatch, "bench", "--quick", "a b", "--", "--help") == 1
    assert seen == [["cxr bench", "--quick", "a b", "--", "--help"]]
    assert call(monkeypatch, "bench", "--bad", "--debug") == cli.EXIT_DATA
    assert seen[1] == ["cxr bench", "--bad"]
    assert "error: no good" in capsys.readouterr().err


def test_what_a_verb_says_names_other_verbs(monkeypatch, capsys):
    def entry(argv):
        console.say("next: python -m cxr.evaluate --workdir=r")
        raise cli.DataError("convert again: python -m tools.make_tfrecords ...")

    module = types.SimpleNamespace(main=entry)
    monkeypatch.setattr(command, "_load", lambda name: module)
    assert call(monkeypatch, "train") == cli.EXIT_DATA
    told = capsys.readouterr()
    assert told.out == "next: cxr evaluate --workdir=r\n"
    assert told.err == "error: convert again: cxr convert ...\n"
    console.say("python -m cxr.evaluate")
    assert capsys.readouterr().out == "python -m cxr.evaluate\n"


def test_a_missing_package_of_a_verb_is_one_sentence(monkeypatch, capsys):
    def load(name):
        raise ImportError("No module named 'scipy'")

    monkeypatch.setattr(command, "_load", load)
    assert call(monkeypatch, "train") == cli.EXIT_UNAVAILABLE
    assert "'scipy'" in capsys.readouterr().err


def test_an_empty_environment_is_one_sentence(tmp_path):
    done = python(
        "sys.modules['absl'] = None\nsys.argv = ['cxr', 'doctor']\n"
        "from cxr.__main__ import main\nmain()",
        tmp_path,
    )
    assert done.returncode == cli.EXIT_UNAVAILABLE
    assert "install cxr with pip" in done.stderr
    assert "Traceback" not in done.stderr


def test_tools_of_others_are_not_taken_for_ours(tmp_path):
    """In front on the path, as the folder at hand is for `python -m`."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "__init__.py").write_text("raise SystemExit('theirs')")
    done = python(
        "sys.path.insert(0, '.')\n"
        "sys.argv = ['cxr', 'verify', '--data_dir=/no/where']\n"
        "from cxr.__main__ import main\nmain()",
        tmp_path,
    )
    assert "theirs" not in done.stderr
    assert "/no/where" in done.stderr
    assert done.returncode in (2, 65)


def test_pip_makes_the_command():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["cxr"].partition(":")
    assert getattr(importlib.import_module(module), function) is command.main
