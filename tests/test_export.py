"""Models leave checked, whole, and say what their answers mean."""

import importlib
import io
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

import cxr
from cxr import cli, export, images, runs
from cxr.exporting import decoding, saved_model
from cxr.training import models
from tests import fabricated
from tests.test_predict import write_run

pytestmark = pytest.mark.slow  # each test writes a model


@pytest.fixture(scope="module", params=["softmax", "sigmoid"])
def workdir(request, tmp_path_factory):
    """A run of a small network with random weights, its data gone."""
    import keras

    root = tmp_path_factory.mktemp(request.param)
    keras.utils.set_random_seed(1)
    spec = models.ModelSpec("small_cnn", 32, 2, request.param)
    models.build(spec).save(root / "model.keras")
    saved = (root / "model.keras").read_bytes()
    return write_run(
        root / "run", model=saved, sizes=(48, 32), threshold=0.5, head=request.param
    )


def exported(workdir, target: pathlib.Path, *flags: str) -> pathlib.Path:
    argv = ["export", f"--workdir={workdir}", f"--output={target}", *flags]
    export.main(argv)
    return target


def pixels(count: int = 6) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (count, 32, 32, 1)).astype(np.float32)


def expected(workdir, films: np.ndarray) -> np.ndarray:
    predictor = cxr.load(workdir)._predictors[0]
    return predictor.predict(films.astype(np.uint8))


def test_a_saved_model_answers_from_pixels(workdir, tmp_path, capsys):
    import tensorflow as tf

    folder = exported(workdir, tmp_path / "out")
    assert "64 phantoms" in capsys.readouterr().out
    loaded = tf.saved_model.load(str(folder / "1"))
    found = loaded.signatures["pixels"](images=tf.constant(pixels()))
    probabilities = found["probabilities"].numpy()
    np.testing.assert_allclose(probabilities, expected(workdir, pixels()), atol=1e-6)
    assert [c.decode() for c in found["classes"].numpy()] == ["NORMAL", "PNEUMONIA"]
    np.testing.assert_array_equal(found["positive"], probabilities[:, 1] >= 0.5)
    document = json.loads((folder / "export.json").read_text())
    assert document["classes"] == ["NORMAL", "PNEUMONIA"]
    assert document["threshold"] == 0.5
    assert document["largest_difference"] <= 1e-5
    assert set(document["latency_ms"]) == {"1", "32"}
    assert "Not a medical device" in (folder / "README.md").read_text()


def test_a_saved_model_takes_files(workdir, tmp_path):
    import tensorflow as tf

    folder = exported(workdir, tmp_path / "out")
    y, x = np.mgrid[:260, :220] / 220
    film = (120 + 90 * np.sin(7 * x) * np.cos(5 * y)).astype(np.uint8)
    colour = Image.fromarray(np.stack([film, film // 2, 255 - film], axis=-1))
    grey = Image.fromarray(film)
    files = []
    for picture, kind in (
        (grey, "JPEG"),
        (colour, "JPEG"),
        (grey, "PNG"),
        (colour, "PNG"),
        (grey.resize((40, 44)), "JPEG"),
    ):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        files.append(buffer.getvalue())
    serve = tf.saved_model.load(str(folder / "1")).signatures["serving_default"]
    found = serve(tf.constant(files))["probabilities"].numpy()
    ours = [
        list(one.probabilities.values()) for one in cxr.load(workdir).predict(files)
    ]
    np.testing.assert_allclose(found, ours, atol=0.02)
    seen = decoding.decode(tf.constant(files), 48, 32).numpy()[..., 0]
    for film, data in zip(seen, files, strict=True):
        theirs = images.area_resize(images.to_grey(data, 48), 32)
        assert np.abs(film - theirs).max() <= 2  # grey levels


@pytest.mark.parametrize("name", ["onnx", "litert", "openvino"])
def test_other_formats_answer_alike(workdir, tmp_path, name):
    module = importlib.import_module(f"cxr.exporting.{name}")
    folder = exported(workdir, tmp_path / name, f"--format={name}")
    found = module.load(folder)(pixels())
    np.testing.assert_allclose(found, expected(workdir, pixels()), atol=1e-5)
    page = (folder / "README.md").read_text()
    assert "{" + "image_size" + "}" not in page


def test_an_onnx_file_says_what_it_means(workdir, tmp_path):
    import onnxruntime

    folder = exported(workdir, tmp_path / "out", "--format=onnx")
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    meaning = session.get_modelmeta().custom_metadata_map
    assert meaning["classes"] == "NORMAL,PNEUMONIA"
    assert meaning["threshold"] == "0.5"
    assert meaning["model_sha256"] == runs.open_run(workdir).info.model_sha256


def test_eight_bits_take_their_ranges_from_training_films(tmp_path):
    made = fabricated.write_records(
        tmp_path / "data", {"train": 40, "validation": 30, "test": 5}
    )
    run = fabricated.write_run(tmp_path / "run", made)
    folder = exported(run.workdir, tmp_path / "out", "--format=litert", "--int8")
    document = json.loads((folder / "export.json").read_text())
    assert document["int8"] is True
    assert document["checked_on"] == "30 films of the run's validation split"
    assert document["largest_difference"] <= 0.05
    plain = exported(run.workdir, tmp_path / "plain", "--format=litert")
    sizes = [(path / "model.tflite").stat().st_size for path in (folder, plain)]
    assert sizes[0] < sizes[1]


def test_a_model_that_answers_differently_is_not_published(
    workdir, tmp_path, monkeypatch
):
    load = saved_model.load

    def wrong(folder):
        forward = load(folder)
        return lambda films: forward(films) + 1e-4

    monkeypatch.setattr(saved_model, "load", wrong)
    with pytest.raises(cli.DataError, match="nothing was published"):
        exported(workdir, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_stands_there_is_left_alone(workdir, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    monkeypatch.setattr(export.startup, "load_tensorflow", pytest.fail)
    with pytest.raises(cli.UsageError, match="exists"):
        exported(workdir, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_missing_package_is_named(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(export.startup, "load_tensorflow", pytest.fail)
    with pytest.raises(cli.UnavailableError, match=r"pip install 'cxr\[export\]'"):
        exported(workdir, tmp_path / "out", "--format=onnx")
    assert list(tmp_path.iterdir()) == []


def test_eight_bits_are_litert_s(workdir, tmp_path):
    with pytest.raises(cli.UsageError, match="--int8"):
        exported(workdir, tmp_path / "out", "--format=onnx", "--int8")
