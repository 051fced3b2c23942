"""How fast is a training step of osrjax, beside the same step in PyTorch on the same machine?

    python experiments/speed.py --what train            small_cnn, WRN-16-4 and ResNet-18: 4 min on two cores
    python experiments/speed.py --what train --networks wrn16_4 --batch 64 --repeats 21

A step: random crop and flip, forward pass, m-OvR loss, gradients, SGD, in float32. PyTorch makes it with and without
channels-last memory, and the faster form counts. Times are the 0.2 quantiles of blocks of steps (turns.py says why).

The last line is one JSON object. `ratio`: the time of the fastest peer over ours, above 1 where ours is faster, for
each network; null where a side is unreliable, which `reliable`, `unreliable` and `spreads` tell. `ratio_quartiles`: of
the ratios of the turns' medians. `images_per_second` is what `ratio` is made of; `..._median` the same by medians.
"""

import dataclasses
import sys
from typing import Any

import comparison
import jax
import jax.numpy as jnp
import tyro
from comparison import CLASSES, image_shape
from turns import Verdict, Work, compare, take_turns

from osrjax.augment.views import make_crop_and_flip
from osrjax.devices.cpu import compiler_options, reuse_host_memory
from osrjax.methods import make_classify_objective
from osrjax.methods.class_losses import CLASS_LOSSES
from osrjax.models.backbones import NETWORKS
from osrjax.models.networks import OpenSetNetwork
from osrjax.train.objective import Batch
from osrjax.train.optimizers import make_sgd
from osrjax.train.step import init_state, make_train_step

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


@dataclasses.dataclass(frozen=True)
class Config(comparison.PeerConfig):
    """Measure training steps: forward pass, m-OvR loss, gradients, SGD, random crop and flip."""

    networks: tuple[comparison.Network, ...] = ("small_cnn", "wrn16_4", "resnet18")
    """Networks to measure, one after another."""
    batch: int | None = None
    """Images of a step; default: 128 for small_cnn on 28x28x1 images, 32 for the others on 32x32x3."""
    repeats: int = 15
    """Turns of every side, the first of which is left out."""


def main(arguments: list[str] | None = None) -> int:
    """Parses, measures, prints; returns the exit code."""
    config = tyro.cli(Config, args=arguments, description=__doc__)
    if config.smoke:
        config = dataclasses.replace(config, networks=("small_cnn",), batch=8, repeats=3)
    return comparison.report("train", config, comparison.refusal(config), lambda: training_speed(config))


# ---------------------------------------------------------------------------------------------- our side


def our_steps(network: str, batch: int, *, default_options: bool) -> Work:
    """Our training step of a network, and if asked for that of XLA's default options."""
    reuse_host_memory()
    variants: dict[str, dict[str, str | bool]] = {OURS: compiler_options()}
    if default_options:
        variants[OURS_PLAIN] = {}
    calls = {who: training_step(network, batch, options) for who, options in variants.items()}
    return Work(calls, comparison.our_facts())


def training_step(network: str, batch: int, options: dict[str, str | bool]):
    """Our training step: calling it makes one and gives its loss."""
    jitted, state, inputs = training_program(network, batch, options)

    def step() -> float:
        nonlocal state
        state, metrics = jitted(state, *inputs)
        return float(metrics["loss"])

    return step


def training_program(
    network: str, batch: int, options: dict[str, str | bool], *, dtype: str = "float32"
) -> comparison.Program:
    """Our training step in a compute dtype, not yet compiled."""
    shape = image_shape(network)
    model = OpenSetNetwork(NETWORKS[network](dtype=jnp.dtype(dtype)), CLASSES)
    objective = make_classify_objective(model, CLASS_LOSSES["m_ovr"], make_crop_and_flip())
    optimizer = make_sgd(total_steps=100_000)
    hyper = {name: jnp.float32(value) for name, value in HYPER.items()}
    init_key, image_key, step_key = jax.random.split(jax.random.key(0), 3)
    state = jax.jit(lambda key: init_state(key, model, optimizer, hyper, image_shape=shape))(init_key)
    images = jax.random.randint(image_key, (batch, *shape), 0, 256, jnp.uint8)
    data = Batch(images, jnp.arange(batch, dtype=jnp.int32) % CLASSES)
    jitted = jax.jit(make_train_step(objective, optimizer), donate_argnums=0, compiler_options=options)
    return comparison.Program(jitted, state, (data, step_key, hyper))


# ---------------------------------------------------------------------------------------------- both sides


def training_speed(config: Config) -> dict[str, Any]:
    """Prints and gives the speed of training steps."""
    torch = comparison.peer_python(config)
    print(f"{'case':12} {'who':32} {'batch':>5} {'ms/image':>9} {'images/s':>9} {'spread':>6} {'ours / peer':>12}")
    found: dict[str, Verdict] = {}
    measured, rates, medians, machine = {}, {}, {}, {}
    for network in config.networks:
        batch = config.batch or (128 if network == "small_cnn" else 32)
        case = {"network": network, "batch": batch}
        recipe = {"image_shape": image_shape(network), "classes": CLASSES, "hyper": HYPER}
        ours = "speed_train:our_steps", {**case, "default_options": config.default_options}
        theirs = "torch_peers:training_steps", {**case, **recipe}
        with comparison.both_sides(ours, theirs, torch) as sides:
            seen = measured[network] = take_turns(sides, config.repeats)
            machine |= comparison.ran_on(sides)
        peers = sides[1].names if len(sides) > 1 else []
        if peers:
            found[network] = compare(seen, [OURS], peers)
        rates[network] = {who: round(batch / seen.best(who), 2) for who in seen.seconds}
        medians[network] = {who: round(batch / seen.median(who), 2) for who in seen.seconds}
        for who in seen.seconds:
            image = seen.best(who) / batch
            told = comparison.relation(compare(seen, [OURS], [who]).ratio) if who in peers else ""
            figures = f"{batch:5d} {1e3 * image:9.3f} {1 / image:9.1f} {seen.spread(who):6.2f} {told:>12}"
            print(f"{network:12} {who:32} {figures}", flush=True)
    return {
        "ratio": {network: verdict.ratio for network, verdict in found.items()} or None,
        "ratio_quartiles": {network: verdict.quartiles for network, verdict in found.items()} or None,
        "images_per_second": rates,
        "images_per_second_median": medians,
        **comparison.reliability(found, measured),
        **machine,
    }


if __name__ == "__main__":
    sys.exit(main())
