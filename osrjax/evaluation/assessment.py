"""The numbers of one trained network: every open-set score, every metric, with intervals.

What :func:`assess` needs are a classifier's outputs on known validation images, known test images and unknown
test images; :func:`assess_features` takes the features of any encoder instead, and those of its training images.
Both go by arrays alone, so a stored ``scores.npz`` can be assessed again without the network.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from osrjax import metrics, scores
from osrjax.metrics import intervals
from osrjax.scores import features as feature_scores

__all__ = [
    "FEATURE_SCORES",
    "SCORES",
    "OpenSetFeatures",
    "OpenSetLabels",
    "OpenSetOutputs",
    "ScoredImages",
    "assess",
    "assess_features",
    "assess_scores",
    "open_set_feature_scores",
    "open_set_scores",
]

Scalar = float | Float[Array, ""]


SCORES = {
    "cosine": ("m_ovr_margin", "m_ovr", "cosine", "max_softmax", "energy", "entropy"),
    "linear": ("max_softmax", "max_logit", "ovr", "energy", "entropy"),
}


FEATURE_SCORES = ("knn_sum", "knn_ratio", "mahalanobis")


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


class OpenSetFeatures(NamedTuple):
    """Features of one network in one space, one row per image."""

    train: Float[np.ndarray, "train features"]
    validation: Float[np.ndarray, "validation features"]
    known: Float[np.ndarray, "known features"]
    unknown: Float[np.ndarray, "unknown features"]


class OpenSetLabels(NamedTuple):
    """Positions in ``known_classes`` of the same images; unknown ones have none."""

    train: Int[np.ndarray, " train"]
    validation: Int[np.ndarray, " validation"]
    known: Int[np.ndarray, " known"]


class ScoredImages(NamedTuple):
    """One score and one predicted class for every image but the training ones; larger = more unknown."""

    validation: Float[np.ndarray, " validation"]
    known: Float[np.ndarray, " known"]
    unknown: Float[np.ndarray, " unknown"]
    validation_predictions: Int[np.ndarray, " validation"]
    known_predictions: Int[np.ndarray, " known"]
    unknown_predictions: Int[np.ndarray, " unknown"]


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
    logits = (outputs.validation_logits, outputs.known_logits, outputs.unknown_logits)
    found = [open_set_scores(part, head=head, scale=scale, margin=margin) for part in logits]
    predictions = [part.argmax(-1) for part in logits]
    scored = {name: ScoredImages(*(part[name] for part in found), *predictions) for name in found[0]}
    return {
        "scores": assess_scores(
            scored, outputs.known_labels, reject_share=reject_share, resamples=resamples, seed=seed
        ),
        "davies_bouldin": metrics.davies_bouldin(outputs.known_embedding, outputs.known_labels)
        if outputs.known_logits.shape[1] > 1
        else None,
        "validation_accuracy": metrics.closed_set_accuracy(predictions[0], outputs.validation_labels),
        "validation_images": len(outputs.validation_labels),
        "known_images": len(outputs.known_labels),
        "unknown_images": len(outputs.unknown_labels),
    }


def open_set_feature_scores(
    space: OpenSetFeatures,
    labels: Int[np.ndarray, " train"],
    *,
    classes: int,
    neighbours: int = 3,
    shrinkage: float = 0.0,
) -> dict[str, ScoredImages]:
    """Every score of ``FEATURE_SCORES``, by name, with the class that its own comparison prefers.

    *Cost*: one matrix product of all images with all training images.

    Args:
      space: features of the training images, to which the scores are fitted, and of the others.
      labels: of the training images, each class at least once.
      classes: number of known classes.
      neighbours: K of the nearest-neighbour scores.
      shrinkage: of the covariance of the Mahalanobis distance, in [0, 1].

    Returns:
      Float32 scores. Predictions of both nearest-neighbour scores are ``argmax_c S_c``, those of the Mahalanobis
      distance ``argmin_c D_c``.

    Raises:
      ValueError: as :func:`osrjax.scores.features.fit_knn`, :func:`osrjax.scores.features.class_similarities` and
        :func:`osrjax.scores.features.fit_mahalanobis`.
    """
    images = np.concatenate([space.validation, space.known, space.unknown])
    bank = feature_scores.fit_knn(space.train, labels, classes=classes)
    fitted = feature_scores.fit_mahalanobis(space.train, labels, classes=classes, shrinkage=shrinkage)
    similarities = feature_scores.class_similarities(bank, images, neighbours=neighbours)
    distances = feature_scores.mahalanobis_distances(fitted, images)
    found = _compiled_feature_scores(similarities, distances)
    ends = np.cumsum([len(space.validation), len(space.known)])
    return {
        name: ScoredImages(*(part for values in found[name] for part in np.split(np.asarray(values), ends)))
        for name in FEATURE_SCORES
    }


@jax.jit
def _compiled_feature_scores(similarities: Array, distances: Array) -> dict[str, tuple[Array, Array]]:
    nearest = jnp.argmax(similarities, axis=-1)
    return {
        "knn_sum": (feature_scores.knn_sum_score(similarities), nearest),
        "knn_ratio": (feature_scores.knn_ratio_score(similarities), nearest),
        "mahalanobis": (feature_scores.mahalanobis_score(distances), jnp.argmin(distances, axis=-1)),
    }


def assess_features(
    projection: OpenSetFeatures,
    labels: OpenSetLabels,
    *,
    classes: int,
    embedding: OpenSetFeatures | None = None,
    neighbours: int = 3,
    shrinkage: float = 0.0,
    reject_share: float = 0.1,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Metrics of every score that features allow, in the form of :func:`assess`.

    Args:
      projection: features in the space that the loss sees, z.
      labels: of all images but the unknown ones.
      classes: number of known classes.
      embedding: features of the same images before the projection head, h; their scores end in ``_embedding``.
      neighbours: K of the nearest-neighbour scores.
      shrinkage: of the covariance of the Mahalanobis distance, in [0, 1].
      reject_share: share of known VALIDATION images that the threshold of macro-F1 rejects.
      resamples: bootstrap resamples; 0 for no intervals.
      seed: of the bootstrap.

    Returns:
      Plain JSON values: ``scores``, as :func:`assess` gives them; ``davies_bouldin`` of the known test images in z
      (None for a single class), and ``davies_bouldin_embedding`` where h is given; ``validation_accuracy`` by
      nearest neighbours in z; counts of images.

    Raises:
      ValueError: two spaces of different images; otherwise as :func:`open_set_feature_scores`.
    """
    scored = open_set_feature_scores(
        projection, labels.train, classes=classes, neighbours=neighbours, shrinkage=shrinkage
    )
    spaces = {"davies_bouldin": projection}
    if embedding is not None:
        sizes, others = [[len(part) for part in space] for space in (projection, embedding)]
        if sizes != others:
            raise ValueError(f"embedding has {others} images, projection {sizes}: give the same images in both spaces")
        found = open_set_feature_scores(
            embedding, labels.train, classes=classes, neighbours=neighbours, shrinkage=shrinkage
        )
        scored |= {f"{name}_embedding": values for name, values in found.items()}
        spaces["davies_bouldin_embedding"] = embedding
    return {
        "scores": assess_scores(scored, labels.known, reject_share=reject_share, resamples=resamples, seed=seed),
        **{
            name: metrics.davies_bouldin(space.known, labels.known) if classes > 1 else None
            for name, space in spaces.items()
        },
        "validation_accuracy": metrics.closed_set_accuracy(scored["knn_sum"].validation_predictions, labels.validation),
        "validation_images": len(labels.validation),
        "known_images": len(labels.known),
        "unknown_images": len(projection.unknown),
    }


def assess_scores(
    scored: Mapping[str, ScoredImages],
    labels: Int[np.ndarray, " known"],
    *,
    reject_share: float = 0.1,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Every metric of given scores with its interval, and the threshold from the validation images.

    Args:
      scored: scores and predicted classes by name.
      labels: of the known test images.
      reject_share: share of known VALIDATION images that the threshold of macro-F1 rejects.
      resamples: bootstrap resamples; 0 for no intervals.
      seed: of the bootstrap.

    Returns:
      Plain JSON values, the entry ``scores`` of :func:`assess`.
    """
    table: dict[str, dict[str, Any]] = {}
    for name, images in scored.items():
        arrays = (
            images.known,
            images.unknown,
            images.known_predictions,
            labels,
            images.validation,
            images.unknown_predictions,
        )
        values = metrics.open_set_metrics(*arrays, share=reject_share)
        bounds = {}
        if resamples:
            bounds = intervals.bootstrap_intervals(*arrays, share=reject_share, resamples=resamples, seed=seed)
        table[name] = {
            metric: dict(zip(("value", "low", "high"), (value, *bounds.get(metric, (None, None))), strict=True))
            for metric, value in values.items()
        } | {"threshold": metrics.rejection_threshold(images.validation, share=reject_share)}
    return table
