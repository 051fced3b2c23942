"""Augmentations of a batch, from stored uint8 images to floats, and the mixings of two such views."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from osrjax import augment
from osrjax.augment import mixing
from osrjax.augment.pixels import Images

__all__ = [
    "VIEW_MIXINGS",
    "MixedViews",
    "PartnerMixing",
    "SeparateMask",
    "make_contrastive_augmentation",
    "make_crop_and_flip",
    "view_mixings",
]


def make_crop_and_flip(*, crop_padding: int = 4, flip: bool = True) -> Callable[[Array, Array], Array]:
    """Returns the augmentation ``(key, uint8 images) -> float images``: random crop and horizontal flip.

    Args:
      crop_padding: pixels of padding on each side before the crop; 0 turns the crop off.
      flip: mirror each image with probability one half; turn it off for digits and letters.

    Returns:
      A function of a key and uint8 images that gives float32 images in [-1, 1].

    Raises:
      ValueError: a negative ``crop_padding``.

    References:
      Park et al., arXiv 2209.11436, sec. 5 (augmentation A).
    """
    if crop_padding < 0:
        raise ValueError(f"{crop_padding=} is negative: give 0 for no crop, 4 as in the paper")

    def crop_and_flip(key: Array, images: Array) -> Array:
        images = augment.to_float(images)
        if crop_padding and flip:
            return augment.random_crop_and_flip(key, images, padding=crop_padding)
        crop_key, flip_key = jax.random.split(key)
        if crop_padding:
            images = augment.random_crop(crop_key, images, padding=crop_padding)
        if flip:
            images = augment.random_flip(flip_key, images)
        return images

    return crop_and_flip


def make_contrastive_augmentation(
    *,
    crop_scale: tuple[float, float] | None = (0.2, 1.0),
    flip: bool = True,
    jitter: float = 1.0,
    gray: float = 0.2,
    policy: Callable[[Array, Array], Array] | None = None,
) -> Callable[[Array, Array], Array]:
    """Returns the augmentation of contrastive training, ``(key, uint8 images) -> float images``.

    In this order: the policy, colour jitter, random resized crop, horizontal flip, grayscale; as in the authors'
    code, the jitter comes before the crop. Two views are two calls with two keys.

    Args:
      crop_scale: smallest and largest share of the area of the random resized crop; None: no crop.
      flip: mirror each image with probability one half.
      jitter: factor of the strengths 0.4 (brightness, contrast, saturation) and 0.1 (hue), each applied with
        probability 0.8; 0: none.
      gray: probability of dropping the colours.
      policy: ``(key, float images) -> float images`` before everything else, such as
        :func:`osrjax.augment.policies.rand_augment`.

    Returns:
      A function of a key and uint8 images that gives float32 images in [-1, 1].

    Raises:
      ValueError: a jitter below 0 or above 5; when called: ranges that :mod:`osrjax.augment` refuses.

    References:
      Chen et al., arXiv 2002.05709, appendix A, without blur; Xu et al., arXiv 2505.12803, as in its code.
    """
    if not 0 <= jitter <= 5:
        raise ValueError(f"{jitter=} is outside [0, 5]: give a factor of the usual strengths, 1 as published")

    def views(key: Array, images: Array) -> Array:
        keys = jax.random.split(key, 5)
        images = augment.to_float(images)
        if policy is not None:
            images = policy(keys[0], images)
        if jitter:
            strength, hue = 0.4 * jitter, 0.1 * jitter
            images = augment.color_jitter(
                keys[1], images, brightness=strength, contrast=strength, saturation=strength, hue=hue
            )
        if crop_scale is not None:
            images = augment.random_resized_crop(keys[2], images, scale=crop_scale)
        if flip:
            images = augment.random_flip(keys[3], images)
        if gray and images.shape[-1] == 3:
            images = augment.random_grayscale(keys[4], images, probability=gray)
        return images

    return views


class MixedViews(NamedTuple):
    """What a mixing makes of the views of a batch.

    Attributes:
      views: the mixed views, first view first; shorter than the views given where the last ones stay as they are.
      kept: weight of the mixed term for each image: the share of its own content, a mean over the mixed views.
      metrics: scalars to report beside the loss.
    """

    views: tuple[Images, ...]
    kept: Float[Array, " batch"]
    metrics: dict[str, Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class PartnerMixing:
    """Each view mixed with the other view of a partner, by the same draw: partner, share and place are those of both.

    One view alone is mixed with the same view of the partner.

    Attributes:
      function: ``(key, images, *, others) -> Mixed``, such as :func:`osrjax.augment.mixup`.
    """

    function: Callable[..., mixing.Mixed]
    attribution: ClassVar[None] = None
    hyper: ClassVar[tuple[str, ...]] = ()

    def __call__(
        self, key: Array, views: tuple[Array, ...], maps: Array | None, hyper: Mapping[str, Any]
    ) -> MixedViews:
        """The mixed views; ``maps`` and ``hyper`` are not read."""
        del maps, hyper
        pairs = zip(views, reversed(views), strict=True)
        return _mixed_views([self.function(jax.random.clone(key), own, others=other) for own, other in pairs])


@dataclasses.dataclass(frozen=True)
class SeparateMask:
    """Each view masked by its own draw.

    Attributes:
      function: ``(key, images) -> Mixed``.
    """

    function: Callable[[Array, Array], mixing.Mixed]
    attribution: ClassVar[None] = None
    hyper: ClassVar[tuple[str, ...]] = ()

    def __call__(
        self, key: Array, views: tuple[Array, ...], maps: Array | None, hyper: Mapping[str, Any]
    ) -> MixedViews:
        """The masked views; ``maps`` and ``hyper`` are not read."""
        del maps, hyper
        keys = jax.random.split(key, len(views))
        return _mixed_views([self.function(own_key, own) for own_key, own in zip(keys, views, strict=True)])


def _half_cutout(key: Array, images: Array) -> mixing.Mixed:
    """Cutout of a square half as high as the image."""
    cut = partial(augment.cutout, size=images.shape[1] // 2, fill=0.0)
    stayed = cut(jax.random.clone(key), jnp.ones_like(images[..., :1], jnp.float32))
    kept = jnp.minimum(jnp.mean(stayed, axis=(1, 2, 3)), 1.0)  # a rounded mean may lead beyond 1
    return mixing.Mixed(cut(key, images), jnp.arange(len(images)), kept)


def _mixed_views(mixed: Sequence[mixing.Mixed]) -> MixedViews:
    # Boxes that follow the partner's saliency differ between the views, and so do the shares.
    kept = sum(one.kept for one in mixed) / len(mixed)
    return MixedViews(tuple(one.images for one in mixed), jnp.asarray(kept), {})


def view_mixings(alpha: float) -> dict[str, PartnerMixing | SeparateMask]:
    """The mixings of views that need no attribution, by name, as values for the objectives of :mod:`osrjax.methods`.

    Args:
      alpha: of lambda ~ Beta(alpha, alpha), above 0; Cutout has none, its square is half as high as the image.

    Returns:
      Callables ``(key, views, maps, hyper) -> MixedViews``, which read neither maps nor hyper-parameters.

    Raises:
      ValueError: an alpha at or below 0.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> views = jnp.zeros((2, 4, 4, 1)), jnp.ones((2, 4, 4, 1))
      >>> mixed = view_mixings(1.0)["mixup"](jax.random.key(0), views, None, {})
      >>> [view.shape for view in mixed.views], mixed.kept.shape
      ([(2, 4, 4, 1), (2, 4, 4, 1)], (2,))
    """
    if not alpha > 0:
        raise ValueError(f"{alpha=} is not positive: give a parameter of a Beta distribution, such as 1")
    return {
        "mixup": PartnerMixing(partial(mixing.mixup, alpha=alpha)),
        "cutmix": PartnerMixing(partial(mixing.cutmix, alpha=alpha)),
        "saliency_mix": PartnerMixing(partial(mixing.saliency_mix, alpha=alpha)),
        "fmix": PartnerMixing(partial(mixing.fmix, alpha=alpha)),
        "cutout": SeparateMask(_half_cutout),
    }


VIEW_MIXINGS = view_mixings(1.0)
