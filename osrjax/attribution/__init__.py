"""Where a network looks: attribution maps by ``jax.grad``, and boxes on their peaks.

Here stand pure functions of a network's maps and their gradients, and no network. What is done with a box is
:mod:`osrjax.augment.mixing`; a map of every image of a data set is :mod:`osrjax.analysis`.
"""

from osrjax.attribution.boxes import (
    box_bounds,
    box_mask,
    box_side,
    map_peaks,
)
from osrjax.attribution.maps import (
    aggregate_maps,
    attribution_maps,
    check_layers,
    grad_cam,
    input_gradient_map,
    last_layers,
    layer_cam,
    pooled_gradients,
    stage_gradients,
    upsample_map,
)

__all__ = [
    "aggregate_maps",
    "attribution_maps",
    "box_bounds",
    "box_mask",
    "box_side",
    "check_layers",
    "grad_cam",
    "input_gradient_map",
    "last_layers",
    "layer_cam",
    "map_peaks",
    "pooled_gradients",
    "stage_gradients",
    "upsample_map",
]
