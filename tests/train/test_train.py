"""The step against SGD written by hand, and what a step must keep: determinism, one trace, equal lanes."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osrjax import train
from osrjax.augment.views import make_crop_and_flip
from osrjax.devices import sharding
from osrjax.methods import make_classify_objective
from osrjax.methods.class_losses import CLASS_LOSSES
from osrjax.models.backbones import NETWORKS
from osrjax.models.networks import OpenSetNetwork
from osrjax.train.objective import Batch, ObjectiveAux

HYPER = {
    "learning_rate": 0.1,
    "final_learning_rate": 1e-3,
    "weight_decay": 1e-3,
    "margin": 0.3,
    "scale": 8.0,
    "intra_weight": 1.0,
    "inter_weight": 1.0,
    "rotation_weight": 0.1,
}


def traced(hyper):
    return {name: jnp.float32(value) for name, value in hyper.items()}


@pytest.fixture(scope="module")
def setup():
    network = OpenSetNetwork(NETWORKS["small_cnn"](width=2, features=8), 3)
    objective = make_classify_objective(
        network, CLASS_LOSSES["m_ovr"], make_crop_and_flip(crop_padding=1), rotations="one"
    )
    optimizer = train.make_sgd(total_steps=30)
    step = train.make_train_step(objective, optimizer)
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, 64)
    images = rng.integers(0, 60, (64, 8, 8, 1))
    for i, label in enumerate(labels):  # each class has a bright band of its own
        images[i, 3 * label : 3 * label + 2] += 180
    batch = Batch(jnp.asarray(images, jnp.uint8), jnp.asarray(labels, jnp.int32))
    fresh = jax.jit(lambda key: train.init_state(key, network, optimizer, HYPER, image_shape=(8, 8, 1)))
    return network, step, batch, fresh


@pytest.mark.parametrize("rising", [0, 2])
def test_sgd_equals_a_float64_loop(rising):
    """Momentum (Nesterov's, after a warm-up), L2 decay on kernels alone, the cosine schedule, for a quadratic loss."""
    target = {"kernel": np.array([1.0, -2.0]), "bias": np.array([0.5])}

    def objective(params, stats, batch, key, hyper):
        del batch, key, hyper
        loss = sum(0.5 * jnp.sum((params["layer"][n] - target[n].astype(np.float32)) ** 2) for n in target)
        return loss, ObjectiveAux(stats, {})

    optimizer = train.make_sgd(total_steps=5 + rising, momentum=0.8, nesterov=rising > 0, warmup=rising / (5 + rising))
    hyper = traced({"learning_rate": 0.3, "final_learning_rate": 0.03, "weight_decay": 0.1})
    params = {"layer": {"kernel": jnp.array([3.0, 4.0]), "bias": jnp.array([-1.0])}}
    state = train.TrainState(jnp.zeros((), jnp.int32), params, {}, optimizer(hyper).init(params))
    step = jax.jit(train.make_train_step(objective, optimizer))
    empty = Batch(jnp.zeros((0, 1, 1, 1), jnp.uint8), jnp.zeros(0, jnp.int32))
    weights = {"kernel": np.array([3.0, 4.0]), "bias": np.array([-1.0])}
    velocity = {name: np.zeros_like(value) for name, value in weights.items()}
    for t in range(-rising, 7):  # two steps beyond the schedule's end, where the rate stays at its last value
        rate = 0.03 + (0.3 - 0.03) * 0.5 * (1 + math.cos(math.pi * min(t, 5) / 5))
        rate = 0.3 * (t + rising) / rising if t < 0 else rate
        state, metrics = step(state, empty, jax.random.key(0), hyper)
        norm = math.sqrt(sum(np.sum((weights[n] - target[n]) ** 2) for n in weights))
        np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
        for name in weights:
            gradient = weights[name] - target[name] + (0.1 * weights[name] if name == "kernel" else 0.0)
            velocity[name] = 0.8 * velocity[name] + gradient
            ahead = gradient + 0.8 * velocity[name] if rising else velocity[name]
            weights[name] = weights[name] - rate * ahead
            np.testing.assert_allclose(state.params["layer"][name], weights[name], rtol=2e-5)
    assert int(state.step) == 7 + rising


def test_adam_equals_a_float64_loop():
    """Bias correction and the cosine schedule beyond its end, no decay; the schedule's length is traced too."""
    optimizer = train.make_adam()
    hyper = traced({"learning_rate": 0.3, "final_learning_rate": 0.3 * 0.512, "schedule_steps": 4.0})
    params = {"kernel": jnp.array([3.0, -4.0]), "bias": jnp.array([0.5])}
    slopes = {"kernel": np.array([[1.0, -2.0], [0.5, 0.0], [-3.0, 1e-3]]), "bias": np.array([[0.0], [2.0], [-2.0]])}

    @jax.jit
    @chex.assert_max_traces(n=1)
    def update(params, moments, gradients, hyper):
        updates, moments = optimizer(hyper).update(gradients, moments, params)
        return jax.tree.map(jnp.add, params, updates), moments

    moments = optimizer(hyper).init(params)
    weights = {name: np.array(value, np.float64) for name, value in params.items()}
    first, second = ({name: np.zeros_like(value) for name, value in weights.items()} for _ in range(2))
    for t in range(7):
        final = 0.3 * 0.512 if t < 5 else 0.1
        hyper = hyper | {"final_learning_rate": jnp.float32(final)}
        rate = final + (0.3 - final) * 0.5 * (1 + math.cos(math.pi * min(t, 4) / 4))
        gradients = {name: rows[t % 3] for name, rows in slopes.items()}
        params, moments = update(params, moments, jax.tree.map(jnp.float32, gradients), hyper)
        for name, slope in gradients.items():
            first[name] = 0.9 * first[name] + 0.1 * slope
            second[name] = 0.999 * second[name] + 0.001 * slope**2
            mean, square = first[name] / (1 - 0.9 ** (t + 1)), second[name] / (1 - 0.999 ** (t + 1))
            weights[name] = weights[name] - rate * mean / (np.sqrt(square) + 1e-8)
            np.testing.assert_allclose(params[name], weights[name], rtol=3e-5)


def test_loss_falls_in_one_trace_whatever_the_hyper_parameters(setup):
    _, step, batch, fresh = setup
    jitted = jax.jit(chex.assert_max_traces(step, n=1))
    state, losses = fresh(jax.random.key(0)), []
    for i in range(30):
        hyper = traced({**HYPER, "margin": 0.3 + 0.001 * i, "weight_decay": 1e-3 + 1e-5 * i})
        state, metrics = jitted(state, batch, jax.random.key(1), hyper)
        losses.append(float(metrics["class_loss"]))
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:3])
    assert {"loss", "rotation_loss", "accuracy", "grad_norm", "update_norm", "param_norm"} <= metrics.keys()


def test_same_key_same_bits_and_vmapped_lanes_equal_single_runs(setup):
    _, step, batch, fresh = setup
    jitted = jax.jit(step)

    def run(seed, margin):
        state = fresh(jax.random.key(seed))
        for _ in range(3):
            state, metrics = jitted(state, batch, jax.random.key(seed + 7), traced({**HYPER, "margin": margin}))
        return state, metrics

    first, again, other = run(0, 0.3), run(0, 0.3), run(1, 0.1)
    chex.assert_trees_all_equal(first, again)
    seeds, margins = jnp.array([0, 1]), jnp.array([0.3, 0.1])
    lanes = jax.vmap(lambda seed: fresh(jax.random.key(seed)))(seeds)
    lane_step = jax.jit(
        jax.vmap(lambda s, seed, m: step(s, batch, jax.random.key(seed + 7), {**traced(HYPER), "margin": m}))
    )
    for _ in range(3):
        lanes, lane_metrics = lane_step(lanes, seeds, margins)
    for lane, single in enumerate((first, other)):
        chex.assert_trees_all_close(
            jax.tree.map(lambda x, lane=lane: x[lane], (lanes, lane_metrics)), single, rtol=2e-4, atol=2e-5
        )


def test_four_devices_equal_one_device(setup):
    _, step, batch, fresh = setup

    def run(devices):
        mesh = sharding.data_mesh(devices)

        def sharded(state, batch):
            batch = jax.lax.with_sharding_constraint(batch, sharding.batch_sharding(mesh))
            return step(state, batch, jax.random.key(3), traced(HYPER))

        state, placed = jax.device_put((fresh(jax.random.key(0)), batch), sharding.replicated(mesh))
        jitted = jax.jit(sharded)
        for _ in range(2):
            state, metrics = jitted(state, placed)
        return jax.device_get((state, metrics))

    chex.assert_trees_all_close(run(4), run(1), rtol=2e-4, atol=2e-5)


def test_evaluate_pads_the_last_batch_and_drops_the_padding():
    def forward(images):
        logits = images.reshape(images.shape[0], -1)
        return type("O", (), {"logits": logits, "embedding": 2 * logits})

    images = np.arange(7 * 4, dtype=np.uint8).reshape(7, 2, 2, 1)
    for batch_size in (1, 3, 7, 50):
        found = train.evaluate(forward, images, batch_size=batch_size)
        wanted = images.reshape(7, 4).astype(np.float64) / 127.5 - 1
        np.testing.assert_allclose(found.logits, wanted, atol=1e-6)
        np.testing.assert_allclose(found.embedding, 2 * wanted, atol=1e-6)


def test_estimated_statistics_describe_the_images(setup):
    network, _, batch, fresh = setup
    images = np.asarray(batch.images)
    state = train.estimate_statistics(fresh(jax.random.key(0)), network, images, batch_size=64, batches=80)
    kernel = np.asarray(state.params["backbone"]["Conv_0"]["kernel"], np.float64)
    x = np.pad(images / 127.5 - 1.0, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = [  # the first convolution, stride 2, as a sum over its nine taps
        np.einsum("bhwc,cf->bhwf", x[:, dy : dy + 8 : 2, dx : dx + 8 : 2], kernel[dy, dx])
        for dy in range(3)
        for dx in range(3)
    ]
    out = sum(rows)
    stats = state.stats["backbone"]["BatchNorm_0"]
    np.testing.assert_allclose(stats["mean"], out.mean((0, 1, 2)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(stats["var"], out.var((0, 1, 2)), rtol=2e-3, atol=1e-4)


def test_decay_touches_kernels_and_prototypes_only(setup):
    *_, fresh = setup
    marked = train.decayed_parameters(fresh(jax.random.key(0)).params)
    for path, decays in jax.tree.leaves_with_path(marked):
        assert decays == (path[-1].key in {"kernel", "prototypes"}), path
    assert marked["prototypes"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: train.make_sgd(total_steps=0), "total_steps=0"),
        (lambda: train.make_sgd(total_steps=1, momentum=1.0), "momentum=1.0"),
        (lambda: train.make_sgd(total_steps=1, warmup=1.0), "warmup=1.0"),
        (lambda: train.evaluate(print, np.zeros((0, 2, 2, 1), np.uint8), batch_size=1), "at least one image"),
        (lambda: train.evaluate(print, np.zeros((1, 2, 2, 1), np.uint8), batch_size=0), "batch_size=0"),
        (lambda: sharding.data_mesh(9), "devices=9"),
        (lambda: sharding.check_batch_size(6, sharding.data_mesh(4)), "use 4 or 8"),
        (lambda: sharding.check_batch_size(0, sharding.data_mesh(4)), "batch_size=0"),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
