r"""GradMix inside one compiled step: mask what the network attributes a loss to, and train on the masked images.

The objective follows :mod:`osrjax.methods.classification`. The clean forward pass is made once and serves three ends:
the loss; the attribution, a backward pass from the loss's gradient in closed form down to the chosen stages, through
activations alone; and the final backward pass. Attribution is a constant to that pass, changes no running
statistics, and nothing leaves the device.

*Cost* of a step with two views, in forward passes F of both views of a batch, for a ResNet and stages 2 to 4:
1 (clean) + 0.5 (attribution) + 0.5 (masked first view) + 3 (backward) = 5, where the plain form makes 9: three
forward passes and two full backward passes, one of two graphs.

From parts, without a :class:`osrjax.methods.Method`::

    network = ContrastiveNetwork(NETWORKS["small_cnn"](), features=128)
    mix = GradMix(Attribution(layers=(1, 2, 3), sign=1), Box(fill="noise"))
    objective = make_contrastive_objective(network, make_contrastive_augmentation(), mix=mix)
    step = jax.jit(make_train_step(objective, make_adam()), donate_argnums=0)
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from osrjax.losses import contrastive
from osrjax.methods.masks import ViewMixing
from osrjax.methods.passes import attribute, check_batch, tapped_pass, train_pass
from osrjax.models.networks import Network
from osrjax.train.objective import Batch, Hyper, Objective, ObjectiveAux, PyTree

__all__ = ["make_contrastive_objective"]


def make_contrastive_objective(
    network: Network,
    augmentation: Callable[[Array, Array], Array],
    *,
    mix: ViewMixing | None = None,
    clean_term: bool = True,
    reuse_second_view: bool = True,
    own_positive: bool = False,
    statistics_from: Literal["clean", "clean and mixed"] = "clean",
    block_size: int | None = None,
) -> Objective:
    r"""Returns the objective of GradMix: SupCon and NT-Xent on clean views, and the mixed term.

    .. math:: L = \gamma \, L_{sup}(z) + \lambda_s \, [ L_{ssl}(z) + \overline{\lambda' \, L_{mix}(z, p)} ],

    with z the projections of two views and p those of the mixed views; each part is a mean over anchors, lambda'
    the kept share of an anchor's image. One forward pass over both views, the attribution if the mixing asks for one,
    one forward pass over the mixed views, one backward pass: see the module's cost.

    Args:
      network: gives :class:`osrjax.models.networks.ContrastiveOutputs`.
      augmentation: ``(key, uint8 images) -> float images``, drawn once for each view.
      mix: how views are mixed: :class:`osrjax.methods.GradMix`, :class:`osrjax.methods.RandomBox`, an entry of
        :func:`osrjax.augment.view_mixings` or your own; None: the term is left out.
      clean_term: keep NT-Xent on the clean views beside the mixed term.
      reuse_second_view: where the second view is not mixed, its clean projections stand for it, instead of a
        second pass whose batch statistics would include the masked images.
      own_positive: an anchor's own view is a positive too, where it is mixed.
      statistics_from: which passes update the running statistics.
      block_size: columns at a time of the contrastive losses and of the gradient that is attributed.

    Returns:
      An objective. It reads from ``hyper``: ``supcon_weight`` (gamma), ``ssl_weight`` (lambda_s), ``temperature``,
      what the mixing names, and ``attribution_temperature`` if it asks for an attribution, which is that of NT-Xent.
      Its metrics: the three losses, ``kept`` and those of the mixing.

    Raises:
      ValueError: when called: a batch of one image, stages that the network does not have, two views of other shapes.

    References:
      Xu et al., "Informed Mixing", arXiv 2505.12803, as its code computes it; fewer passes, same mathematics.
    """
    if statistics_from not in ("clean", "clean and mixed"):
        raise ValueError(f'{statistics_from=} is not one of "clean", "clean and mixed"')
    look = None if mix is None else mix.attribution

    def objective(params: PyTree, stats: PyTree, batch: Batch, key: Array, hyper: Hyper) -> tuple[Array, ObjectiveAux]:
        check_batch(batch)
        first_key, second_key, mix_key = jax.random.split(key, 3)
        first, second = augmentation(first_key, batch.images), augmentation(second_key, batch.images)
        if first.shape != second.shape or first.ndim != 4:
            raise ValueError(f"{first.shape=}, {second.shape=} are not two views of a batch: give equal image shapes")
        _, height, width, _ = first.shape
        tapped = partial(
            tapped_pass, network, params, stats, _interleaved(first, second), look, read=lambda out: out.projection
        )
        clean = tapped()
        z, new_stats, temperature = _views(clean.output), clean.stats, hyper["temperature"]
        supcon = jnp.mean(contrastive.supcon_loss(z, batch.labels, temperature=temperature, block_size=block_size))
        ssl = jnp.mean(contrastive.nt_xent_loss(z, temperature=temperature, block_size=block_size))
        metrics = {"supcon_loss": supcon, "nt_xent_loss": ssl}
        bracket = ssl if clean_term or mix is None else 0.0

        def nt_xent_gradient(projection: Array) -> Array:
            return _interleaved(
                *contrastive.nt_xent_gradient(
                    _views(projection), temperature=hyper["attribution_temperature"], block_size=block_size
                )
            )

        if mix is not None:
            maps = None
            if look is not None:
                seen = clean if look.statistics == "train" else tapped(train=False)
                maps = _views(attribute(look, seen, nt_xent_gradient, height=height, width=width))
            mixed = mix(mix_key, (first, second), maps, hyper)
            both_mixed = len(mixed.views) == 2
            reused = reuse_second_view and not both_mixed
            inputs = mixed.views[0] if reused else _interleaved(*(*mixed.views, second)[:2])
            of_both = statistics_from == "clean and mixed"
            outputs, mixed_stats = train_pass(network, params, new_stats if of_both else stats, inputs)
            new_stats = mixed_stats if of_both else new_stats
            p = jnp.stack([outputs.projection, z[1]]) if reused else _views(outputs.projection)
            own = jnp.array([True, both_mixed]) if own_positive else False
            terms = contrastive.mixed_contrastive_loss(
                z, p, own_positive=own, temperature=temperature, block_size=block_size
            )
            bracket = bracket + jnp.mean(mixed.kept[None, :] * terms)
            metrics |= {"mixed_loss": jnp.mean(terms), "kept": jnp.mean(mixed.kept), **mixed.metrics}
        loss = hyper["supcon_weight"] * supcon + hyper["ssl_weight"] * bracket
        return loss, ObjectiveAux(new_stats, metrics)

    return objective


def _interleaved(first: Array, second: Array) -> Array:
    """Two views of a batch as rows, both views of an image side by side.

    One view behind the other would have a batch that is spread over devices change places.
    """
    return jnp.stack([first, second], axis=1).reshape(-1, *first.shape[1:])


def _views(rows: Array) -> Array:
    """Rows of two views side by side as ``[2, batch, ...]``."""
    return rows.reshape(-1, 2, *rows.shape[1:]).swapaxes(0, 1)
