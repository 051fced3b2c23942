"""Does masking what a network has learned make it learn more? Contrastive training with GradMix and its rivals.

    python experiments/contrastive.py                            GradMix on the bundled images, first `neal` split
    python experiments/contrastive.py --mixing random_box        the control: the same boxes at random places
    python experiments/contrastive.py --preset cifar10-r18 --data npz:cifar10.npz
    python experiments/contrastive.py --help                     every field (with --preset PRESET: of that preset)

Two augmented views of every image; SupCon, NT-Xent and the mixed term; then class-wise nearest neighbours among the
features of the known training images classify test images and score them as known or unknown, and a linear probe reads
the embedding. Resumes where it was stopped when the same command is given again; writes a run directory
(osrjax/run/directory.py lists its files). Model selection sees known training images only, and the LAST step is what
is reported.
Exit codes: 0 done, 1 stopped by a non-finite loss or by a file that cannot be written or read, 2 bad input (nothing was
started), 143 or 130 stopped by SIGTERM or Ctrl-C (state saved).
With several processes (--distributed, --coordinator) all end as one; where another process is lost, with 1, or with 134
where JAX's runtime finds out first.
"""

import argparse
import dataclasses
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from osrjax import attribution, metrics, report
from osrjax.attribution.maps import last_layers
from osrjax.augment.policies import POLICIES
from osrjax.augment.views import make_contrastive_augmentation, view_mixings
from osrjax.data import OpenSetData, choose_data, content_of, describe_data, splits
from osrjax.devices import processes, sharding
from osrjax.devices.cpu import compiler_options, reuse_host_memory
from osrjax.evaluation.assessment import (
    OpenSetFeatures,
    OpenSetLabels,
    ScoredImages,
    assess_features,
    assess_scores,
    open_set_feature_scores,
)
from osrjax.evaluation.linear_probe import LinearProbe, linear_probe, top_accuracy
from osrjax.files import FileError, writing
from osrjax.methods.gradmix import make_contrastive_objective
from osrjax.methods.masks import Attribution, Box, GradMix, RandomBox, ViewMixing
from osrjax.models.backbones import NETWORKS
from osrjax.models.networks import ContrastiveNetwork, zero_taps
from osrjax.run.checkpoint import Checkpoints
from osrjax.run.directory import Run, open_run
from osrjax.run.loop import check_profile_steps, train_loop
from osrjax.run.signals import StopSignal
from osrjax.scores.features import class_similarities, fit_knn
from osrjax.train.apply import apply_in_batches, estimate_statistics
from osrjax.train.batches import gather_batch, make_inputs
from osrjax.train.optimizers import make_adam
from osrjax.train.parallel import data_parallel
from osrjax.train.step import TrainState, init_state, make_train_step


@dataclasses.dataclass(frozen=True)
class Config:
    """Train by contrast on known classes, detect unknown ones."""

    preset: str = "bundled"
    """The named recipe that gives the defaults of all other fields; listed above."""
    out: Path | None = None
    """Run directory; the same command with the same directory resumes. Default: runs/ + a name of the run."""

    data: str = "fashion_mnist_small"
    """fashion_mnist_small (bundled), digits, mnist, fashion_mnist, cifar10, cifar100, svhn_cropped,
    tiny_imagenet (prepared by TFDS), npz:FILE, or folder:DIRECTORY."""
    unknown_data: str | None = None
    """Where unknown test images come from, if not from `data`: cifar100 or npz:FILE for CIFAR+10 and +50."""
    data_dir: Path | None = None
    """Directory of prepared TFDS sets; default: TFDS's own."""
    dataset: str | None = None
    """Whose class lists to take from the split family; default: what fits `data`."""
    family: str = "neal"
    """Family of class splits: neal, split_2020, macro_f1, cssr, cac; random: drawn from split as the seed."""
    split: int = 0
    """Index of the split in its family."""
    openness: float = 0.134
    """With family=random: 1 - sqrt(2 K / (2 K + U)) for K known and U unknown classes (0.134: 6 and 4)."""
    known: tuple[int, ...] = ()
    """Your own known classes, instead of a family's."""
    unknown: tuple[int, ...] = ()
    """Your own unknown classes; empty: all others."""
    held_out: tuple[int, ...] = ()
    """Recipe selection: known classes to leave out of training as pseudo-unknowns (class ids). Validation
    images then take the place of test images, which are never seen."""
    validation_share: float = 0.1
    """Share of the known training images held out for validation."""

    network: Literal["small_cnn", "classifier32", "wrn16_4", "resnet18_w16", "resnet18", "resnet34", "resnet50"] = (
        "small_cnn"
    )
    """Backbone; resnet18_w16 is ResNet-18 with a quarter of the channels."""
    hidden: int = 512
    """Width of the projection head's hidden layer."""
    features: int = 128
    """Length of the projection."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype of training; parameters, scores and evaluation stay float32."""

    supcon_weight: float = 1.0
    """gamma, the weight of SupCon, which reads labels; 0: self-supervised."""
    ssl_weight: float = 1.2
    """lambda_s, the weight of NT-Xent and the mixed term."""
    temperature: float = 0.05
    """T of all contrastive losses."""
    first_stage_steps: int = 0
    """Two-stage schedule: so many steps without labels (gamma 0, lambda_s 1) come before `steps`, which then start
    a new optimiser and learning-rate schedule; 0: one joint stage."""
    mixing: Literal["none", "gradmix", "random_box", "mixup", "cutmix", "cutout", "saliency_mix", "fmix"] = "gradmix"
    """The mixed term: gradmix masks boxes at the peaks of the attribution, random_box the same boxes anywhere."""
    cam_sign: Literal[1, -1] = 1
    """+1: mask what would raise the loss (the authors' code); -1: the evidence that lowers it (what is learned)."""
    cam_layers: tuple[int, ...] = ()
    """Stages whose maps are summed, 1 = the first; default: the last three."""
    cam_method: Literal["layer_cam", "grad_cam"] = "layer_cam"
    """grad_cam on the last stage alone is the authors' CamMix, up to the peak's place within its cell."""
    cam_aggregation: Literal["batch_minmax_sum", "raw_sum", "sample_max_sum"] = "batch_minmax_sum"
    """How the maps of several stages become one."""
    cam_statistics: Literal["train", "running"] = "train"
    """Batch norm in the attribution pass; running costs one more forward pass."""
    cam_temperature: float | None = None
    """T of the loss that is attributed; default: `temperature`."""
    fill: Literal["noise", "noise_pixel", "paste", "mean"] = "noise"
    """What goes into a box: noise shared by the channels, noise, a whole other image, the image's mean."""
    mask_views: Literal["first", "both"] = "first"
    """Views that are masked."""
    per_image: bool = False
    """A lambda for every image instead of one for the batch."""
    kept_weight: Literal["nominal", "true"] = "nominal"
    """Weight of the mixed term: from the nominal box, or from its area within the image."""
    smallest_kept: float = 0.5
    """Smallest lambda, the share of an image that a box leaves."""
    largest_kept: float = 0.9
    """Largest lambda."""
    mixing_alpha: float = 1.0
    """First parameter of lambda's Beta distribution; of both for mixup, cutmix, saliency_mix and fmix."""
    mixing_beta: float = 1.0
    """Second parameter for gradmix and random_box."""
    clean_term: bool = True
    """Keep NT-Xent on the clean views beside the mixed term."""
    reuse_second_view: bool = True
    """Take an unmixed view's projection from the clean pass instead of a second one."""
    own_positive: bool = False
    """An anchor's own mixed view is a positive too."""
    statistics_from: Literal["clean", "clean and mixed"] = "clean"
    """Passes that update the running statistics of batch norm."""

    steps: int = 300
    """Optimiser steps (of the second stage, if there are two)."""
    epochs: int | None = None
    """Passes over the training images, instead of `steps` (a `--steps` on the command line undoes a preset's)."""
    first_stage_epochs: int | None = None
    """The same for `first_stage_steps`."""
    batch_size: int = 64
    """Images a step, over all devices; the networks see twice as many views."""
    block_size: int | None = None
    """Columns at a time of the contrastive losses, for large batches; default: all."""
    learning_rate: float = 1e-3
    """First learning rate of Adam, cosine to final_learning_rate."""
    final_learning_rate: float = 5.12e-4
    """Where the cosine ends."""
    crop: bool = True
    """Random resized crop of 0.2 to 1 of the area."""
    flip: bool = True
    """Random horizontal flip; turn it off for digits."""
    jitter: float = 1.0
    """Factor of the colour jitter's strengths; 0: none."""
    policy: Literal["none", "rand_augment", "aug_mix"] = "none"
    """A published policy before everything else, in both views."""
    seed: int = 0
    """Seed of initialisation, order and augmentation. The validation images depend on the split alone."""

    neighbours: int = 3
    """K of the class-wise nearest neighbours."""
    linear_probe: bool = True
    """Fit a linear classifier on the frozen embedding of the known training images."""
    untrained: bool = True
    """Evaluate the untrained network too; without it an evaluation takes half as long."""
    log_every: int = 20
    """Steps between logged metrics."""
    save_every: int = 100
    """Steps between checkpoints; each also measures the validation accuracy."""
    eval_batch_size: int = 500
    """Images per evaluation call."""
    resamples: int = 1000
    """Bootstrap resamples of the 95 % intervals; 0: none."""
    reject_share: float = 0.1
    """Share of known validation images that the operating threshold rejects."""
    stream: bool = False
    """Send each batch to the devices (grain, addressed by step) instead of keeping the training images there."""
    devices: int | None = None
    """Devices to share each batch; default: all."""
    distributed: Literal["none", "auto"] = "none"
    """auto: join the processes of a TPU pod, Slurm, GKE or Open MPI job; where JAX sees none of these, one process."""
    coordinator: str | None = None
    """HOST:PORT of process 0, to join processes anywhere else; with `processes` and `process`."""
    processes: int | None = None
    """Number of processes that share the run."""
    process: int | None = None
    """Number of this one, from 0 on."""
    peer_timeout: int = 100
    """Seconds without a sign of life after which a process counts as dead and ends the others."""
    profile_steps: tuple[int, int] | None = None
    """First and last step of a profile (jax.profiler, to profile/); take some after the first, which compiles."""
    compilation_cache: Path | None = None
    """Directory of JAX's persistent compilation cache; default: none."""
    smoke: bool = False
    """Other defaults, for a run of seconds: digits, 10 steps, small batches."""


PUBLISHED = Config(  # network, batch, optimiser and numbers of epochs of the authors' code; arXiv 2505.12803
    network="resnet18", batch_size=256, save_every=1000, log_every=100, data="cifar10"
)
PRESETS = {
    "bundled": Config(),
    "ssl": Config(preset="ssl", supcon_weight=0.0, ssl_weight=1.0),
    "cifar10-small": Config(preset="cifar10-small", data="cifar10", network="resnet18_w16", steps=120),
    "digits": Config(preset="digits", data="digits", flip=False, jitter=0.0),
    "cifar10-all-small": dataclasses.replace(
        Config(),
        preset="cifar10-all-small",
        data="cifar10",
        network="resnet18_w16",
        steps=120,
        known=tuple(range(10)),
        unknown_data="svhn_cropped",
    ),
    # In two stages, as in the authors' final runs.
    "cifar10-r18": dataclasses.replace(PUBLISHED, preset="cifar10-r18", first_stage_epochs=600, epochs=10),
    # The authors go on from an AugMix stage of SSL, with stages 3 and 4; this is one joint stage from scratch.
    "cifar10-all-r18": dataclasses.replace(
        PUBLISHED, preset="cifar10-all-r18", epochs=200, known=tuple(range(10)), unknown_data="svhn_cropped"
    ),
    "cifar100-all-r18": dataclasses.replace(
        PUBLISHED,
        preset="cifar100-all-r18",
        data="cifar100",
        epochs=600,
        known=tuple(range(100)),
        unknown_data="cifar10",
    ),
    **{
        f"cifar+{count}-r18": dataclasses.replace(
            PUBLISHED,
            preset=f"cifar+{count}-r18",
            unknown_data="cifar100",
            dataset=f"cifar+{count}",
            first_stage_epochs=800,
            epochs=10,
        )
        for count in (10, 50)
    },
    # Digits are not mirrored here; the authors mirror them, and train without labels alone.
    "svhn-r18": dataclasses.replace(PUBLISHED, preset="svhn-r18", data="svhn_cropped", flip=False, epochs=300),
    "tiny-imagenet-r18": dataclasses.replace(
        PUBLISHED, preset="tiny-imagenet-r18", data="tiny_imagenet", ssl_weight=1.0, epochs=600
    ),
    "tiny-imagenet-ssl-r18": dataclasses.replace(
        PUBLISHED,
        preset="tiny-imagenet-ssl-r18",
        data="tiny_imagenet",
        supcon_weight=0.0,
        ssl_weight=1.0,
        epochs=200,
    ),
}
SMOKE = {
    "data": "digits",
    "unknown_data": None,
    "dataset": None,
    "network": "small_cnn",
    "hidden": 32,
    "features": 16,
    "epochs": None,
    "first_stage_steps": 0,
    "first_stage_epochs": None,
    "known": (),
    "flip": False,
    "steps": 10,
    "batch_size": 32,
    "save_every": 5,
    "log_every": 5,
    "resamples": 50,
}


OWN_SCORE = "knn_sum"
MASSES = ("mass_in_box", "mass_in_random_box")


def main(arguments: list[str] | None = None) -> int:
    """Parses, checks, runs; returns the exit code."""
    try:
        config = parse(sys.argv[1:] if arguments is None else arguments)
        sharding.start_distributed(
            mode=config.distributed,
            coordinator=config.coordinator,
            processes=config.processes,
            process=config.process,
            peer_timeout=config.peer_timeout,
        )
    except ValueError as error:  # every refusal of bad input is one; later errors keep their traceback
        print(f"contrastive.py: {error}", file=sys.stderr)
        return 2
    with processes.end_together("contrastive.py"):
        try:
            job = prepare(config)
        except ValueError as error:
            if processes.is_first():
                print(f"contrastive.py: {error}", file=sys.stderr)
            return 2
        try:
            with job.run:
                return train_and_evaluate(config, job)
        except FileError as error:  # a full disk, say: what was saved before is there for the same command
            return processes.fail("contrastive.py", error)


def parse(arguments: list[str]) -> Config:
    """The configuration of a command line: a preset, then whatever it overrides."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="bundled")
    first.add_argument("--smoke", action="store_true")
    first.add_argument("--steps")
    given = first.parse_known_args(arguments)[0]
    if given.preset not in PRESETS:
        raise ValueError(f"preset={given.preset!r} does not exist: choose from {', '.join(PRESETS)}")
    default = PRESETS[given.preset]
    if given.smoke:
        default = dataclasses.replace(default, **SMOKE)
    if given.steps is not None:
        default = dataclasses.replace(default, epochs=None, first_stage_epochs=None)
    return tyro.cli(Config, args=arguments, default=default, description=f"{__doc__}\nPresets: {', '.join(PRESETS)}.")


# ---------------------------------------------------------------------------------------------- checks


def check(config: Config) -> None:
    """Refuses what would fail late or give a plausible wrong number. Data and splits check themselves."""
    positive = (
        "steps",
        "learning_rate",
        "temperature",
        "log_every",
        "save_every",
        "eval_batch_size",
        "neighbours",
        "hidden",
        "features",
        "mixing_alpha",
        "mixing_beta",
    )
    for name in positive:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name}={getattr(config, name)!r} must be above 0")
    not_negative = (
        "first_stage_steps",
        "final_learning_rate",
        "supcon_weight",
        "ssl_weight",
        "jitter",
        "resamples",
        "seed",
    )
    for name in not_negative:
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name}={getattr(config, name)!r} must not be negative")
    if config.cam_temperature is not None and not config.cam_temperature > 0:
        raise ValueError(f"cam_temperature={config.cam_temperature!r} must be above 0, or left out")
    if config.batch_size < 2:
        raise ValueError(f"batch_size={config.batch_size!r} leaves no negatives: give 2 or more")
    for name in ("smallest_kept", "largest_kept"):
        if not 0 < getattr(config, name) <= 1:
            raise ValueError(f"{name}={getattr(config, name)!r} is no share in (0, 1]: give lambda, such as 0.5")
    if config.smallest_kept > config.largest_kept:
        raise ValueError(f"smallest_kept={config.smallest_kept!r} is above largest_kept={config.largest_kept!r}")
    if not config.supcon_weight and not config.ssl_weight:
        raise ValueError("supcon_weight=0 and ssl_weight=0 leave nothing to minimise: raise one of them")
    if not 0 < config.reject_share < 1:
        raise ValueError(f"reject_share={config.reject_share!r} must be between 0 and 1, such as 0.1")
    for name in ("epochs", "first_stage_epochs", "block_size"):
        if getattr(config, name) is not None and getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)!r} must be at least 1, or left out")
    if config.jitter > 5:
        raise ValueError(f"jitter={config.jitter!r} is above 5: give a factor of the usual strengths, such as 1")
    if not (config.crop or config.flip or config.jitter or config.policy != "none"):
        raise ValueError("crop=False, flip=False, jitter=0 and policy='none' give two equal views: turn one of them on")
    if config.mixing != "none" and not config.ssl_weight:
        raise ValueError(f"ssl_weight=0 gives the mixed term of mixing={config.mixing!r} no weight: use mixing none")
    for name in MEANINGLESS[config.mixing]:
        if getattr(config, name) != getattr(Config, name):
            raise ValueError(
                f"{name}={getattr(config, name)!r} does nothing with mixing={config.mixing!r}: leave it out"
            )


CAM = ("cam_sign", "cam_layers", "cam_method", "cam_aggregation", "cam_statistics", "cam_temperature")
BOX = ("fill", "mask_views", "per_image", "kept_weight", "smallest_kept", "largest_kept", "mixing_beta")
TERM = ("clean_term", "own_positive", "statistics_from")
MEANINGLESS: dict[str, tuple[str, ...]] = {
    "none": (*CAM, *BOX, *TERM, "mixing_alpha", "reuse_second_view"),
    "gradmix": (),
    "random_box": CAM,
    "cutout": (*CAM, *BOX, "mixing_alpha", "reuse_second_view"),
} | dict.fromkeys(("mixup", "cutmix", "saliency_mix", "fmix"), (*CAM, *BOX, "reuse_second_view"))


def mixing_of(config: Config, stages: int) -> ViewMixing | None:
    """The mixed term that a configuration asks for, for a network of so many stages."""
    layers = config.cam_layers or last_layers(stages)
    attribution.check_layers(layers, stages)
    if config.mixing == "none":
        return None
    if (found := view_mixings(config.mixing_alpha).get(config.mixing)) is not None:
        return found
    box = Box(
        fill=config.fill,
        views=config.mask_views,
        per_image=config.per_image,
        weight=config.kept_weight,
        alpha=config.mixing_alpha,
        beta=config.mixing_beta,
    )
    if config.mixing == "random_box":
        return RandomBox(box)
    look = Attribution(
        layers=layers,
        sign=config.cam_sign,
        method=config.cam_method,
        aggregation=config.cam_aggregation,
        statistics=config.cam_statistics,
    )
    return GradMix(look, box)


# ------------------------------------------------------------------------------- model, step, loop


class Job(NamedTuple):
    """A run that was found possible: devices, split, images, steps of both stages, networks, mixed term, directory."""

    mesh: jax.sharding.Mesh
    split: splits.ClassSplit
    data: OpenSetData
    first_steps: int
    steps: int
    train_network: ContrastiveNetwork
    eval_network: ContrastiveNetwork
    mix: ViewMixing | None
    run: Run


def prepare(config: Config) -> Job:
    """Everything that can be refused, before any work; the run directory is opened last, and by all or none."""
    reuse_host_memory()
    mesh, split, data, *others = processes.refuse_together(lambda: possible(config))
    fields = {name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(config).items()}
    environment = ("out", "data_dir", "stream", "devices", "compilation_cache", "profile_steps")
    environment += ("distributed", "coordinator", "processes", "process", "peer_timeout")
    out = config.out or Path("runs") / run_name(config)
    run = open_run(out, fields, content=content_of(data, split), ignore=environment, images=data.train.images)
    return Job(mesh, split, data, *others, run)


def possible(config: Config) -> tuple:
    """The parts of a job but for its directory; what this process can refuse alone."""
    check(config)
    mesh = sharding.data_mesh(config.devices)
    sharding.check_batch_size(config.batch_size, mesh)
    split, data = choose_data(dataclasses.asdict(config))
    images = len(data.train.images)
    if config.batch_size > images:
        raise ValueError(f"batch_size={config.batch_size} exceeds the {images} training images: lower it")
    if len(data.known_classes) < 2:
        raise ValueError(f"known_classes={list(data.known_classes)} is a single class: give two or more")
    fewest = int(np.bincount(data.train.labels, minlength=len(data.known_classes)).min())
    if config.neighbours > fewest:
        raise ValueError(f"neighbours={config.neighbours} exceeds the {fewest} training images of a class: lower it")
    train_network, eval_network = (
        ContrastiveNetwork(NETWORKS[config.network](dtype=dtype), config.hidden, config.features)
        for dtype in (jnp.dtype(config.dtype), jnp.float32)
    )
    mix = mixing_of(config, len(zero_taps(eval_network, data.train.images.shape[1:], 1)))
    first_steps, steps = (
        given if epochs is None else max(1, epochs * images // config.batch_size)
        for given, epochs in ((config.first_stage_steps, config.first_stage_epochs), (config.steps, config.epochs))
    )
    check_profile_steps(config.profile_steps, first_steps + steps)
    return mesh, split, data, first_steps, steps, train_network, eval_network, mix


def train_and_evaluate(config: Config, job: Job) -> int:
    """The whole run; returns the exit code."""
    mesh, data, run = job.mesh, job.data, job.run
    if run.writes:
        print(f"{run.directory}: {config.mixing} on {describe_data(data, job.split)}", flush=True)
    if (done := run.read_json("results.json")) is not None:
        if run.writes:
            print("finished before; the stored results:\n" + done["table"])
        return 0
    if config.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", str(config.compilation_cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

    augmentation = make_contrastive_augmentation(
        crop_scale=(0.2, 1.0) if config.crop else None,
        flip=config.flip,
        jitter=config.jitter,
        policy=POLICIES[config.policy],
    )
    make_objective = partial(
        make_contrastive_objective,
        augmentation=augmentation,
        mix=job.mix,
        clean_term=config.clean_term,
        reuse_second_view=config.reuse_second_view,
        own_positive=config.own_positive,
        statistics_from=config.statistics_from,
        block_size=config.block_size,
    )
    objective = data_parallel(make_objective, job.train_network, mesh)
    optimizer = make_adam()
    names = (
        "learning_rate",
        "final_learning_rate",
        "supcon_weight",
        "ssl_weight",
        "temperature",
        "smallest_kept",
        "largest_kept",
    )
    hyper = {name: jnp.float32(getattr(config, name)) for name in names}
    hyper["attribution_temperature"] = jnp.float32(config.cam_temperature or config.temperature)
    hyper["schedule_steps"] = jnp.float32(job.steps)
    first_hyper = hyper | {
        "supcon_weight": jnp.float32(0),
        "ssl_weight": jnp.float32(1),
        "schedule_steps": jnp.float32(max(1, job.first_steps)),
    }
    first_steps, steps = job.first_steps, job.first_steps + job.steps
    init_key, train_key = jax.random.split(jax.random.key(config.seed))
    step_function = make_train_step(objective, optimizer)

    def staged_step(state: TrainState, images, indices, key, hyper, first_hyper):
        """One step of the stage that the state is in; the second stage begins with a new optimiser."""
        batch = gather_batch(images, indices, mesh=mesh)
        if first_steps:
            begins, first = state.step == first_steps, state.step < first_steps
            fresh = jax.tree.map(lambda leaf: jnp.where(begins, jnp.zeros_like(leaf), leaf), state.opt_state)
            state = state._replace(opt_state=fresh)
            hyper = {name: jnp.where(first, first_hyper[name], value) for name, value in hyper.items()}
        return step_function(state, batch, key, hyper)

    options = compiler_options()
    everywhere = sharding.replicated(mesh)
    train_step = jax.jit(staged_step, donate_argnums=0, out_shardings=everywhere, compiler_options=options)

    @partial(jax.jit, out_shardings=everywhere, compiler_options=options)
    def forward(params, stats, images):
        outputs: Any = job.eval_network.apply({"params": params, "batch_stats": stats}, images, train=False)
        return outputs.projection, outputs.embedding

    def features(state: TrainState, images) -> tuple[np.ndarray, np.ndarray]:
        apply = partial(forward, state.params, state.stats)
        return apply_in_batches(apply, images, batch_size=config.eval_batch_size, mesh=mesh)

    image_shape = data.train.images.shape[1:]
    # Compiled as one program: initialising layer by layer takes many times as long.
    new_state = jax.jit(
        lambda: init_state(init_key, job.train_network, optimizer, hyper, image_shape=image_shape),
        out_shardings=everywhere,
    )
    classes = len(data.known_classes)

    def validate(state) -> float:
        """Nearest neighbours in z among a part of the training images, for speed."""
        rows = np.arange(len(data.train.labels))[:: max(1, len(data.train.labels) // 2000)]
        few = np.bincount(data.train.labels[rows], minlength=classes).min() < config.neighbours
        rows = np.arange(len(data.train.labels)) if few else rows
        bank = fit_knn(features(state, data.train.images[rows])[0], data.train.labels[rows], classes=classes)
        found = class_similarities(bank, features(state, data.validation.images)[0], neighbours=config.neighbours)
        return metrics.closed_set_accuracy(np.asarray(found).argmax(-1), data.validation.labels)

    inputs = make_inputs(data.train, batch_size=config.batch_size, seed=config.seed, mesh=mesh, streamed=config.stream)
    with StopSignal() as stop, Checkpoints(run.directory / "checkpoints") as kept:
        trained = train_loop(
            run,
            kept,
            stop,
            new_state(),
            lambda state, inputs: train_step(state, *inputs, train_key, hyper, first_hyper),
            inputs,
            script="contrastive.py",
            steps=steps,
            batch_size=config.batch_size,
            log_every=config.log_every,
            save_every=config.save_every,
            validate=validate,
            remedy=f"Lower learning_rate={config.learning_rate}",
            profile_steps=config.profile_steps,
        )
    if trained.exit_code:
        return trained.exit_code

    # ------------------------------------------------------------------------------- evaluation
    states = {"trained": trained.state}
    if config.untrained:
        images = data.train.images
        untrained = estimate_statistics(new_state(), job.train_network, images, batch_size=config.batch_size, mesh=mesh)
        states = {"untrained": untrained} | states
    labels = OpenSetLabels(data.train.labels, data.validation.labels, data.test_known.labels)
    parts = (data.train, data.validation, data.test_known, data.test_unknown)
    found = {}
    for name, state in states.items():  # the trained one last: its features are stored
        spaces = list(zip(*(features(state, part.images) for part in parts), strict=True))
        if not run.writes:
            continue
        projection, embedding = (OpenSetFeatures(*rows) for rows in spaces)
        resamples = config.resamples if name == "trained" else 0
        found[name] = assess_features(
            projection,
            labels,
            classes=classes,
            embedding=embedding,
            neighbours=config.neighbours,
            reject_share=config.reject_share,
            resamples=resamples,
        )
        if config.linear_probe:
            probe, scored = probe_scores(embedding, labels.train)
            found[name]["scores"] |= assess_scores(
                {"probe_max_logit": scored}, labels.known, reject_share=config.reject_share, resamples=resamples
            )
            found[name]["linear_probe"] = {
                "accuracy": metrics.closed_set_accuracy(scored.known_predictions, labels.known),
                "top5_accuracy": top_accuracy(
                    probe.logits[len(labels.validation) :][: len(labels.known)], labels.known, top=min(5, classes)
                ),
                "penalty": probe.penalty,
                "converged": probe.converged,
            }
    if not run.writes:
        processes.gather_text("")  # process 0 is still writing: who leaves is missed
        return 0
    stored = {f"{part}_projection": rows for part, rows in projection._asdict().items()}
    stored |= {f"{part}_embedding": rows for part, rows in embedding._asdict().items()}
    stored |= {f"{part}_labels": rows for part, rows in labels._asdict().items()}
    run.write_arrays("scores.npz", stored | {"unknown_labels": data.test_unknown.labels})
    run.write_network({"params": trained.state.params, "batch_stats": trained.state.stats})
    scored = open_set_feature_scores(projection, labels.train, classes=classes, neighbours=config.neighbours)
    with writing(run.directory / "figures"):
        draw_figures(run.directory / "figures", scored, labels.known)
    masses = attribution_of(run)
    table = results_text(found, data, config, masses)
    summary = {
        **found,
        "score": OWN_SCORE,
        "linear_probe": found["trained"].get("linear_probe"),
        "attribution": masses,
        "steps": steps,
        "best_validation_step": trained.best_step,
        "table": table,
    }
    run.write_json("results.json", summary)
    print(table)
    processes.gather_text("")
    return 0


def probe_scores(embedding: OpenSetFeatures, labels: np.ndarray) -> tuple[LinearProbe, ScoredImages]:
    """A linear classifier of the embedding, and its negative largest logit as a score."""
    others = (embedding.validation, embedding.known, embedding.unknown)
    probe = linear_probe(embedding.train, labels, np.concatenate(others))
    ends = np.cumsum([len(part) for part in others])[:-1]
    parts = [np.split(values, ends) for values in (-probe.logits.max(axis=1), probe.predictions)]
    return probe, ScoredImages(*parts[0], *parts[1])


def attribution_of(run: Run) -> dict[str, float] | None:
    """Mean attribution mass in the boxes and in random boxes over the second half of the logged steps, if logged."""
    lines = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
    late = [line for line in lines[len(lines) // 2 :] if "train/mass_in_box" in line]
    if not late:
        return None
    return {name: float(np.mean([line[f"train/{name}"] for line in late])) for name in MASSES}


def draw_figures(directory: Path, scored: dict[str, ScoredImages], labels: np.ndarray) -> None:
    """Histogram of the run's own score; ROC and OSCR curves of every score of the projection."""
    pairs = {name: (images.known, images.unknown) for name, images in scored.items()}
    directory.mkdir(exist_ok=True)
    histogram = report.score_histogram(*pairs[OWN_SCORE], score_name=f"{OWN_SCORE} (larger = more unknown)")
    report.save_figure(histogram, directory / "scores")
    report.save_figure(report.roc_figure(pairs), directory / "roc")
    correct = scored[OWN_SCORE].known_predictions == labels
    report.save_figure(report.oscr_figure(pairs, correct), directory / "oscr")


def results_text(found: dict, data: OpenSetData, config: Config, masses: dict | None) -> str:
    """The final table: one row per score, then the figures of the network itself."""
    trained, untrained = found["trained"], found.get("untrained")
    own = trained["scores"][OWN_SCORE]
    what = "validation images, held-out classes as unknown" if config.held_out else "test images"
    accuracy = f"{report.interval_text(own['closed_set_accuracy'])}, on validation {trained['validation_accuracy']:.3f}"
    if untrained:
        accuracy += f", untrained {untrained['scores'][OWN_SCORE]['closed_set_accuracy']['value']:.3f}"
    lines = [
        report.open_set_table(trained["scores"], untrained and untrained["scores"], score=OWN_SCORE),
        f"* the run's own score; unknown = positive; [95 % bootstrap interval over {what}]; _embedding: on h, not z",
        f"closed-set accuracy by {config.neighbours} nearest neighbours in z: {accuracy}",
    ]
    if config.linear_probe:
        accuracy = f"{trained['linear_probe']['accuracy']:.3f}"
        accuracy += "" if trained["linear_probe"]["converged"] else " (its fit ended before it converged)"
        accuracy += f", untrained {untrained['linear_probe']['accuracy']:.3f}" if untrained else ""
        lines.append(f"linear probe on h (probe_max_logit): {accuracy}")
    if masses:
        inside, anywhere = (masses[name] for name in MASSES)
        lines.append(
            f"attribution mass in the boxes {inside:.3f}, in random boxes {anywhere:.3f} (second half of training)"
        )
    lines.append(f"{len(data.test_known.labels)} known and {len(data.test_unknown.labels)} unknown images")
    for name, _, complete in data.sources:
        lines.append(f"source: {name} ({'complete' if complete else 'NOT the complete data set'})")
    return "\n".join(lines)


def run_name(config: Config) -> str:
    """A directory name that tells apart the runs that are usually compared."""
    known = "own" if config.known else f"{config.family}{config.split}"
    held_out = "".join(f"-without{c}" for c in config.held_out)
    sign = "-minus" if config.mixing == "gradmix" and config.cam_sign < 0 else ""
    smoke = "-smoke" if config.smoke else ""
    return f"contrastive-{config.preset}-{config.mixing}{sign}-{known}{held_out}-seed{config.seed}{smoke}"


if __name__ == "__main__":
    sys.exit(main())
