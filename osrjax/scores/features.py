"""Open-set scores that are fitted to the features of the training images: nearest neighbours and Mahalanobis.

``fit_*`` runs once, on the host, and makes a plain pytree of the training features. A second function compares other
features with every class, and a score reduces the classes to one number per example, larger = more unknown. Take all
features, those of the training images too, in evaluation mode and without augmentation. Labels are positions in
``known_classes``. Features with a NaN among them score NaN, which is no decision.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Integer

from osrjax.arrays import at_least_float32, class_positions

__all__ = [
    "KnnBank",
    "Mahalanobis",
    "RelativeMahalanobis",
    "class_similarities",
    "fit_knn",
    "fit_mahalanobis",
    "fit_relative_mahalanobis",
    "knn_ratio_score",
    "knn_sum_score",
    "kth_neighbour_score",
    "mahalanobis_distances",
    "mahalanobis_score",
    "neighbour_cosines",
    "relative_mahalanobis_score",
]

Rows = Float[Array, "examples features"] | Float[np.ndarray, "examples features"]


Labels = Integer[Array, " examples"] | Integer[np.ndarray, " examples"]


COSINES_AT_ONCE = 2**25  # entries of a block of cosines in class_similarities: 128 MiB of float32


LEAST_VARIANCE = 1e-10  # relative to the largest: below, float32 features say nothing of the direction


class KnnBank(NamedTuple):
    """Training features by class, as :func:`fit_knn` makes them.

    Attributes:
      features: one block of rows of length 1 per class, filled up with rows of 0 to the size of the largest class.
      counts: rows of each block that are images.
    """

    features: Float[Array, "classes largest features"]
    counts: Integer[Array, " classes"]


class Mahalanobis(NamedTuple):
    """Class means and shared covariance, as :func:`fit_mahalanobis` makes them.

    Attributes:
      centre: mean of all training features.
      whitening: W with W W^T the inverse of the covariance; a column of 0 for a direction without variance.
      means: class means after the centre is subtracted and W applied.
    """

    centre: Float[Array, " features"]
    whitening: Float[Array, "features directions"]
    means: Float[Array, "classes directions"]


class RelativeMahalanobis(NamedTuple):
    """Two fits, as :func:`fit_relative_mahalanobis` makes them.

    Attributes:
      classes: of the classes.
      background: of all training features as one class.
    """

    classes: Mahalanobis
    background: Mahalanobis


def fit_knn(features: Rows, labels: Labels, *, classes: int) -> KnnBank:
    """Training features scaled to length 1 and grouped by class, for :func:`class_similarities`.

    *Memory*: classes times the size of the largest class times features, in float32.

    Args:
      features: of the training images; a row of zeros stays one, and its cosines are 0.
      labels: class of each row, in [0, classes).
      classes: number of known classes.

    Returns:
      The bank, on the default device.

    Raises:
      ValueError: features that are empty or not finite in float32; labels of another length or dtype than integers,
        outside [0, classes), or without an image of some class.

    Example:
      >>> import numpy as np
      >>> bank = fit_knn(np.array([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]]), np.array([0, 1, 0]), classes=2)
      >>> print(bank.counts, bank.features[1, 0])
      [2 1] [0. 1.]
    """
    rows, classes_of_rows, counts = checked_rows(features, labels, classes)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units = (rows / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
    order = np.argsort(classes_of_rows, kind="stable")
    grouped = np.zeros((classes, counts.max(), rows.shape[1]), np.float32)
    places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    grouped[classes_of_rows[order], places] = units[order]
    return KnnBank(jnp.asarray(grouped), jnp.asarray(counts, jnp.int32))


def class_similarities(
    bank: KnnBank, features: Rows, *, neighbours: int = 3, block_size: int | None = None
) -> Float[Array, "examples classes"]:
    r"""Sum of the K largest cosines to the training features of each class.

    .. math:: S_c = \sum_{j \in N_K(c)} \frac{z \cdot z_j}{\lVert z \rVert \lVert z_j \rVert},

    where N_K(c) are the K training images of class c nearest to z; the nearest class is ``argmax``. *Cost*: one matrix
    product with all training features, a block of examples at a time, and a top-K.

    Args:
      bank: from :func:`fit_knn`.
      features: of the images to score; a row of zeros has the cosine 0 to everything.
      neighbours: K, at least 1 and at most the images of the smallest class.
      block_size: examples at a time; None for as many as fill 128 MiB with cosines.

    Returns:
      One sum per class, in [-K, K] up to rounding. Where the bank is an argument of compiled code, its counts cannot be
      checked: a class with fewer than K images is nan.

    Raises:
      ValueError: features of another width or shape; ``neighbours`` below 1 or above the images of a class; a
        ``block_size`` below 1.

    Example:
      >>> import numpy as np
      >>> bank = fit_knn(np.array([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]]), np.array([0, 0, 1]), classes=2)
      >>> print(class_similarities(bank, np.array([[2.0, 0.0]]), neighbours=1))
      [[ 1. -1.]]

    References:
      Xu et al., "Informed Mixing", arXiv 2505.12803, as its evaluation code computes it, with K = 3.
    """
    _check_class_neighbours(bank, features, neighbours)
    return _nearest(bank, features, (neighbours,), None, block_size)[0]


def neighbour_cosines(
    bank: KnnBank, features: Rows, *, sums: tuple[int, ...] = (1, 3), kth: int = 50, block_size: int | None = None
) -> tuple[tuple[Float[Array, "examples classes"], ...], Float[Array, " examples"]]:
    """What several neighbour scores read, in one pass over the training images.

    *Cost*: that of one :func:`class_similarities`, where each of these scores alone takes one of its own.

    Args:
      bank: from :func:`fit_knn`.
      features: of the images to score.
      sums: numbers of neighbours, each as that of :func:`class_similarities`; ``argmax`` of the first is the class of
        the nearest image.
      kth: as that of :func:`kth_neighbour_score`.
      block_size: examples at a time; None for as many as fill 128 MiB with cosines.

    Returns:
      :func:`class_similarities` for each of ``sums``, and the negative :func:`kth_neighbour_score`.

    Raises:
      ValueError: as these functions.

    Example:
      >>> import numpy as np
      >>> bank = fit_knn(np.array([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]]), np.array([0, 0, 1]), classes=2)
      >>> (nearest,), second = neighbour_cosines(bank, np.array([[2.0, 0.0]]), sums=(1,), kth=2)
      >>> print(nearest, second)
      [[ 1. -1.]] [0.6]

    References:
      Those of :func:`class_similarities` and :func:`kth_neighbour_score`.
    """
    for count in sums:
        _check_class_neighbours(bank, features, count)
    _check_kth(bank, features, kth)
    *found, last = _nearest(bank, features, sums, kth, block_size)
    return tuple(found), last


def _check_class_neighbours(bank: KnnBank, features: Rows, neighbours: int) -> None:
    _, largest, width = bank.features.shape
    _check_rows(features, width)
    smallest = largest if isinstance(bank.counts, Tracer) else int(np.min(np.asarray(bank.counts)))
    if not 1 <= neighbours <= smallest:
        raise ValueError(f"{neighbours=} is not in [1, {smallest}], the images of the smallest class: give fewer")


def _check_kth(bank: KnnBank, features: Rows, neighbours: int) -> None:
    classes, largest, width = bank.features.shape
    _check_rows(features, width)
    images = classes * largest if isinstance(bank.counts, Tracer) else int(np.sum(np.asarray(bank.counts)))
    if not 1 <= neighbours <= images:
        raise ValueError(f"{neighbours=} is not in [1, {images}], the training images: give fewer")


def _nearest(
    bank: KnnBank, features: Rows, sums: tuple[int, ...], kth: int | None, block_size: int | None
) -> tuple[Array, ...]:
    """Sums of so many largest cosines to each class, then the k-th largest to any, of neighbours found once."""
    if block_size is not None and block_size < 1:
        raise ValueError(f"{block_size=} is below 1: give examples at a time, or None")
    classes, largest, _ = bank.features.shape
    return _found(bank, jnp.asarray(features), sums, kth, block_size or max(1, COSINES_AT_ONCE // (classes * largest)))


# Compiled on its own: called from Python, its many small operations would each be compiled apart.
@partial(jax.jit, static_argnums=(2, 3, 4))
def _found(
    bank: KnnBank, features: Array, sums: tuple[int, ...], kth: int | None, block_size: int
) -> tuple[Array, ...]:
    def reduce(cosines: Array) -> tuple[Array, ...]:
        # Of each class: XLA for CPUs sorts whole rows where classes are one axis with their images, 20 times as slowly.
        nearest = jax.lax.top_k(cosines, min(max((*sums, kth or 1)), cosines.shape[-1]))[0]
        nearest = jax.lax.optimization_barrier(nearest)
        found = tuple(jnp.sum(nearest[..., :count], axis=-1) for count in sums)
        if kth is not None:
            found += (jax.vmap(partial(_kth_largest, k=kth))(nearest[..., :kth].reshape(len(nearest), -1)),)
        return found

    found = _by_cosines(bank, features, reduce, block_size)
    enough = [bank.counts[None] >= count for count in sums] + [jnp.sum(bank.counts) >= (kth or 0)]
    return tuple(jnp.where(is_enough, part, jnp.nan) for is_enough, part in zip(enough, found, strict=False))


def _kth_largest(values: Array, k: int) -> Array:
    """The k-th largest entry, bit by bit, without a sort.

    Floating-point numbers of one sign rank as the integers of their bits do.
    """
    bits = jnp.finfo(values.dtype).bits
    unsigned = jnp.dtype(f"uint{bits}")
    sign = unsigned.type(1 << (bits - 1))
    raw = jax.lax.bitcast_convert_type(values, unsigned)
    keys = jnp.where(raw >= sign, ~raw, raw | sign)

    def decide(step: Array, found: Array) -> Array:
        tried = found | (unsigned.type(1) << (bits - 1 - step).astype(unsigned))
        return jnp.where(jnp.sum(keys >= tried) >= k, tried, found)

    found = jax.lax.fori_loop(0, bits, decide, unsigned.type(0))
    return jax.lax.bitcast_convert_type(jnp.where(found >= sign, found ^ sign, ~found), values.dtype)


def _by_cosines(bank: KnnBank, features: Array, reduce: Callable[[Array], Any], block_size: int) -> Any:
    """What ``reduce`` makes of cosines [examples, classes, images], a block of examples at a time; -inf: no image."""
    examples, width = features.shape
    block_size = max(1, min(block_size, examples))
    features = at_least_float32(features)
    # Divided by its largest entry first, so that no square overflows or underflows.
    largest = jnp.max(jnp.abs(features), axis=-1, keepdims=True)
    features = features / jnp.where(largest > 0, largest, 1.0)
    lengths = jnp.linalg.norm(features, axis=-1, keepdims=True)
    units = features / jnp.where(lengths > 0, lengths, 1.0)
    is_image = jnp.arange(bank.features.shape[1])[None] < bank.counts[:, None]

    def block(rows: Array) -> Any:
        cosines = jnp.einsum("ef,cnf->ecn", rows, bank.features, precision=jax.lax.Precision.HIGHEST)
        return reduce(jnp.where(is_image[None], cosines, -jnp.inf))

    padded = jnp.pad(units, ((0, -examples % block_size), (0, 0)))
    found = jax.lax.map(block, padded.reshape(-1, block_size, width))
    return jax.tree.map(lambda part: part.reshape(len(padded), *part.shape[2:])[:examples], found)


def knn_sum_score(similarities: Float[Array, "*batch classes"]) -> Float[Array, "*batch"]:
    r"""Negative sum of cosines to the nearest class.

    .. math:: -\max_c S_c.

    Args:
      similarities: S_c of :func:`class_similarities`.

    Returns:
      One score per example, in [-K, K] up to rounding, larger = more unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> print(knn_sum_score(jnp.array([[2.5, -1.0], [0.5, 0.25]])))
      [-2.5 -0.5]

    References:
      Xu et al., "Informed Mixing", arXiv 2505.12803, as its evaluation code, without the division by the sum;
      the idea: Sun et al., "Out-of-Distribution Detection with Deep Nearest Neighbors", arXiv 2204.06507.
    """
    return -jnp.max(similarities, axis=-1)


def knn_ratio_score(similarities: Float[Array, "*batch classes"]) -> Float[Array, "*batch"]:
    r"""Negative share of the nearest class in the sum over all classes, the score of GradMix's code.

    .. math:: -\frac{\max_c S_c}{\sum_c S_c}.

    The sum is no reliable unit. Where the classes repel one another (a simplex has cosines of -1 / (C - 1)) it is near
    0 or negative, the ratio explodes or changes sign, and known images can rank as unknown ones. For tight clusters
    :func:`knn_sum_score` ranks better; report both.

    Args:
      similarities: S_c from :func:`class_similarities`.

    Returns:
      One finite score per example, of either sign, larger = more unknown. A sum of exactly 0 counts as the smallest
      positive number, and what overflows as the largest.

    Example:
      >>> import jax.numpy as jnp
      >>> print(knn_ratio_score(jnp.array([[3.0, 1.0], [1.0, 1.0], [3.0, -4.0]])))  # the last: a negative sum
      [-0.75 -0.5   3.  ]

    References:
      Xu et al., "Informed Mixing", arXiv 2505.12803, as its evaluation code computes it.
    """
    limits = jnp.finfo(similarities.dtype)
    total = jnp.sum(similarities, axis=-1)
    ratio = jnp.max(similarities, axis=-1) / jnp.where(total == 0, limits.tiny, total)
    return -jnp.clip(ratio, limits.min, limits.max)


def kth_neighbour_score(
    bank: KnnBank, features: Rows, *, neighbours: int = 50, block_size: int | None = None
) -> Float[Array, " examples"]:
    r"""Negative cosine to the k-th nearest of all training images, whatever their class.

    .. math:: -\cos(z, z_{(k)}) = \tfrac12 r_k^2 - 1, \qquad
              r_k = \left\lVert \tfrac{z}{\lVert z \rVert} - \tfrac{z_{(k)}}{\lVert z_{(k)} \rVert} \right\rVert,

    which ranks as the paper's distance r_k does. *Cost*: as :func:`class_similarities`.

    Args:
      bank: from :func:`fit_knn`.
      features: of the images to score; a row of zeros has the cosine 0 to everything.
      neighbours: k, at least 1 and at most the training images. The paper's 50 is for the 50 000 of CIFAR-10.
      block_size: examples at a time; None for as many as fill 128 MiB with cosines.

    Returns:
      One score per example, in [-1, 1] up to rounding, larger = more unknown. Where the bank is an argument of compiled
      code, its counts cannot be checked: with fewer images than k every score is nan.

    Raises:
      ValueError: features of another width; ``neighbours`` below 1 or above the number of training images; a
        ``block_size`` below 1.

    Example:
      >>> import numpy as np
      >>> bank = fit_knn(np.array([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]]), np.array([0, 0, 1]), classes=2)
      >>> print(kth_neighbour_score(bank, np.array([[2.0, 0.0]]), neighbours=2))
      [-0.6]

    References:
      Sun, Ming, Zhu and Li, "Out-of-Distribution Detection with Deep Nearest Neighbors", ICML 2022, arXiv 2204.06507,
      section 3.
    """
    _check_kth(bank, features, neighbours)
    return -_nearest(bank, features, (), neighbours, block_size)[0]


def fit_mahalanobis(features: Rows, labels: Labels, *, classes: int, shrinkage: float = 0.0) -> Mahalanobis:
    r"""Class means and the covariance within classes, shared by all, for :func:`mahalanobis_distances`.

    .. math:: \mu_c = \frac{1}{N_c} \sum_{i: y_i = c} h_i, \qquad
              \Sigma = \frac{1}{N} \sum_c \sum_{i: y_i = c} (h_i - \mu_c)(h_i - \mu_c)^\top,

    then :math:`(1 - a) \Sigma + a \, \mathrm{tr}(\Sigma) / d \; I` with the shrinkage a. A singular covariance (fewer
    images than features, units that are always 0) gets its pseudo-inverse: a direction counts nothing if its variance
    is at most 1e-10 of the largest, or lost in the rounding of float32 features. An unknown image that differs only
    there is not seen; a shrinkage above 0 lets such directions count. *Cost*: one eigendecomposition of features x
    features in float64.

    Args:
      features: of the training images.
      labels: class of each row, in [0, classes).
      classes: number of known classes.
      shrinkage: a, in [0, 1]; 0 leaves the covariance as it is.

    Returns:
      The fitted score, in float32 on the default device.

    Raises:
      ValueError: a shrinkage outside [0, 1]; otherwise as :func:`fit_knn`.

    Example:
      >>> import numpy as np
      >>> features = np.array([[0.0, 1.0], [4.0, 1.0], [10.0, -1.0], [14.0, -1.0]])
      >>> fitted = fit_mahalanobis(features, np.array([0, 0, 1, 1]), classes=2)  # variances 4 and 0
      >>> print(mahalanobis_distances(fitted, np.array([[6.0, 0.0]])))
      [[4. 9.]]

    References:
      Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks",
      NeurIPS 2018, arXiv 1807.03888, eq. 1; the shrinkage: Ledoit and Wolf, "A Well-Conditioned Estimator for
      Large-Dimensional Covariance Matrices", Journal of Multivariate Analysis, 2004.
    """
    if not 0 <= shrinkage <= 1:
        raise ValueError(f"{shrinkage=} is outside [0, 1]: give 0 for none")
    rows, classes_of_rows, _ = checked_rows(features, labels, classes)
    centre = rows.mean(axis=0)
    rows = rows - centre
    means = np.stack([rows[classes_of_rows == c].mean(axis=0) for c in range(classes)])
    within = rows - means[classes_of_rows]
    covariance = within.T @ within / len(rows)
    width = rows.shape[1]
    covariance = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / width * np.eye(width)
    variances, directions = np.linalg.eigh(covariance)
    rounding = float(np.finfo(np.float32).eps) * max(np.abs(rows).max(), np.abs(centre).max())
    present = variances > max(LEAST_VARIANCE * variances[-1], rounding**2)
    whitening = directions * np.where(present, 1 / np.sqrt(np.where(present, variances, 1.0)), 0.0)
    return Mahalanobis(*(jnp.asarray(part.astype(np.float32)) for part in (centre, whitening, means @ whitening)))


def mahalanobis_distances(fitted: Mahalanobis, features: Rows) -> Float[Array, "examples classes"]:
    r"""Squared Mahalanobis distance to the mean of each class.

    .. math:: D_c = (h - \mu_c)^\top \Sigma^{-1} (h - \mu_c).

    The nearest class is ``argmin``: the class of linear discriminant analysis with equal priors.

    Args:
      fitted: from :func:`fit_mahalanobis`.
      features: of the images to score.

    Returns:
      One distance per class, at least 0; for an image of the class about the number of directions with variance.

    Raises:
      ValueError: features of another width or shape.

    Example:
      >>> import numpy as np
      >>> fitted = fit_mahalanobis(np.array([[-1.0], [1.0]]), np.array([0, 0]), classes=1)
      >>> print(mahalanobis_distances(fitted, np.array([[3.0]])))
      [[9.]]

    References:
      Lee et al., arXiv 1807.03888, eq. 2.
    """
    _check_rows(features, fitted.centre.shape[-1])
    return _distances(fitted, jnp.asarray(features))


@jax.jit
def _distances(fitted: Mahalanobis, features: Array) -> Array:
    centred = features - fitted.centre[None]  # at least float32, the dtype of the centre
    white = jnp.matmul(centred, fitted.whitening, precision=jax.lax.Precision.HIGHEST)
    # Differences before squares: the expanded square cancels where the classes lie far apart.
    return jax.lax.map(lambda mean: jnp.sum((white - mean[None]) ** 2, axis=-1), fitted.means).T


def mahalanobis_score(distances: Float[Array, "*batch classes"]) -> Float[Array, "*batch"]:
    r"""Squared Mahalanobis distance to the nearest class.

    .. math:: \min_c D_c.

    Args:
      distances: D_c of :func:`mahalanobis_distances`.

    Returns:
      One score per example, at least 0, larger = more unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> print(mahalanobis_score(jnp.array([[4.0, 9.0], [25.0, 16.0]])))
      [ 4. 16.]

    References:
      Lee et al., arXiv 1807.03888, eq. 2.
    """
    return jnp.min(distances, axis=-1)


def fit_relative_mahalanobis(
    features: Rows, labels: Labels, *, classes: int, shrinkage: float = 0.0
) -> RelativeMahalanobis:
    """Class means with their shared covariance, and mean and covariance of all features as if they were one class.

    Args:
      features: of the training images.
      labels: class of each row, in [0, classes).
      classes: number of known classes.
      shrinkage: as of :func:`fit_mahalanobis`, for both.

    Returns:
      The fitted score, in float32 on the default device.

    Raises:
      ValueError: as :func:`fit_mahalanobis`.

    Example:
      >>> import numpy as np
      >>> fitted = fit_relative_mahalanobis(np.array([[-1.0], [1.0]]), np.array([0, 1]), classes=2, shrinkage=1.0)
      >>> print(fitted.background.means)
      [[0.]]

    References:
      Ren et al., arXiv 2106.09022, section 3.
    """
    return RelativeMahalanobis(
        fit_mahalanobis(features, labels, classes=classes, shrinkage=shrinkage),
        fit_mahalanobis(features, np.zeros(len(features), np.int32), classes=1, shrinkage=shrinkage),
    )


def relative_mahalanobis_score(fitted: RelativeMahalanobis, features: Rows) -> Float[Array, " examples"]:
    r"""Squared Mahalanobis distance to the nearest class, less that to all training features together.

    .. math:: \min_c D_c - D_0.

    Directions in which every image lies far out, whatever its class, cancel.

    Args:
      fitted: from :func:`fit_relative_mahalanobis`.
      features: of the images to score.

    Returns:
      One score per example, of either sign, larger = more unknown.

    Raises:
      ValueError: features of another width.

    Example:
      >>> import numpy as np
      >>> features = np.array([[-3.0], [-1.0], [1.0], [3.0]])  # variances 1 and 5
      >>> fitted = fit_relative_mahalanobis(features, np.array([0, 0, 1, 1]), classes=2)
      >>> print(relative_mahalanobis_score(fitted, np.array([[0.0], [5.0]])))  # 4 - 0, 9 - 5
      [4. 4.]

    References:
      Ren et al., "A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection", arXiv 2106.09022, eq. 3.
    """
    nearest = mahalanobis_score(mahalanobis_distances(fitted.classes, features))
    return nearest - mahalanobis_distances(fitted.background, features)[:, 0]


def _check_rows(features: Rows, width: int) -> None:
    if features.ndim != 2 or features.shape[1] != width:
        raise ValueError(f"{features.shape=} does not fit the training features: give {width} features a row")


def finite_rows(features: Rows) -> np.ndarray:
    """Features of training images in float64; refused where empty, or not finite in float32."""
    rows = np.asarray(features, np.float64)
    if rows.ndim != 2 or rows.size == 0:
        raise ValueError(f"{features.shape=} holds no features: give one row per training image")
    if not (np.abs(rows) <= np.finfo(np.float32).max).all():  # NaN is not either; what is fitted is float32
        raise ValueError("features holds numbers that are not finite in float32: look for a diverged network")
    return rows


def checked_rows(features: Rows, labels: Labels, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a score is fitted to, looked at.

    Args:
      features: of the training images.
      labels: class of each row, in [0, classes).
      classes: number of known classes.

    Returns:
      Features in float64, labels, and the number of images of each class.

    Raises:
      ValueError: as :func:`fit_knn`.
    """
    rows = finite_rows(features)
    if labels.shape != rows.shape[:1]:
        raise ValueError(f"{labels.shape=} does not fit {features.shape=}: give one class per row")
    positions = class_positions("labels", labels, classes=classes)
    counts = np.bincount(positions, minlength=classes)
    if counts.min() == 0:
        raise ValueError(f"labels hold no image of class {counts.argmin()}: give images of all {classes=}")
    return rows, positions, counts
