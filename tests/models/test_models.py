"""Networks: shapes, parameter counts by hand, taps against finite differences and a net split by hand."""

import itertools
import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from osrjax import models
from osrjax.models import backbones
from osrjax.models.backbones import NETWORKS, SmallCNN, _pooled
from osrjax.models.networks import ContrastiveNetwork, OpenSetNetwork, Outputs, unit_vectors, zero_taps

KEY = jax.random.key(0)


def sizes(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def abstract(network: nn.Module, image_shape: tuple[int, ...], batch: int = 2):
    """Outputs and variables as shapes only: nothing is computed."""
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)

    def forward(images):
        return network.init_with_output(KEY, images, train=True)

    return jax.eval_shape(forward, images)


def drawn(network: nn.Module, image_shape: tuple[int, ...], seed: int = 0):
    """Random variables by NumPy, statistics that are not the initial ones included: nothing is compiled."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    shapes = jax.eval_shape(lambda images: network.init(KEY, images, train=False), images)
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name in ("var", "scale"):
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        fan_in = math.prod(leaf.shape[:-1]) if name == "kernel" else 4
        return jnp.asarray(rng.standard_normal(leaf.shape) * math.sqrt(2 / fan_in), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def images_of(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, shape), jnp.float32)


@partial(jax.jit, static_argnums=0)
def forward(network: OpenSetNetwork, variables, images, taps=None) -> Outputs:
    outputs = network.apply(variables, images, train=False, taps=taps)
    assert isinstance(outputs, Outputs)
    return outputs


class TinyCNN(nn.Module):
    """Two plain stages with explicit parameters, so that a test can run the second stage by hand."""

    @nn.compact
    def __call__(self, images, *, train, taps=None):
        first = backbones._tapped(jnp.tanh(nn.Dense(3, name="a")(images)), taps, 0)
        second = backbones._tapped(jnp.tanh(nn.Dense(4, name="b")(first)), taps, 1)
        return (first, second), backbones._average(second)


class Pixels(nn.Module):
    """The images themselves as map and their average as raw embedding: no arithmetic but the heads'."""

    def __call__(self, images, *, train, taps=None):
        return (images,), backbones._average(images)


@pytest.fixture(scope="module")
def tiny():
    network = OpenSetNetwork(SmallCNN(width=4, features=5), 3)
    return network, drawn(network, (8, 8, 1)), images_of(6, 8, 8, 1, seed=1)


# Parameters by hand. A convolution without bias has k k in out; a batch norm 2 channels; a linear layer
# (in + 1) out. The heads over D features: linear classifier (D + 1) K, prototypes D K, rotation 4 (D + 1).


def conv(inputs: int, outputs: int, kernel: int = 3) -> int:
    return kernel * kernel * inputs * outputs


def conv_norm(inputs: int, outputs: int, kernel: int = 3) -> int:
    return conv(inputs, outputs, kernel) + 2 * outputs


def small_cnn(channels: int) -> int:
    # 288 + 64, 18432 + 128, 73728 + 256, 147456 + 256, linear 129 * 128 = 16512: 257120 for 1 channel
    widths = [channels, 32, 64, 128, 128]
    return sum(conv_norm(a, b) for a, b in itertools.pairwise(widths)) + 129 * 128


def fast_cnn(channels: int) -> int:
    widths = [2 * 4 * channels, 32, 32, 96, 96, 192, 192]  # the 2x2 patches, with both signs
    return widths[0] + sum(conv_norm(a, b) for a, b in itertools.pairwise(widths))


def classifier32(channels: int) -> int:
    widths = [channels, 64, 64, 128, 128, 128, 128, 128, 128, 128]
    return sum(conv_norm(a, b) for a, b in itertools.pairwise(widths))


def wide_resnet(blocks: int, widen: int) -> int:
    total, inputs = conv(3, 16), 16
    for outputs in (16 * widen, 32 * widen, 64 * widen):
        for _ in range(blocks):  # pre-activation: the norms have the widths of their inputs
            total += 2 * inputs + conv(inputs, outputs) + 2 * outputs + conv(outputs, outputs)
            total += conv(inputs, outputs, 1) if inputs != outputs else 0
            inputs = outputs
    return total + 2 * inputs


def resnet(blocks: tuple[int, ...], *, bottleneck: bool, stem_kernel: int, first: int = 64) -> int:
    total, inputs = conv_norm(3, first, stem_kernel), first
    for stage, count in enumerate(blocks):
        width = first * 2**stage
        outputs = 4 * width if bottleneck else width
        for _ in range(count):
            if bottleneck:
                total += conv_norm(inputs, width, 1) + conv_norm(width, width)
                total += conv_norm(width, outputs, 1)
            else:
                total += conv_norm(inputs, width) + conv_norm(width, width)
            total += conv_norm(inputs, outputs, 1) if inputs != outputs else 0
            inputs = outputs
    return total


RESNET18 = resnet((2, 2, 2, 2), bottleneck=False, stem_kernel=3)
RESNET18_W16 = resnet((2, 2, 2, 2), bottleneck=False, stem_kernel=3, first=16)
RESNET34 = resnet((3, 4, 6, 3), bottleneck=False, stem_kernel=3)
RESNET50 = resnet((3, 4, 6, 3), bottleneck=True, stem_kernel=3)
COUNTS = [  # name, backbone parameters by formula, features, known total with a linear head, its classes
    ("small_cnn", small_cnn(3), 128, None, 10),
    ("fast_cnn", fast_cnn(3), 192, None, 10),
    ("classifier32", classifier32(3), 128, None, 10),
    ("wrn16_4", wide_resnet(2, 4), 256, 2_748_890, 10),  # "2.7M" in the paper's table
    ("resnet18_w16", RESNET18_W16, 128, None, 10),
    ("resnet18", RESNET18, 512, 11_173_962, 10),  # the CIFAR variant widely quoted as 11.17M
    ("resnet34", RESNET34, 512, 21_282_122, 10),
    ("resnet50", RESNET50, 2048, 23_520_842, 10),
]


@pytest.mark.parametrize(("name", "backbone", "features", "known", "classes"), COUNTS)
def test_parameter_counts(name, backbone, features, known, classes):
    _, variables = abstract(OpenSetNetwork(NETWORKS[name](), classes, "linear"), (32, 32, 3))
    params = variables["params"]
    assert sizes(params["backbone"]) == backbone
    assert sizes(params["classifier"]) == (features + 1) * classes
    assert sizes(params["rotation"]) == (features + 1) * 4
    if known is not None:
        assert sizes(params["backbone"]) + sizes(params["classifier"]) == known
    # the cosine head has prototypes in the classifier's place
    _, cosine = abstract(OpenSetNetwork(NETWORKS[name](), classes), (32, 32, 3))
    assert set(cosine["params"]) == {"backbone", "prototypes", "rotation"}
    assert cosine["params"]["prototypes"].shape == (classes, features)


@pytest.mark.parametrize(
    ("backbone", "classes", "known"),
    [
        (models.WideResNet(depth=28, widen=10), 10, 36_479_194),
        (models.ResNet(depth=18, stem="imagenet"), 1000, 11_689_512),
        (models.ResNet(depth=34, stem="imagenet"), 1000, 21_797_672),
        (models.ResNet(depth=50, stem="imagenet"), 1000, 25_557_032),
    ],
    ids=["wrn28_10", "resnet18", "resnet34", "resnet50"],
)
def test_parameter_counts_of_published_networks(backbone, classes, known):
    _, variables = abstract(OpenSetNetwork(backbone, classes, "linear"), (64, 64, 3))
    params = variables["params"]
    assert sizes(params["backbone"]) + sizes(params["classifier"]) == known


MAPS = {  # (height, channels) of each stage map at 32 x 32
    "small_cnn": [(16, 32), (8, 64), (4, 128)],
    "fast_cnn": [(15, 32), (7, 96), (3, 192)],
    "classifier32": [(16, 128), (8, 128), (4, 128)],
    "wrn16_4": [(32, 64), (16, 128), (8, 256)],
    "resnet18_w16": [(32, 16), (16, 32), (8, 64), (4, 128)],
    "resnet18": [(32, 64), (16, 128), (8, 256), (4, 512)],
    "resnet34": [(32, 64), (16, 128), (8, 256), (4, 512)],
    "resnet50": [(32, 256), (16, 512), (8, 1024), (4, 2048)],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_and_dtypes(name):
    network = OpenSetNetwork(NETWORKS[name](dtype=jnp.bfloat16), 6)
    outputs, variables = abstract(network, (32, 32, 3))
    assert [m.shape for m in outputs.maps] == [(2, h, h, c) for h, c in MAPS[name]]
    assert all(m.dtype == jnp.bfloat16 for m in outputs.maps)
    assert outputs.logits.shape == (2, 6)
    assert outputs.rotation_logits.shape == (2, 4)
    assert outputs.embedding.shape == outputs.raw_embedding.shape
    for array in (outputs.logits, outputs.embedding, outputs.raw_embedding, outputs.rotation_logits):
        assert array.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    taps = zero_taps(network, (32, 32, 3), 2)
    assert [(t.shape, t.dtype) for t in taps] == [(m.shape, m.dtype) for m in outputs.maps]


@pytest.mark.parametrize("name", ["small_cnn", "classifier32", "wrn16_4", "resnet18"])
@pytest.mark.parametrize("shape", [(8, 8, 1), (29, 20, 3)])
def test_any_image_size(name, shape):
    outputs, _ = abstract(OpenSetNetwork(NETWORKS[name](), 2), shape)
    assert outputs.logits.shape == (2, 2)
    assert min(outputs.maps[-1].shape) >= 1


def test_imagenet_stem_divides_by_32():
    outputs, _ = abstract(OpenSetNetwork(models.ResNet(stem="imagenet"), 2), (224, 224, 3))
    assert [m.shape[1] for m in outputs.maps] == [56, 28, 14, 7]


def test_cosine_head_is_a_product_of_unit_vectors(tiny):
    network, variables, images = tiny
    outputs = forward(network, variables, images)
    raw = np.asarray(outputs.raw_embedding, np.float64)
    prototypes = np.asarray(variables["params"]["prototypes"], np.float64)
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    cosines = unit @ (prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True)).T
    np.testing.assert_allclose(outputs.embedding, unit, atol=2e-7)
    np.testing.assert_allclose(outputs.logits, cosines, atol=5e-7)
    kernel, bias = (np.float64(variables["params"]["rotation"][name]) for name in ("kernel", "bias"))
    np.testing.assert_allclose(outputs.rotation_logits, raw @ kernel + bias, rtol=1e-4, atol=1e-6)
    # a prototype that lies on an embedding has cosine 1, whatever its length
    params = {**variables["params"]}
    params["prototypes"] = params["prototypes"].at[1].set(7.0 * outputs.embedding[2])
    moved = forward(network, {**variables, "params": params}, images)
    assert abs(float(moved.logits[2, 1]) - 1.0) < 3e-7


def test_linear_head_is_affine_in_the_raw_embedding():
    network = OpenSetNetwork(Pixels(), 3, "linear")
    images = images_of(4, 3, 3, 2)
    variables = drawn(network, images.shape[1:])
    outputs = forward(network, variables, images)
    weights = jax.tree.map(np.float64, variables["params"]["classifier"])
    expected = np.asarray(outputs.raw_embedding, np.float64) @ weights["kernel"] + weights["bias"][None]
    np.testing.assert_allclose(outputs.logits, expected, rtol=1e-5, atol=1e-7)


def test_prototypes_start_with_uniform_directions():
    network = OpenSetNetwork(Pixels(), 5000)
    prototypes = network.init(KEY, images_of(1, 2, 2, 4), train=False)["params"]["prototypes"]
    directions = np.asarray(unit_vectors(prototypes))
    assert abs(np.std(np.asarray(prototypes)) - 1.0) < 0.03
    np.testing.assert_allclose(directions.mean(0), 0.0, atol=0.03)
    np.testing.assert_allclose(directions.T @ directions / 5000, np.eye(4) / 4, atol=0.02)


def test_unit_vectors_are_safe_at_zero():
    vectors = jnp.array([[0.0, 0.0], [3.0, 4.0], [1e-10, 0.0], [-2e10, 0.0]])
    np.testing.assert_allclose(unit_vectors(vectors), [[0, 0], [0.6, 0.8], [1, 0], [-1, 0]], atol=1e-7)

    def total(v):
        return jnp.sum(unit_vectors(v) * jnp.array([[1.0, 2.0]]))

    gradient = jax.grad(total)(vectors)
    assert bool(jnp.isfinite(gradient).all())
    np.testing.assert_allclose(gradient[0], [1.0, 2.0])
    # by hand at (3, 4): (I - u u^T) g / 5 with u = (0.6, 0.8), g = (1, 2), u.g = 2.2
    np.testing.assert_allclose(gradient[1], [(1 - 0.6 * 2.2) / 5, (2 - 0.8 * 2.2) / 5], atol=1e-6)
    tangent = jax.jvp(unit_vectors, (vectors,), (jnp.ones_like(vectors),))[1]
    assert bool(jnp.isfinite(tangent).all())


def test_unit_vectors_whose_squares_leave_the_range():
    rows = jnp.array([[3e19, 4e19], [3e38, -1e38], [3e38, 1e-38], [3e17, 4e17]])
    exact = np.asarray(rows, np.float64)
    wanted = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    np.testing.assert_allclose(jax.jit(unit_vectors)(rows), wanted, rtol=1e-6, atol=1e-30)
    half = unit_vectors(jnp.array([[300.0, 400.0], [6e4, 6e4], [0.0, 0.0]], jnp.float16))
    assert half.dtype == jnp.float16
    np.testing.assert_allclose(half, [[0.6, 0.8], [0.5**0.5, 0.5**0.5], [0, 0]], atol=1e-3)
    # By hand at 1e19 (3, 4): (I - u u^T) g / 5e19 with u = (0.6, 0.8), g = (1, 2).
    gradient = jax.grad(lambda v: jnp.sum(unit_vectors(v) * jnp.array([1.0, 2.0])))(rows[0])
    np.testing.assert_allclose(gradient, [(1 - 0.6 * 2.2) / 5e19, (2 - 0.8 * 2.2) / 5e19], rtol=1e-5)


def test_unit_vectors_of_usual_size_have_the_bits_of_the_plain_formula(rng):
    rows = jnp.asarray(rng.normal(size=(50, 16)) * 10.0 ** rng.integers(-12, 12, (50, 1)), jnp.float32)
    plain = jax.jit(lambda v: v / jnp.sqrt(jnp.sum(jnp.square(v), axis=-1, keepdims=True)))
    np.testing.assert_array_equal(jax.jit(unit_vectors)(rows), plain(rows))


def test_black_network_gives_finite_cosines_and_gradients(tiny):
    network, variables, images = tiny
    params = {
        **variables["params"],
        "backbone": jax.tree.map(jnp.zeros_like, variables["params"]["backbone"]),
    }

    def total(params):
        return jnp.sum(forward(network, {**variables, "params": params}, images).logits)

    value, gradient = jax.jit(jax.value_and_grad(total))(params)
    assert float(value) == 0.0
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))


def test_tap_gradient_equals_the_net_split_by_hand():
    network = OpenSetNetwork(TinyCNN(), 3)
    images = images_of(2, 4, 4, 2)
    variables = drawn(network, images.shape[1:])
    weights = images_of(2, 3, seed=2)

    def scalar(taps):
        outputs = forward(network, variables, images, taps)
        return jnp.sum(weights * outputs.logits), outputs.maps

    taps = zero_taps(network, (4, 4, 2), 2)
    gradients, maps = jax.grad(scalar, has_aux=True)(taps)

    params = variables["params"]
    dense = params["backbone"]["b"]

    @jax.grad
    def from_first(first):
        second = jnp.tanh(first @ dense["kernel"] + dense["bias"][None, None, None])
        return from_second(second)

    def from_second(second):
        raw = second.mean((1, 2))
        embedding = raw / jnp.linalg.norm(raw, axis=1, keepdims=True)
        prototypes = params["prototypes"]
        unit = prototypes / jnp.linalg.norm(prototypes, axis=1, keepdims=True)
        return jnp.sum(weights * (embedding @ unit.T))

    np.testing.assert_allclose(gradients[0], from_first(maps[0]), atol=1e-6)
    np.testing.assert_allclose(gradients[1], jax.grad(from_second)(maps[1]), atol=1e-6)
    # the last stage feeds nothing but the average over pixels: its gradient is the same at each
    np.testing.assert_allclose(gradients[1], jnp.broadcast_to(gradients[1][:, :1, :1], maps[1].shape), atol=1e-8)


@pytest.mark.parametrize("train", [False, True])
def test_tap_gradient_equals_finite_differences(tiny, train):
    network, variables, images = tiny

    @jax.jit
    def scalar(taps):
        outputs, _ = network.apply(variables, images, train=train, taps=taps, mutable=["batch_stats"])
        return jnp.sum(jnp.square(outputs.logits)[:, 0]) + jnp.sum(outputs.rotation_logits[:, 1])

    taps = zero_taps(network, (8, 8, 1), 6)
    gradients = jax.jit(jax.grad(scalar))(taps)
    for stage, gradient in enumerate(gradients):
        assert float(jnp.max(jnp.abs(gradient))) > 0
        direction = images_of(*gradient.shape, seed=stage)
        ahead, back = ((*taps[:stage], step * direction, *taps[stage + 1 :]) for step in (1e-3, -1e-3))
        difference = (scalar(ahead) - scalar(back)) / 2e-3
        np.testing.assert_allclose(difference, jnp.sum(gradient * direction), rtol=0.02, atol=1e-3)


@pytest.mark.parametrize(
    "backbone",
    [models.WideResNet(10, 1), models.ResNet(18, "imagenet"), models.Classifier32()],
    ids=["wide_resnet", "resnet", "classifier32"],
)
def test_every_backbone_adds_its_taps_and_pools_its_last_map(backbone):
    network = OpenSetNetwork(backbone, 2)
    images = images_of(1, 8, 8, 3)
    variables = drawn(network, (8, 8, 3))
    zeros = zero_taps(network, (8, 8, 3), 1)
    plain = forward(network, variables, images, zeros)
    np.testing.assert_allclose(
        plain.raw_embedding, np.mean(np.asarray(plain.maps[-1], np.float64), (1, 2)), rtol=1e-5, atol=1e-6
    )
    if not isinstance(backbone, models.Classifier32):  # leaky
        assert all(float(m.min()) >= 0 for m in plain.maps)
    for stage in range(len(zeros)):
        taps = tuple(z + 100.0 * (i == stage) for i, z in enumerate(zeros))
        tapped = forward(network, variables, images, taps)
        changed = [bool(jnp.any(a != b)) for a, b in zip(plain.maps, tapped.maps, strict=True)]
        assert changed[: stage + 1] == [False] * stage + [True]
        assert bool(jnp.any(plain.raw_embedding != tapped.raw_embedding))
        assert bool(jnp.isfinite(tapped.logits).all())


def test_batch_norm_statistics_by_hand():
    norm = backbones._norm(True, jnp.float32)
    x = images_of(4, 3, 3, 2, seed=5) * jnp.array([1.0, 3.0])[None, None, None] + 0.5
    variables = backbones._norm(False, jnp.float32).init(KEY, x)
    y, updated = norm.apply(variables, x, mutable=["batch_stats"])
    x64 = np.asarray(x, np.float64)
    mean, variance = x64.mean((0, 1, 2)), x64.var((0, 1, 2))  # the biased variance also runs on
    np.testing.assert_allclose(y, (x64 - mean) / np.sqrt(variance + 1e-5), atol=2e-6)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.1 * mean, atol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.9 + 0.1 * variance, atol=1e-6)


def test_batch_norm_statistics_are_float32_in_bfloat16():
    # 1000 + noise of deviation 4: eight bits of mantissa would lose the mean's last digits
    x = jnp.asarray(1000 + 4 * np.random.default_rng(0).standard_normal((64, 4, 4, 1)), jnp.bfloat16)
    variables = backbones._norm(False, jnp.bfloat16).init(KEY, x)
    _, updated = backbones._norm(True, jnp.bfloat16).apply(variables, x, mutable=["batch_stats"])
    expected = 0.1 * np.asarray(x, np.float64).mean()
    np.testing.assert_allclose(updated["batch_stats"]["mean"], [expected], rtol=1e-5)


def test_convolutions_start_he_normal_by_fan_out():
    layer = backbones._conv(64, dtype=jnp.float32)
    kernel = layer.init(KEY, jnp.zeros((1, 4, 4, 32)))["params"]["kernel"]
    np.testing.assert_allclose(np.std(np.asarray(kernel)), np.sqrt(2 / (9 * 64)), rtol=0.02)


def test_inference_does_not_mix_images(tiny):
    network, variables, images = tiny
    apply = jax.jit(lambda x: network.apply(variables, x, train=False).embedding)
    together = apply(images)
    alone = jax.jit(jax.vmap(lambda x: apply(x[None])[0]))(images)
    np.testing.assert_allclose(together, alone, atol=1e-6)
    _, updated = network.apply(variables, images, train=False, mutable=["batch_stats"])
    for old, new in zip(
        jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(updated["batch_stats"]), strict=True
    ):
        np.testing.assert_array_equal(old, new)


def test_training_mixes_images_and_moves_the_statistics(tiny):
    network, variables, images = tiny
    outputs, updated = network.apply(variables, images, train=True, mutable=["batch_stats"])
    other, _ = network.apply(variables, images.at[1:].multiply(0.5), train=True, mutable=["batch_stats"])
    assert float(jnp.max(jnp.abs(outputs.embedding[0] - other.embedding[0]))) > 1e-4
    assert set(updated) == {"batch_stats"}
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), variables["batch_stats"], updated["batch_stats"])
    assert all(jax.tree.leaves(moved))


def test_bfloat16_is_close_to_float32(tiny):
    network, variables, images = tiny
    half = OpenSetNetwork(SmallCNN(width=4, features=5, dtype=jnp.bfloat16), 3)
    exact = forward(network, variables, images)
    rounded = forward(half, variables, images)
    assert rounded.logits.dtype == rounded.embedding.dtype == jnp.float32
    np.testing.assert_allclose(jnp.linalg.norm(rounded.embedding, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(rounded.logits, exact.logits, atol=0.06)
    assert float(jnp.max(jnp.abs(rounded.logits - exact.logits))) > 0  # bfloat16 was really used


@pytest.mark.parametrize("head", ["cosine", "linear"])
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_heads_keep_full_precision_on_accelerators(head, platform):
    network = OpenSetNetwork(Pixels(), 3, head)
    images = images_of(2, 3, 3, 2)
    variables = drawn(network, (3, 3, 2))
    with jax.default_matmul_precision("default"):
        traced = jax.jit(lambda x: forward(network, variables, x)).trace(images)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("dot_general") == 2
    assert text.count("precision = [HIGHEST, HIGHEST]") == 2


def test_projection_head_by_hand(tiny):
    """The backbone of the other network, then linear, ReLU, linear and unit norm in float64."""
    other, variables, images = tiny
    network = ContrastiveNetwork(other.backbone, hidden=7, features=3)
    own = drawn(network, images.shape[1:], seed=8)
    assert set(own["params"]) == {"backbone", "hidden", "projection"}
    params = own["params"] | {"backbone": variables["params"]["backbone"]}
    mixed = {"params": params, "batch_stats": variables["batch_stats"]}
    taps = tuple(images_of(*tap.shape, seed=i) for i, tap in enumerate(zero_taps(network, (8, 8, 1), 6)))
    outputs = jax.jit(lambda taps: network.apply(mixed, images, train=False, taps=taps))(taps)
    wanted = forward(other, variables, images, taps)
    np.testing.assert_allclose(outputs.embedding, wanted.raw_embedding, rtol=1e-5, atol=1e-6)
    for found, stage in zip(outputs.maps, wanted.maps, strict=True):
        np.testing.assert_allclose(found, stage, rtol=1e-5, atol=1e-6)
    x = np.asarray(outputs.embedding, np.float64)
    for name in ("hidden", "projection"):
        kernel, bias = (np.float64(params[name][part]) for part in ("kernel", "bias"))
        x = (np.maximum(x, 0) if name == "projection" else x) @ kernel + bias
    np.testing.assert_allclose(outputs.projection, x / np.linalg.norm(x, axis=1, keepdims=True), atol=2e-6)


def test_published_contrastive_network():
    """A linear layer of 512, a projection of 128, all in float32 whatever the backbone computes in."""
    network = ContrastiveNetwork(NETWORKS["resnet18"](dtype=jnp.bfloat16))
    outputs, variables = abstract(network, (32, 32, 3))
    params = variables["params"]
    assert sizes(params["backbone"]) == RESNET18
    assert sizes(params["hidden"]) == 513 * 512
    assert sizes(params["projection"]) == 513 * 128
    assert (outputs.projection.shape, outputs.embedding.shape) == ((2, 128), (2, 512))
    assert outputs.projection.dtype == outputs.embedding.dtype == jnp.float32
    assert [stage.shape[1:] for stage in outputs.maps] == [(h, h, c) for h, c in MAPS["resnet18"]]
    assert all(stage.dtype == jnp.bfloat16 for stage in outputs.maps)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_projections_keep_full_precision_on_accelerators(platform):
    network = ContrastiveNetwork(Pixels(), hidden=4, features=3)
    images = images_of(2, 3, 3, 2)
    variables = {"params": drawn(network, (3, 3, 2))["params"]}
    with jax.default_matmul_precision("default"):
        traced = jax.jit(lambda x: network.apply(variables, x, train=False)).trace(images)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("dot_general") == text.count("precision = [HIGHEST, HIGHEST]") == 2


def convolution64(x, kernel, stride=1):
    """3x3 or 1x1 convolution in float64, one pixel of zeros around the image for the former."""
    size = kernel.shape[0]
    pad = size // 2
    x = np.pad(np.asarray(x, np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = ((n - size) // stride + 1 for n in x.shape[1:3])
    out = np.zeros((x.shape[0], rows, columns, kernel.shape[-1]))
    for i, j in itertools.product(range(rows), range(columns)):
        patch = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
        out[:, i, j] = np.einsum("bhwc,hwco->bo", patch, np.asarray(kernel, np.float64))
    return out


class Float64:
    """Layers of a block in float64, taken from its variables in the order in which they were made."""

    def __init__(self, variables):
        self.params, self.stats = variables["params"], variables["batch_stats"]

    def conv(self, i, x, stride=1):
        return convolution64(x, self.params[f"Conv_{i}"]["kernel"], stride)

    def norm(self, i, x):
        affine, stats = self.params[f"BatchNorm_{i}"], self.stats[f"BatchNorm_{i}"]
        mean, variance, scale, bias = (
            np.float64(v) for v in (stats["mean"], stats["var"], affine["scale"], affine["bias"])
        )
        return (x - mean) / np.sqrt(variance + 1e-5) * scale + bias


def drawn_block(block, *args):
    variables = jax.eval_shape(lambda *a: block.init(KEY, *a, False), *args)
    rng = np.random.default_rng(4)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.2, 1.0, leaf.shape) - 0.4 * (leaf.ndim == 4), jnp.float32),
        variables,
    )


def relu(x):
    return np.maximum(x, 0)


@pytest.mark.parametrize("stride", [1, 2])
def test_bottleneck_block_in_float64(stride):
    block = backbones._ResidualBlock(2, stride, True, jnp.float32)
    x = images_of(2, 5, 5, 3, seed=6)
    variables = drawn_block(block, x)
    by_hand = Float64(variables)
    y = relu(by_hand.norm(0, by_hand.conv(0, x)))
    y = relu(by_hand.norm(1, by_hand.conv(1, y, stride)))
    y = by_hand.norm(2, by_hand.conv(2, y))
    shortcut = by_hand.norm(3, by_hand.conv(3, x, stride))
    actual = jax.jit(lambda x: block.apply(variables, x, False))(x)
    np.testing.assert_allclose(actual, relu(y + shortcut), rtol=1e-4, atol=1e-5)


def test_classifier32_in_float64():
    network = OpenSetNetwork(models.Classifier32(), 2)
    images, variables = images_of(1, 8, 8, 3), drawn(network, (8, 8, 3))
    outputs = forward(network, variables, images, zero_taps(network, (8, 8, 3), 1))
    by_hand = Float64({name: variables[name]["backbone"] for name in ("params", "batch_stats")})
    x = images
    for i, stride in enumerate([1, 1, 2] * 3):
        x = by_hand.norm(i, by_hand.conv(i, x, stride))
        x = np.where(x > 0, x, 0.2 * x)
        if stride == 2:
            np.testing.assert_allclose(outputs.maps[i // 3], x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(outputs.raw_embedding, x.mean((1, 2)), rtol=1e-4, atol=1e-4)


def test_basic_block_without_projection_in_float64():
    block = backbones._ResidualBlock(3, 1, False, jnp.float32)
    x = images_of(2, 5, 5, 3, seed=6)
    variables = drawn_block(block, x)
    by_hand = Float64(variables)
    y = relu(by_hand.norm(0, by_hand.conv(0, x)))
    y = by_hand.norm(1, by_hand.conv(1, y))
    actual = jax.jit(lambda x: block.apply(variables, x, False))(x)
    np.testing.assert_allclose(actual, relu(y + np.asarray(x)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("width", "stride"), [(3, 1), (4, 2)])
def test_pre_activation_block_in_float64(width, stride):
    block = backbones._PreActivationBlock(width, stride, jnp.float32)
    x, activated = images_of(2, 5, 5, 3, seed=6), images_of(2, 5, 5, 3, seed=7)
    variables = drawn_block(block, x, activated)
    by_hand = Float64(variables)
    y = relu(by_hand.norm(0, by_hand.conv(0, activated, stride)))
    y = by_hand.conv(1, y)
    # the shortcut is the raw sum where it fits, else a projection of the activated one
    shortcut = np.asarray(x) if width == 3 else by_hand.conv(2, activated, stride)
    actual = jax.jit(lambda x, a: block.apply(variables, x, a, False))(x, activated)
    np.testing.assert_allclose(actual, y + shortcut, rtol=1e-4, atol=1e-5)


class TestErrors:
    @pytest.mark.parametrize(
        ("build", "words"),
        [
            (lambda: OpenSetNetwork(SmallCNN(), 0), "classes=0"),
            (lambda: models.WideResNet(depth=17), "depth=17"),
            (lambda: models.WideResNet(depth=4), "depth=4"),
            (lambda: models.ResNet(depth=101), "depth=101"),
            (lambda: models.ResNet(width=0), "width=0"),
            (lambda: ContrastiveNetwork(SmallCNN(), hidden=0), "hidden=0"),
            (lambda: ContrastiveNetwork(SmallCNN(), features=-1), "features=-1"),
        ],
    )
    def test_fields(self, build, words):
        with pytest.raises(ValueError, match=words):
            build()

    # In the next two the annotation speaks first where annotations are checked, as they are here.
    @pytest.mark.parametrize(
        "build", [lambda word: OpenSetNetwork(SmallCNN(), 2, word), lambda word: models.ResNet(18, word)]
    )
    def test_words(self, build):
        with pytest.raises((ValueError, jaxtyping.TypeCheckError)):
            build("none")

    @pytest.mark.parametrize("images", [jnp.zeros((8, 8, 1)), jnp.zeros((2, 8, 8, 1), jnp.uint8)])
    def test_images(self, tiny, images):
        network, variables, _ = tiny
        with pytest.raises((ValueError, jaxtyping.TypeCheckError)):
            forward(network, variables, images)

    @pytest.mark.parametrize(
        ("change", "words"),
        [(lambda t: t[:2], r"len\(taps\)=2"), (lambda t: (*t, t[0]), r"len\(taps\)=4"),
         (lambda t: (t[0][:1], *t[1:]), r"taps\[0\]")],
    )  # fmt: skip
    def test_taps(self, tiny, change, words):
        network, variables, images = tiny
        taps = change(zero_taps(network, (8, 8, 1), 6))
        with pytest.raises(ValueError, match=words):
            forward(network, variables, images, taps)

    def test_contrastive(self, tiny):
        network = ContrastiveNetwork(tiny[0].backbone, hidden=4, features=3)
        images, variables = tiny[2], drawn(network, (8, 8, 1))
        with pytest.raises(ValueError, match=r"len\(taps\)=1"):
            network.apply(variables, images, train=False, taps=zero_taps(network, (8, 8, 1), 6)[:1])
        with pytest.raises((ValueError, jaxtyping.TypeCheckError)):
            network.apply(variables, images[0], train=False)


@pytest.mark.parametrize("shape", [(2, 7, 4, 3), (1, 2, 5, 2), (2, 1, 1, 3), (1, 1, 6, 1)])
def test_pooling_is_the_maximum_of_tiles(shape, rng):
    maps = rng.normal(size=shape).astype(np.float32)
    rows, columns = (max(1, size // 2) for size in shape[1:3])
    wanted = np.stack(
        [
            np.stack([maps[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].max(axis=(1, 2)) for c in range(columns)], axis=1)
            for r in range(rows)
        ],
        axis=1,
    )
    np.testing.assert_array_equal(_pooled(maps), wanted)


def test_patches_are_whitened_by_cosines(rng):
    images = rng.normal(size=(5, 3, 4, 3)).astype(np.float32)

    class Stem(nn.Module):
        @nn.compact
        def __call__(self, images):
            return backbones._whitened(images, True, jnp.float32)

    found, statistics = Stem().init_with_output(KEY, jnp.asarray(images))
    assert set(statistics) == {"batch_stats"}
    wanted = np.zeros((5, 2, 3, 12))

    def wave(k, i, n):
        return math.cos(math.pi * k * (i + 0.5) / n) * math.sqrt((1 if k == 0 else 2) / n)

    for row, column, channel in np.ndindex(2, 3, 12):
        a, b, c = np.unravel_index(channel, (2, 2, 3))
        for i, j, k in np.ndindex(2, 2, 3):
            weight = wave(a, i, 2) * wave(b, j, 2) * wave(c, k, 3)
            wanted[:, row, column, channel] += weight * images[:, row + i, column + j, k]
    wanted = (wanted - wanted.mean((0, 1, 2))) / np.sqrt(wanted.var((0, 1, 2)) + 1e-4)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 5), (5, 3)])
def test_convolutions_that_begin_as_the_identity(inputs, outputs, rng):
    layer = backbones._conv(outputs, dtype=jnp.float32, kernel_init=backbones._identity_first)
    images = jnp.asarray(rng.normal(size=(2, 4, 4, inputs)), jnp.float32)
    found, variables = layer.init_with_output(jax.random.key(0), images)
    np.testing.assert_allclose(found[..., :3], images[..., :3], atol=1e-6)
    kernel = backbones._identity_first(jax.random.key(1), (3, 3, 40, 80))
    np.testing.assert_allclose(np.std(np.asarray(kernel[..., 40:])), 1 / math.sqrt(3 * 9 * 40), rtol=0.02)
    assert variables["params"]["kernel"].shape == (3, 3, inputs, outputs)
