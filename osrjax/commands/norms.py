"""What are the exact input-Jacobian norms of images under a trained network? For a run, image by image.

    osrjax norms runs/NAME                               test images of the run's own data
    osrjax norms runs/NAME --quantities embedding raw_embedding logits --part train
    osrjax norms runs/NAME --data npz:other.npz --devices 8 --memory-mib 4096

Writes one .npy array for each quantity, in the order of the data set's images, and prints means by class. A stopped
command goes on where it was. Norms are per unit of pixels scaled to [-1, 1]; those of the unit embedding are the
paper's (arXiv 2209.11436, eq. 1). Exit codes: 0 done, 2 bad input or images that cannot be differentiated one by one.
"""

import dataclasses
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

import osrjax
from osrjax.fields import check_at_most, check_named_once, check_not_negative
from osrjax.files import check_no_links
from osrjax.run.launch import FinishedConfig, launch

if TYPE_CHECKING:
    from osrjax.run import FinishedRun


@dataclasses.dataclass(frozen=True)
class Config(FinishedConfig):
    """Exact input-Jacobian norms of a data set under the network of a run."""

    quantities: tuple[Literal["embedding", "raw_embedding", "logits", "projection"], ...] = ("embedding",)
    """What is differentiated: the unit-normalised embedding, the embedding before that, the (unscaled) logits;
    of a contrastive run, the unit-normalised projection instead of logits."""
    data: str | None = None
    """Images to take, as in train.py; default: the run's own data."""
    part: Literal["test", "train"] = "test"
    """Which part of the data."""
    images: int | None = None
    """Only so many images, drawn evenly over the classes; default: all."""
    seed: int = 0
    """Seed of that draw."""
    out: Path | None = None
    """Directory of the arrays; default: RUN/norms-DATA-PART."""
    mode: Literal["auto", "forward", "reverse"] = "auto"
    """Direction of differentiation; the norms are the same."""
    batch_size: int | None = None
    """Images a call, over all devices; default: what suits the device."""
    memory_mib: int = 1024
    """Memory on each device, MiB; the number of passes at a time follows from it."""
    devices: int | None = None
    """Devices to share each batch; default: one."""

    def check(self) -> None:
        """Refuses what needs no file to be refused."""
        if self.images is not None and self.images < 1:
            raise ValueError(f"images={self.images} is below 1: give the number of images")
        check_not_negative(self, ["seed"])
        check_named_once(self, "quantities")
        check_at_most(self, {"batch_size": 100_000})
        if self.memory_mib < 1:
            raise ValueError(f"memory_mib={self.memory_mib} is below 1: give the memory of a device in MiB")


def main(arguments: list[str] | None = None, *, script: str = "norms.py") -> int:
    """Parses, checks, computes, tabulates; returns the exit code."""
    return launch(Config, compute, script=script, description=__doc__, arguments=arguments)


def compute(config: Config) -> int:
    """The whole job; returns the exit code."""
    osrjax.devices.cpu.reuse_host_memory()
    finished = config.open()
    trained, provenance = finished.config, finished.provenance
    if own := config.data in (None, trained.get("data")):
        source = finished.source
    else:
        source = osrjax.data.open_source(config.data, data_dir=config.data_dir)
        own = set(provenance["known_names"]) <= set(source.class_names) and is_own(finished)
    if config.part not in source.splits:
        raise ValueError(f"part={config.part!r} is not in {source.name}: choose from {', '.join(source.splits)}")
    pixels, labels = source.splits[config.part]
    if config.images is not None:
        rows = osrjax.data.drawn_rows(labels, config.images, seed=config.seed)
        pixels, labels = pixels[rows], labels[rows]
    if pixels.shape[1:] != tuple(provenance["image_shape"]):
        raise ValueError(f"data={source.name!r} has images {pixels.shape[1:]}, the run {provenance['image_shape']}")
    functions = finished.method.functions
    for name in config.quantities:
        if name not in functions:
            raise ValueError(f"quantities={name!r} does not exist for this run: choose from {', '.join(functions)}")
    name = Path(source.name.partition(":")[2] or source.name).stem  # npz:FILE and folder:DIRECTORY are paths
    out = config.out
    if out is None:
        check_no_links(config.run)
        out = config.run / f"norms-{name}-{config.part}"
    norms = osrjax.analysis.dataset_jacobian_norms(
        {name: functions[name] for name in config.quantities},
        finished.variables,
        osrjax.augment.to_float_host(pixels),  # there may be many
        batch_size=config.batch_size,
        memory_budget=config.memory_mib * 2**20,
        mode=config.mode,
        mesh=None if config.devices is None else osrjax.devices.sharding.data_mesh(config.devices),
        directory=out,
        progress=True,
    )
    kinds = kinds_of(trained, dataclasses.asdict(finished.split), source.class_names) if own else {}
    table = []
    for label in np.unique(labels):
        kind = kinds.get(int(label), "-")
        means = {name: f"{found[labels == label].mean():.4f}" for name, found in norms.items()}
        counts = {"images": str(np.sum(labels == label))}
        table.append({"class": source.class_names[label], "kind": kind, **counts, **means})
    print(osrjax.report.results_table(table))
    is_known, is_unknown = ([kinds.get(int(label)) == kind for label in labels] for kind in ("known", "unknown"))
    for name, found in norms.items():
        quantiles = ", ".join(f"{q:.4f}" for q in np.quantile(found, (0.05, 0.5, 0.95)))
        text = f"{name}: mean {found.mean():.4f}, quantiles 5, 50, 95 %: {quantiles}"
        if any(is_known) and any(is_unknown):
            difference = osrjax.metrics.jacobian_norm_difference(found[is_known], found[is_unknown])
            text += f", unknown - known {difference:.4f}"
        print(text)
    print(f"{out}: {', '.join(f'{name}.npy' for name in norms)}")
    print(f"largest memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB")
    return 0


def is_own(finished: "FinishedRun") -> bool:
    """Whether the images that were named are the run's own, in another place."""
    try:
        return bool(finished.data.train.images.size)
    except ValueError:
        return False


def kinds_of(trained: dict, split: dict, class_names: tuple[str, ...]) -> dict[int, str]:
    """What each class of the run's own data is to its network; classes that have no part in the run are left out."""
    held_out = set(osrjax.data.class_ids(trained.get("held_out", ()), class_names, argument="held_out"))
    unknown = held_out | (set() if trained.get("unknown_data") else set(split["unknown"]))
    return {c: "known" for c in split["known"] if c not in held_out} | dict.fromkeys(unknown, "unknown")
