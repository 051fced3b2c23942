"""The one contract of pixels: uint8 as stored, floats in [-1, 1] for networks; checks and the one resampler."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

__all__ = ["to_float"]

Images = Float[Array, "batch height width channels"]


LUMA = (0.299, 0.587, 0.114)  # red, green, blue: ITU-R BT.601


def to_float(
    images: UInt8[Array, "*shape"] | UInt8[np.ndarray, "*shape"],
) -> Float[Array, "*shape"]:
    r"""Stored pixels as float32 in [-1, 1].

    .. math:: x = (2 p - 255) / 255.

    Args:
      images: uint8 pixels of any shape.

    Returns:
      float32 of the same shape; 0 gives -1 and 255 gives 1.

    Raises:
      ValueError: another dtype than uint8, whose scale would be a guess.

    Example:
      >>> import jax.numpy as jnp
      >>> print(to_float(jnp.array([0, 51, 255], jnp.uint8)).round(3))
      [-1.  -0.6  1. ]
    """
    if images.dtype != jnp.uint8:
        raise ValueError(f"images.dtype={images.dtype} is not uint8: pass pixels as they are stored")
    # One rounding, after an exact difference: compilers that contract products and sums find the same numbers.
    return (jnp.asarray(images).astype(jnp.float32) * 2.0 - 255.0) / 255.0


def bilinear_weights(start: Array, size: Array, length: int) -> Array:
    # [batch, out, in]: sample i lies at the pixel centre i of a grid of `length` over [start, start + size).
    start, size = start[:, None], size[:, None]
    centers = (jnp.arange(length)[None, :] + 0.5) / length * size - 0.5
    positions = start + jnp.clip(centers, 0.0, size - 1.0)
    distances = jnp.abs(positions[:, :, None] - jnp.arange(length)[None, None, :])
    return jnp.maximum(0.0, 1.0 - distances)


def resampled(images: Array, rows: Array, columns: Array) -> Array:
    highest = jax.lax.Precision.HIGHEST
    columns, rows = columns.astype(images.dtype), rows.astype(images.dtype)
    images = jnp.einsum("bih,bhwc->biwc", rows, images, precision=highest)
    return jnp.einsum("bjw,biwc->bijc", columns, images, precision=highest)


def shape(images: Array) -> tuple[int, int, int, int]:
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images of shape {images.shape} and dtype {images.dtype}: pass a batch of shape "
            "[batch, height, width, channels], as floats in [-1, 1] (to_float)"
        )
    batch, height, width, channels = images.shape
    return batch, height, width, channels


def check_probability(probability: float) -> None:
    if not 0 <= probability <= 1:
        raise ValueError(f"{probability=} is not in [0, 1]")
