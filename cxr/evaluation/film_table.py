"""What is said of single films: which film, the truth, its p, how near it was.

A film's number is its row in predictions.csv, alike in pictures and tables, so what a
picture shows can be found: mistakes.csv holds all that the model got wrong.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from cxr.metrics.evaluation import Evaluation

MISTAKES = "mistakes.csv"
COLUMNS = (
    "number",
    "path",
    "patient_id",
    "label",
    "prediction",
    "probability",
    "margin",
    "status",
    "source",
)


def rows(
    evaluation: Evaluation,
    indices: Sequence[int] | np.ndarray,
    *,
    statuses: Sequence[str] = (),
    source_dir: str = "",
) -> list[dict[str, Any]]:
    """Returns a row a film, with `COLUMNS`.

    `probability` is the positive class's of two, the predicted one's of more. `margin`
    is how far that is above the threshold (of more classes: above the true class's p);
    negative below it. `source` is the film's file where it lies on disk, else empty.

    Args:
      evaluation: the predictions.
      indices: of the films, int [n].
      statuses: of all films of the split, as cxr.predict's; empty for none known.
      source_dir: folder that the set was made from; empty where it is not known.
    """
    table, scored = evaluation.predictions, evaluation.scored
    names = evaluation.class_names
    found = []
    for index in map(int, indices):
        truth, said = int(scored.labels[index]), int(scored.predicted[index])
        of = said if scored.positive is None else scored.positive
        probability = float(scored.probabilities[index, of])
        against = scored.threshold
        if scored.positive is None:
            against = float(scored.probabilities[index, truth])
        name = table.filenames[index]
        found.append(
            {
                "number": index + 1,
                "path": name,
                "patient_id": table.patient_ids[index],
                "label": names[truth],
                "prediction": names[said],
                "probability": probability,
                "margin": None if against is None else probability - against,
                "status": statuses[index] if statuses else "ok",
                "source": _source(source_dir, name),
            }
        )
    return found


def wrong(evaluation: Evaluation) -> np.ndarray:
    """Indices of the wrong films, those the model was surest of first, int64 [n]."""
    scored = evaluation.scored
    true = scored.probabilities[np.arange(len(scored.labels)), scored.labels]
    surest = np.argsort(true, kind="stable")
    return surest[(scored.predicted != scored.labels)[surest]]


def _source(source_dir: str, name: str) -> str:
    """The film's file, where it lies: within the folder, and nowhere else."""
    if not source_dir:
        return ""
    root = os.path.abspath(source_dir)
    path = os.path.normpath(os.path.join(root, name))
    inside = path.startswith(root + os.sep)
    return path if inside and os.path.isfile(path) else ""
