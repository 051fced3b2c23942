"""Class losses as values: what a loss reads, and the score that belongs to it. Each names a method."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Literal, NamedTuple

import optax
from jaxtyping import Array

from osrjax import losses
from osrjax.methods.table import METHODS
from osrjax.train.objective import Hyper

__all__ = ["CLASS_LOSSES", "ClassLoss"]


class ClassLoss(NamedTuple):
    """A classification loss and what belongs to it.

    Attributes:
      head: the network's head whose output it reads.
      function: ``(logits, labels, hyper) -> one loss per example``.
      hyper: the hyper-parameters that it reads: fields of :class:`osrjax.methods.options.ClassifyOptions` or names of
        ``own``.
      score: the open-set score that is reported first, a name of :data:`osrjax.evaluation.assessment.SCORES` or of
        ``scores``: the training loss itself at the predicted class, as the paper scores. (For ``m_ovr_target`` the
        score has the margin on all angles.)
      own: hyper-parameters beside those fields, with their defaults (``--hyper NAME=VALUE``).
      scores: ``(logits, hyper) -> {name: scores}``, beside those of the head; None for no others.
    """

    head: Literal["cosine", "linear"]
    function: Callable[[Array, Array, Hyper], Array]
    hyper: tuple[str, ...]
    score: str
    own: Mapping[str, float] = MappingProxyType({})
    scores: Callable[[Array, Hyper], dict[str, Array]] | None = None


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


M_OVR = ClassLoss("cosine", _m_ovr, _MARGIN, "m_ovr_margin")
M_OVR_TARGET = ClassLoss("cosine", partial(_m_ovr, margin_on="target"), _MARGIN, "m_ovr_margin")
OVR = ClassLoss("cosine", _ovr, ("scale", *_HALVES), "m_ovr")
COSINE_SOFTMAX = ClassLoss("cosine", _cosine_softmax, ("scale",), "max_softmax")
SOFTMAX = ClassLoss("linear", _softmax, (), "max_softmax")
DOC = ClassLoss("linear", _doc, _HALVES, "ovr")

# By name, as the table of methods has them: the names stand there alone.
CLASS_LOSSES: dict[str, ClassLoss] = {
    name: globals()[path.partition(":")[2]] for name, path in METHODS.items() if path.startswith(f"{__name__}:")
}
