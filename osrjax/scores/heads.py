"""Scores that read features and the linear head on top of them: ViM, ReAct, and the gradient norm of the head.

The head is that of ``logits = features @ kernel + bias``. What is fitted is fitted on the host to features of known
training images, in evaluation mode and without augmentation; larger = more unknown.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from osrjax.scores.features import Rows, finite_rows
from osrjax.scores.logits import energy_score

__all__ = ["Head", "Vim", "fit_react", "fit_vim", "gradient_norm_score", "react_score", "vim_score"]

EXACT = jax.lax.Precision.HIGHEST


class Head(NamedTuple):
    """A linear head.

    Attributes:
      kernel: one column per class.
      bias: one entry per class.
    """

    kernel: Float[Array, "features classes"] | Float[np.ndarray, "features classes"]
    bias: Float[Array, " classes"] | Float[np.ndarray, " classes"]


class Vim(NamedTuple):
    """The virtual logit, as :func:`fit_vim` makes it.

    Attributes:
      origin: o, the point where all logits are 0, as near to 0 as can be.
      residual: orthonormal columns, the directions in which training features vary least.
      factor: alpha, which gives the virtual logit the size of the largest one.
    """

    origin: Float[Array, " features"]
    residual: Float[Array, "features directions"]
    factor: Float[Array, ""]


def fit_vim(features: Rows, head: Head, *, dimensions: int | None = None) -> Vim:
    r"""The space that training features leave unused, for :func:`vim_score`.

    .. math:: o = -(W^\top)^+ b, \qquad R = \text{the last } d - D \text{ eigenvectors of } X^\top X, \;
              X = H - o, \qquad \alpha = \frac{\sum_i \max_c z_{ic}}{\sum_i \lVert R^\top (h_i - o) \rVert}.

    *Cost*: one eigendecomposition of features x features in float64.

    Args:
      features: H, of the training images.
      head: W and b, which give their logits z.
      dimensions: D, of the principal space, in [1, features); None for the paper's: 1000 from 2048 features on, 512
        from 768 on, half of fewer.

    Returns:
      The fitted score, in float32 on the default device.

    Raises:
      ValueError: features that are empty, not finite or of another width than the head; ``dimensions`` out of range;
        features that leave no direction unused, or largest logits whose sum is not above 0, so that there is no alpha.

    Example:
      >>> import numpy as np
      >>> head = Head(np.eye(2), np.zeros(2))
      >>> fitted = fit_vim(np.array([[4.0, 1.0], [-4.0, 3.0]]), head, dimensions=1)
      >>> print(np.abs(fitted.residual[:, 0]).round(2))  # mostly the second coordinate
      [0.31 0.95]

    References:
      Wang, Li, Feng and Zhang, "ViM: Out-Of-Distribution with Virtual-logit Matching", CVPR 2022, arXiv 2203.10807,
      section 4.
    """
    rows, kernel, bias = _checked(features, head)
    width = rows.shape[1]
    if dimensions is None:
        dimensions = 1000 if width >= 2048 else 512 if width >= 768 else max(1, width // 2)
    if not 1 <= dimensions < width:
        raise ValueError(f"{dimensions=} is not in [1, {width}), the width of the features: give about half of it")
    origin = -np.linalg.pinv(kernel.T) @ bias
    centred = rows - origin
    _, directions = np.linalg.eigh(centred.T @ centred)
    residual = directions[:, : width - dimensions]
    unused = np.linalg.norm(centred @ residual, axis=1).sum()
    largest = (rows @ kernel + bias).max(axis=1).sum()
    if not unused > np.finfo(np.float32).eps * np.linalg.norm(centred, axis=1).sum():
        raise ValueError(f"{dimensions=} leaves no direction in which the training features vary: give fewer")
    if not largest > 0:
        raise ValueError(f"the largest logits of the training images sum to {largest:g}, which gives no positive alpha")
    return Vim(*(jnp.asarray(part, jnp.float32) for part in (origin, residual, largest / unused)))


def vim_score(
    fitted: Vim, features: Float[Array, "*batch features"], logits: Float[Array, "*batch classes"]
) -> Float[Array, "*batch"]:
    r"""The virtual logit against the others.

    .. math:: \alpha \lVert R^\top (h - o) \rVert - \log \sum_c e^{z_c},

    which ranks as the virtual class's softmax probability does, and is never tied.

    Args:
      fitted: from :func:`fit_vim`.
      features: h, of the images to score.
      logits: their logits z.

    Returns:
      One score per example, of either sign, larger = more unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> fitted = Vim(jnp.zeros(2), jnp.array([[0.0], [1.0]]), jnp.float32(2))
      >>> float(vim_score(fitted, jnp.array([9.0, 3.0]), jnp.array([5.0])))  # 2 * 3 - 5
      1.0

    References:
      Wang et al., arXiv 2203.10807, eq. 5.
    """
    unused = jnp.matmul(features - _row(fitted.origin, features), fitted.residual, precision=EXACT)
    return fitted.factor * jnp.linalg.norm(unused, axis=-1) + energy_score(logits)


def fit_react(features: Rows, *, percentile: float = 90.0) -> Float[Array, ""]:
    """The activation at which :func:`react_score` cuts: a percentile of all entries of all training features.

    Args:
      features: of the training images, activations after a ReLU for the paper's choice of the percentile.
      percentile: in (0, 100].

    Returns:
      The threshold, in float32 on the default device.

    Raises:
      ValueError: features that are empty or not finite; a percentile out of range.

    Example:
      >>> import numpy as np
      >>> print(fit_react(np.arange(11.0)[None]))
      9.0

    References:
      Sun, Guo and Li, "ReAct: Out-of-distribution Detection With Rectified Activations", NeurIPS 2021,
      arXiv 2111.12797, section 2.
    """
    if not 0 < percentile <= 100:
        raise ValueError(f"{percentile=} is not in (0, 100]: give 90, the paper's")
    return jnp.asarray(np.percentile(finite_rows(features), percentile), jnp.float32)


def react_score(
    threshold: Float[Array, ""] | float, features: Float[Array, "*batch features"], head: Head
) -> Float[Array, "*batch"]:
    r"""Energy of the logits that features give when large ones are cut.

    .. math:: -\log \sum_c \exp\bigl(W^\top \min(h, \tau) + b\bigr)_c.

    Args:
      threshold: from :func:`fit_react`.
      features: h, of the images to score.
      head: W and b.

    Returns:
      One score per example, of either sign, larger = more unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> head = Head(jnp.array([[1.0]]), jnp.array([0.5]))
      >>> float(react_score(2.0, jnp.array([7.0]), head))
      -2.5

    References:
      Sun, Guo and Li, arXiv 2111.12797, eq. 2 and 3.
    """
    logits = jnp.matmul(jnp.minimum(features, threshold), jnp.asarray(head.kernel), precision=EXACT)
    return energy_score(logits + _row(jnp.asarray(head.bias), logits))


def gradient_norm_score(
    features: Float[Array, "*batch features"], logits: Float[Array, "*batch classes"], *, temperature: float = 1.0
) -> Float[Array, "*batch"]:
    r"""Negative L1 norm of the gradient by the head's kernel of the divergence from uniform to the softmax.

    .. math:: -\left\lVert \frac{\partial}{\partial W} \frac{1}{K} \sum_k -\log p_k \right\rVert_1
              = -\frac{1}{T} \lVert h \rVert_1 \sum_k \Bigl| p_k - \frac{1}{K} \Bigr|,
              \qquad p = \mathrm{softmax}(z / T).

    No gradient needs to be taken: that of a linear layer is an outer product.

    Args:
      features: h.
      logits: z, of the head that reads h.
      temperature: T, above 0.

    Returns:
      One score per example, at most 0, larger = more unknown.

    Raises:
      ValueError: a temperature at or below 0.

    Example:
      >>> import jax.numpy as jnp
      >>> float(gradient_norm_score(jnp.array([2.0, -1.0]), jnp.array([100.0, 0.0])))  # -3 * (1/2 + 1/2)
      -3.0

    References:
      Huang, Geng and Li, "On the Importance of Gradients for Detecting Distributional Shifts in the Wild",
      NeurIPS 2021, arXiv 2110.00218, eq. 3 and 4, section 3.2.
    """
    if not temperature > 0:
        raise ValueError(f"{temperature=} is not positive: give a temperature above 0, such as 1")
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    distance = jnp.sum(jnp.abs(jax.nn.softmax(logits / temperature) - 1 / logits.shape[-1]), axis=-1)
    return -jnp.sum(jnp.abs(features.astype(logits.dtype)), axis=-1) * distance / temperature


def _row(vector: Array, like: Array) -> Array:
    """A vector with as many axes as an array that it meets."""
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)


def _checked(features: Rows, head: Head) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, kernel and bias in float64."""
    rows, kernel, bias = finite_rows(features), np.asarray(head.kernel, np.float64), np.asarray(head.bias, np.float64)
    if kernel.ndim != 2 or kernel.shape[0] != rows.shape[1] or bias.shape != kernel.shape[1:]:
        raise ValueError(
            f"a head with kernel {kernel.shape} and bias {bias.shape} does not fit {features.shape=}:"
            " give [features, classes] and [classes]"
        )
    return rows, kernel, bias
