r"""Norms of input Jacobians: exact, along a direction, and estimated by projections.

For a function f of one example x, the input Jacobian is :math:`J(x) = \partial f / \partial x`, a matrix of outputs
x inputs, and its Frobenius norm :math:`\lVert J \rVert_F`. A function here takes ONE example and a plain
callable, and the caller vmaps; :func:`input_jacobian_norms` takes a whole batch and is the faster way for networks.

*Which norm.* The callable decides: the paper's analysis is on the unit-normalised embedding, for every
method compared. Norms of the raw embedding and of the logits are other quantities. They are per unit of x,
and any further preprocessing belongs inside the callable.

*Exact* means float32 rounding: everything is computed at the highest matmul and convolution precision, whatever the
process has set, and summed in float32 or better. The matrix itself is never held: its rows (reverse
mode) or columns (forward mode) are made ``chunk_size`` at a time and reduced to squares at once. Every norm can be
differentiated, with 0 as gradient where the Jacobian is 0; the passes are then computed again, chunk by
chunk, rather than kept. Squares are summed without scaling, so derivatives have to lie between about 1e-19 and
1e19 in float32.

On a CPU, jit them with :func:`osrjax.cpu.compiler_options`. To differentiate a norm of a convolutional network by its
parameters there, one chunk for all passes is faster: the gradient's convolutions are slow inside a loop
(:mod:`osrjax.convolutions`). A function with ``jax.custom_vjp`` has no forward mode: ask for "reverse".
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Num
from scipy import special

from osrjax.convolutions import canonical_convolutions

__all__ = [
    "JacobianEstimate",
    "automatic_mode",
    "chord_length",
    "directional_norm",
    "input_jacobian",
    "input_jacobian_norm",
    "input_jacobian_norms",
    "interpolation_profile",
    "jacobian_estimate",
    "largest_singular_value",
    "mean_estimate",
    "path_length",
    "projected_squares",
]

Mode = Literal["forward", "reverse", "auto"]
# Live example-directions that keep a CPU busy; larger ones do not run faster there.
_ROWS = 128


class JacobianEstimate(NamedTuple):
    r"""An estimate of a squared Frobenius norm from random projections.

    Attributes:
      squared_norm: mean of the squared projections, unbiased for :math:`\lVert J \rVert_F^2`.
      standard_error: of ``squared_norm``.
      low: lower end of the t interval of ``squared_norm``, cut at 0.
      high: its upper end.
      norm: square root of ``squared_norm``; too small on average, by about ``norm_bias``.
      norm_bias: :math:`-s^2 / (8\, norm^3)` with s the standard error: the second-order bias of the square root.
    """

    squared_norm: Float[Array, "*batch"]
    standard_error: Float[Array, "*batch"]
    low: Float[Array, "*batch"]
    high: Float[Array, "*batch"]
    norm: Float[Array, "*batch"]
    norm_bias: Float[Array, "*batch"]


def input_jacobian(
    fn: Callable[[Array], Array], x: Num[Array, "*inputs"], *, mode: Literal["forward", "reverse"] = "forward"
) -> Float[Array, "..."]:
    """Input Jacobian of one example, as a whole.

    *Cost*: ``x.size`` tangent passes (forward, ``jax.jacfwd``) or as many cotangent passes as there are outputs
    (reverse, ``jax.jacrev``), all at once: memory grows with that number. For norms use the functions below.

    Args:
      fn: maps one example to an array of any shape.
      x: floating-point example of any shape.
      mode: direction of differentiation; the values agree to rounding.

    Returns:
      Array of shape ``[*outputs, *inputs]``.

    Raises:
      ValueError: an integer example, outputs that are not one array of floats, or an unknown mode.

    Example:
      >>> import jax.numpy as jnp
      >>> print(input_jacobian(lambda x: jnp.stack([x[0] * x[1], x[1]]), jnp.array([2.0, 3.0])))
      [[3. 2.]
       [0. 1.]]

    References:
      Park et al., arXiv 2209.11436, sec. 3 (J(x), the derivative of the embedding by the input).
    """
    _check_floating("x", x)
    if mode not in ("forward", "reverse"):
        raise ValueError(f'{mode=} is not one of "forward", "reverse"')
    transform = jax.jacfwd if mode == "forward" else jax.jacrev
    with jax.default_matmul_precision("highest"):
        _real_outputs(fn, x)
        return transform(fn)(x)


def input_jacobian_norm(
    fn: Callable[[Array], Array], x: Num[Array, "*inputs"], *, mode: Mode = "forward", chunk_size: int | None = None
) -> Float[Array, ""]:
    r"""Frobenius norm of the input Jacobian of one example.

    .. math:: \lVert J(x) \rVert_F = \Big(\sum_{ij} (\partial f_i / \partial x_j)^2\Big)^{1/2}.

    *Cost*: one linearisation and ``x.size`` tangent passes (forward, the definition by ``jax.jacfwd``) or one cotangent
    pass for each output (reverse); memory for ``chunk_size`` passes, times the examples that the caller vmaps over.

    Args:
      fn: maps one example to an array of any shape; any framework.
      x: floating-point example of any shape.
      mode: "forward", "reverse", or "auto", which takes :func:`automatic_mode`; the values agree to rounding.
      chunk_size: passes at a time, at least 1; None for 16.

    Returns:
      The norm, not negative; float32, or float64 for float64.

    Raises:
      ValueError: an integer example, outputs that are not one array of floats, an unknown mode, or a chunk size below
        1.

    Example:
      >>> import jax.numpy as jnp
      >>> weights = jnp.array([[1.0, 2.0], [2.0, 0.0]])
      >>> print(input_jacobian_norm(lambda x: weights @ x, jnp.zeros(2)))
      3.0

    References:
      Park et al., arXiv 2209.11436, sec. 3 and eq. 1.
    """
    _check_floating("x", x)
    if chunk_size is None:
        chunk_size = 16
    return input_jacobian_norms(_for_batch_of_one(fn), x[None], mode=mode, chunk_size=chunk_size)[0]


def input_jacobian_norms(
    fn: Callable[[Array], Array],
    images: Num[Array, "batch *inputs"],
    *,
    mode: Mode = "auto",
    chunk_size: int | None = None,
) -> Float[Array, " batch"]:
    r"""Frobenius norms of the input Jacobians of a batch, from one linearisation of the whole batch.

    Equal to :func:`input_jacobian_norm` vmapped over the batch where examples do not interact: row i of the
    outputs depends on image i alone. A network has to use running statistics;
    ``osrjax.jacobian_dataset`` looks whether it does.

    *Cost*: as many passes over the batch as an image has values (forward) or outputs (reverse), nothing else of note:
    no parameter is differentiated. Memory for ``batch * chunk_size`` images on their way back through the network.

    Args:
      fn: maps a batch to an array with the same leading axis and any others.
      images: floating-point batch.
      mode: "forward", "reverse", or "auto", which takes :func:`automatic_mode`; the values agree to rounding.
      chunk_size: passes at a time, at least 1; None for as many as make 128 images, at least one.

    Returns:
      One norm an image, not negative; float32, or float64 for float64.

    Raises:
      ValueError: integer images, an empty batch, outputs that are not one array of floats with the batch's axis, an
        unknown mode, or a chunk size below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> print(input_jacobian_norms(lambda x: x**2, jnp.array([[1.0, 0.0], [3.0, 4.0]])))
      [ 2. 10.]

    References:
      Park et al., arXiv 2209.11436, sec. 3 and eq. 1.
    """
    _check_floating("images", images)
    if images.ndim == 0 or images.shape[0] == 0:
        raise ValueError(f"images of shape {images.shape} hold no example: give a batch of at least one")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"{chunk_size=} is below 1: give the number of passes at a time, such as 16")
    batch = images.shape[0]
    with jax.default_matmul_precision("highest"):
        outputs = _real_outputs(fn, images)
        if outputs.shape[:1] != (batch,):
            raise ValueError(f"fn(images) has shape {outputs.shape} for {batch} images: keep the batch's axis first")
        inputs, outputs = images.size // batch, math.prod(outputs.shape[1:])
        apply, directions = _linear_map(fn, images, automatic_mode(inputs, outputs) if mode == "auto" else mode)
        size = math.prod(directions.shape[1:])

        def squares(index: Array) -> Array:
            direction = jax.nn.one_hot(index, size, dtype=directions.dtype).reshape(directions.shape[1:])
            return _sum_of_squares(apply(_along(directions, direction[None])), axes=1)

        # Recomputed when differentiated: what a pass leaves behind is as large as the matrix.
        rows = lax.map(
            jax.checkpoint(squares),
            jnp.arange(size),
            batch_size=min(chunk_size or max(1, _ROWS // batch), max(size, 1)),
        )
    return _square_root(jnp.sum(rows, axis=0))


def automatic_mode(inputs: int, outputs: int) -> Literal["forward", "reverse"]:
    """Mode of differentiation that needs fewer passes.

    A tangent pass and a cotangent pass through a network take about the same time, so their numbers decide.

    Args:
      inputs: values of one example, at least 1.
      outputs: outputs of one example, at least 1.

    Returns:
      "forward" where there are fewer inputs than outputs, otherwise "reverse".

    Example:
      >>> automatic_mode(64, 512), automatic_mode(3072, 256)
      ('forward', 'reverse')

    References:
      Park et al., arXiv 2209.11436, sec. 3, leaves the computation open; the rule is counted, and measured by
      experiments/speed.py.
    """
    return "forward" if inputs < outputs else "reverse"


def directional_norm(
    fn: Callable[[Array], Array], x: Num[Array, "*inputs"], direction: Num[Array, "*inputs"]
) -> Float[Array, ""]:
    r"""Length of the output's velocity when the input moves along a direction.

    .. math:: \lVert J(x) v \rVert_2.

    *Cost*: one tangent pass.

    Args:
      fn: maps one example to an array of any shape.
      x: floating-point example.
      direction: v, of the shape of ``x``; not normalised.

    Returns:
      The length, not negative.

    Raises:
      ValueError: integer arrays, outputs that are not one array of floats, or a direction of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> print(directional_norm(lambda x: x**2, jnp.array([1.0, 2.0]), jnp.array([0.0, 1.0])))
      4.0

    References:
      Park et al., arXiv 2209.11436, sec. 4 (projected path length).
    """
    _check_floating("x", x)
    _check_floating("direction", direction)
    _check_same_shape("direction", direction, "x", x)
    with jax.default_matmul_precision("highest"):
        _real_outputs(fn, x)
        _, velocity = jax.jvp(fn, (x,), (direction.astype(x.dtype),))
    return _square_root(_sum_of_squares(velocity))


def interpolation_profile(
    fn: Callable[[Array], Array],
    start: Num[Array, "*inputs"],
    end: Num[Array, "*inputs"],
    fractions: Float[Array, " points"],
    *,
    mode: Mode = "auto",
    chunk_size: int | None = None,
) -> Float[Array, " points"]:
    r"""Norms of the input Jacobian along the straight line between two examples.

    .. math:: \lVert J(x_t) \rVert_F, \quad x_t = (1 - t)\, x_0 + t\, x_1.

    *Cost*: that of :func:`input_jacobian_norms` for a batch of ``points``.

    Args:
      fn: maps one example to an array of any shape.
      start: x_0, floating-point.
      end: x_1, of the same shape.
      fractions: the values of t; 0 is ``start`` and 1 is ``end``.
      mode: as in :func:`input_jacobian_norms`.
      chunk_size: as in :func:`input_jacobian_norms`.

    Returns:
      One norm for each fraction.

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
    _check_line(start, end)
    t = fractions.astype(start.dtype).reshape(-1, *(1 for _ in start.shape))
    points = (1 - t) * start[None] + t * end[None]
    return input_jacobian_norms(jax.vmap(fn), points, mode=mode, chunk_size=chunk_size)


def path_length(
    fn: Callable[[Array], Array], start: Num[Array, "*inputs"], end: Num[Array, "*inputs"], *, points: int = 16
) -> Float[Array, ""]:
    r"""Length of the output's path while the input moves straight from one example to another.

    .. math:: \int_0^1 \lVert J(x_t)\,(x_1 - x_0) \rVert_2\, dt \approx
              \frac1n \sum_{i=1}^{n} \lVert J(x_{(i - 1/2)/n})\,(x_1 - x_0) \rVert_2.

    *Cost*: one tangent pass a point, all at once. The midpoint rule errs by the order of :math:`1/n^2` where f is
    smooth.

    Args:
      fn: maps one example to an array of any shape.
      start: x_0, floating-point.
      end: x_1, of the same shape.
      points: n, at least 1.

    Returns:
      The length, not negative.

    Raises:
      ValueError: integer examples, examples of different shapes, or fewer than 1 point.

    Example:
      >>> import jax.numpy as jnp
      >>> circle = lambda t: jnp.stack([jnp.cos(t), jnp.sin(t)])
      >>> print(path_length(circle, jnp.float32(0.0), jnp.float32(2.0)))  # the arc; the chord is 1.68
      2.0

    References:
      Park et al., arXiv 2209.11436, sec. 4 (projected path length, figure 5).
    """
    _check_line(start, end)
    if points < 1:
        raise ValueError(f"{points=} is below 1: give the number of points of the integral, such as 16")
    fractions = (jnp.arange(points, dtype=start.dtype) + 0.5) / points

    def speed(t: Array) -> Array:
        return directional_norm(fn, (1 - t) * start + t * end, end - start)

    return jnp.mean(jax.vmap(speed)(fractions))


def chord_length(
    fn: Callable[[Array], Array], start: Num[Array, "*inputs"], end: Num[Array, "*inputs"], *, points: int = 16
) -> Float[Array, ""]:
    r"""Length of the polygon through the outputs at equal steps between two examples.

    .. math:: \sum_{i=0}^{n-1} \lVert f(x_{(i+1)/n}) - f(x_{i/n}) \rVert_2.

    Never longer than the path; needs no derivative. *Cost*: n + 1 forward passes, all at once.

    Args:
      fn: maps one example to an array of any shape.
      start: x_0, floating-point.
      end: x_1, of the same shape.
      points: n, the number of steps, at least 1.

    Returns:
      The length, not negative.

    Raises:
      ValueError: integer examples, examples of different shapes, or fewer than 1 step.

    Example:
      >>> import jax.numpy as jnp
      >>> circle = lambda t: jnp.stack([jnp.cos(t), jnp.sin(t)])
      >>> print(f"{chord_length(circle, jnp.float32(0.0), jnp.float32(2.0), points=4):.4f}")  # 8 sin(1/4)
      1.9792

    References:
      Park et al., arXiv 2209.11436, sec. 4 (projected path length, figure 5).
    """
    _check_line(start, end)
    if points < 1:
        raise ValueError(f"{points=} is below 1: give the number of steps between the examples, such as 16")
    fractions = jnp.linspace(0, 1, points + 1, dtype=start.dtype)
    with jax.default_matmul_precision("highest"):
        _real_outputs(fn, start)
        outputs = jax.vmap(lambda t: fn((1 - t) * start + t * end))(fractions)
    steps = jnp.diff(outputs, axis=0)
    return jnp.sum(_square_root(_sum_of_squares(steps, axes=1)))


def largest_singular_value(
    fn: Callable[[Array], Array], key: Array, x: Num[Array, "*inputs"], *, iterations: int = 32
) -> Float[Array, ""]:
    r"""Spectral norm of the input Jacobian of one example, by power iteration on :math:`J^T J`.

    .. math:: \sigma_1(J) = \max_{\lVert v \rVert = 1} \lVert J v \rVert_2.

    Approached from below; after n iterations the relative error is of the order of :math:`(\sigma_2/\sigma_1)^{4n}`.
    *Cost*: one linearisation, and one tangent and one cotangent pass an iteration. Differentiable: the singular vector
    counts as constant, which is exact where the iteration has converged.

    Args:
      fn: maps one example to an array of any shape.
      key: of the random start; it is consumed.
      x: floating-point example.
      iterations: at least 1.

    Returns:
      The largest singular value, at most the Frobenius norm.

    Raises:
      ValueError: an integer example, or fewer than 1 iteration.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> scales = jnp.array([3.0, 1.0, 2.0])
      >>> print(f"{largest_singular_value(lambda x: scales * x, jax.random.key(0), jnp.ones(3)):.4f}")
      3.0000

    References:
      Park et al., arXiv 2209.11436, sec. 3 (J(x)); the power method is textbook.
    """
    _check_floating("x", x)
    if iterations < 1:
        raise ValueError(f"{iterations=} is below 1: give the number of power iterations, such as 32")
    with jax.default_matmul_precision("highest"):
        _real_outputs(fn, x)
        _, pushforward = jax.linearize(fn, x)
        pushforward = canonical_convolutions(pushforward)
        pullback = canonical_convolutions(jax.linear_transpose(pushforward, x))

        def unit(v: Array) -> Array:
            v = v / jnp.maximum(jnp.max(jnp.abs(v), initial=0), jnp.finfo(v.dtype).tiny)  # its square cannot overflow
            length = jnp.sqrt(_sum_of_squares(v)).astype(v.dtype)
            return v / jnp.where(length > 0, length, 1)

        def iterate(v: Array, _: None) -> tuple[Array, None]:
            (v,) = pullback(unit(pushforward(v)))
            return unit(v), None

        start = _along(x, jax.random.normal(key, x.shape, x.dtype))
        v, _ = lax.scan(iterate, unit(start), None, length=iterations)
        return directional_norm(fn, x, lax.stop_gradient(v))


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

    The variance of one is :math:`2 \lVert J J^T \rVert_F^2` for Gaussian v, and less for Rademacher signs, which
    leave out the diagonal: :math:`2 (\lVert A \rVert_F^2 - \sum_i A_{ii}^2)` with :math:`A = J J^T`. In forward mode
    v is an input direction and :math:`A = J^T J`. *Cost*: one linearisation and one pass a sample.

    :func:`jacobian_estimate` makes an estimate with an interval of them. They do not replace the exact norm
    silently anywhere: for that is :func:`input_jacobian_norm`.

    Args:
      fn: maps one example to an array of any shape.
      key: of the projections; it is consumed. Give every example its own.
      x: floating-point example.
      samples: number of projections, at least 1 (2 for an interval).
      distribution: of the entries of v.
      mode: "reverse" projects the outputs, "forward" the inputs.
      chunk_size: passes at a time; None for all of them, at most 16.

    Returns:
      One squared length a sample.

    Raises:
      ValueError: an integer example, fewer than 1 sample, an unknown distribution or mode, a chunk size below 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> print(projected_squares(lambda x: 3 * x, jax.random.key(0), jnp.ones(4), samples=2))
      [36. 36.]

    References:
      Hutchinson, A stochastic estimator of the trace of the influence matrix, 1989; of a Jacobian: Hoffman et al.,
      Robust Learning with Jacobian Regularization, arXiv 1908.02729, sec. 2.
    """
    _check_floating("x", x)
    if samples < 1:
        raise ValueError(f"{samples=} is below 1: give the number of projections, 2 or more for an interval")
    if distribution not in ("rademacher", "gaussian"):
        raise ValueError(f'{distribution=} is not one of "rademacher", "gaussian"')
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"{chunk_size=} is below 1: give the number of passes at a time, such as 16")
    if mode not in ("reverse", "forward"):
        raise ValueError(f'{mode=} is not one of "reverse", "forward"')
    draw = jax.random.rademacher if distribution == "rademacher" else jax.random.normal
    with jax.default_matmul_precision("highest"):
        _real_outputs(fn, x)
        apply, directions = _linear_map(_for_batch_of_one(fn), x[None], mode)

        def square(direction: Array) -> Array:
            return _sum_of_squares(apply(_along(directions, direction)))

        # Drawn at once: a projection is no larger than the outputs, a pass through the network is.
        drawn = draw(key, (samples, *directions.shape), directions.dtype)
        return lax.map(jax.checkpoint(square), drawn, batch_size=min(chunk_size or 16, samples))


def jacobian_estimate(squares: Float[Array, "*batch samples"], *, level: float = 0.95) -> JacobianEstimate:
    """Estimate of each example's squared Jacobian norm, with a t interval, from its projections.

    The interval supposes normal projections; squares are skewed, so with few samples it covers somewhat less than
    its level (experiments/README.md has measured coverages).

    Args:
      squares: :func:`projected_squares` of each example, at least 2 samples.
      level: of the interval, between 0 and 1.

    Returns:
      Estimates, one for each example.

    Raises:
      ValueError: fewer than 2 samples, or a level outside (0, 1).

    Example:
      >>> import jax.numpy as jnp
      >>> estimate = jacobian_estimate(jnp.array([3.0, 5.0]))
      >>> print(estimate.squared_norm, estimate.standard_error, estimate.norm)
      4.0 1.0 2.0

    References:
      Student's t interval of a mean; Hutchinson 1989 for the projections.
    """
    samples = _check_samples(squares, level)
    squared_norm = jnp.mean(squares, axis=-1)
    standard_error = jnp.std(squares, axis=-1, ddof=1) / math.sqrt(samples)
    return _estimate(squared_norm, standard_error, samples - 1, level)


def mean_estimate(squares: Float[Array, "examples samples"], *, level: float = 0.95) -> JacobianEstimate:
    """Estimate of a fixed data set's mean squared Jacobian norm, with the error of the projections alone.

    The interval says where the exact mean over THESE examples lies; for a mean over the population that they
    are drawn from, take an ordinary t interval of the examples' own estimates. Examples must have been projected
    with different keys. Its degrees of freedom are ``examples * (samples - 1)``, which is too many where one or two
    examples make up most of the sum.

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

    References:
      Student's t interval of a mean; Hutchinson 1989 for the projections.
    """
    samples = _check_samples(squares, level)
    if squares.ndim != 2 or squares.shape[0] == 0:
        raise ValueError(f"squares has shape {squares.shape}: give [examples, samples], at least one example")
    examples = squares.shape[0]
    variances = jnp.var(squares, axis=-1, ddof=1) / samples
    return _estimate(jnp.mean(squares), jnp.sqrt(jnp.sum(variances)) / examples, examples * (samples - 1), level)


def _linear_map(fn: Callable[[Array], Array], x: Array, mode: str) -> tuple[Callable[[Array], Array], Any]:
    """The derivative at x as a function of one direction for the batch, and the shape and dtype of directions."""
    if mode == "forward":
        _, pushforward = jax.linearize(fn, x)
        return canonical_convolutions(pushforward), x
    if mode != "reverse":
        raise ValueError(f'{mode=} is not one of "forward", "reverse", "auto"')
    outputs, pullback = jax.vjp(fn, x)
    return canonical_convolutions(lambda cotangent: pullback(cotangent)[0]), outputs


def _along(like: Array, direction: Array) -> Array:
    """The direction broadcast to an array's shape; inside ``shard_map`` it also varies over the same mesh axes."""
    return jnp.zeros_like(like) + direction


def _for_batch_of_one(fn: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda x: fn(x[0])[None]


def _sum_of_squares(values: Array, *, axes: int = 0) -> Array:
    """Over all axes but the first ``axes``, in float32 at least."""
    wide = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    return jnp.sum(jnp.square(wide), axis=tuple(range(axes, values.ndim)))


def _square_root(squares: Array) -> Array:
    """The square root with gradient 0 at 0; the inner replacement keeps ``0 * inf`` out of the gradient."""
    zero = squares == 0  # not "positive": NaN has to stay NaN
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squares)))


def _estimate(squared_norm: Array, standard_error: Array, degrees: int, level: float) -> JacobianEstimate:
    half_width = float(special.stdtrit(degrees, (1 + level) / 2)) * standard_error
    norm = _square_root(squared_norm)
    zero = norm == 0
    bias = jnp.where(zero, 0, -jnp.square(standard_error) / (8 * jnp.where(zero, 1, norm) ** 3))
    low = jnp.maximum(squared_norm - half_width, 0)
    return JacobianEstimate(squared_norm, standard_error, low, squared_norm + half_width, norm, bias)


def _real_outputs(fn: Callable[[Array], Array], x: Array) -> jax.ShapeDtypeStruct:
    """Shape and dtype of the outputs, which have to be one array of floats: other derivatives would be wrong."""
    outputs = jax.eval_shape(fn, x)
    if not hasattr(outputs, "dtype"):
        raise ValueError(f"fn gives a {type(outputs).__name__}: return one array")
    if not jnp.issubdtype(outputs.dtype, jnp.floating):
        raise ValueError(
            f"fn gives dtype {outputs.dtype}: return real floats (complex ones as real and imaginary part)"
        )
    return outputs


def _check_samples(squares: Array, level: float) -> int:
    samples = squares.shape[-1] if squares.ndim else 0
    if samples < 2:
        raise ValueError(f"squares has {samples} samples: an interval needs at least 2")
    if not 0 < level < 1:
        raise ValueError(f"{level=} is not between 0 and 1: give one such as 0.95")
    return samples


def _check_floating(name: str, x: Array) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} has dtype {x.dtype}: give floats (osrjax.augment.to_float for stored images)")


def _check_same_shape(name: str, array: Array, other_name: str, other: Array) -> None:
    if array.shape != other.shape:
        raise ValueError(f"{name} has shape {array.shape} but {other_name} {other.shape}: give equal shapes")


def _check_line(start: Array, end: Array) -> None:
    _check_floating("start", start)
    _check_floating("end", end)
    _check_same_shape("end", end, "start", start)
