"""The peers of accelerator.py in PyTorch, on its accelerator; needs PyTorch and nothing of ours.

Steps and norms are those of torch_peers.py, in eager mode, each in contiguous and in channels-last memory. Training may
round products to TF32, as ours does by default; norms may not, as ours do not.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch_peers
from accelerator_cases import Cases, timings

Recipe = Mapping[str, Any]  # shapes by network, classes, hyper-parameters


def present() -> Cases:
    """Whether there is a PyTorch, and its device."""
    return Cases(facts(), {})


def training(networks: Sequence[str], dtypes: Sequence[str], batch: int, repeats: int, recipe: Recipe) -> Cases:
    """Training steps of networks, by compute dtype and memory format."""
    return _steps(torch_peers.training_step, networks, dtypes, batch, repeats, recipe)


def gradmix(networks: Sequence[str], dtypes: Sequence[str], batch: int, repeats: int, recipe: Recipe) -> Cases:
    """GradMix steps in the order of ours, by compute dtype and memory format."""
    step = partial(torch_peers.gradmix_step, torch_peers.fast_gradmix_gradients)
    return _steps(step, networks, dtypes, batch, repeats, recipe)


def _steps(step: Callable[..., Callable[[], Any]], networks, dtypes, batch, repeats, recipe) -> Cases:
    set_up(tf32=True)

    def case(network: str, dtype: str, layout: str) -> dict[str, Any]:
        shape, classes, hyper = recipe["shapes"][network], recipe["classes"], recipe["hyper"]
        make = partial(step, network, batch, shape, classes, hyper, layout, device=device(), dtype=dtype)
        return measured(make, count=batch, repeats=repeats)

    cases = {
        f"{network}, {dtype}: torch, {layout}": partial(case, network, dtype, layout)
        for dtype in dtypes
        for network in networks
        for layout in reversed(torch_peers.MEMORY_FORMATS)
    }
    return Cases(facts(), cases)


def norms(network: str, batches: Sequence[int], repeats: int, image_shape: tuple[int, int, int]) -> Cases:
    """Exact input-Jacobian norms by each of PyTorch's routes."""
    set_up(tf32=False)
    routes = ("torch, loop, channels_last", "torch, vmap(jacrev), chunk 32", "torch, loop over outputs")

    def case(batch: int, who: str) -> dict[str, Any]:
        def make() -> Callable[[], Any]:
            work = torch_peers.jacobian_norms(network, batch=batch, image_shape=image_shape, device=device())
            return work.calls[who]

        return measured(make, count=batch, repeats=repeats)

    cases = {f"{network}, batch {batch}: {who}": partial(case, batch, who) for who in routes for batch in batches}
    return Cases(facts(), cases)


# ---------------------------------------------------------------------------------------------- the device


def device() -> str:
    """CUDA, or for a trial of this file the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def facts() -> dict[str, Any]:
    """What the peers run on."""
    found = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    if device() == "cpu":
        return {"versions": found, "device": "cpu"}
    return {"versions": found, "device": torch.cuda.get_device_name(0), "mib": torch.cuda.mem_get_info(0)[1] >> 20}


def set_up(*, tf32: bool) -> None:
    """The fastest convolutions are searched for, as XLA does; whether float32 products may be rounded to TF32."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32


def wait() -> None:
    """Returns when the device is done."""
    if device() == "cuda":
        torch.cuda.synchronize()


def measured(make: Callable[[], Callable[[], Any]], *, count: int, repeats: int) -> dict[str, Any]:
    """Times what is made, beside its first call and its largest memory; ``count`` images are worked on in a call."""
    if on_gpu := device() == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    call = make()
    start = time.perf_counter()
    call()
    wait()
    first = time.perf_counter() - start
    found = timings(call, lambda _: wait(), repeats=repeats)
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else None
    return {**found, "count": count, "compile_seconds": first, "program_mib": None, "peak_mib": peak}
