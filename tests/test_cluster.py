"""cxr.training.cluster: several workers train as one, and stop or end together."""

import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks import survival
from cxr import cli, runs, train
from cxr.config import TrainConfig
from cxr.input import orders
from cxr.training import checkpoints, preflight
from tests.fabricated import write_records
from tools import launch_local

ROOT = pathlib.Path(__file__).parents[1]
OPTIONS = {
    "dataset": "tiny",
    "model": "small_cnn",
    "image_size": 32,
    "batch_size": 8,
    "epochs": 3,
    "augmentation": "mild",
    "precision": "float32",
    "optimizer": "sgd",
    "deterministic": True,
    "checkpoint_every_steps": 2,
    "early_stopping_patience": 0,
    "progress": False,
    "tensorboard": False,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("cluster") / "data"
    write_records(root, {"train": 40, "validation": 13}, image_size=32)
    return root


def start(data, workdir, *flags):
    """Starts two workers; returns the launcher."""
    config = TrainConfig(data_dir=str(data), workdir=str(workdir), **OPTIONS)
    command = [sys.executable, "-m", "tools.launch_local", "--workers=2", "--"]
    with open(workdir.with_suffix(".log"), "a") as log:
        return subprocess.Popen(
            [*command, *cli.to_flags(config).split(), *flags],
            stdout=log,
            stderr=log,
            cwd=ROOT,
        )


def started(launcher, workdir):
    """Returns the workers' process ids once there is a checkpoint."""
    while not any((workdir / "checkpoints").glob("step-*")):
        assert launcher.poll() is None, workdir.with_suffix(".log").read_text()
        time.sleep(0.05)
    children = pathlib.Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    return [int(pid) for pid in children.read_text().split()]


def test_columns_of_all_workers_are_the_batches():
    order = np.arange(24)
    parts = [orders.Share(worker, 4).of(order, 8) for worker in range(4)]
    assert parts[1].tolist() == [2, 3, 10, 11, 18, 19]
    together = np.stack([part.reshape(3, 2) for part in parts], axis=1)
    assert together.reshape(-1).tolist() == order.tolist()


def test_without_a_cluster_it_is_refused(monkeypatch):
    for name in ("TF_CONFIG", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(cli.UsageError, match="TF_CONFIG"):
        preflight.check_cluster(TrainConfig(strategy="multi_worker"))


def test_several_workers_do_not_draw_the_phantoms(tmp_path, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{}")
    config = TrainConfig(
        data_dir=str(tmp_path), dataset="phantom", strategy="multi_worker"
    )
    with pytest.raises(cli.UsageError, match="drawn by one process"):
        train.train(config)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_killed_worker_ends_the_other_and_both_go_on(data, tmp_path):
    workdir = tmp_path / "run"
    launcher = start(data, workdir)
    subprocess.run(["kill", "-9", str(started(launcher, workdir)[1])], check=True)
    assert launcher.wait(120) in (75, 137)  # whoever ended first
    assert "worker 1 is gone" in workdir.with_suffix(".log").read_text()
    assert start(data, workdir).wait(120) == 0
    whole = TrainConfig(
        data_dir=str(data),
        workdir=str(tmp_path / "whole"),
        virtual_devices=2,
        **OPTIONS,
    )
    train.train(whole)
    assert survival.result(workdir) == survival.result(tmp_path / "whole")


@pytest.mark.slow
def test_a_signal_to_one_stops_both_at_one_step(data, tmp_path):
    workdir = tmp_path / "run"
    launcher = start(data, workdir, "--epochs=400")
    subprocess.run(["kill", str(started(launcher, workdir)[1])], check=True)
    assert launcher.wait(120) == 128 + signal.SIGTERM
    log = workdir.with_suffix(".log").read_text()
    found, passed = checkpoints.load_newest(workdir / "checkpoints", "step")
    assert found is not None and not passed
    step = checkpoints.position_of(found).step
    for worker in range(2):
        assert f"[{worker}] stopped by SIGTERM at step {step}\n" in log


@pytest.mark.slow
def test_a_chief_that_refuses_says_why_to_all(data, tmp_path):
    workdir = tmp_path / "run"
    with runs.lock(workdir):
        assert start(data, workdir).wait(120) == cli.EXIT_USAGE
    log = workdir.with_suffix(".log").read_text()
    refusal = re.search(r"^\[0\] error: (.* is training there.*)$", log, re.MULTILINE)
    assert refusal, log
    assert f"[1] error: worker 0: {refusal[1]}" in log


@pytest.mark.slow
def test_workers_with_other_flags_are_refused(data, tmp_path):
    config = TrainConfig(data_dir=str(data), workdir=str(tmp_path / "run"), **OPTIONS)
    flags = cli.to_flags(config).split()
    addresses = launch_local.free_addresses(2)
    workers = [
        launch_local.start(index, addresses, [*flags, f"--seed={index}"])
        for index in range(2)
    ]
    for worker in workers:
        said, _ = worker.communicate(timeout=120)
        assert worker.returncode == cli.EXIT_USAGE, said
        assert "other flags or data than worker 0: worker 1" in said
    assert not (tmp_path / "run").exists()
