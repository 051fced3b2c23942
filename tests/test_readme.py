"""The front page: its code as it stands, its numbers as the pages have them, its picture, and the version."""

import re
from pathlib import Path
from runpy import run_path

import pytest
from conftest import quick_process

import osrjax

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = re.findall(r"^\| \[.*?\]\((experiments/results/\S+?\.md)\) \| (.*?) \|", README, re.MULTILINE)
FRONT = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")


def test_the_code_runs_from_top_to_bottom_on_two_devices(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 3
    ends = "assert jax.device_count() == 2 and jnp.isfinite(metrics['loss'])\nassert 0 < found.lanes[-1]['auroc'] < 1"
    (tmp_path / "blocks.py").write_text("\n".join([*blocks, ends]))
    environment = {"JAX_NUM_CPU_DEVICES": "2", "PYTHONPATH": str(ROOT)}
    process = quick_process(tmp_path / "blocks.py", cwd=tmp_path, **environment)  # it writes a run directory
    _, error = process.communicate(timeout=280)
    assert process.returncode == 0, error


def test_a_stranger_types_all_of_it():
    """What .ci/stranger takes from the page: every line of shell, the code once, what stands within lines."""
    found = run_path(str(ROOT / ".ci" / "stranger"))["commands"](README)
    shell = "".join(re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)).splitlines()
    assert [command for command in found if command in shell] == shell
    assert found.index(".venv/bin/python snippets.py") == 2
    assert "osrjax predict RUN image.png" in found
    assert sum("pip install '.[" in command for command in found) == 3


@pytest.mark.parametrize(("page", "text"), RESULTS)
def test_every_number_of_a_result_stands_on_its_page(page, text):
    numbers = re.findall(r"-?\d\.\d+", text)
    assert numbers
    assert [number for number in numbers if number not in (ROOT / page).read_text()] == []


def test_there_are_results():
    assert len(RESULTS) == 11


def test_the_claims_and_their_verdicts_are_those_of_their_page():
    page = (ROOT / "experiments/results/claims.md").read_text()
    row = re.compile(r"^\| \[\((\w)\)\]\((.*?claims/\1\.md)\) (.*?)" + 4 * r" \| (.*?)" + r" \|$", re.MULTILINE)
    rows = row.findall(README)
    assert [letter for letter, *_ in rows] == [*"abcdefghi"]
    assert row.findall(page) == [
        (letter, link.removeprefix("experiments/results/"), *cells) for letter, link, *cells in rows
    ]
    printed = {
        letter: (text, *verdicts)
        for letter, text, *verdicts in re.findall(
            r"^\| ([a-g]) \| (.*?)" + 3 * r" \| (.*?), .*?" + r" \|$", page, re.MULTILINE
        )
    }
    assert printed
    for letter, link, text, mnist, cifar10, fashion, _ in rows:
        title = (ROOT / link).read_text().partition("\n")[0].removeprefix("# ")
        assert title.lower() == f"({letter}) {text}".lower()
        if letter in printed:
            assert (text, *(cell.partition(",")[0] for cell in (cifar10, fashion, mnist))) == printed[letter]


@pytest.mark.parametrize("name", FRONT)
def test_links_resolve_and_lines_fit(name):
    text = (ROOT / name).read_text()
    for target in re.findall(r'(?:\]\(|src=")([^)\s"]+)', text):
        path, _, anchor = target.partition("#")
        if not re.match(r"\w+:", path):
            assert (ROOT / path).exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(), re.MULTILINE)
            assert anchor in [title.lower().replace(" ", "-") for title in titles], target
    assert [line for line in text.splitlines() if len(line) > 150 and not line.startswith("|")] == []


def test_every_room_stands_in_the_tree_and_every_path_exists():
    rooms = {path.parent.name for path in (ROOT / "osrjax").glob("*/__init__.py")}
    assert set(re.findall(r"^(\w+)/  ", README, re.MULTILINE)) == rooms
    paths = re.findall(r"`((?:losses|scores|methods|models|evaluation|data)/\w+\.py)`", README)
    assert len(paths) > 5
    assert [path for path in paths if not (ROOT / "osrjax" / path).exists()] == []


def test_pictures_are_small():
    pictures = re.findall(r'src="([^"]+)"', README)
    assert pictures == ["docs/picture.png", "docs/page.png"]
    assert max((ROOT / picture).stat().st_size for picture in pictures) < 150_000


def test_the_version_is_one():
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## (\d\S*)", changes, re.MULTILINE)[0] == osrjax.__version__
    assert re.findall(r"^version: (\S+)", (ROOT / "CITATION.cff").read_text(), re.MULTILINE) == [osrjax.__version__]
