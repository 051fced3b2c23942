"""How fast is osrjax, beside the same work in PyTorch on the same machine?

    python experiments/speed.py --what train            training steps of three networks
    python experiments/speed.py --what train --networks wrn16_4 --batch 64 --repeats 21
    python experiments/speed.py --what jacobian         exact norms of input Jacobians, and their memory
    python experiments/speed.py --what gradmix          GradMix training steps, views given
    python experiments/speed.py --what sweep            16 lanes of one program against 16 runs

Both sides run in one process and take turns, so that a disturbance hits both; every number is a median. The
peers are in experiments/torch_peers.py; the fastest of them counts. The last line is one JSON object with
`ratio`: the time of the fastest peer over ours, above 1 where ours is faster.

For Jacobians the fastest of our chunk sizes counts too, and the object has `peak_mib`, the memory of our default for
128 images; `overhead`, its time over that of as many cotangents as outputs at the best time of one, in single
passes timed alone; and `auto`, how often the automatic choice of forward or reverse mode was right, of those
cases where one of them takes 20 % longer. With several networks these are the least favourable ones.

For GradMix the peers take two forms: `ratio` is that of the plain one (the clean views pass forward twice, boxes
image by image), `ratio_fast_form` that of our algorithm in PyTorch, so that algorithm and kernels are told apart.
`forward_equivalents` is the arithmetic of our step in forward passes of both views, 9 for the plain form.

For sweeps the peer is ourselves: `steady_ratio` is the time of a single lane's jitted step over the sweep's time per
lane-step, for each layout in `steady_ratios`, and there for large matrix products with as many floating-point
operations, which no layout will pass; `total_ratio` that of whole runs of experiments/train.py, one process
after another, over experiments/ablation.py with the same lanes, start-up and compilation included, at the first of
`steps` (`total_ratios` has all). The runs also draw figures and bootstrap intervals, which the sweep does not.
"""

import dataclasses
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Hashable
from importlib.metadata import version
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
import tyro

from osrjax.augment.views import make_crop_and_flip
from osrjax.devices.cpu import compiler_options, one_device_per_core, reuse_host_memory
from osrjax.methods.classify import CLASS_LOSSES, make_classify_objective
from osrjax.models.backbones import NETWORKS
from osrjax.models.networks import OpenSetNetwork
from osrjax.train.objective import Batch
from osrjax.train.optimizers import make_sgd
from osrjax.train.step import init_state, make_train_step

Who = TypeVar("Who", bound=Hashable)
Work = dict[Who, Callable[[], object]]  # who does it -> one unit of it, finished when the call returns


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure the speed of osrjax and of its peers."""

    what: Literal["train", "jacobian", "gradmix", "sweep"] = "train"
    """train: forward pass, m-OvR loss, gradients, SGD, random crop and flip. jacobian: norms of the unit embedding's
    input Jacobian. gradmix: maps of three stages, masked views, the three contrastive terms, gradients, Adam. sweep:
    training steps of many lanes in one program."""
    networks: tuple[Literal["small_cnn", "wrn16_4", "resnet18"], ...] = ()
    """Networks to measure, one after another; default: all for train, wrn16_4 for jacobian, resnet18 for gradmix,
    small_cnn for sweep."""
    batch: int | None = None
    """Images at a time; default: 128 (train) or 32 (jacobian) for small_cnn on 28x28x1 images, 32 or 4 for the
    others on 32x32x3; 64 for gradmix, two views of each."""
    repeats: int | None = None
    """Turns of every side, the first of which is left out; default: 15 for train, 5 for jacobian and sweep, 10 for
    gradmix."""
    lanes: int = 16
    """Lanes of the sweep."""
    steps: tuple[int, ...] = (800, 200)
    """Steps of the whole runs that are compared with a sweep; none: only steps are timed."""
    chunks: tuple[int, ...] = (1, 2, 8, 32)
    """Chunk sizes of our norms, beside the default one."""
    memory_batch: int = 128
    """Images of the programs that are only compiled, for their memory."""
    grid: bool = True
    """Compare the automatic choice of the mode with the faster mode: two minutes."""
    default_options: bool = False
    """Measure ours without the compiler options of osrjax.cpu too; for jacobian also without canonical convolutions."""
    smoke: bool = False
    """Seconds-long version: one small network and batch."""


OURS, OURS_PLAIN = "osrjax", "osrjax, XLA's default options"
HYPER = {
    "learning_rate": 0.01,
    "final_learning_rate": 1e-5,
    "weight_decay": 5e-4,
    "margin": 0.5,
    "scale": 32.0,
    "intra_weight": 1.0,
    "inter_weight": 1.0,
}
CLASSES = 6
DEFAULT_NETWORKS = {
    "train": ("small_cnn", "wrn16_4", "resnet18"),
    "jacobian": ("wrn16_4",),
    "gradmix": ("resnet18",),
    "sweep": ("small_cnn",),
}
DEFAULT_REPEATS = {"train": 15, "jacobian": 5, "gradmix": 10, "sweep": 5}
SHORTEST_TURN = 0.2  # seconds; fast steps are repeated within a turn


def main(arguments: list[str] | None = None) -> int:
    """Parses, measures, prints; returns the exit code."""
    config = tyro.cli(Config, args=arguments, description=__doc__)
    repeats = DEFAULT_REPEATS[config.what] if config.repeats is None else config.repeats
    if config.smoke:
        smoke = dataclasses.replace(config, networks=("small_cnn",), chunks=(3,), memory_batch=2)
        smoke = dataclasses.replace(smoke, lanes=2, steps=config.steps[:1])
        config, repeats = dataclasses.replace(smoke, batch=2 if config.what == "jacobian" else 8), 3
    error = refusal(config, repeats)
    if error:
        print(f"speed.py: {error}", file=sys.stderr)
        return 2
    if config.what == "sweep" and __name__ == "__main__":
        one_device_per_core()
    reuse_host_memory(shared=config.what != "sweep")  # lanes on all cores would wait for each other
    has_torch = find_torch()
    if not has_torch and config.what != "sweep":
        print("No peer to compare with: pip install '.[speed]' adds PyTorch.")
    load = round(os.getloadavg()[0], 2)
    if load > 0.5:
        print(f"The load average is {load}: other processes distort the comparison, wait for a quiet machine.")
    measures = {"train": training_speed, "jacobian": jacobian_speed, "gradmix": gradmix_speed, "sweep": sweep_speed}
    measure = measures[config.what]
    result = {
        "what": config.what,
        **measure(config, config.networks or DEFAULT_NETWORKS[config.what], repeats, peers=has_torch),
        "repeats": repeats,
        "device": device(),
        "load_average": load,
        "versions": {name: version(name) for name in ("jax", "flax", "torch") if name != "torch" or has_torch},
    }
    print(json.dumps(result))
    return 0


def refusal(config: Config, repeats: int) -> str | None:
    """Why a configuration cannot be measured."""
    if repeats < 3:
        return f"repeats={repeats} is too few for a median: give 3 or more"
    if config.what == "gradmix" and "wrn16_4" in config.networks:
        return "networks wrn16_4 has no GradMix peer: give small_cnn or resnet18"
    if config.what != "jacobian" and config.batch is not None and config.batch < 2:
        return f"batch={config.batch} is too small for batch norm: give 2 or more"
    if config.batch is not None and config.batch < 1:
        return f"batch={config.batch} holds no image: give 1 or more"
    if config.memory_batch < 1:
        return f"memory-batch={config.memory_batch} holds no image: give 1 or more"
    if config.lanes < 2:
        return f"lanes={config.lanes} is no sweep: give 2 or more"
    if min(config.steps, default=1) < 1:
        return f"steps={min(config.steps)} trains nothing: give 1 or more"
    if min(config.chunks, default=1) < 1:
        return f"chunks={min(config.chunks)} makes no progress: give 1 or more"
    return None


def training_speed(config: Config, networks: tuple[str, ...], repeats: int, *, peers: bool) -> dict[str, dict | None]:
    """Prints and gives the speed of training steps."""
    print(f"{'case':12} {'who':32} {'batch':>5} {'ms/image':>9} {'images/s':>9} {'ours / peer':>12}")
    ratios, quartiles, rates = {}, {}, {}
    for network in networks:
        batch = config.batch or (128 if network == "small_cnn" else 32)
        seconds = turns(training_work(network, batch, config.default_options, peers=peers), repeats)
        theirs = [who for who in seconds if who not in (OURS, OURS_PLAIN)]
        for who, times in seconds.items():
            median = statistics.median(times) / batch
            rates.setdefault(network, {})[who] = round(1 / median, 2)
            relation = f"{statistics.median(times) / statistics.median(seconds[OURS]):12.2f}" if who in theirs else ""
            print(f"{network:12} {who:32} {batch:5d} {1e3 * median:9.3f} {1 / median:9.1f} {relation}", flush=True)
        if theirs:
            ratios[network], quartiles[network] = ratio(seconds, [OURS], theirs)
    return {"ratio": ratios or None, "ratio_quartiles": quartiles or None, "images_per_second": rates}


def jacobian_speed(config: Config, networks: tuple[str, ...], repeats: int, *, peers: bool) -> dict[str, dict | None]:
    """Prints and gives time and memory of exact input-Jacobian norms."""
    import speed_jacobian

    peers = peers and on_cpu()
    ratios, quartiles, peaks, overheads, milliseconds, programs = {}, {}, {}, {}, {}, {}
    print(f"{'case':10} {'who':35} {'batch':>5} {'ms/image':>9} {'MiB':>9} {'ours / peer':>12}")
    for network in networks:
        batch, shape = config.batch or (32 if network == "small_cnn" else 4), image_shape(network)
        embedding = speed_jacobian.unit_embedding(NETWORKS[network](), shape)
        ours = speed_jacobian.our_norms(embedding, batch, config.chunks)
        passes = speed_jacobian.cotangent_passes(embedding, ((batch, 2),) if config.smoke else speed_jacobian.PASSES)
        without: dict[str, speed_jacobian.Side] = {}
        if config.default_options:
            without = speed_jacobian.our_norms_without(embedding, batch, max(config.chunks, default=1))
        theirs: dict[str, speed_jacobian.Side] = {}
        if peers:
            import torch_peers

            calls = torch_peers.jacobian_norms(network, batch=batch, image_shape=shape)
            theirs = {who: speed_jacobian.Side(call, batch) for who, call in calls.items()}
        sides = ours | without | theirs | passes | speed_jacobian.tangent_pass(embedding, batch)
        seconds = turns({who: side.call for who, side in sides.items()}, repeats)
        cost = {who: statistics.median(times) / sides[who].images for who, times in seconds.items()}
        for who, side in sides.items():
            whole = who in ours or who in without or who in theirs
            images = str(batch) if whole else ""
            memory = "" if side.mib is None else f"{side.mib:.1f}"
            note = "" if who in ours else f"{cost[who] / min(cost[our] for our in ours):.2f}"
            note = note if whole else "extrapolated"
            print(f"{network:10} {who:35} {images:>5} {1e3 * cost[who]:9.2f} {memory:>9} {note:>12}", flush=True)
        milliseconds[network] = {who: round(1e3 * value, 3) for who, value in cost.items()}
        overheads[network] = round(cost[speed_jacobian.OURS] / min(cost[who] for who in passes), 3)
        if theirs:
            ratios[network], quartiles[network] = ratio(seconds, list(ours), list(theirs))
        programs[network] = speed_jacobian.memory(embedding, config.memory_batch, config.chunks)
        peaks[network] = programs[network][speed_jacobian.OURS]
        for who, mib in programs[network].items():
            print(f"{network:10} {who:35} {config.memory_batch:5d} {'':9} {mib:9.1f} {'compiled':>12}", flush=True)
    return {
        "ratio": min(ratios.values(), default=None),
        "peak_mib": max(peaks.values()),
        "overhead": max(overheads.values()),
        "ratios": ratios or None,
        "ratio_quartiles": quartiles or None,
        "peaks_mib": peaks,
        "overheads": overheads,
        "auto": automatic_choice(smoke=config.smoke) if config.grid else None,
        "ms_per_image": milliseconds,
        f"mib_at_batch_{config.memory_batch}": programs,
    }


def gradmix_speed(config: Config, networks: tuple[str, ...], repeats: int, *, peers: bool) -> dict[str, object]:
    """Prints and gives the speed of GradMix training steps and the arithmetic of ours."""
    import speed_gradmix

    peers, batch = peers and on_cpu(), config.batch or 64
    ratios, quartiles = {"plain": {}, "fast": {}}, {"plain": {}, "fast": {}}
    milliseconds, equivalents = {}, {}
    print(f"{'case':10} {'who':35} {'batch':>5} {'ms/step':>9} {'forwards':>9} {'ours / peer':>12}")
    for network in networks:
        shape = image_shape(network)
        ours = {OURS: speed_gradmix.training_step(network, batch, shape, CLASSES, compiler_options())}
        if config.default_options:
            ours[OURS_PLAIN] = speed_gradmix.training_step(network, batch, shape, CLASSES, {})
        forward = speed_gradmix.forward_flops(network, batch, shape, compiler_options())
        equivalents[network] = round(ours[OURS].flops / forward, 3)
        theirs: dict[str, dict[str, Callable[[], float]]] = {}
        if peers:
            import torch_peers

            hyper = speed_gradmix.HYPER
            theirs = torch_peers.gradmix_steps(network, batch=batch, image_shape=shape, classes=CLASSES, hyper=hyper)
        work: Work[str] = {who: side.call for who, side in ours.items()}
        for steps in theirs.values():
            work.update(steps)
        seconds = turns(work, repeats)
        medians = {who: statistics.median(times) for who, times in seconds.items()}
        for who, median in medians.items():
            forwards = f"{ours[who].flops / forward:.2f}" if who in ours else ""
            relation = "" if who in ours else f"{median / medians[OURS]:.2f}"
            print(f"{network:10} {who:35} {batch:5d} {1e3 * median:9.1f} {forwards:>9} {relation:>12}", flush=True)
        milliseconds[network] = {who: round(1e3 * median, 1) for who, median in medians.items()}
        for form, steps in theirs.items():
            ratios[form][network], quartiles[form][network] = ratio(seconds, [OURS], list(steps))
    return {
        "ratio": min(ratios["plain"].values(), default=None),
        "ratio_fast_form": min(ratios["fast"].values(), default=None),
        "forward_equivalents": max(equivalents.values()),
        "ratios": ratios,
        "ratio_quartiles": quartiles,
        "batch": batch,
        "ms_per_step": milliseconds,
        "forward_equivalents_each": equivalents,
    }


def sweep_speed(config: Config, networks: tuple[str, ...], repeats: int, *, peers: bool) -> dict[str, object]:
    """Prints and gives the speed of lanes in one program against single steps and single runs."""
    import speed_sweep

    del peers
    steady: dict[str, dict[str, float]] = {}
    print(f"{'case':10} {'who':35} {'lanes':>5} {'ms/lane-step':>12} {'single / it':>12}")
    for network in networks:
        batch, shape = config.batch or 128, image_shape(network)
        work = speed_sweep.lane_steps(network, batch, config.lanes, shape, CLASSES, dict(compiler_options()))
        medians = {who: statistics.median(times) / config.lanes for who, times in turns(work, repeats).items()}
        single = medians[speed_sweep.SINGLE]
        steady[network] = {who: round(single / median, 3) for who, median in medians.items()}
        for who, median in medians.items():
            print(f"{network:10} {who:35} {config.lanes:5d} {1e3 * median:12.2f} {single / median:12.2f}", flush=True)
    totals, seconds = {}, {}
    for steps in config.steps:
        sequential, together = speed_sweep.whole_runs(config.lanes, steps, smoke=config.smoke)
        totals[steps], seconds[steps] = round(sequential / together, 3), (round(sequential, 1), round(together, 1))
        print(f"{config.lanes} runs of {steps} steps: {sequential:.1f} s one after another, {together:.1f} s as lanes")
    return {
        "total_ratio": totals.get(config.steps[0]) if config.steps else None,
        "steady_ratio": min(ratios[speed_sweep.AUTO] for ratios in steady.values()),
        "total_ratios": totals,
        "steady_ratios": steady,
        "seconds": seconds,
        "lanes": config.lanes,
        "jax_devices": jax.device_count(),
    }


def automatic_choice(*, smoke: bool) -> dict[str, int]:
    """Prints the times of both modes on a grid of inputs and outputs; counts where the automatic choice is right."""
    import speed_jacobian

    from osrjax.jacobian.exact import automatic_mode

    print(f"{'inputs':>10} {'outputs':>8} {'forward, ms':>12} {'reverse, ms':>12}  automatic")
    counts = {"cells": 0, "clear": 0, "right": 0}
    for shape, outputs in speed_jacobian.SMOKE_GRID if smoke else speed_jacobian.GRID:
        sides = speed_jacobian.mode_sides(shape, outputs)
        seconds = turns({side: value.call for side, value in sides.items()}, 3, shortest=SHORTEST_TURN / 4)
        best = {"forward": math.inf, "reverse": math.inf}
        for (mode, chunk), times in seconds.items():
            best[mode] = min(best[mode], statistics.median(times) / sides[mode, chunk].images)
        chosen, faster = automatic_mode(math.prod(shape), outputs), min(best, key=best.__getitem__)
        clear = max(best.values()) > 1.2 * min(best.values())
        counts["cells"] += 1
        counts["clear"] += clear
        counts["right"] += clear and chosen == faster
        verdict = "" if not clear else "right" if chosen == faster else "WRONG"
        times = f"{1e3 * best['forward']:12.2f} {1e3 * best['reverse']:12.2f}"
        print(f"{'x'.join(map(str, shape)):>10} {outputs:8d} {times}  {chosen} {verdict}", flush=True)
    return counts


def ratio(seconds: dict[str, list[float]], ours: list[str], theirs: list[str]) -> tuple[float, list[float]]:
    """Median time of the fastest peer over that of the fastest of ours, and the quartiles of their turns' ratios."""
    fastest, our_fastest = (min(side, key=lambda who: statistics.median(seconds[who])) for side in (theirs, ours))
    pairs = [their / our for their, our in zip(seconds[fastest], seconds[our_fastest], strict=True)]
    quartiles = [round(q, 3) for q in statistics.quantiles(pairs, n=4)[::2]]
    return round(statistics.median(seconds[fastest]) / statistics.median(seconds[our_fastest]), 3), quartiles


def turns(work: Work[Who], repeats: int, *, shortest: float | None = None) -> dict[Who, list[float]]:
    """Seconds per unit of work, a list of ``repeats - 1`` for each side, measured in turns."""
    shortest = SHORTEST_TURN if shortest is None else shortest
    units = {}
    for who, unit in work.items():
        unit()  # compiles
        start = time.perf_counter()
        unit()
        units[who] = max(1, math.ceil(shortest / (time.perf_counter() - start)))
    seconds = {who: [] for who in work}
    order = list(work)
    for _ in range(repeats):
        for who in order:
            start = time.perf_counter()
            for _ in range(units[who]):
                work[who]()
            seconds[who].append((time.perf_counter() - start) / units[who])
        order.append(order.pop(0))  # nobody always follows the same neighbour
    return {who: times[1:] for who, times in seconds.items()}


def training_work(network: str, batch: int, default_options: bool, *, peers: bool) -> Work[str]:
    """One training step of a network: ours, and those of the peers."""
    shape = image_shape(network)
    work = {OURS: training_step(network, batch, shape, compiler_options())}
    if default_options:
        work[OURS_PLAIN] = training_step(network, batch, shape, {})
    if peers:
        import torch_peers

        work |= torch_peers.training_steps(network, batch=batch, image_shape=shape, classes=CLASSES, hyper=HYPER)
    return work


def training_step(network: str, batch: int, image_shape: tuple[int, int, int], options: dict[str, str | bool]):
    """Our training step: calling it makes one and gives its loss."""
    model = OpenSetNetwork(NETWORKS[network](), CLASSES)
    objective = make_classify_objective(model, CLASS_LOSSES["m_ovr"], make_crop_and_flip())
    optimizer = make_sgd(total_steps=100_000)
    hyper = {name: jnp.float32(value) for name, value in HYPER.items()}
    init_key, image_key, step_key = jax.random.split(jax.random.key(0), 3)
    state = jax.jit(lambda key: init_state(key, model, optimizer, hyper, image_shape=image_shape))(init_key)
    images = jax.random.randint(image_key, (batch, *image_shape), 0, 256, jnp.uint8)
    data = Batch(images, jnp.arange(batch, dtype=jnp.int32) % CLASSES)
    compiled = jax.jit(make_train_step(objective, optimizer), donate_argnums=0, compiler_options=options)

    def step() -> float:
        nonlocal state
        state, metrics = compiled(state, data, step_key, hyper)
        return float(metrics["loss"])

    return step


def image_shape(network: str) -> tuple[int, int, int]:
    """Height, width and channels of the images that a network is measured on."""
    return (28, 28, 1) if network == "small_cnn" else (32, 32, 3)


def device() -> str:
    """The device that JAX ran on, in words."""
    if jax.default_backend() != "cpu":
        return f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    return f"CPU, {os.cpu_count()} cores, {platform.machine()}, {platform.system()}"


def on_cpu() -> bool:
    """Whether JAX runs on the CPU, as the peers do; says so if not."""
    if jax.default_backend() == "cpu":
        return True
    print("The peers run on the CPU alone: no comparison on another device.")
    return False


def find_torch() -> bool:
    """Whether PyTorch can be imported."""
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
