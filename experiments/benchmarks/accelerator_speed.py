"""Our speeds on the device that JAX chooses: training steps, GradMix steps, exact norms, lanes; for accelerator.py.

Programs are those of speed_train.py, speed_gradmix.py, jacobian_passes.py and sweep_lanes.py. A block of calls ends
when the device is done with the last, so that a host that runs ahead is not held up, as in a training.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import comparison
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import speed_gradmix
import speed_train
import sweep_lanes
from accelerator_cases import Cases, timings
from comparison import Program, image_shape
from jacobian_passes import mib, our_norms_of, unit_embedding

from osrjax.devices.cpu import compiler_options
from osrjax.models.backbones import NETWORKS

# strategy, convolutions
LAYOUTS: dict[str, tuple[Literal["vmap", "loop"], Literal["native", "patches"]]] = {
    "vmap, native": ("vmap", "native"),
    "vmap, patches": ("vmap", "patches"),
    "loop": ("loop", "native"),
}


def device() -> Cases:
    """What is there, and whether it computes."""

    def sums() -> dict[str, Any]:
        return {"sum": float(jax.jit(jnp.sum)(jnp.arange(5.0)))}

    return Cases(facts(), {"a sum": sums})


def facts() -> dict[str, Any]:
    """What our side runs on."""
    found = comparison.our_facts()
    stats = memory_stats()
    return {
        **found,
        "versions": {**found["versions"], "jaxlib": jaxlib.__version__},
        "mib": stats["bytes_limit"] >> 20 if "bytes_limit" in stats else None,
        "default_matmul_precision": str(jax.config.values["jax_default_matmul_precision"]),
    }


# ---------------------------------------------------------------------------------------------- parts


def training(networks: Sequence[str], dtypes: Sequence[str], batch: int, repeats: int) -> Cases:
    """Training steps of networks, by compute dtype."""
    return _steps(speed_train.training_program, networks, dtypes, batch, repeats)


def gradmix(networks: Sequence[str], dtypes: Sequence[str], batch: int, repeats: int) -> Cases:
    """GradMix steps of networks, by compute dtype."""
    return _steps(speed_gradmix.training_program, networks, dtypes, batch, repeats)


def _steps(program: Callable[..., Program], networks, dtypes, batch, repeats) -> Cases:
    def case(network: str, dtype: str) -> dict[str, Any]:
        return measured(*program(network, batch, compiler_options(), dtype=dtype), count=batch, repeats=repeats)

    return Cases(
        facts(), {f"{network}, {dtype}": partial(case, network, dtype) for dtype in dtypes for network in networks}
    )


def norms(network: str, batches: Sequence[int], repeats: int) -> Cases:
    """Exact input-Jacobian norms of the unit embedding of batches of images."""

    def case(batch: int) -> dict[str, Any]:
        embedding = unit_embedding(NETWORKS[network](), image_shape(network))
        found = our_norms_of(embedding)
        images = np.random.default_rng(0).uniform(-1.0, 1.0, (batch, *embedding.image_shape))
        jitted = jax.jit(
            lambda variables, images: (variables, {"norms": found(variables, images)}),
            donate_argnums=0,
            compiler_options=compiler_options(),
        )
        inputs = (jnp.asarray(images, jnp.float32),)
        return measured(jitted, embedding.variables, inputs, count=batch, repeats=repeats)

    return Cases(facts(), {f"{network}, batch {batch}": partial(case, batch) for batch in batches})


def sweep(network: str, batch: int, lanes: Sequence[int], repeats: int) -> Cases:
    """Steps of many lanes in one program on one device, by layout."""

    def case(number: int, layout: str) -> dict[str, Any]:
        lane_case = sweep_lanes.case_of(network, batch, number)
        program, mesh = sweep_lanes.lanes_program(lane_case, *LAYOUTS[layout], spread=False)
        return measured(*program, count=number, repeats=repeats, mesh=mesh)

    return Cases(
        facts(),
        {
            f"{network}, {number} lanes: {layout}": partial(case, number, layout)
            for number in lanes
            for layout in LAYOUTS
        },
    )


# ---------------------------------------------------------------------------------------------- one program


def measured(
    jitted: Any,
    state: Any,
    inputs: tuple[Any, ...],
    *,
    count: int,
    repeats: int,
    mesh: jax.sharding.Mesh | None = None,
) -> dict[str, Any]:
    """Compiles a program and times it; ``count`` images or lanes are worked on in a call.

    ``program_mib``: arguments, results and temporaries, as the compiler has planned them. ``peak_mib``: the largest
    memory of the process; None where the device does not tell, or where another program before took as much.

    Raises:
        FloatingPointError: a result that is not finite.
    """
    before = memory_stats().get("peak_bytes_in_use", 0)
    with jax.set_mesh(mesh) if mesh is not None else contextlib.nullcontext():
        start = time.perf_counter()
        compiled = jitted.lower(state, *inputs).compile()
        seconds = time.perf_counter() - start

        def call() -> Any:
            nonlocal state
            state, found = compiled(state, *inputs)
            return found

        found = timings(call, jax.block_until_ready, repeats=repeats)
        for name, values in call().items():
            if not np.isfinite(np.asarray(values, np.float32)).all():
                raise FloatingPointError(f"{name} is not finite after some calls")
    peak = memory_stats().get("peak_bytes_in_use", 0)
    return {
        **found,
        "count": count,
        "compile_seconds": seconds,
        "program_mib": None if compiled.memory_analysis() is None else mib(compiled),
        "peak_mib": peak / 2**20 if peak > before else None,
    }


def memory_stats() -> dict[str, int]:
    """What the device tells of its memory; empty where it does not."""
    return jax.local_devices()[0].memory_stats() or {}
