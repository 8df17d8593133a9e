"""Publishes a finished run's model, and the threshold that belongs to it."""

import dataclasses
import pathlib
from typing import Any

import keras
import numpy as np

from cxr import cli, files, records, runs
from cxr.config import TrainConfig
from cxr.input import pipeline
from cxr.metrics import calibration, predictions, thresholds
from cxr.prediction.predictor import Predictor, load_predictor
from cxr.training import builders, models


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
    workdir, manifest = pathlib.Path(config.workdir), record_set.manifest
    model = models.build(spec, dtype="float32")
    model.set_weights(best)
    with files.publishing(workdir / runs.MODEL) as temporary:
        model.save(temporary)
    probabilities = _predict(config, manifest, model, validation)
    positive = config.positive_class or manifest.class_names[-1]
    info = {
        "schema": runs.SCHEMA,
        "model": config.model,
        "class_names": list(manifest.class_names),
        "positive_class": positive,
        "head": config.head,
        "stored_image_size": manifest.image_size,
        "image_size": config.image_size,
        **_choose(config, manifest, positive, probabilities, validation.labels),
        "data": runs.data_identity(config, manifest),
        "model_file": runs.MODEL,
        "model_sha256": files.sha256_file(workdir / runs.MODEL),
        "final_weights_sha256": weights_sha256(final),
        "best_epoch": best_epoch,
        "num_parameters": model.count_params(),
    }
    # Kept, so that an evaluation need not predict validation again.
    predictions.publish(
        predictions.folder(workdir, "validation"),
        _tabulate(record_set, validation, probabilities),
        predictions.describe_source(info, manifest.fingerprint, "validation"),
    )
    runs.write_json(workdir / runs.MODEL_INFO, info)


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
    positive = config.positive_class or run.info["positive_class"]
    held = run.info["threshold"]
    if positive == run.info["positive_class"] and (
        held is None or held["rule"] == config.threshold_rule
    ):
        return False
    if manifest.fingerprint != run.info["data"]["fingerprint"]:
        raise cli.UsageError(
            f"--data_dir={config.data_dir}: not the set that {run.workdir} was trained "
            "on; its threshold is chosen on that one"
        )
    source = predictions.describe_source(run.info, manifest.fingerprint, "validation")
    table = predictions.recall(predictions.folder(run.workdir, "validation"), source)
    if table is None:
        validation = builders.open_split(
            config, record_set, "validation", progress=False
        )
        model = load_predictor(run).model
        probabilities = _predict(config, manifest, model, validation)
        table = _tabulate(record_set, validation, probabilities)
    decision = _choose(config, manifest, positive, table.probabilities, table.labels)
    flags = dataclasses.replace(
        run.config,
        threshold_rule=config.threshold_rule,
        positive_class=config.positive_class or run.config.positive_class,
    )
    # model.json last, by which the decision is known: killed between the two, the same
    # command does both again.
    files.publish(run.workdir / runs.FLAGS, cli.to_flags(flags))
    info = {**run.info, "positive_class": positive, **decision}
    runs.write_json(run.workdir / runs.MODEL_INFO, info)
    return True


def weights_sha256(weights: list[np.ndarray]) -> str:
    """Returns the SHA-256 over the bytes of all weights in order."""
    parts = (np.ascontiguousarray(array).tobytes() for array in weights)
    return files.sha256_bytes(b"".join(parts))


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
) -> dict[str, Any]:
    """Chooses threshold and temperature on validation."""
    temperature = calibration.fit_temperature(labels, probabilities.astype(np.float64))
    if len(manifest.class_names) > 2:  # argmax decides: there is no threshold
        return {"threshold": None, "temperature": temperature}
    index, rule = manifest.class_names.index(positive), config.threshold_rule
    value = thresholds.choose_threshold(labels == index, probabilities[:, index], rule)
    chosen = {"value": float(value), "rule": rule, "chosen_on": "validation"}
    return {"threshold": chosen, "temperature": temperature}
