"""Why norms differ: the class of an image, its distance from known images, lines between classes; norms as a detector.

JND compares the norms of some classes with those of others. The theory (Theorem 1 of the paper) is about the open set
between known classes. Here the two are told apart, on the probe of a finished run: what being unknown adds for images
of the same class, what distance from known images adds, and what lies between two classes. Distances are those of the
unit embedding after training: to the nearest class mean, and to the nearest known image; a known image has no part in
the mean that it is compared with, and is no neighbour of itself.

The expected signs were fixed before any probe was looked at by these measures.

References:
  Park et al., "Understanding Open-Set Recognition by Jacobian Norm and Inter-Class Separation", Pattern
  Recognition 2024, arXiv 2209.11436, theorem 1.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist

from osrjax.analysis.claims import Probe, Probes, class_adjusted_norms, finished_runs, per_run
from osrjax.metrics.detection import auroc
from osrjax.metrics.effects import ACCURACY, effect, log_ratio, rank_correlation
from osrjax.metrics.intervals import SHARE, SIGNED, Range

__all__ = [
    "MECHANISM",
    "NearestDistances",
    "detector_effects",
    "detector_scores",
    "explained_difference",
    "mechanism_effects",
    "nearest_distances",
]

MECHANISM = {
    "i1": "unknown images have larger norms than known ones of the same classes",
    "i2": "the farther an unknown image lies from known ones, the larger its norm",
    "i3": "norms between two known classes are larger than at known images",
    "n": "the norm detects unknown images, and improves on their distance",
}
_ANY: Range = (-np.inf, np.inf)


class NearestDistances(NamedTuple):
    """Distances in the unit embedding, one for each probed image.

    Attributes:
      known_mean: of known images to the nearest class mean.
      unknown_mean: of unknown ones.
      known_image: of known images to the nearest other known image.
      unknown_image: of unknown ones to the nearest known image.
    """

    known_mean: Float[np.ndarray, " known"]
    unknown_mean: Float[np.ndarray, " unknown"]
    known_image: Float[np.ndarray, " known"]
    unknown_image: Float[np.ndarray, " unknown"]


def nearest_distances(probe: Probe) -> NearestDistances:
    """How far probed images lie from known ones after training.

    Args:
      probe: of a run: ``embedding_known``, ``embedding_unknown`` and ``labels_known``.

    Returns:
      The distances; a class of one image has no mean for that image.

    Raises:
      ValueError: a single known image or class.

    Example:
      >>> rows = np.array([[0.0], [2.0], [7.0], [9.0]])
      >>> probe = {"embedding_known": rows, "embedding_unknown": rows[:1] + 4.5, "labels_known": np.array([0, 0, 1, 1])}
      >>> found = nearest_distances(probe)  # means 1 and 8; without itself, 2 for the first image
      >>> found.known_mean.tolist(), found.unknown_mean.tolist(), found.unknown_image.tolist()
      ([2.0, 2.0, 2.0, 2.0], [3.5], [2.5])
    """
    known, unknown = (np.asarray(probe[f"embedding_{kind}"], np.float64) for kind in ("known", "unknown"))
    classes, position, counts = np.unique(probe["labels_known"], return_inverse=True, return_counts=True)
    if classes.size < 2:
        raise ValueError(f"labels_known holds the classes {classes}: distances from known classes need two or more")
    means = np.stack([known[position == k].mean(axis=0) for k in range(classes.size)])
    to_means, rows = cdist(known, means), np.arange(len(known))
    size = counts[position]
    # The mean without the image lies n / (n - 1) times as far from it as the mean with it.
    without = to_means[rows, position] * size / np.maximum(size - 1, 1)
    to_means[rows, position] = np.where(size > 1, without, np.inf)
    to_images = cdist(known, known)
    np.fill_diagonal(to_images, np.inf)
    return NearestDistances(
        to_means.min(axis=1),
        cdist(unknown, means).min(axis=1),
        to_images.min(axis=1),
        cdist(unknown, known).min(axis=1),
    )


def explained_difference(
    norms_known: Float[np.ndarray, " known"],
    norms_unknown: Float[np.ndarray, " unknown"],
    distances_known: Float[np.ndarray, " known"],
    distances_unknown: Float[np.ndarray, " unknown"],
) -> float:
    r"""The part of JND that a difference in distance stands for.

    .. math:: b \, (\bar d_{unknown} - \bar d_{known}), \qquad \lVert J \rVert = a_{role} + b \, d

    by least squares with one slope and an intercept for each role; the rest of JND is the difference of the intercepts.

    Args:
      norms_known: of known images.
      norms_unknown: of unknown ones.
      distances_known: from known images, as all.
      distances_unknown: of unknown ones.

    Returns:
      A number in the unit of the norms; nan where no distance varies within its role.

    Example:
      >>> known, unknown = np.array([0.0, 1.0]), np.array([2.0, 3.0])
      >>> explained_difference(known * 2, unknown * 2 + 5, known, unknown)  # slope 2, means 2 apart; 5 is left
      4.0
    """
    pairs = [
        (np.asarray(distances, np.float64), np.asarray(norms, np.float64))
        for distances, norms in ((distances_known, norms_known), (distances_unknown, norms_unknown))
    ]
    centred = [(d - d.mean(), values - values.mean()) for d, values in pairs]
    spread = sum(float(d @ d) for d, _ in centred)
    if not spread > 0:
        return float("nan")
    slope = sum(float(d @ values) for d, values in centred) / spread
    return float(slope * (pairs[1][0].mean() - pairs[0][0].mean()))


def mechanism_effects(probes: Probes, *, arm: str, gate: float = ACCURACY) -> list[dict[str, Any]]:
    """Questions i1 to i3 of :data:`MECHANISM` for one arm, after training.

    Args:
      probes: of the arm; each with ``known_classes``, as :func:`osrjax.analysis.class_adjusted_norms` takes them.
      arm: its name.
      gate: least mean accuracy that gives a verdict.

    Returns:
      Records of :func:`osrjax.metrics.effects.effect`. The number of a split for i1 is its pseudo-value of the
      jackknife over splits; the parts of JND come with their share of its mean over runs, as a quotient of one run
      has no mean where JND may be 0.
    """
    jnd = per_run(probes, lambda probe: probe["jnd"][-1])
    scale = float(np.nanmean(jnd)) if np.isfinite(jnd).any() else np.nan
    numbers: list[tuple[str, str, int, np.ndarray, Range]] = [
        ("i1", f"log of unknown over known norm, classes held fixed, {when}", sign, _pseudo_values(probes, when), _ANY)
        for when, sign in (("before", 0), ("after", 1))
    ]
    for to, what in (("mean", "class mean"), ("image", "known image")):
        rho = per_run(probes, lambda probe, to=to: _norm_and_distance(probe, "unknown", to))
        numbers.append(("i2", f"Spearman of unknown norm and distance to the nearest {what}", 1, rho, SIGNED))
    rho = per_run(probes, lambda probe: _norm_and_distance(probe, "known", "mean"))
    numbers.append(("i2", "the same of known images, class mean", 0, rho, SIGNED))
    explained = per_run(probes, _explained)
    numbers += [
        ("i2", "JND that distance to the nearest class mean explains", 0, explained, _ANY),
        ("i2", "JND that is left at equal distance", 0, jnd - explained, _ANY),
        (
            "i2",
            "share of the mean JND that distance explains",
            0,
            explained / scale if scale else explained * np.nan,
            _ANY,
        ),
    ]
    for kind, when, end, sign in (("known", "before", 0, 0), ("known", "after", -1, 1), ("unknown", "after", -1, 0)):
        ratio = per_run(probes, lambda probe, kind=kind, end=end: _between(probe, kind, end))
        numbers.append(("i3", f"log of norms between classes over those at {kind} images, {when}", sign, ratio, _ANY))
    return _effects(probes, numbers, arm, gate)


def detector_scores(probe: Probe) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Scores that the probe of a run gives its images, larger = more unknown.

    Args:
      probe: of a run.

    Returns:
      By name, scores of known and of unknown images: the exact norm, the distance to the nearest class mean, their
      product.
    """
    found = nearest_distances(probe)
    norms = [np.asarray(probe[f"norms_{kind}"][-1], np.float64) for kind in ("known", "unknown")]
    distances = [found.known_mean, found.unknown_mean]
    return {
        "norm": (norms[0], norms[1]),
        "distance": (distances[0], distances[1]),
        "norm x distance": (norms[0] * distances[0], norms[1] * distances[1]),
    }


def detector_effects(probes: Probes, *, arm: str, gate: float = ACCURACY) -> list[dict[str, Any]]:
    """Question n of :data:`MECHANISM` for one arm: AUROC of each of :func:`detector_scores`, paired over splits.

    Args:
      probes: of the arm.
      arm: its name.
      gate: least mean accuracy that gives a verdict.

    Returns:
      Records of :func:`osrjax.metrics.effects.effect`. The loss's own score is that of all test images, of which the
      probed ones are a part drawn at random.
    """
    found = {
        name: per_run(probes, lambda probe, name=name: auroc(*detector_scores(probe)[name]))
        for name in ("norm", "distance", "norm x distance")
    }
    own = per_run(probes, lambda probe: probe["auroc"][-1])
    numbers: list[tuple[str, str, int, np.ndarray, Range]] = [
        ("n", f"AUROC of the {name}", 0, values, SHARE) for name, values in found.items()
    ]
    numbers += [
        ("n", "AUROC of the own score, all test images", 0, own, SHARE),
        ("n", "AUROC of the norm - 0.5", 1, found["norm"] - 0.5, (-0.5, 0.5)),
        ("n", "AUROC, norm x distance - distance", 1, found["norm x distance"] - found["distance"], SIGNED),
        ("n", "AUROC, norm - distance", 0, found["norm"] - found["distance"], SIGNED),
        ("n", "AUROC, norm - own score", 0, found["norm"] - own, SIGNED),
        ("n", "AUROC, norm x distance - own score", 0, found["norm x distance"] - own, SIGNED),
    ]
    return _effects(probes, numbers, arm, gate)


def _effects(
    probes: Probes, numbers: list[tuple[str, str, int, np.ndarray, Range]], arm: str, gate: float
) -> list[dict[str, Any]]:
    finished, accuracy = finished_runs(probes), per_run(probes, lambda probe: probe["accuracy"][-1])
    return [
        effect(
            values,
            finished,
            [accuracy],
            claim=claim,
            name=name,
            arm=arm,
            expected=sign,
            bounds=bounds,
            gate=gate,
        )
        for claim, name, sign, values, bounds in numbers
    ]


def _pseudo_values(probes: Probes, when: str) -> Float[np.ndarray, "splits seeds"]:
    """Of the role's coefficient: n times that of all splits less n - 1 times that of all others, for every seed."""

    def role(rows: Probes) -> float:
        mean = class_adjusted_norms(rows)[when]["mean"]
        return float("nan") if mean is None else mean

    finished = finished_runs(probes)
    there = np.flatnonzero(finished.any(axis=1))
    values, n, whole = np.full(finished.shape, np.nan), len(there), role(probes)
    for i in there:
        values[i, finished[i]] = n * whole - (n - 1) * role([probes[k] for k in there if k != i])
    # A pseudo-value that is missing would leave a mean of the others that estimates nothing.
    return values if np.isfinite(values[finished]).all() else np.full_like(values, np.nan)


def _norm_and_distance(probe: Probe, kind: str, to: str) -> float:
    distances = getattr(nearest_distances(probe), f"{kind}_{to}")
    return rank_correlation(distances, probe[f"norms_{kind}"][-1])


def _explained(probe: Probe) -> float:
    found = nearest_distances(probe)
    norms = [probe[f"norms_{kind}"][-1] for kind in ("known", "unknown")]
    return explained_difference(norms[0], norms[1], found.known_mean, found.unknown_mean)


def _between(probe: Probe, kind: str, end: int) -> float:
    inner = (probe["fractions"] >= 0.25) & (probe["fractions"] <= 0.75)
    lines = probe["profiles"][end][:, inner].mean(dtype=np.float64)
    return log_ratio(float(lines), float(probe[f"norms_{kind}"][end].mean(dtype=np.float64)))
