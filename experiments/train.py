"""How well does a model trained on the known classes tell unknown ones? The main job, in one command.

    python experiments/train.py                          m-OvR on the bundled images, first `neal` split
    python experiments/train.py --method softmax         another loss; MODULE:FUNCTION for one of your own
    python experiments/train.py --preset paper --network wrn16_4 --data npz:cifar10.npz
    python experiments/train.py --help                   every field; PRESET's values with --preset PRESET --help

Two cores, half a minute to two and a half: accuracy 0.940, AUROC 0.754 (experiments/results/default.md). Resumes where
it was stopped when the same command is given again, and writes everything to a run directory (osrjax/run/directory.py
lists its files). Model selection sees known training images only, and the LAST step is what is reported. Exit codes: 0
done, 1 stopped by a non-finite loss or norm or by a file that cannot be written or read, 2 bad input (nothing was
started), 143 or 130 stopped by SIGTERM or Ctrl-C (state saved). With several processes (--distributed, --coordinator)
all end as one; where another process is lost, with 1, or with 134 where JAX's runtime finds out first.
"""

import dataclasses
import sys
from typing import Any, NamedTuple

import numpy as np

import osrjax
from osrjax.analysis.config import ProbeConfig
from osrjax.data.choice import DataConfig
from osrjax.evaluation.config import AssessmentConfig
from osrjax.fields import check_above_zero
from osrjax.methods.options import ClassifyOptions
from osrjax.run.launch import SingleRunConfig, launch_run


@dataclasses.dataclass(frozen=True)
class Config(AssessmentConfig, ProbeConfig, SingleRunConfig, ClassifyOptions, DataConfig):
    """Train on known classes, detect unknown ones."""

    steps: int = 800
    """Optimiser steps."""
    epochs: int | None = None
    """Passes over the training images, instead of `steps` (a `--steps` on the command line undoes a preset's)."""
    batch_size: int = 128
    """Global batch size, over all devices."""
    test_norms: bool = False
    """Input-Jacobian norms of every test image, before and after training, to norms.npz."""

    def check(self) -> None:
        """Refuses numbers out of range."""
        check_above_zero(self, ["steps", "batch_size"])
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"epochs={self.epochs!r} must be at least 1")


PRESETS = {
    "bundled": Config(),
    "cifar10-small": Config(data="cifar10", steps=700),
    "digits": Config(data="digits", batch_size=64),
    "cifar10-fast": Config(
        data="cifar10",
        network="fast_cnn",
        epochs=16,
        batch_size=128,
        learning_rate=0.2,
        final_learning_rate=0.0,
        nesterov=True,
        warmup=0.2,
        weight_decay=5e-4,
        crop_padding=2,
    ),
    # arXiv 2209.11436, sec. 5; with --network resnet18 also
    # --learning-rate 0.06 --final-learning-rate 0 --epochs 200
    "paper": Config(
        data="cifar10", network="wrn16_4", scale=32.0, steps=20_000, save_every=1000, log_every=100, rotations="all"
    ),
}
SMOKE: dict[str, Any] = {
    "data": "digits",
    "network": "small_cnn",
    "rotations": "none",
    "unknown_data": None,
    "dataset": None,
}
SMOKE |= {"steps": 20, "epochs": None, "batch_size": 32, "save_every": 10, "log_every": 5, "resamples": 50}


def main(arguments: list[str] | None = None) -> int:
    """Parses, checks, runs; returns the exit code."""
    return launch_run(
        *(Config, build, work),
        script="train.py",
        description=__doc__,
        presets=PRESETS,
        smoke=SMOKE,
        before=prepare_cpu,
        arguments=arguments,
    )


def prepare_cpu(config: Config) -> None:
    """A device a core where several are asked for; memory is kept but for small_cnn, whose small steps lose by it."""
    if config.devices not in (None, 1) and config.distributed == "none" and config.coordinator is None:
        osrjax.devices.cpu.one_device_per_core()
    if config.network != "small_cnn":
        osrjax.devices.cpu.reuse_host_memory()


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
    steps: int


def build(config: Config) -> Job:
    """Devices, class split, images, method, images to probe."""
    import jax

    if config.test_norms and jax.process_count() > 1:
        raise ValueError(
            f"test_norms=True with {jax.process_count()} processes is not built: leave it out, and run"
            " experiments/norms.py on the finished run"
        )
    mesh = osrjax.devices.sharding.data_mesh(config.devices)
    osrjax.devices.sharding.check_batch_size(config.batch_size, mesh)
    split, data = osrjax.data.choose_data(config)
    images = data.train.images
    steps = config.steps
    if config.epochs is not None:
        steps = max(1, config.epochs * len(images) // config.batch_size)
    osrjax.methods.check_method(config)
    method = osrjax.methods.make_method(config, osrjax.methods.Task(len(data.known_classes), images.shape[1:], steps))
    osrjax.methods.check_data(method, data, batch_size=config.batch_size)
    sets = None
    if config.probe_every:  # drawn from the split alone: every loss and seed is probed on the same images
        sets = osrjax.analysis.probe_sets(
            data, probe_images=config.probe_images, probe_pairs=config.probe_pairs, seed=config.split
        )
    osrjax.run.check_profile_steps(config.profile_steps, steps)
    augmented = f"crop_padding {config.crop_padding}, {'flip' if config.flip else 'no flip'}"
    header = f"{config.method} on {osrjax.data.describe_data(data, split)}; {augmented}"
    return Job(header, osrjax.data.content_of(data, split), images, mesh, data, method, sets, steps)


def work(config: Config, job: Job, run: "osrjax.run.Run") -> int:
    """The whole run; returns the exit code."""
    data, method = job.data, job.method

    # --------------------------------------------------------------------------------- train
    program = osrjax.run.make_program(
        *(method, data.train),
        seed=config.seed,
        batch_size=config.batch_size,
        mesh=job.mesh,
        streamed=config.stream,
        eval_batch_size=config.eval_batch_size,
    )
    untrained = program.untrained()

    def validate(state) -> float:
        train = program.outputs(state, data.train.images) if method.fit else None
        outputs = program.outputs(state, data.validation.images)
        predicted = osrjax.methods.predicted_classes(method, outputs, train, data.train.labels)
        return osrjax.metrics.closed_set_accuracy(predicted, data.validation.labels)

    sizes = {"steps": job.steps, "eval_batch_size": config.eval_batch_size}
    probe = osrjax.run.kept_probe(run, method, data, job.sets, lambda: untrained, **sizes)
    trained = osrjax.run.train_single(
        *(run, program, config), script="train.py", steps=job.steps, validate=validate, probe=probe
    )
    if trained.exit_code:
        return trained.exit_code

    # -------------------------------------------------------------------------------- assess
    found = {}
    for name, state in {"untrained": untrained, "trained": trained.state}.items():  # the trained one is stored
        outputs, labels = osrjax.run.outputs_of_parts(program, state, method, data)
        if run.writes:
            found[name] = osrjax.methods.assess(
                *(method, outputs, labels), reject_share=config.reject_share, resamples=config.resamples
            )
    if not run.writes:
        osrjax.devices.processes.gather_text("")  # process 0 is still writing: who leaves is missed
        return 0

    # --------------------------------------------------------------------------------- write
    osrjax.run.write_outputs(run, outputs, labels, trained.state)
    if job.sets is not None:
        run.write_arrays("probe.npz", osrjax.analysis.join_probes(run.directory / "probes"))
    if config.test_norms:
        try:
            norms = norms_of_test_images(job, {"before": untrained, "after": trained.state}, run)
        except osrjax.files.FileError:
            raise
        except ValueError as error:
            print(f"train.py: {error} (delete {run.directory / 'norms'} to begin them again)", file=sys.stderr)
            return 1
        embeddings = {f"{part}_embedding": outputs[part][method.space] for part in ("known", "unknown")}
        run.write_arrays("norms.npz", norms | embeddings)
    with osrjax.files.writing(run.directory / "figures"):
        osrjax.report.draw_scores(run.directory / "figures", found["trained"].scored, labels["known"], own=method.score)
    table = results_text(found, job, config)
    results = {name: assessment.results for name, assessment in found.items()} | {"score": method.score}
    ends = {"steps": job.steps, "best_validation_step": trained.best_step, "table": table}
    run.write_json("results.json", results | ends)
    print(table)
    osrjax.report.leave_page(run.directory, scored=found["trained"].scored, data=data)
    osrjax.devices.processes.gather_text("")
    return 0


def norms_of_test_images(job: Job, states: dict[str, Any], run: "osrjax.run.Run") -> dict:
    """Input-Jacobian norms of every test image; a killed computation goes on where it was."""
    space = job.method.space
    functions = {space: job.method.functions[space]}
    parts = {"known": job.data.test_known, "unknown": job.data.test_unknown}
    images = osrjax.augment.to_float_host(np.concatenate([part.images for part in parts.values()]))  # there may be many
    found = {f"{name}_labels": part.labels for name, part in parts.items()}
    for moment, state in states.items():
        directory = run.directory / "norms" / moment
        norms = osrjax.analysis.dataset_jacobian_norms(
            functions, state.variables, images, mesh=job.mesh, directory=directory, progress=True
        )
        split = np.split(norms[space], [len(job.data.test_known.labels)])
        found |= {f"{name}_{moment}": values for name, values in zip(parts, split, strict=True)}
    return found


def results_text(found: dict[str, "osrjax.evaluation.Assessment"], job: Job, config: Config) -> str:
    """The final table: one row per score, then the own score of the untrained network."""
    trained, untrained = found["trained"].results, found["untrained"].results
    what = "validation images, held-out classes as unknown" if config.held_out else "test images"
    own = trained["scores"][job.method.score]
    lines = [
        osrjax.report.open_set_table(trained["scores"], untrained["scores"], score=job.method.score),
        f"* the score that belongs to this loss; unknown = positive; [95 % bootstrap interval over {what}]",
        f"closed-set accuracy {osrjax.report.interval_text(own['closed_set_accuracy'])}, "
        f"on validation {trained['validation_accuracy']:.3f}; "
        f"Davies-Bouldin {osrjax.report.number_text(trained['davies_bouldin'])}",
        osrjax.report.operating_point_text(own, score=job.method.score),
        osrjax.report.data_text(job.data),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
