"""Scores of a function of images: ODIN, which perturbs its input, and the norm of its input Jacobian.

``function(variables, images)`` is any network that scores each image of a batch by itself, as a network does with
running statistics; larger = more unknown.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from osrjax.jacobian import input_jacobian_norms, projected_squares

__all__ = ["jacobian_estimate_score", "jacobian_norm_score", "odin_score"]

Function = Callable[[Any, Array], Array]


def odin_score(
    function: Function,
    variables: Any,
    images: Float[Array, "batch *image"],
    *,
    temperature: float = 1000.0,
    step: float = 0.0014,
) -> Float[Array, " batch"]:
    r"""Distance to uniform of a softmax at a high temperature, after a small step that raises it.

    .. math:: \tilde x = x - \epsilon \, \mathrm{sign}\bigl(-\nabla_x \log \max_k p_k(x)\bigr), \qquad
              -T \log \bigl(K \max_k p_k(\tilde x)\bigr), \qquad p = \mathrm{softmax}(z / T).

    It ranks as the paper's :math:`-\max_k p_k` does; at T = 1000 that differs from 1 / K in its fifth digit only, which
    float32 would round. *Cost*: two forward passes and one backward pass.

    Args:
      function: ``(variables, images) -> logits``.
      variables: whatever it reads.
      images: as it takes them; the step is in their unit.
      temperature: T, above 0.
      step: epsilon, at least 0. The paper's 0.0014 is for pixels in [0, 1]: twice as much for [-1, 1].

    Returns:
      One score per image, at most 0, larger = more unknown.

    Raises:
      ValueError: a temperature or a step out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> images = jnp.array([[1.0, 0.0], [0.0, 0.0]])
      >>> print(odin_score(lambda scale, x: scale * x, 1.0, images, step=0.0).round(3))  # mean - max, about
      [-0.5  0. ]

    References:
      Liang, Li and Srikant, "Enhancing The Reliability of Out-of-distribution Image Detection in Neural Networks",
      ICLR 2018, arXiv 1706.02690, eq. 1 and 2.
    """
    if not temperature > 0:
        raise ValueError(f"{temperature=} is not positive: give a temperature above 0, such as 1000")
    if not step >= 0:
        raise ValueError(f"{step=} is negative: give 0 for none, or such as 0.0014")

    def score(x: Array) -> Array:
        logits = function(variables, x)
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        below = (logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))) / temperature
        # max p = e^{z_max - max} / sum e^below; as a logarithm of K max p, exact however near to uniform.
        largest = jnp.max(below, axis=-1)
        return temperature * (jnp.log1p(jnp.mean(jnp.expm1(below), axis=-1)) - largest)

    uphill = jax.grad(lambda x: jnp.sum(score(x)))(images)
    return score(images - step * jnp.sign(uphill))


def jacobian_norm_score(
    function: Function, variables: Any, images: Float[Array, "batch *image"]
) -> Float[Array, " batch"]:
    r"""Frobenius norm of the input Jacobian, the quantity of the theory, as a score.

    .. math:: \lVert J(x) \rVert_F, \qquad J = \partial f / \partial x.

    *Cost*: as :func:`osrjax.jacobian.input_jacobian_norms`.

    Args:
      function: ``(variables, images) -> outputs``, such as unit embeddings.
      variables: whatever it reads.
      images: as it takes them.

    Returns:
      One score per image, at least 0, larger = more unknown where the theory holds.

    Example:
      >>> import jax.numpy as jnp
      >>> print(jacobian_norm_score(lambda scale, x: scale * x**2, 1.0, jnp.array([[3.0, 4.0]])))
      [10.]

    References:
      Park et al., "Understanding Open-Set Recognition by Jacobian Norm and Inter-Class Separation", arXiv 2209.11436.
    """
    return input_jacobian_norms(lambda x: function(variables, x), images)


def jacobian_estimate_score(
    function: Function, key: Array, variables: Any, images: Float[Array, "batch *image"], *, projections: int = 8
) -> Float[Array, " batch"]:
    r"""Estimate of :func:`jacobian_norm_score` from random projections, for networks with many outputs.

    .. math:: \Bigl(\frac1n \sum_i \lVert J^\top v_i \rVert^2\Bigr)^{1/2}, \qquad v_i \in \{-1, 1\}^{outputs}.

    The mean is unbiased for the norm's square. *Cost*: one backward pass per projection.

    Args:
      function: ``(variables, images) -> outputs``, such as unit embeddings.
      key: of the projections; it is consumed.
      variables: whatever it reads.
      images: as it takes them.
      projections: n, at least 1.

    Returns:
      One score per image, at least 0.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> images = jnp.array([[3.0, 4.0]])
      >>> print(jacobian_estimate_score(lambda scale, x: scale * x, jax.random.key(0), 2.0, images).round(3))
      [2.828]

    References:
      Hoffman et al., "Robust Learning with Jacobian Regularization", arXiv 1908.02729, section 2.
    """

    def estimate(key: Array, x: Array) -> Array:
        return jnp.mean(projected_squares(lambda x: function(variables, x[None])[0], key, x, samples=projections))

    return jnp.sqrt(jax.vmap(estimate)(jax.random.split(key, len(images)), images))
