"""Functions ``(variables, images) -> output`` of a network, for Jacobians and features."""

from collections.abc import Callable
from functools import partial
from typing import Any

from jaxtyping import Array

__all__ = ["network_functions"]

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
