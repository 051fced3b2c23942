"""The linear probe against scipy's minimiser of the written objective, and scikit-learn."""

import numpy as np
import pytest
from conftest import plain_module
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.metrics import top_k_accuracy_score

from osrjax.evaluation import PENALTIES, linear_classifier, linear_probe, top_accuracy

plain = plain_module(linear_classifier)


def problem(rng, images=120, classes=3, width=4):
    """Overlapping classes in features of very different units."""
    means = rng.normal(size=(classes, width))
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, images - classes)])
    features = (means[labels] + rng.normal(size=(images, width))) * np.array([1e-3, 1.0, 50.0, 1.0]) + 3.0
    return features.astype(np.float32), labels


def test_logits_minimise_the_written_objective(rng):
    features, labels = problem(rng)
    train, y, test = features[:80], labels[:80], features[80:]
    penalty = 1e-2
    mean, deviation = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64)
    u, v = ((part - mean) / deviation for part in (train, test))

    def objective(flat):
        weights, bias = flat[:12].reshape(4, 3), flat[12:]
        z = u @ weights + bias
        return np.mean(logsumexp(z, axis=1) - z[np.arange(80), y]) + penalty / 2 * np.sum(weights**2)

    best = minimize(objective, np.zeros(15), method="BFGS", options={"gtol": 1e-7}).x
    z = v @ best[:12].reshape(4, 3) + best[12:]
    found = linear_probe(train, y, test, penalty=penalty)
    # The bias is free up to a constant, so logits are compared after the mean over classes is taken off.
    np.testing.assert_allclose(
        found.logits - found.logits.mean(1, keepdims=True), z - z.mean(1, keepdims=True), atol=5e-3
    )
    np.testing.assert_array_equal(found.predictions, z.argmax(1))
    assert found.penalty == penalty
    assert found.converged


def test_the_penalty_means_the_same_for_any_number_of_images(rng):
    features, labels = problem(rng)
    once = linear_probe(features, labels, features[:9], penalty=1e-2)
    thrice = linear_probe(np.tile(features, (3, 1)), np.tile(labels, 3), features[:9], penalty=1e-2)
    np.testing.assert_allclose(thrice.logits, once.logits, atol=5e-3)


def test_a_feature_without_variance_counts_nothing(rng):
    features, labels = problem(rng)
    constant = np.concatenate([features, np.full((120, 1), 0.1, np.float32)], axis=1)
    moved = constant[:9] + 100 * np.eye(5, dtype=np.float32)[4]
    wanted = linear_probe(features, labels, features[:9], penalty=1e-2).logits
    np.testing.assert_allclose(linear_probe(constant, labels, moved, penalty=1e-2).logits, wanted, atol=1e-3)


def test_two_classes_have_two_logits_and_a_class_without_images_none(rng):
    features, labels = problem(rng, classes=2)
    found = linear_probe(features, 2 * labels, features, penalty=1e-2)  # classes 0 and 2
    assert found.logits.shape == (120, 3)
    assert (found.logits[:, 1] == -np.inf).all()
    np.testing.assert_array_equal(found.predictions, 2 * (found.logits[:, 2] > found.logits[:, 0]))
    assert top_accuracy(found.logits, 2 * labels) == np.mean(found.predictions == 2 * labels) > 0.6


def test_the_penalty_is_chosen_on_training_images_alone(rng, monkeypatch):
    """Every fit but the last sees only training rows, and the choice is the best of them by hand."""
    features, labels = problem(rng, images=60)
    train, y, test = features[:40], labels[:40], features[40:]
    fits, fit = [], linear_classifier._fit

    def recorded(rows, classes, others, penalty, max_iterations):
        logits, converged = fit(rows, classes, others, penalty, max_iterations)
        fits.append((rows, classes, others, penalty, logits))
        return logits, converged

    monkeypatch.setattr(linear_classifier, "_fit", recorded)
    found = linear_probe(train, y, test, seed=3)
    *choices, last = fits
    assert {penalty for *_, penalty, _ in choices} == set(PENALTIES)
    train_rows = {row.tobytes() for row in train}
    accuracies = {}
    for rows, classes, others, penalty, logits in choices:
        parts = [row.tobytes() for row in rows], [row.tobytes() for row in others]
        assert set(parts[0]) | set(parts[1]) == train_rows
        assert not set(parts[0]) & set(parts[1])
        for label in range(3):  # a fifth of every class
            count = np.sum(y == label)
            assert np.sum(classes == label) == count - int(0.2 * count + 0.5)
        own = [y[np.flatnonzero((train == row).all(1))[0]] for row in others]
        accuracies[penalty] = np.mean(logits.argmax(1) == own)
    assert found.penalty == max(p for p in PENALTIES if accuracies[p] == max(accuracies.values()))
    assert last[0] is train
    assert last[2] is test
    np.testing.assert_array_equal(linear_probe(train, y, test, seed=3).logits, found.logits)


def test_too_few_iterations_are_reported_without_a_warning(rng):
    features, labels = problem(rng)
    assert not linear_probe(features, labels, features, penalty=1e-4, max_iterations=1).converged


@pytest.mark.parametrize("top", [1, 2, 5])
def test_top_accuracy_equals_scikit_learn(rng, top):
    logits = rng.normal(size=(60, 7))
    labels = np.concatenate([np.arange(7), rng.integers(0, 7, 53)])
    assert top_accuracy(logits, labels, top=top) == pytest.approx(top_k_accuracy_score(labels, logits, k=top))
    assert top_accuracy(logits, labels, top=7) == 1.0


def test_a_tie_counts_against_the_own_class():
    logits = np.zeros((4, 3))
    assert [top_accuracy(logits, np.array([0, 1, 2, 0]), top=top) for top in (1, 2, 3)] == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_labels": np.array([0, 1, -1, 0])}, "train_labels"),
        ({"train_labels": np.array([0, 1])}, "train_labels"),
        ({"train_labels": np.array([0.0, 1.0, 0.0, 1.0])}, "train_labels has dtype float64"),
        ({"train_labels": np.array([True, False, True, False])}, "train_labels has dtype bool"),
        ({"test_features": np.ones((2, 3))}, r"test_features has shape \(2, 3\)"),
        ({"held_out_share": 1.0}, "held_out_share=1.0"),
        ({"held_out_share": 0.1}, "holds out none of 4 images"),
    ],
)
def test_unusable_input_is_refused(changes, words):
    arrays = {
        "train_features": np.arange(8.0).reshape(4, 2),
        "train_labels": np.array([0, 1, 0, 1]),
        "test_features": np.ones((2, 2)),
    } | changes
    options = {name: arrays.pop(name) for name in ("penalty", "held_out_share") if name in arrays}
    with pytest.raises(ValueError, match=words):
        plain.linear_probe(*arrays.values(), **options)


@pytest.mark.parametrize(
    ("labels", "top", "words"),
    [
        (np.array([0, 3]), 1, r"labels holds 3: give positions in \[0, 3\)"),
        (np.array([0]), 1, r"labels has shape \(1,\), not \(2,\)"),
        (np.array([[0], [1]]), 1, r"labels has shape \(2, 1\)"),
        (np.array([0.0, 1.0]), 1, "labels has dtype float64"),
        (np.array([0, 1]), 4, "top=4"),
        (np.array([0, 1]), 0, "top=0"),
    ],
)
def test_unusable_labels_and_ranks_are_refused(labels, top, words):
    with pytest.raises(ValueError, match=words):
        plain.top_accuracy(np.zeros((2, 3)), labels, top=top)


def test_a_logit_that_is_no_number_is_no_right_answer():
    """No logit is at least NaN, so that each image's own class would come first."""
    for logits in (np.full((2, 3), np.nan), np.zeros(2)):
        with pytest.raises(ValueError, match=r"logits.shape="):
            plain.top_accuracy(logits, np.array([0, 1]))
    without = np.array([[1.0, -np.inf], [-np.inf, 1.0]])  # of a class without training images
    assert top_accuracy(without, np.array([0, 1])) == 1.0
