"""Where does a network look, what would GradMix mask, and does that move during training? Contact sheets of a run.

    python experiments/attribution.py runs/NAME
    python experiments/attribution.py runs/NAME --unknown --images 18 --sign 1 --layers 3
    python experiments/attribution.py runs/NAME --method input_gradient

For a run of contrastive.py the maps are those of NT-Xent on two augmented views, as in training; for one of train.py
those of its class loss on plain images (of unknown classes: at the predicted class). The batch is as large as in
training, classes in turn; the sheets show its first images, the numbers are means over all of it. The first sheet has
the maps of every stage under the final network; the second one those of the same images and views under the untrained
network, the checkpoints that the run kept and the final one. Written to OUT: PNG and SVG of both, attribution.json.
Exit codes: 0 done, 2 bad input.
"""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

import osrjax
from osrjax.fields import check_seed
from osrjax.files import FileError, read_json, write_json
from osrjax.run.launch import FinishedConfig, launch

if TYPE_CHECKING:
    from jax import Array

    from osrjax.analysis import AttributedImages
    from osrjax.report import SheetColumn
    from osrjax.run import FinishedRun

SIGNS = {1: "sign +1: what would raise the loss", -1: "sign \N{MINUS SIGN}1: what lowers the loss", 0: ""}


@dataclasses.dataclass(frozen=True)
class Config(FinishedConfig):
    """Draw the attribution maps of a run."""

    images: int = 12
    """Images on the sheets."""
    unknown: bool = False
    """The same for test images of unknown classes, which make a batch of their own."""
    method: Literal["layer_cam", "grad_cam", "input_gradient"] | None = None
    """How maps are made; default: as the run's GradMix does, layer_cam for train.py."""
    layers: tuple[int, ...] = ()
    """Stages, 1 = the first; default: the run's own, else the last three."""
    sign: tuple[Literal[1, -1], ...] = (1, -1)
    """+1: what would raise the loss, -1: what lowers it. Input gradients have no sign."""
    kept: float | None = None
    """lambda, the share of an image that a box leaves; default: the middle of the run's range, 0.7 for train.py."""
    batch_size: int | None = None
    """Images that share batch norm and loss, no fewer than those on the sheets; default: the run's, as far as there
    are test images."""
    seed: int = 0
    """Seed of the choice of images, of their views and of the noise in boxes."""
    out: Path | None = None
    """Directory of the sheets; default: RUN/attribution-METHOD, with a number where that answers another question."""

    def check(self) -> None:
        """Refuses numbers out of range."""
        check_seed(self)
        for name, least in (("images", 2), ("batch_size", 2)):
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"{name}={value} is below {least}: give {least} or more")


class Chosen(NamedTuple):
    """A batch of test images as the network sees them; those on the sheets come first, sorted by class."""

    first: "Array"
    """View 1, or the plain images."""
    second: "Array"
    """View 2, or the plain images again."""
    labels: "Array"
    """Class positions; -1 for unknown classes."""
    names: list[str]
    """Classes of the images on the sheets."""


def main(arguments: list[str] | None = None) -> int:
    """Parses, checks, computes, draws; returns the exit code."""
    return launch(Config, draw, script="attribution.py", description=__doc__, arguments=arguments)


def draw(config: Config) -> int:
    """The whole job; returns the exit code."""
    from jax import device_get

    osrjax.devices.cpu.reuse_host_memory()
    finished = config.open("results.json")
    trained, attributed = finished.config, finished.method.attributed
    kept = config.kept
    if kept is None:
        kept = (trained.get("smallest_kept", 0.5) + trained.get("largest_kept", 0.9)) / 2
        kept = kept if kept < 1 else 0.7
    if not 0 < kept < 1:
        raise ValueError(f"kept={kept} is not in (0, 1): give the share of an image that a box leaves, such as 0.7")
    shape = tuple(finished.provenance["image_shape"])
    stages = len(osrjax.models.zero_taps(finished.network, shape, 1))
    layers = config.layers or tuple(trained.get("cam_layers", ())) or osrjax.attribution.last_layers(stages)
    osrjax.attribution.check_layers(layers, stages)
    method = config.method or trained.get("cam_method", "layer_cam")
    signs = tuple(dict.fromkeys(config.sign)) or (1, -1)
    if method == "input_gradient":
        layers, signs = (), (0,)
    kinds = ("known", "unknown") if config.unknown else ("known",)
    batches = {kind: choose_images(finished, kind, config) for kind in kinds}
    out = osrjax.run.result_directory(config, f"attribution-{method}", "attribution.json")
    networks = networks_of(finished)
    maps_of = osrjax.analysis.make_attributed_images(
        finished.method,
        shape,
        how=method,
        layers=layers,
        signs=signs,
        kept=kept,
        aggregation=trained.get("cam_aggregation", "batch_minmax_sum"),
        in_training=trained.get("cam_statistics", "train") == "train",
        fill=trained.get("fill", "noise"),
        seed=config.seed,
    )
    rows, means, figures = [], {}, []
    for kind, chosen in batches.items():
        found = {step: device_get(maps_of(variables, *chosen[:3])) for step, variables in networks.items()}
        by_sign = {sign: {step: maps[sign] for step, maps in found.items()} for sign in signs}
        means[kind] = {str(sign): measure(list(by_sign[sign].values()), kept) for sign in signs}
        for sign in signs:
            for index, step in enumerate(networks):
                values = {name: of_steps[index] for name, of_steps in means[kind][str(sign)].items()}
                rows.append({"images": kind, "sign": sign, "step": step} | values)
        titles = {"stages": f"after step {max(networks)}", "steps": "during training"}
        both = columns_of(chosen, by_sign, layers, "view 1" if attributed.views > 1 else "image")
        for columns, (name, when) in zip(both, titles.items(), strict=True):
            sheet = osrjax.report.contact_sheet(
                columns,
                row_names=chosen.names,
                title=f"{method} of {attributed.name}, {kind} test images, {when}\n{config.run.resolve().name}",
                box_name=f"GradMix's box around it, {1 - kept:.0%} of the image before it is cut at the border",
            )
            figures += osrjax.report.save_figure(sheet, out / f"{name}-{kind}")
    options = {"method": method, "layers": layers, "kept": kept, "seed": config.seed, "steps": list(networks)}
    counts = {kind: len(chosen.labels) for kind, chosen in batches.items()}
    print(osrjax.report.results_table(rows))
    found = {**options, "images": counts, "means": means, "asked": osrjax.run.asked_of(config)}
    write_json(out / "attribution.json", found)
    print("means over " + " and ".join(f"{n} {kind} images" for kind, n in counts.items()) + "; distances in pixels;")
    print("in random box: over all its places; to other images: from a peak to those of other images a step before")
    print(f"{out}: attribution.json, {', '.join(path.name for path in figures)}")
    return 0


def choose_images(finished: "FinishedRun", kind: str, config: Config) -> Chosen:
    """Test images of a kind, one of each class after another, as training would show them to the network."""
    import jax
    import jax.numpy as jnp

    data = finished.data
    part = data.test_known if kind == "known" else data.test_unknown
    if config.images > len(part.labels):
        raise ValueError(f"images={config.images} exceeds the {len(part.labels)} {kind} test images: give fewer")
    order = np.random.default_rng(config.seed).permutation(len(part.labels))
    turns = np.zeros(len(order), int)  # how many images of its class come before each
    for label in np.unique(part.labels):
        here = part.labels[order] == label
        turns[here] = np.arange(here.sum())
    size = max(config.images, config.batch_size or finished.number("batch_size"))
    rows = order[np.lexsort((part.labels[order], turns))][:size]
    shown = rows[: config.images]
    rows[: config.images] = shown[np.argsort(part.labels[shown], kind="stable")]
    images, labels = jnp.asarray(part.images[rows]), part.labels[rows]
    names = (
        [data.known_names[label] for label in labels[: config.images]]
        if kind == "known"
        else [data.unknown_names[data.unknown_classes.index(label)] for label in labels[: config.images]]
    )
    labels = jnp.asarray(labels if kind == "known" else np.full_like(labels, -1))
    attributed = finished.method.attributed
    keys = jax.random.split(jax.random.key(config.seed))
    view = jax.jit(attributed.view, compiler_options=osrjax.devices.cpu.compiler_options())
    first, *others = (view(key, images) for key in keys[: attributed.views])
    return Chosen(first, others[0] if others else first, labels, names)


def networks_of(finished: "FinishedRun") -> dict[int, Any]:
    """Variables by step: untrained, from the run's seed; of the checkpoints that it kept; final."""
    import jax

    method, shape = finished.method, tuple(finished.provenance["image_shape"])
    init_key, _ = jax.random.split(jax.random.key(finished.number("seed")))  # as both scripts do
    new_state = jax.jit(
        lambda key: osrjax.train.init_state(
            key, finished.network, method.optimizer, method.hyper, image_shape=shape
        ),  # no step is taken
        compiler_options=osrjax.devices.cpu.compiler_options(),
    )
    state = new_state(init_key)
    states = {0: state}
    results = finished.directory / "results.json"
    last = read_json(results, "restore it, or train again").get("steps")
    if type(last) is not int:
        raise ValueError(f"{results} has steps={last!r}, no number: restore it, or train again")
    if (finished.directory / "checkpoints").is_dir():
        try:
            with osrjax.run.Checkpoints(finished.directory / "checkpoints") as stored:
                for step in (step for step in stored.steps() if step < last):
                    try:
                        states[step] = stored.restore(step, state)
                    except Exception as error:  # whatever a damaged file makes the reader raise
                        print(f"attribution.py: no checkpoint of step {step}: {type(error).__name__}", file=sys.stderr)
        except FileError as error:  # a disk that is read-only, say
            print(f"attribution.py: no checkpoints: {error}", file=sys.stderr)
    networks = {step: state.variables for step, state in states.items()}
    return networks | {last: finished.variables}


def measure(at_steps: "list[AttributedImages]", kept: float) -> dict[str, list[float | None]]:
    """Means over the images at each step: where the maps' mass and their peaks are, how far the peaks have moved."""
    report = osrjax.report
    means = {name: [] for name in ("mass in box", "in random box", "peak to centre", "peak moved", "to other images")}
    centre = (np.array([at_steps[0].maps.shape[1:]]) - 1) / 2
    for before, found in zip([None, *at_steps[:-1]], at_steps, strict=True):
        moved = others = np.full(1, np.nan)
        if before is not None:
            shifted = [np.roll(before.peaks, shift, axis=0) for shift in range(len(found.peaks))]
            moved, *others = (report.peak_distances(found.peaks, peaks) for peaks in shifted)
        masses = (
            report.mass_in_boxes(found.maps, found.boxes),
            report.mass_in_random_boxes(found.maps, kept=kept),
        )
        for name, values in zip(
            means, (*masses, report.peak_distances(found.peaks, centre), moved, others), strict=True
        ):
            finite = np.asarray(values)[np.isfinite(values)]  # a map of zeros has no mass
            means[name].append(float(finite.mean()) if finite.size else None)
    return means


def columns_of(
    chosen: Chosen, by_sign: "dict[int, dict[int, AttributedImages]]", layers: tuple[int, ...], first: str
) -> "tuple[list[SheetColumn], list[SheetColumn]]":
    """Of the sheet of stages (after the last step) and of the sheet of steps."""
    shown = slice(len(chosen.names))
    pictures = np.asarray(chosen.first[shown])
    stages, steps = [osrjax.report.SheetColumn(first, pictures)], [osrjax.report.SheetColumn(first, pictures)]

    def marked(title: str, found: "AttributedImages", sign: int) -> "SheetColumn":
        return osrjax.report.SheetColumn(
            title, pictures, found.maps[shown], found.boxes[shown], found.peaks[shown], SIGNS[sign]
        )

    for sign, at_steps in by_sign.items():
        steps += [marked(f"step {step}" if step else "untrained", found, sign) for step, found in at_steps.items()]
        last = at_steps[max(at_steps)]
        for layer, maps in zip(layers, last.stages, strict=True):
            stages.append(osrjax.report.SheetColumn(f"stage {layer}", pictures, maps[shown], group=SIGNS[sign]))
        stages.append(marked("sum" if layers else "map", last, sign))
        stages.append(osrjax.report.SheetColumn("masked", last.masked[shown], group=SIGNS[sign]))
    return stages, steps


if __name__ == "__main__":
    sys.exit(main())
