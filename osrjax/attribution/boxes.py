"""Boxes on the peaks of attribution maps, clipped at the image border; batched, for use inside ``jit``."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

__all__ = ["box_bounds", "box_mask", "box_side", "map_peaks"]


def map_peaks(maps: Float[Array, "*batch height width"]) -> Integer[Array, "*batch 2"]:
    """Row and column of the largest entry of each map; of equal ones the first in reading order.

    Args:
      maps: without NaN.

    Returns:
      int32 row and column; (0, 0) for a constant map.

    Example:
      >>> import jax.numpy as jnp
      >>> print(map_peaks(jnp.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])))
      [0 1]

    References:
      Xu et al., arXiv 2505.12803, as its code chooses the centre of the box.
    """
    *batch, height, width = maps.shape
    first = jnp.argmax(maps.reshape(*batch, height * width), axis=-1).astype(jnp.int32)
    return jnp.stack([first // width, first % width], axis=-1)


def box_side(kept: Float[Array, "*batch"], *, length: int) -> Integer[Array, "*batch"]:
    r"""Nominal side of a box that leaves the share ``kept`` of an image.

    .. math:: k = \lfloor l \sqrt{1 - \lambda} \rfloor.

    Args:
      kept: lambda, in [0, 1].
      length: l, height or width of the image in pixels.

    Returns:
      int32 sides in pixels.

    Raises:
      ValueError: a length below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> print(box_side(jnp.array([0.5, 0.9]), length=32))
      [22 10]

    References:
      Xu et al., "Informed Mixing", arXiv 2505.12803, as its code computes it; Yun et al., arXiv 1905.04899, eq. 2.
    """
    if length < 1:
        raise ValueError(f"{length=} is below 1: give the height or width of the images")
    return jnp.floor(length * jnp.sqrt(1.0 - kept)).astype(jnp.int32)


def box_bounds(
    peaks: Integer[Array, "*batch 2"], kept: Float[Array, "*batch"], *, height: int, width: int
) -> Integer[Array, "*batch 4"]:
    r"""The box around a peak, cut at the border of the image and not shifted.

    .. math:: y_0 = \mathrm{clip}(r - \lfloor k/2 \rfloor, 0, H), \quad
              y_1 = \mathrm{clip}(r + \lfloor k/2 \rfloor, 0, H),

    and the same for columns. An odd side loses one pixel, as in the authors' code.

    Args:
      peaks: row and column of the centre.
      kept: lambda, from which the sides follow (:func:`box_side`).
      height: H, of the image in pixels.
      width: W, of the image in pixels.

    Returns:
      int32 ``(y0, y1, x0, x1)``: the box is ``[y0, y1) x [x0, x1)``.

    Example:
      >>> import jax.numpy as jnp
      >>> print(box_bounds(jnp.array([17, 9]), jnp.array(0.65), height=32, width=32))
      [ 8 26  0 18]

    References:
      Xu et al., "Informed Mixing", arXiv 2505.12803, as its code computes it.
    """

    def ends(center: Array, length: int) -> tuple[Array, Array]:
        half = box_side(kept, length=length) // 2
        return jnp.clip(center - half, 0, length), jnp.clip(center + half, 0, length)

    return jnp.stack([*ends(peaks[..., 0], height), *ends(peaks[..., 1], width)], axis=-1)


def box_mask(bounds: Integer[Array, "*batch 4"], *, height: int, width: int) -> Bool[Array, "*batch height width"]:
    """True inside a box.

    Args:
      bounds: ``(y0, y1, x0, x1)``, as from :func:`box_bounds`.
      height: of the image, in pixels.
      width: of the image, in pixels.

    Returns:
      One mask per box, of the image's size.

    Example:
      >>> import jax.numpy as jnp
      >>> print(box_mask(jnp.array([0, 1, 1, 3]), height=2, width=3).astype(int))
      [[0 1 1]
       [0 0 0]]
    """
    shape = (*bounds.shape[:-1], height, width)
    # Pixels are counted in int32: a byte, as bounds may be, would count them modulo 256.
    rows, columns = (jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - axis) for axis in (2, 1))
    y0, y1, x0, x1 = (bounds[..., side, None, None] for side in range(4))
    return (y0 <= rows) & (rows < y1) & (x0 <= columns) & (columns < x1)
