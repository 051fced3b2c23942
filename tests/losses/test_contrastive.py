"""Contrastive losses against published numbers, float64 loops over anchors and their finite differences."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import plain_module
from jax.sharding import PartitionSpec as P
from jaxtyping import TypeCheckError

from osrjax.devices import sharding
from osrjax.losses import contrastive

# These programs run once or twice on a few rows: most of their time is compilation.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def reference_loss(z, groups, p=None, *, temperature=0.05, base=0.07, own=False):
    """The functional of the specification, one anchor and one pair at a time."""
    rows, found = len(z), []
    p = z if p is None else p
    for a in range(rows):
        log_sum = math.log(sum(math.exp(z[a] @ z[b] / temperature) for b in range(rows) if b != a))
        positives = [b for b in range(rows) if groups[b] == groups[a] and (own or b != a)]
        pulls = [z[a] @ p[b] / temperature - log_sum for b in positives]
        found.append(-sum(pulls) / len(pulls) * temperature / base if pulls else 0.0)
    return np.array(found)


def differences(function, x, step=1e-6):
    """Gradient of a scalar by central differences, one entry at a time."""
    gradient = np.zeros_like(x)
    for place in np.ndindex(*x.shape):
        moved = x.copy()
        moved[place] += step
        ahead = function(moved)
        moved[place] -= 2 * step
        gradient[place] = (ahead - function(moved)) / (2 * step)
    return gradient


def unit(array):
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


def flat(views):
    return views.reshape(-1, views.shape[-1])


@pytest.fixture
def views(rng):
    return unit(rng.normal(size=(2, 5, 4)))


@pytest.fixture
def mixed(rng):
    return unit(rng.normal(size=(2, 5, 4)))


LABELS = np.array([2, 0, 0, 7, 0])  # unbalanced; two classes of one image


# The functions of the authors' code gave these numbers for these inputs, in float64: NT-Xent, SupCon, mixed term, the
# mixed term as that code prints it, mixed SupCon, norms of the mixed term's gradients.
PUBLISHED = {
    0.05: (0.005342, 4.233724, 0.819207, 0.533237, 4.723816, 5.048899, 4.123930),
    0.10: (0.118060, 4.346442, 0.931925, 0.645955, 4.836533, 4.731143, 4.123930),
}


def test_numbers_of_the_authors_code(x64):
    i, v, d = np.ogrid[:6, :2, :8]
    z = unit(np.sin(1 + 0.7 * i + 0.3 * v + 0.9 * d + 0.11 * i * d))
    p = z.copy()
    p[:, 0] = unit(np.cos(0.5 + 0.7 * i + 0.9 * d + 0.05 * i * d))[:, 0]
    np.testing.assert_allclose(z[0, 0, :3], [0.409693, 0.460732, 0.163098], atol=1e-6)
    np.testing.assert_allclose(p[1, 0, :3], [0.195191, -0.294845, -0.538203], atol=1e-6)
    z, p, labels = z.swapaxes(0, 1), p.swapaxes(0, 1), np.array([0, 0, 1, 1, 2, 2])
    zj, pj, lj = jnp.asarray(z), jnp.asarray(p), jnp.asarray(labels)

    def all_losses(temperature):
        def mixed_term(z, p, labels=None):
            return contrastive.mixed_contrastive_loss(z, p, labels=labels, temperature=temperature).mean()

        value, gradients = jax.value_and_grad(mixed_term, (0, 1))(zj, pj)
        return (
            contrastive.nt_xent_loss(zj, temperature=temperature).mean(),
            contrastive.supcon_loss(zj, lj, temperature=temperature).mean(),
            value,
            mixed_term(zj, pj, lj),
            *(jnp.sqrt(jnp.sum(jnp.square(gradient))) for gradient in gradients),
        )

    found = jit(jax.vmap(all_losses))(jnp.array(list(PUBLISHED)))
    for row, (temperature, published) in enumerate(PUBLISHED.items()):
        ssl, supcon, mix, mix_supcon, norm_z, norm_p = (float(values[row]) for values in found)
        # That code subtracts different row maxima from the two sides: a constant, for the maxima are detached.
        clean, crossed = flat(z) @ flat(z).T / temperature, flat(z) @ flat(p).T / temperature
        printed = mix - temperature / 0.07 * np.mean(clean.max(1) - crossed.max(1))
        np.testing.assert_allclose((ssl, supcon, mix, printed, mix_supcon, norm_z, norm_p), published, atol=1.1e-6)


@pytest.mark.parametrize("case", ["nt_xent", "supcon", "mixed", "mixed own", "mixed labels", "mixed labels own"])
def test_values_and_gradients_equal_float64_loops(case, views, mixed, x64):
    own, labels, crossed = "own" in case, "labels" in case, "mixed" in case
    groups = np.tile(LABELS if labels or case == "supcon" else np.arange(5), 2)

    def loss(z, p):
        if case == "nt_xent":
            return contrastive.nt_xent_loss(z, temperature=0.2)
        if case == "supcon":
            return contrastive.supcon_loss(z, jnp.asarray(LABELS), temperature=0.2)
        given = jnp.asarray(LABELS) if labels else None
        return contrastive.mixed_contrastive_loss(z, p, labels=given, own_positive=own, temperature=0.2)

    def reference(z, p):
        return reference_loss(flat(z), groups, flat(p) if crossed else None, temperature=0.2, own=own)

    weights = np.linspace(0.5, 2.0, 10).reshape(2, 5)  # anchors of different weight, as lambda' gives them

    def total(z, p):
        values = loss(z, p)
        return jnp.sum(weights * values), values

    (_, values), (by_z, by_p) = jit(jax.value_and_grad(total, (0, 1), has_aux=True))(
        jnp.asarray(views), jnp.asarray(mixed)
    )
    np.testing.assert_allclose(values.reshape(-1), reference(views, mixed), rtol=1e-12)
    wanted = differences(lambda z: np.sum(weights.reshape(-1) * reference(z, mixed)), views)
    np.testing.assert_allclose(by_z, wanted, rtol=1e-6, atol=1e-8)
    wanted = differences(lambda p: np.sum(weights.reshape(-1) * reference(views, p)), mixed)
    np.testing.assert_allclose(by_p, wanted, rtol=1e-6, atol=1e-8)


def test_any_groups_and_anchors_without_positives(rng, x64):
    z, p = unit(rng.normal(size=(2, 9, 3)))
    groups = np.array([5, 5, 5, 5, -1, 2, 2, 9, 5])
    zj, pj, gj = jnp.asarray(z), jnp.asarray(p), jnp.asarray(groups)

    def total(z, p):
        options = {"positives": p, "temperature": 0.3, "base_temperature": 1.5}
        values = contrastive.contrastive_loss(z, gj, **options)
        return values.sum(), values

    (_, found), (by_z, by_p) = jit(jax.value_and_grad(total, (0, 1), has_aux=True))(zj, pj)
    np.testing.assert_allclose(found, reference_loss(z, groups, p, temperature=0.3, base=1.5), rtol=1e-12)
    assert float(found[4]) == float(found[7]) == 0.0
    assert (np.asarray(by_p)[[4, 7]] == 0).all()
    assert np.isfinite(by_z).all()
    one_view = jit(lambda z: contrastive.supcon_loss(z[None], gj, temperature=0.3))(zj)
    np.testing.assert_allclose(one_view[0], reference_loss(z, groups, temperature=0.3), rtol=1e-12)


def test_blocks_change_nothing(rng, x64):
    z, p = (jnp.asarray(a) for a in unit(rng.normal(size=(2, 10, 4))))
    groups = jnp.asarray(np.array([0, 1, 1, 2, 2, 2, 0, 3, 1, 1]))  # row 7 has no positive
    weights = jnp.arange(1.0, 11.0)

    def value_and_gradients(block_size, crossed, own=False):
        def total(z, p):
            options = {"positives": p if crossed else None, "own_positive": own, "block_size": block_size}
            values = contrastive.contrastive_loss(z, groups, **options)
            return jnp.sum(weights * values), values

        return jax.value_and_grad(total, (0, 1), has_aux=True)(z, p)

    cases = {1: (True,), 3: (False,), 7: (True, True), 10: (True,), 64: (False,)}
    found = jit(lambda: [value_and_gradients(size, *case) for size, case in cases.items()])()
    wanted = jit(lambda: {case: value_and_gradients(None, *case) for case in set(cases.values())})()
    for blocks, case in zip(found, cases.values(), strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), blocks, wanted[case])


def test_blocks_save_memory_in_the_backward_pass_and_the_closed_gradient():
    def backward(z, block_size):
        groups = jnp.arange(1024) // 2
        return jax.grad(lambda z: jnp.sum(contrastive.contrastive_loss(z, groups, block_size=block_size)))(z)

    def closed(z, block_size):
        return contrastive.nt_xent_gradient(z.reshape(2, 512, 8), block_size=block_size)

    def temporary(gradient, block_size):
        compiled = jit(partial(gradient, block_size=block_size)).lower(jax.ShapeDtypeStruct((1024, 8), jnp.float32))
        return compiled.compile().memory_analysis().temp_size_in_bytes

    matrix = 1024 * 1024 * 4
    for gradient in (backward, closed):
        assert temporary(gradient, None) >= matrix
        assert temporary(gradient, 32) < matrix / 3


@pytest.mark.parametrize("count", [2, 3])
def test_closed_gradient_of_nt_xent(count, rng, x64):
    z = unit(rng.normal(size=(count, 4, 3)))
    groups = np.tile(np.arange(4), count)

    def both(z, temperature):
        options = {"temperature": temperature, "base_temperature": 0.5}
        closed = [contrastive.nt_xent_gradient(z, **options, block_size=size) for size in (None, 1, 3, 50)]
        return closed, jax.grad(lambda z: contrastive.nt_xent_loss(z, **options).mean())(z)

    (closed, *blocks), automatic = jit(both)(jnp.asarray(z), 0.1)
    for found in (closed, *blocks):
        np.testing.assert_allclose(found, automatic, rtol=1e-10, atol=1e-12)
    wanted = differences(lambda z: reference_loss(flat(z), groups, temperature=0.1, base=0.5).mean(), z)
    np.testing.assert_allclose(closed, wanted, rtol=1e-6, atol=1e-8)


def test_rows_spread_over_four_devices(rng, x64):
    z, mixed = (jnp.asarray(a) for a in unit(rng.normal(size=(2, 2, 8, 4))))
    labels = jnp.asarray(rng.integers(0, 4, 8))
    weights = jnp.asarray(rng.uniform(0.5, 1.5, (5, 2, 8)))
    mesh = sharding.data_mesh(4)

    def losses(z, mixed, labels, axis_name=None):
        options = {"temperature": 0.1, "axis_name": axis_name}
        cross = partial(contrastive.mixed_contrastive_loss, z, mixed, **options)
        return jnp.stack(
            [
                contrastive.nt_xent_loss(z, **options),
                contrastive.supcon_loss(z, labels, **options),
                contrastive.supcon_loss(z, labels, block_size=3, **options),  # 3 does not divide 16 rows
                cross(),
                cross(labels=labels, own_positive=True, block_size=3),
            ]
        )

    shares = P(None, "data")
    on_devices = jax.shard_map(
        partial(losses, axis_name="data"),
        mesh=mesh,
        in_specs=(shares, shares, P("data")),
        out_specs=P(None, None, "data"),
    )

    def values_and_gradients(function):
        def total(z, mixed):
            values = function(z, mixed, labels)
            return jnp.sum(weights * values), values

        return jax.value_and_grad(total, (0, 1), has_aux=True)(z, mixed)

    alone = jit(lambda: values_and_gradients(losses))()
    placed = jit(lambda: values_and_gradients(on_devices))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), placed, alone)
    # The compiler's own partitioning of a sharded batch gives the same.
    spread = jax.device_put(z, jax.sharding.NamedSharding(mesh, shares))
    np.testing.assert_allclose(jit(losses)(spread, mixed, labels), alone[0][1], rtol=1e-12)


def test_one_image_a_device(rng, x64):
    """Negatives are on the other devices, so a share of one image is no error."""
    z = jnp.asarray(unit(rng.normal(size=(2, 4, 3))))
    mesh = sharding.data_mesh(4)
    spread = jax.shard_map(
        lambda z: contrastive.nt_xent_loss(z, axis_name="data"),
        mesh=mesh,
        in_specs=P(None, "data"),
        out_specs=P(None, "data"),
    )
    wanted = reference_loss(flat(np.asarray(z)), np.tile(np.arange(4), 2)).reshape(2, 4)
    np.testing.assert_allclose(jit(spread)(z), wanted, rtol=1e-12)


def test_extremes_do_not_overflow():
    same = jnp.broadcast_to(jnp.array([0.6, 0.8]), (2, 4, 2))
    pairs = jnp.tile(jnp.array([[[1.0, 0.0], [-1.0, 0.0]]]), (2, 1, 1))

    def case(temperature, block_size):
        options = {"temperature": temperature, "block_size": block_size}

        def total(z):
            values = contrastive.nt_xent_loss(z, **options)
            return values.sum(), values

        clean = [jax.value_and_grad(total, has_aux=True)(z) for z in (same, pairs)]
        return clean, contrastive.mixed_contrastive_loss(pairs, -pairs, **options)

    both = jit(lambda temperature: [case(temperature, block_size) for block_size in (None, 3)])
    for temperature in (0.01, 0.001):  # exp(100) and exp(1000) are no float32 numbers
        for ((_, equal), slope), ((_, apart), other_slope), opposite in ((*c, o) for c, o in both(temperature)):
            np.testing.assert_allclose(equal, np.full((2, 4), temperature / 0.07 * math.log(7)), rtol=1e-3)
            np.testing.assert_allclose(apart, np.zeros((2, 2)), atol=1e-6)  # the pair alone stands in the sum
            np.testing.assert_allclose(opposite, np.full((2, 2), 2 / 0.07), rtol=1e-5)  # 1/T - (-1/T), times T/0.07
            assert np.isfinite(slope).all()
            assert np.isfinite(other_slope).all()


def test_bfloat16_embeddings_are_raised_to_float32(views):
    half = jnp.asarray(views, jnp.bfloat16)
    whole, blocks = jit(
        lambda z: [contrastive.nt_xent_loss(z, temperature=0.5, block_size=size) for size in (None, 3)]
    )(half)
    wanted = reference_loss(flat(np.asarray(half, np.float64)), np.tile(np.arange(5), 2), temperature=0.5)
    for found in (whole, blocks):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(np.asarray(found, np.float64).reshape(-1), wanted, rtol=2e-5)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_similarities_keep_full_precision_on_accelerators(platform, views):
    def losses(z):
        return (
            contrastive.mixed_contrastive_loss(z, -z).sum(),
            contrastive.mixed_contrastive_loss(z, -z, block_size=3).sum(),
            contrastive.nt_xent_gradient(z),
            jax.grad(lambda z: contrastive.nt_xent_loss(z).sum())(z),
        )

    with jax.default_matmul_precision("default"):
        text = jit(losses).trace(jnp.asarray(views, jnp.float32)).lower(lowering_platforms=(platform,)).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot" in line]
    assert len(products) >= 6
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)
    assert "callback" not in text


TWO = jnp.ones((2, 3, 2))
plain = plain_module(contrastive)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: contrastive.nt_xent_loss(TWO, temperature=0.0), "temperature=0.0"),
        (lambda: contrastive.supcon_loss(TWO, jnp.zeros(3, jnp.int32), temperature=-0.1), "temperature=-0.1"),
        (lambda: contrastive.nt_xent_loss(TWO, base_temperature=0.0), "base_temperature=0.0"),
        (lambda: contrastive.nt_xent_gradient(TWO, temperature=0.0), "temperature=0.0"),
        (lambda: contrastive.nt_xent_loss(TWO[:1]), "views.shape=(1, 3, 2)"),
        (lambda: contrastive.nt_xent_gradient(TWO[:1]), "views.shape=(1, 3, 2)"),
        (lambda: contrastive.mixed_contrastive_loss(TWO[:1], TWO[:1]), "views.shape=(1, 3, 2)"),
        (lambda: contrastive.nt_xent_loss(TWO[:, :1]), "holds one image"),
        (lambda: contrastive.nt_xent_gradient(TWO[:, :1]), "holds one image"),
        (lambda: contrastive.supcon_loss(TWO[:1, :1], jnp.zeros(1, jnp.int32)), "holds one row"),
        (lambda: contrastive.supcon_loss(TWO, jnp.zeros(2, jnp.int32)), "labels.shape=(2,)"),
        (lambda: contrastive.mixed_contrastive_loss(TWO, TWO, labels=jnp.zeros(6, jnp.int32)), "labels.shape=(6,)"),
        (lambda: contrastive.mixed_contrastive_loss(TWO, TWO[:1]), "mixed.shape=(1, 3, 2)"),
        (
            lambda: contrastive.contrastive_loss(TWO[0], jnp.zeros(3, jnp.int32), positives=TWO[0, :2]),
            "positives.shape=(2, 2)",
        ),
        (lambda: contrastive.contrastive_loss(TWO[0], jnp.zeros(3, jnp.int32), own_positive=True), "own_positive"),
        (lambda: contrastive.nt_xent_loss(TWO, block_size=0), "block_size=0 is below 1"),
        (lambda: contrastive.nt_xent_gradient(TWO, block_size=-1), "block_size=-1 is below 1"),
        (lambda: plain.contrastive_loss(TWO[0], jnp.zeros((3, 1), jnp.int32)), "groups.shape=(3, 1) does not fit"),
        (lambda: plain.contrastive_loss(TWO[0], jnp.zeros(3)), "groups has dtype float32"),
        (lambda: plain.supcon_loss(TWO, jnp.zeros(3, bool)), "labels has dtype bool"),
        (
            lambda: plain.contrastive_loss(
                TWO[0], jnp.zeros(3, jnp.int32), positives=TWO[0], own_positive=jnp.ones(2, bool)
            ),
            "own_positive has shape (2,), not (3,)",
        ),
        (lambda: plain.mixed_contrastive_loss(TWO, TWO, own_positive=jnp.ones(3, bool)), "own_positive.shape=(3,)"),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises((ValueError, TypeCheckError)) as caught:
        call()
    assert isinstance(caught.value, TypeCheckError) or message in str(caught.value)
    assert isinstance(caught.value, TypeCheckError) or "\n" not in str(caught.value)


def test_a_traced_temperature_that_is_not_positive_spoils_the_loss():
    found = jax.jit(lambda t: contrastive.nt_xent_loss(TWO, temperature=t))
    assert np.isnan(found(jnp.float32(-0.1))).all()
    assert np.isfinite(found(jnp.float32(0.1))).all()
