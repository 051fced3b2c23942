"""Forward passes of objectives: a plain one, and one that keeps its backward pass down to chosen stages."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from osrjax import attribution
from osrjax.methods.masks import Attribution
from osrjax.models.networks import Network, zero_taps
from osrjax.train.objective import Batch, PyTree

__all__ = ["TappedPass", "attribute", "check_batch", "tapped_pass", "train_pass"]


class TappedPass(NamedTuple):
    """A forward pass that can be attributed to chosen stages without a second one.

    Attributes:
      output: what a loss reads of it.
      pullback: from the gradient of a loss with respect to ``output`` to those with respect to the stages' maps.
      maps: of the chosen stages.
      stats: new running statistics.
    """

    output: Any
    pullback: Callable[[Any], tuple[tuple[Array, ...]]]
    maps: tuple[Array, ...]
    stats: PyTree


def train_pass(network: Network, params: PyTree, stats: PyTree, images: Array) -> tuple[Any, PyTree]:
    """A forward pass in train mode.

    Args:
      network: whose pass.
      params: its parameters.
      stats: its running statistics.
      images: as the network sees them.

    Returns:
      The network's outputs and its new running statistics.
    """
    outputs, updated = network.apply(
        {"params": params, "batch_stats": stats}, images, train=True, mutable="batch_stats"
    )
    return outputs, updated["batch_stats"]


def tapped_pass(
    network: Network,
    params: PyTree,
    stats: PyTree,
    images: Float[Array, "batch height width channels"],
    look: Attribution | None,
    *,
    read: Callable[[Any], Any],
    train: bool = True,
) -> TappedPass:
    """A forward pass that keeps its backward pass down to the stages of an attribution.

    Args:
      network: whose pass.
      params: its parameters.
      stats: its running statistics.
      images: as the network sees them.
      look: its ``layers`` are the stages; None: no stage, a forward pass like any other.
      read: from the network's outputs to what the loss reads of them.
      train: batch norm by the batch's statistics, otherwise by the running ones.

    Returns:
      The pass.

    Raises:
      ValueError: stages that the network does not have.
    """
    layers, taps = (), None
    if look is not None:
        size, height, width, channels = images.shape
        layers, taps = look.layers, zero_taps(network, (height, width, channels), size)
        attribution.check_layers(layers, len(taps))

    def forward(chosen: tuple[Array, ...]) -> tuple[Any, tuple[tuple[Array, ...], PyTree]]:
        given = dict(zip(layers, chosen, strict=True))
        all_taps = taps and tuple(given.get(stage, tap) for stage, tap in enumerate(taps, start=1))
        variables = {"params": params, "batch_stats": stats}
        outputs, updated = network.apply(variables, images, train=train, mutable="batch_stats", taps=all_taps)
        return read(outputs), (tuple(outputs.maps[layer - 1] for layer in layers), updated["batch_stats"])

    chosen = tuple(taps[layer - 1] for layer in layers) if taps else ()
    output, pullback, (maps, new_stats) = jax.vjp(forward, chosen, has_aux=True)
    return TappedPass(output, pullback, maps, new_stats)


def attribute(
    look: Attribution,
    passed: TappedPass,
    differentiate: Callable[[Array], Array],
    *,
    height: int,
    width: int,
) -> Float[Array, "batch height width"]:
    """Attribution maps of a loss, from a forward pass that was made before; no gradient passes through them.

    Args:
      look: which maps.
      passed: of :func:`tapped_pass` with the same ``look``.
      differentiate: from the pass's output to the gradient of the loss with respect to it.
      height: of the images, in pixels.
      width: of the images, in pixels.

    Returns:
      One map per image.
    """
    # Without residuals that vary, JAX does not differentiate the backward pass only to drop the result.
    output, pullback, maps, _ = jax.tree.map(jax.lax.stop_gradient, passed)
    (gradients,) = pullback(jax.lax.stop_gradient(differentiate(output)))
    return attribution.attribution_maps(
        maps,
        gradients,
        height=height,
        width=width,
        method=look.method,
        sign=float(look.sign),
        aggregation=look.aggregation,
    )


def check_batch(batch: Batch) -> None:
    """Refuses batches of other ranks, sizes or dtypes, and a single image, which has no negatives."""
    chex.assert_rank([batch.images, batch.labels], [4, 1])
    chex.assert_equal_shape_prefix([batch.images, batch.labels], 1)
    chex.assert_type([batch.images, batch.labels], [jnp.uint8, int])  # float images would be scaled twice
    if batch.images.shape[0] < 2:
        raise ValueError(f"{batch.images.shape=} holds one image: give a batch of 2 or more")
