"""The training flags: files of them, contradictions, what a resume may change."""

import dataclasses
import pathlib

import numpy as np
import pytest

from cxr import cli
from cxr.config import FREE_TO_CHANGE, TrainConfig, result_fields
from cxr.metrics import thresholds

CONFIGS = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.flags"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_parses_and_has_a_header(path):
    config, rest = cli.parse(["", f"--flagfile={path}"], TrainConfig, usage="")
    assert rest == []
    assert path.read_text().startswith("# ")
    assert config != TrainConfig()


def test_flags_round_trip(tmp_path):
    config = TrainConfig(workdir="w", seeds=("0", "1"), jit_compile=True, dropout=0.1)
    (tmp_path / "run.flags").write_text(cli.to_flags(config))
    again, _ = cli.parse(
        ["", f"--flagfile={tmp_path}/run.flags"], TrainConfig, usage=""
    )
    assert again == config


@pytest.mark.parametrize(
    ("flags", "error", "words"),
    [
        (
            ["--strategy=multi_worker", "--virtual_devices=2"],
            cli.UsageError,
            "--virtual_devices=2",
        ),
        (["--batch_size=5", "--virtual_devices=2"], cli.UsageError, "--batch_size=5"),
        (["--epochs=0"], cli.UsageError, "--epochs=0"),
        (["--model=cnn", "--feature_cache"], cli.UsageError, "--model=cnn"),
        (["--seeds=0,x"], cli.UsageError, "--seeds=0,x"),
        (["--threshold_rule=best"], cli.UsageError, "--threshold_rule=best"),
        (["--threshold_rule=sensitivity:2"], cli.UsageError, "sensitivity:2"),
        (["--threshold_rule=sensitivity:x"], cli.UsageError, "sensitivity:x"),
        (["--threshold_rule=specificity:0"], cli.UsageError, "specificity:0"),
        (["--fine_tune_from=block9"], cli.UsageError, "block5_conv1"),
    ],
)
def test_contradictions_are_refused(flags, error, words):
    with pytest.raises(error, match=words):
        cli.parse(["", *flags], TrainConfig, usage="")


def test_a_target_of_one_is_a_rule_for_flags_and_thresholds_alike():
    flags = ["", "--threshold_rule=sensitivity:1.0"]
    config, _ = cli.parse(flags, TrainConfig, usage="")
    chosen = thresholds.choose_threshold(
        [0, 1, 1], np.array([0.1, 0.3, 0.9]), config.threshold_rule
    )
    assert chosen == 0.2


def test_what_a_resume_may_change():
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    assert names >= FREE_TO_CHANGE
    shaping = result_fields(TrainConfig())
    for name in ("model", "seed", "batch_size", "precision", "augmentation", "dropout"):
        assert name in shaping
    for name in ("data_dir", "cache", "workdir", "threshold_rule"):
        assert name not in shaping
