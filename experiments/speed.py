"""How fast is osrjax, beside the same work in PyTorch on the same machine?

    python experiments/speed.py --what train            training steps of three networks
    python experiments/speed.py --what train --networks wrn16_4 --batch 64 --repeats 21

Both sides run in one process and take turns, so that a disturbance hits both; every number is a median. The
peers are in experiments/torch_peers.py; the fastest of them counts. The last line is one JSON object with
`ratio`: our images a second over those of the fastest peer, above 1 where ours is faster.
"""

import dataclasses
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Literal

import jax
import jax.numpy as jnp
import tyro

from osrjax.cpu import compiler_options, reuse_host_memory
from osrjax.models import NETWORKS, OpenSetNetwork
from osrjax.objectives import CLASS_LOSSES, Batch, make_classify_objective, make_crop_and_flip
from osrjax.train import init_state, make_sgd, make_train_step

Work = dict[str, Callable[[], object]]  # who does it -> one unit of it, finished when the call returns


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure the speed of osrjax and of its peers."""

    what: Literal["train"] = "train"
    """train: forward pass, m-OvR loss, gradients, SGD, random crop and flip."""
    networks: tuple[Literal["small_cnn", "wrn16_4", "resnet18"], ...] = ("small_cnn", "wrn16_4", "resnet18")
    """Networks to measure, one after another."""
    batch: int | None = None
    """Images a step; default: 128 for small_cnn on 28x28x1 images, 32 for the others on 32x32x3."""
    repeats: int = 15
    """Turns of every side; the first turn is left out."""
    default_options: bool = False
    """Measure our step without the compiler options of osrjax.cpu too."""
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
SHORTEST_TURN = 0.2  # seconds; fast steps are repeated within a turn


def main(arguments: list[str] | None = None) -> int:
    """Parses, measures, prints; returns the exit code."""
    config = tyro.cli(Config, args=arguments, description=__doc__)
    if config.smoke:
        config = dataclasses.replace(config, networks=("small_cnn",), batch=8, repeats=3)
    if config.repeats < 3:
        print(f"speed.py: repeats={config.repeats} is too few for a median: give 3 or more", file=sys.stderr)
        return 2
    if config.batch is not None and config.batch < 2:
        print(f"speed.py: batch={config.batch} is too small for batch norm: give 2 or more", file=sys.stderr)
        return 2
    reuse_host_memory()
    has_torch = find_torch()
    if not has_torch:
        print("No peer to compare with: pip install '.[speed]' adds PyTorch.")

    load = round(os.getloadavg()[0], 2)
    if load > 0.5:
        print(f"The load average is {load}: other processes distort the comparison, wait for a quiet machine.")
    print(f"{'case':12} {'who':32} {'batch':>5} {'ms/image':>9} {'images/s':>9} {'ours / peer':>12}")
    ratios, quartiles, rates = {}, {}, {}
    for network in config.networks:
        batch = config.batch or (128 if network == "small_cnn" else 32)
        seconds = turns(training_work(network, batch, config.default_options, peers=has_torch), config.repeats)
        peers = [who for who in seconds if who not in (OURS, OURS_PLAIN)]
        for who, times in seconds.items():
            median = statistics.median(times) / batch
            rates.setdefault(network, {})[who] = round(1 / median, 2)
            relation = f"{statistics.median(times) / statistics.median(seconds[OURS]):12.2f}" if who in peers else ""
            print(f"{network:12} {who:32} {batch:5d} {1e3 * median:9.3f} {1 / median:9.1f} {relation}", flush=True)
        if peers:
            fastest = min(peers, key=lambda who: statistics.median(seconds[who]))
            ratios[network] = round(statistics.median(seconds[fastest]) / statistics.median(seconds[OURS]), 3)
            pairs = [theirs / ours for theirs, ours in zip(seconds[fastest], seconds[OURS], strict=True)]
            quartiles[network] = [round(q, 3) for q in statistics.quantiles(pairs, n=4)[::2]]
    result = {
        "what": config.what,
        "ratio": ratios or None,
        "ratio_quartiles": quartiles or None,
        "images_per_second": rates,
        "repeats": config.repeats,
        "device": device(),
        "load_average": load,
        "versions": {name: version(name) for name in ("jax", "flax", "torch") if name != "torch" or has_torch},
    }
    print(json.dumps(result))
    return 0


def turns(work: Work, repeats: int) -> dict[str, list[float]]:
    """Seconds per unit of work, a list of ``repeats - 1`` for each side, measured in turns."""
    units = {}
    for who, unit in work.items():
        unit()  # compiles
        start = time.perf_counter()
        unit()
        units[who] = max(1, math.ceil(SHORTEST_TURN / (time.perf_counter() - start)))
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


def training_work(network: str, batch: int, default_options: bool, *, peers: bool) -> Work:
    """One training step of a network: ours, and those of the peers."""
    image_shape = (28, 28, 1) if network == "small_cnn" else (32, 32, 3)
    work = {OURS: training_step(network, batch, image_shape, compiler_options())}
    if default_options:
        work[OURS_PLAIN] = training_step(network, batch, image_shape, {})
    if peers:
        import torch_peers

        work |= torch_peers.training_steps(network, batch=batch, image_shape=image_shape, classes=CLASSES, hyper=HYPER)
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


def device() -> str:
    """The device that JAX ran on, in words."""
    if jax.default_backend() != "cpu":
        return f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    return f"CPU, {os.cpu_count()} cores, {platform.machine()}, {platform.system()}"


def find_torch() -> bool:
    """Whether PyTorch can be imported."""
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
