"""Links in the documents have a target."""

import configparser
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("bench/results/*.md")]


def anchors(document):
    """The names of headings in links."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings(document):
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_readme_links_every_document():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    documents = {f"docs/{path.name}" for path in ROOT.glob("docs/*.md")}
    assert documents <= set(re.findall(r"\]\(([^)#]+)", readme))


@pytest.mark.parametrize("name", ["redis", "pylibmc", "pymemcache"])
def test_clients_of_make_test_are_in_the_table_without_a_version(name):
    """`make test` installs whatever is newest, so a version would soon be wrong."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert re.search(rf"^{name}\b", setup["options.extras_require"]["test"], re.M)
    page = (ROOT / "docs/clients.md").read_text(encoding="utf-8")
    [version] = re.findall(rf"^\| {name}(?:-py)?\b[^|]*\| ([^|]+) \| Python", page, re.M)
    assert version == "in `make test`"


def test_every_row_of_a_table_has_all_cells():
    for document in DOCUMENTS:
        columns = 0
        for line in document.read_text(encoding="utf-8").splitlines():
            cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
            assert not cells or not columns or cells == columns, f"{document.name}: {line}"
            columns = cells
