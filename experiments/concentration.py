"""How diffuse are the maps that place GradMix's box, and which choice makes them sharper? Finished contrastive runs.

    python experiments/concentration.py runs/NAME                          one row for each stage, sign and temperature
    python experiments/concentration.py runs/NAME runs/OTHER               with intervals over class splits
    python experiments/concentration.py runs/* --temperatures 0.05 0.5     of the loss that is attributed

Maps are those of NT-Xent on two augmented views of one batch of validation images of known classes, under the final
network; "sum" is what GradMix uses. "area": share of the image that a map spreads over (the exponential of its entropy;
1 is uniform). "in box": share of the map in the box around its peak, lambda = KEPT; "over random": that over the
mean of boxes anywhere. Runs are told apart by how they mixed. Cost: seconds a run and temperature. Exit codes: 0 done,
2 bad input.
"""

import dataclasses
import sys
from typing import TYPE_CHECKING

import numpy as np

import osrjax
from osrjax.fields import check_seed
from osrjax.run.launch import RunsConfig, launch

if TYPE_CHECKING:
    from osrjax.methods import ContrastOptions
    from osrjax.run import FinishedRun


@dataclasses.dataclass(frozen=True)
class Config(RunsConfig):
    """Measure how concentrated attribution maps are."""

    temperatures: tuple[float, ...] = (0.05, 0.2, 1.0)
    """Temperatures of the attributed NT-Xent."""
    kept: float = 0.7
    """lambda, the share of an image that a box leaves."""
    seed: int = 0
    """Seed of the choice of images and of their views."""

    def check(self) -> None:
        """Refuses numbers out of range."""
        check_seed(self)
        for value in self.temperatures:
            if not 0 < value < np.inf:
                raise ValueError(f"temperatures={value} must be above 0 and finite")
        if not self.temperatures:
            raise ValueError("temperatures is empty: give one or more")
        if not 0 < self.kept < 1:
            raise ValueError(f"kept={self.kept} is not in (0, 1): give the share of an image that a box leaves")


def main(arguments: list[str] | None = None) -> int:
    """Parses, checks, measures, tabulates; returns the exit code."""
    return launch(Config, measure, script="concentration.py", description=__doc__, arguments=arguments)


def measure(config: Config) -> int:
    """The whole job; returns the exit code."""
    runs = config.open_runs(arm=mixing_of)
    osrjax.devices.cpu.reuse_host_memory()
    rows = []
    for arm, splits in runs.items():
        trained = [options_of(run) for seeds in splits for run in seeds]
        if len({(options.network, options.cam_layers) for options in trained}) > 1:
            raise ValueError(f"runs of {arm} differ in network or cam_layers: give those of one at a time")
        found = [[concentrations(run, config) for run in seeds] for seeds in splits]
        for name in found[0][0]:
            values = osrjax.analysis.series(found, name)  # splits, seeds, and the three measures
            area, inside, ratio = (osrjax.metrics.t_interval(values[..., measure]) for measure in range(3))
            rows.append(
                {"trained with": arm}
                | dict(zip(("temperature", "sign", "stage"), name.split(), strict=True))
                | {"area": osrjax.report.estimate_text(area, bounds=osrjax.metrics.SHARE)}
                | {"in box": osrjax.report.estimate_text(inside, bounds=osrjax.metrics.SHARE)}
                | {"over random": osrjax.report.estimate_text(ratio, bounds=(0.0, np.inf)), "n": area.n}
            )
    print(osrjax.report.results_table(rows))
    print("means over the validation images of a batch a run; [95 % t interval over class splits]")
    return 0


def options_of(run: "FinishedRun") -> "ContrastOptions":
    """What a run was trained with; a ValueError for one of another script."""
    if not isinstance(run.method.options, osrjax.methods.ContrastOptions):
        raise ValueError(f"runs={str(run.directory)!r} is no run of contrastive.py: only these attribute NT-Xent")
    return run.method.options


def mixing_of(run: "FinishedRun") -> str:
    """What an arm is called."""
    options = options_of(run)
    return f"gradmix {options.cam_sign:+d}" if options.mixing == "gradmix" else options.mixing


def concentrations(run: "FinishedRun", config: Config) -> dict[str, np.ndarray]:
    """Mean area, mass in the box, and that over the mass in random ones, by "temperature sign stage"."""
    import jax
    import jax.numpy as jnp

    shape, images = tuple(run.provenance["image_shape"]), run.data.validation.images
    stages = len(osrjax.models.zero_taps(run.network, shape, 1))
    trained = options_of(run)
    layers = trained.cam_layers or osrjax.attribution.last_layers(stages)
    drawn = np.random.default_rng(config.seed).permutation(len(images))[: run.number("batch_size")]
    keys = jax.random.split(jax.random.key(config.seed))
    view = jax.jit(run.method.attributed.view, compiler_options=osrjax.devices.cpu.compiler_options())
    views = [view(key, jnp.asarray(images[drawn])) for key in keys]
    labels = jnp.asarray(run.data.validation.labels[drawn])
    found = {}
    for temperature in config.temperatures:
        options = dataclasses.replace(trained, mixing="gradmix", cam_temperature=temperature)
        maps_of = osrjax.analysis.make_attributed_images(
            osrjax.methods.contrast(options, run.method.task),
            shape,
            layers=layers,
            aggregation=trained.cam_aggregation,
            in_training=trained.cam_statistics == "train",
            kept=config.kept,
        )
        for sign, maps in jax.device_get(maps_of(run.variables, *views, labels)).items():
            named = dict(zip(map(str, layers), maps.stages, strict=True)) | {"sum": maps.maps}
            for name, values in named.items():
                found[f"{temperature} {sign:+d} {name}"] = concentration(values, config.kept)
    return found


def concentration(maps: np.ndarray, kept: float) -> np.ndarray:
    """Means over maps: the area, the mass in the box around the peak, and that over the mass in random boxes."""
    import jax.numpy as jnp

    peaks, shares = osrjax.attribution.map_peaks(jnp.asarray(maps)), jnp.full(len(maps), kept)
    boxes = osrjax.attribution.box_bounds(peaks, shares, height=maps.shape[1], width=maps.shape[2])
    inside = osrjax.report.mass_in_boxes(maps, np.asarray(boxes))
    anywhere = osrjax.report.mass_in_random_boxes(maps, kept=kept)
    return np.array([np.nanmean(v) for v in (osrjax.report.effective_areas(maps), inside, inside / anywhere)])


if __name__ == "__main__":
    sys.exit(main())
