"""How fast is a GradMix training step of osrjax, beside PyTorch on the same machine?

    python experiments/speed.py --what gradmix          ResNet-18: 8 min on two cores
    python experiments/speed.py --what gradmix --networks small_cnn --batch 32

A step on given views: maps of three stages, masked views, the three contrastive terms, gradients, Adam. The peers take
two forms: the plain one (the clean views pass forward twice, boxes image by image), and our algorithm in PyTorch, so
that algorithm and kernels are told apart. Times are the 0.2 quantiles of blocks of steps (turns.py says why).

The last line is one JSON object. `ratio`: the time of the fastest plain peer over ours, above 1 where ours is faster;
`ratio_fast_form`: that of our algorithm in PyTorch; both null where a side is unreliable, which `reliable`,
`unreliable` and `spreads` tell. `forward_equivalents` is the arithmetic of our step in forward passes of both views, 9
for the plain form. With several networks these are the least favourable ones.
"""

import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import comparison
import jax
import jax.numpy as jnp
import tyro
from comparison import CLASSES, image_shape
from turns import Verdict, Work, compare, take_turns

from osrjax.attribution.maps import last_layers
from osrjax.augment.pixels import to_float
from osrjax.devices.cpu import compiler_options, reuse_host_memory
from osrjax.methods.gradmix import make_contrastive_objective
from osrjax.methods.masks import Attribution, GradMix
from osrjax.models.backbones import NETWORKS
from osrjax.models.networks import ContrastiveNetwork, zero_taps
from osrjax.train.objective import Batch
from osrjax.train.optimizers import make_adam
from osrjax.train.step import init_state, make_train_step

OURS, OURS_PLAIN = "osrjax", "osrjax, XLA's default options"
HYPER = {
    "learning_rate": 1e-3,
    "final_learning_rate": 1e-3,  # constant, as the peers'
    "schedule_steps": 1.0,
    "temperature": 0.05,
    "attribution_temperature": 0.05,
    "supcon_weight": 1.0,  # the peers leave weights of 1 out
    "ssl_weight": 1.0,
    "smallest_kept": 0.5,
    "largest_kept": 0.9,
}


@dataclasses.dataclass(frozen=True)
class Config(comparison.PeerConfig):
    """Measure GradMix training steps: maps of three stages, masked views, three contrastive terms, gradients, Adam."""

    networks: tuple[comparison.Network, ...] = ("resnet18",)
    """Networks to measure, one after another: small_cnn, resnet18."""
    batch: int | None = None
    """Images of a step, two views of each; default: 64."""
    repeats: int = 10
    """Turns of every side, the first of which is left out."""


def main(arguments: list[str] | None = None) -> int:
    """Parses, measures, prints; returns the exit code."""
    config = tyro.cli(Config, args=arguments, description=__doc__)
    if config.smoke:
        config = dataclasses.replace(config, networks=("small_cnn",), batch=8, repeats=3)
    return comparison.report("gradmix", config, refusal(config), lambda: gradmix_speed(config))


def refusal(config: Config) -> str | None:
    """Why a configuration cannot be measured."""
    if "wrn16_4" in config.networks:
        return "networks wrn16_4 has no GradMix peer: give small_cnn or resnet18"
    return comparison.refusal(config)


# ---------------------------------------------------------------------------------------------- our side


def our_steps(network: str, batch: int, *, default_options: bool) -> Work:
    """Our GradMix step of a network, and if asked for that of XLA's default options; the facts count operations."""
    reuse_host_memory()
    variants: dict[str, dict[str, str | bool]] = {OURS: compiler_options()}
    if default_options:
        variants[OURS_PLAIN] = {}
    steps = {who: training_step(network, batch, options) for who, options in variants.items()}
    flops = {who: step_flops for who, (_, step_flops) in steps.items()}
    forward = forward_flops(network, batch, compiler_options())
    facts = {**comparison.our_facts(), "flops": flops, "forward_flops": forward}
    return Work({who: step for who, (step, _) in steps.items()}, facts)


def training_step(network: str, batch: int, options: dict[str, str | bool]) -> tuple[Callable[[], float], float]:
    """Our GradMix training step, calling which makes one and gives its loss; and its operations, as XLA counts them."""
    jitted, state, inputs = training_program(network, batch, options)
    compiled = jitted.lower(state, *inputs).compile()

    def step() -> float:
        nonlocal state
        state, metrics = compiled(state, *inputs)
        return float(metrics["loss"])

    return step, _flops(compiled)


def training_program(
    network: str, batch: int, options: dict[str, str | bool], *, dtype: str = "float32"
) -> comparison.Program:
    """Our GradMix training step in a compute dtype, not yet compiled."""
    shape = image_shape(network)
    model = ContrastiveNetwork(NETWORKS[network](dtype=jnp.dtype(dtype)))
    stages = len(zero_taps(model, shape, batch))
    mix = GradMix(Attribution(last_layers(stages)))
    objective, optimizer = make_contrastive_objective(model, view, mix=mix), make_adam()
    hyper = {name: jnp.float32(value) for name, value in HYPER.items()}
    init_key, image_key, step_key = jax.random.split(jax.random.key(0), 3)
    state = jax.jit(lambda key: init_state(key, model, optimizer, hyper, image_shape=shape))(init_key)
    images = jax.random.randint(image_key, (batch, *shape), 0, 256, jnp.uint8)
    data = Batch(images, jnp.arange(batch, dtype=jnp.int32) % CLASSES)
    jitted = jax.jit(make_train_step(objective, optimizer), donate_argnums=0, compiler_options=options)
    return comparison.Program(jitted, state, (data, step_key, hyper))


def view(key: jax.Array, images: jax.Array) -> jax.Array:
    """The images in another contrast: no augmentation to speak of, but two views that differ."""
    return jax.random.uniform(key, minval=0.5, maxval=1.0) * to_float(images)


def forward_flops(network: str, batch: int, options: dict[str, str | bool]) -> float:
    """Operations of one forward pass of both views of a batch in train mode, compiled and never run."""
    model = ContrastiveNetwork(NETWORKS[network]())
    views = jax.ShapeDtypeStruct((2 * batch, *image_shape(network)), jnp.float32)
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), views)

    def forward(variables, views):
        return model.apply(variables, views, train=True, mutable="batch_stats")

    return _flops(jax.jit(forward, compiler_options=options).lower(variables, views).compile())


def _flops(compiled):
    cost = compiled.cost_analysis()
    assert cost is not None
    return cost["flops"]


# ---------------------------------------------------------------------------------------------- both sides


def gradmix_speed(config: Config) -> dict[str, Any]:
    """Prints and gives the speed of GradMix training steps and the arithmetic of ours."""
    torch, batch = comparison.peer_python(config), config.batch or 64
    found: dict[str, dict[str, Verdict]] = {"plain": {}, "fast": {}}
    measured, milliseconds, medians, equivalents, machine = {}, {}, {}, {}, {}
    print(f"{'case':10} {'who':40} {'batch':>5} {'ms/step':>9} {'forwards':>9} {'spread':>6} {'ours / peer':>12}")
    for network in config.networks:
        case = {"network": network, "batch": batch}
        recipe = {"image_shape": image_shape(network), "classes": CLASSES, "hyper": HYPER}
        ours = "speed_gradmix:our_steps", {**case, "default_options": config.default_options}
        with comparison.both_sides(ours, ("torch_peers:gradmix_steps", {**case, **recipe}), torch) as sides:
            seen = measured[network] = take_turns(sides, config.repeats)
            machine |= comparison.ran_on(sides)
        facts = sides[0].facts
        forwards = {who: flops / facts["forward_flops"] for who, flops in facts["flops"].items()}
        equivalents[network] = round(forwards[OURS], 3)
        for form, peers in (sides[1].facts["forms"] if len(sides) > 1 else {}).items():
            found[form][network] = compare(seen, [OURS], peers)
        milliseconds[network] = {who: round(1e3 * seen.best(who), 1) for who in seen.seconds}
        medians[network] = {who: round(1e3 * seen.median(who), 1) for who in seen.seconds}
        for who in seen.seconds:
            own = who in forwards
            count = f"{forwards[who]:.2f}" if own else ""
            told = "" if own else comparison.relation(compare(seen, [OURS], [who]).ratio)
            figures = f"{batch:5d} {1e3 * seen.best(who):9.1f} {count:>9} {seen.spread(who):6.2f} {told:>12}"
            print(f"{network:10} {who:40} {figures}", flush=True)
    ratios = {form: {network: verdict.ratio for network, verdict in each.items()} for form, each in found.items()}
    quartiles = {
        form: {network: verdict.quartiles for network, verdict in each.items()} for form, each in found.items()
    }
    named = {f"{network}, {form} form": verdict for form, each in found.items() for network, verdict in each.items()}
    return {
        "ratio": comparison.of_all(min, ratios["plain"].values()),
        "ratio_fast_form": comparison.of_all(min, ratios["fast"].values()),
        "forward_equivalents": max(equivalents.values()),
        "ratios": ratios,
        "ratio_quartiles": quartiles,
        "batch": batch,
        "ms_per_step": milliseconds,
        "ms_per_step_median": medians,
        "forward_equivalents_each": equivalents,
        **comparison.reliability(named, measured),
        **machine,
    }


if __name__ == "__main__":
    sys.exit(main())
