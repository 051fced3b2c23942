"""Where arrays live: one mesh with named axes, replicated state, batches spread over the devices.

Axes are of type Auto, for the compiler propagates shardings through gathers, Gram matrices and random crops
that sharding-in-types (jax.make_mesh's default, Explicit) refuses.
"""

import math

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

__all__ = ["batch_sharding", "check_batch_size", "data_mesh", "replicated", "sweep_mesh"]


def data_mesh(devices: int | None = None) -> jax.sharding.Mesh:
    """A mesh with the one axis "data".

    Args:
      devices: how many of the visible devices; None for all of them.

    Returns:
      The mesh; pass it to ``jax.set_mesh`` or build shardings from it.

    Raises:
      ValueError: fewer devices are visible than asked for.
    """
    visible = jax.devices()
    count = len(visible) if devices is None else devices
    if not 1 <= count <= len(visible):
        raise ValueError(f"{devices=} but {len(visible)} are visible: ask for 1 to {len(visible)}")
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=visible[:count])


def sweep_mesh(lanes: int, devices: int | None = None) -> jax.sharding.Mesh:
    """A mesh with the axes "member", for the lanes of a sweep, and "data", for the batch of each lane.

    "member" gets the greatest common divisor of lanes and devices, so that both are shared evenly; where there are
    more devices than that, the others go to "data". Pad the lanes where their number shares no factor with the devices.

    Args:
      lanes: runs in the sweep, at least 1.
      devices: how many of the visible devices; None for all of them.

    Returns:
      The mesh, of ``devices`` devices.

    Raises:
      ValueError: no lane, or fewer devices are visible than asked for.

    Example:
      >>> dict(sweep_mesh(16, devices=1).shape)
      {'member': 1, 'data': 1}
    """
    if lanes < 1:
        raise ValueError(f"{lanes=} is below 1: give the number of runs in the sweep")
    used = data_mesh(devices).devices.ravel()
    members = math.gcd(lanes, used.size)
    shape = (members, used.size // members)
    return jax.make_mesh(shape, ("member", "data"), axis_types=(AxisType.Auto,) * 2, devices=list(used))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The sharding of parameters and state: a copy on every device."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The sharding of a batch: its first axis over "data"."""
    return NamedSharding(mesh, P("data"))


def check_batch_size(batch_size: int, mesh: jax.sharding.Mesh) -> None:
    """Refuses a global batch that the devices cannot share evenly.

    Args:
      batch_size: the global batch size.
      mesh: a mesh with an axis "data".

    Raises:
      ValueError: ``batch_size`` is not a positive multiple of the number of devices.
    """
    devices = mesh.shape["data"]
    if batch_size < 1 or batch_size % devices:
        lower, upper = batch_size // devices * devices, -(-batch_size // devices) * devices
        choices = " or ".join(str(size) for size in sorted({lower, upper}) if size > 0)
        raise ValueError(f"{batch_size=} is no multiple of {devices} devices: use {choices or devices}")
