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

__all__ = ["jacobian_norm_score", "odin_score"]

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
    function: Function,
    variables: Any,
    images: Float[Array, "batch *image"],
    *,
    projections: int | None = None,
    key: Array | None = None,
) -> Float[Array, " batch"]:
    r"""Frobenius norm of the input Jacobian, the quantity of the theory, as a score.

    .. math:: \lVert J(x) \rVert_F, \qquad J = \partial f / \partial x.

    *Cost*: as :func:`osrjax.jacobian.input_jacobian_norms`; with projections one backward pass each.

    Args:
      function: ``(variables, images) -> outputs``, such as unit embeddings.
      variables: whatever it reads.
      images: as it takes them.
      projections: random projections of an unbiased estimate of the norm's square; None for the exact norm.
      key: random key of the projections; needed with them.

    Returns:
      One score per image, at least 0, larger = more unknown where the theory holds.

    Raises:
      ValueError: projections without a key.

    Example:
      >>> import jax.numpy as jnp
      >>> print(jacobian_norm_score(lambda scale, x: scale * x**2, 1.0, jnp.array([[3.0, 4.0]])))
      [10.]

    References:
      Park et al., "Understanding Open-Set Recognition by Jacobian Norm and Inter-Class Separation", arXiv 2209.11436.
    """
    if projections is None:
        return input_jacobian_norms(lambda x: function(variables, x), images)
    if key is None:
        raise ValueError(f"{projections=} are random: give a key, such as jax.random.key(0)")

    def estimate(key: Array, x: Array) -> Array:
        return jnp.mean(projected_squares(lambda x: function(variables, x[None])[0], key, x, samples=projections))

    return jnp.sqrt(jax.vmap(estimate)(jax.random.split(key, len(images)), images))
