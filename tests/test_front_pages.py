"""What README.md and the pages beside it promise of the code, held to the code."""

import ast
import functools
import json
import pathlib
import re

import pytest

import cxr
from cxr.__main__ import VERBS

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
_SHOWN = ("median", "min", "max")


@functools.cache
def strings():
    """Every text in the code, what is formatted into it as `...`."""
    found = []
    for folder in ("cxr", "tools"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
                elif isinstance(node, ast.JoinedStr):
                    parts = [getattr(part, "value", "") for part in node.values]
                    found.append(
                        "".join(p if isinstance(p, str) else "..." for p in parts)
                    )
    return [" ".join(text.split()) for text in found]


def entries():
    """Messages of the troubleshooting table, as they are quoted."""
    start = README.index("## When something fails")
    section = README[start : README.index("Tried on Linux", start)]
    return re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)


def test_few_messages_are_explained():
    assert 5 <= len(entries()) <= 8


@pytest.mark.parametrize("message", entries())
def test_quoted_messages_are_printed(message):
    """All fixed parts in one text of the code, in their order."""
    parts = [part for part in re.split(r"\s*\.\.\.\s*", message) if part.strip(": ")]
    pattern = re.compile(".*".join(map(re.escape, parts)), re.DOTALL)
    assert any(map(pattern.search, strings())), parts


def test_the_commands_table_names_every_verb():
    for verb, (module, _) in VERBS.items():
        assert f"| `cxr {verb}` = `python -m {module}` |" in README


def test_the_first_commands_stay_where_the_gate_looks_for_them():
    first, second = re.findall(r"^```bash\n(.*?)^```$", README, re.M | re.S)[:2]
    assert "configs/quickstart.flags" in first
    assert second.rstrip().endswith("-m pytest")
    assert first.count("\n") == second.count("\n") == 1
    assert ".ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert ".ci/run" in (ROOT / "CONTRIBUTING.md").read_text()


def test_the_table_of_loaders_is_what_was_measured():
    report = json.loads((ROOT / "benchmarks/results/loaders.json").read_text())
    section = README[README.index("## Speed") : README.index("Streams of JPEG")]
    for versions in report["environment"]["versions"].values():
        for package in ("tensorflow", "keras", "ffcv", "nvidia-dali-cuda120"):
            assert versions.get(package, "") in section
    rows = re.findall(r"^\| [^|]+ \(`([^`]+)`\) \|(.+)\|(.+)\|.+\|$", section, re.M)
    shown = {name: cells for name, *cells in rows}
    assert len(shown) >= 15
    for name, cells in shown.items():
        for size, cell in zip(("32", "128"), cells, strict=True):
            rate = report["runs"][size][name]["images_per_sec"]
            median, low, high = (rate[key] for key in _SHOWN)
            assert cell.strip() == f"{median:,.0f} ({low:,.0f} - {high:,.0f})", name


def test_the_table_of_compute_is_what_was_measured():
    report = json.loads((ROOT / "benchmarks/results/compute.json").read_text())
    section = README[
        README.index("Computing is done") : README.index("Training in bfl")
    ]
    for version in report["environment"]["versions"].values():
        assert version.partition("+")[0] in section
    shown = re.findall(r"^\| `(\w+ [\w ]+)`[^|]*\|(.+)\|.+\|$", section, re.M)
    assert len(shown) == 6
    for case, cells in shown:
        rows = [row for row in report["rows"] if row["case"] == case]
        ours = [
            [row for row in rows if row["peer"] == f"cxr {precision}"]
            for precision in ("float32", "bfloat16")
        ]
        best = [
            [max((r for r in rows if r["family"] == family), key=_median)]
            for family in ("keras", "torch")
        ]
        expected = [_rates(row) for row in (*ours, *best)]
        assert [cell.strip() for cell in cells.split("|")] == expected, case


def _median(row):
    return row["images_per_sec"]["median"]


def _rates(rows):
    """`12.9 (12.7 - 13.6)`, three digits each; a dash where nobody measured."""
    if not rows:
        return "-"
    rate = rows[0]["images_per_sec"]
    median, low, high = (f"{rate[key]:#.3g}".rstrip(".") for key in _SHOWN)
    return f"{median} ({low} - {high})"


def test_the_citation_is_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^version: (.+)$", citation, re.MULTILINE) == [cxr.__version__]


def test_a_bug_report_asks_for_what_the_commands_write():
    form = (ROOT / ".github" / "ISSUE_TEMPLATE" / "bug_report.yml").read_text()
    for word in ("cxr doctor --format=json", "bench.md", "run.flags", "metrics.json"):
        assert word in form
        assert word.startswith("cxr") or any(word in text for text in strings())


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.gpu"])
def test_an_image_is_built_of_what_it_may_see(name):
    """What .dockerignore lets through, and extras that exist."""
    text = (ROOT / "docker" / name).read_text()
    seen = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.M))
    copied = set()
    for line in re.findall(r"^COPY (.+) \S+$", text, re.M):
        copied |= set(line.split())
    assert copied == seen
    (extras,) = re.findall(r"^ARG EXTRAS=(.+)$", text, re.M)
    project = (ROOT / "pyproject.toml").read_text()
    assert all(
        re.search(rf"^{extra} = \[", project, re.M) for extra in extras.split(",")
    )
