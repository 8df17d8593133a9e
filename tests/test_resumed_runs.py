"""cxr.training.resuming and stale: what becomes of a run folder that holds a run."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal

import pytest

from cxr import cli, evaluate, files, records, runs, schedules, tfrecord, train
from cxr.config import TrainConfig
from cxr.evaluation.opening import EvaluateConfig
from cxr.training import publishing, resuming, signals
from cxr.training.stage_run import StageRun
from tests.fabricated import shallow_network, write_records

pytestmark = pytest.mark.slow  # each test trains

COUNTS = {"train": 12, "validation": 8, "test": 8}


@pytest.fixture(scope="module", autouse=True)
def shallow():
    with shallow_network():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_records(root, COUNTS, image_size=32)
    return root


def make_config(data, workdir, **changes):
    return TrainConfig(
        data_dir=str(data),
        dataset="tiny",
        workdir=str(workdir),
        **{
            "model": "small_cnn",
            "image_size": 32,
            "batch_size": 4,
            "epochs": 2,
            "augmentation": "none",
            "schedule": "cosine",
            "early_stopping_patience": 0,
            "progress": False,
            "tensorboard": False,
            **changes,
        },
    )


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    train.train(make_config(data, workdir))
    return workdir


@pytest.fixture
def config(trained, data, tmp_path):
    """The finished run's configuration, in a copy of this test's own."""
    return make_config(data, shutil.copytree(trained, tmp_path / "run"))


def change(config, **changes):
    return dataclasses.replace(config, **changes)


def evaluate_run(config, **options):
    options = {"draws": 100, "explain": 0, "report": False, **options}
    return evaluate.evaluate(EvaluateConfig(workdir=(config.workdir,), **options))


def interrupt(monkeypatch, call: int):
    """Sends SIGTERM at the n-th execution of steps from now."""
    execute, calls = StageRun.execute, []

    def counted(run, count):
        calls.append(count)
        if len(calls) == call:
            signal.raise_signal(signal.SIGTERM)
        return execute(run, count)

    monkeypatch.setattr(StageRun, "execute", counted)


# --- a finished run


@pytest.mark.parametrize(
    "changes",
    [{"learning_rate": 0.5}, {"epochs": 3}, {"epochs": 1}, {"seed": 4}],
    ids=str,
)
def test_a_finished_run_with_other_flags_is_refused(config, changes):
    before = contents(config.workdir)
    (name, value) = next(iter(changes.items()))
    with pytest.raises(
        cli.UsageError, match=rf"finished run.*\n--{name}: .*{value} now"
    ):
        train.train(change(config, **changes))
    assert contents(config.workdir) == before


def test_flags_that_shape_nothing_leave_a_finished_run_alone(config, capsys):
    before = (pathlib.Path(config.workdir) / runs.MODEL_INFO).read_bytes()
    train.train(change(config, log_every_steps=7, cache="none", keep_checkpoints=1))
    assert "nothing to do" in capsys.readouterr().out
    assert (pathlib.Path(config.workdir) / runs.MODEL_INFO).read_bytes() == before


def test_a_forced_run_keeps_its_model_until_the_new_one_is_done(
    config, monkeypatch, capsys
):
    """Interrupted on the way, it is readable as it was, and says what goes on."""
    metrics = evaluate_run(config)["metrics"]
    forced = change(config, seed=3, resume="force")
    with monkeypatch.context() as patch:
        interrupt(patch, call=4)
        with pytest.raises(signals.Interrupted):
            train.train(forced)
    said = capsys.readouterr()
    assert "--seed: 0 in the run, 3 now" in said.out
    assert "training begins from the start" in said.out
    assert "the test split was read 1 times before" in said.out
    assert runs.open_run(config.workdir).config.seed == 0
    assert not runs.open_run(config.workdir).is_latest
    assert evaluate_run(config)["metrics"] == metrics
    assert "A training with other flags has begun" in capsys.readouterr().err
    with pytest.raises(cli.UsageError, match="--learning_rate"):
        train.train(change(config, learning_rate=0.5))

    train.train(change(forced, resume="auto"))  # it has begun: it goes on by itself
    run = runs.open_run(config.workdir)
    assert run.config.seed == 3
    assert run.is_latest
    assert run.info.trained_after_test == 2
    summary = evaluate_run(config)
    assert "had been read 2 times before" in summary["provenance"]["trained_after_test"]


@pytest.mark.parametrize("other", ["flags", "data"])
def test_a_training_under_way_keeps_its_states(config, tmp_path, monkeypatch, other):
    """Also when the finished run's command comes again, which tidies its folder."""
    forced = change(config, seed=3, resume="force")
    if other == "data":
        write_records(tmp_path / "other", COUNTS, image_size=32, num_shards=1)
        forced = change(config, data_dir=str(tmp_path / "other"), resume="force")
    with monkeypatch.context() as patch:
        interrupt(patch, call=5)
        with pytest.raises(signals.Interrupted):
            train.train(forced)
    folder = pathlib.Path(config.workdir, runs.CHECKPOINTS)
    states = sorted(path.name for path in folder.iterdir())
    assert len(states) > 1
    train.train(config)
    assert sorted(path.name for path in folder.iterdir()) == states


def test_a_forced_run_equals_one_from_the_start(config, data, tmp_path):
    train.train(change(config, seed=3, resume="force"))
    other = make_config(data, tmp_path / "other", seed=3)
    train.train(other)
    one, two = (runs.open_run(c.workdir).info for c in (config, other))
    assert one.final_weights_sha256 == two.final_weights_sha256


def test_evaluations_of_an_earlier_model_are_marked_stale(config, capsys):
    workdir = pathlib.Path(config.workdir)
    evaluate_run(config, report=True)
    train.train(change(config, threshold_rule="sensitivity:0.9"))
    assert f"stale: {workdir}/evaluation-test" in capsys.readouterr().out
    page = (workdir / "evaluation-test" / "report.html").read_text()
    assert page.index("Stale: these numbers") < page.index("<h1")
    metrics = json.loads((workdir / "evaluation-test" / "metrics.json").read_text())
    assert metrics["stale"].startswith("Stale")
    train.train(change(config, threshold_rule="sensitivity:0.9"))
    page = (workdir / "evaluation-test" / "report.html").read_text()
    assert page.count("Stale: these numbers") == 1
    evaluate_run(config, report=True)
    page = (workdir / "evaluation-test" / "report.html").read_text()
    assert "Stale: these numbers" not in page


@pytest.mark.parametrize("moment", range(6))
@pytest.mark.parametrize(
    "changes",
    [{"threshold_rule": "sensitivity:0.9"}, {"epochs": 3, "resume": "force"}],
    ids=lambda changes: next(iter(changes)),
)
def test_killed_at_any_publication_the_run_is_the_old_or_the_new_one(
    config, changes, moment, monkeypatch
):
    """Kills at each rename while the new model takes the old one's place."""
    before = runs.open_run(config.workdir).info
    replace, seen = os.replace, []

    def counting(source, target):
        if publishing_now:
            if len(seen) == moment:
                raise Killed
            seen.append(target)
        replace(source, target)

    publishing_now = []
    publish_info = publishing._publish_info

    def watched(*args):
        publishing_now.append(True)
        return publish_info(*args)

    monkeypatch.setattr(publishing, "_publish_info", watched)
    monkeypatch.setattr(os, "replace", counting)
    wanted = change(config, **changes)
    try:
        train.train(wanted)
    except Killed:
        after = runs.open_run(config.workdir).info
        changed = after.model_sha256 != before.model_sha256
        assert changed == any(str(t).endswith(runs.MODEL_INFO) for t in seen)
    monkeypatch.undo()
    train.train(wanted)
    run = runs.open_run(config.workdir)
    assert run.model_path.name == runs.MODEL
    assert not (run.workdir / runs.NEXT_MODEL).exists()
    assert run.config.epochs == wanted.epochs
    assert run.info.threshold.rule == wanted.threshold_rule


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it."""


def test_a_run_of_before_opens_and_keeps_its_flags_when_forced(config, monkeypatch):
    """model.json without flags, a model file without labels."""
    workdir = pathlib.Path(config.workdir)
    document = json.loads((workdir / runs.MODEL_INFO).read_text())
    del document["flags"], document["trained_after_test"]
    (workdir / runs.MODEL_INFO).write_text(json.dumps(document))
    assert runs.open_run(workdir).config == runs.read_config(workdir)
    with monkeypatch.context() as patch:
        interrupt(patch, call=1)
        with pytest.raises(signals.Interrupted):
            train.train(change(config, seed=3, resume="force"))
    assert runs.open_run(workdir).config.seed == 0
    assert runs.read_config(workdir).seed == 3


# --- an unfinished run


@pytest.fixture
def interrupted(data, tmp_path, monkeypatch):
    """Returns a function that begins a run and stops it in its second epoch."""

    def begin(**changes):
        config = make_config(data, tmp_path / "begun", epochs=3, **changes)
        with monkeypatch.context() as patch:
            interrupt(patch, call=5)
            with pytest.raises(signals.Interrupted):
                train.train(config)
        return config

    return begin


def test_a_schedule_that_aims_at_the_end_keeps_its_end(interrupted, capsys):
    config = interrupted()
    with pytest.raises(cli.UsageError, match="--epochs: 3 in the run, 9 now: --sched"):
        train.train(change(config, epochs=9))
    train.train(change(config, epochs=9, resume="force"))
    steps = COUNTS["train"] // config.batch_size
    last, now = (
        schedules.stage_rates("cosine", config.learning_rate, num_steps=n * steps)[at]
        for n, at in ((3, steps - 1), (9, steps))
    )
    told = f"the learning rate goes from {last:.2g} to {now:.2g} (--schedule=cosine"
    assert told in capsys.readouterr().out


def test_another_length_of_a_plateau_run_is_told_and_goes_on(
    interrupted, data, tmp_path, capsys
):
    config = interrupted(schedule="plateau")
    longer = change(config, epochs=4)
    train.train(longer)
    assert "--epochs: 3 in the run, 4 now: the steps done stay" in (
        capsys.readouterr().out
    )
    whole = change(longer, workdir=str(tmp_path / "whole"))
    train.train(whole)
    one, two = (runs.open_run(c.workdir).info for c in (longer, whole))
    assert one.final_weights_sha256 == two.final_weights_sha256


def test_fewer_epochs_than_are_done_are_refused(interrupted):
    config = interrupted(schedule="constant")
    workdir = pathlib.Path(config.workdir)
    assert len(runs.read_history(workdir)) == 1
    with pytest.raises(
        cli.UsageError, match="--epochs: 3 in the run, 0 now: 1 are done"
    ):
        resuming.decide(
            workdir, change(config, epochs=0, fine_tune_epochs=1), manifest(config)
        )


def manifest(config):
    return records.find(config.data_dir, config.dataset).manifest


def test_the_first_stage_is_over_when_the_second_has_begun(tmp_path, data):
    """Decided by run.flags and history alone."""
    workdir = tmp_path / "two"
    config = make_config(data, workdir, schedule="constant", fine_tune_epochs=2)
    config = change(config, model="vgg16")
    workdir.mkdir()
    files.publish(workdir / runs.FLAGS, cli.to_flags(config))
    zeros = dict.fromkeys(runs.REPRODUCIBLE_COLUMNS, 0.5)
    rows = [
        {**zeros, "epoch": 1, "stage": "head"},
        {**zeros, "epoch": 2, "stage": "fine_tune"},
    ]
    runs.write_history(workdir, rows)
    with pytest.raises(
        cli.UsageError, match=r"--epochs: 2 .* 3 now: that stage is over"
    ):
        resuming.decide(workdir, change(config, epochs=3), manifest(config))
    decision = resuming.decide(
        workdir, change(config, fine_tune_epochs=5), manifest(config)
    )
    assert "--fine_tune_epochs: 2 in the run, 5 now" in decision.notes[0]


# --- the bytes that train are the manifest's


def test_a_sound_shard_of_other_images_ends_the_first_epoch(data, tmp_path):
    root = shutil.copytree(data, tmp_path / "data")
    _replace_shard(root, "train")
    config = make_config(root, tmp_path / "run", checkpoint_every_steps=1)
    with pytest.raises(cli.DataError, match=r"train\.tfrecord-\S+: its sha256 is not"):
        train.train(config)
    workdir = pathlib.Path(config.workdir)
    assert not list((workdir / runs.CHECKPOINTS).glob("*"))
    assert not (workdir / runs.HISTORY).exists()
    assert not (workdir / runs.MODEL).exists()


def test_features_are_not_kept_of_other_images(data, tmp_path):
    root = shutil.copytree(data, tmp_path / "data")
    _replace_shard(root, "validation")
    config = make_config(root, tmp_path / "run", model="vgg16", weights="none")
    config = change(config, feature_cache=True, feature_views=1, epochs=1)
    with pytest.raises(cli.DataError, match=r"validation\.tfrecord-\S+: its sha256"):
        train.train(config)
    assert not (pathlib.Path(config.workdir) / runs.FEATURES).exists()


def test_an_evaluation_of_other_images_publishes_nothing(config, data, tmp_path):
    root = shutil.copytree(data, tmp_path / "data")
    _replace_shard(root, "test")
    with pytest.raises(cli.DataError, match=r"test\.tfrecord-\S+: its sha256 is not"):
        evaluate_run(config, data_dir=str(root))
    assert not list(pathlib.Path(config.workdir).glob("evaluation-test*"))


def _replace_shard(root, split):
    path = sorted(root.rglob(f"*-{split}.tfrecord-*"))[0]
    framed = b""
    for payload, _ in tfrecord.scan_frames(path):
        fields = tfrecord.decode_example(payload)
        fields["image/encoded"] = bytes(255 - v for v in fields["image/encoded"])
        fields["image/key/sha256"] = files.sha256_bytes(fields["image/encoded"])
        framed += tfrecord.frame(tfrecord.encode_example(fields))
    path.write_bytes(framed)


# --- results keep their names


def test_every_data_set_has_its_own_evaluation(config, tmp_path):
    own = evaluate_run(config)
    workdir = pathlib.Path(config.workdir)
    for number, seed in enumerate((1, 2)):
        root = tmp_path / f"other{number}"
        write_records(root, {**COUNTS, "test": 8 + 2 * seed}, image_size=32)
        evaluate_run(config, data_dir=str(root))
    evaluate_run(config, data_dir=str(tmp_path / "other0"))
    folders = sorted(path.name for path in workdir.glob("evaluation-test*"))
    assert folders[:2] == ["evaluation-test", "evaluation-test-tiny-1.0.0"]
    assert len(folders) == 3
    sizes = [
        json.loads((workdir / name / "metrics.json").read_text())["n"]
        for name in folders
    ]
    assert sizes == [own["n"], 10, 12]


def test_output_dir_decides_for_one_run_too(config, tmp_path):
    evaluate_run(config, output_dir=str(tmp_path / "there"))
    assert (tmp_path / "there" / "metrics.json").is_file()
    assert (tmp_path / "there" / "predictions.csv").is_file()
    assert not (pathlib.Path(config.workdir) / "evaluation-test").exists()
    for taken in (config.workdir, f"{config.data_dir}/tiny/1.0.0"):
        with pytest.raises(cli.UsageError, match="--output_dir"):
            evaluate_run(config, output_dir=taken)


def contents(workdir) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in pathlib.Path(workdir).rglob("*")
        if path.is_file() and path.name != ".lock"
    }
