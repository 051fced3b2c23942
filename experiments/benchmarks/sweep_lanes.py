"""Both sides of speed_sweep.py in steps: a single lane's, and those of many lanes in one program, by layout.

Both processes see each core as a device and keep their memory by thread, as ablation.py has it.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import comparison
import jax
import jax.numpy as jnp
from comparison import CLASSES, image_shape
from turns import Work

from osrjax.augment.views import make_crop_and_flip
from osrjax.devices import sharding
from osrjax.devices.cpu import compiler_options, one_device_per_core, reuse_host_memory
from osrjax.methods import make_classify_objective
from osrjax.methods.class_losses import CLASS_LOSSES
from osrjax.models.backbones import NETWORKS
from osrjax.models.networks import OpenSetNetwork
from osrjax.train import sweep
from osrjax.train.layout import choose_layout, lane_mesh
from osrjax.train.objective import Batch
from osrjax.train.optimizers import make_sgd
from osrjax.train.step import init_state, make_train_step

HYPER = {
    "learning_rate": 0.01,
    "final_learning_rate": 1e-5,
    "weight_decay": 1e-3,
    "margin": 0.5,
    "scale": 16.0,
    "intra_weight": 1.0,
    "inter_weight": 1.0,
}
SINGLE, AUTO, PRODUCTS = "a single lane's step", "sweep, auto", "its FLOPs as matrix products"
LAYOUTS: dict[
    str, tuple[Literal["auto", "vmap", "loop"], Literal["auto", "native", "patches"], bool]
] = {  # strategy, convolutions, whether on all devices
    AUTO: ("auto", "auto", True),
    "sweep, vmap, patches": ("vmap", "patches", True),
    "sweep, vmap, native": ("vmap", "native", True),
    "sweep, loop, one device": ("loop", "native", False),
    "sweep, vmap, patches, one device": ("vmap", "patches", False),
}


# ---------------------------------------------------------------------------------------------- what both sides train


class Case(NamedTuple):
    """A network, its training, and what lanes are trained on."""

    model: Any
    objective: Any
    optimizer: Any
    shape: tuple[int, int, int]
    images: jax.Array
    rows: jax.Array
    labels: jax.Array
    keys: jax.Array


def prepared(network: str, batch: int, lanes: int) -> Case:
    """Sets the process up, and makes what its side needs."""
    one_device_per_core()
    reuse_host_memory(shared=False)  # lanes on all cores would wait for each other
    return case_of(network, batch, lanes)


def case_of(network: str, batch: int, lanes: int) -> Case:
    """The case of a network, in a process as it is."""
    model = OpenSetNetwork(NETWORKS[network](), CLASSES)
    objective = make_classify_objective(model, CLASS_LOSSES["m_ovr"], make_crop_and_flip())
    shape, keys = image_shape(network), jax.random.split(jax.random.key(0), lanes)
    images = jax.random.randint(jax.random.key(1), (10 * batch, *shape), 0, 256, jnp.uint8)
    rows = jax.random.randint(jax.random.key(2), (lanes, batch), 0, 10 * batch)
    return Case(model, objective, make_sgd(total_steps=100_000), shape, images, rows, rows % CLASSES, keys)


# ---------------------------------------------------------------------------------------------- a single lane


def single_lane(network: str, batch: int, lanes: int) -> Work:
    """A single lane's step, made as often as there are lanes, so that both sides have the same unit.

    Beside it as many floating-point operations, by XLA's count, in large matrix products: the floor of a step.
    """
    case = prepared(network, batch, lanes)
    hyper = {name: jnp.float32(value) for name, value in HYPER.items()}

    def step(state: Any, images: jax.Array, rows: jax.Array, labels: jax.Array, key: jax.Array, hyper: Any):
        return make_train_step(case.objective, case.optimizer)(state, Batch(images[rows], labels), key, hyper)

    options = dict(compiler_options())
    compiled = jax.jit(step, donate_argnums=0, compiler_options=options)
    init = jax.jit(lambda key: init_state(key, case.model, case.optimizer, hyper, image_shape=case.shape))
    state, inputs = init(case.keys[0]), (case.images, case.rows[0], case.labels[0], case.keys[0], hyper)

    def single() -> None:
        nonlocal state
        for _ in range(lanes):
            state, metrics = compiled(state, *inputs)
        float(metrics["loss"])

    counted: Any = compiled.lower(state, *inputs).compile().cost_analysis()
    return Work({SINGLE: single, PRODUCTS: products(lanes * counted["flops"], options)}, comparison.our_facts())


def products(flops: float, options: dict, *, size: int = 512) -> Callable[[], object]:
    """So many operations as products of square float32 matrices, shared by all devices."""
    mesh = sharding.data_mesh()
    turns = max(1, round(flops / (2 * size**3 * mesh.size)))
    placement = sharding.batch_sharding(mesh)
    operands = jax.device_put(jnp.full((mesh.size, 2, size, size), 1 / size), placement)

    def multiply(operands: jax.Array) -> jax.Array:
        (left, right) = operands[0]
        return jax.lax.fori_loop(0, turns, lambda _, product: left @ product, right)[None]

    multiply_all = jax.shard_map(multiply, mesh=mesh, in_specs=placement.spec, out_specs=placement.spec)
    compiled = jax.jit(multiply_all, compiler_options=options)
    return lambda: jax.block_until_ready(compiled(operands))


# ---------------------------------------------------------------------------------------------- all lanes


def lanes_together(network: str, batch: int, lanes: int, layouts: Sequence[str]) -> Work:
    """A step of all lanes in each of some layouts."""
    case = prepared(network, batch, lanes)
    return Work({name: lanes_step(case, *LAYOUTS[name]) for name in layouts}, comparison.our_facts())


def lanes_step(
    case: Case,
    strategy: Literal["auto", "vmap", "loop"],
    convolutions: Literal["auto", "native", "patches"],
    spread: bool,
) -> Callable[[], None]:
    """A step of all lanes in a layout, on all devices or on one: calling it makes one and waits for it."""
    (step, state, inputs), mesh = lanes_program(case, strategy, convolutions, spread)

    def call() -> None:
        nonlocal state
        with jax.set_mesh(mesh):
            state, metrics = step(state, *inputs)
        jax.block_until_ready(metrics)

    return call


def lanes_program(
    case: Case,
    strategy: Literal["auto", "vmap", "loop"],
    convolutions: Literal["auto", "native", "patches"],
    spread: bool,
) -> tuple[comparison.Program, jax.sharding.Mesh]:
    """The same step, not yet compiled, and the mesh under which it is called."""
    lanes, batch = case.rows.shape
    layout = choose_layout(strategy=strategy, convolutions=convolutions)
    mesh = lane_mesh(lanes, batch_size=batch, devices=None if spread else 1)
    members = sharding.lane_sharding(mesh)
    images = jax.device_put(case.images, sharding.replicated(mesh))
    hyper = sweep.stack_hyper([HYPER] * lanes)
    inputs, keys, hyper = jax.device_put((sweep.LaneInputs(case.rows, case.labels), case.keys, hyper), members)
    init = jax.jit(
        lambda keys, hyper: sweep.init_lanes(keys, case.model, case.optimizer, hyper, image_shape=case.shape),
        out_shardings=members,
    )
    step = jax.jit(
        sweep.make_sweep_step(case.objective, case.optimizer, layout=layout, mesh=mesh),
        donate_argnums=0,
        compiler_options=dict(compiler_options()),
    )
    return comparison.Program(step, init(keys, hyper), (images, inputs, keys, hyper)), mesh
