"""Does masking what a network has learned make it learn more? Contrastive training with GradMix and its rivals.

    python experiments/contrastive.py                            GradMix on the bundled images, first `neal` split
    python experiments/contrastive.py --mixing random_box        the control: the same boxes at random places
    python experiments/contrastive.py --preset paper --data npz:cifar10.npz
    python experiments/contrastive.py --help                     every field (with --preset PRESET: of that preset)

Two augmented views of every image; SupCon, NT-Xent and the mixed term; then class-wise nearest neighbours among the
features of the known training images classify test images and score them as known or unknown, and a linear probe reads
the embedding. Two cores, about a minute; five splits and three seeds of six mixings: experiments/results/mixing.md.
Resumes where it was stopped when the same command is given again; writes a run directory (osrjax/run/directory.py lists
its files). Model selection sees known training images only, and the LAST step is what is reported. Exit codes: 0 done,
1 stopped by a non-finite loss or by a file that cannot be written or read, 2 bad input (nothing was started), 143 or
130 stopped by SIGTERM or Ctrl-C (state saved). With several processes (--distributed, --coordinator) all end as one;
where another process is lost, with 1, or with 134 where JAX's runtime finds out first.
"""

import dataclasses
import json
import sys
from typing import Any, NamedTuple

import numpy as np

import osrjax
from osrjax.analysis.config import ProbeConfig
from osrjax.data.choice import DataConfig
from osrjax.evaluation.config import AssessmentConfig
from osrjax.fields import check_above_zero, check_not_negative
from osrjax.methods.options import ContrastOptions
from osrjax.run.launch import SingleRunConfig, launch_run


@dataclasses.dataclass(frozen=True)
class Config(AssessmentConfig, ProbeConfig, SingleRunConfig, ContrastOptions, DataConfig):
    """Train by contrast on known classes, detect unknown ones."""

    save_every: int = 100
    """Steps between checkpoints; each also measures the validation accuracy."""
    steps: int = 300
    """Optimiser steps (of the second stage, if there are two)."""
    epochs: int | None = None
    """Passes over the training images, instead of `steps` (a `--steps` on the command line undoes a preset's)."""
    first_stage_steps: int = 0
    """Two-stage schedule: so many steps without labels (gamma 0, lambda_s 1) come before `steps`, which then start
    a new optimiser and learning-rate schedule; 0: one joint stage."""
    first_stage_epochs: int | None = None
    """The same for `first_stage_steps`."""
    batch_size: int = 64
    """Images a step, over all devices; the networks see twice as many views."""
    linear_probe: bool = True
    """Fit a linear classifier on the frozen embedding of the known training images."""
    untrained: bool = True
    """Evaluate the untrained network too; without it an evaluation takes half as long."""

    def check(self) -> None:
        """Refuses numbers out of range."""
        check_above_zero(self, ["steps"])
        check_not_negative(self, ["first_stage_steps"])
        if self.batch_size < 2:
            raise ValueError(f"batch_size={self.batch_size!r} leaves no negatives: give 2 or more")
        for name in ("epochs", "first_stage_epochs"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must be at least 1, or left out")


SMALL = Config(data="cifar10", network="resnet18_w16", steps=120)
PRESETS = {
    "bundled": Config(),
    "ssl": Config(supcon_weight=0.0, ssl_weight=1.0),
    "digits": Config(data="digits", jitter=0.0),
    "cifar10-small": SMALL,
    "cifar10-all-small": dataclasses.replace(SMALL, known=tuple(range(10)), unknown_data="svhn_cropped"),
    # Network, batch, optimiser and numbers of epochs of the authors' code for CIFAR-10 (arXiv 2505.12803), in two
    # stages; experiments/results/mixing.md has those of the other data sets.
    "paper": Config(
        data="cifar10",
        network="resnet18",
        batch_size=256,
        save_every=1000,
        log_every=100,
        first_stage_epochs=600,
        epochs=10,
    ),
}
SMOKE: dict[str, Any] = {
    "data": "digits",
    "network": "small_cnn",
    "hidden": 32,
    "features": 16,
    "unknown_data": None,
    "dataset": None,
}
SMOKE |= {"known": (), "steps": 10, "epochs": None, "first_stage_steps": 0, "first_stage_epochs": None}
SMOKE |= {"batch_size": 32, "save_every": 5, "log_every": 5, "resamples": 50}
MASSES = ("mass_in_box", "mass_in_random_box")


def main(arguments: list[str] | None = None) -> int:
    """Parses, checks, runs; returns the exit code."""
    return launch_run(
        *(Config, build, work),
        script="contrastive.py",
        description=__doc__,
        presets=PRESETS,
        smoke=SMOKE,
        prefix="contrastive",
        before=lambda _: osrjax.devices.cpu.reuse_host_memory(),
        arguments=arguments,
    )


# ------------------------------------------------------------------------- what can be refused


class Job(NamedTuple):
    """A run that was found possible."""

    header: str
    content: dict[str, Any]
    images: np.ndarray
    mesh: Any
    data: "osrjax.data.OpenSetData"
    method: "osrjax.methods.Method"
    sets: "osrjax.analysis.ProbeSets | None"
    first_steps: int
    steps: int


def build(config: Config) -> Job:
    """Devices, class split, images, steps of both stages, method."""
    mesh = osrjax.devices.sharding.data_mesh(config.devices)
    osrjax.devices.sharding.check_batch_size(config.batch_size, mesh)
    split, data = osrjax.data.choose_data(config)
    images = data.train.images
    first_steps, steps = (
        given if epochs is None else max(1, epochs * len(images) // config.batch_size)
        for given, epochs in ((config.first_stage_steps, config.first_stage_epochs), (config.steps, config.epochs))
    )
    task = osrjax.methods.Task(len(data.known_classes), images.shape[1:], steps)
    osrjax.methods.check_method(config)
    method = osrjax.methods.make_method(config, task)
    osrjax.methods.check_data(method, data, batch_size=config.batch_size)
    osrjax.run.check_profile_steps(config.profile_steps, first_steps + steps)
    sets = None
    if config.probe_every:  # drawn from the split alone: every mixing and seed is probed on the same images
        sets = osrjax.analysis.probe_sets(
            data, probe_images=config.probe_images, probe_pairs=config.probe_pairs, seed=config.split
        )
    flip = "flip" if config.flip else "no flip"
    header = f"{config.mixing} on {osrjax.data.describe_data(data, split)}; {flip}"
    return Job(header, osrjax.data.content_of(data, split), images, mesh, data, method, sets, first_steps, steps)


def work(config: Config, job: Job, run: "osrjax.run.Run") -> int:
    """The whole run; returns the exit code."""
    data, method, steps = job.data, job.method, job.first_steps + job.steps

    # --------------------------------------------------------------------------------- train
    first_hyper = {"supcon_weight": 0.0, "ssl_weight": 1.0, "schedule_steps": max(1, job.first_steps)}
    program = osrjax.run.make_program(
        *(method, data.train),
        seed=config.seed,
        batch_size=config.batch_size,
        mesh=job.mesh,
        first_stage=osrjax.run.Stage(job.first_steps, first_hyper),
        streamed=config.stream,
        eval_batch_size=config.eval_batch_size,
    )
    rows = some_rows(data.train.labels, classes=len(data.known_classes), least=config.neighbours)

    def validate(state) -> float:
        """By neighbours among a part of the training images, for speed."""
        few, looked_at = (program.outputs(state, part) for part in (data.train.images[rows], data.validation.images))
        space = method.scored
        predicted = osrjax.methods.predicted_classes(
            method, {space: looked_at[space]}, {space: few[space]}, data.train.labels[rows]
        )
        return osrjax.metrics.closed_set_accuracy(predicted, data.validation.labels)

    sizes = {"steps": steps, "eval_batch_size": config.eval_batch_size}
    probe = osrjax.run.kept_probe(run, method, data, job.sets, program.untrained, **sizes)
    trained = osrjax.run.train_single(
        *(run, program, config), script="contrastive.py", steps=steps, validate=validate, probe=probe
    )
    if trained.exit_code:
        return trained.exit_code

    # -------------------------------------------------------------------------------- assess
    states = ({"untrained": program.untrained()} if config.untrained else {}) | {"trained": trained.state}
    found, scored = {}, {}
    for name, state in states.items():  # the trained one last: its features are stored
        outputs, labels = osrjax.run.outputs_of_parts(program, state, method, data)
        if run.writes:
            resamples = config.resamples if name == "trained" else 0
            options: dict[str, Any] = {"reject_share": config.reject_share, "resamples": resamples}
            scored, found[name] = osrjax.methods.assess(method, outputs, labels, **options)
            if config.linear_probe:
                found[name] |= probe_of(outputs, labels, found[name]["scores"], options)
    if not run.writes:
        osrjax.devices.processes.gather_text("")  # process 0 is still writing: who leaves is missed
        return 0

    # --------------------------------------------------------------------------------- write
    osrjax.run.write_outputs(run, outputs, labels, trained.state)
    if job.sets is not None:
        run.write_arrays("probe.npz", osrjax.analysis.join_probes(run.directory / "probes"))
    with osrjax.files.writing(run.directory / "figures"):
        osrjax.report.draw_scores(run.directory / "figures", scored, labels["known"], own=method.score)
    masses = attribution_of(run)
    table = results_text(found, job, config, masses)
    summary = {
        **found,
        "score": method.score,
        "linear_probe": found["trained"].get("linear_probe"),
        "attribution": masses,
        "steps": steps,
        "best_validation_step": trained.best_step,
        "table": table,
    }
    run.write_json("results.json", summary)
    print(table)
    osrjax.report.leave_page(run.directory, scored=scored, data=data)
    osrjax.devices.processes.gather_text("")
    return 0


def some_rows(labels: np.ndarray, *, classes: int, least: int) -> np.ndarray:
    """Evenly some 2000 rows, or all where a class would have too few."""
    rows = np.arange(len(labels))[:: max(1, len(labels) // 2000)]
    few = np.bincount(labels[rows], minlength=classes).min() < least
    return np.arange(len(labels)) if few else rows


def probe_of(outputs: dict, labels: dict, scores: dict, options: dict) -> dict[str, Any]:
    """A linear classifier of the embedding: its accuracy, and its negative largest logit among the scores."""
    from osrjax.evaluation import linear_probe, top_accuracy

    parts = ("validation", "known", "unknown")
    rows = np.concatenate([outputs[part]["embedding"] for part in parts])
    probe = linear_probe(outputs["train"]["embedding"], labels["train"], rows)
    ends = np.cumsum([len(labels[part]) for part in parts])[:-1]
    values = [np.split(found, ends) for found in (-probe.logits.max(axis=1), probe.predictions)]
    scored = osrjax.evaluation.ScoredImages(*values[0], *values[1])
    new = osrjax.evaluation.assess_scores({"probe_max_logit": scored}, labels["known"], **options)
    classes = probe.logits.shape[1]
    return {
        "scores": scores | new,
        "linear_probe": {
            "accuracy": osrjax.metrics.closed_set_accuracy(scored.known_predictions, labels["known"]),
            "top5_accuracy": top_accuracy(np.split(probe.logits, ends)[1], labels["known"], top=min(5, classes)),
            "penalty": probe.penalty,
            "converged": probe.converged,
        },
    }


def attribution_of(run: "osrjax.run.Run") -> dict[str, float] | None:
    """Mean attribution mass in the boxes and in random boxes over the second half of the logged steps, if logged."""
    lines = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
    late = [line for line in lines[len(lines) // 2 :] if line.get("train/mass_in_box") is not None]
    if not late:
        return None
    return {name: float(np.mean([line[f"train/{name}"] for line in late])) for name in MASSES}


def results_text(found: dict, job: Job, config: Config, masses: dict | None) -> str:
    """The final table: one row per score, then the figures of the network itself."""
    trained, untrained, score = found["trained"], found.get("untrained"), job.method.score
    own = trained["scores"][score]
    what = "validation images, held-out classes as unknown" if config.held_out else "test images"
    accuracy = osrjax.report.interval_text(own["closed_set_accuracy"])
    accuracy += f", on validation {trained['validation_accuracy']:.3f}"
    if untrained:
        accuracy += f", untrained {untrained['scores'][score]['closed_set_accuracy']['value']:.3f}"
    lines = [
        osrjax.report.open_set_table(trained["scores"], untrained and untrained["scores"], score=score),
        f"* the run's own score; unknown = positive; [95 % bootstrap interval over {what}]; _embedding: on h, not z",
        f"closed-set accuracy by {config.neighbours} nearest neighbours in z: {accuracy}",
        osrjax.report.operating_point_text(own, score=score),
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
    lines.append(osrjax.report.data_text(job.data))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
