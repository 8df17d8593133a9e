"""The library: a model from Python answers as the command does."""

import dataclasses
import io
import json
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pydicom
import pytest
from PIL import Image

import cxr
from cxr import cli, files, input_guard, model_card, model_file, predict, runs
from cxr.evaluation import evaluator
from cxr.images import statistics
from cxr.input import film_measures
from cxr.training import models, publishing
from tests import fabricated
from tests.dicom_files import dicom
from tests.test_predict import write_run

pytestmark = pytest.mark.slow  # each test loads a model


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of a small network with random weights."""
    import keras

    root = tmp_path_factory.mktemp("model")
    keras.utils.set_random_seed(0)
    models.build(models.ModelSpec("small_cnn", 32, 2)).save(root / "model.keras")
    saved = (root / "model.keras").read_bytes()
    return write_run(root / "run", model=saved, sizes=(48, 32), threshold=0.5)


@pytest.fixture(scope="module")
def model(workdir):
    return cxr.load(workdir)


def film(seed: int = 0, shape: tuple[int, int] = (70, 60)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_all_that_a_film_may_come_as_gives_one_answer(model, tmp_path):
    pixels = film()
    path = tmp_path / "person7_bacteria_1.png"
    path.write_bytes(encoded(pixels))
    deep = pixels.astype(np.uint16) * 257
    items = [path, str(path), encoded(pixels), Image.fromarray(pixels), pixels]
    items += [pixels[..., None], np.stack([pixels] * 3, axis=-1), deep]
    found = model.predict(items)
    assert [one.path for one in found] == [str(path)] * 2 + [
        f"[{n}]" for n in range(2, 8)
    ]
    for one in found:
        assert one.status == "ok"
        assert one.probabilities == found[0].probabilities
    assert found[0].patient_id == "bacteria:7"
    assert found[0].threshold == model.threshold == 0.5
    assert found[0].above_threshold == (found[0].prediction == "PNEUMONIA")
    assert sum(found[0].probabilities.values()) == pytest.approx(1, abs=1e-6)


def test_a_dataset_of_pydicom_is_its_file(model, tmp_path):
    path = tmp_path / "film.dcm"
    path.write_bytes(dicom(film().astype(np.uint16) * 16))
    from_file, from_memory = model.predict([path, pydicom.dcmread(path)])
    assert from_file.status == from_memory.status == "ok"
    assert from_memory.probabilities == from_file.probabilities


def test_one_item_needs_no_list(model):
    (one,) = model.predict(film())
    assert one.path == "[0]"
    assert model.predict([]) == []


def test_rows_are_the_command_s(model, workdir, tmp_path):
    paths = []
    for number in range(5):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(encoded(film(number)))
    paths[3].write_bytes(b"not a film")
    table = tmp_path / "out.json"
    argv = ["predict", f"--workdir={workdir}", f"--output={table}", "--batch_size=2"]
    predict.main([*argv, *map(str, paths)])
    ours = [one.to_row(model.class_names) for one in model.predict(paths)]
    for row, expected in zip(ours, json.loads(table.read_text()), strict=True):
        for name, value in expected.items():
            if name.startswith("probability_") and value is not None:
                assert row[name] == pytest.approx(value, abs=1e-6)
            else:
                assert row[name] == value


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (b"not a film", "not_an_image"),
        (np.zeros((40, 40), np.float32), "unsupported_samples"),
        (np.zeros((40, 40, 4), np.uint8), "unsupported_samples"),
        (np.zeros((0, 40), np.uint8), "unsupported_samples"),
        ({"a": 1}, "not_an_image"),
        (None, "not_an_image"),
    ],
)
def test_what_is_no_film_is_a_row_that_says_so(model, item, reason):
    one, good = model.predict([item, film()])
    assert one.status.startswith(f"error: {reason}: ")
    assert one.prediction is one.probabilities is one.above_threshold is None
    assert good.status == "ok"


def test_an_explanation_is_a_picture_as_the_model_sees_it(model):
    picture = model.explain(film())
    assert (picture.shape, picture.dtype) == ((32, 32, 3), np.uint8)
    assert np.any(picture[..., 0] != picture[..., 2])  # some colour on the grey
    other = model.explain(film(), "NORMAL")
    # Of two classes one's evidence is the other's counter-evidence.
    assert np.any(picture != other)
    with pytest.raises(ValueError, match="expected one of NORMAL, PNEUMONIA"):
        model.explain(film(), "COVID")
    with pytest.raises(ValueError, match="not_an_image"):
        model.explain(b"not a film")


def test_the_command_explains_into_a_folder(workdir, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "film.png").write_bytes(encoded(film()))
    argv = ["predict", f"--workdir={workdir}", f"--output={tmp_path / 'out.csv'}"]
    argv.append(f"--explain={tmp_path / 'seen'}")
    predict.main([*argv, str(tmp_path / "a"), str(tmp_path / "b")])
    found = sorted(path.name for path in (tmp_path / "seen").iterdir())
    assert found == ["00001-film.png", "00002-film.png"]
    with Image.open(tmp_path / "seen" / found[0]) as picture:
        assert picture.width > 800


def test_films_unlike_training_s_are_warned_of(tmp_path, workdir):
    run = shutil.copytree(workdir, tmp_path / "run")
    random = np.random.default_rng(0)
    usual = np.add.outer(np.linspace(0, 150, 48), np.linspace(0, 60, 48))
    films = [
        np.clip(usual + random.normal(20, 6) + random.normal(0, 5, (48, 48)), 0, 255)
        for _ in range(300)
    ]
    films = np.array(films).astype(np.uint8)
    guard = input_guard.fit(
        np.stack([statistics.cells(film) for film in films]),
        np.stack([statistics.measure(film) for film in films]),
    )
    info = runs.read_model_info(run)
    bare = tmp_path / "bare.keras"
    models.build(models.ModelSpec("small_cnn", 32, 2)).save(bare)
    model_file.embed(bare, info, guard)
    files.publish(run / runs.NEXT_MODEL, bare.read_bytes())
    sha256 = files.sha256_file(run / runs.NEXT_MODEL)
    runs.publish_model_info(run, dataclasses.replace(info, model_sha256=sha256))
    loaded = cxr.load(run)
    found = loaded.predict([films[0], films[0][::-1], 255 - films[0], film()])
    assert found[0].status == "ok"
    assert all(
        one.status.startswith("warning: unlike the training films (")
        for one in found[1:]
    )


def test_a_set_gives_its_batches(tmp_path):
    made = fabricated.write_records(tmp_path, {"train": 20, "validation": 7, "test": 5})
    for path in (made.path, made.path.parent):
        opened = cxr.open_set(path)
        assert opened.manifest == made.manifest
    batches = list(opened.batches("validation", batch_size=4))
    assert [len(labels) for _, labels, _ in batches] == [4, 3]
    assert batches[0][0].shape == (4, 16, 16, 1)
    again = opened.training_batches(batch_size=4, image_size=8, seed=3, start_step=2)
    whole = opened.training_batches(batch_size=4, image_size=8, seed=3)
    for (_, _, one), (_, _, two) in zip(again.take(6), whole.skip(2), strict=False):
        np.testing.assert_array_equal(one, two)
    with pytest.raises(cli.DataError, match="no complete set"):
        cxr.open_set(tmp_path / "nothing")


def test_importing_the_package_imports_little():
    code = "import sys, cxr; print(len({'tensorflow', 'numpy'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "0\n"


# --- the guard in a run, and the model card


def test_training_publishes_a_guard_of_its_films(tmp_path):
    made = fabricated.write_records(
        tmp_path / "data", {"train": 120, "validation": 30, "test": 20}
    )
    guard, told = publishing._guard(made)
    assert told.films == 30
    assert 0 <= told.false_alarms <= 1
    run = fabricated.write_run(tmp_path / "run", made)
    info = dataclasses.replace(run.info, input_guard=told)
    source, target = run.model_path, run.workdir / runs.NEXT_MODEL
    shutil.copy(source, target)
    model_file.embed(target, info, guard)
    sha256 = files.sha256_file(target)
    runs.publish_model_info(run.workdir, dataclasses.replace(info, model_sha256=sha256))
    opened = runs.open_run(run.workdir)
    assert opened.info.input_guard == told
    again = opened.read_guard()
    films = film_measures.measure(made, "test")
    expected = guard.judge(films.cells, films.numbers)
    assert again.judge(films.cells, films.numbers) == expected
    unlike = evaluator._judge(opened, films)
    assert unlike == expected
    found = evaluator._summarise_guard(opened, unlike)
    assert found["of"] == 20
    assert sum(each["n"] for each in found["reasons"]) == found["unlike"]
    assert found["unlike"] == sum(map(bool, expected))
    assert found["false_alarms"] == told.false_alarms
    few = fabricated.write_records(tmp_path / "few", {"train": 20, "validation": 5})
    assert publishing._guard(few) == (None, None)


def test_a_damaged_guard_is_told(tmp_path):
    made = fabricated.write_records(tmp_path / "data", {"train": 6, "validation": 5})
    run = fabricated.write_run(tmp_path / "run", made)
    with zipfile.ZipFile(run.model_path, "a") as archive:
        archive.writestr(zipfile.ZipInfo("cxr_guard.npz"), b"nothing")
    with pytest.raises(cli.DataError, match="input guard cannot be read"):
        run.read_guard()


def test_the_card_says_what_is_known_and_what_is_not(tmp_path):
    made = fabricated.write_records(
        tmp_path / "data", {"train": 20, "validation": 8, "test": 9}
    )
    run = fabricated.write_run(tmp_path / "run", made)
    text = model_card.publish(run).read_text()
    header = text.split("---")[1]
    assert 'pipeline_tag: "image-classification"' in header
    assert "model-index" not in header  # nothing was evaluated
    assert "Not evaluated yet" in text
    assert "| train | 20 | 20 | 10 NORMAL, 10 PNEUMONIA |" in text
    assert "Positive is PNEUMONIA, from a probability of" in text
    assert run.info.model_sha256 in text
    assert "| trained on | not known |" in text
    shutil.rmtree(made.path)
    assert "the set is not at hand; not known" in model_card.publish(run).read_text()
