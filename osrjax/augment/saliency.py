"""Where an image stands out by itself, without any network."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from osrjax.attribution.maps import upsample_map
from osrjax.augment.pixels import LUMA, Images, check_images

__all__ = ["spectral_residual_saliency"]


def spectral_residual_saliency(
    images: Images, *, size: int = 64, sigma: float = 2.5
) -> Float[Array, "batch height width"]:
    r"""Saliency without a model: where an image departs from the smooth amplitude spectrum of natural images.

    .. math:: S = g_\sigma * \bigl| \mathcal{F}^{-1}[ e^{R + i P} ] \bigr|^2, \qquad R = \log A - h_3 * \log A,

    with amplitude A and phase P of the gray image's Fourier transform and the 3 x 3 mean :math:`h_3`, which wraps
    around as the spectrum does. Outside the image the smoothing meets zeros, which damps the false edges where a
    Fourier transform joins opposite borders.

    Args:
      images: in [-1, 1]; three channels count by luma, others equally.
      size: longer images are shrunk to this length for the transform, shorter ones stay as they are.
      sigma: of the Gaussian, in pixels of the transform.

    Returns:
      float32 maps, at least 0, of no unit: only their shape counts.

    Raises:
      ValueError: a size below 1; a sigma at or below 0.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> images = jnp.zeros((1, 32, 32, 1)).at[0, 10, 19].set(1.0)
      >>> maps = jax.jit(spectral_residual_saliency)(images)
      >>> divmod(int(maps.argmax()), 32)
      (10, 19)

    References:
      Hou and Zhang, "Saliency Detection: A Spectral Residual Approach", CVPR 2007, sec. 2.
    """
    batch, height, width, channels = check_images(images)
    if size < 1:
        raise ValueError(f"{size=} is below 1: give the longest side of the transform in pixels")
    if not sigma > 0:
        raise ValueError(f"{sigma=} is not positive: give the width of the smoothing in pixels")
    shares = LUMA if channels == 3 else (1 / channels,) * channels
    unit = (images.astype(jnp.float32) + 1.0) / 2.0
    gray = jnp.sum(unit * jnp.asarray(shares, jnp.float32)[None, None, None], axis=-1)
    scale = min(1.0, size / max(height, width))
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    gray = jax.image.resize(gray, (batch, rows, columns), "linear", precision=jax.lax.Precision.HIGHEST)
    spectrum = jnp.fft.fft2(gray)
    # Amplitudes below those of white noise of 1e-4 count as that: rounding errors have a phase, but no meaning.
    amplitude = jnp.maximum(jnp.abs(spectrum), 1e-4 * math.sqrt(rows * columns))
    log_amplitude = jnp.log(amplitude)
    mean = log_amplitude
    for axis in (1, 2):
        mean = (jnp.roll(mean, 1, axis) + mean + jnp.roll(mean, -1, axis)) / 3.0
    residual = jnp.real(jnp.fft.ifft2(jnp.exp(log_amplitude - mean) / amplitude * spectrum)) ** 2
    smooth = jnp.einsum(
        "ih,bhw,jw->bij",
        _gaussian(rows, sigma),
        residual,
        _gaussian(columns, sigma),
        precision=jax.lax.Precision.HIGHEST,
    )
    return upsample_map(smooth, height=height, width=width)


def _gaussian(length: int, sigma: float) -> Array:
    pixels = np.arange(length)
    weights = np.exp(-((pixels[:, None] - pixels) ** 2) / (2 * sigma**2))
    return jnp.asarray(weights / weights[length // 2].sum(), jnp.float32)
