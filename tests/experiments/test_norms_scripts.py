"""Norms of a run's data set, and the quality of their estimate, as a user runs the scripts."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import load_script

from osrjax import augment
from osrjax.commands.norms import kinds_of
from osrjax.data import drawn_rows, open_source
from osrjax.models.backbones import NETWORKS
from osrjax.models.networks import OpenSetNetwork
from osrjax.run.directory import Run

NETWORK = OpenSetNetwork(NETWORKS["small_cnn"](), 6)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The files of a finished run on the digits, its network untrained; and the network's variables."""
    directory = tmp_path_factory.mktemp("run") / "digits"
    variables = jax.jit(lambda: NETWORK.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False))()
    content = {
        "known_names": list("012459"),
        "image_shape": (8, 8, 1),
        "split": {"known": [0, 1, 2, 4, 5, 9], "unknown": [3, 6, 7, 8]},
    }
    config = {"data": "digits", "network": "small_cnn", "method": "m_ovr", "flip": False, "crop_padding": 1}
    with Run(directory, config, content=content) as made:
        made.write_network(variables)
    return directory, variables


def test_norms_of_a_run(run, capsys):
    directory, variables = run
    script = load_script("norms")
    assert script.main([str(directory), "--images", "12", "--quantities", "embedding", "logits", "--devices", "2"]) == 0
    out = capsys.readouterr().out
    assert "unknown - known" in out
    test = open_source("digits").splits["test"]
    rows = drawn_rows(test.labels, 12, seed=0)
    assert len(set(test.labels[rows].tolist())) == 10  # the first 12 rows are of three classes at most
    images = augment.to_float(jnp.asarray(test.images[rows]))
    for name in ("embedding", "logits"):

        def one(x, name=name):
            return getattr(NETWORK.apply(variables, x[None], train=False), name)[0]

        jacobians = np.asarray(jax.jit(jax.vmap(jax.jacrev(one)))(images), np.float64)
        found = np.load(directory / "norms-digits-test" / f"{name}.npy")
        np.testing.assert_allclose(found, np.sqrt(np.sum(jacobians.reshape(12, -1) ** 2, axis=1)), rtol=2e-5)
        assert f"{name}: mean {found.mean():.4f}" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", "0"], "norms.py: images=0 is below 1"),
        (["--images", "2", "--seed", "-1"], "norms.py: seed=-1 must not be negative"),
        (["--memory-mib", "0"], "norms.py: memory_mib=0 is below 1"),
        (["--memory-mib", "1"], "norms.py: memory_budget=1048576 bytes is too small"),
        (["--data", "fashion_mnist_small"], "norms.py: data='fashion_mnist_small' has images"),
        (["--devices", "99"], "norms.py: devices=99 but 4 are visible"),
    ],
)
def test_bad_input_of_norms(run, options, message, tmp_path, capsys):
    assert load_script("norms").main([str(run[0]), *options, "--out", str(tmp_path / "norms")]) == 2
    assert message in capsys.readouterr().err


def test_estimator_of_a_run(run, capsys):
    assert load_script("estimator").main([str(run[0]), "--smoke"]) == 0
    numbers = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert abs(numbers["network"]["standard_errors"]) < 4
    # 10 repetitions of 40 images: coarse bounds, the command itself measures.
    assert 0.85 < numbers["gaussian 32"]["coverage, one image"] < 1
    assert abs(numbers["rademacher 32"]["bias of the root"]) < 0.02
    assert numbers["gaussian 2"]["bias of the root"] < numbers["gaussian 32"]["bias of the root"] < 0


@pytest.mark.parametrize("script", ["norms", "estimator"])
def test_a_directory_that_is_no_finished_run(script, tmp_path, capsys):
    assert load_script(script).main([str(tmp_path)]) == 2
    assert f"{script}.py: run={str(tmp_path)!r} has no config.json" in capsys.readouterr().err


def test_untrained_networks(capsys):
    script = load_script("untrained")
    assert script.main(["--smoke"]) == 0
    numbers = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(numbers) == 4
    # Estimated statistics bring activations to unit size, which initial ones leave small: so the raw norm grows.
    raw = [numbers[f"small_cnn, {kind}, raw_embedding"]["mean"] for kind in ("initial", "estimated")]
    assert 0 < raw[0] < raw[1]
    assert script.main(["--seeds", "1"]) == 2
    assert "untrained.py: seeds=1, images=10: give at least 2 seeds and 1 image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        ({"held_out": []}, {0: "known", 1: "known", 2: "known", 8: "unknown", 9: "unknown"}),
        ({"held_out": [1]}, {0: "known", 1: "unknown", 2: "known", 8: "unknown", 9: "unknown"}),
        ({"held_out": ["one"]}, {0: "known", 1: "unknown", 2: "known", 8: "unknown", 9: "unknown"}),
        ({"held_out": [], "unknown_data": "cifar100"}, {0: "known", 1: "known", 2: "known"}),
    ],
)
def test_classes_without_a_part_in_the_run_are_neither_known_nor_unknown(config, kinds):
    names = ("zero", "one", *"23456789")
    assert kinds_of(config, {"split": {"known": [0, 1, 2], "unknown": [8, 9]}}, names) == kinds
