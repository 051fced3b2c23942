"""Convolutions in canonical order: values of the original, in the order that the compiler wants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from osrjax.devices.convolutions import canonical_convolutions, patch_convolutions


def convolve(images, kernel, *, order=("NHWC", "HWIO", "NHWC"), strides=(1, 1), groups=1, dilation=(1, 1)):
    return lax.conv_general_dilated(
        images,
        kernel,
        strides,
        "SAME",
        dimension_numbers=order,
        feature_group_count=groups,
        rhs_dilation=dilation,
    )


def numpy_convolution(images, kernel):
    """NHWC, HWIO, stride 1, zero padding, by explicit sums in float64."""
    height, width = images.shape[1:3]
    padded = np.pad(images.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(
        np.einsum("nhwi,io->nhwo", padded[:, i : i + height, j : j + width], kernel[i, j].astype(np.float64))
        for i in range(3)
        for j in range(3)
    )


@pytest.mark.parametrize("rewrite", [canonical_convolutions, patch_convolutions])
@pytest.mark.parametrize("order", [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NHWC"), ("CHWN", "IHWO", "NCHW")])
def test_values_in_every_order(rng, order, rewrite):
    images, kernel = rng.normal(size=(2, 5, 4, 3)).astype(np.float32), rng.normal(size=(3, 3, 3, 6)).astype(np.float32)
    expected = numpy_convolution(images, kernel)
    placed = [
        np.transpose(array, ["NHWC".index(axis) if kind == "images" else "HWIO".index(axis) for axis in wanted])
        for array, kind, wanted in ((images, "images", order[0]), (kernel, "kernel", order[1]))
    ]
    found = jax.jit(rewrite(lambda x, k: convolve(x, k, order=order)))(*map(jnp.asarray, placed))
    np.testing.assert_allclose(found, np.transpose(expected, ["NHWC".index(a) for a in order[2]]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{"strides": (2, 2)}, {"groups": 2}, {"dilation": (2, 1)}])
def test_gradients_with_respect_to_both_operands(rng, options):
    images = jnp.asarray(rng.normal(size=(2, 6, 5, 4)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 4 // options.get("groups", 1), 6)), jnp.float32)

    def gradients(images, kernel):
        return jax.grad(lambda x, k: jnp.sum(jnp.sin(convolve(x, k, **options))), argnums=(0, 1))(images, kernel)

    expected = gradients(images, kernel)
    for found, wanted in zip(canonical_convolutions(gradients)(images, kernel), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    text = str(jax.make_jaxpr(canonical_convolutions(gradients))(images, kernel))
    assert text.count("lhs_spec=(0, 3, 1, 2), rhs_spec=(3, 2, 0, 1), out_spec=(0, 3, 1, 2)") == text.count("lhs_spec=")


def test_the_gradient_of_a_weight_over_more_images_than_a_cache_holds(rng):
    """Transposed slab by slab; 13 rows make slabs of two sizes. Against explicit sums in float64."""
    images = rng.normal(size=(40, 13, 9, 130)).astype(np.float32)  # 2.4 MB
    cotangents = rng.normal(size=(40, 13, 9, 3)).astype(np.float32)

    def gradient(images, cotangents):
        _, pullback = jax.vjp(lambda kernel: convolve(images, kernel), jnp.zeros((3, 3, 130, 3)))
        return pullback(cotangents)[0]

    rewritten = canonical_convolutions(gradient)
    assert "concatenate" in str(jax.make_jaxpr(rewritten)(images, cotangents))
    padded = np.pad(images.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    wanted = [
        [np.einsum("nhwi,nhwo->io", padded[:, i : i + 13, j : j + 9], cotangents.astype(np.float64)) for j in range(3)]
        for i in range(3)
    ]
    np.testing.assert_allclose(jax.jit(rewritten)(images, cotangents), wanted, rtol=1e-4, atol=1e-3)


def test_calls_loops_and_structures(rng):
    kernel = jnp.asarray(rng.normal(size=(3, 3, 2, 2)), jnp.float32)

    @jax.jit
    def inner(x):
        return convolve(x, kernel)

    def fn(inputs, unused):
        x = inner(inputs["x"])
        x, sums = lax.scan(lambda carry, _: (jnp.tanh(convolve(carry, kernel)), jnp.sum(carry)), x, None, length=3)
        x = lax.cond(sums[0] > 0, jnp.sin, jnp.cos, jax.nn.relu(x))
        return {"x": x, "sums": (sums, 2.0)}

    inputs = {"x": jnp.asarray(rng.normal(size=(1, 4, 4, 2)), jnp.float32)}
    found, expected = canonical_convolutions(fn)(inputs, None), fn(inputs, None)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


def test_vmap_grad_and_a_closure_over_traced_values(rng):
    kernel = jnp.asarray(rng.normal(size=(3, 3, 2, 3)), jnp.float32)
    images = jnp.asarray(rng.normal(size=(4, 1, 5, 5, 2)), jnp.float32)

    def energy(x, scale):
        return jnp.sum(canonical_convolutions(lambda image: scale * convolve(image, kernel))(x) ** 2)

    found = jax.jit(jax.vmap(jax.grad(energy), in_axes=(0, None)))(images, 2.0)
    for x, gradient in zip(images, found, strict=True):
        wanted = jax.grad(lambda x: jnp.sum((2.0 * convolve(x, kernel)) ** 2))(x)
        np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-4)


def test_a_gradient_inside_a_loop_reaches_the_library(rng):
    """What the module is for: the loop's convolution has the order in which XLA for CPU calls a library."""
    kernel = jnp.asarray(rng.normal(size=(3, 3, 2, 3)), jnp.float32)
    cotangents = jnp.asarray(rng.normal(size=(5, 2, 8, 8, 3)), jnp.float32)
    _, pullback = jax.vjp(lambda x: convolve(x, kernel), jnp.zeros((2, 8, 8, 2)))

    def compiled(pullback):
        return jax.jit(lambda c: lax.map(lambda g: pullback(g)[0], c)).lower(cotangents).compile().as_text()

    assert "b01f_01oi->b01f" in compiled(pullback)
    assert "b01f_01oi->b01f" not in compiled(canonical_convolutions(pullback))


@pytest.mark.parametrize("options", [{}, {"strides": (2, 2)}, {"strides": (2, 1)}, {"groups": 2}, {"dilation": (2, 1)}])
def test_patches_under_vmap_and_gradients_equal_a_loop_over_kernels(rng, options):
    images = jnp.asarray(rng.normal(size=(3, 2, 6, 5, 4)), jnp.float32)
    kernels = jnp.asarray(rng.normal(size=(3, 3, 3, 4 // options.get("groups", 1), 6)), jnp.float32)

    def value(images, kernel):
        return jnp.sum(jnp.sin(convolve(images, kernel, **options)))

    found = jax.jit(jax.vmap(jax.grad(patch_convolutions(value), argnums=(0, 1))))(images, kernels)
    for lane in range(3):
        wanted = jax.grad(value, argnums=(0, 1))(images[lane], kernels[lane])
        for part, expected in zip(found, wanted, strict=True):
            np.testing.assert_allclose(part[lane], expected, rtol=1e-4, atol=1e-4)


def test_no_plain_convolution_is_left_by_patches(rng):
    kernel = jnp.asarray(rng.normal(size=(3, 3, 2, 3)), jnp.float32)
    program = jax.make_jaxpr(jax.grad(lambda k: jnp.sum(patch_convolutions(convolve)(jnp.ones((1, 4, 4, 2)), k))))
    assert "conv_general_dilated" not in str(program(kernel))
    uneven = patch_convolutions(
        lambda x, k: lax.conv_general_dilated(
            x, k, (2, 2), ((1, 0), (0, 2)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    )
    images = rng.normal(size=(1, 5, 4, 2)).astype(np.float32)
    padded = np.pad(images, ((0, 0), (1, 0), (0, 2), (0, 0))).astype(np.float64)
    wanted = sum(
        np.einsum("nhwi,io->nhwo", padded[:, i : i + 3 : 2, j : j + 3 : 2], np.asarray(kernel[i, j], np.float64))
        for i in range(3)
        for j in range(3)
    )
    assert wanted.shape[1:3] == (2, 2)
    np.testing.assert_allclose(uneven(jnp.asarray(images), kernel), wanted, rtol=1e-5, atol=1e-5)
