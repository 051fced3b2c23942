"""Attribution maps: which pixels a loss depends on, as arithmetic over arrays.

*Activations* are the output of a stage of a network, ``[*batch, height, width, channels]``; *gradients* are those of
a scalar with respect to them. The scalar may depend on the batch as a whole, as contrastive losses do: then the
gradient of an image's activations adds up its roles as an anchor, a positive and a negative. Maps are floats
``[*batch, height, width]``, larger = the scalar depends more on the place.

Gradients with respect to activations are ``jax.grad`` with respect to *taps*, zeros that a network of
:mod:`osrjax.models` adds to them: :func:`stage_gradients` does that for any function of taps.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from osrjax.arrays import at_least_float32

__all__ = [
    "aggregate_maps",
    "attribution_maps",
    "check_layers",
    "grad_cam",
    "input_gradient_map",
    "last_layers",
    "layer_cam",
    "pooled_gradients",
    "stage_gradients",
    "upsample_map",
]

Scalar = float | Float[Array, ""]


Aggregation = Literal["batch_minmax_sum", "raw_sum", "sample_max_sum"]


def input_gradient_map(
    gradients: Float[Array, "*batch height width channels"],
) -> Float[Array, "*batch height width"]:
    r"""Saliency of a pixel: the largest absolute gradient among its channels.

    .. math:: M_{yx} = \max_c |\partial L / \partial x_{yxc}|.

    Args:
      gradients: of a scalar with respect to images, ``jax.grad(function)(images)``.

    Returns:
      Maps, at least 0.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> gradients = jax.grad(lambda x: jnp.sum(x[..., 0]) - 2 * jnp.sum(x[..., 1]))(jnp.ones((1, 1, 2)))
      >>> print(input_gradient_map(gradients))
      [[2.]]

    References:
      Simonyan, Vedaldi and Zisserman, "Deep Inside Convolutional Networks", arXiv 1312.6034, sec. 3.1.
    """
    return jnp.max(jnp.abs(gradients), axis=-1)


def layer_cam(
    activations: Float[Array, "*batch height width channels"],
    gradients: Float[Array, "*batch _ _ channels"],
    *,
    sign: Scalar = 1.0,
) -> Float[Array, "*batch height width"]:
    r"""LayerCAM: activations weighted, place by place, by the positive part of their gradients.

    .. math:: M_{yx} = \sum_c A_{yxc} \, \mathrm{ReLU}(\sigma \, \partial L / \partial A_{yxc}).

    Args:
      activations: A, at least 0 behind a ReLU.
      gradients: of the same shape, or with height and width 1 where they are constant over the map
        (:func:`pooled_gradients`).
      sign: sigma. For a score +1 marks the evidence for it. For a LOSS +1 marks what would raise the loss
        (GradMix's code), -1 what lowers it: the evidence that the model already uses.

    Returns:
      Maps, at least 0 if the activations are.

    Raises:
      ValueError: gradients of other images or channels.

    Example:
      >>> import jax.numpy as jnp
      >>> print(layer_cam(jnp.array([[[2.0, 3.0]]]), jnp.array([[[0.5, -1.0]]])))
      [[1.]]

    References:
      Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization", IEEE TIP 30, 2021,
      eq. 5-6; on a contrastive loss: Xu et al., arXiv 2505.12803.
    """
    _check_gradients(activations, gradients)
    return jnp.sum(activations * jax.nn.relu(sign * gradients), axis=-1)


def grad_cam(
    activations: Float[Array, "*batch height width channels"],
    gradients: Float[Array, "*batch _ _ channels"],
    *,
    sign: Scalar = 1.0,
) -> Float[Array, "*batch height width"]:
    r"""Grad-CAM: activations weighted by their channel's mean gradient, then rectified.

    .. math:: M_{yx} = \mathrm{ReLU}\Big(\sum_c A_{yxc} \; \sigma\, \mathrm{mean}_{y'x'}
              \frac{\partial L}{\partial A_{y'x'c}}\Big).

    Args:
      activations: A.
      gradients: of the same shape, or with height and width 1 where they are constant over the map.
      sign: as for :func:`layer_cam`.

    Returns:
      Maps, at least 0.

    Raises:
      ValueError: gradients of other images or channels.

    Example:
      >>> import jax.numpy as jnp
      >>> print(grad_cam(jnp.array([[[2.0, 3.0]]]), jnp.array([[[2.0, -1.0]]])))
      [[1.]]

    References:
      Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
      arXiv 1610.02391, eq. 1 and 2.
    """
    _check_gradients(activations, gradients)
    weights = jnp.mean(gradients, axis=(-3, -2), keepdims=True)
    return jax.nn.relu(sign * jnp.sum(activations * weights, axis=-1))


def pooled_gradients(
    embedding_gradients: Float[Array, "*batch channels"], *, height: int, width: int
) -> Float[Array, "*batch 1 1 channels"]:
    r"""Gradient with respect to activations of which only the mean is read: the same at every place.

    .. math:: \frac{\partial L}{\partial A_{yxc}} = \frac{1}{HW} \frac{\partial L}{\partial h_c},
              \qquad h_c = \mathrm{mean}_{yx} A_{yxc}.

    This is so for the last stage of a residual network, whose map then needs no convolutional backward pass.

    Args:
      embedding_gradients: of a scalar with respect to h.
      height: H, of the activations.
      width: W, of the activations.

    Returns:
      The gradient with one row and one column, which broadcasts over the activations.

    Raises:
      ValueError: a height or width below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> print(pooled_gradients(jnp.array([8.0]), height=2, width=2))
      [[[2.]]]
    """
    if height < 1 or width < 1:
        raise ValueError(f"{height=}, {width=} is no map: give at least 1 each")
    return embedding_gradients[..., None, None, :] / (height * width)


def upsample_map(maps: Float[Array, "*batch _ _"], *, height: int, width: int) -> Float[Array, "*batch height width"]:
    """Maps magnified bilinearly between pixel centres; beyond the outermost centres they stay constant.

    This is ``align_corners=False`` of other libraries.

    *Cost*: two small matrix products a map, at HIGHEST precision.

    Args:
      maps: of any size up to the new one.
      height: new height, at least the old one.
      width: new width.

    Returns:
      Maps of the new size.

    Raises:
      ValueError: a new size below the old one, which would need smoothing.

    Example:
      >>> import jax.numpy as jnp
      >>> print(upsample_map(jnp.array([[0.0, 4.0]]), height=1, width=4))
      [[0. 1. 3. 4.]]
    """
    if height < maps.shape[-2] or width < maps.shape[-1]:
        raise ValueError(f"{height=}, {width=} is smaller than {maps.shape=}: maps are only magnified")
    shape = (*maps.shape[:-2], height, width)
    return jax.image.resize(maps, shape, "bilinear", antialias=False, precision=jax.lax.Precision.HIGHEST)


def aggregate_maps(
    maps: Sequence[Float[Array, "batch _ _"]],
    *,
    height: int,
    width: int,
    how: Aggregation = "batch_minmax_sum",
) -> Float[Array, "batch height width"]:
    r"""One map per image from the maps of several stages.

    .. math:: M = \sum_l \mathrm{Up}(\hat C_l).

    Args:
      maps: one array per stage, for the same images.
      height: of the images, in pixels.
      width: of the images, in pixels.
      how: ``"batch_minmax_sum"``: each stage is shifted and scaled to [0, 1] by its smallest and largest entry
        in the WHOLE batch; ``"raw_sum"``: as they are, so that the stage with the largest values dominates;
        ``"sample_max_sum"``: each map divided by its own maximum, so that no image depends on another. Both at any
        scale of the maps.

    Returns:
      Maps of the images' size. A stage that is constant (zero) adds a constant; a map without a positive entry is not
      divided.

    Raises:
      ValueError: no stage; an unknown ``how``.

    Example:
      >>> import jax.numpy as jnp
      >>> maps = [jnp.array([[[1.0, 3.0]]]), jnp.array([[[8.0, 0.0]]])]
      >>> print(aggregate_maps(maps, height=1, width=2))
      [[[1. 1.]]]

    References:
      Xu et al., "Informed Mixing", arXiv 2505.12803: the states of its code aggregate in the first two ways.
    """
    if not maps:
        raise ValueError("maps is empty: give the map of at least one stage")

    def over(stage: Array, span: Array) -> Array:
        return stage / jnp.where(span > 0, span, 1.0)

    def scaled(stage: Array) -> Array:
        if how == "batch_minmax_sum":
            low = jnp.min(stage)
            return over(stage - low, jnp.max(stage) - low)
        if how == "sample_max_sum":
            return over(stage, jnp.max(stage, axis=(-2, -1), keepdims=True))
        if how != "raw_sum":
            raise ValueError(f'{how=} is not one of "batch_minmax_sum", "raw_sum", "sample_max_sum"')
        return stage

    return jnp.sum(jnp.stack([upsample_map(scaled(stage), height=height, width=width) for stage in maps]), axis=0)


def stage_gradients(
    function: Callable[[tuple[Array, ...]], tuple[Array, tuple[Array, ...]]],
    taps: tuple[Float[Array, "batch _ _ _"], ...],
    *,
    layers: Sequence[int],
) -> tuple[tuple[Float[Array, "batch _ _ _"], ...], tuple[Float[Array, "batch _ _ _"], ...]]:
    """Activations of chosen stages and a scalar's gradients with respect to them, by ``jax.grad`` through taps.

    *Cost*: one forward pass and the backward pass down to the first chosen stage, without weight gradients.

    Args:
      function: ``taps -> (scalar, stage maps)``, such as a loss of ``network.apply(..., taps=taps)``.
      taps: zeros (:func:`osrjax.models.zero_taps`).
      layers: stages, 1 = the first.

    Returns:
      Activations and gradients, in the order of ``layers``: the first two arguments of :func:`attribution_maps`.

    Raises:
      ValueError: stages that the network does not have.

    Example:
      >>> import jax.numpy as jnp
      >>> activations = jnp.array([[[[1.0], [2.0]]]])
      >>> def loss(taps):
      ...     maps = (activations + taps[0],)
      ...     return jnp.sum(maps[0] ** 2), maps
      >>> _, (gradients,) = stage_gradients(loss, (jnp.zeros((1, 1, 2, 1)),), layers=(1,))
      >>> print(gradients[..., 0])
      [[[2. 4.]]]
    """
    check_layers(layers, len(taps))
    chosen = tuple(layer - 1 for layer in layers)

    def of_chosen(chosen_taps: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
        given = dict(zip(chosen, chosen_taps, strict=True))
        return function(tuple(given.get(stage, tap) for stage, tap in enumerate(taps)))

    gradients, maps = jax.grad(of_chosen, has_aux=True)(tuple(taps[stage] for stage in chosen))
    return tuple(maps[stage] for stage in chosen), gradients


def attribution_maps(
    activations: Sequence[Float[Array, "batch _ _ _"]],
    gradients: Sequence[Float[Array, "batch _ _ _"]],
    *,
    height: int,
    width: int,
    method: Literal["layer_cam", "grad_cam"] = "layer_cam",
    sign: Scalar = 1.0,
    aggregation: Aggregation = "batch_minmax_sum",
) -> Float[Array, "batch height width"]:
    """One map per image of which pixels a scalar depends on, from stages of a network.

    GradMix and the contact sheets of ``experiments/attribution.py`` take their maps from here. Where the gradients come
    from is the caller's: :func:`stage_gradients`, or the backward pass of a forward pass that was made anyway.

    Args:
      activations: A, one array per stage, for the same images.
      gradients: of a scalar with respect to A, stage by stage; they may have one row and one column
        (:func:`pooled_gradients`).
      height: of the images, in pixels.
      width: of the images, in pixels.
      method: how a stage gives a map: :func:`layer_cam` or :func:`grad_cam`, in float32 if A has less precision.
      sign: as for :func:`layer_cam`.
      aggregation: how stages are added up, as for :func:`aggregate_maps`.

    Returns:
      Maps of the images' size, larger = the scalar depends more on the pixel.

    Raises:
      ValueError: an unknown ``method`` or ``aggregation``; no stage, or unequal numbers of arrays.

    Example:
      >>> import jax.numpy as jnp
      >>> activations = jnp.array([[[[1.0], [2.0]]]])
      >>> def loss(taps):
      ...     maps = (activations + taps[0],)
      ...     return jnp.sum(maps[0] ** 2), maps
      >>> found = stage_gradients(loss, (jnp.zeros((1, 1, 2, 1)),), layers=(1,))
      >>> print(attribution_maps(*found, height=1, width=2, aggregation="raw_sum"))
      [[[2. 8.]]]

    References:
      Jiang et al., LayerCAM, IEEE TIP 30, 2021; Selvaraju et al., arXiv 1610.02391; the sum over stages: Xu et al.,
      arXiv 2505.12803.
    """
    if method not in ("layer_cam", "grad_cam"):
        raise ValueError(f'{method=} is not one of "layer_cam", "grad_cam"')
    cam = layer_cam if method == "layer_cam" else grad_cam
    stages = [
        cam(at_least_float32(activation), at_least_float32(gradient), sign=sign)
        for activation, gradient in zip(activations, gradients, strict=True)
    ]
    return aggregate_maps(stages, height=height, width=width, how=aggregation)


def _check_gradients(activations: Array, gradients: Array) -> None:
    """Refuses what would broadcast: one image's gradients for all, or one channel's."""
    if activations.shape[:-3] + activations.shape[-1:] != gradients.shape[:-3] + gradients.shape[-1:]:
        raise ValueError(f"{gradients.shape=} does not fit {activations.shape=}: give those of the same maps")


def check_layers(layers: Sequence[int], stages: int) -> None:
    """Refuses stages that a network does not have.

    Args:
      layers: stages, 1 = the first.
      stages: how many the network has.

    Raises:
      ValueError: no layer, one outside 1..stages, or one named twice.

    Example:
      >>> check_layers((2, 3), 3)
    """
    if not layers or len(set(layers)) != len(layers) or not all(1 <= layer <= stages for layer in layers):
        raise ValueError(f"layers={tuple(layers)}: the network has the stages 1 to {stages}, give one or more of them")


def last_layers(stages: int) -> tuple[int, ...]:
    """The last three stages of a network, or all that it has; 2 to 4 of a residual network.

    Args:
      stages: of the network.

    Returns:
      Numbers of stages, 1 = the first.

    Example:
      >>> last_layers(4), last_layers(2)
      ((2, 3, 4), (1, 2))
    """
    return tuple(range(max(1, stages - 2), stages + 1))
