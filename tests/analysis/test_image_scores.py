"""Scores of images under a method against their formulas in float64, for functions whose Jacobians are known."""

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import plain_module
from scipy.special import log_softmax

from osrjax.analysis import IMAGE_SCORES, Limits, image_scores, score_image_parts
from osrjax.evaluation import ScoredImages
from osrjax.methods import Task, make_method

SCALE = 8.0
COUNTS = {"validation": 5, "known": 7, "unknown": 4}


@pytest.fixture
def weights(rng):
    return rng.normal(size=(12, 3)) / 4


@pytest.fixture
def method(weights):
    """A method with a cosine head whose functions are tanh(x W): logits, and the vector that is compared."""
    made = make_method({"method": "cosine_softmax", "scale": SCALE}, Task(3, (2, 2, 3), 1))

    def outputs(variables, images):
        return jnp.tanh(jnp.matmul(images.reshape(len(images), 12), variables["weights"], precision="highest"))

    return made._replace(functions={"logits": outputs, "embedding": outputs})


@pytest.fixture
def images(rng):
    return {part: rng.integers(0, 256, (n, 2, 2, 3)).astype(np.uint8) for part, n in COUNTS.items()}


@pytest.fixture
def like(rng):
    values = [np.zeros(n) for n in COUNTS.values()]
    return ScoredImages(*values, *(rng.integers(0, 3, n) for n in COUNTS.values()))


def odin(x, weights, temperature=1000.0, step=0.0028):
    """The paper's equations 1 and 2, of logits 8 tanh(x W)."""

    def log_p(x):
        return log_softmax(SCALE * np.tanh(x @ weights) / temperature, axis=1)

    logits = np.tanh(x @ weights)
    largest, slopes = logits.argmax(1), (1 - logits**2)[:, None] * weights[None]  # image, input, class
    of_logits = np.eye(3)[largest] - np.exp(log_p(x))
    gradient = SCALE / temperature * (slopes * of_logits[:, None]).sum(2)
    moved = x - step * np.sign(-gradient)
    return -temperature * (np.log(3) + log_p(moved).max(1))


def test_scores_of_images_equal_their_formulas(method, images, like, weights):
    limits = Limits(batch_size=3)
    found = score_image_parts(method, {"weights": jnp.asarray(weights, jnp.float32)}, images, like, limits=limits)
    assert set(found) == set(IMAGE_SCORES)
    for part, pixels in images.items():
        x = pixels.reshape(len(pixels), 12) / 127.5 - 1
        slopes = (1 - np.tanh(x @ weights) ** 2)[:, None] * weights[None]
        norms = np.linalg.norm(slopes.reshape(len(x), -1), axis=1)
        np.testing.assert_allclose(getattr(found["jacobian_norm"], part), norms, rtol=1e-5)
        np.testing.assert_allclose(getattr(found["odin"], part), odin(x, weights), rtol=2e-4)
        estimates = getattr(found["jacobian_estimate"], part)
        assert (abs(estimates / norms - 1) < 0.9).all()
        for scored in found.values():
            np.testing.assert_array_equal(getattr(scored, f"{part}_predictions"), getattr(like, f"{part}_predictions"))


def test_an_estimate_is_the_images_own_and_unbiased(method, images, weights):
    variables = {"weights": jnp.asarray(weights, jnp.float32)}
    same = dict.fromkeys(COUNTS, np.repeat(images["known"][:1], 200, axis=0))
    like = ScoredImages(*[np.zeros(200)] * 3, *[np.zeros(200, int)] * 3)
    whole, parts = (
        score_image_parts(method, variables, same, like, names=("jacobian_estimate",), limits=Limits(batch_size=size))
        for size in (600, 37)
    )
    of_all = np.concatenate(whole["jacobian_estimate"][:3])
    np.testing.assert_allclose(of_all, np.concatenate(parts["jacobian_estimate"][:3]), rtol=1e-5)
    x = same["known"][:1].reshape(1, 12) / 127.5 - 1
    squared = np.sum(((1 - np.tanh(x @ weights) ** 2) * weights) ** 2)
    errors = of_all**2 - squared
    assert abs(errors.mean()) < 4 * errors.std() / np.sqrt(600)


def test_what_cannot_be_scored_is_refused_before_any_work(method, images, like):
    plain = plain_module(image_scores)
    none = method._replace(functions={"embedding": None})
    other = images | {"known": images["known"][1:]}
    broken = method._replace(functions=dict.fromkeys(("logits", "embedding"), lambda w, x: x.reshape(len(x), 12) * w))
    for call, words in (
        (lambda: plain.score_image_parts(method, None, images, like, names=("knn",)), "image_scores='knn' does not"),
        (lambda: plain.score_image_parts(none, None, images, like, names=("odin",)), "'odin' needs logits, which"),
        (lambda: plain.score_image_parts(method, None, other, like), r"are \[5, 6, 4\], the scored ones \[5, 7, 4\]"),
        (lambda: plain.score_image_parts(broken, np.nan, images, like, names=("odin",)), "non-finite odin of 16 of 16"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
