"""How the views of a mixed term are made: GradMix, a random box, and what any other mixing has to provide.

A mixing is a value that can be called, ``(key, views, maps, hyper) -> MixedViews``, and that says which attribution
maps it needs, if any. Those that need none, such as mixup and CutMix, come from :func:`osrjax.augment.view_mixings`.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from osrjax import attribution
from osrjax.attribution.maps import Aggregation
from osrjax.augment import mixing
from osrjax.augment.pixels import Images
from osrjax.augment.views import MixedViews
from osrjax.train.objective import Hyper

__all__ = ["Attribution", "Box", "GradMix", "RandomBox", "ViewMixing"]


@dataclasses.dataclass(frozen=True)
class Attribution:
    """Which maps of a network a mask follows; the defaults are those of GradMix's code.

    Attributes:
      layers: stages whose maps are summed, 1 = the first.
      sign: +1: what would raise the loss, as in the authors' code; -1: what lowers it, the evidence that the network
        uses already.
      method: ``"layer_cam"``, or ``"grad_cam"``, which on the last stage alone is the authors' CamMix
        (theirs takes a corner of the peak's cell, ours the peak of the magnified map).
      aggregation: how stages are added up, as :func:`osrjax.attribution.aggregate_maps`.
      statistics: batch norm in the attribution pass: ``"train"``: by the batch's statistics, at no cost;
        ``"running"``: by the running ones, which costs one more forward pass; then images interact in the loss only.
    """

    layers: tuple[int, ...] = (2, 3, 4)
    sign: Literal[-1, 1] = 1
    method: Literal["layer_cam", "grad_cam"] = "layer_cam"
    aggregation: Aggregation = "batch_minmax_sum"
    statistics: Literal["train", "running"] = "train"

    def __post_init__(self):
        if self.sign not in (-1, 1):
            raise ValueError(f"sign={self.sign!r} is not one of -1, 1: RandomBox is the box without an attribution")
        if self.statistics not in ("train", "running"):
            raise ValueError(f'statistics={self.statistics!r} is not one of "train", "running"')
        if not self.layers:
            raise ValueError(f"layers={self.layers!r} leaves no stage to attribute to: give some, such as (2, 3, 4)")


@dataclasses.dataclass(frozen=True)
class Box:
    """How large a mask is, what it holds and which views have one; the defaults are those of GradMix's code.

    Attributes:
      fill: what goes into the box, as :func:`osrjax.augment.gradmix`.
      views: ``"first"``: the second view stays as it is; ``"both"``: each has a box of its own.
      per_image: a lambda for each image, instead of one for the batch.
      weight: the mixed term's weight follows from the ``"nominal"`` box or from its ``"true"`` area in the image.
      alpha: first parameter of the Beta distribution of lambda, above 0.
      beta: second parameter, above 0.
    """

    fill: mixing.Fill = "noise"
    views: Literal["first", "both"] = "first"
    per_image: bool = False
    weight: mixing.Weight = "nominal"
    alpha: float = 1.0
    beta: float = 1.0

    def __post_init__(self):
        if self.views not in ("first", "both"):
            raise ValueError(f'views={self.views!r} is not one of "first", "both"')


@runtime_checkable
class ViewMixing(Protocol):
    """What makes the mixed views: :class:`GradMix`, :class:`RandomBox`, an entry of ``view_mixings`` or your own."""

    @property
    def attribution(self) -> Attribution | None:
        """The maps that it needs; None: none, and the objective computes none."""
        ...

    @property
    def hyper(self) -> tuple[str, ...]:
        """Names of the hyper-parameters that it reads."""
        ...

    def __call__(
        self, key: Array, views: tuple[Array, ...], maps: Float[Array, "views batch height width"] | None, hyper: Hyper
    ) -> MixedViews:
        """The mixed views of one view of a batch, or of two."""
        ...


@dataclasses.dataclass(frozen=True)
class GradMix:
    """Boxes on the peaks of attribution maps.

    Its metrics: ``mass_in_box`` and ``mass_in_random_box``, the share of the first view's maps that lies in its boxes
    and in equal boxes at random places.

    Attributes:
      attribution: the maps.
      box: the box around the peak of a map.

    Example:
      >>> GradMix(Attribution(layers=(1, 2), sign=-1), Box(fill="paste")).hyper
      ('smallest_kept', 'largest_kept')

    References:
      Xu et al., "Informed Mixing", arXiv 2505.12803, as its code does it.
    """

    attribution: Attribution = Attribution()
    box: Box = Box()
    hyper: ClassVar[tuple[str, ...]] = ("smallest_kept", "largest_kept")

    def __call__(
        self, key: Array, views: tuple[Images, ...], maps: Float[Array, "views batch height width"] | None, hyper: Hyper
    ) -> MixedViews:
        """Views with a box around the peak of each map.

        Args:
          key: consumed.
          views: one view of a batch, or two; ``"paste"`` takes the other view of a partner, where there are two.
          maps: one for each image of each view.
          hyper: ``smallest_kept`` and ``largest_kept``, the range of lambda in (0, 1].

        Returns:
          The masked views.

        Raises:
          ValueError: no maps.
        """
        if maps is None:
            raise ValueError("maps=None: give those of the attribution, or take RandomBox, which needs none")
        draws = _draws(self.box, key, views, hyper)

        def mask(view: int) -> mixing.Mixed:
            return mixing.gradmix(
                draws.keys[view],
                views[view],
                maps[view],
                draws.share,
                fill=self.box.fill,
                others=views[-1 - view],
                weight=self.box.weight,
            )

        _, size, height, width = maps.shape
        random_maps = jax.random.uniform(draws.random_key, (size, height * width)).reshape(size, height, width)
        metrics = {
            "mass_in_box": _mass_in_box(maps[0], maps[0], draws.share),
            "mass_in_random_box": _mass_in_box(maps[0], random_maps, draws.share),
        }
        return _masked_views(self.box, views, mask)._replace(metrics=metrics)


@dataclasses.dataclass(frozen=True)
class RandomBox:
    """Boxes at random places: the control of :class:`GradMix`, without any attribution.

    Attributes:
      box: as there.

    References:
      A random box of noise: Zhong et al., "Random Erasing Data Augmentation", arXiv 1708.04896.
    """

    box: Box = Box()
    attribution: ClassVar[None] = None
    hyper: ClassVar[tuple[str, ...]] = ("smallest_kept", "largest_kept")

    def __call__(self, key: Array, views: tuple[Images, ...], maps: Array | None, hyper: Hyper) -> MixedViews:
        """Views with a box around a random pixel of each image: as :class:`GradMix`, but ``maps`` is not read."""
        del maps
        draws = _draws(self.box, key, views, hyper)

        def mask(view: int) -> mixing.Mixed:
            return mixing.random_box(
                draws.keys[view],
                views[view],
                draws.share,
                fill=self.box.fill,
                others=views[-1 - view],
                weight=self.box.weight,
            )

        return _masked_views(self.box, views, mask)


class _Draws(NamedTuple):
    """What both masks draw alike: the share of each image that stays, a key for each view, and one for the control."""

    share: Array
    keys: tuple[Array, Array]
    random_key: Array


def _draws(box: Box, key: Array, views: tuple[Array, ...], hyper: Hyper) -> _Draws:
    share_key, first_key, second_key, random_key = jax.random.split(key, 4)
    share = mixing.gradmix_share(
        share_key,
        len(views[0]),
        smallest=hyper["smallest_kept"],
        largest=hyper["largest_kept"],
        alpha=box.alpha,
        beta=box.beta,
        per_image=box.per_image,
    )
    return _Draws(share, (first_key, second_key), random_key)


def _masked_views(box: Box, views: tuple[Array, ...], mask: Callable[[int], mixing.Mixed]) -> MixedViews:
    masked = [mask(view) for view in range(1 if box.views == "first" else len(views))]
    kept = jnp.asarray(sum(one.kept for one in masked) / len(masked))
    return MixedViews(tuple(one.images for one in masked), kept, {})


def _mass_in_box(maps: Array, peaked: Array, share: Array) -> Array:
    """Mean share of the maps' sums that lies in boxes on the peaks of other maps."""
    _, height, width = maps.shape
    bounds = attribution.box_bounds(attribution.map_peaks(peaked), share, height=height, width=width)
    inside = jnp.where(attribution.box_mask(bounds, height=height, width=width), maps, 0.0)
    total = jnp.sum(maps, axis=(1, 2))  # 0 where nothing is attributed, and then nothing is inside
    return jnp.mean(jnp.sum(inside, axis=(1, 2)) / jnp.where(total > 0, total, 1.0))
