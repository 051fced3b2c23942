"""Exact Jacobian norms against central differences and Jacobians by hand; what all of jacobian.py refuses."""

import inspect
import itertools
import math
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from jaxtyping import config

from osrjax import jacobian

INPUTS, HIDDEN, OUTPUTS = (2, 3, 1), 7, 5
MODES: tuple[Literal["forward"], Literal["reverse"]] = ("forward", "reverse")
ACTIVATIONS = {  # for JAX, for NumPy, derivative
    "tanh": (jnp.tanh, np.tanh, lambda h: 1 - np.tanh(h) ** 2),
    "relu": (jax.nn.relu, lambda h: np.maximum(h, 0), lambda h: (h > 0).astype(float)),
}


def mlp(params, x, activation=jnp.tanh):
    """Two layers on a flattened image; in NumPy too, given its activation."""
    (w1, b1), (w2, b2) = params
    return w2 @ activation(w1 @ x.reshape(-1) + b1) + b2


def mlp_jacobian(params, x, slope=ACTIVATIONS["tanh"][2]):
    (w1, b1), (w2, _) = params
    return ((w2 * slope(w1 @ x.reshape(-1) + b1)) @ w1).reshape(-1, *x.shape)


def differences(fn, x, step=1e-5):
    """Central differences in float64, one input entry at a time: [*outputs, *inputs]."""
    columns = []
    for index in np.ndindex(x.shape):
        offset = np.zeros(x.shape)
        offset[index] = step
        columns.append((fn(x + offset) - fn(x - offset)) / (2 * step))
    return np.stack(columns, axis=-1).reshape((*np.shape(columns[0]), *x.shape))


@pytest.fixture
def params(rng):
    inputs = math.prod(INPUTS)
    return (
        (rng.normal(size=(HIDDEN, inputs)), rng.normal(size=HIDDEN)),
        (rng.normal(size=(OUTPUTS, HIDDEN)), rng.normal(size=OUTPUTS)),
    )


@pytest.fixture
def x(params, rng):
    """An image whose hidden sums are all at least 0.1 from the kink of a ReLU."""
    (w1, b1), _ = params
    while True:
        x = rng.uniform(-1, 1, INPUTS)
        if np.abs(w1 @ x.reshape(-1) + b1).min() > 0.1:
            return x


@pytest.fixture
def unchecked():
    """Annotations that stay silent, so that the functions' own errors are heard."""
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)


def single(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def double(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_jacobian_by_hand_and_by_differences(name, mode, params, x, x64):
    activation, numpys, slope = ACTIVATIONS[name]
    by_hand = mlp_jacobian(params, x, slope)
    by_differences = differences(lambda x: mlp(params, x, numpys), x)
    np.testing.assert_allclose(by_hand, by_differences, rtol=1e-7, atol=1e-8)
    for cast, dtype, rtol in ((double, jnp.float64, 1e-12), (single, jnp.float32, 1e-5)):

        @jax.jit
        def both(params, x):
            fn = partial(mlp, params, activation=activation)
            norms = jacobian.jacfwd_norm(fn, x), jacobian.input_jacobian_norm(fn, x, mode=mode)
            return jacobian.input_jacobian(fn, x, mode=mode), norms

        found, norms = both(cast(params), cast(x))
        assert found.shape == (OUTPUTS, *INPUTS)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, by_hand, rtol=rtol, atol=rtol)
        for norm in norms:
            assert norm.shape == ()
            assert norm.dtype == dtype
            np.testing.assert_allclose(norm, np.linalg.norm(by_hand), rtol=rtol)


def test_every_mode_and_chunk_size_gives_the_same_norms(params, x, rng):
    images = np.stack([x, *rng.uniform(-1, 1, (2, *INPUTS))])
    # 4 divides neither the 5 outputs nor the 6 inputs; 11 is more than either
    options: list[Any] = [("auto", None), ("reverse", 5), *itertools.product(MODES, [1, 4, 11])]

    @jax.jit
    def norms(params, images):
        fn = partial(mlp, params)
        return [
            (
                jacobian.input_jacobian_norms(jax.vmap(fn), images, mode=mode, chunk_size=chunk_size),
                jacobian.input_jacobian_norm(fn, images[0], mode=mode, chunk_size=chunk_size),
            )
            for mode, chunk_size in options
        ]

    wanted = [np.linalg.norm(mlp_jacobian(params, image)) for image in images]
    for option, (batched, alone) in zip(options, norms(single(params), single(images)), strict=True):
        np.testing.assert_allclose(batched, wanted, rtol=1e-5, err_msg=option)
        np.testing.assert_allclose(alone, wanted[0], rtol=1e-5, err_msg=option)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
def test_linear_map_and_scaling(shape, mode, rng):
    w, x = single(rng.normal(size=shape)), single(rng.normal(size=shape[1]))

    @jax.jit
    def norms(x):
        norm = partial(jacobian.input_jacobian_norm, mode=mode, chunk_size=4)
        return (
            norm(lambda x: w @ x, x),
            norm(lambda x: w @ x + 5.0, 100.0 * x),
            norm(lambda x: jnp.sin(w @ x), x),
            norm(lambda x: -2.5 * jnp.sin(w @ x), x),
            norm(lambda x: jnp.sin(w @ (3.0 * x)), x / 3.0),
        )

    linear, moved, curved, longer, faster = norms(x)
    assert float(linear) == pytest.approx(np.linalg.norm(w), rel=1e-6)
    assert float(moved) == pytest.approx(np.linalg.norm(w), rel=1e-6)
    assert float(curved) < float(linear)
    assert float(longer) == pytest.approx(2.5 * float(curved), rel=1e-5)
    assert float(faster) == pytest.approx(3.0 * float(curved), rel=1e-5)


SHAPES = [  # function of one example, shape of its input
    (lambda x: jnp.sum(jnp.sin(x) ** 2), (2, 2, 1)),
    (lambda x: jnp.stack([jnp.sin(x), x * x]), ()),
    (lambda x: jnp.stack([x[..., 0] * x[..., 1], jnp.exp(x[..., 1])]), (3, 2, 2)),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("fn", "shape"), SHAPES)
def test_inputs_and_outputs_of_any_shape(fn, shape, mode, rng, x64):
    examples = rng.uniform(-1, 1, (2, *shape))
    wanted = [differences(lambda x: np.asarray(fn(jnp.asarray(x))), example) for example in examples]

    @jax.jit
    def all_three(examples):
        return (
            jacobian.input_jacobian(fn, examples[0], mode=mode),
            jacobian.input_jacobian_norm(fn, examples[0], mode=mode, chunk_size=2),
            jacobian.input_jacobian_norms(jax.vmap(fn), examples, mode=mode, chunk_size=2),
        )

    whole, norm, norms = all_three(jnp.asarray(examples))
    assert whole.shape == wanted[0].shape
    assert norms.shape == (2,)
    np.testing.assert_allclose(whole, wanted[0], rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(norm, np.linalg.norm(wanted[0]), rtol=1e-8)
    np.testing.assert_allclose(norms, [np.linalg.norm(j) for j in wanted], rtol=1e-8)


@pytest.mark.parametrize("mode", MODES)
def test_squares_of_bfloat16_outputs_are_summed_in_float32(mode):
    # sqrt(5000) = 70.71 would be 70.5 in bfloat16, and a running sum of ones stops at 256 there
    outputs = 5000

    def fn(x):
        return jnp.broadcast_to(x.sum().astype(jnp.bfloat16), outputs)

    norms = jacobian.input_jacobian_norms(jax.vmap(fn), jnp.ones((2, 1)), mode=mode, chunk_size=999)
    assert norms.dtype == jnp.float32
    np.testing.assert_allclose(norms, math.sqrt(outputs), rtol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "outputs", "mode"),
    [(64, 512, "forward"), (1, 10, "forward"), (3072, 128, "reverse"), (784, 1, "reverse"), (12288, 512, "reverse")],
)
def test_automatic_mode_takes_the_clearly_smaller_side(inputs, outputs, mode):
    assert jacobian.automatic_mode(inputs, outputs) == mode


def test_one_example_and_a_batch_have_the_same_defaults():
    alone, batched = (
        {name: p.default for name, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY}
        for function in (jacobian.input_jacobian_norm, jacobian.input_jacobian_norms)
    )
    assert alone == batched == {"mode": "auto", "chunk_size": None}


@jax.custom_vjp
def backwards(x):
    return 3 * x


backwards.defvjp(lambda x: (3 * x, None), lambda _, cotangent: (3 * cotangent,))


def forwards(x):
    return jax.lax.while_loop(lambda carry: carry[0] < 1, lambda carry: (carry[0] + 1, 3 * carry[1]), (0, x))[1]


def test_the_default_mode_takes_the_side_with_fewer_passes():
    few, many = jnp.ones(2), jnp.ones(8)
    # each function has one mode only; 8 inputs to 2 outputs, then 2 inputs to 8 outputs
    narrow, wide = lambda x: backwards(x)[:2], lambda x: forwards(jnp.tile(x, 4))
    for fn, x, entries, other in ((narrow, many, 2, "forward"), (wide, few, 8, "reverse")):
        norms = (
            jacobian.input_jacobian_norm(fn, x),
            jacobian.input_jacobian_norms(jax.vmap(fn), x[None])[0],
            jacobian.interpolation_profile(fn, x, -x, jnp.ones(1))[0],
            jacobian.interpolation_profile(fn, x, -x, jnp.zeros(2), batch_size=1)[1],
        )
        np.testing.assert_allclose(norms, 3 * math.sqrt(entries), rtol=1e-6)
        with pytest.raises((TypeError, ValueError), match=r"mode|custom_vjp"):
            jacobian.input_jacobian_norm(fn, x, mode=other)


def test_the_default_mode_takes_the_other_side_where_jax_has_no_derivative():
    few, many = jnp.ones(2), jnp.ones(8)
    # to 2 outputs in reverse mode, which a while_loop has not; to 8 in forward mode, which custom_vjp has not
    narrow, wide = lambda x: forwards(x)[:2], lambda x: backwards(jnp.tile(x, 4))
    for fn, x, entries in ((narrow, many, 2), (wide, few, 8)):
        norms = (
            jacobian.input_jacobian_norm(fn, x),
            jax.jit(partial(jacobian.input_jacobian_norms, jax.vmap(fn)))(x[None])[0],
            jnp.linalg.norm(jacobian.input_jacobian(fn, x)),
        )
        np.testing.assert_allclose(norms, 3 * math.sqrt(entries), rtol=1e-6)


def test_images_of_numpy_are_taken_as_jax_takes_them(unchecked):
    x = np.array([1.0, 2.0])  # float64, which JAX has not by default
    assert jacobian.jacfwd_norm(lambda x: x**2, x) == pytest.approx(math.sqrt(20), rel=1e-6)
    assert jacobian.input_jacobian_norm(lambda x: x**2, x) == pytest.approx(math.sqrt(20), rel=1e-6)
    norms = jacobian.input_jacobian_norms(lambda x: x**2, x[:, None])
    assert norms.dtype == jnp.float32
    np.testing.assert_allclose(norms, [2, 4], rtol=1e-6)
    assert jacobian.directional_norm(lambda x: x**2, x, np.array([0.0, 1.0])) == pytest.approx(4, rel=1e-6)
    assert jacobian.largest_singular_value(lambda x: x**2, KEY(), x) == pytest.approx(4, rel=1e-4)
    assert jacobian.path_length(lambda x: 3 * x, x, x + 1) == pytest.approx(3 * math.sqrt(2), rel=1e-6)
    np.testing.assert_allclose(jacobian.projected_squares(lambda x: 2 * x, KEY(), x, samples=2), 8, rtol=1e-6)
    profile = jacobian.interpolation_profile(lambda x: x**2, x, 2 * x, np.array([0.0, 1.0]))
    np.testing.assert_allclose(profile, [math.sqrt(20), 2 * math.sqrt(20)], rtol=1e-6)


def test_a_stack_of_checkpoints_under_vmap_and_jit(params, x, rng):
    scales = np.array([1.0, -0.5, 2.0])
    stacked = jax.tree.map(lambda leaf: single(np.stack([leaf * s for s in scales])), params)
    images = np.stack([x, *rng.uniform(-1, 1, (3, *INPUTS))])

    def batched(params, images):
        return jacobian.input_jacobian_norms(lambda x: jax.vmap(partial(mlp, params))(x), images, chunk_size=2)

    @partial(jax.vmap, in_axes=(None, 0))
    def alone(params, x):
        return jacobian.input_jacobian_norm(partial(mlp, params), x)

    wanted = [
        [np.linalg.norm(mlp_jacobian(jax.tree.map(lambda leaf, s=s: leaf * s, params), image)) for image in images]
        for s in scales
    ]
    for norms in (batched, alone):
        found = jax.jit(jax.vmap(norms, in_axes=(0, None)))(stacked, single(images))
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize(("mode", "chunk_size", "examples"), [("forward", 4, 2), ("reverse", 2, 2), ("forward", 6, 1)])
def test_gradient_of_a_norm_penalty(mode, chunk_size, examples, params, x, rng, x64):
    images = np.stack([x, rng.uniform(-1, 1, INPUTS)])[:examples]

    def penalty(params):
        fn = partial(mlp, params)
        if examples == 1:
            return jacobian.input_jacobian_norm(fn, double(x), mode=mode, chunk_size=chunk_size) ** 2
        return jacobian.input_jacobian_norms(jax.vmap(fn), double(images), mode=mode, chunk_size=chunk_size).mean()

    by_hand = np.mean([np.linalg.norm(mlp_jacobian(params, image)) for image in images])
    np.testing.assert_allclose(penalty(double(params)), by_hand**2 if examples == 1 else by_hand, rtol=1e-12)
    check_grads(jax.jit(penalty), (double(params),), order=1, modes=("rev",), rtol=1e-6)


def test_one_chunk_is_no_loop(params, x):
    """In a loop XLA for CPU runs the convolutions of a gradient many times slower."""

    def program(chunk_size):
        def norm(params):
            return jacobian.input_jacobian_norm(partial(mlp, params), single(x), chunk_size=chunk_size)

        return str(jax.make_jaxpr(jax.grad(norm))(single(params)))

    assert "scan" in program(OUTPUTS - 1)
    assert "scan" not in program(OUTPUTS)
    assert "scan" not in program(None)


@pytest.mark.parametrize("mode", MODES)
def test_zero_jacobian_has_norm_zero_and_gradient_zero(mode):
    @partial(jax.value_and_grad, argnums=(0, 1))
    def norms(p, x):
        functions = (lambda x: p + jnp.zeros(2), lambda x: p * x, lambda x: jnp.zeros(4), lambda x: x**2 - 2 * x)
        alone = [jacobian.input_jacobian_norm(fn, x, mode=mode) for fn in functions]
        alone += [jacobian.jacfwd_norm(fn, x) for fn in functions]
        batched = [jacobian.input_jacobian_norms(jax.vmap(fn), jnp.stack([x, x]), mode=mode) for fn in functions]
        return sum(alone) + jnp.concatenate(batched).sum()

    value, (by_p, by_x) = jax.jit(norms)(jnp.zeros(()), jnp.ones(2))
    assert value == 0
    assert by_p == 0
    np.testing.assert_array_equal(by_x, [0.0, 0.0])


def test_tiny_and_huge_jacobians():
    # squares of 1e-15 and 1e15 are representable in float32
    for mode, scale in itertools.product(MODES, (1e-15, 1e15)):
        norm = jacobian.input_jacobian_norm(lambda x, scale=scale: scale * x, jnp.ones(4), mode=mode)
        assert float(norm) == pytest.approx(2 * scale, rel=1e-5)


X, ONES, WHOLE = jnp.ones((2, 3)), jnp.ones(3), jnp.ones(3, jnp.int32)
KEY = partial(jax.random.key, 0)
BOTH: Any = "both"  # no mode, no distribution
ERRORS = [
    (lambda: jacobian.input_jacobian(jnp.sin, WHOLE), "x"),
    (lambda: jacobian.jacfwd_norm(jnp.sin, WHOLE), "x"),
    (lambda: jacobian.jacfwd_norm(lambda x: x.astype(int), ONES), "fn"),
    (lambda: jacobian.input_jacobian_norm(jnp.sin, jnp.ones(3, jnp.uint8)), "x"),
    (lambda: jacobian.input_jacobian_norm(jnp.sin, ONES, mode=BOTH), "mode='both'"),
    (lambda: jacobian.input_jacobian_norm(jnp.sum, [1.0, 2.0]), "x is a list: give one array"),
    (lambda: jacobian.jacfwd_norm(lambda x: x["a"], {"a": ONES}), "x is a dict: give one array"),
    (lambda: jacobian.input_jacobian_norms(jnp.sin, [ONES, ONES]), "images is a list: give one array"),
    (lambda: jacobian.chord_length(jnp.sin, (0.0, 1.0), ONES), "start is a tuple: give one array"),
    (lambda: jacobian.input_jacobian_norms(lambda x: x.squeeze(), X), r"fn\(images\) has shape \(2, 3\)"),
    (lambda: jacobian.input_jacobian_norm(jnp.sin, ONES, chunk_size=0), "chunk_size=0"),
    (lambda: jacobian.input_jacobian_norms(jnp.sin, jnp.ones((2, 3), jnp.int32)), "images"),
    (lambda: jacobian.input_jacobian_norms(jnp.sin, X, mode=BOTH), "mode='both'"),
    (lambda: jacobian.input_jacobian_norms(jnp.sin, X, chunk_size=-1), "chunk_size=-1"),
    (lambda: jacobian.input_jacobian_norms(lambda x: x[:1], X), "fn"),
    (lambda: jacobian.input_jacobian_norms(jnp.sum, X), "fn"),
    (lambda: jacobian.input_jacobian_norms(jnp.sin, jnp.float32(1)), "images"),
    (lambda: jacobian.input_jacobian_norms(jnp.sin, jnp.zeros((0, 3))), "images"),
    (lambda: jacobian.directional_norm(jnp.sin, WHOLE, ONES), "x"),
    (lambda: jacobian.directional_norm(jnp.sin, ONES, jnp.ones(2)), "tangent shape"),
    (lambda: jacobian.directional_norm(jnp.sin, ONES, jnp.ones(())), "tangent shape"),
    (lambda: jacobian.path_length(jnp.sin, ONES, jnp.ones(2)), "end"),
    (lambda: jacobian.path_length(jnp.sin, WHOLE, WHOLE), "start"),
    (lambda: jacobian.chord_length(jnp.sin, ONES, jnp.ones((3, 1))), "end"),
    (lambda: jacobian.chord_length(jnp.sin, WHOLE, WHOLE), "start"),
    (lambda: jacobian.chord_length(jnp.sin, ONES, ONES, points=0), "points=0"),
    (lambda: jacobian.interpolation_profile(jnp.sin, ONES, jnp.ones(2), ONES), "end"),
    (lambda: jacobian.interpolation_profile(jnp.sin, WHOLE, WHOLE, ONES), "start"),
    (lambda: jacobian.interpolation_profile(jnp.sin, ONES, ONES, ONES, mode=BOTH), "mode='both'"),
    (lambda: jacobian.interpolation_profile(jnp.sin, ONES, ONES, ONES, chunk_size=0), "chunk_size=0"),
    (lambda: jacobian.largest_singular_value(jnp.sin, KEY(), WHOLE), "x"),
    (lambda: jacobian.largest_singular_value(jnp.sin, KEY(), ONES, iterations=0), "iterations=0"),
    (lambda: jacobian.projected_squares(jnp.sin, KEY(), ONES, samples=2, distribution=BOTH), "distribution='both'"),
    (lambda: jacobian.projected_squares(jnp.sin, KEY(), ONES, samples=2, mode=BOTH), "mode='both'"),
    (lambda: jacobian.projected_squares(jnp.sin, KEY(), WHOLE, samples=2), "x"),
    (lambda: jacobian.projected_squares(jnp.sin, KEY(), ONES, samples=2, chunk_size=0), "chunk_size=0"),
    (lambda: jacobian.jacobian_estimate(jnp.ones((3, 1))), "squares"),
    (lambda: jacobian.jacobian_estimate(jnp.ones(())), "squares"),
    (lambda: jacobian.jacobian_estimate(jnp.ones((3, 4)), level=1.0), "level=1.0"),
    (lambda: jacobian.mean_estimate(jnp.ones((3, 1))), "squares"),
    (lambda: jacobian.mean_estimate(jnp.ones(3)), "squares"),
    (lambda: jacobian.mean_estimate(jnp.ones((3, 4)), level=0.0), "level=0.0"),
]


@pytest.mark.parametrize(("call", "words"), ERRORS)
def test_wrong_input_is_refused(call, words, unchecked):
    with pytest.raises(ValueError, match=rf"(^|\W){words}(\W|$)"):
        call()
