"""What each step of a run reads, from images on the devices or streamed."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int

from osrjax.data import Examples, batch_indices, stream
from osrjax.devices import sharding
from osrjax.train.objective import Batch

__all__ = ["gather_batch", "make_inputs"]


def make_inputs(
    examples: Examples, *, batch_size: int, seed: int, mesh: jax.sharding.Mesh, streamed: bool = False
) -> Callable[[int], Iterator[tuple[Batch, Int[np.ndarray, " batch"] | None]]]:
    """Returns ``inputs(start)``: what :func:`gather_batch` needs for each step after ``start``, without an end.

    A batch is a function of seed and step, the same whether it is streamed or gathered on the device.

    Args:
      examples: training images and labels, the same in every process.
      batch_size: rows in a batch, over all devices.
      seed: seed of the order, at least 0.
      mesh: the devices to place images on; of all processes.
      streamed: send each batch, read ahead by threads, instead of keeping all images on every device; a process
        reads its own rows.

    Returns:
      A function from a step to an iterator over pairs: all images with the row numbers of a batch, or, streamed, the
      batch itself with None.
    """

    def inputs(start: int) -> Iterator[tuple[Batch, Int[np.ndarray, " batch"] | None]]:
        if streamed:
            elements = list(zip(examples.images, examples.labels, strict=True))
            here, hosts = jax.process_index(), jax.process_count()
            batches: Any = stream(elements, batch_size, seed=seed, process_index=here, process_count=hosts)
            placement = sharding.batch_sharding(mesh)
            for rows in batches[start:].to_iter_dataset():  # threads read ahead this process's rows
                yield Batch(*(jax.make_array_from_process_local_data(placement, part) for part in rows)), None
        else:
            images = Batch(*sharding.spread(tuple(examples), sharding.replicated(mesh)))
            indices = batch_indices(len(examples.images), batch_size, seed=seed)
            for step in itertools.count(start):
                yield images, indices[step]

    return inputs


def gather_batch(images: Batch, indices: Int[Array, " batch"] | None, *, mesh: jax.sharding.Mesh) -> Batch:
    """The batch of a step, spread over the devices; for use inside the jitted step.

    Args:
      images: all training images and labels, or the batch itself.
      indices: row numbers of the batch, or None.
      mesh: the devices that share the batch.

    Returns:
      The batch, its first axis over the mesh's axis "data".
    """
    batch = images if indices is None else Batch(images.images[indices], images.labels[indices])
    return jax.lax.with_sharding_constraint(batch, sharding.batch_sharding(mesh))
