"""The operations of augmentation policies against Pillow, and whole policies against Pillow's chains."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import TypeCheckError
from PIL import Image, ImageEnhance, ImageOps

from osrjax.augment import policies
from osrjax.augment.pixels import check_images, to_float, to_levels

SIDE = (12, 15)  # height, width
NAMES = policies.OPERATIONS
ENHANCE = {
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "brightness": ImageEnhance.Brightness,
    "sharpness": ImageEnhance.Sharpness,
}


def stored(rng, count: int, channels: int = 3, *, height: int = SIDE[0], width: int = SIDE[1]) -> np.ndarray:
    """Smooth random images: warps of white noise would measure nothing but the rounding of positions."""
    coarse = rng.uniform(0, 255, (count, 4, 5, channels))
    fine = [
        [Image.fromarray(np.float32(plane)).resize((width, height)) for plane in image.T.swapaxes(1, 2)]
        for image in coarse
    ]
    images = np.stack([np.stack([np.asarray(plane) for plane in planes], -1) for planes in fine])
    return np.uint8(np.clip(images + rng.normal(0, 10, images.shape), 0, 255))


def pillow(name: str, pixels: np.ndarray, settings: dict, outside: int = 0) -> np.ndarray:
    """One operation on one uint8 image, by Pillow."""
    height, width, channels = pixels.shape
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    fill = outside if channels == 1 else (outside,) * 3
    shear, shift = settings["shear"], settings["shift"]
    matrices = {
        "shear_x": (1, shear, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, shear, 1, 0),
        "translate_x": (1, 0, int(shift * width), 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, int(shift * height)),
    }
    if name == "auto_contrast":
        image = ImageOps.autocontrast(image)
    elif name == "equalize":
        image = ImageOps.equalize(image)
    elif name == "posterize":
        image = ImageOps.posterize(image, int(settings["bits"]))
    elif name == "solarize":
        image = ImageOps.solarize(image, settings["threshold"])
    elif name == "rotate":
        image = image.rotate(settings["degrees"], resample=Image.Resampling.BILINEAR, fillcolor=fill)
    elif name in matrices:
        form = Image.Transform.AFFINE
        image = image.transform((width, height), form, matrices[name], Image.Resampling.BILINEAR, fillcolor=fill)
    elif name in ENHANCE:
        image = ENHANCE[name](image).enhance(settings["factor"])
    return np.asarray(image).reshape(pixels.shape)


def levels(images) -> np.ndarray:
    return (np.asarray(images, np.float64) + 1) * 127.5


@jax.jit
def applied(images, operations, settings):
    levels = to_levels(images)
    return policies._from_levels(policies._applied(levels, operations, settings, jnp.asarray(51.0)))


@pytest.mark.parametrize("channels", [3, 1])
def test_each_operation_equals_pillow(rng, channels):
    repeats = 12
    count = repeats * len(NAMES)
    images = stored(rng, count, channels)
    images[:3] = images[:3, :1, :1]  # constant: nothing to stretch
    images[40:60] //= 9  # dark and flat
    operations = np.arange(count) % len(NAMES)
    settings = {
        "degrees": rng.uniform(-30, 30, count),
        "shear": rng.uniform(-0.3, 0.3, count),
        "shift": rng.uniform(-0.45, 0.45, count),
        "bits": rng.integers(1, 9, count).astype(float),
        "threshold": rng.uniform(0, 256, count),
        "factor": rng.uniform(0.1, 1.9, count),
    }
    settings = {name: values.astype(np.float32) for name, values in settings.items()}
    given = policies._Settings(**{name: jnp.asarray(values) for name, values in settings.items()})
    found = levels(applied(to_float(images), jnp.asarray(operations), given))
    worst = dict.fromkeys(NAMES, 0.0)
    for i in range(count):
        name = NAMES[operations[i]]
        wanted = pillow(name, images[i], {key: float(values[i]) for key, values in settings.items()}, outside=51)
        worst[name] = max(worst[name], np.abs(found[i] - wanted).max())
    # Pillow cuts fractions of a level off its results, and for these three rounds what it blends with before
    allowed = {"color": 1.5, "contrast": 2.0, "sharpness": 1.5}
    exact = ("identity", "equalize", "posterize", "solarize")
    for name, difference in worst.items():
        assert difference < (1e-3 if name in exact else allowed.get(name, 1.001)), (name, difference)


def test_equalize_of_few_and_many_levels():
    # fewer than 255 pixels below the highest level: Pillow leaves the image; else it spreads them
    rng = np.random.default_rng(0)
    planes = [rng.integers(0, top, (20, 30)) for top in (1, 2, 3, 10, 256)]
    planes.append(np.where(rng.uniform(size=(20, 30)) < 0.3, rng.integers(0, 50, (20, 30)), 255))
    images = np.uint8(np.stack(planes))[..., None]
    found = np.asarray(jax.jit(policies._equalized)(jnp.asarray(images, jnp.float32)))
    for image, result in zip(images, found, strict=True):
        np.testing.assert_array_equal(result[..., 0], ImageOps.equalize(Image.fromarray(image[..., 0])))


def draws_of_rand_augment(key, count, batch):
    operation_key, sign_key = jax.random.split(key)
    operations = jax.random.randint(operation_key, (count, batch), 0, len(NAMES))
    return operations, jnp.where(jax.random.bernoulli(sign_key, shape=(count, batch)), 1.0, -1.0)


def in_pillow(image, names, settings, outside):
    for name, values in zip(names, settings, strict=True):
        image = pillow(name, image, values, outside)
    return image


def close_chains(found, wanted, alone):
    """Single operations within 2 levels; several in a row, where Pillow rounds in between, on the average."""
    difference = np.abs(found - wanted).mean((-3, -2, -1))
    assert np.abs(found - wanted)[alone].max() < 2.0
    assert np.median(difference[~alone]) < 1.0
    assert np.mean(difference[~alone] > 3.0) < 0.05


def placed(images: np.ndarray) -> jax.Array:
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    return jax.device_put(to_float(images), NamedSharding(mesh, PartitionSpec("data")))


def test_rand_augment_equals_pillow_under_vmap_and_sharded(rng):
    batch, members, count, outside = 64, 4, 2, 128
    images = stored(rng, batch)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None, 0))
    def augmented(key, images, magnitude):
        drawn = draws_of_rand_augment(jax.random.clone(key), count, batch)
        return policies.rand_augment(key, images, count=count, magnitude=magnitude, fill=outside / 127.5 - 1), drawn

    magnitudes = [4.0, 9.0, 18.0, 30.0]
    keys = jax.random.split(jax.random.key(5), members)
    result, (operations, signs) = augmented(keys, placed(images), jnp.asarray(magnitudes))
    assert result.dtype == jnp.float32
    assert float(jnp.abs(result).max()) <= 1.0
    found, wanted, alone = levels(result), np.zeros(result.shape), np.zeros((members, batch), bool)
    for member, i in np.ndindex(members, batch):
        strength = magnitudes[member] / 30
        names = [NAMES[o] for o in operations[member, :, i]]
        settings = []
        for sign in np.float64(signs[member, :, i]) * strength:
            settings.append(
                {
                    "degrees": 30 * sign,
                    "shear": 0.3 * sign,
                    "shift": 150 / 331 * sign,
                    "bits": 8 - round(4 * strength),
                    "threshold": 256 * (1 - strength),
                    "factor": 1 + 0.9 * sign,
                }
            )
        wanted[member, i] = in_pillow(images[i], names, settings, outside)
        alone[member, i] = "identity" in names
    close_chains(found, wanted, alone)
    assert len(np.unique(operations)) == len(NAMES)
    assert 0.4 < np.mean(np.asarray(signs) > 0) < 0.6


def test_aug_mix_equals_pillow(rng):
    batch, members, chains, depth = 32, 3, 2, 2
    images = stored(rng, batch)

    @jax.jit
    def augmented(key, images, severity):
        keys = jax.random.split(jax.random.clone(key), 6)
        weight_key, skip_key, depth_key, operation_key, level_key, sign_key = list(keys)
        draws = (depth, chains, batch)
        drawn = {
            "weights": jax.random.exponential(weight_key, (chains, batch)),
            "skip": jax.random.uniform(skip_key, (batch,)),
            "depths": jax.random.randint(depth_key, (chains, batch), 1, depth + 1),
            "operations": jax.random.randint(operation_key, draws, 1, 10),
            "levels": jax.random.uniform(level_key, draws),
            "signs": jax.random.bernoulli(sign_key, shape=draws),
        }
        return policies.aug_mix(key, images, chains=chains, depth=depth, severity=severity), drawn

    severities = [1.0, 3.0, 10.0]
    results = [augmented(jax.random.key(i), placed(images), severity) for i, severity in enumerate(severities)]
    assert augmented._cache_size() == 1
    result, drawn = jax.tree.map(lambda *members: np.stack(members).astype(np.float64), *results)
    assert np.abs(result).max() <= 1
    found, wanted, alone = levels(result), np.zeros(result.shape), np.zeros((members, batch), bool)
    for member, i in np.ndindex(members, batch):
        of = {name: values[member][..., i] for name, values in drawn.items()}
        copies = []
        for chain in range(chains):
            names, settings = [], []
            for layer in range(int(of["depths"][chain])):
                level = 0.1 + (severities[member] - 0.1) * of["levels"][layer, chain]
                sign = 2 * of["signs"][layer, chain] - 1
                names.append(NAMES[int(of["operations"][layer, chain])])
                # the integers of the authors' code: int(level * largest / 10)
                settings.append(
                    {
                        "degrees": sign * int(level * 30 / 10),
                        "shear": sign * level * 0.3 / 10,
                        "shift": sign * level / 30,
                        "bits": 4 - int(level * 4 / 10),
                        "threshold": 256 - int(level * 256 / 10),
                    }
                )
            copies.append(in_pillow(images[i], names, settings, 0))
        weights = of["weights"] / of["weights"].sum()
        mixture = np.tensordot(weights, np.float64(copies), 1)
        wanted[member, i] = (1 - of["skip"]) * images[i] + of["skip"] * mixture
        alone[member, i] = (of["depths"] == 1).all()
    close_chains(found, wanted, alone)
    assert alone.sum() > 5
    names = {NAMES[int(operation)] for operation in np.unique(drawn["operations"])}
    assert names == set(NAMES) - {"identity", *ENHANCE}
    assert names == set(policies.AUG_MIX_OPERATIONS)


def test_half_precision_and_gray():
    for policy in (policies.rand_augment, policies.aug_mix):
        shape = jax.eval_shape(policy, jax.random.key(0), jnp.zeros((2, 5, 6, 1), jnp.bfloat16))
        assert (shape.shape, shape.dtype) == ((2, 5, 6, 1), jnp.bfloat16)


COLOUR = jnp.zeros((2, 4, 4, 3))
ERRORS = [
    (lambda k: policies.rand_augment(k, COLOUR, count=0), "count=0"),
    (lambda k: policies.rand_augment(k, COLOUR, magnitude=31.0), "magnitude=31.0"),
    (lambda k: policies.rand_augment(k, COLOUR[..., :2]), "2 channels"),
    (lambda k: policies.aug_mix(k, COLOUR, chains=0), "chains=0"),
    (lambda k: policies.aug_mix(k, COLOUR, depth=0), "depth=0"),
    (lambda k: policies.aug_mix(k, COLOUR, severity=0.0), "severity=0.0"),
    (lambda k: policies.aug_mix(k, COLOUR[..., :2]), "2 channels"),
]


@pytest.mark.parametrize(("call", "words"), ERRORS, ids=[words for _, words in ERRORS])
def test_errors(call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call(jax.random.key(0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("images", [jnp.zeros((4, 4, 3)), jnp.zeros((2, 4, 4, 3), jnp.uint8)], ids=["rank", "dtype"])
def test_wrong_images(images):
    # the shape annotation speaks first where annotations are checked, as they are here
    with pytest.raises((ValueError, TypeCheckError)):
        policies.rand_augment(jax.random.key(0), images)
    with pytest.raises(ValueError, match="to_float"):
        check_images(images, channels=(1, 3))
