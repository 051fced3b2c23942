"""A network over all images of a set: outputs batch by batch, and running statistics of an untrained one."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from osrjax import augment
from osrjax.devices import sharding
from osrjax.train.objective import PyTree
from osrjax.train.step import TrainState

__all__ = ["NotFiniteError", "Predictions", "apply_in_batches", "check_finite", "estimate_statistics", "evaluate"]


class NotFiniteError(ValueError, FloatingPointError):
    """A network gives what is no number: no class, no score and no decision follows from it."""


class Predictions(NamedTuple):
    """Host arrays, one row per evaluated image, in the order of the images."""

    logits: Float[np.ndarray, "examples classes"]
    embedding: Float[np.ndarray, "examples features"]


def estimate_statistics(
    state: TrainState,
    network: Any,
    images: UInt8[np.ndarray, "examples height width channels"],
    *,
    batch_size: int,
    batches: int = 50,
    mesh: jax.sharding.Mesh | None = None,
) -> TrainState:
    """The state with running statistics estimated on images, its parameters untouched.

    An untrained network has mean 0 and variance 1 as running statistics, which describe none of its layers:
    what it would give with them is an artefact. Successive batches, from the first image on and round again.

    Args:
      state: its parameters are used as they are.
      network: the network that the parameters belong to.
      images: known TRAINING images.
      batch_size: images a batch.
      batches: how many; with a momentum of 0.9 the initial statistics keep a weight of 0.9 to that power.
      mesh: devices to share each batch, a multiple of their number; None for the default device.

    Returns:
      The state with new ``stats``.
    """

    @jax.jit
    def update(params: PyTree, stats: PyTree, rows: Array) -> PyTree:
        variables = {"params": params, "batch_stats": stats}
        _, updated = network.apply(variables, augment.to_float(rows), train=True, mutable="batch_stats")
        return updated["batch_stats"]

    stats = state.stats
    for batch in range(batches):
        rows = np.arange(batch * batch_size, (batch + 1) * batch_size) % len(images)
        stats = update(state.params, stats, _placed(images[rows], mesh))
    return state._replace(stats=stats)


def evaluate(
    forward: Callable[[Float[Array, "batch height width channels"]], Any],
    images: UInt8[np.ndarray, "examples height width channels"],
    *,
    batch_size: int,
    mesh: jax.sharding.Mesh | None = None,
) -> Predictions:
    """Outputs of a network for every image, none left out.

    The last batch is padded with copies of the first image and the padding's rows are dropped, so that one
    compiled program serves all batches and no metric loses its last examples. The images must not interact:
    ``forward`` uses running statistics.

    Args:
      forward: jitted; float32 images in [-1, 1] to an object with ``logits`` and ``embedding``.
      images: at least one; the same in every process.
      batch_size: images a call, at least 1; raised to a multiple of the number of devices.
      mesh: devices to share each batch; ``forward`` then gives its results to all (``out_shardings`` replicated).
        None for the default device.

    Returns:
      Logits and embeddings, in the order of the images.

    Raises:
      ValueError: no image, or a ``batch_size`` below 1.
    """

    def predict(rows: Array) -> Predictions:
        outputs = forward(rows)
        return Predictions(outputs.logits, outputs.embedding)

    return apply_in_batches(predict, images, batch_size=batch_size, mesh=mesh)


def apply_in_batches(
    forward: Callable[[Float[Array, "batch height width channels"]], PyTree],
    images: UInt8[np.ndarray, "examples height width channels"],
    *,
    batch_size: int,
    mesh: jax.sharding.Mesh | None = None,
) -> PyTree:
    """Whatever a function gives for every image, as host arrays; padding and errors are those of :func:`evaluate`.

    Args:
      forward: jitted; float32 images in [-1, 1] to a tree of arrays with one row per image.
      images: at least one.
      batch_size: images a call, at least 1.
      mesh: as for :func:`evaluate`.

    Returns:
      The tree with NumPy arrays, in the order of the images; all of it in every process.
    """
    if batch_size < 1 or not len(images):
        raise ValueError(f"{batch_size=} with {len(images)=}: give at least one image and a batch of at least 1")
    if mesh is not None:
        batch_size += -batch_size % mesh.shape["data"]
    parts = []
    for start in range(0, len(images), batch_size):
        rows = images[start : start + batch_size]
        missing = batch_size - len(rows)
        padded = np.concatenate([rows, np.repeat(images[:1], missing, axis=0)]) if missing else rows
        parts.append(jax.tree.map(np.asarray, forward(augment.to_float(_placed(padded, mesh)))))
    # Padding stands in the last batch alone, at its end.
    return jax.tree.map(lambda *arrays: np.concatenate(arrays)[: len(images)], *parts)


def check_finite(outputs: Mapping[str, np.ndarray]) -> None:
    """Refuses outputs that are no numbers, before anything is decided by them: NaN is above no threshold.

    Args:
      outputs: by name, one row per image.

    Raises:
      NotFiniteError: names the outputs and counts the images.

    Example:
      >>> check_finite({"logits": np.array([[0.0, 1.0], [np.nan, 0.0]])})
      Traceback (most recent call last):
      osrjax.train.apply.NotFiniteError: non-finite logits of 1 of 2 images
    """
    broken = {name: ~np.isfinite(rows).reshape(len(rows), -1).all(axis=1) for name, rows in outputs.items()}
    names = [name for name, rows in broken.items() if rows.any()]
    if names:
        images = np.any([broken[name] for name in names], axis=0)
        raise NotFiniteError(f"non-finite {', '.join(names)} of {images.sum()} of {len(images)} images")


def _placed(images: np.ndarray, mesh: jax.sharding.Mesh | None) -> Array:
    """The images on the default device, or spread over those of a mesh."""
    return jnp.asarray(images) if mesh is None else sharding.spread(images, sharding.batch_sharding(mesh))
