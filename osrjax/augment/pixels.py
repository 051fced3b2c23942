"""The one contract of pixels: uint8 as stored, floats in [-1, 1] for networks; one image check, one resampler."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

__all__ = ["to_float", "to_float_host"]

Images = Float[Array, "batch height width channels"]

LUMA = (0.299, 0.587, 0.114)  # red, green, blue: ITU-R BT.601


def to_float(
    images: UInt8[Array, "*shape"] | UInt8[np.ndarray, "*shape"],
) -> Float[Array, "*shape"]:
    r"""Stored pixels as float32 in [-1, 1], on the device.

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
    _check_stored(images.dtype)
    return from_levels(jnp.asarray(images).astype(jnp.float32))


def to_float_host(images: UInt8[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """:func:`to_float` by NumPy, bit for bit the same, for images that no device should hold at once.

    Args:
      images: uint8 pixels of any shape.

    Returns:
      A float32 NumPy array of the same shape, and no other array of that size on the way.

    Raises:
      ValueError: another dtype than uint8, whose scale would be a guess.

    Example:
      >>> print(to_float_host(np.array([0, 51, 255], np.uint8)).round(3))
      [-1.  -0.6  1. ]
    """
    _check_stored(images.dtype)
    return from_levels(images.astype(np.float32))


def from_levels(levels: Any) -> Any:
    """Floats in [-1, 1] of levels in [0, 255], of NumPy or of JAX; a NumPy array is overwritten."""
    # An exact difference and one rounding, by a product: XLA makes a division by a constant one, NumPy does not.
    levels *= 2.0
    levels -= 255.0
    levels *= _PER_LEVEL
    return levels


def to_levels(images: Array) -> Array:
    """Levels in [0, 255] of floats in [-1, 1], not rounded."""
    return (images.astype(jnp.float32) + 1.0) * 127.5


_PER_LEVEL = np.float32(1 / 255)


def check_images(images: Array, *, channels: tuple[int, ...] | None = None) -> tuple[int, int, int, int]:
    """Refuses anything but a batch of float images; returns batch, height, width and channels.

    Args:
      images: to check.
      channels: how many of them images may have; None: any number.

    Returns:
      The shape.

    Raises:
      ValueError: another rank, integers, another number of channels.
    """
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images of shape {images.shape} and dtype {images.dtype}: pass a batch of shape "
            "[batch, height, width, channels], as floats in [-1, 1] (to_float)"
        )
    batch, height, width, count = images.shape
    if channels is not None and count not in channels:
        raise ValueError(f"{images.shape=} has {count} channels: give colour (3) or gray (1) images")
    return batch, height, width, count


def resample(images: Array, rows: Float[Array, "batch new"], columns: Float[Array, "batch _"]) -> Array:
    """Images read bilinearly at a grid of places, one grid for each image.

    *Cost*: two small matrix products an image, at HIGHEST precision.

    Args:
      images: floats ``[batch, height, width, channels]``.
      rows: places of the new rows, in pixels: 0 is the centre of the first row, ``height - 1`` that of the last.
      columns: places of the new columns.

    Returns:
      Images of as many rows and columns as there are places, of the dtype of the images.
    """
    exact = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    highest = jax.lax.Precision.HIGHEST
    _, height, width, _ = images.shape
    exact = jnp.einsum("bih,bhwc->biwc", _weights(rows, height), exact, precision=highest)
    return jnp.einsum("bjw,biwc->bijc", _weights(columns, width), exact, precision=highest).astype(images.dtype)


def box_grid(start: Float[Array, " batch"], size: Float[Array, " batch"], length: int) -> Float[Array, "batch length"]:
    """Places of ``length`` pixels that a box of each image is stretched to: pixel centres, all inside the box."""
    start, size = start[:, None], size[:, None]
    centers = (jnp.arange(length)[None, :] + 0.5) / length * size - 0.5
    return start + jnp.clip(centers, 0.0, size - 1.0)


def check_probability(probability: float) -> None:
    """Refuses a number outside [0, 1]."""
    if not 0 <= probability <= 1:
        raise ValueError(f"{probability=} is not in [0, 1]")


def _weights(places: Array, length: int) -> Array:
    """Bilinear weights ``[batch, new, length]`` of the pixels around each place."""
    return jnp.maximum(0.0, 1.0 - jnp.abs(places[:, :, None] - jnp.arange(length)[None, None, :]))


def _check_stored(dtype: np.dtype) -> None:
    if dtype != np.uint8:
        raise ValueError(f"images.dtype={dtype} is not uint8: pass pixels as they are stored")
