"""What a network attributes its loss to at given images: the maps, boxes and masked images that GradMix would make."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from osrjax import attribution
from osrjax.attribution.maps import Aggregation
from osrjax.augment import mixing
from osrjax.devices.cpu import compiler_options
from osrjax.methods.method import Method
from osrjax.models.networks import zero_taps

__all__ = ["AttributedImages", "make_attributed_images"]

MapMethod = Literal["layer_cam", "grad_cam", "input_gradient"]


class AttributedImages(NamedTuple):
    """Arrays of each first view under one network, for one sign; on the host after ``jax.device_get``.

    Attributes:
      stages: maps of every stage alone.
      maps: their sum, which places the box.
      peaks: row and column of its maximum.
      boxes: around the peaks, cut at the border.
      masked: the view with its box filled.
    """

    stages: Any
    maps: Any
    peaks: Any
    boxes: Any
    masked: Any


def make_attributed_images(
    method: Method,
    image_shape: tuple[int, int, int],
    *,
    how: MapMethod = "layer_cam",
    layers: tuple[int, ...],
    signs: tuple[int, ...] = (1, -1),
    kept: float = 0.7,
    aggregation: Aggregation = "batch_minmax_sum",
    in_training: bool = True,
    fill: mixing.Fill = "noise",
    seed: int = 0,
) -> Callable[[Any, Array, Array, Array], dict[int, AttributedImages]]:
    """Returns ``(variables, first views, second views, labels) -> {sign: AttributedImages}``, compiled.

    Args:
      method: of the run; its attributed loss is looked at.
      image_shape: height, width, channels.
      how: ``"input_gradient"`` has no stages and the one sign 0.
      layers: stages, 1 = the first.
      signs: +1: what would raise the loss; -1: what lowers it.
      kept: share of an image that a box leaves, in (0, 1).
      aggregation: how the maps of several stages become one.
      in_training: batch norm by the batch's statistics, as GradMix does; otherwise by the running ones.
      fill: what goes into a box.
      seed: of the filling.

    Returns:
      The function. A label of -1 is an image of an unknown class. Maps are scaled over all views of the batch, as in
      training.
    """
    network, attributed = method.make_network(jnp.float32), method.attributed
    height, width, _ = image_shape
    size = {"height": height, "width": width}

    def loss(taps: tuple | None, images: Array, variables: Any, labels: Array) -> tuple[Array, tuple]:
        outputs, _ = network.apply(variables, images, train=in_training, taps=taps, mutable="batch_stats")
        return attributed.loss(outputs, labels), outputs.maps

    def found(variables: Any, first: Array, second: Array, labels: Array) -> dict[int, AttributedImages]:
        images = jnp.concatenate([first, second][: attributed.views])
        of_first, of_stages = slice(len(first)), {}
        if how == "input_gradient":
            slopes, _ = jax.grad(loss, argnums=1, has_aux=True)(None, images, variables, labels)
            of_stages[0] = jnp.array([]), attribution.input_gradient_map(slopes)[of_first]
        else:
            taps = zero_taps(network, image_shape, len(images))
            stages = attribution.stage_gradients(
                lambda taps: loss(taps, images, variables, labels), taps, layers=layers
            )
            for sign in signs:
                maps_of = partial(attribution.attribution_maps, **size, method=how, sign=float(sign))
                alone = [
                    maps_of([one], [slope], aggregation="raw_sum")[of_first] for one, slope in zip(*stages, strict=True)
                ]
                of_stages[sign] = jnp.array(alone), maps_of(*stages, aggregation=aggregation)[of_first]
        key, share, by_sign = jax.random.key(seed), jnp.full(len(first), kept), {}
        for sign, (alone, maps) in of_stages.items():
            peaks = attribution.map_peaks(maps)
            boxes = attribution.box_bounds(peaks, share, **size)
            masked = mixing.gradmix(jax.random.clone(key), first, maps, share, fill=fill, others=second)
            by_sign[sign] = AttributedImages(alone, maps, peaks, boxes, masked.images)
        return by_sign

    return jax.jit(found, compiler_options=compiler_options())
