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
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

import osrjax
from osrjax.fields import check_above_zero
from osrjax.files import read_arrays, write_arrays, write_json
from osrjax.run.launch import MovedConfig, launch

if TYPE_CHECKING:
    from osrjax.analysis import ProbeSets
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
class Config(MovedConfig):
    """Take norms apart."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Finished run directories of experiments/train.py or experiments/contrastive.py."""
    images: int = 100
    """Known test images, and as many unknown ones; of each class as many as of any other."""
    batch_size: int = 10
    """Images a call; each holds its whole Jacobian."""

    def check(self) -> None:
        """Refuses what needs no file to be refused."""
        check_above_zero(self, ["images", "batch_size"])
        if not self.runs:
            raise ValueError("runs is empty: give finished run directories")


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is asked of one run."""

    run: Path
    images: int
    out: Path | None = None


def main(arguments: list[str] | None = None) -> int:
    """Parses, checks, measures, tabulates; returns the exit code."""
    return launch(Config, measure, script="jacobian_parts.py", description=__doc__, arguments=arguments)


def measure(config: Config) -> int:
    """The whole job; returns the exit code."""
    runs = [config.open_run(place, argument="runs") for place in config.runs]
    osrjax.devices.cpu.reuse_host_memory()
    means: dict[str, dict[int, list[dict[str, list[float]]]]] = {}
    for run in runs:
        found = parts_of(run, config)
        values = {name: [float(np.mean(take(part))) for part in found.values()] for name, take in PARTS.items()}
        means.setdefault(run.method.options.method, {}).setdefault(run.split.index, []).append(values)

    # ----------------------------------------------------------------------------------- table
    rows = []
    for method, splits in means.items():
        for name in PARTS:
            numbers = np.full((len(splits), max(map(len, splits.values())), 2), np.nan)
            for row, seeds in zip(numbers, splits.values(), strict=True):
                row[: len(seeds)] = [values[name] for values in seeds]
            logs = {"log of unknown over known": np.log(numbers[..., 1] / numbers[..., 0])}
            columns = {"known": numbers[..., 0], "unknown": numbers[..., 1]} | logs
            texts = {title: osrjax.report.estimate_text(osrjax.metrics.t_interval(v)) for title, v in columns.items()}
            rows.append({"method": method, "part, mean over images": name, **texts, "n": len(splits)})
    print(osrjax.report.results_table(rows))
    print(f"{config.images} known and as many unknown test images a run; [95 % t interval over class splits]")
    return 0


def parts_of(run: "FinishedRun", config: Config) -> dict[str, dict[str, np.ndarray]]:
    """Parts of the norms of known and of unknown images of a run, kept beside it."""
    if "raw_embedding" not in run.method.functions:
        raise ValueError(f"runs={str(run.directory)!r} has no raw_embedding: give runs of train.py or contrastive.py")
    asked = Asked(run.directory, config.images)
    sets = osrjax.analysis.probe_sets(run.data, probe_images=config.images, probe_pairs=1, seed=run.split.index)
    out = osrjax.run.result_directory(asked, "parts", "parts.json")
    if not (out / "parts.json").exists():
        write_parts(run, sets, out, batch_size=config.batch_size)
        write_json(out / "parts.json", {"asked": osrjax.run.asked_of(asked)})
    again = f"delete {out}, and give the same command again"
    arrays = read_arrays(out / "parts.npz", again)
    names = {
        kind: [f"{kind}_{name}" for name in osrjax.jacobian.JacobianParts._fields] for kind in ("known", "unknown")
    }
    if not {name for of in names.values() for name in of} <= arrays.keys():
        raise ValueError(f"{out / 'parts.npz'} lacks some parts: {again}")
    return {kind: {name.removeprefix(f"{kind}_"): arrays[name] for name in of} for kind, of in names.items()}


def write_parts(run: "FinishedRun", sets: "ProbeSets", out: Path, *, batch_size: int) -> None:
    """Measures the parts of the norms of a run's images: parts.npz."""
    means, arrays = class_means(run), {}
    for kind, examples, rows in (
        ("known", run.data.test_known, sets.known),
        ("unknown", run.data.test_unknown, sets.unknown),
    ):
        found = osrjax.analysis.image_jacobian_parts(
            run.method.functions["raw_embedding"],
            run.variables,
            osrjax.augment.to_float_host(examples.images[rows]),
            means,
            batch_size=batch_size,
        )
        arrays |= {f"{kind}_{name}": values for name, values in found.items()}
        arrays[f"{kind}_labels"] = examples.labels[rows]
    write_arrays(out / "parts.npz", arrays)


def class_means(run: "FinishedRun") -> np.ndarray:
    """Of the unit embeddings of the validation images: [classes, features]."""
    labels = run.data.validation.labels
    rows = run.outputs(run.data.validation.images)["embedding"].astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return np.stack([rows[labels == k].mean(axis=0) for k in range(len(run.data.known_classes))])


if __name__ == "__main__":
    sys.exit(main())
