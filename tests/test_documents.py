"""cxr.documents: every wrong field of a foreign document is named."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr import cli, documents


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expecting value"),
        ("[]", r"the document is \[\], expected an object"),
        ('{"a": 1, "a": 2}', "'a' stands there twice"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": -Infinity}', "-Infinity is no number"),
    ],
)
def test_what_is_no_document_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        documents.parse(text)


@pytest.mark.parametrize(
    ("value", "call", "words"),
    [
        (True, lambda f: f.integer("x", 0), "x is True, expected a whole number, 0"),
        (1.0, lambda f: f.integer("x", 0), "x is 1.0, expected"),
        (9, lambda f: f.integer("x", 0, 8), "x is 9, expected a whole number, 0 to 8"),
        ("1", lambda f: f.number("x", 0, 1), "x is '1', expected a number, 0 to 1"),
        (10**400, lambda f: f.number("x", 0, 1), "expected a number"),
        (7, lambda f: f.text("x"), "x is 7, expected a text"),
        ("a\nb", lambda f: f.text("x"), r"x is 'a\\nb', expected .* control"),
        ("a\u202eb", lambda f: f.text("x"), "control characters"),
        ("q", lambda f: f.text("x", choices=("a", "b")), "expected one of a, b"),
        ("../q", lambda f: f.file_name("x"), "expected"),
        ("..", lambda f: f.file_name("x"), "a plain file name"),
        ("AB", lambda f: f.sha256("x"), "a SHA-256"),
        ({"y": 1}, lambda f: f.section("x").text("y"), "x.y is 1, expected a text"),
        ({}, lambda f: f.section("x").text("y"), "x.y is missing"),
        ([1], lambda f: f.sections("x"), r"x\[0\] is 1, expected an object"),
        (["a", 1], lambda f: f.texts("x"), "x.1 is 1, expected a text"),
        (["a", "a"], lambda f: f.class_names("x"), "two different names"),
        ("x" * 9999, lambda f: f.text("x"), r"x is 'x{59}\.\.\., expected"),
    ],
)
def test_a_wrong_field_is_named_with_what_would_be_right(value, call, words):
    with pytest.raises(ValueError, match=words):
        call(documents.Fields({"x": value}))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda parts: st.lists(parts) | st.dictionaries(st.text(), parts),
)


@given(_JSON)
def test_no_value_breaks_a_method(value):
    fields = documents.Fields({"x": value})
    for call in (
        lambda: fields.text("x"),
        lambda: fields.text("x", choices=("a", "b")),
        lambda: fields.file_name("x"),
        lambda: fields.sha256("x"),
        lambda: fields.integer("x", 0, 10),
        lambda: fields.number("x", 0, 1),
        lambda: fields.texts("x"),
        lambda: fields.sections("x"),
        lambda: fields.class_names("x"),
    ):
        try:
            call()
        except ValueError as error:
            assert "x" in str(error)
            assert str(error).isprintable()


def test_what_is_wrong_names_the_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"x": 1}))
    with pytest.raises(cli.DataError, match=r"a\.json: x is 1"):
        with documents.reading(path):
            documents.read(path).text("x")


def test_pipes_folders_and_giants_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "giant").write_bytes(b" " * 100)
    for name in ("pipe", ".", "giant"):
        with pytest.raises(ValueError):
            documents.read_text(tmp_path / name, max_bytes=99)
