"""cxr: fast, honest training of chest X-ray classifiers from TFRecords.

In Python: `cxr.load(run)` predicts and explains films, `cxr.open_set(folder)` gives a
converted set's tf.data batches. Importing the package imports no TensorFlow.
"""

import os
import pathlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cxr.input.opened_set import OpenedSet
    from cxr.prediction.model import Model

__version__ = "0.1.0"


def load(
    workdir: str | os.PathLike,
    *others: str | os.PathLike,
    precision: str = "float32",
) -> "Model":
    """Loads a finished run's model, to predict and explain films.

    Args:
      workdir: the run folder; one above `seed-0`, `seed-1`, ... stands for all these.
      *others: more run folders, whose probabilities are averaged with the first's.
      precision: Keras dtype policy to compute in: `float32`, what was evaluated,
        `mixed_bfloat16` or `mixed_float16`.

    Raises:
      cxr.cli.CommandError: no such folder, no finished and sound run in it, or runs
        that do not go together.
    """
    from cxr import runs
    from cxr.prediction.model import Model

    folders = runs.members(map(pathlib.Path, (workdir, *others)))
    return Model(*map(runs.open_run, folders), precision=precision)


def open_set(path: str | os.PathLike) -> "OpenedSet":
    """Opens a converted set, whose `batches` and `training_batches` are tf.data's.

    Args:
      path: its version folder, or the folder above, whose highest version counts.

    Raises:
      cxr.cli.CommandError: no complete set there, or its manifest is damaged.
    """
    from cxr.input import opened_set

    return opened_set.open_set(path)
