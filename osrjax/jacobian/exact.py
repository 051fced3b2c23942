r"""Norms of input Jacobians: the definition, the same number in less memory and time, and single directions.

The input Jacobian J(x) of a function f with n inputs and m outputs is the m x n matrix of its derivatives, and its
Frobenius norm is

.. math:: \lVert J(x) \rVert_F = \Big(\sum_{ij} (\partial f_i / \partial x_j)^2\Big)^{1/2},
          \qquad\text{in code}\quad \mathtt{norm(jax.jacfwd(f)(x))}.

Three functions give this number:

* :func:`jacfwd_norm` is the definition: n passes at once and the whole matrix in memory. For small functions, and to
  test the others against.
* :func:`input_jacobian_norm` makes min(n, m) passes, ``chunk_size`` at a time, and never holds the matrix. For one
  example of any callable; ``jax.vmap`` it over examples or stacked checkpoints.
* :func:`input_jacobian_norms` takes a function of batches, such as a network, and a batch.

:func:`osrjax.analysis.norms.dataset_jacobian_norms` does it for many images, within a memory budget and over devices.

*Modes*. A forward (tangent) pass gives a column of J, a reverse (cotangent) pass a row, and both take about as long.
``mode="auto"`` takes the mode with fewer passes: forward where there are more outputs than inputs, otherwise reverse.
It is the default: for a usual network, with thousands of pixels and a few hundred features, forward takes 11 to 33
times as long. The values agree to rounding. ``jax.custom_vjp`` has no forward mode and ``jax.lax.while_loop`` no
reverse mode: "auto" then takes the other one.

*Over many devices*, by plain ``jax.jit``: images outermost, directions within each, so that a batch that is spread over
a mesh stays spread, without communication (``experiments/benchmarks/jacobian_mesh.py``).

*Which norm*. The callable decides. The paper's analysis is on the unit-normalised embedding; the norms of the raw
embedding and of the logits are other quantities. Norms are per unit of x: further preprocessing belongs inside the
callable.

*Exact* means float32 rounding: the highest matmul and convolution precision, whatever the process has set, and sums in
float32 or better. Squares are summed without scaling, so derivatives must lie between about 1e-19 and 1e19. Every norm
can be differentiated, with gradient 0 where the Jacobian is 0; the passes are then computed again, not kept, unless all
go at once.

*On a CPU*, jit with :func:`osrjax.devices.cpu.compiler_options`. To differentiate a norm of a convolutional network by
its parameters, take a ``chunk_size`` of all passes there, which makes no loop: in one the gradient's convolutions are
slow.
"""

from collections.abc import Callable
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Num

from osrjax.devices.convolutions import canonical_convolutions
from osrjax.jacobian.passes import (
    ROWS,
    Mode,
    broadcast_like,
    floats,
    linear_map,
    norm,
    over_passes,
    real_outputs,
    square_root,
    sum_of_squares,
)

__all__ = [
    "automatic_mode",
    "directional_norm",
    "input_jacobian",
    "input_jacobian_norm",
    "input_jacobian_norms",
    "jacfwd_norm",
    "largest_singular_value",
]

T = TypeVar("T")


def jacfwd_norm(fn: Callable[[Array], Array], x: Num[Array, "*inputs"]) -> Float[Array, ""]:
    r"""Frobenius norm of the input Jacobian of one example, by its definition.

    .. math:: \lVert J(x) \rVert_F = \mathtt{norm(jax.jacfwd(f)(x))}.

    *Cost*: ``x.size`` tangent passes at once, and the whole matrix. :func:`input_jacobian_norm` gives the same number
    in less memory and, for most networks, much less time.

    Args:
      fn: maps one example to an array of any shape; any framework.
      x: floating-point example of any shape.

    Returns:
      The norm, at least 0; float32, or float64 for float64.

    Raises:
      ValueError: an integer example, or outputs that are not one array of floats.

    Example:
      >>> import jax.numpy as jnp
      >>> weights = jnp.array([[1.0, 2.0], [2.0, 0.0]])
      >>> print(jacfwd_norm(lambda x: weights @ x, jnp.zeros(2)))
      3.0

    References:
      Park et al., arXiv 2209.11436, sec. 3 and eq. 1.
    """
    x = floats("x", x)
    with jax.default_matmul_precision("highest"):
        real_outputs(fn, x)
        return norm(jax.jacfwd(fn)(x))


def input_jacobian(
    fn: Callable[[Array], Array], x: Num[Array, "*inputs"], *, mode: Mode = "auto"
) -> Float[Array, "..."]:
    """The whole input Jacobian of one example.

    *Cost*: ``x.size`` tangent passes (forward, ``jax.jacfwd``) or one cotangent pass per output (reverse,
    ``jax.jacrev``), all at once. The norms below need less memory.

    Args:
      fn: maps one example to an array of any shape.
      x: floating-point example of any shape.
      mode: "forward", "reverse", or "auto" for the one with fewer passes; the values agree to rounding.

    Returns:
      Array of shape ``[*outputs, *inputs]``.

    Raises:
      ValueError: an integer example, or outputs that are not one array of floats.

    Example:
      >>> import jax.numpy as jnp
      >>> print(input_jacobian(lambda x: jnp.stack([x[0] * x[1], x[1]]), jnp.array([2.0, 3.0])))
      [[3. 2.]
       [0. 1.]]
    """
    x = floats("x", x)
    with jax.default_matmul_precision("highest"):
        outputs = real_outputs(fn, x)
        transforms = {"forward": jax.jacfwd, "reverse": jax.jacrev}
        return in_mode(mode, x.size, outputs.size, lambda mode: transforms[mode](fn)(x))


def input_jacobian_norm(
    fn: Callable[[Array], Array], x: Num[Array, "*inputs"], *, mode: Mode = "auto", chunk_size: int | None = None
) -> Float[Array, ""]:
    r"""Frobenius norm of the input Jacobian of one example: :func:`jacfwd_norm` in less memory and time.

    .. math:: \lVert J(x) \rVert_F = \Big(\sum_{ij} (\partial f_i / \partial x_j)^2\Big)^{1/2}.

    *Cost*: one linearisation, then ``x.size`` tangent passes (forward) or one cotangent pass per output (reverse);
    memory for ``chunk_size`` passes, times the examples that the caller vmaps over.

    Args:
      fn: maps one example to an array of any shape; any framework.
      x: floating-point example of any shape.
      mode: "forward", "reverse", or "auto" for the one with fewer passes (:func:`automatic_mode`).
      chunk_size: passes at a time, at least 1; None for 16.

    Returns:
      The norm, at least 0; float32, or float64 for float64.

    Raises:
      ValueError: an integer example, outputs that are not one array of floats, an unknown mode, or ``chunk_size`` below
        1.

    Example:
      >>> import jax.numpy as jnp
      >>> weights = jnp.array([[1.0, 2.0], [2.0, 0.0]])
      >>> print(input_jacobian_norm(lambda x: weights @ x, jnp.zeros(2)))
      3.0

    References:
      Park et al., arXiv 2209.11436, sec. 3 and eq. 1.
    """
    x = floats("x", x)
    with jax.default_matmul_precision("highest"):
        return _norm(fn, x, mode, 16 if chunk_size is None else chunk_size)


def input_jacobian_norms(
    fn: Callable[[Array], Array],
    images: Num[Array, "batch *inputs"],
    *,
    mode: Mode = "auto",
    chunk_size: int | None = None,
) -> Float[Array, " batch"]:
    """Frobenius norms of the input Jacobians of a batch: :func:`input_jacobian_norm` of every image.

    Row i of the outputs must depend on image i alone, not on other images nor on i: a network uses its running
    statistics and no dropout. What is differentiated is ``fn`` of batches of one image, under ``jax.vmap``.

    *Cost*: one pass over the batch per input of an image (forward) or per output (reverse), nothing else of note;
    memory for ``batch * chunk_size`` images on their way through the network. Images that are spread over the axis of a
    mesh stay there, and so do their norms.

    Args:
      fn: maps a batch of any size to an array with the same leading axis and any others.
      images: floating-point batch.
      mode: "forward", "reverse", or "auto" for the one with fewer passes (:func:`automatic_mode`).
      chunk_size: passes at a time, at least 1; None for as many as make 128 images, at least one.

    Returns:
      One norm per image, at least 0; float32, or float64 for float64.

    Raises:
      ValueError: integer images, an empty batch, outputs that are not one array of floats with the batch's axis, an
        unknown mode, or ``chunk_size`` below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> print(input_jacobian_norms(lambda x: x**2, jnp.array([[1.0, 0.0], [3.0, 4.0]])))
      [ 2. 10.]

    References:
      Park et al., arXiv 2209.11436, sec. 3 and eq. 1.
    """
    images = floats("images", images)
    if images.ndim == 0 or images.shape[0] == 0:
        raise ValueError(f"images of shape {images.shape} hold no example: give a batch of at least one")
    batch = images.shape[0]
    size = max(1, ROWS // batch) if chunk_size is None else chunk_size

    def norm(image: Array) -> Array:
        whole = real_outputs(lambda x: fn(jnp.broadcast_to(x, (batch, *x.shape))), image).shape
        alone = jax.eval_shape(fn, image[None]).shape
        if whole != (batch, *alone[1:]) or alone[:1] != (1,):
            raise ValueError(
                f"fn(images) has shape {whole} for {batch} images and {alone} for one: keep the batch's axis first"
            )
        return _norm(lambda x: fn(x[None])[0], image, mode, size)

    # Images outermost: a convolution merges a mapped axis into its batch as the slowest, and so images that are spread
    # over devices stay where they are.
    with jax.default_matmul_precision("highest"):
        return jax.vmap(norm)(images)


def _norm(fn: Callable[[Array], Array], x: Array, mode: Mode, chunk_size: int) -> Array:

    def squared(mode: Literal["forward", "reverse"]) -> Array:
        apply, directions = linear_map(fn, x, mode)

        def square(index: Array) -> Array:
            direction = jax.nn.one_hot(index, directions.size, dtype=directions.dtype).reshape(directions.shape)
            return sum_of_squares(apply(broadcast_like(direction, directions)))

        return jnp.sum(over_passes(square, jnp.arange(directions.size), chunk_size))

    return square_root(in_mode(mode, x.size, real_outputs(fn, x).size, squared))


def in_mode(mode: Mode, inputs: int, outputs: int, compute: Callable[[Literal["forward", "reverse"]], T]) -> T:
    """Computes in a mode; "auto" is the one with fewer passes, or the other one where JAX has no such derivative."""
    if mode != "auto":
        return compute(mode)
    fewer = automatic_mode(inputs, outputs)
    try:
        return compute(fewer)
    except (TypeError, ValueError) as error:
        if "Reverse-mode differentiation" not in str(error) and "forward-mode autodiff" not in str(error):
            raise
        return compute("forward" if fewer == "reverse" else "reverse")


def automatic_mode(inputs: int, outputs: int) -> Literal["forward", "reverse"]:
    """The mode of differentiation that needs fewer passes.

    Args:
      inputs: values of one example, at least 1.
      outputs: outputs of one example, at least 1.

    Returns:
      "forward" where there are fewer inputs than outputs, otherwise "reverse".

    Example:
      >>> automatic_mode(64, 512), automatic_mode(3072, 256)
      ('forward', 'reverse')
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
      The length, at least 0.

    Raises:
      ValueError: an integer example, outputs that are not one array of floats, or a direction of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> print(directional_norm(lambda x: x**2, jnp.array([1.0, 2.0]), jnp.array([0.0, 1.0])))
      4.0
    """
    x = floats("x", x)
    with jax.default_matmul_precision("highest"):
        real_outputs(fn, x)
        _, velocity = jax.jvp(fn, (x,), (jnp.asarray(direction, x.dtype),))
    return norm(velocity)


def largest_singular_value(
    fn: Callable[[Array], Array], key: Array, x: Num[Array, "*inputs"], *, iterations: int = 32
) -> Float[Array, ""]:
    r"""Spectral norm of the input Jacobian of one example, by power iteration on :math:`J^T J`.

    .. math:: \sigma_1(J) = \max_{\lVert v \rVert = 1} \lVert J v \rVert_2.

    It is approached from below, with a relative error of the order of :math:`(\sigma_2/\sigma_1)^{4n}` after n
    iterations. The gradient takes the singular vector as constant, which is exact where the iteration has converged.
    *Cost*: one linearisation, and one tangent and one cotangent pass per iteration.

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
    """
    x = floats("x", x)
    if iterations < 1:
        raise ValueError(f"{iterations=} is below 1: give the number of power iterations, such as 32")
    with jax.default_matmul_precision("highest"):
        real_outputs(fn, x)
        _, pushforward = jax.linearize(fn, x)
        pushforward = canonical_convolutions(pushforward)
        pullback = canonical_convolutions(jax.linear_transpose(pushforward, x))

        def unit(v: Array) -> Array:
            v = v / jnp.maximum(jnp.max(jnp.abs(v), initial=0), jnp.finfo(v.dtype).tiny)  # its square cannot overflow
            length = jnp.sqrt(sum_of_squares(v)).astype(v.dtype)
            return v / jnp.where(length > 0, length, 1)

        def iterate(v: Array, _: None) -> tuple[Array, None]:
            (v,) = pullback(unit(pushforward(v)))
            return unit(v), None

        start = broadcast_like(jax.random.normal(key, x.shape, x.dtype), x)
        v, _ = lax.scan(iterate, unit(start), None, length=iterations)
        return directional_norm(fn, x, lax.stop_gradient(v))
