"""What a reader must hear: each code where it belongs, and nowhere else."""

import copy
import dataclasses

import numpy as np
import pytest

from cxr.metrics import findings
from cxr.metrics.evaluation import Evaluation
from cxr.metrics.summary import summarise
from tests import fabricated


def summary_of(table, *, split="test", validation=None, value=0.5):
    frozen = {"value": value, "rule": "youden", "chosen_on": "validation"}
    evaluation = Evaluation(table, split, table.class_names[-1], frozen, draws=100)
    return summarise(evaluation, validation=validation)


@pytest.fixture(scope="module")
def good():
    return summary_of(fabricated.clustered(1, patients=120, separation=4.0))


def codes(summary, remarks=None, *, above="info"):
    loud = findings.SEVERITIES[findings.SEVERITIES.index(above) + 1 :]
    return {f.code for f in findings.find(summary, remarks or {}) if f.severity in loud}


def test_a_good_model_on_many_patients_hears_no_warning(good):
    assert codes(good) == set()
    (only,) = findings.find(good, {})
    assert (only.code, only.severity) == ("majority", "info")


def test_a_model_no_better_than_the_most_common_class():
    table = fabricated.clustered(1, patients=120, separation=0.0)
    found = codes(summary_of(table, value=0.5))
    assert {"no_better_than_majority", "no_better_than_chance"} <= found
    assert "ranks_backwards" not in found


def test_a_model_that_ranks_backwards():
    table = fabricated.clustered(1, patients=120, separation=4.0)
    turned = dataclasses.replace(table, probabilities=table.probabilities[:, ::-1])
    found = codes(summary_of(turned), above="warning")
    assert found == {"ranks_backwards"}


def test_a_model_that_calls_every_film_alike(good):
    table = fabricated.clustered(1, patients=120, separation=4.0)
    assert "collapsed" in codes(summary_of(table, value=1.1), above="warning")
    summary = copy.deepcopy(good)
    summary["confusion_matrix"] = [[0, 0], [0, 40]]  # only one class is there
    assert "collapsed" not in codes(summary)


def test_few_patients():
    few = summary_of(fabricated.clustered(1, patients=12, separation=4.0))
    assert "few_patients" in codes(few)


def test_films_unlike_those_of_training(good):
    summary = dict(good)
    reasons = [{"reason": "inverted", "n": 8}]
    summary["input_guard"] = guard = {
        "unlike": 8,
        "of": 100,
        "reasons": reasons,
        "false_alarms": 0.004,
    }
    assert codes(summary) == {"unlike_training"}
    text = [f.text for f in findings.find(summary, {}) if f.code == "unlike_training"]
    assert text == [
        "8 of 100 films (8.0 %) look unlike the training films (8 inverted); of "
        "validation's films 0.4 % do."
    ]
    guard["unlike"] = 3
    assert codes(summary) == set()


@pytest.mark.parametrize(
    ("differences", "code", "severity"),
    [
        ([0.02, 0.05], "trivial_baseline", "info"),
        ([-0.02, 0.05], "trivial_baseline_as_good", "warning"),
        (None, "chosen_against_baseline", "warning"),
    ],
)
def test_the_trivial_baseline(good, differences, code, severity):
    summary = dict(good)
    gap = {"roc_auc": {"value": 0.03, "ci95": differences}}
    summary["trivial_baseline"] = {
        "metrics": {"roc_auc": {"value": 0.95}},
        "differences": gap if differences else None,
    }
    found = {f.code: f.severity for f in findings.find(summary, {})}
    assert found[code] == severity


@pytest.mark.parametrize(
    ("gap", "said"), [(0.03, "0.030 higher"), (-0.2, "0.200 lower")]
)
def test_the_gap_to_the_trivial_baseline_in_words(good, gap, said):
    summary = dict(good)
    summary["trivial_baseline"] = {
        "metrics": {"roc_auc": {"value": 0.95}},
        "differences": {"roc_auc": {"value": gap, "ci95": [gap - 0.01, gap + 0.01]}},
    }
    (text,) = (f.text for f in findings.find(summary, {}) if "Nine numbers" in f.text)
    assert f"ROC AUC of 0.950; the model's is {said} (95 %" in text


def test_a_shift_of_the_score_is_named_by_its_rate():
    validation = fabricated.clustered(9, patients=120, separation=4.0)
    table = fabricated.clustered(1, patients=120, separation=4.0, moved=2.5)
    found = codes(summary_of(table, validation=validation))
    assert "shift_specificity" in found


def test_numbers_of_the_training_films_are_an_error(good):
    summary = {**good, "split": "train"}
    assert codes(summary, above="warning") == {"trained_on_these"}
    assert "trained_on_these" not in codes(summary, {"other_data": "Another set."})


@pytest.mark.parametrize(
    ("met", "said"),
    [
        (None, {}),
        ({"films": 0, "patients": 0, "checked": True}, {"no_training_films": "info"}),
        (
            {"films": 0, "patients": 0, "checked": False},
            {"training_films_unknown": "warning"},
        ),
        ({"films": 3, "patients": 0, "checked": True}, {"trained_on_these": "error"}),
        (
            {"films": 3, "patients": 2, "checked": False},
            {
                "trained_on_these": "error",
                "training_films_unknown": "warning",
                "patients_of_training": "warning",
            },
        ),
    ],
)
def test_films_of_another_set_that_the_model_had_met(good, met, said):
    plain = {f.code for f in findings.find(good, {})}
    found = findings.find({**good, "met_in_training": met}, {})
    assert {f.code: f.severity for f in found if f.code not in plain} == said
    if met and met["films"]:
        assert any(f"3 of these {good['n']:,} films" in f.text for f in found)


def test_remarks_are_findings_and_other_origins_are_not(good):
    remarks = {"other_data": "Another set.", "data": "chest 1.0.0", "test_reads": "1."}
    found = {f.code: f.text for f in findings.find(good, remarks)}
    assert found["other_data"] == "Another set." and found["test_reads"] == "1."
    assert "data" not in found


def test_every_code_is_an_identifier(good):
    assert all(f.code.isidentifier() for f in findings.find(good, {}))
    assert np.isfinite(good["metrics"]["roc_auc"]["value"])
