"""Names every reason why a file is not taken: codes, meanings, error and row."""

from collections.abc import Mapping
from typing import NamedTuple

# Every code that a table or a message may hold, in plain words.
MEANINGS: Mapping[str, str] = {
    # of a name or a path
    "bad_name": "the name holds control characters or is not UTF-8",
    "dangling_link": "a link to nothing",
    "link_loop": "a link that leads back to itself or to a folder it lies in",
    "not_a_file": "a folder, device, socket or pipe was named as an image",
    "not_found": "there is no such file",
    "special_file": "a device, socket or pipe lies among the images",
    "unreadable": "the system refuses to read it",
    # of a file's bytes
    "corrupt": "the image's data are damaged",
    "empty": "the file holds no bytes",
    "not_an_image": "the bytes begin like no image format",
    "several_frames": "the file holds more than one picture",
    "too_complex": "more scans, segments or chunks than any radiograph has",
    "too_many_bytes": "the file is larger than any radiograph",
    "too_many_pixels": "the image is larger than any radiograph",
    "too_small": "the image is too small for a radiograph",
    "truncated": "the image ends too early",
    "unsupported_format": "a known format that is not accepted",
    "unsupported_samples": "samples whose scale is unknown",
    # of an image among the others of its set
    "duplicate_in_test": "the same bytes stand in the source's test split",
    "label_conflict": "the same bytes stand under different labels",
    "no_subtype": "the name tells no subtype, while others of its folder do",
    "patient_in_test": "the patient has images in the source's test split",
    # of what a rule leaves aside
    "duplicate_row": "a row of the table that repeats another",
    "lateral_view": "a lateral film, as its header says",
    "mask": "a mask, beside the image of the same film",
    "no_file": "a row of the table without a film",
    "multi_frame": "a DICOM of several frames",
    "no_label": "a film without a label in the table",
    "other_modality": "no radiograph (CR, DX), as its header says",
    "uncertain_label": "the table calls the label uncertain",
    # of a prediction
    "not_finite": "the model gave no number",
    "out_of_memory": "the image does not fit into memory",
}


# What a rule leaves aside is listed, and no fault of a file.
BY_RULE = frozenset(
    ("duplicate_row", "lateral_view", "mask", "multi_frame", "no_file", "no_label")
    + ("other_modality", "uncertain_label")
    + ("duplicate_in_test", "no_subtype", "patient_in_test")
)


class BadImage(ValueError):
    """A file that is not taken as an image.

    Attributes:
      reason: a code of `MEANINGS`.
      detail: one line for people.
    """

    def __init__(self, reason: str, detail: str):
        assert reason in MEANINGS, reason
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple:
        return type(self), (self.reason, self.detail)


class _Row(NamedTuple):
    path: str
    reason: str
    detail: str


class Rejected(_Row):
    """A row of quarantine.csv: a file that is not taken, and why."""

    __slots__ = ()

    def __new__(cls, path: str, reason: str, detail: str) -> "Rejected":
        """Checks that `reason` is a code of `MEANINGS`."""
        assert reason in MEANINGS, reason
        return super().__new__(cls, path, reason, detail)


def error_status(reason: str, detail: str) -> str:
    """Returns `error: CODE: DETAIL`, the status of an image without a prediction."""
    assert reason in MEANINGS, reason
    return f"error: {reason}: {detail}"
