"""Parts of a norm against central differences and NumPy's singular values in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import plain_module

from osrjax import jacobian
from osrjax.jacobian import parts
from osrjax.jacobian.parts import input_jacobian_parts

STEP = 1e-5


@pytest.fixture
def network(rng):
    """A function for JAX, the same in NumPy, images and prototypes."""
    inner, outer = rng.normal(size=(7, 6)), rng.normal(size=(5, 7))
    images, prototypes = rng.normal(size=(4, 2, 3)), rng.normal(size=(3, 5))
    first, second = jnp.asarray(inner, jnp.float32), jnp.asarray(outer, jnp.float32)
    return (
        lambda x: second @ jnp.tanh(first @ x.reshape(-1)),
        lambda x: outer @ np.tanh(inner @ x.reshape(-1)),
        images,
        prototypes,
    )


def brute_force(fn, x, prototypes):
    """Every part by central differences of the two embeddings."""

    def unit(x):
        return fn(x) / np.linalg.norm(fn(x))

    def differences(fn):
        offsets = np.eye(x.size).reshape(-1, *x.shape) * STEP
        return np.stack([(fn(x + offset) - fn(x - offset)) / (2 * STEP) for offset in offsets], axis=1)

    matrix, raw = differences(unit), differences(fn)
    rows = prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True)
    nearest = rows[np.argmax(rows @ unit(x))]
    # The tangent, as the direction in which the sphere's point moves towards the prototype.
    tangent = nearest - (nearest @ unit(x)) * unit(x)
    tangent /= np.linalg.norm(tangent)
    rest = (np.eye(len(matrix)) - np.outer(tangent, tangent)) @ matrix
    return jacobian.JacobianParts(
        *(np.linalg.norm(part) for part in (matrix, tangent @ matrix, rest)),
        np.linalg.svd(matrix, compute_uv=False),
        nearest @ unit(x),
        *(np.linalg.norm(part) for part in (fn(x), raw, unit(x) @ raw)),
    )


def test_parts_are_those_of_central_differences(network):
    fn, plain, images, prototypes = network
    rows = jnp.asarray(prototypes, jnp.float32)
    found = jax.jit(jax.vmap(lambda x: input_jacobian_parts(fn, x, rows)))(jnp.asarray(images, jnp.float32))
    for i, image in enumerate(images):
        for name, wanted in brute_force(plain, image, prototypes)._asdict().items():
            np.testing.assert_allclose(getattr(found, name)[i], wanted, rtol=2e-4, atol=2e-6, err_msg=name)
    np.testing.assert_allclose(found.norm**2, found.towards**2 + found.across**2, rtol=1e-5)
    np.testing.assert_allclose(found.norm**2, jnp.sum(found.singular_values**2, axis=1), rtol=1e-5)
    removed = (found.raw_norm**2 - found.radial**2) / found.raw_length**2
    np.testing.assert_allclose(found.norm**2, removed, rtol=1e-4)


def test_the_norm_is_that_of_the_unit_embedding_in_both_modes(network):
    fn, _, images, prototypes = network
    x, rows = jnp.asarray(images[0], jnp.float32), jnp.asarray(prototypes, jnp.float32)
    wanted = jacobian.input_jacobian_norm(lambda x: fn(x) / jnp.linalg.norm(fn(x)), x)
    for mode in ("forward", "reverse"):
        np.testing.assert_allclose(input_jacobian_parts(fn, x, rows, mode=mode).norm, wanted, rtol=1e-5)


def test_at_a_prototype_there_is_no_direction_towards_it():
    found = input_jacobian_parts(lambda x: x, jnp.array([0.6, 0.8]), jnp.array([[3.0, 4.0], [0.0, -1.0]]))
    assert float(found.towards) == 0
    np.testing.assert_allclose([found.norm, found.across, found.cosine], [1, 1, 1], rtol=1e-6)
    assert np.isnan(input_jacobian_parts(lambda x: 0 * x, jnp.ones(2), jnp.eye(2)).norm)


@pytest.mark.parametrize("rows", [jnp.eye(3), jnp.ones((1, 2, 2))])
def test_other_features_are_refused(rows):
    with pytest.raises(ValueError, match=r"fn gives shape \(2,\) and prototypes have"):
        plain_module(parts).input_jacobian_parts(lambda x: x, jnp.ones(2), rows)
