"""report.html: well-formed, self-contained, and the answer first."""

import dataclasses
import html.parser as html_parser
import json
import re

import matplotlib.colors
import numpy as np
import pytest

from cxr.evaluation import report, report_figures, report_films
from cxr.metrics import comparison
from cxr.metrics.evaluation import Evaluation
from cxr.metrics.predictions import Predictions
from cxr.metrics.summary import summarise
from cxr.reporting import formatting, html, plotting
from tests import fabricated

_VOID = {"meta", "img", "br", "hr"}
FLOW = {
    "read": 207,
    "kept_out": {"corrupt": 5, "a code of <b>tomorrow": 2},
    "films": 200,
    "patients": 150,
    "without_patient": 20,
    "copies": 3,
    "copied": 2,
    "splits": {
        "train": {"films": 120, "patients": 90},
        "test": {"films": 50, "patients": 40},
    },
    "apart": 30,
    "table_rows": 4,
    "exclude": ["*_<old>*"],
}


class Strict(html_parser.HTMLParser):
    """Collects text and attributes; fails where tags do not nest."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.text, self.links, self.ids = [], [], [], set()
        self.sources, self.alts = [], 0

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag not in _VOID:
            self.open.append(tag)
        if "id" in found:
            assert found["id"] not in self.ids
            self.ids.add(found["id"])
        if tag == "a":
            self.links.append(found["href"])
        if tag == "img":
            self.sources.append(found["src"])
            self.alts += bool(found["alt"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text.append(data)


def parse(page: str) -> Strict:
    parser = Strict()
    parser.feed(page)
    parser.close()
    assert not parser.open
    return parser


def evaluated(table, *, moved=0.0, value=0.5):
    frozen = {"value": value, "rule": "youden", "chosen_on": "validation"}
    evaluation = Evaluation(table, "test", table.class_names[-1], frozen, draws=50)
    validation = fabricated.clustered(9, classes=len(table.class_names))
    rows = fabricated.example_rows(table)
    return evaluation, summarise(evaluation, rows=rows, validation=validation)


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    table = fabricated.clustered(1, moved=2.0)
    evaluation, summary = evaluated(table)
    folder = tmp_path_factory.mktemp("pictures")
    pictures = report_figures.draw(folder, summary, evaluation, None)
    origins = {
        "data": "chest <b>1.0.0</b>",
        "flags": "--seed=0\n",
        "test_reads": "Twice.",
    }
    return summary, fabricated.page(summary, pictures, origins)


def test_it_is_well_formed_and_links_lead_somewhere(binary):
    parser = parse(binary[1])
    own = {link.removeprefix("#") for link in parser.links if link.startswith("#")}
    assert own <= parser.ids
    assert {link for link in parser.links if link[0] != "#"} == {"checklist.html"}
    assert parser.alts == len(parser.sources) > 4


def test_it_names_no_outside_address(binary):
    parser = parse(binary[1])
    assert all(s.startswith("data:image/png;base64,") for s in parser.sources)
    without_pictures = re.sub(r'src="data:[^"]*"', "", binary[1])
    for outside in ("http:", "https:", "//", "url(", "@import", "<script", "<link"):
        assert outside not in without_pictures


def test_the_answer_comes_first(binary):
    summary, page = binary
    header = page[page.index("<header>") : page.index("</header>")]
    found = summary["metrics"]
    assert f"{found['roc_auc']['value']:.3f}" in header
    for name in ("accuracy", "recall", "specificity"):
        assert f"{100 * found[name]['value']:.1f} %" in header
        assert f"{100 * found[name]['ci95'][0]:.1f} to" in header
    assert f"{summary['n']:,} films of {summary['n_patients']:,} patients" in header
    assert "chosen on validation" in header
    assert "Always answering" in header
    assert "Twice." in header


def test_a_shift_is_said_on_the_first_screen(binary):
    header = binary[1][: binary[1].index("</header>")]
    assert "these films differ from those the threshold was chosen on" in header


def test_what_comes_from_outside_is_escaped(binary):
    assert "chest &lt;b&gt;1.0.0&lt;/b&gt;" in binary[1]
    table = fabricated.clustered(1)
    odd = Predictions(
        table.filenames,
        table.patient_ids,
        table.labels,
        table.probabilities,
        ("<script>a", 'b"&'),
    )
    frozen = {"value": 0.5, "rule": "half", "chosen_on": None}
    summary = summarise(Evaluation(odd, "test", 'b"&', frozen, draws=50))
    page = fabricated.page(summary, {}, {})
    parse(page)
    assert "<script>" not in page


def test_it_says_research_use_and_prints_and_turns_dark(binary):
    text = " ".join(parse(binary[1]).text)
    assert "Not a medical device" in text
    assert "@media print" in binary[1]
    assert "prefers-color-scheme: dark" in binary[1]
    assert "width=device-width" in binary[1]


def test_undefined_numbers_are_dashes_and_json_is_strict():
    table = fabricated.clustered(1)
    one_class = fabricated.take(table, np.flatnonzero(table.labels == 1))
    _, summary = evaluated(one_class)
    json.dumps(summary, allow_nan=False)
    assert summary["metrics"]["roc_auc"] == {"value": None, "ci95": None}
    page = fabricated.page(summary, {}, {})
    parse(page)
    assert f'<div class="value">{formatting.DASH}</div>' in page
    assert "nan" not in " ".join(parse(page).text).lower().split()


def test_more_classes_and_several_runs_have_their_tables():
    table = fabricated.clustered(1, classes=3)
    _, summary = evaluated(table, value=None)
    summary["runs"] = [{"name": "seed-0", "metrics": summary["metrics"]}]
    summary["across_runs"] = {
        name: {"mean": 0.5, "sd": 0.01} for name in summary["metrics"]
    }
    text = " ".join(parse(fabricated.page(summary, {}, {})).text)
    assert "BACTERIA or VIRUS against NORMAL" in text
    assert "0.500 ± 0.010" in text
    assert "mean ± standard deviation" in text


def test_probabilities_near_the_ends_do_not_look_like_them():
    assert formatting.probability(0.25) == "0.250"
    assert formatting.probability(0.99999) == "1 - 1.0e-05"
    assert formatting.probability(2e-7) == "2.0e-07"
    assert formatting.probability(None) == formatting.DASH


# --- sentences that some numbers would make false


def words(summary, origins=None, pictures=None) -> str:
    """The text of a page, its white space made single."""
    page = fabricated.page(summary, pictures or {}, origins or {})
    return " ".join(" ".join(parse(page).text).split())


def asked(table, *, split="test", rule="youden", value=0.5, validation=None, rows=()):
    chosen_on = "validation" if rule else None
    frozen = {"value": value, "rule": rule, "chosen_on": chosen_on}
    evaluation = Evaluation(table, split, table.class_names[-1], frozen, draws=50)
    return summarise(evaluation, rows=rows, validation=validation)


def test_a_fixed_threshold_was_not_chosen():
    table, validation = fabricated.clustered(1, moved=2.0), fabricated.clustered(9)
    text = words(asked(table, rule="half", validation=validation))
    assert "p ≥ 0.500, a fixed threshold that no data chose." in text
    assert "chosen on validation by the rule half" not in text
    # Nor does a difference to validation speak of where it was chosen.
    assert "differ from validation's, or validation had luck" in text
    assert "the threshold was chosen on" not in text


def test_a_threshold_that_nothing_reaches_is_above_one():
    table = fabricated.clustered(1)
    text = words(asked(table, value=float(np.nextafter(1.0, 2.0))))
    assert "Positive when p ≥ above 1" not in text
    assert "Positive when p is above 1" in text


def test_films_of_the_model_itself_are_said_to_be_optimistic():
    table = fabricated.clustered(1)
    optimistic = "the very films judged here: optimistic"
    here = asked(table, split="validation", validation=table)
    assert optimistic in words(here)
    assert optimistic not in words(here, {"other_data": "Another set."})
    assert optimistic not in words(asked(table))
    trained = "The model was trained on these very films"
    train = asked(table, split="train")
    assert trained in words(train)
    assert trained not in words(train, {"other_data": "Another set."})
    assert trained not in words(asked(table))


def test_patients_are_counted_only_where_they_are_known():
    table = fabricated.clustered(1)
    n, names = len(table.labels), table.filenames
    text = words(asked(dataclasses.replace(table, patient_ids=names)))
    assert f"{n} films of unknown patients" in text
    assert "Intervals resample patients" not in text
    assert "so intervals resample films" in text
    assert "With patients that are not all known" in text
    half = n // 2
    some = dataclasses.replace(
        table, patient_ids=names[:half] + table.patient_ids[half:]
    )
    known = len(set(table.patient_ids[half:]))
    expected = f"{n} films of {known} patients and {half} without a known patient"
    assert expected in words(asked(some))
    alone = fabricated.take(table, np.array([0]))
    assert "1 film of 1 patient (" in words(asked(alone))


@pytest.mark.parametrize("known", [True, False])
def test_a_comparison_counts_patients_only_where_they_are_known(known, tmp_path):
    picture = tmp_path / "differences.png"
    picture.write_bytes(b"png")
    table = fabricated.clustered(1)
    if not known:
        table = dataclasses.replace(table, patient_ids=table.filenames)
    frozen = {"value": 0.5, "rule": "youden", "chosen_on": "validation"}
    evaluation = Evaluation(table, "test", "PNEUMONIA", frozen, draws=50)
    turned = dataclasses.replace(
        table, probabilities=table.probabilities[:, ::-1].copy()
    )
    found = comparison.compare(evaluation, evaluation.of(turned), ("a", "b"))
    found["warnings"] = [{"text": "a: 3 of these films"}]
    page = report.render_comparison(found, picture, "tiny")
    assert "a: 3 of these films" in page
    assert ("films of 120 patients, judged" in page) == known
    assert ("films of unknown patients, judged" in page) == (not known)
    assert f"50 resamples of the {'patients' if known else 'films'}" in page
    cells = re.findall("<td[^>]*>(.*?)</td>", page)
    for name, entry in found["differences"].items():
        place = cells.index(name) + 1
        low, high = entry["ci95"]
        shown = [f"{entry[key]:.4f}" for key in ("a", "b", "value")]
        assert cells[place : place + 4] == [*shown, f"{low:.4f} to {high:.4f}"]


def test_operating_points_say_what_chose_each():
    good = fabricated.clustered(9, separation=9.0)
    text = words(asked(fabricated.clustered(1), validation=good))
    # One threshold keeps both targets there, so each takes the other's rule.
    assert "screening: sensitivity ≥ 98% test; rule specificity:0.95, chosen" in text
    assert "one half test; rule half, fixed" in text
    poor = fabricated.clustered(9, separation=0.5)
    text = words(asked(fabricated.clustered(1), validation=poor))
    assert "screening: sensitivity ≥ 98% test; rule sensitivity:0.98, chosen" in text


def test_the_prevalence_among_these_films_is_named(binary):
    summary = binary[0]
    share = summary["class_counts"]["PNEUMONIA"] / summary["n"]
    assert f"the prevalence is {100 * share:.1f} %" in " ".join(parse(binary[1]).text)


def test_what_file_names_alone_make_is_said():
    table = fabricated.clustered(1)
    rows = fabricated.example_rows(table)
    note = "is read from the file names, which have"
    assert note not in words(asked(table, rows=rows))
    for index, row in enumerate(rows):
        ill = row["label"] == "PNEUMONIA"
        row["subtype"] = ("bacteria", "virus")[index % 2] if ill else ""
    assert (
        "Subtype is read from the file names, which have bacteria, virus for PNEUMONIA "
        "alone: these groups are made by the names, and are compared within their "
        "class only."
    ) in words(asked(table, rows=rows))


def test_what_is_not_recorded_is_said():
    table = fabricated.clustered(1)
    rows = fabricated.example_rows(table)
    summary = asked(table, rows=rows)
    for what in ("age", "sex", "view", "device"):
        assert f"{what}: not recorded in this set" in words(summary)
    summary["participants"] = {"flow": FLOW, "card": {"ages": "one to five years"}}
    said = "age: not recorded in this set film by film; its card says: one to five"
    assert said in words(summary)
    for index, row in enumerate(rows):
        row["sex"] = "FM"[index % 2]
        row["view"] = "AP" if index else ""
    text = words(asked(table, rows=rows))
    assert "sex: recorded of {0} of {0} films ".format(len(rows)) in text
    alone = "in no two groups that are large enough to be compared"
    assert f"view: recorded of {len(rows) - 1} of {len(rows)} films, {alone}" in text


def test_small_groups_are_listed_and_not_judged():
    table = fabricated.clustered(1)
    rows = fabricated.example_rows(table)
    for index, row in enumerate(rows):
        row["device"] = "rare" if index < 3 else "some" if index < 10 else "common"
    text = words(asked(table, rows=rows))
    assert "device some 7 " in text
    assert "device rare fewer than 5 fewer than 5 too few" in text
    assert "device common" not in text  # one group alone is compared with nothing


def test_without_a_threshold_no_sentence_speaks_of_one(tmp_path):
    table = fabricated.clustered(1, classes=3)
    evaluation, summary = evaluated(table, value=None)
    summary["runs"] = [{"name": "a", "metrics": summary["metrics"]}] * 2
    summary["across_runs"] = {n: {"mean": 0.5, "sd": 0.0} for n in summary["metrics"]}
    pictures = report_figures.draw(tmp_path, summary, evaluation, None)
    page = fabricated.page(summary, pictures, {})
    assert "at the frozen threshold" not in page
    assert "own frozen threshold" not in page
    binary = asked(fabricated.clustered(1))
    binary |= {"runs": summary["runs"], "across_runs": summary["across_runs"]}
    assert "Each run at its own frozen threshold" in words(binary)


def test_a_small_threshold_of_the_binary_reading_is_not_shown_as_nothing():
    _, summary = evaluated(fabricated.clustered(1, classes=3), value=None)
    summary["collapsed"]["threshold"]["value"] = 2e-5
    assert "Threshold 2.0e-05, rule youden, chosen on validation" in words(summary)


def test_names_are_escaped_wherever_they_stand():
    names = ("=1+1", "<b>x</b>$\\frac$")
    table = dataclasses.replace(fabricated.clustered(1), class_names=names)
    validation = dataclasses.replace(fabricated.clustered(9), class_names=names)
    rows = fabricated.example_rows(table)
    for row in rows:
        row["subtype"] = row["label"]
    summary = asked(table, rows=rows, validation=validation)
    page = fabricated.page(summary, {}, {"data": names[1]})
    parse(page)
    assert "<b>" not in page
    assert "&lt;b&gt;x&lt;/b&gt;$\\frac$ against =1+1" in page


def test_the_attention_line_stands_below_its_picture(tmp_path):
    picture = tmp_path / "attention.png"
    picture.write_bytes(b"png")
    summary = asked(fabricated.clustered(1))
    summary["attention"] = {
        "class": "ILL",
        "alarm": True,
        "line": "right 1.34 times",
        "parts": {"left": {"share": 0.1, "ci95": [0.05, 0.15], "area": 0.08}},
        "outside_body": {"films": 0, "share": None, "ci95": None, "area": None},
        "sanity": {"films": 8, "rank_correlation": 0.71, "alarm": True},
    }
    page = fabricated.page(summary, {"attention": picture}, {})
    assert '<li class="warn">right 1.34 times</li>' in page
    assert "Grad-CAM for ILL: orange speaks for it, blue against" in page
    assert "5.0 % to 15.0 %" in page
    assert (
        "a rank correlation of 0.71 to these, over 8 films: they show the film" in page
    )
    assert "right 1.34" not in fabricated.page(summary, {}, {})


def test_a_wrong_films_frame_is_named_by_the_colour_it_has(tmp_path):
    picture = tmp_path / "samples.png"
    picture.write_bytes(b"png")
    page = fabricated.page(asked(fabricated.clustered(1)), {"samples": picture}, {})
    assert "dashed orange frame: wrong" in page
    red, green, blue = matplotlib.colors.to_rgb(plotting.RED)
    hue, *_ = matplotlib.colors.rgb_to_hsv((red, green, blue))
    assert 15 < 360 * hue < 45  # orange, whatever the constant is called


def test_cells_lead_to_films_and_alarms_have_a_sign(tmp_path):
    row = {
        "number": 7,
        "path": "NORMAL/<a>.png",
        "patient_id": "p",
        "label": "NORMAL",
        "prediction": "PNEUMONIA",
        "probability": 0.9,
        "margin": 0.4,
        "status": "ok",
        "source": str(tmp_path / "films" / "a b.png"),
    }
    text = report_films.film_rows([row], folder=str(tmp_path / "run"))
    assert '<a href="../films/a%20b.png">NORMAL/&lt;a&gt;.png</a>' in text
    assert "#7" in text and "+0.400" in text
    table = html.table(("a",), [(html.Alarm("0.90"),)])
    assert '<span class="alarm">\N{WARNING SIGN} 0.90</span>' in table
