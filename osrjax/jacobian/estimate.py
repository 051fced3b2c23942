"""Unbiased estimates of squared input-Jacobian norms from random projections, with their standard errors."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num
from scipy import special

from osrjax.jacobian.passes import (
    broadcast_like,
    floats,
    linear_map,
    over_passes,
    real_outputs,
    square_root,
    sum_of_squares,
)

__all__ = ["JacobianEstimate", "jacobian_estimate", "mean_estimate", "projected_squares"]


class JacobianEstimate(NamedTuple):
    r"""An estimate of a squared Frobenius norm from random projections.

    Attributes:
      squared_norm: mean of the squared projections, unbiased for :math:`\lVert J \rVert_F^2`.
      standard_error: of ``squared_norm``.
      low: lower end of the t interval of ``squared_norm``, at least 0.
      high: upper end.
      norm: square root of ``squared_norm``; too small on average.
      norm_bias: by how much, to second order: :math:`-s^2 / (8\, norm^3)` with s the standard error.
    """

    squared_norm: Float[Array, "*batch"]
    standard_error: Float[Array, "*batch"]
    low: Float[Array, "*batch"]
    high: Float[Array, "*batch"]
    norm: Float[Array, "*batch"]
    norm_bias: Float[Array, "*batch"]


def projected_squares(
    fn: Callable[[Array], Array],
    key: Array,
    x: Num[Array, "*inputs"],
    *,
    samples: int,
    distribution: Literal["rademacher", "gaussian"] = "rademacher",
    mode: Literal["reverse", "forward"] = "reverse",
    chunk_size: int | None = None,
) -> Float[Array, " samples"]:
    r"""Squared lengths of random projections of the input Jacobian, each unbiased for its squared norm.

    .. math:: \mathrm{E}\, \lVert J^T v \rVert^2 = \lVert J \rVert_F^2 \quad\text{for}\quad \mathrm{E}\, v v^T = I.

    With :math:`A = J J^T` (in forward mode :math:`J^T J`) a square has the variance :math:`2 \lVert A \rVert_F^2` for
    Gaussian v and :math:`2 (\lVert A \rVert_F^2 - \sum_i A_{ii}^2)` for Rademacher signs. :func:`jacobian_estimate`
    makes an estimate with an interval of the squares. *Cost*: one linearisation and one pass per sample.

    Args:
      fn: maps one example to an array of any shape.
      key: of the projections; it is consumed. Give every example its own.
      x: floating-point example.
      samples: number of projections, at least 2 for an interval.
      distribution: of the entries of v.
      mode: "reverse" projects the outputs, "forward" the inputs.
      chunk_size: passes at a time; None for all of them, at most 16.

    Returns:
      One squared length per sample.

    Raises:
      ValueError: an integer example, an unknown distribution or mode, or ``chunk_size`` below 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> print(projected_squares(lambda x: 3 * x, jax.random.key(0), jnp.ones(4), samples=2))
      [36. 36.]

    References:
      Hutchinson, A stochastic estimator of the trace of the influence matrix, 1989; of a Jacobian: Hoffman et al.,
      Robust Learning with Jacobian Regularization, arXiv 1908.02729, sec. 2.
    """
    x = floats("x", x)
    if distribution not in ("rademacher", "gaussian"):
        raise ValueError(f'{distribution=} is not one of "rademacher", "gaussian"')
    draw = jax.random.rademacher if distribution == "rademacher" else jax.random.normal
    with jax.default_matmul_precision("highest"):
        real_outputs(fn, x)
        apply, directions = linear_map(fn, x, mode)

        def square(direction: Array) -> Array:
            return sum_of_squares(apply(broadcast_like(direction, directions)))

        # Drawn at once: a projection is no larger than the outputs, a pass through the network is.
        drawn = draw(key, (samples, *directions.shape), directions.dtype)
        return over_passes(square, drawn, 16 if chunk_size is None else chunk_size)


def jacobian_estimate(squares: Float[Array, "*batch samples"], *, level: float = 0.95) -> JacobianEstimate:
    """Estimate of each example's squared Jacobian norm, with a t interval, from its projections.

    The interval assumes normal projections. Squares are skewed, so with few samples it covers somewhat less than its
    level (measured in ``experiments/results/estimator.md``).

    Args:
      squares: :func:`projected_squares` of each example, at least 2 samples.
      level: of the interval, between 0 and 1.

    Returns:
      One estimate per example.

    Raises:
      ValueError: fewer than 2 samples, or a level outside (0, 1).

    Example:
      >>> import jax.numpy as jnp
      >>> estimate = jacobian_estimate(jnp.array([3.0, 5.0]))
      >>> print(estimate.squared_norm, estimate.standard_error, estimate.norm)
      4.0 1.0 2.0
    """
    samples = _check_samples(squares, level)
    squared_norm = jnp.mean(squares, axis=-1)
    standard_error = jnp.std(squares, axis=-1, ddof=1) / math.sqrt(samples)
    return _estimate(squared_norm, standard_error, samples - 1, level)


def mean_estimate(squares: Float[Array, "examples samples"], *, level: float = 0.95) -> JacobianEstimate:
    """Estimate of a fixed data set's mean squared Jacobian norm, with the error of the projections alone.

    The interval says where the exact mean over THESE examples lies. For the mean over their population, take an
    ordinary t interval of the examples' own estimates. It has ``examples * (samples - 1)`` degrees of freedom, which is
    too many where one or two examples make up most of the sum. Project each example with its own key.

    Args:
      squares: :func:`projected_squares` of each example, at least 2 samples.
      level: of the interval, between 0 and 1.

    Returns:
      One estimate; its ``norm`` is the root mean square of the norms.

    Raises:
      ValueError: no example, fewer than 2 samples, or a level outside (0, 1).

    Example:
      >>> import jax.numpy as jnp
      >>> estimate = mean_estimate(jnp.array([[3.0, 5.0], [11.0, 13.0]]))
      >>> print(f"{estimate.squared_norm:.1f} {estimate.standard_error:.4f}")  # sqrt(1 + 1) / 2
      8.0 0.7071
    """
    samples = _check_samples(squares, level)
    if squares.ndim != 2 or squares.shape[0] == 0:
        raise ValueError(f"squares has shape {squares.shape}: give [examples, samples], at least one example")
    examples = squares.shape[0]
    variances = jnp.var(squares, axis=-1, ddof=1) / samples
    return _estimate(jnp.mean(squares), jnp.sqrt(jnp.sum(variances)) / examples, examples * (samples - 1), level)


def _estimate(squared_norm: Array, standard_error: Array, degrees: int, level: float) -> JacobianEstimate:
    half_width = float(special.stdtrit(degrees, (1 + level) / 2)) * standard_error
    norm = square_root(squared_norm)
    zero = norm == 0
    bias = jnp.where(zero, 0, -jnp.square(standard_error) / (8 * jnp.where(zero, 1, norm) ** 3))
    low = jnp.maximum(squared_norm - half_width, 0)
    return JacobianEstimate(squared_norm, standard_error, low, squared_norm + half_width, norm, bias)


def _check_samples(squares: Array, level: float) -> int:
    samples = squares.shape[-1] if squares.ndim else 0
    if samples < 2:
        raise ValueError(f"squares has {samples} samples: an interval needs at least 2")
    if not 0 < level < 1:
        raise ValueError(f"{level=} is not between 0 and 1: give one such as 0.95")
    return samples
