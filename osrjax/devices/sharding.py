"""Where arrays live: one mesh with named axes, replicated state, batches spread over the devices.

Axes are of type Auto, for the compiler propagates shardings through gathers, Gram matrices and random crops
that sharding-in-types (jax.make_mesh's default, Explicit) refuses. With several processes a mesh spans the devices
of all, each process runs the same program, and an array is one array however many machines hold it.
"""

import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

__all__ = [
    "batch_sharding",
    "check_batch_size",
    "data_mesh",
    "lane_sharding",
    "process_rows",
    "replicated",
    "spread",
    "start_distributed",
    "sweep_mesh",
]

PyTree = Any


def start_distributed(
    *,
    mode: Literal["none", "auto"] = "none",
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    peer_timeout: int = 100,
    start_timeout: int = 300,
    patience: float = 5.0,
) -> bool:
    """Joins the processes of one run, by JAX's multi-controller runtime; call it before anything else of JAX.

    The runtime watches its processes: one that dies ends all others within ``peer_timeout`` seconds. A run of one
    process starts nothing.

    Args:
      mode: "auto" asks the environment, in which JAX recognises TPU pods, Slurm, GKE and Open MPI; where it
        recognises none, the run has one process. "none" is one process, unless a coordinator is given.
      coordinator: HOST:PORT of process 0, for any other environment; a free port that all processes reach.
      processes: how many there are; with a coordinator.
      process: the number of this one, from 0 on; with a coordinator.
      peer_timeout: seconds without a sign of life after which a process counts as dead.
      start_timeout: seconds to wait for the other processes at the start. Where process 0 answers and others do not
        come, the process ends with the exit code 2 and a line that says so.
      patience: seconds of it to wait in silence, before a line on stderr says who is waited for.

    Returns:
      Whether several processes were joined.

    Raises:
      ValueError: options that contradict or lack each other, or a coordinator that does not answer.

    Example:
      >>> start_distributed(), start_distributed(coordinator="localhost:8476", processes=1, process=0)
      (False, False)
    """
    if mode not in ("none", "auto"):
        raise ValueError(f'distributed={mode!r} is not one of "none", "auto"')
    for name, value, least in (("peer_timeout", peer_timeout, 1), ("start_timeout", start_timeout, 0)):
        if value < least:
            raise ValueError(f"{name}={value} is below {least}: give seconds, such as 100")
    timeouts: dict[str, Any] = {
        "initialization_timeout": start_timeout + 60,  # this function's own end comes first
        "heartbeat_timeout_seconds": peer_timeout,
        "shutdown_timeout_seconds": peer_timeout,
    }
    if coordinator is None:
        for name, value in {"processes": processes, "process": process}.items():
            if value is not None:
                raise ValueError(f"{name}={value} needs the address of process 0: give coordinator=HOST:PORT too")
        if mode == "none" or jax.distributed.is_initialized():
            return jax.distributed.is_initialized()
        waits = f"waiting up to {start_timeout} s for the other processes of the job: start them, or end this one"
        ended = f"not all processes of the job came in {start_timeout} s: start them all, or leave --distributed out"
        try:
            with _announced(waits, patience), _limited(ended, start_timeout):
                _initialize(**timeouts)
        except ValueError as error:  # no environment that JAX knows, or one without what it needs
            if "coordinator_address should be defined" in str(error):
                return False
            raise
        return jax.process_count() > 1
    if mode == "auto":
        raise ValueError(f"distributed='auto' and {coordinator=} are two ways to start: leave one out")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{coordinator=} is not HOST:PORT: give the address of process 0, such as 10.0.0.1:8476")
    if processes is None or process is None:
        raise ValueError(f"{coordinator=} alone does not say who joins: give processes=N and process=I too")
    if processes < 1 or not 0 <= process < processes:
        raise ValueError(f"{process=} is out of range with {processes=}: number the processes from 0 on")
    if processes == 1 or jax.distributed.is_initialized():
        return jax.distributed.is_initialized()
    waits = f"process {process} of {processes} waits up to {start_timeout} s for"
    if process:
        with _announced(f"{waits} process 0 at {coordinator}: start it there, or correct the address", patience):
            _wait_for(host, int(port), float(start_timeout))
    else:
        _check_free(int(port))
    remedy = "give them the same command, each its own --process"
    ended = f"not all of {processes} processes reached {coordinator} in {start_timeout} s: {remedy}"
    others = f"{waits} all others to reach {coordinator}: {remedy}"
    with _announced(others, patience), _limited(ended, start_timeout):
        # No detection: a Slurm job, say, may start its processes by another launcher.
        _initialize(coordinator, processes, process, cluster_detection_method="deactivate", **timeouts)
    return True


@contextmanager
def _announced(text: str, seconds: float) -> Generator[None]:
    """Says on stderr what is waited for, if it takes longer than some seconds."""
    with _after(seconds, lambda: print(text, file=sys.stderr, flush=True)):
        yield


@contextmanager
def _limited(text: str, seconds: float) -> Generator[None]:
    """Ends the process with a line if it takes longer than some seconds: JAX's own end is an abort with a C++ trace."""

    def leave() -> None:
        print(text, file=sys.stderr, flush=True)
        os._exit(2)

    with _after(seconds, leave):
        yield


@contextmanager
def _after(seconds: float, action: Callable[[], object]) -> Generator[None]:
    """Does something if the block takes longer than some seconds."""
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _initialize(*arguments: Any, **options: Any) -> None:
    # CPU devices of several processes that run 32 programs ahead of their collectives wait for each other for ever
    # (jaxlib 0.10.2). Nothing else is dispatched differently.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        jax.distributed.initialize(*arguments, **options)
    except ValueError:
        jax.config.update("jax_cpu_enable_async_dispatch", True)
        raise


def _wait_for(host: str, port: int, seconds: float) -> None:
    """Waits until process 0 listens: JAX's own wait ends in an abort that names no option."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), port), timeout=5).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise ValueError(
                    f"coordinator={f'{host}:{port}'!r} does not answer after {seconds:.0f} s ({error}): start process 0"
                    " there, or correct the address"
                ) from error
            time.sleep(0.2)
        else:
            return


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise ValueError(
                f"port {port} of the coordinator cannot be opened ({error.strerror}): give a free one"
            ) from error


def data_mesh(devices: int | None = None) -> jax.sharding.Mesh:
    """A mesh with the one axis "data".

    Over several processes the devices of a process stand side by side, so that it holds one block of a batch.

    Args:
      devices: how many of the visible devices; None for all of them, of all processes.

    Returns:
      The mesh; pass it to ``jax.set_mesh`` or build shardings from it.

    Raises:
      ValueError: fewer devices are visible than asked for, or a number is given to several processes.
    """
    visible = jax.devices()
    if jax.process_count() > 1:
        if devices is not None:
            raise ValueError(f"{devices=} with {jax.process_count()} processes, which use all of theirs: leave it out")
        ordered = sorted(visible, key=lambda device: (device.process_index, device.id))
        return jax.sharding.Mesh(np.array(ordered), ("data",), axis_types=(AxisType.Auto,))
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


def lane_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The sharding of an array whose first axis is the lanes of a sweep: over "member"."""
    return NamedSharding(mesh, P("member"))


def process_rows(batch_size: int) -> slice:
    """The rows of a global batch that this process holds, on a mesh of :func:`data_mesh`.

    Args:
      batch_size: the global batch size, a multiple of the number of devices.

    Returns:
      The block of rows.

    Example:
      >>> process_rows(8)
      slice(0, 8, None)
    """
    share = batch_size // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def spread(tree: PyTree, placement: NamedSharding) -> PyTree:
    """Puts host arrays that every process has onto the devices, each process its own part of them.

    Args:
      tree: NumPy arrays, the same in every process.
      placement: :func:`replicated` or :func:`batch_sharding`.

    Returns:
      The tree with global arrays.
    """
    if placement.is_fully_addressable:
        return jax.device_put(tree, placement)

    def place(array: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(array.shape, placement, lambda index: array[index])

    return jax.tree.map(place, tree)


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
