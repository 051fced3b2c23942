"""OpenMax: how far the logits of an image lie from those of the classes that they name."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jaxtyping import Array, Float

from osrjax.scores.features import Labels, Rows, checked_rows

__all__ = ["OpenMax", "fit_openmax", "openmax_score"]


class OpenMax(NamedTuple):
    """Mean logits of each class and the tails of the distances to them, as :func:`fit_openmax` makes them.

    Attributes:
      means: mean logits of a class's training images that are classified right.
      shapes: kappa of the Weibull distribution of a class's largest distances.
      scales: lambda of it.
    """

    means: Float[Array, "classes classes"]
    shapes: Float[Array, " classes"]
    scales: Float[Array, " classes"]


def fit_openmax(logits: Rows, labels: Labels, *, tail: int = 20) -> OpenMax:
    r"""Mean activation vectors and Weibull tails, for :func:`openmax_score`.

    Of the training images of each class that are classified right: the mean mu_c of their logits, their Euclidean
    distances to it, and a Weibull distribution fitted to the largest of these by maximum likelihood,

    .. math:: F_c(d) = 1 - e^{-(d / \lambda_c)^{\kappa_c}}.

    The distribution starts at 0, where distances do; the paper's library moves the tail by a constant of its own.
    *Cost*: one fit per class, on the host.

    Args:
      logits: of the training images, one column per class.
      labels: class of each row.
      tail: largest distances of a class that are fitted; all of them where it has fewer.

    Returns:
      The fitted score, in float32 on the default device.

    Raises:
      ValueError: logits or labels that cannot be used; a tail below 2; a class with fewer than 2 images that are
        classified right, or all of them at one distance.

    References:
      Bendale and Boult, "Towards Open Set Deep Networks", CVPR 2016, arXiv 1511.06233, algorithm 1.
    """
    if tail < 2:
        raise ValueError(f"{tail=} is below 2: give the number of largest distances, such as 20")
    rows, positions, counts = checked_rows(logits, labels, logits.shape[-1])
    right = rows.argmax(axis=1) == positions
    means, parameters = [], []
    for label in range(len(counts)):
        chosen = rows[right & (positions == label)]
        if len(chosen) < 2:
            raise ValueError(
                f"class {label} has {len(chosen)} training images that are classified right: OpenMax needs 2 or more"
            )
        means.append(chosen.mean(axis=0))
        largest = np.sort(np.linalg.norm(chosen - means[-1], axis=1))[-tail:]
        if not largest[-1] > largest[0] > 0:
            raise ValueError(f"class {label}: all its largest distances are {largest[0]:g}: no Weibull tail fits")
        shape, _, scale = scipy.stats.weibull_min.fit(largest, floc=0)
        parameters.append((shape, scale))
    shapes, scales = np.transpose(parameters)
    return OpenMax(*(jnp.asarray(part, jnp.float32) for part in (np.stack(means), shapes, scales)))


def openmax_score(
    fitted: OpenMax, logits: Float[Array, "*batch classes"], *, alpha: int | None = None
) -> Float[Array, "*batch"]:
    r"""Log-odds of OpenMax's unknown class.

    .. math:: \omega_c = 1 - \frac{\alpha - r_c}{\alpha} F_c(\lVert z - \mu_c \rVert) \; (r_c < \alpha), \qquad
              \hat z_c = \omega_c z_c, \quad \hat z_0 = \sum_c (1 - \omega_c) z_c, \qquad
              \hat z_0 - \log \sum_c e^{\hat z_c},

    with r_c = 0, 1, ... the rank of class c among the logits. It ranks as the probability of class 0 does, and is not
    tied where that is 1 in float32.

    Args:
      fitted: from :func:`fit_openmax`.
      logits: z, of the images to score.
      alpha: how many of the largest logits are revised, in [1, classes]; None for all.

    Returns:
      One score per example, of either sign, larger = more unknown.

    Raises:
      ValueError: alpha out of range, logits of another width.

    Example:
      >>> import jax.numpy as jnp
      >>> fitted = OpenMax(5 * jnp.eye(2), jnp.ones(2), jnp.ones(2))
      >>> found = openmax_score(fitted, jnp.array([[5.0, 0.0], [-3.0, 2.0]]), alpha=1)
      >>> [round(float(score), 2) for score in found]  # the first lies on the mean of its class
      [-5.01, 1.9]

    References:
      Bendale and Boult, arXiv 1511.06233, algorithm 2 and eq. 2.
    """
    classes = fitted.means.shape[0]
    if logits.shape[-1] != classes:
        raise ValueError(f"{logits.shape=} is not as wide as the fit: give {classes} logits a row")
    alpha = classes if alpha is None else alpha
    if not 1 <= alpha <= classes:
        raise ValueError(f"{alpha=} is not in [1, {classes}], the number of classes: give fewer, or None for all")
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    lead = (1,) * (logits.ndim - 1)
    distances = jnp.linalg.norm(logits[..., None, :] - fitted.means.reshape(*lead, classes, classes), axis=-1)
    shapes, scales = (part.reshape(*lead, classes) for part in (fitted.shapes, fitted.scales))
    outside = -jnp.expm1(-((distances / scales) ** shapes))
    ranks = jnp.argsort(jnp.argsort(-logits, axis=-1), axis=-1)
    taken = jnp.maximum(alpha - ranks, 0) / alpha * outside
    unknown = jnp.sum(taken * logits, axis=-1)
    return unknown - jax.nn.logsumexp((1 - taken) * logits, axis=-1)
