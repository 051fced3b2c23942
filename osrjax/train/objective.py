"""The types of what a training step minimises: ``(params, stats, batch, key, hyper) -> (loss, aux)``."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxtyping import Array, Float, Int, UInt8

__all__ = ["Batch", "Hyper", "Objective", "ObjectiveAux"]

PyTree = Any


Hyper = Mapping[str, float | Float[Array, ""]]


class Batch(NamedTuple):
    """Images as they are stored and their positions in ``known_classes``."""

    images: UInt8[Array, "batch height width channels"]
    labels: Int[Array, " batch"]


class ObjectiveAux(NamedTuple):
    """What an objective returns beside the loss: new running statistics and scalar metrics."""

    stats: PyTree
    metrics: dict[str, Float[Array, ""]]


Objective = Callable[[PyTree, PyTree, Batch, Array, Hyper], tuple[Array, ObjectiveAux]]
