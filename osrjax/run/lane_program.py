"""The compiled functions of lanes: one program for all of them, compiled side by side."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec as P

from osrjax import augment
from osrjax.analysis.probe import ProbeSets
from osrjax.data.open_set import OpenSetData
from osrjax.devices import cpu, sharding
from osrjax.methods.method import Method
from osrjax.train import sweep
from osrjax.train.apply import apply_in_batches
from osrjax.train.layout import Layout, pad_lanes

__all__ = ["Lane", "LanesProgram", "build_lanes"]

Outputs = Mapping[str, np.ndarray]  # [images, lanes, ...]


class Lane(NamedTuple):
    """One run of a sweep.

    Attributes:
      name: for its checkpoints and messages.
      method: what it trains; of all lanes of a program alike but for the values of ``hyper``.
      data: its images; lanes with the same class split share one object.
      seed: of initialisation, order and augmentation.
      probes: test images whose norms are taken; None for no norms.
    """

    name: str
    method: Method
    data: OpenSetData
    seed: int
    probes: ProbeSets | None = None


class LanesProgram(NamedTuple):
    """The compiled functions of the lanes (padded for the devices).

    Attributes:
      new_state: () -> SweepState.
      step: (state, inputs) -> (state, metrics of each lane and whether it has "diverged").
      batches: number of steps taken -> inputs.
      outputs: state -> the method's outputs for every evaluation image, [images, lanes, ...].
      norms: state -> norms of the probed images, [lanes, known then unknown]; None without probed images.
      diverged: state -> for each lane the step at which it diverged, 0 for none.
      rows: for each lane, where the images of each part are among those of evaluation.
    """

    new_state: Callable[[], sweep.SweepState]
    step: Callable[[sweep.SweepState, sweep.LaneInputs], tuple[sweep.SweepState, dict[str, Any]]]
    batches: Callable[[int], sweep.LaneInputs]
    outputs: Callable[[sweep.SweepState], Outputs]
    norms: Callable[[sweep.SweepState], np.ndarray] | None
    diverged: Callable[[sweep.SweepState], np.ndarray]
    rows: list[dict[str, np.ndarray]]


def build_lanes(
    lanes: Sequence[Lane], *, batch_size: int, eval_batch_size: int, layout: Layout, mesh: jax.sharding.Mesh
) -> LanesProgram:
    """Network, step, data and evaluation of lanes, compiled side by side.

    Args:
      lanes: one or more; all methods have the same structure.
      batch_size: of each lane.
      eval_batch_size: images of an evaluation call.
      layout: how the lanes of a device are computed.
      mesh: of :func:`osrjax.train.lane_mesh`.

    Returns:
      The functions; lanes are padded to what the devices share evenly.

    Raises:
      ValueError: hyper-parameters of other names, or a batch larger than a lane's training set.
    """
    lanes = [*lanes, *[lanes[-1]] * (pad_lanes(len(lanes), mesh.size) - len(lanes))]
    method = lanes[0].method
    datasets = {id(lane.data): lane.data for lane in lanes}
    everywhere, over_members = sharding.replicated(mesh), sharding.lane_sharding(mesh)
    # What the host reads stays where it is computed: devices that gather it would wait for each other, and on CPUs
    # XLA ends a process whose devices do not meet. Another process's devices cannot be read.
    alone = jax.process_count() == 1
    to_read = over_members if alone else everywhere
    options = cpu.compiler_options()

    network = method.make_network(method.options.dtype)
    objective = method.make_objective(network)
    hyper = sweep.stack_hyper([lane.method.hyper for lane in lanes])
    hyper = sharding.spread(jax.tree.map(np.asarray, dict(hyper)), over_members)
    # As in single runs: one key for the parameters, one for everything after them.
    split_keys = jax.jit(jax.vmap(lambda seed: tuple(jax.random.split(jax.random.key(seed)))))
    init_keys, train_keys = split_keys(sharding.spread(np.array([lane.seed for lane in lanes]), over_members))

    train_images, train_rows = sweep.share_images([data.train.images for data in datasets.values()])
    images = sharding.spread(train_images, everywhere)
    places = dict(zip(datasets, train_rows, strict=True))
    batches = sweep.make_lane_batches(
        [lane.data.train for lane in lanes],
        [lane.seed for lane in lanes],
        [places[id(lane.data)] for lane in lanes],
        batch_size=batch_size,
    )
    looked_at = {number: images_of(data, method.parts) for number, data in datasets.items()}
    evaluation, rows = sweep.share_images([part for parts in looked_at.values() for part in parts.values()])
    remaining = iter(rows)
    by_data = {number: {part: next(remaining) for part in parts} for number, parts in looked_at.items()}

    sweep_step = sweep.make_sweep_step(objective, method.optimizer, layout=layout, mesh=mesh)

    def step_with_diverged(state, images, inputs, keys, hyper):
        state, metrics_of = sweep_step(state, images, inputs, keys, hyper)
        return state, metrics_of | {"diverged": state.diverged > 0}

    compiled_step = jax.jit(
        step_with_diverged, donate_argnums=0, out_shardings=(over_members, to_read), compiler_options=options
    )

    def step(state: sweep.SweepState, inputs: sweep.LaneInputs) -> tuple[sweep.SweepState, dict[str, Any]]:
        with jax.set_mesh(mesh):
            return compiled_step(state, images, sharding.spread(inputs, over_members), train_keys, hyper)

    def init_lanes(keys, hyper):
        return sweep.init_lanes(keys, network, method.optimizer, hyper, image_shape=evaluation.shape[1:])

    # Compiled as one program: initialising layer by layer takes many times as long.
    new_state = jax.jit(init_lanes, out_shardings=over_members)

    lane_forward = sweep.make_lane_forward(method.outputs, layout=layout, mesh=mesh)
    eval_batch_size = min(eval_batch_size, len(evaluation))

    def outputs_by_image(variables, rows):
        return jax.tree.map(lambda values: jnp.moveaxis(values, 0, 1), lane_forward(variables, rows))

    images_and_lanes = NamedSharding(mesh, P("data", "member")) if alone else everywhere
    forward = jax.jit(outputs_by_image, out_shardings=images_and_lanes, compiler_options=options)

    @remembering
    def outputs(state: sweep.SweepState) -> Outputs:
        apply = partial(forward, state.states.variables)
        with jax.set_mesh(mesh):
            return apply_in_batches(apply, evaluation, batch_size=eval_batch_size, mesh=mesh)

    norms, compiled_norms, probed_images = None, None, None
    if all(lane.probes is not None for lane in lanes):
        lane_norms = sweep.make_lane_norms(method.functions[method.space], mesh=mesh)
        compiled_norms = jax.jit(lane_norms, out_shardings=to_read, compiler_options=options)
        probed_images = sharding.spread(augment.to_float_host(np.stack(probed(lanes))), over_members)

        @remembering
        def norms(state: sweep.SweepState) -> np.ndarray:
            with jax.set_mesh(mesh):
                return np.asarray(compiled_norms(state.states.variables, probed_images))

    state_like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=over_members),
        jax.eval_shape(new_state, init_keys, hyper),
    )
    rows_like = jax.ShapeDtypeStruct(
        (eval_batch_size + -eval_batch_size % mesh.shape["data"], *evaluation.shape[1:]),
        jnp.float32,
        sharding=sharding.batch_sharding(mesh),
    )
    # Tracing takes turns, compiling does not; the first calls find what was compiled here. The longest comes first.
    with ThreadPoolExecutor(1 if jax.process_count() > 1 else None) as pool:  # all processes in the same order
        with jax.set_mesh(mesh):
            inputs = sharding.spread(batches(0), over_members)
            pool.submit(compiled_step.lower(state_like, images, inputs, train_keys, hyper).compile)
            pool.submit(forward.lower(state_like.states.variables, rows_like).compile)
            if compiled_norms is not None:
                pool.submit(compiled_norms.lower(state_like.states.variables, probed_images).compile)
        pool.submit(new_state.lower(init_keys, hyper).compile)

    return LanesProgram(
        new_state=lambda: new_state(init_keys, hyper),
        step=step,
        batches=batches,
        outputs=outputs,
        norms=norms,
        diverged=lambda state: multihost_utils.process_allgather(state.diverged, tiled=True),
        rows=[by_data[id(lane.data)] for lane in lanes],
    )


def images_of(data: OpenSetData, parts: Sequence[str]) -> dict[str, np.ndarray]:
    """The images of the parts that an assessment reads."""
    examples = {"train": data.train, "validation": data.validation, "known": data.test_known}
    return {part: (examples | {"unknown": data.test_unknown})[part].images for part in parts}


def probed(lanes: Sequence[Lane]) -> list[np.ndarray]:
    """For each lane, the known and then the unknown test images whose norms are taken."""
    return [
        np.concatenate(
            [lane.data.test_known.images[lane.probes.known], lane.data.test_unknown.images[lane.probes.unknown]]
        )
        for lane in lanes
        if lane.probes is not None
    ]


def remembering(function: Callable[[sweep.SweepState], Any]) -> Callable[[sweep.SweepState], Any]:
    """The function, keeping its last result: checkpoint, probe and assessment look at the same state."""
    last: tuple[Any, Any] = (None, None)

    def of_state(state: sweep.SweepState) -> Any:
        nonlocal last
        if last[0] is not state:
            last = state, function(state)
        return last[1]

    return of_state
