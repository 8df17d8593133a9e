"""benchmarks.mutants: faults that can be planted, and whose tests must notice."""

import pathlib

import pytest

from benchmarks import mutants

ROOT = pathlib.Path(__file__).parents[1]
SOURCE = """
def f(a: int = 3, *, b: "int < 4" = True) -> "5 + 5":
    "A text with 1 < 2."
    if not a < 2 and b:
        return f"{a + 1}"
    return "ä" + str(
        a * 7
    )
"""


def test_each_fault_changes_one_expression():
    found = list(mutants.sites("x.py", SOURCE))
    changed = {site.plant(SOURCE) for site in found}
    assert len(changed) == len(found)
    assert SOURCE not in changed
    for text in changed:
        compile(text, "x.py", "exec")
    assert {site.kind for site in found} == set(mutants._KINDS)
    assert any("a / 7" in text and '"ä" + str(' in text for text in changed)
    assert not any("5 - 5" in text or "<= 4" in text for text in changed)


def test_a_draw_repeats_and_takes_kinds_in_turn():
    drawn = mutants.draw(ROOT, seed=0, count=7)
    assert drawn == mutants.draw(ROOT, seed=0, count=7)
    assert drawn != mutants.draw(ROOT, seed=1, count=7)
    kinds = mutants._KINDS
    assert [mutant.kind for mutant in drawn] == [*kinds, *kinds[:2]]


@pytest.mark.parametrize(
    ("path", "first"),
    [
        ("cxr/records.py", "tests/test_records.py"),
        ("cxr/conversion/splitting.py", "tests/test_planning.py"),
        ("tools/compare_loaders.py", "tests/test_compare_loaders.py"),
    ],
)
def test_a_modules_own_tests_come_first(path, first):
    found = mutants.tests_of(ROOT, path)
    assert found[0] == first
    assert len(found) <= 5


def test_the_fast_loop_is_the_pages():
    options = mutants.fast_loop(ROOT)
    assert options[:2] == ["-m", "not slow"]
    assert "tests/test_reasons.py" in options
    assert "tests/test_training.py" not in options


@pytest.mark.slow
def test_the_first_failing_test_is_named(tmp_path):
    text = "def test_a(): pass\ndef test_b(): assert 0\ndef test_c(): assert 0\n"
    (tmp_path / "test_x.py").write_text(text)
    assert mutants.first_failure(tmp_path, ["test_x.py"]) == "test_x.py::test_b"
    assert mutants.first_failure(tmp_path, ["test_x.py", "-k", "test_a"]) is None


@pytest.mark.slow
def test_a_test_that_fails_without_the_fault_kills_none(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_x.py").write_text(
        "import m, pytest\n"
        "def test_a(): assert 0\n"
        "@pytest.mark.parametrize('x', [3], ids=['a - b'])\n"
        "def test_b(x): assert m.f(1) == x\n"
    )
    module = tmp_path / "m.py"
    module.write_text("def f(a): return a + 2\n")
    runs = [["tests/test_x.py"]]
    killer = mutants._killer(tmp_path, module, "def f(a): return a - 2\n", runs)
    assert killer == "tests/test_x.py::test_b[a - b]"
    assert module.read_text() == "def f(a): return a + 2\n"
    assert mutants._killer(tmp_path, module, "def f(a): return 2 + a\n", runs) is None
