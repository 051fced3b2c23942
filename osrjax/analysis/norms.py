"""Exact input-Jacobian norms of a whole data set: within a memory budget, over devices, resumable.

:mod:`osrjax.jacobian` differentiates what it is given. This module adds what requires all images and runs outside of
``jit``: it finds the number of passes at a time that fits in memory, tests that images do not interact, pads the last
batch, spreads batches over a mesh, and stores what is done.

::

    functions = {"embedding": network_functions(network)["embedding"]}  # of osrjax.models; any (variables, images)
    dataset_jacobian_norms(functions, state.variables, float_images, memory_budget=2**30)["embedding"]  # one an image
    functions = {"logits": lambda model, images: jax.vmap(model)(images)}  # Equinox: the model is the variables
    functions = {"logits": lambda state, images: nnx.merge(graph, state)(images)}  # of graph, state = nnx.split(model)

For the images of one batch inside ``jit``, as a regulariser say, :func:`osrjax.jacobian.input_jacobian_norms` of
``partial(functions["embedding"], variables)`` is enough; ``jax.vmap`` it over stacked variables for many checkpoints.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from jaxtyping import Array, Float, Num
from tqdm import tqdm

from osrjax.analysis.norm_store import NormStore, claimed
from osrjax.analysis.variables import arrays_of, joined, on_arrays
from osrjax.devices.cpu import compiler_options
from osrjax.jacobian.exact import in_mode, input_jacobian_norms
from osrjax.jacobian.passes import ROWS, Mode
from osrjax.models.outputs import BatchFunction, PyTree

__all__ = ["NormPlan", "dataset_jacobian_norms", "make_norm_plan"]

_GIB = 2**30


# Images times passes at a time that keep a device busy.
_CPU_ROWS, _ACCELERATOR_ROWS = ROWS, 8192

_CPU_BATCH, _ACCELERATOR_BATCH = 32, 128

# Of the largest output: a low precision may round differently in another row, dropout changes far more.
_ELSEWHERE = 1e-2


class NormPlan(NamedTuple):
    """How the norms of one function will be computed.

    Attributes:
      norms: compiled ``(variables, images) -> norms`` for a batch of ``batch_size`` images; what is no array in the
        variables is None there.
      batch_size: images per call, over all devices.
      chunk_size: passes at a time.
      mode: "forward" or "reverse".
      passes: passes per call, the number of inputs or of outputs of an image.
      memory: bytes on each device while a call runs: arguments, results and temporaries. Nothing else stays
        between calls but the variables, which are among the arguments.
    """

    norms: Callable[[PyTree, Array], Array]
    batch_size: int
    chunk_size: int
    mode: Literal["forward", "reverse"]
    passes: int
    memory: int


def make_norm_plan(
    function: BatchFunction,
    variables: PyTree,
    image_shape: tuple[int, ...],
    *,
    batch_size: int | None = None,
    chunk_size: int | None = None,
    memory_budget: int = _GIB,
    mode: Mode = "auto",
    mesh: jax.sharding.Mesh | None = None,
    axis: str = "data",
) -> NormPlan:
    """Compiles the norms of a function for the largest chunk that fits in a memory budget.

    The compiler's own account of a compiled program decides, not an estimate. *Cost*: one compilation where the
    wanted chunk fits, a handful where it does not. Where the batch does not fit at one pass at a time, a smaller one
    is taken.

    Args:
      function: ``(variables, images) -> outputs``, each with the batch as its first axis.
      variables: what the function needs beside images; as in :func:`dataset_jacobian_norms`, or the
        shapes of its arrays.
      image_shape: of one image.
      batch_size: images per call, over all devices; None for 128 per device, 32 on a CPU. Never enlarged.
      chunk_size: passes at a time; None for as many as keep the device busy. Never enlarged.
      memory_budget: bytes on each device.
      mode: direction of differentiation, as in :func:`osrjax.jacobian.input_jacobian_norms`.
      mesh: devices to share each batch; None for the default device.
      axis: of the mesh, by which batches are shared; along others the same is done.

    Returns:
      The plan.

    Raises:
      ValueError: a batch that the devices cannot share, an axis that the mesh does not have, a chunk size below 1,
        outputs without the batch's axis, or a budget that a single image a device at a time does not fit.
    """
    devices = _sharers(mesh, axis)
    if batch_size is None:
        batch_size = devices * _default_batch()
    if batch_size < 1 or batch_size % devices:
        raise ValueError(f"{batch_size=} is no positive multiple of the {devices} devices: give such a one")
    function, arrays = on_arrays(function, variables), arrays_of(variables)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.result_type(leaf)), arrays)
    outputs = jax.eval_shape(function, shapes, jax.ShapeDtypeStruct((devices, *image_shape), jnp.float32))
    _check_outputs("function", outputs, devices)
    inputs, features = math.prod(image_shape), math.prod(outputs.shape[1:])

    def compile_for(direction: Literal["forward", "reverse"], batch_size: int, chunk_size: int) -> NormPlan:
        def norms(variables: PyTree, images: Array) -> Array:
            return input_jacobian_norms(partial(function, variables), images, mode=direction, chunk_size=chunk_size)

        spread, everywhere = None, None
        if mesh is not None:  # every device maps its own images: no communication until the result is read
            # Without the check of varying axes, which refuses loops that start from zeros: usual recurrent networks.
            norms = jax.shard_map(norms, mesh=mesh, in_specs=(P(), P(axis)), out_specs=P(axis), check_vma=False)
            spread, everywhere = NamedSharding(mesh, P(axis)), NamedSharding(mesh, P())
        images = jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32, sharding=spread)
        given = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), shapes)
        compiled = jax.jit(norms, compiler_options=compiler_options()).lower(given, images).compile()
        used: Any = compiled.memory_analysis()
        memory = used.argument_size_in_bytes + used.output_size_in_bytes + used.temp_size_in_bytes
        memory -= used.alias_size_in_bytes
        passes = inputs if direction == "forward" else features
        return NormPlan(compiled, batch_size, chunk_size, direction, passes, memory)

    def plan_in(direction: Literal["forward", "reverse"]) -> NormPlan:
        rows = _CPU_ROWS if jax.default_backend() == "cpu" else _ACCELERATOR_ROWS
        wanted = max(1, rows // (batch_size // devices)) if chunk_size is None else chunk_size
        wanted = min(wanted, inputs if direction == "forward" else features)
        return _fitting(partial(compile_for, direction), batch_size, wanted, devices, memory_budget)

    return in_mode(mode, inputs, features, plan_in)


def _fitting(
    compile_for: Callable[[int, int], NormPlan], batch_size: int, wanted: int, devices: int, budget: int
) -> NormPlan:
    """The plan of the wanted chunk, of fewer passes at a time, or of fewer images: the first that fits the budget."""
    plan = compile_for(batch_size, wanted)
    if plan.memory <= budget:
        return plan
    least = plan if wanted == 1 else compile_for(batch_size, 1)
    if least.memory <= budget:  # the batch fits, fewer passes at a time
        return _largest_fitting(lambda chunk: compile_for(batch_size, chunk), (1, least), (wanted, plan), budget)
    single = compile_for(devices, 1)
    if single.memory > budget:
        raise ValueError(
            f"memory_budget={budget} bytes is too small: one image at a time needs {single.memory}; raise it"
        )
    return _largest_fitting(
        lambda local: compile_for(devices * local, 1), (1, single), (batch_size // devices, least), budget
    )


def _largest_fitting(
    compile_for: Callable[[int], NormPlan], fits: tuple[int, NormPlan], exceeds: tuple[int, NormPlan], budget: int
) -> NormPlan:
    """A plan between one that fits and one that does not, by the size where a line through both meets the budget."""
    (small, fitting), (large, exceeding) = fits, exceeds
    size = small + int((large - small) * (budget - fitting.memory) / (exceeding.memory - fitting.memory))
    size = min(size, large - 1)
    while size > small:
        plan = compile_for(size)
        if plan.memory <= budget:
            return plan
        size //= 2
    return fitting


def dataset_jacobian_norms(
    functions: Mapping[str, BatchFunction],
    variables: PyTree,
    images: Num[np.ndarray, "examples *image"],
    *,
    batch_size: int | None = None,
    chunk_size: int | None = None,
    memory_budget: int = _GIB,
    mode: Mode = "auto",
    mesh: jax.sharding.Mesh | None = None,
    axis: str = "data",
    directory: str | Path | None = None,
    progress: bool = False,
) -> dict[str, Float[np.ndarray, " examples"]]:
    """Exact input-Jacobian norms of every image, under each of several functions.

    Before any work each function is run on the first eight images, on each of them with seven others beside it, and on
    all of them one place further: where an output changes, images interact (batch normalisation in training mode) or
    their place matters (dropout), and norms would mean nothing.

    With a ``directory``, finished batches are stored as they come, and the same call goes on where a killed one
    stopped; the finished norms of a function are in ``NAME.npy`` there.

    *Cost* for each function: passes as in :func:`osrjax.jacobian.input_jacobian_norms`; memory within the budget on
    each device; the images stay on the host.

    Args:
      functions: ``(variables, images) -> outputs`` by a name that a file can have, such as
        :func:`osrjax.models.network_functions`.
      variables: parameters and statistics, a tree of arrays, such as a module of Equinox or a state of NNX; what is no
        array in it (activations, flags, numbers of Python) is left as it is.
      images: floats, as the functions take them: norms are per unit of these values.
      batch_size: as in :func:`make_norm_plan`; None for at most that, so that batches are nearly full. The last batch
        is padded and its padding dropped.
      chunk_size: as in :func:`make_norm_plan`.
      memory_budget: bytes on each device.
      mode: as in :func:`make_norm_plan`.
      mesh: as in :func:`make_norm_plan`.
      axis: as in :func:`make_norm_plan`.
      directory: where to store; None keeps nothing. It belongs to these images and variables, and is refused for
        others.
      progress: show a progress bar, in images.

    Returns:
      By the functions' names, float32 norms in the order of the images.

    Raises:
      ValueError: functions without names, no image, integer or non-finite images, images that interact or whose place
        matters, norms that are not finite, a directory of another data set or network, in use, damaged or not writable;
        or as :func:`make_norm_plan`.
    """
    _check_names(functions)
    images = _floats(images)
    devices = _sharers(mesh, axis)
    if batch_size is None:
        batch_size = devices * _even_batch(-(-len(images) // devices))
    folder = None if directory is None else Path(directory)
    everywhere, spread = (None if mesh is None else NamedSharding(mesh, spec) for spec in (P(), P(axis)))
    functions = {name: on_arrays(function, variables) for name, function in functions.items()}
    arrays = jax.device_put(arrays_of(variables), everywhere)
    samples = {
        name: _outputs_without_interaction(name, function, arrays, images) for name, function in functions.items()
    }
    found = {}
    with (
        claimed(folder, joined(variables, arrays), images, samples),
        tqdm(total=len(functions) * len(images), unit="image", disable=None if progress else True) as bar,
    ):
        for name, function in functions.items():
            store = NormStore(folder, name, len(images))
            if store.finished:
                bar.update(len(images))
            else:
                bar.set_postfix_str(f"{name}: compiling")
                plan = make_norm_plan(
                    function,
                    arrays,
                    images.shape[1:],
                    batch_size=batch_size,
                    chunk_size=chunk_size,
                    memory_budget=memory_budget,
                    mode=mode,
                    mesh=mesh,
                    axis=axis,
                )
                bar.set_postfix_str(
                    f"{name}: {plan.mode}, {plan.passes} passes, {plan.chunk_size} at a time, {plan.memory >> 20} MiB"
                )
                for start in range(0, len(images), plan.batch_size):
                    rows = slice(start, min(start + plan.batch_size, len(images)))
                    if not store.has(rows):
                        batch = _padded(images[rows], plan.batch_size)
                        norms = np.asarray(plan.norms(arrays, jax.device_put(batch, spread)))
                        kept = "; earlier images are kept" if folder is not None and start else ""
                        store.put(rows, _all_finite(name, norms[: rows.stop - start], start, kept))
                    bar.update(rows.stop - start)
                store.finish()
            found[name] = store.values
    return found


def _check_names(functions: Mapping[str, BatchFunction]) -> None:
    if not isinstance(functions, Mapping):
        raise ValueError(f"functions is a {type(functions).__name__}: give {{name: function}}, a function by its name")
    for name in functions:
        if not isinstance(name, str) or not name or Path(name).name != name:
            raise ValueError(f"functions has the name {name!r}: give one that a file can have, such as 'embedding'")


def _sharers(mesh: jax.sharding.Mesh | None, axis: str) -> int:
    """How many devices share a batch."""
    if mesh is None:
        return 1
    if axis not in mesh.shape:
        raise ValueError(f"{axis=} is not in the mesh: name the one that batches are shared by, of {mesh.axis_names}")
    return mesh.shape[axis]


def _floats(images: np.ndarray) -> np.ndarray:
    if not hasattr(images, "dtype"):
        raise ValueError(f"images is a {type(images).__name__}: give one array")
    if not np.ndim(images) or not len(images):
        raise ValueError(f"images has shape {images.shape}: give at least one image")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images has dtype {images.dtype}: give floats in [-1, 1] (osrjax.augment.to_float)")
    with np.errstate(over="ignore"):  # of a float64 beyond float32: infinite, and refused as such
        images = np.asarray(images, np.float32)
    finite = np.isfinite(images).reshape(len(images), -1).all(axis=1)
    if not finite.all():
        raise ValueError(f"images[{int(np.argmin(finite))}] is not finite ({np.sum(~finite)} such): leave them out")
    return images


def _outputs_without_interaction(
    name: str, function: BatchFunction, variables: PyTree, images: np.ndarray
) -> list[float]:
    """First outputs of the first image; refuses functions to which an image's neighbours or its place matter."""
    rows = images[:8]
    noise = np.random.default_rng(0).uniform(-1, 1, size=(max(len(rows), 2), *rows.shape[1:])).astype(np.float32)
    rows = np.concatenate([rows, noise[len(rows) :]])  # a single image gets a neighbour
    run = jax.jit(function, compiler_options=compiler_options())
    outputs = np.asarray(run(variables, jnp.asarray(rows)), np.float64)
    _check_outputs(f"function {name!r}", outputs, len(rows))
    size = np.abs(outputs, where=np.isfinite(outputs), out=np.zeros_like(outputs)).max()
    for row in range(len(rows)):  # all other images change
        others = noise.copy()
        others[row] = rows[row]
        changed = np.asarray(run(variables, jnp.asarray(others)), np.float64)[row]
        if not np.allclose(changed, outputs[row], rtol=0, atol=1e-4 * size, equal_nan=True):
            raise ValueError(
                f"function {name!r} lets images interact: outputs of up to {size:.2g} changed by"
                f" {np.abs(changed - outputs[row]).max():.2g} when only other images changed; use running statistics"
                " (train=False)"
            )
    moved = np.asarray(run(variables, jnp.asarray(np.roll(rows, 1, axis=0))), np.float64)
    wanted = np.roll(outputs, 1, axis=0)
    if not np.allclose(moved, wanted, rtol=0, atol=_ELSEWHERE * size, equal_nan=True):
        raise ValueError(
            f"function {name!r} gives an image other outputs in another place of the batch: outputs of up to {size:.2g}"
            f" changed by {np.abs(moved - wanted).max():.2g}; switch dropout off (train=False)"
        )
    return outputs[0].reshape(-1)[:8].tolist()


def _check_outputs(name: str, outputs: jax.ShapeDtypeStruct | np.ndarray, images: int) -> None:
    if outputs.shape[:1] != (images,) or outputs.size == 0:
        raise ValueError(
            f"{name} gives shape {outputs.shape} for {images} images: keep the batch's axis first, then at least"
            " one output"
        )


def _default_batch() -> int:
    return _CPU_BATCH if jax.default_backend() == "cpu" else _ACCELERATOR_BATCH


def _even_batch(images: int) -> int:
    """The default batch, lowered so that the last one is nearly full."""
    return -(-images // -(-images // _default_batch()))


def _padded(batch: np.ndarray, size: int) -> np.ndarray:
    missing = size - len(batch)
    return np.concatenate([batch, np.repeat(batch[:1], missing, axis=0)]) if missing else batch


def _all_finite(name: str, norms: np.ndarray, start: int, kept: str) -> np.ndarray:
    finite = np.isfinite(norms)
    if not finite.all():
        raise ValueError(
            f"the Jacobian of {name!r} at images[{start + int(np.argmin(finite))}] is not finite ({np.sum(~finite)} of"
            f" {len(norms)} in its batch): look for a diverged network{kept}"
        )
    return norms
