"""The house's rules, read from the code with ast: who may import whom."""

import ast
import collections
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
ENTRY_POINTS = {f"cxr.{n}" for n in ("train", "evaluate", "predict", "bench", "export")}
ENTRY_POINTS |= {"cxr.doctor", "cxr.__main__"}
HEAVY = {"tensorflow", "keras", "keras_cv", "tensorflow_datasets"}
# Packages from the ground up; each may import itself and what stands before it.
FLOORS = (
    "cxr",
    "storage",
    "images",
    "reporting",
    "metrics",
    "run",
    "input",
    "conversion",
    "synthesis",
    "prediction",
    "exporting",
    "training",
    "evaluation",
    "benchmark",
    "diagnosis",
)
LIGHT = {
    "cxr.__main__",
    "cxr.doctor",
    "cxr.diagnosis.gpu_probe",
    "cxr.cli",
    "cxr.config",
    "cxr.files",
    "cxr.folders",
    "cxr.images",
    "cxr.platforms",
    "cxr.prediction.inputs",
    "cxr.prediction.predict_files",
    "cxr.reporting.html",
    "cxr.records",
    "cxr.runs",
    "cxr.conversion.converter",
    "cxr.conversion.verification",
    "cxr.metrics.summary",
    "cxr.metrics.classification",
    "cxr.evaluation.report",
    "cxr.synthesis.phantom_set",
    "cxr.training.checkpoints",
    "cxr.training.preflight",
    "cxr.schedules",
    "cxr.storage.sets",
}


def _name(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {
    _name(path): path
    for path in (ROOT / "cxr").rglob("*.py")
    if path != ROOT / "cxr" / "__init__.py"
}


def imports(path, *, top_level=False):
    """Names of the modules a file imports; `a.x` for `from a import x`, too."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(path, **options):
    return {name.split(".")[0] for name in imports(path, **options)}


def ours(path, **options):
    return {name for name in imports(path, **options) if name in MODULES}


def floor(name):
    room = name.split(".")[1]
    # A run's flags and model: above the threshold rules.
    of_runs = ("config", "environment", "input_guard", "model_card", "model_file")
    if room in (*of_runs, "model_info", "runs"):
        room = "run"
    return FLOORS.index(room if room in FLOORS else "cxr")


def test_no_library_imports_an_entry_point():
    for name, path in MODULES.items():
        if name not in ENTRY_POINTS:
            assert not ours(path) & ENTRY_POINTS, name


def test_imports_run_down_the_floors():
    for name, path in MODULES.items():
        if name not in ENTRY_POINTS:
            above = {other for other in ours(path) if floor(other) > floor(name)}
            assert not above, f"{name} imports {above}"


def test_no_circles():
    graph = {name: ours(path) for name, path in MODULES.items()}
    done, path = set(), []

    def visit(name):
        assert name not in path, f"circle: {path[path.index(name) :]}"
        if name in done:
            return
        path.append(name)
        for other in graph[name]:
            visit(other)
        path.pop()
        done.add(name)

    for name in graph:
        visit(name)
    assert done == set(MODULES)


@pytest.mark.parametrize("name", sorted(LIGHT))
def test_light_modules_import_nothing_heavy_even_indirectly(name):
    waiting, seen = [name], set()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        path = MODULES[module]
        assert not packages(path, top_level=True) & HEAVY, f"{name} -> {module}"
        waiting += ours(path, top_level=True)


def test_what_is_installed_needs_no_measurement_and_those_need_no_test():
    """But for the one command that says so, where benchmarks/ is missing."""
    entry = ROOT / "tools" / "compare_loaders.py"
    installed = {*MODULES.values(), *(ROOT / "tools").glob("*.py")} - {entry}
    for path in installed:
        assert not {"benchmarks", "tests"} & packages(path), path
    for path in (ROOT / "benchmarks").glob("*.py"):
        assert not {"tests", "pytest", "argparse"} & packages(path), path


def test_the_workspace_page_names_every_module():
    page = (ROOT / "WORKSPACE.md").read_text()
    rooms = page[page.index("## Rooms") : page.index("Beside them")]
    named = set(re.findall(r"`(?:cxr/|tools/)?(\w+)(?:\.py)?`", rooms))
    modules = [
        *MODULES,
        *(f"tools.{p.stem}" for p in (ROOT / "tools").glob("[!_]*.py")),
    ]
    missing = [
        name
        for name in modules
        if name.rpartition(".")[2] not in named
        and MODULES.get(name, ROOT).name != "__init__.py"
    ]
    assert not missing


def test_the_changes_table_names_files_that_exist():
    page = (ROOT / "WORKSPACE.md").read_text()
    table = page[page.index("## Where a change goes") : page.index("## Invariants")]
    files = re.findall(r"`(cxr/[\w/]+\.py)`", table)
    assert len(files) >= 10
    assert all((ROOT / file).is_file() for file in files)


def test_every_invariant_names_tests_that_exist():
    page = (ROOT / "WORKSPACE.md").read_text()
    table = page[page.index("## Invariants") : page.index("## Glossary")]
    rows = [line for line in table.splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 10
    for row in rows:
        held_by = re.findall(r"`(\w+\.py)::(test_\w+)`", row)
        assert held_by, row
        for file, name in held_by:
            assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(), name


def test_no_room_holds_more_than_a_fifth_of_the_code():
    sizes = collections.Counter()
    for path in [*MODULES.values(), *(ROOT / "tools").glob("*.py")]:
        sizes[path.parent] += len(path.read_text().splitlines())
    room, largest = sizes.most_common(1)[0]
    assert largest <= 0.2 * sizes.total(), room


def test_no_function_is_longer_than_sixty_lines():
    long = []
    for folder in ("cxr", "tools", "benchmarks", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef):
                    length = node.end_lineno - node.lineno + 1
                    if length > 60:
                        long.append(f"{path.relative_to(ROOT)}:{node.name} {length}")
    assert not long


def test_keras_cv_has_one_room():
    importers = {name for name, path in MODULES.items() if "keras_cv" in packages(path)}
    assert importers == {"cxr.input.keras_cv_layers"}


def test_numba_is_optional_and_has_one_room():
    """Imported where a stream is worth compiling for, and for that comparison."""
    importers = {
        name
        for name, path in MODULES.items()
        if any(other.split(".")[0] == "numba" for other in imports(path))
    }
    assert importers == {"cxr.input.jpeg.loop"}
    loop = {
        name for name, path in MODULES.items() if "cxr.input.jpeg.loop" in ours(path)
    }
    assert loop == {"cxr.input.jpeg.decoder"}
    decoder = MODULES["cxr.input.jpeg.decoder"]
    assert "cxr.input.jpeg.loop" not in ours(decoder, top_level=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not [need for need in project["dependencies"] if need.startswith("numba")]
    extras = project["optional-dependencies"]
    assert set(extras["fast-jpeg"]) <= set(extras["test"])


def test_the_pipeline_knows_no_keras():
    for name in ("pipeline", "reader", "resident", "augmentation"):
        found = packages(MODULES[f"cxr.input.{name}"])
        assert not found & {"keras", "keras_cv"}, name


@pytest.mark.parametrize(
    "command",
    [
        ["cxr.train", "--batch_sise=3"],
        ["cxr.train", "--data_dir=/no/where"],
        ["cxr.evaluate", "--workdir=/no/where"],
        ["cxr.predict", "--workdir=/no/where", "--output=x.csv", "y.png"],
        ["cxr.bench", "--epochs=none"],
        ["cxr.export", "--workdir=x", "--format=onnx"],
        ["cxr.doctor", "--format=xml"],
        ["cxr", "train", "--batch_sise=3"],
        ["cxr", "verify", "--data_dir=/no/where"],
        ["tools.make_tfrecords", "--input_dir=/no/where"],
        ["tools.verify_tfrecords", "--data_dir=/no/where"],
        ["tools.make_phantoms", "--num_patients=0", "--output_dir=x"],
        ["tools.compare_loaders", "--input_dir=/no/where", "--output_dir=x"],
        ["benchmarks.survival", "--kills=none"],
        ["benchmarks.conversion_speed", "--input_dir=/no/where"],
        ["benchmarks.training_speed", "--repeats=0"],
        ["benchmarks.augmentation_speed", "--data_dir=/no", "--output_dir=x"],
        ["benchmarks.bench_reliability", "--verdict=3"],
        ["benchmarks.hostile_films", "--damaged=-1"],
        ["benchmarks.gpu_acceptance", "--only=nothing"],
        ["benchmarks.compute_peers", "--output_dir=x", "--cases=none"],
        ["benchmarks.mutants", "--count=0"],
        ["benchmarks.notebook_recipe", "--input_dir=/no/where", "--output_dir=x"],
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
    assert found.returncode in (1, 2, 65, 69), found.stderr
    assert found.stdout.strip() == "LIGHT"
    assert 1 <= len(found.stderr.strip().splitlines()) <= 6, found.stderr
    assert "Traceback" not in found.stderr
