"""Functions ``(variables, images) -> output`` of a network, for Jacobians and features."""

import inspect
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

    Raises:
      ValueError: no such module; the functions themselves, outputs without their name.
    """
    return {name: partial(_output(network), name) for name in ("embedding", "raw_embedding", "logits")}


def contrastive_functions(network: Any) -> dict[str, BatchFunction]:
    """The same for a network with a projection head.

    Args:
      network: an :class:`osrjax.models.ContrastiveNetwork`, or any module that gives an object with its attributes.

    Returns:
      ``embedding`` (at unit norm), ``raw_embedding`` and ``projection`` (at unit norm).

    Raises:
      ValueError: as :func:`network_functions`.
    """
    output = _output(network)

    def unit_embedding(variables: PyTree, images: Array) -> Array:
        return unit_vectors(output("embedding", variables, images))

    raw_embedding, projection = (partial(output, name) for name in ("embedding", "projection"))
    return {"embedding": unit_embedding, "raw_embedding": raw_embedding, "projection": projection}


def _output(network: Any) -> Callable[[str, PyTree, Array], Array]:
    """An output of a network by its name; refuses modules that do not keep to ``apply(variables, images, train)``."""
    kind = type(network).__name__
    remedy = "write a function (variables, images) -> outputs in its place"
    if not hasattr(network, "apply") or (callable(network) and not _takes_train(network)):
        raise ValueError(f"a {kind} has no apply(variables, images, train=False): {remedy}")

    def output(name: str, variables: PyTree, images: Array) -> Array:
        outputs = network.apply(variables, images, train=False)
        if not hasattr(outputs, name):
            raise ValueError(f"a {kind} gives a {type(outputs).__name__} without {name!r}: {remedy}")
        return getattr(outputs, name)

    return output


def _takes_train(network: Callable[..., Any]) -> bool:
    try:
        inspect.signature(network).bind(None, train=False)
    except TypeError:
        return False
    return True
