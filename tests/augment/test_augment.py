"""Augmentation against NumPy, colorsys, Pillow and brute force in float64; sharding, jit and vmap."""

import colorsys

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from conftest import plain_module
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image

from osrjax import augment
from osrjax.augment import augment as augment_module, pixels


def key() -> jax.Array:
    return jax.random.key(7)


def images_of(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, shape), jnp.float32)


RANDOM = {
    "random_crop": lambda key, x: augment.random_crop(key, x, padding=2),
    "random_crop_and_flip": lambda key, x: augment.random_crop_and_flip(key, x, padding=2),
    "random_flip": augment.random_flip,
    "random_quarter_turns": augment.random_quarter_turns,
    "cutout": lambda key, x: augment.cutout(key, x, size=3),
    "random_resized_crop": augment.random_resized_crop,
    "color_jitter": augment.color_jitter,
    "random_grayscale": augment.random_grayscale,
}


@pytest.mark.parametrize("name", RANDOM)
def test_same_numbers_sharded_and_under_vmap(name):
    images = images_of(8, 6, 6, 3)
    function = RANDOM[name]
    jitted = jax.jit(function)
    expected = jitted(key(), images)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jitted(key(), jax.device_put(images, NamedSharding(mesh, PartitionSpec("data"))))
    keys = jax.vmap(jax.random.key)(jnp.array([7, 8]))  # the first is key()
    members = jax.jit(jax.vmap(function, in_axes=(0, None)))(keys, images)
    for one, other in ((expected, sharded), (expected, jax.tree.map(lambda a: a[0], members))):
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, atol=1e-6)
    image_members = jax.tree.leaves(members)[0]
    assert image_members.shape == (2, 8, 6, 6, 3)
    assert bool(jnp.any(image_members[0] != image_members[1]))


@pytest.mark.parametrize("name", RANDOM)
def test_keeps_bfloat16(name):
    images = images_of(4, 6, 6, 3).astype(jnp.bfloat16)
    result = jax.eval_shape(RANDOM[name], key(), images)
    leaf = jax.tree.leaves(result)[0]
    assert (leaf.shape, leaf.dtype) == (images.shape, jnp.bfloat16)


def test_every_pixel_is_the_same_float_on_host_and_device():
    """Bit for bit: what is trained, probed and scored, and where norms are taken, are the same inputs."""
    stored = np.arange(256, dtype=np.uint8)
    host = augment.to_float_host(stored)
    assert stored.tolist() == list(range(256))
    assert (host.dtype, type(host)) == (np.float32, np.ndarray)
    np.testing.assert_allclose(host, np.arange(256) * 2 / 255 - 1, atol=1e-7)
    assert (float(host[0]), float(host[255])) == (-1.0, 1.0)
    fused = jax.jit(lambda values: (augment.to_float(values), jnp.sum(3.0 * augment.to_float(values) + 1.0)))
    devices = (augment.to_float(stored), augment.to_float(jnp.asarray(stored)), fused(jnp.asarray(stored))[0])
    for device in (*devices, pixels.from_levels(jnp.arange(256.0))):
        assert device.dtype == jnp.float32
        np.testing.assert_array_equal(device, host)


def test_random_crop_equals_one_slice_of_the_padded_image():
    batch, padding = 600, 1
    images = images_of(batch, 4, 5, 2)
    crops = np.asarray(jax.jit(lambda k, x: augment.random_crop(k, x, padding=padding))(key(), images))
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-1.0)
    counts = np.zeros((3, 3), int)
    for i in range(batch):
        matches = [
            (r, c) for r in range(3) for c in range(3) if np.array_equal(crops[i], padded[i, r : r + 4, c : c + 5])
        ]
        assert len(matches) == 1
        counts[matches[0]] += 1
    # nine equally likely shifts: 66.7 expected of each, deviation 7.7
    assert counts.min() > 66.7 - 4 * 7.7
    assert counts.max() < 66.7 + 4 * 7.7


def test_random_crop_fill_and_no_padding():
    images = images_of(64, 3, 3, 1)
    np.testing.assert_array_equal(augment.random_crop(key(), images, padding=0), images)
    crops = augment.random_crop(jax.random.key(1), images, padding=3, fill=0.25)
    inside = np.isin(np.asarray(crops), np.asarray(images))
    assert 0 < inside.mean() < 1
    assert set(np.asarray(crops)[~inside].tolist()) == {0.25}


@pytest.mark.parametrize("padding", [0, 2])
def test_random_crop_and_flip_equals_one_after_the_other(padding):
    images = jnp.arange(40 * 5 * 4 * 2, dtype=jnp.float32).reshape(40, 5, 4, 2) / 1600
    crop_key, flip_key = jax.random.split(key())
    cropped = augment.random_crop(crop_key, images, padding=padding, fill=-0.5)
    wanted = augment.random_flip(flip_key, cropped)
    assert 0 < np.sum(np.any(np.asarray(wanted) != np.asarray(cropped), axis=(1, 2, 3))) < 40
    found = jax.jit(lambda k, x: augment.random_crop_and_flip(k, x, padding=padding, fill=-0.5))(key(), images)
    np.testing.assert_array_equal(found, wanted)


def test_random_flip():
    images = images_of(400, 3, 4, 2)
    flipped = np.asarray(augment.random_flip(key(), images))
    mirror = np.asarray(images)[:, :, ::-1]
    is_mirror = (flipped == mirror).all((1, 2, 3))
    assert np.array_equal(flipped[~is_mirror], np.asarray(images)[~is_mirror])
    assert abs(is_mirror.mean() - 0.5) < 4 * 0.025


def test_quarter_turns_equal_rot90():
    images = images_of(9, 5, 5, 2)
    turns = jnp.arange(-4, 5)
    turned = jax.jit(augment.quarter_turns)(images, turns)
    for image, turn, result in zip(images, turns.tolist(), turned, strict=True):
        np.testing.assert_array_equal(result, np.rot90(image, turn))


def test_turns_that_are_not_a_whole_number_an_image_are_refused():
    plain = plain_module(augment_module)
    for turns, words in ((jnp.array([0.5, 1.0]), "turns has dtype float32"), (jnp.array([[1], [2]]), "turns.shape=")):
        with pytest.raises(ValueError, match=words):
            plain.quarter_turns(jnp.zeros((2, 2, 2, 1)), turns)


def test_random_quarter_turns_gives_its_labels():
    images = images_of(400, 3, 3, 1)
    turned, turns = jax.jit(augment.random_quarter_turns)(key(), images)
    for image, turn, result in zip(np.asarray(images), turns.tolist(), turned, strict=True):
        np.testing.assert_array_equal(result, np.rot90(image, turn))
    assert np.bincount(turns, minlength=4).min() > 100 - 4 * 8.7


@pytest.mark.parametrize("size", [0, 1, 3, 4, 20])
def test_cutout_covers_one_square_that_may_stick_out(size):
    batch, height, width = 300, 5, 6
    images = images_of(batch, height, width, 2)
    result = np.asarray(jax.jit(lambda k, x: augment.cutout(k, x, size=size, fill=0.5))(key(), images))
    seen = set()
    for before, after in zip(np.asarray(images), result, strict=True):
        matches = []
        for row in range(height):
            for column in range(width):
                expected = before.copy()
                top, left = row - size // 2, column - size // 2
                expected[max(0, top) : max(0, top + size), max(0, left) : max(0, left + size)] = 0.5
                if np.array_equal(expected, after):
                    matches.append((row, column))
        assert matches
        seen.update(matches)
    assert len(seen) == height * width


def test_cutout_with_a_traced_side():
    images = images_of(8, 7, 10, 3)
    traced = jax.jit(lambda size: augment.cutout(key(), images, size=size, fill=0.5))
    np.testing.assert_array_equal(traced(5), augment.cutout(key(), images, size=5, fill=0.5))
    np.testing.assert_array_equal(traced(0), images)
    assert ((traced(30) == 0.5).all(-1).mean((1, 2)) > 0.5).all()
    assert traced._cache_size() == 1


# Random resized crop.


def bilinear64(image, top, left, box_height, box_width):
    """The box cut out first, then stretched: every output pixel from its four neighbours, in float64."""
    box = np.asarray(image, np.float64)[top : top + box_height, left : left + box_width]
    height, width, channels = image.shape
    out = np.zeros((height, width, channels))
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * box_height / height - 0.5, 0), box_height - 1)
            x = min(max((j + 0.5) * box_width / width - 0.5, 0), box_width - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, box_height - 1), min(x0 + 1, box_width - 1)
            upper = (1 - (x - x0)) * box[y0, x0] + (x - x0) * box[y0, x1]
            lower = (1 - (x - x0)) * box[y1, x0] + (x - x0) * box[y1, x1]
            out[i, j] = (1 - (y - y0)) * upper + (y - y0) * lower
    return out


@jax.jit
def resampled(images, tops, lefts, heights, widths):
    rows = pixels.box_grid(tops, heights, images.shape[1])
    columns = pixels.box_grid(lefts, widths, images.shape[2])
    return pixels.resample(images, rows, columns)


def test_resampling_equals_bilinear_interpolation():
    boxes = [(0, 0, 7, 9), (2, 3, 4, 5), (6, 8, 1, 1), (0, 4, 7, 2), (3, 0, 1, 9)]
    images = images_of(len(boxes), 7, 9, 2)
    result = resampled(images, *(jnp.asarray(side, jnp.float32) for side in zip(*boxes, strict=True)))
    for image, box, actual in zip(images, boxes, result, strict=True):
        np.testing.assert_allclose(actual, bilinear64(image, *box), atol=2e-6)
    np.testing.assert_allclose(result[0], images[0], atol=1e-6)  # the whole image stays as it is


def test_resampling_equals_pillow():
    image = images_of(1, 12, 10, 1, seed=3)
    box = (2, 3, 7, 5)  # top, left, height, width
    plane = Image.fromarray(np.asarray(image)[0, :, :, 0])
    cut = plane.crop((box[1], box[0], box[1] + box[3], box[0] + box[2]))
    expected = np.asarray(cut.resize((10, 12), Image.Resampling.BILINEAR))
    actual = resampled(image, *(jnp.full((1,), float(side)) for side in box))[0, :, :, 0]
    np.testing.assert_allclose(actual, expected, atol=2e-6)


def boxes_of(images_height, images_width, batch, **options):
    """Sides and corners of the boxes, read off the crops of two ramps (rows and columns)."""
    rows, columns = np.mgrid[0:images_height, 0:images_width].astype(np.float32)
    ramps = np.broadcast_to(np.stack([rows, columns], -1), (batch, images_height, images_width, 2))
    crop = jax.jit(lambda k, x: augment.random_resized_crop(k, x, **options))
    result = np.asarray(crop(key(), jnp.asarray(ramps)))
    # edge samples are clamped to the first and the last row (column) of the box
    top, left = result[:, 0, 0, 0], result[:, 0, 0, 1]
    bottom, right = result[:, -1, -1, 0], result[:, -1, -1, 1]
    edges = np.stack([top, left, bottom - top + 1, right - left + 1])
    return edges


def test_random_resized_crop_draws_the_right_boxes():
    top, left, height, width = boxes_of(64, 64, 3000)
    for values in (top, left, height, width):
        np.testing.assert_allclose(values, np.round(values), atol=1e-3)
    assert top.min() >= 0
    assert left.min() >= 0
    assert (top + height).max() <= 64.001
    assert (left + width).max() <= 64.001
    share, ratio = height * width / 64**2, width / height
    assert 0.18 < share.min() < 0.25  # rounding of the sides moves the ends a little
    assert 0.95 < share.max() <= 1.0
    assert abs(np.mean(np.log(ratio))) < 0.02
    assert 0.7 < ratio.min() < 0.78
    assert 1.28 < ratio.max() < 1.42
    # torchvision's way of drawing, in NumPy
    rng = np.random.default_rng(0)
    reference = []
    for _ in range(3000):
        for _ in range(10):
            area = 64 * 64 * rng.uniform(0.2, 1.0)
            aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
            w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            if 0 < w <= 64 and 0 < h <= 64:
                reference.append((rng.integers(0, 64 - h + 1), rng.integers(0, 64 - w + 1), h, w))
                break
    for ours, theirs in zip((top, left, height, width), np.array(reference).T, strict=True):
        deviation = np.sqrt(np.var(ours) / len(ours) + np.var(theirs) / len(theirs))
        assert abs(ours.mean() - theirs.mean()) < 4 * deviation
        assert abs(ours.std() / theirs.std() - 1) < 0.08


def test_random_resized_crop_of_the_whole_image_changes_nothing():
    images = images_of(3, 6, 6, 1)
    result = augment.random_resized_crop(key(), images, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    np.testing.assert_allclose(result, images, atol=1e-6)


def test_random_resized_crop_falls_back_to_a_centred_box():
    # no box of ratio 4 and the whole area fits into a square: the centred 8 x 2 box remains
    top, left, height, width = boxes_of(8, 8, 5, scale=(1.0, 1.0), ratio=(4.0, 4.0))
    np.testing.assert_allclose([top[0], left[0], height[0], width[0]], [3, 0, 2, 8], atol=1e-4)
    top, left, height, width = boxes_of(8, 8, 5, scale=(1.0, 1.0), ratio=(0.25, 0.25))
    np.testing.assert_allclose([top[0], left[0], height[0], width[0]], [0, 3, 8, 2], atol=1e-4)


# Colours.


def unit(images):
    """Pixels in [0, 1], float64."""
    return (np.asarray(images, np.float64) + 1) / 2


def luma64(x):
    return x @ np.array([0.299, 0.587, 0.114])


def jitter(images, **strengths):
    options = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "probability": 1.0}
    changed = jax.jit(lambda k, x: augment.color_jitter(k, x, **{**options, **strengths}))(key(), images)
    return unit(changed)


def test_jitter_of_strength_zero_changes_nothing():
    images = images_of(4, 3, 3, 3)
    np.testing.assert_allclose(jitter(images), unit(images), atol=1e-6)


def blended_factors(before, other, after):
    """The factor f of ``f x + (1 - f) other`` per image by least squares, away from the clipped pixels."""
    factors = []
    for x, o, y in zip(before, np.broadcast_to(other, before.shape), after, strict=True):
        free = (y > 1e-3) & (y < 1 - 1e-3)
        direction = (x - o)[free]
        factor = np.sum(direction * (y - o)[free]) / np.sum(direction**2)
        np.testing.assert_allclose(np.clip(o + factor * (x - o), 0, 1), y, atol=2e-6)
        factors.append(factor)
    return np.array(factors)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_blends_of_colour_jitter(name):
    images = images_of(300, 4, 4, 3, seed=2)
    before = unit(images)
    gray = luma64(before)[..., None]
    other = {"brightness": 0 * gray, "contrast": gray.mean((1, 2), keepdims=True), "saturation": gray}
    for strength, lowest, highest in ((0.4, 0.6, 1.4), (1.5, 0.0, 2.5)):
        factors = blended_factors(before, other[name], jitter(images, **{name: strength}))
        assert lowest - 1e-5 <= factors.min() < lowest + 0.05 * strength
        assert highest - 0.05 * strength < factors.max() <= highest + 1e-5
        deviation = (highest - lowest) / np.sqrt(12 * 300)
        assert abs(factors.mean() - (lowest + highest) / 2) < 4 * deviation


def test_hue_equals_colorsys():
    x = np.random.default_rng(1).uniform(0, 1, (5, 3, 3, 3))
    x[0, 0] = 0.4  # gray
    x[0, 1] = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    x[0, 2] = [[0, 0, 0], [1, 1, 1], [1, 1, 0]]
    turns = np.array([0.5, -0.5, 0.1, 0.0, -0.03])
    shift = jax.jit(augment_module._hue_shifted)
    result = shift(jnp.asarray(x, jnp.float32), jnp.asarray(turns, jnp.float32)[:, None, None])
    for image, turn, actual in zip(x, turns, np.asarray(result), strict=True):
        for pixel, new in zip(image.reshape(-1, 3), actual.reshape(-1, 3), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
            expected = colorsys.hsv_to_rgb((hue + turn) % 1.0, saturation, value)
            np.testing.assert_allclose(new, expected, atol=2e-6)


def test_hue_jitter_stays_in_its_range():
    images = jnp.broadcast_to(jnp.array([1.0, -1.0, -1.0]), (400, 2, 2, 3))  # red: hue 0
    after = jitter(images, hue=0.1)[:, 0, 0]
    hues = np.array([colorsys.rgb_to_hsv(*pixel)[0] for pixel in after])
    hues = (hues + 0.5) % 1 - 0.5
    assert -0.1001 < hues.min() < -0.095
    assert 0.095 < hues.max() < 0.1001


def test_jitter_order_is_brightness_contrast_saturation_hue():
    images = images_of(2, 3, 3, 3, seed=4)
    _, *keys = jax.random.split(key(), 5)
    draws = [jax.random.uniform(k, (2,), minval=0.6, maxval=1.4) for k in keys[:3]]
    f, g, s = (np.asarray(d, np.float64)[:, None, None, None] for d in draws)
    turns = np.asarray(jax.random.uniform(keys[3], (2,), minval=-0.1, maxval=0.1), np.float64)
    x = np.clip(f * unit(images), 0, 1)
    x = np.clip(g * x + (1 - g) * luma64(x).mean((1, 2))[:, None, None, None], 0, 1)
    x = np.clip(s * x + (1 - s) * luma64(x)[..., None], 0, 1)
    for image, turn in zip(x, turns, strict=True):
        for pixel in image.reshape(-1, 3):
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
            pixel[:] = colorsys.hsv_to_rgb((hue + turn) % 1.0, saturation, value)
    result = jax.jit(lambda k, x: augment.color_jitter(k, x, probability=1.0))(key(), images)
    np.testing.assert_allclose(unit(result), x, atol=5e-6)


def test_jitter_changes_the_given_share_and_stays_in_range():
    images = images_of(500, 2, 2, 3)
    result = np.asarray(jax.jit(augment.color_jitter)(key(), images))
    assert result.min() >= -1
    assert result.max() <= 1
    changed = (result != np.asarray(images)).any((1, 2, 3))
    assert abs(changed.mean() - 0.8) < 4 * 0.018
    gray = images_of(3, 2, 2, 1)
    one = augment.color_jitter(key(), gray, contrast=0.0, probability=1.0)
    factors = unit(one) / unit(gray)
    assert one.shape == gray.shape
    clipped = unit(one) > 1 - 1e-6
    assert all(np.ptp(f[~c]) < 1e-4 for f, c in zip(factors, clipped, strict=True))


def test_random_grayscale():
    images = images_of(500, 2, 2, 3)
    result = np.asarray(augment.random_grayscale(key(), images))
    changed = (result != np.asarray(images)).any((1, 2, 3))
    assert abs(changed.mean() - 0.2) < 4 * 0.018
    expected = luma64(np.asarray(images, np.float64))[..., None] * np.ones(3)
    np.testing.assert_allclose(result[changed], expected[changed], atol=1e-6)
    gray = images_of(4, 2, 2, 1)
    always = augment.random_grayscale(jax.random.key(1), gray, probability=1.0)
    np.testing.assert_array_equal(always, gray)


WRONG_IMAGES = [jnp.zeros((4, 4, 3)), jnp.zeros((2, 4, 4, 3), jnp.uint8)]


@pytest.mark.parametrize("images", WRONG_IMAGES, ids=["rank", "dtype"])
@pytest.mark.parametrize("name", RANDOM)
def test_wrong_images(name, images):
    # the shape annotation speaks first where annotations are checked, as they are here
    with pytest.raises((ValueError, jaxtyping.TypeCheckError)):
        RANDOM[name](key(), images)


@pytest.mark.parametrize("images", WRONG_IMAGES, ids=["rank", "dtype"])
def test_wrong_images_where_annotations_are_not_checked(images):
    with pytest.raises(ValueError, match="to_float"):
        pixels.check_images(images)


COLOUR = jnp.zeros((2, 4, 4, 3))
ERRORS = [
    (lambda k: augment.random_crop(k, COLOUR, padding=-1), "padding=-1"),
    (lambda k: augment.random_crop_and_flip(k, COLOUR, padding=-1), "padding=-1"),
    (lambda k: augment.cutout(k, COLOUR, size=-2), "size=-2"),
    (lambda k: augment.random_quarter_turns(k, COLOUR[:, :3]), "not square"),
    (lambda k: augment.random_resized_crop(k, COLOUR, scale=(0.0, 1.0)), "scale="),
    (lambda k: augment.random_resized_crop(k, COLOUR, scale=(0.5, 1.5)), "scale="),
    (lambda k: augment.random_resized_crop(k, COLOUR, ratio=(2.0, 1.0)), "ratio="),
    (lambda k: augment.color_jitter(k, COLOUR, brightness=-0.1), "brightness=-0.1"),
    (lambda k: augment.color_jitter(k, COLOUR, contrast=-0.1), "contrast=-0.1"),
    (lambda k: augment.color_jitter(k, COLOUR, saturation=-0.1), "saturation=-0.1"),
    (lambda k: augment.color_jitter(k, COLOUR, hue=0.6), "hue=0.6"),
    (lambda k: augment.color_jitter(k, COLOUR, probability=1.1), "probability=1.1"),
    (lambda k: augment.color_jitter(k, COLOUR[..., :2]), "2 channels"),
    (lambda k: augment.random_grayscale(k, COLOUR, probability=-1.0), "probability=-1.0"),
    (lambda k: augment.random_grayscale(k, COLOUR[..., :2]), "2 channels"),
]


@pytest.mark.parametrize(("call", "words"), ERRORS)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call(jax.random.key(0))


def test_to_float_refuses_floats():
    for function, floats in ((augment.to_float, jnp.zeros((2, 2))), (augment.to_float_host, np.zeros((2, 2)))):
        with pytest.raises((ValueError, jaxtyping.TypeCheckError)):
            function(floats)
