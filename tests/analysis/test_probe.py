"""Probes against numpy, explicit Jacobians and scikit-learn, on a network of a few weights."""

import dataclasses
import itertools
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import davies_bouldin_score, roc_auc_score
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import normalize

from osrjax.analysis import probe
from osrjax.data import Examples, OpenSetData
from osrjax.methods import CLASS_LOSSES, ClassifyOptions, Task, classify, make_method
from osrjax.models.backbones import NETWORKS, SmallCNN

SHAPE = (6, 6, 1)
NAMES = ("cat", "dog/wolf", "7")
UNKNOWN = {4: "cat", 9: "fish"}  # the first has the name of a known class


def examples(rng, labels):
    return Examples(rng.integers(0, 256, (len(labels), *SHAPE), np.uint8), np.asarray(labels, np.int32))


@pytest.fixture
def data(rng):
    known = rng.permutation(np.repeat([0, 1, 2], [9, 4, 12]))
    unknown = rng.permutation(np.repeat(list(UNKNOWN), [11, 8]))
    parts = [examples(rng, labels) for labels in ([0, 1, 2], [0, 1, 2], known, unknown)]
    return OpenSetData(*parts, (3, 5, 8), tuple(UNKNOWN), NAMES, tuple(UNKNOWN.values()), (("made", "here", True),))


@pytest.fixture(scope="module", autouse=True)
def small_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "small_cnn", partial(SmallCNN, width=4, features=5))
        yield


@pytest.fixture(scope="module")
def method(small_network):
    """m-OvR, scored by the cosine, which is quickly written again."""
    return classify(ClassifyOptions(), Task(3, SHAPE, 1), CLASS_LOSSES["m_ovr"]._replace(score="cosine"))


@pytest.fixture(scope="module")
def network(method):
    return method.make_network(jnp.float32)


def trained(network):
    """Variables whose running statistics normalise by something, as after training."""
    fresh = jax.jit(lambda key: network.init(key, jnp.zeros((1, *SHAPE)), train=False))(jax.random.key(3))
    return {**fresh, "batch_stats": jax.tree.map(lambda leaf: leaf * 0.7 - 0.1, fresh["batch_stats"])}


@pytest.fixture(scope="module")
def variables(network):
    return trained(network)


def probe_of(method, data, sets, **options):
    options = {"eval_batch_size": 8, "batch_size": 4, **options}
    return probe.make_probe(method, data, sets, **options)


def pixels(images):
    return images.astype(np.float64) / 127.5 - 1


def test_images_are_spread_over_classes_and_depend_on_the_seed_alone(data):
    sets = probe.probe_sets(data, probe_images=8, probe_pairs=7, seed=1)
    labels = data.test_known.labels[sets.known]
    assert sorted(np.bincount(labels)) == [2, 3, 3]
    assert np.bincount(data.test_unknown.labels[sets.unknown])[[4, 9]].tolist() == [4, 4]
    for rows in (sets.known, sets.unknown):
        assert len(set(rows.tolist())) == 8
        assert (np.diff(rows) > 0).all()
    # Every combination of classes before any for the third time, and never the same class twice.
    pairs = [tuple(sorted(pair)) for pair in data.test_known.labels[sets.pairs].tolist()]
    assert sorted(pairs.count(pair) for pair in itertools.combinations(range(3), 2)) == [2, 2, 3]
    assert all(first != second for first, second in pairs)
    again, other = (probe.probe_sets(data, probe_images=8, probe_pairs=7, seed=seed) for seed in (1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(sets, again, strict=True))
    assert not np.array_equal(sets.known, other.known)
    more = probe.probe_sets(data, probe_images=15, probe_pairs=9, seed=1)
    assert set(sets.known) <= set(more.known)
    assert set(sets.unknown) <= set(more.unknown)
    assert more.pairs[:7].tolist() == sets.pairs.tolist()
    # Class 1 has four images only: the other two make up for it.
    assert np.bincount(data.test_known.labels[more.known])[1] == 4
    found = probe.probed_examples(data, probe_images=8, seed=1)
    for kind, part, rows in (("known", data.test_known, sets.known), ("unknown", data.test_unknown, sets.unknown)):
        np.testing.assert_array_equal(found[kind].images, part.images[rows])
        np.testing.assert_array_equal(found[kind].labels, part.labels[rows])
    every = probe.probe_sets(data, probe_images=19, seed=1)
    assert every.unknown.tolist() == list(range(19))


def test_fewer_images_than_unknown_classes(rng, data):
    many = examples(rng, np.arange(50) % 25)
    data = dataclasses.replace(
        data, test_unknown=many, unknown_classes=tuple(range(25)), unknown_names=tuple(map(str, range(25)))
    )
    labels = many.labels[probe.probe_sets(data, probe_images=6).unknown]
    assert len(set(labels.tolist())) == 6


def alone(examples, classes):
    kept = np.isin(examples.labels, classes)
    return Examples(examples.images[kept], examples.labels[kept])


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"probe_images": 2}, "probe_images=2 is below the 3 known"),
        ({}, {"probe_images": 20}, "probe_images=20 exceeds the 19 test"),
        ({}, {"probe_images": 9, "probe_pairs": 0}, "probe_pairs=0"),
        ({"known_classes": (3,)}, {"probe_images": 9}, r"known_classes=\(3,\) is a single class"),
    ],
)
def test_bad_sets(data, change, options, message):
    with pytest.raises(ValueError, match=message):
        probe.probe_sets(dataclasses.replace(data, **change), **options)


def test_one_test_image_a_class_is_refused(rng, data):
    data = dataclasses.replace(data, test_known=examples(rng, [0, 1, 2]))
    with pytest.raises(ValueError, match="3 known classes have 3 test images"):
        probe.probe_sets(data, probe_images=3)


def test_a_probe_equals_explicit_jacobians_and_brute_force(method, network, variables, data):
    sets = probe.probe_sets(data, probe_images=5, probe_pairs=3, seed=0)
    arrays, logged = probe_of(method, data, sets, profile_steps=(0, 40))(variables, 40)

    @jax.jit
    def outputs(images):
        return network.apply(variables, images, train=False)

    @jax.jit
    def jacobians(images):
        return jax.vmap(jax.jacrev(lambda row: outputs(row[None]).embedding[0]))(images)

    def norms(images):
        matrices = np.asarray(jacobians(jnp.asarray(images, jnp.float32)), np.float64)
        return np.sqrt((matrices**2).sum(axis=(1, 2, 3, 4)))

    known, unknown = (pixels(part.images) for part in (data.test_known, data.test_unknown))
    wanted = {"norms_known": norms(known[sets.known]), "norms_unknown": norms(unknown[sets.unknown])}
    first, second = known[sets.pairs[:, 0]], known[sets.pairs[:, 1]]
    fractions = np.arange(9) / 8
    np.testing.assert_array_equal(arrays["fractions"], fractions)
    wanted["profiles"] = np.stack([norms((1 - t) * first + t * second) for t in fractions], axis=1)
    t = (np.arange(16) + 0.5) / 16  # the midpoint rule of the path length
    points = [(1 - t)[:, None, None, None] * a + t[:, None, None, None] * b for a, b in zip(first, second, strict=True)]
    matrices = [np.asarray(jacobians(jnp.asarray(p, jnp.float32)), np.float64).reshape(16, 5, -1) for p in points]
    moves = [m @ (b - a).reshape(-1) for m, a, b in zip(matrices, first, second, strict=True)]
    wanted["path_lengths"] = np.array([np.linalg.norm(move, axis=1).mean() for move in moves])
    for name, values in wanted.items():
        assert arrays[name].dtype == np.float32
        assert values.min() > 0
        np.testing.assert_allclose(arrays[name], values, rtol=2e-4, err_msg=name)

    found = [outputs(jnp.asarray(images, jnp.float32)) for images in (known, unknown)]
    embedding = np.asarray(found[0].embedding, np.float64)
    np.testing.assert_allclose(arrays["embedding_known"], embedding[sets.known], atol=1e-5)
    np.testing.assert_allclose(arrays["embedding_unknown"], found[1].embedding[sets.unknown], atol=1e-5)
    labels = data.test_known.labels
    means = [embedding[labels == k].mean(0) for k in range(3)]
    scores = np.concatenate([-np.asarray(part.logits).max(-1) for part in found])
    wanted = {
        "jnd": wanted["norms_unknown"].mean() - wanted["norms_known"].mean(),
        "norm_known": wanted["norms_known"].mean(),
        "norm_unknown": wanted["norms_unknown"].mean(),
        "davies_bouldin": davies_bouldin_score(embedding, labels),
        "intra_distance": np.mean(
            [np.sqrt(((e - means[k]) ** 2).sum()) for e, k in zip(embedding, labels, strict=True)]
        ),
        "inter_distance": np.mean([np.sqrt(((a - b) ** 2).sum()) for a, b in itertools.combinations(means, 2)]),
        "path_length": wanted["path_lengths"].mean(),
        "auroc": roc_auc_score(np.arange(len(scores)) >= len(known), scores),
        "accuracy": np.mean(np.asarray(found[0].logits).argmax(-1) == labels),
    }
    assert set(wanted) == set(probe.PROBE_METRICS)
    for name, value in wanted.items():
        assert arrays[name].dtype == np.float64
        np.testing.assert_allclose(arrays[name], value, rtol=1e-3, atol=1e-6, err_msg=name)
        assert logged[f"probe/{name}"] == arrays[name]
    assert arrays["step"] == 40
    assert arrays["labels_known"].tolist() == labels[sets.known].tolist()
    assert arrays["labels_unknown"].tolist() == data.test_unknown.labels[sets.unknown].tolist()
    assert arrays["pair_labels"].tolist() == labels[sets.pairs].tolist()
    by_class = {
        "probe/norm/cat": arrays["norms_known"][arrays["labels_known"] == 0],
        "probe/norm/dog/wolf": arrays["norms_known"][arrays["labels_known"] == 1],
        "probe/norm/7": arrays["norms_known"][arrays["labels_known"] == 2],
        "probe/norm/cat (unknown)": arrays["norms_unknown"][arrays["labels_unknown"] == 4],
        "probe/norm/fish": arrays["norms_unknown"][arrays["labels_unknown"] == 9],
    }
    for name, norms_of_class in by_class.items():
        assert logged[name] == pytest.approx(norms_of_class.mean(), rel=1e-5)
    assert logged["probe/seconds"] > 0
    assert len(logged) == len(wanted) + len(by_class) + 1


def test_a_probe_follows_contrastive_training_in_its_projection(data, rng):
    """Norms, distances and the score by neighbours are those of the vectors that the loss compares."""
    data = dataclasses.replace(data, train=examples(rng, np.arange(12) % 3))
    method = make_method({"method": "contrast", "hidden": 6, "features": 4, "neighbours": 2}, Task(3, SHAPE, 1))
    network = method.make_network(jnp.float32)
    variables = trained(network)
    sets = probe.probe_sets(data, probe_images=4, probe_pairs=2, seed=0)
    arrays, logged = probe_of(method, data, sets)(variables, 3)

    @jax.jit
    def projection(images):
        return network.apply(variables, images, train=False).projection

    @jax.jit
    def jacobians(images):
        return jax.vmap(jax.jacrev(lambda row: projection(row[None])[0]))(images)

    for name, part in (("known", data.test_known), ("unknown", data.test_unknown)):
        rows = jnp.asarray(pixels(part.images)[getattr(sets, name)], jnp.float32)
        matrices = np.asarray(jacobians(rows), np.float64).reshape(len(rows), 4, -1)
        norms = np.linalg.norm(matrices, axis=(1, 2))
        assert norms.min() > 0
        np.testing.assert_allclose(arrays[f"norms_{name}"], norms, rtol=2e-4)
        np.testing.assert_allclose(arrays[f"embedding_{name}"], projection(rows), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(arrays["embedding_known"], axis=1), 1, atol=1e-5)

    train, known, unknown = (
        np.asarray(projection(jnp.asarray(pixels(part.images), jnp.float32)), np.float64)
        for part in (data.train, data.test_known, data.test_unknown)
    )
    labels = data.test_known.labels
    sums = [
        np.sort(np.concatenate([known, unknown]) @ train[data.train.labels == c].T)[:, -2:].sum(1) for c in (0, 1, 2)
    ]
    auroc = roc_auc_score(np.arange(len(known) + len(unknown)) >= len(known), -np.max(sums, axis=0))
    assert logged["probe/auroc"] == pytest.approx(auroc, abs=1e-6)
    assert logged["probe/accuracy"] == np.mean(np.argmax(sums, axis=0)[: len(known)] == labels)
    assert logged["probe/davies_bouldin"] == pytest.approx(davies_bouldin_score(known, labels), rel=1e-3)


@pytest.fixture
def taken(method, variables, data):
    """A probe's function and variables in three states: as they are, collapsed to a point, and broken."""
    sets = probe.probe_sets(data, probe_images=4, probe_pairs=2, seed=0)
    last = variables["params"]["backbone"]["Dense_0"]

    def with_last(change):
        params = variables["params"]
        return {**variables, "params": {**params, "backbone": {**params["backbone"], "Dense_0": change}}}

    collapsed = with_last({"kernel": 0 * last["kernel"], "bias": jnp.ones(5)})
    zero = with_last({"kernel": 0 * last["kernel"], "bias": jnp.zeros(5)})
    scored = method._replace(score="m_ovr_margin")
    take = probe_of(scored, data, sets, profile_steps=(0, 20))
    broken = with_last({**last, "bias": jnp.full(5, jnp.nan)})
    return take, collapsed, zero, broken


def test_a_collapsed_embedding_is_measured_and_a_broken_one_named(taken, variables, tmp_path):
    take, collapsed, zero, broken = taken
    for constant in (collapsed, zero):
        arrays, logged = take(constant, 0)
        assert logged["probe/davies_bouldin"] == float("inf")
        assert logged["probe/auroc"] == 0.5
        for name in ("jnd", "norm_known", "intra_distance", "inter_distance", "path_length"):
            assert logged[f"probe/{name}"] == pytest.approx(0, abs=1e-6)
        probe.write_probe(tmp_path, arrays)
    probe.write_probe(tmp_path, take(variables, 20)[0])
    assert probe.join_probes(tmp_path)["davies_bouldin"][0] == float("inf")
    with pytest.raises(FloatingPointError, match=r"^non-finite .*outputs on known images.* at step 7$"):
        take(broken, 7)


class Flat(nn.Module):
    """No convolution; with a root, outputs are finite and derivatives are not."""

    root: bool = False

    @nn.compact
    def __call__(self, images, *, train, taps=None):
        rows = images.reshape(images.shape[0], -1)
        return (), nn.Dense(5)(jnp.cbrt(rows - jax.lax.stop_gradient(rows)) if self.root else jnp.tanh(rows))


def test_probes_are_repeatable_and_join_on_one_axis(taken, variables, data, tmp_path):
    take, collapsed, *_ = taken
    half = jax.tree.map(lambda a, b: 0.5 * a + 0.5 * b, variables, collapsed)
    networks = {0: variables, 10: half, 20: variables}
    found = {step: take(networks[step], step)[0] for step in (20, 0, 10)}
    assert "profiles" not in found[10]
    for name in found[0].keys() - {"step"}:
        assert found[0][name].tobytes() == found[20][name].tobytes(), name
    probe.write_probe(tmp_path / "new" / "probes", found[10])
    for step in (20, 10, 0, 20):  # whatever the order, and again
        probe.write_probe(tmp_path, found[step])
    (tmp_path / ".00000030.npz.partial").write_bytes(b"a cut file of a killed run")
    joined = probe.join_probes(tmp_path)
    assert joined["steps"].tolist() == [0, 10, 20]
    assert joined["norms_known"].shape == (3, 4)
    assert joined["norms_unknown"].shape == (3, 4)
    assert joined["path_lengths"].shape == (3, 2)
    assert joined["profiles"].shape == (2, 2, 9)
    assert joined["embedding_known"].tobytes() == found[20]["embedding_known"].tobytes()
    assert joined["pair_labels"].shape == (2, 2)
    for name in probe.PROBE_METRICS:
        assert joined[name].dtype == np.float64
        assert joined[name].tolist() == [found[step][name] for step in (0, 10, 20)]
    assert set(joined) - set(found[0]) == {"steps"}
    assert "profiles" not in probe.join_probes(tmp_path / "new" / "probes")

    other = {**found[10], "step": np.asarray(15), "labels_known": found[10]["labels_known"] + 1}
    probe.write_probe(tmp_path, other)
    with pytest.raises(ValueError, match=r"00000015.npz was taken on other images"):
        probe.join_probes(tmp_path)
    with pytest.raises(ValueError, match="holds no probe"):
        probe.join_probes(tmp_path / "nowhere")


@pytest.mark.parametrize("root", [False, True])
def test_linear_head_and_three_channels(data, root, monkeypatch):
    def coloured(part):
        return Examples(np.repeat(part.images, 3, axis=-1), part.labels)

    data = dataclasses.replace(data, test_known=coloured(data.test_known), test_unknown=coloured(data.test_unknown))
    monkeypatch.setitem(NETWORKS, "small_cnn", lambda dtype: Flat(root))
    method = make_method({"method": "softmax"}, Task(3, (6, 6, 3), 1))
    variables = method.make_network(jnp.float32).init(jax.random.key(0), jnp.zeros((1, 6, 6, 3)), train=False)
    sets = probe.probe_sets(data, probe_images=3, probe_pairs=1)
    take = probe_of(method, data, sets, batch_size=None)
    if root:
        with pytest.raises(FloatingPointError, match=r"^non-finite norms_known, norms_unknown.* at step 5$"):
            take(variables, 5)
        return
    arrays, _ = take(variables, 5)
    params = variables["params"]
    dense, classifier = (
        np.asarray(layer["kernel"], np.float64) for layer in (params["backbone"]["Dense_0"], params["classifier"])
    )
    rows = np.tanh(pixels(data.test_known.images).reshape(25, -1)) @ dense
    accuracy = np.mean((rows @ classifier).argmax(1) == data.test_known.labels)
    assert arrays["accuracy"] == accuracy
    for row, embedding, norm in zip(sets.known, arrays["embedding_known"], arrays["norms_known"], strict=True):
        x = pixels(data.test_known.images[row]).reshape(-1)
        raw = rows[row]
        unit = raw / np.linalg.norm(raw)
        np.testing.assert_allclose(embedding, unit, atol=1e-5)
        jacobian = (np.eye(5) - np.outer(unit, unit)) / np.linalg.norm(raw) @ (dense.T / np.cosh(x) ** 2)
        assert norm == pytest.approx(np.linalg.norm(jacobian), rel=1e-4)


def test_class_distances_against_loops(rng):
    rows, labels = rng.normal(size=(20, 4)).astype(np.float32), rng.permutation(np.arange(20) % 3) * 5 + 2
    means = {k: rows[labels == k].astype(np.float64).mean(0) for k in (2, 7, 12)}
    intra, inter = probe.class_distances(rows, labels)
    assert intra == pytest.approx(
        np.mean([np.sqrt(((r - means[k]) ** 2).sum()) for r, k in zip(rows, labels, strict=True)])
    )
    assert inter == pytest.approx(
        np.mean([np.sqrt(((a - b) ** 2).sum()) for a, b in itertools.combinations(means.values(), 2)])
    )
    with pytest.raises(ValueError, match="two or more"):
        probe.class_distances(rows, np.zeros(20, np.int64))


def test_class_means_are_those_of_scikit_learn(rng):
    rows, labels = rng.normal(size=(20, 4)).astype(np.float32), rng.permutation(np.arange(20) % 3)
    wanted = NearestCentroid().fit(normalize(rows.astype(np.float64)), labels).centroids_
    np.testing.assert_allclose(probe.class_means(rows, labels, classes=3), wanted, rtol=1e-12)
