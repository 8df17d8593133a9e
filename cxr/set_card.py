"""The card of a data set: whose films these are, and what their labels rest on.

A small JSON file that a person writes and no software can guess. Every key but `name`
may be left out, or be null or "not known":

  name                what the set is called
  source              where the films can be had
  population          whose films these are, and how they were chosen
  ages                such as "18 to 94 years"
  setting             hospital, country, ward, routine care or study
  reference_standard  what a label rests on
  labelled_by         who gave the labels, how many, of what training
  devices             machines and projections
  period              when the films were taken
  licence             of the films
  citation            how to cite them
  known_biases        list of sentences: what a reader should distrust
"""

import dataclasses
import difflib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from cxr import cli, documents

FILE = "card.json"  # in a set, beside its manifest, which lists it
UNKNOWN = "not known"
_PACKAGED = ".card.json"  # what the names of packaged cards end with
_MAX_BYTES = 1 << 20  # 1 MiB


@dataclasses.dataclass(frozen=True)
class SetCard:
    """What a card says, texts; empty where it is not known."""

    name: str
    source: str = ""
    population: str = ""
    ages: str = ""
    setting: str = ""
    reference_standard: str = ""
    labelled_by: str = ""
    devices: str = ""
    period: str = ""
    licence: str = ""
    citation: str = ""
    known_biases: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Returns the card's text: the same card gives the same bytes."""
        return json.dumps(self.content(), indent=1, ensure_ascii=False) + "\n"

    def content(self) -> dict[str, Any]:
        """Returns what it says, ready for JSON; None where it is not known."""
        told = {key: getattr(self, key) or None for key in KEYS}
        return told | {"known_biases": list(self.known_biases) or None}


KEYS = tuple(field.name for field in dataclasses.fields(SetCard))


def rows(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns (what, text) for people, "not known" where it is not.

    Args:
      content: of `SetCard.content`.
    """
    told = []
    for key in KEYS:
        value = content.get(key) or UNKNOWN
        text = value if isinstance(value, str) else "\n".join(value)
        told.append((key.replace("_", " "), text))
    return told


def parse(text: str) -> SetCard:
    """Parses a card.

    Raises:
      ValueError: no JSON object, a key that no card has, or a value of another kind;
        it names the key and what stands there.
    """
    fields = documents.parse(text)
    for key in fields.content:
        if key not in KEYS:
            raise ValueError(f"{key!a} is no key of a card{_meant(key)}")
    texts = {key: _text(fields, key) for key in KEYS if key != "known_biases"}
    if not texts["name"]:
        raise ValueError(f"name is missing; a card has {', '.join(KEYS)}")
    known = fields.has("known_biases") and fields.content["known_biases"] != UNKNOWN
    biases = fields.texts("known_biases") if known else ()
    return SetCard(**texts, known_biases=biases)


def read(name: str) -> SetCard:
    """Reads the card that `--set_card` names.

    Args:
      name: a file; or, where there is none, a card that comes with cxr, such as
        `chest_xray`.

    Raises:
      UsageError: no such file.
      DataError: no card; names the file, the key and the value.
    """
    path = cli.find_packaged(name, _PACKAGED) or pathlib.Path(name)
    if not path.is_file():
        packaged = sorted(p.name for p in cli.CONFIGS.glob(f"*{_PACKAGED}"))
        raise cli.UsageError(
            f"--set_card={name}: no such file; expected the JSON card of a set, or one "
            f"that comes with cxr: {', '.join(packaged)}"
        )
    with documents.reading(f"--set_card={name}"):
        return parse(documents.read_text(path, _MAX_BYTES))


def _text(fields: documents.Fields, key: str) -> str:
    if not fields.has(key):
        return ""
    value = fields.text(key).strip()
    return "" if value.casefold() == UNKNOWN else value


def _meant(key: str) -> str:
    close = difflib.get_close_matches(key, KEYS, n=1)
    return f"; {close[0]} is meant?" if close else f"; it has {', '.join(KEYS)}"
