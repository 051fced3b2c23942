"""Norms of a run's data set, and the quality of their estimate, as a user runs the scripts."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import load_script
from sklearn.metrics import roc_auc_score

import osrjax
from osrjax import augment
from osrjax.commands.norms import kinds_of
from osrjax.data import choose_data, content_of, drawn_rows, open_source
from osrjax.models.backbones import NETWORKS, SmallCNN
from osrjax.models.networks import OpenSetNetwork
from osrjax.run.directory import Run

NARROW = partial(SmallCNN, width=4)
NETWORK = OpenSetNetwork(NARROW(), 6)


@pytest.fixture(scope="module", autouse=True)
def narrow():
    """The network of all runs with an eighth of the channels, but the full length of the embedding."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "small_cnn", NARROW)
        yield


def write_run(directory, variables, **options):
    """The files of a finished run on the digits."""
    config = {"data": "digits", "network": "small_cnn", "method": "m_ovr", "flip": False, "crop_padding": 1, **options}
    split, data = choose_data(config)
    with Run(directory, config, content=content_of(data, split)) as made:
        made.write_network(variables)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of such a run, its network untrained; and the network's variables."""
    directory = tmp_path_factory.mktemp("run") / "digits"
    variables = jax.jit(lambda: NETWORK.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False))()
    write_run(directory, variables)
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


def test_parts_of_the_norms_of_a_run(run, capsys):
    directory, variables = run
    assert load_script("jacobian_parts").main([str(directory), "--images", "6", "--batch-size", "5"]) == 0
    printed = capsys.readouterr().out
    with np.load(directory / "parts" / "parts.npz") as stored:
        found = dict(stored)
    _, data = choose_data({"data": "digits"})
    rows = osrjax.analysis.probe_sets(data, probe_images=6, probe_pairs=1, seed=0).unknown
    images = augment.to_float(jnp.asarray(data.test_unknown.images[rows]))

    def one(x):
        return NETWORK.apply(variables, x[None], train=False).embedding[0]

    jacobians = np.asarray(jax.jit(jax.vmap(jax.jacrev(one)))(images), np.float64).reshape(6, 128, 64)
    np.testing.assert_allclose(found["unknown_norm"], np.linalg.norm(jacobians, axis=(1, 2)), rtol=2e-5)
    singular = np.linalg.svd(jacobians, compute_uv=False)
    np.testing.assert_allclose(found["unknown_singular_values"], singular, atol=1e-4 * singular.max())
    assert found["unknown_labels"].tolist() == data.test_unknown.labels[rows].tolist()
    means = [found[f"{kind}_norm"].mean() for kind in ("known", "unknown")]
    (line,) = (line for line in printed.splitlines() if line.startswith("m_ovr   norm  "))
    assert line.split()[2:] == [f"{value:.3f}" for value in (*means, np.log(means[1] / means[0]))] + ["1"]
    assert load_script("jacobian_parts").main([str(directory), "--images", "2"]) == 2
    assert "probe_images=2 is below the 6 known classes" in capsys.readouterr().err


def test_norms_of_a_run_as_detectors(run, capsys, monkeypatch):
    directory, variables = run
    script = load_script("norm_detectors")
    words = [str(directory), "--images", "12", "--draws", "3", "--batch-size", "5"]
    assert script.main(words) == 0
    printed = capsys.readouterr().out
    with np.load(directory / "norm_detectors" / "norm_detectors.npz") as stored:
        found = dict(stored)
    _, data = choose_data({"data": "digits"})
    sets = osrjax.analysis.probe_sets(data, probe_images=12, probe_pairs=1, seed=0)

    def outputs(images):
        return NETWORK.apply(variables, augment.to_float(jnp.asarray(images)), train=False)

    validation = np.asarray(outputs(data.validation.images).embedding, np.float64)
    means = [validation[data.validation.labels == k].mean(axis=0) for k in range(6)]
    for kind, part, rows in (
        ("known", data.test_known, sets.known),
        ("unknown", data.test_unknown, sets.unknown),
    ):
        values = np.asarray(outputs(part.images[rows]).embedding, np.float64)
        distances = np.linalg.norm(values[:, None] - means, axis=2).min(axis=1)
        np.testing.assert_allclose(found[f"{kind}_distance"], distances, rtol=1e-5)
        for n in (1, 2, 8):
            assert found[f"{kind}_estimate_{n}"].shape == (3, 12)
    role = np.repeat([0, 1], 12)
    scores = [np.concatenate([found[f"{kind}_{name}"] for kind in ("known", "unknown")]) for name in ("norm", "own")]
    norm, own = (roc_auc_score(role, values) for values in scores)
    lines = {line.split("  ")[1].strip(): line.split() for line in printed.splitlines() if line.startswith("m_ovr  ")}
    assert lines["own score"][3:5] == [f"{own:.3f}", "-"]
    assert lines["exact norm"][3:6] == [f"{norm:.3f}", "-", f"{norm - own:.3f}"]
    assert [line[-3] for line in lines.values()] == ["1", "1", "2", "3", "9", "65", "10", "66"]  # 64 pixels
    monkeypatch.setattr(script, "measured", lambda *_: {}["measured again"])
    assert script.main([*words[:-1], "7"]) == 0  # read again: images a call are no other question
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--draws", "0"], "draws=0 must be above 0"),
        (["--seed", "-1"], "seed=-1 must not be negative"),
        (["--images", "2"], "probe_images=2 is below the 6 known classes"),
    ],
)
def test_bad_input_of_norm_detectors(run, options, message, capsys):
    assert load_script("norm_detectors").main([str(run[0]), *options]) == 2
    assert f"norm_detectors.py: {message}" in capsys.readouterr().err
    assert load_script("norm_detectors").main([]) == 2
    assert "norm_detectors.py: runs is empty: give finished run directories" in capsys.readouterr().err


def test_runs_of_other_splits_are_refused_together(run, tmp_path, capsys):
    write_run(tmp_path / "r", run[1], family="random", openness=0.2)
    for script in ("jacobian_parts", "norm_detectors"):
        assert load_script(script).main([str(run[0]), str(tmp_path / "r")]) == 2
        assert f"runs={str(tmp_path / 'r')!r} has a split of random" in capsys.readouterr().err


def test_own_images_elsewhere_keep_their_classes_and_others_have_none(run, tmp_path, monkeypatch, capsys):
    splits = open_source("digits").splits
    arrays = {f"{part}_images": splits[part].images for part in splits}
    arrays |= {f"{part}_labels": splits[part].labels for part in splits}
    np.savez(tmp_path / "digits.npz", **arrays)
    np.savez(tmp_path / "other.npz", **arrays | {"test_images": splits["test"].images[::-1]})
    found = lambda functions, *arguments, **options: {"embedding": np.ones(4, np.float32)}  # noqa: E731
    monkeypatch.setattr(osrjax.analysis, "dataset_jacobian_norms", found)
    for name, said in (("digits", True), ("other", False)):
        options = ["--data", f"npz:{tmp_path}/{name}.npz", "--images", "4", "--out", str(tmp_path / "out")]
        assert load_script("norms").main([str(run[0]), *options]) == 0
        assert ("known" in capsys.readouterr().out) == said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", "0"], "norms.py: images=0 is below 1"),
        (["--images", "2", "--seed", "-1"], "norms.py: seed=-1 must not be negative"),
        (["--quantities", "logits", "logits"], "norms.py: quantities='logits' is named twice"),
        (["--memory-mib", "0"], "norms.py: memory_mib=0 is below 1"),
        (["--data", "fashion_mnist_small"], "norms.py: data='fashion_mnist_small' has images"),
        (["--devices", "99"], "norms.py: devices=99 but 4 are visible"),
    ],
)
def test_bad_input_of_norms(run, options, message, tmp_path, capsys):
    assert load_script("norms").main([str(run[0]), *options, "--out", str(tmp_path / "norms")]) == 2
    assert message in capsys.readouterr().err


def test_a_budget_below_one_image_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(NETWORKS, "small_cnn", SmallCNN)  # whose parameters alone take a MiB
    network, image = OpenSetNetwork(SmallCNN(), 6), jnp.zeros((1, 8, 8, 1))
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), image, train=False))
    write_run(tmp_path / "run", jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes))
    assert load_script("norms").main([str(tmp_path / "run"), "--memory-mib", "1"]) == 2
    assert "norms.py: memory_budget=1048576 bytes is too small" in capsys.readouterr().err


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


def test_untrained_imports_a_method_of_ones_own_when_it_is_named(tmp_path, capsys):
    own = {"data": "fashion_mnist_small", "network": "small_cnn", "method": "no_such_module:loss"}
    with Run(tmp_path / "r", own, content={"known_names": list("012459"), "image_shape": (28, 28, 1)}) as made:
        made.write_network({"params": {"w": np.zeros(1)}})
    script = load_script("untrained")
    assert script.main([str(tmp_path / "r")]) == 2
    assert "name it again (--own-method no_such_module:loss)" in capsys.readouterr().err
    assert script.main([str(tmp_path / "r"), "--own-method", "no_such_module:loss"]) == 2
    assert "'no_such_module:loss' cannot be imported" in capsys.readouterr().err


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
    assert kinds_of(config, {"known": [0, 1, 2], "unknown": [8, 9]}, names) == kinds
