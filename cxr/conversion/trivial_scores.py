"""What the trivial baseline says of each film, by a regression that saw other patients.

The set's report says how much it gives away; `--split_policy=counter` holds out the
patients whom it gets wrong.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from cxr import cli
from cxr.conversion import splitting
from cxr.conversion.splitting import Example
from cxr.metrics import classification, trivial_baseline


def cross_validate(
    examples: list[Example],
    statistics: np.ndarray,
    seed: int,
    joined: Iterable[Sequence[str]] = (),
    *,
    flag: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """Returns each example's label and probabilities, with patients kept apart.

    Args:
      examples: of at least two classes.
      statistics: float32 [N, 9] of the examples, of `images.statistics`.
      seed: salt of the order of patients.
      joined: as `splitting.cut`'s.
      flag: that asked for it, for the error.

    Returns:
      labels, int [N], in the order of the classes' names, and probabilities, float64
      [N, C].

    Raises:
      DataError: naming a class with fewer groups of patients than folds.
    """
    fold_of = splitting.folds(examples, trivial_baseline.FOLDS, seed, joined, flag=flag)
    folds = np.array([fold_of[example.image.path] for example in examples])
    _, labels = np.unique([example.label for example in examples], return_inverse=True)
    return labels, trivial_baseline.cross_validated(statistics, labels, folds)


def of_own_class(
    examples: list[Example],
    statistics: np.ndarray,
    seed: int,
    joined: Iterable[Sequence[str]] = (),
) -> dict[str, float]:
    """Returns the probability that each film is of its own class, by its path.

    Rounded to 1e-6, so that no machine's arithmetic decides between patients.
    """
    labels, probabilities = cross_validate(
        examples, statistics, seed, joined, flag="--split_policy=counter"
    )
    own = np.round(probabilities[np.arange(len(labels)), labels], 6)
    paths = (example.image.path for example in examples)
    return dict(zip(paths, own.tolist(), strict=True))


def summarise(
    examples: list[Example], statistics: np.ndarray, seed: int
) -> dict[str, float] | None:
    """Returns area under the ROC curve and accuracy, None where films are too few.

    The area is macro one against the rest; the most probable class decides.
    """
    try:
        labels, probabilities = cross_validate(examples, statistics, seed)
    except cli.DataError:  # fewer patients of a class than folds
        return None
    area = classification.roc_auc(labels, probabilities)
    accuracy = classification.accuracy(labels, probabilities)
    if area is None or accuracy is None:
        return None
    return {"roc_auc": round(area, 4), "accuracy": round(accuracy, 4)}
