"""Why a file is not taken as an image: the error that says so, and the row."""

from typing import NamedTuple


class BadImage(ValueError):
    """A file that is not taken as a film.

    Attributes:
      reason: a short code for tables: `empty`, `too_many_bytes`, `not_an_image`,
        `unsupported_format`, `too_small`, `too_many_pixels`, `several_frames`,
        `unsupported_samples`, `truncated` or `corrupt`.
      detail: one line for people.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple:
        return type(self), (self.reason, self.detail)


class Rejected(NamedTuple):
    """A row of quarantine.csv: a file that is not taken, and why."""

    path: str
    reason: str
    detail: str
