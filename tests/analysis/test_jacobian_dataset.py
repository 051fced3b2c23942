"""The data-set driver: equal to brute force, within its budget, resumable, and suspicious."""

import fcntl
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osrjax.analysis import norms as jacobian_dataset
from osrjax.analysis.norms import dataset_jacobian_norms, make_norm_plan
from osrjax.devices.sharding import data_mesh
from osrjax.models.backbones import SmallCNN
from osrjax.models.networks import OpenSetNetwork
from osrjax.models.outputs import network_functions

NETWORK = OpenSetNetwork(SmallCNN(width=4, features=6), 3)
SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def variables():
    rng = np.random.default_rng(7)
    shapes = jax.eval_shape(lambda: NETWORK.init(jax.random.key(0), jnp.zeros((1, *SHAPE)), train=False))
    drawn = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)
    drawn["batch_stats"] = jax.tree.map(jnp.abs, drawn["batch_stats"])
    return drawn


def brute_force(function, variables, images):
    jacobians = jax.jit(jax.vmap(jax.jacrev(lambda x: function(variables, x[None])[0])))(jnp.asarray(images))
    return np.sqrt(np.sum(np.asarray(jacobians, np.float64).reshape(len(images), -1) ** 2, axis=1))


def images_of(rng, size):
    return rng.uniform(-1, 1, size=(size, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize("mode", ["auto", "forward"])
def test_norms_of_every_image_and_function(rng, variables, mode):
    images, functions = images_of(rng, 7), network_functions(NETWORK)
    if mode == "forward":
        functions = {"logits": functions["logits"]}
    found = dataset_jacobian_norms(functions, variables, images, batch_size=4, chunk_size=4, mode=mode)
    assert list(found) == list(functions)
    for name, function in functions.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], brute_force(function, variables, images), rtol=2e-5)


def test_a_mesh_gives_the_same_and_does_not_communicate(rng, variables):
    images, function = images_of(rng, 6), network_functions(NETWORK)["embedding"]
    mesh = data_mesh()
    found = dataset_jacobian_norms({"f": function}, variables, images, mesh=mesh, batch_size=4)["f"]
    np.testing.assert_allclose(found, brute_force(function, variables, images), rtol=2e-5)
    plan = make_norm_plan(function, variables, SHAPE, batch_size=4, mesh=mesh)
    text = plan.norms.as_text()
    assert not [word for word in ("all-reduce", "all-gather", "all-to-all", "collective-permute") if word in text]


def perceptron(weights, images):  # small to compile, large to differentiate
    hidden = jnp.tanh(images.reshape(len(images), -1) @ weights)
    return jnp.tanh(hidden @ weights.T) @ weights[:, :32]


def test_plan_keeps_the_budget():
    weights = jnp.ones((64, 512))
    options = {"image_shape": SHAPE, "batch_size": 32}
    free = make_norm_plan(perceptron, weights, chunk_size=16, **options)
    assert (free.mode, free.passes, free.chunk_size, free.batch_size) == ("reverse", 32, 16, 32)
    one = make_norm_plan(perceptron, weights, chunk_size=1, **options)
    # Arguments and results count: 64 x 512 weights, 32 images of 64 values, 32 norms, 4 bytes each.
    assert free.memory > one.memory > 4 * (64 * 512 + 32 * 64 + 32)
    between = make_norm_plan(perceptron, weights, chunk_size=16, memory_budget=free.memory - 1, **options)
    assert one.memory < between.memory < free.memory
    assert between.batch_size == 32
    assert 1 < between.chunk_size < 16
    fewer = make_norm_plan(perceptron, weights, memory_budget=one.memory - 1, **options)
    assert fewer.memory < one.memory
    assert 1 < fewer.batch_size < 32
    with pytest.raises(ValueError, match="memory_budget=100 bytes is too small: one image at a time needs"):
        make_norm_plan(perceptron, weights, SHAPE, memory_budget=100)


def test_large_network_fits_a_gibibyte_by_default():
    """WRN-16-4, 128 images of 32x32x3 to 256 features; compiled, not run. The whole Jacobians alone are 384 MiB."""
    from osrjax.models.backbones import NETWORKS

    network = OpenSetNetwork(NETWORKS["wrn16_4"](), 6)
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    plan = make_norm_plan(network_functions(network)["embedding"], variables, (32, 32, 3), batch_size=128)
    assert (plan.batch_size, plan.passes) == (128, 256)
    assert plan.memory < 2**30


def test_files_are_kept_and_used_again(rng, variables, tmp_path, monkeypatch):
    images, functions = images_of(rng, 5), network_functions(NETWORK)
    functions = {"embedding": functions["embedding"]}
    first = dataset_jacobian_norms(functions, variables, images, batch_size=2, directory=tmp_path / "norms")
    np.testing.assert_array_equal(np.load(tmp_path / "norms" / "embedding.npy"), first["embedding"])
    assert sorted(path.name for path in (tmp_path / "norms").glob("[!.]*")) == ["content.json", "embedding.npy"]
    monkeypatch.setattr(jacobian_dataset, "make_norm_plan", None)  # nothing is computed a second time
    again = dataset_jacobian_norms(functions, variables, images, batch_size=2, directory=tmp_path / "norms")
    np.testing.assert_array_equal(again["embedding"], first["embedding"])
    with pytest.raises(ValueError, match="holds norms of other images, variables or functions: choose another"):
        dataset_jacobian_norms(functions, variables, images[:4], directory=tmp_path / "norms")
    other = {"embedding": network_functions(NETWORK)["raw_embedding"]}
    with pytest.raises(ValueError, match="holds norms of other images, variables or functions: choose another"):
        dataset_jacobian_norms(other, variables, images, directory=tmp_path / "norms")


def test_a_directory_with_other_arrays_or_in_use_is_refused(rng, tmp_path):
    images = images_of(rng, 3)
    np.save(tmp_path / "f.npy", np.arange(3.0))
    with pytest.raises(ValueError, match="holds arrays of unknown origin: choose another"):
        dataset_jacobian_norms({"f": square_root}, {}, images, directory=tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "f.npy"), np.arange(3.0))
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="is in use by another process: choose another"):
            dataset_jacobian_norms({"f": square_root}, {}, images, directory=tmp_path)
    whole = dataset_jacobian_norms({"g": square_root}, {}, images, directory=tmp_path / "new")
    shorter = {"g": lambda variables, images: images[:, :1, 0]}
    with pytest.raises(ValueError, match="holds norms of other images, variables or functions"):
        dataset_jacobian_norms(shorter, {}, images, directory=tmp_path / "new")
    np.testing.assert_array_equal(np.load(tmp_path / "new" / "g.npy"), whole["g"])


def test_only_missing_batches_are_computed(rng, variables, tmp_path):
    images, function = images_of(rng, 5), network_functions(NETWORK)["embedding"]
    whole = dataset_jacobian_norms({"f": function}, variables, images, batch_size=2)["f"]
    dataset_jacobian_norms({"f": function}, variables, images, batch_size=2, directory=tmp_path)
    (tmp_path / "f.npy").rename(tmp_path / ".f.npy.partial")  # as a killed call leaves it: the second batch missing
    partly = np.load(tmp_path / ".f.npy.partial", mmap_mode="r+")
    partly[2:4] = np.nan, 5.0
    partly.flush()
    found = dataset_jacobian_norms({"f": function}, variables, images, batch_size=2, directory=tmp_path)["f"]
    np.testing.assert_array_equal(found, whole)


KILLED = """
import sys, numpy as np, jax, jax.numpy as jnp
from osrjax.analysis.norms import dataset_jacobian_norms
from osrjax.analysis.norm_store import NormStore
import time
weights = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)
images = np.random.default_rng(1).normal(size=(40, 6)).astype(np.float32)
put = NormStore.put
NormStore.put = lambda *a: (put(*a), print("batch", flush=True), time.sleep(float(sys.argv[2])))
function = lambda weights, x: jnp.tanh(x @ weights)
found = dataset_jacobian_norms({"f": function}, weights, images, batch_size=4, directory=sys.argv[1])
np.save(sys.argv[1] + "/result.npy", found["f"])
"""


def test_a_killed_call_goes_on(tmp_path):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}

    def command(directory, pause):
        return [sys.executable, "-c", KILLED, str(tmp_path / directory), pause]

    subprocess.run(command("whole", "0"), env=environment, check=True, capture_output=True)
    process = subprocess.Popen(command("killed", "0.2"), env=environment, stdout=subprocess.PIPE, text=True)
    for _ in range(3):
        process.stdout.readline()
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "killed" / "f.npy").exists()
    resumed = subprocess.run(command("killed", "0"), env=environment, check=True, capture_output=True, text=True)
    assert 1 <= resumed.stdout.count("batch") <= 7  # of ten
    found, whole = (np.load(tmp_path / name / "result.npy") for name in ("killed", "whole"))
    np.testing.assert_array_equal(found, whole)


def training_mode(variables, images):
    return NETWORK.apply(variables, images, train=True, mutable="batch_stats")[0].embedding


def leaks_backwards(variables, images):
    return images[:, 0, 0] + jnp.roll(images, -1, axis=0)[:, 1, 1] * 1e-3


def centred_in_groups_of_four(variables, images):  # as ghost batch normalisation does
    groups = images.reshape(-1, 4, *SHAPE)
    return (groups - groups.mean(axis=1, keepdims=True)).reshape(images.shape)


def centred_in_pairs(variables, images):
    pairs = images.reshape(-1, 2, *SHAPE)
    return (pairs - pairs.mean(axis=1, keepdims=True)).reshape(images.shape)


def root_of_the_others(variables, images):
    return images[:, 0, 0] + jnp.sqrt(images[:1, 0, 0])


@pytest.mark.parametrize(
    ("function", "size"),
    [
        (training_mode, 1),
        (training_mode, 7),
        (leaks_backwards, 2),
        (centred_in_groups_of_four, 8),
        (centred_in_pairs, 9),
        (root_of_the_others, 3),
    ],
)
def test_images_that_interact_are_refused(rng, variables, function, size):
    with pytest.raises(ValueError, match=r"function 'f' lets images interact: .*running statistics"):
        dataset_jacobian_norms({"f": function}, variables, images_of(rng, size))


def square_root(variables, images):
    return jnp.sqrt(images[:, 0, 0] + 2.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((0, *SHAPE), np.float32)}, "images has shape .0, 8, 8, 1.: give at least one"),
        ({"images": np.zeros((2, *SHAPE), np.uint8)}, "images has dtype uint8: give floats.*to_float"),
        ({"images": np.full((2, *SHAPE), np.nan, np.float32)}, r"images\[0\] is not finite"),
        ({"functions": {"f": lambda v, x: jnp.sum(x)}}, "function 'f' gives .*: keep the batch's axis first"),
        ({"functions": {"f": lambda v, x: x[:, :0]}}, "function 'f' gives .* then at least one output"),
        ({"images": np.full((2, *SHAPE), 1e300)}, r"images\[0\] is not finite"),
        ({"batch_size": 0}, "batch_size=0 is no positive multiple"),
        ({"chunk_size": 0}, "chunk_size=0 is below 1"),
        ({"memory_budget": 10}, "memory_budget=10 bytes is too small"),
    ],
)
def test_bad_input(rng, change, message):
    arguments = {"functions": {"f": square_root}, "images": images_of(rng, 3)} | change
    with pytest.raises(ValueError, match=message):
        dataset_jacobian_norms(arguments.pop("functions"), {}, arguments.pop("images"), **arguments)


def test_a_mesh_wants_batches_that_it_can_share(rng):
    with pytest.raises(ValueError, match="batch_size=6 is no positive multiple of the 4 devices"):
        dataset_jacobian_norms({"f": square_root}, {}, images_of(rng, 8), batch_size=6, mesh=data_mesh())


@pytest.mark.parametrize("value", [-2.0, -3.0])  # an infinite derivative, and NaN
def test_a_jacobian_that_is_not_finite_is_named_and_the_others_kept(rng, tmp_path, value):
    images = images_of(rng, 5)
    images[3, 0, 0] = value
    with pytest.raises(ValueError, match=r"the Jacobian of 'f' at images\[3\] is not finite \(1 of 2 in its batch\)"):
        dataset_jacobian_norms({"f": square_root}, {}, images, batch_size=2, directory=tmp_path)
    kept = np.load(tmp_path / ".f.npy.partial")
    np.testing.assert_allclose(kept[:2], 0.5 / np.sqrt(images[:2, 0, 0, 0] + 2), rtol=1e-5)
