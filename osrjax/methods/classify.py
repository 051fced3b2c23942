"""What a training step minimises, as functions ``(params, stats, batch, key, hyper) -> (loss, aux)``.

An objective is a pure function, built once by a ``make_`` function from the parts that change the compiled
program: network, loss, augmentation, kind of self-supervision. Everything else is in ``hyper``, a flat
mapping of traced scalars, so that another margin or weight never recompiles and a sweep is a ``vmap``.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from osrjax import augment, losses
from osrjax.models.networks import Classifier
from osrjax.train.objective import Batch, Hyper, Objective, ObjectiveAux, PyTree

__all__ = ["CLASS_LOSSES", "ClassLoss", "make_classify_objective"]


class ClassLoss(NamedTuple):
    """A classification loss and what belongs to it.

    Attributes:
      head: the network's head whose output it reads.
      function: ``(logits, labels, hyper) -> one loss per example``.
      hyper: the hyper-parameters that it reads.
      score: the open-set score that is reported first, a name of
        :data:`osrjax.evaluation.assessment.SCORES`: the training loss itself at the predicted class, as the paper
        scores. (For ``m_ovr_target`` the score has the margin on all angles.)
    """

    head: Literal["cosine", "linear"]
    function: Callable[[Array, Array, Hyper], Array]
    hyper: tuple[str, ...]
    score: str


def _m_ovr(cosines: Array, labels: Array, hyper: Hyper, margin_on: Literal["all", "target"] = "all") -> Array:
    return losses.m_ovr_loss(
        cosines,
        labels,
        margin=hyper["margin"],
        scale=hyper["scale"],
        margin_on=margin_on,
        intra_weight=hyper["intra_weight"],
        inter_weight=hyper["inter_weight"],
    )


def _ovr(cosines: Array, labels: Array, hyper: Hyper) -> Array:
    return _m_ovr(cosines, labels, {**hyper, "margin": 0.0})


def _cosine_softmax(cosines: Array, labels: Array, hyper: Hyper) -> Array:
    return losses.cosine_softmax_loss(cosines, labels, scale=hyper["scale"])


def _softmax(logits: Array, labels: Array, hyper: Hyper) -> Array:
    del hyper
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _doc(logits: Array, labels: Array, hyper: Hyper) -> Array:
    return losses.ovr_loss(logits, labels, intra_weight=hyper["intra_weight"], inter_weight=hyper["inter_weight"])


_HALVES = ("intra_weight", "inter_weight")


_MARGIN = ("margin", "scale", *_HALVES)


CLASS_LOSSES: dict[str, ClassLoss] = {
    "m_ovr": ClassLoss("cosine", _m_ovr, _MARGIN, "m_ovr_margin"),
    "m_ovr_target": ClassLoss("cosine", partial(_m_ovr, margin_on="target"), _MARGIN, "m_ovr_margin"),
    "ovr": ClassLoss("cosine", _ovr, ("scale", *_HALVES), "m_ovr"),
    "cosine_softmax": ClassLoss("cosine", _cosine_softmax, ("scale",), "max_softmax"),
    "softmax": ClassLoss("linear", _softmax, (), "max_softmax"),
    "doc": ClassLoss("linear", _doc, _HALVES, "ovr"),
}


def make_classify_objective(
    network: Classifier,
    class_loss: ClassLoss,
    augmentation: Callable[[Array, Array], Array],
    *,
    rotations: Literal["none", "one", "all"] = "none",
) -> Objective:
    r"""Returns the objective of a classifier with optional rotation prediction.

    .. math:: L = \mathrm{mean}_i\, L_{class}(x_i, y_i) + \lambda_{self}\, \mathrm{mean}_i\, L_{rotation}(x_i).

    The class loss and the running statistics see upright images only; rotated copies pass through the
    network once more, with statistics of their own batch. *Cost* in passes over the batch: 1 without
    rotations, 2 with one random rotation an image, 4 with all four.

    Args:
      network: gives ``Outputs``; its head must be the one that the loss reads.
      class_loss: an entry of ``CLASS_LOSSES`` or one's own.
      augmentation: ``(key, uint8 images) -> float images``, such as :func:`make_crop_and_flip`.
      rotations: ``"none"``; ``"one"``: each image at one of the four rotations, drawn at random; ``"all"``.

    Returns:
      An objective. It reads from ``hyper`` what the loss names, and ``rotation_weight`` unless ``"none"``.

    Raises:
      ValueError: the network's head is not the one that the loss reads; unknown ``rotations``.

    References:
      Park et al., arXiv 2209.11436, sec. 5 (objective and self-supervision S).
    """
    if network.head != class_loss.head:
        raise ValueError(f"{network.head=} does not fit a loss on the {class_loss.head} head: use that head")
    if rotations not in ("none", "one", "all"):
        raise ValueError(f'{rotations=} is not one of "none", "one", "all"')

    def objective(params: PyTree, stats: PyTree, batch: Batch, key: Array, hyper: Hyper) -> tuple[Array, ObjectiveAux]:
        chex.assert_rank([batch.images, batch.labels], [4, 1])
        chex.assert_equal_shape_prefix([batch.images, batch.labels], 1)
        chex.assert_type([batch.images, batch.labels], [jnp.uint8, int])  # float images would be scaled twice
        image_key, turn_key = jax.random.split(key)
        images = augmentation(image_key, batch.images)
        variables = {"params": params, "batch_stats": stats}

        def forward(images: Array) -> tuple:
            return network.apply(variables, images, train=True, mutable="batch_stats")

        outputs, new_variables = forward(images)
        loss = jnp.mean(class_loss.function(outputs.logits, batch.labels, hyper))
        correct = jnp.argmax(outputs.logits, axis=-1) == batch.labels
        metrics = {"class_loss": loss, "accuracy": jnp.mean(correct.astype(jnp.float32))}
        if rotations != "none":
            if rotations == "one":
                turned, turns = augment.random_quarter_turns(turn_key, images)
                rotated, _ = forward(turned)
                rotation_logits = rotated.rotation_logits
            else:
                # The copies of an image lie side by side: behind one another, a batch that is spread over devices
                # would have to change places.
                copies = jnp.stack([jnp.rot90(images, k, (1, 2)) for k in (1, 2, 3)], axis=1)
                rotated, _ = forward(copies.reshape(-1, *images.shape[1:]))
                three = rotated.rotation_logits.reshape(images.shape[0], 3, -1)
                rotation_logits = jnp.concatenate([outputs.rotation_logits[:, None], three], axis=1)
                turns = jnp.broadcast_to(jnp.arange(4), rotation_logits.shape[:2])
            rotation_loss = jnp.mean(losses.rotation_loss(rotation_logits, turns))
            loss = loss + hyper["rotation_weight"] * rotation_loss
            metrics["rotation_loss"] = rotation_loss
        return loss, ObjectiveAux(new_variables["batch_stats"], metrics)

    return objective
