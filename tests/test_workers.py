"""cxr.conversion.workers: jobs in other processes."""

import os
import signal

import pytest

from cxr import cli, pulse
from cxr.conversion import workers


def die(job: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return job


def test_a_dead_worker_is_told():
    with workers.started(2, preload=__name__) as pool:
        with pytest.raises(cli.UnavailableError, match="fewer --workers"):
            list(pool.map(die, range(3)))


def double(job: int) -> int:
    return 2 * job


def refuse_three(job: int) -> int:
    if job == 3:
        raise cli.StorageError("three")
    return job


@pytest.mark.parametrize("count", [1, 2])
def test_workers_do_every_job(count):
    with workers.started(count, preload=__name__) as pool:
        assert sorted(pool.map(double, iter(range(50)))) == list(range(0, 100, 2))
        with pytest.raises(cli.StorageError, match="three"):
            list(pool.map(refuse_three, range(50)))


def test_results_tell_how_far_they_are(monkeypatch):
    monkeypatch.setattr(pulse, "_watch", pulse._Watch(0.0))
    results = workers.watch([2, (1, "x")], total=1200, label="verifying", unit="image")
    assert next(results) == 2
    assert pulse._watch.doing == "verifying: 2 of 1,200 images"
    assert list(results) == [(1, "x")]
    assert pulse._watch.doing == "verifying: 3 of 1,200 images"
