"""The numbers of one trained network: every open-set score, every metric, with intervals.

Scores of a classifier's logits, or of any encoder's features once they are fitted to those of the training images;
everything goes by arrays alone, so a stored ``scores.npz`` can be assessed again without the network.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from osrjax import metrics, scores
from osrjax.arrays import at_least_float32
from osrjax.files import number_or_none
from osrjax.scores import features as feature_scores

__all__ = [
    "FEATURE_SCORES",
    "SCORES",
    "Assessment",
    "FeatureBank",
    "ScoredImages",
    "assess_scored",
    "assess_scores",
    "fit_feature_scores",
    "open_set_feature_scores",
    "open_set_scores",
    "rejected_shares",
    "scored_images",
]

Scalar = float | Float[Array, ""]


SCORES = {
    "cosine": ("m_ovr", "m_ovr_margin", "cosine", "max_softmax", "energy", "entropy"),
    "linear": ("max_softmax", "max_logit", "ovr", "energy", "entropy"),
    **dict.fromkeys(("reciprocal", "adversarial_reciprocal"), ("max_logit", "max_softmax", "energy", "entropy")),
}


FEATURE_SCORES = ("knn_sum", "knn_ratio", "mahalanobis")


class ScoredImages(NamedTuple):
    """One score and one predicted class for every image but the training ones; larger = more unknown."""

    validation: Float[np.ndarray, " validation"]
    known: Float[np.ndarray, " known"]
    unknown: Float[np.ndarray, " unknown"]
    validation_predictions: Integer[np.ndarray, " validation"]
    known_predictions: Integer[np.ndarray, " known"]
    unknown_predictions: Integer[np.ndarray, " unknown"]


def open_set_scores(
    logits: Float[np.ndarray, "examples classes"],
    *,
    head: str,
    scale: float = 32.0,
    margin: float = 0.5,
) -> dict[str, Float[np.ndarray, " examples"]]:
    """Every score that a head's outputs allow, by name; larger = more unknown.

    Args:
      logits: of the head: unscaled cosines for "cosine".
      head: an entry of ``SCORES``.
      scale: T of the cosine head, above 0.
      margin: m of the score ``m_ovr_margin``, the training loss's own; ``m_ovr`` has margin 0.

    Returns:
      Float32 scores. The sample-wise m-OvR loss, the largest softmax probability and the entropy are given as
      logarithms, which rank alike and tie at no margin.

    Raises:
      ValueError: an unknown head.
    """
    if head not in SCORES:
        raise ValueError(f"{head=} does not exist: choose from {', '.join(SCORES)}")
    found = _compiled_scores(jnp.asarray(logits), head, scale, margin)
    return {name: np.asarray(found[name]) for name in SCORES[head]}


@partial(jax.jit, static_argnums=1)
def _compiled_scores(values: Array, head: str, scale: Scalar, margin: Scalar) -> dict[str, Array]:
    values = at_least_float32(values)
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
        "max_softmax": log_max_softmax(scaled),
        "energy": scores.energy_score(scaled),
        "entropy": log_entropy(scaled),
    }


def log_max_softmax(logits: Array) -> Array:
    """:func:`osrjax.scores.log_max_softmax_score`, the lowest number in place of -inf, of a single class."""
    return jnp.maximum(scores.log_max_softmax_score(logits), jnp.finfo(logits.dtype).min)


def log_entropy(logits: Array) -> Array:
    """:func:`osrjax.scores.log_entropy_score`, the lowest number in place of -inf, of a single class."""
    return jnp.maximum(scores.log_entropy_score(logits), jnp.finfo(logits.dtype).min)


class Assessment(NamedTuple):
    """What is found of one network: scores and predictions of every image, and plain JSON values."""

    scored: dict[str, ScoredImages]
    results: dict[str, Any]


class FeatureBank(NamedTuple):
    """What the scores of features are fitted to: unit features by class, and a mean and covariance for Mahalanobis."""

    knn: feature_scores.KnnBank
    mahalanobis: feature_scores.Mahalanobis


def fit_feature_scores(
    features: Float[np.ndarray, "train features"],
    labels: Integer[np.ndarray, " train"],
    *,
    classes: int,
    shrinkage: float = 0.0,
) -> FeatureBank:
    """Fits every score of ``FEATURE_SCORES`` to the features of known training images.

    Args:
      features: one row per training image.
      labels: positions in the known classes, each class at least once.
      classes: number of known classes.
      shrinkage: of the covariance of the Mahalanobis distance, in [0, 1].

    Returns:
      A pytree for :func:`open_set_feature_scores`.

    Raises:
      ValueError: as :func:`osrjax.scores.fit_knn` and :func:`osrjax.scores.fit_mahalanobis`.
    """
    return FeatureBank(
        feature_scores.fit_knn(features, labels, classes=classes),
        feature_scores.fit_mahalanobis(features, labels, classes=classes, shrinkage=shrinkage),
    )


def open_set_feature_scores(
    bank: FeatureBank, features: Float[np.ndarray, "examples features"], *, neighbours: int = 3
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Every score of ``FEATURE_SCORES``, by name, with the class that its own comparison prefers.

    *Cost*: one matrix product of all images with all training images.

    Args:
      bank: fitted to the training images.
      features: of other images, in the same space.
      neighbours: K of the nearest-neighbour scores.

    Returns:
      Float32 scores and predictions. Predictions of both nearest-neighbour scores are ``argmax_c S_c``, those of the
      Mahalanobis distance ``argmin_c D_c``.

    Raises:
      ValueError: as :func:`osrjax.scores.class_similarities`.
    """
    similarities = feature_scores.class_similarities(bank.knn, features, neighbours=neighbours)
    distances = feature_scores.mahalanobis_distances(bank.mahalanobis, features)
    found = _compiled_feature_scores(similarities, distances)
    return {name: (np.asarray(found[name][0]), np.asarray(found[name][1])) for name in FEATURE_SCORES}


@jax.jit
def _compiled_feature_scores(similarities: Array, distances: Array) -> dict[str, tuple[Array, Array]]:
    nearest = jnp.argmax(similarities, axis=-1)
    return {
        "knn_sum": (feature_scores.knn_sum_score(similarities), nearest),
        "knn_ratio": (feature_scores.knn_ratio_score(similarities), nearest),
        "mahalanobis": (feature_scores.mahalanobis_score(distances), jnp.argmin(distances, axis=-1)),
    }


def scored_images(
    scores: Callable[[Mapping[str, np.ndarray]], Mapping[str, tuple[np.ndarray, np.ndarray]]],
    outputs: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, ScoredImages]:
    """Scores of validation, known and unknown images, taken in one call.

    Args:
      scores: ``{output: one row per image} -> {name: (one score per image, one predicted class per image)}``.
      outputs: by part, ``validation``, ``known`` and ``unknown`` at least.

    Returns:
      Scores and predicted classes by name.

    Raises:
      ValueError: outputs of one part that are of different images, or scores and predictions that are not one an image:
        they would change parts.
    """
    parts = [outputs[part] for part in ("validation", "known", "unknown")]
    lengths = [len(next(iter(part.values()))) for part in parts]
    for name, part in zip(("validation", "known", "unknown"), parts, strict=True):
        images = {output: len(rows) for output, rows in part.items()}
        if len(set(images.values())) > 1:
            raise ValueError(f"outputs of {name} are of {images} images: give the same images in each")
    found = scores({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    *ends, total = np.cumsum(lengths)
    for name, pair in found.items():
        shapes = [np.shape(values) for values in pair]
        if shapes != [(total,)] * 2:
            raise ValueError(f"score {name!r} gives shapes {shapes} for {total} images: give one score and class each")
    return {
        name: ScoredImages(*np.split(values, ends), *np.split(predictions, ends))
        for name, (values, predictions) in found.items()
    }


def assess_scored(
    scored: Mapping[str, ScoredImages],
    labels: Mapping[str, Integer[np.ndarray, " _"]],
    *,
    score: str,
    spaces: Mapping[str, Float[np.ndarray, "known _"]],
    reject_share: float = 0.1,
    resamples: int = 1000,
    seed: int = 0,
) -> Assessment:
    """Metrics of every score with bootstrap intervals, and the network's own figures.

    The intervals are over test images, for this one network: they do not cover other splits or seeds.

    Args:
      scored: scores and predicted classes by name.
      labels: ``validation`` and ``known``, positions in the known classes.
      score: the one whose predictions give the validation accuracy.
      spaces: name of a Davies-Bouldin index -> features of the known test images.
      reject_share: share of known VALIDATION images that the threshold of macro-F1 rejects.
      resamples: bootstrap resamples; 0 for no intervals.
      seed: of the bootstrap.

    Returns:
      The scored images and plain JSON values: ``scores`` (:func:`assess_scores`); the Davies-Bouldin indices (None
      where :func:`osrjax.metrics.davies_bouldin` is undefined or infinite); ``validation_accuracy``; counts of images.
    """
    own = scored[score]
    results = {
        "scores": assess_scores(scored, labels["known"], reject_share=reject_share, resamples=resamples, seed=seed),
        **{name: number_or_none(metrics.davies_bouldin(rows, labels["known"])) for name, rows in spaces.items()},
        "validation_accuracy": metrics.closed_set_accuracy(own.validation_predictions, labels["validation"]),
        "validation_images": len(labels["validation"]),
        "known_images": len(labels["known"]),
        "unknown_images": len(own.unknown),
    }
    return Assessment(dict(scored), results)


def assess_scores(
    scored: Mapping[str, ScoredImages],
    labels: Integer[np.ndarray, " known"],
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
      Plain JSON values, the entry ``scores`` of :func:`assess_scored`: by score its metrics, the ``threshold``, and
      under ``rejected`` the :func:`rejected_shares` at it.
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
            bounds = metrics.bootstrap_intervals(*arrays, share=reject_share, resamples=resamples, seed=seed)
        threshold = metrics.rejection_threshold(images.validation, share=reject_share)
        table[name] = {
            metric: dict(zip(("value", "low", "high"), (value, *bounds.get(metric, (None, None))), strict=True))
            for metric, value in values.items()
        } | {"threshold": threshold, "rejected": rejected_shares(images, threshold=threshold)}
    return table


def rejected_shares(images: ScoredImages, *, threshold: float) -> dict[str, float]:
    """Shares of the images that are called unknown at an operating point.

    Args:
      images: scored.
      threshold: finite; what lies above it is called unknown.

    Returns:
      A number in [0, 1] for each of ``validation``, ``known`` and ``unknown``.

    Example:
      >>> scores = np.array([0.1, 0.2]), np.array([0.1, 0.4]), np.array([0.3, 0.9])
      >>> rejected_shares(ScoredImages(*scores, *[np.zeros(2, int)] * 3), threshold=0.2)
      {'validation': 0.0, 'known': 0.5, 'unknown': 1.0}
    """
    scores = {"validation": images.validation, "known": images.known, "unknown": images.unknown}
    return {part: float(metrics.rejected(found, threshold=threshold).mean()) for part, found in scores.items()}
