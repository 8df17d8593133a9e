"""Counts the films of another set that a model was trained or chosen on."""

from collections.abc import Sequence
from typing import Any

from cxr.records import RecordSet


def describe(
    trained: Sequence[RecordSet | None], judged: RecordSet, split: str
) -> dict[str, Any] | None:
    """Returns `met_in_training` of metrics.json.

    A film is the same where its file is, byte for byte. A patient is where the name
    is, so two sets that number their patients may only seem to share some.

    Args:
      trained: the set of each model's training; None where it has gone or changed.
      judged: the set that is evaluated.
      split: of it.

    Returns:
      `films`, `patients`: how many of the split are on the training or validation side
      of those sets; `checked`: whether all are at hand. None where all models were
      trained on `judged` itself, whose sides share nothing.
    """
    own = judged.manifest.fingerprint
    others = [s for s in trained if s is None or s.manifest.fingerprint != own]
    if not others:
        return None
    rows = [row for s in others if s for row in s.examples() if row["split"] != "test"]
    here = judged.examples(split)
    films = {row["source_sha256"] for row in rows}
    patients = {row["patient_id"] for row in rows}
    return {
        "films": sum(row["source_sha256"] in films for row in here),
        "patients": len({row["patient_id"] for row in here} & patients),
        "checked": None not in others,
    }
