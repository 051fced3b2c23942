"""Norms of models of four frameworks, with batch norm and dropout, against Jacobians written out by hand in float64."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from osrjax import jacobian
from osrjax.analysis.norms import dataset_jacobian_norms

INPUTS, HIDDEN, OUTPUTS, EPSILON = 6, 8, 3, 1e-5
SHAPES = {
    "first": (INPUTS, HIDDEN),
    "shift": (HIDDEN,),
    "scale": (HIDDEN,),
    "offset": (HIDDEN,),
    "mean": (HIDDEN,),
    "var": (HIDDEN,),
    "second": (HIDDEN, OUTPUTS),
}


@pytest.fixture
def weights(rng):
    """Of a dense layer, batch norm, ReLU, dropout and a dense layer; statistics far from those of a fresh network."""
    found = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    return found | {name: np.abs(found[name]) + np.float32(0.5) for name in ("scale", "var")}


@pytest.fixture
def images(rng):
    return rng.normal(size=(7, INPUTS)).astype(np.float32)


def norms_by_hand(weights, images):
    """Each Jacobian as a product of matrices: first @ diag(slope of the norm and the ReLU) @ second."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    slope = w["scale"] / np.sqrt(w["var"] + EPSILON)
    active = ((images.astype(np.float64) @ w["first"] + w["shift"] - w["mean"]) * slope + w["offset"]) > 0
    matrices = np.einsum("ih,nh,ho->nio", w["first"], active * slope, w["second"])
    return np.sqrt((matrices**2).sum(axis=(1, 2)))


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        x = nn.relu(nn.BatchNorm(use_running_average=not train, epsilon=EPSILON)(nn.Dense(HIDDEN)(x)))
        return nn.Dense(OUTPUTS)(nn.Dropout(0.5, deterministic=not train)(x))


def linen(weights):
    params = {
        "Dense_0": {"kernel": weights["first"], "bias": weights["shift"]},
        "BatchNorm_0": {"scale": weights["scale"], "bias": weights["offset"]},
        "Dense_1": {"kernel": weights["second"], "bias": np.zeros(OUTPUTS, np.float32)},
    }
    statistics = {"BatchNorm_0": {"mean": weights["mean"], "var": weights["var"]}}

    def function(variables, images, train=False):
        options = {"mutable": ["batch_stats"], "rngs": {"dropout": jax.random.key(1)}} if train else {}
        found = Linen().apply(variables, images, train=train, **options)
        return found[0] if train else found

    return function, {"params": params, "batch_stats": statistics}


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.first, self.norm = nnx.Linear(INPUTS, HIDDEN, rngs=rngs), nnx.BatchNorm(HIDDEN, epsilon=EPSILON, rngs=rngs)
        self.dropout, self.second = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(HIDDEN, OUTPUTS, rngs=rngs)

    def __call__(self, x):
        return self.second(self.dropout(nnx.relu(self.norm(self.first(x)))))


def of_nnx(weights):
    model = Nnx(nnx.Rngs(0))
    for place, name in (
        (model.first.kernel, "first"),
        (model.first.bias, "shift"),
        (model.norm.scale, "scale"),
        (model.norm.bias, "offset"),
        (model.norm.mean, "mean"),
        (model.norm.var, "var"),
        (model.second.kernel, "second"),
    ):
        place[...] = jnp.asarray(weights[name])
    model.eval()
    graph, state = nnx.split(model)

    def function(state, images, train=False):
        merged = nnx.merge(graph, state)
        if train:
            merged.train()
        return merged(images)

    return function, state


def equinox(weights):
    eqx = pytest.importorskip("equinox", reason="equinox is not installed: pip install '.[docs]'")

    class Model(eqx.Module):
        first: eqx.nn.Linear
        norm: eqx.nn.BatchNorm
        dropout: eqx.nn.Dropout
        second: eqx.nn.Linear

        def __init__(self, key):
            first, second = jax.random.split(key)
            self.first = eqx.nn.Linear(INPUTS, HIDDEN, key=first)
            self.second = eqx.nn.Linear(HIDDEN, OUTPUTS, key=second)
            self.norm = eqx.nn.BatchNorm(HIDDEN, axis_name="batch", mode="ema", eps=EPSILON)
            self.dropout = eqx.nn.Dropout(0.5)

        def __call__(self, x, state, key=None):
            x, state = self.norm(self.first(x), state)
            return self.second(self.dropout(jax.nn.relu(x), key=key)), state

    model, state = eqx.nn.make_with_state(Model)(jax.random.key(0))
    model = eqx.tree_at(
        lambda m: (m.first.weight, m.first.bias, m.norm.weight, m.norm.bias, m.second.weight),
        model,
        [jnp.asarray(weights[name].T) for name in ("first", "shift", "scale", "offset", "second")],
    )
    state = state.set(model.norm.ema_first_time_index, jnp.array(False))
    state = state.set(model.norm.ema_state_index, (jnp.asarray(weights["mean"]), jnp.asarray(weights["var"])))

    def function(variables, images, train=False):
        model, state = variables
        if not train:
            return jax.vmap(lambda x: model(x, state)[0])(images)
        keys = jax.random.split(jax.random.key(1), len(images))
        trained = eqx.nn.inference_mode(model, value=False)
        return jax.vmap(lambda x, key: trained(x, state, key)[0], axis_name="batch")(images, keys)

    return function, (eqx.nn.inference_mode(model), state)


def haiku(weights):
    hk = pytest.importorskip("haiku", reason="haiku is not installed: pip install '.[docs]'")

    def model(x, train):
        norm = hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9, eps=EPSILON)
        x = jax.nn.relu(norm(hk.Linear(HIDDEN)(x), is_training=train))
        return hk.Linear(OUTPUTS)(hk.dropout(hk.next_rng_key(), 0.5, x) if train else x)

    transformed = hk.transform_with_state(model)
    params, state = transformed.init(jax.random.key(0), jnp.zeros((1, INPUTS)), train=True)
    params |= {"linear": {"w": weights["first"], "b": weights["shift"]}}
    params |= {"batch_norm": {name: jnp.asarray(weights[name])[None] for name in ("scale", "offset")}}
    params |= {"linear_1": {"w": weights["second"], "b": np.zeros(OUTPUTS, np.float32)}}
    for moment, name in (("mean", "mean"), ("var", "var")):
        state[f"batch_norm/~/{moment}_ema"]["average"] = jnp.asarray(weights[name])[None]

    def function(variables, images, train=False):
        return transformed.apply(*variables, jax.random.key(1) if train else None, images, train=train)[0]

    return function, (params, state)


@pytest.mark.parametrize("framework", [linen, of_nnx, equinox, haiku], ids=lambda function: function.__name__)
def test_models_with_batch_norm_and_dropout(framework, weights, images):
    function, variables = framework(weights)
    exact = norms_by_hand(weights, images)
    found = dataset_jacobian_norms({"f": function}, variables, images)["f"]
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    batched = jacobian.input_jacobian_norms(lambda x: function(variables, x), jnp.asarray(images))
    np.testing.assert_allclose(batched, exact, rtol=1e-5)
    with pytest.raises(ValueError, match="function 'f' lets images interact"):
        dataset_jacobian_norms({"f": lambda v, x: function(v, x, train=True)}, variables, images)
