"""What norms of a data set and a step of many lanes compile to, and what they cost each chip: for costs.py.

No chip tells another anything, and each has as many images of a call, or fewer lanes, whatever the number of chips.
"""

import dataclasses
import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from compiled_steps import HYPER, Cache, OutOfMemoryError, Program, classifier_parts, mesh_of, options_for, placed
from cost_tables import Call
from jacobian_mesh import ViT
from jax.sharding import AxisType, PartitionSpec as P

from osrjax.analysis import costs
from osrjax.devices import sharding
from osrjax.jacobian.estimate import projected_squares
from osrjax.jacobian.exact import automatic_mode, input_jacobian_norms
from osrjax.models.backbones import NETWORKS
from osrjax.models.networks import OpenSetNetwork
from osrjax.models.outputs import network_functions
from osrjax.train.layout import choose_layout
from osrjax.train.sweep import LaneInputs, init_lanes, make_sweep_step

IMAGES, CHECKPOINTS, STEPS = 10_000, 20, 10_000

# Images times passes at a time on each chip, as osrjax.analysis.make_norm_plan takes on an accelerator.
ROWS = 8192


class Norms(NamedTuple):
    """Jacobian norms of a data set under the unit embedding: exact, or by so many projections an image."""

    backbone: Callable[[], nn.Module]
    image_shape: tuple[int, int, int]
    samples: int | None = None
    images: int = 40  # of a call, on each chip: the share of 10 000 on 256 chips


class Sweep(NamedTuple):
    """A training step of so many lanes, each of which takes the preset's batch."""

    lanes: int
    program: Program = Program("train", "small_cnn", (28, 28, 1), 6, 128)


NETWORKS_OF_NORMS = {
    "wrn16_4": (NETWORKS["wrn16_4"], (32, 32, 3)),
    "resnet18": (NETWORKS["resnet18"], (32, 32, 3)),
    "vit_s16": (partial(ViT, patch=16), (224, 224, 3)),
}
ANALYSES: dict[str, Norms | Sweep] = {
    **{f"norms:{name}": Norms(*made) for name, made in NETWORKS_OF_NORMS.items()},
    **{f"estimate:{name}": Norms(*made, samples=8) for name, made in NETWORKS_OF_NORMS.items()},
    **{f"sweep:{lanes}": Sweep(lanes) for lanes in (16, 64, 256, 1024)},
}
SMOKE: dict[str, Norms | Sweep] = {
    "norms:smoke": Norms(partial(ViT, 8, 1, 2), (8, 8, 1), images=2),
    "estimate:smoke": Norms(partial(ViT, 8, 1, 2), (8, 8, 1), samples=8, images=2),
    "sweep:smoke": Sweep(4, Program("train", "small_cnn", (8, 8, 1), 3, 8)),
}


def calls_of(
    name: str, analysis: Norms | Sweep, chips: tuple[int, ...], cache: Cache, platform: str, memory: int
) -> list[Call]:
    """What a preset's calls cost on so many chips.

    Norms are compiled once, for the largest number: with fewer chips each does the same, more often.

    Raises:
      RuntimeError: the compiler has put communication into a program, so that no row of a table would be right.
    """
    if isinstance(analysis, Norms):
        largest = made(name, max(chips), lambda devices: norms_call(name, analysis, devices, cache, platform, memory))
        found = [
            call._replace(cost=dataclasses.replace(call.cost, devices=devices), count=norms_count(analysis, devices))
            for call in largest
            for devices in chips
        ]
    else:  # with more chips than lanes those of one lane would share its batch
        even = [devices for devices in chips if analysis.lanes % devices == 0]
        for devices in sorted(set(chips) - set(even)):
            print(f"{name} is left out on {devices} chips: give a divisor of its lanes", file=sys.stderr)
        each = [made(name, n, lambda devices: sweep_call(name, analysis, devices, cache, platform)) for n in even]
        found = [call for calls in each for call in calls]
    if any(call.cost.collectives for call in found):
        raise RuntimeError(f"{name} communicates on {platform}: {found[0].cost.collectives}")
    return found


def made(name: str, devices: int, make: Callable[[int], Call]) -> list[Call]:
    """The call on so many chips, or none where their memory is too small, which is said."""
    try:
        return [make(devices)]
    except OutOfMemoryError as error:
        print(f"{name} is left out on {devices} chips: {error}", file=sys.stderr)
        return []


# ---------------------------------------------------------------------------------------------- norms


def norms_count(norms: Norms, devices: int) -> int:
    """Calls for all images at all checkpoints."""
    return CHECKPOINTS * math.ceil(IMAGES / (norms.images * devices))


def norms_call(name: str, norms: Norms, devices: int, cache: Cache, platform: str, memory: int) -> Call:
    """A call with as many passes at a time as the memory of a chip takes."""
    passes = passes_of(norms)
    chunk = min(passes, max(1, ROWS // norms.images))
    while True:
        lowered = lowered_norms(norms, chunk, devices, platform)
        try:
            cost = cache.cost_of(lowered, devices=devices, batch=norms.images, platform=platform)
            needed = float(cost.peak)
            if needed <= memory or chunk == 1:
                break
        except OutOfMemoryError as error:
            if chunk == 1:
                raise
            needed = error.needed
        chunk = max(1, int(0.8 * chunk * min(1.0, memory / needed)))
    whole = with_all_passes(cost, passes, chunk)
    return Call(name, f"{norms.images} x {chunk}", norms_count(norms, devices), True, whole)


def with_all_passes(cost: costs.StepCost, passes: int, chunk: int) -> costs.StepCost:
    """The cost of all passes, where the compiler counts what its loop does once.

    The loop makes ``chunk`` passes at a time; those that are left at its end are made outside of it. The linearisation
    counts as one pass. So it is for operations, but for its element-wise part; of bytes it has those of several, which
    are overstated where few passes of many are counted.
    """
    counted = min(passes, chunk + passes % chunk)
    share = (1 + passes) / (1 + counted)
    return dataclasses.replace(cost, flops=cost.flops * share, accessed=cost.accessed * share)


def passes_of(norms: Norms) -> int:
    """Passes through the network for each image, besides the linearisation."""
    if norms.samples is not None:
        return norms.samples
    function, variables = embedding_of(norms)
    image = jax.ShapeDtypeStruct((1, *norms.image_shape), jnp.float32)
    inputs, outputs = image.size, jax.eval_shape(function, variables, image).size
    return inputs if automatic_mode(inputs, outputs) == "forward" else outputs


def embedding_of(norms: Norms) -> tuple[Callable, Any]:
    """The unit embedding of an image batch, and the shapes of its variables."""
    network = OpenSetNetwork(norms.backbone(), classes=6)
    image = jax.ShapeDtypeStruct((1, *norms.image_shape), jnp.float32)
    variables = jax.eval_shape(partial(network.init, train=False), jax.random.key(0), image)
    return network_functions(network)["embedding"], variables


def lowered_norms(norms: Norms, chunk: int, devices: int, platform: str) -> Any:
    """A call over all chips: exact as `make_norm_plan` shares it, projections in the same way."""
    mesh = mesh_of(platform, devices)
    function, variables = embedding_of(norms)

    def of_images(variables, images, keys):
        if norms.samples is None:
            return input_jacobian_norms(partial(function, variables), images, chunk_size=chunk)
        one = partial(
            projected_squares, lambda x: function(variables, x[None])[0], samples=norms.samples, chunk_size=chunk
        )
        return jax.vmap(one)(keys, images)

    shared = jax.shard_map(
        of_images, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P("data"), check_vma=False
    )
    count = devices * norms.images
    images = jax.ShapeDtypeStruct((count, *norms.image_shape), jnp.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), count))
    everywhere, spread = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    arguments = placed(variables, everywhere), placed(images, spread), placed(keys, spread)
    return jax.jit(shared, compiler_options=options_for(platform)).lower(*arguments)


# ---------------------------------------------------------------------------------------------- lanes


def sweep_call(name: str, sweep: Sweep, devices: int, cache: Cache, platform: str) -> Call:
    """A step of all lanes."""
    own = sweep.lanes // devices
    lowered = lowered_sweep(sweep, devices, platform)
    cost = cache.cost_of(lowered, devices=devices, batch=own * sweep.program.batch_size, platform=platform)
    return Call(name, f"{own} x {sweep.program.batch_size}", STEPS, False, cost)


def lowered_sweep(sweep: Sweep, devices: int, platform: str) -> Any:
    """A step of all lanes over the chips, in the layout that accelerators take: all lanes of a chip at once."""
    own = mesh_of(platform, devices).devices.reshape(devices, 1)
    mesh = jax.sharding.Mesh(own, ("member", "data"), axis_types=(AxisType.Auto,) * 2)
    network, make_objective, optimizer = classifier_parts(sweep.program)
    step = make_sweep_step(make_objective(network), optimizer, layout=choose_layout(backend="tpu"), mesh=mesh)
    lanes, batch, image_shape = sweep.lanes, sweep.program.batch_size, sweep.program.image_shape
    hyper = dict.fromkeys(HYPER, jax.ShapeDtypeStruct((lanes,), jnp.float32))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), lanes))
    state = jax.eval_shape(
        lambda keys, hyper: init_lanes(keys, network, optimizer, hyper, image_shape=image_shape), keys, hyper
    )
    rows: Any = jax.ShapeDtypeStruct((lanes, batch), jnp.int32)
    images = jax.ShapeDtypeStruct((IMAGES, *image_shape), jnp.uint8)
    spread = sharding.lane_sharding(mesh)
    jitted = jax.jit(step, donate_argnums=0, out_shardings=spread, compiler_options=options_for(platform))
    return jitted.lower(
        placed(state, spread),
        placed(images, sharding.replicated(mesh)),
        placed(LaneInputs(rows, rows), spread),
        placed(keys, spread),
        placed(hyper, spread),
    )
