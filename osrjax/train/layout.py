"""How the lanes of a sweep share devices: all at once or one after another, on which mesh."""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
from jax.sharding import PartitionSpec as P

from osrjax.devices import sharding
from osrjax.train.objective import PyTree

__all__ = ["Layout", "choose_layout", "lane_mesh", "over_lanes", "pad_lanes"]


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
      ValueError: fewer devices than asked for, or more of them on "data" than can share a batch; a random generator
        that draws other numbers under ``vmap`` than alone, so that no lane would equal its single run.
    """
    if (generator := str(jax.random.key_impl(jax.random.key(0)))) != "threefry2x32":
        raise ValueError(
            f"JAX_DEFAULT_PRNG_IMPL={generator} gives a lane other numbers than its single run: set it to threefry2x32"
        )
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
