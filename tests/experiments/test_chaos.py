"""Runs that are killed at random moments end with the bits of undisturbed ones; a comparison that finds differences."""

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def chaos(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "experiments" / "benchmarks"))
    return importlib.import_module("chaos")


def test_killed_norms_end_with_the_same_bits_and_every_difference_is_found(chaos, tmp_path, capfd):
    """Kills of training itself: test_experiments.py."""
    options = ["--smoke", "--targets", "norms", "--kills", "1", "--seed", "3", "--out", str(tmp_path / "runs")]
    code = chaos.main(options)
    output = capfd.readouterr().out
    assert code == 0, output
    found = json.loads(output.splitlines()[-1])
    assert found["identical"]
    norms = found["targets"]["norms"]
    assert norms["kills"] == found["kills"] == sum(norms["phases"].values()) == len(norms["hits"]) == 1
    assert norms["starts"] == norms["kills"] + norms["rounds"]
    assert norms["different"] == []
    assert set(norms["compared"]) == {"content.json", "embedding.npy"}
    # The training that it measured twice, after something was changed in one of them.
    wanted, run = tmp_path / "runs" / "network", tmp_path / "changed"
    shutil.copytree(wanted, run)
    compared, different = chaos.compare(wanted, run)
    assert different == []
    assert {"scores.npz", "network.npz", "metrics.jsonl", "results.json", "figures/roc.svg"} <= set(compared)
    assert any("checkpoints/" in name for name in compared)
    with np.load(run / "scores.npz") as stored:
        arrays = dict(stored)
    arrays["known_logits"][3, 1] = np.nextafter(arrays["known_logits"][3, 1], np.float32(9))
    np.savez_compressed(run / "scores.npz", **arrays)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([*lines[:-1], lines[-1].replace('"train/loss": ', '"train/loss": 1')]))
    (run / "figures" / "roc.png").unlink()
    (run / "results.json").write_text("{")
    last = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name))
    metadata = json.loads((last / "_CHECKPOINT_METADATA").read_text())
    metadata["custom_metadata"]["crc32"][0] += 1
    (last / "_CHECKPOINT_METADATA").write_text(json.dumps(metadata))
    different = chaos.compare(wanted, run)[1]
    assert [line.split(" ")[0] for line in different] == [
        f"checkpoints/{last.name}/_CHECKPOINT_METADATA",
        "figures/roc.png",
        "metrics.jsonl",
        "results.json",
        "scores.npz",
    ]


def test_times_are_no_differences_and_columns_are(chaos, tmp_path):
    for name, seconds in (("a", 1.0), ("b", 2.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.csv").write_text(f"seed,auroc,train_seconds\n0,0.5,{seconds}\n")
        (tmp_path / name / "results.json").write_text(json.dumps({"x": [{"seconds": seconds, "y": float("nan")}]}))
    assert chaos.compare(tmp_path / "a", tmp_path / "b") == (["results.csv", "results.json"], [])
    (tmp_path / "b" / "results.csv").write_text("seed,auroc,train_seconds\n0,0.6,1\n")
    assert chaos.compare(tmp_path / "a", tmp_path / "b")[1] == ["results.csv differs"]


def test_a_run_that_fails_is_reported_with_its_last_line(chaos, tmp_path, capsys, monkeypatch):
    script = tmp_path / "broken.py"
    script.write_text("import sys\nprint('broken.py: no luck today')\nsys.exit(3)\n")
    monkeypatch.setitem(chaos.TARGETS, "sweep", chaos.Target(script, "", ""))
    assert chaos.main(["--targets", "sweep", "--kills", "1", "--out", str(tmp_path / "runs")]) == 1
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert not found["identical"]
    assert "exit code 3: broken.py: no luck today" in found["targets"]["sweep"]["different"][0]
    # One that ends too early for its kills is begun anew, and what differs between two ends is found.
    script.write_text(
        "import pathlib, random, sys, time\ntime.sleep(0.2)\n"
        "pathlib.Path(sys.argv[2]).mkdir(exist_ok=True)\n"
        "pathlib.Path(sys.argv[2], 'results.json').write_text(str(random.random()))\n"
    )
    shutil.rmtree(tmp_path / "runs")
    assert chaos.main(["--targets", "sweep", "--kills", "2", "--out", str(tmp_path / "runs")]) == 1
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["targets"]["sweep"]
    assert found["kills"] == 2
    assert found["different"][-1].endswith("results.json differs")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--kills 0", "kills=0 is below 1"),
        ("--seed -1", "seed=-1 must not be negative"),
        ("--out {file}", "cannot be written"),
        ("--out {full}", "is not empty"),
        ("--targets", "targets is empty"),
    ],
)
def test_bad_input_is_one_clear_line(chaos, options, message, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    options = options.format(file=tmp_path / "file" / "runs", full=tmp_path)
    assert chaos.main(options.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("chaos.py: ")
    assert message in error
    assert error.count("\n") == 1
