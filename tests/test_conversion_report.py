"""cxr.conversion.set_report and cxr.conversion.near_duplicates: what a person reads."""

import html
import json
import re
import shutil

import numpy as np
import pytest
import sklearn.metrics
from PIL import Image

from cxr.conversion import converter, set_report
from tests.sample_images import (
    config_for,
    convert,
    make_source,
    read_csv,
    write_image,
)


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
    assert "PNEUMONIA is told from the rest by one property alone, width" in page


def test_no_patient_is_promised_where_none_is_known(source):
    known = (convert(source).path / "report.html").read_text()
    assert "film and no known patient stands on two sides." in known
    flags = {"patient_pattern": "nobody-(?P<patient>x)", "dataset": "unknown"}
    unknown = (convert(source, **flags).path / "report.html").read_text()
    assert "film stands on two sides; no patient is known." in unknown


def test_a_known_patient_counts_though_many_unknown_films_were_kept_out(source):
    """Films that were dropped tell nothing of those that are in the set."""
    for index in range(30):  # one film under two labels, thirty times: all go
        for label in ("NORMAL", "PNEUMONIA"):
            write_image(source / label / f"unknown-{index}.png", 500)
    record_set = convert(source)
    content = json.loads((record_set.path / "report.json").read_text())
    assert (content["films"], content["files_without_patient"]) == (24, 0)
    page = (record_set.path / "report.html").read_text()
    assert "film and no known patient stands on two sides." in page
    assert "no patient is known" not in page
    assert "tell no patient" not in page


def test_copies_and_pairs_are_spoken_of_only_where_there_are_some(source):
    page = (convert(source).path / "report.html").read_text()
    assert "No film is kept twice." in page
    assert "These pairs" not in page
    folder = source / "NORMAL"
    shutil.copy(folder / "IM-0000-0000.png", folder / "IM-0000-0900.png")
    twice = (convert(source, dataset="twice").path / "report.html").read_text()
    assert "Groups of byte-identical films: 1, with 1 surplus in all" in twice


def test_the_page_shows_the_numbers_of_the_json(source):
    """Every cell of its tables is a value of report.json, in its place."""
    record_set = convert(source)
    page = (record_set.path / "report.html").read_text()
    content = json.loads((record_set.path / "report.json").read_text())
    for title, key in {
        "splits": "splits",
        "subtypes": "subtypes",
        "source-films-by-class": "source",
    }.items():
        section = re.search(f'<section id="{title}">.*?</section>', page, re.S)[0]
        cells = re.findall("<td[^>]*>(.*?)</td>", section)
        wanted = [str(value) for row in content[key] for value in row.values()]
        assert [html.unescape(cell) for cell in cells] == wanted
        titles = re.findall("<th scope[^>]*>(.*?)</th>", section)
        assert titles == list(content[key][0])
    anchor = "what-gives-the-class-away-without-looking"
    section = re.search(f'<section id="{anchor}">.*?</section>', page, re.S)[0]
    told = re.findall(r'<th scope="row"[^>]*>(.*?)</th><td[^>]*>([\d.]+)', section)
    last = content["separability"][-1]
    assert last.pop("class") == "PNEUMONIA"
    assert told == [(name, f"{value:.3f}") for name, value in last.items()]
    rows = read_csv(record_set.path / "examples.csv")
    for split in content["splits"]:
        inside = [row for row in rows if row["split"] == split["split"]]
        assert split["films"] == len(inside)
        assert split["patients"] == len({row["patient_id"] for row in inside})
        for label in ("NORMAL", "PNEUMONIA"):
            assert split[label] == sum(row["label"] == label for row in inside)
    lead = re.search('<p class="lead">(.*?)</p>', page)[1]
    sizes = (f"{content[key] / 1e6:.1f} MB" for key in ("bytes_in", "bytes_out"))
    assert f"{len(rows)} films, split policy grouped." in lead
    assert "{} read and {} written".format(*sizes) in lead


@pytest.mark.parametrize("name", ["$\\frac$", "=1+1", "<b>x<b>", "_x_^2", "病毒"])
def test_any_folder_name_may_be_a_class(source, name):
    (source / "NORMAL").rename(source / name)
    page = (convert(source).path / "report.html").read_text()
    assert html.escape(name) in page
    assert "<b>" not in page


def test_separability_counts_either_way_and_warns_from_eight_tenths_on():
    areas = [{"class": "A", "file bytes": 0.2, "width": 0.7}]
    areas.append({"class": "B", "file bytes": 0.8, "width": 0.3})
    found = set_report.separability(areas)
    assert [row["file bytes"] for row in found] == [0.8, 0.8]
    assert [row["width"] for row in found] == [0.7, 0.7]
    content = {"trivial_baseline": None, "separability": found}
    (warning,) = set_report.shortcut_warnings(content)
    assert warning.startswith("B is told from the rest by one property alone, file")
    assert "the size of a film's file (area under the ROC curve 0.800)" in warning
    page = set_report._giveaways(found)
    row = re.search("file bytes</th>(.*?)</tr>", page)[1]
    assert "0.800 <strong>gives the class away</strong>" in row
    assert 'style="width:60.0%"' in row
    assert page.count("<strong>gives the class away") == 1
    found[1]["file bytes"] = 0.799
    assert "<strong>" not in set_report._giveaways(found)
    assert not list(set_report.shortcut_warnings(content))


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
    assert any(line.startswith("warning: 24 file names") for line in lines)
