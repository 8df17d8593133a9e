"""Predicts image files into a table, a batch at a time."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from cxr import cli, images, platforms, runs
from cxr.prediction import inputs, rows


@dataclasses.dataclass(frozen=True)
class Counts:
    """What became of the images.

    Attributes:
      images: rows of the table.
      warnings: predicted with a warning.
      errors: reason code to images not predicted for it.
      classes: class name to images predicted as it.
      unchecked: `images.Decoded.unchecked` to predicted images of such formats.
    """

    images: int
    warnings: int
    errors: dict[str, int]
    classes: dict[str, int]
    unchecked: dict[str, int]


def predict_files(
    run: runs.Run,
    paths: Sequence[str],
    output: str,
    *,
    batch_size: int = 32,
    threads: int = 0,
    precision: str = "float32",
    progress: bool = True,
) -> Counts:
    """Predicts every image that `paths` name and publishes the table.

    Images are read by a pool of threads and predicted batch by batch, so memory does
    not grow with their number.

    Args:
      run: a finished run.
      paths: files, folders or globs.
      output: the table, `.csv` or `.json`.
      batch_size: images a forward pass.
      threads: that decode; 0 = one a core.
      precision: Keras dtype policy to compute in.
      progress: show a bar when a person watches.

    Raises:
      UsageError: nothing that `paths` name exists.
    """
    image_paths = inputs.find(paths)
    _check_apart(output, image_paths)
    # TensorFlow: only after everything cheap is checked.
    from cxr.prediction.predictor import load_predictor

    predictor = load_predictor(run, precision=precision)
    # Batches are padded to one size: no larger than what there is to predict.
    batch_size = min(batch_size, len(image_paths))
    sizes = predictor.stored_image_size, predictor.image_size
    kinds: collections.Counter[str] = collections.Counter()
    errors, classes, unchecked = kinds.copy(), kinds.copy(), kinds.copy()
    with (
        rows.publishing(output, rows.columns(run)) as table,
        tqdm(
            total=len(image_paths), unit="image", disable=None if progress else True
        ) as bar,
    ):
        for batch in _read_batches(image_paths, sizes, batch_size, threads):
            for row in _predict(batch, predictor, run, batch_size):
                table.add(row)
                kind, _, said = row["status"].partition(": ")
                kinds[kind] += 1
                errors.update([said.partition(":")[0]] if kind == "error" else [])
                classes[row["prediction"]] += 1
            unchecked.update(image.unchecked for image in batch if image.unchecked)
            bar.update(len(batch))
    return Counts(
        images=len(image_paths),
        warnings=kinds["warning"],
        errors=dict(sorted(errors.items())),
        classes={name: classes[name] for name in run.class_names},
        unchecked=dict(unchecked),
    )


def _check_apart(output: str, image_paths: Sequence[str]) -> None:
    """Refuses a table that would replace one of the images."""
    if not os.path.exists(output):
        return
    for path in image_paths:
        with contextlib.suppress(OSError):  # gone, say: a row says so
            if os.path.samefile(output, path):
                raise cli.UsageError(
                    f"--output={output}: is one of the images; choose another name"
                )


def _predict(
    batch: list[inputs.ReadImage], predictor: Any, run: runs.Run, batch_size: int
) -> Iterator[dict[str, Any]]:
    """Yields a row an image, in order, from one forward pass."""
    readable = [image.grey for image in batch if image.grey is not None]
    if readable:
        pixels = images.area_resize(np.stack(readable), predictor.image_size)
        predicted = iter(predictor.predict(pixels[..., None], batch_size=batch_size))
    for image in batch:
        probabilities = None if image.grey is None else next(predicted)
        yield rows.row(image.path, probabilities, image.status, run)


def _read_batches(
    paths: list[str], sizes: tuple[int, int], batch_size: int, threads: int
) -> Iterator[list[inputs.ReadImage]]:
    """Yields batches in order; while one is predicted, the next is being read."""
    threads = threads or platforms.available_cores()
    pending: collections.deque[list[concurrent.futures.Future]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(paths), batch_size):
            chunk = paths[start : start + batch_size]
            pending.append([pool.submit(inputs.read, path, *sizes) for path in chunk])
            if len(pending) > 1:
                yield [future.result() for future in pending.popleft()]
        while pending:
            yield [future.result() for future in pending.popleft()]
