"""The data-set driver on networks of other people: keys, modules, loops over a mesh, dropout, and what is refused."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.sharding import AxisType
from jaxtyping import config

from osrjax.analysis.norms import dataset_jacobian_norms, make_norm_plan
from osrjax.models.outputs import contrastive_functions, network_functions

PARAMETERS = np.random.default_rng(3).normal(size=(6, 4)).astype(np.float32)


@pytest.fixture
def images(rng):
    return rng.normal(size=(5, 6)).astype(np.float32)


def tanh_norms(weights, images):
    """Of tanh(images @ weights), by hand in float64."""
    slopes = 1 - np.tanh(images.astype(np.float64) @ weights) ** 2
    return np.linalg.norm(slopes[:, None] * weights, axis=(1, 2))


# Variables that are no plain trees of arrays.


class Net(nnx.Module):
    def __init__(self, rngs):
        self.linear, self.norm = nnx.Linear(6, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, images):
        return self.dropout(self.norm(self.linear(images)))


def test_a_state_with_keys_is_stored_and_told_from_others(images, tmp_path):
    net = Net(nnx.Rngs(0))
    net.eval()
    graph, state = nnx.split(net)
    functions = {"logits": lambda state, images: nnx.merge(graph, state)(images)}
    exact = np.linalg.norm(np.asarray(net.linear.kernel[...], np.float64)) / np.sqrt(1 + 1e-5)
    for _ in range(2):  # the second time from the directory
        found = dataset_jacobian_norms(functions, state, images, directory=tmp_path)["logits"]
        np.testing.assert_allclose(found, exact, rtol=1e-5)
    other = Net(nnx.Rngs(params=0, dropout=5))
    other.eval()
    with pytest.raises(ValueError, match="holds norms of other images, variables or functions"):
        dataset_jacobian_norms(functions, nnx.split(other)[1], images, directory=tmp_path)


@partial(jax.tree_util.register_dataclass, data_fields=["weights", "activation", "scale"], meta_fields=["name"])
@dataclasses.dataclass
class Module:
    """As Equinox has them: a tree whose leaves are arrays, functions and numbers that Python reads."""

    weights: Any
    activation: Callable
    scale: float
    name: str = "layer"

    def __call__(self, image):
        return self.activation(self.weights.T @ image) * (self.scale if self.scale > 1 else 1.0)


MODULES: dict[str, Any] = {"module": lambda module, images: jax.vmap(module)(images)}


@pytest.mark.parametrize("devices", [None, 2])
def test_a_module_is_variables(images, tmp_path, devices):
    mesh = None if devices is None else jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices])
    module = Module(jnp.asarray(PARAMETERS), jnp.tanh, 2.0)
    norms = partial(dataset_jacobian_norms, MODULES, images=images, directory=tmp_path, mesh=mesh)
    for _ in range(2):
        np.testing.assert_allclose(norms(variables=module)["module"], 2 * tanh_norms(PARAMETERS, images), rtol=1e-5)
    for change in ({"activation": jnp.sin}, {"scale": 3.0}, {"weights": 2 * module.weights}):
        with pytest.raises(ValueError, match="holds norms of other images, variables or functions"):
            norms(variables=dataclasses.replace(module, **change))


def test_a_plan_of_a_module_takes_its_arrays(images):
    module = Module(jnp.asarray(PARAMETERS), jnp.tanh, 2.0)
    plan = make_norm_plan(MODULES["module"], module, (6,), batch_size=5)
    found = plan.norms(dataclasses.replace(module, activation=None, scale=None), images)
    np.testing.assert_allclose(found, 2 * tanh_norms(PARAMETERS, images), rtol=1e-5)


# Loops over a mesh.


def scanned(weights, images):
    def step(carry, value):
        return jnp.tanh(carry @ weights[2:] + value[:, None] * weights[:1]), None

    return lax.scan(step, jnp.zeros((len(images), 4)), images.T)[0]


def condition(weights, images):
    return lax.cond(weights[0, 0] > 0, jnp.tanh, jnp.sin, images @ weights)


class Stack(nn.Module):
    """Two layers with parameters of their own, in nn.scan."""

    @nn.compact
    def __call__(self, x):
        layer = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        return layer()(x, None)[0]


class Layer(nn.Module):
    @nn.compact
    def __call__(self, carry, _):
        return nn.tanh(nn.Dense(6)(carry)), None


def stacked(weights, images):
    kernel = jnp.stack([weights[:, :1] @ weights[:, 1:2].T, weights[:, 2:3] @ weights[:, 3:].T])
    variables = {"params": {"ScanLayer_0": {"Dense_0": {"kernel": kernel, "bias": jnp.zeros((2, 6))}}}}
    return Stack().apply(variables, images)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_loops_and_conditions_over_a_mesh_with_an_axis_of_any_name(images, kind):
    functions = {"scan": scanned, "cond": condition, "nn.scan": stacked}
    mesh = jax.make_mesh((2, 2), ("batch", "model"), axis_types=(kind,) * 2)
    found = dataset_jacobian_norms(functions, PARAMETERS, images, mesh=mesh, axis="batch")
    with jax.enable_x64(True):
        for name, function in functions.items():
            weights, doubles = jnp.asarray(PARAMETERS, jnp.float64), jnp.asarray(images, jnp.float64)
            matrices = jax.vmap(lambda x, f=function, w=weights: jax.jacobian(lambda x: f(w, x[None])[0])(x))
            exact = np.linalg.norm(jax.jit(matrices)(doubles), axis=(1, 2))
            np.testing.assert_allclose(found[name], exact, rtol=1e-5, err_msg=name)


def test_a_loop_without_a_reverse_mode(images):
    def doubled(weights, images):
        return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, 2 * c[1]), (0, images @ weights))[1]

    plan = make_norm_plan(doubled, PARAMETERS, (6,), batch_size=5)
    assert (plan.mode, plan.passes) == ("forward", 6)
    np.testing.assert_allclose(plan.norms(PARAMETERS, images), 8 * np.linalg.norm(PARAMETERS), rtol=1e-5)


# Refused, or right.


def dropped(weights, images):
    """Dropout left on: one key gives every row a mask of its own."""
    kept = jax.random.bernoulli(jax.random.key(0), 0.5, (len(images), 4))
    return 2 * jnp.where(kept, images @ weights, 0)


def numbered(weights, images):
    return images @ weights + jnp.arange(len(images))[:, None]


@pytest.mark.parametrize("function", [dropped, numbered])
@pytest.mark.parametrize("size", [1, 5])
def test_functions_to_which_the_place_in_the_batch_matters_are_refused(images, function, size):
    with pytest.raises(ValueError, match=r"function 'f' gives .* another place of the batch: .* switch dropout off"):
        dataset_jacobian_norms({"f": function}, PARAMETERS, images[:size])


def test_one_mask_for_all_rows_is_a_function_of_the_image(images):
    def masked(weights, images):
        return (images @ weights) * jax.random.bernoulli(jax.random.key(0), 0.5, (1, 4))

    mask = np.asarray(jax.random.bernoulli(jax.random.key(0), 0.5, (4,)))
    found = dataset_jacobian_norms({"f": masked}, PARAMETERS, images)["f"]
    np.testing.assert_allclose(found, np.linalg.norm(PARAMETERS[:, mask].astype(np.float64)), rtol=1e-5)


def test_images_of_other_floats(images):
    found = dataset_jacobian_norms({"f": lambda w, x: jnp.tanh(x @ w)}, PARAMETERS, images.astype(np.float64))["f"]
    np.testing.assert_allclose(found, tanh_norms(PARAMETERS, images), rtol=1e-5)
    rounded = images.astype(jnp.bfloat16)
    found = dataset_jacobian_norms({"f": lambda w, x: jnp.tanh(x @ w)}, PARAMETERS, rounded)["f"]
    np.testing.assert_allclose(found, tanh_norms(PARAMETERS, rounded), rtol=1e-5)


ONES = np.ones((4, 3), np.float32)
MESH = jax.make_mesh((1,), ("batch",), devices=jax.devices()[:1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"functions": jnp.tanh}, "functions is a .*: give {name: function}"),
        ({"functions": {"a/b": jnp.tanh}}, "functions has the name 'a/b': give one that a file can have"),
        ({"functions": {3: jnp.tanh}}, "functions has the name 3: give one that a file can have"),
        ({"images": [[1.0, 2.0]]}, "images is a list: give one array"),
        ({"images": {"a": ONES}}, "images is a dict: give one array"),
        ({"images": np.float32(1)}, "images has shape .*: give at least one image"),
        ({"mesh": MESH}, "axis='data' is not in the mesh: name the one .*'batch'"),
        ({"mesh": MESH, "axis": "bach"}, "axis='bach' is not in the mesh: name the one .*'batch'"),
    ],
)
def test_bad_input(change, message):
    arguments = {"functions": {"f": lambda _, x: x}, "variables": {}, "images": ONES} | change
    config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match=message):
            dataset_jacobian_norms(**arguments)
    finally:
        config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("functions_of", [network_functions, contrastive_functions])
def test_modules_without_the_package_s_interface_are_refused(functions_of, images):
    with pytest.raises(ValueError, match=r"a Net has no apply\(variables, images, train=False\): write a function"):
        functions_of(Net(nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"a Dense has no apply\(variables, images, train=False\): write a function"):
        functions_of(nn.Dense(4))
    network = Trained()
    with pytest.raises(ValueError, match=r"a Trained gives a .* without 'embedding': write a function"):
        functions_of(network)["embedding"]({}, jnp.asarray(images))


class Trained(nn.Module):
    def __call__(self, images, train):
        return images
