"""Functions ``(variables, images) -> output`` of a network, for Jacobians and features."""

from collections.abc import Callable
from functools import partial
from typing import Any

from jaxtyping import Array

from osrjax.models.networks import unit_vectors

__all__ = ["BatchFunction", "contrastive_functions", "network_functions"]

PyTree = Any


BatchFunction = Callable[[PyTree, Array], Array]  # variables and a batch of images to a batch of outputs


def network_functions(network: Any) -> dict[str, BatchFunction]:
    """Functions whose Jacobian norms are reported for a network, by name.

    Args:
      network: an :class:`osrjax.models.OpenSetNetwork`, or any module whose ``apply(variables, images, train=False)``
        gives an object with these attributes.

    Returns:
      ``embedding`` (at unit norm: the paper's quantity), ``raw_embedding`` and ``logits`` (unscaled cosines, or affine
      logits), each a function of variables and float images that uses running statistics.
    """

    def outputs(name: str, variables: PyTree, images: Array) -> Array:
        return getattr(network.apply(variables, images, train=False), name)

    return {name: partial(outputs, name) for name in ("embedding", "raw_embedding", "logits")}


def contrastive_functions(network: Any) -> dict[str, BatchFunction]:
    """The same for a network with a projection head.

    Args:
      network: an :class:`osrjax.models.ContrastiveNetwork`, or any module that gives an object with its attributes.

    Returns:
      ``embedding`` (at unit norm), ``raw_embedding`` and ``projection`` (at unit norm).
    """

    def output(name: str, variables: PyTree, images: Array) -> Array:
        return getattr(network.apply(variables, images, train=False), name)

    def unit_embedding(variables: PyTree, images: Array) -> Array:
        return unit_vectors(output("embedding", variables, images))

    raw_embedding, projection = (partial(output, name) for name in ("embedding", "projection"))
    return {"embedding": unit_embedding, "raw_embedding": raw_embedding, "projection": projection}
