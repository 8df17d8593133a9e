"""The trivial baseline's evidence that training takes out of what a network learns."""

import numpy as np
import pytest

from cxr import train
from cxr.config import TrainConfig
from cxr.input import film_measures
from cxr.metrics.trivial_baseline import Regression
from cxr.training import debiasing
from tests import fabricated


@pytest.fixture(scope="module")
def record_set(tmp_path_factory):
    counts = {"train": 40, "validation": 12, "test": 12}
    root = tmp_path_factory.mktemp("data")
    return fabricated.write_records(root, counts, image_size=32)


def test_it_is_the_baselines_log_probability_of_each_training_film(record_set):
    films = film_measures.measure(record_set, "train")
    known = Regression(films.numbers, films.labels).probabilities(films.numbers, 2)
    found = debiasing.evidence(record_set, 0.5)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, 0.5 * np.log(known), rtol=1e-5)
    assert (found.argmax(axis=1) == films.labels).mean() > 0.8  # row i is example i
    assert debiasing.evidence(record_set, 0.0) is None


def test_no_film_is_given_away_for_certain(record_set, monkeypatch):
    def certain(self, numbers, classes):
        return np.tile([1.0, 0.0], (len(numbers), 1))

    monkeypatch.setattr(Regression, "probabilities", certain)
    assert np.isfinite(debiasing.evidence(record_set, 1.0)).all()


@pytest.mark.slow
def test_a_network_learns_less_of_what_brightness_tells(record_set, tmp_path, capsys):
    """Films whose mean tells the label: told so in training, it hardly learns it."""
    losses = []
    for name, debias in (("plain", 0.0), ("debiased", 1.0)):
        (run,) = train.train(
            TrainConfig(
                data_dir=str(record_set.path.parents[1]),
                dataset="tiny",
                workdir=str(tmp_path / name),
                model="small_cnn",
                image_size=32,
                batch_size=8,
                epochs=4,
                learning_rate=1e-2,
                debias=debias,
                tensorboard=False,
                progress=False,
            )
        )
        text = (run.workdir / "history.csv").read_text().splitlines()
        row = dict(zip(text[0].split(","), text[-1].split(","), strict=True))
        losses.append((float(row["loss"]), float(row["val_loss"])))
        assert f"--debias={debias}" in (run.workdir / "run.flags").read_text()
        told = "accuracy on validation, at one half, are of the network alone"
        assert (told in capsys.readouterr().out) == (debias > 0)
    assert losses[1][0] < losses[0][0]  # what is known costs nothing
    assert losses[1][1] > losses[0][1]  # and is not there when it is asked alone
