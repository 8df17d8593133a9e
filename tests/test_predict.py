"""cxr.predict: every file is a row, every row is right, nothing crashes."""

import csv
import io
import json
import os
import signal
import struct
import subprocess
import sys
import types
import zlib

import numpy as np
import pytest
from PIL import Image

from cxr import cli, files, images, predict, runs
from cxr.config import TrainConfig
from cxr.model_info import Threshold
from cxr.prediction import inputs, predict_files, rows, together
from tests import fabricated

pytestmark = pytest.mark.slow  # each test predicts

STORED, SEEN = 32, 16


class BrightnessPredictor:
    """Stands in for a model: the positive probability is the mean brightness."""

    stored_image_size, image_size = STORED, SEEN

    def __init__(self, columns: int = 2):
        self.columns, self.batches = columns, []

    def predict(self, batch: np.ndarray, *, batch_size: int = 32) -> np.ndarray:
        assert batch.dtype == np.uint8
        assert len(batch) <= batch_size
        assert batch.shape[1:] == (SEEN, SEEN, 1)
        self.batches.append(len(batch))
        p = batch.mean(axis=(1, 2, 3)) / 255
        rest = [(1 - p) / (self.columns - 1)] * (self.columns - 1)
        return np.stack([*rest, p], axis=1).astype(np.float32)


def write_run(
    path,
    *,
    classes=("NORMAL", "PNEUMONIA"),
    threshold=0.6,
    positive=None,
    model=None,
    sizes=(STORED, SEEN),
    head="softmax",
):
    path.mkdir()
    if model:
        files.publish(path / runs.MODEL, model)
    else:
        fabricated.write_hollow_model(path / runs.MODEL)
    files.publish(path / runs.FLAGS, cli.to_flags(TrainConfig()))
    info = fabricated.model_info(
        path / runs.MODEL,
        class_names=classes,
        positive_class=positive or classes[-1],
        stored_image_size=sizes[0],
        image_size=sizes[1],
        threshold=threshold and Threshold(threshold, "youden", "validation"),
        head=head,
    )
    runs.publish_model_info(path, info)
    return path


@pytest.fixture
def predictor(monkeypatch):
    """Puts the stand-in where predict_files imports the real one from."""
    made = BrightnessPredictor()
    module = types.SimpleNamespace(load_predictor=lambda run, **_: made)
    monkeypatch.setitem(sys.modules, "cxr.prediction.predictor", module)
    monkeypatch.setattr("cxr.prediction.predictor", module, raising=False)
    return made


@pytest.fixture
def call(tmp_path, predictor):
    """Runs the command in a folder with a finished run; returns the table's rows."""
    write_run(tmp_path / "run")

    def run(*arguments, output="out.csv", flags=()):
        table = tmp_path / output
        argv = ["predict", f"--workdir={tmp_path / 'run'}", f"--output={table}"]
        predict.main([*argv, *flags, *map(str, arguments)])
        text = table.read_text(encoding="utf-8")
        if output.endswith(".json"):
            return json.loads(text)
        if output.endswith(".jsonl"):
            return [json.loads(line) for line in text.splitlines()]
        return list(csv.DictReader(io.StringIO(text)))

    return run


def grey(level: int, height: int = 60, width: int = 80) -> np.ndarray:
    """A film of this mean brightness that is not uniform; uint8 [height, width]."""
    stripes = np.where(np.arange(width) // 8 % 2, 10, -10)
    return np.broadcast_to(level + stripes, (height, width)).astype(np.uint8)


def save(path, picture, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    picture.save(path, **options)
    return path


def test_rows_hold_path_prediction_probabilities_threshold_status(call, tmp_path):
    dark = save(tmp_path / "dark.png", grey(100))
    bright = save(tmp_path / "bright.jpeg", grey(200))
    rows = call(bright, dark)
    assert list(rows[0]) == [
        "path",
        "prediction",
        "probability_NORMAL",
        "probability_PNEUMONIA",
        "threshold",
        "patient_id",
        "above_threshold",
        "model_sha256",
        "status",
    ]
    assert [row["above_threshold"] for row in rows] == ["True", "False"]
    info = runs.open_run(tmp_path / "run").info
    assert {row["model_sha256"] for row in rows} == {info.model_sha256}
    assert [row["path"] for row in rows] == [str(bright), str(dark)]
    assert [row["prediction"] for row in rows] == ["PNEUMONIA", "NORMAL"]
    assert [row["status"] for row in rows] == ["ok", "ok"]
    values = [float(row["probability_PNEUMONIA"]) for row in rows]
    assert values == pytest.approx([200 / 255, 100 / 255], abs=0.02)
    assert float(rows[0]["threshold"]) == 0.6


@pytest.mark.parametrize(
    ("positive", "threshold", "expected"),
    [
        ("PNEUMONIA", 0.5, "PNEUMONIA"),  # positive when p >= threshold
        ("PNEUMONIA", 0.5000001, "NORMAL"),
        ("NORMAL", 0.5, "NORMAL"),  # the first class as the positive one
        ("NORMAL", 0.6, "PNEUMONIA"),
    ],
)
def test_the_decision_is_the_threshold_on_the_positive_class(
    tmp_path, positive, threshold, expected
):
    folder = tmp_path / "run"
    write_run(folder, threshold=threshold, positive=positive)
    half = np.array([0.5, 0.5], np.float32)
    meaning = together.meaning([runs.open_run(folder)])
    found = rows.decide("film", half, "ok", meaning)
    assert found.prediction == expected
    assert found.above_threshold == (expected == positive)


def test_more_than_two_classes_take_the_most_probable(tmp_path, predictor, capsys):
    predictor.columns = 3
    write_run(tmp_path / "run", classes=("A", "B", "C"), threshold=None)
    film = save(tmp_path / "film.png", grey(200))
    run = runs.open_run(tmp_path / "run")
    counts = predict_files.predict_files([run], [str(film)], str(tmp_path / "out.csv"))
    assert counts.classes == {"A": 0, "B": 0, "C": 1}
    row = next(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert (row["prediction"], row["threshold"]) == ("C", "")
    assert "probability_B" in row


def test_probabilities_survive_the_table_exactly(call, predictor, tmp_path):
    film = save(tmp_path / "film.png", grey(137))
    stored = images.read(film.read_bytes(), STORED).grey
    seen = images.area_resize(stored, SEEN)[None, :, :, None]
    expected = [float(value) for value in predictor.predict(seen)[0]]
    row = call(film)[0]
    found = [float(row[f"probability_{name}"]) for name in ("NORMAL", "PNEUMONIA")]
    assert found == expected
    document = call(film, output="out.json")[0]
    assert document["probability_PNEUMONIA"] == expected[1]
    assert document["threshold"] == 0.6


def test_every_accepted_kind_gives_the_same_answer(call, tmp_path):
    film = Image.fromarray(grey(150))
    deep = Image.fromarray(np.asarray(film).astype(np.uint16) * 257)
    kinds = {
        "grey.jpeg": film,
        "rgb.jpg": film.convert("RGB"),
        "cmyk.jpeg": film.convert("RGB").convert("CMYK"),
        "grey.png": film,
        "rgba.png": film.convert("RGBA"),
        "palette.png": film.convert("P"),
        "deep.png": deep,
    }
    paths = [save(tmp_path / name, picture) for name, picture in kinds.items()]
    rows = call(*paths)
    assert [row["status"] for row in rows] == ["ok"] * len(kinds)
    values = [float(row["probability_PNEUMONIA"]) for row in rows]
    assert values == pytest.approx([150 / 255] * len(kinds), abs=0.01)


def huge_png() -> bytes:
    """Sound to the last chunk, and 400 million pixels when decoded."""

    def chunk(name: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + crc

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    chunks = (b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*parts) for parts in chunks)


def test_bad_files_are_rows(call, predictor, tmp_path, capsys):
    good = save(tmp_path / "films" / "good.png", grey(100))
    folder = good.parent
    whole = save(tmp_path / "whole.jpeg", grey(100)).read_bytes()
    (folder / "cut.jpeg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpeg").write_text("not a film")
    (folder / "huge.png").write_bytes(huge_png())
    (folder / "scan.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 64)
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(folder / "pipe.png")
    rows = {os.path.basename(row["path"]): row for row in call(folder)}
    assert rows.pop("good.png")["status"] == "ok"
    assert {name: row["status"].split(":")[:2] for name, row in rows.items()} == {
        "cut.jpeg": ["error", " truncated"],
        "empty.png": ["error", " empty"],
        "text.jpeg": ["error", " not_an_image"],
        "huge.png": ["error", " too_many_pixels"],
        "scan.dcm": ["error", " not_an_image"],
        "dangling.png": ["error", " not_found"],
        "pipe.png": ["error", " not_a_file"],
    }
    for row in rows.values():
        assert row["prediction"] == row["probability_PNEUMONIA"] == ""
    assert predictor.batches == [1]
    said = capsys.readouterr().out
    assert "8 images: 1 NORMAL, 0 PNEUMONIA; 0 warnings, 7 errors; table in" in said
    assert "\n  1 truncated: the image ends too early\n" in said


def test_json_lines_are_the_rows_of_json(call, tmp_path):
    good = save(tmp_path / "person12_virus_3.png", grey(200))
    paths = (good, tmp_path / "missing.png")
    assert call(*paths, output="out.jsonl") == call(*paths, output="out.json")
    first = call(*paths, output="out.jsonl")[0]
    assert first["patient_id"] == "virus:12"
    assert first["above_threshold"] is True


def test_paths_are_read_from_standard_input(call, tmp_path, monkeypatch):
    films = [save(tmp_path / f"{n}.png", grey(100)) for n in range(3)]
    listed = io.StringIO("".join(f"{film}\n" for film in films[1:]))
    monkeypatch.setattr(sys, "stdin", listed)
    assert [row["path"] for row in call(films[0], "-")] == [*map(str, films)]


def test_folders_of_folders_are_left_out_on_demand(call, tmp_path):
    save(tmp_path / "films" / "a.png", grey(100))
    save(tmp_path / "films" / "deeper" / "b.png", grey(100))
    assert len(call(tmp_path / "films")) == 2
    (row,) = call(tmp_path / "films", flags=["--norecursive"])
    assert row["path"].endswith("a.png")


def test_few_films_are_shown(call, tmp_path, capsys):
    call(save(tmp_path / "film.png", grey(200)), tmp_path / "missing.png")
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["film", "prediction", "p", "of", "PNEUMONIA", "status"]
    assert said[1].split()[1:] == ["PNEUMONIA", "0.785", "ok"]
    assert said[2].split()[1:3] == ["-", "-"]
    assert said[2].endswith("  error: not_found: no such file")


def test_json_of_a_bad_film_holds_null(call, tmp_path):
    good = save(tmp_path / "good.png", grey(100))
    rows = call(good, tmp_path / "missing.png", output="out.JSON".lower())
    assert rows[1]["status"] == "error: not_found: no such file"
    assert rows[1]["prediction"] is rows[1]["probability_NORMAL"] is None


def test_all_films_bad_is_exit_65_with_the_table_written(call, tmp_path):
    (tmp_path / "text.jpeg").write_text("not a film")
    with pytest.raises(cli.DataError, match=r"none of the 1 images") as caught:
        call(tmp_path / "text.jpeg")
    assert caught.value.exit_code == 65
    assert "not_an_image" in (tmp_path / "out.csv").read_text()


def test_a_model_that_gives_nan_is_an_error_row(call, predictor, tmp_path):
    good = save(tmp_path / "film.png", grey(100))
    predictor.predict = lambda batch, **_: np.full((len(batch), 2), np.nan, np.float32)
    with pytest.raises(cli.DataError):
        call(good)
    assert "error: not_finite" in (tmp_path / "out.csv").read_text()


@pytest.mark.parametrize(
    ("name", "picture", "warning"),
    [
        ("small", grey(100, 12, 40), "40 x 12 pixels, less than the model's 16"),
        ("strip", grey(100, 40, 200), "proportions"),
        ("flat", np.full((60, 60), 90, np.uint8), "nearly uniform"),
    ],
)
def test_doubtful_films_are_predicted_with_a_warning(
    call, tmp_path, name, picture, warning
):
    row = call(save(tmp_path / f"{name}.png", picture))[0]
    assert row["status"].startswith("warning: ")
    assert warning in row["status"]
    assert row["prediction"] == "NORMAL"


def test_colour_is_told_from_grey_stored_as_rgb(call, tmp_path):
    photo = np.stack([grey(180), grey(90), grey(60)], axis=2)
    tinted = np.stack([grey(120), grey(116), grey(110)], axis=2)
    rows = call(
        save(tmp_path / "photo.jpeg", photo, quality=95),
        save(tmp_path / "tinted.jpeg", tinted, quality=95),
        save(tmp_path / "palette.png", Image.fromarray(photo).convert("P")),
    )
    assert "in colour" in rows[0]["status"]
    assert rows[1]["status"] == "ok"
    assert "in colour" in rows[2]["status"]


def test_films_are_known_by_any_usual_suffix_or_none(tmp_path, capsys):
    for name in ("film", "film.JPG", "film.jfif", "film.pgm", "film.dcm"):
        save(tmp_path / name, grey(100), format="PNG")
    (tmp_path / "notes.txt").write_text("not a film")
    assert [os.path.basename(path) for path in inputs.find([str(tmp_path)])] == [
        "film",
        "film.JPG",
        "film.dcm",
        "film.jfif",
        "film.pgm",
    ]
    assert "'notes.txt'" in capsys.readouterr().err


def test_folders_and_globs_are_searched_in_order_without_repeats(tmp_path, capsys):
    for name in ("b/2.png", "b/1.JPG", "a.jpeg", "b/__MACOSX/x.png", ".h.png"):
        save(tmp_path / "in" / name, grey(100), format="PNG")
    (tmp_path / "in" / "phantoms.csv").write_text("path")
    (tmp_path / "in" / "Thumbs.db").write_text("Windows' own")
    top = str(tmp_path / "in")
    expected = [f"{top}/a.jpeg", f"{top}/b/1.JPG", f"{top}/b/2.png"]
    assert inputs.find([top]) == expected
    assert "not named like an image: 'phantoms.csv'" in capsys.readouterr().err
    assert inputs.find([f"{top}/*.jpeg", top, f"{top}/b/1.JPG"]) == expected
    assert inputs.find([f"{top}/**/[0-9].*"]) == expected[1:]
    assert inputs.find([f"{top}/b/2.png", "gone"]) == [f"{top}/b/2.png", "gone"]


def test_a_folder_that_cannot_be_listed_is_told(capsys):
    assert list(inputs._walk("/gone/folder", True)) == []
    assert "/gone/folder: left out: No such file" in capsys.readouterr().err


def test_linked_folders_are_searched_and_circles_told(tmp_path, capsys):
    film = save(tmp_path / "elsewhere" / "film.png", grey(100))
    top = tmp_path / "in"
    top.mkdir()
    (top / "linked").symlink_to(film.parent)
    (top / "up").symlink_to(top)
    assert inputs.find([str(top)]) == [f"{top}/linked/film.png"]
    assert f"{top}/up: left out: leads back to {top}" in capsys.readouterr().err


def test_a_name_with_glob_characters_is_taken_literally(tmp_path):
    film = save(tmp_path / "film[1].png", grey(100))
    assert inputs.find([str(film)]) == [str(film)]


@pytest.mark.parametrize("count", [1, 4, 5, 9])
def test_batches_cover_every_film_once_in_order(call, predictor, tmp_path, count):
    paths = [save(tmp_path / f"{i}.png", grey(60 + 12 * i)) for i in range(count)]
    rows = call(*paths, flags=["--batch_size=4", "--threads=3"])
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    assert sum(predictor.batches) == count
    assert max(predictor.batches) <= 4
    values = [float(row["probability_PNEUMONIA"]) for row in rows]
    assert values == sorted(values)
    assert len(set(values)) == count


def test_films_are_read_only_one_batch_ahead(monkeypatch):
    """Memory is bounded: at most two batches are decoded and not yet predicted."""
    read = []
    film = inputs.ReadImage("", np.zeros((STORED, STORED), np.uint8), "ok")
    monkeypatch.setattr(
        inputs, "read", lambda path, *_, at: (read.append(path), film)[1]
    )
    paths = [str(i) for i in range(30)]
    for taken, films in enumerate(
        inputs.read_batches(paths, (STORED, SEEN), 3, 1), start=1
    ):
        assert len(films) == 3
        assert len(read) <= 3 * (taken + 1)
    assert read == paths


def test_an_interrupted_run_leaves_the_old_table(call, predictor, tmp_path):
    film = save(tmp_path / "film.png", grey(100))
    call(film)
    before = (tmp_path / "out.csv").read_bytes()

    def interrupt(batch, **_):
        raise KeyboardInterrupt

    predictor.predict = interrupt
    with pytest.raises(KeyboardInterrupt):
        call(film)
    assert (tmp_path / "out.csv").read_bytes() == before
    assert not list(tmp_path.glob(".tmp-*"))


def test_sigterm_leaves_no_temporary_file(tmp_path):
    """Of the command itself, in the middle of its table."""
    rng = np.random.default_rng(0)
    film = save(tmp_path / "films" / "0.png", rng.integers(0, 256, (60, 60), np.uint8))
    for number in range(1, 30_000):
        os.link(film, tmp_path / "films" / f"{number}.png")
    record_set = fabricated.write_records(tmp_path / "data", {"train": 4})
    run = fabricated.write_run(tmp_path / "run", record_set)
    output = tmp_path / "out.csv"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "cxr.predict", f"--workdir={run.workdir}"),
            *(f"--output={output}", str(film.parent)),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not list(tmp_path.glob(".tmp-*")):
        pass
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 143
    assert said.splitlines()[-1] == "stopped by SIGTERM"
    assert not list(tmp_path.glob(".tmp-*"))
    assert not output.exists()


@pytest.mark.parametrize("name", ["history.csv", "model.json", "evaluation-test/x.csv"])
def test_the_runs_own_files_are_no_output(call, tmp_path, name):
    film = save(tmp_path / "film.png", grey(100))
    before = (tmp_path / "run" / "model.json").read_bytes()
    with pytest.raises(cli.UsageError, match="is a file of the run"):
        call(film, output=f"run/{name}")
    assert (tmp_path / "run" / "model.json").read_bytes() == before
    call(film, output="run/predictions.csv")  # beside them it may lie


def test_an_image_is_no_output(call, tmp_path):
    film = save(tmp_path / "film.csv", grey(100), format="PNG")
    (tmp_path / "linked.csv").symlink_to(film)
    for name in ("film.csv", "linked.csv"):
        with pytest.raises(cli.UsageError, match="is one of the images"):
            call(film, tmp_path / "gone.png", output=name)
    assert film.read_bytes().startswith(b"\x89PNG")


def test_no_cell_is_a_formula(call, tmp_path, monkeypatch):
    save(tmp_path / "=1+1.png", grey(100))
    monkeypatch.chdir(tmp_path)
    assert call("=1+1.png")[0]["path"] == "'=1+1.png"
    assert call("=1+1.png", output="out.json")[0]["path"] == "=1+1.png"


def test_names_that_are_not_utf8_are_written_escaped(call, tmp_path):
    film = save(tmp_path / "film.png", grey(100))
    odd = os.path.join(os.fsencode(tmp_path), b"odd\xff.png")
    os.link(film, odd)
    row = call(os.fsdecode(odd))[0]
    assert row["status"] == "ok"
    assert row["path"].endswith("odd\\udcff.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output=out.csv", "film.png"], "workdir"),
        (["--workdir=run", "film.png"], "output"),
        (["--workdir=run", "--output=out.txt", "film.png"], r"\.csv, \.json"),
        (["--workdir=run", "--output=run/x.csv/out.csv", "film.png"], "cannot write"),
        (["--workdir=run", "--output=folder.csv", "film.png"], "is a folder"),
        (["--workdir=run", "--output=out.csv"], "no image given"),
        (["--workdir=run", "--output=out.csv", "gone.png"], "gone.png: no such"),
        (["--workdir=run", "--output=out.csv", "*.webp"], r"\*\.webp: no such"),
        (["--workdir=run", "--output=out.csv", "folder.csv"], "no image files"),
        (["--workdir=gone", "--output=out.csv", "film.png"], "--workdir=gone"),
        (["--workdir=run", "--output=o.csv", "--batch_size=0", "f"], "batch_size=0"),
    ],
)
def test_wrong_usage_is_refused(tmp_path, monkeypatch, arguments, message):
    """The stand-in model is not there, so refusing must come before loading it."""
    monkeypatch.setitem(sys.modules, "cxr.prediction.predictor", None)
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run")
    (tmp_path / "run" / "x.csv").write_text("")
    (tmp_path / "folder.csv").mkdir()
    save(tmp_path / "film.png", grey(100))
    with pytest.raises(cli.UsageError, match=message):
        predict.main(["predict", *arguments])


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_a_real_model_sees_what_training_saw(tmp_path, head):
    """Table equals bytes -> stored size -> area reduction -> model, done by hand."""
    import keras

    from cxr.training import models

    keras.utils.set_random_seed(0)
    model = models.build(models.ModelSpec("small_cnn", 32, 2, head))
    model.save(tmp_path / "model.keras")
    saved = (tmp_path / "model.keras").read_bytes()
    folder = write_run(tmp_path / "run", model=saved, sizes=(48, 32), head=head)
    rng = np.random.default_rng(0)
    for number in range(5):
        film = rng.integers(0, 256, (70 + number, 90), np.uint8)
        save(tmp_path / "films" / f"{number}.jpeg", film)
    (tmp_path / "films" / "2.jpeg").write_bytes(b"broken")
    tables = []
    for batch_size in (32, 2):
        output = tmp_path / f"{batch_size}.json"
        paths, run = [str(tmp_path / "films")], runs.open_run(folder)
        predict_files.predict_files([run], paths, str(output), batch_size=batch_size)
        tables.append(json.loads(output.read_text()))
    for pair in zip(*tables, strict=True):
        if pair[0]["prediction"] is None:
            assert pair[0]["path"].endswith("2.jpeg")
            continue
        with open(pair[0]["path"], "rb") as file:
            stored = images.to_grey(file.read(), 48)
        seen = images.area_resize(stored, 32)[None, :, :, None].astype(np.float32)
        expected = np.asarray(model([seen], training=False))[0, -1]
        for row in pair:
            assert row["probability_PNEUMONIA"] == pytest.approx(expected, abs=1e-6)
            total = row["probability_PNEUMONIA"] + row["probability_NORMAL"]
            assert total == pytest.approx(1, abs=1e-6)


def test_films_of_formats_without_checksums_are_counted(call, tmp_path, capsys):
    film = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    for name in ("a.bmp", "b.bmp", "c.tif", "d.png", "e.jpeg"):
        Image.fromarray(film).save(tmp_path / name)
    call(*sorted(tmp_path.glob("?.*")))
    said = capsys.readouterr().err
    assert "3 images are of formats without checksums (2 BMP, 1 uncompressed" in said
    call(tmp_path / "d.png", output="sound.csv")
    assert "checksums" not in capsys.readouterr().err


def test_another_precision_is_the_users_choice_and_said(tmp_path, capsys):
    from cxr.training import models

    spec = models.ModelSpec("small_cnn", 32, 2)
    path = tmp_path / "model.keras"
    models.build(spec, dtype="float32").save(path)
    write_run(tmp_path / "run", model=path.read_bytes(), sizes=(48, 32))
    rng = np.random.default_rng(0)
    for number in range(5):
        film = rng.integers(0, 256, (70, 90), np.uint8)
        save(tmp_path / "films" / f"{number}.png", film)
    found = {}
    for precision in ("float32", "mixed_bfloat16"):
        output = tmp_path / f"{precision}.csv"
        argv = ["", f"--workdir={tmp_path / 'run'}", f"--output={output}"]
        predict.main([*argv, f"--precision={precision}", str(tmp_path / "films")])
        rows = list(csv.DictReader(io.StringIO(output.read_text())))
        found[precision] = [float(row["probability_PNEUMONIA"]) for row in rows]
    assert "computed in mixed_bfloat16" in capsys.readouterr().out
    assert found["float32"] != found["mixed_bfloat16"]
    np.testing.assert_allclose(*found.values(), atol=0.02)
