"""A run directory opened again: its files, its network, its data; no training."""

import json
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import load_script
from PIL import Image

from osrjax.data import choose_data, content_of
from osrjax.models.backbones import SmallCNN
from osrjax.models.networks import ContrastiveNetwork, OpenSetNetwork
from osrjax.models.outputs import contrastive_functions, network_functions
from osrjax.run.directory import Run
from osrjax.run.finished import open_finished

CONTRASTIVE = {"method": "contrast", "data": "digits", "network": "small_cnn", "hidden": 5, "features": 3}
CLASSIFIER = {"method": "doc", "data": "digits", "network": "small_cnn", "mixing": "none"}


def finished(directory, config, variables):
    split, data = choose_data(config)
    with Run(directory, config, content=content_of(data, split)) as run:
        run.write_network(variables)
    return open_finished(directory)


def variables_of(network):
    """Variables of the right shapes without a compilation of the initialisation."""
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False))
    draws = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: np.abs(draws.normal(size=leaf.shape)).astype(np.float32), shapes)


def test_the_parts_of_a_finished_run(tmp_path):
    variables = variables_of(OpenSetNetwork(SmallCNN(), 6, "linear"))
    run = finished(tmp_path / "run", CLASSIFIER, variables)
    assert isinstance(run.network, OpenSetNetwork)
    assert (run.method.options.method, run.method.score) == ("doc", "ovr")
    assert (run.network.classes, run.network.head) == (6, "linear")
    assert jax.tree.structure(run.variables) == jax.tree.structure(variables)
    for found, wanted in zip(jax.tree.leaves(run.variables), jax.tree.leaves(variables), strict=True):
        assert isinstance(found, jax.Array)
        assert np.array_equal(found, wanted)
    split, data = choose_data(CLASSIFIER)
    assert run.split == split
    assert np.array_equal(run.data.validation.images, data.validation.images)
    assert run.data is run.data  # read once


class Flattened(nn.Module):
    """A backbone of one linear layer, which compiles in no time."""

    @nn.compact
    def __call__(self, images, *, train, taps=None):
        return (images,), nn.Dense(4)(images.reshape(len(images), -1))


def test_functions_of_a_contrastive_network(rng):
    network = ContrastiveNetwork(Flattened(), 5, 3)
    functions = contrastive_functions(network)
    images = rng.uniform(-1, 1, (2, 3, 3, 1)).astype(np.float32)
    variables = jax.jit(lambda x: network.init(jax.random.key(0), x, train=False))(images)
    found = jax.jit(lambda v, x: {name: function(v, x) for name, function in functions.items()})(variables, images)
    # By hand in float64: linear layer, and the head of linear, ReLU, linear, unit norm.
    layers = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    raw = images.reshape(2, 9) @ layers["backbone"]["Dense_0"]["kernel"]
    projection = np.maximum(raw @ layers["hidden"]["kernel"], 0) @ layers["projection"]["kernel"]
    wanted = {"embedding": raw, "raw_embedding": raw, "projection": projection}
    assert found.keys() == wanted.keys()
    for name, rows in wanted.items():
        scale = 1 if name == "raw_embedding" else np.linalg.norm(rows, axis=1, keepdims=True)
        np.testing.assert_allclose(found[name], rows / scale, rtol=1e-5, atol=1e-6)
    assert network_functions(OpenSetNetwork(SmallCNN(), 6)).keys() == {"embedding", "raw_embedding", "logits"}


def test_a_contrastive_run_has_no_logits(tmp_path, capsys):
    run = finished(tmp_path / "run", CONTRASTIVE, {"params": {"w": np.zeros(1)}})
    assert (run.method.options.method, run.method.score) == ("contrast", "knn_sum")
    assert run.network == ContrastiveNetwork(SmallCNN(), 5, 3)
    assert load_script("norms").main([str(run.directory), "--quantities", "logits"]) == 2
    assert "quantities='logits' does not exist for this run: choose from embedding, raw_" in capsys.readouterr().err


def test_a_run_of_an_earlier_version_is_refused_in_one_line(tmp_path, capsys):
    config = {name: value for name, value in CLASSIFIER.items() if name != "method"} | {"loss": "doc"}
    run = finished(tmp_path / "run", config, {"params": {"w": np.zeros(1)}})
    np.savez(run.directory / "scores.npz")
    assert load_script("predict").main([str(run.directory), "image.png"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"predict.py: run={str(run.directory)!r}: the configuration names no method: ")
    assert 'add "method" to its config.json (its "loss", or contrast)' in error
    assert error.count("\n") == 1


def test_networks_are_float32_whatever_the_run_computed_in(tmp_path):
    for config in (CONTRASTIVE, CLASSIFIER):
        run = finished(tmp_path / config["method"], {**config, "dtype": "bfloat16"}, {"params": {"w": np.zeros(1)}})
        assert run.network.backbone.dtype == jnp.float32
        assert run.method.options.dtype == "bfloat16"


@pytest.mark.parametrize("missing", ["config.json", "provenance.json", "network.npz", "scores.npz"])
def test_a_missing_file_is_named_with_the_users_own_argument(missing, tmp_path):
    needed = ("config.json", "provenance.json", "scores.npz", "network.npz")
    for name in needed:
        if name != missing:
            (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=f"runs='{tmp_path}' has no {missing}: finish its training first"):
        open_finished(tmp_path, argument="runs", needed=needed)
    with pytest.raises(ValueError, match=r"run='nowhere' has no config\.json"):
        open_finished(Path("nowhere"))


def test_a_network_that_gives_no_numbers_decides_nothing(tmp_path, capsys):
    """NaN is above no threshold: every image would be one of a known class."""
    variables = variables_of(OpenSetNetwork(SmallCNN(), 6, "linear"))
    variables["params"]["classifier"]["bias"][2] = np.nan
    run = finished(tmp_path / "run", CLASSIFIER, variables)
    logits = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
    np.savez(run.directory / "scores.npz", validation_logits=logits, validation_labels=np.zeros(9, np.int32))
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    assert load_script("predict").main([str(run.directory), str(tmp_path / "a.png")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"run={str(run.directory)!r} gives non-finite logits of 1 of 1 images" in captured.err


def test_other_data_than_the_run_had_is_refused(tmp_path):
    run = finished(tmp_path / "run", CLASSIFIER, {"params": {"w": np.zeros(1)}})
    stored = json.loads((tmp_path / "run" / "provenance.json").read_text())
    stored["images"]["train"] += 1
    (tmp_path / "run" / "provenance.json").write_text(json.dumps(stored))
    assert run.data.known_names == tuple("012459")  # opened before
    with pytest.raises(ValueError, match=r"was started with other data \(images differs\)"):
        _ = open_finished(tmp_path / "run").data
