"""The comparison of what computes: flags, verdicts, ratios, a peer that is missing."""

import json
import os
import sys

import pytest
from PIL import Image

from benchmarks import compute_peers, compute_report, compute_worker
from benchmarks import compute_tasks as tasks
from benchmarks.compute_peers import PeersConfig
from benchmarks.compute_tasks import Case, Peer
from benchmarks.peer_process import PeerProcess
from cxr import cli
from cxr.reporting import formatting
from tests.sample_images import make_source

TRAINING = Case("small_cnn", tasks.TRAINING, 32, 10)
FORWARD = Case("small_cnn", tasks.FORWARD, 32, 2)
EXPECTED = {"parameters": 100, "loss": 0.7, "probabilities": [[0.1, 0.9], [0.8, 0.2]]}


def turns(*step_seconds):
    """Turns of two steps each."""
    return [{"steps": 2, "seconds": 2 * seconds} for seconds in step_seconds]


def row(name, *step_seconds, case=TRAINING, operations=1000, facts=(), check=()):
    """The row of a peer that is right, but for what is given."""
    right = {"loss": 0.1, "finite": True, "probabilities": EXPECTED["probabilities"]}
    found = {
        "facts": {"parameters": 100, "loss": 0.7, **dict(facts)},
        "turns": turns(*step_seconds),
        "check": {**right, "losses": [0.7, 0.1], "images": 40, **dict(check)},
    }
    return compute_report.row(
        case, Peer.parse(name), found, expected=EXPECTED, operations=operations
    )


def report(*rows, missing=()):
    """A whole report, made up."""
    made = {
        "environment": {
            "processor": "a CPU",
            "bfloat16_unit": "AMX",
            "cores": 2,
            "threads": 2,
            "load_before": 0.0,
            "devices": {"cxr": "CPU"},
            "versions": {"tensorflow": "2"},
        },
        "conversion_s": 3.0,
        "rows": list(rows),
        "missing": list(missing),
    }
    compute_report.complete(made)
    return made


def test_rates_and_their_spread():
    made = row("cxr float32", 0.1, 0.2, 0.4)
    assert made["images_per_sec"]["rounds"] == pytest.approx([100, 50, 25])
    assert made["images_per_sec"]["median"] == pytest.approx(50)
    spread = made["step_ms"]
    assert [spread[key] for key in ("median", "min", "max")] == pytest.approx(
        [200, 100, 400]
    )
    assert made["verdict"] == "ok"


@pytest.mark.parametrize(
    ("case", "change", "words"),
    [
        (TRAINING, {"facts": {"parameters": 99}}, "99 parameters"),
        (TRAINING, {"facts": {"loss": 0.75}}, "begins at 0.75"),
        (TRAINING, {"facts": {"loss": float("nan")}}, "begins at nan"),
        (TRAINING, {"check": {"finite": False}}, "not finite"),
        (TRAINING, {"check": {"loss": float("nan")}}, "not finite"),
        (TRAINING, {"check": {"loss": 0.7}}, "did not fall"),
        (FORWARD, {"check": {"probabilities": [[0.1, 0.9]]}}, "outputs of 1"),
        (FORWARD, {"check": {"probabilities": [[0.1], [0.8]]}}, "outputs of 2"),
        (FORWARD, {"check": {"probabilities": [[0.5, 0.5]] * 2}}, "differ by 0.4"),
        (FORWARD, {"check": {"probabilities": [[float("nan")] * 2] * 2}}, "by inf"),
    ],
)
def test_a_fast_wrong_peer_is_called_wrong_and_competes_with_nobody(
    case, change, words
):
    wrong = row("torch float32", 1e-6, case=case, **change)
    assert words in wrong["verdict"]
    made = report(row("cxr float32", 0.1, case=case), wrong)
    assert not made["answers"]
    assert f"WRONG: {wrong['verdict']}" in compute_report.markdown(made)


def test_ours_is_held_against_each_peers_best_round_by_round():
    # The machine was busy in the second round: all suffered alike.
    made = report(
        row("cxr float32", 0.1, 1.0, 0.1),
        row("cxr bfloat16", 0.05, 0.5, 0.05),
        row("keras float32", 0.2, 2.0, 0.2),
        row("keras float32 compiled", 0.3, 3.0, 0.3),
        row("torch bfloat16", 0.025, 0.25, 0.025),
    )
    found = {one["precision"]: one for one in made["answers"]}
    assert found["float32"]["peers"] == {
        "keras": {"peer": "keras float32", "ratio": pytest.approx(2)}
    }
    assert found["any"]["ours"] == "cxr bfloat16"
    assert found["any"]["peers"]["keras"]["ratio"] == pytest.approx(4)
    assert found["any"]["peers"]["torch"]["ratio"] == pytest.approx(0.5)
    table = compute_report.markdown(made)
    assert "| any | cxr bfloat16 | 4.00 (keras float32) | 0.50 (torch bfl" in table


def test_the_share_of_the_peak_is_of_the_same_precision_and_round():
    made = report(
        row("cxr float32", 0.1, 1.0),
        row("cxr float32 matrix product", 0.1, 1.0, operations=20_000),
        row("cxr bfloat16", 0.1, 1.0),
    )
    shares = {one["peer"]: one.get("share_of_peak") for one in made["rows"]}
    # 10 images of 1,000 operations in the time of 20,000.
    assert shares == {"cxr float32": pytest.approx(0.5), "cxr bfloat16": None}
    assert made["peak_flops_per_sec"] == {"float32": pytest.approx(200_000)}


def test_the_first_epoch_is_told_apart_and_films_are_counted():
    case = Case("small_cnn", tasks.EPOCHS, 32, 10)
    made = report(
        row("cxr float32", 4.0, 1.0, 2.0, case=case),
        row("torch float32", 4.0, 4.0, 4.0, case=case, check={"images": 20}),
    )
    ours, other = made["rows"]
    assert ours["first_epoch_s"] == pytest.approx(4)
    assert ours["epoch_s"]["median"] == pytest.approx(1.5)
    assert ours["images_per_sec"]["max"] == pytest.approx(40)
    assert other["verdict"] == "20 films of 40"
    assert "converting took 3.0 s" in compute_report.markdown(made)


def test_table_and_picture_tell_what_is_missing(tmp_path):
    missing = {"case": "x", "peer": "torch float32", "why": "no compiler"}
    made = report(row("cxr float32", 0.1), row("keras float32", 0.2), missing=[missing])
    compute_report.publish(made, tmp_path)
    assert json.loads((tmp_path / "compute.json").read_text()) == made
    table = (tmp_path / "compute.md").read_text()
    assert table.rstrip().endswith(formatting.DISCLAIMER)
    assert "- x by torch float32: not measured, no compiler" in table
    assert Image.open(tmp_path / "compute.png").size[0] > 800


@pytest.mark.parametrize(
    "flag",
    [
        "--cases=nonesuch",
        "--peers=jax float32",
        "--peer_python=torch",
        "--peer_python=keras=/bin/python",
        "--input_dir=/no/where",
        "--rounds=0",
    ],
)
def test_wrong_flags_are_refused(flag):
    argv = ["compute_peers", "--output_dir=y", flag]
    with pytest.raises(cli.UsageError, match=flag.split("=")[0].strip("-")):
        cli.parse(argv, PeersConfig, usage="")


def test_an_interpreter_that_does_not_run_is_a_reason(tmp_path):
    process = PeerProcess([str(tmp_path / "no-python")], tmp_path / "log.txt")
    assert "cannot be run" in process.read()["missing"]
    assert "cannot be run" in process.ask("turn x")["missing"]
    process.close()


def test_a_peer_that_takes_for_ever_is_left_out():
    slow = tasks.Runner(lambda count: 3.0 * count, dict)
    with pytest.raises(compute_worker.TooSlow, match="a step took 3 s"):
        compute_worker._steps(slow, TRAINING, 1.0, 2.0)
    assert compute_worker._steps(slow, TRAINING, 9.0, 4.0) == 3


@pytest.mark.slow
def test_a_tiny_run_of_ours_and_keras_and_pytorch_that_is_not_there(
    tmp_path, monkeypatch
):
    (tmp_path / "modules").mkdir()
    broken = "raise ImportError('torch is not here')"
    (tmp_path / "modules" / "torch.py").write_text(broken)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"), prepend=os.pathsep)

    films = make_source(tmp_path / "films", 4)
    config = PeersConfig(
        output_dir=str(tmp_path / "out"),
        input_dir=str(films),
        peer_python=(f"torch={sys.executable}",),
        cases=("small_cnn training",),
        peers=("cxr float32", "keras float32", "torch float32"),
        small_image_size=32,
        small_batch_size=4,
        rounds=2,
        seconds=0.01,
        epochs=2,
    )
    made = compute_peers.compare(config)
    by_case = {
        case: {one["peer"] for one in made["rows"] if one["case"] == case}
        for case in ("small_cnn training", "small_cnn epochs")
    }
    assert set(map(frozenset, by_case.values())) == {
        frozenset({"cxr float32", "keras float32"})
    }
    steps = [one for one in made["rows"] if not one["case"].endswith(tasks.EPOCHS)]
    # Noise of an epoch of two batches may not fall.
    assert {one["verdict"] for one in steps} == {"ok"}
    assert all(len(one["step_ms"]["rounds"]) == 2 for one in steps)
    assert {one["images"] for one in made["rows"] if "images" in one} == {8}
    assert made["peak_flops_per_sec"]["float32"] > 0
    reasons = {one["why"] for one in made["missing"]}
    assert reasons == {"ImportError: torch is not here"}
    assert (tmp_path / "out" / "compute.png").exists()
