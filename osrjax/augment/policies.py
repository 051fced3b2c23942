"""Augmentation policies: several random operations in a row for every image, ``(key, images, ...) -> images``.

Images are floating-point NHWC in [-1, 1]. The operations are those of Pillow on 256 levels, batched: each layer
computes every operation on the whole batch and selects, so that all shapes are static and no loop runs over images.
The five geometric ones are one affine warp, bilinear between pixel centres; what comes from outside is ``fill``.

Results are not rounded to whole levels between operations; where an operation is defined by whole levels
(equalize, posterize, the threshold of solarize), it reads rounded ones.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from osrjax.augment.pixels import LUMA, Images, check_images, from_levels, to_levels

__all__ = ["POLICIES", "aug_mix", "rand_augment"]

Scalar = float | Float[Array, ""]


OPERATIONS = (
    *("identity", "auto_contrast", "equalize", "posterize", "solarize"),
    *("rotate", "shear_x", "shear_y", "translate_x", "translate_y"),
    *("color", "contrast", "brightness", "sharpness"),
)


AUG_MIX_OPERATIONS = OPERATIONS[1:10]  # none of the four that resemble a corruption of the benchmarks


def rand_augment(
    key: Key[Array, ""], images: Images, *, count: int = 2, magnitude: Scalar = 9.0, fill: Scalar = 0.0
) -> Images:
    r"""Images after random operations, all of the same strength.

    Each of ``count`` operations is drawn anew for every image, with replacement, from fourteen: identity, automatic
    contrast, equalize, posterize, solarize, rotate, shear x and y, translate x and y, colour, contrast, brightness,
    sharpness. At the strength t = magnitude / 30, with a random sign in the geometric ones and the last four: rotate
    by 30 t degrees, shear by 0.3 t about the upper left corner, translate by 150/331 t of the side in whole pixels,
    posterize to 8 - round(4 t) bits, solarize from level 256 (1 - t) on, enhance by the factor 1 ± 0.9 t.

    *Cost*: all operations for all images, ``count`` times: about four gathers of a pixel's neighbours, a histogram
    and thirty elementwise passes.

    Args:
      key: consumed.
      images: in [-1, 1], with 3 channels or 1.
      count: operations in a row, at least 1; the paper writes N.
      magnitude: 0 to 30; the paper writes M.
      fill: value of what a geometric operation brings in; 0 is mid-grey.

    Returns:
      Images of the same shape, in [-1, 1].

    Raises:
      ValueError: a ``count`` below 1; a Python number outside [0, 30] for the magnitude; another number of channels.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> images = jax.jit(rand_augment)(jax.random.key(0), jnp.zeros((2, 8, 8, 3)), magnitude=0.0)
      >>> print(abs(images).max().round(6))
      0.0

    References:
      Cubuk et al., "RandAugment: Practical Automated Data Augmentation with a Reduced Search Space",
      arXiv 1909.13719, sec. 3; ranges: Cubuk et al., "AutoAugment", arXiv 1805.09501, its table of operations, each
      growing in strength with M and factors on both sides of 1, as in torchvision.
    """
    batch, *_ = check_images(images, channels=(1, 3))
    if count < 1:
        raise ValueError(f"{count=} is no operation: give at least 1")
    if isinstance(magnitude, float | int) and not 0 <= magnitude <= 30:
        raise ValueError(f"{magnitude=} is not in [0, 30]")
    operation_key, sign_key = jax.random.split(key)
    operations = jax.random.randint(operation_key, (count, batch), 0, len(OPERATIONS))
    strength = jnp.broadcast_to(jnp.asarray(magnitude, jnp.float32) / 30.0, (count, batch))
    signed = jnp.where(jax.random.bernoulli(sign_key, shape=(count, batch)), strength, -strength)
    settings = _Settings(
        degrees=30.0 * signed,
        shear=0.3 * signed,
        shift=150.0 / 331.0 * signed,
        bits=8.0 - jnp.round(4.0 * strength),
        threshold=256.0 * (1.0 - strength),
        factor=1.0 + 0.9 * signed,
    )
    outside = to_levels(jnp.asarray(fill))

    def layer(levels: Array, chosen: tuple[Array, _Settings]) -> tuple[Array, None]:
        return _applied(levels, *chosen, outside), None

    levels, _ = jax.lax.scan(layer, to_levels(images), (operations, settings))
    return _from_levels(levels).astype(images.dtype)


def aug_mix(
    key: Key[Array, ""],
    images: Images,
    *,
    chains: int = 3,
    depth: int = 3,
    severity: Scalar = 3.0,
    fill: Scalar = -1.0,
) -> Images:
    r"""Images blended with a random mixture of randomly augmented copies of themselves.

    .. math:: \tilde x = (1 - m) x + m \sum_k w_k \, (o_{k,d_k} \circ \dots \circ o_{k,1})(x), \qquad
              w \sim \mathrm{Dirichlet}(1), \; m \sim \mathrm{Beta}(1, 1).

    Operations are drawn for every image from nine: automatic contrast, equalize, posterize, solarize, rotate, shear
    x and y, translate x and y; colour, contrast, brightness and sharpness are left out, since the corruption
    benchmarks hold them. Each draws a level l, uniform in [0.1, severity]: posterize to 4 - floor(0.4 l) bits,
    solarize from 256 - floor(25.6 l) on, rotate by ± floor(3 l) degrees, shear by ± 0.03 l about the upper left
    corner, translate by ± l / 30 of the side in whole pixels. The consistency loss of the paper is the caller's.

    *Cost*: ``chains * depth`` times that of one operation of :func:`rand_augment`.

    Args:
      key: consumed.
      images: in [-1, 1], with 3 channels or 1.
      chains: copies of an image, at least 1; the paper writes the width k = 3.
      depth: the most operations in a chain; each chain draws its number, uniform in 1..depth.
      severity: 0.1 to 10.
      fill: value of what a geometric operation brings in; -1 is black.

    Returns:
      Images of the same shape, in [-1, 1].

    Raises:
      ValueError: ``chains`` or ``depth`` below 1; a Python number outside [0.1, 10] for the severity; another number of
        channels.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> images = jax.jit(aug_mix)(jax.random.key(0), -jnp.ones((2, 8, 8, 1)))
      >>> print(images.max())  # black stays black
      -1.0

    References:
      Hendrycks et al., "AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty",
      arXiv 1912.02781, algorithm 1 and its code.
    """
    batch, *_ = check_images(images, channels=(1, 3))
    for name, number in (("chains", chains), ("depth", depth)):
        if number < 1:
            raise ValueError(f"{name}={number!r} is below 1: give a number of copies and of operations")
    if isinstance(severity, float | int) and not 0.1 <= severity <= 10:
        raise ValueError(f"{severity=} is not in [0.1, 10]")
    weight_key, skip_key, depth_key, operation_key, level_key, sign_key = jax.random.split(key, 6)
    weights = jax.random.exponential(weight_key, (chains, batch))  # Dirichlet(1), once divided by their sum
    weights = weights / jnp.sum(weights, axis=0, keepdims=True)
    skip = jax.random.uniform(skip_key, (batch,))
    depths = jax.random.randint(depth_key, (chains, batch), 1, depth + 1)
    draws = (depth, chains, batch)
    operations = jax.random.randint(operation_key, draws, 1, 1 + len(AUG_MIX_OPERATIONS))
    operations = jnp.where(jnp.arange(depth)[:, None, None] < depths[None], operations, 0)
    level = 0.1 + (severity - 0.1) * jax.random.uniform(level_key, draws)
    sign = jnp.where(jax.random.bernoulli(sign_key, shape=draws), 1.0, -1.0)
    settings = _Settings(
        degrees=sign * jnp.floor(3.0 * level),
        shear=sign * 0.03 * level,
        shift=sign * level / 30.0,
        bits=4.0 - jnp.floor(0.4 * level),
        threshold=256.0 - jnp.floor(25.6 * level),
        factor=jnp.ones(draws),
    )
    outside = to_levels(jnp.asarray(fill))

    def layer(levels: Array, chosen: tuple[Array, _Settings]) -> tuple[Array, None]:
        return jax.vmap(_applied, in_axes=(0, 0, 0, None))(levels, *chosen, outside), None

    copies = jnp.broadcast_to(to_levels(images)[None], (chains, *images.shape))
    copies, _ = jax.lax.scan(layer, copies, (operations, settings))
    mixture = jnp.sum(weights[:, :, None, None, None] * _from_levels(copies), axis=0)
    share = skip[:, None, None, None]
    return jnp.clip((1.0 - share) * images + share * mixture, -1.0, 1.0).astype(images.dtype)


class _Settings(NamedTuple):
    """How strongly each operation would act on an image; the drawn operation reads its own."""

    degrees: Array  # counter-clockwise
    shear: Array  # columns per row, rows per column
    shift: Array  # share of the side
    bits: Array
    threshold: Array  # the first level that solarize inverts
    factor: Array  # of the enhancing operations: 1 changes nothing


def _from_levels(levels: Array) -> Array:
    return jnp.clip(from_levels(levels), -1.0, 1.0)  # rounding leads 1e-7 beyond


def _applied(levels: Array, operations: Array, settings: _Settings, outside: Array) -> Array:
    """One operation per image, ``operations`` being positions in OPERATIONS, on levels in [0, 255]."""

    def drawn(name: str) -> Array:
        return operations == OPERATIONS.index(name)

    def wide(values: Array) -> Array:
        return values[:, None, None, None]

    whole = jnp.round(levels)
    gray = _gray(levels)
    unit = jnp.exp2(8.0 - wide(settings.bits))
    other = jnp.select(
        [wide(drawn("color")), wide(drawn("contrast")), wide(drawn("brightness"))],
        [
            jnp.broadcast_to(gray, levels.shape),
            jnp.broadcast_to(jnp.mean(gray, axis=(1, 2), keepdims=True), levels.shape),
            jnp.zeros_like(levels),
        ],
        _smoothed(levels),
    )
    results = {
        "identity": levels,
        "auto_contrast": _auto_contrasted(levels),
        "equalize": _equalized(whole),
        "posterize": jnp.floor(whole / unit) * unit,
        "solarize": jnp.where(whole < wide(settings.threshold), levels, 255.0 - levels),
    }
    enhanced = jnp.clip(other + wide(settings.factor) * (levels - other), 0.0, 255.0)
    results |= dict.fromkeys(OPERATIONS[10:], enhanced)
    _, height, width, _ = levels.shape
    warped = _warped(
        levels,
        jnp.where(drawn("rotate"), jnp.deg2rad(settings.degrees), 0.0),
        jnp.where(drawn("shear_x"), settings.shear, 0.0),
        jnp.where(drawn("shear_y"), settings.shear, 0.0),
        jnp.where(drawn("translate_x"), jnp.trunc(settings.shift * width), 0.0),
        jnp.where(drawn("translate_y"), jnp.trunc(settings.shift * height), 0.0),
        outside,
    )
    results |= dict.fromkeys(OPERATIONS[5:10], warped)
    return jnp.select([wide(drawn(name)) for name in results], list(results.values()), levels)


def _gray(levels: Array) -> Array:
    if levels.shape[-1] == 1:
        return levels
    return jnp.sum(levels * jnp.asarray(LUMA)[None, None, None], axis=-1, keepdims=True)


def _auto_contrasted(levels: Array) -> Array:
    low = jnp.min(levels, axis=(1, 2), keepdims=True)
    spread = jnp.max(levels, axis=(1, 2), keepdims=True) - low
    varied = spread > 0
    return jnp.where(varied, (levels - low) * (255.0 / jnp.where(varied, spread, 1.0)), levels)


def _equalized(whole: Array) -> Array:
    batch, height, width, channels = whole.shape
    level = whole.astype(jnp.int32).reshape(batch, height * width, channels)
    rows, planes = jnp.arange(batch)[:, None, None], jnp.arange(channels)[None, None]
    counts = jnp.zeros((batch, channels, 256), jnp.int32).at[rows, planes, level].add(1)
    below = jnp.cumsum(counts, axis=-1) - counts
    # Pillow's rule: all pixels but those of the highest level, spread over 255 steps in whole numbers.
    step = jnp.max(jnp.where(counts > 0, below, 0), axis=-1, keepdims=True) // 255
    table = jnp.where(
        step > 0, jnp.minimum((below + step // 2) // jnp.maximum(step, 1), 255), jnp.arange(256)[None, None]
    )
    found = jnp.take_along_axis(table.swapaxes(1, 2), level, axis=1, mode="clip")
    return found.astype(whole.dtype).reshape(whole.shape)


def _smoothed(levels: Array) -> Array:
    """Each pixel's mean with its eight neighbours, itself counted five times; the border stays."""
    _, height, width, _ = levels.shape
    around = levels
    for axis in (1, 2):
        around = jnp.roll(around, 1, axis) + around + jnp.roll(around, -1, axis)
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    inner = (rows > 0) & (rows < height - 1) & (columns > 0) & (columns < width - 1)
    return jnp.where(inner[None, :, :, None], (around + 4.0 * levels) / 13.0, levels)


def _warped(
    levels: Array, angle: Array, shear_x: Array, shear_y: Array, shift_x: Array, shift_y: Array, outside: Array
) -> Array:
    """Each pixel from its place before the warp: rotated about the centre, sheared about the upper left corner."""
    batch, height, width, channels = levels.shape
    angle, shear_x, shear_y, shift_x, shift_y = (
        values[:, None, None] for values in (angle, shear_x, shear_y, shift_x, shift_y)
    )
    y = (jnp.arange(height) + 0.5)[None, :, None]
    x = (jnp.arange(width) + 0.5)[None, None, :]
    off_y, off_x = y - height / 2, x - width / 2
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    from_y = height / 2 + sine * off_x + cosine * off_y + shear_y * x + shift_y
    from_x = width / 2 + cosine * off_x - sine * off_y + shear_x * y + shift_x
    inside = (from_y >= 0) & (from_y < height) & (from_x >= 0) & (from_x < width)
    top, left = jnp.floor(from_y - 0.5), jnp.floor(from_x - 0.5)
    down, right = (from_y - 0.5 - top)[..., None], (from_x - 0.5 - left)[..., None]
    flat = levels.reshape(batch, height * width, channels)

    def neighbour(rows: Array, columns: Array) -> Array:
        rows, columns = jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1)
        place = (rows * width + columns).astype(jnp.int32).reshape(batch, height * width, 1)
        return jnp.take_along_axis(flat, place, axis=1, mode="clip").reshape(levels.shape)

    upper = (1.0 - right) * neighbour(top, left) + right * neighbour(top, left + 1)
    lower = (1.0 - right) * neighbour(top + 1, left) + right * neighbour(top + 1, left + 1)
    return jnp.where(inside[..., None], (1.0 - down) * upper + down * lower, outside)


POLICIES: dict[str, Callable[[Array, Array], Array] | None] = {
    "none": None,
    "rand_augment": rand_augment,
    "aug_mix": aug_mix,
}
