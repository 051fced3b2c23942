"""Norms by plain jit over a mesh: spread as the images, nothing communicated, equal to float64 whole Jacobians."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXPERIMENTS, load_script
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from osrjax import jacobian

SHAPE, BATCH, OUTPUTS = (8, 8, 2), 8, 5
WORDS = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")


def convolution(images, kernel, stride):
    order = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(images, kernel, (stride, stride), "SAME", dimension_numbers=order)


def cnn(p, images):
    """Two convolutions, one with stride, and a unit vector of the average."""
    images = jax.nn.relu(convolution(images, p["first"], 1))
    images = jax.nn.relu(convolution(images, p["second"], 2))
    found = images.mean(axis=(1, 2)) @ p["last"]
    return found / jnp.linalg.norm(found, axis=1, keepdims=True)


def vit(p, images):
    """Four patches, attention of two heads, one hidden layer."""
    x = convolution(images, p["patches"], 4).reshape(len(images), 4, 6)
    query, key, value = (y.reshape(len(images), 4, 2, 3) for y in jnp.split(x @ p["attention"], 3, axis=2))
    weights = jax.nn.softmax(jnp.einsum("bihd,bjhd->bhij", query, key))
    x += jnp.einsum("bhij,bjhd->bihd", weights, value).reshape(x.shape)
    x += jnp.tanh(x @ p["hidden"]) @ p["hidden"].T
    return x.mean(axis=1) @ p["last"]


def rnn(p, images):
    """The rows of an image, one after another."""

    def step(carry, row):
        return jnp.tanh(carry @ p["again"] + row @ p["row"]), None

    rows = images.reshape(len(images), 8, -1).swapaxes(0, 1)
    carry, _ = lax.scan(step, jnp.zeros((len(images), 6), images.dtype), rows)
    return carry @ p["last"]


NETWORKS = {
    cnn: {"first": (3, 3, 2, 4), "second": (3, 3, 4, 6), "last": (6, OUTPUTS)},
    vit: {"patches": (4, 4, 2, 6), "attention": (6, 18), "hidden": (6, 8), "last": (6, OUTPUTS)},
    rnn: {"again": (6, 6), "row": (16, 6), "last": (6, OUTPUTS)},
}


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda network: network.__name__)
def case(request):
    """A network, its parameters, images, and the norms of its Jacobians in float64."""
    network, rng = request.param, np.random.default_rng(7)
    parameters = {name: rng.normal(0, 0.5, shape) for name, shape in NETWORKS[network].items()}
    images = rng.uniform(-1, 1, (BATCH, *SHAPE))
    with jax.enable_x64(True):
        one = jax.jit(jax.vmap(jax.jacrev(lambda x: network(parameters, x[None])[0])))
        matrices = np.asarray(one(jnp.asarray(images)))
    assert matrices.dtype == np.float64
    exact = np.linalg.norm(matrices.reshape(BATCH, -1), axis=1)
    single = jax.tree.map(np.float32, (parameters, images))
    return network, *single, exact


def placed(mesh, parameters, images):
    return jax.device_put((parameters, images), (NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_plain_jit_keeps_images_and_norms_where_they_are(case, kind):
    network, parameters, images, exact = case
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))

    def norms(parameters, images):
        return jacobian.input_jacobian_norms(partial(network, parameters), images, chunk_size=2)

    arguments = placed(mesh, parameters, images)
    with jax.set_mesh(mesh):
        program = jax.jit(norms).lower(*arguments).compile()
    assert [word for word in WORDS if word in program.as_text()] == []
    found = program(*arguments)
    assert found.sharding.spec == P("data")
    assert found.sharding.shard_shape(found.shape) == (BATCH // 4,)
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    alone = jax.jit(norms).lower(parameters, images).compile()
    assert program.cost_analysis()["flops"] < 0.3 * alone.cost_analysis()["flops"]


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_one_example_vmapped_keeps_images_too(kind, rng):
    weights, images = rng.normal(size=(4, 6)).astype(np.float32), rng.normal(size=(8, 4)).astype(np.float32)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))
    arguments = placed(mesh, weights, images)

    def norms(weights, images):
        one = partial(jacobian.input_jacobian_norm, lambda x: jnp.tanh(x @ weights), mode="forward", chunk_size=3)
        return jax.vmap(one)(images)

    program = jax.jit(norms).lower(*arguments).compile()
    assert [word for word in WORDS if word in program.as_text()] == []
    found = program(*arguments)
    assert found.sharding.spec == P("data")
    slopes = 1 - np.tanh(images.astype(np.float64) @ weights) ** 2
    np.testing.assert_allclose(found, np.linalg.norm(slopes[:, None] * weights, axis=(1, 2)), rtol=1e-5)


def test_a_gradient_over_a_mesh_is_reduced_and_nothing_else(rng):
    """Of a convolution, with axes that are part of the types: its transposes are written in another order."""
    kernel, images = rng.normal(size=(3, 3, 2, 3)).astype(np.float32), rng.normal(size=(4, 5, 5, 2)).astype(np.float32)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))

    def mean_norm(kernel, images, norms):
        return norms(lambda x: jnp.tanh(convolution(x, kernel, 2)).sum(axis=(1, 2)), images).mean()

    def whole(fn, images):
        matrices = jax.vmap(jax.jacfwd(lambda x: fn(x[None])[0]))(images)
        return jnp.sqrt(jnp.sum(matrices**2, axis=(1, 2, 3, 4)))

    ours = jax.grad(partial(mean_norm, norms=partial(jacobian.input_jacobian_norms, chunk_size=2)))
    arguments = placed(mesh, kernel, images)
    with jax.set_mesh(mesh):
        program = jax.jit(ours).lower(*arguments).compile()
    assert [word for word in WORDS if word in program.as_text()] == ["all-reduce"]
    with jax.enable_x64(True):
        doubles = np.float64(kernel), np.float64(images)
        exact = jax.jit(jax.grad(partial(mean_norm, norms=whole)))(*doubles)
    np.testing.assert_allclose(program(*arguments), exact, rtol=1e-4, atol=1e-5)


def test_parameters_over_another_axis_leave_images_where_they_are(rng):
    """Hidden units are spread over "model": what is told goes between devices with the same images alone."""
    first, second = (rng.normal(size=shape).astype(np.float32) for shape in ((6, 8), (8, 3)))
    images = rng.normal(size=(4, 6)).astype(np.float32)
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    specs = P(None, "model"), P("model", None), P("data")
    arguments = jax.device_put((first, second, images), tuple(NamedSharding(mesh, spec) for spec in specs))

    def norms(first, second, images):
        return jacobian.input_jacobian_norms(lambda x: jnp.tanh(x @ first) @ second, images, chunk_size=2)

    program = jax.jit(norms).lower(*arguments).compile()
    text = program.as_text()
    groups = re.findall(r"replica_groups=(\S+?),? ", text)
    assert len(groups) == len(re.findall("|".join(rf" {word}(?:-start)?\(" for word in WORDS), text)) > 0
    assert set(groups) <= {"{{0,1},{2,3}}", "[2,2]<=[4]"}  # devices 0 and 1 hold the same images
    found = program(*arguments)
    assert found.sharding.shard_shape(found.shape) == (2,)
    slopes = 1 - np.tanh(images.astype(np.float64) @ first) ** 2
    exact = np.linalg.norm(np.einsum("ih,bh,ho->bio", first, slopes, second), axis=(1, 2))
    np.testing.assert_allclose(found, exact, rtol=1e-5)


def test_the_benchmark_says_what_each_device_does(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EXPERIMENTS / "benchmarks"))
    script = load_script("benchmarks/jacobian_mesh")
    assert script.main(["--images", "3"]) == 2
    assert capsys.readouterr().err == (
        "jacobian_mesh.py: images=3 on devices=8: give 2 devices or more and a multiple of them\n"
    )
    assert script.main(["--smoke"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("vit_small")]
    assert len(rows) == 2
    assert all("('data',)" in row and row.endswith("none") for row in rows)
