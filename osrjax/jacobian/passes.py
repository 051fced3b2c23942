"""The passes that every norm here is made of: linear maps at a point, squares, checks of what is differentiated."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from osrjax.devices.convolutions import canonical_convolutions

Mode = Literal["forward", "reverse", "auto"]


# Live example-directions that keep a CPU busy; larger ones do not run faster there.
ROWS = 128


def linear_map(fn: Callable[[Array], Array], x: Array, mode: str) -> tuple[Callable[[Array], Array], Any]:
    """The derivative at x as a function of one direction for the batch, and the shape and dtype of directions."""
    if mode == "forward":
        _, pushforward = jax.linearize(fn, x)
        return canonical_convolutions(pushforward), x
    if mode != "reverse":
        raise ValueError(f'{mode=} is not one of "forward", "reverse", "auto"')
    outputs, pullback = jax.vjp(fn, x)
    return canonical_convolutions(lambda cotangent: pullback(cotangent)[0]), outputs


def along(like: Array, direction: Array) -> Array:
    """The direction broadcast to an array's shape; inside ``shard_map`` it also varies over the same mesh axes."""
    return jnp.zeros_like(like) + direction


def for_batch_of_one(fn: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A function of one row from one of batches."""
    return lambda x: fn(x[0])[None]


def sum_of_squares(values: Array, *, axes: int = 0) -> Array:
    """Over all axes but the first ``axes``, in float32 at least."""
    wide = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    return jnp.sum(jnp.square(wide), axis=tuple(range(axes, values.ndim)))


def square_root(squares: Array) -> Array:
    """The square root with gradient 0 at 0; the inner replacement keeps ``0 * inf`` out of the gradient."""
    zero = squares == 0  # not "positive": NaN has to stay NaN
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squares)))


def real_outputs(fn: Callable[[Array], Array], x: Array) -> jax.ShapeDtypeStruct:
    """Shape and dtype of the outputs, which have to be one array of floats: other derivatives would be wrong."""
    outputs = jax.eval_shape(fn, x)
    if not hasattr(outputs, "dtype"):
        raise ValueError(f"fn gives a {type(outputs).__name__}: return one array")
    if not jnp.issubdtype(outputs.dtype, jnp.floating):
        raise ValueError(
            f"fn gives dtype {outputs.dtype}: return real floats (complex ones as real and imaginary part)"
        )
    return outputs


def check_floating(name: str, x: Array) -> None:
    """Refuses what has no derivative, stored images above all."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} has dtype {x.dtype}: give floats (osrjax.augment.to_float for stored images)")


def check_same_shape(name: str, array: Array, other_name: str, other: Array) -> None:
    """Refuses arrays that would broadcast."""
    if array.shape != other.shape:
        raise ValueError(f"{name} has shape {array.shape} but {other_name} {other.shape}: give equal shapes")
