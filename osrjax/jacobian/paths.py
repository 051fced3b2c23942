"""Input-Jacobian norms along lines between two images; conventions as in :mod:`osrjax.jacobian.exact`."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Num

from osrjax.jacobian.exact import directional_norm, input_jacobian_norm, input_jacobian_norms
from osrjax.jacobian.passes import Mode, check_same_shape, floats, real_outputs, square_root, sum_of_squares

__all__ = ["chord_length", "interpolation_profile", "path_length"]


def interpolation_profile(
    fn: Callable[[Array], Array],
    start: Num[Array, "*inputs"],
    end: Num[Array, "*inputs"],
    fractions: Float[Array, " points"],
    *,
    mode: Mode = "auto",
    chunk_size: int | None = None,
    batch_size: int | None = None,
) -> Float[Array, " points"]:
    r"""Norms of the input Jacobian along the straight line between two examples.

    .. math:: \lVert J(x_t) \rVert_F, \quad x_t = (1 - t)\, x_0 + t\, x_1.

    *Cost*: that of :func:`input_jacobian_norms` for all points; memory for ``batch_size * chunk_size`` passes.

    Args:
      fn: maps one example to an array of any shape.
      start: x_0, floating-point.
      end: x_1, of the same shape.
      fractions: the values of t; 0 is ``start`` and 1 is ``end``.
      mode: as in :func:`input_jacobian_norms`.
      chunk_size: passes at a time, as in :func:`input_jacobian_norms`.
      batch_size: points at a time; None for all.

    Returns:
      One norm per fraction.

    Raises:
      ValueError: integer examples, examples of different shapes, or as :func:`input_jacobian_norms`.

    Example:
      >>> import jax.numpy as jnp
      >>> line = jnp.array([0.0]), jnp.array([4.0])
      >>> print(interpolation_profile(lambda x: x**2, *line, jnp.array([0.0, 0.5, 1.0])))
      [0. 4. 8.]

    References:
      Park et al., arXiv 2209.11436, sec. 4 and figure 4.
    """
    start, end = _line(start, end)
    t = jnp.asarray(fractions, start.dtype).reshape(-1, *(1 for _ in start.shape))
    points = (1 - t) * start[None] + t * end[None]
    if batch_size is None or batch_size >= len(points):
        return input_jacobian_norms(jax.vmap(fn), points, mode=mode, chunk_size=chunk_size)
    norm = partial(input_jacobian_norm, fn, mode=mode, chunk_size=chunk_size)
    return lax.map(norm, points, batch_size=batch_size)


def path_length(
    fn: Callable[[Array], Array], start: Num[Array, "*inputs"], end: Num[Array, "*inputs"], *, points: int = 16
) -> Float[Array, ""]:
    r"""Length of the output's path while the input moves straight from one example to another.

    .. math:: \int_0^1 \lVert J(x_t)\,(x_1 - x_0) \rVert_2\, dt \approx
              \frac1n \sum_{i=1}^{n} \lVert J(x_{(i - 1/2)/n})\,(x_1 - x_0) \rVert_2.

    The error of the midpoint rule is of the order of :math:`1/n^2` where f is smooth. *Cost*: one tangent pass per
    point, all at once.

    Args:
      fn: maps one example to an array of any shape.
      start: x_0, floating-point.
      end: x_1, of the same shape.
      points: n, at least 1.

    Returns:
      The length, at least 0.

    Raises:
      ValueError: integer examples, or examples of different shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> circle = lambda t: jnp.stack([jnp.cos(t), jnp.sin(t)])
      >>> print(path_length(circle, jnp.float32(0.0), jnp.float32(2.0)))  # the arc; the chord is 1.68
      2.0

    References:
      Park et al., arXiv 2209.11436, sec. 4 (projected path length, figure 5).
    """
    start, end = _line(start, end)
    fractions = (jnp.arange(points, dtype=start.dtype) + 0.5) / points

    def speed(t: Array) -> Array:
        return directional_norm(fn, (1 - t) * start + t * end, end - start)

    return jnp.mean(jax.vmap(speed)(fractions))


def chord_length(
    fn: Callable[[Array], Array], start: Num[Array, "*inputs"], end: Num[Array, "*inputs"], *, points: int = 16
) -> Float[Array, ""]:
    r"""Length of the polygon through the outputs at equal steps between two examples.

    .. math:: \sum_{i=0}^{n-1} \lVert f(x_{(i+1)/n}) - f(x_{i/n}) \rVert_2.

    Never longer than the path. *Cost*: n + 1 forward passes, all at once; no derivative.

    Args:
      fn: maps one example to an array of any shape.
      start: x_0, floating-point.
      end: x_1, of the same shape.
      points: n, the number of steps, at least 1.

    Returns:
      The length, at least 0.

    Raises:
      ValueError: integer examples, examples of different shapes, or fewer than 1 step.

    Example:
      >>> import jax.numpy as jnp
      >>> circle = lambda t: jnp.stack([jnp.cos(t), jnp.sin(t)])
      >>> print(f"{chord_length(circle, jnp.float32(0.0), jnp.float32(2.0), points=4):.4f}")  # 8 sin(1/4)
      1.9792
    """
    start, end = _line(start, end)
    if points < 1:
        raise ValueError(f"{points=} is below 1: give the number of steps between the examples, such as 16")
    fractions = jnp.linspace(0, 1, points + 1, dtype=start.dtype)
    with jax.default_matmul_precision("highest"):
        real_outputs(fn, start)
        outputs = jax.vmap(lambda t: fn((1 - t) * start + t * end))(fractions)
    steps = jnp.diff(outputs, axis=0)
    return jnp.sum(square_root(sum_of_squares(steps, axes=1)))


def _line(start: Array, end: Array) -> tuple[Array, Array]:
    start, end = floats("start", start), floats("end", end)
    check_same_shape("end", end, "start", start)
    return start, end
