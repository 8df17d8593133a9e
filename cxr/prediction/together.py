"""What the probabilities of a run mean, or of several runs together: their mean."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from cxr import cli, runs
from cxr.metrics import predictions, thresholds
from cxr.metrics.predictions import Predictions
from cxr.storage import run_folders


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What probabilities mean.

    Attributes:
      class_names: of their columns.
      positive_class: the class that the threshold speaks of.
      threshold: positive from this probability on; None of more than two classes.
      model_sha256: of the model file; of several files, joined by `+`.
    """

    class_names: tuple[str, ...]
    positive_class: str
    threshold: float | None
    model_sha256: str


def meaning(members: Sequence[runs.Run]) -> Meaning:
    """Returns what the probabilities of a run mean, or the mean of several runs'.

    The threshold of several is chosen as `cxr.evaluate` does: by the first run's rule,
    on the mean of what they say of their validation films, which each run folder holds.

    Args:
      members: finished runs, one or more.

    Raises:
      DataError: they tell other classes apart, take films of other sizes, or have no
        validation films in common.
    """
    check(members)
    check_sizes(members, "stored_image_size", "decoded at")
    first = members[0]
    threshold = first.threshold
    if len(members) > 1 and first.info.threshold:
        table = predictions.average(_validation(members))
        positive = table.labels == first.positive_index
        score = table.probabilities[:, first.positive_index]
        threshold = thresholds.choose_threshold(
            positive, score, first.info.threshold.rule
        )
    return Meaning(
        class_names=first.class_names,
        positive_class=first.info.positive_class,
        threshold=threshold,
        model_sha256=model_sha256(members),
    )


def model_sha256(members: Sequence[runs.Run]) -> str:
    """Returns the SHA-256 of the model files, joined by `+`."""
    return "+".join(run.info.model_sha256 for run in members)


def open_runs(workdirs: Iterable[str]) -> list[runs.Run]:
    """Opens the finished runs that a command line names, in order.

    Args:
      workdirs: run folders, folders above `seed-0`, `seed-1`, ..., or URLs of such.
    """
    folders = [run.folder for run in run_folders.opened(workdirs)]
    return [runs.open_run(folder) for folder in runs.members(folders)]


def check(members: Sequence[runs.Run]) -> None:
    """Raises DataError unless the runs answer one question."""
    first = members[0]
    for run in members[1:]:
        both = f"{first.workdir} and {run.workdir}"
        if run.class_names != first.class_names:
            names = "; ".join(", ".join(one.class_names) for one in (first, run))
            raise cli.DataError(f"{both} tell other classes apart: {names}")
        positives = [one.info.positive_class for one in (first, run)]
        if first.threshold is not None and positives[0] != positives[1]:
            raise cli.DataError(
                f"{both} have other positive classes, {' and '.join(positives)}\nthe "
                "flags of a finished run with another --positive_class decide it anew"
            )


def check_sizes(members: Sequence[runs.Run], size: str, meant: str) -> None:
    """Raises DataError unless a size in pixels is the same in all runs.

    Args:
      members: the runs.
      size: its name in model.json.
      meant: what comes before it in a sentence on films.
    """
    first = members[0]
    for run in members[1:]:
        sizes = [getattr(one.info, size) for one in (first, run)]
        if sizes[0] != sizes[1]:
            raise cli.DataError(
                f"{first.workdir} and {run.workdir} take films {meant} {sizes[0]} and "
                f"{sizes[1]} pixels"
            )


def mean(probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """Returns what models say together, float64 [N, C], of float [N, C] each."""
    return np.stack(probabilities).mean(axis=0, dtype=np.float64)


def _validation(members: Sequence[runs.Run]) -> list[Predictions]:
    """Returns what each run says of its validation films, which must be the same."""
    tables: list[Predictions] = []
    for run in members:
        info = run.info
        source = predictions.describe_source(
            info.model_sha256, info.data.fingerprint, "validation"
        )
        folder = predictions.folder(run.workdir, "validation")
        table = predictions.recall(folder, source)
        if table is None:
            raise cli.DataError(
                f"{folder}: holds no predictions of this model, on which several runs "
                "choose their threshold; cxr.evaluate "
                f"--workdir={run.workdir} --split=validation writes them"
            )
        if tables and table.filenames != tables[0].filenames:
            raise cli.DataError(
                f"{members[0].workdir} and {run.workdir} were validated on other "
                "films: no threshold is theirs together"
            )
        tables.append(table)
    return tables
