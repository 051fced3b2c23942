"""Corruptions against hand numbers, loops over pixels, colorsys and Pillow."""

import colorsys
import io
import math

import numpy as np
import pytest
from jaxtyping import TypeCheckError
from PIL import Image
from scipy import ndimage

from osrjax.data import corruptions
from osrjax.data.corruptions import corrupt
from osrjax.data.table import CORRUPTIONS, GENERATED_CORRUPTIONS, SEVERITIES

DETERMINISTIC = ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")


@pytest.fixture
def images(rng):
    """Smooth colour images, neither black nor white anywhere."""
    noise = ndimage.gaussian_filter(rng.normal(size=(3, 32, 32, 3)), (0, 3, 3, 0))
    return np.clip(128 + 90 * noise / noise.std(), 40, 215).astype(np.uint8)


@pytest.mark.parametrize("name", GENERATED_CORRUPTIONS)
@pytest.mark.parametrize("shape", [(2, 28, 28, 1), (3, 12, 20, 3)])
def test_shape_repetition_and_seed(name, shape, rng):
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    before = pixels.copy()
    for severity in SEVERITIES:
        found = corrupt(pixels, name, severity=severity)
        assert found.shape == shape
        assert found.dtype == np.uint8
        assert np.array_equal(found, corrupt(pixels, name, severity=severity, seed=0))
        same = np.array_equal(found, corrupt(pixels, name, severity=severity, seed=1))
        assert same == (name in DETERMINISTIC)
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("name", GENERATED_CORRUPTIONS)
def test_gray_stays_gray_and_strength_grows(name, images):
    gray = np.repeat(images[..., :1], 3, axis=-1)
    changes = []
    for severity in (1, 5):
        found = corrupt(gray, name, severity=severity).astype(float)
        if name not in ("gaussian_noise", "shot_noise", "impulse_noise", "frost (procedural)", "jpeg_compression"):
            assert np.ptp(found, axis=-1).max() <= 1  # rounding; noise is drawn for every channel, frost is bluish
        changes.append(np.abs(found - gray).mean())
    assert changes[0] > 0 or name == "pixelate"
    # The parameters of these two trade one strength for another.
    assert changes[1] > changes[0] or name in ("elastic_transform", "frost (procedural)")


def test_images_of_different_blocks_get_different_noise():
    pixels = np.full((corruptions.BLOCK + 1, 4, 4, 1), 128, np.uint8)
    found = corrupt(pixels, "gaussian_noise", severity=5)
    assert not np.array_equal(found[0], found[-1])


# ----------------------------------------------------------------------------------------------- noise


@pytest.mark.parametrize(("severity", "deviation"), [(1, 0.04), (3, 0.08), (5, 0.1)])
def test_gaussian_noise(severity, deviation):
    found = corrupt(np.full((20, 32, 32, 3), 128, np.uint8), "gaussian_noise", severity=severity) / 255
    # 61 440 draws: the standard error of the deviation is 0.3 % of it.
    np.testing.assert_allclose(found.std(), deviation, rtol=0.015)
    np.testing.assert_allclose(found.mean(), 128 / 255, atol=0.002)


@pytest.mark.parametrize(("severity", "photons"), [(1, 500), (5, 50)])
def test_shot_noise_has_the_variance_of_counted_photons(severity, photons):
    for level in (51, 102):
        found = corrupt(np.full((20, 32, 32, 3), level, np.uint8), "shot_noise", severity=severity) / 255
        np.testing.assert_allclose(found.mean(), level / 255, rtol=0.01)
        # A photon of 500 is half a gray level: rounding adds up to 5 % to so small a variance.
        np.testing.assert_allclose(found.var(), level / 255 / photons, rtol=0.06)


@pytest.mark.parametrize(("severity", "share"), [(1, 0.01), (5, 0.07)])
def test_impulse_noise(severity, share):
    found = corrupt(np.full((20, 32, 32, 3), 100, np.uint8), "impulse_noise", severity=severity)
    assert set(np.unique(found)) == {0, 100, 255}
    np.testing.assert_allclose(np.mean(found != 100), share, rtol=0.15)
    np.testing.assert_allclose(np.mean(found == 255), share / 2, rtol=0.2)


# ------------------------------------------------------------------------------------------------ blur


def test_defocus_blur(images):
    padded = np.pad(images.astype(float), ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
    shifted = {(y, x): padded[:, 1 + y : 33 + y, 1 + x : 33 + x] for y in (-1, 0, 1) for x in (-1, 0, 1)}
    edge = math.exp(-0.5 / 0.4**2)  # severity 1: one pixel under a Gaussian of three taps
    weights = {(y, x): edge ** (abs(y) + abs(x)) / (1 + 2 * edge) ** 2 for y, x in shifted}
    for severity, kernel in (
        (1, weights),
        (4, {place: 0.2 for place in shifted if 0 in place}),  # radius 1: a cross
        (5, dict.fromkeys(shifted, 1 / 9)),  # radius 1.5: a square
    ):
        wanted = sum(weight * shifted[place] for place, weight in kernel.items())
        np.testing.assert_allclose(corrupt(images, "defocus_blur", severity=severity), wanted, atol=0.51)


def test_glass_blur_moves_pixels_to_direct_neighbours(rng):
    # With severity 1 the blur is none: every pixel must hold its own value or that of a neighbour above or left.
    pixels = rng.permutation(256).astype(np.uint8).reshape(1, 16, 16, 1)
    found, original = corrupt(pixels, "glass_blur", severity=1)[0, ..., 0], pixels[0, ..., 0]
    assert np.array_equal(found[:2], original[:2])
    assert np.array_equal(found[:, :2], original[:, :2])
    sources = np.stack([np.roll(original, move, (0, 1)) for move in ((0, 0), (1, 0), (0, 1), (1, 1))])
    hits = (sources == found)[:, 2:, 2:]
    assert np.all(hits.sum(axis=0) == 1)
    assert np.all(np.abs(hits.mean(axis=(1, 2)) - 0.25) < 0.1)  # 196 pixels: a standard error of 0.03


def reference_motion_blur(image, degrees, radius, deviation):
    """One pixel after another, straight from the definition."""
    height, width = image.shape
    weights = [math.exp(-0.5 * (i / deviation) ** 2) for i in range(2 * radius + 1)]
    found = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            for i, weight in enumerate(weights):
                down = math.ceil(i * math.sin(math.radians(degrees)) - 0.5)
                right = math.ceil(i * math.cos(math.radians(degrees)) - 0.5)
                row, column = min(max(y + down, 0), height - 1), min(max(x + right, 0), width - 1)
                found[y, x] += weight / sum(weights) * image[row, column]
    return found


def test_motion_blur(rng):
    values = rng.random((3, 9, 11, 2)).astype(np.float32)
    angles = np.array([-40.0, 10.0, -110.0])
    found = corruptions._motion_blurred(values, angles, 3, 1.5)
    for image, angle, blurred in zip(values, angles, found, strict=True):
        for channel in range(2):
            wanted = reference_motion_blur(image[..., channel], angle, 3, 1.5)
            np.testing.assert_allclose(blurred[..., channel], wanted, atol=1e-6)


def reference_zoom(image, factor):
    """Linear interpolation of the middle, the rows and then the columns."""
    for axis in (0, 1):
        side = image.shape[axis]
        kept = math.ceil(side / factor)
        first, size = (side - kept) // 2, round(kept * factor)
        trim = (size - side) // 2
        places = first + np.arange(trim, trim + side) * (kept - 1) / (size - 1)
        image = np.apply_along_axis(lambda line, p=places: np.interp(p, np.arange(len(line)), line), axis, image)
    return image


@pytest.mark.parametrize("factor", [1.0, 1.07, 1.25, 2.25])
def test_zoom(factor, rng):
    values = rng.random((2, 12, 17, 1)).astype(np.float32)
    found = corruptions._zoomed(values, factor)
    for image, zoomed in zip(values, found, strict=True):
        np.testing.assert_allclose(zoomed[..., 0], reference_zoom(image[..., 0].astype(float), factor), atol=1e-6)


@pytest.mark.parametrize(("severity", "factors"), [(1, 7), (2, 12), (3, 16), (4, 21), (5, 26)])
def test_zoom_blur(severity, factors, images):
    channel = images[0, ..., 0].astype(float)
    total = channel + sum(reference_zoom(channel, 1 + k * 0.010000000000000009) for k in range(factors))
    found = corrupt(images, "zoom_blur", severity=severity)[0, ..., 0]
    np.testing.assert_allclose(found, total / (factors + 1), atol=0.51)


# --------------------------------------------------------------------------------------------- weather


def test_snow_on_black():
    found = corrupt(np.zeros((4, 16, 16, 3), np.uint8), "snow", severity=3).astype(int)
    # Whitening alone gives 0.1 * 0.5; flakes fall twice, the second time turned by half a circle.
    assert found.min() == round(0.05 * 255)
    assert np.array_equal(found, found[:, ::-1, ::-1])
    assert found.max() > 100
    assert np.ptp(found, axis=-1).max() == 0


def test_procedural_frost():
    found = corrupt(np.zeros((200, 32, 32, 3), np.uint8), "frost (procedural)", severity=4) / 255 / 0.4
    np.testing.assert_allclose(found[..., 1].std(axis=(1, 2)), 0.09, rtol=0.03)
    level = found[..., 1].mean(axis=(1, 2))
    assert 0.44 < level.min() < 0.5 < 0.75 < level.max() < 0.81
    np.testing.assert_allclose((found[..., 2] - found[..., 0]).mean(), 0.06, atol=0.002)
    # Power falls as frequency^-0.8: four times the frequency has a third of it.
    power = np.mean(np.abs(np.fft.rfft2(found[..., 1])) ** 2, axis=0)
    np.testing.assert_allclose(power[0, 3] / power[0, 12], 4**0.8, rtol=0.35)


def test_fog_on_white_and_its_clouds(rng):
    found = corrupt(np.full((2, 16, 16, 1), 255, np.uint8), "fog", severity=4)
    # (1 + cloud) / (1 + 1), with clouds from 0 to 1
    assert found.min(axis=(1, 2)).tolist() == [[128], [128]]
    assert found.max(axis=(1, 2)).tolist() == [[255], [255]]
    # Where the noise of the last octave is next to nothing, each new point is the mean of its four neighbours.
    clouds = corruptions._plasma(rng, 2, 16, 100.0).astype(float)

    def neighbours(*moves):
        return sum(np.roll(clouds, move, (1, 2)) for move in moves) / 4

    diagonal = neighbours((1, 1), (1, -1), (-1, 1), (-1, -1))
    straight = neighbours((1, 0), (-1, 0), (0, 1), (0, -1))
    np.testing.assert_allclose(clouds[:, 1::2, 1::2], diagonal[:, 1::2, 1::2], atol=1e-5)
    np.testing.assert_allclose(clouds[:, 1::2, ::2], straight[:, 1::2, ::2], atol=1e-5)
    np.testing.assert_allclose(clouds[:, ::2, 1::2], straight[:, ::2, 1::2], atol=1e-5)
    assert np.ptp(clouds, axis=(1, 2)).tolist() == [1, 1]


def test_brightness(rng):
    pixels = rng.integers(0, 256, (1, 12, 12, 3), dtype=np.uint8)
    pixels[0, 0, 0] = 0  # black has no hue
    found = corrupt(pixels, "brightness", severity=4)
    for before, after in zip(pixels.reshape(-1, 3), found.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(before / 255))
        wanted = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1))
        np.testing.assert_allclose(after, 255 * np.array(wanted), atol=0.51)


# --------------------------------------------------------------------------------------------- digital


@pytest.mark.parametrize(("severity", "keep"), [(1, 0.75), (5, 0.15)])
def test_contrast(severity, keep, images):
    means = images.mean(axis=(1, 2), keepdims=True)
    wanted = means + keep * (images - means)
    np.testing.assert_allclose(corrupt(images, "contrast", severity=severity), wanted, atol=0.51)


def test_sampling_equals_scipy(rng):
    values = rng.random((2, 7, 5, 3)).astype(np.float32)
    rows, columns = rng.uniform(-9, 15, (2, 2, 7, 5))
    found = corruptions._sampled(values, rows, columns)
    for image, row, column, sampled in zip(values, rows, columns, found, strict=True):
        for channel in range(3):
            wanted = ndimage.map_coordinates(image[..., channel], [row, column], order=1, mode="mirror")
            np.testing.assert_allclose(sampled[..., channel], wanted, atol=1e-6)


def test_elastic_transform_of_the_first_severity_is_affine():
    # Red holds the column and green the row: the result says where each pixel came from.
    rows, columns = np.mgrid[:32, :32]
    ramp = np.stack([6 * columns, 6 * rows, 0 * rows], axis=-1).astype(np.uint8)
    found = corrupt(np.repeat(ramp[None], 5, axis=0), "elastic_transform", severity=1)[..., :2] / 6
    places = np.stack([columns, rows, np.ones((32, 32))], axis=-1)
    inner = (slice(10, 22), slice(10, 22))  # mirrored borders stay out of it
    corners = np.array([[26.0, 26.0], [26.0, 6.0], [6.0, 6.0]])
    moves = []
    for image in found:
        back, *_ = np.linalg.lstsq(places[inner].reshape(-1, 3), image[inner].reshape(-1, 2), rcond=None)
        np.testing.assert_allclose(places[inner] @ back, image[inner], atol=0.15)
        # The corners went to where the map back finds them: within 0.08 sides each way.
        moved = (corners - back[2]) @ np.linalg.inv(back[:2])
        moves.append(moved - corners)
    assert np.abs(moves).max() < 0.08 * 32 + 0.3
    assert np.abs(moves).max() > 1


def test_elastic_transform_displaces_by_little_at_the_last_severity(images):
    # 3.2 pixels times noise in [-1, 1] smoothed over 0.96 pixels, and corners moved by 0.96: no pixel goes far.
    found = corrupt(images, "elastic_transform", severity=5).astype(float)
    low = ndimage.minimum_filter(images, (1, 9, 9, 1))
    high = ndimage.maximum_filter(images, (1, 9, 9, 1))
    assert np.all((low <= found) & (found <= high))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("severity", "quality", "side"), [(1, 80, 30), (5, 40, 20)])
def test_jpeg_and_pixelate_are_pillows(severity, quality, side, channels, images):
    pixels = images[..., :channels]
    compressed = corrupt(pixels, "jpeg_compression", severity=severity)
    pixelated = corrupt(pixels, "pixelate", severity=severity)
    for before, jpeg, coarse in zip(pixels, compressed, pixelated, strict=True):
        image = Image.fromarray(before.squeeze())
        image.save(file := io.BytesIO(), "JPEG", quality=quality)
        assert np.array_equal(np.asarray(Image.open(file)), jpeg.squeeze())
        small = image.resize((side, side), Image.Resampling.BOX)
        assert np.array_equal(np.asarray(small.resize((32, 32), Image.Resampling.BOX)), coarse.squeeze())


# -------------------------------------------------------------------------------- files, error, refusals


@pytest.fixture
def published(tmp_path, rng):
    """A folder in the form of CIFAR-10-C, with 4 test images."""
    pixels = rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    labels = np.tile(np.array([3, 8, 8, 0], np.uint8), 5)
    np.save(tmp_path / "fog.npy", pixels)
    np.save(tmp_path / "labels.npy", labels)
    return tmp_path, pixels


@pytest.mark.parametrize("severity", SEVERITIES)
def test_published_files_hold_one_severity_after_another(severity, published):
    directory, pixels = published
    found = corruptions.published_corruption(directory, "fog", severity=severity)
    assert np.array_equal(found.images, pixels[4 * severity - 4 : 4 * severity])
    assert found.labels.tolist() == [3, 8, 8, 0]
    assert found.labels.dtype == np.int32


def test_unfit_published_files(published):
    directory, pixels = published
    read = corruptions.published_corruption
    with pytest.raises(ValueError, match=r"has no snow\.npy: give the unpacked folder"):
        read(directory, "snow", severity=1)
    with pytest.raises(ValueError, match="severity=0 does not exist"):
        read(directory, "fog", severity=0)
    for content in (b"", b"no array", b"PK\3\4", (directory / "fog.npy").read_bytes()[:-1]):
        (directory / "snow.npy").write_bytes(content)
        with pytest.raises(ValueError, match=r"snow\.npy: is no array of numbers, or a damaged one: fetch it again$"):
            read(directory, "snow", severity=1)
    np.save(directory / "labels.npy", np.zeros(19, int))
    with pytest.raises(ValueError, match=r"labels\.npy has shape \(19,\)"):
        read(directory, "fog", severity=1)
    for wrong in (pixels[:18], pixels.astype(float), pixels[..., 0], pixels[:0]):
        np.save(directory / "fog.npy", wrong)
        with pytest.raises(ValueError, match=r"fog\.npy has shape .* it must be uint8"):
            read(directory, "fog", severity=1)


def test_mean_corruption_error(rng):
    errors, baseline = rng.random((2, 4, 5))
    wanted = 0.0
    for ours, theirs in zip(errors, baseline, strict=True):
        wanted += math.fsum(ours) / math.fsum(theirs) / 4
    assert corruptions.mean_corruption_error(errors, baseline) == pytest.approx(wanted, rel=1e-12)
    assert corruptions.mean_corruption_error(errors) == pytest.approx(math.fsum(errors.ravel()) / 20, rel=1e-12)
    assert corruptions.mean_corruption_error(errors, errors) == pytest.approx(1)
    with pytest.raises((ValueError, TypeCheckError), match=r"errors has shape \(4, 5\)|parameter .baseline"):
        corruptions.mean_corruption_error(errors, baseline[:3])


def test_names():
    assert len(set(CORRUPTIONS)) == len(GENERATED_CORRUPTIONS) == 15
    assert set(GENERATED_CORRUPTIONS) == set(corruptions._TABLE)
    assert set(CORRUPTIONS) - set(GENERATED_CORRUPTIONS) == {"frost"}
    assert all(len(parameters) == 5 for _, parameters in corruptions._TABLE.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "frost"}, "name='frost' is not generated: choose from gaussian_noise"),
        ({"severity": 6}, "severity=6 does not exist"),
        ({"images": np.zeros((1, 8, 8, 2), np.uint8)}, r"images have shape \(1, 8, 8, 2\)"),
        ({"images": np.zeros((1, 1, 8, 1), np.uint8)}, r"images have shape \(1, 1, 8, 1\)"),
    ],
)
def test_bad_input(arguments, message):
    given = {"images": np.zeros((1, 8, 8, 1), np.uint8), "name": "fog", "severity": 1} | arguments
    with pytest.raises(ValueError, match=message):
        corrupt(given.pop("images"), given.pop("name"), **given)
