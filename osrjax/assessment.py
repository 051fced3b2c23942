"""The numbers of one trained network: every open-set score of its head, every metric, with intervals.

What :func:`assess` needs are the network's outputs on known validation images, known test images and unknown
test images; so a stored ``scores.npz`` can be assessed again without the network.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from osrjax import intervals, metrics, scores

__all__ = ["SCORES", "OpenSetOutputs", "assess", "open_set_scores"]

Scalar = float | Float[Array, ""]

SCORES = {
    "cosine": ("m_ovr_margin", "m_ovr", "cosine", "max_softmax", "energy", "entropy"),
    "linear": ("max_softmax", "max_logit", "ovr", "energy", "entropy"),
}


class OpenSetOutputs(NamedTuple):
    """Outputs of one network, one row per image; logits are unscaled cosines for the cosine head."""

    validation_logits: Float[np.ndarray, "validation classes"]
    validation_labels: Int[np.ndarray, " validation"]
    known_logits: Float[np.ndarray, "known classes"]
    known_embedding: Float[np.ndarray, "known features"]
    known_labels: Int[np.ndarray, " known"]
    unknown_logits: Float[np.ndarray, "unknown classes"]
    unknown_embedding: Float[np.ndarray, "unknown features"]
    unknown_labels: Int[np.ndarray, " unknown"]


def open_set_scores(
    logits: Float[np.ndarray, "examples classes"],
    *,
    head: Literal["cosine", "linear"],
    scale: float = 32.0,
    margin: float = 0.5,
) -> dict[str, Float[np.ndarray, " examples"]]:
    """Every score that a head's outputs allow, by name; larger = more unknown.

    Args:
      logits: unscaled cosines for the head "cosine", affine logits for "linear".
      head: which of the two.
      scale: T of the cosine head, above 0.
      margin: m of the score ``m_ovr_margin``, the training loss's own; ``m_ovr`` has margin 0.

    Returns:
      Float32 scores. The sample-wise m-OvR loss is given as its logarithm, which ranks alike.

    Raises:
      ValueError: an unknown head.
    """
    if head not in SCORES:
        raise ValueError(f'{head=} is not one of "cosine", "linear"')
    found = _compiled_scores(jnp.asarray(logits), head, scale, margin)
    return {name: np.asarray(found[name]) for name in SCORES[head]}


@partial(jax.jit, static_argnums=1)
def _compiled_scores(values: Array, head: str, scale: Scalar, margin: Scalar) -> dict[str, Array]:
    if head == "cosine":
        scaled = scale * values
        found = {
            "cosine": scores.cosine_score(values),
            "m_ovr": scores.log_m_ovr_score(values, scale=scale),
            "m_ovr_margin": scores.log_m_ovr_score(values, scale=scale, margin=margin),
        }
    else:
        scaled = values
        # With margin 0 and T = 1 the one-vs-rest score takes any logits, not cosines alone.
        found = {"max_logit": scores.max_logit_score(values), "ovr": scores.log_m_ovr_score(values, scale=1.0)}
    return found | {
        "max_softmax": scores.max_softmax_score(scaled),
        "energy": scores.energy_score(scaled),
        "entropy": scores.entropy_score(scaled),
    }


def assess(
    outputs: OpenSetOutputs,
    *,
    head: Literal["cosine", "linear"],
    scale: float = 32.0,
    margin: float = 0.5,
    reject_share: float = 0.1,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Metrics of every score with bootstrap intervals, and the network's own figures.

    The intervals are over test images, for this one network: they do not cover other splits or seeds.

    Args:
      outputs: what the network gave.
      head: which head gave it.
      scale: T of the cosine head.
      margin: m of the score ``m_ovr_margin``.
      reject_share: share of known VALIDATION images that the threshold of macro-F1 rejects.
      resamples: bootstrap resamples; 0 for no intervals.
      seed: of the bootstrap.

    Returns:
      Plain JSON values: ``scores``: name -> metric -> {"value", "low", "high"} (the latter two None without
      resamples) and ``threshold``; ``davies_bouldin`` of the known test embedding (None
      for a single class); counts of images.
    """
    found = {
        part: open_set_scores(logits, head=head, scale=scale, margin=margin)
        for part, logits in (
            ("validation", outputs.validation_logits),
            ("known", outputs.known_logits),
            ("unknown", outputs.unknown_logits),
        )
    }
    predictions = outputs.known_logits.argmax(-1)
    unknown_predictions = outputs.unknown_logits.argmax(-1)
    table: dict[str, Mapping[str, Any]] = {}
    for name in found["known"]:
        arrays = (
            found["known"][name],
            found["unknown"][name],
            predictions,
            outputs.known_labels,
            found["validation"][name],
            unknown_predictions,
        )
        values = metrics.open_set_metrics(*arrays, share=reject_share)
        bounds = {}
        if resamples:
            bounds = intervals.bootstrap_intervals(*arrays, share=reject_share, resamples=resamples, seed=seed)
        table[name] = {
            metric: dict(zip(("value", "low", "high"), (value, *bounds.get(metric, (None, None))), strict=True))
            for metric, value in values.items()
        } | {"threshold": metrics.rejection_threshold(found["validation"][name], share=reject_share)}
    validation_predictions = outputs.validation_logits.argmax(-1)
    return {
        "scores": table,
        "davies_bouldin": metrics.davies_bouldin(outputs.known_embedding, outputs.known_labels)
        if outputs.known_logits.shape[1] > 1
        else None,
        "validation_accuracy": metrics.closed_set_accuracy(validation_predictions, outputs.validation_labels),
        "validation_images": len(outputs.validation_labels),
        "known_images": len(outputs.known_labels),
        "unknown_images": len(outputs.unknown_labels),
    }
