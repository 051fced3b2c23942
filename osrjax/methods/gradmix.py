r"""GradMix inside one compiled step: mask what the network attributes a loss to, and train on the masked images.

The objectives here follow :mod:`osrjax.methods.classify`. The clean forward pass is made once and serves three ends:
the loss; the attribution, a backward pass from the loss's gradient in closed form down to the chosen stages, through
activations alone; and the final backward pass. Attribution is a constant to that pass, changes no running
statistics, and nothing leaves the device.

*Cost* of a step with two views, in forward passes F of both views of a batch, for a ResNet and stages 2 to 4:
1 (clean) + 0.5 (attribution) + 0.5 (masked first view) + 3 (backward) = 5, where the plain form makes 9: three
forward passes and two full backward passes, one of two graphs.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from osrjax import attribution
from osrjax.attribution.maps import Aggregation
from osrjax.augment import mixing
from osrjax.augment.views import MixViews
from osrjax.losses import contrastive
from osrjax.methods.class_losses import ClassLoss
from osrjax.models.networks import Classifier, Network, zero_taps
from osrjax.train.objective import Batch, Hyper, Objective, ObjectiveAux

__all__ = ["GradMix", "make_contrastive_objective", "make_masked_classify_objective"]

PyTree = Any


@dataclasses.dataclass(frozen=True)
class GradMix:
    """The switches of GradMix that change the compiled program; the defaults are the authors' code without its bugs.

    Attributes:
      layers: stages whose maps are summed, 1 = the first.
      sign: +1: mask what would raise the loss (the authors' code); -1: mask the evidence that lowers it (what
        "already learned" says); 0: a box at a random place, the control, without any attribution.
      method: ``"layer_cam"``, or ``"grad_cam"``, which on the last stage alone is the authors' CamMix
        (theirs takes a corner of the peak's cell, ours the peak of the magnified map).
      aggregation: as :func:`osrjax.attribution.maps.aggregate_maps`.
      statistics: batch norm in the attribution pass: ``"train"``: the batch's, at no cost; ``"running"``: the running
        ones, which need one more forward pass and let images interact through the loss alone.
      fill: what goes into the box, as :func:`osrjax.augment.mixing.gradmix`.
      views: ``"first"``: the second view stays as it is; ``"both"``: each masked by its own map.
      per_image: a lambda for each image, instead of one for the batch.
      weight: the mixed term's weight from the ``"nominal"`` box or from its ``"true"`` area within the image.
      alpha: first parameter of the Beta distribution of lambda, above 0.
      beta: second parameter, above 0.
    """

    layers: tuple[int, ...] = (2, 3, 4)
    sign: Literal[-1, 0, 1] = 1
    method: Literal["layer_cam", "grad_cam"] = "layer_cam"
    aggregation: Aggregation = "batch_minmax_sum"
    statistics: Literal["train", "running"] = "train"
    fill: mixing.Fill = "noise"
    views: Literal["first", "both"] = "first"
    per_image: bool = False
    weight: mixing.Weight = "nominal"
    alpha: float = 1.0
    beta: float = 1.0

    def __post_init__(self):
        choices = {
            "sign": (-1, 0, 1),
            "method": ("layer_cam", "grad_cam"),
            "statistics": ("train", "running"),
            "views": ("first", "both"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(map(repr, allowed))}")
        if self.sign and not self.layers:
            raise ValueError(
                f"layers={self.layers!r} leaves no stage to attribute to: give some, or sign=0 for a random box"
            )


class _Mixed(NamedTuple):
    """Mixed first and second view (None: unchanged), weight of the mixed term per image, metrics."""

    first: Array
    second: Array | None
    kept: Array
    metrics: dict[str, Array]


def make_contrastive_objective(
    network: Network,
    augmentation: Callable[[Array, Array], Array],
    *,
    mix: GradMix | MixViews | None = None,
    clean_term: bool = True,
    reuse_second_view: bool = True,
    own_positive: bool = False,
    statistics_from: Literal["clean", "clean and mixed"] = "clean",
    block_size: int | None = None,
) -> Objective:
    r"""Returns the objective of GradMix: SupCon and NT-Xent on clean views, and the mixed term.

    .. math:: L = \gamma \, L_{sup}(z) + \lambda_s \, [ L_{ssl}(z) + \overline{\lambda' \, L_{mix}(z, p)} ],

    with z the projections of two views and p those of the mixed views; each part is a mean over anchors, lambda'
    the kept share of an anchor's image. One forward pass over both views, the attribution
    (:class:`GradMix`), one forward pass over the mixed views, one backward pass: see the module's cost.

    Args:
      network: gives :class:`osrjax.models.networks.ContrastiveOutputs`.
      augmentation: ``(key, uint8 images) -> float images``, drawn once for each view.
      mix: :class:`GradMix`; or ``(key, first view, second view) -> (mixed first, mixed second, kept [batch])``, such as
        the entries of ``VIEW_MIXINGS``; or None: the term is left out.
      clean_term: keep NT-Xent on the clean views beside the mixed term.
      reuse_second_view: where the second view is not mixed, its clean projections stand for it, instead of a
        second pass whose batch statistics would include the masked images.
      own_positive: an anchor's own view is a positive too, where it is mixed.
      statistics_from: which passes update the running statistics.
      block_size: columns at a time of the contrastive losses and of the gradient that is attributed.

    Returns:
      An objective. It reads from ``hyper``: ``supcon_weight`` (gamma), ``ssl_weight`` (lambda_s),
      ``temperature``; with :class:`GradMix` also ``attribution_temperature``, ``smallest_kept`` and
      ``largest_kept``, the range of lambda in (0, 1].
      Its metrics: the three losses; with GradMix ``kept``, ``mass_in_box`` and ``mass_in_random_box``, the
      share of the maps' sum that lies in the boxes and in equal boxes at random places.

    Raises:
      ValueError: when called: a batch of one image, stages that the network has not, two views of other shapes.

    References:
      Xu et al., "Informed Mixing", arXiv 2505.12803, as its code computes it; fewer passes, same mathematics.
    """
    if statistics_from not in ("clean", "clean and mixed"):
        raise ValueError(f'{statistics_from=} is not one of "clean", "clean and mixed"')

    def objective(params: PyTree, stats: PyTree, batch: Batch, key: Array, hyper: Hyper) -> tuple[Array, ObjectiveAux]:
        _check_batch(batch)
        first_key, second_key, mix_key = jax.random.split(key, 3)
        first, second = augmentation(first_key, batch.images), augmentation(second_key, batch.images)
        if first.shape != second.shape or first.ndim != 4:
            raise ValueError(f"{first.shape=}, {second.shape=} are not two views of a batch: give equal image shapes")
        both = _interleaved(first, second)
        size, height, width, channels = first.shape
        forward = partial(_train_forward, network, params)
        temperature = hyper["temperature"]

        layers = mix.layers if isinstance(mix, GradMix) and mix.sign else ()
        taps = zero_taps(network, (height, width, channels), 2 * size)
        if layers:
            attribution.check_layers(layers, len(taps))

        def clean(chosen: tuple[Array, ...]) -> tuple[Array, tuple[PyTree, PyTree]]:
            outputs, new_stats = forward(stats, both, _with_taps(taps, layers, chosen) if layers else None)
            return outputs.projection, (outputs.maps, new_stats)

        zeros = tuple(taps[layer - 1] for layer in layers)
        projection, pullback, (maps, new_stats) = jax.vjp(clean, zeros, has_aux=True)
        z = _views(projection)
        supcon = jnp.mean(contrastive.supcon_loss(z, batch.labels, temperature=temperature, block_size=block_size))
        ssl = jnp.mean(contrastive.nt_xent_loss(z, temperature=temperature, block_size=block_size))
        metrics = {"supcon_loss": supcon, "nt_xent_loss": ssl}
        bracket = ssl if clean_term or mix is None else 0.0
        if mix is not None:
            if isinstance(mix, GradMix):
                found = None
                if layers and mix.statistics == "running":

                    def running(given: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
                        outputs = _eval_forward(network, params, stats, both, _with_taps(taps, layers, given))
                        return outputs.projection, outputs.maps

                    projection, pullback, maps = jax.vjp(running, zeros, has_aux=True)
                if layers:
                    seen = jax.lax.stop_gradient(_views(projection))
                    rise = contrastive.nt_xent_gradient(
                        seen, temperature=hyper["attribution_temperature"], block_size=block_size
                    )
                    found = _views(_maps(mix, pullback, maps, _interleaved(*rise), height, width))
                mixed = _masked_views(mix_key, mix, first, second, found, hyper)
            else:
                mixed = _Mixed(*mix(mix_key, first, second), {})
            both_mixed = mixed.second is not None
            own = not both_mixed and reuse_second_view
            inputs = mixed.first
            if not own:
                inputs = _interleaved(mixed.first, mixed.second if both_mixed else second)
            outputs, mixed_stats = forward(new_stats if statistics_from == "clean and mixed" else stats, inputs, None)
            new_stats = mixed_stats if statistics_from == "clean and mixed" else new_stats
            p = jnp.stack([outputs.projection, z[1]]) if own else _views(outputs.projection)
            terms = contrastive.mixed_contrastive_loss(
                z,
                p,
                own_positive=jnp.array([True, both_mixed]) if own_positive else False,
                temperature=temperature,
                block_size=block_size,
            )
            bracket = bracket + jnp.mean(mixed.kept[None, :] * terms)
            metrics |= {"mixed_loss": jnp.mean(terms), "kept": jnp.mean(mixed.kept), **mixed.metrics}
        loss = hyper["supcon_weight"] * supcon + hyper["ssl_weight"] * bracket
        return loss, ObjectiveAux(new_stats, metrics)

    return objective


def make_masked_classify_objective(
    network: Classifier,
    class_loss: ClassLoss,
    augmentation: Callable[[Array, Array], Array],
    *,
    mix: GradMix,
) -> Objective:
    r"""Returns the objective of a classifier that also classifies its images with the attributed part masked.

    .. math:: L = \overline{L_{class}(x)} + w \, \overline{\lambda' L_{class}(\tilde x)}.

    The maps are those of the class loss itself. *Cost* in forward passes over the batch: 3 (clean) + 0.5
    (attribution, stages 2 to 4) + 3 (masked) = 6.5, against 3 without masking.

    Args:
      network: its head must be the one that the loss reads.
      class_loss: an entry of ``CLASS_LOSSES`` or one's own.
      augmentation: ``(key, uint8 images) -> float images``.
      mix: the switches; ``views`` and, as no second view exists, reuse have no meaning here.

    Returns:
      An objective. It reads from ``hyper`` what the loss names, ``mixed_weight`` (w), and ``smallest_kept`` and
      ``largest_kept``, the range of lambda.

    Raises:
      ValueError: the network's head is not the one that the loss reads; when called: a batch of one image or stages
        that the network has not.

    References:
      No paper: the mask of Xu et al., arXiv 2505.12803, under the losses of Park et al., arXiv 2209.11436.
    """
    if network.head != class_loss.head:
        raise ValueError(f"{network.head=} does not fit a loss on the {class_loss.head} head: use that head")

    def objective(params: PyTree, stats: PyTree, batch: Batch, key: Array, hyper: Hyper) -> tuple[Array, ObjectiveAux]:
        _check_batch(batch)
        image_key, mix_key = jax.random.split(key)
        images = augmentation(image_key, batch.images)
        size, height, width, channels = images.shape
        taps = zero_taps(network, (height, width, channels), size)
        layers = mix.layers if mix.sign else ()
        if layers:
            attribution.check_layers(layers, len(taps))
        zeros = tuple(taps[layer - 1] for layer in layers)

        def class_losses(logits: Array) -> Array:
            return class_loss.function(logits, batch.labels, hyper)

        def clean(chosen: tuple[Array, ...]) -> tuple[Array, tuple[PyTree, PyTree]]:
            given = _with_taps(taps, layers, chosen) if layers else None
            outputs, new_stats = _train_forward(network, params, stats, images, given)
            return outputs.logits, (outputs.maps, new_stats)

        logits, pullback, (maps, new_stats) = jax.vjp(clean, zeros, has_aux=True)
        loss = jnp.mean(class_losses(logits))
        found = None
        if layers:
            if mix.statistics == "running":

                def running(given: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
                    outputs = _eval_forward(network, params, stats, images, _with_taps(taps, layers, given))
                    return outputs.logits, outputs.maps

                seen, pullback, maps = jax.vjp(running, zeros, has_aux=True)
            else:
                seen = logits
            rise = jax.grad(lambda values: jnp.mean(class_losses(values)))(jax.lax.stop_gradient(seen))
            found = _maps(mix, pullback, maps, rise, height, width)[None]
        mixed = _masked_views(mix_key, dataclasses.replace(mix, views="first"), images, images, found, hyper)
        outputs, _ = _train_forward(network, params, stats, mixed.first, None)
        masked = class_losses(outputs.logits)
        total = loss + hyper["mixed_weight"] * jnp.mean(mixed.kept * masked)
        correct = jnp.argmax(logits, axis=-1) == batch.labels
        metrics = {
            "class_loss": loss,
            "accuracy": jnp.mean(correct.astype(jnp.float32)),
            "mixed_loss": jnp.mean(masked),
            "kept": jnp.mean(mixed.kept),
        }
        return total, ObjectiveAux(new_stats, metrics | mixed.metrics)

    return objective


def _interleaved(first: Array, second: Array) -> Array:
    """Two views of a batch as rows, both views of an image side by side.

    One view behind the other would have a batch that is spread over devices change places.
    """
    return jnp.stack([first, second], axis=1).reshape(-1, *first.shape[1:])


def _views(rows: Array) -> Array:
    """Rows of two views side by side as ``[2, batch, ...]``."""
    return rows.reshape(-1, 2, *rows.shape[1:]).swapaxes(0, 1)


def _train_forward(network, params: PyTree, stats: PyTree, images: Array, taps: tuple | None) -> tuple:
    variables = {"params": params, "batch_stats": stats}
    outputs, updated = network.apply(variables, images, train=True, mutable="batch_stats", taps=taps)
    return outputs, updated["batch_stats"]


def _eval_forward(network, params: PyTree, stats: PyTree, images: Array, taps: tuple) -> Any:
    return network.apply({"params": params, "batch_stats": stats}, images, train=False, taps=taps)


def _with_taps(taps: tuple, layers: tuple[int, ...], chosen: tuple) -> tuple:
    given = dict(zip(layers, chosen, strict=True))
    return tuple(given.get(stage, tap) for stage, tap in enumerate(taps, start=1))


def _maps(mix: GradMix, pullback: Any, maps: tuple, rise: Array, height: int, width: int) -> Array:
    """Aggregated maps from the gradient of the loss with respect to a network's output; constants to any gradient."""
    # Without residuals that vary, JAX does not differentiate the backward pass only to drop the result.
    pullback, maps = jax.tree.map(jax.lax.stop_gradient, (pullback, maps))
    (gradients,) = pullback(jax.lax.stop_gradient(rise))
    cam = attribution.layer_cam if mix.method == "layer_cam" else attribution.grad_cam
    stages = [
        cam(maps[layer - 1].astype(jnp.float32), gradient.astype(jnp.float32), sign=float(mix.sign))
        for layer, gradient in zip(mix.layers, gradients, strict=True)
    ]
    return attribution.aggregate_maps(stages, height=height, width=width, how=mix.aggregation)


def _masked_views(
    key: Array, mix: GradMix, first: Array, second: Array, maps: Float[Array, "..."] | None, hyper: Hyper
) -> _Mixed:
    size, height, width, _ = first.shape
    share_key, first_key, second_key, random_key = jax.random.split(key, 4)
    share = mixing.gradmix_share(
        share_key,
        size,
        smallest=hyper["smallest_kept"],
        largest=hyper["largest_kept"],
        alpha=mix.alpha,
        beta=mix.beta,
        per_image=mix.per_image,
    )

    def masked(key: Array, images: Array, others: Array, own_maps: Array | None) -> mixing.Mixed:
        if own_maps is None:
            return mixing.random_box(key, images, share, fill=mix.fill, others=others, weight=mix.weight)
        return mixing.gradmix(key, images, own_maps, share, fill=mix.fill, others=others, weight=mix.weight)

    metrics = {}
    if maps is not None:
        random_maps = jax.random.uniform(random_key, (size, height * width)).reshape(size, height, width)
        metrics = {
            "mass_in_box": _mass_in_box(maps[0], maps[0], share),
            "mass_in_random_box": _mass_in_box(maps[0], random_maps, share),
        }
    one = masked(first_key, first, second, None if maps is None else maps[0])
    if mix.views == "first":
        return _Mixed(one.images, None, one.kept, metrics)
    two = masked(second_key, second, first, None if maps is None else maps[1])
    return _Mixed(one.images, two.images, (one.kept + two.kept) / 2, metrics)


def _mass_in_box(maps: Array, peaked: Array, share: Array) -> Array:
    """Mean share of the maps' sums that lies in boxes on the peaks of other maps."""
    _, height, width = maps.shape
    bounds = attribution.box_bounds(attribution.map_peaks(peaked), share, height=height, width=width)
    inside = jnp.where(attribution.box_mask(bounds, height=height, width=width), maps, 0.0)
    return jnp.mean(jnp.sum(inside, axis=(1, 2)) / (jnp.sum(maps, axis=(1, 2)) + 1e-8))


def _check_batch(batch: Batch) -> None:
    chex.assert_rank([batch.images, batch.labels], [4, 1])
    chex.assert_equal_shape_prefix([batch.images, batch.labels], 1)
    chex.assert_type([batch.images, batch.labels], [jnp.uint8, int])  # float images would be scaled twice
    if batch.images.shape[0] < 2:
        raise ValueError(f"{batch.images.shape=} holds one image: give a batch of 2 or more")
