"""What a wheel holds, read from pyproject.toml as setuptools reads it."""

import pathlib
import tomllib

from setuptools import find_namespace_packages

from cxr.__main__ import VERBS

ROOT = pathlib.Path(__file__).parents[1]


def content():
    """Paths of a wheel's files, relative to the checkout."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    packages, data = (tools["setuptools"][key] for key in ("packages", "package-data"))
    found = set()
    for package in find_namespace_packages(ROOT, **packages["find"]):
        folder = ROOT / package.replace(".", "/")
        for pattern in ["*.py", *data.get(package, ())]:
            found |= {str(path.relative_to(ROOT)) for path in folder.glob(pattern)}
    return found


def test_a_wheel_holds_the_package_the_tools_and_nothing_beside_them():
    found = content()
    assert {path.split("/")[0] for path in found} == {"cxr", "tools"}
    recipes = {f"cxr/configs/{path.name}" for path in (ROOT / "configs").iterdir()}
    assert len(recipes) >= 4
    assert found >= {*recipes, "cxr/py.typed", "tools/compare_loaders.py"}


def test_a_wheel_lacks_no_file_of_the_package():
    files = [*(ROOT / "cxr").rglob("*.*"), *(ROOT / "tools").rglob("*.*")]
    made = [file for file in files if "__pycache__" not in file.parts]
    assert not {str(file.relative_to(ROOT)) for file in made} - content()


def test_a_wheel_holds_every_verb():
    files = {f"{module.replace('.', '/')}.py" for module, _ in VERBS.values()}
    assert not files - content()
