"""One file that is offered as an image."""

from typing import NamedTuple

from cxr.conversion import attributes
from cxr.conversion.attributes import Attributes


class Source(NamedTuple):
    """One file offered as an image.

    Attributes:
      path: POSIX path relative to the input folder.
      label: its class, from its folder or the table.
      side: `train`, `val` or `test` as the source has it; empty without.
      patient: as a table has it; empty without.
      attributes: as a table has them.
    """

    path: str
    label: str
    side: str
    patient: str = ""
    attributes: Attributes = attributes.NONE
