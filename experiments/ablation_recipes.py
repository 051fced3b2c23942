"""What an ablation can be made of: its recipe, presets and arms, the lanes that they give, and what a lane trains."""

import argparse
import dataclasses
import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_type_hints

import numpy as np
import tyro

from osrjax.attribution.maps import last_layers
from osrjax.augment.views import make_contrastive_augmentation, make_crop_and_flip
from osrjax.data import OpenSetData
from osrjax.methods.classify import CLASS_LOSSES, make_classify_objective
from osrjax.methods.gradmix import make_contrastive_objective
from osrjax.methods.masks import Attribution, GradMix, RandomBox
from osrjax.models.backbones import NETWORKS
from osrjax.models.networks import ContrastiveNetwork, OpenSetNetwork, zero_taps
from osrjax.train.layout import Layout, choose_layout
from osrjax.train.objective import Objective
from osrjax.train.optimizers import Optimizer, make_adam, make_sgd


@dataclasses.dataclass(frozen=True)
class Config:
    """Run the arms of an ablation as lanes of compiled programs."""

    preset: str = "seeds"
    """The named ablation that gives the defaults of all other fields; listed above."""
    out: Path | None = None
    """Directory of results; the same command with the same directory resumes. Default: runs/ablation-PRESET."""
    arms: tuple[str, ...] = ()
    """Arms as "NAME: field=value field=value"; the first is the reference. Default: the recipe alone."""
    vary: tuple[str, ...] = ()
    """Axes as field=value,value: every combination is an arm, in every one of `arms`."""
    one_at_a_time: bool = False
    """Vary one axis at a time around the recipe instead of taking every combination."""
    seeds: int = 16
    """Seeds 0, 1, ... of initialisation, order and augmentation."""
    splits: tuple[int, ...] = (0,)
    """Class splits of the family: the unit that intervals are taken over."""

    data: str = "fashion_mnist_small"
    """As for experiments/train.py, which explains this and the fields below down to `final_learning_rate`."""
    data_dir: Path | None = None
    """Directory of prepared TFDS sets."""
    unknown_data: str | None = None
    """Where unknown test images come from, if not from `data`."""
    dataset: str | None = None
    """Whose class lists to take from the split family."""
    family: str = "neal"
    """Family of class splits."""
    validation_share: float = 0.1
    """Share of the known training images held out for validation."""
    held_out: tuple[int, ...] = ()
    """Recipe selection: known classes left out as pseudo-unknowns; no test image is seen."""
    network: Literal["small_cnn", "classifier32", "wrn16_4", "resnet18_w16", "resnet18"] = "small_cnn"
    """Backbone."""
    loss: Literal["m_ovr", "m_ovr_target", "ovr", "cosine_softmax", "softmax", "doc", "contrastive"] = "m_ovr"
    """Loss; doc is the one-vs-rest loss without normalisation; contrastive comes with the preset of that name alone."""
    margin: float = 0.5
    """m of m-OvR, radians."""
    scale: float = 16.0
    """T, by which cosines are multiplied."""
    intra_weight: float = 1.0
    """Weight of the labelled class's term of a one-vs-rest loss."""
    inter_weight: float = 1.0
    """Weight of the other classes' terms."""
    rotations: Literal["none", "one", "all"] = "none"
    """Self-supervision: predict the rotation of no copy, one copy, or all four."""
    rotation_weight: float = 0.1
    """lambda_self."""
    weight_decay: float = 1e-3
    """L2 decay of kernels and prototypes."""
    crop_padding: int = 4
    """Padding of the random crop; 0: no crop."""
    flip: bool = True
    """Random horizontal flip."""
    steps: int = 800
    """Optimiser steps of every lane."""
    batch_size: int = 128
    """Of each lane."""
    learning_rate: float = 0.1
    """Peak learning rate."""
    final_learning_rate: float = 1e-5
    """Where the cosine ends."""
    momentum: float = 0.9
    """Momentum of SGD."""
    mixing: Literal["none", "random_box", "gradmix"] = "gradmix"
    """Contrastive losses: the mixed term, as for experiments/contrastive.py."""
    temperature: float = 0.05
    """Contrastive losses: T."""
    supcon_weight: float = 1.0
    """Contrastive losses: gamma, the weight of SupCon, which reads labels."""
    ssl_weight: float = 1.2
    """Contrastive losses: lambda_s, the weight of NT-Xent and the mixed term."""

    strategy: Literal["auto", "vmap", "loop"] = "auto"
    """How the lanes of a device are computed: all at once, or one after another in the program; auto: by device."""
    convolutions: Literal["auto", "native", "patches"] = "auto"
    """With vmap: as they are, or as patches times matrix."""
    lanes_at_once: int | None = None
    """With vmap: how many lanes of a device to compute together at most, for less memory; default: all."""
    devices: int | None = None
    """Devices to spread the lanes over; default: all; on a CPU one for each core, as far as there are lanes."""
    distributed: Literal["none", "auto"] = "none"
    """This and the next four: several processes, as for experiments/train.py. Lanes are spread over all of them."""
    coordinator: str | None = None
    """HOST:PORT of process 0."""
    processes: int | None = None
    """Number of processes."""
    process: int | None = None
    """Number of this one, from 0 on."""
    peer_timeout: int = 100
    """Seconds without a sign of life after which a process counts as dead and ends the others."""
    profile_steps: tuple[int, int] | None = None
    """First and last step of a profile (jax.profiler, to profile/ of each group)."""
    probe_every: int = 0
    """Steps between looks at every lane (input-Jacobian norms and metrics of test images), besides one after
    the last step; 0: that one alone."""
    probe_images: int = 40
    """Known test images whose norms are taken, and as many unknown ones; 0: no norms."""
    log_every: int = 50
    """Steps between logged metrics."""
    save_every: int = 200
    """Steps between checkpoints."""
    eval_batch_size: int = 500
    """Images per evaluation call."""
    resamples: int = 0
    """Bootstrap resamples of every lane's own intervals; 0: none."""
    reject_share: float = 0.1
    """Share of known validation images that the operating threshold rejects."""
    compilation_cache: Path | None = None
    """Directory of JAX's persistent compilation cache; default: none."""
    smoke: bool = False
    """Other defaults, for a run of seconds: digits, 20 steps, small batches."""


WITH_ALL = Config(
    rotations="one",
    steps=200,
    seeds=3,
    splits=(0, 1, 2, 3, 4),
    probe_every=50,
    probe_images=24,
    arms=("m-OvR:",),
)
WITHOUT = {
    "A": "without A: crop_padding=0 flip=False",
    "W": "without W: weight_decay=0",
    "S": "without S: rotations=none",
    "N": "without N: loss=doc",
}
PRESETS = {
    "seeds": Config(),
    "table": dataclasses.replace(
        WITH_ALL, preset="table", arms=(*WITH_ALL.arms, *WITHOUT.values(), "softmax: loss=softmax")
    ),
    **{
        f"figure-{number}": dataclasses.replace(
            WITH_ALL, preset=f"figure-{number}", arms=(*WITH_ALL.arms, WITHOUT[part])
        )
        for number, part in ((9, "A"), (10, "W"), (11, "S"))
    },
    "figure-14": Config(  # lambda_self needs the rotated copies, which double the cost: they are left out elsewhere
        preset="figure-14",
        steps=170,
        seeds=3,
        splits=(0, 1, 2, 3, 4),
        probe_images=24,
        arms=("m-OvR:", *(f"lambda_self {x}: rotations=one rotation_weight={x}" for x in ("0.1", "1", "10"))),
        vary=("scale=2,8,16,64", "margin=0,0.25,0.5,1", "weight_decay=0,0.001,0.01,0.1"),
        one_at_a_time=True,
    ),
}
PRESETS["contrastive"] = Config(  # optimiser, batches and rates of experiments/contrastive.py
    preset="contrastive",
    loss="contrastive",
    steps=300,
    batch_size=64,
    learning_rate=1e-3,
    final_learning_rate=5.12e-4,
    seeds=2,
    splits=(0, 1, 2, 3, 4),
    probe_images=0,
    arms=("GradMix:",),
    vary=("temperature=0.02,0.1,0.5", "supcon_weight=0", "ssl_weight=0.3"),
    one_at_a_time=True,
)
PRESETS["figure-13"] = dataclasses.replace(  # all arms of figure 14; "m-OvR" is without S, "lambda_self 0.1" with all
    PRESETS["figure-14"],
    preset="figure-13",
    arms=(
        *PRESETS["figure-14"].arms,
        *(f"with S, {WITHOUT[part]} rotations=one" for part in "AWN"),
        "with S, softmax: loss=softmax rotations=one",
    ),
)
SMOKE = {
    "data": "digits",
    "crop_padding": 1,
    "flip": False,
    "steps": 20,
    "batch_size": 32,
    "save_every": 10,
    "log_every": 5,
    "probe_images": 12,
    "splits": (0, 1),
    "seeds": 2,
}

# What a lane can differ in within one program, and what makes another program.
TRACED = (
    "learning_rate",
    "final_learning_rate",
    "weight_decay",
    "margin",
    "scale",
    "intra_weight",
    "inter_weight",
    "rotation_weight",
    "temperature",
    "supcon_weight",
    "ssl_weight",
)
STRUCTURAL = ("network", "loss", "mixing", "rotations", "crop_padding", "flip", "steps", "batch_size", "momentum")
# Fields that the other kind of loss does not read.
CONTRASTIVE = ("mixing", "temperature", "supcon_weight", "ssl_weight")
CLASSIFYING = ("weight_decay", "margin", "scale", "intra_weight", "inter_weight", "rotation_weight", "rotations")
CLASSIFYING += ("crop_padding", "momentum")
NEIGHBOURS = 3  # of the class-wise score of contrastive lanes, as in experiments/contrastive.py
DATA = ("data", "data_dir", "unknown_data", "dataset", "family", "validation_share", "held_out")


class Lane(NamedTuple):
    """One run of the ablation."""

    arm: str
    recipe: Config
    split: int
    seed: int


def parse(arguments: list[str], *, description: str | None = None) -> Config:
    """The configuration of a command line: a preset, then whatever it overrides."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="seeds")
    first.add_argument("--smoke", action="store_true")
    given = first.parse_known_args(arguments)[0]
    if given.preset not in PRESETS:
        raise ValueError(f"preset={given.preset!r} does not exist: choose from {', '.join(PRESETS)}")
    default = PRESETS[given.preset]
    if given.smoke:
        default = dataclasses.replace(default, **SMOKE)
        if default.loss == "contrastive":
            unread = {name: getattr(Config, name) for name in CLASSIFYING}
            default = dataclasses.replace(default, probe_images=0, **unread)
    return tyro.cli(
        Config, args=arguments, default=default, description=f"{description or __doc__}\nPresets: {', '.join(PRESETS)}."
    )


# -------------------------------------------------------------------------------------- arms and lanes


def arms_of(config: Config) -> dict[str, Config]:
    """The recipe of every arm by its name, in order; the first is the reference."""
    arms = {}
    for text in config.arms or ("recipe:",):
        name, colon, changes = text.partition(":")
        if not colon or not name.strip():
            raise ValueError(f'arms: {text!r} has no name: write it as "NAME: field=value field=value"')
        if name.strip() in arms:
            raise ValueError(f"arms: the name {name.strip()!r} is there twice: names tell rows apart")
        arms[name.strip()] = dataclasses.replace(config, **dict(changed(part, "arms") for part in changes.split()))
    axes = [axis_of(text) for text in config.vary]
    if not axes:
        return arms
    fields = [field for field, _ in axes]
    if len(set(fields)) < len(fields):
        raise ValueError(f"vary: {max(fields, key=fields.count)!r} is there twice: give all its values at once")
    varied = {}
    for name, recipe in arms.items():
        if config.one_at_a_time:
            if name in varied:
                raise ValueError(f"vary: {name!r} is there twice: give that arm another name")
            varied[name] = recipe
            if name != next(iter(arms)):
                continue  # axes go round the reference alone
            combinations: Sequence = [[(field, value)] for field, values in axes for value in values]
        else:
            combinations = list(itertools.product(*([(field, value) for value in values] for field, values in axes)))
        for combination in combinations:
            label = ", ".join(f"{field} {value}" for field, value in combination)
            if config.one_at_a_time and all(getattr(recipe, field) == value for field, value in combination):
                continue  # the reference itself
            label = label if len(arms) == 1 or config.one_at_a_time else f"{name}, {label}"
            if label in varied:
                raise ValueError(f"vary: {label!r} is there twice: give each value once")
            varied[label] = dataclasses.replace(recipe, **dict(combination))
    return varied


def axis_of(text: str) -> tuple[str, list[Any]]:
    """A field and its values, from field=value,value."""
    field, equals, values = text.partition("=")
    if not equals or not values:
        raise ValueError(f"vary: {text!r} has no values: write it as field=value,value, such as margin=0,0.5")
    return field, [changed(f"{field}={value}", "vary")[1] for value in values.split(",")]


def changed(text: str, option: str) -> tuple[str, Any]:
    """A field of the recipe and its new value, from field=value."""
    field, equals, value = text.partition("=")
    allowed = (*TRACED, *STRUCTURAL)
    if not equals or field not in allowed:
        raise ValueError(f"{option}: {text!r} changes no field of the recipe: choose from {', '.join(allowed)}")
    kind = get_type_hints(Config)[field]
    if kind is bool:
        if value not in ("True", "False"):
            raise ValueError(f"{option}: {field}={value!r} is neither True nor False")
        return field, value == "True"
    if kind in (int, float):
        try:
            return field, kind(value)
        except ValueError:
            raise ValueError(f"{option}: {field}={value!r} is no {'integer' if kind is int else 'number'}") from None
    if value not in kind.__args__:
        raise ValueError(f"{option}: {field}={value!r} does not exist: choose from {', '.join(kind.__args__)}")
    return field, value


def check(config: Config, arms: dict[str, Config]) -> None:
    """Refuses what would fail late or give a plausible wrong number, in any arm."""
    for name in ("seeds", "log_every", "save_every", "eval_batch_size"):
        if not getattr(config, name) > 0:
            raise ValueError(f"{name}={getattr(config, name)!r} must be above 0")
    for name in ("probe_every", "probe_images", "resamples"):
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name}={getattr(config, name)!r} must not be negative")
    if not config.splits or len(set(config.splits)) < len(config.splits):
        raise ValueError(f"splits={list(config.splits)} must be distinct, at least one")
    if not 0 < config.reject_share < 1:
        raise ValueError(f"reject_share={config.reject_share!r} must be between 0 and 1, such as 0.1")
    if config.probe_every and config.log_every % config.probe_every and config.probe_every % config.log_every:
        raise ValueError(
            f"probe_every={config.probe_every} and log_every={config.log_every}: make one a multiple of the other"
        )
    contrast = config.preset == "contrastive"
    if contrast and config.probe_images:
        raise ValueError(f"probe_images={config.probe_images} with contrastive losses is not built: give 0")
    for arm, recipe in arms.items():
        where = f" (arm {arm!r})" if len(arms) > 1 else ""
        if (recipe.loss == "contrastive") != contrast:
            raise ValueError(
                f"loss={recipe.loss!r} with preset={config.preset!r}{where}: contrastive losses have another optimiser"
                " and other rates, so they come with the preset contrastive, and without other losses"
            )
        for name in CLASSIFYING if contrast else CONTRASTIVE:
            if getattr(recipe, name) != getattr(Config, name):
                raise ValueError(
                    f"{name}={getattr(recipe, name)!r} does nothing with loss={recipe.loss!r}{where}: leave it out"
                )
        if contrast and recipe.batch_size < 2:
            raise ValueError(f"batch_size={recipe.batch_size!r} leaves no negatives: give 2 or more{where}")
        if contrast and not recipe.supcon_weight and not recipe.ssl_weight:
            raise ValueError(f"supcon_weight=0 and ssl_weight=0 leave nothing to minimise{where}: raise one of them")
        if contrast and recipe.mixing != "none" and not recipe.ssl_weight:
            raise ValueError(f"ssl_weight=0 gives mixing={recipe.mixing!r} no weight{where}: use mixing none")
        for name in ("steps", "batch_size", "learning_rate", "scale", "temperature"):
            if not getattr(recipe, name) > 0:
                raise ValueError(f"{name}={getattr(recipe, name)!r} must be above 0{where}")
        for name in TRACED:
            if not np.isfinite(getattr(recipe, name)):
                raise ValueError(f"{name}={getattr(recipe, name)!r} is not finite{where}")
        positive = ("learning_rate", "scale", "temperature")
        for name in ("crop_padding", *(name for name in TRACED if name not in positive)):
            if not getattr(recipe, name) >= 0:
                raise ValueError(f"{name}={getattr(recipe, name)!r} must not be negative{where}")
        if not recipe.margin < np.pi:
            raise ValueError(f"margin={recipe.margin!r} is an angle in radians: give one below pi{where}")
        if not 0 <= recipe.momentum < 1:
            raise ValueError(f"momentum={recipe.momentum!r} must be in [0, 1){where}")
    trained: dict[Config, str] = {}
    for arm, recipe in arms.items():
        if (other := trained.setdefault(what_counts(recipe), arm)) != arm:
            unread = [name for name in TRACED if getattr(recipe, name) != getattr(arms[other], name)]
            why = f" ({', '.join(unread)} does nothing there)" if unread else ""
            raise ValueError(f"arms {other!r} and {arm!r} train the same networks{why}: leave one out")
    layout_of(config)


def what_counts(recipe: Config) -> Config:
    """The recipe with the defaults of those fields that its loss and rotations do not read."""
    if recipe.loss == "contrastive":
        return recipe
    unread = {"margin", "scale", "intra_weight", "inter_weight"} - set(CLASS_LOSSES[recipe.loss].hyper)
    unread |= {"rotation_weight"} if recipe.rotations == "none" else set()
    return dataclasses.replace(recipe, **{name: getattr(Config, name) for name in unread})


def layout_of(config: Config) -> Layout:
    """How the lanes of a device are computed."""
    return choose_layout(strategy=config.strategy, convolutions=config.convolutions, lanes_at_once=config.lanes_at_once)


def data_fields(config: Config, split: int) -> dict[str, Any]:
    """What choose_data needs for one split."""
    return {name: getattr(config, name) for name in DATA} | {"split": split}


def group_lanes(lanes: list[Lane], datasets: dict) -> list[list[Lane]]:
    """Lanes by compiled program: the same structural fields, number of known classes and shape of images."""
    groups: dict[tuple, list[Lane]] = {}
    for lane in lanes:
        data = datasets[lane.split][1]
        structure = tuple(getattr(lane.recipe, name) for name in STRUCTURAL)
        key = (*structure, len(data.known_classes), data.train.images.shape[1:])
        groups.setdefault(key, []).append(lane)
        if lane.recipe.batch_size > len(data.train.labels):
            raise ValueError(
                f"batch_size={lane.recipe.batch_size} exceeds the {len(data.train.labels)} training images: lower it"
            )
        if lane.recipe.loss == "contrastive":
            check_classes(data)
    return list(groups.values())


def check_classes(data: OpenSetData) -> None:
    """Refuses classes that contrastive losses or their score cannot work with."""
    if len(data.known_classes) < 2:
        raise ValueError(f"known_classes={list(data.known_classes)} is a single class: give two or more")
    fewest = int(np.bincount(data.train.labels, minlength=len(data.known_classes)).min())
    if fewest < NEIGHBOURS:
        raise ValueError(
            f"the {NEIGHBOURS} nearest neighbours of a class exceed the {fewest} training images of the smallest:"
            " lower validation_share, or add images"
        )


def method_of(recipe: Config, data: OpenSetData) -> tuple[Any, Objective, Optimizer]:
    """Network, objective and optimiser of a recipe, as the script of its single runs makes them."""
    backbone = NETWORKS[recipe.network]()
    if recipe.loss == "contrastive":
        network = ContrastiveNetwork(backbone)
        mix = None
        if recipe.mixing != "none":
            stages = len(zero_taps(network, data.train.images.shape[1:], 1))
            mix = GradMix(Attribution(last_layers(stages))) if recipe.mixing == "gradmix" else RandomBox()
        augmentation = make_contrastive_augmentation(flip=recipe.flip)
        return network, make_contrastive_objective(network, augmentation, mix=mix), make_adam()
    class_loss = CLASS_LOSSES[recipe.loss]
    network = OpenSetNetwork(backbone, len(data.known_classes), class_loss.head)
    augmentation = make_crop_and_flip(crop_padding=recipe.crop_padding, flip=recipe.flip)
    objective = make_classify_objective(network, class_loss, augmentation, rotations=recipe.rotations)
    return network, objective, make_sgd(total_steps=recipe.steps, momentum=recipe.momentum)


def hyper_of(recipe: Config) -> dict[str, float]:
    """The hyper-parameters of a lane."""
    hyper = {name: getattr(recipe, name) for name in TRACED}
    if recipe.loss == "contrastive":
        hyper |= {"attribution_temperature": recipe.temperature, "schedule_steps": recipe.steps}
        hyper |= {"smallest_kept": 0.5, "largest_kept": 0.9}
    return hyper


def score_of(recipe: Config) -> str:
    """The score that belongs to a recipe's loss."""
    return "knn_sum" if recipe.loss == "contrastive" else CLASS_LOSSES[recipe.loss].score


def command_of(config: Config, lane: Lane) -> str:
    """The single run that a lane equals."""
    contrast = lane.recipe.loss == "contrastive"
    script, absent = ("contrastive", ("loss", *CLASSIFYING)) if contrast else ("train", CONTRASTIVE)
    words = [f"python experiments/{script}.py", f"--split {lane.split}", f"--seed {lane.seed}"]
    for name in [name for name in (*DATA, *STRUCTURAL, *TRACED) if name not in absent]:
        value, option = getattr(lane.recipe, name), "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(option if value else "--no-" + option[2:])
        elif isinstance(value, tuple):
            words += [f"{option} {' '.join(map(str, value))}"] if value else []
        elif value is not None:
            words.append(f"{option} {shlex.quote(str(value))}")
    return " ".join(words)
