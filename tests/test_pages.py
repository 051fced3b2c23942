"""The pages of experiments/: heads, links, figures and lengths of lines."""

import functools
import re
import shutil
from pathlib import Path

import pytest
from conftest import load_script

import osrjax

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"
INDEX = EXPERIMENTS / "README.md"
PAGES = sorted(EXPERIMENTS.rglob("*.md"))
RESULTS = sorted((EXPERIMENTS / "results").glob("*.md"))
KEYS = ["Question", "Command", "Commit", "Hardware", "Wall-clock", "n"]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", PAGES, ids=relative)
every_result = pytest.mark.parametrize("page", RESULTS, ids=relative)


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def head(page: Path) -> list[tuple[str, str]]:
    """Keys and values of the table that follows the title."""
    title, table = page.read_text().split("\n\n")[:2]
    assert title.startswith("# ")
    rows = [line.strip("|").split("|", 1) for line in table.splitlines()]
    assert rows[1] == ["---", "---"]
    return [(key.strip(), value.strip()) for key, value in rows[:1] + rows[2:]]


def links(page: Path) -> list[str]:
    """Targets of the page's links and figures on this file system."""
    targets = re.findall(r'(?:\]\(|src=")([^)\s"]+)[)"]', prose(page))
    return [target for target in targets if not re.match(r"\w+:", target)]


@every_result
def test_a_result_has_its_head(page):
    found = head(page)
    assert [key for key, _ in found] == KEYS
    assert all(value for _, value in found)


@every_result
def test_the_commands_of_a_head_are_scripts_of_experiments(page):
    found = re.findall(r"`([^`]+)`", dict(head(page))["Command"])
    assert found
    for command in found:
        assert re.match(r"python experiments/(benchmarks/)?\w+\.py( |$)", command)


@every_page
def test_lines_fit_and_code_blocks_end(page):
    fences = re.findall(r"^```.*", page.read_text(), re.MULTILINE)
    assert len(fences) % 2 == 0
    assert set(fences[1::2]) <= {"```"}
    assert [line for line in prose(page).splitlines() if len(line) > 150 and not line.startswith("|")] == []


@every_page
def test_links_resolve(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", prose(target), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles], link


def test_the_index_links_every_result():
    linked = {(INDEX.parent / link).resolve() for link in links(INDEX)}
    assert RESULTS
    assert set(RESULTS) <= linked


def test_every_claim_is_linked_from_their_page():
    page = EXPERIMENTS / "results" / "claims.md"
    linked = {(page.parent / link).resolve() for link in links(page)}
    assert set((EXPERIMENTS / "results" / "claims").glob("*.md")) <= linked


# Script, directories of entries (what is not there yet is left out), pages, further options.
TABULATED = {
    "mixing": (
        *("leaderboard", ("studies/mixing",), ("claims/gradmix.md",)),
        *("--reference", "GradMix +1"),
    ),
    "mixing of m-OvR": (
        *("leaderboard", ("studies/mixing-m-ovr",), ("claims/gradmix-m-ovr.md",)),
        *("--reference", "m-OvR GradMix +1"),
    ),
    "mixing of softmax": (
        *("leaderboard", ("studies/mixing-softmax",), ("claims/gradmix-softmax.md",)),
        *("--reference", "softmax GradMix +1"),
    ),
    "leaderboard": ("leaderboard", ("entries",), ("benchmark.md",)),
    "image scores": ("leaderboard", ("image-scores",), ("image-scores.md",)),
    "claims": (
        *("claims", ("entries", "studies")),
        ("claims.md", *(f"claims/{page.name}" for page in sorted((EXPERIMENTS / "results/claims").glob("*.md")))),
    ),
}


@pytest.fixture(scope="module")
def read_once():
    """An entry is read once, though two pages tell of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(osrjax.run, "read_entry", functools.cache(osrjax.run.read_entry))
        yield


@pytest.mark.usefixtures("read_once")
@pytest.mark.parametrize("case", list(TABULATED))
def test_numbers_of_entries_are_those_that_their_command_makes(case, tmp_path, monkeypatch):
    """Of the committed entries, whose machine or time nothing of a page depends on."""
    script, places, pages, *options = TABULATED[case]
    (tmp_path / "claims").mkdir()
    for name in pages:
        shutil.copy(EXPERIMENTS / "results" / name, tmp_path / name)
    monkeypatch.setattr("osrjax.report.refill.small_png", lambda figure: b"")
    words = [str(place) for name in places if (place := EXPERIMENTS / "results" / name).exists()]
    words += [*options, "--out", str(tmp_path / "out"), *(["--no-draw"] if script == "claims" else [])]
    assert load_script(script).main([*words, "--pages", *(str(tmp_path / name) for name in pages)]) == 0
    for name in pages:
        assert (tmp_path / name).read_text() == (EXPERIMENTS / "results" / name).read_text(), name


def test_figures_are_small_and_shown():
    shown = {(page.parent / link).resolve() for page in PAGES for link in links(page)}
    figures = sorted(EXPERIMENTS.rglob("*.png"))
    assert [relative(figure) for figure in figures if figure.resolve() not in shown] == []
    assert [relative(figure) for figure in figures if figure.stat().st_size > 100_000] == []
