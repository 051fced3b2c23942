"""Lanes of one program against single runs, one after another."""

import contextlib
import functools
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from osrjax.augment.views import make_crop_and_flip
from osrjax.data import Examples, batch_indices, choose_data
from osrjax.devices import sharding
from osrjax.methods import make_classify_objective
from osrjax.methods.class_losses import CLASS_LOSSES
from osrjax.methods.gradmix import make_contrastive_objective
from osrjax.methods.masks import Attribution, GradMix
from osrjax.models.backbones import SmallCNN
from osrjax.models.networks import ContrastiveNetwork, OpenSetNetwork
from osrjax.train import sweep
from osrjax.train.layout import Layout, choose_layout, lane_mesh, over_lanes, pad_lanes
from osrjax.train.objective import Batch
from osrjax.train.optimizers import make_adam, make_sgd
from osrjax.train.step import init_state, make_train_step

SHAPE, CLASSES, BATCH = (8, 8, 1), 3, 8
BASE = {
    "learning_rate": 0.002,
    "final_learning_rate": 1e-4,
    "weight_decay": 1e-3,
    "margin": 0.5,
    "scale": 8.0,
    "intra_weight": 1.0,
    "inter_weight": 1.0,
    "rotation_weight": 0.1,
}
CHANGES = {
    "learning_rate": 0.001,  # smaller than the base: ten large steps make more than 1e-6 of the last bit on some CPUs
    "final_learning_rate": 1e-3,
    "weight_decay": 0.1,
    "margin": 0.1,
    "scale": 4.0,
    "intra_weight": 0.3,
    "inter_weight": 0.2,
    "rotation_weight": 1.0,
}
HYPERS = [BASE] + [{**BASE, name: value} for name, value in CHANGES.items()]  # a lane for every hyper-parameter
LAYOUTS = [Layout("vmap", "patches"), Layout("vmap", "native"), Layout("loop", "native"), Layout("vmap", "patches", 4)]


class Training(NamedTuple):
    """What is trained; equal ones are one, so that tests share what they compile."""

    objective: Callable
    optimizer: optax.GradientTransformation
    model: nn.Module
    options: tuple = ()  # of the compiler


def network(dtype=jnp.float32):
    return OpenSetNetwork(SmallCNN(width=2, features=6, dtype=dtype), CLASSES)


def objective_of(model, **options):
    return make_classify_objective(model, CLASS_LOSSES["m_ovr"], make_crop_and_flip(crop_padding=1), **options)


@functools.cache
def small():
    """Most tests' training: every term, ten steps."""
    model = network()
    return Training(objective_of(model, rotations="one"), make_sgd(total_steps=10), model)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (40, *SHAPE), dtype=np.uint8)


def inputs_of(lanes, steps, seed=1):
    """Rows and labels of every step and lane."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 40, (steps, lanes, BATCH)).astype(np.int32)
    return [sweep.LaneInputs(jnp.asarray(step), jnp.asarray(step % CLASSES)) for step in rows]


def keys_of(lanes):
    return jnp.stack([jax.random.key(lane) for lane in range(lanes)])


@functools.cache
def single_programs(training, shape):
    """Step and initial state of a single run."""
    step = make_train_step(training.objective, training.optimizer)
    init = lambda key, hyper: init_state(key, training.model, training.optimizer, hyper, image_shape=shape)  # noqa: E731
    return jax.jit(step, compiler_options=dict(training.options)), jax.jit(init)


def single_runs(training, hypers, images, inputs, cast=lambda tree: tree):
    """What the lanes are held against: a plain jitted step, lane after lane."""
    step, init = single_programs(training, images.shape[1:])
    images, found = jnp.asarray(images), []
    for lane, hyper in enumerate(hypers):
        hyper = {name: jnp.asarray(value) for name, value in hyper.items()}
        state = cast(init(jax.random.key(lane), hyper))
        for rows, labels in inputs:
            batch = Batch(images[rows[lane]], labels[lane])
            state, metrics = step(state, batch, jax.random.key(100 + lane), hyper)
        found.append((state, metrics))
    return found


@functools.cache
def lane_step(training, layout, mesh):
    """The same step for all lanes, traced once, whoever calls it."""
    step = sweep.make_sweep_step(training.objective, training.optimizer, layout=layout, mesh=mesh)
    chex.clear_trace_counter()  # it takes all of these steps for one
    traced_once = chex.assert_max_traces(step, n=1)
    return jax.jit(traced_once, donate_argnums=0, compiler_options=dict(training.options))


@functools.cache
def lane_init(training, shape):
    """The same initial states in any layout."""
    return jax.jit(
        lambda keys, hyper: sweep.init_lanes(keys, training.model, training.optimizer, hyper, image_shape=shape)
    )


def run_lanes(training, hypers, images, inputs, *, layout, mesh=None, cast=lambda tree: tree):
    """The same with one compiled call a step for all lanes."""
    lanes, hyper = len(hypers), sweep.stack_hyper(hypers)
    train_keys = jnp.stack([jax.random.key(100 + lane) for lane in range(lanes)])
    step = lane_step(training, layout, mesh)
    state = cast(lane_init(training, images.shape[1:])(keys_of(lanes), hyper))
    shared = jnp.asarray(images)
    if mesh is not None:
        shared = jax.device_put(shared, sharding.replicated(mesh))
        members = sharding.lane_sharding(mesh)
        state, train_keys, hyper, inputs = jax.device_put((state, train_keys, hyper, inputs), members)
    with jax.set_mesh(mesh) if mesh is not None else contextlib.nullcontext():
        for step_inputs in inputs:
            state, metrics = step(state, shared, step_inputs, train_keys, hyper)
    return state, metrics


def assert_lanes_equal(state, metrics, singles, *, tolerance):
    """Parameters and statistics up to the tolerance; metrics, gradient norms among them, to twenty times that."""
    for lane, (single, single_metrics) in enumerate(singles):
        found = jax.tree.leaves_with_path((state.states.params, state.states.stats))
        for (path, values), expected in zip(found, jax.tree.leaves((single.params, single.stats)), strict=True):
            where = f"lane {lane} {jax.tree_util.keystr(path)}"
            np.testing.assert_allclose(values[lane], expected, rtol=tolerance, atol=tolerance, err_msg=where)
        for name, value in single_metrics.items():
            np.testing.assert_allclose(metrics[name][lane], value, rtol=20 * tolerance, err_msg=f"lane {lane} {name}")


@pytest.fixture(scope="module")
def singles(images):
    with jax.default_matmul_precision("highest"):
        return single_runs(small(), HYPERS, images, inputs_of(9, 10))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_lane_for_every_hyper_parameter_equals_its_single_run_after_ten_steps(images, singles, layout):
    state, metrics = run_lanes(small(), HYPERS, images, inputs_of(9, 10), layout=layout)
    assert_lanes_equal(state, metrics, singles, tolerance=1e-6)
    assert not np.asarray(state.diverged).any()
    # Every hyper-parameter matters: no lane ends where the first one does (whose key differs too, hence the norm).
    ends = [np.asarray(values) for values in (metrics["grad_norm"], metrics["update_norm"])]
    assert len(np.unique(ends[0].round(6))) == 9 or len(np.unique(ends[1].round(6))) == 9


@pytest.mark.parametrize("name", ["cac", "rpl", "arpl"])
def test_lanes_of_losses_with_anchors_and_reciprocal_points_equal_single_runs(images, name):
    loss = CLASS_LOSSES[name]
    model = OpenSetNetwork(SmallCNN(width=2, features=6), CLASSES, loss.head)
    training = Training(
        make_classify_objective(model, loss, make_crop_and_flip(crop_padding=1)), make_sgd(total_steps=3), model
    )
    hypers = [{**BASE, **loss.own}, {**BASE, **{own: 0.5 * value for own, value in loss.own.items()}}]
    inputs = inputs_of(2, 3)
    state, metrics = run_lanes(training, hypers, images, inputs, layout=LAYOUTS[0])
    assert_lanes_equal(state, metrics, single_runs(training, hypers, images, inputs), tolerance=2e-6)
    assert not np.isclose(*metrics["loss"], rtol=1e-3)


def test_four_devices_and_two_axes_equal_single_runs(images):
    inputs = inputs_of(4, 3)
    singles = single_runs(small(), HYPERS[:4], images, inputs)
    for lanes, expected in ((4, {"member": 4, "data": 1}), (2, {"member": 2, "data": 2})):
        mesh = lane_mesh(lanes, batch_size=BATCH, devices=4)
        assert dict(mesh.shape) == expected
        cut = [jax.tree.map(lambda x: x[:lanes], step) for step in inputs]  # noqa: B023
        state, metrics = run_lanes(small(), HYPERS[:lanes], images, cut, layout=LAYOUTS[2], mesh=mesh)
        assert_lanes_equal(state, metrics, singles[:lanes], tolerance=1e-6)


def test_lanes_of_one_process_share_no_batches_over_cpu_devices_unless_told():
    assert len(jax.devices()) > 3
    assert dict(lane_mesh(3, batch_size=7).shape) == {"member": 3, "data": 1}
    assert lane_mesh(64, batch_size=7).size == len(jax.devices())
    assert dict(lane_mesh(2, batch_size=8, devices=4).shape) == {"member": 2, "data": 2}


def test_lanes_on_devices_of_their_own_exchange_nothing(images):
    objective, optimizer, model, _ = small()
    mesh = lane_mesh(4, batch_size=BATCH, devices=4)
    hyper = sweep.stack_hyper(HYPERS[:4])
    members = sharding.lane_sharding(mesh)
    state = jax.eval_shape(lambda k: sweep.init_lanes(k, model, optimizer, hyper, image_shape=SHAPE), keys_of(4))
    place = lambda tree: jax.tree.map(  # noqa: E731
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=members), tree
    )
    step = sweep.make_sweep_step(objective, optimizer, layout=LAYOUTS[2], mesh=mesh)
    shared = jax.ShapeDtypeStruct(images.shape, images.dtype, sharding=sharding.replicated(mesh))
    inputs = jax.eval_shape(lambda: inputs_of(4, 1)[0])
    text = jax.jit(step).lower(place(state), shared, place(inputs), keys_of(4), hyper).compile().as_text()
    assert not any(word in text for word in ("all-reduce", "all-gather", "all-to-all", "collective-permute"))


def test_contrastive_lanes_differ_in_temperature_and_weights(images):
    base = {
        "learning_rate": 1e-3,
        "final_learning_rate": 5e-4,
        "schedule_steps": 10.0,
        "supcon_weight": 1.0,
        "ssl_weight": 1.2,
        "temperature": 0.2,
        "attribution_temperature": 0.2,
        "smallest_kept": 0.5,
        "largest_kept": 0.9,
    }
    changes = {"temperature": 0.5, "supcon_weight": 0.3, "ssl_weight": 0.4, "largest_kept": 0.6}
    hypers = [base] + [{**base, name: value} for name, value in changes.items()]
    model = ContrastiveNetwork(SmallCNN(width=2, features=6), hidden=6, features=4)
    mix = GradMix(Attribution(layers=(2, 3)))
    objective = make_contrastive_objective(model, make_crop_and_flip(crop_padding=1), mix=mix)
    training, inputs = Training(objective, make_adam(), model), inputs_of(len(hypers), 4)
    singles = single_runs(training, hypers, images, inputs)
    for layout in (LAYOUTS[0], LAYOUTS[2]):
        state, metrics = run_lanes(training, hypers, images, inputs, layout=layout)
        assert_lanes_equal(state, metrics, singles, tolerance=2e-5)  # Adam divides by small gradients


@pytest.fixture
def double(x64):
    """Casts the floats of a tree to double precision."""
    del x64
    return jax.jit(lambda tree: jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, tree))


def test_in_double_precision_lanes_equal_single_runs_after_two_hundred_steps(images, double):
    model = network(jnp.float64)
    training = Training(objective_of(model), make_sgd(total_steps=200), model)
    arguments = (training, HYPERS[:2], images, inputs_of(2, 200))
    singles = single_runs(*arguments, cast=double)
    assert singles[0][0].params["prototypes"].dtype == jnp.float64
    for layout in (LAYOUTS[0], LAYOUTS[2]):
        state, metrics = run_lanes(*arguments, layout=layout, cast=double)
        assert_lanes_equal(state, metrics, singles, tolerance=1e-9)


def default_runs(dtype, batch, **options):
    """Ten steps of the default network on the bundled images, two lanes."""
    train = choose_data({"data": "fashion_mnist_small"})[1].train
    model = OpenSetNetwork(SmallCNN(dtype=dtype), 6)
    hypers = [{**BASE, "learning_rate": 0.01, "scale": scale} for scale in (8.0, 16.0)]
    objective = make_classify_objective(model, CLASS_LOSSES["m_ovr"], make_crop_and_flip())
    rows = np.random.default_rng(2).integers(0, len(train.labels), (10, 2, batch)).astype(np.int32)
    inputs = [sweep.LaneInputs(jnp.asarray(step), jnp.asarray(train.labels[step])) for step in rows]
    training = Training(objective, make_sgd(total_steps=200), model, tuple(options.items()))
    return training, hypers, train.images, inputs


def test_lanes_of_the_default_network_equal_single_runs_in_double_precision(double):
    # Convolutions in double precision are loops of XLA's own: without optimisation a step takes 17 times as long.
    arguments = default_runs(jnp.float64, BATCH, xla_backend_optimization_level=1)
    singles = single_runs(*arguments, cast=double)
    for layout in (LAYOUTS[0], LAYOUTS[2]):
        state, metrics = run_lanes(*arguments, layout=layout, cast=double)
        assert_lanes_equal(state, metrics, singles, tolerance=1e-9)


@pytest.mark.parametrize("layout", [LAYOUTS[0], LAYOUTS[2]])
def test_a_lane_that_diverges_is_noted_and_leaves_the_others_alone(images, layout):
    inputs, others = inputs_of(9, 4), [0, 2, 3, 4, 5, 6, 7, 8]
    broken = [BASE, {**BASE, "learning_rate": 1e38}, *[BASE] * 7]
    hot, hot_metrics = run_lanes(small(), broken, images, inputs, layout=layout)
    fine, _ = run_lanes(small(), [BASE] * 9, images, inputs, layout=layout)
    assert not np.asarray(hot.diverged)[others].any()
    assert 1 <= int(hot.diverged[1]) <= 3
    assert not all(np.isfinite(values[1]) for values in hot_metrics.values())
    for lane in others:
        chex.assert_trees_all_equal(*(jax.tree.map(lambda x: x[lane], s.states) for s in (hot, fine)))  # noqa: B023


def test_forward_and_norms_of_every_lane(images):
    model = network()
    hyper = sweep.stack_hyper(HYPERS[:2])
    optimizer = make_sgd(total_steps=1)
    state = jax.jit(lambda k: sweep.init_lanes(k, model, optimizer, hyper, image_shape=SHAPE))(keys_of(2))
    variables = {"params": state.states.params, "batch_stats": state.states.stats}
    floats = jnp.asarray(images[:4], jnp.float32) / 127.5 - 1

    def outputs(variables, images):
        found = model.apply(variables, images, train=False)
        return found.logits, found.embedding

    owns = [jax.tree.map(lambda x: x[lane], variables) for lane in range(2)]  # noqa: B023
    expected = [jax.jit(outputs)(own, floats) for own in owns]
    for layout in LAYOUTS:
        logits, embedding = jax.jit(sweep.make_lane_forward(outputs, layout=layout))(variables, floats)
        for lane in range(2):
            np.testing.assert_allclose(logits[lane], expected[lane][0], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(embedding[lane], expected[lane][1], rtol=1e-5, atol=1e-6)
    pairs = jnp.stack([floats[:2], floats[2:]])
    norms = jax.jit(sweep.make_lane_norms(lambda own, x: outputs(own, x)[1]))(variables, pairs)
    matrix_of = jax.jit(jax.jacrev(lambda image, own: outputs(own, image[None])[1][0]))
    for lane in range(2):
        for image in range(2):
            matrix = np.asarray(matrix_of(pairs[lane, image], owns[lane]), np.float64)
            np.testing.assert_allclose(norms[lane, image], np.linalg.norm(matrix), rtol=1e-5)


def test_shared_images_and_batches_are_those_of_single_runs():
    rng = np.random.default_rng(3)
    pool = rng.integers(0, 256, (12, 2, 2, 1), dtype=np.uint8)
    parts = [Examples(pool[rows], np.arange(len(rows)) % 3) for rows in ([0, 2, 4, 6, 8], [8, 1, 2, 11])]
    shared = sweep.share_images([part.images for part in parts])
    assert len(shared.images) == 7
    inputs = sweep.make_lane_batches(
        [parts[0], parts[1], parts[0]], [0, 5, 7], [shared.rows[0], shared.rows[1], shared.rows[0]], batch_size=3
    )
    for step in (0, 1, 9):
        rows, labels = inputs(step)
        for lane, (part, seed) in enumerate(((parts[0], 0), (parts[1], 5), (parts[0], 7))):
            chosen = batch_indices(len(part.labels), 3, seed=seed)[step]
            np.testing.assert_array_equal(shared.images[rows[lane]], part.images[chosen])
            np.testing.assert_array_equal(labels[lane], part.labels[chosen])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: choose_layout(strategy="loop", convolutions="patches"), "gains nothing in a loop"),
        (lambda: choose_layout(strategy="loop", lanes_at_once=2), "lanes_at_once=2 does nothing in a loop"),
        (lambda: choose_layout(strategy="vmap", lanes_at_once=0), "lanes_at_once=0 is below 1"),
        (lambda: pad_lanes(0, 2), "lanes=0"),
        (lambda: lane_mesh(3, batch_size=7, devices=4), None),
        (lambda: lane_mesh(2, batch_size=7, devices=4), "batch_size=7 cannot be shared by 2 devices"),
        (lambda: sweep.stack_hyper([]), "lanes is empty"),
        (lambda: sweep.stack_hyper([{"margin": 0.0}, {"scale": 1.0}]), r"lanes\[1\] has \['margin', 'scale'\]"),
        (lambda: sweep.share_images([]), "sets is empty"),
        (
            lambda: sweep.share_images([np.zeros((1, 2, 2, 1), np.uint8), np.zeros((1, 3, 3, 1), np.uint8)]),
            "images of the shapes",
        ),
        (
            lambda: sweep.make_lane_batches(
                [Examples(np.zeros((2, 1, 1, 1), np.uint8), np.zeros(2, np.int32))], [0], [np.arange(2)], batch_size=3
            ),
            "batch_size=3 exceeds the 2 training images of lane 0",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(call, message):
    if message is None:
        assert dict(call().shape) == {"member": 4, "data": 1}
        return
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("generator", ["rbg", "unsafe_rbg"])
def test_a_generator_whose_lanes_differ_from_single_runs_is_refused(generator):
    def draws():
        keys = jax.vmap(jax.random.key)(jnp.arange(3))
        return jax.vmap(jax.random.normal)(keys), [jax.random.normal(key) for key in keys]

    assert np.array_equal(*draws())
    with jax.default_prng_impl(generator):
        assert not np.array_equal(*draws())
        with pytest.raises(ValueError, match=f"JAX_DEFAULT_PRNG_IMPL={generator} gives a lane other numbers"):
            lane_mesh(2, batch_size=4)


def test_lanes_at_once_bound_the_memory():
    def lane(shared, x):
        return jnp.sum(jnp.sin(jnp.outer(x, shared)) @ jnp.outer(x, x))

    shared, lanes = jnp.linspace(0.0, 1.0, 64), jax.random.normal(jax.random.key(0), (12, 64))
    expected = np.stack([lane(shared, x) for x in lanes])
    memory = {}
    for at_once in (None, 12, 5, 1):  # 5 does not divide 12: 4 are taken
        mapped = over_lanes(lane, strategy="vmap", lanes_at_once=at_once)
        compiled = jax.jit(mapped).lower(shared, lanes).compile()
        memory[at_once] = compiled.memory_analysis().temp_size_in_bytes
        np.testing.assert_allclose(compiled(shared, lanes), expected, rtol=1e-4)
    assert memory[None] == memory[12] > 2 * memory[5] > 4 * memory[1]


def test_the_layout_follows_the_device_and_the_user():
    assert choose_layout(backend="tpu") == choose_layout(backend="gpu") == Layout("vmap", "native")
    assert choose_layout(backend="cpu") == Layout("loop", "native")
    assert choose_layout(strategy="vmap", convolutions="native", backend="cpu") == Layout("vmap", "native")
    assert [pad_lanes(lanes, 8) for lanes in (1, 3, 5, 8, 9, 17)] == [1, 4, 8, 8, 16, 24]
