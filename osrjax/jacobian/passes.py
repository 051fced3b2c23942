"""What every norm here is made of: a linear map at a point, a norm of arrays, checks of what is differentiated."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from osrjax.devices.convolutions import canonical_convolutions

Mode = Literal["forward", "reverse", "auto"]

# Examples times passes at a time that keep a CPU busy; more do not run faster there.
ROWS = 128


def linear_map(
    fn: Callable[[Array], Array], x: Array, mode: Literal["forward", "reverse"]
) -> tuple[Callable[[Array], Array], Array]:
    """The derivative of a function at x, linearised once, to be applied to one direction after another.

    Args:
      fn: maps x to an array.
      x: where to differentiate.
      mode: "forward" maps an input direction to J v, "reverse" an output direction to J^T v.

    Returns:
      The map, and an array of the shape and dtype of its directions: x, or the outputs.

    Raises:
      ValueError: an unknown mode.
    """
    if mode == "forward":
        _, pushforward = jax.linearize(fn, x)
        return canonical_convolutions(pushforward), x
    if mode != "reverse":
        raise ValueError(f'{mode=} is no mode: give "forward" or "reverse" (for a norm also "auto")')
    outputs, pullback = jax.vjp(fn, x)
    return canonical_convolutions(lambda cotangent: pullback(cotangent)[0]), outputs


def broadcast_like(direction: Array, x: Array) -> Array:
    """The direction in the shape of x; inside ``jax.shard_map`` it also varies over the mesh axes of x."""
    return jnp.zeros_like(x) + direction


def over_passes(one_pass: Callable[[Array], Array], passes: Array, chunk_size: int) -> Array:
    """What every pass gives, so many at a time; where all go at once there is no loop."""
    if chunk_size < 1:
        raise ValueError(f"{chunk_size=} is below 1: give the number of passes at a time, such as 16")
    if chunk_size >= len(passes):
        return jax.vmap(one_pass)(passes)
    # Recomputed when differentiated: what a pass leaves behind is as large as the matrix.
    return lax.map(jax.checkpoint(one_pass), passes, batch_size=chunk_size)


def norm(values: Array) -> Float[Array, ""]:
    """Square root of the sum of all squares, summed in float32 at least; gradient 0 at 0."""
    return square_root(sum_of_squares(values))


def sum_of_squares(values: Array, *, axes: int = 0) -> Float[Array, "..."]:
    """Sum over all but the first ``axes`` axes, in float32 at least."""
    wide = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    return jnp.sum(jnp.square(wide), axis=tuple(range(axes, values.ndim)))


def square_root(squares: Array) -> Float[Array, "..."]:
    """The square root with gradient 0 at 0; the inner replacement keeps ``0 * inf`` out of the gradient."""
    zero = squares == 0  # not "positive": NaN has to stay NaN
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squares)))


def real_outputs(fn: Callable[[Array], Array], x: Array) -> jax.ShapeDtypeStruct:
    """Shape and dtype of ``fn(x)``; refuses outputs other than one array of floats: derivatives would be wrong."""
    outputs = jax.eval_shape(fn, x)
    if not hasattr(outputs, "dtype"):
        raise ValueError(f"fn gives a {type(outputs).__name__}: return one array")
    if not jnp.issubdtype(outputs.dtype, jnp.floating):
        raise ValueError(
            f"fn gives dtype {outputs.dtype}: return real floats (complex ones as real and imaginary part)"
        )
    return outputs


def floats(name: str, x: Array) -> Array:
    """An array of JAX; refuses what is not one array, and what has no derivative, stored images above all."""
    if not hasattr(x, "dtype"):
        raise ValueError(f"{name} is a {type(x).__name__}: give one array (jax.flatten_util.ravel_pytree joins a tree)")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} has dtype {x.dtype}: give floats (osrjax.augment.to_float for stored images)")
    return jnp.asarray(x)


def check_same_shape(name: str, array: Array, other_name: str, other: Array) -> None:
    """Refuses arrays that would broadcast."""
    if array.shape != other.shape:
        raise ValueError(f"{name} has shape {array.shape} but {other_name} {other.shape}: give equal shapes")
