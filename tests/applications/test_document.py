# tests/applications/test_document.py: docs/applications.md says what is tested
"""Versions and settings in the table of the page are those of the scenarios."""

import json
import re

import pytest

from tests.applications import environments
from tests.applications.test_applications import OTHERS, QUICK

PAGE = environments.ROOT / "docs/applications.md"


def rows():
    """The cells of each row by the name in its first cell, in lower case."""
    lines = re.findall(r"^\| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.M)
    cells = [line.split(" | ") for line in lines[1:]]
    return {cell[0].lower(): cell for cell in cells}


def pinned(scenario):
    """The versions of its packages by their names in lower case."""
    folder = environments.HERE / scenario.path
    if scenario.language == "node":
        return dict(json.loads((folder / "package.json").read_text())["dependencies"])
    lines = (folder / "requirements.txt").read_text().split()
    return {name.lower(): version for name, version in (line.split("==") for line in lines)}


SCENARIOS = [one for one in QUICK + OTHERS if one.language in ("node", "python")]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_versions_and_settings_are_those_of_the_scenario(scenario):
    name = scenario.path.split("/")[1]
    found = [row for first, row in rows().items() if first.startswith(name)]
    if not found:
        # A client library, which is in the sentence below the table.
        package = {"node-redis": "redis", "redis-py": "redis"}.get(name, name)
        assert f"{name} {pinned(scenario)[package]}" in PAGE.read_text(encoding="utf-8")
        return
    row = found[0]
    assert row[1] in pinned(scenario).values()
    for name, value in scenario.pool.items():
        assert f"`{name}: {value}`" in row[3]
    for value in scenario.variables.values():
        assert value in row[3]
    assert scenario.pool or scenario.variables or row[3].startswith("none")
