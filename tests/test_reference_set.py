"""cxr.reference_set: the one room of the reference set's names."""

import ast
import pathlib
import re

import pytest

from cxr import reference_set
from cxr.conversion import patients

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("filename", "series", "number"),
    [
        ("NORMAL/NORMAL2-IM-0255-0001.jpeg", "NORMAL2-IM", 255),
        ("test/NORMAL/IM-0001-0001.jpeg", "IM", 1),
        ("PNEUMONIA/person88_virus_163.jpeg", "person", 88),
        ("00001803_002.png", "", 1803),
        ("x/film.png", "film", None),
    ],
)
def test_series_and_number_of_a_name(filename, series, number):
    assert reference_set.series(filename) == series
    assert reference_set.number(filename) == number


@pytest.mark.parametrize("kind", reference_set.CLASS_OF_KIND)
@pytest.mark.parametrize("patient_number", [0, 1, 7])
def test_made_names_tell_their_patient(kind, patient_number):
    """What the phantoms are called is what the default patterns read."""
    parse = patients.parser("")
    names = list(reference_set.file_names(kind, patient_number, 3, 10))
    assert len({patient for patient, _ in names}) == 1
    for patient, filename in names:
        subtype, parsed = parse(f"train/{filename}")
        assert subtype == ("" if kind == "normal" else kind)
        assert patient == (f"person{parsed}_{subtype}" if subtype else parsed)


def test_no_other_module_knows_the_set_s_names():
    """Strings of the code, not of docstrings."""
    for path in (ROOT / "cxr").rglob("*.py"):
        if path.name == "reference_set.py":
            continue
        tree = ast.parse(path.read_text())
        statements = {
            id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                known = re.search(
                    r"IM-|NORMAL2|^NORMAL$|^PNEUMONIA$|person", node.value
                )
                # "when a person watches": words for people, not a name
                assert id(node) in statements or not known or " " in node.value, (
                    f"{path}: {node.value!r}"
                )
