"""cxr.reasons: one table of codes, all of them used, none beside it."""

import ast
import pathlib
import pickle

import pytest

from cxr.reasons import MEANINGS, BadImage, Rejected, error_status

ROOT = pathlib.Path(__file__).parents[1]
# Where the code stands among the arguments of what takes one.
TAKERS = {"BadImage": 0, "Rejected": 1, "error_status": 0}


def strings(node: ast.AST) -> set[str]:
    constants = (n.value for n in ast.walk(node) if isinstance(n, ast.Constant))
    return {value for value in constants if isinstance(value, str)}


def codes_of(function: ast.AST) -> set[str]:
    """The codes that a function's calls of `TAKERS` may pass.

    A variable stands for every string assigned to it in the function, so a dict or
    a conditional expression of codes is seen, too.
    """
    found: set[str] = set()
    assigned: dict[str, set[str]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            held = assigned.setdefault(node.targets[0].id, set())
            held |= strings(node.value)
    for node in ast.walk(function):
        name = getattr(getattr(node, "func", None), "id", None)
        if name in TAKERS:
            argument = node.args[TAKERS[name]]
            found |= strings(argument)
            for part in ast.walk(argument):
                if isinstance(part, ast.Name):
                    found |= assigned.get(part.id, set())
        elif isinstance(node, ast.Call):  # passed on by name, as to folders.read_file
            passed = (k.value for k in node.keywords if k.arg == "special")
            found.update(*map(strings, passed))
    for default in [*function.args.defaults, *function.args.kw_defaults]:
        if default is not None and "special" in ast.unparse(function.args):
            found |= strings(default)
    return found


def all_codes() -> dict[str, str]:
    """Code -> a file that raises it."""
    found = {}
    for folder in ("cxr", "tools"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef):
                    found |= dict.fromkeys(codes_of(node), str(path))
    return found


def test_the_codes_of_the_sources_are_those_of_the_table():
    raised = all_codes()
    unknown = {code: path for code, path in raised.items() if code not in MEANINGS}
    assert not unknown
    assert MEANINGS.keys() - raised.keys() == set(), "in the table, never raised"


def test_no_status_is_written_past_the_table():
    """`error: CODE` is made by `error_status` alone."""
    for path in (ROOT / "cxr").rglob("*.py"):
        if path.name == "reasons.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            value = getattr(node, "value", None)
            if isinstance(value, str) and value.startswith("error: "):
                # These speak to the terminal.
                terminal = ("cli.py", "__main__.py", "cluster.py")
                assert path.name in terminal, f"{path}: {value!r}"


@pytest.mark.parametrize(
    "make",
    [
        lambda: BadImage("unheard_of", "x"),
        lambda: Rejected("path", "unheard_of", "x"),
        lambda: error_status("unheard_of", "x"),
    ],
)
def test_an_unknown_code_is_our_mistake(make):
    with pytest.raises(AssertionError, match="unheard_of"):
        make()


def test_errors_and_rows_cross_processes():
    """Workers of a conversion send both."""
    error = pickle.loads(pickle.dumps(BadImage("empty", "0 bytes")))
    assert (error.reason, error.detail, str(error)) == (
        "empty",
        "0 bytes",
        "empty: 0 bytes",
    )
    row = pickle.loads(pickle.dumps(Rejected("a", "empty", "0 bytes")))
    assert row == ("a", "empty", "0 bytes")
    assert type(row) is Rejected
    assert Rejected._fields == ("path", "reason", "detail")
