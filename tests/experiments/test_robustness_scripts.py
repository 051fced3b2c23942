"""Corrupted and foreign images against a finished run, as a user runs the scripts."""

import dataclasses
import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import load_script
from sklearn.metrics import roc_auc_score

from osrjax import augment
from osrjax.data import choose_data, content_of, open_source
from osrjax.data.corruptions import corrupt
from osrjax.data.table import GENERATED_CORRUPTIONS
from osrjax.models.backbones import NETWORKS, SmallCNN
from osrjax.models.networks import ContrastiveNetwork, OpenSetNetwork
from osrjax.run.directory import Run
from osrjax.run.finished import open_finished
from osrjax.run.foreign import shared_with_known

NARROW = partial(SmallCNN, width=4, features=32)  # an eighth of the channels: width is not what is tested here
NETWORK = {
    "classifier": OpenSetNetwork(NARROW(), 6, "linear"),
    "contrastive": ContrastiveNetwork(NARROW(), 16, 8),
}
FIELDS = {
    "classifier": {"method": "softmax", "scale": 16.0, "margin": 0.5},
    "contrastive": {"method": "contrast", "mixing": "gradmix", "hidden": 16, "features": 8, "neighbours": 2},
}
QUICK = ["--eval-batch-size", "100", "--resamples", "20"]


def finished(directory, kind, variables, changes=None):
    """The files of a finished run on the digits."""
    config = {"data": "digits", "network": "small_cnn", "split": 0} | FIELDS[kind] | (changes or {})
    split, data = choose_data(config)
    with Run(directory, config, content=content_of(data, split)) as made:
        made.write_network(variables)
    return directory


@pytest.fixture(scope="module")
def variables():
    """Of untrained networks: their answers vary from image to image, which is all that is needed here.

    Drawn here: compiling the networks' own initialisation takes longer than all else.
    """
    draws = np.random.default_rng(0)

    def drawn(path, leaf):
        if path[-1].key == "kernel":
            return draws.normal(size=leaf.shape, scale=np.prod(leaf.shape[:-1]) ** -0.5).astype(np.float32)
        return np.full(leaf.shape, path[-1].key in ("scale", "var"), np.float32)

    return {
        name: jax.tree.map_with_path(
            drawn, jax.eval_shape(lambda n=n: n.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False))
        )
        for name, n in NETWORK.items()
    }


@pytest.fixture(scope="module", autouse=True)
def narrow():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "small_cnn", NARROW)
        yield


@pytest.fixture(scope="module")
def outputs(variables):
    """What the networks make of images, by one compiled function."""

    @jax.jit
    def both(images):
        images = augment.to_float(images)
        found = {name: network.apply(variables[name], images, train=False) for name, network in NETWORK.items()}
        return found["classifier"].logits, found["contrastive"].projection, found["contrastive"].embedding

    def of(images):
        padded = np.zeros((-(-len(images) // 60), 60, 8, 8, 1), np.uint8)  # one shape, one compilation
        padded.reshape(-1, 8, 8, 1)[: len(images)] = images
        parts = zip(*(both(jnp.asarray(part)) for part in padded), strict=True)
        return [np.concatenate([np.asarray(array, np.float64) for array in part])[: len(images)] for part in parts]

    return of


@pytest.fixture(scope="module")
def runs(variables, tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs")
    return {kind: finished(directory / kind, kind, variables[kind]) for kind in NETWORK}


@pytest.fixture(scope="module")
def data():
    return choose_data({"data": "digits"})[1]


def nearest_sums(projection, bank, labels, neighbours=2):
    """Class-wise sums of the largest cosines, one class after another."""
    cosines = projection @ bank.T
    return np.stack([np.sort(cosines[:, labels == c], axis=1)[:, -neighbours:].sum(axis=1) for c in range(6)], axis=1)


def first_images(data, count):
    rows = np.sort(np.concatenate([np.flatnonzero(data.test_known.labels == c)[:count] for c in range(6)]))
    return data.test_known.images[rows], data.test_known.labels[rows]


@pytest.mark.parametrize("kind", NETWORK)
def test_features_are_the_networks_outputs(kind, runs, outputs, data):
    run = open_finished(runs[kind])
    images = data.test_known.images[:7]
    found = run.outputs(images, batch_size=3)
    logits, projection, embedding = outputs(images)
    if kind == "classifier":
        assert found.keys() == {"embedding", "logits"}
        np.testing.assert_allclose(found["logits"], logits, rtol=1e-4, atol=1e-5)
    else:
        assert found.keys() == {"embedding", "projection"}
        np.testing.assert_allclose(found["projection"], projection, atol=1e-5)
        np.testing.assert_allclose(found["embedding"], embedding, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="batch_size=0 with"):
        run.outputs(images, batch_size=0)


@pytest.mark.parametrize("kind", NETWORK)
def test_corruption_of_a_run(kind, runs, outputs, data, tmp_path, capsys):
    options = ["--images", "9", "--severities", "1", "5", "--corruptions", "fog", "gaussian_noise", "frost"]
    if kind == "classifier":
        options += ["--baseline", str(runs[kind])]
    assert (
        load_script("corruption").main([str(runs[kind]), *options, *QUICK, "--out", str(tmp_path / "new" / "out")]) == 0
    )
    out = capsys.readouterr().out
    found = json.loads((tmp_path / "new" / "out" / "corruption.json").read_text())
    images, labels = first_images(data, 9)
    bank = outputs(data.train.images)[1]

    def accuracy(images):
        logits, projection, _ = outputs(images)
        sums = logits if kind == "classifier" else nearest_sums(projection, bank, data.train.labels)
        return np.mean(sums.argmax(-1) == labels)

    assert found["images"] == 54
    assert found["clean_accuracy"]["value"] == pytest.approx(accuracy(images))
    wanted = {
        name: {str(s): accuracy(corrupt(images, name, severity=s)) for s in (1, 5)}
        for name in ("fog", "gaussian_noise", "frost (procedural)")
    }
    assert found["accuracy"].keys() == wanted.keys()
    for name, values in wanted.items():
        assert found["accuracy"][name] == pytest.approx(values)
    mean = np.mean([list(values.values()) for values in wanted.values()])
    for name, value in (("mean_accuracy", mean), ("mean_corruption_error", 1 - mean)):
        assert found[name]["value"] == pytest.approx(value)
        assert found[name]["low"] < value < found[name]["high"]
    assert f"mean accuracy {mean:.3f} [" in out
    assert "note: frost (procedural) is a texture" in out
    if kind == "classifier":  # its own baseline
        assert found["relative_corruption_error"] == pytest.approx(dict.fromkeys(wanted, 1.0))
        assert found["relative_mean_corruption_error"] == pytest.approx({"value": 1.0, "low": 1.0, "high": 1.0})
        assert found["baseline"]["mean_accuracy"] == pytest.approx(mean)
        assert "relative to the baseline: 1.000 [1.000, 1.000]" in out
    else:
        assert found["classifier"] == "2 nearest neighbours in the projection"
        assert "baseline" not in found


@pytest.fixture
def published(tmp_path):
    """A folder in the form of CIFAR-10-C whose images are the clean test images of all ten digits."""
    test = open_source("digits").splits["test"]
    np.save(tmp_path / "fog.npy", np.concatenate([test.images] * 5))
    np.save(tmp_path / "labels.npy", np.tile(test.labels, 5))
    return tmp_path


def test_published_files(runs, published, capsys):
    script = load_script("corruption")
    options = ["--corrupted", str(published), "--corruptions", "fog", *QUICK]
    assert script.main([str(runs["classifier"]), *options]) == 0
    found = json.loads((runs["classifier"] / "corruption-published" / "corruption.json").read_text())
    assert found["images"] == 215
    assert found["accuracy"]["fog"] == pytest.approx(dict.fromkeys("12345", found["clean_accuracy"]["value"]))
    assert found["notes"] == []
    assert "frost" not in capsys.readouterr().out


def test_published_files_in_another_order_are_noted(runs, published, capsys):
    for name in ("fog", "labels"):
        array = np.load(published / f"{name}.npy")
        np.save(published / f"{name}.npy", array[::-1])
    script = load_script("corruption")
    options = ["--corrupted", str(published), "--corruptions", "fog", "--images", "3", "--severities", "2", *QUICK]
    assert script.main([str(runs["classifier"]), *options, "--out", str(published / "out")]) == 0
    assert "note: the labels of the corrupted images are not those" in capsys.readouterr().out


def test_a_baseline_without_errors_gives_no_relative_error(runs):
    script = load_script("corruption")
    config = script.Config(run=runs["classifier"], baseline=runs["classifier"], severities=(1, 2), resamples=10)
    correct = np.zeros((2, 2, 2, 8), bool)
    correct[1, 0] = True
    names = ("fog", "snow")
    found = script.summary(config, open_finished(runs["classifier"]), names, np.ones((2, 8), bool), correct)
    assert found["notes"] == ["no relative mCE: the baseline makes no error under fog"]
    assert "relative_mean_corruption_error" not in found
    # Four times the baseline's errors under one, as many under the other: (4 + 1) / 2
    correct[1, 0, :, 0] = correct[1, 0, 0, 1:] = False
    correct[1, 0, 0, 1:], correct[1, 0, 0, 1], correct[1, 0, 1, 2] = True, False, False
    found = script.summary(config, open_finished(runs["classifier"]), names, np.ones((2, 8), bool), correct)
    assert found["relative_corruption_error"] == {"fog": 4.0, "snow": 1.0}
    # Of so few errors a resample may hold none: no interval.
    assert found["relative_mean_corruption_error"] == {"value": pytest.approx(2.5), "low": None, "high": None}


@pytest.fixture
def sets(tmp_path, rng):
    """Two foreign sets: one with a test part, one with parts of other names."""
    pixels, labels = rng.integers(0, 256, (60, 8, 8, 1), dtype=np.uint8), np.arange(20) % 3
    first, a, b = np.split(pixels, 3)  # of one size: other sizes are compiled anew
    np.savez(tmp_path / "first.npz", test_images=first, test_labels=labels)
    np.savez(tmp_path / "parts.npz", a_images=a, a_labels=labels, b_images=b, b_labels=labels)
    return [f"npz:{tmp_path}/first.npz", f"npz:{tmp_path}/parts.npz"], pixels


@pytest.mark.parametrize("kind", NETWORK)
def test_ood_of_a_run(kind, runs, outputs, data, sets, capsys):
    names, pixels = sets
    assert load_script("ood").main([str(runs[kind]), "--against", *names, *QUICK]) == 0
    out = capsys.readouterr().out
    found = json.loads((runs[kind] / "ood" / "ood.json").read_text())
    unknown = dict(zip((names[0], f"{names[1]} a", f"{names[1]} b"), np.split(pixels, 3), strict=True))
    assert found["sets"].keys() == unknown.keys()
    own = {"classifier": "max_softmax", "contrastive": "knn_sum"}[kind]
    assert found["score"] == own
    assert f"{own} *" in out
    bank = outputs(data.train.images)[1]

    def score(images):
        """The larger, the more unknown: of the classifier the largest logit, so a score besides its own."""
        logits, projection, _ = outputs(images)
        return -(logits if kind == "classifier" else nearest_sums(projection, bank, data.train.labels)).max(axis=-1)

    known = score(data.test_known.images)
    for name, images in unknown.items():
        scores = np.concatenate([known, score(images)])
        wanted = roc_auc_score(np.arange(len(scores)) >= len(known), scores)
        table = found["sets"][name]["scores"]
        auroc = table["max_logit" if kind == "classifier" else "knn_sum"]["auroc"]
        assert auroc["value"] == pytest.approx(wanted, abs=1e-3)
        assert auroc["low"] < auroc["high"]
        assert found["sets"][name]["unknown_images"] == len(images)
        assert f"215 known test images against {name}, {len(images)} images" in out
        assert ("mahalanobis_embedding" in table) == (kind == "contrastive")
        for metric in ("aupr_unknown_positive", "aupr_known_positive", "fpr_at_95_tpr_known_positive"):
            assert report_text(table[own][metric]) in out


def test_the_runs_own_images_are_refused_under_any_name_and_shared_ones_are_said(runs, data, sets, tmp_path, capsys):
    ood, run, test = load_script("ood"), str(runs["classifier"]), open_source("digits").splits["test"]
    some = data.train.images[:20]  # a part of what it knows is no less its own
    for name, images in (("copy", test.images), ("some", some), ("reversed", test.images[::-1])):
        np.savez(tmp_path / f"{name}.npz", test_images=images, test_labels=np.zeros(len(images), int))
        assert ood.main([run, "--against", f"npz:{tmp_path}/{name}.npz", "--out", str(tmp_path / "no")]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"ood.py: against='npz:{tmp_path}/{name}.npz' is the run's own data, whose classes it")
    assert not (tmp_path / "no").exists()
    pixels = np.concatenate([sets[1][:17], data.test_known.images[:3]])
    np.savez(tmp_path / "mixed.npz", test_images=pixels, test_labels=np.zeros(20, int), classes=np.array(["other"]))
    options = ["--against", f"npz:{tmp_path}/mixed.npz", *QUICK, "--resamples", "0", "--out", str(tmp_path / "yes")]
    assert ood.main([run, *options]) == 0
    said = "holds 3 images of the run's known classes among 20, counted as unknown here"
    assert f"npz:{tmp_path}/mixed.npz {said}" in capsys.readouterr().out
    assert json.loads((tmp_path / "yes" / "ood.json").read_text())["sets"][f"npz:{tmp_path}/mixed.npz"]["shared"] == [
        said
    ]


def test_classes_that_are_named_like_known_ones_are_said(data):
    source = open_source("fashion_mnist_small")
    assert shared_with_known(data, source, 0, 20) == []  # 0 to 9 name nothing
    named = dataclasses.replace(data, known_names=("0", "dog", *source.class_names[:2]))
    names = ", ".join(source.class_names[:2])
    assert shared_with_known(named, source, 0, 20) == [f"has classes that are named like known ones: {names}"]


def test_a_second_set_does_not_replace_what_the_first_gave(runs, sets, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs["classifier"], run, ignore=shutil.ignore_patterns("ood*", "corruption*"))
    ood = load_script("ood")
    for name in (*sets[0], sets[0][0]):
        assert ood.main([str(run), "--against", name, *QUICK, "--resamples", "0"]) == 0
    found = {path.parent.name: json.loads(path.read_text()) for path in run.glob("*/ood.json")}
    assert {name: next(iter(values["sets"])).split()[0] for name, values in found.items()} == {
        "ood": sets[0][0],
        "ood-2": sets[0][1],
    }
    corruption = load_script("corruption")
    for severity in "13":
        options = ["--images", "3", "--severities", severity, "--corruptions", "contrast", "--resamples", "0"]
        assert corruption.main([str(run), *options]) == 0
    places = {name: json.loads((run / name / "corruption.json").read_text())["severities"]
              for name in ("corruption-generated", "corruption-generated-2")}  # fmt: skip
    assert places == {"corruption-generated": [1], "corruption-generated-2": [3]}


@pytest.mark.parametrize("script", ["corruption", "ood", "picture", "attribution", "estimator", "norms"])
def test_every_script_refuses_pixels_that_changed_under_the_same_name(script, variables, sets, tmp_path, capsys):
    splits = open_source("digits").splits
    arrays = {f"{part}_images": splits[part].images for part in splits}
    arrays |= {f"{part}_labels": splits[part].labels for part in splits}
    np.savez(tmp_path / "digits.npz", **arrays)
    changes = {"data": f"npz:{tmp_path}/digits.npz", "seed": 0, "batch_size": 32, "steps": 1}
    run = finished(tmp_path / "run", "classifier", variables["classifier"], changes)
    np.savez(run / "scores.npz", x=np.zeros(1))
    (run / "results.json").write_text('{"steps": 1}')
    np.savez(tmp_path / "digits.npz", **arrays | {"test_images": 255 - splits["test"].images})
    before = sorted(path.name for path in run.iterdir())
    assert load_script(script).main([str(run), *(["--against", sets[0][0]] if script == "ood" else [])]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"{script}.py: run={str(run)!r} was started with other data (sha256 differs): give the data"
    )
    assert error.count("\n") == 1
    assert sorted(path.name for path in run.iterdir()) == before


def report_text(value):
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--severities", "0"], "severities=[0] must be some of 1, 2, 3, 4, 5"),
        (["--severities", "1", "1"], "severities=[1, 1] repeats some"),
        (["--corruptions", "rain"], "corruptions='rain' does not exist: choose from gaussian_noise"),
        (["--images", "0"], "images=0 is below 1"),
        (["--resamples", "-1"], "resamples=-1 must not be negative"),
        (["--seed", "-1"], "seed=-1 must not be negative"),
        (["--corrupted", "nowhere"], "corrupted='nowhere' is no folder: give the unpacked"),
        (["--baseline", "nowhere"], "baseline='nowhere' has no config.json"),
        (["--out", __file__], f"out={__file__!r} cannot be made"),
    ],
)
def test_bad_input_of_corruption(options, message, runs, tmp_path, capsys):
    out = [] if "--out" in options else ["--out", str(tmp_path)]
    assert load_script("corruption").main([str(runs["classifier"]), *options, *out]) == 2
    assert f"corruption.py: {message}" in capsys.readouterr().err


def test_runs_and_files_that_do_not_belong_together(runs, variables, published, tmp_path, capsys):
    script = load_script("corruption")
    other = finished(tmp_path / "other", "classifier", variables["classifier"], {"split": 1})
    assert script.main([str(runs["classifier"]), "--baseline", str(other)]) == 2
    assert f"baseline={str(other)!r} has other known test images" in capsys.readouterr().err
    options = ["--corrupted", str(published), "--corruptions", "fog"]
    chosen = finished(tmp_path / "chosen", "classifier", variables["classifier"], {"held_out": [1]})
    assert script.main([str(chosen), *options]) == 2
    assert "chose a recipe without test images: leave --corrupted out" in capsys.readouterr().err
    np.save(published / "labels.npy", np.load(published / "labels.npy") % 5)
    assert script.main([str(runs["classifier"]), *options]) == 2
    assert "corrupted has no image of the known classes [5, 9]" in capsys.readouterr().err
    np.save(published / "fog.npy", np.zeros((1795, 9, 9, 1), np.uint8))
    assert script.main([str(runs["classifier"]), *options]) == 2
    assert "corrupted has images (9, 9, 1), the run (8, 8, 1)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--against"], "against is empty"),
        (["--against", "digits"], "against='digits' is the run's own data"),
        (["--against", "fashion_mnist_small"], "against='fashion_mnist_small' has images (28, 28, 1), the run (8, 8"),
        (["--against", "npz:nowhere.npz"], "npz file 'nowhere.npz' does not exist"),
        (["--against", "digits", "--images", "0"], "images=0 is below 1"),
        (["--against", "npz:a.npz", "npz:a.npz"], "against='npz:a.npz' is named twice"),
        (["--against", "npz:s3://b/a.npz"], "against='npz:s3://b/a.npz' is no path of this machine"),
        (["--against", "digits", "--resamples", "-1"], "resamples=-1 must not be negative"),
        (["--against", "digits", "--reject-share", "1"], "reject_share=1.0 must be between 0 and 1"),
    ],
)
def test_bad_input_of_ood(options, message, runs, capsys):
    assert load_script("ood").main([str(runs["classifier"]), *options]) == 2
    assert f"ood.py: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(("script", "options"), [("corruption", []), ("ood", ["--against", "digits"])])
def test_a_directory_that_is_no_finished_run(script, options, tmp_path, capsys):
    assert load_script(script).main([str(tmp_path), *options]) == 2
    assert f"{script}.py: run={str(tmp_path)!r} has no config.json" in capsys.readouterr().err


def test_corruptions_are_found_by_the_first_word():
    chosen = load_script("corruption").chosen_corruptions
    assert chosen((), GENERATED_CORRUPTIONS) == GENERATED_CORRUPTIONS
    assert chosen(("frost", "fog"), GENERATED_CORRUPTIONS) == ("frost (procedural)", "fog")
    assert chosen(("frost (procedural)",), GENERATED_CORRUPTIONS) == ("frost (procedural)",)
