"""Convolutions in the two forms that XLA's compiler for CPUs runs fast where it is slow with them as they are.

*Canonical convolutions*, for loops.

Before it can hand a convolution to a library, XLA for CPU brings it to the order ``NHWC, HWIO -> NHWC``, but it
does so for the outermost computation only. In the body of a ``lax.map``, ``lax.scan`` or ``lax.while_loop`` a
convolution in another order, such as the transpose that a gradient makes, is compiled to plain nested loops, several
times slower (``experiments/speed.py --what jacobian --default-options``). Transposing the operands in the traced
program costs little and avoids that; other backends choose their layouts themselves and lose nothing. Little, if
it goes slab by slab: XLA writes a transposed array in its order, and for the gradient of a weight, which wants the
channels first, reads the images one channel after another, all cache lines for each.

*Patches times matrix*, for many networks at once. Under ``vmap`` over kernels a convolution becomes a grouped one,
which XLA for CPU runs at a fraction of the speed of its parts. As a matrix product of all patches with the kernel
it becomes a batched matrix product, and so do its gradients (``experiments/speed.py --what sweep``). The patches take
as many times the memory of the images as the window has positions, over the stride.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun
from jaxtyping import Array

__all__ = ["canonical_convolutions", "patch_convolutions"]

_CACHE = 2**21  # bytes of a core's second-level cache, about


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
    return _rewritten(fn, _convolution)


def patch_convolutions(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function with every plain convolution over an image as patches times matrix.

    Plain is a convolution over two dimensions without groups, dilation or negative padding; others are brought to
    the canonical order, as are those of a gradient taken inside the function. To have the gradients in this form
    too, differentiate the result. Calls of jitted functions are entered; loops and conditions stay as they are.

    *Cost*: the same multiplications; memory for the patches, ``positions / stride^2`` times that of the images, also
    between a forward and a backward pass.

    Args:
      fn: takes and returns pytrees of arrays.

    Returns:
      A function of the same arguments with the same values, up to the order of summation.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> images, kernels = jnp.ones((1, 4, 4, 2)), jnp.ones((7, 3, 3, 2, 5))  # of seven networks
      >>> convolve = lambda kernel: jax.lax.conv_general_dilated(
      ...     images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
      >>> found = jax.vmap(patch_convolutions(convolve))(kernels)
      >>> print(found.shape, found[6, 0, 1, 1])  # 18 = nine positions of the kernel times two channels
      (7, 1, 4, 4, 5) [18. 18. 18. 18. 18.]
    """
    return _rewritten(fn, _patches_times_matrix)


def _rewritten(fn: Callable[..., Any], convolution: Callable[..., Array]) -> Callable[..., Any]:
    def rewritten(*arguments: Any) -> Any:
        leaves, tree = jax.tree.flatten(arguments)
        closed, shapes = jax.make_jaxpr(lambda *flat: fn(*jax.tree.unflatten(tree, flat)), return_shape=True)(*leaves)
        found = _evaluate(closed.jaxpr, closed.consts, leaves, convolution)
        return jax.tree.unflatten(jax.tree.structure(shapes), found)

    return rewritten


def _evaluate(
    jaxpr: Jaxpr, constants: Sequence[Any], arguments: Sequence[Any], convolution: Callable[..., Array]
) -> list[Any]:
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *arguments), strict=True))
    for equation in jaxpr.eqns:
        inputs = [atom.val if isinstance(atom, Literal) else values[atom] for atom in equation.invars]
        primitive, parameters = equation.primitive, equation.params
        if primitive is lax.conv_general_dilated_p:
            outputs = [convolution(*inputs, **parameters)]
        elif primitive.name == "jit":
            inner = parameters["jaxpr"]
            outputs = _evaluate(inner.jaxpr, inner.consts, inputs, convolution)
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
    images = _transposed(images, (batch, *space, channels))
    kernel = lax.transpose(kernel, (*window, inputs, outputs))
    last = images.ndim - 1
    order = (0, last, *range(1, last))
    if (placed := parameters.get("out_sharding")) is not None:  # of the result in its own order
        spec = [*placed.spec, *[None] * images.ndim]
        there = dict(zip(order, result, strict=True))
        parameters["out_sharding"] = placed.update(spec=[spec[there[axis]] for axis in range(images.ndim)])
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


def _transposed(array: Array, order: Sequence[int]) -> Array:
    """The transposed array; on a CPU in slabs that stay in the cache, where its last axis becomes the first."""
    size = array.size * array.dtype.itemsize
    if order[0] != array.ndim - 1 or size <= _CACHE or jax.default_backend() != "cpu":
        return lax.transpose(array, order)
    axis = order[1]
    count = min(array.shape[axis], 32, 4 * size // _CACHE)
    ends = [array.shape[axis] * slab // count for slab in range(count + 1)]
    slabs = (lax.slice_in_dim(array, start, end, axis=axis) for start, end in itertools.pairwise(ends))
    return lax.concatenate([lax.transpose(slab, order) for slab in slabs], 1)


def _patches_times_matrix(
    images: Array, kernel: Array, *, dimension_numbers: lax.ConvDimensionNumbers, **parameters
) -> Array:
    """One convolution as a matrix product where it is plain, otherwise canonical."""
    (batch, channels, *space), (outputs, inputs, *window), result = dimension_numbers
    strides, padding = parameters["window_strides"], parameters["padding"]
    dilations = (*parameters["lhs_dilation"], *parameters["rhs_dilation"])
    grouped = parameters["feature_group_count"] != 1 or parameters["batch_group_count"] != 1
    if len(space) != 2 or grouped or set(dilations) != {1} or min(min(sides) for sides in padding) < 0:
        return _convolution(images, kernel, dimension_numbers=dimension_numbers, **parameters)
    images = lax.transpose(images, (batch, *space, channels))
    kernel = lax.transpose(kernel, (*window, inputs, outputs))
    images = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    rows, columns = kernel.shape[:2]
    height, width = (
        (size - length) // stride + 1
        for size, length, stride in zip(images.shape[1:3], (rows, columns), strides, strict=True)
    )
    ends = ((height - 1) * strides[0] + 1, (width - 1) * strides[1] + 1)
    cut = partial(lax.slice, images, strides=(1, *strides, 1))
    pieces = [
        cut((0, row, column, 0), (images.shape[0], row + ends[0], column + ends[1], images.shape[3]))
        for row in range(rows)
        for column in range(columns)
    ]
    patches = lax.concatenate(pieces, 3).reshape(images.shape[0] * height * width, -1)
    found = lax.dot_general(
        patches,
        kernel.reshape(-1, kernel.shape[-1]),
        (((1,), (0,)), ((), ())),
        precision=parameters["precision"],
        preferred_element_type=parameters["preferred_element_type"],
    ).reshape(images.shape[0], height, width, -1)
    order = [0] * 4
    for here, there in zip((0, 3, 1, 2), result, strict=True):
        order[there] = here
    return lax.transpose(found, order)
