"""Folds of one set: who is in them, training on them, and their pooled evaluation."""

import collections
import dataclasses
import json

import pytest

from cxr import cli, evaluate, folds, records, train
from cxr.config import TrainConfig
from cxr.evaluation.opening import EvaluateConfig
from tests.sample_images import chest, config_for, contents, convert, put, read_csv

FOLDS = 3


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Thirty patients a class, two films each; one class is brighter."""
    root = tmp_path_factory.mktemp("folds") / "films"
    for index in range(120):
        patient, late = divmod(index, 2)
        film = chest(index, (48, 48)) // 2 + 100 * (patient // 30)
        name = ("NORMAL", "PNEUMONIA")[patient // 30]
        put(root / name / f"{patient:03d}_{late}.png", film)
    return root


def converted(source, **flags) -> records.RecordSet:
    defaults = {
        "patient_pattern": r"(?P<patient>\d+)_",
        "folds": FOLDS,
        "image_size": 32,
    }
    return convert(source, **{**defaults, **flags})


@pytest.fixture(scope="module")
def whole(source):
    return converted(source)


def test_folds_are_whole_patients_of_all_classes(whole):
    rows = {row["filename"]: row for row in whole.examples()}
    by_patient, counts = {}, collections.Counter()
    for name, fold in (
        (r["filename"], r["fold"]) for r in read_csv(whole.path / "folds.csv")
    ):
        row = rows.pop(name)
        assert by_patient.setdefault(row["patient_id"], fold) == fold
        counts[row["label"], int(fold)] += 1
    assert not rows
    assert len(by_patient) == 60
    assert set(counts.values()) == {20}


def test_a_fold_is_a_set_of_its_own(whole):
    tested, fingerprints = [], set()
    for index in range(FOLDS):
        view = folds.fold(whole, index)
        records.check(view)
        sizes = {
            name: split.num_examples for name, split in view.manifest.splits.items()
        }
        assert sizes == {"train": 40, "validation": 40, "test": 40}
        names = {s: {r["filename"] for r in view.examples(s)} for s in records.SPLITS}
        assert len(set.union(*names.values())) == 120
        following = folds.fold(whole, (index + 1) % FOLDS)
        assert names["validation"] == {
            r["filename"] for r in following.examples("test")
        }
        tested += names["test"]
        fingerprints.add(view.manifest.fingerprint)
    assert len(set(tested)) == len(tested) == 120
    assert len(fingerprints | {whole.manifest.fingerprint}) == FOLDS + 1


def test_a_sources_test_split_stays_apart(source, tmp_path):
    for path in sorted(source.glob("*/*.png")):
        side = "test" if int(path.name[:3]) % 30 < 5 else "train"
        target = tmp_path / "films" / side / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    whole = converted(tmp_path / "films")
    assert whole.split("test").num_examples == 20
    apart = {row["filename"] for row in whole.examples("test")}
    for index in range(FOLDS):
        seen = {row["filename"] for row in folds.fold(whole, index).examples()}
        assert len(seen) == 100
        assert seen.isdisjoint(apart)


def test_blocks_are_contiguous(source, tmp_path):
    whole = converted(source, split_policy="blocks", output_dir=str(tmp_path))
    for index in range(FOLDS):
        patients = {
            int(row["patient_id"]) % 30
            for row in folds.fold(whole, index).examples("test")
        }
        assert patients == set(range(10 * index, 10 * index + 10))


def test_the_same_folds_from_any_number_of_workers(source, whole, tmp_path):
    again = converted(source, workers=2, output_dir=str(tmp_path))
    assert contents(again.path) == contents(whole.path)


def test_what_cannot_be_folded_is_refused(source, whole, make_records, tmp_path):
    with pytest.raises(cli.UsageError, match=r"--fold=3: .* folds 0 to 2"):
        folds.fold(whole, 3)
    with pytest.raises(cli.UsageError, match="no folds; convert with --folds"):
        folds.fold(make_records({"train": 4}), 0)
    with pytest.raises(cli.DataError, match=r"--folds=31: .*30 patient groups"):
        converted(source, folds=31, output_dir=str(tmp_path))
    with pytest.raises(cli.UsageError, match="--folds=2"):
        config_for(source, folds=2).validate()


@pytest.mark.parametrize("number", ["x", -1, 10**9, None])
def test_a_manifest_with_odd_folds_has_none(whole, number):
    flags = {**whole.manifest.flags, "folds": number, "positive_class": ["x"]}
    manifest = dataclasses.replace(whole.manifest, flags=flags)
    assert manifest.positive_class == ""
    with pytest.raises(cli.UsageError, match="no folds"):
        folds.fold(dataclasses.replace(whole, manifest=manifest), 0)


@pytest.mark.slow
def test_each_film_is_judged_by_the_run_that_did_not_see_it(
    whole, tmp_path, monkeypatch
):
    from cxr.evaluation import evaluator

    def third_inverted(run, films):  # sets this small have no guard
        return ["inverted" if i % 3 == 0 else "" for i in range(len(films.labels))]

    monkeypatch.setattr(evaluator, "_judge", third_inverted)
    workdirs = []
    for fold in range(FOLDS):
        workdirs.append(str(tmp_path / f"run-fold{fold}"))
        train.train(
            TrainConfig(
                data_dir=str(whole.path.parents[1]),
                dataset="tiny",
                fold=fold,
                workdir=workdirs[-1],
                model="small_cnn",
                image_size=32,
                batch_size=20,
                epochs=1,
                augmentation="none",
                tensorboard=False,
            )
        )
    settings = EvaluateConfig(workdir=tuple(workdirs), report=False, draws=100)
    summary = evaluate.evaluate(settings)
    assert summary["n"] == 120
    assert summary["n_patients"] == 60
    pooled = read_csv(tmp_path / "evaluation-test" / "predictions.csv")
    alone = [
        row
        for w in workdirs
        for row in read_csv(f"{w}/evaluation-test/predictions.csv")
    ]
    own = ("threshold", "prediction", "above_threshold", "model_sha256")
    for one, other in zip(pooled, alone, strict=True):
        assert one.keys() == other.keys()
        assert {k: v for k, v in one.items() if k not in own} == {
            k: v for k, v in other.items() if k not in own
        }
    assert len({row["filename"] for row in pooled}) == 120
    assert sum("inverted" in row["status"] for row in pooled) >= 40
    mistakes = read_csv(tmp_path / "evaluation-test" / "mistakes.csv")
    assert len(mistakes) > 0
    for row in mistakes:
        film = pooled[int(row["number"]) - 1]
        assert (row["path"], row["status"]) == (film["filename"], film["status"])
    metrics = json.loads((tmp_path / "evaluation-test/metrics.json").read_text())
    assert "by the run that did not see it" in metrics["provenance"]["pooled"]
