"""Names that only the reference set has (Kermany et al., 2018): files, series, classes.

Whatever depends on how one hospital calls its files stands here. Another set brings
its own `--patient_pattern`, or changes this module alone.
"""

import re
from collections.abc import Iterator

# Bacteria and virus patients are numbered apart, so the subtype is part of the key.
PATIENT_PATTERNS = (
    r"^person(?P<patient>\d+)_(?P<subtype>bacteria|virus)_\d+(?:_\d+)?\.\w+$",
    r"^(?P<patient>(?:NORMAL2-)?IM-\d+)-\d+(?:-\d+)?\.\w+$",
)
CLASS_OF_KIND = {"normal": "NORMAL", "bacteria": "PNEUMONIA", "virus": "PNEUMONIA"}


def series(filename: str) -> str:
    """The letters a file name begins with: `NORMAL2-IM`, `IM`, `person`."""
    stem = filename.rsplit("/", 1)[-1]
    match = re.match(r"[A-Za-z][A-Za-z0-9]*(?:-[A-Za-z]+)?", stem)
    return re.sub(r"\d+$", "", match[0]) if match else ""


def number(filename: str) -> int | None:
    """The first number in a file name that is not part of its series' name."""
    match = re.search(r"\d+", filename.rsplit("/", 1)[-1].removeprefix("NORMAL2-"))
    return int(match[0]) if match else None


def file_names(
    kind: str, patient_number: int, count: int, before: int
) -> Iterator[tuple[str, str]]:
    """Yields (patient key, file name) of one patient's images, as the set names them.

    Args:
      kind: a key of `CLASS_OF_KIND`.
      patient_number: counts the patients of this kind from 0.
      count: images of the patient.
      before: images of the kind's earlier patients.
    """
    if kind != "normal":
        patient = f"person{patient_number + 1}_{kind}"
        for image in range(count):
            yield patient, f"{patient}_{before + image + 1}.jpeg"
        return
    prefix = "NORMAL2-IM" if patient_number % 2 else "IM"
    patient = f"{prefix}-{115 + patient_number // 2:04d}"
    for image in range(count):
        visit = f"-{image + 1:04d}" if count > 1 else ""
        yield patient, f"{patient}-0001{visit}.jpeg"
