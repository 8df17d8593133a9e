"""The whole evaluation of small runs: every film once, nothing chosen on test."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest

from cxr import cli, evaluate, records, runs, tables, tfrecord
from cxr.evaluation import opening
from cxr.metrics import predictions, thresholds
from tests import fabricated

pytestmark = pytest.mark.slow  # each test evaluates a run

COUNTS = {"train": 6, "validation": 30, "test": 41}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A data set and two runs on it, left unchanged by the tests."""
    root = tmp_path_factory.mktemp("home")
    record_set = fabricated.write_records(root / "data", COUNTS)
    for seed in (0, 1):
        fabricated.write_run(root / "runs" / f"seed-{seed}", record_set, seed=seed)
    return root


@pytest.fixture
def run(home, tmp_path):
    """A run folder of this test's own."""
    return shutil.copytree(home / "runs" / "seed-0", tmp_path / "run")


def config(*workdirs, **flags):
    flags = {"draws": 100, "explain": 0, "report": False, **flags}
    return evaluate.EvaluateConfig(workdir=tuple(map(str, workdirs)), **flags)


@pytest.mark.slow
def test_it_writes_what_the_contract_names(run):
    summary = evaluate.evaluate(config(run, explain=8, report=True))
    folder = run / "evaluation-test"
    written = json.loads((folder / "metrics.json").read_text())
    assert written["metrics"] == summary["metrics"]
    assert {"split", "n", "n_patients", "positive_class", "threshold"} <= set(written)
    assert {"confusion_matrix", "per_class", "subgroups"} <= set(written)
    assert written["n"] == COUNTS["test"]
    assert np.sum(written["confusion_matrix"]) == COUNTS["test"]
    assert written["threshold"] == dataclasses.asdict(runs.open_run(run).info.threshold)
    pngs = {path.stem for path in folder.glob("*.png")}
    assert {"roc", "confusion_matrix", "samples", "attention", "curves"} <= pngs
    assert "PNEUMONIA against NORMAL" in (folder / "report.html").read_text()
    with open(folder / "predictions.csv", newline="") as file:
        header = next(csv.reader(file))
    assert header == [
        "filename",
        "patient_id",
        "label",
        "probability_NORMAL",
        "probability_PNEUMONIA",
        "path",
        "prediction",
        "threshold",
        "above_threshold",
        "model_sha256",
        "status",
    ]
    card = (run / "MODEL_CARD.md").read_text()
    area = written["metrics"]["roc_auc"]["value"]
    assert f"| tiny 1.0.0, test | 41 | 41 | {area:.3f} (" in card


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("cache", ["ram", "none"])
def test_every_film_counts_once_for_any_batch_size(home, run, batch_size, cache):
    evaluate.evaluate(config(run, batch_size=batch_size, cache=cache))
    text = (run / "evaluation-test" / "predictions.csv").read_text()
    table = predictions.from_csv(text)
    rows = opening.find_data(runs.open_run(run)).examples("test")
    assert list(table.filenames) == [row["filename"] for row in rows]
    assert len(set(table.filenames)) == COUNTS["test"]
    labels = [table.class_names[label] for label in table.labels]
    assert labels == [row["label"] for row in rows]
    alone = _alone(home)
    np.testing.assert_allclose(table.probabilities, alone, atol=1e-5)


def _alone(home) -> np.ndarray:
    """The model applied to the stored pixels without any of our code's batches."""
    import keras

    from cxr import tfrecord

    workdir = home / "runs" / "seed-0"
    record_set = opening.find_data(runs.open_run(workdir))
    films = [
        np.frombuffer(tfrecord.decode_example(payload)["image/encoded"], np.uint8)
        for path in record_set.shard_paths("test")
        for payload in tfrecord.read_frames(path)
    ]
    size = record_set.manifest.image_size
    model = keras.models.load_model(workdir / runs.MODEL, compile=False)
    return model.predict(
        np.array(films, np.float32).reshape(-1, size, size, 1), verbose=0
    )


def test_nothing_is_chosen_on_test(run, monkeypatch):
    seen = []
    choose = thresholds.choose_threshold

    def watched(positive, probability, rule):
        seen.append(len(positive))
        return choose(positive, probability, rule)

    monkeypatch.setattr(thresholds, "choose_threshold", watched)
    summary = evaluate.evaluate(config(run))
    assert set(seen) == {COUNTS["validation"]}
    assert summary["calibration"]["temperature"]["fitted_on"] == "validation"
    # Another frozen threshold is obeyed, whatever test would have liked.
    info = json.loads((run / runs.MODEL_INFO).read_text())
    info["threshold"]["value"] = 0.0
    runs.write_json(run / runs.MODEL_INFO, info)
    assert evaluate.evaluate(config(run))["metrics"]["recall"]["value"] == 1.0


def test_reading_test_is_logged_and_reading_validation_is_not(run):
    evaluate.evaluate(config(run, split="validation"))
    assert not (run / "test_reads.csv").exists()
    for reads in (1, 2):
        evaluate.evaluate(config(run))
        with open(run / "test_reads.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == reads
    assert rows[0]["films"] == str(COUNTS["test"])


def test_kept_validation_predictions_are_only_used_for_their_model(run):
    evaluate.evaluate(config(run))
    kept = run / "evaluation-validation" / "predictions.csv"
    before = kept.stat().st_mtime_ns
    evaluate.evaluate(config(run))
    assert kept.stat().st_mtime_ns == before
    source = json.loads((kept.parent / "predictions.json").read_text())
    (kept.parent / "predictions.json").write_text(
        json.dumps({**source, "model_sha256": "of another model"})
    )
    evaluate.evaluate(config(run))
    assert json.loads((kept.parent / "predictions.json").read_text()) == source


def test_several_runs_give_mean_spread_and_ensemble(home, tmp_path):
    root = shutil.copytree(home / "runs", tmp_path / "runs")
    summary = evaluate.evaluate(config(root))  # the folder above seed-0, seed-1
    assert [run["name"] for run in summary["runs"]] == ["seed-0", "seed-1"]
    tables = [
        predictions.from_csv(
            (root / f"seed-{s}/evaluation-test/predictions.csv").read_text()
        )
        for s in (0, 1)
    ]
    both = np.mean([table.probabilities for table in tables], axis=0)
    written = root / "evaluation-test" / "predictions.csv"
    ensemble = predictions.from_csv(written.read_text())
    np.testing.assert_allclose(ensemble.probabilities, both, atol=1e-12)
    aucs = [run["metrics"]["roc_auc"]["value"] for run in summary["runs"]]
    spread = summary["across_runs"]["roc_auc"]
    assert spread["mean"] == pytest.approx(np.mean(aucs))
    assert spread["sd"] == pytest.approx(np.std(aucs, ddof=1))
    assert summary["threshold"]["chosen_on"] == "validation"


def test_two_runs_are_compared_film_by_film(home, tmp_path, capsys):
    root = shutil.copytree(home / "runs", tmp_path / "runs")
    argv = ["evaluate", "--compare", str(root / "seed-0"), str(root / "seed-1")]
    assert evaluate.main([*argv, "--draws=100"]) == 0
    assert "seed-1 against seed-0" in capsys.readouterr().out
    folder = root / "seed-1" / "comparison-test-with-seed-0"
    result = json.loads((folder / "comparison.json").read_text())
    entry = result["differences"]["roc_auc"]
    assert entry["value"] == pytest.approx(entry["b"] - entry["a"])
    assert (folder / "report.html").is_file()
    assert (folder / "differences.png").is_file()
    assert result["warnings"] == []


def test_a_comparison_tells_who_had_met_the_films(home, tmp_path, capsys):
    root = shutil.copytree(home / "runs", tmp_path / "runs")
    other = fabricated.write_records(tmp_path / "other", {"test": 12}, name="other")
    there = {"data_dir": str(other.path.parent.parent), "dataset": "other"}
    pair = tuple(str(root / f"seed-{seed}") for seed in (0, 1))
    result = evaluate.compare(config(compare=pair, **there))
    assert [one["code"] for one in result["warnings"]] == ["trained_on_these"] * 2
    assert "warning: seed-1: 12 of these 12 films" in capsys.readouterr().err


def test_runs_with_other_positive_classes_are_not_put_side_by_side(home, tmp_path):
    root = shutil.copytree(home / "runs", tmp_path / "runs")
    info = json.loads((root / "seed-1" / runs.MODEL_INFO).read_text())
    info["positive_class"] = "NORMAL"
    runs.write_json(root / "seed-1" / runs.MODEL_INFO, info)
    pair = tuple(str(root / name) for name in ("seed-0", "seed-1"))
    refused = "other positive classes, PNEUMONIA and NORMAL\n.*--positive_class"
    with pytest.raises(cli.DataError, match=refused):
        evaluate.evaluate(config(root))
    with pytest.raises(cli.DataError, match=refused):
        evaluate.compare(config(compare=pair))


@pytest.mark.slow
def test_three_classes_have_no_threshold(tmp_path):
    names = ("BACTERIA", "NORMAL", "VIRUS")
    record_set = fabricated.write_records(
        tmp_path / "data", {"train": 3, "validation": 21, "test": 30}, class_names=names
    )
    fabricated.write_run(tmp_path / "run", record_set)
    summary = evaluate.evaluate(config(tmp_path / "run", explain=6, report=True))
    assert summary["threshold"] is None
    assert summary["positive_class"] is None
    assert summary["metrics"]["accuracy_at_0.5"]["value"] is None
    assert np.shape(summary["confusion_matrix"]) == (3, 3)
    assert summary["collapsed"]["negative_class"] == "NORMAL"


@pytest.mark.slow
def test_another_data_set_is_judged_at_the_same_threshold(run, tmp_path):
    other = fabricated.write_records(
        tmp_path / "other", {"train": 2, "validation": 4, "test": 12}, image_size=8
    )
    small = fabricated.write_records(
        tmp_path / "small", {"train": 2, "validation": 4, "test": 12}, image_size=16
    )
    small_dir = str(small.path.parent.parent)
    summary = evaluate.evaluate(config(run, data_dir=small_dir, report=True))
    assert summary["n"] == 12
    # They are validation's 0 to 11 of the run's own set, drawn alike.
    assert summary["met_in_training"] == {"films": 12, "patients": 0, "checked": True}
    (told,) = (w for w in summary["warnings"] if w["code"] == "trained_on_these")
    assert told["severity"] == "error"
    card = (run / "MODEL_CARD.md").read_text()
    assert f"**Not to be used: tiny 1.0.0, test.** {told['text']}" in card
    assert "model-index" not in card  # which programs read
    # Operating points stay those of the training set's validation.
    assert len(summary["operating_points"]) > 1
    page = (run / "evaluation-test-tiny-1.0.0" / "report.html").read_text()
    assert not (run / "evaluation-test").exists()
    assert "another data set than the model was trained on" in page
    with pytest.raises(cli.UsageError, match="stores 8 pixels, the model"):
        evaluate.evaluate(config(run, data_dir=str(other.path.parent.parent)))


def test_a_set_whose_training_set_is_gone_says_what_was_not_checked(run, tmp_path):
    other = fabricated.write_records(tmp_path / "other", {"test": 12}, name="other")
    info = json.loads((run / runs.MODEL_INFO).read_text())
    info["data"]["data_dir"] = str(tmp_path / "nowhere")
    runs.write_json(run / runs.MODEL_INFO, info)
    there = {"data_dir": str(other.path.parent.parent), "dataset": "other"}
    summary = evaluate.evaluate(config(run, **there))
    assert summary["met_in_training"] == {"films": 0, "patients": 0, "checked": False}
    assert "training_films_unknown" in {one["code"] for one in summary["warnings"]}


def test_another_sets_classes_are_mapped_to_the_models(run, tmp_path):
    counts = {"test": 12}
    fabricated.write_records(
        tmp_path / "data", counts, class_names=("Healthy", "TB"), name="other"
    )
    there = {"data_dir": str(tmp_path / "data"), "dataset": "other"}
    with pytest.raises(cli.DataError, match="--class_map=Healthy=NORMAL"):
        evaluate.evaluate(config(run, **there))
    with pytest.raises(cli.UsageError, match="--class_map=TB=LUNG: the model's"):
        evaluate.evaluate(config(run, class_map=("Healthy=NORMAL", "TB=LUNG"), **there))
    summary = evaluate.evaluate(
        config(run, class_map=("Healthy=NORMAL", "TB=PNEUMONIA"), **there)
    )
    assert summary["n"] == 12
    assert summary["class_counts"] == {"NORMAL": 6, "PNEUMONIA": 6}
    swapped = evaluate.evaluate(
        config(run, class_map=("Healthy=PNEUMONIA", "TB=NORMAL"), **there)
    )
    both = [s["metrics"]["accuracy"]["value"] for s in (summary, swapped)]
    assert sum(both) == pytest.approx(1)


def test_an_ensembles_page_warns_of_other_data_as_its_runs_pages_do(home, tmp_path):
    runs_root = shutil.copytree(home / "runs", tmp_path / "runs")
    other = fabricated.write_records(
        tmp_path / "other", {"train": 2, "validation": 4, "test": 12}, name="phantom"
    )
    members = [runs_root / f"seed-{seed}" for seed in (0, 1)]
    root = str(other.path.parent.parent)
    evaluate.evaluate(config(*members, data_dir=root, dataset="phantom", report=True))
    page = (runs_root / "evaluation-test" / "report.html").read_text()
    assert "another data set than the model was trained on" in page
    assert "12 of these 12 films are, byte for byte" in page
    assert "The films are synthetic phantoms" in page


# --- refusals


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "expected either --workdir=RUN"),
        (["--workdir=a", "--compare=b,c"], "expected either --workdir=RUN"),
        (["--workdir=nowhere"], "--workdir=nowhere: no such folder"),
        (["--workdir=nowhere", "--split=tests"], "--split"),
        (["--compare=a"], "expected two run folders, received 1"),
        (["--workdir=a", "b"], "unexpected argument 'b'"),
        (["--workdir=a", "--draws=3"], "--draws"),
    ],
)
def test_wrong_usage_is_refused_by_name(argv, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(cli.UsageError, match=message.replace("(", r"\(")):
        evaluate.main(["evaluate", *argv])


def test_a_changed_model_is_refused(run):
    with open(run / runs.MODEL, "ab") as file:
        file.write(b"x")
    with pytest.raises(cli.DataError, match="changed since training"):
        evaluate.evaluate(config(run))


def test_other_classes_are_refused_by_name(run, tmp_path):
    fabricated.write_records(
        tmp_path / "data", COUNTS, class_names=("CAT", "DOG"), name="pets"
    )
    with pytest.raises(cli.DataError, match="CAT, DOG"):
        evaluate.evaluate(config(run, data_dir=str(tmp_path / "data"), dataset="pets"))


def test_a_damaged_record_is_named(home, run, tmp_path):
    data = shutil.copytree(home / "data", tmp_path / "data")
    shard = next(data.glob("tiny/1.0.0/tiny-test.tfrecord-00001-*"))
    content = bytearray(shard.read_bytes())
    content[tfrecord.record_starts(shard)[5] + 100] ^= 1  # inside a record
    shard.write_bytes(content)
    with pytest.raises(cli.DataError, match=r"tiny-test\.tfrecord-00001-of-00002"):
        evaluate.evaluate(config(run, data_dir=str(data)))


def test_runs_on_different_films_are_not_averaged(run, tmp_path):
    other = fabricated.write_records(
        tmp_path / "data", {"train": 2, "validation": 4, "test": 12}
    )
    fabricated.write_run(tmp_path / "second", other)
    with pytest.raises(cli.DataError, match="filenames differ"):
        evaluate.evaluate(config(run, tmp_path / "second"))


def test_the_same_run_and_films_give_the_same_numbers_file(run):
    evaluate.evaluate(config(run))
    first = (run / "evaluation-test" / "metrics.json").read_bytes()
    evaluate.evaluate(config(run))
    assert (run / "evaluation-test" / "metrics.json").read_bytes() == first


# --- the trivial baseline


def test_the_baseline_learns_from_the_run_s_own_training_films(home, run, tmp_path):
    found = evaluate.evaluate(config(run, report=True))["trivial_baseline"]
    assert found["fitted_on"] == COUNTS["train"]
    # The labels lie in the films' brightness: nine numbers tell them at once.
    assert found["metrics"]["roc_auc"]["value"] == 1.0
    assert found["threshold"]["chosen_on"] == "validation"
    page = (run / "evaluation-test" / "report.html").read_text()
    assert "Against brightness and sharpness alone" in page
    # Also where the films are another set's.
    other = fabricated.write_records(tmp_path, {"test": 21}, name="other")
    elsewhere = evaluate.evaluate(
        config(run, data_dir=str(tmp_path), dataset=other.manifest.name)
    )
    assert elsewhere["trivial_baseline"]["fitted_on"] == COUNTS["train"]
    assert elsewhere["trivial_baseline"]["metrics"]["roc_auc"]["value"] == 1.0


def test_films_chosen_against_the_baseline_are_no_contest(tmp_path):
    record_set = fabricated.write_records(tmp_path / "data", COUNTS)
    manifest = json.loads((record_set.path / records.MANIFEST).read_text())
    manifest["flags"]["split_policy"] = "counter"
    runs.write_json(record_set.path / records.MANIFEST, manifest)
    record_set = records.load(record_set.path)
    fabricated.write_run(tmp_path / "run", record_set)
    summary = evaluate.evaluate(config(tmp_path / "run", report=True))
    assert summary["trivial_baseline"]["differences"] is None
    page = (tmp_path / "run/evaluation-test/report.html").read_text()
    assert "A rehearsal of a shift, no estimate" in page
    on_validation = evaluate.evaluate(config(tmp_path / "run", split="validation"))
    assert on_validation["trivial_baseline"]["differences"]


def test_without_its_training_films_there_is_no_baseline(home, run, tmp_path):
    other = fabricated.write_records(tmp_path, {"test": 21}, name="other")
    info = json.loads((run / runs.MODEL_INFO).read_text())
    info["data"]["fingerprint"] = "0" * 64
    runs.write_json(run / runs.MODEL_INFO, info)
    summary = evaluate.evaluate(
        config(run, data_dir=str(tmp_path), dataset=other.manifest.name)
    )
    assert summary["trivial_baseline"] is None


def test_an_ensemble_is_put_beside_the_baseline_too(home):
    workdirs = [home / "runs" / f"seed-{seed}" for seed in (0, 1)]
    summary = evaluate.evaluate(config(*workdirs))
    found = summary["trivial_baseline"]
    assert found["metrics"]["roc_auc"]["value"] == 1.0
    assert found["differences"]["roc_auc"]["ci95"]


def test_findings_are_written_printed_and_can_fail(run, capsys):
    summary = evaluate.evaluate(config(run))
    capsys.readouterr()
    written = json.loads((run / "evaluation-test" / "metrics.json").read_text())
    assert written["warnings"] == summary["warnings"]
    loud = [w for w in summary["warnings"] if w["severity"] != "info"]
    assert "few_patients" in {w["code"] for w in loud}  # 41 of them
    with pytest.raises(cli.DataError, match=r"fail_on=warning: .*few_patients"):
        evaluate.evaluate(config(run, fail_on="warning"))
    shown = capsys.readouterr().err
    for warning in loud:
        assert f"warning: {warning['text']}" in shown
    if not any(w["severity"] == "error" for w in loud):
        evaluate.evaluate(config(run, fail_on="error"))


def test_every_mistake_is_listed_with_its_number(run):
    evaluate.evaluate(config(run))
    folder = run / "evaluation-test"
    table = tables.parse_records((folder / "predictions.csv").read_text())
    wrong = {
        number
        for number, row in enumerate(table, start=1)
        if row["prediction"] != row["label"]
    }
    listed = tables.parse_records((folder / "mistakes.csv").read_text())
    assert {int(row["number"]) for row in listed} == wrong
    for row in listed:
        assert row["path"] == table[int(row["number"]) - 1]["filename"]


def test_a_source_folder_that_is_not_there_is_refused(run):
    with pytest.raises(cli.UsageError, match="--source_dir=/nowhere: no such folder"):
        config(run, source_dir="/nowhere").validate()


def test_keys_of_the_numbers_are_identifiers(run):
    summary = evaluate.evaluate(config(run))
    assert summary["split_policy"] in (*records.SPLIT_POLICIES, "unknown")
    # Named by class, or by the contract (accuracy_at_0.5).
    groups = ("class_counts", "per_class", "bins", "metrics", "definitions", "groups")

    def check(content, where):
        for key, value in content.items() if isinstance(content, dict) else ():
            inside = where in groups or where == "subgroups"
            assert inside or key.isidentifier(), (where, key)
            check(value, key)

    check({k: v for k, v in summary.items() if k != "subgroups"}, "")
