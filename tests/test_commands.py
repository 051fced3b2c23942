"""Every command that a page of the repository names: its files exist, and its script takes its words."""

import dataclasses
import functools
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import load_script

from osrjax.__main__ import COMMANDS
from osrjax.choices import load
from osrjax.run.parsing import parse

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"
DOCS = [path for path in (ROOT / "docs").rglob("*.md") if not {"_build", "generated"} & set(path.parts)]
PAGES = sorted({*ROOT.glob("*.md"), *EXPERIMENTS.rglob("*.md"), *DOCS} - {ROOT / "CHANGELOG.md"})
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
ELSEWHERE = ("xprof ", "git ")  # programs that are not this repository's
IN_A_LINE = re.compile(r"`(?:\w+=\S+ )*((?:\.venv/bin/|python |pip |osrjax \w+ |(?:experiments/)?\w+\.py )[^`]+)`")


def shell(page: Path) -> str:
    """The page's blocks of shell."""
    return "".join(re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE))


def commands(page: Path) -> list[str]:
    """What its lines and its blocks start, one by one; the blocks of POD.md are for other machines."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    lines = [re.sub(r"\s+", " ", line) for line in IN_A_LINE.findall(prose)]
    lines += shell(page).splitlines() if page.name != "POD.md" else []
    found = [command for line in lines for command in line.split(" && ")]
    return [command for command in found if not command.startswith(ELSEWHERE)]


@functools.cache
def works(command: str) -> bool:
    """Whether what it starts exists and takes its words."""
    program, *words = shlex.split(command, comments=True)
    match Path(program).name, words:
        case "python3", ["-m", "venv", ".venv"]:
            return True
        case "pip", ["install", *words]:
            extras = [extra for word in words for extra in re.findall(r"\.\[(\w+)\]", word)]
            return all(extra in EXTRAS for extra in extras)
        case "sphinx-build", [*_, "docs", "docs/_build/html"]:
            return True
        case "python", ["-m", "pytest", *words]:
            return all((ROOT / word).exists() for word in words if re.match(r"\w+/", word))
        case "python", ["-m", "osrjax", name, *words]:
            return name in COMMANDS and parses(load(COMMANDS[name]).__module__, words)
        case "osrjax", [name, *words]:
            return name in COMMANDS and parses(load(COMMANDS[name]).__module__, words)
        case "python", ["-m", module, "--help"]:
            return importlib.util.find_spec(module) is not None
        case "python", [script, *words]:
            return script_takes(ROOT / script, words)
        case name, words if name.endswith(".py"):
            return script_takes(ROOT / (program if "/" in program else f"experiments/{program}"), words)
        case _, words:
            return (ROOT / program).is_file()


def script_takes(file: Path, words: list[str]) -> bool:
    if not file.is_file() or "main(" not in file.read_text():  # an example takes no words
        return file.is_file() and not words
    if "--what" in words:  # speed.py starts a file of the benchmarks with all other words
        place = words.index("--what")
        file = file.parent / "benchmarks" / f"speed_{words[place + 1]}.py"
        words = words[:place] + words[place + 2 :]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(file.parent))  # what lies beside it
        module = load_script(str(file.relative_to(EXPERIMENTS).with_suffix("")))
    return parses(module.main.__module__, words, vars(module).get("PRESETS"))


def parses(module: str, words: list[str], presets=None) -> bool:
    config = vars(sys.modules[module])["Config"]
    launched = "preset" in {field.name for field in dataclasses.fields(config)}
    try:
        parse(config, words, presets=presets if launched else None)
    except (SystemExit, ValueError):
        return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_works(page):
    assert [command for command in commands(page) if not works(command)] == []


def test_blocks_of_shell_are_bash():
    text = "\n".join(map(shell, PAGES))
    assert text.count("\n") > 50
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python experiments/train.py --steps 5 --data npz:cifar10.npz", True),
        ("python experiments/speed.py --what jacobian --batch 2", True),
        ("osrjax norms RUN --images 4", True),
        ("python experiments/absent.py", False),
        ("python experiments/train.py --no-such-option", False),
        ("osrjax predict RUN --no-such-option", False),
        ("pip install '.[absent]'", False),
        ("absent docs", False),
    ],
)
def test_a_wrong_command_is_found(command, expected):
    assert works(command) is expected
