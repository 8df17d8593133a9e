"""Predicts a split of a data set: every example exactly once, or an error."""

import datetime
import itertools
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from cxr import documents, records, runs, tables
from cxr.evaluation.opening import EvaluateConfig, class_indices
from cxr.input import pipeline
from cxr.input.reader import Reader
from cxr.metrics import predictions
from cxr.prediction import rows, together
from cxr.prediction.predictor import Predictor, load_predictor
from cxr.prediction.together import Meaning

_READ_COLUMNS = ("time", "split", "dataset", "fingerprint", "model_sha256", "films")


def obtain(
    run: runs.Run,
    record_set: records.RecordSet,
    split: str,
    config: EvaluateConfig,
    *,
    predictor: Predictor | None = None,
    folder: pathlib.Path | None = None,
    statuses: Sequence[str] = (),
    reuse: bool = True,
) -> predictions.Predictions:
    """Returns a run's predictions on a split, published in its evaluation folder.

    Args:
      run: the finished run.
      record_set: the data.
      split: of the data; readings of `test` are logged.
      config: batch size and cache.
      predictor: the run's, where it is loaded already.
      folder: where they go; None is `evaluation_folder`.
      statuses: of each film, as cxr.predict's; empty for none known.
      reuse: take those of an earlier reading where model and data are the same.
    """
    folder = folder or evaluation_folder(run, record_set, split)
    classes = class_indices(run, record_set, config.class_map)
    source = predictions.describe_source(
        run.info.model_sha256, record_set.manifest.fingerprint, split
    )
    if config.class_map:
        source |= {"class_map": ",".join(sorted(config.class_map))}
    kept = predictions.recall(folder, source) if reuse else None
    if kept is not None:
        return kept
    if split == "test":
        _log_test_read(run, record_set)
    predictor = predictor or load_predictor(run)
    table = predict(record_set, split, predictor, config, classes)
    described = said(table, together.meaning([run]), statuses)
    predictions.publish(folder, table, source, described)
    return table


def said(
    table: predictions.Predictions, meaning: Meaning, statuses: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Returns what a table of predictions says of each film, as cxr.predict does.

    Args:
      table: the predictions.
      meaning: of their probabilities.
      statuses: of each film; empty for none known.
    """
    decided = rows.decisions(table.probabilities, meaning)
    return [
        {
            "path": path,
            "prediction": name,
            "threshold": meaning.threshold,
            "above_threshold": above,
            "model_sha256": meaning.model_sha256,
            "status": status,
        }
        for path, (name, above), status in zip(
            table.filenames, decided, statuses or itertools.repeat("ok"), strict=False
        )
    ]


def evaluation_folder(
    run: runs.Run, record_set: records.RecordSet, split: str
) -> pathlib.Path:
    """Returns where a run's evaluation on a split of a data set lies.

    Another set than the run's own has a folder of its own, also where it has the name
    and version of one that was evaluated before, but not its films.
    """
    own = predictions.folder(run.workdir, split)
    manifest = record_set.manifest
    if manifest.fingerprint == run.info.data.fingerprint:
        return own
    named = own.with_name(f"{own.name}-{manifest.name}-{manifest.version}")
    held = predictions.made_from(named).get("fingerprint", manifest.fingerprint)
    if held == manifest.fingerprint:
        return named
    return named.with_name(f"{named.name}-{manifest.fingerprint[:12]}")


def predict(
    record_set: records.RecordSet,
    split: str,
    predictor: Predictor,
    config: EvaluateConfig,
    classes: np.ndarray,
) -> predictions.Predictions:
    """Runs the model over a split.

    Args:
      record_set: the data.
      split: of the data.
      predictor: the model.
      config: batch size and cache.
      classes: the model's class of each class of the data, int [C of the data].

    Raises:
      DataError: a damaged record.
      RuntimeError: an example was met twice or never (a fault of ours).
    """
    source = pipeline.open_split(
        record_set,
        split,
        image_size=predictor.image_size,
        cache=config.cache,
        progress=False,
    )
    check = source.check_shards()
    outputs = np.full((source.n, len(predictor.class_names)), np.nan, np.float32)
    met = np.zeros(source.n, np.int64)
    labels = np.full(source.n, -1, np.int64)
    for batch in source.batches(source.evaluation(config.batch_size)):
        indices = batch[2].numpy()
        outputs[indices] = predictor.predict([batch], batch_size=config.batch_size)
        labels[indices] = classes[batch[1].numpy()]
        np.add.at(met, indices, 1)
    if not np.all(met == 1) or source.n != record_set.split(split).num_examples:
        raise RuntimeError(f"{split}: {np.sum(met != 1)} images not met exactly once")
    check.wait()
    return predictions.tabulate(
        record_set.examples(split), labels, outputs, predictor.class_names
    )


def read_images(
    record_set: records.RecordSet, split: str, indices: np.ndarray
) -> np.ndarray:
    """Reads some images of a split at the stored size, uint8 [n, S, S]."""
    reader = Reader(record_set, split, image_size=record_set.manifest.image_size)
    return reader.images(np.asarray(indices, np.int64))


def _log_test_read(run: runs.Run, record_set: records.RecordSet) -> None:
    """Adds a line to the run's log of test readings.

    A test split that is read again and again while the model changes is no test any
    more; the log lets a reader see how often it was.
    """
    path = run.workdir / runs.TEST_READS
    before: list[dict[str, str]] = []
    if path.exists():
        with documents.reading(path):
            before = tables.parse_records(documents.read_text(path))
    manifest = record_set.manifest
    now = datetime.datetime.fromtimestamp(time.time(), datetime.UTC)
    values = (
        now.isoformat(timespec="seconds"),
        "test",
        f"{manifest.name} {manifest.version}",
        manifest.fingerprint,
        run.info.model_sha256,
        str(record_set.split("test").num_examples),
    )
    row = dict(zip(_READ_COLUMNS, values, strict=True))
    columns = list(before[0]) if before else list(_READ_COLUMNS)
    tables.publish(path, columns, [*before, row])
