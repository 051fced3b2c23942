"""Many runs as one program: lanes of a sweep, over seeds, hyper-parameters and class splits.

A *lane* is one run: its state, its random key, its hyper-parameters, its rows of the images that all lanes share.
Lanes are the first axis of every array. What changes the compiled program (loss, network, augmentation, batch
size, number of known classes) is the same for all lanes of a program; such structural switches make several
programs, since a branch under ``vmap`` would run every branch for every lane.

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
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, UInt8

from osrjax import sharding
from osrjax.convolutions import canonical_convolutions, patch_convolutions
from osrjax.data import Examples, batch_indices
from osrjax.jacobian import input_jacobian_norms
from osrjax.jacobian_dataset import network_functions
from osrjax.models import ContrastiveNetwork, OpenSetNetwork
from osrjax.objectives import Batch, Hyper, Objective
from osrjax.train import Optimizer, TrainState, init_state, make_train_step

__all__ = [
    "LaneInputs",
    "Layout",
    "SharedImages",
    "SweepState",
    "choose_layout",
    "init_lanes",
    "lane_mesh",
    "make_lane_batches",
    "make_lane_forward",
    "make_lane_norms",
    "make_sweep_step",
    "over_lanes",
    "pad_lanes",
    "share_images",
    "stack_hyper",
]

PyTree = Any
LaneHyper = Mapping[str, Float[Array, " lanes"]]


class Layout(NamedTuple):
    """How the lanes of a device are computed.

    Attributes:
      strategy: "vmap", all at once; or "loop", one after another inside the program.
      convolutions: "native", or "patches": as patches times matrix (only for "vmap").
      lanes_at_once: how many lanes of a device "vmap" computes together at most; None for all.
    """

    strategy: Literal["vmap", "loop"]
    convolutions: Literal["native", "patches"]
    lanes_at_once: int | None = None


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


# ---------------------------------------------------------------------------------------- layout and mesh


def choose_layout(
    *,
    strategy: Literal["auto", "vmap", "loop"] = "auto",
    convolutions: Literal["auto", "native", "patches"] = "auto",
    lanes_at_once: int | None = None,
    backend: str | None = None,
) -> Layout:
    """The layout that is the fastest known one for a kind of device, unless the caller says otherwise.

    On CPUs, measured (``experiments/speed.py --what sweep``): the loop, and for ``vmap`` patches times matrix. On
    others ``vmap``, not measured: an accelerator is idle most of the time with one small network, and its memory holds
    many.

    Args:
      strategy: "auto", or one's own choice.
      convolutions: "auto", or one's own choice.
      lanes_at_once: as in :class:`Layout`.
      backend: "cpu", "gpu" or "tpu"; None for that of the default device.

    Returns:
      The layout.

    Raises:
      ValueError: an unknown name; patches or ``lanes_at_once`` in a loop, which gain nothing; lanes below 1.

    Example:
      >>> choose_layout(backend="cpu")[:2], choose_layout(strategy="vmap", backend="cpu")[:2]
      (('loop', 'native'), ('vmap', 'patches'))
    """
    if strategy not in ("auto", "vmap", "loop"):
        raise ValueError(f'{strategy=} is not one of "auto", "vmap", "loop"')
    if convolutions not in ("auto", "native", "patches"):
        raise ValueError(f'{convolutions=} is not one of "auto", "native", "patches"')
    on_cpu = (backend or jax.default_backend()) == "cpu"
    chosen = ("loop" if on_cpu else "vmap") if strategy == "auto" else strategy
    if chosen == "loop" and convolutions == "patches":
        raise ValueError(f'{convolutions=} gains nothing in a loop: give strategy="vmap", or leave it out')
    if lanes_at_once is not None and lanes_at_once < 1:
        raise ValueError(f"{lanes_at_once=} is below 1: give how many lanes to compute together, or leave it out")
    if chosen == "loop" and lanes_at_once is not None:
        raise ValueError(f'{lanes_at_once=} does nothing in a loop: give strategy="vmap", or leave it out')
    patches = convolutions == "patches" or (convolutions == "auto" and on_cpu and chosen == "vmap")
    return Layout(chosen, "patches" if patches else "native", lanes_at_once)


def pad_lanes(lanes: int, devices: int) -> int:
    """The number of lanes, at least as many, that the devices share evenly; the added ones repeat the last.

    Args:
      lanes: at least 1.
      devices: at least 1.

    Returns:
      A multiple of ``devices``; where there are fewer lanes than devices, a divisor of ``devices``.

    Raises:
      ValueError: a number below 1.

    Example:
      >>> pad_lanes(15, 2), pad_lanes(16, 8), pad_lanes(3, 8)
      (16, 16, 4)
    """
    if lanes < 1 or devices < 1:
        raise ValueError(f"{lanes=} and {devices=} must be at least 1")
    if lanes >= devices:
        return -(-lanes // devices) * devices
    return next(size for size in range(lanes, devices + 1) if devices % size == 0)


def lane_mesh(lanes: int, *, batch_size: int, devices: int | None = None) -> jax.sharding.Mesh:
    """The mesh for a sweep: its padded lanes over "member", the rest of the devices over "data".

    Args:
      lanes: of the sweep, before padding.
      batch_size: of each lane.
      devices: how many of the visible devices; None for all of them, but of the CPU devices of one process no more
        than lanes: they share the cores, and those of "data" would wait for each other in every step.

    Returns:
      The mesh. :func:`pad_lanes` of its devices gives the number of lanes to make.

    Raises:
      ValueError: fewer devices than asked for, or more of them on "data" than can share a batch.
    """
    count = sharding.data_mesh(devices).size
    if devices is None and jax.default_backend() == "cpu" and jax.process_count() == 1:
        count = devices = min(count, lanes)
    mesh = sharding.sweep_mesh(pad_lanes(lanes, count), devices)
    if batch_size % mesh.shape["data"]:
        raise ValueError(
            f"{batch_size=} cannot be shared by {mesh.shape['data']} devices, which {lanes} lanes leave for each:"
            f" use devices={mesh.shape['member']} or another batch size"
        )
    return mesh


def over_lanes(
    function: Callable[[PyTree, PyTree], PyTree],
    *,
    strategy: Literal["vmap", "loop"],
    lanes_at_once: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Callable[[PyTree, PyTree], PyTree]:
    """Returns ``mapped(shared, lanes)``, a function of one lane for all of them; pure and not jitted.

    Args:
      function: ``(shared, lane) -> result``.
      strategy: as in :class:`Layout`.
      lanes_at_once: as in :class:`Layout`; the largest number up to this that divides the lanes of a device is taken,
        so that all turns are alike.
      mesh: spreads the lanes over its axis "member"; the axis "data" is left to the compiler.

    Returns:
      A function of what all lanes read and of a tree whose arrays have the lanes first, as has the result. With a
      mesh the number of lanes must be a multiple of its "member".

    Raises:
      ValueError: an unknown strategy.

    Example:
      >>> import jax.numpy as jnp
      >>> doubled = over_lanes(lambda scale, lane: scale * lane["x"], strategy="loop")
      >>> doubled(2.0, {"x": jnp.arange(3.0)}).tolist()
      [0.0, 2.0, 4.0]
    """
    if strategy not in ("vmap", "loop"):
        raise ValueError(f'{strategy=} is not one of "vmap", "loop"')

    def mapped(shared: PyTree, lanes: PyTree) -> PyTree:
        if strategy == "loop":
            return jax.lax.map(partial(function, shared), lanes)
        count = jax.tree.leaves(lanes)[0].shape[0]
        together = next(size for size in range(min(lanes_at_once or count, count), 0, -1) if count % size == 0)
        if together == count:
            return jax.vmap(function, in_axes=(None, 0))(shared, lanes)
        return jax.lax.map(partial(function, shared), lanes, batch_size=together)

    if mesh is None:
        return mapped
    # Manual over "member", so that no lane's arithmetic can be spread over devices or wait for another lane.
    return jax.shard_map(
        mapped,
        mesh=mesh,
        in_specs=(P(), P("member")),
        out_specs=P("member"),
        axis_names={"member"},
        check_vma=False,
    )


# ------------------------------------------------------------------------------------------------ lanes


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
    network: OpenSetNetwork | ContrastiveNetwork,
    optimizer: Optimizer,
    hyper: LaneHyper,
    *,
    image_shape: tuple[int, int, int],
) -> SweepState:
    """A fresh state for every lane, as :func:`osrjax.train.init_state` gives it for one.

    Args:
      keys: one a lane; consumed.
      network: of all lanes.
      optimizer: as for :func:`osrjax.train.make_train_step`.
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
      objective: what every lane minimises, as it is for one device: no :func:`osrjax.parallel.data_parallel`.
      optimizer: a function from ``hyper`` to an optax transformation.
      layout: from :func:`choose_layout`.
      mesh: from :func:`lane_mesh`; None for one device.

    Returns:
      The step. ``images`` are shared; keys and hyper-parameters have the lanes first, as have the metrics, which are
      those of :func:`osrjax.train.make_train_step`.
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
    network: OpenSetNetwork | ContrastiveNetwork, *, layout: Layout, mesh: jax.sharding.Mesh | None = None
) -> Callable[[PyTree, Array], tuple[Array, Array]]:
    """Returns ``forward(variables, images)`` of every lane for the same images: logits or projection, and embedding.

    Args:
      network: running statistics are used.
      layout: from :func:`choose_layout`.
      mesh: from :func:`lane_mesh`; None for one device.

    Returns:
      A pure function, not jitted; ``variables`` and both results have the lanes first.
    """

    def lane_forward(images: Array, variables: PyTree) -> tuple[Array, Array]:
        outputs: Any = network.apply(variables, images, train=False)
        contrast = isinstance(network, ContrastiveNetwork)
        return outputs.projection if contrast else outputs.logits, outputs.embedding

    rewrite = patch_convolutions if layout.convolutions == "patches" else canonical_convolutions
    mapped = over_lanes(rewrite(lane_forward), strategy=layout.strategy, lanes_at_once=layout.lanes_at_once, mesh=mesh)
    return lambda variables, images: mapped(images, variables)


def make_lane_norms(
    network: OpenSetNetwork, *, mesh: jax.sharding.Mesh | None = None, chunk_size: int | None = None
) -> Callable[[PyTree, Array], Array]:
    """Returns ``norms(variables, images) -> norms``: exact input-Jacobian norms of each lane's unit embedding.

    Lanes take turns within a device: each pass has a whole batch of images and outputs at work.

    Args:
      network: running statistics are used.
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
        embedding = network_functions(network)["embedding"]
        return input_jacobian_norms(partial(embedding, variables), images, chunk_size=chunk_size)

    mapped = over_lanes(lane_norms, strategy="loop", mesh=mesh)

    def norms(variables: PyTree, images: Array) -> Array:
        return mapped(None, (variables, images))

    return norms


# ------------------------------------------------------------------------------------------------- data


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
