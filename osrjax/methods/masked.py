"""Classifiers that also classify their images with a part masked or mixed, such as the part that they look at."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from osrjax.methods.class_losses import ClassLoss
from osrjax.methods.masks import ViewMixing
from osrjax.methods.passes import attribute, check_batch, tapped_pass, train_pass
from osrjax.models.networks import Classifier
from osrjax.train.objective import Batch, Hyper, Objective, ObjectiveAux, PyTree

__all__ = ["make_masked_classify_objective"]


def make_masked_classify_objective(
    network: Classifier,
    class_loss: ClassLoss,
    augmentation: Callable[[Array, Array], Array],
    *,
    mix: ViewMixing,
) -> Objective:
    r"""Returns the objective of a classifier that also classifies its images with the attributed part masked.

    .. math:: L = \overline{L_{class}(x)} + w \, \overline{\lambda' L_{class}(\tilde x)}.

    The maps are those of the class loss itself. *Cost* in forward passes over the batch: 3 (clean) + 0.5
    (attribution, stages 2 to 4) + 3 (masked) = 6.5, against 3 without masking.

    Args:
      network: its head must be the one that the loss reads.
      class_loss: an entry of ``CLASS_LOSSES`` or your own.
      augmentation: ``(key, uint8 images) -> float images``.
      mix: how images are masked: :class:`osrjax.methods.GradMix`, :class:`osrjax.methods.RandomBox` or another; it is
        given one view.

    Returns:
      An objective. It reads from ``hyper`` what the loss names, ``mixed_weight`` (w), and what the mixing names.

    Raises:
      ValueError: the network's head is not the one that the loss reads; when called: a batch of one image or stages
        that the network does not have.

    References:
      No paper: the mask of Xu et al., arXiv 2505.12803, under the losses of Park et al., arXiv 2209.11436.
    """
    if network.head != class_loss.head:
        raise ValueError(f"{network.head=} does not fit a loss on the {class_loss.head} head: use that head")
    look = mix.attribution

    def objective(params: PyTree, stats: PyTree, batch: Batch, key: Array, hyper: Hyper) -> tuple[Array, ObjectiveAux]:
        check_batch(batch)
        image_key, mix_key = jax.random.split(key)
        images = augmentation(image_key, batch.images)
        _, height, width, _ = images.shape

        def class_losses(read: Any) -> Array:
            return class_loss.function(read, batch.labels, hyper)

        tapped = partial(tapped_pass, network, params, stats, images, look, read=class_loss.read)
        clean = tapped()
        loss = jnp.mean(class_losses(clean.output))
        maps = None
        if look is not None:
            seen = clean if look.statistics == "train" else tapped(train=False)
            gradient = jax.grad(lambda read: jnp.mean(class_losses(read)))
            maps = attribute(look, seen, gradient, height=height, width=width)[None]
        mixed = mix(mix_key, (images,), maps, hyper)
        outputs, _ = train_pass(network, params, stats, mixed.views[0])
        masked = class_losses(class_loss.read(outputs))
        total = loss + hyper["mixed_weight"] * jnp.mean(mixed.kept * masked)
        logits = getattr(clean.output, "logits", clean.output)
        correct = jnp.argmax(logits, axis=-1) == batch.labels
        metrics = {
            "class_loss": loss,
            "accuracy": jnp.mean(correct.astype(jnp.float32)),
            "mixed_loss": jnp.mean(masked),
            "kept": jnp.mean(mixed.kept),
        }
        return total, ObjectiveAux(clean.stats, metrics | mixed.metrics)

    return objective
