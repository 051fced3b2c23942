"""Single directions of a Jacobian: directional norms, paths between two inputs, the largest singular value."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from osrjax import jacobian


def single(array):
    return jnp.asarray(array, jnp.float32)


def circle(x):
    """Image of a number: the point of the unit circle at the angle x^3."""
    return jnp.concatenate([jnp.cos(x**3), jnp.sin(x**3)])


def layers(weights, x):
    w1, w2 = weights
    return w2 @ jnp.tanh(w1 @ x.reshape(-1))


def layers_jacobian(weights, x):
    w1, w2 = weights
    return (w2 * (1 - np.tanh(w1 @ x.reshape(-1)) ** 2)) @ w1


@pytest.fixture
def weights(rng):
    return rng.normal(size=(6, 4)), rng.normal(size=(5, 6))


@pytest.fixture
def ends(rng):
    return rng.uniform(-1, 1, (2, 2, 2, 1))


def test_directional_norm_by_hand(weights, ends, rng):
    x, direction = ends[0], rng.normal(size=ends[0].shape)
    wanted = np.linalg.norm(layers_jacobian(weights, x) @ direction.reshape(-1))
    fn = partial(layers, jax.tree.map(single, weights))
    for factor in (1.0, -7.0):  # the direction is not normalised
        found = jax.jit(partial(jacobian.directional_norm, fn))(single(x), factor * single(direction))
        assert found.shape == ()
        assert float(found) == pytest.approx(abs(factor) * wanted, rel=1e-5)
    w = weights[0]
    linear = jacobian.directional_norm(lambda x: single(w) @ x, single(rng.normal(size=4)), single(direction.ravel()))
    assert float(linear) == pytest.approx(np.linalg.norm(w @ direction.ravel()), rel=1e-6)
    assert jacobian.directional_norm(fn, single(x), jnp.zeros(x.shape)) == 0


def test_directional_norms_of_all_unit_directions_make_the_frobenius_norm(weights, ends):
    fn = partial(layers, jax.tree.map(single, weights))
    directions = jnp.eye(4).reshape(4, *ends[0].shape)
    norms = jax.vmap(lambda v: jacobian.directional_norm(fn, single(ends[0]), v))(directions)
    np.testing.assert_allclose(jnp.linalg.norm(norms), np.linalg.norm(layers_jacobian(weights, ends[0])), rtol=1e-5)


def test_paths_of_a_linear_map_are_straight(rng):
    w, start, end = rng.normal(size=(5, 3)), rng.normal(size=3), rng.normal(size=3)
    wanted = np.linalg.norm(w @ (end - start))

    @jax.jit
    def lengths(start, end):
        return [
            length(lambda x: single(w) @ x + 2.0, start, end, points=points)
            for length in (jacobian.path_length, jacobian.chord_length)
            for points in (1, 5)
        ]

    np.testing.assert_allclose(lengths(single(start), single(end)), wanted, rtol=1e-5)


def test_path_length_is_the_midpoint_rule(weights, ends):
    start, end = ends
    speeds = [
        np.linalg.norm(layers_jacobian(weights, start + (i + 0.5) / 3 * (end - start)) @ (end - start).reshape(-1))
        for i in range(3)
    ]
    fn = partial(layers, jax.tree.map(single, weights))
    found = jax.jit(partial(jacobian.path_length, fn, points=3))(single(start), single(end))
    assert found.shape == ()
    assert float(found) == pytest.approx(np.mean(speeds), rel=1e-5)


def test_lengths_of_an_arc(x64):
    # angles 0 to 8, an arc of length 8 run at a growing speed: the midpoint rule is wrong by 2 / points^2
    start, end, numbers = jnp.zeros(1), jnp.full(1, 2.0), np.array([16, 64, 256])

    @jax.jit
    def lengths(start, end):
        return [
            [length(circle, start, end, points=points) for points in numbers.tolist()]
            for length in (jacobian.path_length, jacobian.chord_length)
        ]

    found, chords = np.array(lengths(start, end))
    np.testing.assert_allclose(8 - found, 2 / numbers**2, rtol=1e-6)
    assert (np.diff(chords) > 0).all()  # finer polygons inside an arc are longer
    assert np.linalg.norm(circle(end) - circle(start)) < chords[0]
    assert 8 * (1 - 1e-3) < chords[-1] < 8
    np.testing.assert_allclose(lengths(end, start), [found, chords], rtol=1e-12)


def test_chord_length_is_the_length_of_the_polygon(weights, ends):
    start, end = ends
    w1, w2 = weights

    def polygon(segments):
        t = np.linspace(0, 1, segments + 1)[:, None]
        places = (1 - t) * start.reshape(-1) + t * end.reshape(-1)
        return np.linalg.norm(np.diff(np.tanh(places @ w1.T) @ w2.T, axis=0), axis=1).sum()

    fn = partial(layers, jax.tree.map(single, weights))
    found = float(jax.jit(partial(jacobian.chord_length, fn, points=3))(single(start), single(end)))
    assert found == pytest.approx(polygon(3), rel=1e-5)
    found = float(jax.jit(partial(jacobian.path_length, fn, points=400))(single(start), single(end)))
    assert found >= np.linalg.norm(layers(weights, end) - layers(weights, start)) * (1 - 1e-6)
    assert found >= polygon(200) * (1 - 1e-5)
    assert found == pytest.approx(polygon(2000), rel=1e-4)


def test_pairs_under_vmap_and_gradients_of_lengths(weights, rng, x64):
    starts, ends = jnp.asarray(rng.uniform(-1, 1, (2, 3, 4)))
    double = jax.tree.map(jnp.asarray, weights)

    @jax.jit
    def totals(weights):
        fn = partial(layers, weights)
        lengths = (jacobian.path_length, jacobian.chord_length)
        return [jax.vmap(partial(length, fn, points=4))(starts, ends) for length in lengths]

    path, chords = totals(double)
    for i in range(3):
        alone = jacobian.path_length(partial(layers, double), starts[i], ends[i], points=4)
        assert float(path[i]) == pytest.approx(float(alone), rel=1e-12)
    heights = [np.asarray(jax.vmap(partial(layers, double))(x)) for x in (starts, ends)]
    assert (np.asarray(chords) >= np.linalg.norm(heights[1] - heights[0], axis=1)).all()
    check_grads(totals, (double,), order=1, modes=("rev",), rtol=1e-6)


@pytest.mark.parametrize("length", ["path_length", "chord_length"])
def test_a_path_that_goes_nowhere(length):
    function = getattr(jacobian, length)
    x = jnp.ones(3)
    for fn in (jnp.tanh, lambda x: jnp.zeros(2)):
        value, gradients = jax.jit(jax.value_and_grad(partial(function, fn), (0, 1)))(x, x)
        assert value == 0
        np.testing.assert_array_equal(gradients, np.zeros((2, 3)))
    assert function(lambda x: jnp.zeros(2), x, -x) == 0


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_interpolation_profile(mode, weights, ends):
    start, end = ends
    fractions = [0.0, 0.3, 0.5, 1.0]
    wanted = [np.linalg.norm(layers_jacobian(weights, (1 - t) * start + t * end)) for t in fractions]
    fn = partial(layers, jax.tree.map(single, weights))
    for batch_size in (None, 1, 3, 9):  # 3 does not divide the 4 points
        profile = jax.jit(partial(jacobian.interpolation_profile, fn, mode=mode, chunk_size=3, batch_size=batch_size))
        found = profile(single(start), single(end), jnp.array(fractions))
        assert found.shape == (4,)
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_profile_of_a_step_peaks_between_its_ends():
    profile = jacobian.interpolation_profile(
        lambda x: jnp.tanh(8 * x), jnp.full(2, -1.0), jnp.full(2, 1.0), jnp.linspace(0.0, 1.0, 9)
    )
    assert int(jnp.argmax(profile)) == 4
    assert float(profile[4]) == pytest.approx(8 * np.sqrt(2), rel=1e-5)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (1, 5), (5, 1)])
def test_largest_singular_value_of_a_linear_map(shape, rng):
    left, _ = np.linalg.qr(rng.normal(size=(shape[0], shape[0])))
    right, _ = np.linalg.qr(rng.normal(size=(shape[1], shape[1])))
    values = np.zeros(shape)
    np.fill_diagonal(values, [3.0, 2.0, 1.0, 0.1][: min(shape)])
    w = left @ values @ right.T

    def largest(w, x):
        return jacobian.largest_singular_value(lambda x: w @ x, jax.random.key(1), x)

    value, slope = jax.jit(jax.value_and_grad(largest))(single(w), single(rng.normal(size=shape[1])))
    assert float(value) == pytest.approx(np.linalg.svd(w, compute_uv=False)[0], rel=1e-5)
    # its derivative in w is u v^T of the leading pair
    np.testing.assert_allclose(slope, np.outer(left[:, 0], right[:, 0]), atol=1e-4)


def test_largest_singular_value_of_a_network(weights, ends, x64):
    fn = partial(layers, jax.tree.map(jnp.asarray, weights))
    exact = np.linalg.svd(layers_jacobian(weights, ends[0]), compute_uv=False)[0]
    largest = jax.jit(jacobian.largest_singular_value, static_argnums=0, static_argnames="iterations")
    found = largest(fn, jax.random.key(0), jnp.asarray(ends[0]), iterations=500)
    assert float(found) == pytest.approx(exact, rel=1e-6)
    one = largest(fn, jax.random.key(2), jnp.asarray(ends[0]), iterations=1)
    assert 0 < float(one) <= exact * (1 + 1e-12)  # from below, however few the iterations


def test_largest_singular_value_of_rank_one_and_zero_maps(rng):
    u, v = rng.normal(size=5), rng.normal(size=(2, 2))
    key = partial(jax.random.key, 0)
    found = jacobian.largest_singular_value(
        lambda x: single(u) * jnp.sum(single(v) * x), key(), jnp.ones((2, 2)), iterations=1
    )
    assert float(found) == pytest.approx(np.linalg.norm(u) * np.linalg.norm(v), rel=1e-5)

    @jax.value_and_grad
    def scaled(p):
        return jacobian.largest_singular_value(lambda x: p * x, key(), jnp.ones(3))

    value, slope = jax.jit(scaled)(0.0)
    assert value == 0
    assert np.isfinite(slope)
    assert jacobian.largest_singular_value(lambda x: jnp.ones(2), key(), jnp.ones(3)) == 0
    for p in (1e-12, 1e12):  # its fourth power is no float32
        assert float(jax.jit(scaled)(p)[0]) == pytest.approx(p, rel=1e-5)
