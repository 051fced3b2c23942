"""Losses for classifying known classes so that unknown ones stay detectable.

Every loss takes any leading ``*batch`` axes and returns one value per example; the caller averages. *Cosines* are the
unscaled inner products of a unit embedding with unit prototypes, in [-1, 1]; the scale T is applied inside a loss.
*Logits* are unbounded. Losses are float32 or better, whatever the dtype of these. Labels are positions in
``known_classes``, in an integer dtype. A label outside ``[0, classes)`` matches no class and gives a finite but
meaningless value: compiled code cannot check values.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from osrjax.arrays import at_least_float32, check_integers

__all__ = ["cosine_softmax_loss", "m_ovr_loss", "margin_cosines", "ovr_loss", "rotation_loss"]

Scalar = float | Float[Array, ""]


def margin_cosines(cosines: Float[Array, "*shape"], margin: Scalar) -> Float[Array, "*shape"]:
    r"""Cosines of the angles after the margin is added, without an arccosine.

    .. math:: \cos(\theta + m) = c \cos m - \sqrt{1 - c^2} \sin m, \qquad c = \cos \theta.

    Value and gradient are finite for every finite c. Where abs(c) reaches 1, or exceeds it by rounding, the square root
    counts as the constant 0.

    Args:
      cosines: c, in [-1, 1] up to rounding.
      margin: m in radians, in [0, pi].

    Returns:
      cos(theta + m), in [-1, 1] up to rounding.

    Example:
      >>> import jax.numpy as jnp
      >>> [round(float(s), 4) for s in margin_cosines(jnp.array([1.0, 0.0, -1.0]), 0.5)]
      [0.8776, -0.4794, -0.8776]

    References:
      Park et al., "Understanding Open-Set Recognition by Jacobian Norm and Inter-Class Separation", arXiv 2209.11436,
      eq. 2.
    """
    cosines = at_least_float32(cosines)
    square = 1.0 - cosines * cosines
    # sqrt has an infinite slope at 0, and 0 * inf is nan in the backward pass even where the result is
    # discarded: both branches must be safe, hence a `where` before the root and another after it.
    inside = square > 0.0
    sine = jnp.where(inside, jnp.sqrt(jnp.where(inside, square, 1.0)), 0.0)
    return cosines * jnp.cos(margin) - sine * jnp.sin(margin)


def ovr_loss(
    logits: Float[Array, "*batch classes"],
    labels: Integer[Array, "*batch"],
    *,
    intra_weight: Scalar = 1.0,
    inter_weight: Scalar = 1.0,
) -> Float[Array, "*batch"]:
    r"""One-vs-rest loss: a binary cross-entropy per class, summed over the classes.

    .. math:: L = a \, \mathrm{softplus}(-z_y) + b \sum_{k \ne y} \mathrm{softplus}(z_k).

    On affine logits this is the DOC loss; on scaled cosines it is :func:`m_ovr_loss` with margin 0.

    Args:
      logits: one unbounded logit per class.
      labels: positions in ``known_classes``.
      intra_weight: a, at least 0: weight of the labelled class's term.
      inter_weight: b, at least 0: weight of the other classes' terms.

    Returns:
      One loss per example, at least 0.

    Raises:
      ValueError: not one integer label per row of logits (one-hot labels, a missing axis, floats).

    Example:
      >>> import jax.numpy as jnp
      >>> loss = ovr_loss(jnp.zeros((1, 2)), jnp.array([0]))
      >>> round(float(loss[0]), 4)  # 2 log 2
      1.3863

    References:
      Shu, Xu and Liu, "DOC: Deep Open Classification of Text Documents", arXiv 1709.08716, eq. 3; Park et al., arXiv
      2209.11436, eq. 3 (the two weights).
    """
    logits, is_target = at_least_float32(logits), is_target_of(labels, logits)
    # The split form keeps confident samples apart: each term is a softplus of a large negative number,
    # about e^z, and all terms are positive. The equal form sum_k softplus(z_k) - z_y cancels to exactly 0.
    terms = jax.nn.softplus(jnp.where(is_target, -logits, logits))
    return jnp.sum(terms * jnp.where(is_target, intra_weight, inter_weight), axis=-1)


def m_ovr_loss(
    cosines: Float[Array, "*batch classes"],
    labels: Integer[Array, "*batch"],
    *,
    margin: Scalar = 0.5,
    scale: Scalar = 32.0,
    margin_on: Literal["all", "target"] = "all",
    intra_weight: Scalar = 1.0,
    inter_weight: Scalar = 1.0,
) -> Float[Array, "*batch"]:
    r"""Margin one-vs-rest (m-OvR) loss on the cosines of unit embeddings and unit prototypes.

    .. math:: L = a\,\mathrm{softplus}(-T s_y) + b \sum_{k \ne y} \mathrm{softplus}(T s_k),
              \qquad s_k = \cos(\theta_k + m).

    With m = 0 it is the plain one-vs-rest loss on cosines. Predicting a class needs no margin; a score may keep it or
    not (:func:`osrjax.scores.logits.m_ovr_score`). Beyond theta_y = pi - m the gradient of the target's term changes
    sign.

    Args:
      cosines: unscaled cosines, in [-1, 1] up to rounding.
      labels: positions in ``known_classes``.
      margin: m in radians, in [0, pi); the paper's default.
      scale: T, above 0; the paper's default.
      margin_on: ``"all"`` adds the margin to every angle, as the paper writes; ``"target"`` to that of the labelled
        class alone, as in ArcFace.
      intra_weight: a, at least 0: weight of the labelled class's term.
      inter_weight: b, at least 0: weight of the other classes' terms.

    Returns:
      One loss per example, at least 0; about ``classes * T`` at worst.

    Raises:
      ValueError: not one label per row of cosines; an unknown ``margin_on``; a Python number for the margin outside [0,
        pi) or for the scale at or below 0.

    Example:
      >>> import jax.numpy as jnp
      >>> cosines = jnp.array([[0.0, 0.0]])  # s = cos(pi/2 + 0.5) = -0.4794
      >>> loss = m_ovr_loss(cosines, jnp.array([0]), margin=0.5, scale=1.0)
      >>> round(float(loss[0]), 4)  # softplus(0.4794) + softplus(-0.4794)
      1.4432

    References:
      Park et al., "Understanding Open-Set Recognition by Jacobian Norm and Inter-Class Separation", arXiv 2209.11436,
      eq. 2 and 3; margin on the target alone: Deng et al., arXiv 1801.07698, eq. 3.
    """
    _check_labels(labels, cosines)
    if isinstance(margin, float | int) and not 0 <= margin < jnp.pi:
        raise ValueError(f"{margin=} is no angle in [0, pi): give a margin in radians, such as 0.5")
    if isinstance(scale, float | int) and not scale > 0:
        raise ValueError(f"{scale=} is not positive: give a scale T above 0, such as 32")
    cosines = at_least_float32(cosines)
    shifted = margin_cosines(cosines, margin)
    if margin_on == "target":
        is_target = is_target_of(labels, cosines)
        shifted = jnp.where(is_target, shifted, cosines)
    elif margin_on != "all":
        raise ValueError(f'{margin_on=} is not one of "all", "target"')
    return ovr_loss(scale * shifted, labels, intra_weight=intra_weight, inter_weight=inter_weight)


def cosine_softmax_loss(
    cosines: Float[Array, "*batch classes"], labels: Integer[Array, "*batch"], *, scale: Scalar = 32.0
) -> Float[Array, "*batch"]:
    r"""Softmax cross-entropy on scaled cosines.

    .. math:: L = \log \sum_k e^{T c_k} - T c_y.

    Args:
      cosines: unscaled cosines, in [-1, 1] up to rounding.
      labels: positions in ``known_classes``.
      scale: T, above 0.

    Returns:
      One loss per example, in [0, log(classes) + 2 T].

    Raises:
      ValueError: not one label per row of cosines.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = cosine_softmax_loss(jnp.array([[1.0, -1.0]]), jnp.array([0]), scale=1.0)
      >>> round(float(loss[0]), 4)  # log(1 + e^-2)
      0.1269

    References:
      Wang et al., "NormFace: L2 Hypersphere Embedding for Face Verification", arXiv 1704.06369, eq. 6.
    """
    return softmax_cross_entropy(scale * at_least_float32(cosines), labels)


def rotation_loss(
    rotation_logits: Float[Array, "*batch turns"], turns: Integer[Array, "*batch"]
) -> Float[Array, "*batch"]:
    r"""Cross-entropy of predicting by how many quarter turns an image was rotated.

    .. math:: L = \log \sum_r e^{z_r} - z_t, \qquad t \in \{0, 1, 2, 3\}.

    Args:
      rotation_logits: four unbounded logits, for 0, 90, 180 and 270 degrees.
      turns: t, quarter turns applied.

    Returns:
      One loss per example, at least 0.

    Raises:
      ValueError: not four logits, or not one ``turns`` entry per row of them.

    Example:
      >>> import jax.numpy as jnp
      >>> round(float(rotation_loss(jnp.zeros((1, 4)), jnp.array([2]))[0]), 4)  # log 4
      1.3863

    References:
      Gidaris, Singh and Komodakis, "Unsupervised Representation Learning by Predicting Image Rotations", arXiv
      1803.07728, eq. 2; as an auxiliary loss: Park et al., arXiv 2209.11436.
    """
    if rotation_logits.shape[-1] != 4:
        raise ValueError(f"{rotation_logits.shape=} does not end in 4: give one logit per quarter turn")
    return softmax_cross_entropy(at_least_float32(rotation_logits), turns)


def softmax_cross_entropy(
    logits: Float[Array, "*batch classes"], labels: Integer[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Minus the log-probability of the labels, for the losses of this room; arguments and errors are theirs."""
    is_target = is_target_of(labels, logits)
    # Every log-probability is at most 0, so the sum has no cancellation and no gather under a mesh.
    return -jnp.sum(jnp.where(is_target, jax.nn.log_softmax(logits), 0.0), axis=-1)


def _check_labels(labels: jax.Array, logits: jax.Array) -> None:
    """Refuses what would broadcast into a plausible number: one-hot labels, a missing batch axis."""
    check_integers("labels", labels)
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"{labels.shape=} is not {logits.shape[:-1]}, one integer label per row of {logits.shape=}:"
            " give class positions, not one-hot rows"
        )


def is_target_of(labels: jax.Array, logits: jax.Array) -> Bool[Array, "*batch classes"]:
    """Marks each row's own class."""
    _check_labels(labels, logits)
    # A byte would count the classes modulo 256.
    labels = labels if labels.dtype.itemsize >= 4 else labels.astype(jnp.int32)
    return jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
