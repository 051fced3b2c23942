"""Random projections of a Jacobian: unbiased, of the known variance, with intervals that cover."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.test_util import check_grads

from osrjax import jacobian

MODES = ["reverse", "forward"]
DISTRIBUTIONS = ["rademacher", "gaussian"]


def layers(weights, x):
    w1, w2 = weights
    return w2 @ jnp.tanh(w1 @ x.reshape(-1))


def layers_jacobian(weights, x):
    w1, w2 = weights
    return (w2 * (1 - np.tanh(w1 @ x.reshape(-1)) ** 2)) @ w1


@pytest.fixture
def weights(rng):
    return rng.normal(size=(6, 4)), rng.normal(size=(3, 6))


def drawn_squares(fn, x, seed, *, keys=400, samples=20, **options):
    """Squares [keys, samples], every key's apart."""
    squares = partial(jacobian.projected_squares, fn, samples=samples, **options)
    return np.asarray(
        jax.jit(jax.vmap(lambda key: squares(key, x)))(jax.random.split(jax.random.key(seed), keys)), np.float64
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_mean_and_variance_of_the_projections(distribution, mode, weights, rng):
    x = rng.uniform(-1, 1, (2, 2, 1))
    j = layers_jacobian(weights, x)
    gram = j @ j.T if mode == "reverse" else j.T @ j
    # Var u^T G u = 2 ||G||_F^2 for normal u; the diagonal is constant for signs
    variance = 2 * np.sum(gram**2) - (2 * np.sum(np.diag(gram) ** 2) if distribution == "rademacher" else 0)
    fn = partial(layers, jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), weights))
    squares = drawn_squares(fn, jnp.asarray(x, jnp.float32), 3, distribution=distribution, mode=mode)
    assert squares.shape == (400, 20)
    assert (squares >= 0).all()
    n = squares.size
    assert abs(squares.mean() - np.sum(j**2)) < 4 * np.sqrt(variance / n)
    centred = squares - squares.mean()
    fourth = np.mean(centred**4)
    assert abs(squares.var() - variance) < 4 * np.sqrt((fourth - variance**2) / n)
    # samples of one key are as independent as those of two
    between = squares.mean(1).var(ddof=1)
    assert between == pytest.approx(variance / 20, rel=4 * np.sqrt(2 / 400))


@pytest.mark.parametrize("mode", MODES)
def test_signs_are_exact_where_the_gram_matrix_is_diagonal(mode):
    squares = jacobian.projected_squares(
        lambda x: jnp.array([1.0, -2.0, 3.0]) * x, jax.random.key(0), jnp.ones(3), samples=5, mode=mode
    )
    np.testing.assert_allclose(squares, 14.0, rtol=1e-6)


def test_keys_samples_and_chunks(weights):
    fn = partial(layers, jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), weights))
    x = jnp.array([0.1, -0.4, 0.2, 0.7])

    @partial(jax.jit, static_argnums=(1, 2))
    def squares(key, mode, chunk_size):
        return jacobian.projected_squares(
            fn, key, x, samples=7, distribution="gaussian", mode=mode, chunk_size=chunk_size
        )

    for mode in MODES:
        whole = squares(jax.random.key(0), mode, None)
        assert whole.shape == (7,)
        assert len(np.unique(whole)) == 7
        chunk_size = 3 if mode == "reverse" else 20  # with a remainder; more than there are samples
        np.testing.assert_allclose(squares(jax.random.key(0), mode, chunk_size), whole, rtol=1e-5)
        assert not np.isin(squares(jax.random.key(1), mode, None), whole).any()


@pytest.mark.parametrize("mode", MODES)
def test_dtypes(mode, x64):
    def half(x):
        return (2 * x).astype(jnp.bfloat16)

    squares = partial(jacobian.projected_squares, samples=2, mode=mode)
    rounded = squares(half, jax.random.key(0), jnp.ones(333, jnp.float32))  # one square is 4 * 333
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, 1332.0, rtol=1e-6)  # 1328 in bfloat16
    assert squares(jnp.sin, jax.random.key(0), jnp.ones(3, jnp.float64)).dtype == jnp.float64


def test_gradient_of_an_estimated_penalty(weights, rng, x64):
    images = jnp.asarray(rng.uniform(-1, 1, (2, 4)))

    def penalty(weights):
        def square(key, x):
            fn = partial(layers, weights)
            return jacobian.projected_squares(fn, key, x, samples=3, chunk_size=2, distribution="gaussian").mean()

        return jax.vmap(square)(jax.random.split(jax.random.key(5), 2), images).mean()

    check_grads(jax.jit(penalty), (jax.tree.map(jnp.asarray, weights),), order=1, modes=("rev",), rtol=1e-6)


def test_estimate_by_hand():
    squares = np.array([[4.0, 6.0, 5.0, 9.0], [100.0, 101.0, 99.0, 102.0]])
    for level in (0.9, 0.95):
        estimate = jacobian.jacobian_estimate(jnp.asarray(squares, jnp.float32), level=level)
        mean, error = squares.mean(1), squares.std(1, ddof=1) / 2
        low, high = scipy.stats.t.interval(level, 3, mean, error)
        assert low[0] > 0
        np.testing.assert_allclose(estimate.squared_norm, mean, rtol=1e-6)
        np.testing.assert_allclose(estimate.standard_error, error, rtol=1e-5)
        np.testing.assert_allclose(estimate.low, low, rtol=1e-5)
        np.testing.assert_allclose(estimate.high, high, rtol=1e-5)
        np.testing.assert_allclose(estimate.norm, np.sqrt(mean), rtol=1e-6)
        np.testing.assert_allclose(estimate.norm_bias, -(error**2) / (8 * mean**1.5), rtol=1e-5)
    default = jacobian.jacobian_estimate(jnp.asarray(squares, jnp.float32))
    np.testing.assert_array_equal(default.low, estimate.low)


def test_estimates_of_any_batch_and_under_transformations(rng):
    squares = jnp.asarray(rng.chisquare(3, (2, 3, 5)), jnp.float32)
    whole = jacobian.jacobian_estimate(squares)
    for other in (
        jax.jit(jacobian.jacobian_estimate)(squares),
        jax.jit(jax.vmap(jax.vmap(jacobian.jacobian_estimate)))(squares),
    ):
        for name, wanted, found in zip(whole._fields, whole, other, strict=True):
            assert wanted.shape == (2, 3)
            np.testing.assert_allclose(found, wanted, rtol=1e-5, err_msg=name)


def test_estimates_of_a_zero_jacobian():
    for estimate in (jacobian.jacobian_estimate, jacobian.mean_estimate):

        @jax.jit
        def both(squares, estimate=estimate):
            return estimate(squares), jax.grad(lambda squares: estimate(squares).norm.sum())(squares)

        found, gradient = both(jnp.zeros((3, 4)))
        for value in found:
            np.testing.assert_array_equal(value, np.zeros(value.shape))
        np.testing.assert_array_equal(gradient, np.zeros((3, 4)))


def test_equal_squares_leave_no_doubt():
    estimate = jacobian.jacobian_estimate(jnp.full((2, 6), 9.0))
    np.testing.assert_allclose(estimate.squared_norm, 9.0, rtol=1e-6)
    np.testing.assert_allclose(estimate.norm, 3.0, rtol=1e-6)
    for value in (estimate.standard_error, estimate.norm_bias):
        np.testing.assert_allclose(value, 0.0, atol=1e-5)
    np.testing.assert_allclose(estimate.low, estimate.high, atol=1e-4)


def test_norm_bias_against_simulation(rng):
    # 64 squares, each a sum of 4 squared normals: their mean is chi-square with 256 degrees of freedom over 64
    norms = np.sqrt(rng.chisquare(256, 4_000_000) / 64)
    simulated = norms.mean() - 2.0
    assert simulated == pytest.approx(-0.125 / 64, rel=0.1)
    estimate = jacobian.jacobian_estimate(jnp.asarray(rng.chisquare(4, (4000, 64)), jnp.float32))
    assert float(estimate.norm_bias.mean()) == pytest.approx(simulated, rel=0.1)


def covered(estimate, truth):
    return float(np.mean((np.asarray(estimate.low) <= truth) & (truth <= np.asarray(estimate.high))))


def test_single_interval_covers_normal_squares_exactly(rng):
    estimate = jacobian.jacobian_estimate(jnp.asarray(rng.normal(100.0, 3.0, (20_000, 4)), jnp.float32))
    assert covered(estimate, 100.0) == pytest.approx(0.95, abs=0.006)


def test_mean_estimate_by_hand(rng):
    squares = rng.uniform(1.0, 2.0, (3, 5))
    squares[2] *= 10
    estimate = jacobian.mean_estimate(jnp.asarray(squares, jnp.float32))
    error = np.sqrt(np.sum(squares.var(1, ddof=1) / 5)) / 3
    np.testing.assert_allclose(estimate.squared_norm, squares.mean(), rtol=1e-6)
    np.testing.assert_allclose(estimate.standard_error, error, rtol=1e-5)
    np.testing.assert_allclose(estimate.norm, np.sqrt(squares.mean()), rtol=1e-6)
    np.testing.assert_allclose(estimate.norm_bias, -(error**2) / (8 * squares.mean() ** 1.5), rtol=1e-5)
    for value in estimate:
        assert value.shape == ()
    # symmetric, and between the normal interval and that of the fewest degrees of freedom
    low, high = float(estimate.low), float(estimate.high)
    assert high - squares.mean() == pytest.approx(squares.mean() - low, rel=1e-3)
    half = (high - low) / 2
    assert 1.95996 * error <= half <= scipy.stats.t.ppf(0.975, 4) * error * (1 + 1e-5)


@pytest.mark.parametrize(("examples", "samples"), [(40, 8), (200, 2)])
def test_mean_interval_covers_simulated_squares(examples, samples, rng):
    # a fixed data set whose examples differ far more than their projections do
    scale = np.exp(rng.normal(size=examples))
    squares = scale[:, None] * rng.chisquare(6, (4000, examples, samples))
    estimate = jax.jit(jax.vmap(jacobian.mean_estimate))(jnp.asarray(squares, jnp.float32))
    assert 0.93 <= covered(estimate, 6 * scale.mean()) <= 0.97
    spread = np.asarray(estimate.squared_norm, np.float64).var()
    np.testing.assert_allclose(np.mean(np.asarray(estimate.standard_error) ** 2), spread, rtol=0.1)


def test_mean_interval_covers_real_projections(weights, rng):
    images = rng.uniform(-1, 1, (16, 4))
    truth = np.mean([np.sum(layers_jacobian(weights, x) ** 2) for x in images])
    fn = partial(layers, jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), weights))

    @jax.jit
    @jax.vmap
    def repetition(keys):
        squares = partial(jacobian.projected_squares, fn, samples=8)
        return jacobian.mean_estimate(jax.vmap(squares)(keys, jnp.asarray(images, jnp.float32)))

    estimate = repetition(jax.random.split(jax.random.key(0), (1500, 16)))
    assert 0.93 <= covered(estimate, truth) <= 0.97
    error = np.asarray(estimate.squared_norm).std()
    assert abs(np.asarray(estimate.squared_norm, np.float64).mean() - truth) < 4 * error / np.sqrt(1500)
