"""Networks: shapes, parameter counts by hand, taps against finite differences and a net split by hand."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from osrjax import models
from osrjax.models import NETWORKS, OpenSetNetwork, Outputs, SmallCNN, unit_vectors, zero_taps

KEY = jax.random.key(0)


def sizes(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def abstract(network: OpenSetNetwork, image_shape: tuple[int, ...], batch: int = 2):
    """Outputs and variables as shapes only: nothing is computed."""
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)

    def forward(images):
        return network.init_with_output(KEY, images, train=True)

    return jax.eval_shape(forward, images)


def images_of(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, shape), jnp.float32)


def forward(network: OpenSetNetwork, variables, images, taps=None) -> Outputs:
    outputs = network.apply(variables, images, train=False, taps=taps)
    assert isinstance(outputs, Outputs)
    return outputs


class TinyCNN(nn.Module):
    """Two plain stages with explicit parameters, so that a test can run the second stage by hand."""

    @nn.compact
    def __call__(self, images, *, train, taps=None):
        first = models._tapped(jnp.tanh(nn.Dense(3, name="a")(images)), taps, 0)
        second = models._tapped(jnp.tanh(nn.Dense(4, name="b")(first)), taps, 1)
        return (first, second), models._average(second)


@pytest.fixture(scope="module")
def tiny():
    """A small SmallCNN with running statistics that are not the initial ones."""
    network = OpenSetNetwork(SmallCNN(width=4, features=5), 3)
    images = images_of(6, 8, 8, 1, seed=1)
    variables = jax.jit(lambda k, x: network.init(k, x, train=False))(KEY, images)
    step = jax.jit(lambda v, x: network.apply(v, x, train=True, mutable=["batch_stats"])[1])
    for seed in range(3):
        variables = {**variables, **step(variables, 2 * images_of(6, 8, 8, 1, seed=seed) + 0.3)}
    return network, variables, images


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


def resnet(blocks: tuple[int, ...], *, bottleneck: bool, stem_kernel: int) -> int:
    total, inputs = conv_norm(3, 64, stem_kernel), 64
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
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
RESNET34 = resnet((3, 4, 6, 3), bottleneck=False, stem_kernel=3)
RESNET50 = resnet((3, 4, 6, 3), bottleneck=True, stem_kernel=3)
COUNTS = [  # name, backbone parameters by formula, features, known total with a linear head, its classes
    ("small_cnn", small_cnn(3), 128, None, 10),
    ("classifier32", classifier32(3), 128, None, 10),
    ("wrn16_4", wide_resnet(2, 4), 256, 2_748_890, 10),  # "2.7M" in the paper's table
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
    "classifier32": [(16, 128), (8, 128), (4, 128)],
    "wrn16_4": [(32, 64), (16, 128), (8, 256)],
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


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (33, 20, 3)])
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
    network = OpenSetNetwork(TinyCNN(), 3, "linear")
    images = images_of(4, 3, 3, 2)
    variables = network.init(KEY, images, train=False)
    outputs = forward(network, variables, images)
    weights = jax.tree.map(np.float64, variables["params"]["classifier"])
    expected = np.asarray(outputs.raw_embedding, np.float64) @ weights["kernel"] + weights["bias"][None]
    np.testing.assert_allclose(outputs.logits, expected, rtol=1e-5, atol=1e-7)


def test_prototypes_start_with_uniform_directions():
    network = OpenSetNetwork(TinyCNN(), 5000)
    prototypes = network.init(KEY, images_of(1, 3, 3, 2), train=False)["params"]["prototypes"]
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


def test_black_network_gives_finite_cosines_and_gradients(tiny):
    network, variables, images = tiny
    params = {
        **variables["params"],
        "backbone": jax.tree.map(jnp.zeros_like, variables["params"]["backbone"]),
    }

    def total(params):
        return jnp.sum(forward(network, {**variables, "params": params}, images).logits)

    value, gradient = jax.value_and_grad(total)(params)
    assert float(value) == 0.0
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))


def test_tap_gradient_equals_the_net_split_by_hand():
    network = OpenSetNetwork(TinyCNN(), 3)
    images = images_of(2, 4, 4, 2)
    variables = network.init(KEY, images, train=False)
    weights = jax.random.normal(jax.random.key(2), (2, 3))

    def scalar(taps):
        outputs = forward(network, variables, images, taps)
        return jnp.sum(weights * outputs.logits), outputs.maps

    taps = zero_taps(network, (4, 4, 2), 2)
    gradients, maps = jax.grad(scalar, has_aux=True)(taps)

    params = variables["params"]

    def from_first(first):
        return from_second(
            jnp.tanh(first @ params["backbone"]["b"]["kernel"] + params["backbone"]["b"]["bias"])
        )

    def from_second(second):
        raw = second.mean((1, 2))
        embedding = raw / jnp.linalg.norm(raw, axis=1, keepdims=True)
        prototypes = params["prototypes"]
        unit = prototypes / jnp.linalg.norm(prototypes, axis=1, keepdims=True)
        return jnp.sum(weights * (embedding @ unit.T))

    np.testing.assert_allclose(gradients[0], jax.grad(from_first)(maps[0]), atol=1e-6)
    np.testing.assert_allclose(gradients[1], jax.grad(from_second)(maps[1]), atol=1e-6)
    # the last stage feeds nothing but the average over pixels: its gradient is the same at each
    np.testing.assert_allclose(
        gradients[1], jnp.broadcast_to(gradients[1][:, :1, :1], maps[1].shape), atol=1e-8
    )


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
        direction = jax.random.normal(jax.random.key(stage), gradient.shape)

        def moved(step, stage=stage, direction=direction):
            return scalar(tuple(t + step * direction * (i == stage) for i, t in enumerate(taps)))

        difference = (moved(1e-3) - moved(-1e-3)) / 2e-3
        np.testing.assert_allclose(difference, jnp.sum(gradient * direction), rtol=0.02, atol=1e-3)


@pytest.mark.parametrize(
    "backbone",
    [models.WideResNet(10, 1), models.ResNet(18), models.ResNet(50, "imagenet"), models.Classifier32()],
    ids=["wide_resnet", "resnet_basic", "resnet_bottleneck", "classifier32"],
)
def test_every_backbone_adds_its_taps_and_pools_its_last_map(backbone):
    # bfloat16 is enough to see which tap arrives where, and tests the compute dtype at the same time
    network = OpenSetNetwork(backbone.clone(dtype=jnp.bfloat16), 2)
    images = images_of(1, 8, 8, 3)
    variables = jax.jit(lambda k, x: network.init(k, x, train=False))(KEY, images)
    apply = jax.jit(lambda taps: forward(network, variables, images, taps))
    zeros = zero_taps(network, (8, 8, 3), 1)
    plain = apply(zeros)
    np.testing.assert_allclose(
        plain.raw_embedding, np.mean(np.asarray(plain.maps[-1], np.float64), (1, 2)), rtol=1e-3, atol=1e-5
    )
    if not isinstance(backbone, models.Classifier32):  # leaky
        assert all(float(m.min()) >= 0 for m in plain.maps)
    for stage in range(len(zeros)):
        tapped = apply(tuple(z + 100.0 * (i == stage) for i, z in enumerate(zeros)))
        changed = [bool(jnp.any(a != b)) for a, b in zip(plain.maps, tapped.maps, strict=True)]
        assert changed[: stage + 1] == [False] * stage + [True]
        assert bool(jnp.any(plain.raw_embedding != tapped.raw_embedding))
        assert bool(jnp.isfinite(tapped.logits).all())


def test_batch_norm_statistics_by_hand():
    norm = models._norm(True, jnp.float32)
    x = images_of(4, 3, 3, 2, seed=5) * jnp.array([1.0, 3.0])[None, None, None] + 0.5
    variables = models._norm(False, jnp.float32).init(KEY, x)
    y, updated = norm.apply(variables, x, mutable=["batch_stats"])
    x64 = np.asarray(x, np.float64)
    mean, variance = x64.mean((0, 1, 2)), x64.var((0, 1, 2))  # the biased variance also runs on
    np.testing.assert_allclose(y, (x64 - mean) / np.sqrt(variance + 1e-5), atol=2e-6)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.1 * mean, atol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.9 + 0.1 * variance, atol=1e-6)


def test_batch_norm_statistics_are_float32_in_bfloat16():
    # 1000 + noise of deviation 4: eight bits of mantissa would lose the mean's last digits
    x = jnp.asarray(1000 + 4 * np.random.default_rng(0).standard_normal((64, 4, 4, 1)), jnp.bfloat16)
    variables = models._norm(False, jnp.bfloat16).init(KEY, x)
    _, updated = models._norm(True, jnp.bfloat16).apply(variables, x, mutable=["batch_stats"])
    expected = 0.1 * np.asarray(x, np.float64).mean()
    np.testing.assert_allclose(updated["batch_stats"]["mean"], [expected], rtol=1e-5)


def test_strided_convolution_pads_one_pixel_on_each_side():
    layer = models._conv(1, stride=2, dtype=jnp.float32)
    x = images_of(1, 6, 6, 1, seed=3)
    variables = layer.init(KEY, x)
    kernel = np.asarray(variables["params"]["kernel"], np.float64)[:, :, 0, 0]
    padded = np.pad(np.asarray(x, np.float64)[0, :, :, 0], 1)
    expected = [
        [np.sum(kernel * padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3]) for j in range(3)] for i in range(3)
    ]
    np.testing.assert_allclose(layer.apply(variables, x)[0, :, :, 0], expected, atol=1e-6)


def test_convolutions_start_he_normal_by_fan_out():
    layer = models._conv(64, dtype=jnp.float32)
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


def test_logits_keep_full_precision_on_accelerators():
    network = OpenSetNetwork(TinyCNN(), 3)
    images = images_of(2, 3, 3, 2)
    variables = network.init(KEY, images, train=False)

    def heads(raw):
        backbone = lambda images, *, train, taps=None: ((raw[:, None, None],), raw)  # noqa: E731
        return forward(network.clone(backbone=backbone), variables, images).logits

    with jax.default_matmul_precision("default"):
        for platform in ("tpu", "cuda"):
            text = jax.jit(heads).trace(jnp.ones((2, 4))).lower(lowering_platforms=(platform,)).as_text()
            assert "dot_general" in text
            assert "DEFAULT" not in text


class TestErrors:
    @pytest.mark.parametrize(
        ("build", "words"),
        [
            (lambda: OpenSetNetwork(SmallCNN(), 0), "classes=0"),
            (lambda: OpenSetNetwork(SmallCNN(), 2, "dot"), "head='dot'"),  # ty: ignore[invalid-argument-type]
            (lambda: models.WideResNet(depth=17), "depth=17"),
            (lambda: models.WideResNet(depth=4), "depth=4"),
            (lambda: models.ResNet(depth=101), "depth=101"),
            (lambda: models.ResNet(stem="none"), "stem='none'"),  # ty: ignore[invalid-argument-type]
        ],
    )
    def test_fields(self, build, words):
        with pytest.raises(ValueError, match=words):
            build()

    @pytest.mark.parametrize("images", [jnp.zeros((8, 8, 1)), jnp.zeros((2, 8, 8, 1), jnp.uint8)])
    def test_images(self, tiny, images):
        network, variables, _ = tiny
        # the shape annotation speaks first where it is checked
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
