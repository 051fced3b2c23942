"""Both sides of `speed.py --what sweep`: lanes of one program, a single lane's step, and whole runs of the scripts."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from osrjax.augment.views import make_crop_and_flip
from osrjax.devices import sharding
from osrjax.methods.classify import CLASS_LOSSES, make_classify_objective
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
SIDES: dict[
    str, tuple[Literal["auto", "vmap", "loop"], Literal["auto", "native", "patches"], bool]
] = {  # strategy, convolutions, whether on all devices
    AUTO: ("auto", "auto", True),
    "sweep, vmap, patches": ("vmap", "patches", True),
    "sweep, vmap, native": ("vmap", "native", True),
    "sweep, loop, one device": ("loop", "native", False),
    "sweep, vmap, patches, one device": ("vmap", "patches", False),
}


def lane_steps(
    network: str, batch: int, lanes: int, image_shape: tuple[int, int, int], classes: int, options: dict
) -> dict[str, Callable[[], object]]:
    """A step of all lanes in each layout, and a single lane's step: calling them makes one and waits for it.

    Beside them as many floating-point operations, by XLA's count, in large matrix products: the floor of a step.
    """
    model = OpenSetNetwork(NETWORKS[network](), classes)
    objective, optimizer = (
        make_classify_objective(model, CLASS_LOSSES["m_ovr"], make_crop_and_flip()),
        make_sgd(total_steps=100_000),
    )
    keys = jax.random.split(jax.random.key(0), lanes)
    images = jax.random.randint(jax.random.key(1), (10 * batch, *image_shape), 0, 256, jnp.uint8)
    rows = jax.random.randint(jax.random.key(2), (lanes, batch), 0, 10 * batch)
    labels = rows % classes
    hyper = sweep.stack_hyper([HYPER] * lanes)
    single_hyper = {name: jnp.float32(value) for name, value in HYPER.items()}

    def step(state: Any, images: jax.Array, rows: jax.Array, labels: jax.Array, key: jax.Array, hyper: Any):
        return make_train_step(objective, optimizer)(state, Batch(images[rows], labels), key, hyper)

    compiled = jax.jit(step, donate_argnums=0, compiler_options=options)
    state = jax.jit(lambda key: init_state(key, model, optimizer, single_hyper, image_shape=image_shape))(keys[0])

    def single() -> None:
        nonlocal state
        for _ in range(lanes):  # as often as lanes, so that both sides have the same unit
            state, metrics = compiled(state, images, rows[0], labels[0], keys[0], single_hyper)
        float(metrics["loss"])

    counted: Any = compiled.lower(state, images, rows[0], labels[0], keys[0], single_hyper).compile().cost_analysis()
    work: dict[str, Callable[[], object]] = {SINGLE: single, PRODUCTS: products(lanes * counted["flops"], options)}
    for name, (strategy, convolutions, spread) in SIDES.items():
        layout = choose_layout(strategy=strategy, convolutions=convolutions)
        mesh = lane_mesh(lanes, batch_size=batch, devices=None if spread else 1)
        work[name] = _sweep_side(
            objective, optimizer, layout, mesh, options, (model, image_shape), images, (rows, labels), keys, hyper
        )
    return work


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


def _sweep_side(objective, optimizer, layout, mesh, options, model_and_shape, images, inputs, keys, hyper):
    model, image_shape = model_and_shape
    members = sharding.lane_sharding(mesh)
    images = jax.device_put(images, sharding.replicated(mesh))
    inputs, keys, hyper = jax.device_put((sweep.LaneInputs(*inputs), keys, hyper), members)
    init = jax.jit(
        lambda keys, hyper: sweep.init_lanes(keys, model, optimizer, hyper, image_shape=image_shape),
        out_shardings=members,
    )
    step = jax.jit(
        sweep.make_sweep_step(objective, optimizer, layout=layout, mesh=mesh),
        donate_argnums=0,
        compiler_options=options,
    )
    state = init(keys, hyper)

    def call() -> None:
        nonlocal state
        with jax.set_mesh(mesh):
            state, metrics = step(state, images, inputs, keys, hyper)
        jax.block_until_ready(metrics)

    return call


def whole_runs(lanes: int, steps: int, *, smoke: bool) -> tuple[float, float]:
    """Seconds of that many runs of train.py one after another, half before and half after the sweep; and of the sweep.

    Every run is a process of its own, from its start to its end.
    """
    here = Path(__file__).parent
    recipe = ["--smoke"] if smoke else ["--steps", str(steps)]
    with tempfile.TemporaryDirectory() as directory:

        def single(seed: int) -> float:
            out = Path(directory) / f"single-{seed}"
            return _seconds([str(here / "train.py"), *recipe, "--seed", str(seed), "--out", str(out)])

        sequential = sum(single(seed) for seed in range(lanes // 2))
        command = [str(here / "ablation.py"), *recipe, "--seeds", str(lanes), "--splits", "0", "--probe-images", "0"]
        together = _seconds([*command, "--out", str(Path(directory) / "sweep")])
        sequential += sum(single(seed) for seed in range(lanes // 2, lanes))
    return sequential, together


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr[-500:]}")
    return time.perf_counter() - start
