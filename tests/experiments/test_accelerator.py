"""The script for an accelerator, in small: its processes, its comparisons, its parts, its table."""

import dataclasses
import importlib
import itertools
import json

import jax
import numpy as np
import pytest
from conftest import EXPERIMENTS, load_script

from osrjax.run.parsing import parse

MADE_UP = """
import os, time
from accelerator_cases import Cases

def part(marks):
    def fine():
        return {"ms": 1.5}
    def raises():
        print("no message")
        raise ValueError("out of\\nmemory")
    def dies():
        os._exit(3)
    def late():
        if marks:
            return {"rows": []}
        time.sleep(60)
    return Cases({"device": "made up"}, {"raises": raises, "dies": dies, "fine": fine, "late": late})
"""


@pytest.fixture
def load(monkeypatch):
    """Imports a file of experiments/benchmarks."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS / "benchmarks"))
    return importlib.import_module


# Processes.


def test_a_case_that_fails_takes_no_other_with_it(load, monkeypatch, tmp_path):
    jobs, said = load("accelerator_jobs"), []
    (tmp_path / "made_up.py").write_text(MADE_UP)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(jobs, "SHORTEST", 0.1)
    job = jobs.Job("trial", "made_up:part", {"marks": []})
    found = jobs.run_job(job, tmp_path, 4.0, said.append)
    assert found == json.loads((tmp_path / "trial.json").read_text())
    assert found["facts"] == {"device": "made up"}
    assert found["cases"]["raises"] == {"error": "ValueError: out of memory"}
    assert found["cases"]["fine"] == {"ms": 1.5}
    assert found["cases"]["dies"]["error"].startswith("its process ended with exit code 3: ")
    assert found["cases"]["late"]["error"].startswith("ended at its limit of ")
    assert said[:2] == ["trial: raises: ValueError: out of memory", f"trial: dies: {found['cases']['dies']['error']}"]
    assert said[2] == "trial: fine: 1.500 ms"
    assert jobs.unfinished(found) == ["raises", "dies", "late"]
    assert "no message" in (tmp_path / "logs" / "trial.txt").read_text()
    with pytest.raises(ValueError, match=r"trial\.json of other sizes: give another --out"):
        jobs.stored(job._replace(arguments={"marks": [1]}), tmp_path)


def test_what_cannot_begin_is_told(load, tmp_path):
    jobs = load("accelerator_jobs")
    found = jobs.run_job(jobs.Job("trial", "nowhere:part", {}), tmp_path, 60.0, print)
    assert found["ended"] == "its process ended with exit code 1: ModuleNotFoundError: No module named 'nowhere'"
    assert jobs.unfinished(found) is None


def test_what_is_done_is_left_out_and_what_failed_comes_last(load):
    cases, order = load("accelerator_cases"), []
    part = cases.Cases({}, {name: lambda: {} for name in ("failed", "done", "new", "newer")})
    cases.run(part, order.append, skip=["done"], last=["failed"])
    assert [message["case"] for message in order if "case" in message] == ["new", "newer", "failed"]


def test_times_are_medians_of_blocks(load):
    cases = load("accelerator_cases")
    # two single calls of 20 ms, a block of 3 to warm up, then blocks of 3 calls: 30, 60 and 90 ms
    lengths = iter([0.02, 0.02, 0.06, 0.09, 0.03, 0.06])
    times = itertools.accumulate(step for length in lengths for step in (0.0, length))
    waited = []
    found = cases.timings(lambda: "result", waited.append, repeats=3, clock=lambda: next(times))
    assert waited == ["result"] * 6
    expected = {"ms": 20.0, "ms_least": 10.0, "ms_most": 30.0, "spread": 2.0, "blocks": 3, "calls": 3}
    assert found == pytest.approx(expected)


# Comparisons.


def test_errors_are_relative_to_the_largest_value(load):
    relative_errors = load("accelerator_numerics").relative_errors
    expected, found = np.array([[1.0, -4.0], [0.0, 2.0]]), np.array([[1.0, -3.0], [0.5, 2.0]])
    assert relative_errors(found, expected) == 0.25
    np.testing.assert_array_equal(relative_errors(found, expected, by_row=True), [0.25, 0.25])
    assert relative_errors(np.array([np.nan, 1.0]), np.array([1.0, 1.0])) == np.inf
    assert relative_errors(np.float32(0.5), np.float32(0.0)) == 0.5


def test_one_image_of_four_may_stand_at_a_kink(load):
    numerics, table = load("accelerator_numerics"), load("accelerator_table")
    for each, passes in {(1e-7, 1e-3, 1e-7, 0.0): True, (1e-3, 1e-3, 0.0, 0.0): False, (1e-3, 0.0): False}.items():
        limited, free = numerics.rows_of_images("norms", np.array(each))
        assert table.passed(limited) is passes
        assert (free["error"], free["limit"]) == (1e-3, None)


def test_operations_below_highest_are_counted(load):
    below_highest, x = load("accelerator_numerics").below_highest, np.ones((3, 3), np.float32)
    with jax.default_matmul_precision(None):
        assert below_highest(lambda x: x @ x @ x, x) == 2
        assert below_highest(lambda x: jax.numpy.matmul(x, x, precision="highest") @ x, x) == 1


# The whole.


@pytest.fixture
def accelerator(load, monkeypatch, narrow):
    """The script, whose jobs are done in this process; no PyTorch."""
    script, cases = load("accelerator"), load("accelerator_cases")
    monkeypatch.setattr(cases, "SHORTEST_BLOCK", 0.0)

    def process(job, found, directory, seconds, skip, last, tried, say):
        file, name = job.function.split(":")
        if file == "accelerator_peers":
            return None, "no PyTorch here"

        def tell(message):
            found.update({key: message[key] for key in ("facts", "names") if key in message})
            if "case" in message:
                found["cases"][message["case"]] = json.loads(json.dumps(message["found"]))

        with jax.debug_key_reuse(False), jax.numpy_rank_promotion("allow"):
            cases.run(getattr(load(file), name)(**job.arguments), tell, skip=skip, last=last)
        return None, None

    monkeypatch.setattr(load("accelerator_jobs"), "_process", process)
    return script


def test_parts_in_small_and_again(load, accelerator, tmp_path, capsys, monkeypatch):
    """All but the GradMix step, which takes the way of a training step and is compiled in test_speed.py."""
    out, layouts = tmp_path / "out", load("accelerator_speed").LAYOUTS
    monkeypatch.setattr(load("accelerator_speed"), "LAYOUTS", {"vmap, patches": layouts["vmap, patches"]})
    parts = [part for part in accelerator.PARTS if part != "gradmix"]
    assert accelerator.main(["--small", "--out", str(out), "--parts", *parts]) == 0
    report, printed = json.loads((out / "accelerator.json").read_text()), capsys.readouterr().out
    assert printed.endswith((out / "accelerator.txt").read_text())
    assert report["parts"] == dict.fromkeys(parts[:-1], "done") | {"cifar10-fast": accelerator.NO_DATA}
    assert "no accelerator was found" in printed
    assert "PyTorch: not measured (no PyTorch here)" in printed
    assert "FAIL" not in printed
    assert printed.count("PASS") > 25
    for part, count in {"train": 4, "norms": 2, "sweep": 2}.items():
        for found in report["jobs"][part]["cases"].values():
            assert found["count"] == count
            assert min(found["ms"], found["compile_seconds"], found["program_mib"]) > 0
    assert list(report["jobs"]["sweep"]["cases"]) == ["small_cnn, 2 lanes: vmap, patches"]
    assert list(layouts) == ["vmap, native", "vmap, patches", "loop"]
    monkeypatch.setattr(load("accelerator_cases"), "timings", None)  # nothing is measured again
    assert accelerator.main(["--small", "--out", str(out), "--parts", "train", "sweep"]) == 0
    assert json.loads((out / "accelerator.json").read_text())["jobs"]["train"] == report["jobs"]["train"]


def test_an_error_above_its_limit_is_an_exit_code_of_1(load, accelerator, tmp_path, capsys, monkeypatch):
    numerics = load("accelerator_numerics")
    wrong = {"products": numerics.products, "too large": lambda: {"rows": [numerics.row("value", 1e-4)]}}
    monkeypatch.setattr(numerics, "numerics", lambda **_: load("accelerator_cases").Cases({}, wrong))
    assert accelerator.main(["--small", "--out", str(tmp_path), "--parts", "numerics"]) == 1
    printed = capsys.readouterr().out
    assert "numerics: 1 errors above their limits\n" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("too large: value")]
    assert line.split()[-3:] == ["1.0e-04", "1.0e-05", "FAIL"]


def test_the_ratio_is_that_of_the_fastest_peer(load):
    ours = {"ms": 2.0, "count": 4, "spread": 1.1, "compile_seconds": 3.0, "program_mib": 5.0, "peak_mib": None}
    peers = {"net: torch, a": {**ours, "ms": 3.0}, "net: torch, b": {"error": "no memory"}, "network: c": ours}
    title, own, first, second = load("accelerator_table").speed_lines({"net": ours}, peers)
    assert own.split() == ["net", "2.000", "500.00", "1.10", "3.0", "5.0", "-", "1.50"]
    assert first.split() == ["torch,", "a", "3.000", "750.00", "1.10", "3.0", "5.0", "-"]
    assert second.split() == ["torch,", "b", "no", "memory"]
    assert title.endswith("torch / ours")


def test_the_training_is_that_of_the_preset(load, tmp_path):
    (tmp_path / "cifar10.npz").touch()
    script = load("accelerator")
    config = dataclasses.replace(script.Config(), cifar10=f"npz:{tmp_path}/cifar10.npz", out=tmp_path / "out")
    arguments = script.jobs(config)["cifar10-fast"].arguments
    train = load_script("train")
    words = load("accelerator_training").training_words(**arguments)
    expected = dataclasses.replace(
        train.PRESETS["cifar10-fast"],
        preset="cifar10-fast",
        data=f"npz:{tmp_path.resolve()}/cifar10.npz",
        out=tmp_path.resolve() / "out" / "cifar10-fast",
        devices=1,
    )
    assert parse(train.Config, words, presets=train.PRESETS) == expected


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        ("--cifar10 cifar10.npz", "cifar10='cifar10.npz' is no npz:FILE: "),
        ("--cifar10 npz:nowhere.npz", "cifar10='npz:nowhere.npz' is not there: "),
        ("--batch 1", "batch=1 is too small for batch norm: "),
        ("--lanes 4 0", "lanes=(4, 0) must all be above 0"),
        ("--minutes 0", "minutes=0.0 must be above 0"),
        ("--torch-python nowhere", "torch_python='nowhere' cannot be started: "),
        ("--parts numerics", "no accelerator: pip install "),
    ],
)
def test_bad_input_is_one_line(accelerator, capsys, tmp_path, words, refusal):
    assert accelerator.main([*words.split(), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"accelerator.py: {refusal}")
    assert error.count("\n") == 1
