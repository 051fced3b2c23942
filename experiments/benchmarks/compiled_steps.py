"""Training steps of presets as compiled programs, and what they cost: for costs.py.

`lowered_step` builds the step that train.py or contrastive.py takes with `--stream`, sharded over many devices, from
shapes alone; `Cache` compiles it and remembers what the compiler counted.
"""

import dataclasses
import functools
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType

from osrjax.analysis import costs
from osrjax.attribution.maps import last_layers
from osrjax.augment.views import make_contrastive_augmentation, make_crop_and_flip
from osrjax.devices import sharding
from osrjax.devices.cpu import compiler_options
from osrjax.methods import make_classify_objective
from osrjax.methods.class_losses import CLASS_LOSSES
from osrjax.methods.gradmix import make_contrastive_objective
from osrjax.methods.masks import Attribution, GradMix
from osrjax.models.backbones import NETWORKS
from osrjax.models.networks import ContrastiveNetwork, OpenSetNetwork, zero_taps
from osrjax.train.batches import gather_batch
from osrjax.train.objective import Batch, Objective
from osrjax.train.optimizers import Optimizer, make_adam, make_sgd
from osrjax.train.parallel import data_parallel
from osrjax.train.step import init_state, make_train_step

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


class Program(NamedTuple):
    """What a preset of a script compiles; tests compare it with the script."""

    script: Literal["train", "contrastive"]
    network: str
    image_shape: tuple[int, int, int]
    classes: int
    batch_size: int
    rotations: Literal["none", "one", "all"] = "none"
    crop_padding: int = 4


# ---------------------------------------------------------------------------------------------- lowering


def mesh_of(platform: str, devices: int) -> jax.sharding.Mesh:
    """A mesh of virtual CPUs, or of a described TPU slice."""
    if platform == "cpu":
        return sharding.data_mesh(devices)
    name = f"{platform}:{TOPOLOGIES[platform][devices]}"
    described = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    return jax.sharding.Mesh(np.array(described[:devices]), ("data",), axis_types=(AxisType.Auto,))


def placed(tree: Any, where: jax.sharding.Sharding) -> Any:
    """Shapes that lie somewhere."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), tree)


def classifier_parts(program: Program) -> tuple[OpenSetNetwork, Callable[..., Objective], Optimizer]:
    """Network, maker of the objective and optimizer of train.py."""
    network = OpenSetNetwork(NETWORKS[program.network](), program.classes, "cosine")
    make_objective = functools.partial(
        make_classify_objective,
        class_loss=CLASS_LOSSES["m_ovr"],
        augmentation=make_crop_and_flip(crop_padding=program.crop_padding),
        rotations=program.rotations,
    )
    return network, make_objective, make_sgd(total_steps=1000)


def lowered_step(program: Program, devices: int, batch: int, platform: str) -> Any:
    """The sharded training step of a preset, lowered and not yet compiled, for so many images a device."""
    mesh = mesh_of(platform, devices)
    if program.script == "train":
        network, make_objective, optimizer = classifier_parts(program)
    else:
        backbone = NETWORKS[program.network]()
        network = ContrastiveNetwork(backbone)
        mix = GradMix(Attribution(last_layers(len(zero_taps(network, program.image_shape, 1)))))
        make_objective = functools.partial(
            make_contrastive_objective, augmentation=make_contrastive_augmentation(), mix=mix
        )
        optimizer = make_adam()
    step = make_train_step(data_parallel(make_objective, network, mesh), optimizer)

    def gather_and_step(state, batch, key, hyper):
        return step(state, gather_batch(batch, None, mesh=mesh), key, hyper)

    hyper = dict.fromkeys(HYPER, jax.ShapeDtypeStruct((), jnp.float32))
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(
        lambda key, hyper: init_state(key, network, optimizer, hyper, image_shape=program.image_shape), key, hyper
    )
    images = jax.ShapeDtypeStruct((devices * batch, *program.image_shape), jnp.uint8)
    labels = jax.ShapeDtypeStruct(images.shape[:1], jnp.int32)
    rows = Batch(*placed((images, labels), sharding.batch_sharding(mesh)))
    everywhere = sharding.replicated(mesh)
    jitted = jax.jit(gather_and_step, donate_argnums=0, compiler_options=options_for(platform))
    return jitted.lower(placed(state, everywhere), rows, placed(key, everywhere), placed(hyper, everywhere))


def options_for(platform: str) -> dict[str, str | bool]:
    """Options of all programs here."""
    return {**compiler_options(), **quick_options()} if platform == "cpu" else {}


@functools.cache
def quick_options() -> dict[str, str | bool]:
    """Options for a CPU program that is compiled and not run: the same program in slow machine code."""
    options: dict[str, str | bool] = {"xla_backend_optimization_level": "0", "xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda x: x).lower(0.0).compile(compiler_options=options)
    except jax.errors.JaxRuntimeError:  # a compiler that does not know them
        return {}
    return options


# ---------------------------------------------------------------------------------------------- compiling


class OutOfMemoryError(Exception):
    """A program that its compiler refuses, because it takes ``needed`` bytes on each chip."""

    def __init__(self, needed: float):
        super().__init__(f"it takes {needed / 2**30:.3g} GiB on each")
        self.needed = needed


class Cache:
    """Costs of programs compiled before, and what was refused, in one JSON file."""

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
        state, *_ = lowered.in_avals[0]
        shapes = [leaf.shape for leaf in jax.tree.leaves(state.params)]
        return self.cost_of(lowered, devices=devices, batch=batch, platform=platform, parameters=shapes)

    def cost_of(
        self, lowered: Any, *, devices: int, batch: int, platform: str, parameters: Iterable[tuple[int, ...]] = ()
    ) -> costs.StepCost:
        """The cost of what is lowered, compiled unless it was before.

        Raises:
          OutOfMemoryError: the compiler of TPUs finds that it does not fit.
        """
        name = f"{platform}, jax {jax.__version__}, {devices} x {batch}, "
        name += hashlib.sha256(lowered.as_text().encode()).hexdigest()
        if name not in self.known:
            try:
                cost = costs.step_cost(lowered.compile(), devices=devices, batch=batch, parameters=parameters)
                self.known[name] = dataclasses.asdict(cost)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                self.known[name] = {"needed": needed_bytes(str(error))}
            unfinished = self.path.with_suffix(".unfinished")
            unfinished.write_text(json.dumps(self.known))
            unfinished.replace(self.path)
        stored: dict[str, Any] = self.known[name]
        if "needed" in stored:
            raise OutOfMemoryError(stored["needed"])
        found = tuple(costs.Collective(*one) for one in stored["collectives"])
        stored = {**stored, "collectives": found}
        return costs.StepCost(**stored)


def needed_bytes(refusal: str) -> float:
    """What a program takes: the first size in the compiler's words, such as 40.25G; infinite where it gives none."""
    size = re.search(r"([\d.]+)([MG])\b", refusal)
    return float(size[1]) * {"M": 2**20, "G": 2**30}[size[2]] if size else math.inf
