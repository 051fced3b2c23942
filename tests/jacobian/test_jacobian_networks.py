"""Jacobian norms of convolutional networks: float64 references, sharded batches, precision on accelerators."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from osrjax import jacobian
from osrjax.devices.sharding import batch_sharding, data_mesh, replicated
from osrjax.models import backbones
from osrjax.models.backbones import SmallCNN, WideResNet
from osrjax.models.networks import OpenSetNetwork

SHAPE = (8, 8, 1)
NAMES = ["embedding", "raw_embedding", "logits"]
BACKBONES = {
    "small_cnn": lambda dtype: SmallCNN(width=4, features=8, dtype=dtype),
    "wide_resnet": lambda dtype: WideResNet(depth=10, widen=1, dtype=dtype),
}


def drawn(network: OpenSetNetwork, seed: int):
    """Random variables, running statistics included: means of either sign, variances away from one."""
    images = jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32)
    shapes = jax.eval_shape(lambda images: network.init(jax.random.key(0), images, train=False), images)
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name in ("var", "scale"):
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        deviation = math.sqrt(2 / math.prod(leaf.shape[:-1])) if name == "kernel" else 0.5
        return jnp.asarray(rng.normal(0, deviation, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def output(network, name, variables, images):
    return getattr(network.apply(variables, images, train=False), name)


def outputs64(backbone, variables, images):
    """All three outputs in float64 from the input on: the heads are written again, for they cast to float32."""
    own = {kind: variables[kind]["backbone"] for kind in ("params", "batch_stats")}
    _, raw = backbone.apply(own, images, train=False)
    prototypes = variables["params"]["prototypes"]
    embedding = raw / jnp.sqrt(jnp.sum(raw**2, axis=1, keepdims=True))
    directions = prototypes / jnp.sqrt(jnp.sum(prototypes**2, axis=1, keepdims=True))
    return {"embedding": embedding, "raw_embedding": raw, "logits": embedding @ directions.T}


def norms64(backbone, variables, images, step=1e-6):
    """Norms [batch] by name in float64, from jax.jacfwd and from central differences of the forward pass."""
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "_average", lambda x: jnp.mean(x, axis=(1, 2)))  # the package's is float32
        variables, images = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (variables, images))
        fn = partial(outputs64, backbone, variables)
        full = jax.jit(jax.vmap(jax.jacfwd(lambda x: jax.tree.map(lambda y: y[0], fn(x[None])))))(images)
        offsets = step * jnp.eye(math.prod(SHAPE)).reshape(1, -1, *SHAPE)
        both = jnp.concatenate([images[:, None] + offsets, images[:, None] - offsets]).reshape(-1, *SHAPE)
        moved = {name: np.asarray(value) for name, value in jax.jit(fn)(both).items()}
        assert all(value.dtype == np.float64 for value in [*full.values(), *moved.values()])

    def differences(value):
        after, before = value.reshape(2, len(images), math.prod(SHAPE), -1)
        return np.linalg.norm((after - before) / (2 * step), axis=(1, 2))

    exact = {name: np.linalg.norm(np.asarray(j).reshape(len(images), -1), axis=1) for name, j in full.items()}
    return exact, {name: differences(value) for name, value in moved.items()}


@pytest.fixture(scope="module", params=BACKBONES)
def case(request):
    """A network, its variables, four images and the float64 norms of its three outputs."""
    network = OpenSetNetwork(BACKBONES[request.param](jnp.float32), 3)
    variables = drawn(network, seed=7)
    images = jnp.asarray(np.random.default_rng(8).uniform(-1, 1, (4, *SHAPE)), jnp.float32)
    return network, variables, images, norms64(BACKBONES[request.param](jnp.float64), variables, images)


def test_norms_equal_those_of_the_float64_network(case):
    network, variables, images, (exact, by_differences) = case

    @jax.jit
    def norms(variables, images):
        return {
            name: jacobian.input_jacobian_norms(partial(output, network, name, variables), images) for name in NAMES
        }

    found = norms(variables, images)
    for name in NAMES:
        np.testing.assert_allclose(exact[name], by_differences[name], rtol=1e-6, err_msg=name)
        assert exact[name].min() > 1e-3  # nothing below is compared with zero
        np.testing.assert_allclose(found[name], exact[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("case", ["small_cnn"], indirect=True)
@pytest.mark.parametrize(("mode", "chunk_size"), [("forward", 24), ("reverse", 3)])
def test_batched_norms_equal_vmapped_single_examples(case, mode, chunk_size):
    network, variables, images, (exact, _) = case
    batched = partial(output, network, "embedding", variables)

    @jax.jit
    def norms(images):
        alone = jax.vmap(lambda x: jacobian.input_jacobian_norm(lambda x: batched(x[None])[0], x, mode=mode))
        return jacobian.input_jacobian_norms(batched, images, mode=mode, chunk_size=chunk_size), alone(images)

    together, alone = norms(images)
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    np.testing.assert_allclose(together, exact["embedding"], rtol=1e-5)


@pytest.mark.parametrize("case", ["small_cnn"], indirect=True)
def test_stacked_checkpoints(case):
    network, variables, images, (exact, _) = case

    def norms(variables):
        return jacobian.input_jacobian_norms(partial(output, network, "raw_embedding", variables), images)

    def scaled(path, leaf):  # the last layer three times as large
        return 3 * leaf if "Dense_0" in jax.tree_util.keystr(path) else leaf

    stack = [variables, jax.tree_util.tree_map_with_path(scaled, variables)]
    found = jax.jit(jax.vmap(norms))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *stack))
    np.testing.assert_allclose(found, np.outer([1, 3], exact["raw_embedding"]), rtol=1e-5)


@pytest.mark.parametrize("case", ["small_cnn"], indirect=True)
@pytest.mark.parametrize(("mode", "chunk_size"), [("forward", None), ("reverse", 3)])
def test_each_device_works_on_its_own_images(case, mode, chunk_size):
    network, variables, images, (exact, _) = case
    mesh = data_mesh()
    assert mesh.shape["data"] == len(images) == 4

    def norms(variables, images):
        fn = partial(output, network, "embedding", variables)
        return jacobian.input_jacobian_norms(fn, images, mode=mode, chunk_size=chunk_size)

    sharded = jax.jit(jax.shard_map(norms, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data")))
    placed = jax.device_put((variables, images), (replicated(mesh), batch_sharding(mesh)))
    compiled = sharded.lower(*placed).compile()
    text = compiled.as_text() or ""
    assert "convolution" in text
    for word in ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert word not in text
    found = compiled(*placed)
    assert len(found.sharding.device_set) == 4
    np.testing.assert_allclose(found, exact["embedding"], rtol=1e-5)


@pytest.fixture(scope="module")
def small():
    network = OpenSetNetwork(SmallCNN(width=4, features=8), 3)
    return network, drawn(network, seed=7), jnp.ones((2, *SHAPE))


def example(network, variables, x):
    return output(network, "embedding", variables, x[None])[0]


LOWERED = {
    "norms forward": lambda fn, one, x: jacobian.input_jacobian_norms(fn, x, mode="forward"),
    "norms reverse": lambda fn, one, x: jacobian.input_jacobian_norms(fn, x, mode="reverse"),
    "norms chunked": lambda fn, one, x: jacobian.input_jacobian_norms(fn, x, mode="reverse", chunk_size=3),
    "norm": lambda fn, one, x: jacobian.input_jacobian_norm(one, x[0], mode="forward", chunk_size=5),
    "definition": lambda fn, one, x: jacobian.jacfwd_norm(one, x[0]),
    "jacobian": lambda fn, one, x: jacobian.input_jacobian(one, x[0], mode="reverse"),
    "directional": lambda fn, one, x: jacobian.directional_norm(one, x[0], x[1]),
    "singular value": lambda fn, one, x: jacobian.largest_singular_value(one, jax.random.key(0), x[0], iterations=3),
    "projections": lambda fn, one, x: jacobian.projected_squares(one, jax.random.key(0), x[0], samples=3),
    "projections forward": lambda fn, one, x: jacobian.projected_squares(
        one, jax.random.key(0), x[0], samples=3, mode="forward", distribution="gaussian", chunk_size=2
    ),
    "profile": lambda fn, one, x: jacobian.interpolation_profile(one, x[0], x[1], x[0, :3, 0, 0]),
    "profile in batches": lambda fn, one, x: jacobian.interpolation_profile(
        one, x[0], x[1], x[0, :3, 0, 0], batch_size=2
    ),
    "path": lambda fn, one, x: jacobian.path_length(one, x[0], x[1], points=3),
    "chords": lambda fn, one, x: jacobian.chord_length(one, x[0], x[1], points=3),
    "penalty": lambda fn, one, x: jax.grad(lambda x: jacobian.input_jacobian_norms(fn, x).sum())(x),
}


def products(function, x):
    """Lines of the lowered programs that multiply or convolve, at the default precision of a user's process."""
    lines = []
    with jax.default_matmul_precision("default"):
        traced = jax.jit(function).trace(x)
        for platform in ("tpu", "cuda"):
            text = traced.lower(lowering_platforms=(platform,)).as_text()
            assert "callback" not in text
            lines += [line for line in text.splitlines() if "stablehlo.dot" in line or "stablehlo.convolution" in line]
    return lines


def test_without_the_engine_a_network_has_default_precision(small):
    network, variables, images = small
    lines = products(partial(output, network, "embedding", variables), images)
    assert sum("convolution" in line and "DEFAULT" in line for line in lines) == 2 * 4


@pytest.mark.parametrize("name", LOWERED)
def test_every_product_is_lowered_at_highest_precision(small, name):
    network, variables, images = small
    fn, one = partial(output, network, "embedding", variables), partial(example, network, variables)
    lines = products(partial(LOWERED[name], fn, one), images)
    assert sum("convolution" in line for line in lines) >= 2 * 4
    for line in lines:
        assert "HIGHEST" in line, line
        assert "DEFAULT" not in line, line
