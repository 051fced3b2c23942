"""Meshes, and what eight virtual devices compute against one."""

import json
import os
import subprocess
import sys

import pytest

from osrjax import sharding

# In a process of its own, which has eight devices: prints what the tests below look at.
EIGHT = """
import json, math, re
import jax, jax.numpy as jnp, numpy as np
from osrjax import sharding
from osrjax.gradmix import GradMix, make_contrastive_objective
from osrjax.jacobian_dataset import dataset_jacobian_norms, make_norm_plan
from osrjax.loop import gather_batch
from osrjax.models import NETWORKS, ContrastiveNetwork, OpenSetNetwork
from osrjax.objectives import (
    CLASS_LOSSES, Batch, make_classify_objective, make_contrastive_augmentation, make_crop_and_flip)
from osrjax.train import evaluate, init_state, make_adam, make_sgd, make_train_step

generator = np.random.default_rng(0)
images = Batch(generator.integers(0, 256, (100, 8, 8, 1)).astype(np.uint8), np.arange(100, dtype=np.int32) % 6)
hyper = dict(
    learning_rate=0.01, final_learning_rate=1e-5, weight_decay=1e-3, margin=0.5, scale=16.0, intra_weight=1.0,
    inter_weight=1.0, schedule_steps=9.0, supcon_weight=1.0, ssl_weight=1.2, temperature=0.2,
    attribution_temperature=0.2, smallest_kept=0.5, largest_kept=0.9)
classifier = OpenSetNetwork(NETWORKS["small_cnn"](), 6)
contrastive = ContrastiveNetwork(NETWORKS["small_cnn"](), 32, 16)
recipes = {
    "m_ovr": (classifier, make_classify_objective(classifier, CLASS_LOSSES["m_ovr"], make_crop_and_flip()),
        make_sgd(total_steps=9)),
    "gradmix": (contrastive, make_contrastive_objective(contrastive, make_contrastive_augmentation(),
        mix=GradMix((1, 2, 3))), make_adam()),
}
COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?[(](.*)")

def compiled(name, devices, batch):
    network, objective, optimizer = recipes[name]
    mesh = sharding.data_mesh(devices)
    step = make_train_step(objective, optimizer)
    placed = sharding.spread(images, sharding.replicated(mesh))
    state = jax.jit(lambda: init_state(jax.random.key(0), network, optimizer, hyper, image_shape=(8, 8, 1)),
        out_shardings=sharding.replicated(mesh))()
    program = jax.jit(lambda state, images, rows, key: step(state, gather_batch(images, rows, mesh=mesh), key, hyper))
    rows = np.arange(batch)
    return program.lower(state, placed, rows, jax.random.key(1)).compile(), state, placed, mesh

def collectives(program):
    # Kind, shapes of the results, name of the operation.
    found = []
    for line in program.as_text().splitlines():
        if match := COLLECTIVE.search(line):
            shapes = re.findall(r"[a-z]+[0-9]+\\[([0-9,]*)\\]", match.group(1))
            operation = re.search(r'op_name="([^"]*)"', line)
            found.append((match.group(2), shapes, operation.group(1) if operation else ""))
    return found

report = {}
for name in recipes:
    runs = []
    for devices in (8, 1):
        program, state, placed, mesh = compiled(name, devices, 32)
        if devices == 8:
            report[name] = {
                "collectives": collectives(program),
                "kernels": [",".join(map(str, x.shape)) for x in jax.tree.leaves(state.params) if x.ndim > 1],
            }
        losses = []
        for step in range(3):
            state, metrics = program(state, placed, np.arange(step, step + 32), jax.random.key(1))
            losses.append(float(metrics["loss"]))
        runs.append((losses, jax.device_get(state.params), state, mesh))
    gap = max(float(np.abs(a - b).max()) for a, b in zip(*(jax.tree.leaves(run[1]) for run in runs)))
    report[name] |= {"losses": [run[0] for run in runs], "parameter_gap": gap}
    if name == "m_ovr":
        report["larger"] = collectives(compiled(name, 8, 64)[0])
        variables = [{"params": run[2].params, "batch_stats": run[2].stats} for run in runs]
        outputs = []
        for found, (*_, mesh) in zip(variables, runs):
            forward = jax.jit(lambda rows: classifier.apply(found, rows, train=False)._replace(maps=()),
                out_shardings=sharding.replicated(mesh))
            outputs.append(evaluate(forward, images.images, batch_size=30, mesh=mesh).logits)
        report["evaluation"] = [float(np.abs(outputs[0] - outputs[1]).max()), *outputs[0].shape]

def embedding(weights, rows):
    return jnp.tanh(rows.reshape(len(rows), -1) @ weights)

weights = generator.normal(size=(12, 5)).astype(np.float32)
floats = generator.uniform(-1, 1, (21, 2, 2, 3)).astype(np.float32)
mesh = sharding.data_mesh(8)
plan = make_norm_plan(embedding, weights, (2, 2, 3), batch_size=16, chunk_size=2, mesh=mesh)
spread, alone = (
    dataset_jacobian_norms({"e": embedding}, weights, floats, mesh=m, batch_size=16, chunk_size=2)["e"]
    for m in (mesh, None))
report["jacobian"] = {"collectives": collectives(plan.norms), "gap": float(np.abs(spread - alone).max()),
    "while": " while(" in plan.norms.as_text()}
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def eight():
    """What a process with eight virtual devices reports."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    environment |= {"XLA_FLAGS": "--xla_backend_optimization_level=0", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    done = subprocess.run(
        [sys.executable, "-c", EIGHT], env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["m_ovr", "gradmix"])
def test_eight_devices_train_as_one(name, eight):
    assert eight[name]["losses"][0] == pytest.approx(eight[name]["losses"][1], rel=1e-4)
    assert eight[name]["parameter_gap"] < 1e-3
    assert len({round(loss, 4) for loss in eight[name]["losses"][0]}) == 3  # steps were taken


def test_eight_devices_evaluate_every_image_as_one(eight):
    gap, *shape = eight["evaluation"]
    assert shape == [100, 6]  # of 100 images, in calls of 30, raised to 32
    assert gap < 1e-3


def size_of(shapes):
    sizes = []
    for shape in shapes:
        size = 1
        for length in filter(None, shape.split(",")):
            size *= int(length)
        sizes.append(size)
    return sum(sizes)


def test_the_gradient_is_reduced_once_in_as_many_bytes_for_any_batch(eight):
    for found in (eight["m_ovr"]["collectives"], eight["larger"]):
        kernels = set(eight["m_ovr"]["kernels"]) - {"128,4"}  # no rotations are predicted: that gradient is zero
        gradients = [shapes for _, shapes, _ in found if kernels & set(shapes)]
        assert len(gradients) == 1
        assert kernels <= set(gradients[0])
        for kind, shapes, operation in found:
            assert kind == "all-reduce"
            assert kernels & set(shapes) or "BatchNorm" in operation or not any(shapes), (shapes, operation)
    sizes = [[size_of(shapes) for _, shapes, _ in found] for found in (eight["m_ovr"]["collectives"], eight["larger"])]
    assert sorted(sizes[0]) == sorted(sizes[1])


def test_gradmix_reduces_the_gradient_of_each_of_its_two_passes(eight):
    """XLA for CPU adds the passes after it has reduced them; how many reductions it merges is its own affair."""
    kernels = [shape for shape in eight["gradmix"]["kernels"] if shape.count(",") == 3]  # of convolutions
    reduced = [shape for kind, shapes, _ in eight["gradmix"]["collectives"] if kind == "all-reduce" for shape in shapes]
    for kernel in kernels:
        assert reduced.count(kernel) == 2, kernel


def test_the_jacobian_driver_communicates_nothing(eight):
    assert eight["jacobian"]["collectives"] == []
    assert eight["jacobian"]["while"]
    assert eight["jacobian"]["gap"] < 1e-5


@pytest.mark.parametrize(
    ("lanes", "devices", "shape"),
    [(16, 4, (4, 1)), (2, 4, (2, 2)), (6, 4, (2, 2)), (3, 4, (1, 4)), (5, 1, (1, 1)), (4, None, (4, 1))],
)
def test_lanes_and_batches_share_the_devices_evenly(lanes, devices, shape):
    mesh = sharding.sweep_mesh(lanes, devices)
    assert mesh.axis_names == ("member", "data")
    assert mesh.devices.shape == shape
    assert lanes % shape[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"), [((0,), "lanes=0 is below 1"), ((4, 99), "devices=99 but 4 are visible: ask for 1 to 4")]
)
def test_bad_meshes(arguments, message):
    with pytest.raises(ValueError, match=message):
        sharding.sweep_mesh(*arguments)
