"""Scores with a fit, of heads and of functions against their papers' formulas in float64, scipy and scikit-learn."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import log_softmax, logsumexp, softmax
from sklearn.covariance import EmpiricalCovariance
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from osrjax.scores import (
    Head,
    OpenMax,
    fit_knn,
    fit_openmax,
    fit_react,
    fit_relative_mahalanobis,
    fit_vim,
    generalised_entropy_score,
    gradient_norm_score,
    jacobian_estimate_score,
    jacobian_norm_score,
    kth_neighbour_score,
    odin_score,
    openmax_score,
    react_score,
    relative_mahalanobis_score,
    vim_score,
)

CLASSES, WIDTH = 4, 6


@pytest.fixture
def training(rng):
    """Features, labels and a head: images of a class lie around its own place."""
    labels = rng.permutation(np.repeat(np.arange(CLASSES), (9, 6, 12, 8)))
    places = 3 * rng.normal(size=(CLASSES, WIDTH))
    features = (places[labels] + rng.normal(size=(len(labels), WIDTH))).astype(np.float32)
    head = Head(places.T.astype(np.float32), -(places**2).sum(1).astype(np.float32) / 2)
    return features, labels, head


def logits_of(head, features):
    return features.astype(np.float64) @ head.kernel + head.bias


# ------------------------------------------------------------------------------------------- of outputs


def generalised_entropy(logits, gamma, largest):
    p = np.sort(softmax(np.float64(logits), axis=-1))[..., ::-1][..., :largest]
    return (p**gamma * (1 - p) ** gamma).sum(-1)


@pytest.mark.parametrize(("gamma", "largest"), [(0.1, 100), (0.5, 2), (0.9, 1)])
def test_generalised_entropy_equals_its_formula(rng, gamma, largest):
    logits = 3 * rng.normal(size=(2, 5, 7)).astype(np.float32)
    found = jax.jit(lambda x: generalised_entropy_score(x, gamma=gamma, largest=largest))(logits)
    np.testing.assert_allclose(found, generalised_entropy(logits, gamma, largest), rtol=2e-6)


def test_generalised_entropy_is_never_tied_by_rounding():
    logits = jnp.array([[0.0, -30.0], [0.0, -40.0], [0.0, -80.0]])  # float32 has p = 1 for all three
    found = np.asarray(generalised_entropy_score(logits))
    np.testing.assert_allclose(found, 2 * np.exp(0.1 * np.array([-30.0, -40.0, -80.0])), rtol=1e-5)
    assert np.isfinite(jax.grad(lambda x: generalised_entropy_score(x).sum())(logits)).all()


def test_openmax_equals_algorithms_one_and_two(rng, training):
    features, labels, head = training
    logits = logits_of(head, features)
    logits[:2] = -logits[:2]  # images that are classified wrong do not count
    assert (logits.argmax(1) == labels).sum() < len(labels)
    fitted = fit_openmax(logits.astype(np.float32), labels, tail=5)
    new = 10 * rng.normal(size=(11, CLASSES))
    for alpha in (2, CLASSES):
        expected = []
        for z in new:
            taken = np.zeros(CLASSES)
            for rank, c in enumerate(np.argsort(-z)[:alpha]):
                right = logits[(labels == c) & (logits.argmax(1) == c)]
                distances = np.sort(np.linalg.norm(right - right.mean(0), axis=1))
                shape, _, scale = stats.weibull_min.fit(distances[-5:], floc=0)
                weight = stats.weibull_min.cdf(np.linalg.norm(z - right.mean(0)), shape, scale=scale)
                taken[c] = (alpha - rank) / alpha * weight
            probabilities = softmax(np.concatenate([[(taken * z).sum()], (1 - taken) * z]))
            expected.append(np.log(probabilities[0]) - np.log(probabilities[1:].sum()))
        found = openmax_score(fitted, jnp.asarray(new, jnp.float32), alpha=alpha)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_an_openmax_by_hand():
    fitted = OpenMax(5 * jnp.eye(2), jnp.ones(2), jnp.ones(2))
    # The first image lies on the mean of its class: nothing is taken. Of the second, 1 - e^-d of the logit 2.
    taken = 1 - np.exp(-np.hypot(3, 3))
    expected = [-logsumexp([5, 0]), 2 * taken - logsumexp([-3, 2 * (1 - taken)])]
    np.testing.assert_allclose(
        openmax_score(fitted, jnp.array([[5.0, 0.0], [-3.0, 2.0]]), alpha=1), expected, rtol=1e-6
    )


# ------------------------------------------------------------------------------------------- of features


def test_kth_neighbour_equals_scikit_learn(rng, training):
    features, labels, _ = training
    new = rng.normal(size=(10, WIDTH)).astype(np.float32)
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (np.float64(features), np.float64(new))]
    bank = fit_knn(features, labels, classes=CLASSES)
    for neighbours in (1, 7, len(labels)):
        distances, _ = NearestNeighbors(n_neighbors=neighbours).fit(units[0]).kneighbors(units[1])
        found = kth_neighbour_score(bank, new, neighbours=neighbours, block_size=4)
        np.testing.assert_allclose(found, distances[:, -1] ** 2 / 2 - 1, atol=1e-6)
        compiled = jax.jit(lambda bank, new, k=neighbours: kth_neighbour_score(bank, new, neighbours=k))(bank, new)
        np.testing.assert_allclose(compiled, found, atol=1e-6)


def test_relative_mahalanobis_equals_two_covariances_of_scikit_learn(rng, training):
    features, labels, _ = training
    new = rng.normal(size=(10, WIDTH)).astype(np.float32)
    centred = np.concatenate([features[labels == c] - features[labels == c].mean(0) for c in range(CLASSES)])
    within = EmpiricalCovariance(assume_centered=True).fit(centred)
    nearest = np.min([within.mahalanobis(new - features[labels == c].mean(0)) for c in range(CLASSES)], axis=0)
    expected = nearest - EmpiricalCovariance().fit(features).mahalanobis(new)
    found = relative_mahalanobis_score(fit_relative_mahalanobis(features, labels, classes=CLASSES), new)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------- of features and the head


def test_vim_equals_its_formula(rng, training):
    features, _, head = training
    new = rng.normal(size=(10, WIDTH)).astype(np.float32)
    fitted = fit_vim(features, head, dimensions=4)
    kernel, bias = np.float64(head.kernel), np.float64(head.bias)
    origin = -np.linalg.pinv(kernel.T) @ bias
    np.testing.assert_allclose(fitted.origin, origin, atol=1e-4)
    # Without centring, as the paper: a PCA of the features and their mirror images, whose mean is 0.
    centred = features - origin
    principal = PCA(4).fit(np.concatenate([centred, -centred])).components_

    def residual(rows):
        rows = np.float64(rows) - origin
        return np.linalg.norm(rows - rows @ principal.T @ principal, axis=1)

    alpha = logits_of(head, features).max(1).sum() / residual(features).sum()
    virtual = alpha * residual(new)
    logits = logits_of(head, new)
    np.testing.assert_allclose(
        vim_score(fitted, jnp.asarray(new), jnp.asarray(logits, jnp.float32)),
        virtual - logsumexp(logits, axis=1),
        rtol=1e-4,
        atol=1e-3,
    )
    # The paper's score, the softmax probability p of the virtual logit: log-odds of p are what is given.
    log_p = log_softmax(np.concatenate([virtual[:, None], logits], axis=1), axis=1)[:, 0]
    odds = virtual - logsumexp(logits, axis=1)
    np.testing.assert_allclose(log_p, -np.log1p(np.exp(-odds)), rtol=1e-9, atol=1e-12)


def test_react_equals_its_formula(rng, training):
    features, _, head = training
    new = 4 * rng.normal(size=(10, WIDTH)).astype(np.float32)
    threshold = fit_react(features, percentile=80.0)
    cut = np.sort(features.ravel())
    assert (cut <= threshold).mean() == pytest.approx(0.8, abs=0.01)
    expected = -logsumexp(logits_of(head, np.minimum(new, float(threshold))), axis=1)
    np.testing.assert_allclose(react_score(threshold, jnp.asarray(new), head), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_gradient_norm_is_that_of_automatic_differentiation(rng, temperature):
    features, kernel = rng.normal(size=(5, WIDTH)), rng.normal(size=(WIDTH, CLASSES))

    def divergence(kernel, h):
        return -jnp.mean(jax.nn.log_softmax(h @ kernel / temperature))

    with jax.enable_x64(True):
        gradients = jax.vmap(jax.grad(divergence), (None, 0))(jnp.asarray(kernel), jnp.asarray(features))
        expected = -np.abs(gradients).sum((1, 2))
    logits = (features @ kernel).astype(np.float32)
    found = gradient_norm_score(jnp.asarray(features, jnp.float32), jnp.asarray(logits), temperature=temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# ------------------------------------------------------------------------------------------- of a function


def network(variables, images):
    return jnp.tanh(images @ variables[0]) @ variables[1]


def test_odin_equals_its_formula(rng):
    variables = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((WIDTH, 8), (8, CLASSES))]
    images, step, temperature = rng.normal(size=(5, WIDTH)), 0.05, 100.0
    first, second = (np.float64(w) for w in variables)

    def largest(x):  # log max p
        return log_softmax(np.tanh(x @ first) @ second / temperature, axis=-1).max(-1)

    # The sign of the gradient by central differences.
    gradient = np.zeros_like(images)
    for i in range(WIDTH):
        unit = 1e-5 * np.eye(WIDTH)[i]
        gradient[:, i] = (largest(images + unit) - largest(images - unit)) / 2e-5
    assert np.abs(gradient).min() > 1e-7
    perturbed = largest(images + step * np.sign(gradient))
    found = odin_score(network, variables, jnp.asarray(images, jnp.float32), temperature=temperature, step=step)
    np.testing.assert_allclose(found, -temperature * (perturbed + np.log(CLASSES)), rtol=1e-4)


def test_jacobian_norm_scores(rng):
    variables = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((WIDTH, 8), (8, CLASSES))]
    images = jnp.asarray(rng.normal(size=(3, WIDTH)), jnp.float32)
    first, second = (np.float64(w) for w in variables)
    slopes = 1 - np.tanh(np.float64(images) @ first) ** 2
    expected = [np.linalg.norm(second.T @ (slope[:, None] * first.T)) for slope in slopes]
    np.testing.assert_allclose(jacobian_norm_score(network, variables, images), expected, rtol=1e-5)
    found = jacobian_estimate_score(network, jax.random.key(0), variables, images, projections=4000)
    np.testing.assert_allclose(found, expected, rtol=0.05)


# ------------------------------------------------------------------------------------------- bad input


ROWS, LABELS, HEAD = np.eye(4, dtype=np.float32), np.arange(4), Head(np.eye(4), np.ones(4))
REFUSED = {
    "gamma=1.0": lambda: generalised_entropy_score(jnp.zeros(3), gamma=1.0),
    "largest=0": lambda: generalised_entropy_score(jnp.zeros(3), largest=0),
    "tail=1": lambda: fit_openmax(ROWS, LABELS, tail=1),
    "class 0 has 1 training images that are classified right": lambda: fit_openmax(ROWS, LABELS),
    "class 0: all its largest distances are 0": lambda: fit_openmax(np.repeat(ROWS, 2, 0), np.repeat(LABELS, 2)),
    "alpha=3 is not in [1, 2]": lambda: openmax_score(OpenMax(*map(jnp.ones, ((2, 2), 2, 2))), jnp.ones(2), alpha=3),
    "not as wide as the fit": lambda: openmax_score(OpenMax(*map(jnp.ones, ((2, 2), 2, 2))), jnp.ones(3)),
    "neighbours=5 is not in [1, 4]": lambda: kth_neighbour_score(fit_knn(ROWS, LABELS, classes=4), ROWS, neighbours=5),
    "does not fit the training features": lambda: kth_neighbour_score(fit_knn(ROWS, LABELS, classes=4), ROWS[:, :2]),
    "dimensions=4 is not in [1, 4)": lambda: fit_vim(ROWS, HEAD, dimensions=4),
    "does not fit features.shape=(4, 4)": lambda: fit_vim(ROWS, Head(np.eye(3), np.ones(3))),
    "leaves no direction": lambda: fit_vim(ROWS[:1], Head(np.eye(4), np.zeros(4)), dimensions=1),
    "gives no positive alpha": lambda: fit_vim(ROWS, Head(-np.eye(4), np.zeros(4)), dimensions=1),
    "not finite": lambda: fit_react(np.array([[np.nan]])),
    "percentile=0.0": lambda: fit_react(ROWS, percentile=0.0),
    "temperature=0.0": lambda: gradient_norm_score(jnp.ones(2), jnp.ones(2), temperature=0.0),
    "temperature=-1.0": lambda: odin_score(network, [], jnp.ones((1, 2)), temperature=-1.0),
    "step=-1.0": lambda: odin_score(network, [], jnp.ones((1, 2)), step=-1.0),
}


@pytest.mark.parametrize("message", list(REFUSED))
def test_bad_input_is_refused(message):
    with pytest.raises(ValueError, match=re.escape(message)):
        REFUSED[message]()
