"""What is kept of a patient and a device: bands and keys, never a name, ID or date."""

import functools
import hashlib
import hmac
import os
import pathlib
import re
import secrets
import tempfile
from collections.abc import Iterable
from typing import NamedTuple

from cxr import cli
from cxr.images import DicomTags

COLUMNS = ("filename", "age_band", "sex", "view", "device", "modality")
_SEX = {"m": "M", "male": "M", "f": "F", "w": "F", "female": "F"}
_KEY_BYTES = 32
_OLD = 90  # years from which on ages are one band: rare enough to point at a person


class Attributes(NamedTuple):
    """Of a film, texts; empty where unknown.

    Attributes:
      age_band: of ten years, `40-49`, or `90+`.
      sex: `M` or `F`.
      view: such as `PA`.
      device: manufacturer and model.
      modality: of a DICOM, `CR` or `DX`.
    """

    age_band: str = ""
    sex: str = ""
    view: str = ""
    device: str = ""
    modality: str = ""

    def filled(self, other: Iterable[str]) -> "Attributes":
        """Returns these, with another's where one is empty."""
        return Attributes(*(mine or o for mine, o in zip(self, other, strict=True)))


NONE = Attributes()


def of_table(age: str, sex: str, view: str, device: str = "") -> Attributes:
    """Returns what a table's cells tell."""
    found = Attributes(
        age_band(age),
        _SEX.get(sex.strip().casefold(), ""),
        view.strip(),
        device.strip(),
    )
    return NONE if found == NONE else found


def of_header(tags: DicomTags) -> Attributes:
    """Returns what a DICOM's header tells."""
    sex = _SEX.get(tags.sex.casefold(), "")
    return Attributes(age_band(tags.age), sex, tags.view, tags.device, tags.modality)


def age_band(text: str) -> str:
    """Returns `40-49` for an age in years, '' for what is none.

    Args:
      text: `45`, `45.0`, `045Y` or, in months, weeks or days, `007M`.
    """
    match = re.fullmatch(
        r"0*(\d{1,3})(?:\.\d*)?\s*([YMWD]?)", text.strip(), re.IGNORECASE
    )
    if not match:
        return ""
    years = int(match[1]) if match[2].upper() in ("", "Y") else 0
    if years >= _OLD:
        return f"{_OLD}+"
    low = years // 10 * 10
    return f"{low}-{low + 9}"


def patient_key(key: bytes, patient_id: str) -> str:
    """Returns what stands for a patient: HMAC-SHA256 of the ID, in hexadecimal."""
    return hmac.new(key, patient_id.encode(), hashlib.sha256).hexdigest()


@functools.cache
def read_key(path: pathlib.Path) -> bytes:
    """Reads the key of the patients' keys, or makes one where there is none.

    Workers may ask at once: one of them makes it, whole, and all read the same.

    Raises:
      DataError: the file holds no such key.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with open(descriptor, "w", encoding="ascii") as file:  # readable by its owner
            file.write(secrets.token_hex(_KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(name, path)
        except FileExistsError:
            pass
        finally:
            os.unlink(name)
    text = path.read_text(encoding="ascii", errors="replace").strip()
    if not re.fullmatch(r"[0-9a-f]{32,}", text):
        raise cli.DataError(
            f"{path}: no key of patients; expected hexadecimal digits, as the first "
            "conversion of DICOM files writes them"
        )
    return bytes.fromhex(text[: len(text) // 2 * 2])
