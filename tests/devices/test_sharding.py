"""Meshes, and what eight virtual devices compute against one."""

import json
import math
import os
import subprocess
import sys

import pytest
from conftest import OPTIONS

from osrjax.devices import sharding

RECIPES = ("m_ovr", "rotations", "gradmix")

# In a process of its own, which has eight devices: prints what the tests below look at.
EIGHT = """
import json, re
from functools import partial
import flax.linen as nn
import jax, jax.numpy as jnp, numpy as np
from osrjax.models import backbones
from osrjax.devices import sharding
from osrjax.methods.gradmix import make_contrastive_objective
from osrjax.methods.masks import Attribution, GradMix
from osrjax.analysis.norms import dataset_jacobian_norms, make_norm_plan
from osrjax.train.batches import gather_batch
from osrjax.models.networks import ContrastiveNetwork, OpenSetNetwork
from osrjax.methods.class_losses import CLASS_LOSSES
from osrjax.methods import make_classify_objective
from osrjax.train.objective import Batch
from osrjax.augment.views import make_contrastive_augmentation, make_crop_and_flip
from osrjax.train.parallel import data_parallel
from osrjax.train.apply import evaluate
from osrjax.train.step import init_state, make_train_step
from osrjax.train.optimizers import make_adam, make_sgd

generator = np.random.default_rng(0)
images = Batch(generator.integers(0, 256, (100, 8, 8, 1)).astype(np.uint8), np.arange(100, dtype=np.int32) % 6)
hyper = dict(
    learning_rate=0.01, final_learning_rate=1e-5, weight_decay=1e-3, margin=0.5, scale=16.0, intra_weight=1.0,
    inter_weight=1.0, rotation_weight=0.1, schedule_steps=9.0, supcon_weight=1.0, ssl_weight=1.2, temperature=0.2,
    attribution_temperature=0.2, smallest_kept=0.5, largest_kept=0.9)

class Two(nn.Module):
    # Two stages: small programs.
    @nn.compact
    def __call__(self, images, *, train, taps=None):
        x, maps = images, ()
        for stage, width in enumerate((12, 20)):
            x = backbones._conv(width, stride=2, dtype=jnp.float32)(x)
            x = backbones._tapped(nn.relu(backbones._norm(train, jnp.float32)(x)), taps, stage)
            maps += (x,)
        return maps, nn.Dense(24)(backbones._average(x))

classifier, contrastive = OpenSetNetwork(Two(), 6), ContrastiveNetwork(Two(), 28, 16)
classify = partial(make_classify_objective, class_loss=CLASS_LOSSES["m_ovr"], augmentation=make_crop_and_flip())
recipes = {
    "m_ovr": (classifier, classify, make_sgd(total_steps=9)),
    "rotations": (classifier, partial(classify, rotations="one"), make_sgd(total_steps=9)),
    "gradmix": (contrastive, partial(make_contrastive_objective, augmentation=make_contrastive_augmentation(),
        mix=GradMix(Attribution((1, 2)))), make_adam()),
}
COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?[(](.*)")

def compiled(name, devices, batch):
    network, make_objective, optimizer = recipes[name]
    mesh = sharding.data_mesh(devices)
    step = make_train_step(data_parallel(make_objective, network, mesh), optimizer)
    placed, state = sharding.spread((images, states[name]), sharding.replicated(mesh))
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

def gap(one, other):
    return max(float(np.abs(a - b).max()) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))

states = jax.device_get(jax.jit(lambda: {
    name: init_state(jax.random.key(0), network, optimizer, hyper, image_shape=(8, 8, 1))
    for name, (network, _, optimizer) in recipes.items()})())
report = {}
for name in recipes:
    runs = []
    for devices in (8, 1):
        program, state, placed, mesh = compiled(name, devices, 32)
        if devices == 8:
            report[name] = {
                "collectives": collectives(program),
                "larger": collectives(compiled(name, 8, 64)[0]),
                "kernels": [",".join(map(str, x.shape)) for x in jax.tree.leaves(state.params) if x.ndim > 1],
            }
        losses = []
        for step in range(3):
            state, metrics = program(state, placed, np.arange(step, step + 32), jax.random.key(1))
            losses.append(float(metrics["loss"]))
        runs.append((losses, jax.device_get(state), state, mesh))
    spread, alone = (run[1] for run in runs)
    report[name] |= {"losses": [run[0] for run in runs], "parameter_gap": gap(spread.params, alone.params),
        "statistics_gap": gap(spread.stats, alone.stats), "statistics_moved": gap(alone.stats, states[name].stats)}
    if name == "m_ovr":
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
    environment |= {"XLA_FLAGS": OPTIONS, "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    done = subprocess.run(
        [sys.executable, "-c", EIGHT], env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", RECIPES)
def test_eight_devices_train_as_one(name, eight):
    found = eight[name]
    assert found["losses"][0] == pytest.approx(found["losses"][1], rel=1e-4)
    assert found["parameter_gap"] < 1e-3
    assert found["statistics_gap"] < 1e-4 < 1e-2 < found["statistics_moved"]
    assert len({round(loss, 4) for loss in found["losses"][0]}) == 3  # steps were taken


def test_eight_devices_evaluate_every_image_as_one(eight):
    gap, *shape = eight["evaluation"]
    assert shape == [100, 6]  # of 100 images, in calls of 30, raised to 32
    assert gap < 1e-3


def sides(shape):
    """Of an array, in any order and without those of length 1."""
    return tuple(sorted(int(side) for side in shape.split(",") if side not in ("", "1")))


def size_of(shapes):
    return sum(math.prod(sides(shape)) for shape in shapes)


@pytest.mark.parametrize("name", RECIPES)
def test_the_gradient_is_reduced_once_in_as_many_bytes_for_any_batch(name, eight):
    """However many passes it comes from."""
    # Without rotations none are predicted, and that gradient is zero.
    kernels = sorted(sides(kernel) for kernel in eight[name]["kernels"] if name != "m_ovr" or kernel != "24,4")
    gradients = []
    for batch, found in ((32, eight[name]["collectives"]), (64, eight[name]["larger"])):
        rows = {(2 * batch,), tuple(sorted((2 * batch, 16)))} if name == "gradmix" else set()
        (gradient,) = [shapes for _, shapes, _ in found if set(kernels) & {sides(shape) for shape in shapes}]
        assert sorted(sides(shape) for shape in gradient if len(sides(shape)) > 1) == kernels
        gradients.append(gradient)
        for kind, shapes, operation in found:
            if kind != "all-reduce":
                assert kind == "all-gather"
                assert {sides(shape) for shape in shapes} <= rows, (shapes, operation)
            elif shapes is not gradient:
                left = {sides(shape) for shape in shapes} - rows - {()}
                assert not left or "BatchNorm" in operation, (shapes, operation)
                assert left <= {(12,), (20,), (2, 12), (2, 20)}, (shapes, operation)  # two sums of a batch norm
    assert size_of(gradients[0]) == size_of(gradients[1])
    if name != "gradmix":
        both = [sorted(size_of(shapes) for _, shapes, _ in eight[name][batch]) for batch in ("collectives", "larger")]
        assert both[0] == both[1]


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
