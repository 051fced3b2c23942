"""What does a Jacobian norm cost as a detector, and what does it gain? Exact, estimated, times distance; finished runs.

    python experiments/norm_detectors.py runs/NAME                 100 known and 100 unknown test images
    python experiments/norm_detectors.py runs/NAME runs/OTHER      a table with intervals over class splits

The images are those that a probe with as many images looks at; norms are those of the unit vector that the loss
compares, and distances that vector's to the nearest class mean of validation images. The AUROC of an estimate is the
mean over 10 independent draws of its projections, "of a draw" their standard deviation. Costs are of one image: forward
passes with as many operations, and the shortest time of a call in this process, without compilation; a product is two
programs. Writes RUN/norm_detectors/norm_detectors.npz, which the same command reads again. Cost: one exact norm an
image and 14 forward passes a draw, 17 s of two cores a run for 28 x 28 pixels and 128 features. Exit codes: 0 done, 2
bad input.
"""

import dataclasses
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import numpy as np

import osrjax
from osrjax.fields import Execution, check_above_zero, check_seed
from osrjax.run.launch import ImagesOfRunsConfig, launch

if TYPE_CHECKING:
    from osrjax.run import FinishedRun


@dataclasses.dataclass(frozen=True)
class Config(ImagesOfRunsConfig):
    """Compare Jacobian norms as detectors."""

    draws: int = 10
    """Independent draws of the projections, whose AUROC is averaged."""
    seed: int = 0
    """Seed of the projections."""
    batch_size: Annotated[int, Execution] = 20
    """Images a call."""

    def check(self) -> None:
        """Refuses what needs no file to be refused."""
        check_above_zero(self, ["draws", "batch_size"])
        check_seed(self)


def main(arguments: list[str] | None = None) -> int:
    """Parses, checks, measures, tabulates; returns the exit code."""
    return launch(Config, measure, script="norm_detectors.py", description=__doc__, arguments=arguments)


def measure(config: Config) -> int:
    """The whole job; returns the exit code."""
    runs = config.open_runs()
    osrjax.devices.cpu.reuse_host_memory()
    rows = []
    for method, splits in runs.items():
        found = [[detectors(run, config) for run in seeds] for seeds in splits]
        values = {name: osrjax.analysis.series(found, name) for name in osrjax.analysis.NORM_DETECTORS}
        own = values["own score"][..., 0]
        for name, numbers in values.items():  # splits, seeds, and: AUROC, its deviation, passes, seconds
            auroc, difference = (osrjax.metrics.t_interval(v) for v in (numbers[..., 0], numbers[..., 0] - own))
            texts = {
                "AUROC": osrjax.report.estimate_text(auroc, bounds=osrjax.metrics.SHARE),
                "of a draw": float(np.nanmean(numbers[..., 1])) if "projection" in name else None,
                "less own score": osrjax.report.estimate_text(difference, bounds=osrjax.metrics.SIGNED),
            }
            if name == "own score":
                texts["less own score"] = None
            passes, seconds = round(np.nanmean(numbers[..., 2])), np.nanmin(numbers[..., 3])
            costs = {"passes": passes, "ms": 1000 * seconds}
            rows.append({"method": method, "detector": name, **texts, **costs, "n": auroc.n})
    print(osrjax.report.results_table(rows))
    print(f"{config.images} known and as many unknown test images a run; [95 % t interval over class splits]")
    return 0


def detectors(run: "FinishedRun", config: Config) -> dict[str, np.ndarray]:
    """AUROC, its standard deviation over draws, forward passes and seconds of every detector of a run."""
    probed = osrjax.analysis.probed_examples(run.data, probe_images=config.images, seed=run.split.index)
    programs = osrjax.analysis.NORM_PROGRAMS
    factors = {name for names in osrjax.analysis.NORM_DETECTORS.values() for name in names}
    arrays = osrjax.run.kept_arrays(
        config,
        run.directory,
        "norm_detectors",
        partial(measured, run, probed, config),
        names=[f"{kind}_{name}" for kind in probed for name in factors] + [f"cost_{name}" for name in programs],
    )
    parts = [{name: arrays[f"{kind}_{name}"] for name in factors} for kind in ("known", "unknown")]
    costs = {name: osrjax.analysis.DetectorCost(*arrays[f"cost_{name}"].tolist()) for name in programs}
    aurocs = osrjax.analysis.norm_detector_aurocs(*parts)
    return {
        name: np.array([v.mean(), v.std(ddof=1) if v.size > 1 else 0, *osrjax.analysis.detector_cost(name, costs)])
        for name, v in aurocs.items()
    }


def measured(run: "FinishedRun", probed: dict, config: Config) -> dict[str, np.ndarray]:
    """The factors of the detectors' scores by ``known_`` or ``unknown_`` and name, and the costs of programs."""
    from scipy.spatial.distance import cdist

    method, data = run.method, run.data
    parts = osrjax.run.parts_of(data) | probed
    outputs = {part: run.outputs(parts[part].images) for part in method.parts}
    own = osrjax.methods.score_images(method, outputs, data.train.labels)[method.score]
    of_validation = outputs["validation"][method.space]
    means = osrjax.analysis.class_means(of_validation, data.validation.labels, classes=len(data.known_classes))
    images = np.concatenate([osrjax.augment.to_float_host(examples.images) for examples in probed.values()])
    options = {"draws": config.draws, "seed": config.seed, "batch_size": config.batch_size}
    norms, costs = osrjax.analysis.image_norms(method.functions[method.space], run.variables, images, **options)
    arrays = {f"cost_{name}": np.array(cost) for name, cost in costs.items()}
    for place, kind in enumerate(probed):
        arrays |= {f"{kind}_{name}": np.split(values, 2, axis=-1)[place] for name, values in norms.items()}
        arrays[f"{kind}_own"] = getattr(own, kind)
        arrays[f"{kind}_distance"] = cdist(outputs[kind][method.space], means).min(axis=1)
    return arrays


if __name__ == "__main__":
    sys.exit(main())
