"""Our side of speed_jacobian.py: the exact norms of a batch, single passes through the network, memory.

Its three processes are at the end: norms and passes, programs that are compiled for their memory alone, and both modes
on a grid of inputs and outputs.
"""

import functools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import comparison
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from turns import Work

from osrjax.devices.cpu import compiler_options, reuse_host_memory
from osrjax.jacobian.exact import automatic_mode, input_jacobian_norms
from osrjax.jacobian.passes import Mode
from osrjax.models.backbones import NETWORKS, SmallCNN
from osrjax.models.networks import OpenSetNetwork, Outputs

OURS, MATRIX = "osrjax, default", "jax.vmap(jax.jacrev)"
OUR_GRADIENT, GRADIENT = "osrjax, gradient of a norm", "plain JAX, gradient of a norm"
PASSES = ((1, 1), (1, 8), (1, 32), (4, 1), (4, 8), (4, 32), (32, 1), (32, 4))  # images, cotangents of each
TANGENTS = 16  # of each image, in the pass that stands for forward mode
# Image shapes and numbers of outputs on which the choice of the mode is looked at.
GRID = tuple((shape, outputs) for shape in ((8, 8, 1), (28, 28, 1), (32, 32, 3)) for outputs in (10, 64, 256, 512))
SMOKE_GRID = (((4, 4, 1), 8),)
GRID_BATCH, GRID_CHUNKS = 2, (16, 64)


# ---------------------------------------------------------------------------------------------- a network


class Side(NamedTuple):
    """A computation to time.

    Attributes:
        call: does it once and waits for the end.
        images: the images whose norms cost as much as one call; below 1 where a call is a part of one.
        mib: memory of the compiled program, None where unknown.
    """

    call: Callable[[], object]
    images: float
    mib: float | None = None


class Embedding(NamedTuple):
    """The unit embedding of a network in eval mode, and what it is applied to.

    Attributes:
        fn: ``(variables, images) -> [batch, outputs]``.
        variables: parameters and running statistics, freshly drawn.
        image_shape: height, width, channels.
        inputs: values of an image.
        outputs: length of the embedding.
    """

    fn: Callable[[dict, jax.Array], jax.Array]
    variables: dict
    image_shape: tuple[int, int, int]
    inputs: int
    outputs: int


def unit_embedding(backbone: nn.Module, image_shape: tuple[int, int, int], output: str = "embedding") -> Embedding:
    """A backbone's unit embedding, or logits; its variables are arguments of what is compiled, as in a real use."""
    model = OpenSetNetwork(backbone, classes=6)
    image = jnp.zeros((1, *image_shape))
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), image)
    variables = jax.tree.map_with_path(_drawn, shapes)

    def fn(variables, images):
        outputs = model.apply(variables, images, train=False)
        assert isinstance(outputs, Outputs)
        return getattr(outputs, output)

    outputs = jax.eval_shape(fn, variables, image).shape[-1]
    return Embedding(fn, variables, image_shape, image.size, outputs)


def _drawn(path, leaf):
    """A fresh variable of usual size; to compile the real initialisation would take longer than to measure."""
    if leaf.ndim == 1:
        return jnp.full(leaf.shape, 1.0 if path[-1].key in ("scale", "var") else 0.0)
    return _random(leaf.shape) * math.sqrt(6.0 / math.prod(leaf.shape[:-1]))


# ---------------------------------------------------------------------------------------------- norms and passes


def our_norms(embedding: Embedding, batch: int, chunks: tuple[int, ...]) -> dict[str, Side]:
    """The norms of a batch by our default, and in reverse mode by each chunk."""
    sides = {OURS: norms(embedding, batch)}
    return sides | {f"osrjax, reverse, chunk {chunk}": norms(embedding, batch, "reverse", chunk) for chunk in chunks}


def our_norms_without(embedding: Embedding, batch: int, chunk: int) -> dict[str, Side]:
    """The norms without what makes them fast on a CPU: its compiler options, or canonical convolutions in the loop."""
    images = _images(embedding, batch)

    def plain_norms(variables, images):
        outputs, pullback = jax.vjp(partial(embedding.fn, variables), images)

        def squares(index):
            direction = jnp.zeros_like(outputs).at[:, index].set(1.0)
            return jnp.sum(jnp.square(pullback(direction)[0]), axis=(1, 2, 3))

        return jnp.sqrt(jnp.sum(jax.lax.map(squares, jnp.arange(embedding.outputs), batch_size=chunk), axis=0))

    variants = {
        "osrjax, XLA's default options": _compiled_norms(embedding, batch, "reverse", chunk, options={}),
        "vjp in lax.map, as JAX makes it": _compiled(plain_norms, embedding, batch),
    }

    def side(compiled):
        return Side(lambda: jax.block_until_ready(compiled(embedding.variables, images)), batch, mib(compiled))

    return {who: side(compiled) for who, compiled in variants.items()}


def cotangent_passes(embedding: Embedding, sizes: tuple[tuple[int, int], ...] = PASSES) -> dict[str, Side]:
    """Single passes of some cotangents for each of some images."""
    return {f"one pass, {n} images x {c} cotangents": single_pass(embedding, n, c, "reverse") for n, c in sizes}


def tangent_pass(embedding: Embedding, batch: int) -> dict[str, Side]:
    """A single pass of a few tangents: all of them would take minutes for a large network."""
    return {f"one pass, {batch} images x {TANGENTS} tangents": single_pass(embedding, batch, TANGENTS, "forward")}


def norm_gradients(backbone: nn.Module, image_shape: tuple[int, int, int], batch: int) -> dict[str, Side]:
    """The gradient of a mean norm of the logits' Jacobians by the parameters, as a regulariser takes it."""
    logits = unit_embedding(backbone, image_shape, output="logits")
    images = _images(logits, batch)

    def side(norms):
        def mean_norm(params, statistics, images):
            return jnp.mean(norms({**statistics, "params": params}, images))

        def gradient(variables, images):
            return jax.grad(mean_norm)(variables["params"], variables, images)

        compiled = _compiled(gradient, logits, batch)
        return Side(lambda: jax.block_until_ready(compiled(logits.variables, images)), batch, mib(compiled))

    return {OUR_GRADIENT: side(our_norms_of(logits, chunk=logits.outputs)), GRADIENT: side(matrix_norms(logits))}


def norms(embedding: Embedding, batch: int, mode: Mode = "auto", chunk: int | None = None) -> Side:
    """The exact norms of a batch by osrjax."""
    images = _images(embedding, batch)
    compiled = _compiled_norms(embedding, batch, mode, chunk)
    return Side(lambda: jax.block_until_ready(compiled(embedding.variables, images)), batch, mib(compiled))


def single_pass(embedding: Embedding, batch: int, directions: int, mode: Mode) -> Side:
    """One pass of several directions for each image through a network that is linearised beforehand: no norm.

    It is timed alone and extrapolated: an image needs as many cotangents as outputs, or as many tangents as inputs.
    """
    images = _images(embedding, batch)
    transform = jax.vjp if mode == "reverse" else jax.linearize
    each = (embedding.outputs,) if mode == "reverse" else embedding.image_shape

    def linearised(variables, images):
        return transform(partial(embedding.fn, variables), images)[1]

    with jax.default_matmul_precision("highest"):
        linear = jax.jit(linearised, compiler_options=compiler_options())(embedding.variables, images)
        vectors = _random((directions, batch, *each))
        apply = jax.jit(lambda linear, vectors: jax.vmap(linear)(vectors), compiler_options=compiler_options())
        compiled = apply.lower(linear, vectors).compile()
    needed = embedding.outputs if mode == "reverse" else embedding.inputs
    return Side(lambda: jax.block_until_ready(compiled(linear, vectors)), batch * directions / needed, mib(compiled))


def memory(embedding: Embedding, batch: int, chunks: tuple[int, ...]) -> dict[str, float]:
    """MiB of the compiled norms of a large batch, which never run: the whole matrix, our default, each chunk."""
    result = {
        MATRIX: mib(_compiled(matrix_norms(embedding), embedding, batch)),
        OURS: mib(_compiled_norms(embedding, batch)),
    }
    for chunk in chunks:
        result[f"osrjax, reverse, chunk {chunk}"] = mib(_compiled_norms(embedding, batch, "reverse", chunk))
    return result


def our_norms_of(embedding: Embedding, mode: Mode = "auto", chunk: int | None = None) -> Callable:
    """``(variables, images) -> norms`` by osrjax."""

    def norms(variables, images):
        return input_jacobian_norms(partial(embedding.fn, variables), images, mode=mode, chunk_size=chunk)

    return norms


def matrix_norms(embedding: Embedding) -> Callable:
    """``(variables, images) -> norms`` by plain JAX, from the whole matrix of every image."""

    def norms(variables, images):
        matrix = jax.vmap(jax.jacrev(lambda image: embedding.fn(variables, image[None])[0]))(images)
        return jnp.sqrt(jnp.sum(jnp.square(matrix), axis=tuple(range(1, matrix.ndim))))

    return norms


def mib(compiled: jax.stages.Compiled) -> float:
    """MiB of a compiled program: arguments, outputs and temporaries; what is both of two counts once."""
    sizes = compiled.memory_analysis()
    assert sizes is not None
    total = sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes
    return round((total - sizes.alias_size_in_bytes) / 2**20, 1)


def _compiled_norms(embedding, batch, mode="auto", chunk=None, options=None):
    return _compiled(our_norms_of(embedding, mode, chunk), embedding, batch, options)


def _compiled(fn, embedding, batch, options=None):
    images = jax.ShapeDtypeStruct((batch, *embedding.image_shape), jnp.float32)
    options = compiler_options() if options is None else options
    return jax.jit(fn, compiler_options=options).lower(embedding.variables, images).compile()


def _images(embedding, batch):
    return _random((batch, *embedding.image_shape))


def _random(shape):
    return jnp.asarray(np.random.default_rng(0).uniform(-1.0, 1.0, shape), jnp.float32)


# ---------------------------------------------------------------------------------------------- the processes


def norms_and_passes(
    network: str, batch: int, chunks: Sequence[int], passes: Sequence[tuple[int, int]], *, default_options: bool
) -> Work:
    """Norms and single passes of a network; the facts group them, with the images and the memory of a call."""
    reuse_host_memory()
    embedding = unit_embedding(NETWORKS[network](), comparison.image_shape(network))
    groups = {
        "ours": our_norms(embedding, batch, tuple(chunks)),
        "without": our_norms_without(embedding, batch, max(chunks, default=1)) if default_options else {},
        "passes": cotangent_passes(embedding, tuple(passes)),
        "tangents": tangent_pass(embedding, batch),
        "gradients": norm_gradients(NETWORKS[network](), comparison.image_shape(network), batch),
    }
    sides = {who: side for group in groups.values() for who, side in group.items()}
    facts: dict[str, Any] = {name: list(group) for name, group in groups.items()}
    facts |= {"images": {who: side.images for who, side in sides.items()}}
    facts |= {"mib": {who: side.mib for who, side in sides.items()}}
    return Work({who: side.call for who, side in sides.items()}, {**facts, **comparison.our_facts()})


def compiled_memory(network: str, batch: int, chunks: Sequence[int]) -> Work:
    """Nothing to time: the fact ``mib`` is the memory of the programs of a large batch."""
    embedding = unit_embedding(NETWORKS[network](), comparison.image_shape(network))
    return Work({}, {"mib": memory(embedding, batch, tuple(chunks))})


def both_modes(cells: Sequence[tuple[Sequence[int], int]]) -> Work:
    """Norms of a small convolutional network in forward and reverse mode, by cells of image shape and outputs.

    The fact ``cells`` has the names of each cell's by mode, and the mode that would be chosen. What a call needs is
    compiled when it is called first.
    """
    reuse_host_memory()
    calls: dict[str, Callable[[], object]] = {}
    told = []
    for shape, outputs in cells:
        sizes: dict[Mode, int] = {"forward": math.prod(shape), "reverse": outputs}
        names: dict[str, list[str]] = {}
        for mode, size in sizes.items():
            chunks = sorted({min(chunk, size) for chunk in GRID_CHUNKS})
            made = {
                f"{list(shape)} to {outputs}, {mode}, chunk {c}": _mode_call(shape, outputs, mode, c) for c in chunks
            }
            names[mode] = list(made)
            calls |= made
        told.append({"names": names, "chosen": automatic_mode(math.prod(shape), outputs)})
    return Work(calls, {"cells": told, "batch": GRID_BATCH})


def _mode_call(shape, outputs, mode, chunk):
    @functools.cache
    def side():
        embedding = unit_embedding(SmallCNN(width=16, features=outputs), tuple(shape))
        return norms(embedding, GRID_BATCH, mode, chunk)

    return lambda: side().call()
