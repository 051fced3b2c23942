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
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array

from osrjax import attribution, report
from osrjax.attribution.maps import last_layers
from osrjax.augment import mixing
from osrjax.augment.pixels import to_float
from osrjax.augment.policies import POLICIES
from osrjax.augment.views import make_contrastive_augmentation
from osrjax.devices.cpu import compiler_options, reuse_host_memory
from osrjax.losses.contrastive import nt_xent_loss
from osrjax.methods.classify import CLASS_LOSSES
from osrjax.models.networks import zero_taps
from osrjax.report.attribution import SheetColumn, contact_sheet, mass_in_boxes, mass_in_random_boxes, peak_distances
from osrjax.run.checkpoint import Checkpoints
from osrjax.run.finished import FinishedRun, open_finished
from osrjax.train.optimizers import make_adam, make_sgd
from osrjax.train.step import init_state

SIGNS = {1: "sign +1: what would raise the loss", -1: "sign \N{MINUS SIGN}1: what lowers the loss", 0: ""}


@dataclasses.dataclass(frozen=True)
class Config:
    """Draw the attribution maps of a run."""

    run: Annotated[Path, tyro.conf.Positional]
    """A finished run directory of experiments/contrastive.py or experiments/train.py."""
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
    data_dir: Path | None = None
    """Directory of prepared TFDS sets, if not where the run found them."""
    out: Path | None = None
    """Directory of the sheets; default: RUN/attribution-METHOD."""


class Chosen(NamedTuple):
    """A batch of test images as the network sees them; those on the sheets come first, sorted by class."""

    first: Array
    """View 1, or the plain images."""
    second: Array
    """View 2, or the plain images again."""
    labels: Array
    """Class positions; -1 for unknown classes."""
    names: list[str]
    """Classes of the images on the sheets."""


class Found(NamedTuple):
    """Maps of the first views under one network, for one sign, and what GradMix makes of them."""

    stages: np.ndarray
    maps: np.ndarray
    peaks: np.ndarray
    boxes: np.ndarray
    masked: np.ndarray


def main(arguments: list[str] | None = None) -> int:
    """Parses, checks, computes, draws; returns the exit code."""
    config = tyro.cli(Config, args=arguments, description=__doc__)
    try:
        return draw(config)
    except ValueError as error:
        print(f"attribution.py: {error}", file=sys.stderr)
        return 2


def draw(config: Config) -> int:
    """The whole job; returns the exit code."""
    reuse_host_memory()
    needed = ("config.json", "provenance.json", "network.npz", "results.json")
    finished = open_finished(config.run, needed=needed, data_dir=config.data_dir)
    trained = finished.config
    for name, least in (("images", 2), ("batch_size", 2), ("seed", 0)):
        if (value := getattr(config, name)) is not None and value < least:
            raise ValueError(f"{name}={value} is below {least}: give {least} or more")
    kept = config.kept
    if kept is None:
        kept = (trained.get("smallest_kept", 0.5) + trained.get("largest_kept", 0.9)) / 2
        kept = kept if kept < 1 else 0.7
    if not 0 < kept < 1:
        raise ValueError(f"kept={kept} is not in (0, 1): give the share of an image that a box leaves, such as 0.7")
    stages = len(zero_taps(finished.network, tuple(finished.provenance["image_shape"]), 1))
    layers = config.layers or tuple(trained.get("cam_layers", ())) or last_layers(stages)
    attribution.check_layers(layers, stages)
    method = config.method or trained.get("cam_method", "layer_cam")
    signs = tuple(dict.fromkeys(config.sign)) or (1, -1)
    if method == "input_gradient":
        layers, signs = (), (0,)
    kinds = ("known", "unknown") if config.unknown else ("known",)
    batches = {kind: choose_images(finished, kind, config) for kind in kinds}
    out = config.out or config.run / f"attribution-{method}"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out={str(out)!r} cannot be written ({error.strerror}): choose another directory") from error
    networks = networks_of(finished)
    maps_of = make_maps(finished, method, layers, signs, kept, config.seed)
    loss = "NT-Xent" if finished.is_contrastive else trained["loss"]
    rows, means, figures = [], {}, []
    for kind, chosen in batches.items():
        found = {step: jax.device_get(maps_of(variables, *chosen[:3])) for step, variables in networks.items()}
        by_sign = {sign: {step: Found(*maps[sign]) for step, maps in found.items()} for sign in signs}
        means[kind] = {str(sign): measure(list(by_sign[sign].values()), kept) for sign in signs}
        for sign in signs:
            for index, step in enumerate(networks):
                values = {name: of_steps[index] for name, of_steps in means[kind][str(sign)].items()}
                rows.append({"images": kind, "sign": sign, "step": step} | values)
        titles = {"stages": f"after step {max(networks)}", "steps": "during training"}
        both = columns_of(chosen, by_sign, layers, "view 1" if finished.is_contrastive else "image")
        for columns, (name, when) in zip(both, titles.items(), strict=True):
            sheet = contact_sheet(
                columns,
                row_names=chosen.names,
                title=f"{method} of {loss}, {kind} test images, {when}\n{config.run.resolve().name}",
                box_name=f"GradMix's box around it, {1 - kept:.0%} of the image before it is cut at the border",
            )
            figures += report.save_figure(sheet, out / f"{name}-{kind}")
    options = {"method": method, "layers": layers, "kept": kept, "seed": config.seed, "steps": list(networks)}
    counts = {kind: len(chosen.labels) for kind, chosen in batches.items()}
    text = json.dumps({**options, "images": counts, "means": means}, indent=2)
    (out / "attribution.json").write_text(text + "\n")
    print(report.results_table(rows))
    print("means over " + " and ".join(f"{n} {kind} images" for kind, n in counts.items()) + "; distances in pixels;")
    print("in random box: over all its places; to other images: from a peak to those of other images a step before")
    print(f"{out}: attribution.json, {', '.join(path.name for path in figures)}")
    return 0


def choose_images(finished: FinishedRun, kind: str, config: Config) -> Chosen:
    """Test images of a kind, one of each class after another, as training would show them to the network."""
    data, trained = finished.data, finished.config
    part = data.test_known if kind == "known" else data.test_unknown
    if config.images > len(part.labels):
        raise ValueError(f"images={config.images} exceeds the {len(part.labels)} {kind} test images: give fewer")
    order = np.random.default_rng(config.seed).permutation(len(part.labels))
    turns = np.zeros(len(order), int)  # how many images of its class come before each
    for label in np.unique(part.labels):
        here = part.labels[order] == label
        turns[here] = np.arange(here.sum())
    size = max(config.images, config.batch_size or trained["batch_size"])
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
    if not finished.is_contrastive:
        return Chosen(to_float(images), to_float(images), labels, names)
    augmentation = make_contrastive_augmentation(
        crop_scale=(0.2, 1.0) if trained["crop"] else None,
        flip=trained["flip"],
        jitter=trained["jitter"],
        policy=POLICIES[trained["policy"]],
    )
    first_key, second_key = jax.random.split(jax.random.key(config.seed))
    augmented = jax.jit(augmentation, compiler_options=compiler_options())
    return Chosen(augmented(first_key, images), augmented(second_key, images), labels, names)


def networks_of(finished: FinishedRun) -> dict[int, Any]:
    """Variables by step: untrained, from the run's seed; of the checkpoints that it kept; final."""
    trained = finished.config
    init_key, _ = jax.random.split(jax.random.key(trained["seed"]))  # as both scripts do
    optimizer = make_adam() if finished.is_contrastive else make_sgd(total_steps=1, momentum=trained["momentum"])
    names = ("learning_rate", "final_learning_rate", "schedule_steps", "weight_decay")
    hyper = dict.fromkeys(names, 1.0)  # no step is taken
    shape = tuple(finished.provenance["image_shape"])
    new_state = partial(init_state, network=finished.network, optimizer=optimizer, hyper=hyper, image_shape=shape)
    state = jax.jit(new_state, compiler_options=compiler_options())(init_key)
    states = {0: state}
    last = json.loads((finished.directory / "results.json").read_text())["steps"]
    if (finished.directory / "checkpoints").is_dir():
        with Checkpoints(finished.directory / "checkpoints") as stored:
            for step in (step for step in stored.steps() if step < last):
                try:
                    states[step] = stored.restore(step, state)
                except Exception as error:  # whatever a damaged file makes the reader raise
                    print(f"attribution.py: no checkpoint of step {step}: {type(error).__name__}", file=sys.stderr)
    networks = {step: {"params": state.params, "batch_stats": state.stats} for step, state in states.items()}
    return networks | {last: finished.variables}


def make_maps(
    finished: FinishedRun, method: str, layers: tuple[int, ...], signs: tuple[int, ...], kept: float, seed: int
) -> Callable[[Any, Array, Array, Array], dict[int, tuple[Array, ...]]]:
    """Returns ``(variables, first, second, labels) -> {sign: the fields of Found}``, compiled."""
    network, trained = finished.network, finished.config
    in_training = trained.get("cam_statistics", "train") == "train"
    aggregation = trained.get("cam_aggregation", "batch_minmax_sum")
    height, width, channels = finished.provenance["image_shape"]
    size = {"height": height, "width": width}

    def loss(taps: tuple | None, images: Array, variables: Any, labels: Array) -> tuple[Array, tuple]:
        outputs, _ = network.apply(variables, images, train=in_training, taps=taps, mutable="batch_stats")
        if finished.is_contrastive:
            temperature = trained["cam_temperature"] or trained["temperature"]
            views = outputs.projection.reshape(2, len(labels), -1)
            return jnp.mean(nt_xent_loss(views, temperature=temperature)), outputs.maps
        class_loss = CLASS_LOSSES[trained["loss"]]
        hyper = {name: float(trained[name]) for name in class_loss.hyper}
        labels = jnp.where(labels < 0, jnp.argmax(outputs.logits, axis=-1), labels)
        return jnp.mean(class_loss.function(outputs.logits, labels, hyper)), outputs.maps

    def found(variables: Any, first: Array, second: Array, labels: Array) -> dict[int, tuple[Array, ...]]:
        images = jnp.concatenate([first, second]) if finished.is_contrastive else first
        of_first, of_stages = slice(len(first)), {}
        if method == "input_gradient":
            slopes, _ = jax.grad(loss, argnums=1, has_aux=True)(None, images, variables, labels)
            of_stages[0] = jnp.array([]), attribution.input_gradient_map(slopes)[of_first]
        else:
            taps = zero_taps(network, (height, width, channels), len(images))
            stages = attribution.stage_gradients(
                lambda taps: loss(taps, images, variables, labels), taps, layers=layers
            )
            for sign in signs:
                maps_of = partial(attribution.attribution_maps, **size, method=method, sign=float(sign))
                alone = [
                    maps_of([one], [slope], aggregation="raw_sum")[of_first] for one, slope in zip(*stages, strict=True)
                ]
                # As in training, the stages are scaled over both views of the batch.
                of_stages[sign] = jnp.array(alone), maps_of(*stages, aggregation=aggregation)[of_first]
        key, share, by_sign = jax.random.key(seed), jnp.full(len(first), kept), {}
        for sign, (alone, maps) in of_stages.items():
            peaks = attribution.map_peaks(maps)
            boxes = attribution.box_bounds(peaks, share, **size)
            fill = trained.get("fill", "noise")
            masked = mixing.gradmix(jax.random.clone(key), first, maps, share, fill=fill, others=second)
            by_sign[sign] = (alone, maps, peaks, boxes, masked.images)
        return by_sign

    return jax.jit(found, compiler_options=compiler_options())


def measure(at_steps: list[Found], kept: float) -> dict[str, list[float | None]]:
    """Means over the images at each step: where the maps' mass and their peaks are, how far the peaks have moved."""
    means = {name: [] for name in ("mass in box", "in random box", "peak to centre", "peak moved", "to other images")}
    centre = (np.array([at_steps[0].maps.shape[1:]]) - 1) / 2
    for before, found in zip([None, *at_steps[:-1]], at_steps, strict=True):
        moved = others = np.full(1, np.nan)
        if before is not None:
            shifted = [np.roll(before.peaks, shift, axis=0) for shift in range(len(found.peaks))]
            moved, *others = (peak_distances(found.peaks, peaks) for peaks in shifted)
        masses = mass_in_boxes(found.maps, found.boxes), mass_in_random_boxes(found.maps, kept=kept)
        for name, values in zip(means, (*masses, peak_distances(found.peaks, centre), moved, others), strict=True):
            finite = np.asarray(values)[np.isfinite(values)]  # a map of zeros has no mass
            means[name].append(float(finite.mean()) if finite.size else None)
    return means


def columns_of(
    chosen: Chosen, by_sign: dict[int, dict[int, Found]], layers: tuple[int, ...], first: str
) -> tuple[list[SheetColumn], list[SheetColumn]]:
    """Of the sheet of stages (after the last step) and of the sheet of steps."""
    shown = slice(len(chosen.names))
    pictures = np.asarray(chosen.first[shown])
    stages, steps = [SheetColumn(first, pictures)], [SheetColumn(first, pictures)]

    def marked(title: str, found: Found, sign: int) -> SheetColumn:
        return SheetColumn(title, pictures, found.maps[shown], found.boxes[shown], found.peaks[shown], SIGNS[sign])

    for sign, at_steps in by_sign.items():
        steps += [marked(f"step {step}" if step else "untrained", found, sign) for step, found in at_steps.items()]
        last = at_steps[max(at_steps)]
        for layer, maps in zip(layers, last.stages, strict=True):
            stages.append(SheetColumn(f"stage {layer}", pictures, maps[shown], group=SIGNS[sign]))
        stages.append(marked("sum" if layers else "map", last, sign))
        stages.append(SheetColumn("masked", last.masked[shown], group=SIGNS[sign]))
    return stages, steps


if __name__ == "__main__":
    sys.exit(main())
