"""The house's rules, read from the code with ast: who may import whom."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
ENTRY_POINTS = {"train", "evaluate", "predict", "bench"}
HEAVY = {"tensorflow", "keras", "keras_cv", "tensorflow_datasets"}
LIGHT = {
    "checkpoints",
    "cli",
    "config",
    "conversion",
    "files",
    "images",
    "metrics",
    "phantoms",
    "phantom_set",
    "preflight",
    "provenance",
    "records",
    "runs",
    "schedules",
}


def modules(folder):
    return {path.stem: path for path in (ROOT / folder).glob("*.py")}


def imports(path, *, top_level=False):
    """Names of the modules a file imports; `cxr.x` for `from cxr import x`."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module == "cxr":
                yield from (f"cxr.{alias.name}" for alias in node.names)
            else:
                yield node.module


def ours(path, **options):
    names = (name for name in imports(path, **options) if name.startswith("cxr."))
    return {name.split(".")[1] for name in names}


def test_no_library_imports_an_entry_point():
    for name, path in modules("cxr").items():
        if name not in ENTRY_POINTS:
            assert not ours(path) & ENTRY_POINTS, name


def test_imports_run_one_way():
    graph = {name: ours(path) for name, path in modules("cxr").items()}
    done, path = set(), []

    def visit(name):
        assert name not in path, f"circle: {path[path.index(name) :]}"
        if name in done or name not in graph:
            return
        path.append(name)
        for other in graph[name]:
            visit(other)
        path.pop()
        done.add(name)

    for name in graph:
        visit(name)
    assert len(done) == len(graph)


@pytest.mark.parametrize("name", sorted(LIGHT))
def test_light_modules_import_nothing_heavy_even_indirectly(name):
    known = modules("cxr")
    waiting, seen = [name], set()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        heavy = {n.split(".")[0] for n in imports(known[module], top_level=True)}
        assert not heavy & HEAVY, f"{name} -> {module}"
        waiting += ours(known[module], top_level=True)


def test_keras_cv_has_one_importer_room():
    importers = {
        name
        for name, path in modules("cxr").items()
        if any(n.split(".")[0] == "keras_cv" for n in imports(path))
    }
    assert importers
    assert all(name.startswith("augmentation") for name in importers)


def test_the_pipeline_knows_no_keras():
    for name in ("pipeline", "decoding", "resident"):
        found = {n.split(".")[0] for n in imports(modules("cxr")[name])}
        assert not found & {"keras", "keras_cv"}, name


@pytest.mark.parametrize(
    "command",
    [
        ["cxr.train", "--batch_sise=3"],
        ["cxr.train", "--data_dir=/no/where"],
        ["cxr.evaluate", "--workdir=/no/where"],
        ["cxr.predict", "--workdir=/no/where", "--output=x.csv", "y.png"],
        ["cxr.bench", "--epochs=none"],
        ["tools.make_tfrecords", "--input_dir=/no/where"],
        ["tools.verify_tfrecords", "--data_dir=/no/where"],
        ["tools.make_phantoms", "--num_patients=0", "--output_dir=x"],
        ["tools.compare_loaders", "--input_dir=/no/where", "--output_dir=x"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_refused_without_importing_tensorflow(command, tmp_path):
    """Importing TensorFlow takes longer than the three seconds a refusal may take."""
    module, *args = command
    code = (
        "import sys, runpy\n"
        f"sys.argv = {[module, *args]!r}\n"
        "try:\n"
        f"    runpy.run_module({module!r}, run_name='__main__')\n"
        "finally:\n"
        "    print('HEAVY' if 'tensorflow' in sys.modules else 'LIGHT')\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    assert found.returncode in (1, 2, 65), found.stderr
    assert found.stdout.strip() == "LIGHT"
    assert 1 <= len(found.stderr.strip().splitlines()) <= 6, found.stderr
    assert "Traceback" not in found.stderr
