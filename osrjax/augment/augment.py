r"""Random image augmentation on the device: ``(key, images, *, ...) -> images`` for whole batches.

Images are floating-point NHWC in [-1, 1], where -1 is black and 0 mid-grey (:func:`to_float` makes them from
stored pixels). Every image draws its own numbers, from one array of random bits for the batch, so the result
does not depend on how the batch is sharded. Every key is consumed.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Key

from osrjax.arrays import check_integers
from osrjax.augment.pixels import LUMA, Images, box_grid, check_images, check_probability, resample

__all__ = [
    "color_jitter",
    "cutout",
    "quarter_turns",
    "random_crop",
    "random_crop_and_flip",
    "random_flip",
    "random_grayscale",
    "random_quarter_turns",
    "random_resized_crop",
]

Scalar = float | Float[Array, ""]


def random_crop(key: Key[Array, ""], images: Images, *, padding: int = 4, fill: float = -1.0) -> Images:
    """Images shifted by up to ``padding`` pixels each way: padded, then cut back to their size.

    Args:
      key: consumed.
      images: in [-1, 1].
      padding: pixels added on each of the four sides, 0 or more; all (2 padding + 1)^2 shifts are equally
        likely.
      fill: value of the padding; -1 is black.

    Returns:
      Images of the same shape.

    Raises:
      ValueError: a negative ``padding``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> images = jnp.arange(1.0, 5.0).reshape(1, 2, 2, 1)
      >>> print(random_crop(jax.random.key(0), images, padding=1, fill=0.0)[0, ..., 0])
      [[0. 1.]
       [0. 3.]]
    """
    corners = _random_corners(key, images, padding)
    return _cropped(images, corners, padding, fill)


def random_crop_and_flip(key: Key[Array, ""], images: Images, *, padding: int = 4, fill: float = -1.0) -> Images:
    """:func:`random_crop`, then :func:`random_flip`: the same images, several times faster on CPUs.

    Each image is mirrored before the crop, and its corner with it. The other way round XLA for CPU draws the
    corner and cuts anew for every pixel, mirrored and not.

    Args:
      key: consumed; its two halves (``jax.random.split``) are the keys of the crop and of the flip.
      images: in [-1, 1].
      padding: as in :func:`random_crop`.
      fill: as in :func:`random_crop`.

    Returns:
      Images of the same shape.

    Raises:
      ValueError: a negative ``padding``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> images = jnp.arange(1.0, 5.0).reshape(1, 2, 2, 1)
      >>> print(random_crop_and_flip(jax.random.key(0), images, padding=1, fill=0.0)[0, ..., 0])
      [[0. 2.]
       [0. 4.]]
    """
    crop_key, flip_key = jax.random.split(key)
    corners = _random_corners(crop_key, images, padding)
    mirrored = _random_mirrored(flip_key, images)
    columns = jnp.where(mirrored, 2 * padding - corners[:, 1], corners[:, 1])
    images = _where(mirrored, images[:, :, ::-1], images)
    return _cropped(images, jnp.stack((corners[:, 0], columns), axis=1), padding, fill)


def random_flip(key: Key[Array, ""], images: Images) -> Images:
    """Images mirrored left to right, each with probability one half.

    Args:
      key: consumed.
      images: in [-1, 1].

    Returns:
      Images of the same shape.
    """
    return _where(_random_mirrored(key, images), images[:, :, ::-1], images)


def quarter_turns(images: Images, turns: Integer[Array, " batch"]) -> Images:
    """Square images rotated counter-clockwise, each by its own number of quarter turns.

    Args:
      images: in [-1, 1], as high as wide.
      turns: any integers; they count modulo 4.

    Returns:
      Images of the same shape; ``turns == 1`` equals ``jnp.rot90(image)``.

    Raises:
      ValueError: images that are not square; not one integer per image.

    Example:
      >>> import jax.numpy as jnp
      >>> images = jnp.arange(1.0, 5.0).reshape(1, 2, 2, 1)
      >>> print(quarter_turns(images, jnp.array([1]))[0, ..., 0])
      [[2. 4.]
       [1. 3.]]
    """
    batch, height, width, _ = check_images(images)
    if height != width:
        raise ValueError(f"{images.shape=} is not square: crop or resize before quarter turns")
    check_integers("turns", turns)
    if turns.shape != (batch,):
        raise ValueError(f"{turns.shape=} is not {(batch,)}: give one number of turns per image")
    turns = turns % 4
    images = _where(turns % 2 == 1, images.swapaxes(1, 2), images)
    images = _where((turns == 1) | (turns == 2), images[:, ::-1], images)
    return _where(turns >= 2, images[:, :, ::-1], images)


def random_quarter_turns(key: Key[Array, ""], images: Images) -> tuple[Images, Integer[Array, " batch"]]:
    """Square images rotated by 0, 90, 180 or 270 degrees, equally likely, and by how many quarter turns.

    Args:
      key: consumed.
      images: in [-1, 1], as high as wide.

    Returns:
      The rotated images, and the turns in 0..3: the labels of rotation prediction.

    Raises:
      ValueError: images that are not square.
    """
    batch, *_ = check_images(images)
    turns = jax.random.randint(key, (batch,), 0, 4)
    return quarter_turns(images, turns), turns


def cutout(key: Key[Array, ""], images: Images, *, size: int | Integer[Array, ""], fill: Scalar = 0.0) -> Images:
    """Images with one square overwritten, which may stick out over the border.

    The centre is a pixel of the image, all equally likely; the square covers the rows and columns
    ``centre - size // 2 <= i < centre - size // 2 + size`` that exist. Size and fill may be traced, so that a sweep
    over them compiles once.

    Args:
      key: consumed.
      images: in [-1, 1].
      size: side of the square in pixels, 0 or more; the paper uses 16 for CIFAR-10, 8 for CIFAR-100 and 20 for SVHN.
      fill: value written; 0 is mid-grey.

    Returns:
      Images of the same shape.

    Raises:
      ValueError: a negative Python number for ``size``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> print(jax.jit(cutout)(jax.random.key(0), jnp.ones((1, 4, 4, 1)), size=1).mean())
      0.9375

    References:
      DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout",
      arXiv 1708.04552, sec. 3.
    """
    batch, height, width, _ = check_images(images)
    if isinstance(size, int) and size < 0:
        raise ValueError(f"{size=} is negative: give the side of the square in pixels")
    row_key, column_key = jax.random.split(key)

    def covered(key: Array, length: int) -> Array:
        start = jax.random.randint(key, (batch, 1), 0, length) - size // 2
        pixels = jnp.arange(length)[None, :]
        return (pixels >= start) & (pixels < start + size)

    square = covered(row_key, height)[:, :, None] & covered(column_key, width)[:, None, :]
    return jnp.where(square[..., None], jnp.asarray(fill, images.dtype), images)


def random_resized_crop(
    key: Key[Array, ""],
    images: Images,
    *,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Images:
    """A random box of each image, stretched bilinearly to the image's own size.

    The box has the share ``scale`` of the area, uniform, and the ratio width / height, log-uniform; its sides
    are rounded to whole pixels and its place is uniform. Of ten draws the first that fits is taken; if none
    fits, the largest centred box whose ratio is in range. Sampling points are pixel centres and stay inside
    the box. Nothing is smoothed: a box is never larger than the image, so this only ever magnifies.

    *Cost*: two small matrix products an image, at HIGHEST precision.

    Args:
      key: consumed.
      images: in [-1, 1].
      scale: smallest and largest share of the area, ``0 < smallest <= largest <= 1``.
      ratio: smallest and largest width / height, ``0 < smallest <= largest``.

    Returns:
      Images of the same shape.

    Raises:
      ValueError: ranges outside those above.

    References:
      Szegedy et al., "Going Deeper with Convolutions", arXiv 1409.4842, sec. 6.
    """
    batch, height, width, _ = check_images(images)
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"{scale=}: give shares of the area with 0 < smallest <= largest <= 1")
    if not 0 < ratio[0] <= ratio[1]:
        raise ValueError(f"{ratio=}: give width / height with 0 < smallest <= largest")
    area_key, ratio_key, row_key, column_key = jax.random.split(key, 4)
    draws = (batch, 10)
    area = height * width * jax.random.uniform(area_key, draws, minval=scale[0], maxval=scale[1])
    log_ratio = jax.random.uniform(ratio_key, draws, minval=math.log(ratio[0]), maxval=math.log(ratio[1]))
    box_widths = jnp.round(jnp.sqrt(area * jnp.exp(log_ratio)))
    box_heights = jnp.round(jnp.sqrt(area * jnp.exp(-log_ratio)))
    fits = (box_widths >= 1) & (box_widths <= width) & (box_heights >= 1) & (box_heights <= height)
    first = jnp.argmax(fits, axis=1)[:, None]
    found = jnp.any(fits, axis=1)

    def chosen(drawn: Array, fallback: float) -> Array:
        return jnp.where(found, jnp.take_along_axis(drawn, first, axis=1)[:, 0], fallback)

    fallback_width = float(min(width, max(1, round(height * ratio[1]))))
    fallback_height = float(min(height, max(1, round(width / ratio[0]))))
    box_width, box_height = chosen(box_widths, fallback_width), chosen(box_heights, fallback_height)

    def start(key: Array, length: int, box: Array) -> Array:
        room = length - box
        uniform = jnp.floor(jax.random.uniform(key, (batch,)) * (room + 1))
        # Rounding can lift uniform * (room + 1) to room + 1; the minimum keeps the box inside.
        return jnp.where(found, jnp.minimum(uniform, room), jnp.floor(room / 2))

    rows = box_grid(start(row_key, height, box_height), box_height, height)
    columns = box_grid(start(column_key, width, box_width), box_width, width)
    return resample(images, rows, columns)


def _random_corners(key: Array, images: Array, padding: int) -> Array:
    batch, *_ = check_images(images)
    if padding < 0:
        raise ValueError(f"{padding=} is negative: give 0 for no crop")
    return jax.random.randint(key, (batch, 2), 0, 2 * padding + 1)


def _random_mirrored(key: Array, images: Array) -> Array:
    batch, *_ = check_images(images)
    return jax.random.bernoulli(key, shape=(batch,))


def _cropped(images: Array, corners: Array, padding: int, fill: float) -> Array:
    """Each image padded, then cut to its size from its own corner."""
    sides = (padding, padding)
    padded = jnp.pad(images, ((0, 0), sides, sides, (0, 0)), constant_values=fill)

    def window(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

    return jax.vmap(window)(padded, corners)


def color_jitter(
    key: Key[Array, ""],
    images: Images,
    *,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
    probability: float = 0.8,
) -> Images:
    """Images with random brightness, contrast, saturation and hue, in this order.

    On pixels in [0, 1], with a factor f per image and property, uniform in [max(0, 1 - s), 1 + s] for the
    strength s: brightness is ``f x``, contrast ``f x + (1 - f) mean(gray(x))``, saturation
    ``f x + (1 - f) gray(x)``, each clipped to [0, 1]; hue turns the colour wheel by a share of a full turn,
    uniform in [-hue, hue]. Differs from torchvision, which shuffles the order anew for every image: that
    would compute each of the four once for each place.

    Args:
      key: consumed.
      images: in [-1, 1], with 3 channels, or 1 channel, where saturation and hue change nothing.
      brightness: strength s, 0 or more; 0 changes nothing.
      contrast: strength s, 0 or more.
      saturation: strength s, 0 or more.
      hue: largest share of a full turn, in [0, 0.5].
      probability: of changing an image at all, in [0, 1].

    Returns:
      Images of the same shape, in [-1, 1].

    Raises:
      ValueError: a strength or probability outside its range; another number of channels.
    """
    batch, *_, channels = check_images(images, channels=(1, 3))
    strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    for name, strength in strengths.items():
        if strength < 0:
            raise ValueError(f"{name}={strength!r} is negative: give 0 for no change")
    if not 0 <= hue <= 0.5:
        raise ValueError(f"{hue=}: give a share of a full turn in [0, 0.5]")
    check_probability(probability)
    apply_key, *keys = jax.random.split(key, 5)

    def factor(key: Array, strength: float) -> Array:
        lowest = max(0.0, 1.0 - strength)
        factors = jax.random.uniform(key, (batch,), images.dtype, lowest, 1.0 + strength)
        return factors[:, None, None, None]

    x = (images + 1.0) / 2.0
    x = jnp.clip(x * factor(keys[0], brightness), 0.0, 1.0)
    mean = jnp.mean(_gray(x), axis=(1, 2), keepdims=True)
    x = _blend(x, mean, factor(keys[1], contrast))
    if channels == 3:
        x = _blend(x, _gray(x), factor(keys[2], saturation))
        turn = jax.random.uniform(keys[3], (batch,), images.dtype, -hue, hue)
        x = _hue_shifted(x, turn[:, None, None])
    changed = jax.random.bernoulli(apply_key, probability, (batch,))
    return _where(changed, 2.0 * x - 1.0, images)


def random_grayscale(key: Key[Array, ""], images: Images, *, probability: float = 0.2) -> Images:
    """Colour images replaced by their luma in all three channels, each with the given probability.

    Args:
      key: consumed.
      images: in [-1, 1], with 3 channels, or 1 channel, which stays as it is.
      probability: in [0, 1].

    Returns:
      Images of the same shape.

    Raises:
      ValueError: a probability outside [0, 1]; another number of channels.
    """
    batch, *_ = check_images(images, channels=(1, 3))
    check_probability(probability)
    gray = jnp.broadcast_to(_gray(images), images.shape)
    return _where(jax.random.bernoulli(key, probability, (batch,)), gray, images)


def _gray(x: Array) -> Array:
    if x.shape[-1] == 1:
        return x
    red, green, blue = LUMA
    return red * x[..., 0:1] + green * x[..., 1:2] + blue * x[..., 2:3]


def _blend(x: Array, other: Array, factor: Array) -> Array:
    return jnp.clip(factor * x + (1.0 - factor) * other, 0.0, 1.0)


def _hue_shifted(x: Array, turn: Array) -> Array:
    """Colours in [0, 1] with their HSV hue advanced by ``turn`` full turns, saturation and value kept."""
    red, green, blue = x[..., 0], x[..., 1], x[..., 2]
    value = jnp.max(x, axis=-1)
    chroma = value - jnp.min(x, axis=-1)
    safe = jnp.where(chroma > 0, chroma, 1.0)  # gray has no hue: any number serves
    # By comparisons, which a last-bit difference only moves across a tie: `value == red` may fail for every
    # channel where the compiler computes the two in different ways.
    hue = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) / safe,
        jnp.where(green >= blue, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe),
    )
    # Channel n lies below the value by chroma times a trapezoid of the distance along the wheel.
    distance = (jnp.asarray([5.0, 3.0, 1.0], x.dtype)[None, None, None] + (hue + 6.0 * turn)[..., None]) % 6.0
    drop = jnp.clip(jnp.minimum(distance, 4.0 - distance), 0.0, 1.0)
    return value[..., None] - chroma[..., None] * drop


def _where(condition: Array, yes: Array, no: Array) -> Array:
    return jnp.where(condition[:, None, None, None], yes, no)
