"""A loss of a user's own, in one file outside the package: trained, as lanes too, and asked by predict."""

import csv
import hashlib
import json
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import load_script
from PIL import Image
from sklearn.metrics import roc_auc_score

from osrjax.data import choose_data
from osrjax.methods import Task, make_method
from osrjax.models.backbones import NETWORKS, SmallCNN
from osrjax.run import Lane, train_lanes

HERE = Path(__file__).parent
OPTIONS = ["--smoke", "--steps", "4", "--save-every", "4", "--resamples", "0", "--method", "focal_method:focal"]


@pytest.fixture(scope="module", autouse=True)
def here():
    """In the folder of focal_method.py, which is imported from there alone and was not before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [path for path in sys.path if Path(path) != HERE])
        patch.delitem(sys.modules, "focal_method", raising=False)
        patch.chdir(HERE)
        patch.setitem(NETWORKS, "small_cnn", partial(SmallCNN, width=4, features=16))
        yield


@pytest.fixture(scope="module")
def run(here, tmp_path_factory):
    out = tmp_path_factory.mktemp("own") / "run"
    assert load_script("train").main([*OPTIONS, "--hyper", "gamma=1", "--devices", "1", "--out", str(out)]) == 0
    return out


def arrays_of(path):
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def focal(logits, gamma):
    """Score by hand: the focal loss at the largest logit, in float64."""
    logits = np.asarray(logits, np.float64)
    p = 1 / np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)
    return -((1 - p) ** gamma) * np.log(p)


def test_it_is_trained_and_reported_like_any_other(run):
    stored, results = arrays_of(run / "scores.npz"), json.loads((run / "results.json").read_text())
    assert results["score"] == "focal"
    scores = results["trained"]["scores"]
    assert list(scores) == ["focal", "max_softmax", "max_logit", "ovr", "energy", "entropy"]
    values = [focal(stored[f"{part}_logits"], 1.0) for part in ("known", "unknown")]
    wanted = roc_auc_score(np.repeat([0, 1], list(map(len, values))), np.concatenate(values))
    assert scores["focal"]["auroc"]["value"] == pytest.approx(wanted, abs=1e-4)
    assert json.loads((run / "config.json").read_text())["hyper"] == ["gamma=1"]


def test_results_of_another_source_are_not_shown_as_its_own(run, capsys):
    path, option = run / "provenance.json", ["--hyper", "gamma=1", "--devices", "1", "--out", str(run)]
    text = path.read_text()
    stored = json.loads(text)
    assert stored["source of focal_method:focal"] == hashlib.sha256((HERE / "focal_method.py").read_bytes()).hexdigest()
    try:
        path.write_text(json.dumps(stored | {"source of focal_method:focal": "of before"}))
        assert load_script("train").main([*OPTIONS, *option]) == 2
    finally:
        path.write_text(text)
    error = capsys.readouterr().err
    assert f"out={str(run)!r} was started with another source of focal_method:focal: choose another directory" in error
    assert load_script("train").main([*OPTIONS, *option]) == 0
    assert "finished before; the stored results" in capsys.readouterr().out


def test_its_hyper_parameter_has_a_say_in_the_loss():
    method = make_method({"method": "focal_method:focal"}, Task(3, (8, 8, 1), 1))
    assert method.hyper["gamma"] == 2.0
    loss = sys.modules["focal_method"].focal_loss
    logits, labels = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]]), jnp.array([0, 2])
    for gamma in (0.0, 1.0, 2.0):
        p = np.asarray(jax.nn.softmax(logits), np.float64)[[0, 1], [0, 2]]
        np.testing.assert_allclose(loss(logits, labels, {"gamma": gamma}), -((1 - p) ** gamma) * np.log(p), rtol=1e-5)


def test_lanes_of_one_program_differ_in_it(run, tmp_path):
    config = json.loads((run / "config.json").read_text())
    _, data = choose_data(config)
    task = Task(len(data.known_classes), data.train.images.shape[1:], 4)
    lanes = [
        Lane(f"gamma {gamma}", make_method({**config, "hyper": [f"gamma={gamma}"]}, task), data, seed=0)
        for gamma in (0, 1, 2)
    ]
    found = train_lanes(tmp_path / "lanes", lanes, steps=4, batch_size=32)
    assert found.exit_code == 0
    outputs, stored = arrays_of(tmp_path / "lanes" / "outputs.npz"), arrays_of(run / "scores.npz")
    known = outputs["logits"][:, outputs["rows of lane 0 known"]]
    np.testing.assert_allclose(known[1], stored["known_logits"], atol=1e-4)  # the single run's
    assert np.abs(known[0] - known[1]).max() > 1e-3
    assert np.abs(known[2] - known[1]).max() > 1e-3
    unknown = outputs["logits"][:, outputs["rows of lane 0 unknown"]]
    for gamma, lane in enumerate(found.lanes):
        values = np.concatenate([focal(known[gamma], gamma), focal(unknown[gamma], gamma)])
        wanted = roc_auc_score(np.arange(len(values)) >= known.shape[1], values)
        assert lane["auroc"] == lane["scores"]["focal"]["auroc"]["value"] == pytest.approx(wanted, abs=1e-4)


def test_an_ablation_varies_it(run, tmp_path, capsys):
    ablation, out = load_script("ablation"), tmp_path / "run"
    options = [*OPTIONS, "--seeds", "1", "--splits", "0", "--probe-images", "0", "--vary", "gamma=0,1,2"]
    assert ablation.main([*options, "--out", str(out)]) == 0
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["arm"], row["score"]) for row in rows] == [(f"gamma {gamma}.0", "focal") for gamma in (0, 1, 2)]
    assert [path.name for path in out.glob("group-*")] == ["group-0"]  # one program
    single = json.loads((run / "results.json").read_text())["trained"]["scores"]["focal"]
    assert float(rows[1]["auroc"]) == pytest.approx(single["auroc"]["value"], abs=0.01)
    words = rows[1]["command"].split()
    assert words[words.index("--method") + 1] == "focal_method:focal"
    assert words[words.index("--hyper") + 1] == "gamma=1"
    for vary, message in (
        ("delta=1", "hyper='delta=1' is nothing that method='focal_method:focal' has: its own are gamma=..."),
        ("gamma=wide", "vary: gamma='wide' is no number"),
        ("steps=0", "steps=0 must be above 0"),
        ("margin=0,1", "train the same networks (margin does nothing there)"),
    ):
        assert ablation.main([*OPTIONS, "--vary", vary, "--out", str(tmp_path / "refused")]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_predict_imports_it_when_it_is_named_again(run, tmp_path, capsys, monkeypatch):
    predict = load_script("predict")
    monkeypatch.delitem(sys.modules, "focal_method", raising=False)
    _, data = choose_data({"data": "digits"})
    Image.fromarray(data.test_known.images[0, :, :, 0]).save(tmp_path / "digit.png")
    for named in ([], ["--own-method", "another:method"]):
        assert predict.main([str(run), str(tmp_path / "digit.png"), *named]) == 2
        error = capsys.readouterr().err
        assert "was trained with method='focal_method:focal', which is not of this package" in error
        assert "name it again (--own-method focal_method:focal)" in error
        assert error.count("\n") == 1
        assert "focal_method" not in sys.modules  # a run directory starts no foreign code
    options = [str(run), str(tmp_path / "digit.png"), "--own-method", "focal_method:focal", "--json"]
    assert predict.main(options) == 0
    line = json.loads(capsys.readouterr().out)
    stored = arrays_of(run / "scores.npz")
    assert line["score"] == pytest.approx(focal(stored["known_logits"][:1], 1.0)[0], rel=1e-4)
    assert line["threshold"] == pytest.approx(np.quantile(focal(stored["validation_logits"], 1.0), 0.9), rel=0.05)
