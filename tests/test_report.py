"""report.html: well-formed, self-contained, and the answer first."""

import html.parser as html_parser
import json
import re

import numpy as np
import pytest

from cxr.evaluation import report, report_figures
from cxr.metrics.evaluation import Evaluation
from cxr.metrics.predictions import Predictions
from cxr.metrics.summary import summarise
from cxr.reporting import formatting
from tests import fabricated

_VOID = {"meta", "img", "br", "hr"}


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
    return summary, report.render(summary, pictures, origins)


def test_it_is_well_formed_and_links_lead_somewhere(binary):
    parser = parse(binary[1])
    assert {link.removeprefix("#") for link in parser.links} <= parser.ids
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
    page = report.render(summary, {}, {})
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
    only = np.flatnonzero(table.labels == 1)
    one_class = Predictions(
        tuple(np.array(table.filenames)[only]),
        tuple(np.array(table.patient_ids)[only]),
        table.labels[only],
        table.probabilities[only],
        table.class_names,
    )
    _, summary = evaluated(one_class)
    json.dumps(summary, allow_nan=False)
    assert summary["metrics"]["roc_auc"] == {"value": None, "ci95": None}
    page = report.render(summary, {}, {})
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
    text = " ".join(parse(report.render(summary, {}, {})).text)
    assert "BACTERIA or VIRUS against NORMAL" in text
    assert "0.500 ± 0.010" in text
    assert "mean ± standard deviation" in text


def test_probabilities_near_the_ends_do_not_look_like_them():
    assert formatting.probability(0.25) == "0.250"
    assert formatting.probability(0.99999) == "1 - 1.0e-05"
    assert formatting.probability(2e-7) == "2.0e-07"
    assert formatting.probability(None) == formatting.DASH
