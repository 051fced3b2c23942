"""GradMix in one step against its plain form: another forward pass, automatic gradients, boxes by loops."""

import functools
import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from osrjax import attribution, models, train
from osrjax.attribution.maps import last_layers
from osrjax.augment import mixing
from osrjax.augment.views import VIEW_MIXINGS
from osrjax.devices import sharding
from osrjax.losses import contrastive
from osrjax.methods.class_losses import CLASS_LOSSES
from osrjax.methods.gradmix import make_contrastive_objective
from osrjax.methods.masked import make_masked_classify_objective
from osrjax.methods.masks import Attribution, Box, GradMix, RandomBox, _mass_in_box
from osrjax.models import backbones, networks
from osrjax.models.backbones import ResNet, SmallCNN
from osrjax.models.networks import ContrastiveNetwork, OpenSetNetwork
from osrjax.train.objective import Batch
from osrjax.train.parallel import data_parallel

HYPER = {
    "supcon_weight": 0.8,
    "ssl_weight": 1.2,
    "temperature": 0.3,
    "attribution_temperature": 0.2,
    "smallest_kept": 0.5,
    "largest_kept": 0.9,
    "learning_rate": 1e-2,
    "final_learning_rate": 5e-3,
    "schedule_steps": 10.0,
    "mixed_weight": 0.7,
    "margin": 0.3,
    "scale": 4.0,
    "intra_weight": 0.9,
    "inter_weight": 1.1,
}
LABELS = np.array([0, 1, 0, 0], np.int32)  # the only image of class 1 still has its other view

# These programs run once or twice on a few pixels: most of their time is compilation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def traced(dtype=jnp.float32, **changed):
    return {name: jnp.asarray(value, dtype) for name, value in (HYPER | changed).items()}


def waved(key, images):
    """Two keys give two views, without random draws, whose compilation takes a second; in the network's precision."""
    phase = jax.random.key_data(key)[0] / 2.0**32
    return jnp.cos(images / 20.0 + 6.0 * phase)


def drawn(network, image_shape, dtype=np.float32, seed=3):
    """Random variables, statistics that are not the initial ones included."""
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, *image_shape), dtype), train=False))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key in ("var", "scale"):
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), dtype)
        fan_in = math.prod(leaf.shape[:-1]) if path[-1].key == "kernel" else 4
        return jnp.asarray(rng.standard_normal(leaf.shape) * math.sqrt(2 / fan_in), dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def stored(*image_shape, seed=11):
    images = np.random.default_rng(seed).integers(0, 256, (len(LABELS), *image_shape))
    return Batch(jnp.asarray(images, jnp.uint8), jnp.asarray(LABELS))


@pytest.fixture
def double(x64, monkeypatch):
    """Networks in double precision all the way; as a rule their embeddings are float32."""
    monkeypatch.setattr(backbones, "_average", lambda x: jnp.mean(x, axis=(1, 2)))
    monkeypatch.setattr(
        networks, "_backbone_outputs", lambda backbone, x, train, taps: backbone(x, train=train, taps=taps)
    )


@pytest.fixture
def shallow(monkeypatch):
    """A ResNet of one block a stage instead of two, which takes half as long to trace and to compile."""
    monkeypatch.setattr(backbones, "_RESNET_BLOCKS", {18: (1, 1, 1, 1)})


@pytest.fixture
def seen(monkeypatch):
    """What an objective hands to its network and to the mixing functions, in the order of the calls."""
    calls = {"images": [], "share": [], "others": []}
    apply, share = nn.Module.apply, mixing.gradmix_share

    def spied_apply(self, variables, images, **options):
        calls["images"].append(images)
        return apply(self, variables, images, **options)

    def spied_share(*args, **options):
        calls["share"].append(share(*args, **options))
        return calls["share"][-1]

    def spied(function):
        def mix(*args, others=None, **options):
            calls["others"].append(others)
            return function(*args, others=others, **options)

        return mix

    for network in (ContrastiveNetwork, OpenSetNetwork):
        monkeypatch.setattr(network, "apply", spied_apply)
    monkeypatch.setattr(mixing, "gradmix_share", spied_share)
    for name in ("gradmix", "random_box"):
        monkeypatch.setattr(mixing, name, spied(getattr(mixing, name)))
    return calls


def run(objective, variables, batch, hyper, seen, differentiate=True):
    """Loss, statistics, metrics, gradients or None, and what was seen on the way, in one compiled call."""

    def spied(params, stats, batch, key, hyper):
        for calls in seen.values():
            calls.clear()
        loss, aux = objective(params, stats, batch, key, hyper)
        return loss, (aux, {name: list(calls) for name, calls in seen.items()})

    program = jit(jax.value_and_grad(spied, has_aux=True) if differentiate else lambda *given: (spied(*given), None))
    arguments = variables["params"], variables["batch_stats"], batch, jax.random.key(5), hyper
    (loss, (aux, calls)), gradients = program(*arguments)
    calls = jax.tree.map(np.asarray, calls)
    return program, (
        float(loss),
        aux.stats,
        aux.metrics,
        gradients,
        calls | {"images": list(map(behind, calls["images"]))},
    )


def behind(images):
    """What a network saw, one view behind the other as in the plain form: it saw the views of an image together."""
    return np.concatenate([images[::2], images[1::2]]) if len(images) > len(LABELS) else images


# The plain form.


def plain_terms(z, p, labels, temperature, own=0.0):
    """Mean SupCon, mean NT-Xent and the mixed term of every anchor, from the formulas."""
    rows = z.shape[0] * z.shape[1]
    z, p = z.reshape(rows, -1), p.reshape(rows, -1)
    itself = jnp.eye(rows)
    image, label = jnp.tile(jnp.arange(rows // 2), 2), jnp.tile(labels, 2)
    log_sum = jnp.log(jnp.sum((1 - itself) * jnp.exp(z @ z.T / temperature), axis=1))

    def term(candidates, mask):
        pull = jnp.sum(mask * (z @ candidates.T), axis=1) / temperature / jnp.sum(mask, axis=1)
        return temperature / 0.07 * (log_sum - pull)

    pair = (image[:, None] == image[None, :]) * (1 - itself)
    alike = (label[:, None] == label[None, :]) * (1 - itself)
    return (
        term(z, alike).mean(),
        term(z, pair).mean(),
        term(p, pair + jnp.reshape(own, (-1, 1)) * itself).reshape(2, -1),
    )


def train_forward(network, params, stats, images, taps=None):
    variables = {"params": params, "batch_stats": stats}
    outputs, updated = network.apply(variables, images, train=True, mutable="batch_stats", taps=taps)
    return outputs, updated["batch_stats"]


def zeros_of(network, image_shape, batch):
    taps = jax.eval_shape(lambda: models.zero_taps(network, image_shape, batch))
    return tuple(np.zeros(tap.shape, tap.dtype) for tap in taps)


@functools.cache
def plain_gradients(network, statistics):
    """A forward pass of its own, and the gradients of NT-Xent with respect to all stage maps."""

    def loss(taps, params, stats, both, labels, temperature):
        if statistics == "train":
            outputs, _ = train_forward(network, params, stats, both, taps)
        else:
            outputs = network.apply({"params": params, "batch_stats": stats}, both, train=False, taps=taps)
        z = outputs.projection.reshape(2, len(both) // 2, -1)
        return plain_terms(z, z, labels, temperature)[1], (outputs.maps, outputs.embedding)

    return jit(jax.grad(loss, has_aux=True))


@functools.cache
def plain_loss(network, masked_views, differentiate=True):
    """Value and, if wanted, gradients of the total loss for given masked images: two forward passes, no attribution."""

    def loss(params, stats, both, masked, kept, labels, hyper, clean, own):
        outputs, clean_stats = train_forward(network, params, stats, both)
        z = outputs.projection.reshape(2, len(labels), -1)
        outputs, mixed_stats = train_forward(network, params, clean_stats, masked)
        p = outputs.projection.reshape(masked_views, len(labels), -1)
        p = p if masked_views == 2 else jnp.stack([p[0], z[1]])
        supcon, ssl, terms = plain_terms(z, p, labels, hyper["temperature"], own)
        bracket = clean * ssl + jnp.mean(kept[None] * terms)
        parts = {"supcon_loss": supcon, "nt_xent_loss": ssl, "mixed_loss": jnp.mean(terms)}
        return hyper["supcon_weight"] * supcon + hyper["ssl_weight"] * bracket, (clean_stats, mixed_stats, parts)

    return jit(jax.value_and_grad(loss, has_aux=True) if differentiate else lambda *given: (loss(*given), None))


def bilinear(length, new):
    """Weights [new, length] with half-pixel centres; the border pixel goes on for ever."""
    weights = np.zeros((new, length))
    for i in range(new):
        position = min(max((i + 0.5) * length / new - 0.5, 0.0), length - 1.0)
        first = math.floor(position)
        weights[i, first] += 1 - (position - first)
        weights[i, min(first + 1, length - 1)] += position - first
    return weights


def plain_maps(look, maps, gradients, height, width):
    total = 0.0
    for layer in look.layers:
        a, g = np.float64(maps[layer - 1]), np.float64(gradients[layer - 1])
        if look.method == "layer_cam":
            stage = np.sum(a * np.maximum(look.sign * g, 0), axis=-1)
        else:
            stage = np.maximum(look.sign * np.sum(a * g.mean((1, 2), keepdims=True), axis=-1), 0)
        if look.aggregation == "batch_minmax_sum":
            stage = (stage - stage.min()) / (stage.max() - stage.min())
        elif look.aggregation == "sample_max_sum":
            stage = stage / np.maximum(stage.max((1, 2), keepdims=True), 1e-30)
        total = total + bilinear(stage.shape[1], height) @ stage @ bilinear(stage.shape[2], width).T
    return total


def plain_boxes(maps, shares):
    """A box around the first largest entry of each map, and its nominal and true kept share."""
    count, height, width = maps.shape
    inside, nominal = np.zeros(maps.shape, bool), np.zeros(count)
    for i, (image, share) in enumerate(zip(maps, shares, strict=True)):
        row, column = divmod(int(np.argmax(image)), width)
        tall, wide = (math.floor(length * math.sqrt(1 - share)) for length in (height, width))
        y, x = (max(center - side // 2, 0) for center, side in ((row, tall), (column, wide)))
        inside[i, y : row + tall // 2, x : column + wide // 2] = True
        nominal[i] = 1 - tall * wide / (height * width)
    return inside, nominal, 1 - inside.mean((1, 2))


def check_content(fill, clean, masked, inside):
    """Outside the boxes bit for bit the clean images; inside what the fill says."""
    assert inside.any((1, 2)).all()
    np.testing.assert_array_equal(masked[~inside], clean[~inside])
    content = masked[inside]
    assert (content != clean[inside]).mean() > 0.9
    if fill == "noise":
        assert (content == content[:, :1]).all()  # one number for all channels
    if fill in ("noise", "noise_pixel"):
        assert content.min() >= 0
        assert content.max() < 1
        assert np.unique(content[:, 0]).size == len(content)
    if fill == "noise_pixel":
        assert (content[:, 0] != content[:, 1]).all()


class Tiny(nn.Module):
    """Stages of one convolution each."""

    stages: int = 2

    @nn.compact
    def __call__(self, images, *, train, taps=None):
        x, maps = images, ()
        for stage in range(self.stages):
            x = nn.Conv(3, (3, 3), strides=2, use_bias=False)(x)
            x = nn.relu(backbones._norm(train, None)(x))
            x = backbones._tapped(x, taps, stage)
            maps += (x,)
        return maps, x.mean((1, 2))


class Colours(nn.Module):
    """No more than the mean colour of an image, and no stage to attribute to."""

    @nn.compact
    def __call__(self, images, *, train, taps=None):
        return (images,), nn.BatchNorm(use_running_average=not train, momentum=0.9)(images.mean((1, 2)))


SMALL = ContrastiveNetwork(SmallCNN(width=2, features=8, dtype=jnp.float64), hidden=6, features=4)
TINY = ContrastiveNetwork(Tiny(), hidden=6, features=4)
SHAPE = (8, 12, 3)  # maps of 4 x 6, 2 x 3 and 1 x 2
CASES = {  # every switch, few programs
    "canonical": (SMALL, GradMix(Attribution(layers=(1, 2, 3))), {}),
    "both views": (
        TINY,
        GradMix(
            Attribution(layers=(2, 1), sign=-1, aggregation="sample_max_sum", statistics="running"),
            Box(fill="paste", views="both", per_image=True, weight="true"),
        ),
        {"statistics_from": "clean and mixed"},
    ),
    "grad-cam": (
        TINY,
        GradMix(Attribution(layers=(1,), method="grad_cam", aggregation="raw_sum"), Box(fill="noise_pixel", alpha=2.0)),
        {"clean_term": False, "reuse_second_view": False, "own_positive": True, "block_size": 3},
    ),
}


def check_against_plain_form(network, variables, batch, hyper, mix, options, found, *, rtol, atol):
    loss, stats, metrics, gradients, calls = found
    size, (height, width) = len(LABELS), batch.images.shape[1:3]
    look, box = mix.attribution, mix.box
    params, old_stats = variables["params"], variables["batch_stats"]
    both, masked = calls["images"][0], calls["images"][-1]
    assert len(calls["images"]) == (3 if look.statistics == "running" else 2)
    clean = np.split(both, 2)
    assert not (clean[0] == clean[1]).any()
    own_pass = options.get("reuse_second_view", True) and box.views == "first"
    assert len(masked) == (size if own_pass else 2 * size)

    (share,) = calls["share"]
    assert 0.5 <= share.min() <= share.max() <= 0.9
    assert np.unique(share).size == (size if box.per_image else 1)
    taps = zeros_of(network, batch.images.shape[1:], 2 * size)
    slopes, (maps, _) = plain_gradients(network, look.statistics)(
        taps, params, old_stats, both, LABELS, hyper["attribution_temperature"]
    )
    total = plain_maps(look, maps, slopes, height, width)
    kept = []
    for view, images in enumerate(np.split(masked, len(masked) // size)):
        if box.views == "first" and view == 1:  # the second view goes through untouched, bit for bit
            np.testing.assert_array_equal(images, clean[1])
            continue
        own_maps = total[view * size : (view + 1) * size]
        inside, nominal, true = plain_boxes(own_maps, share)
        check_content(box.fill, clean[view], images, inside)
        np.testing.assert_array_equal(calls["others"][view], clean[1 - view])
        kept.append(nominal if box.weight == "nominal" else true)
        if view == 0:
            mass = np.mean(
                (own_maps * inside).sum((1, 2)) / np.maximum(own_maps.sum((1, 2)), 1e-30)
            )  # a map may be zero
            np.testing.assert_allclose(metrics["mass_in_box"], mass, rtol=1e-4)
            assert 0 < float(metrics["mass_in_random_box"]) < 1
    kept = np.mean(kept, axis=0)
    np.testing.assert_allclose(metrics["kept"], kept.mean(), rtol=1e-6)

    (wanted, (clean_stats, mixed_stats, parts)), wanted_gradients = plain_loss(
        network, 1 if own_pass else 2, gradients is not None
    )(
        params,
        old_stats,
        both,
        masked,
        kept.astype(both.dtype),
        LABELS,
        hyper,
        float(options.get("clean_term", True)),
        # A view that is not mixed would be its own positive: only mixed ones are.
        np.repeat([1.0, float(box.views == "both")], size) * options.get("own_positive", False),
    )
    np.testing.assert_allclose(loss, wanted, rtol=rtol)
    for name, value in parts.items():
        np.testing.assert_allclose(metrics[name], value, rtol=rtol)
    if gradients is not None:
        chex.assert_trees_all_close(gradients, wanted_gradients, rtol=rtol, atol=atol)
    mixed_too = options.get("statistics_from") == "clean and mixed"
    chex.assert_trees_all_close(stats, mixed_stats if mixed_too else clean_stats, rtol=rtol, atol=1e-6 * rtol)
    return slopes


@pytest.mark.parametrize("case", CASES)
def test_equals_the_plain_form(case, double, seen):
    network, mix, options = CASES[case]
    variables, batch, hyper = drawn(network, SHAPE, np.float64), stored(*SHAPE), traced(jnp.float64)
    objective = make_contrastive_objective(network, waved, mix=mix, **options)
    program, found = run(objective, variables, batch, hyper, seen)
    # the weight of the mixed term is float32
    check_against_plain_form(network, variables, batch, hyper, mix, options, found, rtol=1e-6, atol=1e-8)
    if case != "canonical":
        return
    # Finite differences along a random direction; so short a step moves no box.
    params, gradients = variables["params"], found[3]
    rng = np.random.default_rng(0)
    direction = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), params)
    ends = []
    for step in (1e-6, -1e-6):
        moved = jax.tree.map(lambda leaf, way, step=step: leaf + step * way, params, direction)
        (loss, (_, calls)), _ = program(moved, variables["batch_stats"], batch, jax.random.key(5), hyper)
        np.testing.assert_array_equal(behind(np.asarray(calls["images"][-1])), found[4]["images"][-1])
        ends.append(float(loss))
    slope = sum(np.sum(np.asarray(g) * d) for g, d in zip(*map(jax.tree.leaves, (gradients, direction)), strict=True))
    np.testing.assert_allclose((ends[0] - ends[1]) / 2e-6, slope, rtol=1e-5)


def test_stages_two_to_four_of_a_resnet(shallow, seen):
    """The published setting, in float32: stages are counted from 1, the last one's gradient is a constant per image."""
    network, shape = ContrastiveNetwork(ResNet(18, width=2), hidden=6, features=4), (16, 16, 3)
    variables, batch, hyper, mix = drawn(network, shape), stored(*shape), traced(), GradMix()
    objective = make_contrastive_objective(network, waved, mix=mix)
    _, found = run(objective, variables, batch, hyper, seen, differentiate=False)  # the slow part, and like the others
    slopes = check_against_plain_form(network, variables, batch, hyper, mix, {}, found, rtol=1e-3, atol=0)
    assert [slope.shape[1:] for slope in slopes] == [(16, 16, 2), (8, 8, 4), (4, 4, 8), (2, 2, 16)]
    last = np.asarray(slopes[3])
    np.testing.assert_allclose(last, np.broadcast_to(last[:, :1, :1], last.shape), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("statistics", ["train", "running"])
def test_attribution_maps_are_what_gradmix_masks_by(statistics, double, monkeypatch):
    """Those of ``jax.grad`` through taps, image for image, though GradMix takes no gradient of its own."""
    variables, batch, hyper = drawn(TINY, SHAPE, np.float64), stored(*SHAPE), traced(jnp.float64)
    look = Attribution(layers=(2, 1), sign=-1, aggregation="raw_sum", statistics=statistics)
    objective = make_contrastive_objective(TINY, waved, mix=GradMix(look, Box(views="both")))
    params, stats, key = variables["params"], variables["batch_stats"], jax.random.key(5)
    masked_by, gradmix = [], mixing.gradmix

    def spied(key, images, maps, *args, **options):
        masked_by.append(maps)
        return gradmix(key, images, maps, *args, **options)

    monkeypatch.setattr(mixing, "gradmix", spied)

    @jit
    def both():
        objective(params, stats, batch, key, hyper)
        views = [waved(view_key, batch.images) for view_key in jax.random.split(jax.random.clone(key), 3)[:2]]

        def loss(taps):
            variables, images = {"params": params, "batch_stats": stats}, jnp.concatenate(views)
            train = statistics == "train"
            outputs, _ = TINY.apply(variables, images, train=train, mutable="batch_stats", taps=taps)
            z = outputs.projection.reshape(2, len(LABELS), -1)
            return jnp.mean(contrastive.nt_xent_loss(z, temperature=hyper["attribution_temperature"])), outputs.maps

        found = attribution.stage_gradients(loss, models.zero_taps(TINY, SHAPE, 8), layers=look.layers)
        height, width, _ = SHAPE
        maps = attribution.attribution_maps(
            *found, height=height, width=width, sign=float(look.sign), aggregation=look.aggregation
        )
        return jnp.concatenate(masked_by), maps

    masked, maps = both()
    assert np.unique(np.asarray(attribution.map_peaks(maps)), axis=0).shape[0] > 1
    np.testing.assert_allclose(masked, maps, rtol=1e-6, atol=1e-7 * maps.max())


def partner_of(name, mixed, kept, own, others):
    """The row of ``others`` that image ``mixed`` was made with; None where nothing of it is to be seen."""
    if name == "mixup":
        mixtures = kept * own + (1 - kept) * others
        (row,) = np.flatnonzero(np.isclose(mixtures, mixed, atol=1e-5).all((1, 2, 3)))
        return row
    taken = (mixed != own).any(-1)
    if not taken.any():
        return None
    (row,) = np.flatnonzero((others[:, taken] == mixed[taken]).all((1, 2)))
    return row


def test_other_mixings_and_none_in_one_program(seen):
    """Their losses and gradients for the images that they made; no mixing and a box at random beside them."""
    network = ContrastiveNetwork(Colours(), hidden=6, features=4)
    variables, batch, hyper = drawn(network, SHAPE), stored(*SHAPE), traced()
    kept = []

    def recorded(mix):
        class Recorded:
            attribution, hyper = mix.attribution, mix.hyper

            def __call__(self, *args):
                found = mix(*args)
                kept.append(found.kept)
                return found

        return Recorded()

    mixes = {"none": None, "random": RandomBox()} | {name: recorded(mix) for name, mix in VIEW_MIXINGS.items()}
    objectives = [
        make_contrastive_objective(network, waved, mix=mix, reuse_second_view=False) for mix in mixes.values()
    ]

    def spied(params, stats, batch, keys, hyper):
        losses, auxes, images, share = [], [], [], None
        for key, objective in zip(keys, objectives, strict=True):
            for calls in seen.values():
                calls.clear()
            loss, aux = objective(params, stats, batch, key, hyper)
            losses.append(loss)
            auxes.append(aux)
            images.append(list(seen["images"]))
            share = seen["share"][0] if seen["share"] else share
        return sum(losses), (losses, auxes, images, list(kept), share)

    differentiate = jit(jax.value_and_grad(spied, has_aux=True))
    params, old_stats = variables["params"], variables["batch_stats"]
    keys = jax.random.split(jax.random.key(8), len(mixes))
    (_, (losses, auxes, images, weights, share)), gradients = differentiate(params, old_stats, batch, keys, hyper)
    nominal = 1 - math.floor(8 * math.sqrt(1 - share[0])) * math.floor(12 * math.sqrt(1 - share[0])) / 96
    weights = [np.zeros(4, np.float32), np.full(4, nominal, np.float32), *map(np.asarray, weights)]
    total, strangers = jax.tree.map(np.zeros_like, gradients), 0
    for name, loss, aux, calls, weight in zip(mixes, losses, auxes, images, weights, strict=True):
        # Without mixing there is no second pass.
        both, masked = (behind(np.asarray(seen)) for seen in (calls if len(calls) == 2 else calls * 2))
        (wanted, (stats, _, _)), slope = plain_loss(network, 2)(
            params, old_stats, both, masked, weight, LABELS, hyper, 1.0, 0.0
        )
        np.testing.assert_allclose(loss, wanted, rtol=1e-4)
        chex.assert_trees_all_close(aux.stats, stats, rtol=1e-5, atol=1e-6)
        total = jax.tree.map(lambda a, b: a + np.asarray(b), total, slope)
        if name == "none":
            assert len(calls) == 1
            assert aux.metrics.keys() == {"supcon_loss", "nt_xent_loss"}
            continue
        assert aux.metrics.keys() == {"supcon_loss", "nt_xent_loss", "mixed_loss", "kept"}
        np.testing.assert_allclose(aux.metrics["kept"], np.mean(weight), rtol=1e-6)

        (one, two), (first, second) = np.split(np.asarray(masked), 2), np.split(np.asarray(both), 2)
        changed = [(one != first).any(-1), (two != second).any(-1)]
        if name != "mixup":
            stayed = 1 - np.mean(changed, axis=(0, 2, 3))
            np.testing.assert_allclose(weight, np.full(4, nominal) if name == "random" else stayed, atol=1e-6)
        if name == "random":
            assert not changed[1].any()
            for box in changed[0]:  # whole, at most of the nominal size
                rows, columns = np.flatnonzero(box.any(1)), np.flatnonzero(box.any(0))
                assert box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
                assert rows.size * columns.size <= 96 * (1 - nominal)
        elif name == "cutout":
            assert (one[changed[0]] == 0).all()
            assert (two[changed[1]] == 0).all()
            assert min(weight) >= 1 - 4 * 4 / 96  # half the height
        else:
            for i in range(4):  # the other view of one partner
                there = partner_of(name, one[i], weight[i], first[i], second)
                back = partner_of(name, two[i], weight[i], second[i], first)
                assert there is None or back is None or there == back
                strangers += there not in (None, i) and back not in (None, i)
    assert strangers > 4
    chex.assert_trees_all_close(gradients, total, rtol=1e-3, atol=1e-4)


def test_four_devices_equal_one_device_in_one_compilation():
    """As the compiler spreads the objective, and with one reduction of its gradient."""
    images = np.random.default_rng(7).integers(0, 256, (8, *SHAPE))
    batch = Batch(jnp.asarray(images, jnp.uint8), jnp.arange(8, dtype=jnp.int32) % 3)
    network = ContrastiveNetwork(Tiny(stages=1), hidden=6, features=4)
    variables = drawn(network, SHAPE)
    mix = GradMix(Attribution(layers=(1,), statistics="running"))
    make_objective = functools.partial(make_contrastive_objective, augmentation=waved, mix=mix)
    traces = []

    def steps(devices, spread):
        mesh = sharding.data_mesh(devices)
        objective = spread(make_objective, network, mesh)

        def step(variables, batch, key, hyper):
            traces.append(devices)
            batch = jax.lax.with_sharding_constraint(batch, sharding.batch_sharding(mesh))
            params, stats = variables["params"], variables["batch_stats"]
            (_, aux), slopes = jax.value_and_grad(objective, has_aux=True)(params, stats, batch, key, hyper)
            params = jax.tree.map(lambda leaf, slope: leaf - hyper["learning_rate"] * slope, params, slopes)
            return {"params": params, "batch_stats": aux.stats}, aux.metrics

        program = jit(step)
        state, placed = jax.device_put((variables, batch), sharding.replicated(mesh))
        for seed, largest in enumerate((0.9, 0.6)):
            hyper = traced(temperature=0.3 - 0.1 * seed, attribution_temperature=0.2 + 0.1 * seed, largest_kept=largest)
            state, metrics = program(state, placed, jax.random.key(seed), hyper)
        return jax.device_get((state, metrics))

    def automatic(make_objective, network, mesh):
        return make_objective(network)

    alone = steps(1, automatic)
    assert all(np.isfinite(value) for value in alone[1].values())
    assert not np.allclose(alone[0]["params"]["hidden"]["kernel"], variables["params"]["hidden"]["kernel"])
    for spread in (automatic, data_parallel):
        chex.assert_trees_all_close(steps(4, spread), alone, rtol=2e-4, atol=2e-5)
    assert traces == [1, 4, 4]  # whatever the hyper-parameters and the step


def test_nothing_leaves_the_device():
    variables = drawn(TINY, SHAPE)
    mix = GradMix(Attribution(layers=(1, 2), statistics="running"), Box(views="both", fill="paste"))
    for objective in (
        make_contrastive_objective(TINY, waved, mix=mix),
        make_contrastive_objective(TINY, waved, mix=VIEW_MIXINGS["saliency_mix"]),
    ):
        differentiate = jax.value_and_grad(objective, has_aux=True)
        arguments = variables["params"], variables["batch_stats"], stored(*SHAPE), jax.random.key(0), traced()
        program = jax.jit(differentiate).trace(*arguments)
        assert "callback" not in str(program.jaxpr)
        for platform in ("tpu", "cuda"):
            text = program.lower(lowering_platforms=(platform,)).as_text()
            for word in ("callback", "outfeed", "infeed", "SendToHost", "RecvFromHost"):
                assert word not in text


def test_operations_of_a_step(shallow):
    """In forward passes over both views: 5 for stages 2 to 4, 4.5 for the last one alone, 9 for the plain form."""
    backbone, shape, size = ResNet(18, width=8), (32, 32, 3), len(LABELS)  # so narrow, convolutions still dominate
    network, classifier = ContrastiveNetwork(backbone, hidden=8, features=8), OpenSetNetwork(backbone, 3, "linear")
    batch, hyper, key, optimizer = stored(*shape), traced(), jax.random.key(0), train.make_adam()
    state = jax.eval_shape(lambda: train.init_state(key, network, optimizer, hyper, image_shape=shape))
    both = jnp.zeros((2 * size, *shape))

    def operations(function, *arguments, compiled=False):
        # As a rule of the program as it is written: the compiler cannot merge the equal passes of the plain form.
        program = jit(function).lower(*arguments)
        return (program.compile() if compiled else program).cost_analysis()["flops"]

    def plain_gradients_of(params, stats):
        """Three forward passes, the whole backward pass of one for the maps, and that of the other two."""

        def attributed(taps, params):
            outputs, _ = train_forward(network, params, stats, both, taps)
            z = outputs.projection.reshape(2, size, -1)
            return plain_terms(z, z, LABELS, 0.3)[1], outputs.maps

        def total(params, masked):
            z, p = (train_forward(network, params, stats, x)[0].projection for x in (both, masked))
            terms = plain_terms(z.reshape(2, size, -1), p.reshape(2, size, -1), LABELS, 0.3)
            return sum(jnp.mean(term) for term in terms)

        taps = models.zero_taps(network, shape, 2 * size)
        (slopes, unused), maps = jax.grad(attributed, (0, 1), has_aux=True)(taps, params)
        cam = sum(jnp.sum(maps[i] * jax.nn.relu(slopes[i])) for i in (1, 2, 3))
        return jax.grad(total)(params, both * cam), unused

    def forward(params, stats):
        return train_forward(network, params, stats, both)

    unit = operations(forward, state.params, state.stats)
    step = train.make_train_step(make_contrastive_objective(network, waved, mix=GradMix()), optimizer)
    compiled_unit = operations(forward, state.params, state.stats, compiled=True)
    assert 4.6 < operations(step, state, batch, key, hyper, compiled=True) / compiled_unit < 5.3
    last = jax.value_and_grad(
        make_contrastive_objective(network, waved, mix=GradMix(Attribution(layers=(4,)))), has_aux=True
    )
    assert 4.3 < operations(last, state.params, state.stats, batch, key, hyper) / unit < 4.7
    assert 8.5 < operations(plain_gradients_of, state.params, state.stats) / unit < 9.5

    shapes = jax.eval_shape(lambda: classifier.init(key, both[:1], train=False))
    masked = make_masked_classify_objective(classifier, CLASS_LOSSES["softmax"], waved, mix=GradMix())
    arguments = shapes["params"], shapes["batch_stats"], batch, key, hyper
    found = operations(jax.value_and_grad(masked, has_aux=True), *arguments)
    assert 6.2 < found / (unit / 2) < 6.9  # one view


def test_masked_classification_equals_the_plain_form(double, seen):
    network = OpenSetNetwork(Tiny(), 3, "linear")
    variables, batch, hyper = drawn(network, SHAPE, np.float64), stored(*SHAPE), traced(jnp.float64)
    params, old_stats = variables["params"], variables["batch_stats"]
    mix = GradMix(Attribution(layers=(1, 2), sign=-1), Box(views="both"))  # there is one view only
    objective = make_masked_classify_objective(network, CLASS_LOSSES["softmax"], waved, mix=mix)
    _, (loss, stats, metrics, gradients, calls) = run(objective, variables, batch, hyper, seen)
    clean, masked = map(jnp.asarray, calls["images"])
    target = np.eye(3)[LABELS]

    def class_losses(logits):
        return jnp.log(jnp.sum(jnp.exp(logits), axis=1)) - jnp.sum(target * logits, axis=1)

    def attributed(taps, params):
        outputs, _ = train_forward(network, params, old_stats, clean, taps)
        return class_losses(outputs.logits).mean(), outputs.maps

    taps = zeros_of(network, SHAPE, 4)
    slopes, maps = jit(jax.grad(attributed, has_aux=True))(taps, params)
    own_maps = plain_maps(mix.attribution, maps, slopes, *SHAPE[:2])
    inside, kept, _ = plain_boxes(own_maps, calls["share"][0])
    check_content("noise", np.asarray(clean), np.asarray(masked), inside)

    @jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def total(params):
        outputs, new_stats = train_forward(network, params, old_stats, clean)
        other, _ = train_forward(network, params, old_stats, masked)
        first, second = class_losses(outputs.logits), class_losses(other.logits)
        return first.mean() + 0.7 * jnp.mean(kept * second), (new_stats, first, second, outputs.logits)

    (wanted, (new_stats, first, second, logits)), wanted_gradients = total(params)
    np.testing.assert_allclose(loss, wanted, rtol=1e-6)
    chex.assert_trees_all_close(gradients, wanted_gradients, rtol=1e-6, atol=1e-8)
    chex.assert_trees_all_close(stats, new_stats, rtol=1e-10)
    np.testing.assert_allclose(metrics["class_loss"], np.mean(first), rtol=1e-9)
    np.testing.assert_allclose(metrics["mixed_loss"], np.mean(second), rtol=1e-9)
    np.testing.assert_allclose(metrics["kept"], kept.mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"], np.mean(np.argmax(logits, 1) == LABELS))
    mass = np.mean((own_maps * inside).sum((1, 2)) / own_maps.sum((1, 2)))
    np.testing.assert_allclose(metrics["mass_in_box"], mass, rtol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 1e-12])
def test_the_mass_in_a_box_has_no_unit(scale):
    maps = scale * np.array([[[1.0, 3.0, 0.0], [4.0, 8.0, 0.0], [0.0, 0.0, 0.0]], np.zeros((3, 3))], np.float32)
    # k = floor(3 sqrt(1 - 0.3)) = 2: a pixel up and left of the peak, and the peak's are cut from [0, 2) x [0, 2).
    found = jax.jit(_mass_in_box)(maps, maps, jnp.full(2, 0.3))
    np.testing.assert_allclose(found, (16 / 16 + 0) / 2, rtol=1e-6)
    beside = np.roll(maps, 1, axis=2)  # the box of the peak at (1, 2): columns 1 and 2
    np.testing.assert_allclose(jax.jit(_mass_in_box)(maps, beside, jnp.full(2, 0.3)), (11 / 16 + 0) / 2, rtol=1e-6)


def test_last_layers():
    assert [last_layers(stages) for stages in (1, 2, 3, 4)] == [(1,), (1, 2), (1, 2, 3), (2, 3, 4)]


def shapes_of(objective, network=TINY, images=None, labels=LABELS):
    """Traces an objective, which is when it checks what it is given."""
    variables = drawn(network, SHAPE)
    images = stored(*SHAPE).images if images is None else images
    arguments = variables["params"], variables["batch_stats"], Batch(images, jnp.asarray(labels)), jax.random.key(0)
    return jax.eval_shape(objective, *arguments, traced())


def mixed_by(*parts):
    """Traces an objective whose mixed term is a GradMix of these parts."""
    return shapes_of(make_contrastive_objective(TINY, waved, mix=GradMix(*parts)))


def unequal(key, images, calls=[]):  # noqa: B006
    calls.append(key)
    return waved(key, images)[:, : 8 - len(calls)]


CLASSIFIER = OpenSetNetwork(Tiny(), 3, "linear")
ONE = jnp.zeros((1, *SHAPE), jnp.uint8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Attribution(sign=2), "sign=2"),
        (lambda: Attribution(sign=0), "RandomBox"),
        (lambda: mixed_by(Attribution(layers=(1,), method="cam")), "method='cam'"),
        (lambda: Attribution(statistics="test"), "statistics='test'"),
        (lambda: Box(views="second"), "views='second'"),
        (lambda: Attribution(layers=()), "layers=()"),
        (lambda: make_contrastive_objective(TINY, waved, statistics_from="mixed"), "statistics_from='mixed'"),
        (lambda: mixed_by(Attribution(layers=(3,))), "stages 1 to 2"),
        (lambda: mixed_by(Attribution(layers=(1, 1))), "layers=(1, 1)"),
        (lambda: shapes_of(make_contrastive_objective(TINY, waved), images=ONE, labels=LABELS[:1]), "holds one image"),
        (lambda: shapes_of(make_contrastive_objective(TINY, unequal)), "two views"),
        (lambda: mixed_by(Attribution(layers=(1,)), Box(fill="dots")), "fill='dots'"),
        (lambda: mixed_by(Attribution(layers=(1,)), Box(weight="some")), "weight='some'"),
        (lambda: mixed_by(Attribution(layers=(1,), aggregation="sum")), "aggregation='sum'"),
        (lambda: mixed_by(Attribution(layers=(1,)), Box(alpha=0.0)), "alpha=0.0"),
        (
            lambda: make_masked_classify_objective(CLASSIFIER, CLASS_LOSSES["m_ovr"], waved, mix=GradMix()),
            "cosine head",
        ),
        (
            lambda: shapes_of(
                make_masked_classify_objective(CLASSIFIER, CLASS_LOSSES["softmax"], waved, mix=GradMix()), CLASSIFIER
            ),
            "layers=(2, 3, 4)",
        ),
        (
            lambda: shapes_of(
                make_masked_classify_objective(
                    CLASSIFIER, CLASS_LOSSES["softmax"], waved, mix=GradMix(Attribution((1,)))
                ),
                CLASSIFIER,
                ONE,
                LABELS[:1],
            ),
            "holds one image",
        ),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises((ValueError, TypeCheckError)) as caught:
        call()
    assert isinstance(caught.value, TypeCheckError) or message in str(caught.value)
    assert isinstance(caught.value, TypeCheckError) or "\n" not in str(caught.value)


def test_float_images_are_refused():
    """They would be scaled to [-1, 1] once more."""
    with pytest.raises((AssertionError, TypeCheckError)):
        shapes_of(make_contrastive_objective(TINY, waved), images=jnp.zeros((4, *SHAPE)))
