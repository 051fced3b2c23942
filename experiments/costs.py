"""What scales with what, on paper? Operations, bytes and communication of a training step on 1 to 256 chips.

    python experiments/costs.py                                              every preset below, 1, 8, 64, 256 chips
    python experiments/costs.py --presets train:cifar10-wrn16-4 --chips 8 64
    python experiments/costs.py --platform v5e --presets train:cifar10-wrn16-4    with the compiler of TPUs (no TPU)

Compiles the step that train.py and contrastive.py take with `--stream`, sharded over so many devices, and reads the
compiler's cost analysis and the collectives of the optimised program; nothing is run, and no accelerator is needed.
`weak`: every chip has as many images as the preset has in all; `strong`: the preset's batch is shared, down to one
image a chip. With `--platform cpu` the compiler is that for CPUs: operations and collectives are those of any
platform to a percent, but it fuses less than others, so that its bytes are an upper bound; `--platform v5e` and `v5p`
need `pip install '.[tpu]'` and two to three minutes for each program.

Times are of the chip's published figures (osrjax/analysis/costs.py has the sources), as if each peak were reached.
"hidden
from" is the batch of a chip from which on arithmetic takes longer than communication, "a tenth" ten times as long.
Other presets compile to the same steps: those of other data with the same image size, and cifar10-all-r18, svhn-r18.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.experimental import topologies
from jax.sharding import AxisType

from osrjax.analysis import costs
from osrjax.attribution.maps import last_layers
from osrjax.augment.views import make_contrastive_augmentation, make_crop_and_flip
from osrjax.devices import sharding
from osrjax.devices.cpu import compiler_options
from osrjax.methods.classify import CLASS_LOSSES, make_classify_objective
from osrjax.methods.gradmix import make_contrastive_objective
from osrjax.methods.masks import Attribution, GradMix
from osrjax.models.backbones import NETWORKS
from osrjax.models.networks import ContrastiveNetwork, OpenSetNetwork, zero_taps
from osrjax.train.batches import gather_batch
from osrjax.train.objective import Batch
from osrjax.train.optimizers import make_adam, make_sgd
from osrjax.train.parallel import data_parallel
from osrjax.train.step import init_state, make_train_step


@dataclasses.dataclass(frozen=True)
class Config:
    """Compile training steps for many chips and say what they cost."""

    presets: tuple[str, ...] = ()
    """SCRIPT:PRESET, such as train:bundled; default: all that are listed in the source."""
    chips: tuple[int, ...] = (1, 8, 64, 256)
    """Numbers of chips."""
    platform: Literal["cpu", "v5e", "v5p"] = "cpu"
    """Whose compiler: cpu, or a TPU's, which takes minutes for each program."""
    times: tuple[Literal["v5e", "v5p", "h100"], ...] = ("v5e", "v5p", "h100")
    """Chips whose times are told."""
    flops: float | None = None
    """Operations a second, instead of the published peak of every chip in `times`."""
    memory: float | None = None
    """Bytes a second to and from memory, instead of the published ones."""
    link: float | None = None
    """Bytes a second that a chip sends to its neighbours, instead of the published ones."""
    far_link: float | None = None
    """Bytes a second that a chip sends beyond its neighbours, instead of the published ones."""
    hop: float | None = None
    """Seconds from chip to chip, instead of those assumed."""
    cache: Path = Path("runs/costs-cache.json")
    """What was compiled before; a program is recognised by its text before optimisation."""
    json: Path | None = None
    """Where to write all figures as JSON."""
    smoke: bool = False
    """Seconds-long version: a small network and batch on 1 and 2 chips."""


class Program(NamedTuple):
    """What a preset of a script compiles; tests compare it with the script."""

    script: Literal["train", "contrastive"]
    network: str
    image_shape: tuple[int, int, int]
    classes: int
    batch_size: int
    rotations: Literal["none", "one", "all"] = "none"
    crop_padding: int = 4


PRESETS = {
    "train:bundled": Program("train", "small_cnn", (28, 28, 1), 6, 128),
    "train:cifar10-wrn16-4": Program("train", "wrn16_4", (32, 32, 3), 6, 128, "all"),
    "train:cifar10-classifier32": Program("train", "classifier32", (32, 32, 3), 6, 128, "all"),
    "train:cifar10-resnet18": Program("train", "resnet18", (32, 32, 3), 6, 128, "all"),
    "train:tiny_imagenet-wrn16-4": Program("train", "wrn16_4", (64, 64, 3), 20, 128, "all", 8),
    "contrastive:bundled": Program("contrastive", "small_cnn", (28, 28, 1), 6, 64),
    "contrastive:cifar10-r18": Program("contrastive", "resnet18", (32, 32, 3), 6, 256),
    "contrastive:tiny-imagenet-r18": Program("contrastive", "resnet18", (64, 64, 3), 20, 256),
}
SMOKE = {"train:smoke": Program("train", "small_cnn", (8, 8, 1), 3, 8)}
TOPOLOGIES = {  # of the slices that can be had, by number of chips
    "v5e": {1: "2x2", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"},
    "v5p": {1: "2x2x1", 4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8"},
}
HYPER = (
    "learning_rate",
    "final_learning_rate",
    "weight_decay",
    "margin",
    "scale",
    "intra_weight",
    "inter_weight",
    "rotation_weight",
    "schedule_steps",
    "temperature",
    "attribution_temperature",
    "supcon_weight",
    "ssl_weight",
    "smallest_kept",
    "largest_kept",
)


def main(arguments: list[str] | None = None) -> int:
    """Parses, compiles, prints; returns the exit code."""
    config = tyro.cli(Config, args=arguments, description=__doc__)
    programs = PRESETS
    if config.smoke:
        programs = SMOKE
        config = dataclasses.replace(config, chips=(1, 2) if config.platform == "cpu" else (1, 4))
    try:
        check(config, programs)
        prepare_devices(config)
        cache = Cache(config.cache)
        if config.json:
            make_folder(config.json, "json")
    except ValueError as error:
        print(f"costs.py: {error}", file=sys.stderr)
        return 2
    chips: dict[str, costs.Chip] = {name: adjusted(costs.CHIPS[name], config) for name in config.times}
    rows = []
    for name in config.presets or tuple(programs):
        for devices in config.chips:
            for batch, how in batches(programs[name].batch_size, devices).items():
                seconds = time.perf_counter()
                cost = cache.cost(programs[name], devices, batch, config.platform)
                seconds = time.perf_counter() - seconds
                print(f"{name}, {devices} chips x {batch} images: {seconds:.0f} s", file=sys.stderr, flush=True)
                rows.append(Row(name, how, cost))
    print(cost_table(rows, config.platform))
    for chip_name, chip in chips.items():
        print("\n" + time_table(rows, chip_name, chip))
    if config.json:
        config.json.write_text(json.dumps(summary(rows, chips, config), indent=1) + "\n")
    return 0


def make_folder(path: Path, name: str) -> None:
    """The directory of a file that is written at the end; refuses one that cannot be, before any work."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{name}={str(path)!r} cannot be written ({error.strerror}): choose another file") from error


def check(config: Config, programs: dict[str, Program]) -> None:
    """Refuses what cannot be compiled or compared."""
    if not config.chips:
        raise ValueError("chips is empty: give at least one number, such as 8")
    for name in config.presets:
        if name not in programs:
            raise ValueError(f"presets={name!r} does not exist: choose from {', '.join(programs)}")
    for devices in config.chips:
        if devices < 1:
            raise ValueError(f"chips={devices} is below 1: give numbers such as 1 8 64 256")
        known = TOPOLOGIES.get(config.platform)
        if known and devices not in known:
            raise ValueError(
                f"chips={devices} is no slice of {config.platform}: choose from {', '.join(map(str, known))}"
            )
    for name in ("flops", "memory", "link", "far_link", "hop"):
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value!r} must be above 0")
    if config.platform != "cpu" and importlib.util.find_spec("libtpu") is None:
        raise ValueError(f"platform={config.platform!r} needs the compiler of TPUs: pip install '.[tpu]', or use cpu")


def adjusted(chip: costs.Chip, config: Config) -> costs.Chip:
    """The chip with the figures that the command line gives."""
    given = {name: getattr(config, name) for name in ("flops", "memory", "link", "far_link", "hop")}
    return chip._replace(**{name: value for name, value in given.items() if value is not None})


def batches(batch_size: int, devices: int) -> dict[int, str]:
    """Images a chip under weak and strong scaling, the same for one chip."""
    shared = max(1, batch_size // devices)
    return {batch_size: "both"} if shared == batch_size else {batch_size: "weak", shared: "strong"}


# ---------------------------------------------------------------------------------------------- compiling


def prepare_devices(config: Config) -> None:
    """Virtual CPU devices, as many as there are chips, before JAX looks for devices."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # libtpu would ask the network which TPU it runs on
    jax.config.update("jax_platforms", "cpu")
    wanted = max(config.chips) if config.platform == "cpu" else 1
    try:
        jax.config.update("jax_num_cpu_devices", wanted)
    except RuntimeError as error:  # another part of this process has started JAX
        if len(jax.devices()) < wanted:
            raise ValueError(f"chips={wanted} but this process has {len(jax.devices())} devices") from error


def mesh_of(platform: str, devices: int) -> jax.sharding.Mesh:
    """A mesh of virtual CPUs, or of a described TPU slice."""
    if platform == "cpu":
        return sharding.data_mesh(devices)
    name = f"{platform}:{TOPOLOGIES[platform][devices]}"
    described = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    return jax.sharding.Mesh(np.array(described[:devices]), ("data",), axis_types=(AxisType.Auto,))


def lowered_step(program: Program, devices: int, batch: int, platform: str) -> Any:
    """The sharded training step of a preset, lowered and not yet compiled, for so many images a device."""
    mesh = mesh_of(platform, devices)
    backbone = NETWORKS[program.network]()
    if program.script == "train":
        network = OpenSetNetwork(backbone, program.classes, "cosine")
        make_objective = functools.partial(
            make_classify_objective,
            class_loss=CLASS_LOSSES["m_ovr"],
            augmentation=make_crop_and_flip(crop_padding=program.crop_padding),
            rotations=program.rotations,
        )
        optimizer = make_sgd(total_steps=1000)
    else:
        network = ContrastiveNetwork(backbone)
        mix = GradMix(Attribution(last_layers(len(zero_taps(network, program.image_shape, 1)))))
        make_objective = functools.partial(
            make_contrastive_objective, augmentation=make_contrastive_augmentation(), mix=mix
        )
        optimizer = make_adam()
    step = make_train_step(data_parallel(make_objective, network, mesh), optimizer)

    def gather_and_step(state, batch, key, hyper):
        return step(state, gather_batch(batch, None, mesh=mesh), key, hyper)

    def placed(tree, where):
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), tree)

    hyper = dict.fromkeys(HYPER, jax.ShapeDtypeStruct((), jnp.float32))
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(
        lambda key, hyper: init_state(key, network, optimizer, hyper, image_shape=program.image_shape), key, hyper
    )
    images = jax.ShapeDtypeStruct((devices * batch, *program.image_shape), jnp.uint8)
    labels = jax.ShapeDtypeStruct(images.shape[:1], jnp.int32)
    rows = Batch(*placed((images, labels), sharding.batch_sharding(mesh)))
    everywhere = sharding.replicated(mesh)
    options = {**compiler_options(), **quick_options()} if platform == "cpu" else {}
    jitted = jax.jit(gather_and_step, donate_argnums=0, compiler_options=options)
    return jitted.lower(placed(state, everywhere), rows, placed(key, everywhere), placed(hyper, everywhere))


@functools.cache
def quick_options() -> dict[str, str | bool]:
    """Options for a CPU program that is compiled and not run: the same program in slow machine code."""
    options: dict[str, str | bool] = {"xla_backend_optimization_level": "0", "xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda x: x).lower(0.0).compile(compiler_options=options)
    except jax.errors.JaxRuntimeError:  # a compiler that does not know them
        return {}
    return options


class Cache:
    """Costs of programs compiled before, in one JSON file."""

    def __init__(self, path: Path):
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.known = json.loads(path.read_text()) if path.exists() else {}
            if not isinstance(self.known, dict):
                raise ValueError("it holds no object: delete it, or name another")
        except (OSError, ValueError) as error:
            raise ValueError(f"cache={str(path)!r} cannot be used: {error}") from error

    def cost(self, program: Program, devices: int, batch: int, platform: str) -> costs.StepCost:
        """The cost of a program, compiled unless it was before."""
        lowered = lowered_step(program, devices, batch, platform)
        name = f"{platform}, jax {jax.__version__}, {devices} x {batch}, "
        name += hashlib.sha256(lowered.as_text().encode()).hexdigest()
        if name not in self.known:
            state, *_ = lowered.in_avals[0]
            shapes = [leaf.shape for leaf in jax.tree.leaves(state.params)]
            cost = costs.step_cost(lowered.compile(), devices=devices, batch=batch, parameters=shapes)
            self.known[name] = dataclasses.asdict(cost)
            unfinished = self.path.with_suffix(".unfinished")
            unfinished.write_text(json.dumps(self.known))
            unfinished.replace(self.path)
        stored: dict[str, Any] = self.known[name]
        found = tuple(costs.Collective(*one) for one in stored["collectives"])
        stored = {**stored, "collectives": found}
        return costs.StepCost(**stored)


# ---------------------------------------------------------------------------------------------- tables


class Row(NamedTuple):
    """A preset's step at one number of chips and one batch."""

    preset: str
    how: str
    cost: costs.StepCost


def by_purpose(cost: costs.StepCost) -> dict[str, dict[str, float]]:
    """Number of collectives that are mainly for a purpose, and all megabytes that a chip sends for it."""
    found = {}
    for purpose in costs.PURPOSES:
        count = sum(one.purpose == purpose for one in cost.collectives)
        parts = [one.sent(cost.devices) * getattr(one, purpose) / one.size for one in cost.collectives if one.size]
        found[purpose] = {"count": count, "sent_mb": sum(parts) / 1e6}
    return found


def table(head: list[str], lines: list[list[str]]) -> str:
    """Columns as wide as they need to be; the first one to the left."""
    rows = [head, *lines]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def cost_table(rows: list[Row], platform: str) -> str:
    """What a step costs each chip, whatever the chip: operations, bytes, collectives."""
    lines = []
    for preset, how, cost in rows:
        parts = by_purpose(cost)
        told = [f"{int(part['count'])}: {number(part['sent_mb'])}" for part in parts.values()]
        figures = cost.flops / 1e9, cost.accessed / 1e9, cost.peak / 2**30
        lines.append([preset, how, str(cost.devices), str(cost.batch), *map(number, figures), *told])
    head = ["a step on each chip", "scaling", "chips", "images", "GFLOP", "GB", "GiB held"]
    return f"compiled for {platform}; collectives as NUMBER: MB sent by a chip\n" + table(
        head + ["gradients", "statistics", "rows"], lines
    )


def time_table(rows: list[Row], name: str, chip: costs.Chip) -> str:
    """Times of a step on a chip under both scalings, and the batches from which on communication hides."""
    found: dict[tuple[str, int], dict[str, costs.StepCost]] = {}
    for preset, how, cost in rows:
        found.setdefault((preset, cost.devices), {})[how] = cost
    lines = []
    for (preset, devices), by_scaling in found.items():
        line = [preset, str(devices)]
        for cost in (by_scaling.get(how, by_scaling.get("both")) for how in ("weak", "strong")):
            if cost is None:
                line += ["-"] * 3
                continue
            seconds = cost.arithmetic_seconds(chip), cost.communication_seconds(chip)
            line += [str(cost.batch), *(number(1e3 * part) for part in seconds)]
        latency = max(len(cost.collectives) for cost in by_scaling.values()) * chip.latency(devices)
        line.append(number(1e3 * latency))
        for share in (1.0, 0.1):
            if devices == 1 or len(by_scaling) < 2:
                line.append("-")
                continue
            batch = costs.break_even_batch(list(by_scaling.values()), chip, share=share)
            line.append("never" if batch is None else f"{math.ceil(batch)}")
        lines.append(line)
    weak, strong = (["images", f"{how}: arithmetic", "talk"] for how in ("weak", "strong"))
    return table([f"ms on {name}", "chips", *weak, *strong, "latency", "hidden from", "a tenth"], lines)


def summary(rows: list[Row], chips: dict[str, costs.Chip], config: Config) -> dict[str, Any]:
    """Everything that the tables say, and what they were made with."""
    found = []
    for preset, how, cost in rows:
        times = {
            name: {
                "arithmetic_seconds": cost.arithmetic_seconds(chip),
                "communication_seconds": cost.communication_seconds(chip),
            }
            for name, chip in chips.items()
        }
        figures = {"flops": cost.flops, "bytes_accessed": cost.accessed, "bytes_held": cost.peak}
        found.append(
            {"preset": preset, "scaling": how, "chips": cost.devices, "images_per_chip": cost.batch, **figures}
            | {"collectives": by_purpose(cost), "times": times}
        )
    made_with = {"platform": config.platform, "jax": jax.__version__}
    return {**made_with, "chips": {name: chip._asdict() for name, chip in chips.items()}, "steps": found}


if __name__ == "__main__":
    sys.exit(main())
