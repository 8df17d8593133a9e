"""Which commit a run folder records: that of our own checkout, or none."""

import pathlib
import subprocess

import pytest

from cxr import environment

OURS = '[project]\nname = "cxr"\n'


def git(root: pathlib.Path, *args: str) -> str:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    command = ["git", "-C", str(root), *who, *args]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """Returns a function that makes a repository and returns its only commit."""

    def make(files: dict[str, str]) -> str:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        git(tmp_path, "init")
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "-m", "x")
        return git(tmp_path, "rev-parse", "HEAD")

    return make


def test_our_checkout_is_recorded(tmp_path, repository, monkeypatch):
    monkeypatch.setattr(
        environment, "__file__", str(tmp_path / "cxr" / "environment.py")
    )
    (tmp_path / "pyproject.toml").write_text(OURS)
    assert environment.git_commit() is None  # no repository yet
    commit = repository({"cxr/environment.py": ""})
    assert environment.git_commit() == commit


@pytest.mark.parametrize(
    ("files", "root"),
    [
        ({"pyproject.toml": OURS, "cxr/environment.py": ""}, ".venv/site-packages"),
        ({"lib/pyproject.toml": OURS, "lib/cxr/environment.py": ""}, "lib"),
        ({"pyproject.toml": OURS, "README.md": ""}, "."),
        ({"pyproject.toml": OURS.replace("cxr", "x"), "cxr/environment.py": ""}, "."),
        ({"cxr/environment.py": ""}, "."),
    ],
    ids=["installed in ours", "part of another", "untracked", "copied", "nameless"],
)
def test_no_other_repository_is(tmp_path, repository, monkeypatch, files, root):
    repository(files)
    monkeypatch.setattr(
        environment, "__file__", str(tmp_path / root / "cxr" / "environment.py")
    )
    assert environment.git_commit() is None
