"""Norms as detectors: scores against a Jacobian in float64, AUROC against scikit-learn, costs against the compiler."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from osrjax.analysis import NORM_DETECTORS, image_norms, norm_detector_aurocs
from osrjax.models.backbones import NETWORKS
from osrjax.models.networks import OpenSetNetwork
from osrjax.scores import jacobian_estimate_score

IMAGES = 14


def tanh(weights, images):
    return jnp.tanh(jnp.matmul(images.reshape(len(images), 12), weights, precision="highest"))


@pytest.fixture
def weights(rng):
    return rng.normal(size=(12, 5)) / 4


@pytest.fixture
def images(rng):
    """Dark ones, and brighter ones, whose norms are smaller."""
    size = np.repeat([0.5, 1.0], IMAGES // 2)
    return (size[:, None, None, None] * rng.normal(size=(IMAGES, 2, 2, 3))).astype(np.float32)


def exact(images, weights):
    slopes = 1 - np.tanh(images.reshape(-1, 12).astype(np.float64) @ weights) ** 2
    return np.sqrt((slopes**2 * (weights**2).sum(axis=0)).sum(axis=1))


def test_norms_are_exact_and_estimates_the_images_own_and_unbiased(images, weights):
    whole, costs = image_norms(tanh, jnp.asarray(weights, jnp.float32), images, draws=200)
    norms = exact(images, weights)
    np.testing.assert_allclose(whole["norm"], norms, rtol=1e-5)
    for n in (1, 2, 8):
        squares = whole[f"estimate_{n}"].astype(np.float64) ** 2
        assert squares.shape == (200, IMAGES)
        z = (squares.mean(axis=0) - norms**2) / (squares.std(axis=0, ddof=1) / np.sqrt(200))
        assert np.abs(z).max() < 4
        assert np.unique(squares, axis=0).shape == squares.shape
    assert [cost.passes for cost in costs.values()] == [1, 2, 3, 9, 6]
    assert all(0 < cost.seconds < 1 for cost in costs.values())
    parts, _ = image_norms(tanh, jnp.asarray(weights, jnp.float32), images, draws=2, batch_size=3)
    again, _ = image_norms(tanh, jnp.asarray(weights, jnp.float32), images, draws=2)
    for name, values in parts.items():
        np.testing.assert_allclose(values, again[name], rtol=1e-5)
    other, _ = image_norms(tanh, jnp.asarray(weights, jnp.float32), images, draws=2, seed=1)
    assert not np.isclose(other["estimate_8"], again["estimate_8"]).all()


def halves(arrays):
    return [{name: np.split(values, 2, axis=-1)[k] for name, values in arrays.items()} for k in (1, 0)]


def test_many_projections_detect_as_the_exact_norm(images, weights):
    found, _ = image_norms(tanh, jnp.asarray(weights, jnp.float32), images, draws=400)
    found |= dict.fromkeys(("own", "distance"), np.ones(IMAGES))
    means = [norm_detector_aurocs(*halves(found))[f"norm of {n}"].mean() for n in ("1 projection", "2 projections")]
    many = found | {"estimate_8": np.sqrt((found["estimate_8"] ** 2).mean(axis=0))}  # 3200 projections
    aurocs = {name: values.mean() for name, values in norm_detector_aurocs(*halves(many)).items()}
    assert aurocs["norm of 8 projections"] == pytest.approx(aurocs["exact norm"], abs=0.021)  # one pair of the 49
    assert 0.5 < means[0] < means[1] < aurocs["exact norm"]


def test_detectors_are_those_of_scikit_learn(rng):
    made = {name: rng.gamma(2, size=IMAGES) for name in ("own", "distance", "norm")}
    made |= {f"estimate_{n}": rng.gamma(2, size=(3, IMAGES)) for n in (1, 2, 8)}
    found = norm_detector_aurocs(*halves(made))
    assert found.keys() == NORM_DETECTORS.keys()
    role = np.repeat([1, 0], IMAGES // 2)
    for name, values in {
        "own score": made["own"],
        "distance": made["distance"],
        "exact norm": made["norm"],
        "exact norm x distance": made["norm"] * made["distance"],
    }.items():
        assert found[name].tolist() == pytest.approx([roc_auc_score(role, values)])
    for name, draws in {
        "norm of 1 projection": made["estimate_1"],
        "norm of 2 projections": made["estimate_2"],
        "norm of 8 projections": made["estimate_8"],
        "norm of 8 projections x distance": made["estimate_8"] * made["distance"],
    }.items():
        assert found[name].tolist() == pytest.approx([roc_auc_score(role, values) for values in draws])


def test_a_norm_that_is_no_number_is_refused(images):
    with pytest.raises(ValueError, match="non-finite"):
        image_norms(tanh, jnp.full((12, 5), jnp.nan), images)


def test_a_cotangent_pass_has_the_operations_of_a_forward_pass():
    network = OpenSetNetwork(NETWORKS["small_cnn"](), 6)
    images = jnp.zeros((4, 8, 8, 1))
    variables = jax.jit(lambda: network.init(jax.random.key(0), images, train=False))()

    def embedding(variables, images):
        return network.apply(variables, images, train=False).embedding

    def operations(function, *arguments):
        return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]

    forward = operations(embedding, variables, images)
    for n in (1, 8):
        estimate = partial(jacobian_estimate_score, embedding, projections=n)
        assert operations(estimate, jax.random.key(0), variables, images) / forward == pytest.approx(1 + n, rel=0.05)
