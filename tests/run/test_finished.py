"""A run directory opened again: its files, its network, its data; no training."""

import json
import os
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import load_script
from PIL import Image

from osrjax.data import choose_data, content_of
from osrjax.files import FileError
from osrjax.models.backbones import SmallCNN
from osrjax.models.networks import ContrastiveNetwork, OpenSetNetwork
from osrjax.models.outputs import contrastive_functions, network_functions
from osrjax.run.directory import Run
from osrjax.run.finished import FinishedRun, open_finished
from osrjax.run.single import write_outputs
from osrjax.train.step import TrainState

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
    assert error.startswith(f"predict.py: run={str(run.directory)!r}: the configuration names no method, as in ")
    assert "read it with that version, or train it again in another directory" in error
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
    remedy = "give the directory of a finished run" if missing == "config.json" else "finish its training first"
    os.mkfifo(tmp_path / missing)  # it would never end
    with pytest.raises(ValueError, match=f"runs='{tmp_path}' has no {missing}: {remedy}"):
        open_finished(tmp_path, argument="runs", needed=needed)
    (tmp_path / missing).unlink()
    if missing != "config.json":
        for file, remedy in (
            ("results.json", "restore it, or delete the results.json"),
            ("results.csv", "a sweep keeps"),
        ):
            (tmp_path / file).write_text("{}")
            with pytest.raises(ValueError, match=f"has no {missing}: {remedy}"):
                open_finished(tmp_path, argument="runs", needed=needed)
    with pytest.raises(ValueError, match=r"run='nowhere' has no config\.json"):
        open_finished(Path("nowhere"))


def test_a_network_that_gives_no_numbers_decides_nothing(tmp_path):
    """NaN is above no threshold: every image would be one of a known class."""
    variables = variables_of(OpenSetNetwork(SmallCNN(), 6, "linear"))
    variables["params"]["classifier"]["kernel"][:] = 3e38  # a number, but what it gives is none
    variables["params"]["classifier"]["bias"][:] = -3e38
    run = finished(tmp_path / "run", CLASSIFIER, variables)
    with pytest.raises(ValueError, match=r"gives non-finite logits of 1 of 1 images: restore its network\.npz"):
        open_finished(run.directory).outputs(np.zeros((1, 8, 8, 1), np.uint8))


def test_other_data_than_the_run_had_is_refused(tmp_path):
    run = finished(tmp_path / "run", CLASSIFIER, {"params": {"w": np.zeros(1)}})
    stored = json.loads((tmp_path / "run" / "provenance.json").read_text())
    stored["images"]["train"] += 1
    (tmp_path / "run" / "provenance.json").write_text(json.dumps(stored))
    assert run.data.known_names == tuple("012459")  # opened before
    with pytest.raises(ValueError, match=r"was started with other data \(images differs\)"):
        _ = open_finished(tmp_path / "run").data


# ----------------------------------------------------------------------------------- data that changed, or moved


@pytest.fixture
def own(tmp_path, rng):
    """A run on a file of one's own, and its arrays."""
    labels = {"train": np.repeat(np.arange(3), 8), "test": np.repeat(np.arange(3), 4)}
    arrays = {f"{part}_labels": rows for part, rows in labels.items()}
    arrays |= {f"{part}_images": rng.integers(0, 256, (len(r), 8, 8, 1), np.uint8) for part, r in labels.items()}
    np.savez(tmp_path / "svhn_cropped.npz", **arrays)
    config = {**CLASSIFIER, "data": f"npz:{tmp_path}/svhn_cropped.npz", "known": [0, 1], "unknown": [2]}
    return finished(tmp_path / "run", config, {"params": {"w": np.zeros(1)}}), arrays


def test_pixels_that_changed_under_the_same_name_are_refused(own, tmp_path):
    run, arrays = own
    np.savez(tmp_path / "svhn_cropped.npz", **arrays | {"test_images": 255 - arrays["test_images"]})
    with pytest.raises(ValueError, match=r"was started with other data \(sha256 differs\): give the data that it had"):
        _ = run.data
    with pytest.raises(ValueError, match="sha256 differs"):
        _ = run.source


def test_data_that_moved_is_found_by_its_new_name_and_no_other_is_taken(own, tmp_path):
    run, arrays = own
    (tmp_path / "svhn_cropped.npz").rename(tmp_path / "moved.npz")
    with pytest.raises(ValueError, match=r"svhn_cropped\.npz' does not exist.*; if it has moved, say where.*: --data"):
        _ = run.data
    found = open_finished(run.directory, data=f"npz:{tmp_path}/moved.npz")
    assert np.array_equal(found.data.test_known.images, arrays["test_images"][:8])
    assert np.array_equal(found.source.splits["test"].images, arrays["test_images"])
    np.savez(tmp_path / "other.npz", **arrays | {"train_images": arrays["train_images"][::-1]})
    with pytest.raises(ValueError, match="sha256 differs"):
        _ = open_finished(run.directory, data=f"npz:{tmp_path}/other.npz").data


def test_a_moved_set_keeps_its_class_lists(tmp_path):
    """Those of its name then: the digits' under a name that no family has."""
    images = choose_data({"data": "digits"})[1]
    assert images.known_names == tuple("012459")
    run = finished(tmp_path / "run", CLASSIFIER, {"params": {"w": np.zeros(1)}})
    from osrjax.data import open_source

    splits = open_source("digits").splits
    arrays = {f"{part}_images": splits[part].images for part in splits}
    np.savez(tmp_path / "mine.npz", **arrays, **{f"{part}_labels": splits[part].labels for part in splits})
    found = open_finished(run.directory, data=f"npz:{tmp_path}/mine.npz").data
    assert found.known_names == images.known_names
    assert np.array_equal(found.train.images, images.train.images)


# ----------------------------------------------------------------------- networks and outputs that are not the run's


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with its outputs, which are random: what is stored, not what is learned, is read here."""
    config = {**CLASSIFIER, "data": "digits"}
    split, data = choose_data(config)
    draws = np.random.default_rng(1)
    outputs, labels = {}, {}
    for part in ("train", "validation", "known", "unknown"):
        labels[part] = getattr(data, part if part in ("train", "validation") else f"test_{part}").labels
        shapes = {"logits": 6, "embedding": 128}
        outputs[part] = {n: draws.normal(size=(len(labels[part]), k)).astype(np.float32) for n, k in shapes.items()}
    directory = tmp_path_factory.mktemp("trained") / "run"
    variables = variables_of(OpenSetNetwork(SmallCNN(), 6, "linear"))
    with Run(directory, config, content=content_of(data, split)) as run:
        write_outputs(
            run, outputs, labels, TrainState(np.zeros((), int), variables["params"], variables["batch_stats"], ())
        )
    return open_finished(directory), outputs


def forgetful(run):
    """As an earlier version left it, which remembered no checksums of its files."""
    provenance = {name: value for name, value in run.provenance.items() if name != "files"}
    return type(run)(run.directory, run.config, provenance)


def test_what_the_run_wrote_is_read_back(trained):
    run, outputs = trained
    for found in (run, forgetful(run)):
        stored, labels = found.stored_outputs("validation", "known")
        assert np.array_equal(stored["validation"]["logits"], outputs["validation"]["logits"])
        assert np.array_equal(labels["known"], run.data.test_known.labels)


BROKEN_NETWORK = {
    "a number that is none": (
        {"params/classifier/kernel": lambda a: a * np.nan},
        "params/classifier/kernel holds NaN or infinity",
    ),
    "a shape that would broadcast": (
        {"params/classifier/bias": lambda a: a[:1]},
        r"params/classifier/bias has shape \(1,\), not \(6",
    ),
    "a class less": ({"params/classifier/kernel": lambda a: a[:, :5]}, r"has shape \(128, 5\), not \(128, 6\)"),
    "an array too many": ({"params/extra": lambda a: np.ones(3)}, r"params/extra has shape \(3,\), not none"),
    "an array less": ({"params/classifier/bias": None}, r"params/classifier/bias has shape none, not \(6,\)"),
    "an array in the place of a layer": ({"params": lambda a: np.ones(3)}, "is of another network"),
    "objects": ({"params/classifier/bias": lambda a: np.array([None])}, "it holds no plain arrays"),
    "other weights": (
        {"params/classifier/bias": lambda a: a + 1},
        "is not the file that this run wrote: restore that one",
    ),
}


@pytest.mark.parametrize("kind", BROKEN_NETWORK)
def test_a_network_that_is_none_of_the_run_is_refused_by_name(kind, trained, tmp_path):
    run, _ = trained
    changes, message = BROKEN_NETWORK[kind]
    with np.load(run.directory / "network.npz") as stored:
        arrays = dict(stored)
    for name, change in changes.items():
        if change is None:
            del arrays[name]
        else:
            arrays[name] = change(arrays.get(name))
    np.savez(tmp_path / "network.npz", **arrays)
    provenance = run.provenance if kind == "other weights" else forgetful(run).provenance
    with pytest.raises(FileError, match=rf"network\.npz .*{message}.*delete it and the results\.json beside it"):
        _ = type(run)(tmp_path, run.config, provenance).variables


BROKEN_OUTPUTS = {
    "a logit that is none": ({"validation_logits": lambda a: a * np.inf}, "validation_logits holds NaN or infinity"),
    "fewer images": ({"validation_logits": lambda a: a[:-1]}, "the validation outputs have other shapes"),
    "a row that broadcasts": ({"validation_logits": lambda a: a[0]}, "the validation outputs have other shapes"),
    "a class less": ({"validation_logits": lambda a: a[:, 1:]}, "the validation outputs have other shapes"),
    "no outputs": ({"validation_logits": None}, "the validation outputs have other shapes"),
    "no labels": ({"validation_labels": None}, "the validation outputs have other shapes"),
    "labels of another class": ({"validation_labels": lambda a: a + 1}, "the validation labels are others"),
    "labels below 0": ({"validation_labels": lambda a: a - 1}, "the validation labels are others"),
    "labels that are no integers": ({"validation_labels": lambda a: a / 2}, "the validation labels are others"),
    "half of all": ({f"validation_{n}": lambda a: a[::2] for n in ("logits", "embedding", "labels")},
                    "the validation labels are others"),
    "other logits": ({"validation_logits": lambda a: a + 1}, "is not the file that this run wrote: restore that one"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN_OUTPUTS)
def test_outputs_that_are_none_of_the_run_are_refused_by_name(kind, trained, tmp_path):
    run, _ = trained
    changes, message = BROKEN_OUTPUTS[kind]
    with np.load(run.directory / "scores.npz") as stored:
        arrays = dict(stored)
    for name, change in changes.items():
        if change is None:
            del arrays[name]
        else:
            arrays[name] = change(arrays[name])
    np.savez(tmp_path / "scores.npz", **arrays)
    provenance = run.provenance if kind == "other logits" else forgetful(run).provenance
    found = type(run)(tmp_path, run.config, provenance)
    vars(found)["variables"] = run.variables  # read before
    with pytest.raises(FileError, match=rf"scores\.npz .*{message}.*delete it and the results\.json beside it"):
        found.stored_outputs("validation")


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config", {"margin": "0.5"}, "margin='0.5' is no float"),
        ("config", {"network": ["small_cnn"]}, r"network=\('small_cnn',\) is no Literal"),
        ("config", {"network": None}, "network=None is no Literal"),
        ("config", {"method": 3}, "method=3 is no str"),
        ("config", {"method": None}, "the configuration names no method"),
        ("config", {"steps": None}, "steps=None is no int"),
        ("config", {"steps": 1.5}, "steps=1.5 is no int"),
        ("config", {"margin": 10**400}, "margin=.* is no float"),
        ("config", {"cam_layers": 3}, "cam_layers=3 is no tuple"),
        ("config", {"data": 3}, "data=3 is no str"),
        ("config", {"known": "all"}, "known='all' is no list"),
        ("config", {"known": [0, None]}, r"known=\(0, None\) is no tuple"),
        ("config", {"split": None}, "split=None is no int"),
        ("provenance", {"known_names": "abc"}, "lists no known_names"),
        ("provenance", {"known_names": []}, "lists no known_names"),
        ("provenance", {"known_names": [1, 2]}, "lists no known_names"),
        ("provenance", {"image_shape": None}, "has image_shape=None, not height, width, 1 or 3"),
        ("provenance", {"image_shape": [8, 8]}, r"has image_shape=\[8, 8\], not"),
        ("provenance", {"image_shape": [8, 8, "1"]}, "has image_shape="),
        ("provenance", {"image_shape": [8, -8, 1]}, "has image_shape="),
        ("provenance", {"image_shape": [8, 8, 2**63]}, "has image_shape="),
        ("provenance", {"image_shape": [1000, 1000, 1]}, r"image_shape=\[1000, 1000, 1\], above 262144 pixels"),
        ("provenance", {"split": None}, "has no split that can be read"),
        ("provenance", {"split": {"known": 3}}, "has no split that can be read"),
        ("provenance", {"sha256": 3}, "was started with other data"),
    ],
)
def test_values_that_no_run_has_are_one_line(file, changes, message, tmp_path):
    run = finished(tmp_path / "run", CLASSIFIER, {"params": {"w": np.zeros(1)}})
    path = run.directory / f"{file}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    def read():
        found = open_finished(run.directory)
        return found.method, found.split, found.data

    with pytest.raises(ValueError, match=message) as caught:
        read()
    assert len(str(caught.value).splitlines()) == 1


def test_a_method_of_ones_own_that_has_changed_is_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "own_loss.py"
    file.write_text("from osrjax.methods.class_losses import DOC as OWN\n")
    from osrjax.methods import method_source

    content = method_source("own_loss:OWN")
    run = finished(tmp_path / "run", {**CLASSIFIER, "method": "own_loss:OWN"}, {"params": {"w": np.zeros(1)}})
    stored = run.provenance | content
    of_run = {"directory": run.directory, "config": run.config, "own_method": "own_loss:OWN"}
    assert type(run)(**of_run, provenance=stored).method.score == "ovr"
    assert type(run)(**of_run, provenance=run.provenance).method.score == "ovr"  # an earlier version remembered nothing
    file.write_text(file.read_text() + "# changed\n")
    with pytest.raises(
        ValueError, match="was trained with another source of own_loss:OWN: restore that file, or train"
    ):
        _ = type(run)(**of_run, provenance=stored).method
    monkeypatch.delitem(sys.modules, "own_loss")


def test_a_run_keeps_its_classes_where_numbers_have_come_to_mean_names(tmp_path):
    """Ids that were typed before numbers meant names, of a folder whose first classes are called 2 and 10."""
    for part, count in (("train", 6), ("test", 2)):
        for name in ("2", "10", "cat", "dog"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / part / name / f"{number}.png")
    fields = {"data": f"folder:{tmp_path}/data", "known": ["cat", "dog"], "validation_share": 0.2}
    split, data = choose_data(fields)
    content = json.loads(json.dumps(content_of(data, split)))
    assert content["known_names"] == ["cat", "dog"]
    run = FinishedRun(tmp_path, {**CLASSIFIER, **fields, "known": [2, 3]}, content)
    assert run.data.known_names == ("cat", "dog")
