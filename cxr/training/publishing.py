"""Publishes a finished run's model, and the threshold that belongs to it."""

import dataclasses
import pathlib

import keras
import numpy as np

from cxr import (
    class_names,
    cli,
    files,
    input_guard,
    model_card,
    model_file,
    records,
    runs,
)
from cxr.config import TrainConfig
from cxr.input import film_measures, pipeline
from cxr.metrics import calibration, predictions, thresholds
from cxr.model_info import GuardInfo, ModelInfo, Threshold
from cxr.prediction.predictor import Predictor, load_predictor
from cxr.training import builders, models, resuming

_MOST_GUARDED = 20_000  # films of a split, evenly spaced


def positive_class(config: TrainConfig, manifest: records.Manifest) -> str:
    """Returns the class that thresholds speak of: the flag's, the set's, or by name."""
    chosen = config.positive_class or manifest.positive_class
    return class_names.positive(manifest.class_names, chosen)


def publish(
    config: TrainConfig,
    record_set: records.RecordSet,
    *,
    spec: models.ModelSpec,
    best: list[np.ndarray],
    final: list[np.ndarray],
    best_epoch: int,
    validation: pipeline.ImageSource,
) -> None:
    """Writes the model, then model.json, which makes the run finished.

    What was published before stays readable until then.

    Args:
      config: the run's flags; `workdir` is the run folder.
      record_set: the data set.
      spec: the network.
      best: the weights to publish, in the network's order.
      final: the last epoch's weights, of which only a hash is kept.
      best_epoch: the epoch of `best`, counted from 1.
      validation: on which threshold and temperature are chosen; the test split is
        never opened here.
    """
    workdir, manifest = config.run_folder, record_set.manifest
    model = models.build(spec, dtype="float32")
    model.set_weights(best)
    probabilities = _predict(config, manifest, model, validation)
    guard, guard_info = _guard(record_set)
    positive = positive_class(config, manifest)
    threshold, temperature = _choose(
        config, manifest, positive, probabilities, validation.labels
    )
    info = ModelInfo(
        model=config.model,
        class_names=manifest.class_names,
        positive_class=positive,
        head=config.head,
        stored_image_size=manifest.image_size,
        image_size=config.image_size,
        threshold=threshold,
        temperature=temperature,
        data=resuming.data_identity(config, manifest),
        model_file=runs.MODEL,
        model_sha256="",  # known when the file is written, which holds the rest
        final_weights_sha256=weights_sha256(final),
        best_epoch=best_epoch,
        num_parameters=model.count_params(),
        flags=runs.flag_lines(config),
        trained_after_test=runs.count_test_reads(workdir),
        input_guard=guard_info,
    )
    with files.publishing(workdir / runs.NEXT_MODEL) as temporary:
        model.save(temporary)
        model_file.embed(temporary, info, guard)
    _publish_info(workdir, info, _tabulate(record_set, validation, probabilities))


def publish_decision(
    run: runs.Run, config: TrainConfig, record_set: records.RecordSet
) -> bool:
    """Chooses a finished run's threshold again where the flags ask for another one.

    The weights stay; run.flags and model.json get the new decision.

    Args:
      run: the finished run.
      config: the flags now, of which `threshold_rule` and `positive_class` count.
      record_set: the data set that the run was trained on.

    Returns:
      Whether the decision asked for is another than the run's.
    """
    manifest = record_set.manifest
    positive = config.positive_class or run.info.positive_class
    held = run.info.threshold
    if positive == run.info.positive_class and (
        held is None or held.rule == config.threshold_rule
    ):
        return False
    source = predictions.describe_source(
        run.info.model_sha256, manifest.fingerprint, "validation"
    )
    table = predictions.recall(predictions.folder(run.workdir, "validation"), source)
    if table is None:
        validation = builders.open_split(
            config, record_set, "validation", progress=False
        )
        model, check = load_predictor(run).model, validation.check_shards()
        probabilities = _predict(config, manifest, model, validation)
        check.wait()
        table = _tabulate(record_set, validation, probabilities)
    threshold, temperature = _choose(
        config, manifest, positive, table.probabilities, table.labels
    )
    flags = resuming.with_decision(run.config, config)
    info = dataclasses.replace(
        run.info,
        positive_class=positive,
        threshold=threshold,
        temperature=temperature,
        flags=runs.flag_lines(flags),
    )
    with files.publishing(run.workdir / runs.NEXT_MODEL) as temporary:
        model_file.embed_anew(run.model_path, temporary, info)
    # model.json last, by which the decision is known: killed between, the same command
    # does all again.
    if run.is_latest:
        files.publish(run.workdir / runs.FLAGS, cli.to_flags(flags))
    _publish_info(run.workdir, info, table)
    return True


def _publish_info(
    workdir: pathlib.Path, info: ModelInfo, validation: predictions.Predictions
) -> None:
    """Publishes model.json and predictions of the model that lies ready."""
    sha256 = files.sha256_file(workdir / runs.NEXT_MODEL)
    # Kept, so that an evaluation need not predict validation again.
    predictions.publish(
        predictions.folder(workdir, "validation"),
        validation,
        predictions.describe_source(sha256, info.data.fingerprint, "validation"),
    )
    runs.publish_model_info(workdir, dataclasses.replace(info, model_sha256=sha256))
    model_card.publish(runs.open_run(workdir))


def published_weights(
    workdir: pathlib.Path, last: list[np.ndarray]
) -> tuple[int, list[np.ndarray]] | None:
    """Returns the published model's epoch and weights, in the network's order.

    Args:
      workdir: the run folder.
      last: the weights that training goes on from.

    Returns:
      None unless the model is of the training that ended with `last`.
    """
    info = runs.read_model_info(workdir)
    if info is None or info.final_weights_sha256 != weights_sha256(last):
        return None
    model = load_predictor(runs.open_run(workdir)).model
    return info.best_epoch, model.get_weights()


def weights_sha256(weights: list[np.ndarray]) -> str:
    """Returns the SHA-256 over the bytes of all weights in order."""
    parts = (np.ascontiguousarray(array).tobytes() for array in weights)
    return files.sha256_bytes(b"".join(parts))


def _guard(
    record_set: records.RecordSet,
) -> tuple[input_guard.InputGuard | None, GuardInfo | None]:
    """Fits the input guard on training films; counts its false alarms on validation."""
    films = film_measures.measure(record_set, "train", at_most=_MOST_GUARDED)
    guard = input_guard.fit(films.cells, films.numbers)
    if guard is None:
        return None, None
    unseen = film_measures.measure(record_set, "validation", at_most=_MOST_GUARDED)
    alarms = [bool(why) for why in guard.judge(unseen.cells, unseen.numbers)]
    return guard, GuardInfo(sum(alarms) / len(alarms), len(alarms))


def _predict(
    config: TrainConfig,
    manifest: records.Manifest,
    model: keras.Model,
    validation: pipeline.ImageSource,
) -> np.ndarray:
    """Probabilities of the very model that is published, float32 [n, C]."""
    predictor = Predictor(
        model, manifest.class_names, config.image_size, manifest.image_size
    )
    batches = validation.batches(validation.evaluation(config.batch_size))
    return predictor.predict(batches, batch_size=config.batch_size)


def _tabulate(
    record_set: records.RecordSet,
    validation: pipeline.ImageSource,
    probabilities: np.ndarray,
) -> predictions.Predictions:
    return predictions.tabulate(
        record_set.examples("validation"),
        validation.labels,
        probabilities,
        record_set.manifest.class_names,
    )


def _choose(
    config: TrainConfig,
    manifest: records.Manifest,
    positive: str,
    probabilities: np.ndarray,
    labels: np.ndarray,
) -> tuple[Threshold | None, float]:
    """Chooses threshold and temperature on validation."""
    temperature = calibration.fit_temperature(labels, probabilities.astype(np.float64))
    if len(manifest.class_names) > 2:  # argmax decides: there is no threshold
        return None, temperature
    index, rule = manifest.class_names.index(positive), config.threshold_rule
    value = thresholds.choose_threshold(labels == index, probabilities[:, index], rule)
    return Threshold(float(value), rule, "validation"), temperature
