"""Objectives against a forward pass and losses put together by hand."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osrjax import methods as objectives
from osrjax.augment import views
from osrjax.methods import class_losses
from osrjax.models.backbones import NETWORKS
from osrjax.models.networks import HeadName, OpenSetNetwork
from osrjax.train.objective import Batch

HYPER = {"margin": 0.4, "scale": 6.0, "intra_weight": 0.7, "inter_weight": 1.3, "rotation_weight": 0.25}
HYPER |= {"anchor": 3.0, "anchor_weight": 0.2, "temperature": 0.5, "radius_weight": 0.3, "slack": 0.8}


def log1pexp(z):
    return np.logaddexp(0.0, z)


def reference_loss(name, outputs, params, labels):
    """Mean class loss in float64 from the network's logits (cosines for the cosine heads) or raw embedding."""
    z = np.asarray(outputs.logits, np.float64)
    target = np.eye(z.shape[1], dtype=bool)[labels]
    if name == "cac":
        d = np.linalg.norm(z[:, None] - 3.0 * np.eye(z.shape[1]), axis=-1)
        return np.mean(np.log(np.exp(d[target][:, None] - d).sum(1)) + 0.2 * d[target])
    if name in {"rpl", "arpl"}:
        points, radii = (np.asarray(params[what], np.float64) for what in ("reciprocal_points", "radii"))
        h = np.asarray(outputs.raw_embedding, np.float64)
        squares = np.mean((h[:, None] - points) ** 2, axis=-1)
        d = (squares if name == "rpl" else squares - h @ points.T) / 0.5
        excess = (squares - radii)[target]
        bound = excess**2 if name == "rpl" else np.maximum(excess + 0.8, 0)
        return np.mean(np.log(np.exp(d).sum(1)) - d[target] + 0.3 * bound)
    if name in {"softmax", "cosine_softmax"}:
        z = z * (6.0 if name == "cosine_softmax" else 1.0)
        return np.mean(np.log(np.exp(z).sum(1)) - z[target])
    if name != "doc":
        shifted = np.cos(np.arccos(np.clip(z, -1, 1)) + 0.4)
        s = {"m_ovr": shifted, "ovr": z, "m_ovr_target": np.where(target, shifted, z)}[name]
        z = 6.0 * s
    return np.mean(np.sum(np.where(target, 0.7 * log1pexp(-z), 1.3 * log1pexp(z)), axis=1))


def still(key, images):
    """No augmentation."""
    del key
    return images.astype(jnp.float32) / 127.5 - 1.0


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (6, 8, 8, 1)).astype(np.uint8)
    return Batch(jnp.asarray(images), jnp.asarray(rng.integers(0, 3, 6), jnp.int32))


@pytest.fixture(scope="module")
def networks():
    return {head: OpenSetNetwork(NETWORKS["small_cnn"](width=2, features=8), 3, head) for head in get_args(HeadName)}


@pytest.fixture(scope="module")
def variables(networks):
    return {
        head: jax.jit(lambda network=network: network.init(jax.random.key(4), jnp.zeros((1, 8, 8, 1)), train=False))()
        for head, network in networks.items()
    }


@pytest.mark.parametrize("name", list(class_losses.CLASS_LOSSES))
def test_class_losses(name, networks, variables, batch):
    loss = class_losses.CLASS_LOSSES[name]
    network, v = networks[loss.head], variables[loss.head]
    objective = jax.jit(objectives.make_classify_objective(network, loss, still))
    value, aux = objective(v["params"], v["batch_stats"], batch, jax.random.key(0), HYPER)
    outputs, _ = network.apply(v, still(None, batch.images), train=True, mutable="batch_stats")
    np.testing.assert_allclose(value, reference_loss(name, outputs, v["params"], np.asarray(batch.labels)), rtol=1e-4)
    accuracy = np.mean(np.argmax(outputs.logits, 1) == np.asarray(batch.labels))
    np.testing.assert_allclose(aux.metrics["accuracy"], accuracy)
    # No hyper-parameter is read that the table does not name.
    objective(v["params"], v["batch_stats"], batch, jax.random.key(0), {n: HYPER[n] for n in loss.hyper})


def test_all_rotations_are_added_and_leave_the_statistics_alone(networks, variables, batch):
    network, v = networks["cosine"], variables["cosine"]
    loss = class_losses.CLASS_LOSSES["m_ovr"]
    results = {
        kind: jax.jit(objectives.make_classify_objective(network, loss, still, rotations=kind))(
            v["params"], v["batch_stats"], batch, jax.random.key(0), HYPER
        )
        for kind in ("none", "one", "all")
    }
    upright = np.asarray(still(None, batch.images))
    rotated = np.concatenate([np.rot90(upright, k, (1, 2)) for k in (1, 2, 3)])
    logits = [
        np.asarray(network.apply(v, jnp.asarray(x), train=True, mutable="batch_stats")[0].rotation_logits, np.float64)
        for x in (upright, rotated)
    ]
    logits = np.concatenate(logits)
    turns = np.repeat(np.arange(4), 6)
    wanted = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(24), turns])
    plain, plain_aux = results["none"]
    for kind in ("one", "all"):
        value, aux = results[kind]
        np.testing.assert_allclose(value, plain + 0.25 * aux.metrics["rotation_loss"], rtol=1e-5)
        for a, b in zip(jax.tree.leaves(aux.stats), jax.tree.leaves(plain_aux.stats), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(results["all"][1].metrics["rotation_loss"], wanted, rtol=1e-4)


def test_crop_and_flip_can_each_be_turned_off(batch):
    off = views.make_crop_and_flip(crop_padding=0, flip=False)
    np.testing.assert_allclose(off(jax.random.key(0), batch.images), still(None, batch.images), atol=1e-6)
    flipped = views.make_crop_and_flip(crop_padding=0, flip=True)(jax.random.key(1), batch.images)
    upright = np.asarray(still(None, batch.images))
    for found, image in zip(np.asarray(flipped), upright, strict=True):
        assert np.allclose(found, image, atol=1e-6) or np.allclose(found, image[:, ::-1], atol=1e-6)
    assert views.make_crop_and_flip(crop_padding=2)(jax.random.key(2), batch.images).shape == batch.images.shape


def test_contrastive_augmentation_in_order(batch, monkeypatch):
    """The policy, jitter, crop, flip and grayscale, each with a key of its own."""
    calls = []
    names = ("color_jitter", "random_resized_crop", "random_flip", "random_grayscale")

    def recorded(name):
        def step(key, images, **options):
            calls.append((name, jax.random.key_data(key).tolist(), options))
            return images

        return step

    for name in names:
        monkeypatch.setattr(views.augment, name, recorded(name))
    colours = jnp.tile(batch.images, (1, 1, 1, 3))
    make_views = views.make_contrastive_augmentation(policy=recorded("policy"))
    np.testing.assert_allclose(make_views(jax.random.key(0), colours), still(None, colours), atol=1e-6)
    assert [name for name, _, _ in calls] == ["policy", *names]
    assert len({tuple(key) for _, key, _ in calls}) == 5
    _, jitter, crop, flip, gray = (options for _, _, options in calls)
    assert jitter == {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    assert (crop, flip, gray) == ({"scale": (0.2, 1.0)}, {}, {"probability": 0.2})

    calls.clear()
    views.make_contrastive_augmentation(crop_scale=(0.5, 0.9), jitter=0.5, gray=0.7)(jax.random.key(0), colours)
    assert [options for _, _, options in calls] == [
        {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.05}, {"scale": (0.5, 0.9)}, {},
        {"probability": 0.7}]  # fmt: skip
    calls.clear()
    views.make_contrastive_augmentation()(jax.random.key(0), batch.images)
    assert [name for name, _, _ in calls] == list(names[:3])  # one channel has no colour to drop
    calls.clear()
    off = views.make_contrastive_augmentation(crop_scale=None, flip=False, jitter=0.0, gray=0.0)
    np.testing.assert_allclose(off(jax.random.key(0), colours), still(None, colours), atol=1e-6)
    assert not calls


def test_contrastive_augmentation_gives_views():
    images = jnp.asarray(np.random.default_rng(1).integers(0, 256, (4, 6, 5, 3)), jnp.uint8)
    drawn = jax.jit(views.make_contrastive_augmentation(gray=1.0))
    first, again, second = (drawn(jax.random.key(seed), images) for seed in (0, 0, 1))
    assert first.shape == images.shape
    assert first.dtype == jnp.float32
    assert float(jnp.abs(first).max()) <= 1
    np.testing.assert_allclose(first, jnp.repeat(first[..., :1], 3, axis=-1), atol=1e-6)
    np.testing.assert_array_equal(first, again)
    assert float(jnp.abs(first - second).mean()) > 0.05


def test_wrong_input_is_refused(networks):
    with pytest.raises(ValueError, match="head"):
        objectives.make_classify_objective(networks["linear"], class_losses.CLASS_LOSSES["m_ovr"], still)
    with pytest.raises(ValueError, match="crop_padding=-1"):
        views.make_crop_and_flip(crop_padding=-1)
    for jitter in (-0.1, 5.1):
        with pytest.raises(ValueError, match=f"jitter={jitter}"):
            views.make_contrastive_augmentation(jitter=jitter)
