"""Strangers' run and set folders: refused in one message, or harmless."""

import dataclasses
import json
import pathlib
import re
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

from cxr import cli, evaluate, predict, train
from cxr.config import TrainConfig
from cxr.evaluation.opening import EvaluateConfig
from tests import hostile_folders
from tests.fabricated import shallow_network, write_records

pytestmark = pytest.mark.slow  # a third of them train or evaluate

COUNTS = {"train": 12, "validation": 8, "test": 8}
_SIZE, _LIMIT_S = 32, 60


def config_in(root: pathlib.Path) -> TrainConfig:
    return TrainConfig(
        data_dir=str(root / "data"),
        dataset="tiny",
        workdir=str(root / "run"),
        model="small_cnn",
        image_size=_SIZE,
        batch_size=4,
        epochs=1,
        augmentation="none",
        progress=False,
        tensorboard=False,
    )


@pytest.fixture(scope="module", autouse=True)
def shallow():
    with shallow_network():
        yield


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A home with a set, a finished and evaluated run, a film, and an outside."""
    root = tmp_path_factory.mktemp("sound")
    write_records(root / "data", COUNTS, image_size=_SIZE)
    train.train(config_in(root))
    pixels = np.random.default_rng(0).integers(0, 256, (60, 60), np.uint8)
    Image.fromarray(pixels).save(root / "film.png")
    _evaluate(root)
    (root / "outside").mkdir()
    (root / "outside" / "file").write_text("precious")
    return root


@pytest.fixture
def home(sound, tmp_path):
    """A copy of this test's own, whose run was trained on the set beside it."""
    shutil.copytree(sound, tmp_path / "home")
    path = tmp_path / "home" / "run" / "model.json"
    path.write_text(path.read_text().replace(str(sound), str(tmp_path / "home")))
    return tmp_path / "home"


def _predict(root: pathlib.Path):
    output = root / "predictions.csv"
    predict.main(
        ["", f"--workdir={root / 'run'}", f"--output={output}", str(root / "film.png")]
    )
    row = output.read_text().partition("film.png")[2]
    # A model that was trained anew is another file: the archive holds times.
    return re.sub(r"[0-9a-f]{64}", "", row)


def _evaluate(root: pathlib.Path, **options):
    options = {"draws": 100, "explain": 0, "report": False, **options}
    metrics = evaluate.evaluate(EvaluateConfig(workdir=(str(root / "run"),), **options))
    return json.dumps([metrics["metrics"], metrics["threshold"]])


def _train(root: pathlib.Path, **options):
    train.train(dataclasses.replace(config_in(root), **options))
    return _predict(root)


COMMANDS = {
    "predict": _predict,
    "evaluate": _evaluate,
    "evaluate report": lambda root: _evaluate(root, report=True),
    "train": _train,
    "train anew": lambda root: _train(root, workdir=str(root / "other")),
}
VARIANTS = hostile_folders.variants()


@pytest.fixture(scope="module")
def answers(sound):
    """What each command answers for the sound folders."""
    return {name: command(sound) for name, command in COMMANDS.items()}


def snapshot(folder: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def test_there_are_two_hundred():
    assert len(VARIANTS) >= 200


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name[:80])
def test_it_is_refused_in_one_message_or_harmless(variant, home, answers):
    version = next((home / "data" / "tiny").iterdir())
    place = hostile_folders.Place(home / "run", version, home / "outside")
    variant.change(place)
    before = snapshot(place.outside)
    signal.signal(signal.SIGALRM, _too_late)
    signal.alarm(_LIMIT_S)
    try:
        answer = COMMANDS[variant.command](home)
    except cli.CommandError as error:
        _check_message(str(error))
        assert error.exit_code in (2, 65, 74)
    except OSError as error:  # the command's exit code 74, which names the file
        assert error.filename
    else:
        assert answer == answers[variant.command]
    finally:
        signal.alarm(0)
    assert snapshot(place.outside) == before


def _check_message(message: str) -> None:
    lines = message.splitlines()
    assert 1 <= len(lines) <= 6
    assert "\x1b" not in message
    assert "/" in lines[0] or "--" in lines[0], message  # a file or a flag


def _too_late(number, frame):
    raise AssertionError("it hangs")
