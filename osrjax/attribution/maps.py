"""Attribution maps and the mask box of GradMix: which pixels a loss depends on, as arithmetic over arrays.

*Activations* and *gradients* are a stage's map ``[*batch, height, width, channels]`` and the gradient of a
scalar with respect to it. The scalar may couple the batch, as contrastive losses do: then a gradient holds all
roles that an image plays. Maps are floats ``[*batch, height, width]``, larger = depends more on it.

With the *taps* of :mod:`osrjax.models` the gradient with respect to a stage's map is ``jax.grad`` with respect
to its tap: :func:`attribution_maps` does that for any function.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = [
    "aggregate_maps",
    "attribution_maps",
    "check_layers",
    "grad_cam",
    "input_gradient_map",
    "last_layers",
    "layer_cam",
    "pooled_gradients",
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

    Example:
      >>> import jax.numpy as jnp
      >>> print(layer_cam(jnp.array([[[2.0, 3.0]]]), jnp.array([[[0.5, -1.0]]])))
      [[1.]]

    References:
      Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization", IEEE TIP 30, 2021,
      eq. 5-6; on a contrastive loss: Xu et al., arXiv 2505.12803.
    """
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

    Example:
      >>> import jax.numpy as jnp
      >>> print(grad_cam(jnp.array([[[2.0, 3.0]]]), jnp.array([[[2.0, -1.0]]])))
      [[1.]]

    References:
      Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
      arXiv 1610.02391, eq. 1 and 2.
    """
    weights = jnp.mean(gradients, axis=(-3, -2), keepdims=True)
    return jax.nn.relu(sign * jnp.sum(activations * weights, axis=-1))


def pooled_gradients(
    embedding_gradients: Float[Array, "*batch channels"], *, height: int, width: int
) -> Float[Array, "*batch 1 1 channels"]:
    r"""Gradient with respect to a map that only its average is read of: constant over the map.

    .. math:: \frac{\partial L}{\partial A_{yxc}} = \frac{1}{HW} \frac{\partial L}{\partial h_c},
              \qquad h_c = \mathrm{mean}_{yx} A_{yxc}.

    With it the map of a residual network's last stage needs no convolutional backward pass.

    Args:
      embedding_gradients: of a scalar with respect to h.
      height: H, of the stage's map.
      width: W.

    Returns:
      The gradient with one row and one column, which broadcasts over the map.

    Raises:
      ValueError: a height or width below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> print(pooled_gradients(jnp.array([8.0]), height=2, width=2))
      [[[2.]]]

    References:
      The chain rule; that GradMix's last stage is such a map: Xu et al., arXiv 2505.12803.
    """
    if height < 1 or width < 1:
        raise ValueError(f"{height=}, {width=} is no map: give at least 1 each")
    return embedding_gradients[..., None, None, :] / (height * width)


def upsample_map(maps: Float[Array, "*batch _ _"], *, height: int, width: int) -> Float[Array, "*batch height width"]:
    """Maps magnified bilinearly, with half-pixel centres and constant continuation at the border.

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

    References:
      The convention ``align_corners=False`` of the authors' code of Xu et al., arXiv 2505.12803.
    """
    if height < maps.shape[-2] or width < maps.shape[-1]:
        raise ValueError(f"{height=}, {width=} is smaller than {maps.shape=}: maps are only magnified")
    shape = (*maps.shape[:-2], height, width)
    return jax.image.resize(maps, shape, "bilinear", antialias=False, precision=jax.lax.Precision.HIGHEST)


def aggregate_maps(
    maps: Sequence[Float[Array, "batch _ _"]], *, height: int, width: int, how: Aggregation = "batch_minmax_sum"
) -> Float[Array, "batch height width"]:
    r"""One map per image from the maps of several stages.

    .. math:: M = \sum_l \mathrm{Up}(\hat C_l).

    Args:
      maps: one array per stage, for the same images.
      height: of the images.
      width: of the images.
      how: ``"batch_minmax_sum"``: each stage is shifted and scaled to [0, 1] by its smallest and largest entry in the
        WHOLE batch; ``"raw_sum"``: as they are, so that the stage with the largest values dominates;
        ``"sample_max_sum"``: each map divided by its own maximum, so that no image depends on another.

    Returns:
      Maps of the images' size. A stage that is constant (zero) adds a constant.

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

    def scaled(stage: Array) -> Array:
        if how == "batch_minmax_sum":
            low, high = jnp.min(stage), jnp.max(stage)
            return (stage - low) / (high - low + 1e-8)
        if how == "sample_max_sum":
            return stage / (jnp.max(stage, axis=(-2, -1), keepdims=True) + 1e-8)
        if how != "raw_sum":
            raise ValueError(f'{how=} is not one of "batch_minmax_sum", "raw_sum", "sample_max_sum"')
        return stage

    return jnp.sum(jnp.stack([upsample_map(scaled(stage), height=height, width=width) for stage in maps]), axis=0)


def attribution_maps(
    function: Callable[[tuple[Array, ...]], tuple[Array, tuple[Array, ...]]],
    taps: tuple[Float[Array, "batch _ _ _"], ...],
    *,
    layers: Sequence[int],
    height: int,
    width: int,
    method: Literal["layer_cam", "grad_cam"] = "layer_cam",
    sign: Scalar = 1.0,
    how: Aggregation = "batch_minmax_sum",
) -> Float[Array, "batch height width"]:
    """Maps of any function of a network's taps, by one backward pass through activations alone.

    *Cost*: one forward pass and the backward pass down to the first chosen stage, without weight gradients.

    Args:
      function: ``taps -> (scalar, stage maps)``, such as a loss of ``network.apply(..., taps=taps)``.
      taps: zeros (:func:`osrjax.models.networks.zero_taps`).
      layers: stages, 1 = the first.
      height: of the images.
      width: of the images.
      method: which map.
      sign: as for :func:`layer_cam`.
      how: as for :func:`aggregate_maps`.

    Returns:
      One map per image.

    Raises:
      ValueError: stages that the network has not; an unknown method.

    Example:
      >>> import jax.numpy as jnp
      >>> activations = jnp.array([[[[1.0], [2.0]]]])
      >>> def loss(taps):
      ...     maps = (activations + taps[0],)
      ...     return jnp.sum(maps[0] ** 2), maps
      >>> taps = (jnp.zeros((1, 1, 2, 1)),)
      >>> print(attribution_maps(loss, taps, layers=(1,), height=1, width=2, how="raw_sum"))
      [[[2. 8.]]]

    References:
      Jiang et al., LayerCAM, IEEE TIP 30, 2021; Selvaraju et al., arXiv 1610.02391.
    """
    check_layers(layers, len(taps))
    if method not in ("layer_cam", "grad_cam"):
        raise ValueError(f'{method=} is not one of "layer_cam", "grad_cam"')
    chosen = tuple(layer - 1 for layer in layers)

    def of_chosen(chosen_taps: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
        given = dict(zip(chosen, chosen_taps, strict=True))
        return function(tuple(given.get(stage, tap) for stage, tap in enumerate(taps)))

    gradients, maps = jax.grad(of_chosen, has_aux=True)(tuple(taps[stage] for stage in chosen))
    cam = layer_cam if method == "layer_cam" else grad_cam
    found = [cam(maps[stage], gradient, sign=sign) for stage, gradient in zip(chosen, gradients, strict=True)]
    return aggregate_maps(found, height=height, width=width, how=how)


def check_layers(layers: Sequence[int], stages: int) -> None:
    """Refuses stages that a network has not.

    Args:
      layers: stages, 1 = the first.
      stages: how many the network has.

    Raises:
      ValueError: no layer, one outside 1..stages, or one named twice.

    Example:
      >>> check_layers((2, 3), 3)

    References:
      Stages are counted from 1, as in the run names of the code of Xu et al., arXiv 2505.12803.
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
