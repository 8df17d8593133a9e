"""Predicts image files into a table, a batch at a time."""

import collections
import contextlib
import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from cxr import cli, pulse, runs, startup
from cxr.prediction import inputs, rows

if TYPE_CHECKING:
    from cxr.prediction.model import Model

FEW = 20  # images whose predictions are shown on the terminal


@dataclasses.dataclass(frozen=True)
class Counts:
    """What became of the images.

    Attributes:
      images: rows of the table.
      warnings: predicted with a warning.
      errors: reason code to images not predicted for it.
      classes: class name to images predicted as it.
      unchecked: `images.Decoded.unchecked` to predicted images of such formats.
      few: the predictions, where they are no more than a terminal shows well.
    """

    images: int
    warnings: int
    errors: dict[str, int]
    classes: dict[str, int]
    unchecked: dict[str, int]
    few: tuple[rows.Prediction, ...] = ()


def predict_files(
    members: Sequence[runs.Run],
    paths: Sequence[str],
    output: str,
    *,
    batch_size: int = 32,
    threads: int = 0,
    precision: str = "float32",
    recursive: bool = True,
    explain: str = "",
    progress: bool = True,
) -> Counts:
    """Predicts every image that `paths` name and publishes the table.

    Images are read by a pool of threads and predicted batch by batch, so memory does
    not grow with their number.

    Args:
      members: finished runs; of several the mean is predicted.
      paths: files, folders or globs.
      output: the table, with one of `rows.SUFFIXES`.
      batch_size: images a forward pass.
      threads: that decode; 0 = one a core.
      precision: Keras dtype policy to compute in.
      recursive: also what lies in folders of folders.
      explain: folder for a picture of each image with its Grad-CAM; none if empty.
      progress: show a bar when a person watches.

    Raises:
      UsageError: nothing that `paths` name exists.
      UnavailableError: the network cannot be explained.
      DataError: several runs that do not go together, see `together.meaning`.
    """
    image_paths = inputs.find(paths, recursive=recursive)
    _check_apart(output, image_paths)
    # TensorFlow: only after everything cheap is checked.
    startup.load_tensorflow()
    from cxr.prediction.model import Model

    model = Model(*members, precision=precision)
    # Batches are padded to one size: no larger than what there is to predict.
    batch_size = min(batch_size, len(image_paths))
    counted = _Counter(model.class_names)
    with (
        rows.publishing(output, rows.columns(model.class_names)) as table,
        tqdm(
            total=len(image_paths), unit="image", disable=None if progress else True
        ) as bar,
    ):
        for batch in model.read(image_paths, batch_size=batch_size, threads=threads):
            for image, one in zip(
                batch, model.decide(batch, batch_size=batch_size), strict=True
            ):
                table.add(one.to_row(model.class_names))
                if explain and image.grey is not None:
                    _explain(model, image.grey, one, explain, counted.images)
                counted.add(image, one)
            bar.update(len(batch))
            pulse.at(f"{counted.images} of {len(image_paths)} images predicted")
    return counted.counts()


class _Counter:
    """Counts what becomes of images; keeps the first few for the terminal."""

    def __init__(self, class_names: Sequence[str]):
        self._class_names, self.images = class_names, 0
        self._kinds: collections.Counter[str] = collections.Counter()
        self._errors, self._classes = self._kinds.copy(), self._kinds.copy()
        self._unchecked = self._kinds.copy()
        self._first: list[rows.Prediction] = []

    def add(self, image: inputs.ReadImage, one: rows.Prediction) -> None:
        self.images += 1
        kind, _, said = one.status.partition(": ")
        self._kinds[kind] += 1
        self._errors.update([said.partition(":")[0]] if kind == "error" else [])
        self._classes.update([one.prediction] if one.prediction else [])
        self._unchecked.update([image.unchecked] if image.unchecked else [])
        if len(self._first) <= FEW:
            self._first.append(one)

    def counts(self) -> Counts:
        return Counts(
            images=self.images,
            warnings=self._kinds["warning"],
            errors=dict(sorted(self._errors.items())),
            classes={name: self._classes[name] for name in self._class_names},
            unchecked=dict(self._unchecked),
            few=tuple(self._first) if self.images <= FEW else (),
        )


def _explain(
    model: "Model", grey: np.ndarray, one: rows.Prediction, folder: str, index: int
) -> None:
    """Publishes an image's picture; its number tells two of one name apart."""
    from cxr.prediction import overlay

    os.makedirs(folder, exist_ok=True)
    try:
        film, heat, class_name = model.heat(grey)
    except ValueError as error:  # the network's structure, alike for all images
        raise cli.UnavailableError(f"--explain={folder}: {error}") from error
    stem = os.path.splitext(os.path.basename(one.path))[0]
    path = os.path.join(folder, f"{index + 1:05d}-{stem}.png")
    overlay.draw(path, film, heat, class_name, one)


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
