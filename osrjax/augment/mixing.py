r"""Mixed images: ``(key, images, ...) -> Mixed(images, partners, kept)``, whole batches on the device.

Images are floating-point NHWC in [-1, 1]. *Kept* is the weight of an image's own content in the result; what
enters beside it is noise, a constant or an image of ``others``, row ``partners[i]`` for image i. Partners come from
one random permutation of the batch, so some images may meet themselves. With two views of a batch and the same
key, ``others`` = the other view mixes across views, with the same partners for both.

Labels are the caller's: ``kept * loss(labels) + (1 - kept) * loss(labels[partners])``, or none where the image keeps
its identity, as in GradMix. Every key is consumed; no number depends on how the batch is sharded.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from osrjax.attribution.boxes import box_bounds, box_mask, box_side, map_peaks
from osrjax.augment.pixels import Images, check_images, resample
from osrjax.augment.saliency import spectral_residual_saliency

__all__ = [
    "Fill",
    "Mixed",
    "Weight",
    "cutmix",
    "fmix",
    "gradmix",
    "gradmix_share",
    "mixup",
    "random_box",
    "saliency_mix",
]

Scalar = float | Float[Array, ""]


Fill = Literal["noise", "noise_pixel", "paste", "mean"]


Weight = Literal["nominal", "true"]


class Mixed(NamedTuple):
    """Mixed images and what they are made of.

    Attributes:
      images: of the shape and dtype of the images given.
      partners: which image of ``others`` is mixed in; the own position where none is.
      kept: weight of the own content, in [0, 1].
    """

    images: Images
    partners: Int[Array, " batch"]
    kept: Float[Array, " batch"]


def gradmix_share(
    key: Key[Array, ""],
    batch: int,
    *,
    smallest: Scalar = 0.5,
    largest: Scalar = 0.9,
    alpha: Scalar = 1.0,
    beta: Scalar = 1.0,
    per_image: bool = False,
) -> Float[Array, " batch"]:
    r"""Shares of an image that GradMix keeps.

    .. math:: \lambda = s + (l - s) \, \lambda_0, \qquad \lambda_0 \sim \mathrm{Beta}(\alpha, \beta).

    Args:
      key: consumed.
      batch: how many, at least 1.
      smallest: s, above 0.
      largest: l, from s to 1.
      alpha: above 0; with ``alpha = beta = 1``, as numbers, the draw is a uniform one.
      beta: above 0.
      per_image: a draw for every image; otherwise one for the batch, as in the authors' code.

    Returns:
      float32 shares in [smallest, largest].

    Raises:
      ValueError: Python numbers outside these ranges.

    Example:
      >>> import jax
      >>> print(gradmix_share(jax.random.key(0), 3, smallest=0.7, largest=0.7))
      [0.7 0.7 0.7]

    References:
      Xu et al., "Informed Mixing", arXiv 2505.12803, as its code draws it.
    """
    if batch < 1:
        raise ValueError(f"{batch=} is below 1: give the number of images")
    for name, share in (("smallest", smallest), ("largest", largest)):
        if isinstance(share, float | int) and not 0 < share <= 1:
            raise ValueError(f"{name}={share!r} is not in (0, 1]: give the share of the image that stays")
    if isinstance(smallest, float | int) and isinstance(largest, float | int) and smallest > largest:
        raise ValueError(f"{smallest=} is above {largest=}: give smallest <= largest")
    drawn = _beta(key, batch, alpha, beta, per_image)
    # Rounding may lead beyond the ends, and the side of a box has no root beyond 1.
    return jnp.clip(smallest + (largest - smallest) * drawn, smallest, largest)


def gradmix(
    key: Key[Array, ""],
    images: Images,
    maps: Float[Array, "batch height width"],
    share: Float[Array, " batch"],
    *,
    fill: Fill = "noise",
    others: Images | None = None,
    weight: Weight = "nominal",
) -> Mixed:
    r"""Images with a box overwritten around the peak of their attribution map.

    The box has the nominal sides :math:`k = \lfloor l \sqrt{1 - \lambda} \rfloor` for the height and the width l and is
    cut at the border (:func:`osrjax.attribution.box_bounds`). Pixels outside it stay bit for bit. No gradient passes
    through the place of the box.

    Args:
      key: consumed.
      images: in [-1, 1].
      maps: larger = more important; only the place of the largest entry counts.
      share: lambda, the share of each image that stays, in (0, 1] (:func:`gradmix_share`); ``kept`` is nan outside.
      fill: what the box holds. ``"noise"``: uniform in [0, 1), one number per pixel for all channels;
        ``"noise_pixel"``: a number per pixel and channel; ``"paste"``: the WHOLE partner image, resized to the box
        bilinearly (half-pixel centres, no smoothing), so that a box cut at the border still shows all of it;
        ``"mean"``: the image's own mean per channel.
      others: images that partners are pasted from; the batch itself if None. Other fills do not read it.
      weight: what ``kept`` says. ``"nominal"``: :math:`1 - k_h k_w / (HW)`, as if nothing were cut off, as in the
        authors' code; ``"true"``: the share of pixels that did stay.

    Returns:
      The images, partners and weights.

    Raises:
      ValueError: shapes that do not belong together; an unknown ``fill`` or ``weight``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> images = jnp.arange(16.0).reshape(1, 4, 4, 1) / 16
      >>> mixed = gradmix(jax.random.key(0), images, images[..., 0], jnp.array([0.75]), fill="mean", weight="true")
      >>> print(mixed.images[0, :, :, 0] * 16, mixed.kept)  # k = 2 around the last pixel
      [[ 0.   1.   2.   3. ]
       [ 4.   5.   6.   7. ]
       [ 8.   9.   7.5  7.5]
       [12.  13.   7.5  7.5]] [0.75]

    References:
      Xu et al., "Informed Mixing", arXiv 2505.12803, as its code does it (noise); ``"paste"`` is a variant that stands
      there as a comment.
    """
    _check_images(images, others)
    if maps.shape != images.shape[:3]:
        raise ValueError(f"{maps.shape=} is not {images.shape[:3]}: give one map per image, of the images' size")
    return _with_filled_box(key, images, map_peaks(maps), share, fill, others, weight)


def random_box(
    key: Key[Array, ""],
    images: Images,
    share: Float[Array, " batch"],
    *,
    fill: Fill = "noise",
    others: Images | None = None,
    weight: Weight = "nominal",
) -> Mixed:
    """Images with a box overwritten around a random pixel: the control of :func:`gradmix`.

    All pixels are equally likely as centres; everything else is as there.

    Args:
      key: consumed.
      images: in [-1, 1].
      share: lambda, the share of each image that stays, in (0, 1].
      fill: as for :func:`gradmix`.
      others: as for :func:`gradmix`.
      weight: as for :func:`gradmix`.

    Returns:
      The images, partners and weights.

    Raises:
      ValueError: shapes that do not belong together; an unknown ``fill`` or ``weight``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> mixed = random_box(jax.random.key(0), jnp.zeros((1, 4, 4, 1)), jnp.array([0.75]))
      >>> print(mixed.kept)
      [0.75]

    References:
      The ablation of the map of Xu et al., arXiv 2505.12803; a random box of noise: Zhong et al., "Random Erasing
      Data Augmentation", arXiv 1708.04896.
    """
    _check_images(images, others)
    center_key, fill_key = jax.random.split(key)
    batch, height, width, _ = images.shape
    centers = _random_pixels(center_key, batch, height, width)
    return _with_filled_box(fill_key, images, centers, share, fill, others, weight)


def mixup(
    key: Key[Array, ""],
    images: Images,
    *,
    alpha: Scalar = 1.0,
    others: Images | None = None,
    per_image: bool = False,
) -> Mixed:
    r"""Images blended with a partner.

    .. math:: \tilde x_i = \lambda x_i + (1 - \lambda) x'_{\pi(i)}, \qquad \lambda \sim \mathrm{Beta}(\alpha, \alpha).

    Args:
      key: consumed.
      images: in [-1, 1].
      alpha: above 0; the paper uses 1 for CIFAR and 0.1 to 0.4 for ImageNet.
      others: x', the batch itself if None.
      per_image: a lambda for every image; otherwise one for the batch, as in the authors' code.

    Returns:
      The images, partners and ``kept`` = lambda.

    Raises:
      ValueError: ``others`` of another shape; a Python number at or below 0 for alpha.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> mixed = mixup(jax.random.key(0), jnp.ones((2, 1, 1, 1)), others=jnp.zeros((2, 1, 1, 1)))
      >>> bool((mixed.images[:, 0, 0, 0] == mixed.kept).all())
      True

    References:
      Zhang et al., "mixup: Beyond Empirical Risk Minimization", arXiv 1710.09412, sec. 2.
    """
    batch, *_ = _check_images(images, others)
    share_key, partner_key = jax.random.split(key)
    kept = _beta(share_key, batch, alpha, alpha, per_image)
    partners, found = _partners(partner_key, images, others)
    own = kept[:, None, None, None]
    return Mixed((own * images + (1.0 - own) * found).astype(images.dtype), partners, kept)


def cutmix(
    key: Key[Array, ""],
    images: Images,
    *,
    alpha: Scalar = 1.0,
    others: Images | None = None,
    per_image: bool = False,
) -> Mixed:
    r"""Images with a box taken over from a partner, at the same place.

    The box has the sides :math:`H \sqrt{1 - \lambda}`, :math:`W \sqrt{1 - \lambda}` with
    :math:`\lambda \sim \mathrm{Beta}(\alpha, \alpha)`, rounded down to even ones; its centre is a pixel of the image,
    all equally likely, and the border cuts it.

    Args:
      key: consumed.
      images: in [-1, 1].
      alpha: above 0; the paper uses 1.
      others: images that boxes are taken from; the batch itself if None.
      per_image: a lambda and a place for every image; otherwise one box for the batch, as in the authors' code.

    Returns:
      The images, partners and ``kept`` = the share of pixels that stayed.

    Raises:
      ValueError: ``others`` of another shape; a Python number at or below 0 for alpha.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> mixed = jax.jit(cutmix)(jax.random.key(0), jnp.ones((2, 4, 4, 1)), others=jnp.zeros((2, 4, 4, 1)))
      >>> bool((mixed.images.mean((1, 2, 3)) == mixed.kept).all())
      True

    References:
      Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features",
      arXiv 1905.04899, eq. 1 and 2; lambda of the pixels that stayed: its code.
    """
    batch, height, width, _ = _check_images(images, others)
    share_key, center_key, partner_key = jax.random.split(key, 3)
    share = _beta(share_key, batch, alpha, alpha, per_image)
    centers = _random_pixels(center_key, batch if per_image else 1, height, width)
    bounds = box_bounds(jnp.broadcast_to(centers, (batch, 2)), share, height=height, width=width)
    partners, found = _partners(partner_key, images, others)
    return _with_partners(images, found, partners, box_mask(bounds, height=height, width=width))


def saliency_mix(
    key: Key[Array, ""],
    images: Images,
    *,
    alpha: Scalar = 1.0,
    maps: Float[Array, "batch height width"] | None = None,
    others: Images | None = None,
    per_image: bool = False,
) -> Mixed:
    """Images with a box taken over from a partner, around the PARTNER's most salient pixel, at the same place.

    Sides and border are those of :func:`cutmix`. Each image gets the box of its own partner, as in the paper; the
    authors' code puts the box of one partner on the whole batch, found by OpenCV's fine-grained saliency.

    Args:
      key: consumed.
      images: in [-1, 1].
      alpha: of lambda ~ Beta(alpha, alpha), above 0; the paper uses 1.
      maps: saliency of ``others``, row by row; :func:`osrjax.augment.spectral_residual_saliency` if None.
      others: images that boxes are taken from; the batch itself if None.
      per_image: a lambda for every image; otherwise one for the batch.

    Returns:
      The images, partners and ``kept`` = the share of pixels that stayed.

    Raises:
      ValueError: ``others`` or ``maps`` of another shape; a Python number at or below 0 for alpha.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> mixed = jax.jit(saliency_mix)(jax.random.key(0), jnp.ones((2, 4, 4, 1)), others=jnp.zeros((2, 4, 4, 1)))
      >>> bool((mixed.images.mean((1, 2, 3)) == mixed.kept).all())
      True

    References:
      Uddin et al., "SaliencyMix: A Saliency Guided Data Augmentation Strategy for Better Regularization",
      arXiv 2006.01791, sec. 3.
    """
    batch, height, width, _ = _check_images(images, others)
    if maps is None:
        maps = spectral_residual_saliency(images if others is None else others)
    elif maps.shape != images.shape[:3]:
        raise ValueError(f"{maps.shape=} is not {images.shape[:3]}: give one map per image, of the images' size")
    share_key, partner_key = jax.random.split(key)
    share = _beta(share_key, batch, alpha, alpha, per_image)
    partners, found = _partners(partner_key, images, others)
    bounds = box_bounds(map_peaks(maps)[partners], share, height=height, width=width)
    return _with_partners(images, found, partners, box_mask(bounds, height=height, width=width))


def fmix(
    key: Key[Array, ""],
    images: Images,
    *,
    alpha: Scalar = 1.0,
    decay: Scalar = 3.0,
    others: Images | None = None,
    per_image: bool = False,
) -> Mixed:
    r"""Images that share their pixels with a partner along a random smooth contour.

    The real part of a field with independent complex Gaussian Fourier coefficients, scaled by :math:`|f|^{-\delta}`, is
    cut at the level above which the share :math:`\lambda \sim \mathrm{Beta}(\alpha, \alpha)` of the pixels lies; these
    stay, the others come from the partner. Frequencies below one period per longer side count as that.

    *Cost*: one inverse Fourier transform and two sorts of a field's pixels, for the batch or per image.

    Args:
      key: consumed.
      images: in [-1, 1].
      alpha: above 0; the paper uses 1.
      decay: delta, 0 or more, larger = smoother contours; the paper uses 3.
      others: images that pixels are taken from; the batch itself if None.
      per_image: a lambda and a field for every image; otherwise one mask for the batch, as in the authors' code.

    Returns:
      The images, partners and ``kept`` = the share of pixels that stayed: lambda rounded to whole pixels.

    Raises:
      ValueError: ``others`` of another shape; Python numbers outside these ranges.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> mixed = jax.jit(fmix)(jax.random.key(0), jnp.ones((2, 4, 4, 1)), others=jnp.zeros((2, 4, 4, 1)))
      >>> bool((mixed.images.mean((1, 2, 3)) == mixed.kept).all())
      True

    References:
      Harris et al., "FMix: Enhancing Mixed Sample Data Augmentation", arXiv 2002.12047, sec. 4.
    """
    batch, height, width, _ = _check_images(images, others)
    if isinstance(decay, float | int) and not decay >= 0:
        raise ValueError(f"{decay=} is negative: give the power by which frequencies decay, such as 3")
    share_key, field_key, partner_key = jax.random.split(key, 3)
    fields = batch if per_image else 1
    share = _beta(share_key, batch, alpha, alpha, per_image)
    field = _low_frequency_field(field_key, fields, height, width, decay).reshape(fields, height * width)
    # Ranks, not a threshold: exactly so many pixels are above it, whatever values are equal.
    ranks = jnp.argsort(jnp.argsort(field, axis=-1), axis=-1)
    stays = jnp.round(share * (height * width)).astype(ranks.dtype)
    taken = (ranks < height * width - stays[:, None]).reshape(batch, height, width)
    partners, found = _partners(partner_key, images, others)
    return _with_partners(images, found, partners, taken)


def _low_frequency_field(key: Array, fields: int, height: int, width: int, decay: Scalar) -> Array:
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    scale = jnp.asarray(np.maximum(frequencies, 1.0 / max(height, width)), jnp.float32) ** -decay
    normals = jax.random.normal(key, (2 * fields * height * width,)).reshape(2, fields, height, width)
    return jnp.real(jnp.fft.ifft2(scale[None] * jax.lax.complex(normals[0], normals[1])))


def _beta(key: Array, batch: int, alpha: Scalar, beta: Scalar, per_image: bool) -> Array:
    for name, value in (("alpha", alpha), ("beta", beta)):
        if isinstance(value, float | int) and not value > 0:
            raise ValueError(f"{name}={value!r} is not positive: Beta(1, 1) is uniform, smaller values favour the ends")
    shape = (batch,) if per_image else (1,)
    uniform = isinstance(alpha, float | int) and isinstance(beta, float | int) and alpha == beta == 1
    drawn = jax.random.uniform(key, shape) if uniform else jax.random.beta(key, alpha, beta, shape)
    return jnp.broadcast_to(drawn.astype(jnp.float32), (batch,))


def _random_pixels(key: Array, count: int, height: int, width: int) -> Array:
    places = jax.random.randint(key, (count,), 0, height * width)
    return jnp.stack([places // width, places % width], axis=-1)


def _partners(key: Array, images: Array, others: Array | None) -> tuple[Array, Array]:
    partners = jax.random.permutation(key, images.shape[0]).astype(jnp.int32)
    return partners, (images if others is None else others.astype(images.dtype))[partners]


def _with_partners(images: Array, found: Array, partners: Array, taken: Bool[Array, "batch height width"]) -> Mixed:
    kept = _share(jnp.sum(~taken, axis=(1, 2)), taken.shape[1] * taken.shape[2])
    return Mixed(jnp.where(taken[..., None], found, images), partners.astype(jnp.int32), kept)


def _with_filled_box(
    key: Array,
    images: Array,
    centers: Int[Array, "batch 2"],
    share: Float[Array, " batch"],
    fill: Fill,
    others: Array | None,
    weight: Weight,
) -> Mixed:
    batch, height, width, channels = images.shape
    if share.shape != (batch,):
        raise ValueError(f"{share.shape=} is not {(batch,)}: give one share per image")
    if weight not in ("nominal", "true"):
        raise ValueError(f'{weight=} is not one of "nominal", "true"')
    bounds = box_bounds(centers, share, height=height, width=width)
    partners = jnp.arange(batch)
    if fill in ("noise", "noise_pixel"):
        planes = 1 if fill == "noise" else channels
        content = jax.random.uniform(key, (batch * height * width * planes,), images.dtype)
        content = content.reshape(batch, height, width, planes)
    elif fill == "paste":
        partners, found = _partners(key, images, others)
        content = _fitted(found, bounds)
    elif fill == "mean":
        content = jnp.mean(images, axis=(1, 2), keepdims=True)
    else:
        raise ValueError(f'{fill=} is not one of "noise", "noise_pixel", "paste", "mean"')
    mixed = _with_partners(images, content, partners, box_mask(bounds, height=height, width=width))
    kept = mixed.kept
    if weight == "nominal":
        nominal = box_side(share, length=height) * box_side(share, length=width)
        kept = _share(height * width - nominal, height * width)
    # A share outside (0, 1] cannot be refused inside compiled code: it spoils the loss instead.
    return mixed._replace(kept=jnp.where((share > 0) & (share <= 1), kept, jnp.nan))


def _share(pixels: Int[Array, " batch"], total: int) -> Array:
    # Compilers divide by a constant as they multiply by its rounded inverse, which may lead beyond 1.
    return jnp.minimum(pixels.astype(jnp.float32) / total, 1.0)


def _fitted(images: Array, bounds: Int[Array, "batch 4"]) -> Array:
    """Whole images resized to a box each; pixels outside the box repeat its border."""

    def places(start: Array, end: Array, length: int) -> Array:
        size = jnp.maximum(end - start, 1)[:, None].astype(jnp.float32)  # an empty box shows nothing anyway
        pixels = jnp.arange(length)[None, :]
        return jnp.clip((pixels - start[:, None] + 0.5) * (length / size) - 0.5, 0.0, length - 1.0)

    _, height, width, _ = images.shape
    rows = places(bounds[:, 0], bounds[:, 1], height)
    columns = places(bounds[:, 2], bounds[:, 3], width)
    return resample(images, rows, columns)


def _check_images(images: Array, others: Array | None) -> tuple[int, int, int, int]:
    shape = check_images(images)
    if others is not None and (others.shape != images.shape or not jnp.issubdtype(others.dtype, jnp.floating)):
        raise ValueError(
            f"others of shape {others.shape} and dtype {others.dtype}: give floats of shape {images.shape}"
        )
    return shape
