"""Mixing against hand numbers, float64 loops, NumPy's Fourier transform, Pillow and the laws that are drawn from."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import TypeCheckError
from PIL import Image

from osrjax import augment
from osrjax.augment import mixing

BATCH, HEIGHT, WIDTH, CHANNELS = 8, 7, 10, 3
MEMBERS = 1000
FILLS = ("noise", "noise_pixel", "paste", "mean")
TAKEN_FROM_PARTNER = ("cutmix", "saliency_mix", "fmix")
SHARE = np.linspace(0.5, 0.9, BATCH).astype(np.float32)


def key(seed: int = 3) -> jax.Array:
    return jax.random.key(seed)


def keys(count: int) -> jax.Array:
    return jax.vmap(jax.random.key)(3 + jnp.arange(count))  # the first is key()


def floats(rng, *shape: int) -> jax.Array:
    return jnp.asarray(rng.uniform(-1, 1, shape), jnp.float32)


@pytest.fixture(scope="module")
def views():
    rng = np.random.default_rng(5)
    return tuple(floats(rng, BATCH, HEIGHT, WIDTH, CHANNELS) for _ in range(2))


@pytest.fixture(scope="module")
def maps():
    return floats(np.random.default_rng(6), BATCH, HEIGHT, WIDTH)


def every_mix(key, images, others, maps, names=None):
    """Every way of mixing, or some, as one program: compiling is what these tests spend their time on."""
    keys = jax.random.split(key, 8)
    share, half = jnp.asarray(SHARE), jnp.full(BATCH, 0.5)
    found = {
        "noise": mixing.gradmix(keys[0], images, maps, share),
        "paste": mixing.gradmix(keys[1], images, maps, share, fill="paste", others=others),
        "mean": mixing.gradmix(keys[2], images, maps, share, fill="mean", weight="true"),
        "random_box": mixing.random_box(keys[3], images, half, weight="true"),
        "mixup": mixing.mixup(keys[4], images, others=others),
        "cutmix": mixing.cutmix(keys[5], images, others=others),
        "saliency_mix": mixing.saliency_mix(keys[6], images, others=others, maps=maps),
        "fmix": mixing.fmix(keys[7], images, others=others, per_image=True),
    }
    return {name: found[name] for name in names or found}


@pytest.fixture(scope="module")
def members(views, maps):
    """The mixes of many keys, one call each."""
    mix = jax.jit(every_mix)
    found = [mix(key(3 + i), *views, maps) for i in range(MEMBERS)]
    return jax.tree.map(lambda *parts: np.stack(parts), *found)


def test_sharded_images_under_vmap_give_the_same_numbers(views, maps, members):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    placed = jax.device_put((*views, maps), NamedSharding(mesh, PartitionSpec("data")))
    mix = functools.partial(every_mix, names=("paste", "fmix"))
    together = jax.jit(jax.vmap(mix, in_axes=(0, None, None, None)))(keys(2), *placed)
    for name, mixed in together.items():
        for a, b in zip(mixed, members[name], strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b[:2], atol=1e-6, err_msg=name)


def test_partners_kept_and_untouched_pixels(views, members):
    images, others = map(np.asarray, views)
    for name, (result, partners, kept) in members.items():
        assert (result.dtype, partners.dtype, kept.dtype) == (np.float32, np.int32, np.float32), name
        assert (np.sort(partners) == np.arange(BATCH)).all(), name
        assert ((kept >= 0) & (kept <= 1)).all(), name
        pasted = name in (*TAKEN_FROM_PARTNER, "paste", "mixup")
        if pasted:  # one permutation for all places, drawn anew by every key
            counts = [np.bincount(partners[:, i], minlength=BATCH) for i in range(BATCH)]
            assert scipy.stats.chisquare(np.ravel(counts)).pvalue > 1e-4, name
        else:
            assert (partners == np.arange(BATCH)).all(), name
        stays = (result == images).all(-1)
        if name in TAKEN_FROM_PARTNER:
            assert (stays | (result == others[partners]).all(-1)).all(), name
        if name not in ("noise", "paste", "mixup"):  # the first two have nominal weights
            np.testing.assert_allclose(kept, stays.mean((2, 3)), atol=1e-6, err_msg=name)


# GradMix.

# side, lambda, peak, rows of the box, columns of the box, nominal and true weight, from the authors' functions
TABLE = [
    (32, 0.65, (17, 9), (8, 26), (0, 18), 0.683594, 0.683594),
    (32, 0.5, (0, 0), (0, 11), (0, 11), 0.527344, 0.881836),
    (32, 0.9, (31, 31), (26, 32), (26, 32), 0.902344, 0.964844),
    (64, 0.7, (40, 10), (23, 57), (0, 27), 0.700928, 0.775879),
    (224, 0.8, (100, 200), (50, 150), (150, 224), 0.800702, 0.852519),
]


@pytest.mark.parametrize("side", [32, 64, 224])
def test_box_of_the_reference_table(rng, side):
    rows = [row for row in TABLE if row[0] == side]
    maps = np.zeros((len(rows), side, side), np.float32)
    for i, row in enumerate(rows):
        maps[i][row[2]] = 1.0
    images = floats(rng, len(rows), side, side, 1)
    share = jnp.asarray([row[1] for row in rows], jnp.float32)

    @jax.jit
    def both(images, maps, share):
        one, other = jax.random.split(key())
        nominal = mixing.gradmix(one, images, maps, share, fill="mean")
        return nominal, mixing.gradmix(other, images, maps, share, fill="mean", weight="true").kept

    nominal, true = both(images, jnp.asarray(maps), share)
    for i, (_, _, _, (top, bottom), (left, right), nominal_weight, true_weight) in enumerate(rows):
        expected = np.array(images[i])
        expected[top:bottom, left:right] = np.float64(images[i]).mean()
        np.testing.assert_allclose(nominal.images[i], expected, atol=1e-6)
        np.testing.assert_allclose([nominal.kept[i], true[i]], [nominal_weight, true_weight], atol=6e-7)


def gradmix_box(peak, share, height, width):
    """The slices of the box and both weights, in float64 and Python integers."""
    ends, sides = [], []
    for center, length in zip(peak, (height, width), strict=True):
        side = int(np.floor(length * np.sqrt(1 - share)))
        sides.append(side)
        ends.append(slice(max(0, center - side // 2), min(length, center + side // 2)))
    covered = (ends[0].stop - ends[0].start) * (ends[1].stop - ends[1].start)
    return tuple(ends), 1 - sides[0] * sides[1] / (height * width), 1 - covered / (height * width)


def enlarged64(image, height, width):
    """Bilinear with half-pixel centres and no smoothing, one output pixel at a time."""
    image = np.asarray(image, np.float64)
    out = np.zeros((height, width, image.shape[-1]))
    for i, j in np.ndindex(height, width):
        y = min(max((i + 0.5) * image.shape[0] / height - 0.5, 0), image.shape[0] - 1)
        x = min(max((j + 0.5) * image.shape[1] / width - 0.5, 0), image.shape[1] - 1)
        for row, column in itertools.product((int(y), int(y) + 1), (int(x), int(x) + 1)):
            weight = max(0, 1 - abs(y - row)) * max(0, 1 - abs(x - column))
            if weight > 0:
                out[i, j] += weight * image[row, column]
    return out


def test_gradmix_fills(views, maps, members):
    images, others = map(np.asarray, views)
    fields = []
    for fill, i in itertools.product(("noise", "paste", "mean"), range(BATCH)):
        result, partners, kept = (part[:50, i] for part in members[fill])
        peak = np.unravel_index(np.argmax(maps[i]), (HEIGHT, WIDTH))
        box, nominal, true = gradmix_box(peak, float(SHARE[i]), HEIGHT, WIDTH)
        np.testing.assert_allclose(kept, true if fill == "mean" else nominal, rtol=1e-6)
        outside = np.ones((HEIGHT, WIDTH), bool)
        outside[box] = False
        assert (result[:, outside] == images[i][outside]).all()
        content = result[:, *box]
        if fill == "mean":
            wanted = np.broadcast_to(images[i].mean((0, 1), dtype=np.float64), content.shape)
            np.testing.assert_allclose(content, wanted, atol=1e-6)
        elif fill == "paste":
            whole = [enlarged64(other, *content.shape[1:3]) for other in others]
            np.testing.assert_allclose(content, np.stack(whole)[partners], atol=2e-6)
        else:
            assert (content == content[..., :1]).all()
            fields.append(content[..., 0].ravel())
    pixels = np.concatenate(fields)
    assert pixels.min() >= 0
    assert pixels.max() < 1
    assert len(np.unique(pixels)) > 0.99 * pixels.size  # own numbers for every image, pixel and key
    assert scipy.stats.kstest(pixels, "uniform").pvalue > 1e-3


def test_random_boxes_are_centred_anywhere(views, members):
    boxes = (members["random_box"].images != np.asarray(views[0])).all(-1).reshape(-1, HEIGHT, WIDTH)
    counts = []
    for center in np.ndindex(HEIGHT, WIDTH):
        wanted = np.zeros((HEIGHT, WIDTH), bool)
        wanted[gradmix_box(center, 0.5, HEIGHT, WIDTH)[0]] = True  # sides 4 and 7: every centre has another box
        counts.append((boxes == wanted).all((1, 2)).sum())
    assert sum(counts) == BATCH * MEMBERS
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_no_gradient_reaches_the_maps_and_none_is_lost(views, maps):
    def total(images, others, maps):
        mixed = mixing.gradmix(key(), images, maps, jnp.asarray(SHARE), fill="paste", others=others)
        return jnp.sum(mixed.images)

    to_images, to_others, to_maps = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(*views, maps)
    assert not np.asarray(to_maps).any()
    assert set(np.unique(to_images)) == {0.0, 1.0}
    # each pixel of a box is a convex combination of the partner's
    np.testing.assert_allclose(to_others.sum(), (np.asarray(to_images) == 0).sum(), rtol=1e-5)


def test_laws_of_lambda_with_traced_parameters():
    @jax.jit
    @jax.vmap
    def draw(key, alpha, beta, smallest):
        return mixing.gradmix_share(key, 2, smallest=smallest, alpha=alpha, beta=beta, per_image=True)

    for alpha, beta, smallest in ((10.0, 0.3, 0.5), (0.2, 0.2, 0.2), (1.0, 5.0, 0.0)):
        shares = np.asarray(draw(keys(1000), *(jnp.full(1000, value) for value in (alpha, beta, smallest))), np.float64)
        unit = (shares - smallest) / (0.9 - smallest)
        assert scipy.stats.kstest(unit.ravel(), scipy.stats.beta(alpha, beta).cdf).pvalue > 1e-3
        assert abs(np.corrcoef(unit.T)[0, 1]) < 0.13
    assert draw._cache_size() == 1


@pytest.mark.parametrize("mix", [mixing.mixup, mixing.cutmix, mixing.saliency_mix, mixing.fmix])
def test_alpha_reaches_the_law_of_lambda(mix, views, monkeypatch):
    asked = []
    law = mixing._beta
    monkeypatch.setattr(mixing, "_beta", lambda *given: asked.append(given[1:]) or law(*given))
    jax.eval_shape(lambda k, x: mix(k, x, alpha=0.3), key(), views[0])
    jax.eval_shape(lambda k, x: mix(k, x, per_image=True), key(), views[0])
    assert asked == [(BATCH, 0.3, 0.3, False), (BATCH, 1.0, 1.0, True)]


def test_the_defaults_of_gradmix_share():
    share = np.asarray(jax.jit(lambda k: mixing.gradmix_share(k, 20_000, per_image=True))(key()), np.float64)
    assert share.min() >= 0.5
    assert share.max() <= 0.9 + 1e-7
    assert scipy.stats.kstest((share - 0.5) / 0.4, "uniform").pvalue > 1e-3
    for side, mean in ((32, 0.716), (64, 0.708)):  # of the nominal weight, from the authors' functions
        np.testing.assert_allclose(np.mean(1 - np.floor(side * np.sqrt(1 - share)) ** 2 / side**2), mean, atol=2e-3)
    common = mixing.gradmix_share(key(), 5)
    assert (common == common[0]).all()


# The other ways of mixing.


def test_mixup_is_the_blend_of_the_views(views, members):
    images, others = (np.float64(view) for view in views)
    result, partners, kept = members["mixup"]
    share = np.float64(kept)[..., None, None, None]
    np.testing.assert_allclose(result, share * images + (1 - share) * others[partners], atol=1e-6)
    assert (kept == kept[:, :1]).all()
    assert scipy.stats.kstest(kept[:, 0], "uniform").pvalue > 1e-3


def test_variants(views):
    @jax.jit
    def variants(key, one, other):
        keys = list(jax.random.split(key, 4))
        return {
            "first": mixing.mixup(keys[0], one, others=other, per_image=True),
            "second": mixing.mixup(jax.random.clone(keys[0]), other, others=one, per_image=True),
            "fmix": mixing.fmix(keys[1], one, others=other),
            "cutmix": mixing.cutmix(keys[2], one, others=other, per_image=True),
            "noise_pixel": mixing.random_box(keys[3], one, jnp.asarray(SHARE), fill="noise_pixel"),
        }

    images, others = map(np.asarray, views)
    found = variants(key(), *views)
    first, second = found["first"], found["second"]
    np.testing.assert_array_equal(first.partners, second.partners)  # the same numbers for both views
    np.testing.assert_array_equal(first.kept, second.kept)
    for mixed, own, other in ((first, images, others), (second, others, images)):
        share = np.float64(mixed.kept)[:, None, None, None]
        assert len(set(mixed.kept.tolist())) == BATCH
        np.testing.assert_allclose(mixed.images, share * own + (1 - share) * other[mixed.partners], atol=1e-6)
    masks = (np.asarray(found["fmix"].images) != images).all(-1)
    assert (masks == masks[:1]).all()  # one for the batch
    assert len(set(found["fmix"].kept.tolist())) == 1
    boxes = (np.asarray(found["cutmix"].images) != images).all(-1)
    areas = [np.prod(rectangle(box)) / box.size for box in boxes]
    np.testing.assert_allclose(1 - found["cutmix"].kept, areas, atol=1e-6)
    assert len(set(areas)) > 3
    changed = np.asarray(found["noise_pixel"].images)[(np.asarray(found["noise_pixel"].images) != images).all(-1)]
    assert (changed >= 0).all()
    assert (changed < 1).all()
    assert (changed[:, 0] != changed[:, 1]).all()
    sides = [np.floor(length * np.sqrt(1 - SHARE.astype(np.float64))) for length in (HEIGHT, WIDTH)]
    np.testing.assert_allclose(found["noise_pixel"].kept, 1 - sides[0] * sides[1] / (HEIGHT * WIDTH), rtol=1e-6)


def test_without_others_partners_are_of_the_batch(views):
    mixed = jax.jit(mixing.mixup)(key(), views[0])
    images, share = np.float64(views[0]), np.float64(mixed.kept)[:, None, None, None]
    np.testing.assert_allclose(mixed.images, share * images + (1 - share) * images[mixed.partners], atol=1e-6)


def test_saliency_is_that_of_the_images_boxes_come_from(views, maps, monkeypatch):
    asked = []
    monkeypatch.setattr(mixing, "spectral_residual_saliency", lambda images: asked.append(images) or maps)
    jax.eval_shape(lambda k: mixing.saliency_mix(k, views[0]), key())
    jax.eval_shape(lambda k: mixing.saliency_mix(k, views[0], others=views[1]), key())
    assert [asked[0] is views[0], asked[1] is views[1]] == [True, True]


def test_half_precision(views):
    images = views[0].astype(jnp.bfloat16)
    for mix in (mixing.mixup, mixing.cutmix, mixing.fmix, mixing.saliency_mix):
        shapes = jax.eval_shape(lambda k, x, other, m=mix: m(k, x, others=other), key(), images, views[1])
        assert (shapes.images.dtype, shapes.kept.dtype) == (jnp.bfloat16, jnp.float32)
    for fill in FILLS:
        box = functools.partial(mixing.random_box, fill=fill)
        shapes = jax.eval_shape(box, key(), images, jnp.asarray(SHARE))
        assert (shapes.images.shape, shapes.images.dtype) == (images.shape, jnp.bfloat16)


def rectangle(covered):
    rows, columns = covered.any(1), covered.any(0)
    assert (covered == rows[:, None] & columns[None, :]).all()
    for side in (rows, columns):
        assert (np.diff(np.flatnonzero(side)) == 1).all()
    return rows.sum(), columns.sum()


def test_cutmix_boxes_follow_the_published_law(views, members):
    covered = (members["cutmix"].images != np.asarray(views[0])).all(-1)
    assert (covered == covered[:, :1]).all()  # one box for the batch
    ours = np.array([rectangle(one) for one in covered[:, 0]])
    rng = np.random.default_rng(0)
    theirs = []
    for _ in range(10 * MEMBERS):
        cut_ratio = np.sqrt(1 - rng.beta(1, 1))
        sides = []
        for length in (HEIGHT, WIDTH):
            half, center = int(length * cut_ratio) // 2, rng.integers(length)
            sides.append(np.clip(center + half, 0, length) - np.clip(center - half, 0, length))
        theirs.append(sides if min(sides) > 0 else (0, 0))
    for one, other in zip(ours.T, np.array(theirs).T, strict=True):
        values = sorted(set(one) | set(other))
        table = [[np.sum(side == value) for value in values] for side in (one, other)]
        assert scipy.stats.chi2_contingency(table).pvalue > 1e-3


def test_cutout_of_two_views_says_how_much_stayed(views):
    mixed = augment.VIEW_MIXINGS["cutout"](key(), views, None, {})
    stayed = []
    for own_key, own, masked in zip(jax.random.split(key()), views, mixed.views, strict=True):
        np.testing.assert_array_equal(masked, augment.cutout(own_key, own, size=HEIGHT // 2))
        stayed.append(1 - (np.asarray(masked) == 0).all(-1).mean((1, 2)))
    np.testing.assert_allclose(mixed.kept, np.mean(stayed, axis=0), atol=1e-6)
    assert (mixed.kept < 1).all()
    assert mixed.metrics == {}
    assert not np.array_equal(stayed[0], stayed[1])  # each view has a draw of its own


def test_saliency_mix_takes_the_box_around_the_partners_peak(views, maps, members):
    peaks = [np.unravel_index(np.argmax(one), (HEIGHT, WIDTH)) for one in maps]
    halves = [
        (int(HEIGHT * ratio) // 2, int(WIDTH * ratio) // 2)
        for ratio in np.linspace(0.0, 1.0, 2001)  # of side to length: all pairs of half sides that a lambda can give
    ]
    result, partners, _ = members["saliency_mix"]
    covered = (result != np.asarray(views[0])).all(-1)
    for boxes, own in zip(covered[:100], partners[:100], strict=True):
        fitting = [
            pair
            for pair in sorted(set(halves))
            if all(
                np.array_equal(
                    box,
                    np.outer(
                        *(abs(np.arange(n) + 0.5 - c) < h for n, c, h in zip(box.shape, peaks[i], pair, strict=True))
                    ),
                )
                for box, i in zip(boxes, own, strict=True)
            )
        ]
        assert fitting  # one lambda for the batch, a place for each image


def test_fmix_keeps_lambda_rounded_to_whole_pixels(members):
    pixels = HEIGHT * WIDTH
    stays = np.float64(members["fmix"].kept) * pixels
    np.testing.assert_allclose(stays, np.round(stays), atol=1e-4)
    counts = np.bincount(np.round(stays).astype(int).ravel(), minlength=pixels + 1)
    expected = np.full(pixels + 1, BATCH * MEMBERS / pixels)
    expected[[0, -1]] /= 2  # rounding reaches the ends from one side only
    assert scipy.stats.chisquare(counts, expected).pvalue > 1e-3


@pytest.mark.parametrize(("height", "width"), [(32, 32), (17, 24)])
def test_the_field_of_fmix_has_the_decaying_spectrum(height, width):
    decay = jnp.asarray([3.0, 1.0])
    draw = jax.jit(jax.vmap(lambda k, d: mixing._low_frequency_field(k, 300, height, width, d)))
    fields = np.asarray(draw(keys(2), decay), np.float64)
    assert fields.shape == (2, 300, height, width)
    power = np.mean(np.abs(np.fft.fft2(fields)) ** 2, axis=1)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    for one, exponent in zip(power, (3.0, 1.0), strict=True):
        level = one[frequency > 0] * frequency[frequency > 0] ** (2 * exponent)
        fit = scipy.stats.linregress(np.log(frequency[frequency > 0]), np.log(level))
        assert abs(fit.slope) < 0.05
        # a mean over 300 fields has a relative deviation of at most sqrt(2 / 300)
        assert abs(np.log(level / np.median(level))).max() < 6 * np.sqrt(2 / 300)


# Saliency without a model.


def saliency64(image, sigma):
    """Hou and Zhang's formulas in float64, for an image up to 64 pixels a side."""
    height, width, channels = image.shape
    unit = (np.float64(image) + 1) / 2
    gray = unit @ np.array([0.299, 0.587, 0.114]) if channels == 3 else unit.mean(-1)
    spectrum = np.fft.fft2(gray)
    log_amplitude = np.log(np.maximum(np.abs(spectrum), 1e-4 * np.sqrt(height * width)))
    mean = np.zeros_like(log_amplitude)
    for i, j in np.ndindex(height, width):
        around = [log_amplitude[(i + a) % height, (j + b) % width] for a in (-1, 0, 1) for b in (-1, 0, 1)]
        mean[i, j] = np.mean(around)
    residual = np.abs(np.fft.ifft2(np.exp(log_amplitude - mean + 1j * np.angle(spectrum)))) ** 2
    out = np.zeros_like(residual)
    for i, j in np.ndindex(height, width):
        square = (np.arange(height)[:, None] - i) ** 2 + (np.arange(width)[None] - j) ** 2
        out[i, j] = np.sum(np.exp(-square / (2 * sigma**2)) * residual)
    return out


@pytest.mark.parametrize(("shape", "sigma"), [((9, 12, 3), 1.5), ((8, 8, 1), 2.5)])
def test_spectral_residual_equals_float64(rng, shape, sigma):
    images = floats(rng, 2, *shape)
    maps = jax.jit(lambda x: augment.spectral_residual_saliency(x, sigma=sigma))(images)
    assert (maps.shape, maps.dtype) == (images.shape[:3], jnp.float32)
    for image, found in zip(images, np.asarray(maps), strict=True):
        wanted = saliency64(np.asarray(image), sigma)
        np.testing.assert_allclose(found / found.max(), wanted / wanted.max(), atol=1e-4)


def test_spectral_residual_of_large_images_finds_the_odd_one():
    # stripes with one disturbed patch, larger than the transform
    height, width = 96, 128
    y, x = np.mgrid[:height, :width]
    plane = 0.5 * np.sin(2 * np.pi * x / 8)
    plane[60:72, 30:42] = 0.5 * np.sin(2 * np.pi * y / 8)[60:72, 30:42]
    plane += np.random.default_rng(0).normal(0, 0.02, plane.shape)
    image = jnp.asarray(plane[None, ..., None], jnp.float32)
    found = np.asarray(jax.jit(augment.spectral_residual_saliency)(image))[0]
    row, column = np.unravel_index(np.argmax(found), found.shape)
    assert 56 <= row < 76
    assert 26 <= column < 46
    shrunk = np.asarray(Image.fromarray(np.float32(plane)).resize((64, 48), Image.Resampling.BILINEAR))
    small = saliency64(shrunk[..., None], 2.5)
    again = np.asarray(Image.fromarray(np.float32(small)).resize((width, height), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(found / found.max(), again / again.max(), atol=5e-3)


def test_spectral_residual_of_constant_images_is_finite():
    images = jnp.stack([jnp.full((16, 16, 1), value) for value in (-1.0, 0.0, 1.0)])
    assert np.isfinite(jax.jit(augment.spectral_residual_saliency)(images)).all()


# Wrong input.


GRAY = jnp.zeros((2, 4, 4, 1))
HALVES = jnp.full(2, 0.5)
ERRORS = [
    (lambda k: mixing.gradmix_share(k, 0), "batch=0"),
    (lambda k: mixing.gradmix_share(k, 2, smallest=0.0), "smallest=0.0"),
    (lambda k: mixing.gradmix_share(k, 2, largest=1.1), "largest=1.1"),
    (lambda k: mixing.gradmix_share(k, 2, smallest=0.8, largest=0.7), "smallest=0.8"),
    (lambda k: mixing.gradmix_share(k, 2, alpha=0.0), "alpha=0.0"),
    (lambda k: mixing.gradmix_share(k, 2, beta=-1.0), "beta=-1.0"),
    (lambda k: mixing.gradmix(k, GRAY, GRAY[:, :2, :2, 0], HALVES), "maps.shape"),
    (lambda k: mixing.gradmix(k, GRAY, GRAY[..., 0], HALVES[:1]), "share.shape"),
    (lambda k: mixing.gradmix(k, GRAY, GRAY[..., 0], HALVES, fill="zeros"), "fill='zeros'"),
    (lambda k: mixing.random_box(k, GRAY, HALVES, weight="area"), "weight='area'"),
    (lambda k: mixing.random_box(k, GRAY, HALVES, fill="paste", others=GRAY[:1]), "others of shape"),
    (lambda k: mixing.mixup(k, GRAY, alpha=0.0), "alpha=0.0"),
    (lambda k: mixing.cutmix(k, GRAY, others=GRAY[:, :2]), "others of shape"),
    (lambda k: mixing.saliency_mix(k, GRAY, maps=GRAY[:1, ..., 0]), "maps.shape"),
    (lambda k: mixing.fmix(k, GRAY, decay=-1.0), "decay=-1.0"),
    (lambda k: augment.spectral_residual_saliency(GRAY, size=0), "size=0"),
    (lambda k: augment.spectral_residual_saliency(GRAY, sigma=0.0), "sigma=0.0"),
    (lambda k: mixing.mixup(k, GRAY.astype(jnp.uint8)), "to_float"),
]


@pytest.mark.parametrize(("call", "words"), ERRORS, ids=[words for _, words in ERRORS])
def test_errors(call, words):
    # where a shape or a literal is wrong, the annotation may speak first, as annotations are checked here
    with pytest.raises((ValueError, TypeCheckError)) as caught:
        call(key())
    if isinstance(caught.value, ValueError):
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_share_outside_its_range_spoils_the_weight():
    kept = mixing.random_box(jax.random.key(0), jnp.zeros((4, 8, 8, 1)), jnp.array([1.2, -0.5, jnp.nan, 1.0])).kept
    np.testing.assert_array_equal(np.isnan(kept), [True, True, True, False])
