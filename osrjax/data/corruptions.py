"""Common corruptions of small images, generated on the host or read from the published CIFAR-10-C files.

The 15 corruptions at 5 severities of Hendrycks and Dietterich (arXiv 1903.12261), with the parameters of
CIFAR-10-C: the constants of the script published beside that data set. They are in pixels of 32 x 32 images or in
shares of the image's side, and are used as they stand at every size. The libraries that generate these corruptions
(imagecorruptions, its maintained fork imagecorruptions-imaug, corrupt-tta) hold the parameters for ImageNet, which
leave little of a small image (a defocus of radius 10 pixels, 2 to 4 times the noise), refuse images below 32 pixels or
gray ones, and draw from numpy's global generator: hence own code.

What is generated is not CIFAR-10-C bit for bit: other random numbers, no rounding in between, and the end result
rounded instead of cut off. *Frost* overlays photographs of frost there; they are no part of this package. What
stands in for it is called "frost (procedural)": noise with mean, contrast and spectrum of those photographs and none of
their crystals. A result with it is a result on 14 corruptions of the paper and one of ours.
"""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy import ndimage

from osrjax.augment.pixels import LUMA
from osrjax.data.source import Examples
from osrjax.data.table import GENERATED_CORRUPTIONS, SEVERITIES

__all__ = ["corrupt", "mean_corruption_error", "published_corruption"]

BLOCK = 250  # images at a time: bounds the memory of the warps


Images = Float[np.ndarray, "batch height width channels"]


def corrupt(
    images: UInt8[np.ndarray, "batch height width channels"], name: str, *, severity: int, seed: int = 0
) -> UInt8[np.ndarray, "batch height width channels"]:
    """Images under one corruption at one severity.

    The same arguments give the same pixels in every process. *Cost* on one CPU core for 10 000 images of
    32 x 32 x 3: 0.5 to 10 s, most for motion blur, zoom blur and the elastic transform.

    Args:
      images: gray (1 channel) or RGB (3), at least 2 pixels high and wide.
      name: one of ``GENERATED_CORRUPTIONS``; "frost (procedural)" is no frost of the paper, see above.
      severity: 1 to 5.
      seed: at least 0.

    Returns:
      Corrupted images, of the same shape.

    Raises:
      ValueError: another name, severity, dtype or shape.

    Example:
      >>> images = np.full((1, 4, 4, 1), 100, np.uint8)
      >>> int(corrupt(images, "brightness", severity=1)[0, 0, 0, 0])  # 100 + 0.05 * 255
      113

    References:
      Hendrycks and Dietterich, arXiv 1903.12261, sec. 4.1 and appendix A (the corruptions; parameters are not printed).
    """
    if name not in _TABLE:
        raise ValueError(f"{name=} is not generated: choose from {', '.join(GENERATED_CORRUPTIONS)}")
    _check_severity(severity)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3) or min(images.shape[1:3]) < 2:
        raise ValueError(
            f"images have shape {images.shape} and dtype {images.dtype}: give uint8 pixels"
            " [batch, height, width, 1 or 3]"
        )
    function, parameters = _TABLE[name]
    corrupted = np.empty_like(images)
    for start in range(0, len(images), BLOCK):
        generator = np.random.default_rng([seed, GENERATED_CORRUPTIONS.index(name), severity, start])
        rows = images[start : start + BLOCK].astype(np.float32) / 255
        found = function(generator, rows, parameters[severity - 1])
        corrupted[start : start + BLOCK] = np.rint(255 * np.clip(found, 0, 1))
    return corrupted


def published_corruption(directory: Path, name: str, *, severity: int) -> Examples:
    """Test images under one corruption at one severity, from the files of CIFAR-10-C or CIFAR-100-C.

    Args:
      directory: holds ``NAME.npy``, uint8 [5 n, height, width, channels], the severities one after another,
        and ``labels.npy``, 5 n labels; n = 10 000 as published.
      name: one of ``CORRUPTIONS``.
      severity: 1 to 5.

    Returns:
      n images and their original class ids, in the order of the test set.

    Raises:
      ValueError: a missing file, or arrays of another form.
    """
    arrays = []
    for file in (f"{name}.npy", "labels.npy"):
        path = Path(directory) / file
        if not path.is_file():
            raise ValueError(f"directory={str(directory)!r} has no {file}: give the unpacked folder of CIFAR-10-C")
        try:
            arrays.append(np.lib.format.open_memmap(path, mode="r"))
        except Exception as error:  # in words of our own: numpy's advise to load it unsafely
            raise ValueError(f"{path}: is no array of numbers, or a damaged one: fetch it again") from error
    images, labels = arrays
    _check_severity(severity)
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images) or len(images) % 5:
        raise ValueError(
            f"{name}.npy has shape {images.shape} and dtype {images.dtype}: it must be uint8"
            " [5 n, height, width, channels]"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels.npy has shape {labels.shape} and dtype {labels.dtype}: it must hold the {len(images)} integer"
            f" labels of {name}.npy"
        )
    count = len(images) // 5
    rows = slice((severity - 1) * count, severity * count)
    return Examples(np.array(images[rows]), labels[rows].astype(np.int32))


def mean_corruption_error(
    errors: Float[np.ndarray, "corruptions severities"],
    baseline: Float[np.ndarray, "corruptions severities"] | None = None,
) -> float:
    r"""Mean corruption error (mCE), as it stands or relative to another network.

    .. math:: \mathrm{mCE} = \frac1C \sum_c \frac{\sum_s E_{c,s}}{\sum_s E^{baseline}_{c,s}},

    and without a baseline the plain mean of all errors, as CIFAR-10-C is usually reported. The paper's baseline is
    AlexNet on ImageNet-C.

    Args:
      errors: share of misclassified images, in [0, 1].
      baseline: the same of another network on the same images, with an error under every corruption.

    Returns:
      A share in [0, 1] without a baseline; relative to one, 1 means as many errors. Smaller is better.

    Raises:
      ValueError: arrays of two shapes.

    Example:
      >>> errors = np.array([[0.1, 0.3], [0.2, 0.6]])
      >>> round(mean_corruption_error(errors), 3)
      0.3
      >>> round(mean_corruption_error(errors, np.array([[0.2, 0.6], [0.2, 0.2]])), 3)  # (0.4 / 0.8 + 0.8 / 0.4) / 2
      1.25

    References:
      Hendrycks and Dietterich, arXiv 1903.12261, sec. 4.2 (mCE); Hendrycks et al., AugMix, arXiv 1912.02781, sec. 4
      (the mean without a baseline).
    """
    errors = np.asarray(errors, np.float64)
    if baseline is None:
        return float(errors.mean())
    baseline = np.asarray(baseline, np.float64)
    if errors.shape != baseline.shape:
        raise ValueError(f"errors has shape {errors.shape}, baseline {baseline.shape}: give the same corruptions")
    return float(np.mean(errors.sum(axis=1) / baseline.sum(axis=1)))


def _check_severity(severity: int) -> None:
    if severity not in SEVERITIES:
        raise ValueError(f"{severity=} does not exist: give 1, 2, 3, 4 or 5")


def _gaussian_noise(generator: np.random.Generator, images: Images, deviation: float) -> Images:
    return images + np.float32(deviation) * generator.standard_normal(images.shape, np.float32)


def _shot_noise(generator: np.random.Generator, images: Images, photons: float) -> Images:
    return (generator.poisson(images * photons) / photons).astype(np.float32)


def _impulse_noise(generator: np.random.Generator, images: Images, share: float) -> Images:
    hit, white = generator.random((2, *images.shape), np.float32)
    return np.where(hit < share, (white < 0.5).astype(np.float32), images)


def _defocus_blur(generator: np.random.Generator, images: Images, parameter: tuple[float, float]) -> Images:
    del generator
    radius, deviation = parameter
    squares = np.square(np.arange(-3, 4))
    disk = (squares[:, None] + squares <= radius**2).astype(np.float32)
    edge = np.exp(-0.5 / deviation**2)  # a Gaussian of three taps softens the disk
    taps = np.array([edge, 1, edge]) / (1 + 2 * edge)
    kernel = ndimage.correlate(disk / disk.sum(), np.outer(taps, taps), mode="constant")
    return ndimage.correlate(images, kernel[None, :, :, None].astype(np.float32), mode="mirror")


def _glass_blur(generator: np.random.Generator, images: Images, parameter: tuple[float, int, int]) -> Images:
    """Blurs, lets pixels take the value of a near one, blurs again.

    The paper speaks of pixels that are shuffled. In the published script what reads as a swap assigns between two views
    of one array and copies; the published images come from it, so pixels are copied here too.
    """
    deviation, reach, rounds = parameter
    number, height, width, _ = images.shape
    found = _gaussian_blurred(images, deviation)
    moves = generator.integers(-reach, reach, (rounds, height, width, 2, number))
    everyone = np.arange(number)
    for moves_of_round in moves:
        for row in range(height - reach, reach, -1):  # in turn: a copied value may be copied on
            for column in range(width - reach, reach, -1):
                down, right = moves_of_round[row, column]
                found[:, row, column] = found[everyone, row + down, column + right]
    return _gaussian_blurred(found, deviation)


def _motion_blur(generator: np.random.Generator, images: Images, parameter: tuple[int, float]) -> Images:
    return _motion_blurred(images, generator.uniform(-45, 45, len(images)), *parameter)


def _zoom_blur(generator: np.random.Generator, images: Images, stop: float) -> Images:
    """The mean of the image (counted once more) and of its enlargements by 1.00, 1.01, ... up to ``stop``."""
    del generator
    # Float rounding decides whether `stop` itself is among them, as it did for the published images.
    factors = np.arange(1, stop, 0.01)
    return (images + sum(_zoomed(images, factor) for factor in factors)) / np.float32(len(factors) + 1)


def _gaussian_blurred(images: Images, deviation: float) -> Images:
    return ndimage.gaussian_filter(images, (0, deviation, deviation, 0), mode="nearest", truncate=4.0)


def _motion_blurred(images: Images, degrees: Float[np.ndarray, " batch"], radius: int, deviation: float) -> Images:
    """Half a Gaussian along a ray from each pixel, to the nearest pixels; the border is repeated."""
    number, height, width, _ = images.shape
    weights = np.exp(-0.5 * np.square(np.arange(2 * radius + 1) / deviation))
    weights /= weights.sum()
    angles, everyone = np.deg2rad(degrees), np.arange(number)[:, None, None]
    found = np.zeros_like(images)
    for step, weight in enumerate(weights):
        down, right = (np.ceil(step * part(angles) - 0.5).astype(int)[:, None] for part in (np.sin, np.cos))
        rows = np.clip(np.arange(height) + down, 0, height - 1)[:, :, None]
        columns = np.clip(np.arange(width) + right, 0, width - 1)[:, None, :]
        found += np.float32(weight) * images[everyone, rows, columns]
    return found


def _zoomed(images: Images, factor: float) -> Images:
    """The middle of each image enlarged to its size, bilinear: one small matrix an axis."""

    def enlarging(side: int) -> Float[np.ndarray, "side side"]:
        kept = int(np.ceil(side / factor))
        first = (side - kept) // 2
        rows = ndimage.zoom(np.eye(side, dtype=np.float32)[first : first + kept], (factor, 1), order=1)
        trim = (len(rows) - side) // 2
        return rows[trim : trim + side]

    planes = np.moveaxis(images, -1, 1)
    planes = enlarging(images.shape[1]) @ planes @ enlarging(images.shape[2]).T
    return np.moveaxis(planes, 1, -1)


def _snow(
    generator: np.random.Generator, images: Images, parameter: tuple[float, float, float, float, int, float, float]
) -> Images:
    mean, deviation, zoom, threshold, radius, blur, keep = parameter
    flakes = generator.normal(mean, deviation, (*images.shape[:3], 1)).astype(np.float32)
    flakes = _zoomed(flakes, zoom)
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    flakes = _motion_blurred(flakes, generator.uniform(-135, -45, len(images)), radius, blur)
    gray = images @ np.array(LUMA, np.float32)[:, None] if images.shape[-1] == 3 else images
    whitened = keep * images + (1 - keep) * np.maximum(images, 1.5 * gray + 0.5)
    return whitened + flakes + flakes[:, ::-1, ::-1]


def _frost_procedural(generator: np.random.Generator, images: Images, parameter: tuple[float, float]) -> Images:
    """Blends with noise of the photographs' statistics at the scale at which CIFAR-10-C crops them.

    Five photographs there have mean gray 0.45 to 0.8, a deviation of 0.09 within a crop, a power
    spectrum that falls about as frequency^-0.8, and a tint of 0.03 from red to blue.
    """
    keep, weight = parameter
    number, height, width, channels = images.shape
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    amplitudes = np.where(frequencies > 0, np.maximum(frequencies, 1e-9) ** -0.4, 0)
    spectrum = amplitudes * np.fft.rfft2(generator.standard_normal((number, height, width)))
    noise = np.fft.irfft2(spectrum, (height, width))
    noise *= 0.09 / noise.std(axis=(1, 2), keepdims=True)
    level = generator.uniform(0.45, 0.8, (number, 1, 1))
    tint = np.array([-0.03, 0.0, 0.03]) if channels == 3 else np.zeros(1)
    return (keep * images + weight * ((level + noise)[..., None] + tint)).astype(np.float32)


def _fog(generator: np.random.Generator, images: Images, parameter: tuple[float, float]) -> Images:
    weight, decay = parameter
    number, height, width, _ = images.shape
    clouds = _plasma(generator, number, 1 << (max(height, width) - 1).bit_length(), decay)
    largest = images.max(axis=(1, 2, 3), keepdims=True)
    return (images + weight * clouds[:, :height, :width, None]) * largest / (largest + weight)


def _plasma(
    generator: np.random.Generator, number: int, side: int, decay: float
) -> Float[np.ndarray, "number side side"]:
    """Diamond-square height maps on a torus, each from 0 to 1; the noise falls by ``decay`` squared an octave."""
    heights = np.zeros((number, side, side))
    step, amplitude = side, 1.0

    def noisy(total: Float[np.ndarray, "number rows columns"]) -> Float[np.ndarray, "number rows columns"]:
        return total / 4 + generator.uniform(-amplitude, amplitude, total.shape)

    while step > 1:
        half = step // 2
        corners = heights[:, ::step, ::step]
        pairs = corners + np.roll(corners, -1, axis=1)  # of a column: each corner and the one below
        centres = noisy(pairs + np.roll(pairs, -1, axis=2))
        heights[:, half::step, half::step] = centres
        across = corners + np.roll(corners, -1, axis=2)
        heights[:, ::step, half::step] = noisy(across + centres + np.roll(centres, 1, axis=1))
        heights[:, half::step, ::step] = noisy(pairs + centres + np.roll(centres, 1, axis=2))
        step, amplitude = half, amplitude / decay**2
    heights -= heights.min(axis=(1, 2), keepdims=True)
    return (heights / heights.max(axis=(1, 2), keepdims=True)).astype(np.float32)


def _brightness(generator: np.random.Generator, images: Images, rise: float) -> Images:
    """Raises the value of hue-saturation-value, the largest channel; the others keep their ratio to it."""
    del generator
    value = images.max(axis=-1, keepdims=True)
    raised = np.minimum(value + np.float32(rise), 1)
    return np.where(value > 0, images * raised / np.where(value > 0, value, 1), raised)


def _contrast(generator: np.random.Generator, images: Images, keep: float) -> Images:
    del generator
    means = images.mean(axis=(1, 2), keepdims=True)
    return means + np.float32(keep) * (images - means)


def _elastic_transform(generator: np.random.Generator, images: Images, shares: tuple[float, float, float]) -> Images:
    """A random affine map, then displacements by smoothed noise; lengths are shares of the image's side."""
    number, height, width, _ = images.shape
    side = min(height, width)
    strength, smoothness, shift = (share * side for share in shares)
    reach, middle = side // 3, np.array([width // 2, height // 2])
    corners = middle + reach * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = corners + generator.uniform(-shift, shift, (number, 3, 2))
    # The affine map that takes the moved corners back says where each pixel comes from.
    back = np.linalg.solve(np.concatenate([moved, np.ones((number, 3, 1))], axis=-1), corners.astype(float))
    rows, columns = np.mgrid[:height, :width].astype(float)
    places = np.stack([columns, rows, np.ones((height, width))], axis=-1) @ back[:, None]
    warped = _sampled(images, places[..., 1], places[..., 0])
    noise = generator.uniform(-1, 1, (2, number, height, width))
    down, right = strength * ndimage.gaussian_filter(
        noise, (0, 0, smoothness, smoothness), mode="reflect", truncate=3.0
    )
    return _sampled(warped, rows + down, columns + right)


def _sampled(
    images: Images, rows: Float[np.ndarray, "batch height width"], columns: Float[np.ndarray, "batch height width"]
) -> Images:
    """Bilinear values at fractional places; beyond the border the image is mirrored about its outermost pixels."""

    def taps(places: np.ndarray, side: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        below = np.floor(places)
        share = (places - below).astype(np.float32)[..., None]
        index = below.astype(int)
        folded = (np.abs((i + side - 1) % (2 * side - 2) - (side - 1)) for i in (index, index + 1))
        return tuple(zip(folded, (1 - share, share), strict=True))

    everyone = np.arange(len(images))[:, None, None]
    found = np.zeros_like(images)
    for row, row_share in taps(rows, images.shape[1]):
        for column, column_share in taps(columns, images.shape[2]):
            found += row_share * column_share * images[everyone, row, column]
    return found


def _pixelate(generator: np.random.Generator, images: Images, share: float) -> Images:
    del generator
    height, width = images.shape[1:3]
    small, box = (max(1, int(width * share)), max(1, int(height * share))), Image.Resampling.BOX
    return _by_pillow(images, lambda image: image.resize(small, box).resize((width, height), box))


def _jpeg_compression(generator: np.random.Generator, images: Images, quality: int) -> Images:
    del generator

    def compressed(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _by_pillow(images, compressed)


def _by_pillow(images: Images, change: Callable[[Image.Image], Image.Image]) -> Images:
    pixels = np.rint(255 * images).astype(np.uint8)
    rows = [Image.fromarray(row[..., 0] if row.shape[-1] == 1 else row) for row in pixels]
    return np.stack([np.asarray(change(row), np.float32) for row in rows]).reshape(images.shape) / 255


# Name -> function and its parameter at severities 1 to 5, in the order of CORRUPTIONS.
_TABLE: dict[str, tuple[Callable, tuple]] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.1)),
    "shot_noise": (_shot_noise, (500.0, 250.0, 100.0, 75.0, 50.0)),
    "impulse_noise": (_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "defocus_blur": (_defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))),
    "glass_blur": (_glass_blur, ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))),
    "motion_blur": (_motion_blur, ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))),
    "zoom_blur": (_zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
    "snow": (
        _snow,
        (
            (0.1, 0.2, 1.0, 0.6, 8, 3.0, 0.95),
            (0.1, 0.2, 1.0, 0.5, 10, 4.0, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4.0, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6.0, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12.0, 0.8),
        ),
    ),
    "frost (procedural)": (_frost_procedural, ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
    "fog": (_fog, ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "elastic_transform": (
        _elastic_transform,
        ((0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": (_jpeg_compression, (80, 65, 58, 50, 40)),
}
