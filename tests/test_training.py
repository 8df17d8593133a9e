import csv
import dataclasses
import pathlib
import shutil
import signal
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from benchmarks import survival
from cxr import cli, environment, records, runs, train
from cxr.config import TrainConfig
from cxr.input import orders, pipeline
from cxr.metrics import predictions, thresholds
from cxr.prediction.predictor import load_predictor
from cxr.training import devices, preflight, signals, steps, trainer
from cxr.training.stage_run import StageRun
from tests.fabricated import shallow_network, write_records

pytestmark = pytest.mark.slow  # each test trains

SIZE = 32


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("training") / "data"
    counts = {"train": 40, "validation": 12, "test": 8}
    write_records(root, counts, image_size=SIZE)
    return root


@pytest.fixture
def config(data, tmp_path):
    with shallow_network():
        yield TrainConfig(
            data_dir=str(data),
            dataset="tiny",
            workdir=str(tmp_path / "run"),
            model="small_cnn",
            image_size=SIZE,
            batch_size=8,
            epochs=2,
            augmentation="none",
            progress=False,
            tensorboard=False,
            early_stopping_patience=0,
        )


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """One finished run of the plain configuration, for tests that only look."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    config = TrainConfig(
        data_dir=str(data),
        dataset="tiny",
        workdir=str(workdir),
        model="small_cnn",
        image_size=SIZE,
        batch_size=8,
        epochs=2,
        augmentation="mild",
        progress=False,
    )
    return train.train(config)[0]


def history(config):
    return survival.result(pathlib.Path(config.workdir))


def test_the_run_folder_is_as_promised(finished):
    names = {path.name for path in finished.workdir.iterdir()}
    assert names >= {
        "run.flags",
        "environment.json",
        "history.csv",
        "curves.png",
        "checkpoints",
        "tensorboard",
        "train.log",
        "best_xray_model.keras",
        "model.json",
    }
    with open(finished.workdir / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0])[: len(runs.REPRODUCIBLE_COLUMNS)] == (
        runs.REPRODUCIBLE_COLUMNS
    )
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for name in runs.REPRODUCIBLE_COLUMNS[2:]:
        assert repr(float(rows[0][name])) == rows[0][name]
    info = finished.info
    assert info.class_names == ("NORMAL", "PNEUMONIA")
    assert info.positive_class == "PNEUMONIA"
    assert info.image_size == info.stored_image_size == SIZE
    assert info.threshold.rule == "youden"
    assert info.threshold.chosen_on == "validation"
    trained = environment.read(finished.workdir)
    assert trained.data.fingerprint == info.data.fingerprint
    assert trained.packages["keras"] == keras.__version__


def test_the_model_loads_without_this_package(finished, tmp_path):
    films = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 1), np.uint8)
    np.save(tmp_path / "films.npy", films)
    code = (
        "import sys, keras, numpy as np\n"
        f"model = keras.models.load_model({str(finished.model_path)!r})\n"
        f"films = np.load({str(tmp_path / 'films.npy')!r}).astype('float32')\n"
        f"np.save({str(tmp_path / 'found.npy')!r}, model.predict(films, verbose=0))\n"
        "assert not any(name.split('.')[0] == 'cxr' for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    found = np.load(tmp_path / "found.npy")
    expected = load_predictor(finished).predict(films, batch_size=2)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_run_flags_reproduce_the_run(finished, tmp_path):
    flags = f"--flagfile={finished.workdir / 'run.flags'}"
    config, _ = cli.parse(["", flags], TrainConfig, usage="")
    assert config == finished.config
    again = dataclasses.replace(config, workdir=str(tmp_path / "again"))
    train.train(again)
    assert history(again) == survival.result(finished.workdir)


def _files(folder):
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize("kept", [True, False], ids=["predictions kept", "lost"])
@pytest.mark.parametrize(
    "change",
    [{"threshold_rule": "sensitivity:0.9"}, {"positive_class": "NORMAL"}],
    ids=lambda change: next(iter(change)),
)
def test_another_decision_is_published_and_nothing_else(
    finished, tmp_path, capsys, change, kept
):
    workdir = shutil.copytree(finished.workdir, tmp_path / "run")
    if not kept:
        shutil.rmtree(workdir / "evaluation-validation")
    before = _files(workdir)
    config = dataclasses.replace(finished.config, workdir=str(workdir), **change)
    run = train.train(config)[0]
    assert "published anew" in capsys.readouterr().out
    table = predictions.from_csv(
        (finished.workdir / "evaluation-validation/predictions.csv").read_text()
    )
    positive = run.positive_index
    wanted = thresholds.choose_threshold(
        table.labels == positive,
        table.probabilities[:, positive],
        config.threshold_rule,
    )
    assert run.info.positive_class == (config.positive_class or "PNEUMONIA")
    assert run.info.threshold.value == pytest.approx(wanted, abs=1e-6)
    assert run.info.threshold.rule == config.threshold_rule
    changed = {n for n, data in _files(workdir).items() if before.get(n) != data}
    # The decision stands in the card and the model file, whose hash predictions name.
    predicted = {f"evaluation-validation/predictions.{n}" for n in ("json", "csv")}
    expected = {"model.json", "run.flags", runs.CARD, run.model_path.name, *predicted}
    assert changed - {".lock"} <= expected
    assert _weights(run) == _weights(finished)
    assert run.model_path.name == "best_xray_model.keras"
    train.train(config)
    assert "nothing to do" in capsys.readouterr().out


def _weights(run) -> bytes:
    with zipfile.ZipFile(run.model_path) as archive:
        return archive.read("model.weights.h5")


def test_a_finished_run_says_so_and_stays(finished, capsys):
    before = (finished.workdir / "model.json").read_bytes()
    train.train(finished.config)
    assert "is finished" in capsys.readouterr().out
    assert (finished.workdir / "model.json").read_bytes() == before


def test_more_epochs_go_on_where_the_run_ended(config, tmp_path):
    config = dataclasses.replace(config, schedule="constant")
    train.train(config)
    longer = dataclasses.replace(config, epochs=4, resume="force")
    train.train(longer)
    whole = dataclasses.replace(longer, workdir=str(tmp_path / "whole"))
    train.train(whole)
    assert history(longer) == history(whole)


def _kept(run) -> list[str]:
    return sorted(path.name for path in (run.workdir / "checkpoints").iterdir())


def test_a_finished_run_holds_its_model_and_the_last_state(finished):
    assert _kept(finished) == ["step-00000010-epoch-0002-stage-0"]
    sizes = {p: p.stat().st_size for p in finished.workdir.rglob("*") if p.is_file()}
    state = sum(size for p, size in sizes.items() if "checkpoints" in p.parts)
    other = sum(sizes.values()) - state - sizes[finished.model_path]
    assert other < 15 << 20  # 15 MiB


def test_more_states_are_kept_for_those_who_ask(config):
    run = train.train(dataclasses.replace(config, epochs=5, keep_checkpoints=2))[0]
    steps = [name for name in _kept(run) if name.startswith("step-")]
    assert [name[:13] for name in steps] == ["step-00000020", "step-00000025"]
    # The same command with the default, as after a kill before states were removed.
    train.train(dataclasses.replace(config, epochs=5))
    assert _kept(run) == steps[1:]


def test_states_to_walk_back_over_are_kept_while_training(config, monkeypatch):
    kept = []

    def publish(*args, **options):
        kept.extend(pathlib.Path(config.workdir, "checkpoints").glob("step-*"))
        raise signals.Interrupted(signal.SIGTERM)

    monkeypatch.setattr(trainer.publishing, "publish", publish)
    with pytest.raises(signals.Interrupted):
        train.train(dataclasses.replace(config, epochs=4))
    assert len(kept) == 3


def test_the_best_weights_come_back_from_the_model(config, monkeypatch):
    """Of a finished run they are nowhere else; worse epochs must not replace them."""
    first = train.train(dataclasses.replace(config, schedule="constant"))[0]
    best, weights = first.info.best_epoch, load_predictor(first).model.get_weights()
    validate = StageRun.validate

    def worse(self, interruption):
        found = validate(self, interruption)
        return {**found, "val_loss": found["val_loss"] + 100}

    monkeypatch.setattr(StageRun, "validate", worse)
    longer = {"schedule": "constant", "epochs": 4, "resume": "force"}
    run = train.train(dataclasses.replace(config, **longer))[0]
    assert len(runs.read_history(run.workdir)) == 4
    assert run.info.best_epoch == best
    for one, other in zip(
        load_predictor(run).model.get_weights(), weights, strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert _kept(run) == ["step-00000020-epoch-0004-stage-0"]


@pytest.mark.filterwarnings("ignore")  # as Python does of others' deprecations
def test_the_log_holds_what_training_printed(config, capsys, monkeypatch):
    execute, calls = StageRun.execute, []

    def stop(self, count):
        calls.append(count)
        if len(calls) == 7:
            signal.raise_signal(signal.SIGTERM)
        return execute(self, count)

    with monkeypatch.context() as patch:
        patch.setattr(StageRun, "execute", stop)
        with pytest.raises(signals.Interrupted):
            train.train(config)
    train.train(config)
    said = capsys.readouterr()
    log = pathlib.Path(config.workdir, runs.TRAIN_LOG).read_text()
    dated = [line for line in log.splitlines() if line.startswith("=== ")]
    assert [line.partition(": ")[2][:14] for line in dated] == [
        "training begin",
        "training goes ",
    ]
    kept = log.splitlines()
    for line in (said.out + said.err).splitlines():
        assert line in kept
        kept.remove(line)
    assert [line for line in kept if line not in dated] == [
        "stopped by SIGTERM at step 7"
    ]
    train.train(config)  # nothing to do, nothing to tell
    assert pathlib.Path(config.workdir, runs.TRAIN_LOG).read_text() == log


def _summaries(folder) -> dict[str, dict[int, float]]:
    """Returns tag -> step -> value of a folder's own event files."""
    found: dict[str, dict[int, float]] = {}
    for path in sorted(folder.glob("events.*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = event_pb2.Event.FromString(record.numpy())
            for value in event.summary.value:
                number = (
                    tf.make_ndarray(value.tensor) if value.HasField("tensor") else 0
                )
                found.setdefault(value.tag, {})[event.step] = number
    return found


def test_tensorboard_lays_both_splits_over_each_other(config):
    config = dataclasses.replace(config, tensorboard=True, log_every_steps=2)
    run = train.train(config)[0]
    rows = runs.read_history(run.workdir)
    board = {
        name: _summaries(run.workdir / "tensorboard" / name)
        for name in ("train", "validation", "")
    }
    for tag in ("loss", "accuracy"):
        for split, column in (("train", tag), ("validation", f"val_{tag}")):
            shown = board[split][f"epoch_{tag}"]
            expected = {row["epoch"]: row[column] for row in rows}
            assert shown == pytest.approx(expected, rel=1e-6)
    for tag in ("step_loss", "step_learning_rate", "step_images_per_sec"):
        assert list(board["train"][tag]) == [2, 4, 6, 8, 10]
    assert board["train"]["step_loss"][10] == pytest.approx(rows[-1]["loss"], rel=1e-6)
    best = rows[run.info.best_epoch - 1]
    shown = board["validation"]["published_loss"]
    assert shown == pytest.approx({best["epoch"]: best["val_loss"]}, rel=1e-6)
    _check_flags(run, config)


def _check_flags(run, config):
    (path,) = (run.workdir / "tensorboard").glob("events.*")
    contents = {}
    for record in tf.data.TFRecordDataset(str(path)):
        for value in event_pb2.Event.FromString(record.numpy()).summary.value:
            data = plugin_data_pb2.HParamsPluginData.FromString(
                value.metadata.plugin_data.content
            )
            contents[value.tag] = data
    shown = contents["_hparams_/session_start_info"].session_start_info.hparams
    assert set(shown) == {field.name for field in dataclasses.fields(config)}
    assert shown["epochs"].number_value == config.epochs
    assert shown["model"].string_value == config.model
    metrics = contents["_hparams_/experiment"].experiment.metric_infos
    assert [(one.name.group, one.name.tag) for one in metrics] == [
        ("validation", f"published_{name}") for name in ("loss", "accuracy", "roc_auc")
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"augmentation": "mild", "dropout": 0.5},
        {"checkpoint_every_steps": 2, "optimizer": "adamw", "weight_decay": 0.1},
        {"head": "sigmoid", "class_weights": "balanced", "cache": "none"},
        {"virtual_devices": 2, "steps_per_execution": 3},
    ],
    ids=lambda options: "-".join(options),
)
def test_an_interrupted_run_resumes_at_the_exact_step(
    config, options, tmp_path, monkeypatch
):
    config = dataclasses.replace(config, **options)
    whole = dataclasses.replace(config, workdir=str(tmp_path / "whole"))
    train.train(whole)

    execute, calls = StageRun.execute, []

    def interrupt_fourth_call(run, count):
        calls.append(count)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGTERM)
        return execute(run, count)

    monkeypatch.setattr(StageRun, "execute", interrupt_fourth_call)
    with pytest.raises(signals.Interrupted) as caught:
        train.train(config)
    assert caught.value.exit_code == 143
    found = [p.name for p in (pathlib.Path(config.workdir) / "checkpoints").iterdir()]
    assert any(name.startswith(f"step-{sum(calls):08d}") for name in found)
    monkeypatch.setattr(StageRun, "execute", execute)
    train.train(config)
    assert history(config) == history(whole)


@pytest.mark.parametrize("began", ["ram", "none"])
def test_a_resumed_run_keeps_the_order_it_began_with(
    config, began, tmp_path, monkeypatch
):
    """On a machine with more memory, or less: --cache=auto decides anew."""
    monkeypatch.setattr(orders, "_BLOCK", 4)  # else so small a split has one block
    config = dataclasses.replace(config, cache=began)
    whole = dataclasses.replace(config, workdir=str(tmp_path / "whole"))
    train.train(whole)
    execute, calls = StageRun.execute, []

    def interrupt(run, count):
        calls.append(count)
        if len(calls) in (3, 5, 7):
            signal.raise_signal(signal.SIGTERM)
        return execute(run, count)

    monkeypatch.setattr(StageRun, "execute", interrupt)
    for cache in (began, "none", "ram"):
        with pytest.raises(signals.Interrupted):
            train.train(dataclasses.replace(config, cache=cache))
    train.train(dataclasses.replace(config, cache="device"))
    assert history(config) == history(whole)


def test_interrupted_validation_is_done_again(config, tmp_path, monkeypatch):
    whole = dataclasses.replace(config, workdir=str(tmp_path / "whole"))
    train.train(whole)
    validate = StageRun.validate

    def interrupt(run, interruption):
        signal.raise_signal(signal.SIGINT)
        return validate(run, interruption)

    monkeypatch.setattr(StageRun, "validate", interrupt)
    with pytest.raises(signals.Interrupted) as caught:
        train.train(config)
    assert caught.value.exit_code == 130
    monkeypatch.setattr(StageRun, "validate", validate)
    train.train(config)
    assert history(config) == history(whole)


def test_a_kill_inside_a_save_heals(data, tmp_path):
    """One real SIGKILL; `python -m benchmarks.survival` strikes at every phase."""
    flags = [flag for flag in survival.FLAGS if not flag.startswith("--epochs")]
    films = records.find(data, "tiny")
    trials = survival.Trials(tmp_path, films, (*flags, "--epochs=2"))
    assert trials.kill_inside_save(survival.SAVE_PHASES[5])


def test_changed_flags_and_data_are_refused(config, tmp_path):
    train.train(config)
    changed = dataclasses.replace(config, learning_rate=0.5, seed=3)
    with pytest.raises(cli.UsageError, match=r"--learning_rate: 0\.001 in the run"):
        train.train(changed)
    other = tmp_path / "other"
    write_records(other, {"train": 48, "validation": 12}, image_size=SIZE)
    with pytest.raises(cli.UsageError, match="fingerprint"):
        train.train(dataclasses.replace(config, data_dir=str(other)))
    with pytest.raises(cli.UsageError, match="--resume=never"):
        train.train(dataclasses.replace(config, resume="never"))


def test_force_goes_on_despite_changed_flags(config):
    train.train(config)
    forced = dataclasses.replace(
        config, learning_rate=0.5, epochs=3, resume="force", schedule="constant"
    )
    train.train(forced)
    rows = runs.read_history(pathlib.Path(config.workdir))
    assert [row["learning_rate"] for row in rows] == [0.001, 0.001, 0.5]


def test_two_trainers_in_one_folder(config):
    workdir = pathlib.Path(config.workdir)
    with runs.lock(workdir):
        with pytest.raises(cli.UsageError, match="is training there"):
            train.train(config)
    (workdir / ".lock").write_text("12345")  # stale: its process is gone
    train.train(config)


def test_a_bad_number_stops_the_run_and_names_the_films(config, monkeypatch):
    build = trainer.augmenters.build

    def poisoned(policy, *, seed):
        augment = build(policy, seed=seed)

        def function(images, step, indices):
            bad = trainer.tf.where(step == 6, np.nan, 1.0)
            return augment(images, step, indices) * trainer.tf.cast(bad, "float32")

        return function

    monkeypatch.setattr(trainer.augmenters, "build", poisoned)
    config = dataclasses.replace(config, log_every_steps=2)
    with pytest.raises(trainer.Diverged) as caught:
        train.train(config)
    message = str(caught.value)
    assert "step 6:" in message
    assert caught.value.exit_code == 65
    record_set = preflight.open_data(config)
    source = pipeline.open_split(record_set, "train", image_size=SIZE, progress=False)
    _, _, indices = next(iter(source.training(8, config.seed, start_step=6)))
    rows = record_set.examples("train")
    for index in indices.numpy():
        assert rows[index]["filename"] in message
    checkpoint, _ = trainer.checkpoints.load_newest(
        pathlib.Path(config.workdir) / "checkpoints", "step"
    )
    assert all(np.isfinite(array).all() for array in checkpoint.arrays.values())


@pytest.mark.parametrize("damage", ["model", "model.json"])
def test_a_changed_model_is_refused(config, damage):
    run = train.train(config)[0]
    if damage == "model":
        run.model_path.write_bytes(run.model_path.read_bytes()[:-1])
    else:
        (run.workdir / "model.json").write_text("{}")
    with pytest.raises(cli.DataError, match="model"):
        runs.open_run(run.workdir)


def test_the_head_on_cached_features_equals_the_head_on_the_backbone(
    config, tmp_path, monkeypatch
):
    """Without augmentation a view is the film itself, so both must agree."""
    config = dataclasses.replace(
        config, model="vgg16", weights="none", epochs=2, dropout=0.3, feature_views=2
    )
    cached = dataclasses.replace(
        config,
        feature_cache=True,
        workdir=str(tmp_path / "cached"),
        keep_checkpoints=2,  # with one alone, a finished run keeps no features either
    )
    train.train(config)
    train.train(cached)
    through = runs.read_history(pathlib.Path(config.workdir))
    stored = runs.read_history(pathlib.Path(cached.workdir))
    for a, b in zip(through, stored, strict=True):
        for name in ("loss", "accuracy", "val_loss", "val_roc_auc"):
            assert a[name] == pytest.approx(b[name], rel=1e-4), name
    # Another start on the same films computes nothing again.
    chunks = sorted((tmp_path / "cached" / "features").rglob("*.npy"))
    before = [path.stat().st_mtime_ns for path in chunks]
    assert len(chunks) == 3  # two views of train, one of validation
    (tmp_path / "cached" / "model.json").unlink()
    for path in (tmp_path / "cached" / "checkpoints").glob("*"):
        trainer.checkpoints.shutil.rmtree(path)
    train.train(cached)
    assert [path.stat().st_mtime_ns for path in chunks] == before


def test_two_stages_train_what_they_say(config, monkeypatch):
    config = dataclasses.replace(
        config, model="vgg16", weights="none", epochs=1, fine_tune_epochs=1
    )
    trained = []
    make = steps.TrainingStep

    def spy(network, *args, **kwargs):
        trained.append([v.path for v in network.trainable_variables])
        return make(network, *args, **kwargs)

    monkeypatch.setattr(steps, "TrainingStep", spy)
    train.train(config)
    rows = runs.read_history(pathlib.Path(config.workdir))
    assert [row["stage"] for row in rows] == ["head", "fine_tune"]
    assert rows[1]["learning_rate"] == pytest.approx(1e-5)
    assert not any("block" in path for path in trained[0])
    assert {path.split("/")[-2] for path in trained[1] if "block" in path} == {
        "block5_conv1",
        "block5_conv2",
        "block5_conv3",
    }


def test_seeds_make_a_run_each(config):
    found = train.train(dataclasses.replace(config, seeds=("0", "5"), epochs=1))
    assert [run.workdir.name for run in found] == ["seed-0", "seed-5"]
    assert [run.config.seed for run in found] == [0, 5]
    hashes = {run.info.final_weights_sha256 for run in found}
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"image_size": 64}, cli.UsageError, "--image_size=64"),
        ({"batch_size": 41}, cli.UsageError, "--batch_size=41"),
        ({"positive_class": "X"}, cli.UsageError, "--positive_class=X"),
        ({"dataset": "none"}, cli.DataError, "make_tfrecords"),
        ({"model": "vgg16", "weights": "/no.h5"}, cli.UsageError, "--weights=/no.h5"),
    ],
)
def test_flags_that_do_not_fit_are_refused_and_nothing_is_made(
    config, change, error, words
):
    with pytest.raises(error, match=words):
        train.train(dataclasses.replace(config, **change))
    assert not pathlib.Path(config.workdir).exists()


def test_what_an_epoch_leaves_out_and_a_long_warmup_are_told(config, capsys):
    train.train(dataclasses.replace(config, batch_size=9, epochs=1, warmup_steps=3))
    said = capsys.readouterr()
    assert "each epoch leaves out 4 of 40 films" in said.out
    assert "--warmup_steps=3: more than a tenth of the 4 steps" in said.err


def test_a_resumed_run_keeps_the_precision_it_began_with(config, monkeypatch):
    """On another machine, whose best one is another."""
    monkeypatch.setattr(devices, "_best_precision", lambda gpus: "mixed_bfloat16")
    execute, calls = StageRun.execute, []

    def interrupt(run, count):
        calls.append(count)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return execute(run, count)

    with monkeypatch.context() as patch:
        patch.setattr(StageRun, "execute", interrupt)
        with pytest.raises(signals.Interrupted):
            train.train(config)
    monkeypatch.setattr(devices, "_best_precision", lambda gpus: "float32")
    train.train(config)
    written = environment.read(pathlib.Path(config.workdir))
    assert written.precision == "mixed_bfloat16"
    forced = dataclasses.replace(config, seed=9, resume="force")
    train.train(forced)  # from the start: nothing to keep
    written = environment.read(pathlib.Path(config.workdir))
    assert written.precision == "float32"
