"""A converted set as a library: its tf.data batches in one call."""

import dataclasses
import os
import pathlib
from typing import TYPE_CHECKING

from cxr import records

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class OpenedSet(records.RecordSet):
    """A record set that hands out batches; see `records.RecordSet` for the rest."""

    def batches(
        self,
        split: str,
        batch_size: int = 32,
        *,
        image_size: int | None = None,
        cache: str = "auto",
    ) -> "tf.data.Dataset":
        """Returns a split once, in index order; the last batch may be smaller.

        Args:
          split: `train`, `validation` or `test`.
          batch_size: B.
          image_size: S, height = width in pixels; the stored size by default.
          cache: as `--cache`: `ram`, `none` (from the disk), `hybrid` or `auto`.

        Returns:
          Dataset of `(images uint8 [B, S, S, 1], labels int32 [B], indices int64 [B])`.
        """
        return self._open(split, image_size, cache).evaluation(batch_size)

    def training_batches(
        self,
        batch_size: int = 32,
        *,
        image_size: int | None = None,
        seed: int = 0,
        start_step: int = 0,
        cache: str = "auto",
        split: str = "train",
    ) -> "tf.data.Dataset":
        """Returns endless batches of a split, in another order in each epoch.

        The order is a function of `seed` and the epoch, so training that stopped after
        `start_step` steps goes on with the batches that it would have had.

        Args:
          batch_size: B; an epoch has `n // B` full batches.
          image_size: S, height = width in pixels; the stored size by default.
          seed: of the order.
          start_step: batches to pass over, without reading them.
          cache: as `--cache`: `ram`, `none` (from the disk), `hybrid` or `auto`.
          split: of the set.

        Returns:
          Dataset as `batches`'.
        """
        source = self._open(split, image_size, cache)
        return source.training(batch_size, seed, start_step=start_step)

    def _open(self, split: str, image_size: int | None, cache: str):
        from cxr.input import pipeline  # TensorFlow: late

        size = image_size or self.manifest.image_size
        return pipeline.open_split(
            self, split, image_size=size, cache=cache, progress=False
        )


def open_set(path: str | os.PathLike) -> OpenedSet:
    """Opens a converted set.

    Args:
      path: its version folder, or the folder above, whose highest version counts.

    Raises:
      DataError: no complete set there, or its manifest is damaged.
    """
    folder = pathlib.Path(path)
    if (folder / records.MANIFEST).exists():
        found = records.load(folder)
    else:
        found = records.find(folder.parent, folder.name)
    return OpenedSet(found.path, found.manifest)
