"""Several runs predict together, and leave together, as they are evaluated together."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import cxr
from cxr import cli, evaluate, export, predict, runs
from cxr.prediction import together
from tests import fabricated
from tests.test_predict import write_run

pytestmark = pytest.mark.slow  # each test predicts

COUNTS = {"train": 6, "validation": 30, "test": 41}


def judge(*workdirs, **flags):
    flags = {"draws": 100, "explain": 0, "report": False, **flags}
    return evaluate.evaluate(
        evaluate.EvaluateConfig(workdir=tuple(map(str, workdirs)), **flags)
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A set, two runs on it, and what their evaluation together says."""
    root = tmp_path_factory.mktemp("together")
    record_set = fabricated.write_records(root / "data", COUNTS)
    for seed in (0, 1):
        fabricated.write_run(root / "runs" / f"seed-{seed}", record_set, seed=seed)
    (root / "summary.json").write_text(json.dumps(judge(root / "runs")))
    return root


@pytest.fixture
def pair(home, tmp_path):
    """Two run folders of this test's own."""
    root = shutil.copytree(home / "runs", tmp_path / "runs")
    return [root / f"seed-{seed}" for seed in (0, 1)]


def films_of(home, count=41):
    films = cxr.open_set(home / "data" / "tiny")
    (images, _, _) = next(iter(films.batches("test", count)))
    return [film[..., 0] for film in images.numpy()]


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_films_get_the_answers_of_the_evaluation(home):
    summary = json.loads((home / "summary.json").read_text())
    model = cxr.load(home / "runs" / "seed-0", home / "runs" / "seed-1")
    assert model.threshold == summary["threshold"]["value"]
    own = [run["threshold"]["value"] for run in summary["runs"]]
    assert model.threshold not in own
    judged = rows_of(home / "runs" / "evaluation-test" / "predictions.csv")
    found = model.predict(films_of(home))
    for one, row in zip(found, judged, strict=True):
        p = float(row["probability_PNEUMONIA"])
        assert one.probabilities["PNEUMONIA"] == pytest.approx(p, abs=1e-6)
        assert one.prediction == row["prediction"]
        assert str(one.above_threshold) == row["above_threshold"]
        assert one.model_sha256 == row["model_sha256"]
    assert found[0].model_sha256.count("+") == 1


def test_the_folder_above_seeds_stands_for_all_of_them(home, tmp_path, capsys):
    for index, film in enumerate(films_of(home, 3)):
        Image.fromarray(film).save(tmp_path / f"{index}.png")
    tables = []
    root = home / "runs"
    for workdir in (root, f"{root}/seed-0,{root}/seed-1"):
        output = tmp_path / f"{len(tables)}.csv"
        argv = ["predict", f"--workdir={workdir}", f"--output={output}"]
        assert predict.main([*argv, str(tmp_path)]) == 0
        tables.append(output.read_bytes())
    assert tables[0] == tables[1]
    assert b"+" in tables[0]
    said = capsys.readouterr()
    assert "p of PNEUMONIA" in said.out
    assert said.err.count("the mean of 2 runs, positive from 0.") == 2


def test_several_networks_have_no_picture(home, tmp_path):
    root = home / "runs"
    argv = ["predict", f"--workdir={root}", f"--output={tmp_path / 'out.csv'}"]
    with pytest.raises(cli.UsageError, match=r"--explain=.*: .* --workdir names 2"):
        predict.main([*argv, f"--explain={tmp_path / 'why'}", str(tmp_path)])
    model = cxr.load(root / "seed-0", root / "seed-1")
    with pytest.raises(ValueError, match="one network"):
        model.explain(films_of(home, 1)[0])


def test_runs_without_common_validation_films_are_refused(home, pair, tmp_path):
    opened = [runs.open_run(path) for path in pair]
    other = fabricated.write_records(tmp_path / "other", {**COUNTS, "validation": 20})
    third = fabricated.write_run(tmp_path / "third", other)
    judge(third.workdir, split="validation")
    with pytest.raises(cli.DataError, match="third were validated on other films"):
        together.meaning([*opened, third])
    shutil.rmtree(pair[1] / "evaluation-validation")
    with pytest.raises(cli.DataError, match="seed-1 --split=validation writes them"):
        together.meaning(opened)


def test_runs_that_see_films_differently_are_refused(home, pair, tmp_path):
    large = fabricated.write_records(tmp_path / "large", COUNTS, image_size=24)
    third = fabricated.write_run(tmp_path / "third", large)
    judge(third.workdir, split="validation")
    with pytest.raises(cli.DataError, match="decoded at 16 and 24 pixels"):
        cxr.load(pair[0], third.workdir)


def test_several_runs_leave_as_one_model(home, tmp_path):
    import tensorflow as tf

    argv = ["export", f"--workdir={home / 'runs'}", f"--output={tmp_path / 'out'}"]
    export.main(argv)
    films = np.stack(films_of(home))[..., None].astype(np.float32)
    loaded = tf.saved_model.load(str(tmp_path / "out" / "1"))
    found = loaded.signatures["pixels"](images=tf.constant(films))
    judged = rows_of(home / "runs" / "evaluation-test" / "predictions.csv")
    expected = [float(row["probability_PNEUMONIA"]) for row in judged]
    np.testing.assert_allclose(found["probabilities"][:, 1], expected, atol=1e-6)
    positive = [row["prediction"] == "PNEUMONIA" for row in judged]
    assert found["positive"].numpy().tolist() == positive
    document = json.loads((tmp_path / "out" / "export.json").read_text())
    summary = json.loads((home / "summary.json").read_text())
    assert document["threshold"] == summary["threshold"]["value"]
    assert document["model_sha256"] == judged[0]["model_sha256"]
    page = (tmp_path / "out" / "README.md").read_text()
    assert page.startswith("# the mean of 2 runs, exported as saved_model")


def test_one_exported_model_takes_one_size(tmp_path):
    from cxr.exporting import exported

    members = [
        runs.open_run(
            write_run(
                tmp_path / str(size),
                classes=("A", "B", "C"),
                threshold=None,
                sizes=(48, size),
            )
        )
        for size in (32, 16)
    ]
    with pytest.raises(cli.DataError, match="films of 32 and 16 pixels"):
        exported.load(members)
