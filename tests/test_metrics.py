"""Numbers against scikit-learn, thresholds against brute force, intervals against
simulated truth.
"""

import csv
import dataclasses
import io
import json
import warnings

import hypothesis
import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import strategies as st
from scipy import special, stats

from cxr.metrics import (
    calibration,
    classification,
    comparison,
    intervals,
    operating_points,
    predictions,
    shift,
    subgroups,
    thresholds,
)
from cxr.metrics.evaluation import Evaluation, measure
from cxr.metrics.summary import summarise
from tests import fabricated

FROZEN = {"value": 0.4, "rule": "youden", "chosen_on": "validation"}


def random_table(seed: int) -> predictions.Predictions:
    """Of 100 seeds: 2 or 3 classes, with ties, constant scores, absent classes."""
    random = np.random.default_rng(seed)
    classes, n = 2 + seed % 2, int(random.integers(1, 80))
    labels = random.integers(0, classes, n)
    found = random.dirichlet(np.ones(classes), n).astype(np.float32)
    kind = seed // 2 % 5
    if kind == 1:  # ties
        found = np.round(found * 4) + 0.01
        found /= found.sum(axis=1, keepdims=True)
    elif kind == 2:  # constant
        found[:] = found[0]
    elif kind == 3:  # an absent class
        labels = np.where(labels == seed % classes, (seed + 1) % classes, labels)
    elif kind == 4:  # confident, also where wrong
        found = np.eye(classes, dtype=np.float32)[random.integers(0, classes, n)]
        found = np.clip(found, 1e-7, 1)
        found /= found.sum(axis=1, keepdims=True)
    return predictions.Predictions(
        filenames=tuple(f"a, {i}.png" for i in range(n)),
        patient_ids=tuple(str(i // 2) for i in range(n)),
        labels=labels,
        probabilities=classification.exact_probabilities(found),
        class_names=tuple("abc"[:classes]),
    )


def recompute(text: str, threshold: float) -> dict[str, float]:
    """What scikit-learn alone makes of predictions.csv; NaN where undefined."""
    rows = list(csv.DictReader(io.StringIO(text)))
    names = [c.removeprefix("probability_") for c in rows[0] if c.startswith("prob")]
    labels = np.array([names.index(row["label"]) for row in rows])
    found = np.array([[float(row[f"probability_{n}"]) for n in names] for row in rows])
    if len(names) == 2:
        return _recompute_binary(labels, found[:, 1], threshold)
    predicted = found.argmax(axis=1)
    macro = dict(average="macro", labels=[0, 1, 2], zero_division=np.nan)
    tables = sk.multilabel_confusion_matrix(labels, predicted, labels=[0, 1, 2])
    with np.errstate(invalid="ignore"):
        specificity = tables[:, 0, 0] / tables[:, 0].sum(axis=1)
    present = len(set(labels)) == 3
    return {
        "precision": sk.precision_score(labels, predicted, **macro),
        "recall": sk.recall_score(labels, predicted, **macro),
        "f1": sk.f1_score(labels, predicted, **macro),
        "specificity": np.nanmean(specificity),
        "roc_auc": sk.roc_auc_score(labels, found, multi_class="ovr", labels=[0, 1, 2])
        if present
        else np.nan,
        "pr_auc": sk.average_precision_score(np.eye(3)[labels], found)
        if present
        else np.nan,
        "brier": np.mean(
            [sk.brier_score_loss(labels == c, found[:, c]) for c in range(3)]
        ),
        "accuracy_at_0.5": np.nan,
        **_recompute_common(labels, predicted, found),
    }


def _recompute_binary(labels, score, threshold):
    predicted = (score >= threshold).astype(int)
    kwargs = dict(zero_division=np.nan)
    both = len(set(labels)) == 2
    return {
        "precision": sk.precision_score(labels, predicted, **kwargs),
        "recall": sk.recall_score(labels, predicted, **kwargs),
        "specificity": sk.recall_score(labels, predicted, pos_label=0, **kwargs),
        "f1": sk.f1_score(labels, predicted, **kwargs),
        "roc_auc": sk.roc_auc_score(labels, score) if both else np.nan,
        "pr_auc": sk.average_precision_score(labels, score) if any(labels) else np.nan,
        "brier": sk.brier_score_loss(labels, score),
        "accuracy_at_0.5": sk.accuracy_score(labels, score >= 0.5),
        **_recompute_common(labels, predicted, np.stack([1 - score, score], axis=1)),
    }


def _recompute_common(labels, predicted, found):
    return {
        "accuracy": sk.accuracy_score(labels, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
        "mcc": sk.matthews_corrcoef(labels, predicted),
        "log_loss": sk.log_loss(labels, found, labels=list(range(found.shape[1]))),
    }


@pytest.mark.parametrize("seed", range(100))
def test_metrics_json_is_what_scikit_learn_makes_of_the_csv(seed):
    table = random_table(seed)
    frozen = FROZEN if len(table.class_names) == 2 else {**FROZEN, "value": None}
    positive = "b" if len(table.class_names) == 2 else table.class_names[-1]
    evaluation = Evaluation(table, "test", positive, frozen, draws=20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = recompute(predictions.to_csv(table), FROZEN["value"])
    found = summarise(evaluation)["metrics"]
    assert set(found) == {*expected, "ece"}
    for name, value in expected.items():
        if np.isnan(value):
            assert found[name] == {"value": None, "ci95": None}, name
        else:
            assert found[name]["value"] == pytest.approx(value, abs=1e-9), name


def test_calibration_error_is_scikit_learns_curve_weighted():
    table = fabricated.clustered(3)
    score, truth = table.probabilities[:, 1], table.labels
    observed, predicted = sk_curve(truth, score)
    counts = np.bincount(classification.equal_mass_bins(score), minlength=10)
    expected = np.sum(counts / len(score) * np.abs(observed - predicted))
    scored = classification.scored(
        truth, table.probabilities, positive=1, threshold=0.5
    )
    assert classification.point(scored)["ece"] == pytest.approx(expected, abs=1e-12)


def sk_curve(truth, score):
    from sklearn.calibration import calibration_curve

    return calibration_curve(truth, score, n_bins=10, strategy="quantile")


@hypothesis.given(
    st.integers(0, 10_000), st.integers(2, 3), st.lists(st.integers(0, 3), min_size=20)
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_a_weight_is_worth_that_many_copies(seed, classes, copies):
    hypothesis.assume(sum(copies) > 0)
    random = np.random.default_rng(seed)
    n = len(copies)
    found = np.round(random.dirichlet(np.ones(classes), n), 1) + 0.05
    found /= found.sum(axis=1, keepdims=True)
    labels = random.integers(0, classes, n)
    kwargs = dict(positive=1, threshold=0.45)
    once = classification.scored(labels, found, **kwargs)
    weighted = classification.measure(once, np.array([copies]))
    repeated = classification.point(
        classification.scored(
            np.repeat(labels, copies), np.repeat(found, copies, 0), **kwargs
        )
    )
    for name in set(classification.DEFINITIONS) - {"ece"}:  # its bins stay the sample's
        if repeated[name] is None:
            assert np.isnan(weighted[name][0]), name
        else:
            assert weighted[name][0] == pytest.approx(repeated[name], abs=1e-9), name


def test_columns_agree_and_small_probabilities_survive():
    found = np.array([[1e-12, 1], [1, 1e-12], [0.25, 0.75]], np.float32)
    exact = classification.exact_probabilities(found)
    np.testing.assert_array_equal(exact[:, 0], 1 - exact[:, 1])
    np.testing.assert_allclose(exact.min(axis=1), found.min(axis=1), atol=2e-16)
    np.testing.assert_array_equal(classification.exact_probabilities(exact), exact)


def test_making_probabilities_exact_twice_breaks_no_ties():
    found = np.random.default_rng(0).dirichlet(np.ones(3), 200).astype(np.float32)
    once = classification.exact_probabilities(found)
    np.testing.assert_array_equal(classification.exact_probabilities(once), once)


@pytest.mark.parametrize(
    "bad", [[[np.nan, 1]], [[1.5, -0.5]], [[0.0, 0.0, 0.0]], [[1.0]], [0.5, 0.5]]
)
def test_what_is_no_probability_is_refused(bad):
    with pytest.raises(ValueError):
        classification.exact_probabilities(np.array(bad))


def test_a_label_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"0\.\.7, there are 2 classes"):
        classification.scored([0, 7], [[0.5, 0.5]] * 2, positive=1, threshold=0.5)


def test_training_numbers_are_none_where_undefined():
    found = np.array([[0.3, 0.7], [0.6, 0.4]], np.float32)
    assert classification.roc_auc(np.array([1, 1]), found) is None
    assert classification.roc_auc(np.array([1, 0]), found) == 1.0
    assert classification.accuracy(np.array([1, 1]), found) == 0.5
    assert classification.log_loss(np.array([1, 0]), found * np.nan) is None
    assert classification.log_loss(np.zeros(0, int), found[:0]) is None


# --- thresholds


@hypothesis.given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 12)), min_size=4, max_size=40),
    st.sampled_from(["youden", "f1", "sensitivity:0.9", "specificity:0.8"]),
)
@hypothesis.settings(deadline=None)
def test_thresholds_are_those_of_brute_force(rows, rule):
    positive = np.array([p for p, _ in rows] + [True, False])
    score = np.array([s / 12 for _, s in rows] + [0.5, 0.25])
    chosen = thresholds.choose_threshold(positive, score, rule)
    name, _, target = rule.partition(":")

    def rates(threshold):
        said = score >= threshold
        hits, alarms = np.sum(said & positive), np.sum(said & ~positive)
        sensitivity = hits / positive.sum()
        specificity = 1 - alarms / (~positive).sum()
        f1 = 2 * hits / (hits + alarms + positive.sum())
        return sensitivity, specificity, f1

    every = [rates(t) for t in [*np.unique(score), 2.0]]
    here = rates(chosen)
    if name == "youden":
        assert sum(here[:2]) == pytest.approx(max(a + b for a, b, _ in every))
    elif name == "f1":
        assert here[2] == pytest.approx(max(f for *_, f in every))
    elif name == "sensitivity":
        assert here[0] >= float(target)
        assert here[1] == max(b for a, b, _ in every if a >= float(target))
    else:
        assert here[1] >= float(target)
        assert here[0] == max(a for a, b, _ in every if b >= float(target))


def test_thresholds_lie_midway_and_ties_go_to_one_half():
    positive = np.array([0, 0, 1, 1], bool)
    score = np.array([0.1, 0.2, 0.6, 0.9])
    assert thresholds.choose_threshold(positive, score, "youden") == 0.4
    # 0.2 | 0.6 would both be right; of the equals 0.15, 0.75 the nearer to 0.5.
    alternating = np.array([0, 1, 0, 1], bool)
    chosen = thresholds.choose_threshold(alternating, score, "youden")
    assert chosen == pytest.approx(0.75)
    assert thresholds.choose_threshold(positive, score, "half") == 0.5


def test_a_threshold_between_adjacent_floats_still_separates():
    low = 0.7
    high = np.nextafter(low, 1)
    chosen = thresholds.choose_threshold([0, 1], np.array([low, high]), "youden")
    assert low < chosen <= high


@pytest.mark.parametrize("rule", ["best", "sensitivity:", "specificity:1.5", "f1:0.3"])
def test_unknown_rules_are_refused_by_name(rule):
    with pytest.raises(ValueError, match=rule):
        thresholds.choose_threshold([0, 1], [0.1, 0.9], rule)


def test_one_class_has_no_threshold():
    with pytest.raises(ValueError, match="both classes"):
        thresholds.choose_threshold([1, 1], [0.1, 0.9], "youden")


def test_predictive_values_are_bayes():
    ppv, npv = operating_points.predictive_values(0.9, 0.8, 0.1)
    assert ppv == pytest.approx(0.09 / (0.09 + 0.18))
    assert npv == pytest.approx(0.72 / (0.72 + 0.01))


# --- intervals


def coverage(*, by_patient: bool, simulations: int = 100) -> dict[str, float]:
    """Share of simulated data sets whose interval holds the true value."""
    names = ("accuracy", "recall", "roc_auc", "log_loss")
    large = fabricated.clustered(0, patients=60_000)
    truth = classification.point(_scored(large))
    hits = dict.fromkeys(names, 0)
    for seed in range(1, simulations + 1):
        table = fabricated.clustered(seed, patients=150)
        patients = table.patient_ids
        if not by_patient:
            patients = [str(i) for i in range(len(patients))]
        resamples = intervals.resample(patients, table.labels, draws=200, seed=seed)
        found = measure(_scored(table), resamples)
        for name in names:
            low, high = found[name]["ci95"]
            hits[name] += low <= truth[name] <= high
    return {name: count / simulations for name, count in hits.items()}


def _asked(table, draws=50):
    return Evaluation(table, "test", "PNEUMONIA", FROZEN, draws=draws)


def _scored(table):
    return classification.scored(
        table.labels, table.probabilities, positive=1, threshold=0.5
    )


@pytest.mark.slow
def test_patient_intervals_cover_and_film_intervals_do_not():
    # 95 % of 100 has a standard error of 2.2 %; 1,000 simulations with 1,000 draws
    # gave 93.3 to 96.9 % by patient and 86 to 94 % by film.
    by_patient, by_film = coverage(by_patient=True), coverage(by_patient=False)
    for name, share in by_patient.items():
        assert 0.89 <= share <= 0.99, (name, share)
    assert np.mean(list(by_film.values())) < np.mean(list(by_patient.values())) - 0.03


def test_intervals_hold_their_value_and_stay_in_range():
    table = fabricated.clustered(1)
    resamples = intervals.resample(table.patient_ids, table.labels, draws=200)
    for name, entry in measure(_scored(table), resamples).items():
        low, high = entry["ci95"]
        assert low <= entry["value"] <= high, name
        assert low < high, name
        if name != "log_loss":
            assert low >= -1 and high <= 1, name


def test_no_error_among_few_patients_is_no_certainty():
    table = fabricated.clustered(1, patients=30, separation=40)
    resamples = intervals.resample(table.patient_ids, table.labels, draws=100)
    found = measure(_scored(table), resamples)
    for name in ("accuracy", "recall", "specificity", "roc_auc"):
        low, high = found[name]["ci95"]
        assert found[name]["value"] == high == 1
        assert low == pytest.approx(0.025 ** (1 / 30))


def test_one_patient_of_a_class_has_no_interval():
    table = fabricated.clustered(1, patients=20)
    labels = np.append(np.zeros(len(table.labels), int), 1)
    resamples = intervals.resample([*table.patient_ids, "alone"], labels, draws=100)
    found = classification.scored(
        labels, np.full((len(labels), 2), 0.5), positive=1, threshold=0.5
    )
    for entry in measure(found, resamples).values():
        assert entry["ci95"] is None


def test_equal_results_of_few_patients_have_no_interval():
    few = intervals.resample(["p", "q"] * 5, np.ones(10, int))
    many = intervals.resample([str(i) for i in range(50)], np.ones(50, int))
    draws = np.full(100, 0.5)
    assert intervals.with_interval("recall", 0.5, draws, few)["ci95"] is None
    assert intervals.with_interval("roc_auc", 0.5, draws, many)["ci95"] == [0.5, 0.5]


def test_patients_are_drawn_whole_and_within_their_class():
    table = fabricated.clustered(2, patients=20)
    resamples = intervals.resample(table.patient_ids, table.labels, draws=50)
    weights = resamples.weights()
    for patient in set(table.patient_ids):
        films = weights[:, np.array(table.patient_ids) == patient]
        assert np.all(films == films[:, :1])
    for stratum in (0, 1):
        assert np.all(
            resamples.counts[:, resamples.strata == stratum].sum(axis=1) == 20
        )


# --- calibration, subgroups, comparison


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_again(true):
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (40_000, 1)) * [0, 1]
    odds = np.exp(logits)
    honest = odds / odds.sum(axis=1, keepdims=True)
    labels = (random.random(len(honest)) < honest[:, 1]).astype(int)
    said = calibration.apply_temperature(honest, 1 / true)
    assert calibration.fit_temperature(labels, said) == pytest.approx(true, rel=0.05)
    np.testing.assert_allclose(calibration.apply_temperature(said, 1.0), said)


def test_a_temperature_that_hurts_is_said_to_hurt():
    validation, moved = fabricated.clustered(1), fabricated.clustered(2, moved=4.0)
    sharp = calibration.apply_temperature(validation.probabilities, 2.0)
    here = _asked(moved, draws=200)
    reference = here.of(dataclasses.replace(validation, probabilities=sharp))
    found = calibration.temperature_report(here, reference)
    assert found["temperature"] < 1
    assert not found["transfers"]
    assert "does NOT transfer" in found["verdict"]


def test_operating_points_come_from_the_reference_alone():
    table, validation = fabricated.clustered(1, moved=2.0), fabricated.clustered(2)
    found = summarise(_asked(table), validation=validation)
    points = {point["name"]: point for point in found["operating_points"]}
    assert points["the model's own"]["threshold"] == FROZEN["value"]
    reference = thresholds.choose_threshold(
        validation.labels == 1, validation.probabilities[:, 1], "sensitivity:0.98"
    )
    assert points["screening"]["threshold"] == reference
    other = fabricated.clustered(5, moved=-1.0)
    again = summarise(_asked(other), validation=validation)
    for first, second in zip(
        found["operating_points"], again["operating_points"], strict=True
    ):
        assert first["threshold"] == second["threshold"]


@st.composite
def scored_films(draw):
    """(positive, score) of 2 to 300 films: ties, tiny sets, classes far apart."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    films = draw(st.integers(2, 300))
    positive = random.random(films) < draw(st.floats(0.05, 0.95))
    score = random.normal(size=films) + draw(st.floats(-1, 9)) * positive
    score = np.round(special.expit(score - 2), draw(st.integers(1, 9)))
    hypothesis.assume(positive.any() and not positive.all())
    return positive, score


@hypothesis.given(scored_films())
def test_ruling_in_never_cuts_below_screening(films):
    positive, score = films
    points = {p["name"]: p for p in operating_points.choose(positive, score)}
    screening, rule_in = points["screening"], points["rule-in"]
    low, high = screening["threshold"], rule_in["threshold"]
    assert low <= high
    found, spared = thresholds.rates_at(positive, score, np.array([low, high]))
    assert found[0] >= 0.98 and spared[1] >= 0.95  # each keeps its own target
    assert spared[0] <= spared[1]
    for point in points.values():
        again = thresholds.choose_threshold(positive, score, point["rule"])
        assert point["threshold"] == again  # the rule that is named chose it
    changed = screening["rule"] != operating_points.NAMED_RULES["screening"]
    if changed:  # then both targets are kept at both
        assert found.min() >= 0.98 and spared.min() >= 0.95
    assert screening["target"] == {"metric": "recall", "value": 0.98}
    assert rule_in["target"] == {"metric": "specificity", "value": 0.95}


def test_where_one_threshold_does_for_both_the_points_change_places():
    ill = np.arange(200) >= 100
    score = np.where(ill, 0.6, 0.1) + np.arange(200) / 1000  # perfectly apart
    points = {p["name"]: p for p in operating_points.choose(ill, score)}
    assert points["screening"]["rule"] == "specificity:0.95"
    assert points["rule-in"]["rule"] == "sensitivity:0.98"
    low, high = points["screening"]["threshold"], points["rule-in"]["threshold"]
    assert low < points["balanced"]["threshold"] < high
    assert points["one half"]["chosen_on"] is None
    poor = {p["name"]: p for p in operating_points.choose(ill, score[::-1].copy())}
    assert poor["screening"]["rule"] == "sensitivity:0.98"


def test_the_models_own_point_says_what_chose_it():
    table, validation = fabricated.clustered(1), fabricated.clustered(2)
    fixed = {"value": 0.5, "rule": "half", "chosen_on": "validation"}
    evaluation = Evaluation(table, "test", "PNEUMONIA", fixed, draws=20)
    own = operating_points.measure(evaluation, evaluation.of(validation))[0]
    assert (own["rule"], own["chosen_on"]) == ("half", None)
    own = operating_points.measure(_asked(table), _asked(validation))[0]
    assert (own["rule"], own["chosen_on"]) == (FROZEN["rule"], FROZEN["chosen_on"])


def test_a_temperature_fitted_on_these_films_claims_no_transfer():
    table = fabricated.clustered(1)
    found = calibration.temperature_report(_asked(table), _asked(table))
    assert found["transfers"] is None
    assert "was fitted on these very films" in found["verdict"]


def _few(table, *, patients):
    """Films of some patients of each class only."""
    names = np.array(table.patient_ids)
    kept = [
        name
        for label in range(len(table.class_names))
        for name in list(dict.fromkeys(names[table.labels == label]))[:patients]
    ]
    return fabricated.take(table, np.flatnonzero(np.isin(names, kept)))


def test_one_patient_a_class_gives_no_interval_and_no_verdict():
    few, validation = _few(fabricated.clustered(1), patients=1), fabricated.clustered(2)
    summary = summarise(_asked(few), validation=validation)
    json.dumps(summary, allow_nan=False)
    temperature = summary["calibration"]["temperature"]
    assert temperature["log_loss_change"]["ci95"] is None
    assert temperature["transfers"] is None
    assert "cannot be judged on so few patients" in temperature["verdict"]
    better = _asked(few).of(_few(fabricated.clustered(3), patients=1))
    same = dataclasses.replace(few, probabilities=few.probabilities[:, ::-1].copy())
    found = comparison.compare(_asked(few), better.of(same), ("a", "b"))
    assert found["differences"]["accuracy"]["ci95"] is None
    assert "no interval" in found["verdict"]
    assert "better" not in found["verdict"] and "worse" not in found["verdict"]


def test_a_comparison_on_one_class_says_what_is_undefined():
    table = fabricated.clustered(1)
    one = fabricated.take(table, np.flatnonzero(table.labels == 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)  # garbage of other tests
        found = comparison.compare(_asked(one), _asked(one), ("a", "b"))
    assert "ROC AUC is undefined here" in found["verdict"]
    assert "no clear difference in accuracy" in found["verdict"]


def test_a_subtype_model_needs_no_validation_of_both_sides():
    table = fabricated.clustered(1, classes=3)
    validation = fabricated.take(table, np.flatnonzero(table.labels == 1))
    frozen = {"value": None, "rule": None, "chosen_on": None}
    evaluation = Evaluation(table, "test", "VIRUS", frozen, draws=20)
    found = summarise(evaluation, validation=validation)["collapsed"]["threshold"]
    assert found == {"value": 0.5, "rule": "half", "chosen_on": None}


def test_films_without_a_patient_are_counted():
    table = fabricated.clustered(1)
    assert summarise(_asked(table))["n_without_patient"] == 0
    unknown = dataclasses.replace(table, patient_ids=table.filenames)
    assert summarise(_asked(unknown))["n_without_patient"] == len(table.labels)


def test_the_shift_report_sees_a_moved_class():
    table, validation = fabricated.clustered(1, moved=2.0), fabricated.clustered(2)
    found = shift.measure(_asked(table), _asked(validation))
    assert found["ks"]["negative"] > 0.5 > 0.3 > found["ks"]["positive"]


def test_a_subtype_model_is_also_read_as_two_classes():
    table = fabricated.clustered(1, classes=3)
    frozen = {"value": None, "rule": None, "chosen_on": None}
    evaluation = Evaluation(table, "test", "VIRUS", frozen, draws=50)
    found = summarise(evaluation, validation=table)
    assert found["threshold"] is None
    assert found["metrics"]["accuracy_at_0.5"]["value"] is None
    collapsed = found["collapsed"]
    assert collapsed["positive_class"] == "BACTERIA or VIRUS"
    truth, score = table.labels != 1, 1 - table.probabilities[:, 1]
    expected = sk.roc_auc_score(truth, score)
    assert collapsed["metrics"]["roc_auc"]["value"] == pytest.approx(expected)


def test_a_group_of_one_class_shows_what_means_the_same_there():
    table = fabricated.clustered(1)
    groups = {"kind": ["ab"[i % 2] if c else "c" for i, c in enumerate(table.labels)]}
    asked = _asked(table)
    found = subgroups.measure(asked, groups)
    metrics = {name: entry["metrics"] for name, entry in found["kind"].items()}
    known = {
        name: {metric for metric, entry in of.items() if entry["value"] is not None}
        for name, of in metrics.items()
    }
    assert known == {"a": {"recall"}, "b": {"recall"}, "c": {"specificity"}}
    right = asked.scored.predicted[table.labels == 0] == 0
    assert metrics["c"]["specificity"]["value"] == pytest.approx(right.mean())
    assert subgroups.compared_on(found["kind"], asked) == [
        {"metric": "recall", "groups": ["a", "b"]}
    ]


def test_groups_that_hold_both_classes_are_compared_on_their_area():
    table = fabricated.clustered(1)
    groups = {"kind": [patient[-1] for patient in table.patient_ids]}
    asked = _asked(table)
    found = subgroups.measure(asked, groups)["kind"]
    (only,) = subgroups.compared_on(found, asked)
    assert only == {"metric": "roc_auc", "groups": sorted(found)}
    inside = np.array([patient.endswith("3") for patient in table.patient_ids])
    expected = sk.roc_auc_score(table.labels[inside], table.probabilities[inside, 1])
    assert found["3"]["metrics"]["roc_auc"]["value"] == pytest.approx(expected)
    assert found["3"]["n"] == inside.sum()
    assert found["3"]["n_patients"] == 12


def test_a_class_of_a_few_patients_in_a_group_is_not_judged():
    """Mixed by four patients: sensitivity would speak of those alone."""
    table = fabricated.clustered(1)
    few = {f"patient-{60 + index}" for index in range(4)}  # with the finding
    pairs = zip(table.patient_ids, table.labels, strict=True)
    groups = ["a" if p in few or not label else "b" for p, label in pairs]
    asked = _asked(table)
    found = subgroups.measure(asked, {"kind": groups})["kind"]
    assert found["a"]["classes"] == ["NORMAL"]
    assert found["a"]["class_counts"]["PNEUMONIA"] >= 4
    assert found["a"]["metrics"]["recall"]["value"] is None
    assert found["a"]["metrics"]["accuracy"]["value"] is None
    assert subgroups.compared_on(found, asked) == []


def test_beyond_two_classes_groups_of_the_same_classes_are_compared():
    table = fabricated.clustered(1, classes=3)
    frozen = {"value": None, "rule": None, "chosen_on": None}
    asked = Evaluation(table, "test", "VIRUS", frozen, draws=50)
    groups = ["abc"[c] + str(i % 2) for i, c in enumerate(table.labels)]
    found = subgroups.measure(asked, {"kind": groups})["kind"]
    compared = [one["groups"] for one in subgroups.compared_on(found, asked)]
    assert sorted(compared) == [["a0", "a1"], ["b0", "b1"], ["c0", "c1"]]
    inside = np.array([group == "a0" for group in groups])
    right = table.probabilities[inside].argmax(axis=1) == 0
    assert found["a0"]["metrics"]["recall"]["value"] == pytest.approx(right.mean())


@pytest.mark.parametrize(
    ("films", "patients", "judged"), [(20, 10, True), (19, 10, False), (20, 9, False)]
)
def test_small_groups_are_not_judged(films, patients, judged):
    labels = np.array([0, 1] * 40)
    group = np.arange(80) < films
    patient = np.where(group, np.arange(80) % patients, 100 + np.arange(80))
    table = predictions.Predictions(
        tuple(map(str, range(80))),
        tuple(map(str, patient)),
        labels,
        np.stack([1 - 0.4 * labels - 0.3, 0.4 * labels + 0.3], axis=1),
        ("NORMAL", "PNEUMONIA"),
    )
    asked = _asked(table)
    groups = {"device": ["small" if inside else "large" for inside in group]}
    found = subgroups.measure(asked, groups)
    rows = [{"filename": str(i)} for i in range(80)]
    few = subgroups.notes(asked, rows, groups, found)["too_few"]
    assert bool(found) == judged
    counts = {"small": {"n": films, "n_patients": patients}}
    expected = {} if judged else {"device": {"groups": counts, "others": 0}}
    assert few == expected


def test_thousands_of_groups_cost_no_more_than_forty():
    table = fabricated.clustered(1)
    groups = [f"device {index}" for index in range(len(table.labels))]
    few = subgroups.notes(_asked(table), [{}], {"device": groups}, {})["too_few"]
    assert len(few["device"]["groups"]) == 40
    assert few["device"]["others"] == len(groups) - 40
    hidden = {"n": None, "n_patients": None}  # it would point at single patients
    assert set(map(str, few["device"]["groups"].values())) == {str(hidden)}


def test_films_are_grouped_as_their_names_and_sizes_say():
    names = [f"NORMAL/NORMAL2-IM-{i:04d}-0001.jpeg" for i in range(8)]
    names += [f"PNEUMONIA/person{i}_virus_{i}.jpeg" for i in range(8)]
    rows = [
        {
            "filename": name,
            "label": name.split("/")[0],
            "patient_id": str(i // 2),
            "subtype": "",
            "source_width": str(100 + i),
            "source_height": "100",
            "source_mode": "L",
        }
        for i, name in enumerate(names)
    ]
    found = subgroups.groupings(rows)
    assert set(found["series"]) == {"NORMAL2-IM", "person"}
    assert "source_mode" not in found  # all alike
    sizes = sorted(set(found["source_size"]), key=subgroups.order)
    assert sizes[0].startswith("up to 1")
    assert sizes[2].startswith("over 1")


def test_equal_runs_do_not_differ_and_a_better_one_does():
    worse = fabricated.clustered(1, separation=1.0)
    better = fabricated.clustered(1, separation=4.0)
    first = _asked(worse, draws=200)
    same = comparison.compare(first, first, ("a", "b"))
    assert same["differences"]["roc_auc"]["ci95"] == [0, 0]
    assert "no clear difference" in same["verdict"]
    found = comparison.compare(first, first.of(better), ("a", "b"))
    assert found["differences"]["roc_auc"]["ci95"][0] > 0
    assert "b against a: better in ROC AUC" in found["verdict"]


def test_predictions_survive_the_csv_bit_for_bit(tmp_path):
    table = fabricated.clustered(1)
    source = {"model_sha256": "m", "fingerprint": "f", "split": "test"}
    predictions.publish(tmp_path, table, source)
    back = predictions.recall(tmp_path, source)
    np.testing.assert_array_equal(back.probabilities, table.probabilities)
    assert back.filenames == table.filenames
    assert predictions.recall(tmp_path, {**source, "model_sha256": "n"}) is None
    with open(tmp_path / predictions.TABLE, "a") as file:
        file.write("x,y,NORMAL,0.5,0.5\n")
    assert predictions.recall(tmp_path, source) is None


def test_an_exact_interval_is_scipys():
    for hits, count in ((0, 9), (3, 9), (9, 9)):
        found = intervals.exact(hits / count, count)
        wanted = stats.binomtest(hits, count).proportion_ci(method="exact")
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_no_bin_of_the_calibration_looks_certain():
    table = fabricated.clustered(1, patients=80, separation=9.0)
    found = summarise(_asked(table))["calibration"]
    rows = [row for bins in found["bins"].values() for row in bins]
    assert {row["observed"] for row in rows} >= {0.0, 1.0}
    for row in rows + found["in_words"]:
        low, high = row["ci95"]
        assert low <= row["observed"] <= high and high - low > 0.001


def test_calibration_in_words_counts_the_films_of_each_range():
    table = fabricated.clustered(1, separation=1.0)
    found = summarise(_asked(table))["calibration"]["in_words"]
    score = table.probabilities[:, 1]
    assert [row["low"] for row in found] == [0.0, 0.1, 0.5, 0.9]
    for row in found:
        inside = (score >= row["low"]) & (
            (score < row["high"]) | (row["high"] == 1) & (score == 1)
        )
        assert row["n"] == inside.sum()
        assert row["observed"] == np.mean(table.labels[inside] == 1)
        assert row["predicted"] == pytest.approx(score[inside].mean())
    assert sum(row["n"] for row in found) == len(score)


def test_a_draws_roc_curve_is_that_of_its_films_repeated():
    random = np.random.default_rng(0)
    positive = random.random(40) < 0.5
    score = np.round(random.random(40) + 0.3 * positive, 1)  # with ties
    weights = random.integers(0, 3, (5, 40))
    grid = np.linspace(0, 1, 11)
    found = classification.roc_draws(positive, score, weights, grid)
    for row, draw in zip(found, weights, strict=True):
        again = np.repeat(np.arange(40), draw)
        curve = classification.ranking_curves(positive[again], score[again])
        wanted = np.interp(grid, curve["false_positive_rate"], curve["recall"])
        np.testing.assert_allclose(row, wanted, rtol=1e-12)
    assert np.isnan(
        classification.roc_draws(positive, score, positive[None], grid)[0, 0]
    )


def test_a_missed_target_is_told_and_validation_stands_beside():
    validation = fabricated.clustered(9, patients=80, separation=1.5)
    table = fabricated.clustered(1, patients=80, separation=0.2)
    found = summarise(_asked(table), validation=validation)["operating_points"]
    points = {point["name"]: point for point in found}
    screening = points["screening"]
    assert screening["missed"] and screening["metrics"]["recall"]["value"] < 0.98
    assert screening["validation"]["recall"]["value"] >= 0.98
    assert screening["validation"]["recall"]["ci95"]
    own = _asked(validation)
    at = dataclasses.replace(own.scored, threshold=screening["threshold"])
    assert (
        screening["validation"]["recall"]["value"] == classification.point(at)["recall"]
    )
    assert not points["the model's own"]["missed"]  # it promises nothing
    same = summarise(_asked(validation), validation=validation)["operating_points"]
    assert not any(point["missed"] for point in same)
