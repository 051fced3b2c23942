"""What does each part of the recipe contribute? Many runs as lanes of a few compiled programs, one table.

    python experiments/ablation.py                          16 seeds of the main job's recipe, one program
    python experiments/ablation.py --preset table           the ablation table: m-OvR without A, W, S, N one at a time
    python experiments/ablation.py --preset figure-14       AUROC against T, m, weight decay and lambda_self
    python experiments/ablation.py --preset contrastive     GradMix against its temperature and the weights of its terms
    python experiments/ablation.py --vary margin=0,0.25,0.5 scale=8,16 --splits 0 1 2 --seeds 3      a grid of one's own
    python experiments/ablation.py --arms "softmax: loss=softmax" "no crop: crop_padding=0 flip=False"

An arm is the recipe with some fields changed; every arm runs on every split with every seed, and each such run is a
lane. Fields that change the compiled program (loss, network, rotations, augmentation, batch size, steps) make groups,
one program each; the lanes of a group train together (osrjax/train/sweep.py says how). A lane computes what
experiments/train.py (for the preset contrastive: experiments/contrastive.py) computes with the same options and seed,
and its row of results.csv has that command. A lane that diverges is reported and hurts no other.

Written to OUT: results.csv (a row a lane), history.csv (a row a lane and probe), results.json and results.txt (the
tables), figures/, and for every group its run directory with checkpoints, metrics.jsonl and outputs. The same command
goes on where it was stopped. Intervals: seeds are averaged within a split, then a 95 % t interval over splits;
differences are paired by split and seed. Exit codes: 0 done, 2 bad input (nothing was started), 143 or 130 stopped by
SIGTERM or Ctrl-C (state saved).
"""

import csv
import dataclasses
import io
import itertools
import json
import math
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ablation_recipes import (
    NEIGHBOURS,
    STRUCTURAL,
    TRACED,
    Config,
    Lane,
    arms_of,
    check,
    command_of,
    data_fields,
    group_lanes,
    hyper_of,
    layout_of,
    method_of,
    parse,
    score_of,
)
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec as P

from osrjax import augment, metrics, report
from osrjax.analysis.probe import ProbeSets, probe_sets
from osrjax.data import OpenSetData, choose_data, content_of
from osrjax.devices import cpu, processes, sharding
from osrjax.evaluation.assessment import (
    OpenSetFeatures,
    OpenSetLabels,
    OpenSetOutputs,
    ScoredImages,
    assess,
    assess_features,
    open_set_feature_scores,
    open_set_scores,
)
from osrjax.files import FileError, write_whole, writing
from osrjax.methods.classify import CLASS_LOSSES
from osrjax.report import jacobian as jacobian_report, sweep as sweep_report
from osrjax.run.checkpoint import LaneCheckpoints
from osrjax.run.directory import Run, open_run
from osrjax.run.loop import check_profile_steps, train_loop
from osrjax.run.signals import StopSignal
from osrjax.train import sweep
from osrjax.train.apply import apply_in_batches
from osrjax.train.layout import lane_mesh, pad_lanes

METRICS = ("closed_set_accuracy", "auroc", "oscr", "detection_accuracy", "fpr_at_95_tpr_unknown_positive")
COLUMNS = ("closed_set_accuracy", "auroc", "oscr", "detection_accuracy", "jnd")
LANE_METRICS = (*METRICS, "davies_bouldin", "jnd", "norm_known", "norm_unknown")
HISTORY = ("auroc", "accuracy", "davies_bouldin", "jnd", "norm_known", "norm_unknown")


def main(arguments: list[str] | None = None) -> int:
    """Parses, checks, runs; returns the exit code."""
    try:
        config = parse(sys.argv[1:] if arguments is None else arguments, description=__doc__)
        if arguments is None and config.distributed == "none" and config.coordinator is None:
            cpu.one_device_per_core()  # devices of several processes, several in each, can wait for ever
        sharding.start_distributed(
            mode=config.distributed,
            coordinator=config.coordinator,
            processes=config.processes,
            process=config.process,
            peer_timeout=config.peer_timeout,
        )
    except ValueError as error:
        print(f"ablation.py: {error}", file=sys.stderr)
        return 2
    remedy = "lower batch_size, use more devices, or compute fewer lanes together (--lanes-at-once, --strategy loop)"
    with processes.end_together("ablation.py", memory=remedy):
        try:
            job = prepare(config)
        except ValueError as error:
            if processes.is_first():
                print(f"ablation.py: {error}", file=sys.stderr)
            return 2
        try:
            with job.run:
                return run_groups(config, job)
        except FileError as error:
            return processes.fail("ablation.py", error)


class Job(NamedTuple):
    """An ablation that was found possible: arms, lanes, their groups, data by split, probed images, directory."""

    arms: dict[str, Config]
    lanes: list[Lane]
    groups: list[list[Lane]]
    datasets: dict[int, tuple[Any, OpenSetData]]
    probes: dict[int, ProbeSets]
    run: Run


def prepare(config: Config) -> Job:
    """Everything that can be refused, before any work; the directory is opened last, and by all processes or none."""
    arms, lanes, groups, datasets, probes = processes.refuse_together(lambda: possible(config))
    fields = {name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(config).items()}
    content = {f"split {k}": content_of(data, split) for k, (split, data) in datasets.items()}
    environment = ("out", "data_dir", "devices", "compilation_cache", "profile_steps")
    environment += ("strategy", "convolutions", "lanes_at_once")
    environment += ("distributed", "coordinator", "processes", "process", "peer_timeout")
    out = config.out or Path("runs") / f"ablation-{config.preset}{'-smoke' if config.smoke else ''}"
    images = datasets[config.splits[0]][1].train.images
    run = open_run(out, fields, content=content, ignore=environment, images=images)
    return Job(arms, lanes, groups, datasets, probes, run)


def possible(config: Config) -> tuple:
    """The parts of a job but for its directory; what this process can refuse alone."""
    arms = arms_of(config)
    large = config.strategy == "vmap" or any(recipe.network != "small_cnn" for recipe in arms.values())
    cpu.reuse_host_memory(shared=large)  # before anything that makes JAX look for its devices
    check(config, arms)
    datasets = {split: choose_data(data_fields(config, split)) for split in config.splits}
    lanes = [
        Lane(arm, recipe, split, seed)
        for arm, recipe in arms.items()
        for split in config.splits
        for seed in range(config.seeds)
    ]
    groups = group_lanes(lanes, datasets)
    for members in groups:
        mesh_of(config, members)
        check_profile_steps(config.profile_steps, members[0].recipe.steps)
    return arms, lanes, groups, datasets, probe_rows(config, datasets)


def run_groups(config: Config, job: Job) -> int:
    """All groups, one after another, and what they found together; returns the exit code."""
    run = job.run
    if (done := run.read_json("results.json")) is not None:
        if run.writes:
            print("finished before; the stored results:\n" + done["table"])
        return 0
    if config.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", str(config.compilation_cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if run.writes:
        layout = layout_of(config)
        print(
            f"{run.directory}: {len(job.lanes)} lanes in {len(job.groups)} programs, {layout.strategy} on"
            f" {mesh_of(config, job.groups[0]).size} devices",
            flush=True,
        )
    found = []
    with StopSignal() as stop:
        for number, members in enumerate(job.groups):
            ended = run_group(config, members, job.datasets, job.probes, run.directory / f"group-{number}", stop)
            if isinstance(ended, int):
                return ended
            found.append(ended)
    if run.writes:
        summarise(config, job, found)
    processes.gather_text("")  # process 0 is still writing: who leaves is missed
    return 0


def mesh_of(config: Config, members: list[Lane]) -> jax.sharding.Mesh:
    """The devices of a group."""
    return lane_mesh(len(members), batch_size=members[0].recipe.batch_size, devices=config.devices)


def probe_rows(config: Config, datasets: dict) -> dict[int, ProbeSets]:
    """By split, the test images whose norms are taken; none without probe_images."""
    if not config.probe_images:
        return {}
    return {
        split: probe_sets(data, probe_images=config.probe_images, probe_pairs=1, seed=split)
        for split, (_, data) in datasets.items()
    }


# --------------------------------------------------------------------------------------------- a group


class Program(NamedTuple):
    """The compiled functions of a group, and what its lanes (padded for the devices) read.

    Attributes:
      new_state: () -> SweepState.
      step: (state, inputs) -> (state, metrics of each lane and whether it has "diverged").
      batches: number of steps taken -> inputs.
      predict: state -> logits (contrastive: projection) and embedding of every evaluation image, [images, lanes, ...].
      norms: state -> norms of the probed images, [lanes, known then unknown]; None without probed images.
      diverged: state -> for each lane the step at which it diverged, 0 for none.
      rows: by split, where validation, known and unknown test images are among those of evaluation, and, for
        contrastive losses, the training images.
    """

    new_state: Any
    step: Any
    batches: Any
    predict: Any
    norms: Any
    diverged: Any
    rows: dict[int, tuple[np.ndarray, ...]]


def build(config: Config, members: list[Lane], datasets: dict, probes: dict[int, ProbeSets], mesh: Any) -> Program:
    """Model, step, data and evaluation of a group's lanes."""
    layout = layout_of(config)
    recipe = members[0].recipe
    lanes = members + [members[-1]] * (pad_lanes(len(members), mesh.size) - len(members))
    parts = {split: datasets[split][1] for split in sorted({lane.split for lane in lanes})}
    first = next(iter(parts.values()))
    everywhere, over_members = sharding.replicated(mesh), sharding.lane_sharding(mesh)
    # What the host reads stays where it is computed: devices that gather it would wait for each other, and on CPUs
    # XLA ends a process whose devices do not meet. Another process's devices cannot be read.
    alone = jax.process_count() == 1
    to_read = over_members if alone else everywhere
    options = cpu.compiler_options()

    network, objective, optimizer = method_of(recipe, first)
    hyper = sweep.stack_hyper([hyper_of(lane.recipe) for lane in lanes])
    hyper = sharding.spread(jax.tree.map(np.asarray, dict(hyper)), over_members)
    # As in the scripts of single runs: one key for the parameters, one for everything after them.
    split_keys = jax.jit(jax.vmap(lambda seed: tuple(jax.random.split(jax.random.key(seed)))))
    seeds = sharding.spread(np.array([lane.seed for lane in lanes]), over_members)
    init_keys, train_keys = split_keys(seeds)

    train_images, train_rows = sweep.share_images([part.train.images for part in parts.values()])
    images = sharding.spread(train_images, everywhere)
    places = dict(zip(parts, train_rows, strict=True))
    batches = sweep.make_lane_batches(
        [parts[lane.split].train for lane in lanes],
        [lane.seed for lane in lanes],
        [places[lane.split] for lane in lanes],
        batch_size=recipe.batch_size,
    )
    looked_at = {
        split: [part.validation, part.test_known, part.test_unknown]
        + ([part.train] if recipe.loss == "contrastive" else [])  # whose features are the neighbours
        for split, part in parts.items()
    }
    evaluation, rows = sweep.share_images([examples.images for part in looked_at.values() for examples in part])
    remaining = iter(rows)
    by_split = {split: tuple(itertools.islice(remaining, len(part))) for split, part in looked_at.items()}

    sweep_step = sweep.make_sweep_step(objective, optimizer, layout=layout, mesh=mesh)

    def step_with_diverged(state, images, inputs, keys, hyper):
        state, metrics = sweep_step(state, images, inputs, keys, hyper)
        return state, metrics | {"diverged": state.diverged > 0}

    compiled_step = jax.jit(
        step_with_diverged, donate_argnums=0, out_shardings=(over_members, to_read), compiler_options=options
    )

    def step(state: sweep.SweepState, inputs: sweep.LaneInputs):
        with jax.set_mesh(mesh):
            return compiled_step(state, images, sharding.spread(inputs, over_members), train_keys, hyper)

    def init_lanes(keys, hyper):
        return sweep.init_lanes(keys, network, optimizer, hyper, image_shape=evaluation.shape[1:])

    # Compiled as one program: initialising layer by layer takes many times as long.
    new_state = jax.jit(init_lanes, out_shardings=over_members)

    lane_forward = sweep.make_lane_forward(network, layout=layout, mesh=mesh)
    eval_batch_size = min(config.eval_batch_size, len(evaluation))

    def outputs_by_image(variables, rows):
        return tuple(jnp.moveaxis(values, 0, 1) for values in lane_forward(variables, rows))

    images_and_lanes = NamedSharding(mesh, P("data", "member")) if alone else everywhere
    forward = jax.jit(outputs_by_image, out_shardings=images_and_lanes, compiler_options=options)

    def variables_of(state: sweep.SweepState) -> dict:
        return {"params": state.states.params, "batch_stats": state.states.stats}

    @remembering
    def predict(state: sweep.SweepState) -> tuple[np.ndarray, np.ndarray]:
        apply = partial(forward, variables_of(state))
        with jax.set_mesh(mesh):
            return apply_in_batches(apply, evaluation, batch_size=eval_batch_size, mesh=mesh)

    norms, compiled_norms, probed_images = None, None, None
    if probes:
        lane_norms = sweep.make_lane_norms(network, mesh=mesh)
        compiled_norms = jax.jit(lane_norms, out_shardings=to_read, compiler_options=options)
        probed = {
            split: np.concatenate(
                [part.test_known.images[probes[split].known], part.test_unknown.images[probes[split].unknown]]
            )
            for split, part in parts.items()
        }
        stacked = np.asarray(augment.to_float(np.stack([probed[lane.split] for lane in lanes])))
        probed_images = sharding.spread(stacked, over_members)

        @remembering
        def norms(state: sweep.SweepState) -> np.ndarray:
            with jax.set_mesh(mesh):
                return np.asarray(compiled_norms(variables_of(state), probed_images))

    state_like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=over_members),
        jax.eval_shape(new_state, init_keys, hyper),
    )
    rows_like = jax.ShapeDtypeStruct(
        (eval_batch_size + -eval_batch_size % mesh.shape["data"], *evaluation.shape[1:]),
        jnp.float32,
        sharding=sharding.batch_sharding(mesh),
    )
    # Tracing takes turns, compiling does not; the first calls find what was compiled here. The longest comes first.
    with ThreadPoolExecutor(1 if jax.process_count() > 1 else None) as pool:  # all processes in the same order
        with jax.set_mesh(mesh):
            inputs = sharding.spread(batches(0), over_members)
            pool.submit(compiled_step.lower(state_like, images, inputs, train_keys, hyper).compile)
            pool.submit(forward.lower(variables_of(state_like), rows_like).compile)
            if compiled_norms is not None:
                pool.submit(compiled_norms.lower(variables_of(state_like), probed_images).compile)
        pool.submit(new_state.lower(init_keys, hyper).compile)

    return Program(
        new_state=lambda: new_state(init_keys, hyper),
        step=step,
        batches=batches,
        predict=predict,
        norms=norms,
        diverged=lambda state: multihost_utils.process_allgather(state.diverged, tiled=True),
        rows=by_split,
    )


def remembering(function: Callable[[sweep.SweepState], Any]) -> Callable[[sweep.SweepState], Any]:
    """The function, keeping its last result: checkpoint, probe and assessment look at the same state."""
    last: tuple[Any, Any] = (None, None)

    def of_state(state: sweep.SweepState) -> Any:
        nonlocal last
        if last[0] is not state:
            last = state, function(state)
        return last[1]

    return of_state


def open_group(directory: Path, fields: dict[str, Any]) -> Run:
    """The directory of a group; what refuses it now is no bad input any more."""
    try:
        return Run(directory, fields, writes=processes.is_first())
    except ValueError as error:
        raise FileError(str(error)) from error


def run_group(
    config: Config, members: list[Lane], datasets: dict, probes: dict, directory: Path, stop: StopSignal
) -> dict[str, Any] | int:
    """Trains and evaluates the lanes of one program; the exit code where that was stopped."""
    recipe = members[0].recipe
    names = [f"{lane.arm}, split {lane.split}, seed {lane.seed}" for lane in members]
    fields = {name: getattr(recipe, name) for name in STRUCTURAL} | {"lanes": names}
    mesh = mesh_of(config, members)
    with (
        open_group(directory, fields) as run,
        LaneCheckpoints(directory / "checkpoints", lanes=len(members), mesh=mesh) as kept,
    ):
        done = run.read_json("results.json")
        finished = processes.gather_text("yes" if done is not None else "")[0]  # others may see process 0's file late
        if finished:
            processes.check_shared(directory / "results.json")
            return done if done is not None else run.read_json("results.json")
        program = build(config, members, datasets, probes, mesh)
        latest: dict[str, Any] = {}

        def train_step(state, inputs):
            state, latest["metrics"] = program.step(state, inputs)
            return state, latest["metrics"]

        def mean_metrics(metrics_of: dict[str, np.ndarray]) -> dict[str, Any]:
            """The mean of every metric over the lanes that have not diverged, and how many have."""
            of_lanes = {name: values[: len(members)] for name, values in metrics_of.items()}  # without padding
            alive = ~of_lanes.pop("diverged")
            count = max(np.sum(alive), 1)
            means = {n: np.sum(values, where=alive, dtype=np.float64) / count for n, values in of_lanes.items()}
            return means | {"diverged_lanes": np.sum(~alive)}

        def look(state: sweep.SweepState, step: int) -> str | None:
            """Logs the training metrics of every lane and, every probe_every steps, what a probe finds."""
            found = {}
            if step:
                metrics_of = {n: np.asarray(values) for n, values in latest["metrics"].items() if n != "diverged"}
                for lane in range(len(members)):
                    found |= {f"lane/{lane:03d}/{name}": values[lane] for name, values in metrics_of.items()}
            if step == recipe.steps or (step and config.probe_every and step % config.probe_every == 0):
                for lane, values in enumerate(probed_lanes(config, members, datasets, program, state)):
                    found |= {f"lane/{lane:03d}/probe/{name}": value for name, value in values.items()}
            if found:
                run.log(step, {name: float(value) for name, value in found.items() if np.isfinite(value)})
            return None

        def mean_accuracy(state: sweep.SweepState) -> float:
            predicted = program.predict(state)
            found = []
            for lane in np.flatnonzero(program.diverged(state)[: len(members)] == 0):
                data = datasets[members[lane].split][1]
                if recipe.loss == "contrastive":
                    predictions = own_scores(members[lane], lane, data, program, predicted).validation_predictions
                else:  # without the scores of all images
                    predictions = predicted[0][program.rows[members[lane].split][0], lane].argmax(-1)
                found.append(metrics.closed_set_accuracy(predictions, data.validation.labels))
            return float(np.mean(found)) if found else 0.0

        trained = train_loop(
            run,
            kept,
            stop,
            program.new_state(),
            train_step,
            lambda start: map(program.batches, itertools.count(start)),
            script="ablation.py",
            steps=recipe.steps,
            batch_size=recipe.batch_size * len(members),
            log_every=config.log_every,
            save_every=config.save_every,
            validate=mean_accuracy,
            on_host=mean_metrics,
            remedy="Lower the learning rate",
            probe=look,
            probe_every=math.gcd(config.log_every, config.probe_every),
            profile_steps=config.profile_steps,
        )
        if trained.exit_code:
            return trained.exit_code
        lanes = assessed_lanes(config, members, datasets, program, trained.state)
        outputs = program.predict(trained.state)[0][:, : len(members)]
        name = "projection" if recipe.loss == "contrastive" else "logits"
        images = {
            f"split {split} {part}": found
            for split, parts in program.rows.items()
            for part, found in zip(("validation", "test_known", "test_unknown", "train"), parts, strict=False)
        }
        run.write_arrays("outputs.npz", {name: outputs.swapaxes(0, 1), **images})
        result = {"lanes": lanes, "history": history_of(run.directory / "metrics.jsonl") if run.writes else []}
        run.write_json("results.json", result)
        return result


def outputs_of(
    member: Lane, lane: int, data: OpenSetData, program: Program, predicted: tuple[np.ndarray, np.ndarray]
) -> OpenSetOutputs:
    """What one lane's network gave for the images of its split."""
    (validation, known, unknown, *_), (logits, embedding) = program.rows[member.split], predicted
    return OpenSetOutputs(
        logits[validation, lane],
        data.validation.labels,
        logits[known, lane],
        embedding[known, lane],
        data.test_known.labels,
        logits[unknown, lane],
        embedding[unknown, lane],
        data.test_unknown.labels,
    )


def features_of(member: Lane, lane: int, program: Program, predicted: tuple[np.ndarray, np.ndarray]) -> OpenSetFeatures:
    """What one contrastive lane's network gave, in the space that its loss sees."""
    validation, known, unknown, train = (predicted[0][rows, lane] for rows in program.rows[member.split])
    return OpenSetFeatures(train, validation, known, unknown)


def own_scores(
    member: Lane, lane: int, data: OpenSetData, program: Program, predicted: tuple[np.ndarray, np.ndarray]
) -> ScoredImages:
    """The score that belongs to a lane's loss, and its predictions."""
    recipe, score = member.recipe, score_of(member.recipe)
    if recipe.loss == "contrastive":
        features = features_of(member, lane, program, predicted)
        classes = len(data.known_classes)
        return open_set_feature_scores(features, data.train.labels, classes=classes, neighbours=NEIGHBOURS)[score]
    outputs = outputs_of(member, lane, data, program, predicted)
    logits = (outputs.validation_logits, outputs.known_logits, outputs.unknown_logits)
    head = CLASS_LOSSES[recipe.loss].head
    scores = [open_set_scores(part, head=head, scale=recipe.scale, margin=recipe.margin)[score] for part in logits]
    return ScoredImages(*scores, *(part.argmax(-1) for part in logits))


def assess_lane(
    config: Config,
    member: Lane,
    lane: int,
    data: OpenSetData,
    program: Program,
    predicted: tuple[np.ndarray, np.ndarray],
) -> dict[str, Any]:
    """All scores x all metrics of one lane."""
    recipe = member.recipe
    if recipe.loss == "contrastive":
        return assess_features(
            features_of(member, lane, program, predicted),
            OpenSetLabels(data.train.labels, data.validation.labels, data.test_known.labels),
            classes=len(data.known_classes),
            neighbours=NEIGHBOURS,
            reject_share=config.reject_share,
            resamples=config.resamples,
        )
    return assess(
        outputs_of(member, lane, data, program, predicted),
        head=CLASS_LOSSES[recipe.loss].head,
        scale=recipe.scale,
        margin=recipe.margin,
        reject_share=config.reject_share,
        resamples=config.resamples,
    )


def norm_metrics(norms: np.ndarray, known: int) -> dict[str, float]:
    """JND and mean norms of one lane."""
    norms_known, norms_unknown = np.split(norms, [known])
    return {
        "jnd": metrics.jacobian_norm_difference(norms_known, norms_unknown),
        "norm_known": float(norms_known.mean(dtype=np.float64)),
        "norm_unknown": float(norms_unknown.mean(dtype=np.float64)),
    }


def probed_lanes(
    config: Config, members: list[Lane], datasets: dict, program: Program, state: sweep.SweepState
) -> list[dict[str, float]]:
    """The figures of HISTORY for every lane; nothing for one whose outputs are not finite."""
    predicted = program.predict(state)
    norms = program.norms(state) if program.norms else None
    found = []
    for lane, member in enumerate(members):
        data = datasets[member.split][1]
        if not np.isfinite(predicted[0][:, lane]).all():
            found.append({})
            continue
        scored = own_scores(member, lane, data, program, predicted)
        # The embedding that the loss sees, at unit norm: a classifier's second output, a contrastive network's first.
        embedding = predicted[0 if member.recipe.loss == "contrastive" else 1][program.rows[member.split][1], lane]
        values = {
            "auroc": metrics.auroc(scored.known, scored.unknown),
            "accuracy": metrics.closed_set_accuracy(scored.known_predictions, data.test_known.labels),
            "davies_bouldin": metrics.davies_bouldin(embedding, data.test_known.labels),
        }
        if norms is not None and np.isfinite(norms[lane]).all():
            values |= norm_metrics(norms[lane], config.probe_images)
        found.append(values)
    return found


def assessed_lanes(
    config: Config, members: list[Lane], datasets: dict, program: Program, state: sweep.SweepState
) -> list[dict[str, Any]]:
    """The results of every lane: the metrics of its loss's own score, norms, and where it diverged."""
    predicted = program.predict(state)
    norms = program.norms(state) if program.norms else None
    diverged = program.diverged(state)
    found = []
    for lane, member in enumerate(members):
        ended_well = np.isfinite(predicted[0][:, lane]).all()  # the last update may break what no step sees any more
        values: dict[str, Any] = {"diverged_at": int(diverged[lane]) or (None if ended_well else member.recipe.steps)}
        if values["diverged_at"] is None:
            assessment = assess_lane(config, member, lane, datasets[member.split][1], program, predicted)
            scored = assessment["scores"][score_of(member.recipe)]
            values |= {name: scored[name]["value"] for name in METRICS}
            values["davies_bouldin"] = assessment["davies_bouldin"]
            values["scores"] = assessment["scores"]
            if norms is not None and np.isfinite(norms[lane]).all():
                values |= norm_metrics(norms[lane], config.probe_images)
        found.append(values)
    return found


def history_of(path: Path) -> list[dict[str, Any]]:
    """The probes in a group's metrics.jsonl: lane, step and figures."""
    history = []
    for line in path.read_text().splitlines():
        logged = json.loads(line)
        lanes: dict[int, dict[str, Any]] = {}
        for name, value in logged.items():
            _, *path_of = name.split("/")
            if len(path_of) == 3 and path_of[1] == "probe":
                lanes.setdefault(int(path_of[0]), {})[path_of[2]] = value
        history += [{"lane": lane, "step": logged["step"], **values} for lane, values in lanes.items()]
    return history


# --------------------------------------------------------------------------------------- tables, figures


def summarise(config: Config, job: Job, results: list[dict]) -> None:
    """Writes and prints what the lanes of all groups found together."""
    arms, lanes, groups, *_, run = job
    found, history = {}, []
    for members, result in zip(groups, results, strict=True):
        found |= dict(zip(members, result["lanes"], strict=True))
        history += [{**row, "lane": lanes.index(members[row["lane"]])} for row in result["history"]]
    table = [
        {
            "lane": number,
            "arm": lane.arm,
            "split": lane.split,
            "seed": lane.seed,
            **{name: getattr(lane.recipe, name) for name in (*STRUCTURAL, *TRACED)},
            "score": score_of(lane.recipe),
            "diverged_at": found[lane]["diverged_at"],
            **{name: found[lane].get(name) for name in LANE_METRICS},
            "command": command_of(config, lane),
        }
        for number, lane in enumerate(lanes)
    ]
    write_whole(run.directory / "results.csv", csv_text(table).encode())
    if history:
        rows = [{name: row.get(name) for name in ("lane", "step", *HISTORY)} for row in history]
        write_whole(run.directory / "history.csv", csv_text(rows).encode())
    values = {name: {arm: lane_array(config, table, arm, name) for arm in arms} for name in LANE_METRICS}
    text, numbers = tabulate(config, arms, table, values)
    with writing(run.directory / "figures"):
        draw(config, arms, lanes, values, history, run.directory / "figures")
    write_whole(run.directory / "results.txt", (text + "\n").encode())
    run.write_json("results.json", {**numbers, "table": text})
    print(text)


def lane_array(config: Config, table: list[dict], arm: str, name: str) -> np.ndarray:
    """A metric of an arm's lanes, [splits, seeds]; nan where a lane diverged or has none."""
    rows = [row for row in table if row["arm"] == arm]
    values = [np.nan if row[name] is None or not np.isfinite(row[name]) else row[name] for row in rows]
    return np.array(values, np.float64).reshape(len(config.splits), config.seeds)


def csv_text(rows: list[dict[str, Any]]) -> str:
    """A table with one line a row; empty where there is no value."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def tabulate(
    config: Config, arms: dict[str, Config], table: list[dict], values: dict[str, dict[str, np.ndarray]]
) -> tuple[str, dict[str, Any]]:
    """Mean and interval of every arm, differences to the first one, and the lanes that diverged."""
    diverged = [row for row in table if row["diverged_at"] is not None]
    text, numbers = sweep_report.arms_table(
        {name: values[name] for name in COLUMNS},
        {arm: sum(row["arm"] == arm for row in diverged) for arm in arms},
    )
    title = (
        f"{config.preset}: {len(table)} lanes, {len(config.splits)} splits x {config.seeds} seeds,"
        " mean [95 % t interval over splits]; the score is the one that belongs to the loss"
    )
    lines = [
        f"diverged: lane {row['lane']} ({row['arm']}, split {row['split']}, seed {row['seed']})"
        f" at step {row['diverged_at']}; its metrics are left out"
        for row in diverged
    ]
    return "\n".join([title, text, *lines]), numbers


def draw(
    config: Config, arms: dict[str, Config], lanes: list[Lane], values: dict, history: list[dict], directory: Path
) -> None:
    """AUROC along each varied field; AUROC against JND over all arms; what changes over training."""
    directory.mkdir(exist_ok=True)
    panels = {}
    for field in TRACED:
        along: dict[Config, dict[float, str]] = {}  # arms that differ in this field alone
        for arm, recipe in arms.items():
            along.setdefault(dataclasses.replace(recipe, **{field: 0.0}), {})[getattr(recipe, field)] = arm
        longest = max(along.values(), key=len)
        if len(longest) > 2:
            # Of the slices through a grid the first is drawn, and says where it lies.
            fixed = dataclasses.asdict(arms[next(iter(longest.values()))])
            others = [name for name in TRACED if name != field and len({getattr(r, name) for r in arms.values()}) > 1]
            several = sum(len(found) == len(longest) for found in along.values()) > 1
            at = f" ({', '.join(f'{name} {fixed[name]:g}' for name in others)})" if several else ""
            panels[field + at] = (list(longest), np.stack([values["auroc"][arm] for arm in longest.values()]))
    if panels:
        report.save_figure(sweep_report.response_figure(panels, metric="AUROC"), directory / "auroc_by_value")
    if len(arms) > 1 and not all(np.isnan(found).all() for found in values["jnd"].values()):
        figure = sweep_report.arms_figure(values["jnd"], values["auroc"], x="JND", y="AUROC")
        report.save_figure(figure, directory / "auroc_and_jnd")
    steps = sorted({row["step"] for row in history})
    if config.probe_every and len(steps) > 1:
        shape = (len(config.splits), config.seeds, len(steps))
        curves = {title: {arm: np.full(shape, np.nan) for arm in arms} for title in ("JND", "DBI", "AUROC")}
        for row in history:
            lane = lanes[row["lane"]]
            place = (config.splits.index(lane.split), lane.seed, steps.index(row["step"]))
            for title, name in (("JND", "jnd"), ("DBI", "davies_bouldin"), ("AUROC", "auroc")):
                curves[title][lane.arm][place] = row.get(name, np.nan)
        shown = {
            title: {arm: found for arm, found in by_arm.items() if not np.isnan(found).all()}
            for title, by_arm in curves.items()
        }
        shown = {title: by_arm for title, by_arm in shown.items() if by_arm}
        if shown:
            report.save_figure(jacobian_report.dynamics_figure(np.array(steps), shown), directory / "dynamics")


if __name__ == "__main__":
    sys.exit(main())
