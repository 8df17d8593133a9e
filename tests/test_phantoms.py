"""Synthetic films: reproducible, named like the reference set, honest boxes."""

import collections
import csv
import hashlib
import io
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cxr import cli, files
from cxr.synthesis import drawing, phantoms
from tools import make_phantoms

PNEUMONIA_NAME = re.compile(r"^person(\d+)_(bacteria|virus)_(\d+)(?:_\d+)?\.jpe?g$")
NORMAL_NAME = re.compile(r"^((?:NORMAL2-)?IM-\d+)-\d+(?:-\d+)?\.jpe?g$")


def draw(pattern: str, *, difficulty: float = 0.0, number: int = 0, width: int = 200):
    return drawing.draw(
        np.random.default_rng([number, 1]),
        np.random.default_rng([number, 2]),
        pattern=pattern,
        difficulty=difficulty,
        width=width,
        height=width * 3 // 4,
    )


def tree(root) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


GOLDEN = [
    ("train/NORMAL/IM-0115-0001.jpeg", "none"),
    ("train/PNEUMONIA/person1_bacteria_1.jpeg", "focal"),
    ("train/PNEUMONIA/person1_bacteria_2.jpeg", "focal"),
    ("train/PNEUMONIA/person1_bacteria_3.jpeg", "focal"),
    ("train/PNEUMONIA/person1_virus_1.jpeg", "diffuse"),
    ("test/PNEUMONIA/person2_bacteria_4.jpeg", "diffuse"),
    ("test/PNEUMONIA/person2_bacteria_5.jpeg", "diffuse"),
    ("test/PNEUMONIA/person2_bacteria_6.jpeg", "diffuse"),
    ("test/NORMAL/NORMAL2-IM-0115-0001-0001.jpeg", "none"),
    ("test/NORMAL/NORMAL2-IM-0115-0001-0002.jpeg", "none"),
    ("train/PNEUMONIA/person3_bacteria_7.jpeg", "focal"),
]


def test_plan_is_golden():
    films = phantoms.plan(6, seed=0)
    assert [(film.path, film.pattern) for film in films] == GOLDEN


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32))
def test_a_larger_set_begins_with_the_smaller(few, more, seed):
    small = phantoms.plan(few, seed=seed)
    assert phantoms.plan(few + more, seed=seed)[: len(small)] == small


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 120), st.integers(0, 2**32))
def test_names_follow_the_reference_set_and_keep_patients_together(patients, seed):
    films = phantoms.plan(patients, seed=seed)
    sides = collections.defaultdict(set)
    for film in films:
        folder, label, name = film.path.split("/")
        match = (NORMAL_NAME if label == "NORMAL" else PNEUMONIA_NAME).match(name)
        assert match, film.path
        key = match[1] if label == "NORMAL" else f"person{match[1]}_{match[2]}"
        assert film.patient == key
        sides[key].add((folder, label, film.patient_index))
    assert len({film.path for film in films}) == len(films)
    assert len(sides) == patients
    assert all(len(places) == 1 for places in sides.values())


def test_imbalance_and_splits_resemble_the_reference_set():
    films = phantoms.plan(1200, seed=3)
    folders = collections.Counter(film.path.split("/")[0] for film in films)
    labels = collections.Counter(film.label for film in films)
    assert labels["PNEUMONIA"] / labels["NORMAL"] == pytest.approx(2.9, abs=0.2)
    assert folders["test"] / len(films) == pytest.approx(0.15, abs=0.02)
    assert 0 < folders["val"] < folders["test"]
    assert max(collections.Counter(film.patient for film in films).values()) > 4


def test_the_patient_number_alone_is_shared_by_bacteria_and_virus():
    patients = {film.patient for film in phantoms.plan(9)}
    assert {"person1_bacteria", "person1_virus"} <= patients


def test_few_patients_already_fill_both_classes_of_train_and_test():
    folders = {film.path.rsplit("/", 1)[0] for film in phantoms.plan(12)}
    assert {"train/NORMAL", "train/PNEUMONIA", "test/NORMAL"} <= folders
    assert "test/PNEUMONIA" in folders


def test_films_vary_in_size_and_mode_alike_for_both_classes():
    widths = collections.defaultdict(list)
    modes = collections.Counter()
    for film in phantoms.plan(80, seed=1):
        data, _ = phantoms.render(film, seed=1, film_width=64)
        image = Image.open(io.BytesIO(data))
        assert image.format == "JPEG"
        widths[film.label].append(image.width)
        modes[image.mode] += 1
    assert 0 < modes["RGB"] < 0.15 * modes["L"]
    medians = [np.median(sizes) for sizes in widths.values()]
    assert medians == pytest.approx([64, 64], abs=8)
    assert len(set(widths["NORMAL"])) > 10


def test_a_film_looks_like_a_chest():
    """Air outside is black, lungs are dark, heart and abdomen are bright."""
    pixels = np.mean([draw("none", number=i).pixels for i in range(20)], axis=0)
    height, width = pixels.shape

    def brightness(x: float, y: float) -> float:
        row, column = int(y * height), int(x * width)
        return float(pixels[row - 3 : row + 4, column - 3 : column + 4].mean())

    right_lung, left_lung = brightness(0.3, 0.45), brightness(0.72, 0.4)
    heart, spine, abdomen = brightness(0.56, 0.6), brightness(0.5, 0.5), 0.0
    abdomen = brightness(0.45, 0.92)
    assert brightness(0.03, 0.8) < right_lung < heart
    assert left_lung < heart
    assert heart < spine + 15
    assert abdomen > 1.5 * right_lung


@pytest.mark.parametrize("pattern", ["focal", "diffuse"])
@pytest.mark.parametrize("number", range(12))
def test_the_box_holds_what_the_disease_changed(pattern, number):
    """The same patient and film without the opacity differ inside the box."""
    ill, well = draw(pattern, number=number), draw("none", number=number)
    x0, y0, x1, y1 = ill.box
    height, width = ill.pixels.shape
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    assert well.box is None
    if pattern == "focal":
        assert (x1 - x0) * (y1 - y0) < 0.25 * width * height
    inside = ill.pixels[y0:y1, x0:x1].astype(float)
    outside = np.ones_like(ill.pixels, bool)
    outside[y0:y1, x0:x1] = False
    assert inside.mean() > well.pixels[y0:y1, x0:x1].mean() + 4
    assert abs(ill.pixels[outside].mean() - float(well.pixels[outside].mean())) < 4


def test_difficulty_fades_the_opacity():
    def contrast(difficulty: float) -> float:
        gains = []
        for number in range(12):
            ill = draw("focal", difficulty=difficulty, number=number)
            well = draw("none", difficulty=difficulty, number=number)
            x0, y0, x1, y1 = ill.box
            change = ill.pixels.astype(float) - well.pixels
            gains.append(change[y0:y1, x0:x1].mean())
        return float(np.mean(gains))

    plain, usual, hard = contrast(0.0), contrast(0.5), contrast(1.0)
    assert plain > 1.15 * usual
    assert usual > 1.5 * hard > 0


def test_unknown_pattern_and_empty_set_are_refused():
    with pytest.raises(ValueError, match="pattern='lobar'"):
        draw("lobar")
    with pytest.raises(ValueError, match="num_patients=0"):
        phantoms.plan(0)
    with pytest.raises(ValueError, match="patterns='all'"):
        phantoms.plan(3, patterns="all")


def test_write_is_reproducible_and_grows(tmp_path):
    options = {"seed": 5, "film_width": 48, "progress": False}
    phantoms.write(tmp_path / "a", num_patients=4, **options)
    phantoms.write(tmp_path / "b", num_patients=9, **options)
    small, large = tree(tmp_path / "a"), tree(tmp_path / "b")
    small.pop(phantoms.CSV_NAME)
    assert small.items() <= large.items()
    phantoms.write(tmp_path / "a", num_patients=9, **options)
    assert tree(tmp_path / "a") == large


def test_csv_names_every_film_and_its_box(tmp_path):
    counts = phantoms.write(
        tmp_path, num_patients=9, film_width=48, progress=False, seed=1
    )
    with open(tmp_path / phantoms.CSV_NAME, newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == ("path", "class", "patient", "box")
    on_disk = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.jpeg")}
    assert [row["path"] for row in rows] == sorted(on_disk)
    assert len(rows) == sum(counts.values())
    boxes = phantoms.read_boxes(tmp_path)
    for row in rows:
        assert row["class"] == row["path"].split("/")[1]
        assert (boxes[row["path"]] is None) == (row["class"] == "NORMAL")
        if row["box"]:
            x0, y0, x1, y1 = boxes[row["path"]]
            width, height = Image.open(tmp_path / row["path"]).size
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height


def test_an_interrupted_write_looks_unfinished_and_a_rerun_finishes(
    tmp_path, monkeypatch
):
    options = {"num_patients": 6, "film_width": 48, "progress": False}
    phantoms.write(tmp_path / "whole", **options)
    publish, calls = files.publish, []

    def stop_at_third(path, data):
        calls.append(path)
        if len(calls) == 3:
            path.with_name(".tmp-1-half.jpeg").write_bytes(b"half")
            raise KeyboardInterrupt
        publish(path, data)

    broken = tmp_path / "broken"
    phantoms.write(broken, **options)
    monkeypatch.setattr(files, "publish", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        phantoms.write(broken, **options)
    with pytest.raises(cli.DataError, match="not complete"):
        phantoms.read_boxes(broken)
    monkeypatch.setattr(files, "publish", publish)
    phantoms.write(broken, **options)
    assert tree(broken) == tree(tmp_path / "whole")


def test_films_of_another_set_are_never_mixed_in(tmp_path):
    phantoms.write(tmp_path, num_patients=6, film_width=48, progress=False)
    before = tree(tmp_path)
    with pytest.raises(cli.UsageError, match=r"holds .*, which this set does not"):
        phantoms.write(tmp_path, num_patients=2, film_width=48, progress=False)
    assert tree(tmp_path) == before


def test_command_line(tmp_path, capsys):
    argv = ["make_phantoms", f"--output_dir={tmp_path / 'set'}", "--num_patients=3"]
    assert make_phantoms.main(argv + ["--film_width=40"]) == 0
    assert "films and phantoms.csv" in capsys.readouterr().out
    with pytest.raises(cli.UsageError, match="difficulty=2"):
        make_phantoms.main(argv + ["--difficulty=2"])
    (tmp_path / "file").write_text("")
    with pytest.raises(cli.UsageError, match="is a file"):
        make_phantoms.main(["", f"--output_dir={tmp_path / 'file'}"])
