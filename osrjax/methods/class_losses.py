"""Class losses as values: what a loss reads, and the score that belongs to it. Each names a method."""

from collections.abc import Callable, Mapping
from functools import partial
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import optax
from jaxtyping import Array

from osrjax import losses, scores
from osrjax.methods.table import METHODS
from osrjax.models.networks import HeadName, Reciprocal
from osrjax.train.objective import Hyper

__all__ = ["CLASS_LOSSES", "ClassLoss"]


class ClassLoss(NamedTuple):
    """A classification loss and what belongs to it.

    Attributes:
      head: the network's head whose output it reads.
      function: ``(what it reads, labels, hyper) -> one loss per example``.
      hyper: the hyper-parameters that it reads: fields of :class:`osrjax.methods.options.ClassifyOptions` or names of
        ``own``.
      score: the open-set score that is reported first, a name of :data:`osrjax.evaluation.assessment.SCORES` or of
        ``scores``: the training loss itself at the predicted class; for m-OvR without its margin, which detects better
        on known classes left out of training (experiments/results/cifar10-fast.md).
      own: hyper-parameters beside those fields, with their defaults (``--hyper NAME=VALUE``).
      scores: ``(logits, hyper) -> {name: scores}``, beside those of the head; None for no others.
      read: the network's outputs -> what the function reads: the logits, or a pytree that has them.
    """

    head: HeadName
    function: Callable[[Any, Array, Hyper], Array]
    hyper: tuple[str, ...]
    score: str
    own: Mapping[str, float] = MappingProxyType({})
    scores: Callable[[Array, Hyper], dict[str, Array]] | None = None
    read: Callable[[Any], Any] = attrgetter("logits")

    def of(self, outputs: Any, labels: Array, hyper: Hyper) -> Array:
        """The loss of a network's outputs, one value per example."""
        return self.function(self.read(outputs), labels, hyper)


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


def _reciprocal(
    found: Reciprocal, labels: Array, hyper: Hyper, *, loss: Callable[..., Array], names: tuple[str, ...]
) -> Array:
    return loss(found.logits, found.excess, labels, **{name: hyper[name] for name in names})


def _cac(logits: Array, labels: Array, hyper: Hyper) -> Array:
    return losses.cac_loss(logits, labels, anchor=hyper["anchor"], anchor_weight=hyper["anchor_weight"])


def _cac_score(logits: Array, hyper: Hyper) -> dict[str, Array]:
    return {"cac": scores.log_cac_score(logits, anchor=hyper["anchor"])}


def _of_points(head: HeadName, loss: Callable[..., Array], **own: float) -> ClassLoss:
    """A loss of reciprocal points; ``own`` are its hyper-parameters with the defaults of its paper."""
    function = partial(_reciprocal, loss=loss, names=tuple(own))
    return ClassLoss(head, function, tuple(own), "max_logit", own=own, read=attrgetter("reciprocal"))


_HALVES = ("intra_weight", "inter_weight")


_MARGIN = ("margin", "scale", *_HALVES)


M_OVR = ClassLoss("cosine", _m_ovr, _MARGIN, "m_ovr")
M_OVR_TARGET = ClassLoss("cosine", partial(_m_ovr, margin_on="target"), _MARGIN, "m_ovr")
OVR = ClassLoss("cosine", _ovr, ("scale", *_HALVES), "m_ovr")
COSINE_SOFTMAX = ClassLoss("cosine", _cosine_softmax, ("scale",), "max_softmax")
SOFTMAX = ClassLoss("linear", _softmax, (), "max_softmax")
DOC = ClassLoss("linear", _doc, _HALVES, "ovr")
CAC = ClassLoss(
    *("linear", _cac, ("anchor", "anchor_weight"), "cac"), own={"anchor": 10.0, "anchor_weight": 0.1}, scores=_cac_score
)
RPL = _of_points("reciprocal", losses.rpl_loss, temperature=1.0, radius_weight=0.1)
ARPL = _of_points("adversarial_reciprocal", losses.arpl_loss, temperature=1.0, radius_weight=0.1, slack=1.0)

# By name, as the table of methods has them: the names stand there alone.
CLASS_LOSSES: dict[str, ClassLoss] = {
    name: globals()[path.partition(":")[2]] for name, path in METHODS.items() if path.startswith(f"{__name__}:")
}
