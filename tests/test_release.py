"""What a release says of itself: one version, a citation that readers of CITATION.cff understand, changes in order."""

import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml

import osrjax

ROOT = Path(__file__).parents[1]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_citation_has_what_the_format_asks_for():
    """Citation File Format 1.2.0, https://github.com/citation-file-format: required keys, types and kinds."""
    assert {"cff-version", "message", "title", "authors"} <= CITATION.keys()
    assert (CITATION["cff-version"], CITATION["type"]) == ("1.2.0", "software")
    assert CITATION["license"] == PROJECT["license"]
    assert CITATION["version"] == osrjax.__version__
    for work in CITATION["references"]:
        assert {"type", "title", "authors"} <= work.keys()
        assert isinstance(work["year"], int)
        assert work["url"] == f"https://arxiv.org/abs/{work['identifiers'][0]['value'].removeprefix('arXiv:')}"
    for person in (person for work in (CITATION, *CITATION["references"]) for person in work["authors"]):
        assert {"name"} == person.keys() or {"given-names", "family-names"} <= person.keys()


def test_changes_are_in_order_the_newest_first():
    titles = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    versions = [tuple(map(int, title.split("."))) for title in titles if title != "Unreleased"]
    assert "Unreleased" not in titles[1:]
    assert versions == sorted(set(versions), reverse=True)
    assert all(len(version) == 3 for version in versions)


def test_the_version_stands_in_the_package_alone():
    assert PROJECT["dynamic"] == ["version"]
    assert "version" not in PROJECT
    assert re.fullmatch(r"\d+\.\d+\.\d+", osrjax.__version__)


@pytest.mark.parametrize("line", [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())])
def test_every_dependency_has_a_lower_bound(line):
    assert re.match(r"osrjax\[\w+\]$|[\w.-]+(\[[\w-]+\])?(>=|==)\d", line), line


def test_the_quick_part_of_the_tests_exists():
    paths = re.findall(r"tests/[\w/.]+", (ROOT / ".ci" / "versions").read_text())
    assert len(paths) > 5
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_test_that_the_security_page_names_exists():
    page = (ROOT / "SECURITY.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert len(links) > 15
    assert [link for link in links if not (ROOT / link).is_file()] == []
    named = re.findall(r"`(\w+/\w+\.py)`", page)
    assert [name for name in named if not (ROOT / "osrjax" / name).is_file()] == []
