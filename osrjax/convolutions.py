"""Convolutions in the one dimension order that XLA's compiler for CPUs runs fast inside loops.

Before it can hand a convolution to a library, XLA for CPU brings it to the order ``NHWC, HWIO -> NHWC``, but it
does so for the outermost computation only. In the body of a ``lax.map``, ``lax.scan`` or ``lax.while_loop`` a
convolution in another order, such as the transpose that a gradient makes, is compiled to plain nested loops, several
times slower (``experiments/speed.py --what jacobian --default-options``). Transposing the operands in the traced
program costs little and avoids that; other backends choose their layouts themselves and lose nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun
from jaxtyping import Array

__all__ = ["canonical_convolutions"]


def canonical_convolutions(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function with every convolution in the order ``NHWC, HWIO -> NHWC``.

    The function is traced and its operations are applied one by one, convolutions with transposed operands. Calls
    of jitted functions are entered; loops and conditions inside the function stay as they are. The result can
    be differentiated, vmapped and jitted like the function itself. To speed up a gradient, give the function
    that computes it: differentiating the result would make convolutions in other orders again.

    Args:
      fn: takes and returns pytrees of arrays.

    Returns:
      A function of the same arguments with the same values, up to the order of summation.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> image, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 5))
      >>> convolve = lambda image: jax.lax.conv_general_dilated(
      ...     image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
      >>> _, pullback = jax.vjp(convolve, image)
      >>> pullback = canonical_convolutions(pullback)  # 45 = nine positions of the kernel times five channels
      >>> print(pullback(jnp.ones((1, 4, 4, 5)))[0][0, 1, 1])
      [45. 45.]
    """

    def canonical(*arguments: Any) -> Any:
        leaves, tree = jax.tree.flatten(arguments)
        closed, shapes = jax.make_jaxpr(lambda *flat: fn(*jax.tree.unflatten(tree, flat)), return_shape=True)(*leaves)
        return jax.tree.unflatten(jax.tree.structure(shapes), _evaluate(closed.jaxpr, closed.consts, leaves))

    return canonical


def _evaluate(jaxpr: Jaxpr, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *arguments), strict=True))
    for equation in jaxpr.eqns:
        inputs = [atom.val if isinstance(atom, Literal) else values[atom] for atom in equation.invars]
        primitive, parameters = equation.primitive, equation.params
        if primitive is lax.conv_general_dilated_p:
            outputs = [_convolution(*inputs, **parameters)]
        elif primitive.name == "jit":
            inner = parameters["jaxpr"]
            outputs = _evaluate(inner.jaxpr, inner.consts, inputs)
        else:
            outputs = _apply(jaxpr, equation, inputs)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [atom.val if isinstance(atom, Literal) else values[atom] for atom in jaxpr.outvars]


def _apply(jaxpr: Jaxpr, equation: JaxprEqn, inputs: Sequence[Any]) -> list[Any]:
    """One operation as it is: JAX evaluates a program of this equation alone."""
    given = {atom: value for atom, value in zip(equation.invars, inputs, strict=True) if isinstance(atom, Var)}
    alone = jaxpr.replace(
        constvars=[], invars=[*given], outvars=[*equation.outvars], eqns=[equation], effects=equation.effects
    )
    return jaxpr_as_fun(ClosedJaxpr(alone, []))(*given.values())


def _convolution(images: Array, kernel: Array, *, dimension_numbers: lax.ConvDimensionNumbers, **parameters) -> Array:
    """One convolution, computed as NHWC, HWIO -> NHWC whatever the order of its operands and result."""
    # Positions of: batch, channels, space; outputs, inputs, window; and for the result as for the images.
    (batch, channels, *space), (outputs, inputs, *window), result = dimension_numbers
    images = lax.transpose(images, (batch, *space, channels))
    kernel = lax.transpose(kernel, (*window, inputs, outputs))
    last = images.ndim - 1
    order = (0, last, *range(1, last))
    found = lax.conv_general_dilated(
        images,
        kernel,
        dimension_numbers=lax.ConvDimensionNumbers(order, (last, last - 1, *range(last - 1)), order),
        **parameters,
    )
    positions = [0] * found.ndim
    for here, there in zip(order, result, strict=True):
        positions[there] = here
    return lax.transpose(found, positions)
