"""Whether the tests would notice: faults planted in the code, one at a time.

  python -m benchmarks.mutants --seed=0 --count=20

Draws faults of five kinds in turn (comparison, arithmetic, constant, boolean, return)
from `cxr/` and `tools/`, plants each in a copy of the tree, and runs the tests of its
module, then the fast loop of CONTRIBUTING.md, up to the first test that fails. That
test must pass without the fault. Prints each fault with what killed it; the survivors
are listed in benchmarks/mutants.md: as equivalent, or with the test that they brought.
"""

import ast
import collections
import dataclasses
import difflib
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from cxr import cli, console

_ROOT = pathlib.Path(__file__).parents[1]
_COPIED = ("*.md", ".ci", ".dockerignore", ".github", "CITATION.cff", "LICENSE")
_COPIED += ("docker", "docs", "pyproject.toml", "benchmarks", "configs", "cxr", "tests")
_COPIED += ("tools",)
_KINDS = ("comparison", "arithmetic", "constant", "boolean", "return")
_FILES = 5  # test files of a module; with more, those that import the least beside it
_TIMEOUT_S = 900  # a fault that makes a loop endless is noticed, too
_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


@dataclasses.dataclass(frozen=True)
class MutantsConfig:
    """Which faults are planted."""

    seed: int = cli.option(0, "seed of the draw", lower=0)
    count: int = cli.option(20, "faults to plant", lower=1)
    only: tuple[str, ...] = cli.option((), "numbers of the faults to try, from 1")


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A fault: bytes `begin` to `end` of a file become `text`."""

    path: str
    line: int
    kind: str
    begin: int
    end: int
    text: str

    def plant(self, source: str) -> str:
        """Returns the file's source with the fault."""
        data = source.encode()
        return (data[: self.begin] + self.text.encode() + data[self.end :]).decode()


def sites(path: str, source: str) -> Iterator[Mutant]:
    """Yields every fault that a file can have; each changes one expression."""
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in _executed(ast.parse(source)):
        for kind, old, new in _changes(node):
            begin = starts[old.lineno - 1] + old.col_offset
            end = starts[old.end_lineno - 1] + old.end_col_offset
            # In brackets, which keep what the expression stands in as it was.
            text = new if kind == "constant" else f"({new})"
            yield Mutant(path, old.lineno, kind, begin, end, text)


def _executed(tree: ast.Module) -> Iterator[ast.AST]:
    """Walks the tree without annotations and f-strings, whose parts have no place."""
    waiting = collections.deque([tree])
    while waiting:
        node = waiting.popleft()
        yield node
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns") or isinstance(value, ast.JoinedStr):
                continue
            children = value if isinstance(value, list) else [value]
            waiting += [
                child
                for child in children
                if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr)
            ]


def _changes(node: ast.AST) -> Iterator[tuple[str, ast.expr, str]]:
    """Yields (kind, what is replaced, by what) for a node."""
    match node:
        case ast.Compare(ops=[op]):
            changed = ast.Compare(node.left, [_SWAPS[type(op)]()], node.comparators)
            yield "comparison", node, ast.unparse(changed)
        case ast.BinOp(op=op) if type(op) in _SWAPS:
            changed = ast.BinOp(node.left, _SWAPS[type(op)](), node.right)
            yield "arithmetic", node, ast.unparse(changed)
        case ast.BoolOp(op=op):
            changed = ast.BoolOp(_SWAPS[type(op)](), node.values)
            yield "boolean", node, ast.unparse(changed)
        case ast.UnaryOp(op=ast.Not()):
            yield "boolean", node, ast.unparse(node.operand)
        case ast.Constant(value=bool()):
            yield "constant", node, str(not node.value)
        case ast.Constant(value=int() | float()):
            yield "constant", node, repr(node.value + 1)
        case ast.Return(value=ast.expr() as value) if ast.unparse(value) != "None":
            yield "return", value, "None"


def draw(root: pathlib.Path, seed: int, count: int) -> list[Mutant]:
    """Draws `count` different faults, the kinds in turn."""
    found = collections.defaultdict(list)
    for folder in ("cxr", "tools"):
        for path in sorted((root / folder).rglob("*.py")):
            for site in sites(path.relative_to(root).as_posix(), path.read_text()):
                found[site.kind].append(site)
    generator = random.Random(seed)
    for kind in _KINDS:
        generator.shuffle(found[kind])
    return [found[_KINDS[i % len(_KINDS)]][i // len(_KINDS)] for i in range(count)]


def tests_of(root: pathlib.Path, path: str) -> list[str]:
    """Returns a module's test files, the closest first.

    Those named as it is or that import it; where there are none, those of the modules
    that import it.
    """
    imported = {
        file.relative_to(root).as_posix(): _imports(file)
        for folder in ("cxr", "tools", "tests")
        for file in sorted((root / folder).rglob("*.py"))
    }
    wanted, seen = [path], {path}
    while wanted:
        names = {_module(one) for one in wanted}
        users = [file for file, used in imported.items() if used & names]
        stems = {f"tests/test_{pathlib.PurePath(one).stem}.py" for one in wanted}
        tests = [
            file
            for file in imported
            if file in stems or (file.startswith("tests/test_") and file in users)
        ]
        if tests:
            ordered = sorted(tests, key=lambda f: (f not in stems, len(imported[f])))
            return ordered[:_FILES]
        wanted = [file for file in users if file not in seen]
        seen.update(wanted)
    return []


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imports(file: pathlib.Path) -> set[str]:
    """Returns what of ours a file imports; `a.x` for `from a import x`, too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in names if name.split(".")[0] in ("cxr", "tools")}


def copy(root: pathlib.Path, target: pathlib.Path) -> None:
    """Copies what the tests need; links stay links."""
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for pattern in _COPIED:
        for path in root.glob(pattern):
            if path.is_dir():
                options = {"symlinks": True, "ignore": unwanted}
                shutil.copytree(path, target / path.name, **options)
            else:
                shutil.copy(path, target)


def first_failure(tree: pathlib.Path, arguments: list[str]) -> str | None:
    """Runs pytest in a tree; returns the first test that fails, None if none does."""
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider"]
    process = subprocess.Popen(
        [*command, *arguments],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        told, _ = process.communicate(timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"no end within {_TIMEOUT_S} s"
    if process.returncode == 0:
        return None
    found = re.search(
        r"^(?:FAILED|ERROR) (\S+?(?:\[.*\])?)(?: - |$)", told, re.MULTILINE
    )
    return found[1] if found else told.strip()[-400:]


def fast_loop(tree: pathlib.Path) -> list[str]:
    """Returns pytest's arguments of CONTRIBUTING.md's fast loop."""
    page = (tree / "CONTRIBUTING.md").read_text()
    (left_out,) = re.findall(r"grep -L (.+) tests/test_\*\.py", page)
    words = [word for word in left_out.split() if word != "-e"]
    files = sorted((tree / "tests").glob("test_*.py"))
    light = [f for f in files if not any(word in f.read_text() for word in words)]
    return ["-m", "not slow", *(str(file.relative_to(tree)) for file in light)]


def run(config: MutantsConfig) -> int:
    """Plants the faults; returns how many survived."""
    survived = 0
    with tempfile.TemporaryDirectory(prefix="cxr-mutants-") as scratch:
        tree = pathlib.Path(scratch)
        copy(_ROOT, tree)
        for number, mutant in enumerate(draw(tree, config.seed, config.count), 1):
            if config.only and str(number) not in config.only:
                continue
            console.note(f"fault {number}, {mutant.path} ...")
            path = tree / mutant.path
            source = path.read_text()
            planted = mutant.plant(source)
            runs = [r for r in (tests_of(tree, mutant.path), fast_loop(tree)) if r]
            killer = _killer(tree, path, planted, runs)
            survived += killer is None
            _say(number, mutant, killer, source, planted)
    console.say(f"{survived} survived")
    return survived


def _killer(
    tree: pathlib.Path, path: pathlib.Path, planted: str, runs: list[list[str]]
) -> str | None:
    """Returns the first test that fails with a fault and passes without it.

    Args:
      tree: the copy.
      path: the file in it that gets the fault, and its source back.
      planted: its source with the fault.
      runs: pytest's arguments, tried in order.
    """
    source, unsound = path.read_text(), []
    while True:
        path.write_text(planted)
        try:
            found = (first_failure(tree, [*arguments, *unsound]) for arguments in runs)
            killer = next(filter(None, found), None)
        finally:
            path.write_text(source)
        is_test = killer and killer.startswith("tests/")
        if not is_test or first_failure(tree, [killer]) is None:
            return killer
        console.note(f"{killer} fails without the fault, too")
        unsound.append(f"--deselect={killer}")


def _say(
    number: int, mutant: Mutant, killer: str | None, source: str, planted: str
) -> None:
    fate = f"killed by {killer}" if killer else "SURVIVED"
    console.say(f"{number}. {mutant.path}:{mutant.line} {mutant.kind}: {fate}")
    lines = difflib.unified_diff(
        source.splitlines(), planted.splitlines(), lineterm="", n=0
    )
    console.say(*(f"   {line}" for line in list(lines)[3:]))


def main(argv: list[str]) -> int:
    """Runs the command line; 1 where a fault survived."""
    config, positional = cli.parse(argv, MutantsConfig, usage=__doc__)
    cli.reject_positional(positional)
    return 1 if run(config) else 0


if __name__ == "__main__":
    cli.run(main)
