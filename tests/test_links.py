"""Links of the pages lead to files and headings that exist; without a network."""

import functools
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [
    page
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md", ".github/**/*.md")
    for page in sorted(ROOT.glob(pattern))
]
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


@functools.cache
def anchors(page):
    """What `#...` may name: the headings, as GitHub writes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {word.replace(" ", "-") for word in words}


def fault(page, target):
    """What is wrong with a relative link of a page; empty where nothing is."""
    name, _, anchor = target.partition("#")
    file = (page.parent / name).resolve() if name else page
    if not file.is_relative_to(ROOT) or not file.exists():
        return f"{target}: no such file"
    if anchor and anchor not in anchors(file):
        return f"{target}: no such heading"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", page.read_text()))
    local = [target for target in targets if "://" not in target]
    assert not list(filter(None, (fault(page, target) for target in local)))


def test_a_dead_link_is_noticed():
    readme = ROOT / "README.md"
    assert fault(readme, "docs/none.md") and fault(readme, "#none")
    assert fault(readme, "WORKSPACE.md#none") and fault(readme, "../elsewhere")
    assert not fault(readme, "WORKSPACE.md#decisions")
