"""Scores against hand numbers, float64 NumPy, and the ways in which rankings get lost."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from osrjax import scores
from osrjax.losses.classification import m_ovr_loss

SCORES = {
    "m_ovr": scores.m_ovr_score,
    "m_ovr_margin": lambda x: scores.m_ovr_score(x, margin=0.5, scale=8.0),
    "log_m_ovr": scores.log_m_ovr_score,
    "max_softmax": scores.max_softmax_score,
    "log_max_softmax": scores.log_max_softmax_score,
    "max_logit": scores.max_logit_score,
    "energy": scores.energy_score,
    "energy_warm": lambda x: scores.energy_score(x, temperature=2.5),
    "entropy": scores.entropy_score,
    "log_entropy": scores.log_entropy_score,
    "cosine": scores.cosine_score,
}

# Compiled whole: operation by operation the same tests take three times as long.
COMPILED = {name: jax.jit(score) for name, score in SCORES.items()}


def m_ovr_reference(cosines, *, margin=0.0, scale=32.0):
    """The smallest loss over all labels, by a loop over labels with angles in float64."""
    s = np.cos(np.arccos(np.asarray(cosines, np.float64)) + margin)
    per_label = []
    for label in range(s.shape[-1]):
        z = scale * s
        z[..., label] *= -1
        per_label.append(np.logaddexp(0, z).sum(-1))
    return np.min(per_label, axis=0)


def softmax_reference(logits):
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def logarithm(values):
    with np.errstate(divide="ignore"):  # of the one class that there is
        return np.log(values)


REFERENCES = {
    "m_ovr": m_ovr_reference,
    "m_ovr_margin": lambda x: m_ovr_reference(x, margin=0.5, scale=8.0),
    "log_m_ovr": lambda x: np.log(m_ovr_reference(x)),
    "max_softmax": lambda x: -np.log(softmax_reference(x).max(-1)),
    "log_max_softmax": lambda x: logarithm(-np.log(softmax_reference(x).max(-1))),
    "max_logit": lambda x: -x.max(-1),
    "energy": lambda x: -np.log(np.exp(x).sum(-1)),
    "energy_warm": lambda x: -2.5 * np.log(np.exp(x / 2.5).sum(-1)),
    "entropy": lambda x: -(softmax_reference(x) * np.log(softmax_reference(x))).sum(-1),
    "log_entropy": lambda x: logarithm(-(softmax_reference(x) * np.log(softmax_reference(x))).sum(-1)),
    "cosine": lambda x: -x.max(-1),
}


def random_cosines(seed, *shape):
    return np.random.default_rng(seed).uniform(-0.99, 0.99, shape).astype(np.float32)


@pytest.mark.parametrize("name", SCORES)
def test_scores_equal_the_formula_for_any_batch_axes_and_under_jit_and_vmap(name):
    values = random_cosines(0, 3, 4, 5)
    expected = REFERENCES[name](values.astype(np.float64))
    score = SCORES[name]
    for computed in (score(jnp.array(values)), jax.jit(score)(values), jax.vmap(score)(values)):
        assert computed.shape == (3, 4)
        assert computed.dtype == jnp.float32
        np.testing.assert_allclose(computed, expected, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(COMPILED[name](values[0, 0]), expected[0, 0], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", SCORES)
def test_scores_grow_with_unknownness(name):
    """A confident example scores below a doubtful one: larger = more unknown."""
    known, unknown = COMPILED[name](jnp.array([[0.9, -0.2, -0.3], [0.1, -0.1, -0.15]]))
    assert known < unknown


@pytest.mark.parametrize("name", SCORES)
def test_scores_do_not_depend_on_the_order_of_the_classes(name):
    values = random_cosines(1, 6, 4)
    both = COMPILED[name](jnp.array([values, values[:, [2, 0, 3, 1]]]))
    np.testing.assert_allclose(both[0], both[1], rtol=1e-6)


@pytest.mark.parametrize("name", SCORES)
def test_gradients_equal_finite_differences(name):
    values = random_cosines(2, 4).astype(np.float64) * 0.3
    gradient = jax.jit(jax.grad(SCORES[name]))(jnp.array(values, jnp.float32))
    step = 1e-6
    numeric = [
        (REFERENCES[name](values + step * row) - REFERENCES[name](values - step * row)) / (2 * step)
        for row in np.eye(4)
    ]
    np.testing.assert_allclose(gradient, numeric, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", SCORES)
def test_values_and_gradients_stay_finite_at_the_edges(name):
    rows = jnp.array([[1.0, -1.0, 1.0], [0.0, 0.0, 0.0], [1.0000002, -1.0, -1.0], [-1.0, -1.0, -1.0]])
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(SCORES[name])))(rows)
    assert jnp.isfinite(values).all()
    assert jnp.isfinite(gradients).all()


@pytest.mark.parametrize("name", SCORES)
def test_one_class_is_enough(name):
    np.testing.assert_allclose(
        COMPILED[name](jnp.array([[0.5]])), REFERENCES[name](np.array([[0.5]])), rtol=1e-5, atol=1e-7
    )


SOFTMAX = ["max_softmax", "log_max_softmax", "max_logit", "energy", "entropy", "log_entropy", "energy_warm"]


@pytest.mark.parametrize("name", SOFTMAX)
def test_large_logits_stay_finite(name):
    logits = jnp.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e38, -1e38, 0.0]])
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(SCORES[name])))(logits)
    assert jnp.isfinite(values).all()
    assert jnp.isfinite(gradients).all()


@pytest.mark.parametrize("name", SCORES)
def test_half_precision_is_raised_to_float32(name):
    values = random_cosines(3, 5, 4).astype(ml_dtypes.bfloat16)
    computed = COMPILED[name](jnp.array(values))
    assert computed.dtype == jnp.float32
    np.testing.assert_allclose(computed, REFERENCES[name](values.astype(np.float64)), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_m_ovr_score_is_the_loss_at_the_predicted_class(margin):
    cosines = jnp.array(random_cosines(4, 20, 6)) * 0.7
    loss = m_ovr_loss(cosines, jnp.argmax(cosines, -1), margin=margin, scale=16.0)
    score = scores.m_ovr_score(cosines, margin=margin, scale=16.0)
    np.testing.assert_allclose(score, loss, rtol=1e-5)


def confident_cosines(count):
    """Distinct examples with losses around 1e-12 at T = 32: own cosine near 0.86, others near -0.87."""
    generator = np.random.default_rng(5)
    own = generator.uniform(0.82, 0.90, (count, 1))
    others = generator.uniform(-0.90, -0.84, (count, 5))
    return np.concatenate([own, others], axis=1).astype(np.float32)


def test_m_ovr_score_ranks_losses_around_1e_12():
    cosines = confident_cosines(4000)
    expected = m_ovr_reference(cosines)
    score = np.asarray(COMPILED["m_ovr"](cosines))
    assert 1e-13 < np.median(expected) < 1e-11
    assert len(np.unique(score)) > 3990
    np.testing.assert_allclose(score, expected, rtol=1e-4)
    # The algebraically equal form loses all of them: this is why the split form is used.
    z = 32 * jnp.array(cosines)
    cancelled = jax.nn.softplus(z).sum(-1) - z.max(-1)
    assert len(np.unique(cancelled)) < 100


def test_log_m_ovr_score_keeps_the_ranking_where_the_loss_underflows():
    cosines = confident_cosines(500)
    scale = 150.0
    s = cosines.astype(np.float64) * scale
    s[:, 0] *= -1
    expected = np.log(np.exp(s).sum(-1))  # softplus(z) = e^z here, to 1e-50
    log_score = np.asarray(jax.jit(scores.log_m_ovr_score)(cosines, scale=scale))
    assert (jax.jit(scores.m_ovr_score)(cosines, scale=scale) == 0).all()
    np.testing.assert_allclose(log_score, expected, rtol=1e-6)
    assert len(np.unique(log_score)) > 495


def test_log_m_ovr_score_is_smooth_where_its_branches_meet():
    cosines = jnp.linspace(0.30, 0.33, 41)[:, None]  # z = -T s runs through -10 at T = 32
    log_score = COMPILED["log_m_ovr"](cosines)
    expected = np.log(np.logaddexp(0, -32.0 * np.asarray(cosines[:, 0], np.float64)))
    np.testing.assert_allclose(log_score, expected, rtol=1e-6)


@pytest.mark.parametrize("score", [scores.max_softmax_score, scores.entropy_score])
@pytest.mark.parametrize("margin", [20.0, 40.0, 80.0])
def test_softmax_scores_do_not_saturate(score, margin):
    """Margins of 20 and 40 tie the float32 probability, and the usual log-softmax, at 1 and 0."""
    margins = (margin + np.arange(50) / 50).astype(np.float32)
    logits = np.stack([margins, np.zeros(50, np.float32)], axis=-1)
    computed = np.asarray(jax.jit(score)(logits))
    assert len(np.unique(computed)) == 50
    assert (np.diff(computed) < 0).all()
    assert len(np.unique(jax.nn.log_softmax(jnp.array(logits)).max(-1))) == 1
    rest = np.exp(-margins.astype(np.float64))
    expected = rest if score is scores.max_softmax_score else rest * (margins + 1)
    np.testing.assert_allclose(computed, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["log_max_softmax", "log_entropy"])
def test_logarithms_of_softmax_scores_are_distinct_at_any_margin(name):
    """From a margin of 87 on the scores themselves are 0; the logarithms are -m, and log(1 + m) - m, of two classes."""
    margins = np.concatenate([np.linspace(-12, 12, 49), np.linspace(85, 110, 50), [1e3, 1e4, 1e30]]).astype(np.float32)
    logits = np.stack([margins, np.zeros_like(margins)], axis=-1)
    computed = np.asarray(COMPILED[name](logits))
    np.testing.assert_allclose(computed[:49], REFERENCES[name](logits[:49].astype(np.float64)), rtol=2e-6, atol=2e-6)
    m = margins[49:].astype(np.float64)
    np.testing.assert_allclose(computed[49:], (np.log1p(m) if name == "log_entropy" else 0) - m, rtol=2e-6)
    assert (np.diff(computed[49:]) < 0).all()
    tied = (SCORES[name.removeprefix("log_")](jnp.array(logits[-20:])) == 0).all()
    assert tied


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_of_what_is_no_number_is_none(name, bad):
    """NaN is above no threshold: as a number it would be the most certain example."""
    if bad == np.inf and name in ("max_logit", "cosine", "m_ovr", "m_ovr_margin", "log_m_ovr"):
        return  # infinite, and refused by the metrics
    assert np.isnan(COMPILED[name](jnp.array([[0.5, bad, 0.1], [bad, 0.2, 0.3]]))).all()


def test_excluded_classes_count_nothing():
    logits = jnp.array([1.0, -jnp.inf, 0.0])
    for name in ("max_softmax", "log_max_softmax", "max_logit", "energy", "entropy", "log_entropy"):
        np.testing.assert_allclose(COMPILED[name](logits), COMPILED[name](logits[jnp.array([0, 2])]))


def test_hyper_parameters_are_traced():
    cosines = jnp.array(random_cosines(6, 3, 4))
    traces = []

    @jax.jit
    def score(margin, scale):
        traces.append(None)
        return scores.m_ovr_score(cosines, margin=margin, scale=scale)

    for margin, scale in ((0.0, 32.0), (0.5, 8.0)):
        np.testing.assert_allclose(
            score(jnp.float32(margin), jnp.float32(scale)),
            m_ovr_reference(cosines, margin=margin, scale=scale),
            rtol=1e-4,
        )
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("score", "option", "words"),
    [
        (scores.m_ovr_score, {"margin": -0.1}, "margin=-0.1"),
        (scores.m_ovr_score, {"scale": 0.0}, "scale=0.0"),
        (scores.log_m_ovr_score, {"margin": 4.0}, "margin=4.0"),
        (scores.log_m_ovr_score, {"scale": -1.0}, "scale=-1.0"),
        (scores.energy_score, {"temperature": 0.0}, "temperature=0.0"),
    ],
)
def test_impossible_options_are_refused(score, option, words):
    with pytest.raises(ValueError, match=words):
        score(jnp.zeros((2, 3)), **option)
