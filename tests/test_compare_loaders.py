"""The comparison of input pipelines: counts, pixels, ratios, what is missing."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from benchmarks import loader_report, loader_speed
from benchmarks.loader_peers import LOADERS
from benchmarks.loader_speed import CompareConfig
from cxr import cli
from cxr.reporting import formatting
from tools import compare_loaders


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A folder of two classes with ten films each."""
    folder = tmp_path_factory.mktemp("films")
    random = np.random.default_rng(0)
    for label in ("NORMAL", "PNEUMONIA"):
        (folder / label).mkdir()
        for number in range(10):
            pixels = random.integers(0, 256, (40, 48), np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{label}-{number}.png")
    return folder


def summary(rates, **changes):
    """A loader's summary with one process that measured `rates`."""
    spread = {"median": rates[0], "min": min(rates), "max": max(rates), "repeats": 1}
    return {
        "images_per_sec": spread,
        "first_epoch_images_per_sec": spread,
        "first_batch_s": {**spread, "median": 0.5},
        "rss_beyond_imports_mb": 100.0,
        "rss_slope_mb_per_turn": 0.0,
        "images": 20,
        "pixel_mean": 100.0,
        "later": [rates],
        **changes,
    }


@pytest.mark.slow
def test_ours_and_a_bound_on_real_films_and_a_peer_that_is_missing(films, tmp_path):
    config = CompareConfig(
        input_dir=str(films),
        output_dir=str(tmp_path),
        loaders=("cxr resident raw", "numpy copy", "ffcv raw"),
        image_size=24,
        batch_sizes=("8",),
        repeats=1,
        epochs=2,
    )
    report = loader_speed.compare(config)
    run = report["runs"]["8"]
    assert set(run) == {"cxr resident raw", "numpy copy"}
    for loader in run.values():
        assert loader["images"] == 20
        assert loader["epoch_images"] == 16
        assert loader["images_per_sec"]["repeats"] == 2
        assert loader["pixels"] == "ok"
    assert run["cxr resident raw"]["pixel_mean"] == run["numpy copy"]["pixel_mean"]
    assert "--peer_python" in report["missing"]["ffcv raw"]
    assert [answer["question"] for answer in report["answers"]] == [
        "resident / numpy copy"
    ]
    stored = json.loads((tmp_path / "loaders.json").read_text())
    assert stored == report
    table = (tmp_path / "loaders.md").read_text()
    assert table.rstrip().endswith(formatting.DISCLAIMER)
    assert "cxr resident raw" in table
    versions = report["environment"]["versions"]
    assert versions.keys() == {"cxr"}
    assert f"cxr: numpy {np.__version__}" in table
    assert "ffcv raw: not measured" in table
    assert Image.open(tmp_path / "loaders.png").size[0] > 800


class Peer:
    """Answers as a loader's process does, until it ends."""

    def __init__(self, lives):
        self.lives = lives  # answers

    def ask(self, command):
        self.lives -= 1
        if self.lives < 0:
            return {"missing": "RuntimeError: out of memory"}
        timed = {"images": 16, "seconds": 1.0, "first_batch_s": 0.1}
        timed |= {"rss_mb": 9.0, "peak_rss_mb": 9.0, "versions": {}}
        check = {"images": 20, "pixel_sum": 1.0, "pixel_mean": 1.0}
        return check if command == "check" else timed

    def read(self):
        return self.ask("ready")

    def close(self):
        pass


@pytest.mark.parametrize("lives", [0, 1, 2, 3, 4])
def test_a_peer_that_ends_in_the_middle_is_missing(tmp_path, monkeypatch, lives):
    ours, peer = "cxr resident raw", "keras directory"
    peers = [Peer(99), Peer(99), Peer(99), Peer(lives)]  # sound in the first round
    monkeypatch.setattr(loader_speed, "_prepare", lambda config, work: None)
    monkeypatch.setattr(loader_speed, "_start", lambda *_: peers.pop(0))
    config = CompareConfig(
        input_dir="",
        output_dir=str(tmp_path),
        loaders=(ours, peer),
        batch_sizes=("8",),
        repeats=2,
        epochs=2,
    )
    report = loader_speed.compare(config)
    assert set(report["runs"]["8"]) == {ours}
    assert report["missing"] == {peer: "RuntimeError: out of memory"}


def test_without_numba_the_loop_alone_is_missing(films, tmp_path, monkeypatch):
    (tmp_path / "numba.py").write_text("raise ImportError('numba is not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    config = CompareConfig(
        input_dir=str(films),
        output_dir=str(tmp_path / "out"),
        loaders=("bare decode", "bare decode together"),
        image_size=24,
        batch_sizes=("8",),
        repeats=1,
        epochs=1,
    )
    report = loader_speed.compare(config)
    assert set(report["runs"]["8"]) == {"bare decode"}
    missing = report["missing"]["bare decode together"]
    assert missing == "ImportError: numba is not here"


def test_a_fast_wrong_loader_is_called_wrong():
    run = {
        "numpy copy": summary([100.0]),
        "cxr resident raw": summary([100.0]),
        "cxr stream raw": summary([9e9], pixel_mean=100.001),
        "tfds": summary([100.0], pixel_mean=101.5),
        "dali": summary([100.0], pixel_mean=103.0),
        "torch pil": summary([100.0], images=19),
    }
    loader_report.judge_pixels(run)
    assert {name: found["pixels"] for name, found in run.items()} == {
        "numpy copy": "ok",
        "cxr resident raw": "ok",
        "cxr stream raw": "WRONG",
        "tfds": "ok",
        "dali": "WRONG",
        "torch pil": "WRONG",
    }


def test_ratios_are_taken_turn_by_turn():
    # The machine was busy in the second turn: both loaders suffered alike.
    run = {
        "cxr resident raw": summary([300.0, 30.0, 330.0]),
        "ffcv raw": summary([100.0, 10.0, 100.0]),
        "cxr stream jpeg": summary([90.0, 90.0, 90.0]),
        "bare decode": summary([50.0, 50.0, 50.0]),
    }
    found = {
        answer["question"]: answer["reached"]
        for answer in loader_report.answers({"runs": {"32": run}, "cores": 2})
    }
    assert found["resident / FFCV raw"] == 3
    assert found["streamed JPEG / (cores x libjpeg-turbo)"] == pytest.approx(0.9)


def test_growth_is_judged_after_warming_up():
    assert loader_report._slope([1, 50, 90, 100, 100, 100]) == 0
    assert loader_report._slope([0, 0, 0, 0, 2, 4, 6, 8]) == 2


@pytest.mark.parametrize(
    "flag",
    [
        "--loaders=nonesuch",
        "--peer_python=ffcv",
        "--peer_python=nonesuch=/bin/python",
        "--batch_sizes=0",
    ],
)
def test_wrong_flags_are_refused(flag):
    argv = ["compare_loaders", "--input_dir=x", "--output_dir=y", flag]
    with pytest.raises(cli.UsageError, match=flag.split("=")[0]):
        cli.parse(argv, CompareConfig, usage="")


def test_without_a_checkout_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(compare_loaders, "_CHECKOUT", tmp_path)
    with pytest.raises(cli.UnavailableError, match="needs a checkout"):
        compare_loaders.main(["compare_loaders", "--help"])


def test_every_question_is_about_known_loaders():
    for _, ours, peer, _, _ in loader_report._QUESTIONS:
        assert ours in LOADERS
        assert peer in LOADERS
