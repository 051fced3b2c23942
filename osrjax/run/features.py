"""What the network of a finished run makes of images: logits or projections, and embeddings."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from osrjax.devices.cpu import compiler_options
from osrjax.models.networks import ContrastiveNetwork, ContrastiveOutputs, OpenSetNetwork
from osrjax.train.apply import apply_in_batches

__all__ = ["Features", "make_feature_extractor"]

Features = dict[str, Float[np.ndarray, "examples _"]]


def make_feature_extractor(
    network: OpenSetNetwork | ContrastiveNetwork, variables: Any, *, batch_size: int = 500
) -> Callable[[UInt8[np.ndarray, "examples height width channels"]], Features]:
    """Returns ``extract(images) -> features by name``, compiled once for each shape of image.

    Images are scaled to [-1, 1] and nothing else: no set gets a normalisation of its own. Running statistics are
    used, so images do not interact.

    Args:
      network: of either kind, in float32.
      variables: its parameters and running statistics.
      batch_size: images a call of the network, at least 1; the last batch is filled up.

    Returns:
      A function of uint8 images. It gives host arrays with one row per image, in their order: ``embedding`` and
      ``logits`` of a classifier, as :class:`osrjax.models.Outputs` has them, or ``embedding`` and ``projection`` of
      :class:`osrjax.models.networks.ContrastiveOutputs`.

    Raises:
      ValueError: a ``batch_size`` below 1.
    """
    if batch_size < 1:
        raise ValueError(f"{batch_size=} is below 1: give the images a call, such as 500")

    forward = partial(_compiled_forward(), network, variables)

    def extract(images: UInt8[np.ndarray, "examples height width channels"]) -> Features:
        return apply_in_batches(forward, images, batch_size=batch_size)

    return extract


@cache  # networks of one architecture share a compiled program
def _compiled_forward() -> Callable[..., dict[str, Array]]:
    @partial(jax.jit, static_argnums=0, compiler_options=compiler_options())
    def forward(network: OpenSetNetwork | ContrastiveNetwork, variables: Any, images: Array) -> dict[str, Array]:
        outputs: Any = network.apply(variables, images, train=False)
        own = "projection" if isinstance(outputs, ContrastiveOutputs) else "logits"
        return {"embedding": outputs.embedding, own: getattr(outputs, own)}

    return forward
