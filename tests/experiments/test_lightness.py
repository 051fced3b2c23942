"""What a script has imported when it has printed its help, or refused a command line: nothing that takes seconds."""

import json
import os
import subprocess
import sys

import pytest
from conftest import EXPERIMENTS

HEAVY = ("jax", "flax", "orbax", "optax", "sklearn", "scipy", "tensorflow_datasets", "grain", "matplotlib")
AFTERWARDS = """
import json, runpy, sys
script, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = script
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as end:
    code = end.code
print(json.dumps([code, [name for name in {heavy!r} if name in sys.modules]]))
"""
SCRIPTS = ("train", "contrastive", "ablation", "compare", "jacobian")
SCRIPTS += (
    "attribution",
    "benchmark",
    "claims",
    "concentration",
    "corruption",
    "estimator",
    "leaderboard",
    "norms",
    "ood",
    "picture",
    "predict",
)
SCRIPTS += ("evaluate", "jacobian_parts", "norm_detectors", "progress", "report", "untrained")


def ending(script, *words, cwd=None):
    """The exit code of a script, the heavy libraries that it has loaded, and its output on stderr."""
    command = [sys.executable, "-c", AFTERWARDS.format(heavy=HEAVY), str(EXPERIMENTS / f"{script}.py"), *words]
    environment = {**os.environ, "PYTHONPATH": str(EXPERIMENTS.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, check=True)
    return *json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(("option", "code"), [("--help", 0), ("--no-such-option", 2)])
def test_help_and_unknown_options_load_nothing_heavy(script, option, code):
    assert ending(script, option)[:2] == (code, [])


def test_classes_are_listed_without_any_of_it():
    assert ending("train", "--list-classes")[:2] == (0, [])


@pytest.mark.parametrize(
    ("line", "loaded"),
    [
        ("train --network alexnet", []),
        ("train --preset short", []),
        ("train --batch-size 0", []),
        ("train --data nothing", ["jax"]),
        ("train --split 77", ["jax"]),
        ("train --processes 2", ["jax"]),
        ("contrastive --temperature 0", []),
        ("contrastive --split 77", ["jax"]),
        ("ablation --seeds 0", []),
        ("compare bundled --workers -1", []),
        ("compare bundled --only-table", []),
        ("jacobian smoke --only-figures", []),
        ("claims nowhere", []),
        ("jacobian_parts nowhere", []),
        ("norm_detectors nowhere", []),
        ("concentration nowhere", []),
        ("untrained --seeds 1", []),
        ("estimator nowhere --images 1", []),
        ("estimator nowhere", []),
        ("leaderboard nowhere", []),
        ("picture nowhere", []),
        ("predict nowhere image.png", []),
        ("predict nowhere", []),
        ("report nowhere", []),
    ],
)
def test_a_refusal_loads_nothing_that_it_does_not_need(line, loaded, tmp_path):
    script, *words = line.split()
    code, found, error = ending(script, *words, cwd=tmp_path)
    assert (code, found) == (2, loaded), error
    assert list(tmp_path.iterdir()) == []
