"""Does a network notice images of another data set? Known test images against whole foreign test sets.

    python experiments/ood.py runs/NAME --against npz:svhn_test10k.npz npz:cifar100_test.npz
    python experiments/ood.py runs/NAME --against fashion_mnist --out results/ood

Known are the run's known test images, unknown is every test image of a named set (of a set without a test part, each
of its parts). Both sides pass through the same network in the same scale of pixels. Scores are those of the run's own
kind: of the logits for a run of train.py, nearest neighbours and Mahalanobis distances among the features of the known
training images for one of contrastive.py. Writes ood.json. Exit codes: 0 done, 2 bad input.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from osrjax import report
from osrjax.data import Examples, open_source
from osrjax.devices.cpu import reuse_host_memory
from osrjax.evaluation.assessment import OpenSetFeatures, OpenSetLabels, OpenSetOutputs, assess, assess_features
from osrjax.methods.classify import CLASS_LOSSES
from osrjax.run.finished import FinishedRun, open_finished


@dataclasses.dataclass(frozen=True)
class Config:
    """Detect images of other data sets."""

    run: Annotated[Path, tyro.conf.Positional]
    """A finished run directory of experiments/train.py or experiments/contrastive.py."""
    against: tuple[str, ...]
    """Sets of unknown images, named as --data of train.py: npz:FILE, folder:DIRECTORY, cifar100, ..."""
    images: int | None = None
    """Only so many images of every set, evenly over its rows; default: all."""
    data_dir: Path | None = None
    """Directory of prepared TFDS sets; default: where the run found them."""
    out: Path | None = None
    """Directory of ood.json; default: RUN/ood."""
    eval_batch_size: int = 500
    """Images per evaluation call."""
    resamples: int = 1000
    """Bootstrap resamples of the 95 % intervals; 0: none."""
    reject_share: float = 0.1
    """Share of known validation images that the threshold of macro-F1 (in ood.json) rejects."""


# Column of the table -> metric; "out" has unknown as the positive class, "in" known.
COLUMNS = {
    "auroc": "auroc",
    "fpr95, unknown +": "fpr_at_95_tpr_unknown_positive",
    "fpr95, known +": "fpr_at_95_tpr_known_positive",
    "aupr-out": "aupr_unknown_positive",
    "aupr-in": "aupr_known_positive",
    "detacc": "detection_accuracy",
}


def main(arguments: list[str] | None = None) -> int:
    """Parses, checks, measures, tabulates; returns the exit code."""
    config = tyro.cli(Config, args=arguments, description=__doc__)
    try:
        return measure(config)
    except ValueError as error:
        print(f"ood.py: {error}", file=sys.stderr)
        return 2


def measure(config: Config) -> int:
    """The whole job; returns the exit code."""
    reuse_host_memory()
    if config.images is not None and config.images < 1:
        raise ValueError(f"images={config.images} is below 1: give the number of images of each set")
    if config.resamples < 0:
        raise ValueError(f"resamples={config.resamples} is negative: give 0 for no intervals")
    if not 0 < config.reject_share < 1:
        raise ValueError(f"reject_share={config.reject_share!r} must be between 0 and 1, such as 0.1")
    run = open_finished(config.run, data_dir=config.data_dir)
    foreign = foreign_sets(config, run)
    data = run.data
    out = config.out or config.run / "ood"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out={str(out)!r} cannot be made ({error.strerror}): give another directory") from error
    extract = make_feature_extractor(run.network, run.variables, batch_size=config.eval_batch_size)
    parts = {"validation": data.validation, "known": data.test_known}
    if run.is_contrastive:
        parts["train"] = data.train
    features = {name: extract(part.images) for name, part in parts.items()}
    own = "knn_sum" if run.is_contrastive else CLASS_LOSSES[run.config["loss"]].score
    found = {"run": str(config.run), "known_classes": list(data.known_names), "score": own, "sets": {}}
    for name, (examples, provenance) in foreign.items():
        assessed = assess_against(run, features, extract(examples.images), examples, config)
        found["sets"][name] = {"provenance": provenance, **assessed}
        rows = [
            {"score": score + (" *" if score == own else "")}
            | {column: report.interval_text(values[metric]) for column, metric in COLUMNS.items()}
            for score, values in assessed["scores"].items()
        ]
        print(f"{len(data.test_known.labels)} known test images against {name}, {len(examples.labels)} images")
        print(report.results_table(rows) + "\n")
    (out / "ood.json").write_text(json.dumps(found, indent=2) + "\n")
    print("* the run's own score; +: the positive class of the rate; [95 % bootstrap interval over test images]")
    print(f"{out / 'ood.json'}")
    return 0


def foreign_sets(config: Config, run: FinishedRun) -> dict[str, tuple[Examples, str]]:
    """The unknown images of every set with their origin; refuses other shapes and the run's own set."""
    shape = tuple(run.provenance["image_shape"])
    if not config.against:
        raise ValueError("against is empty: give sets of unknown images, such as npz:svhn_test10k.npz")
    found = {}
    for name in config.against:
        if name == run.config["data"]:
            raise ValueError(f"against={name!r} is the run's own data, whose classes it knows: give another set")
        source = open_source(name, data_dir=config.data_dir)
        if any(source.provenance == used["provenance"] for used in run.provenance["sources"]):
            raise ValueError(f"against={name!r} is the run's own data, whose classes it knows: give another set")
        if name in found:
            raise ValueError(f"against={name!r} is named twice: name every set once")
        for part in ["test"] if "test" in source.splits else source.splits:
            images, labels = source.splits[part]
            # Evenly over the set: the first rows of a sorted one would be of one class.
            rows = np.linspace(0, len(images), min(config.images or len(images), len(images)), endpoint=False).astype(
                int
            )
            examples = Examples(images[rows], labels[rows])
            if examples.images.shape[1:] != shape:
                raise ValueError(
                    f"against={name!r} has images {examples.images.shape[1:]}, the run {shape}: give such images"
                )
            found[name if part == "test" else f"{name} {part}"] = examples, source.provenance
    return found


def assess_against(
    run: FinishedRun, features: dict[str, Features], unknown: Features, examples: Examples, config: Config
) -> dict:
    """Metrics of every score of the run's kind, with one set as the unknown images."""
    data = run.data
    validation, known = features["validation"], features["known"]
    if run.is_contrastive:
        parts = (features["train"], validation, known, unknown)
        return assess_features(
            OpenSetFeatures(*(part["projection"] for part in parts)),
            OpenSetLabels(data.train.labels, data.validation.labels, data.test_known.labels),
            classes=len(data.known_classes),
            embedding=OpenSetFeatures(*(part["embedding"] for part in parts)),
            neighbours=run.config["neighbours"],
            reject_share=config.reject_share,
            resamples=config.resamples,
        )
    outputs = OpenSetOutputs(
        validation_logits=validation["logits"],
        validation_labels=data.validation.labels,
        known_logits=known["logits"],
        known_embedding=known["embedding"],
        known_labels=data.test_known.labels,
        unknown_logits=unknown["logits"],
        unknown_embedding=unknown["embedding"],
        unknown_labels=examples.labels,
    )
    return assess(
        outputs,
        head=CLASS_LOSSES[run.config["loss"]].head,
        scale=run.config["scale"],
        margin=run.config["margin"],
        reject_share=config.reject_share,
        resamples=config.resamples,
    )


if __name__ == "__main__":
    sys.exit(main())
