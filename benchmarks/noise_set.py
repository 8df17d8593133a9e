"""Makes a record set of noise, of any size and at once, with the real converter."""

import pathlib

import numpy as np
from PIL import Image

from cxr import records
from cxr.conversion import converter

CLASSES = ("NORMAL", "PNEUMONIA")


def make(
    root: pathlib.Path,
    count: int,
    *,
    image_size: int,
    encoding: str = "raw",
    held_out: int = 8,
) -> records.RecordSet:
    """Draws square grey films, one a patient, and converts them to `root/noise`.

    Args:
      root: receives the films and the set.
      count: films of both classes together, told apart by their brightness, so that
        a small network can learn them.
      image_size: their side in pixels, drawn and stored.
      encoding: of the records.
      held_out: how many of them become the validation split; the rest is train.
    """
    random = np.random.default_rng(0)
    for number in range(count):
        label = number % len(CLASSES)
        low = 60 + 80 * label
        film = random.integers(low, low + 100, (image_size,) * 2, np.uint8)
        path = root / "films" / CLASSES[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(film).save(path)
    config = converter.ConversionConfig(
        input_dir=str(root / "films"),
        output_dir=str(root),
        dataset="noise",
        image_size=image_size,
        encoding=encoding,
        split_policy="grouped",
        validation_fraction=held_out / count,
        test_fraction=0.0,
    )
    return converter.convert(config, log=lambda line: None)
