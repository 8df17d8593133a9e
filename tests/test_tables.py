"""cxr.tables: tables read back the same, and hold no formulas."""

import csv
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cxr import tables

TEXT = st.text("ab\r\n,\" '=+-@\t1.e")


def test_a_table_reads_back_the_same_and_is_published_whole(tmp_path):
    path = tmp_path / "new" / "a.csv"
    rows = [{"b": None, "a": 'x,"é"'}, {"a": 0.1, "b": 3}]
    tables.publish(path, ("a", "b"), rows, line_end="\r\n")
    assert path.read_bytes().decode() == 'a,b\r\n"x,""é""",\r\n0.1,3\r\n'
    with pytest.raises(ZeroDivisionError):
        tables.publish(path, ("a",), ({"a": 1 / n} for n in (1, 0)))
    assert path.read_bytes().startswith(b"a,b\r\n")
    tables.publish(path, ("a",), ({"a": 1 / n} for n in (1, 2)))
    assert path.read_text() == "a\n1.0\n0.5\n"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("cell", "held"),
    [
        ("=1+1", "'=1+1"),
        ("+x", "'+x"),
        ("-x", "'-x"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\tx", "'\tx"),
        ("'=1", "''=1"),
        ("-1", "-1"),
        ("+1.5e-3", "+1.5e-3"),
        ("-.5", "-.5"),
        ("-inf", "'-inf"),
        ("-1_0", "'-1_0"),
        (-0.5, -0.5),
        (None, None),
        ("'quoted'", "'quoted'"),
        ("a=b", "a=b"),
    ],
)
def test_what_a_spreadsheet_would_compute_is_text(cell, held):
    assert tables.guard(cell) == held


def test_headings_are_guarded_too():
    assert tables.to_text(["=1+1", "b"], []) == "'=1+1,b\n"
    assert tables.parse("'=1+1,b\n") == [["=1+1", "b"]]


@given(st.lists(st.lists(TEXT, min_size=2, max_size=2), max_size=5))
@example([["'=x", "''=x"], ["=x", "-3"]])
def test_what_is_guarded_comes_back(rows):
    columns = ["first", "last"]
    text = tables.to_text(columns, [dict(zip(columns, r, strict=True)) for r in rows])
    assert tables.parse(text) == [columns, *rows]
    for row in csv.reader(io.StringIO(text.replace("\r", "?"), newline="")):
        assert not any(cell.startswith(("=", "@", "\t")) for cell in row)


@given(
    st.lists(st.lists(st.text('ab\r\n," '), min_size=2, max_size=2), max_size=5),
    st.sampled_from(["\n", "\r\n"]),
)
def test_tables_of_before_come_back(rows, line_end):
    rows = [["first", "last"], *rows]
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator=line_end).writerows(rows)
    assert tables.parse(file.getvalue()) == rows


@pytest.mark.parametrize("text", ["", "a,b\n1\n", 'a,b\n"1,2\n', "a\n1,2\n"])
def test_what_is_no_table_is_refused(text):
    with pytest.raises(ValueError, match="not a table"):
        tables.parse(text)


def test_rows_have_the_tables_columns(tmp_path):
    with pytest.raises(ValueError, match="columns"):
        tables.to_text(["a"], [{"b": 1}])
