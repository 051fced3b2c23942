"""What is the Jacobian norm of an image made of? Directions, singular values, normalisation, for finished runs.

    python experiments/jacobian_parts.py runs/NAME                 100 known and 100 unknown test images
    python experiments/jacobian_parts.py runs/NAME runs/OTHER      a table with intervals over class splits

The images are those that a probe with as many images looks at. Of the exact Jacobian of the unit embedding: its norm,
its part in the direction of the nearest class mean (of the unit embeddings of validation images) and the rest, and
its singular values; and length and norm of the embedding before normalisation. Writes RUN/parts/parts.npz, one row an
image, which the same command reads again. Cost: one exact Jacobian an image, held in memory, and its singular values:
6 s of two cores a run for 28 x 28 pixels and 128 features. Exit codes: 0 done, 2 bad input.
"""

import dataclasses
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import numpy as np

import osrjax
from osrjax.fields import Execution, check_above_zero
from osrjax.run.launch import ImagesOfRunsConfig, launch

if TYPE_CHECKING:
    from osrjax.run import FinishedRun

PARTS = {
    "norm": lambda p: p["norm"],
    "norm towards the nearest mean": lambda p: p["towards"],
    "norm of all other directions": lambda p: p["across"],
    "largest singular value": lambda p: p["singular_values"][:, 0],
    "effective rank": lambda p: (p["singular_values"] ** 2).sum(axis=1) ** 2 / (p["singular_values"] ** 4).sum(axis=1),
    "norm before normalisation": lambda p: p["raw_norm"],
    "its radial part, which is removed": lambda p: p["radial"],
    "length before normalisation": lambda p: p["raw_length"],
}


@dataclasses.dataclass(frozen=True)
class Config(ImagesOfRunsConfig):
    """Take norms apart."""

    batch_size: Annotated[int, Execution] = 10
    """Images a call; each holds its whole Jacobian."""

    def check(self) -> None:
        """Refuses what needs no file to be refused."""
        check_above_zero(self, ["batch_size"])


def main(arguments: list[str] | None = None) -> int:
    """Parses, checks, measures, tabulates; returns the exit code."""
    return launch(Config, measure, script="jacobian_parts.py", description=__doc__, arguments=arguments)


def measure(config: Config) -> int:
    """The whole job; returns the exit code."""
    runs = config.open_runs()
    osrjax.devices.cpu.reuse_host_memory()
    rows = []
    for method, splits in runs.items():
        found = [[mean_parts(run, config) for run in seeds] for seeds in splits]
        for name in PARTS:
            numbers = osrjax.analysis.series(found, name)
            logs = {"log of unknown over known": np.log(numbers[..., 1] / numbers[..., 0])}
            columns = {"known": numbers[..., 0], "unknown": numbers[..., 1]} | logs
            texts = {title: osrjax.report.estimate_text(osrjax.metrics.t_interval(v)) for title, v in columns.items()}
            rows.append({"method": method, "part, mean over images": name, **texts, "n": len(splits)})
    print(osrjax.report.results_table(rows))
    print(f"{config.images} known and as many unknown test images a run; [95 % t interval over class splits]")
    return 0


def mean_parts(run: "FinishedRun", config: Config) -> dict[str, np.ndarray]:
    """Means over known and over unknown images of the parts of their norms, which are kept beside the run."""
    if "raw_embedding" not in run.method.functions:
        raise ValueError(f"runs={str(run.directory)!r} has no raw_embedding: give runs of train.py or contrastive.py")
    probed = osrjax.analysis.probed_examples(run.data, probe_images=config.images, seed=run.split.index)
    fields = osrjax.jacobian.JacobianParts._fields
    arrays = osrjax.run.kept_arrays(
        config,
        run.directory,
        "parts",
        partial(measured_parts, run, probed, batch_size=config.batch_size),
        names=[f"{kind}_{name}" for kind in probed for name in fields],
    )
    found = [{name: arrays[f"{kind}_{name}"] for name in fields} for kind in ("known", "unknown")]
    return {name: np.array([np.mean(take(parts)) for parts in found]) for name, take in PARTS.items()}


def measured_parts(run: "FinishedRun", probed: dict, *, batch_size: int) -> dict[str, np.ndarray]:
    """The parts of the norms of a run's images, and their labels, by ``known_`` or ``unknown_`` and name."""
    validation = run.data.validation
    embedding = run.outputs(validation.images)["embedding"]
    means = osrjax.analysis.class_means(embedding, validation.labels, classes=len(run.data.known_classes))
    arrays = {}
    for kind, examples in probed.items():
        found = osrjax.analysis.image_jacobian_parts(
            run.method.functions["raw_embedding"],
            run.variables,
            osrjax.augment.to_float_host(examples.images),
            means,
            batch_size=batch_size,
        )
        arrays |= {f"{kind}_{name}": values for name, values in found.items()} | {f"{kind}_labels": examples.labels}
    return arrays


if __name__ == "__main__":
    sys.exit(main())
