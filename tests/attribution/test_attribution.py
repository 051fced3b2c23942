"""Attribution maps and boxes against loops in float64, and finite differences with respect to feature maps."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import plain_module
from jaxtyping import TypeCheckError

from osrjax import attribution
from osrjax.attribution import maps as map_module
from osrjax.losses import contrastive
from osrjax.models import backbones
from osrjax.models.backbones import SmallCNN
from osrjax.models.networks import ContrastiveNetwork, unit_vectors, zero_taps

# These programs run once or twice on a few pixels: most of their time is compilation.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def layer_cam64(activations, gradients, sign=1.0):
    """Element by element."""
    found = np.zeros(activations.shape[:-1])
    for place in np.ndindex(*activations.shape):
        found[place[:-1]] += activations[place] * max(0.0, sign * gradients[place])
    return found


def grad_cam64(activations, gradients, sign=1.0):
    found = np.zeros(activations.shape[:-1])
    for image, (activation, gradient) in enumerate(zip(activations, gradients, strict=True)):
        for c in range(activation.shape[-1]):
            found[image] += sign * gradient[..., c].mean() * activation[..., c]
    return np.maximum(found, 0.0)


def upsample64(image, height, width):
    """Bilinear with half-pixel centres, one output pixel at a time; the border pixel goes on for ever."""
    found = np.zeros((height, width))
    rows, columns = image.shape
    for i, j in np.ndindex(height, width):
        y = min(max((i + 0.5) * rows / height - 0.5, 0.0), rows - 1.0)
        x = min(max((j + 0.5) * columns / width - 0.5, 0.0), columns - 1.0)
        top, left = math.floor(y), math.floor(x)
        bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
        v, u = y - top, x - left
        found[i, j] = (1 - v) * ((1 - u) * image[top, left] + u * image[top, right])
        found[i, j] += v * ((1 - u) * image[bottom, left] + u * image[bottom, right])
    return found


def aggregate64(maps, height, width, how):
    total = 0.0
    for stage in maps:
        if how == "batch_minmax_sum":
            stage = (stage - stage.min()) / (stage.max() - stage.min())
        elif how == "sample_max_sum":
            stage = np.stack([image / (image.max() or 1.0) for image in stage])
        total = total + np.stack([upsample64(image, height, width) for image in stage])
    return total


def test_input_gradient_map(rng):
    gradients = rng.normal(size=(2, 3, 4, 5))
    wanted = [[[max(abs(v) for v in pixel) for pixel in row] for row in image] for image in gradients]
    found = attribution.input_gradient_map(jnp.asarray(gradients, jnp.float32))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_maps_of_one_stage_equal_loops(sign, rng, x64):
    activations, gradients = rng.uniform(0, 2, (3, 4, 5, 6)), rng.normal(size=(3, 4, 5, 6))
    pooled = gradients[:, :1, :1]  # constant over the map: one row and one column stand for all
    a, g, p = (jnp.asarray(x) for x in (activations, gradients, pooled))
    for method, reference in ((attribution.layer_cam, layer_cam64), (attribution.grad_cam, grad_cam64)):
        found = method(a, g, sign=sign)
        np.testing.assert_allclose(found, reference(activations, gradients, sign), rtol=1e-12, atol=1e-14)
        found = method(a, p, sign=sign)
        wanted = reference(activations, np.broadcast_to(pooled, gradients.shape), sign)
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("size", "new"), [((3, 4), (7, 9)), ((2, 2), (8, 8)), ((1, 1), (4, 3)), ((5, 4), (5, 4)), ((4, 4), (28, 28))]
)
def test_upsampling_equals_loops(size, new, rng, x64):
    maps = rng.normal(size=(2, *size))
    found = attribution.upsample_map(jnp.asarray(maps), height=new[0], width=new[1])
    np.testing.assert_allclose(found, [upsample64(image, *new) for image in maps], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("how", ["batch_minmax_sum", "raw_sum", "sample_max_sum"])
def test_aggregation_equals_loops(how, rng, x64):
    maps = [rng.uniform(0, scale, (3, *size)) for scale, size in ((1.0, (4, 6)), (1e-3, (2, 3)), (50.0, (1, 1)))]
    maps[0][1] = 0.0  # an image without any attribution at this stage
    found = jit(lambda maps: attribution.aggregate_maps(maps, height=8, width=12, how=how))(
        [jnp.asarray(stage) for stage in maps]
    )
    np.testing.assert_allclose(found, aggregate64(maps, 8, 12, how), rtol=1e-10, atol=1e-12)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("scale", [1e20, 1.0, 1e-6, 1e-10, 1e-30])
def test_maps_are_normalised_at_every_scale(scale):
    """A trained classifier has small gradients; a constant in the divisor would let strong stages dominate."""
    stage = scale * jnp.array([[[3.0, 1.0]]])
    for how, wanted in (("sample_max_sum", [1, 1 / 3]), ("batch_minmax_sum", [1, 0])):
        found = attribution.aggregate_maps([stage], height=1, width=2, how=how)
        np.testing.assert_allclose(found[0, 0], wanted, rtol=1e-6)
    weak = 1e-3 * scale * jnp.array([[[0.0, 3.0]]])
    both = attribution.aggregate_maps([stage * jnp.array([[[1.0, 0.0]]]), weak], height=1, width=2, how=how)
    np.testing.assert_allclose(both[0, 0], [1, 1], rtol=1e-6)  # equal rights


def test_bounds_of_one_byte_in_an_image_of_300_pixels():
    mask = attribution.box_mask(jnp.array([0, 1, 10, 44], jnp.uint8), height=1, width=300)
    np.testing.assert_array_equal(np.flatnonzero(mask[0]), np.arange(10, 44))


def test_gradients_of_other_maps_are_refused():
    plain = plain_module(map_module)
    for cam in (plain.layer_cam, plain.grad_cam):
        for shape in ((1, 2, 2, 3), (4, 2, 2, 1)):
            with pytest.raises(ValueError, match=r"gradients\.shape="):
                cam(jnp.ones((4, 2, 2, 3)), jnp.ones(shape))


def test_stages_without_attribution_give_finite_maps():
    zeros = [jnp.zeros((2, 2, 2))]
    for how in ("batch_minmax_sum", "raw_sum", "sample_max_sum"):
        maps = attribution.aggregate_maps(zeros, height=4, width=4, how=how)
        np.testing.assert_array_equal(maps, np.zeros((2, 4, 4)))
    np.testing.assert_array_equal(attribution.map_peaks(maps), np.zeros((2, 2)))


def test_peaks_and_ties(rng):
    maps = rng.integers(0, 4, (50, 5, 7))  # four values on 35 places: every map has ties
    wanted = []
    for image in maps:
        best = (0, 0)
        for place in np.ndindex(5, 7):  # reading order
            if image[place] > image[best]:
                best = place
        wanted.append(best)
    found = attribution.map_peaks(jnp.asarray(maps, jnp.float32))
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, wanted)


# side, lambda, peak, k, box, nominal share, true share: numbers of the authors' code
BOXES = [
    (32, 0.65, (17, 9), 18, (8, 26, 0, 18), 0.683594, 0.683594),
    (32, 0.5, (0, 0), 22, (0, 11, 0, 11), 0.527344, 0.881836),
    (32, 0.9, (31, 31), 10, (26, 32, 26, 32), 0.902344, 0.964844),
    (64, 0.7, (40, 10), 35, (23, 57, 0, 27), 0.700928, 0.775879),
    (224, 0.8, (100, 200), 100, (50, 150, 150, 224), 0.800702, 0.852519),
]


@pytest.mark.parametrize(("side", "kept", "peak", "k", "bounds", "nominal", "true"), BOXES)
def test_boxes_of_the_authors_code(side, kept, peak, k, bounds, nominal, true):
    share = jnp.float32(kept)
    found_side = attribution.box_side(share, length=side)
    assert found_side.dtype == jnp.int32
    assert int(found_side) == k
    assert round(1 - int(found_side) ** 2 / side**2, 6) == nominal
    found = attribution.box_bounds(jnp.array(peak), share, height=side, width=side)
    assert tuple(found.tolist()) == bounds
    mask = np.asarray(attribution.box_mask(found, height=side, width=side))
    assert round(1 - mask.mean(), 6) == true
    assert mask[bounds[0] : bounds[1], bounds[2] : bounds[3]].all()
    assert mask.sum() == (bounds[1] - bounds[0]) * (bounds[3] - bounds[2])


def test_any_box_equals_loops(rng):
    """Boxes are cut at the border, not shifted; sides differ where height and width do; an odd side loses a pixel."""
    height, width = 9, 14
    peaks = np.stack([rng.integers(0, height, 40), rng.integers(0, width, 40)], 1)
    kept = rng.uniform(0.01, 1.0, 40).astype(np.float32)
    kept[:2] = 1.0, 1e-9  # nothing, everything that fits around the peak
    wanted = np.zeros((40, height, width), bool)
    for image, ((r, c), share) in enumerate(zip(peaks, kept, strict=True)):
        halves = [math.floor(math.floor(n * math.sqrt(1 - share)) / 2) for n in (height, width)]
        for y, x in np.ndindex(height, width):
            wanted[image, y, x] = -halves[0] <= y - r < halves[0] and -halves[1] <= x - c < halves[1]

    def masks(peaks, kept):
        bounds = attribution.box_bounds(peaks, kept, height=height, width=width)
        return attribution.box_mask(bounds, height=height, width=width)

    given = jnp.asarray(peaks, jnp.int32), jnp.asarray(kept)
    found = jit(masks)(*given)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, wanted)
    assert not wanted[0].any()
    assert wanted[1].any()
    np.testing.assert_array_equal(jit(jax.vmap(masks))(*given), wanted)


def test_whole_chain_under_jit_and_vmap(rng):
    shapes = ((2, 4, 4, 4, 3), (2, 4, 2, 2, 5))
    stages = [(rng.uniform(size=s).astype(np.float32), rng.normal(size=s).astype(np.float32)) for s in shapes]
    kept = jnp.full((2, 4), 0.7)

    def boxes(stages, kept, sign):
        maps = [attribution.layer_cam(a, g, sign=sign) + attribution.grad_cam(a, g, sign=sign) for a, g in stages]
        total = attribution.aggregate_maps(maps, height=8, width=8)
        bounds = attribution.box_bounds(attribution.map_peaks(total), kept, height=8, width=8)
        return total, attribution.box_mask(bounds, height=8, width=8)

    found, masks = jit(jax.vmap(boxes))(jax.tree.map(jnp.asarray, stages), kept, jnp.array([1.0, -1.0]))
    for i, sign in enumerate((1.0, -1.0)):
        maps = [layer_cam64(a[i], g[i], sign) + grad_cam64(a[i], g[i], sign) for a, g in stages]
        wanted = aggregate64(maps, 8, 8, "batch_minmax_sum")
        np.testing.assert_allclose(found[i], wanted, atol=1e-5)
        for image, mask in zip(wanted, masks[i], strict=True):
            r, c = np.unravel_index(np.argmax(image), (8, 8))
            inside = np.zeros((8, 8), bool)
            inside[max(r - 2, 0) : r + 2, max(c - 2, 0) : c + 2] = True  # k = floor(8 sqrt(0.3)) = 4
            np.testing.assert_array_equal(mask, inside)


@pytest.fixture
def coupled(rng, x64, monkeypatch):
    """NT-Xent of two views of three images through a network in train mode: batch norm and loss couple them all."""
    monkeypatch.setattr(backbones, "_average", lambda x: jnp.mean(x, axis=(1, 2)))  # float32 there as a rule
    backbone = SmallCNN(width=2, features=4, dtype=jnp.float64)
    images = jnp.asarray(rng.uniform(-1, 1, (6, 8, 8, 1)))
    shapes = jax.eval_shape(lambda: backbone.init(jax.random.key(0), images, train=False))
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.5 + 0.2), shapes)

    def loss(taps):
        (maps, raw), _ = backbone.apply(variables, images, train=True, taps=taps, mutable="batch_stats")
        z = unit_vectors(raw).reshape(2, 3, -1)
        return contrastive.nt_xent_loss(z, temperature=0.1).mean(), maps

    shapes = jax.eval_shape(lambda: backbone.apply(variables, images, train=True, mutable="batch_stats")[0][0])
    return loss, tuple(jnp.zeros(stage.shape) for stage in shapes)


def test_maps_of_a_network_equal_finite_differences(coupled):
    loss, taps = coupled
    sizes = [math.prod(tap.shape) for tap in taps]
    ends = np.cumsum(sizes)

    def moved(place, step):
        flat = jnp.zeros(ends[-1]).at[place].add(step)
        parts = jnp.split(flat, ends[:-1])
        return loss(tuple(part.reshape(tap.shape) for part, tap in zip(parts, taps, strict=True)))

    step = 1e-6
    places = jnp.tile(jnp.arange(ends[-1]), 2)
    steps = jnp.repeat(jnp.array([step, -step]), ends[-1])
    values = np.asarray(jit(jax.vmap(lambda place, step: moved(place, step)[0]))(places, steps)).reshape(2, -1)
    slopes = np.split((values[0] - values[1]) / (2 * step), ends[:-1])
    gradients = [slope.reshape(tap.shape) for slope, tap in zip(slopes, taps, strict=True)]
    activations = [np.asarray(stage) for stage in jit(loss)(taps)[1]]
    assert all(np.abs(gradient).max() > 1e-3 for gradient in gradients)

    cases = [
        ((1, 2, 3), "layer_cam", 1.0, "batch_minmax_sum", layer_cam64),
        ((2, 1), "layer_cam", -1.0, "raw_sum", layer_cam64),
        ((1,), "grad_cam", 1.0, "sample_max_sum", grad_cam64),
    ]
    found = jit(
        lambda taps: [
            attribution.attribution_maps(
                *attribution.stage_gradients(loss, taps, layers=layers),
                height=8,
                width=8,
                method=method,
                sign=sign,
                aggregation=how,
            )
            for layers, method, sign, how, _ in cases
        ]
    )(taps)
    for maps, (layers, _, sign, how, formula) in zip(found, cases, strict=True):
        stages = [formula(activations[layer - 1], gradients[layer - 1], sign) for layer in layers]
        wanted = aggregate64(stages, 8, 8, how)
        np.testing.assert_allclose(maps, wanted, rtol=1e-5, atol=1e-7 * wanted.max())
        assert wanted.max() > 1e-3


class Pooled(nn.Module):
    """One convolution behind which only the average over pixels is read."""

    @nn.compact
    def __call__(self, images, *, train, taps=None):
        stage = nn.relu(nn.Conv(4, (3, 3))(images))
        stage = stage if taps is None else stage + taps[0]
        return (stage,), stage.mean((1, 2))


def test_last_stage_of_a_pooling_network_in_closed_form(rng):
    network = ContrastiveNetwork(Pooled(), hidden=6, features=3)
    images = jnp.asarray(rng.uniform(-1, 1, (4, 5, 3, 1)), jnp.float32)
    variables = jax.jit(lambda: network.init(jax.random.key(1), images, train=True))()
    dense = variables["params"]

    def through_taps(taps):
        outputs = network.apply(variables, images, train=True, taps=taps)
        return contrastive.nt_xent_loss(outputs.projection.reshape(2, 2, 3)).mean(), outputs

    def from_embedding(h):
        hidden = nn.relu(h @ dense["hidden"]["kernel"] + dense["hidden"]["bias"][None])
        z = hidden @ dense["projection"]["kernel"] + dense["projection"]["bias"][None]
        z = z / jnp.linalg.norm(z, axis=1, keepdims=True)
        return contrastive.nt_xent_loss(z.reshape(2, 2, 3)).mean()

    @jit
    def both(taps):
        gradients, outputs = jax.grad(through_taps, has_aux=True)(taps)
        closed = attribution.pooled_gradients(jax.grad(from_embedding)(outputs.embedding), height=5, width=3)
        maps = outputs.maps[0]
        cams = [attribution.layer_cam(maps, g) for g in (gradients[0], closed)]
        return gradients[0], closed, cams

    gradient, closed, (cam, closed_cam) = both(zero_taps(network, (5, 3, 1), 4))
    assert closed.shape == (4, 1, 1, 4)
    assert float(jnp.abs(closed).max()) > 1e-4
    np.testing.assert_allclose(gradient, np.broadcast_to(closed, gradient.shape), rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(closed_cam, cam, rtol=1e-3, atol=1e-7)


MAP = jnp.zeros((1, 2, 2))
TAPS = (jnp.zeros((1, 2, 2, 1)), jnp.zeros((1, 1, 1, 1)))


def stages_of(layers):
    return attribution.stage_gradients(lambda taps: (jnp.sum(taps[0]), taps), TAPS, layers=layers)


def maps_of(**options):
    return attribution.attribution_maps(*stages_of((1,)), height=2, width=2, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: attribution.check_layers((), 3), "layers=()"),
        (lambda: attribution.check_layers((0, 1), 3), "layers=(0, 1)"),
        (lambda: attribution.check_layers((2, 4), 3), "stages 1 to 3"),
        (lambda: attribution.check_layers((2, 2), 3), "layers=(2, 2)"),
        (lambda: stages_of((3,)), "layers=(3,)"),
        (lambda: stages_of(()), "layers=()"),
        (lambda: maps_of(method="cam"), "method='cam'"),
        (lambda: maps_of(aggregation="max"), "aggregation='max'"),
        (lambda: attribution.aggregate_maps([MAP], height=2, width=2, how="max"), "how='max'"),
        (lambda: attribution.aggregate_maps([], height=2, width=2), "maps is empty"),
        (lambda: attribution.aggregate_maps([MAP], height=1, width=2), "height=1"),
        (lambda: attribution.upsample_map(MAP, height=2, width=1), "width=1"),
        (lambda: attribution.pooled_gradients(jnp.zeros(3), height=0, width=2), "height=0"),
        (lambda: attribution.box_side(jnp.array(0.5), length=0), "length=0"),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises((ValueError, TypeCheckError)) as caught:
        call()
    assert isinstance(caught.value, TypeCheckError) or message in str(caught.value)
    assert isinstance(caught.value, TypeCheckError) or "\n" not in str(caught.value)
