"""Losses on distances against loops in float64, hand numbers and automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import plain_module
from jax.test_util import check_grads

from osrjax import losses
from osrjax.losses import distances
from osrjax.scores import log_cac_score


@pytest.fixture
def labels(rng):
    return rng.integers(0, 4, 7)


def cac(z, label, anchor, weight):
    d = [np.sqrt(sum((z[j] - anchor * (j == k)) ** 2 for j in range(len(z)))) for k in range(len(z))]
    return np.log(1 + sum(np.exp(d[label] - d[k]) for k in range(len(z)) if k != label)) + weight * d[label]


@pytest.mark.parametrize(("anchor", "weight"), [(10.0, 0.1), (3.0, 0.0), (0.5, 2.0)])
def test_cac_equals_its_formula(rng, labels, anchor, weight, x64):
    logits = 4 * rng.normal(size=(7, 4))
    found = losses.cac_loss(jnp.asarray(logits), jnp.asarray(labels), anchor=anchor, anchor_weight=weight)
    wanted = [cac(z, label, anchor, weight) for z, label in zip(logits, labels, strict=True)]
    np.testing.assert_allclose(found, wanted, rtol=1e-10)
    check_grads(
        lambda z: losses.cac_loss(jnp.asarray(z), jnp.asarray(labels), anchor=anchor), (jnp.asarray(logits),), 1
    )


def test_at_an_anchor_the_distance_is_zero_and_the_gradient_finite():
    z = 10.0 * jnp.eye(3)
    np.testing.assert_array_equal(jnp.diag(losses.anchor_distances(z)), 0)
    gradient = jax.grad(lambda z: losses.cac_loss(z, jnp.arange(3)).sum())(z)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_reciprocal_losses_equal_their_formulas(rng, labels, temperature, x64):
    away, excess = 3 * rng.normal(size=(2, 7, 4))
    rows = np.arange(7)
    z = away / temperature
    entropy = np.log(np.exp(z).sum(1)) - z[rows, labels]
    own = excess[rows, labels]
    options = {"temperature": temperature, "radius_weight": 0.3}
    arrays = (jnp.asarray(away), jnp.asarray(excess), jnp.asarray(labels))
    np.testing.assert_allclose(losses.rpl_loss(*arrays, **options), entropy + 0.3 * own**2, rtol=1e-10, atol=1e-14)
    for slack in (0.0, 1.0):
        wanted = entropy + 0.3 * np.where(own + slack > 0, own + slack, 0)
        np.testing.assert_allclose(losses.arpl_loss(*arrays, **options, slack=slack), wanted, rtol=1e-10, atol=1e-14)

    def both(d, e):
        d, e = jnp.asarray(d), jnp.asarray(e)
        return losses.arpl_loss(d, e, arrays[2]) + losses.rpl_loss(d, e, arrays[2])

    check_grads(both, arrays[:2], 1)


def test_the_score_of_cac_equals_its_formula_and_keeps_its_order(rng):
    logits = 4 * rng.normal(size=(9, 5))
    d = np.linalg.norm(logits[:, None] - 6.0 * np.eye(5), axis=-1)
    p = np.exp(-d) / np.exp(-d).sum(1, keepdims=True)
    found = log_cac_score(jnp.asarray(logits, jnp.float32), anchor=6.0)
    np.testing.assert_allclose(found, np.log((d * (1 - p)).min(1)), rtol=1e-4, atol=1e-4)
    near = jnp.array([[99.0, 0.0], [99.9, 0.0], [99.99, 0.0]])  # p is 1 in float32 for all three
    assert (np.diff(log_cac_score(near, anchor=100.0)) < 0).all()


def test_one_hot_labels_are_refused():
    rows, plain = jnp.zeros((3, 3)), plain_module(distances)  # as users import it, without the shape checks of tests
    for loss in (plain.cac_loss, lambda z, y: plain.rpl_loss(z, z, y), lambda z, y: plain.arpl_loss(z, z, y)):
        with pytest.raises(ValueError, match="one integer label per row"):
            loss(rows, jnp.eye(3, dtype=jnp.int32))
