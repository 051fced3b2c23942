"""Accuracy against seconds, from a log written by hand."""

import json

import numpy as np
import pytest
from conftest import load_script
from PIL import Image

from osrjax.run import validation_curve

script = load_script("progress")


@pytest.fixture
def run(tmp_path):
    directory = tmp_path / "one"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"batch_size": 50}))
    (directory / "provenance.json").write_text(json.dumps({"known_names": ["a", "b"], "image_shape": [8, 8, 1]}))
    lines = [
        {"step": 0, "train/probe/known": 1.0},
        {"step": 10, "train/images_per_second": 100.0},
        {"step": 20, "train/images_per_second": 50.0, "validation/accuracy": 0.5},
        {"step": 40, "train/images_per_second": 200.0, "validation/accuracy": 0.75},
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def test_seconds_are_those_of_the_steps(run):
    seconds, accuracy = validation_curve(run)
    np.testing.assert_allclose(seconds, [5 + 10, 5 + 10 + 5])
    np.testing.assert_array_equal(accuracy, [0.5, 0.75])


def test_the_figure_of_two_runs(run, tmp_path, capsys):
    assert script.main([str(run), str(run), "--out", str(tmp_path / "mine")]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "mine.png"), str(tmp_path / "mine.svg")]
    assert "one: 0.750 after 20 s" in (tmp_path / "mine.svg").read_text()
    with Image.open(tmp_path / "mine.png") as image:
        assert image.width > 500


@pytest.mark.parametrize(
    ("log", "message"),
    [(None, "metrics.jsonl"), ('{"step": 1, "train/images_per_second": 1.0}\n', "has logged no validation")],
)
def test_a_run_without_a_curve_is_refused(run, log, message, capsys):
    if log is None:
        (run / "metrics.jsonl").unlink()
    else:
        (run / "metrics.jsonl").write_text(log)
    assert script.main([str(run)]) == 2
    assert message in capsys.readouterr().err
