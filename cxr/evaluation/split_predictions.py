"""Predicts a split of a data set: every example exactly once, or an error."""

import csv
import datetime
import time

import numpy as np

from cxr import files, records, runs
from cxr.evaluation.opening import EvaluateConfig
from cxr.input import pipeline
from cxr.input.reader import Reader
from cxr.metrics import predictions
from cxr.prediction.predictor import Predictor, load_predictor

TEST_READS = "test_reads.csv"
_READ_COLUMNS = ("time", "split", "dataset", "fingerprint", "model_sha256", "films")


def obtain(
    run: runs.Run,
    record_set: records.RecordSet,
    split: str,
    config: EvaluateConfig,
    *,
    predictor: Predictor | None = None,
    reuse: bool = True,
) -> predictions.Predictions:
    """Returns a run's predictions on a split, published in its evaluation folder.

    Args:
      run: the finished run.
      record_set: the data.
      split: of the data; readings of `test` are logged.
      config: batch size and cache.
      predictor: the run's, where it is loaded already.
      reuse: take those of an earlier reading where model and data are the same.
    """
    folder = predictions.folder(run.workdir, split)
    source = predictions.describe_source(
        run.info, record_set.manifest.fingerprint, split
    )
    kept = predictions.recall(folder, source) if reuse else None
    if kept is not None:
        return kept
    if split == "test":
        _log_test_read(run, record_set)
    table = predict(record_set, split, predictor or load_predictor(run), config)
    predictions.publish(folder, table, source)
    return table


def predict(
    record_set: records.RecordSet,
    split: str,
    predictor: Predictor,
    config: EvaluateConfig,
) -> predictions.Predictions:
    """Runs the model over a split.

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
    outputs = np.full((source.n, len(predictor.class_names)), np.nan, np.float32)
    met = np.zeros(source.n, np.int64)
    labels = np.full(source.n, -1, np.int64)
    for batch in source.batches(source.evaluation(config.batch_size)):
        indices = batch[2].numpy()
        outputs[indices] = predictor.predict([batch], batch_size=config.batch_size)
        labels[indices] = batch[1].numpy()
        np.add.at(met, indices, 1)
    if not np.all(met == 1) or source.n != record_set.split(split).num_examples:
        raise RuntimeError(f"{split}: {np.sum(met != 1)} images not met exactly once")
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
    path = run.workdir / TEST_READS
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    lines = before.splitlines() or [",".join(_READ_COLUMNS)]
    manifest = record_set.manifest
    now = datetime.datetime.fromtimestamp(time.time(), datetime.UTC)
    values = (
        now.isoformat(timespec="seconds"),
        "test",
        f"{manifest.name} {manifest.version}",
        manifest.fingerprint,
        run.info["model_sha256"],
        str(record_set.split("test").num_examples),
    )
    files.publish(path, "\n".join([*lines, ",".join(values)]) + "\n")


def count_test_reads(run: runs.Run) -> int:
    """Returns how often the run has read a test split."""
    path = run.workdir / TEST_READS
    if not path.is_file():
        return 0
    with open(path, newline="", encoding="utf-8") as file:
        return sum(1 for _ in csv.DictReader(file))
