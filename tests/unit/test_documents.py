"""Links in the documents have a target, and so have names of the code."""

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


def sources(folder, *suffixes):
    """All text of these files."""
    paths = [path for suffix in suffixes for path in ROOT.glob(f"{folder}/**/*{suffix}")]
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


def spans(document):
    """The code in a document: what stands between backticks, in one line."""
    return re.findall(r"`([^`\n]+)`", (ROOT / document).read_text(encoding="utf-8"))


@pytest.mark.parametrize("document", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_names_and_files_in_the_description_of_the_code_exist(document):
    code = sources("nutproxy", ".py", ".pxd") + sources("tests", ".py") + sources("bench", ".py")
    words = set(re.findall(r"\w+", code))
    names = {name for name in spans(document) if re.fullmatch(r"[A-Za-z]\w*_\w+", name)}
    assert names
    assert not names - words
    paths = {path for path in spans(document) if re.fullmatch(r"[\w/]+\.(py|pxd|json|md)", path)}
    for path in paths:
        assert (ROOT / path).is_file() or list(ROOT.glob(f"nutproxy/**/{path}")), path


def defines(path, function):
    """Is this function of the file, or a method?"""
    text = (ROOT / "nutproxy" / path).read_text(encoding="utf-8")
    start = r"^ *def " if path.endswith(".py") else r"^ *cdef [^#\n]*\b"
    return re.search(rf"{start}{function}\(", text, re.M) is not None


def test_path_of_one_get_names_functions_of_its_files():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    section = text.split("## The path of one request\n")[1].split("###")[0]
    ways = re.split(r"^\*\*The way (?:out|back)\*\*$", section, flags=re.M)[1:]
    assert len(ways) == 2
    for way in ways:
        rows = re.findall(r"^\| `([\w/.]+)` \| (`[^|]+`) \|", way, re.M)
        files = [file for file, _ in rows]
        assert len(files) == len(set(files)) > 5, "a file is opened twice on one way"
        for file, functions in rows:
            for function in functions.strip("`").split("`, `"):
                assert defines(file, function), f"{file} has no {function}"
