"""How well does a model trained on the known classes tell unknown ones? The main job, in one command.

    python experiments/train.py                          m-OvR on the bundled images, first `neal` split
    python experiments/train.py --preset cifar10-wrn16-4 --data npz:cifar10.npz
    python experiments/train.py --help                   every field; PRESET's values with --preset PRESET --help

Trains, resumes where it was stopped when the same command is given again, scores the test images of known and
unknown classes, and writes everything to a run directory (osrjax/run/directory.py lists its files). Model selection
sees known training images only, and the LAST step is what is reported. Exit codes: 0 done, 1 stopped by a
non-finite loss or norm or by a file that cannot be written or read, 2 bad input (nothing was started), 143 or 130
stopped by SIGTERM or Ctrl-C (state saved).
With several processes (--distributed, --coordinator) all end as one; where another process is lost, with 1, or with 134
where JAX's runtime finds out first.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from osrjax import metrics, report
from osrjax.analysis.norms import dataset_jacobian_norms
from osrjax.analysis.probe import ProbeSets, join_probes, make_probe, probe_sets, write_probe
from osrjax.attribution.maps import check_layers, last_layers
from osrjax.augment.views import make_crop_and_flip
from osrjax.data import OpenSetData, choose_data, content_of, describe_data, splits
from osrjax.devices import processes, sharding
from osrjax.devices.cpu import compiler_options, reuse_host_memory
from osrjax.evaluation.assessment import OpenSetOutputs, assess, open_set_scores
from osrjax.files import FileError, writing
from osrjax.methods.classify import CLASS_LOSSES, make_classify_objective
from osrjax.methods.masked import make_masked_classify_objective
from osrjax.methods.masks import Attribution, Box, GradMix, RandomBox
from osrjax.models.backbones import NETWORKS
from osrjax.models.networks import OpenSetNetwork, Outputs, zero_taps
from osrjax.models.outputs import network_functions
from osrjax.run.checkpoint import Checkpoints
from osrjax.run.directory import Run, open_run
from osrjax.run.loop import check_profile_steps, train_loop
from osrjax.run.signals import StopSignal
from osrjax.train.apply import Predictions, estimate_statistics, evaluate
from osrjax.train.batches import gather_batch, make_inputs
from osrjax.train.optimizers import make_sgd
from osrjax.train.parallel import data_parallel
from osrjax.train.step import init_state, make_train_step


@dataclasses.dataclass(frozen=True)
class Config:
    """Train on known classes, detect unknown ones."""

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
    """Whose class lists to take from the split family (mnist, svhn, cifar10, cifar+10, cifar+50,
    tiny_imagenet); default: what fits `data`."""
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

    network: Literal["small_cnn", "classifier32", "wrn16_4", "resnet18", "resnet34", "resnet50"] = "small_cnn"
    """Backbone."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype of training; parameters, scores and evaluation stay float32."""
    loss: Literal["m_ovr", "m_ovr_target", "ovr", "cosine_softmax", "softmax", "doc"] = "m_ovr"
    """m_ovr (margin on all angles), m_ovr_target (on the labelled class alone), ovr (no margin),
    cosine_softmax, softmax and doc (linear logits)."""
    margin: float = 0.5
    """m of m-OvR, radians."""
    scale: float = 16.0
    """T, by which cosines are multiplied. The paper's 32 wants its longer schedule."""
    intra_weight: float = 1.0
    """Weight of the labelled class's term of a one-vs-rest loss."""
    inter_weight: float = 1.0
    """Weight of the other classes' terms of a one-vs-rest loss."""
    rotations: Literal["none", "one", "all"] = "none"
    """Self-supervision: predict the rotation of no copy, one randomly rotated copy, or all four."""
    rotation_weight: float = 0.1
    """lambda_self, the weight of the rotation loss."""

    mixing: Literal["none", "gradmix", "random_box"] = "none"
    """Classify masked images too: boxes at the peaks of the class loss's attribution (GradMix), or anywhere."""
    cam_sign: Literal[1, -1] = 1
    """With gradmix, +1: mask what would raise the loss; -1: the evidence that lowers it."""
    cam_layers: tuple[int, ...] = ()
    """Stages whose maps are summed, 1 = the first; default: the last three."""
    fill: Literal["noise", "noise_pixel", "paste", "mean"] = "noise"
    """What goes into a box: noise shared by the channels, noise, a whole other image, the image's mean."""
    mixed_weight: float = 1.0
    """Weight of the masked images' class loss."""
    smallest_kept: float = 0.5
    """Smallest share of an image that a box leaves."""
    largest_kept: float = 0.9
    """Largest one."""

    steps: int = 800
    """Optimiser steps."""
    epochs: int | None = None
    """Passes over the training images, instead of `steps` (a `--steps` on the command line undoes a preset's)."""
    batch_size: int = 128
    """Global batch size, over all devices."""
    learning_rate: float = 0.1
    """Peak learning rate, cosine to final_learning_rate."""
    final_learning_rate: float = 1e-5
    """Where the cosine ends, at the step after the last."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-3
    """L2 decay of kernels and prototypes."""
    crop_padding: int = 4
    """Padding of the random crop, pixels; 0: no crop."""
    flip: bool = True
    """Random horizontal flip; turn it off for digits."""
    seed: int = 0
    """Seed of initialisation, order and augmentation. The validation images depend on the split alone."""

    log_every: int = 20
    """Steps between logged metrics."""
    save_every: int = 200
    """Steps between checkpoints; each also measures the validation accuracy."""
    probe_every: int = 0
    """Steps between probes (input-Jacobian norms and metrics of test images, to probe.npz), besides one
    before the first step and one after the last; 0: none. A probe costs as much as about
    2 probe_images * features / (3 batch_size) steps."""
    probe_images: int = 64
    """Known test images whose norms a probe takes, and as many unknown ones."""
    probe_pairs: int = 12
    """Pairs of known test images of different classes whose paths a probe follows."""
    test_norms: bool = False
    """Input-Jacobian norms of every test image, before and after training, to norms.npz."""
    eval_batch_size: int = 500
    """Images per evaluation call."""
    resamples: int = 1000
    """Bootstrap resamples of the 95 % intervals; 0: none."""
    reject_share: float = 0.1
    """Share of known validation images that the operating threshold rejects."""
    stream: bool = False
    """Send each batch to the devices (grain, addressed by step) instead of keeping the training images there,
    for sets that do not fit in device memory. The batches are the same."""
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
    """Other defaults, for a run of seconds: digits, 20 steps, small batches."""


PAPER = Config(
    scale=32.0, steps=20_000, save_every=1000, log_every=100, rotations="all", data="cifar10"
)  # arXiv 2209.11436, sec. 5
PRESETS = {
    "bundled": Config(),
    "cifar10-small": Config(preset="cifar10-small", data="cifar10", steps=700),
    "digits": Config(preset="digits", data="digits", flip=False, crop_padding=1, batch_size=64),
}
for _network in ("wrn16_4", "classifier32", "resnet18"):
    for _data, _changes in {
        "mnist": {"flip": False},
        "fashion_mnist": {},
        "svhn": {"data": "svhn_cropped", "flip": False},
        "cifar10": {},
        "cifar+10": {"data": "cifar10", "unknown_data": "cifar100", "dataset": "cifar+10"},
        "cifar+50": {"data": "cifar10", "unknown_data": "cifar100", "dataset": "cifar+50"},
        "tiny_imagenet": {"crop_padding": 8},
    }.items():
        _name = f"{_data}-{_network.replace('_', '-')}"
        PRESETS[_name] = dataclasses.replace(PAPER, **{"preset": _name, "network": _network, "data": _data, **_changes})
        if _network == "resnet18":
            PRESETS[_name] = dataclasses.replace(
                PRESETS[_name], learning_rate=0.06, final_learning_rate=0.0, epochs=200
            )
SMOKE = {
    "data": "digits",
    "unknown_data": None,
    "dataset": None,
    "network": "small_cnn",
    "rotations": "none",
    "epochs": None,
    "crop_padding": 1,
    "flip": False,
    "steps": 20,
    "batch_size": 32,
    "save_every": 10,
    "log_every": 5,
    "resamples": 50,
}


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
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    with processes.end_together("train.py"):
        try:
            job = prepare(config)
        except ValueError as error:
            if processes.is_first():
                print(f"train.py: {error}", file=sys.stderr)
            return 2
        try:
            with job.run:
                return train_and_evaluate(config, job)
        except FileError as error:  # a full disk, say: what was saved before is there for the same command
            return processes.fail("train.py", error)


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
        default = dataclasses.replace(default, epochs=None)
    return tyro.cli(
        Config,
        args=arguments,
        default=default,
        description=f"{__doc__}\nPresets: {', '.join(PRESETS)}.",
    )


# ---------------------------------------------------------------------------------------------- checks


def check(config: Config) -> None:
    """Refuses what would fail late or give a plausible wrong number. Data and splits check themselves."""
    positive = ("steps", "batch_size", "learning_rate", "scale", "log_every", "save_every", "eval_batch_size")
    for name in positive:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name}={getattr(config, name)!r} must be above 0")
    not_negative = (
        "margin",
        "final_learning_rate",
        "weight_decay",
        "rotation_weight",
        "intra_weight",
        "inter_weight",
        "mixed_weight",
        "crop_padding",
        "resamples",
        "seed",
        "probe_every",
    )
    for name in not_negative:
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name}={getattr(config, name)!r} must not be negative")
    if not config.margin < np.pi:
        raise ValueError(f"margin={config.margin!r} is an angle in radians: give one below pi, such as 0.5")
    if not 0 < config.smallest_kept <= config.largest_kept <= 1:
        raise ValueError(
            f"smallest_kept={config.smallest_kept!r}, largest_kept={config.largest_kept!r}: give shares with"
            " 0 < smallest <= largest <= 1, such as 0.5 and 0.9"
        )
    meaningless = {"none": ("cam_sign", "cam_layers", "fill"), "random_box": ("cam_sign", "cam_layers")}
    for name in meaningless.get(config.mixing, ()):
        if getattr(config, name) != getattr(Config, name):
            raise ValueError(
                f"{name}={getattr(config, name)!r} does nothing with mixing={config.mixing!r}: leave it out"
            )
    if config.mixing != "none" and config.rotations != "none":
        raise ValueError(f"mixing={config.mixing!r} with rotations={config.rotations!r} is not built: leave one out")
    if config.mixing != "none" and config.batch_size < 2:
        raise ValueError(f"batch_size={config.batch_size!r} is too small for mixing: give 2 or more")
    if not 0 <= config.momentum < 1:
        raise ValueError(f"momentum={config.momentum!r} must be in [0, 1)")
    if not 0 < config.reject_share < 1:
        raise ValueError(f"reject_share={config.reject_share!r} must be between 0 and 1, such as 0.1")
    if config.epochs is not None and config.epochs < 1:
        raise ValueError(f"epochs={config.epochs!r} must be at least 1")


# ------------------------------------------------------------------------------- model, step, loop


class Job(NamedTuple):
    """A run that was found possible: devices, class split, images, those probed, number of steps, directory."""

    mesh: jax.sharding.Mesh
    split: splits.ClassSplit
    data: OpenSetData
    sets: ProbeSets | None
    steps: int
    run: Run


def prepare(config: Config) -> Job:
    """Everything that can be refused, before any work; the run directory is opened last, and by all or none."""
    if config.network != "small_cnn":  # whose steps are small enough to lose by it
        reuse_host_memory()
    mesh, split, data, sets, steps = processes.refuse_together(lambda: possible(config))
    fields = {name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(config).items()}
    environment = ("out", "data_dir", "stream", "devices", "compilation_cache", "profile_steps")
    environment += ("distributed", "coordinator", "processes", "process", "peer_timeout")
    out = config.out or Path("runs") / run_name(config)
    run = open_run(out, fields, content=content_of(data, split), ignore=environment, images=data.train.images)
    return Job(mesh, split, data, sets, steps, run)


def possible(config: Config) -> tuple:
    """The parts of a job but for its directory; what this process can refuse alone."""
    check(config)
    if config.test_norms and jax.process_count() > 1:
        raise ValueError(
            f"test_norms=True with {jax.process_count()} processes is not built: leave it out, and run"
            " experiments/norms.py on the finished run"
        )
    mesh = sharding.data_mesh(config.devices)
    sharding.check_batch_size(config.batch_size, mesh)
    split, data = choose_data(dataclasses.asdict(config))
    height, width, _ = data.train.images.shape[1:]
    if config.rotations != "none" and height != width:
        raise ValueError(f"rotations={config.rotations!r} needs square images, these are {height}x{width}: use none")
    if config.batch_size > len(data.train.images):
        raise ValueError(
            f"batch_size={config.batch_size} exceeds the {len(data.train.images)} training images: lower it"
        )
    if config.cam_layers:
        network = OpenSetNetwork(NETWORKS[config.network](), 1)
        check_layers(config.cam_layers, len(zero_taps(network, data.train.images.shape[1:], 1)))
    sets = None
    if config.probe_every:  # drawn from the split alone: every loss and seed is probed on the same images
        images, pairs = config.probe_images, config.probe_pairs
        sets = probe_sets(data, probe_images=images, probe_pairs=pairs, seed=config.split)
    steps = config.steps
    if config.epochs is not None:
        steps = max(1, config.epochs * len(data.train.images) // config.batch_size)
    check_profile_steps(config.profile_steps, steps)
    return mesh, split, data, sets, steps


def train_and_evaluate(config: Config, job: Job) -> int:
    """The whole run; returns the exit code."""
    mesh, split, data, sets, steps, run = job
    if run.writes:
        print(f"{run.directory}: {config.loss} on {describe_data(data, split)}", flush=True)
    if (done := run.read_json("results.json")) is not None:
        if run.writes:
            print("finished before; the stored results:\n" + done["table"])
        return 0
    if config.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", str(config.compilation_cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

    classes = len(data.known_classes)
    class_loss = CLASS_LOSSES[config.loss]
    train_network, eval_network = (
        OpenSetNetwork(NETWORKS[config.network](dtype=dtype), classes, class_loss.head)
        for dtype in (jnp.dtype(config.dtype), jnp.float32)
    )
    augmentation = make_crop_and_flip(crop_padding=config.crop_padding, flip=config.flip)
    if config.mixing == "none":
        make_objective = partial(make_classify_objective, rotations=config.rotations)
    else:
        stages = len(zero_taps(eval_network, data.train.images.shape[1:], 1))
        box = Box(fill=config.fill)
        look = Attribution(config.cam_layers or last_layers(stages), sign=config.cam_sign)
        mix = GradMix(look, box) if config.mixing == "gradmix" else RandomBox(box)
        make_objective = partial(make_masked_classify_objective, mix=mix)
    make_objective = partial(make_objective, class_loss=class_loss, augmentation=augmentation)
    objective = data_parallel(make_objective, train_network, mesh)
    optimizer = make_sgd(total_steps=steps, momentum=config.momentum)
    hyper = {
        name: jnp.float32(getattr(config, name))
        for name in (
            "learning_rate",
            "final_learning_rate",
            "weight_decay",
            "margin",
            "scale",
            "intra_weight",
            "inter_weight",
            "rotation_weight",
            "mixed_weight",
            "smallest_kept",
            "largest_kept",
        )
    }
    key = jax.random.key(config.seed)
    init_key, train_key = jax.random.split(key)
    step_function = make_train_step(objective, optimizer)

    def gather_and_step(state, images, indices, key, hyper):
        return step_function(state, gather_batch(images, indices, mesh=mesh), key, hyper)

    options = compiler_options()
    everywhere = sharding.replicated(mesh)
    train_step = jax.jit(gather_and_step, donate_argnums=0, out_shardings=everywhere, compiler_options=options)

    # Maps are large and nobody reads them: they stay where they are.
    placements: Any = dict.fromkeys(Outputs._fields, everywhere) | {"maps": sharding.batch_sharding(mesh)}
    forward = jax.jit(
        lambda variables, images: eval_network.apply(variables, images, train=False),
        out_shardings=Outputs(**placements),
        compiler_options=options,
    )

    def variables_of(state) -> dict:
        return {"params": state.params, "batch_stats": state.stats}

    def predict(state, images) -> Predictions:
        variables = variables_of(state)
        apply = partial(forward, variables)
        return evaluate(apply, images, batch_size=config.eval_batch_size, mesh=mesh)

    image_shape = data.train.images.shape[1:]
    # Compiled as one program: initialising layer by layer takes many times as long.
    new_state = jax.jit(
        lambda: init_state(init_key, train_network, optimizer, hyper, image_shape=image_shape),
        out_shardings=everywhere,
    )
    # The probe runs on one device of process 0, for which the others wait.
    probe = None
    if sets is not None and run.writes:
        probe = make_probe(
            eval_network,
            data,
            sets,
            score=class_loss.score,
            scale=config.scale,
            margin=config.margin,
            profile_steps=(0, steps),
            eval_batch_size=config.eval_batch_size,
        )

    def validate(state) -> float:
        logits = predict(state, data.validation.images).logits
        return metrics.closed_set_accuracy(logits.argmax(-1), data.validation.labels)

    inputs = make_inputs(data.train, batch_size=config.batch_size, seed=config.seed, mesh=mesh, streamed=config.stream)
    with StopSignal() as stop, Checkpoints(run.directory / "checkpoints") as kept:
        untrained = estimate_statistics(
            new_state(), train_network, data.train.images, batch_size=config.batch_size, mesh=mesh
        )
        trained = train_loop(
            run,
            kept,
            stop,
            new_state(),
            lambda state, inputs: train_step(state, *inputs, train_key, hyper),
            inputs,
            script="train.py",
            steps=steps,
            batch_size=config.batch_size,
            log_every=config.log_every,
            save_every=config.save_every,
            validate=validate,
            remedy=f"Lower learning_rate={config.learning_rate}",
            probe=None
            if sets is None
            else lambda state, step: take_probe(run, probe, variables_of(state if step else untrained), step),
            probe_every=config.probe_every,
            profile_steps=config.profile_steps,
        )
    if trained.exit_code:
        return trained.exit_code
    state = trained.state

    # ------------------------------------------------------------------------------- evaluation
    found = {}
    for name, network_state in {"untrained": untrained, "trained": state}.items():
        validation, known, unknown = (
            predict(network_state, part.images) for part in (data.validation, data.test_known, data.test_unknown)
        )
        if not run.writes:
            continue
        outputs = OpenSetOutputs(
            validation.logits,
            data.validation.labels,
            *known,
            data.test_known.labels,
            *unknown,
            data.test_unknown.labels,
        )
        found[name] = assess(
            outputs,
            head=class_loss.head,
            scale=config.scale,
            margin=config.margin,
            reject_share=config.reject_share,
            resamples=config.resamples,
        )
    if not run.writes:
        processes.gather_text("")  # process 0 is still writing: who leaves is missed
        return 0
    run.write_arrays("scores.npz", outputs._asdict())
    run.write_network({"params": state.params, "batch_stats": state.stats})
    if probe is not None:
        run.write_arrays("probe.npz", join_probes(run.directory / "probes"))
    if config.test_norms:
        try:
            norms = norms_of_test_images(eval_network, variables_of(untrained), variables_of(state), data, mesh, run)
        except FileError:
            raise
        except ValueError as error:
            print(f"train.py: {error} (delete {run.directory / 'norms'} to begin them again)", file=sys.stderr)
            return 1
        embeddings = {"known_embedding": outputs.known_embedding, "unknown_embedding": outputs.unknown_embedding}
        run.write_arrays("norms.npz", norms | embeddings)
    with writing(run.directory / "figures"):
        draw_figures(run.directory / "figures", outputs, config)
    table = results_text(found, data, config)
    run.write_json("results.json", {**found, "steps": steps, "best_validation_step": trained.best_step, "table": table})
    print(table)
    processes.gather_text("")
    return 0


def take_probe(run: Run, probe: Callable | None, variables: dict, step: int) -> str | None:
    """Takes a probe and keeps it, for probe.npz and as a line of the log; says what was not finite, if anything."""
    trouble = ""
    if probe is not None:
        try:
            arrays, logged = probe(variables, step)
        except FloatingPointError as error:
            trouble = str(error)
        else:
            write_probe(run.directory / "probes", arrays)
            run.log(step, logged)
    return processes.gather_text(trouble)[0] or None


def norms_of_test_images(network: OpenSetNetwork, before: dict, after: dict, data: OpenSetData, mesh, run: Run) -> dict:
    """Input-Jacobian norms of the unit embedding at every test image; a killed computation goes on where it was."""
    functions = {"embedding": network_functions(network)["embedding"]}
    parts = {"known": data.test_known, "unknown": data.test_unknown}
    images = np.concatenate([part.images for part in parts.values()])
    images = images.astype(np.float32) / np.float32(127.5) - np.float32(1)  # on the host: there may be many
    found = {f"{name}_labels": part.labels for name, part in parts.items()}
    for moment, variables in {"before": before, "after": after}.items():
        directory = run.directory / "norms" / moment
        norms = dataset_jacobian_norms(functions, variables, images, mesh=mesh, directory=directory, progress=True)
        split = np.split(norms["embedding"], [len(data.test_known.labels)])
        found |= {f"{name}_{moment}": values for name, values in zip(parts, split, strict=True)}
    return found


def draw_figures(directory: Path, outputs: OpenSetOutputs, config: Config) -> None:
    """Histogram of the loss's own score; ROC and OSCR curves of every score."""
    head, name = CLASS_LOSSES[config.loss].head, CLASS_LOSSES[config.loss].score
    known, unknown = (
        open_set_scores(logits, head=head, scale=config.scale, margin=config.margin)
        for logits in (outputs.known_logits, outputs.unknown_logits)
    )
    pairs = {name: (known[name], unknown[name]) for name in known}
    correct = outputs.known_logits.argmax(-1) == outputs.known_labels
    directory.mkdir(exist_ok=True)
    histogram = report.score_histogram(*pairs[name], score_name=f"{name} (larger = more unknown)")
    report.save_figure(histogram, directory / "scores")
    report.save_figure(report.roc_figure(pairs), directory / "roc")
    report.save_figure(report.oscr_figure(pairs, correct), directory / "oscr")


def results_text(found: dict, data: OpenSetData, config: Config) -> str:
    """The final table: one row per score, then the loss's own score of the untrained network."""
    default = CLASS_LOSSES[config.loss].score
    trained, untrained = found["trained"]["scores"], found["untrained"]["scores"]
    what = "validation images, held-out classes as unknown" if config.held_out else "test images"
    lines = [
        report.open_set_table(trained, untrained, score=default),
        f"* the score that belongs to this loss; unknown = positive; [95 % bootstrap interval over {what}]",
        f"closed-set accuracy {report.interval_text(trained[default]['closed_set_accuracy'])}, "
        f"on validation {found['trained']['validation_accuracy']:.3f}; "
        f"Davies-Bouldin {found['trained']['davies_bouldin'] or float('nan'):.3f}",
        f"{len(data.test_known.labels)} known and {len(data.test_unknown.labels)} unknown images",
    ]
    for name, _, complete in data.sources:
        lines.append(f"source: {name} ({'complete' if complete else 'NOT the complete data set'})")
    return "\n".join(lines)


def run_name(config: Config) -> str:
    """A directory name that tells apart the runs that are usually compared."""
    known = "own" if config.known else f"{config.family}{config.split}"
    held_out = "".join(f"-without{c}" for c in config.held_out)
    smoke = "-smoke" if config.smoke else ""
    mixing = "" if config.mixing == "none" else f"-{config.mixing}"
    mixing += "-minus" if config.mixing == "gradmix" and config.cam_sign < 0 else ""
    return f"{config.preset}-{config.loss}{mixing}-{known}{held_out}-seed{config.seed}{smoke}"


if __name__ == "__main__":
    sys.exit(main())
