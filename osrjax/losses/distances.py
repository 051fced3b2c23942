"""Losses on distances: to anchors of the classes in logit space (CAC), and from reciprocal points (RPL, ARPL).

Every loss takes any leading ``*batch`` axes and returns one value per example. *Distances* from a reciprocal point
say how far an example lies from what its class is NOT: larger = more of the class. Labels are positions in
``known_classes``.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from osrjax.arrays import at_least_float32
from osrjax.losses.classification import Scalar, is_target_of, softmax_cross_entropy

__all__ = ["anchor_distances", "arpl_loss", "cac_loss", "rpl_loss"]


def anchor_distances(
    logits: Float[Array, "*batch classes"], *, anchor: Scalar = 10.0
) -> Float[Array, "*batch classes"]:
    r"""Euclidean distances of logits to the anchors of the classes.

    .. math:: d_k = \lVert z - \alpha e_k \rVert.

    Args:
      logits: z, one unbounded logit per class.
      anchor: alpha, the length of every anchor.

    Returns:
      One distance per class, at least 0; its gradient at an anchor counts as 0.

    Example:
      >>> import jax.numpy as jnp
      >>> print(anchor_distances(jnp.array([3.0, 0.0]), anchor=3.0).round(4))  # 0 and 3 sqrt(2)
      [0.     4.2426]

    References:
      Miller et al., "Class Anchor Clustering: a Loss for Distance-based Open Set Recognition", WACV 2021,
      arXiv 2004.02434, eq. 2.
    """
    # The other logits' squares are summed without their own: a difference of two large sums would cancel.
    besides = 1.0 - jnp.eye(logits.shape[-1], dtype=logits.dtype)
    others = jnp.matmul(jnp.square(logits), besides, precision=jax.lax.Precision.HIGHEST)
    squares = others + jnp.square(logits - anchor)
    positive = squares > 0.0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0)


def cac_loss(
    logits: Float[Array, "*batch classes"],
    labels: Integer[Array, "*batch"],
    *,
    anchor: Scalar = 10.0,
    anchor_weight: Scalar = 0.1,
) -> Float[Array, "*batch"]:
    r"""Class anchor clustering: near to the own anchor, and nearer than to any other.

    .. math:: L = \log\Bigl(1 + \sum_{k \ne y} e^{d_y - d_k}\Bigr) + \lambda d_y,

    with the distances of :func:`anchor_distances`.

    Args:
      logits: z, one unbounded logit per class.
      labels: positions in ``known_classes``.
      anchor: alpha, the length of every anchor; the paper's 10.
      anchor_weight: lambda, at least 0; the paper's 0.1.

    Returns:
      One loss per example, at least 0.

    Raises:
      ValueError: not one label per row of logits.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = cac_loss(jnp.array([[0.0, 0.0]]), jnp.array([1]), anchor=2.0)
      >>> round(float(loss[0]), 4)  # log 2 + 0.1 * 2
      0.8931

    References:
      Miller et al., arXiv 2004.02434, eq. 3 to 5.
    """
    logits, is_target = at_least_float32(logits), is_target_of(labels, logits)
    distances = anchor_distances(logits, anchor=anchor)
    own = jnp.sum(jnp.where(is_target, distances, 0.0), axis=-1)
    return softmax_cross_entropy(-distances, labels) + anchor_weight * own


def rpl_loss(
    distances: Float[Array, "*batch classes"],
    excess: Float[Array, "*batch classes"],
    labels: Integer[Array, "*batch"],
    *,
    temperature: Scalar = 1.0,
    radius_weight: Scalar = 0.1,
) -> Float[Array, "*batch"]:
    r"""Reciprocal point learning: far from the point of the own class, but within a learned radius.

    .. math:: L = -\log \mathrm{softmax}(d / T)_y + \lambda (d^e_y - R_y)^2.

    Args:
      distances: d, of each example from the reciprocal point of each class.
      excess: d^e - R, the mean squared distance less the learned radius.
      labels: positions in ``known_classes``.
      temperature: T, above 0.
      radius_weight: lambda, at least 0; the paper's 0.1.

    Returns:
      One loss per example, at least 0.

    Raises:
      ValueError: not one label per row of distances.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = rpl_loss(jnp.zeros((1, 2)), jnp.array([[3.0, 0.0]]), jnp.array([0]))
      >>> round(float(loss[0]), 4)  # log 2 + 0.1 * 9
      1.5931

    References:
      Chen et al., "Learning Open Set Network with Discriminative Reciprocal Points", ECCV 2020, arXiv 2011.00178,
      eq. 4 to 8.
    """
    distances, is_target = at_least_float32(distances), is_target_of(labels, distances)
    own = jnp.sum(jnp.where(is_target, excess, 0.0), axis=-1)
    return softmax_cross_entropy(distances / temperature, labels) + radius_weight * jnp.square(own)


def arpl_loss(
    distances: Float[Array, "*batch classes"],
    excess: Float[Array, "*batch classes"],
    labels: Integer[Array, "*batch"],
    *,
    temperature: Scalar = 1.0,
    radius_weight: Scalar = 0.1,
    slack: Scalar = 1.0,
) -> Float[Array, "*batch"]:
    r"""Adversarial reciprocal point learning, without generated images.

    .. math:: L = -\log \mathrm{softmax}(d / T)_y + \lambda \max(0, d^e_y - R + s).

    Args:
      distances: d = d^e - d^d, of each example from the reciprocal point of each class: the mean squared distance less
        the inner product.
      excess: d^e - R, the mean squared distance less the learned radius.
      labels: positions in ``known_classes``.
      temperature: T, above 0.
      radius_weight: lambda, at least 0; the paper's 0.1.
      slack: s; 0 in the paper's equation, 1 in the authors' code.

    Returns:
      One loss per example, at least 0.

    Raises:
      ValueError: not one label per row of distances.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = arpl_loss(jnp.zeros((1, 2)), jnp.array([[3.0, 0.0]]), jnp.array([0]))
      >>> round(float(loss[0]), 4)  # log 2 + 0.1 * 4
      1.0931

    References:
      Chen, Peng, Wang and Tian, "Adversarial Reciprocal Points Learning for Open Set Recognition", TPAMI 2021,
      arXiv 2103.00953, eq. 3 to 9.
    """
    distances, is_target = at_least_float32(distances), is_target_of(labels, distances)
    beyond = jnp.maximum(jnp.sum(jnp.where(is_target, excess, 0.0), axis=-1) + slack, 0.0)
    return softmax_cross_entropy(distances / temperature, labels) + radius_weight * beyond
