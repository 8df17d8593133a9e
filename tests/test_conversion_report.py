"""cxr.conversion.set_report and cxr.conversion.near_duplicates: what a person reads."""

import json

import numpy as np
import pytest
import sklearn.metrics
from PIL import Image

from cxr import images
from cxr.conversion import converter, near_duplicates, set_report
from tests.sample_images import config_for, convert, make_source


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "films")


def test_the_report_stands_alone_and_says_the_same_in_json(source):
    (source / "NORMAL/<b>.jpeg").write_text("not a film")
    for index in range(12):  # pneumonia films of another size: a shortcut
        path = source / f"PNEUMONIA/person{index // 2}_virus_{index}.png"
        Image.open(path).resize((80, 80)).save(path)
    record_set = convert(source)
    page = (record_set.path / "report.html").read_text()
    content = json.loads((record_set.path / "report.json").read_text())
    assert "http" not in page
    assert "<script" not in page
    assert page.count("data:image/jpeg;base64,") == 2
    assert "NORMAL/&lt;b&gt;.jpeg" in page
    assert "the bytes begin like no image format" in page
    assert content["quarantine"] == {"not_an_image": 1}
    assert content["films"] == 24
    assert content["patients_on_two_sides"] == 0
    assert sum(row["films"] for row in content["splits"]) == 24
    assert sum(row["patients"] for row in content["splits"]) == 12
    virus = content["subtypes"][0]
    assert (virus["class"], virus["subtype"]) == ("PNEUMONIA", "virus")
    assert virus["train"] + virus["validation"] + virus["test"] == 12
    width = {row["class"]: row["width"] for row in content["shortcuts"]}
    assert width == {"NORMAL": 0.0, "PNEUMONIA": 1.0}
    assert "The width of the source files alone tells PNEUMONIA" in page


def test_no_patient_is_promised_where_none_is_known(source):
    known = (convert(source).path / "report.html").read_text()
    assert "film and no known patient stands on two sides." in known
    flags = {"patient_pattern": "nobody-(?P<patient>x)", "dataset": "unknown"}
    unknown = (convert(source, **flags).path / "report.html").read_text()
    assert "film stands on two sides; no patient is known." in unknown


def test_a_shortcut_is_measured_as_scikit_learn_does():
    random = np.random.default_rng(0)
    values = np.round(random.normal(size=300) * 3)  # with ties
    positive = random.random(300) < 0.3
    expected = sklearn.metrics.roc_auc_score(positive, values)
    assert set_report._auc(values, positive) == pytest.approx(expected, abs=1e-12)
    assert set_report._auc(values, positive & False) == 0.5


def test_names_without_patients_are_said_loudly(source):
    lines = []
    config = config_for(source, patient_pattern="^(?P<patient>x)")
    converter.convert(config, log=lines.append)
    assert any(line.startswith("WARNING: 24 file names") for line in lines)


def test_near_duplicates_are_found_across_sides_only():
    random = np.random.default_rng(0)
    hashes = [int.from_bytes(random.bytes(32), "big") for _ in range(200)]
    sides = np.arange(200) % 2
    seven_bits = sum(1 << bit for bit in range(0, 224, 32))
    hashes[7] = hashes[10] ^ seven_bits
    hashes[8] = hashes[20]  # one side
    hashes[31] = hashes[40] ^ seven_bits ^ 2
    hashes[51] = hashes[60]
    assert near_duplicates.across(hashes, sides) == [(0, 51, 60), (7, 7, 10)]
    assert near_duplicates.across(hashes, sides, at_most=1) == [(0, 51, 60)]


def test_a_film_saved_again_hashes_alike():
    y, x = np.mgrid[0:96, 0:96]
    film = (128 + 60 * np.sin(x / 9) * np.cos(y / 13) + x / 3).astype(np.uint8)
    again = images.to_grey(images.encode(film, "jpeg", quality=60), 96)
    one, two = map(near_duplicates.difference_hash, (film, again))
    other = near_duplicates.difference_hash(film.T.copy())
    assert (one ^ two).bit_count() <= near_duplicates.MAX_DISTANCE
    assert (one ^ other).bit_count() > 60
