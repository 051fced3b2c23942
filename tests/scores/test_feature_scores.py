"""Nearest-neighbour and Mahalanobis scores against loops in float64, scipy and scikit-learn."""

from functools import partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from conftest import plain_module
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import EmpiricalCovariance, ShrunkCovariance
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestNeighbors

from osrjax.scores import features as feature_scores
from osrjax.scores.features import (
    class_similarities,
    fit_knn,
    fit_mahalanobis,
    knn_ratio_score,
    knn_sum_score,
    mahalanobis_distances,
    mahalanobis_score,
    neighbour_cosines,
)

COUNTS = (5, 3, 9, 4)  # images of each class: blocks of unequal size


def training(rng, counts=COUNTS, width=6):
    """Features of length other than 1, and labels in no order."""
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int32)
    features = rng.normal(size=(len(labels), width)) * rng.uniform(0.1, 10, (len(labels), 1))
    return (features + labels[:, None]).astype(np.float32), labels


def cosine(a, b):
    return a @ b / np.sqrt((a @ a) * (b @ b))


def similarities_by_loops(train, labels, features, neighbours):
    train, features = np.asarray(train, np.float64), np.asarray(features, np.float64)
    return np.array(
        [
            [
                sum(sorted(cosine(x, row) for row in train[labels == c])[::-1][:neighbours])
                for c in range(labels.max() + 1)
            ]
            for x in features
        ]
    )


@pytest.mark.parametrize(("neighbours", "block_size"), [(1, None), (3, 4), (2, 100)])
def test_similarities_equal_loops_over_pairs_for_any_block_size(rng, neighbours, block_size):
    train, labels = training(rng)
    features = rng.normal(size=(10, 6)).astype(np.float32)  # 10 is no multiple of 4: the last block is filled up
    bank = fit_knn(train, labels, classes=4)
    found = class_similarities(bank, features, neighbours=neighbours, block_size=block_size)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, similarities_by_loops(train, labels, features, neighbours), atol=2e-6)


def test_similarities_equal_scikit_learn(rng):
    train, labels = training(rng, counts=(40, 25, 31), width=16)
    features = rng.normal(size=(30, 16)).astype(np.float32)
    found = class_similarities(fit_knn(train, labels, classes=3), jnp.array(features), neighbours=7)
    for c in range(3):
        index = NearestNeighbors(n_neighbors=7, metric="cosine").fit(train[labels == c])
        distances, _ = index.kneighbors(features)
        np.testing.assert_allclose(found[:, c], (1 - distances).sum(1), atol=1e-5)


def test_the_bank_holds_every_row_once_at_length_one(rng):
    train, labels = training(rng)
    bank = fit_knn(jnp.array(train), jnp.array(labels), classes=4)
    np.testing.assert_array_equal(bank.counts, COUNTS)
    for c, block in enumerate(np.asarray(bank.features)):
        rows = train[labels == c].astype(np.float64)
        np.testing.assert_allclose(block[: len(rows)], rows / np.linalg.norm(rows, axis=1, keepdims=True), rtol=1e-6)
        assert (block[len(rows) :] == 0).all()


def test_padding_never_wins(rng):
    """Opposite every training image all cosines are below the 0 of the rows that fill a block up."""
    direction = rng.normal(size=5)
    train = (direction + 0.1 * rng.normal(size=(8, 5))).astype(np.float32)
    labels = np.array([0, 0, 1, 1, 1, 1, 1, 1])
    found = class_similarities(fit_knn(train, labels, classes=2), -direction[None].astype(np.float32), neighbours=2)
    np.testing.assert_allclose(found, similarities_by_loops(train, labels, -direction[None], 2), atol=1e-6)
    assert (found < -1.9).all()


def test_equal_rows_count_as_often_as_they_occur_and_equal_classes_tie():
    train = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = class_similarities(
        fit_knn(train, np.array([0, 0, 0, 1, 1, 1]), classes=2), np.array([[2.0, 0.0]]), neighbours=2
    )
    np.testing.assert_array_equal(found, [[2.0, 2.0]])


def test_a_class_with_one_image_serves_one_neighbour(rng):
    train, labels = training(rng, counts=(4, 1))
    bank = fit_knn(train, labels, classes=2)
    features = rng.normal(size=(3, 6)).astype(np.float32)
    found = class_similarities(bank, features, neighbours=1)
    np.testing.assert_allclose(found, similarities_by_loops(train, labels, features, 1), atol=1e-6)
    with pytest.raises(ValueError, match=r"neighbours=2 is not in \[1, 1\], the images of the smallest class"):
        class_similarities(bank, features, neighbours=2)
    with pytest.raises(ValueError, match="neighbours=2"):  # a bank that compiled code closes over is checked too
        jax.jit(lambda x: class_similarities(bank, x, neighbours=2))(features)
    # As an argument its counts are unknown to the compiler: nan, which no metric takes for a score.
    traced = jax.jit(lambda bank, x: class_similarities(bank, x, neighbours=2))(bank, features)
    assert np.isnan(traced[:, 1]).all()
    np.testing.assert_allclose(traced[:, 0], similarities_by_loops(train, labels, features, 2)[:, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("sums", "kth", "block_size"), [((1, 3), 5, None), ((2,), 1, 4), ((3, 1, 3), 17, 100), ((), 2, 1)]
)
def test_all_neighbours_in_one_pass_equal_loops(rng, sums, kth, block_size):
    """Also a k above the images of a class: the 17th of all is found where classes have 3 and more."""
    train, labels = training(rng)
    assert min(COUNTS) < 17 <= sum(COUNTS)
    features = rng.normal(size=(10, 6)).astype(np.float32)
    bank = fit_knn(train, labels, classes=4)
    found, last = neighbour_cosines(bank, features, sums=sums, kth=kth, block_size=block_size)
    assert len(found) == len(sums)
    for part, count in zip(found, sums, strict=True):
        np.testing.assert_allclose(part, similarities_by_loops(train, labels, features, count), atol=2e-6)
    every = [sorted((cosine(x, row) for row in train.astype(np.float64)), reverse=True)[kth - 1] for x in features]
    np.testing.assert_allclose(last, every, atol=1e-6)


def test_all_neighbours_under_jit_and_vmap(rng):
    train, labels = training(rng)
    bank, features = fit_knn(train, labels, classes=4), rng.normal(size=(10, 6)).astype(np.float32)
    stacked = jax.tree.map(lambda leaf: leaf[None], bank)
    mapped = jax.jit(jax.vmap(partial(neighbour_cosines, sums=(2,), kth=17), in_axes=(0, None)))(stacked, features)
    alone = neighbour_cosines(bank, features, sums=(2,), kth=17)
    jax.tree.map(lambda of_stack, part: np.testing.assert_allclose(of_stack[0], part, atol=1e-6), mapped, alone)


def test_all_neighbours_refuse_what_each_score_refuses(rng):
    train, labels = training(rng)
    bank = fit_knn(train, labels, classes=4)
    for words, message in (
        ({"sums": (1, 0)}, "neighbours=0 is not in"),
        ({"kth": len(train) + 1}, "the training images: give fewer"),
        ({"kth": 2, "sums": (1,), "block_size": 0}, "block_size=0 is below 1"),
    ):
        with pytest.raises(ValueError, match=message):
            neighbour_cosines(bank, train, **({"sums": (1,), "kth": 1} | words))


def test_similarities_under_jit_and_vmap(rng):
    """Over stacked banks and features: two networks at once."""
    banks, stacks, expected = [], [], []
    for _ in range(2):
        train, labels = training(rng)
        banks.append(fit_knn(train, labels, classes=4))
        stacks.append(rng.normal(size=(5, 6)).astype(np.float32))
        expected.append(similarities_by_loops(train, labels, stacks[-1], 3))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *banks)
    mapped = jax.jit(jax.vmap(lambda bank, x: class_similarities(bank, x, block_size=2)))
    np.testing.assert_allclose(mapped(stacked, jnp.array(stacks)), expected, atol=2e-6)


def test_length_does_not_count_and_a_row_of_zeros_has_cosine_zero(rng):
    train, labels = training(rng)
    train[0] = 0.0
    bank = fit_knn(train, labels, classes=4)
    x = rng.normal(size=6).astype(np.float32)
    found = np.asarray(class_similarities(bank, np.stack([x, 1e-30 * x, 1e30 * x, 0 * x])))
    np.testing.assert_allclose(found[1:3], found[:1].repeat(2, 0), atol=1e-6)
    assert (found[3] == 0).all()


def test_half_precision_is_raised_to_float32(rng):
    train, labels = training(rng)
    features = rng.normal(size=(5, 6)).astype(ml_dtypes.bfloat16)
    found = class_similarities(fit_knn(train, labels, classes=4), jnp.array(features))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, similarities_by_loops(train, labels, features, 3), atol=2e-6)


def test_products_are_lowered_at_highest_precision_without_callbacks(rng):
    train, labels = training(rng)
    bank = fit_knn(train, labels, classes=4)
    fitted = fit_mahalanobis(train, labels, classes=4)
    with jax.default_matmul_precision("default"):
        traced = jax.jit(lambda x: (class_similarities(bank, x), mahalanobis_distances(fitted, x))).trace(train)
        for platform in ("tpu", "cuda"):
            text = traced.lower(lowering_platforms=(platform,)).as_text()
            assert "callback" not in text
            assert text.count("dot_general") == text.count("precision = [HIGHEST, HIGHEST]") == 2


def test_ratio_score_is_the_official_formula_and_finite(rng):
    similarities = rng.normal(size=(50, 4)).astype(np.float32)
    shares = similarities.astype(np.float64) / similarities.astype(np.float64).sum(1, keepdims=True)
    # Where the sum is negative the largest share belongs to the smallest similarity; ours keeps the numerator.
    positive = similarities.sum(1) > 0
    found = np.asarray(jax.jit(knn_ratio_score)(similarities))
    np.testing.assert_allclose(found[positive], -shares.max(1)[positive], rtol=1e-4)
    np.testing.assert_allclose(found[~positive], -shares.min(1)[~positive], rtol=1e-4)
    edges = np.zeros((50, 4), np.float32)
    edges[1:3] = [[3.0, -3.0, 0.0, 0.0], [-1.0, -1.0, 1.0, 1.0]]
    found = np.asarray(jax.jit(knn_ratio_score)(edges))
    assert np.isfinite(found).all()
    assert found[0] == 0
    assert (found[1:3] < -1e37).all()


def test_a_negative_sum_ranks_a_known_image_as_unknown_by_the_ratio_alone():
    """The caveat of the ratio: classes that repel one another, and a test image right on one of them."""
    images = jnp.array([[3.0, -1.6, -1.6], [0.5, 0.4, 0.3]])  # known, unknown
    by_sum, by_ratio = jax.jit(lambda s: (knn_sum_score(s), knn_ratio_score(s)))(images)
    assert by_sum[0] < by_sum[1]
    assert by_ratio[0] > by_ratio[1]


def clusters(rng, counts, width=5, spread=None):
    """Classes around means far from 0, with one covariance that is no multiple of the identity."""
    labels = np.repeat(np.arange(len(counts)), counts)
    mixing = rng.normal(size=(width, width)) if spread is None else spread
    means = 3 * rng.normal(size=(len(counts), width)) + 2
    return (means[labels] + rng.normal(size=(len(labels), width)) @ mixing).astype(np.float32), labels


def within(train, labels):
    rows = np.asarray(train, np.float64)
    return rows - np.stack([rows[labels == c].mean(0) for c in range(labels.max() + 1)])[labels]


@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
def test_distances_equal_scipy_and_scikit_learn(rng, shrinkage):
    train, labels = clusters(rng, (30, 12, 20))
    features = 4 * rng.normal(size=(7, 5)).astype(np.float32)
    found = mahalanobis_distances(fit_mahalanobis(train, labels, classes=3, shrinkage=shrinkage), features)
    estimator = ShrunkCovariance(shrinkage=shrinkage, assume_centered=True) if shrinkage else EmpiricalCovariance()
    estimator.fit(within(train, labels))
    by_scipy = [
        [mahalanobis(x, train[labels == c].mean(0, dtype=np.float64), estimator.precision_) ** 2 for c in range(3)]
        for x in features.astype(np.float64)
    ]
    np.testing.assert_allclose(found, by_scipy, rtol=2e-4)
    of_class = estimator.mahalanobis(features - train[labels == 1].mean(0, dtype=np.float64))
    np.testing.assert_allclose(found[:, 1], of_class, rtol=2e-4)
    np.testing.assert_array_equal(mahalanobis_score(found), np.asarray(found).min(1))


def test_the_nearest_class_is_that_of_linear_discriminant_analysis(rng):
    train, labels = clusters(rng, (20, 20, 20))
    features = 4 * rng.normal(size=(40, 5)).astype(np.float32)
    found = mahalanobis_distances(fit_mahalanobis(train, labels, classes=3), features)
    wanted = LinearDiscriminantAnalysis(solver="lsqr").fit(train.astype(np.float64), labels).predict(features)
    np.testing.assert_array_equal(np.argmin(found, -1), wanted)


def test_distances_do_not_depend_on_the_units_of_the_features(rng):
    train, labels = clusters(rng, (30, 30))
    features = rng.normal(size=(6, 5)).astype(np.float32)
    matrix, shift = rng.normal(size=(5, 5)), rng.normal(size=5)
    found = [
        mahalanobis_distances(fit_mahalanobis(rows, labels, classes=2), others)
        for rows, others in ((train, features), (train @ matrix + shift, (features @ matrix + shift)))
    ]
    np.testing.assert_allclose(found[1], found[0], rtol=5e-3)


def test_a_singular_covariance_gets_its_pseudo_inverse(rng):
    """A unit that is always the same and one that repeats another: both are common in trained networks."""
    train, labels = clusters(rng, (20, 20))
    train = np.concatenate([train, np.full((40, 1), 7.0), train[:, :1]], axis=1).astype(np.float32)
    features = np.concatenate([rng.normal(size=(4, 5)), np.full((4, 1), 7.0), rng.normal(size=(4, 1))], 1)
    rows = within(train, labels)
    precision = np.linalg.pinv(rows.T @ rows / 40, rcond=1e-10, hermitian=True)
    expected = [
        [mahalanobis(x, train[labels == c].mean(0, dtype=np.float64), precision) ** 2 for c in (0, 1)] for x in features
    ]
    fitted = fit_mahalanobis(train, labels, classes=2)
    found = mahalanobis_distances(fitted, features)
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    moved = features + 5 * np.eye(7)[5]  # along the constant unit alone
    np.testing.assert_allclose(mahalanobis_distances(fitted, moved), found, rtol=1e-5)
    shrunk = fit_mahalanobis(train, labels, classes=2, shrinkage=0.1)
    assert (mahalanobis_distances(shrunk, moved) > mahalanobis_distances(shrunk, features) + 1).all()


def test_one_image_per_class_has_no_covariance_and_distances_of_zero(rng):
    fitted = fit_mahalanobis(rng.normal(size=(3, 5)), np.arange(3), classes=3)
    assert (mahalanobis_distances(fitted, rng.normal(size=(2, 5))) == 0).all()


def test_distances_do_not_cancel_where_classes_are_far_apart(rng):
    """Collapsed classes: means 1e4 deviations apart, and an image two deviations from one of them."""
    train, labels = clusters(rng, (50, 50), spread=1e-4 * np.eye(5))
    features = train[:3] + 2e-4 * rng.normal(size=(3, 5)).astype(np.float32)
    fitted = fit_mahalanobis(train, labels, classes=2)
    rows = within(train, labels)
    precision = np.linalg.inv(rows.T @ rows / 100)
    mean = train[labels == 0].mean(0, dtype=np.float64)
    expected = [mahalanobis(x, mean, precision) ** 2 for x in features.astype(np.float64)]
    np.testing.assert_allclose(mahalanobis_score(mahalanobis_distances(fitted, features)), expected, rtol=0.05)


def test_distances_under_jit_and_vmap(rng):
    train, labels = clusters(rng, (9, 9))
    fitted = fit_mahalanobis(jnp.array(train), jnp.array(labels), classes=2)
    stack = rng.normal(size=(2, 3, 5)).astype(np.float32)
    mapped = jax.jit(jax.vmap(mahalanobis_distances, in_axes=(None, 0)))(fitted, stack)
    for found, features in zip(mapped, stack, strict=True):
        np.testing.assert_allclose(found, mahalanobis_distances(fitted, jnp.array(features)), rtol=1e-4)


def test_every_score_grows_with_unknownness(rng):
    """Images of the training classes against images between them."""
    means = np.eye(3, 8)
    labels = np.repeat(np.arange(3), 30)
    draw = 0.1 * rng.normal(size=(150, 8))
    train, known = means[labels] + draw[:90], np.repeat(means, 10, 0) + draw[90:120]
    unknown = means.mean(0) + draw[120:]
    images = np.concatenate([known, unknown]).astype(np.float32)
    similarities = class_similarities(fit_knn(train, labels, classes=3), images)
    distances = mahalanobis_distances(fit_mahalanobis(train, labels, classes=3), images)
    for scores in jax.jit(lambda s, d: (knn_sum_score(s), knn_ratio_score(s), mahalanobis_score(d)))(
        similarities, distances
    ):
        assert np.max(scores[:30]) < np.min(scores[30:])


@pytest.mark.parametrize("fit", [fit_knn, fit_mahalanobis])
@pytest.mark.parametrize(
    ("features", "labels", "words"),
    [
        (np.ones((0, 2)), np.zeros(0, int), r"features.shape=\(0, 2\)"),
        (np.array([[1.0], [np.nan]]), np.arange(2), "not finite"),
        (np.array([[1.0], [1e39]]), np.arange(2), "not finite in float32"),
        (np.ones((2, 1)), np.array([0, 0]), "no image of class 1"),
        (np.ones((2, 1)), np.array([0, 2]), r"labels holds 2: give positions in \[0, 2\)"),
    ],
)
def test_unusable_training_features_are_refused(fit, features, labels, words):
    with pytest.raises(ValueError, match=words):
        fit(features, labels, classes=2)


@pytest.mark.parametrize("fit", ["fit_knn", "fit_mahalanobis"])
def test_labels_of_any_integers_are_exact_and_others_refused(fit):
    """Labels that were read from a table are floats, and those of two classes may be a mask."""
    fit = getattr(plain_module(feature_scores), fit)
    labels = np.array([0, 1, 0, 1])
    wanted = jax.tree.leaves(fit(np.eye(4), labels, classes=2))
    for dtype in (np.uint8, np.uint64):
        for found, leaf in zip(jax.tree.leaves(fit(np.eye(4), labels.astype(dtype), classes=2)), wanted, strict=True):
            np.testing.assert_array_equal(found, leaf)
    for dtype in (np.float64, bool):
        with pytest.raises(ValueError, match=f"labels has dtype {np.dtype(dtype)}"):
            fit(np.eye(4), labels.astype(dtype), classes=2)


def test_one_row_of_features_is_not_taken_for_a_batch():
    plain = plain_module(feature_scores)
    train, labels = np.eye(4), np.array([0, 0, 1, 1])
    bank, fitted = plain.fit_knn(train, labels, classes=2), plain.fit_mahalanobis(train, labels, classes=2)
    for call in (
        lambda: plain.class_similarities(bank, train[0]),
        lambda: plain.mahalanobis_distances(fitted, train[0]),
    ):
        with pytest.raises(ValueError, match=r"features.shape=\(4,\) does not fit"):
            call()


def test_features_that_are_no_numbers_score_none(rng):
    train, labels = training(rng)
    rows = rng.normal(size=(3, 6)).astype(np.float32)
    rows[1, 2], rows[2, 0] = np.nan, np.inf
    similarities = class_similarities(fit_knn(train, labels, classes=4), rows)
    distances = mahalanobis_distances(fit_mahalanobis(train, labels, classes=4), rows)
    for found in (knn_sum_score(similarities), knn_ratio_score(similarities), mahalanobis_score(distances)):
        np.testing.assert_array_equal(np.isfinite(found), [True, False, False])


def test_labels_of_another_length_are_refused():
    """By the module as users import it: without the shape checks that the tests install."""
    plain = plain_module(feature_scores)
    with pytest.raises(ValueError, match=r"labels.shape=\(3,\) does not fit features.shape=\(2, 1\)"):
        plain.fit_knn(np.ones((2, 1)), np.array([0, 1, 1]), classes=2)


def test_unusable_options_are_refused():
    train, labels = np.eye(4), np.array([0, 0, 1, 1])
    bank, fitted = fit_knn(train, labels, classes=2), fit_mahalanobis(train, labels, classes=2)
    with pytest.raises(ValueError, match="neighbours=0"):
        class_similarities(bank, train, neighbours=0)
    with pytest.raises(ValueError, match="block_size=0 is below 1"):
        class_similarities(bank, train, neighbours=1, block_size=0)
    with pytest.raises(ValueError, match="give 4 features a row"):
        class_similarities(bank, np.ones((1, 3)))
    with pytest.raises(ValueError, match="give 4 features a row"):
        mahalanobis_distances(fitted, np.ones((1, 3)))
    with pytest.raises(ValueError, match=r"shrinkage=1\.5"):
        fit_mahalanobis(train, labels, classes=2, shrinkage=1.5)
