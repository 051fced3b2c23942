"""Losses against hand numbers, float64 loops and the propositions of the paper."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from conftest import plain_module
from jax.test_util import check_grads
from jaxtyping import TypeCheckError

from osrjax import losses
from osrjax.losses import classification


def reference_m_ovr(cosines, labels, margin, scale, margin_on="all", intra=1.0, inter=1.0):
    """Eq. 2 and 3 with an arccosine and logarithms of sigmoids, one example and one class at a time."""
    found = []
    for row, label in zip(cosines, labels, strict=True):
        total = 0.0
        for k, cosine in enumerate(row):
            shifted = math.cos(math.acos(cosine) + margin) if margin_on == "all" or k == label else cosine
            p = 1.0 / (1.0 + math.exp(-scale * shifted))
            total += -intra * math.log(p) if k == label else -inter * math.log1p(-p)
        found.append(total)
    return np.array(found)


@pytest.fixture
def cosines(rng):
    return rng.uniform(-0.99, 0.99, (7, 4))


@pytest.fixture
def labels(rng):
    return rng.integers(0, 4, 7)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_m_ovr_hand_numbers(transform):
    # cos(pi/2 + pi/6) = -1/2 for both classes, T = 2: softplus(1) + softplus(-1) = 1 + 2 log(1 + 1/e)
    value = transform(lambda c, y: losses.m_ovr_loss(c, y, margin=math.pi / 6, scale=2.0))(
        jnp.zeros((1, 2)), jnp.array([1])
    )
    np.testing.assert_allclose(value, [1.0 + 2.0 * math.log(1.0 + math.exp(-1.0))], rtol=1e-6)


@pytest.mark.parametrize("margin_on", ["all", "target"])
@pytest.mark.parametrize(("margin", "scale"), [(0.0, 1.0), (0.5, 8.0), (1.2, 3.0)])
def test_m_ovr_equals_float64_loop(cosines, labels, margin, scale, margin_on, x64):
    found = losses.m_ovr_loss(
        jnp.asarray(cosines),
        jnp.asarray(labels),
        margin=margin,
        scale=scale,
        margin_on=margin_on,
        intra_weight=0.3,
        inter_weight=1.7,
    )
    wanted = reference_m_ovr(cosines, labels, margin, scale, margin_on, 0.3, 1.7)
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_leading_axes_vmap_and_traced_hyper_parameters(cosines, labels):
    c, y = jnp.asarray(cosines, jnp.float32), jnp.asarray(labels)
    plain = losses.m_ovr_loss(c, y, margin=0.4, scale=5.0)
    folded = losses.m_ovr_loss(c[:6].reshape(2, 3, 4), y[:6].reshape(2, 3), margin=0.4, scale=5.0)
    np.testing.assert_allclose(folded.reshape(-1), plain[:6], rtol=1e-6)
    rows = jax.vmap(lambda c, y: losses.m_ovr_loss(c, y, margin=0.4, scale=5.0))(c, y)
    np.testing.assert_allclose(rows, plain, rtol=1e-6)
    traced = jax.jit(lambda m: losses.m_ovr_loss(c, y, margin=m, scale=5.0))
    np.testing.assert_allclose(jax.vmap(traced)(jnp.array([0.4, 0.0]))[0], plain, rtol=1e-6)


@pytest.mark.parametrize("margin_on", ["all", "target"])
def test_gradients_to_second_order(cosines, labels, margin_on, x64):
    y = jnp.asarray(labels)
    check_grads(
        jax.jit(lambda c: losses.m_ovr_loss(c, y, margin=0.5, scale=6.0, margin_on=margin_on)),
        (jnp.asarray(cosines),),
        order=2,
        rtol=1e-4,
    )


def test_other_losses_equal_float64_loops(cosines, labels, x64):
    c, y = jnp.asarray(cosines), jnp.asarray(labels)
    softmax = [
        -math.log(math.exp(4 * row[k]) / sum(math.exp(4 * v) for v in row))
        for row, k in zip(cosines, labels, strict=True)
    ]
    np.testing.assert_allclose(losses.cosine_softmax_loss(c, y, scale=4.0), softmax, rtol=1e-12)
    np.testing.assert_allclose(losses.rotation_loss(4.0 * c, y), softmax, rtol=1e-12)
    np.testing.assert_allclose(
        losses.cosine_softmax_loss(c, y, scale=4.0),
        optax.softmax_cross_entropy_with_integer_labels(4.0 * c, y),
        rtol=1e-12,
    )
    one_vs_rest = reference_m_ovr(cosines, labels, 0.0, 4.0)
    np.testing.assert_allclose(losses.ovr_loss(4.0 * c, y), one_vs_rest, rtol=1e-9)
    for loss in (losses.ovr_loss, losses.rotation_loss, losses.cosine_softmax_loss):
        check_grads(jax.jit(lambda c, loss=loss: loss(c, y)), (c,), order=1, rtol=1e-4)


def test_margin_cosines_without_arccosine(rng, x64):
    c = rng.uniform(-1, 1, 50)
    np.testing.assert_allclose(losses.margin_cosines(jnp.asarray(c), 0.7), np.cos(np.arccos(c) + 0.7), atol=1e-14)


@pytest.mark.parametrize("cosine", [1.0, -1.0, 1.0 + 1e-6, -1.0 - 1e-6, 1.0 - 6e-8])
@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_value_and_gradient_are_finite_at_plus_and_minus_one(cosine, margin):
    def mean_loss(c):
        return losses.m_ovr_loss(c, jnp.array([0]), margin=margin, scale=32.0).mean()

    value, gradient = jax.jit(jax.value_and_grad(mean_loss))(jnp.full((1, 3), cosine))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_gradient_through_unit_vectors_at_a_prototype_that_is_the_feature():
    def loss(raw, prototype):
        f, w = raw / jnp.linalg.norm(raw), prototype / jnp.linalg.norm(prototype)
        return losses.m_ovr_loss((f @ w)[None, None], jnp.array([0])).sum()

    raw = jnp.array([3.0, -4.0, 12.0])
    for gradient in jax.grad(loss, (0, 1))(raw, raw):
        assert np.isfinite(gradient).all()


def test_confident_samples_stay_distinct_in_float32():
    # Losses around 1e-12 in float32: the form sum_k softplus(z_k) - z_y would give exactly 0 for all of them.
    cosines = np.stack([np.linspace(0.85, 0.86, 200), *[np.full(200, -0.86)] * 3], axis=-1)
    found = np.asarray(losses.m_ovr_loss(jnp.asarray(cosines, jnp.float32), jnp.zeros(200, jnp.int32), margin=0.0))
    assert found.max() < 1e-10
    assert (np.diff(found) < 0).all()


def test_limits():
    perfect = losses.m_ovr_loss(jnp.array([[1.0, -1.0, -1.0]]), jnp.array([0]), margin=0.0)
    assert float(perfect[0]) == pytest.approx(3 * math.exp(-32.0), rel=1e-5)
    worst = losses.m_ovr_loss(jnp.array([[-1.0, 1.0, 1.0]]), jnp.array([0]), margin=0.0)
    assert float(worst[0]) == pytest.approx(96.0, rel=1e-6)
    one_class = losses.ovr_loss(jnp.array([[2.0]]), jnp.array([0]))
    assert float(one_class[0]) == pytest.approx(math.log1p(math.exp(-2.0)), rel=1e-6)
    huge = losses.ovr_loss(jnp.array([[1e4, -1e4]]), jnp.array([1]))
    assert float(huge[0]) == pytest.approx(2e4)


def test_permuting_classes_or_examples_permutes_the_losses(cosines, labels, rng):
    c, y = jnp.asarray(cosines, jnp.float32), jnp.asarray(labels)
    plain = np.asarray(losses.m_ovr_loss(c, y))
    classes, rows = rng.permutation(4), rng.permutation(7)
    permuted = losses.m_ovr_loss(c[:, classes], jnp.asarray(np.argsort(classes))[y])
    np.testing.assert_allclose(permuted, plain, rtol=1e-5)
    np.testing.assert_allclose(losses.m_ovr_loss(c[rows], y[rows]), plain[rows], rtol=1e-6)


def _minimise(loss, start):
    options = {"maxiter": 500, "gtol": 1e-12, "ftol": 1e-14}  # a loss that falls no more, not one that falls slowly
    best = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    return best.x.reshape(4, 3)


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_propositions_2_and_3_where_the_prototypes_of_one_sample_go(margin, rng, x64):
    # Four prototypes in three dimensions, one fixed unit feature of class 0, free prototypes.
    feature = np.array([1.0, 2.0, -2.0]) / 3.0

    def loss(flat):
        w = flat.reshape(4, 3)
        w = w / jnp.linalg.norm(w, axis=1, keepdims=True)
        return losses.m_ovr_loss((w @ feature)[None], jnp.array([0]), margin=margin, scale=4.0)[0]

    value_and_grad = jax.jit(jax.value_and_grad(loss))
    w = _minimise(lambda x: tuple(np.asarray(v) for v in value_and_grad(x)), rng.normal(size=12))
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    angles = np.arccos(np.clip(w @ feature, -1, 1))
    # Proposition 2: w_0 = f and every other prototype at -f, so these coincide. Proposition 3: they lie at
    # pi - m, a cone of half-angle m around -f.
    np.testing.assert_allclose(angles[0], 0.0, atol=2e-3)
    np.testing.assert_allclose(angles[1:], math.pi - margin, atol=2e-3)
    if margin == 0:
        np.testing.assert_allclose(w[1:], np.tile(-feature, (3, 1)), atol=3e-3)


def test_proposition_3_two_negatives_can_be_twice_the_margin_apart_at_no_cost(x64):
    margin, angle = 0.5, math.pi - 0.5
    feature = np.array([1.0, 0.0])
    apart = np.array([[1.0, 0.0], [np.cos(angle), np.sin(angle)], [np.cos(angle), -np.sin(angle)]])
    together = np.array([[1.0, 0.0], apart[1], apart[1]])
    between = math.acos(apart[1] @ apart[2])
    assert between == pytest.approx(2 * margin)
    both = jnp.asarray(np.stack([apart @ feature, together @ feature]))
    loss = losses.m_ovr_loss(both, jnp.zeros(2, jnp.int64), margin=margin)
    assert float(loss[0]) == pytest.approx(float(loss[1]), rel=1e-12)
    nudged = losses.m_ovr_loss(both + jnp.array([[0.0, 0.01, 0.0]]), jnp.zeros(2, jnp.int64), margin=margin)
    assert (np.asarray(nudged) > np.asarray(loss)).all()


def test_proposition_4_one_vs_rest_pushes_negatives_harder_than_softmax(rng, x64):
    scale = 8.0
    s = rng.uniform(-0.5, 0.5, (100, 5))
    s[:, 0] = rng.uniform(0.01, 0.9, 100)  # s_y > 0
    labels = jnp.zeros(100, jnp.int64)
    ovr = jax.grad(lambda s: losses.m_ovr_loss(s, labels, margin=0.0, scale=scale).sum())(jnp.asarray(s))
    softmax = jax.grad(lambda s: losses.cosine_softmax_loss(s, labels, scale=scale).sum())(jnp.asarray(s))
    np.testing.assert_allclose(ovr[:, 1:], scale / (1 + np.exp(-scale * s[:, 1:])), rtol=1e-10)
    weights = np.exp(scale * s) / np.exp(scale * s).sum(1, keepdims=True)
    np.testing.assert_allclose(softmax[:, 1:], scale * weights[:, 1:], rtol=1e-10)
    assert (ovr[:, 1:] > softmax[:, 1:]).all()


def test_target_gradient_reverses_beyond_pi_minus_margin(x64):
    def target_term(theta):
        return losses.m_ovr_loss(jnp.cos(theta)[None, None], jnp.array([0]), margin=0.5, scale=4.0).sum()

    slope = jax.grad(target_term)
    assert float(slope(jnp.array(math.pi - 0.6))) > 0 > float(slope(jnp.array(math.pi - 0.4)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.m_ovr_loss(jnp.zeros((2, 3)), jnp.zeros((2, 3), int)), "one-hot"),
        (lambda: losses.ovr_loss(jnp.zeros((2, 3)), jnp.zeros((), int)), "one integer label per row"),
        (lambda: losses.cosine_softmax_loss(jnp.zeros((2, 3)), jnp.zeros(3, int)), "one integer label"),
        (lambda: losses.rotation_loss(jnp.zeros((2, 3)), jnp.zeros(2, int)), "does not end in 4"),
        (lambda: losses.m_ovr_loss(jnp.zeros((2, 3)), jnp.zeros(2, int), margin=-0.1), "margin=-0.1"),
        (lambda: losses.m_ovr_loss(jnp.zeros((2, 3)), jnp.zeros(2, int), margin=4.0), "radians"),
        (lambda: losses.m_ovr_loss(jnp.zeros((2, 3)), jnp.zeros(2, int), scale=0.0), "scale=0.0"),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises((ValueError, TypeCheckError)) as caught:
        call()
    assert isinstance(caught.value, TypeCheckError) or message in str(caught.value)


def test_half_precision_is_raised_to_float32(cosines, labels):
    """Computed in bfloat16, a loss of 1e-3 of a confident sample has two digits, and the sum of many classes fewer."""
    half = jnp.asarray(cosines, jnp.bfloat16)
    y = jnp.asarray(labels)
    exact = np.asarray(half, np.float64)
    softmax = np.log(np.exp(8 * exact).sum(1)) - 8 * exact[np.arange(7), labels]
    wanted = {
        losses.m_ovr_loss: reference_m_ovr(exact, labels, 0.5, 8.0),
        losses.ovr_loss: reference_m_ovr(exact, labels, 0.0, 1.0),
        losses.cosine_softmax_loss: softmax,
    }
    for loss, values in wanted.items():
        found = loss(half, y, **({} if loss is losses.ovr_loss else {"scale": 8.0}))
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, values, rtol=2e-5)
    assert losses.rotation_loss(half, y).dtype == losses.margin_cosines(half, 0.5).dtype == jnp.float32


def test_labels_of_one_byte_are_the_same_classes_among_300():
    logits = np.random.default_rng(3).normal(size=(4, 300)).astype(np.float32)
    labels = np.array([0, 5, 200, 255])
    own = logits[np.arange(4), labels].astype(np.float64)
    softmax = np.log(np.exp(logits.astype(np.float64)).sum(1)) - own
    ovr = np.logaddexp(0, logits.astype(np.float64)).sum(1) - own
    bytes_ = jnp.asarray(labels, jnp.uint8)
    np.testing.assert_allclose(losses.cosine_softmax_loss(jnp.asarray(logits), bytes_, scale=1.0), softmax, rtol=1e-5)
    np.testing.assert_allclose(losses.ovr_loss(jnp.asarray(logits), bytes_), ovr, rtol=1e-5)


@pytest.mark.parametrize("dtype", [bool, jnp.float32])
def test_labels_that_are_no_integers_are_refused(dtype):
    plain, labels = plain_module(classification), jnp.zeros(2, dtype)
    for loss in (plain.m_ovr_loss, plain.ovr_loss, plain.cosine_softmax_loss):
        with pytest.raises(ValueError, match=f"labels has dtype {jnp.dtype(dtype)}"):
            loss(jnp.zeros((2, 3)), labels)


def test_unknown_margin_on_is_refused():
    with pytest.raises((ValueError, TypeCheckError)):
        losses.m_ovr_loss(jnp.zeros((1, 2)), jnp.array([0]), margin_on="none")  # ty: ignore[invalid-argument-type]
