"""Many runs as one program: lanes of a sweep, over seeds, hyper-parameters and class splits.

A *lane* is one run: its state, its random key, its hyper-parameters, its rows of the images that all lanes share.
Lanes are the first axis of every array. What changes the compiled program (loss, network, augmentation, batch
size, number of known classes) is the same for all lanes of a program; such structural switches make several
programs, since a branch under ``vmap`` would run every branch for every lane.

Words, the same everywhere: an *arm* is a recipe; a *cell* is an arm on one class split with one seed; a *lane* is a
cell's place in a program; a *group* is the lanes of one program; "member" is the mesh axis that lanes are spread over.

How lanes share a device is a :class:`Layout`:

========  ==========  ==================================================================================
strategy  memory      how
========  ==========  ==================================================================================
vmap      all lanes   every operation for all lanes at once; convolutions become grouped ones, or, as
                      patches times matrix, batched matrix products. With ``lanes_at_once`` so many lanes,
                      then the next, inside the program, and memory for so many
loop      one lane    lanes one after another inside the program, convolutions in canonical order
========  ==========  ==================================================================================

Over several devices lanes are spread along the mesh axis "member" (nothing is exchanged between them), and
where there are more devices than lanes, the batch of each lane along "data" (on CPUs only if told). A lane
computes what a single run with its seed computes, up to the order of summation; a unit whose input is next to the
kink of its ReLU can turn on or off by that, and its lane then leaves its single run by more than rounding.

From parts (:func:`osrjax.run.train_lanes` does all of it, with checkpoints and scores)::

    hyper = stack_hyper([method.hyper | {"margin": margin} for margin in (0.0, 0.25, 0.5, 1.0)])
    keys = jax.random.split(jax.random.key(0), 4)
    state = init_lanes(keys, network, method.optimizer, hyper, image_shape=(28, 28, 1))
    step = jax.jit(make_sweep_step(objective, method.optimizer, layout=choose_layout()), donate_argnums=0)
    state, metrics = step(state, images, LaneInputs(rows, rows), keys, hyper)  # rows: [lanes, batch], of `images`
    state.diverged  # the step at which a lane diverged, 0 for none; the others never notice
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, UInt8

from osrjax.data import Examples, batch_indices
from osrjax.devices.convolutions import canonical_convolutions, patch_convolutions
from osrjax.jacobian.exact import input_jacobian_norms
from osrjax.train.layout import Layout, over_lanes
from osrjax.train.objective import Batch, Hyper, Objective
from osrjax.train.optimizers import Optimizer
from osrjax.train.step import TrainState, init_state, make_train_step

__all__ = [
    "LaneInputs",
    "SharedImages",
    "SweepState",
    "init_lanes",
    "make_lane_batches",
    "make_lane_forward",
    "make_lane_norms",
    "make_sweep_step",
    "share_images",
    "stack_hyper",
]

from osrjax.train.objective import PyTree

LaneHyper = Mapping[str, Float[Array, " lanes"]]


class LaneInputs(NamedTuple):
    """What the lanes read in one step: rows of the shared images, and labels, which differ with the class split."""

    rows: Int[Array, "lanes batch"] | Int[np.ndarray, "lanes batch"]
    labels: Int[Array, "lanes batch"] | Int[np.ndarray, "lanes batch"]


class SweepState(NamedTuple):
    """The states of all lanes, and for each the first step with a non-finite loss or norm (0: none so far)."""

    states: TrainState
    diverged: Int[Array, " lanes"]


class SharedImages(NamedTuple):
    """Every image that some of several sets has, once.

    Attributes:
      images: the distinct images.
      rows: for each set, where its images are.
    """

    images: UInt8[np.ndarray, "images height width channels"]
    rows: tuple[Int[np.ndarray, " _"], ...]


def stack_hyper(lanes: Sequence[Hyper]) -> LaneHyper:
    """The hyper-parameters of all lanes, one array a name.

    Args:
      lanes: the hyper-parameters of each lane, all of the same names.

    Returns:
      Arrays with the lanes as their axis.

    Raises:
      ValueError: no lane, or lanes with different names.

    Example:
      >>> print(stack_hyper([{"margin": 0.0}, {"margin": 0.5}]))
      {'margin': Array([0. , 0.5], dtype=float32)}
    """
    if not lanes:
        raise ValueError("lanes is empty: give the hyper-parameters of at least one lane")
    names = set(lanes[0])
    for lane, hyper in enumerate(lanes):
        if set(hyper) != names:
            raise ValueError(f"lanes[{lane}] has {sorted(set(hyper) ^ names)} more or less than lanes[0]: give all")
    return {name: jnp.asarray([hyper[name] for hyper in lanes], float) for name in lanes[0]}


def init_lanes(
    keys: Array,
    network: Any,
    optimizer: Optimizer,
    hyper: LaneHyper,
    *,
    image_shape: tuple[int, int, int],
) -> SweepState:
    """A fresh state for every lane, as :func:`osrjax.train.step.init_state` gives it for one.

    Args:
      keys: one a lane; consumed.
      network: of all lanes.
      optimizer: as for :func:`osrjax.train.step.make_train_step`.
      hyper: of all lanes.
      image_shape: height, width, channels.

    Returns:
      The states at step 0, none diverged.
    """
    init = partial(init_state, network=network, optimizer=optimizer, image_shape=image_shape)
    states = jax.vmap(lambda key, hyper: init(key, hyper=hyper))(keys, dict(hyper))
    return SweepState(states, jnp.zeros(keys.shape[0], jnp.int32))


def make_sweep_step(
    objective: Objective,
    optimizer: Optimizer,
    *,
    layout: Layout,
    mesh: jax.sharding.Mesh | None = None,
) -> Callable[[SweepState, Array, LaneInputs, Array, LaneHyper], tuple[SweepState, dict[str, Array]]]:
    """Returns ``step(state, images, inputs, keys, hyper) -> (state, metrics)`` for all lanes; pure and not jitted.

    A lane that diverges has its step written down and goes on with what it has; the others never see it. *Cost*: on
    each device that of its lanes' single steps, in whatever the layout makes of them; one trace and one compiled
    program for any number of lanes. Where the mesh shares batches over "data", call it under ``jax.set_mesh(mesh)``;
    the compiler then reduces gradients as often as it sees fit.

    Args:
      objective: what every lane minimises, as it is for one device: no :func:`osrjax.train.parallel.data_parallel`.
      optimizer: a function from ``hyper`` to an optax transformation.
      layout: from :func:`choose_layout`.
      mesh: from :func:`lane_mesh`; None for one device.

    Returns:
      The step. ``images`` are shared; keys and hyper-parameters have the lanes first, as have the metrics, which are
      those of :func:`osrjax.train.step.make_train_step`.
    """
    if layout.strategy == "loop":
        single = canonical_convolutions(make_train_step(objective, optimizer))
    else:
        patches = layout.convolutions == "patches"
        single = make_train_step(patch_convolutions(objective) if patches else objective, optimizer)
    spread = mesh is not None and mesh.shape["data"] > 1

    def lane_step(images: Array, lane: tuple) -> tuple[SweepState, dict[str, Array]]:
        (state, diverged), (rows, labels), key, hyper = lane
        batch = Batch(images[rows], labels)
        if spread:
            batch = jax.lax.with_sharding_constraint(batch, P("data"))
        state, metrics = single(state, batch, key, hyper)
        finite = jnp.stack([jnp.isfinite(value) for value in metrics.values()]).all()
        broken = jnp.logical_and(diverged == 0, jnp.logical_not(finite))
        return SweepState(state, jnp.where(broken, state.step, diverged)), metrics

    mapped = over_lanes(lane_step, strategy=layout.strategy, lanes_at_once=layout.lanes_at_once, mesh=mesh)

    def step(
        state: SweepState, images: Array, inputs: LaneInputs, keys: Array, hyper: LaneHyper
    ) -> tuple[SweepState, dict[str, Array]]:
        return mapped(images, (state, inputs, keys, dict(hyper)))

    return step


def make_lane_forward(
    outputs: Callable[[PyTree, Array], PyTree], *, layout: Layout, mesh: jax.sharding.Mesh | None = None
) -> Callable[[PyTree, Array], PyTree]:
    """Returns ``forward(variables, images) -> outputs`` of every lane for images that all lanes share.

    Args:
      outputs: ``(variables, float images) -> outputs`` of one lane, with running statistics.
      layout: from :func:`choose_layout`.
      mesh: from :func:`lane_mesh`; None for one device.

    Returns:
      A pure function, not jitted; ``variables`` and all outputs have the lanes first.
    """
    rewrite = patch_convolutions if layout.convolutions == "patches" else canonical_convolutions
    lane_forward = rewrite(lambda images, variables: outputs(variables, images))
    mapped = over_lanes(lane_forward, strategy=layout.strategy, lanes_at_once=layout.lanes_at_once, mesh=mesh)
    return lambda variables, images: mapped(images, variables)


def make_lane_norms(
    function: Callable[[PyTree, Array], Array], *, mesh: jax.sharding.Mesh | None = None, chunk_size: int | None = None
) -> Callable[[PyTree, Array], Array]:
    """Returns ``norms(variables, images) -> norms``: exact input-Jacobian norms of a function of each lane's network.

    Lanes take turns within a device: each pass has a whole batch of images and outputs at work.

    Args:
      function: ``(variables, float images) -> one row per image``, such as the unit embedding, with running statistics.
      mesh: from :func:`lane_mesh`; None for one device.
      chunk_size: as in :func:`osrjax.jacobian.input_jacobian_norms`.

    Returns:
      A pure function, not jitted, of variables and float images in [-1, 1] with the lanes first; one norm an image.

    References:
      Park et al., arXiv 2209.11436, sec. 3.
    """

    def lane_norms(shared: None, lane: tuple[PyTree, Array]) -> Array:
        del shared
        variables, images = lane
        return input_jacobian_norms(partial(function, variables), images, chunk_size=chunk_size)

    mapped = over_lanes(lane_norms, strategy="loop", mesh=mesh)

    def norms(variables: PyTree, images: Array) -> Array:
        return mapped(None, (variables, images))

    return norms


def share_images(sets: Sequence[UInt8[np.ndarray, "_ _ _ _"]]) -> SharedImages:
    """The images of several sets, each distinct one once: class splits of one data set share most of them.

    Args:
      sets: images of one shape.

    Returns:
      Distinct images, and the rows of each set: ``images[rows[i]]`` are ``sets[i]``.

    Raises:
      ValueError: no set, or images of different shapes.

    Example:
      >>> first = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1)
      >>> images, rows = share_images([first, first[1:]])
      >>> len(images), (images[rows[1]] == first[1:]).all()
      (3, np.True_)
    """
    if not sets:
        raise ValueError("sets is empty: give the images of at least one lane")
    shapes = {images.shape[1:] for images in sets}
    if len(shapes) > 1:
        raise ValueError(f"sets have images of the shapes {sorted(shapes)}: lanes of one program share one shape")
    place: dict[bytes, int] = {}
    distinct, rows = [], []
    for images in sets:
        found = np.empty(len(images), np.int32)
        for row, image in enumerate(images):
            found[row] = place.setdefault(image.tobytes(), len(place))
            if found[row] == len(distinct):
                distinct.append(image)
        rows.append(found)
    return SharedImages(np.stack(distinct), tuple(rows))


def make_lane_batches(
    parts: Sequence[Examples], seeds: Sequence[int], rows: Sequence[Int[np.ndarray, " _"]], *, batch_size: int
) -> Callable[[int], LaneInputs]:
    """Returns ``inputs(step)``: for every lane the batch that a single run with its seed takes in that step.

    Args:
      parts: the training set of each lane.
      seeds: of the lanes' orders.
      rows: for each lane, where the images of its set are among the shared ones (:func:`share_images`).
      batch_size: of each lane, at most the size of its set.

    Returns:
      A function from the number of steps taken to host arrays.

    Raises:
      ValueError: a batch larger than a lane's set.
    """
    for lane, part in enumerate(parts):
        if batch_size > len(part.labels):
            raise ValueError(f"{batch_size=} exceeds the {len(part.labels)} training images of lane {lane}: lower it")
    orders = [batch_indices(len(part.labels), batch_size, seed=seed) for part, seed in zip(parts, seeds, strict=True)]

    def inputs(step: int) -> LaneInputs:
        chosen = [order[step] for order in orders]
        return LaneInputs(
            np.stack([places[indices] for places, indices in zip(rows, chosen, strict=True)]).astype(np.int32),
            np.stack([part.labels[indices] for part, indices in zip(parts, chosen, strict=True)]).astype(np.int32),
        )

    return inputs
