"""The nine numbers of a film, the baseline on them, and the split that counters it."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks import rehearsals
from cxr import cli, tables
from cxr.conversion import planning, trivial_scores
from cxr.conversion.planning import PlanConfig
from cxr.images import statistics
from cxr.metrics import predictions, trivial_baseline
from cxr.metrics.evaluation import Evaluation
from cxr.metrics.summary import summarise
from cxr.metrics.trivial_baseline import Baseline, Regression
from tests import fabricated
from tests.sample_images import chest, convert, put
from tests.test_planning import many, placed, sides

FROZEN = {"value": 0.4, "rule": "youden", "chosen_on": "validation"}


# --- the numbers


def test_the_numbers_of_a_film_of_known_parts():
    film = np.full((96, 96), 100, np.uint8)
    film[:24] = 20  # the upper quarter
    found = dict(zip(statistics.NAMES, statistics.measure(film), strict=True))
    assert found["mean"] == film.mean()
    assert found["deviation"] == pytest.approx(film.std())
    assert (found["percentile_1"], found["percentile_99"]) == (20, 100)
    # One row of differences of 80 among 95, half of all of them.
    assert found["gradient"] == pytest.approx(80 / 95 / 2)
    inner = film[12:-12, 12:-12]
    outside = (film.sum() - inner.sum(dtype=float)) / (film.size - inner.size)
    assert found["border"] == pytest.approx(outside)
    assert (found["centre"], found["top"], found["bottom"]) == (100, 20, 100)


def test_a_film_s_size_tells_nothing():
    large = np.kron(chest(1, (96, 96)), np.ones((3, 3), np.uint8))
    np.testing.assert_array_equal(
        statistics.measure(large), statistics.measure(chest(1, (96, 96)))
    )
    assert np.isfinite(statistics.measure(chest(1, (32, 32)))).all()


# --- the regression


def numbers_of(labels: np.ndarray, separation: float, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    found = random.normal(size=(len(labels), 9))
    found[:, 4] += separation * labels
    return found.astype(np.float32)


def test_the_regression_is_scikit_learn_s_optimum():
    from sklearn.linear_model import LogisticRegression

    labels = np.arange(200) % 3
    numbers = numbers_of(labels, 1.0)
    ours = Regression(numbers, labels).probabilities(numbers, 4)
    unit = (numbers - numbers.mean(axis=0)) / numbers.std(axis=0)
    theirs = LogisticRegression(tol=1e-9, max_iter=10_000).fit(unit, labels)
    np.testing.assert_allclose(ours[:, :3], theirs.predict_proba(unit), atol=1e-4)
    assert not ours[:, 3].any()  # a class that it never met


def test_no_film_is_scored_by_a_regression_that_saw_its_fold():
    labels = np.arange(100) % 2
    folds = np.arange(100) // 20
    numbers = numbers_of(labels, 3.0)
    before = trivial_baseline.cross_validated(numbers, labels, folds)
    changed = labels.copy()
    changed[folds == 2] = 1 - changed[folds == 2]
    after = trivial_baseline.cross_validated(numbers, changed, folds)
    np.testing.assert_array_equal(after[folds == 2], before[folds == 2])
    assert np.abs(after[folds != 2] - before[folds != 2]).max() > 0.01


# --- beside a model


def beside(model, baseline, *, validation=None, **changes) -> dict:
    evaluation = Evaluation(model, "test", "PNEUMONIA", FROZEN, draws=200)
    made = Baseline(baseline, validation or baseline, fitted_on=7, **changes)
    return trivial_baseline.compare(evaluation, made)


def rescored(table, score: np.ndarray):
    return dataclasses.replace(table, probabilities=np.stack([1 - score, score], 1))


def test_the_difference_is_that_of_two_runs():
    model = fabricated.clustered(0)
    chance = np.random.default_rng(0).uniform(size=len(model.labels))
    found = beside(model, rescored(model, chance))
    summary = summarise(
        Evaluation(model, "test", "PNEUMONIA", FROZEN, draws=200),
        baseline=Baseline(rescored(model, chance), rescored(model, chance), 7),
    )
    assert summary["trivial_baseline"] == found
    assert found["fitted_on"] == 7
    areas = [summary["metrics"]["roc_auc"], found["metrics"]["roc_auc"]]
    gap = found["differences"]["roc_auc"]
    assert gap["value"] == pytest.approx(areas[0]["value"] - areas[1]["value"])
    assert gap["ci95"][0] > 0.2  # the model ranks, chance does not
    same = beside(model, model)["differences"]["roc_auc"]
    assert same == {"value": 0.0, "ci95": [0.0, 0.0]}


def test_the_baseline_s_threshold_comes_from_validation_by_the_model_s_rule():
    model, validation = fabricated.clustered(0), fabricated.clustered(1)
    score = np.where(validation.labels == 1, 0.9, 0.7)
    found = beside(model, model, validation=rescored(validation, score))
    assert found["threshold"] == {**FROZEN, "value": pytest.approx(0.8)}


def test_films_chosen_against_the_baseline_are_not_compared():
    model = fabricated.clustered(0)
    assert beside(model, model, countered=True)["differences"] is None


def test_within_strata_pairs_are_counted_as_by_hand():
    model = fabricated.clustered(3, patients=40, separation=1.0)
    score = np.random.default_rng(1).uniform(size=len(model.labels)).round(2)
    strata = beside(model, rescored(model, score))["strata"]
    edges = np.percentile(score, np.linspace(0, 100, trivial_baseline.STRATA + 1))
    stratum = np.searchsorted(edges[1:-1], score)
    for name, ranked in (("model", model.probabilities[:, 1]), ("baseline", score)):
        right = pairs = 0.0
        for ill in np.flatnonzero(model.labels == 1):
            well = (model.labels == 0) & (stratum == stratum[ill])
            right += np.sum(ranked[ill] > ranked[well])
            right += np.sum(ranked[ill] == ranked[well]) / 2
            pairs += well.sum()
        assert strata[name]["value"] == pytest.approx(right / pairs)
        low, high = strata[name]["ci95"]
        assert low < strata[name]["value"] < high
    assert sum(row["n"] for row in strata["each"]) == len(score)


def test_more_classes_have_metrics_but_no_strata():
    model = fabricated.clustered(0, classes=3)
    nothing = {"value": None, "rule": None, "chosen_on": None}
    evaluation = Evaluation(model, "test", "NORMAL", nothing, draws=50)
    found = trivial_baseline.compare(evaluation, Baseline(model, model, 7))
    assert found["strata"] is None
    assert found["threshold"] is None
    assert found["differences"]["accuracy"]["value"] == 0


# --- the counter split


def counter(count: int, **flags) -> tuple[planning.Plan, dict[str, float]]:
    """Plans films whose numbers tell the class, but those of some patients."""
    films = many(count)
    labels = np.array([film.label == "PNEUMONIA" for film in films]).astype(int)
    odd = np.arange(len(films)) % count < 5
    numbers = numbers_of(np.where(odd, 1 - labels, labels), 4.0)
    config = PlanConfig(split_policy="counter", **flags)
    plan = planning.make(films, config, (), numbers)
    at = {film.path: index for index, film in enumerate(films)}
    ordered = numbers[[at[one.image.path] for one in placed(plan)]]
    return plan, trivial_scores.of_own_class(placed(plan), ordered, config.seed)


def test_test_takes_whom_the_numbers_get_wrong():
    plan, scores = counter(50, test_fraction=0.1, validation_fraction=0.2)
    of = sides(plan)
    for kind in ("NORMAL", "PNEUMONIA"):
        mine = [path for path in of if path.startswith(kind)]
        tested = [scores[path] for path in mine if of[path] == "test"]
        others = [scores[path] for path in mine if of[path] != "test"]
        assert len(tested) == 5
        assert sum(of[path] == "validation" for path in mine) == 10
        assert max(tested) <= min(others)
        assert max(tested) < 0.5


def test_no_strength_is_a_random_cut():
    tested = []
    for strength in (0.0, 0.3):
        plan, scores = counter(50, counter_strength=strength, test_fraction=0.1)
        of = sides(plan)
        tested.append(np.mean([scores[path] for path in of if of[path] == "test"]))
        assert len(of) == 100
    assert tested[0] > 0.5
    assert tested[1] < tested[0]


def test_patients_are_ranked_by_the_mean_of_their_films():
    films = many(20)
    twin = films[0]._replace(
        source=films[0].source._replace(path="NORMAL/IM-0001-0002.jpeg"),
        digest=b"another",
    )
    numbers = numbers_of(np.repeat([0, 1], 20), 4.0)
    numbers[0, 4] += 9  # one film of the first patient is far on the wrong side
    both = planning.make(
        [*films, twin],
        PlanConfig(split_policy="counter", test_fraction=0.05),
        (),
        np.concatenate([numbers, numbers[1:2]]),
    )
    of = sides(both)
    assert of[films[0].path] == of[twin.path]


def test_too_few_patients_for_it_are_refused():
    with pytest.raises(
        cli.DataError, match=r"split_policy=counter: class 'NORMAL' has 4"
    ):
        counter(4)


# --- in a set's report and an evaluation


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Forty patients, one film each; one class is brighter."""
    root = tmp_path_factory.mktemp("counter") / "films"
    for index in range(40):
        name = ("NORMAL", "PNEUMONIA")[index % 2]
        film = chest(index, (48, 48)) // 2 + 60 * (index % 2)
        put(root / name / f"IM-{index:04d}-0001.png", film)
    return root


def test_a_set_says_what_brightness_gives_away(source):
    record_set = convert(source, split_policy="counter")
    assert record_set.manifest.flags["split_policy"] == "counter"
    content = json.loads((record_set.path / "report.json").read_text())
    assert content["trivial_baseline"]["roc_auc"] > 0.9
    page = (record_set.path / "report.html").read_text()
    assert "Nine numbers of brightness and sharpness tell the classes apart" in page


def test_a_set_of_few_patients_has_no_baseline(tmp_path):
    for index in range(8):
        name = ("NORMAL", "PNEUMONIA")[index % 2]
        put(tmp_path / "films" / name / f"{index}.png", chest(index, (48, 48)))
    record_set = convert(tmp_path / "films")
    content = json.loads((record_set.path / "report.json").read_text())
    assert content["trivial_baseline"] is None


# --- rehearsals


def test_rehearsals_do_only_what_the_table_lacks(tmp_path, monkeypatch):
    commands = []

    def pretend(module, *flags):
        commands.append((module, *flags))
        if module == "cxr.evaluate":
            out = next(f for f in flags if f.startswith("--output_dir=")).split("=")[1]
            (tmp_path / "work/evaluation").mkdir(parents=True)
            entry = {"value": 0.75, "ci95": [0.5, 1.0]}
            names = ("roc_auc", "accuracy", "recall", "specificity")
            found = {
                "metrics": dict.fromkeys(names, entry),
                "trivial_baseline": {"metrics": {"roc_auc": entry}, "strata": None},
            }
            (tmp_path / out / "metrics.json").write_text(json.dumps(found))

    monkeypatch.setattr(rehearsals, "_command", pretend)

    def filled(*recipes, **flags):
        config = rehearsals.RehearsalsConfig(
            input_dir="films",
            results=str(tmp_path / "table.csv"),
            work_dir=str(tmp_path / "work"),
            external_dir="others",
            **flags,
        )
        config.validate()
        commands.clear()
        table = rehearsals.Rehearsals(config, list(recipes))
        table.fill()
        trained = [c for c in commands if c[0] == "cxr.train"]
        return table, trained

    table, trained = filled("a: --epochs=1", rehearsals=("grouped", "external"))
    assert len(trained) == 1  # one model, judged twice
    assert [row["rehearsal"] for row in table.rows] == ["grouped", "external"]
    assert not filled("a: --epochs=1", rehearsals=("grouped",))[1]
    table, trained = filled(
        "a: --epochs=1", "b: --epochs=2", rehearsals=("grouped", "blocks")
    )
    assert [flags[1] for flags in trained] == ["--epochs=1"] * 5 + ["--epochs=2"] * 6
    assert "--fold=4" in trained[4]
    assert "| a | blocks | 5 | 0.750 ± 0.000 |" in table.to_markdown()
    with pytest.raises(cli.UsageError, match="another name"):
        filled("a: --epochs=3")
    with pytest.raises(cli.UsageError, match="no rehearsal"):
        filled("a: --epochs=1", rehearsals=("dress",))
    with pytest.raises(cli.UsageError, match="expected 'NAME"):
        filled("--epochs=1")
    with pytest.raises(cli.UsageError, match="c@0 has no trial: grouped"):
        filled("ab: a@0 + c@{seed}", rehearsals=("grouped",))


def test_an_ensemble_is_made_of_what_trials_predicted(tmp_path):
    scores = {"a": [0.1, 0.6, 0.5, 0.9], "b": [0.4, 0.1, 0.7, 0.3]}
    entry = {"value": 0.75, "ci95": None}
    rows = []
    for name, positive in scores.items():
        folder = tmp_path / "work/predictions" / f"{name}-grouped-0"
        table = predictions.Predictions(
            filenames=tuple("wxyz"),
            patient_ids=tuple("wxyz"),
            labels=np.array([0, 0, 1, 1]),
            probabilities=np.array([[1 - p, p] for p in positive]),
            class_names=("NORMAL", "PNEUMONIA"),
        )
        for path in (folder, folder / "validation"):
            predictions.publish(path, table, {})
        found = {
            "positive_class": "PNEUMONIA",
            "trivial_baseline": {"metrics": {"roc_auc": entry}, "strata": None},
        }
        (folder / "metrics.json").write_text(json.dumps(found))
        known = {"recipe": name, "rehearsal": "grouped", "seed": "0", "seconds": "7"}
        rows.append(dict.fromkeys(rehearsals._COLUMNS, "") | known)
    tables.publish(tmp_path / "table.csv", rehearsals._COLUMNS, rows)
    config = rehearsals.RehearsalsConfig(
        input_dir="films",
        results=str(tmp_path / "table.csv"),
        work_dir=str(tmp_path / "work"),
        rehearsals=("grouped",),
    )
    together = rehearsals.Rehearsals(config, ["ab: a@0 + b@{seed}"])
    together.fill()
    row = together.rows[-1]
    # Neither ranks all four right; their mean does, and its own threshold decides.
    assert (row["recipe"], row["roc_auc"], row["accuracy"]) == (
        "ab",
        "1.0000",
        "1.0000",
    )
    assert (row["seconds"], row["flags"]) == ("14", "a@0 + b@{seed}")
