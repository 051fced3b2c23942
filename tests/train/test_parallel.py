"""Objectives over four devices against one: what a network gives, and how often a gradient is reduced."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osrjax.analysis import costs
from osrjax.augment.views import make_crop_and_flip
from osrjax.devices import sharding
from osrjax.methods import make_classify_objective
from osrjax.methods.class_losses import CLASS_LOSSES
from osrjax.methods.masked import make_masked_classify_objective
from osrjax.methods.masks import Attribution, GradMix
from osrjax.models import backbones
from osrjax.models.networks import OpenSetNetwork, zero_taps
from osrjax.train.layout import lane_mesh
from osrjax.train.objective import Batch, ObjectiveAux
from osrjax.train.parallel import data_parallel

# Programs that run once or twice.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SHAPE = (8, 8, 2)
KEY = jax.random.key(0)


class Tiny(nn.Module):
    """One stage."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images, *, train, taps=None):
        x = backbones._conv(5, stride=2, dtype=self.dtype)(images)
        x = backbones._tapped(nn.relu(backbones._norm(train, self.dtype)(x)), taps, 0)
        return (x,), nn.Dense(7, dtype=self.dtype)(backbones._average(x))


class Alone(nn.Module):
    """Its batch norm sees the rows of one device."""

    @nn.compact
    def __call__(self, images, *, train, taps=None):
        return (images,), nn.BatchNorm(use_running_average=not train)(images.mean((1, 2)))


def drawn(network, rng):
    variables = jit(partial(network.init, train=False))(KEY, jnp.zeros((1, *SHAPE)))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype), variables)


def batch_of(rng, size):
    images = rng.integers(0, 256, (size, *SHAPE)).astype(np.uint8)
    return Batch(jnp.asarray(images), jnp.arange(size, dtype=jnp.int32) % 3)


def make_objective(network, *, train):
    """All that a network gives, as metrics; the loss reads every output, and the metrics a gradient by taps too."""

    def objective(params, stats, batch, key, hyper):
        images = batch.images / 255.0

        def forward(taps):
            mutable = {"mutable": "batch_stats"} if train else {}
            found = network.apply({"params": params, "batch_stats": stats}, images, train=train, taps=taps, **mutable)
            outputs, updated = found if train else (found, {"batch_stats": stats})
            return outputs.logits, (outputs, updated["batch_stats"])

        logits, pullback, (outputs, new_stats) = jax.vjp(forward, zero_taps(network, SHAPE, len(images)), has_aux=True)
        slopes = pullback(jnp.ones_like(logits))[0]
        loss = sum(jnp.mean(jnp.sin(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves((outputs, slopes)))
        return loss, ObjectiveAux(new_stats, {"outputs": outputs, "slopes": slopes})

    return objective


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("train", [True, False])
def test_outputs_statistics_and_gradients_are_those_of_one_device(train, dtype, rng):
    network = OpenSetNetwork(Tiny(dtype), 3)
    variables, batch = drawn(network, rng), batch_of(rng, 12)
    make, found = partial(make_objective, train=train), []
    for devices in (4, 1):
        mesh = sharding.data_mesh(devices)
        objective = data_parallel(make, network, mesh)
        placed = sharding.spread(batch, sharding.batch_sharding(mesh))
        program = jit(jax.value_and_grad(objective, has_aux=True))
        found.append(jax.device_get(program(*(variables["params"], variables["batch_stats"], placed, KEY, {}))))
    (_, aux), gradients = found[0]
    old = variables["batch_stats"]["backbone"]["BatchNorm_0"]
    moved = [np.abs(aux.stats["backbone"]["BatchNorm_0"][name] - old[name]).max() for name in ("mean", "var")]
    assert min(moved) > 1e-2 if train else moved == [0, 0]
    assert {leaf.dtype for leaf in jax.tree.leaves((gradients, aux.stats))} == {np.dtype(np.float32)}
    assert aux.metrics["outputs"].maps[0].dtype == dtype
    # The same rounding to bfloat16, but for what float32 sums in another order tip over.
    tolerance = 1e-4 if dtype == jnp.float32 else 2e-2
    for spread, alone in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(np.float32(spread), np.float32(alone), rtol=tolerance, atol=tolerance)


def test_one_device_changes_nothing():
    network, made = OpenSetNetwork(Tiny(), 3), {}

    def make(given):
        made[given] = make_objective(given, train=True)
        return made[given]

    assert data_parallel(make, network, sharding.data_mesh(1)) is made[network]


def test_masked_classification_reduces_its_gradient_once(rng):
    network, mesh = OpenSetNetwork(Tiny(), 3), sharding.data_mesh(4)
    variables, batch = drawn(network, rng), batch_of(rng, 8)
    make = partial(
        make_masked_classify_objective,
        class_loss=CLASS_LOSSES["m_ovr"],
        augmentation=make_crop_and_flip(),
        mix=GradMix(Attribution(layers=(1,))),
    )
    names = (*CLASS_LOSSES["m_ovr"].hyper, "mixed_weight", "smallest_kept", "largest_kept")
    hyper = dict.fromkeys(names, jnp.float32(0.5))
    placed = sharding.spread(batch, sharding.batch_sharding(mesh))
    program = jit(jax.grad(data_parallel(make, network, mesh), has_aux=True))
    compiled = program.lower(variables["params"], variables["batch_stats"], placed, KEY, hyper).compile()
    shapes = [leaf.shape for leaf in jax.tree.leaves(variables["params"])]
    found = costs.collectives(compiled.as_text(), shapes)
    (gradients,) = [one.gradients for one in found if one.gradients]
    matrices = 4 * (3 * 3 * 2 * 5 + 5 * 7 + 7 * 3)
    assert matrices <= gradients <= matrices + 4 * (7 + 5 + 5 + 10)
    assert sum(one.rows for one in found) == 0


def test_other_meshes_and_batch_norms_are_refused(rng):
    network = OpenSetNetwork(Alone(), 3)
    variables, batch = drawn(network, rng), batch_of(rng, 8)
    with pytest.raises(ValueError, match=r"mesh.axis_names=\('member', 'data'\)"):
        data_parallel(lambda network: network, network, lane_mesh(2, batch_size=8))
    make = partial(make_classify_objective, class_loss=CLASS_LOSSES["m_ovr"], augmentation=make_crop_and_flip())
    objective = data_parallel(make, network, sharding.data_mesh(4))
    hyper = dict.fromkeys(CLASS_LOSSES["m_ovr"].hyper, jnp.float32(0.5))
    with pytest.raises(ValueError, match="require replication"):
        jax.eval_shape(objective, variables["params"], variables["batch_stats"], batch, KEY, hyper)
