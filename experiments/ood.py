"""Does a network notice images of another data set? Known test images against whole foreign test sets.

    python experiments/ood.py runs/NAME --against npz:svhn_test10k.npz npz:cifar100_test.npz
    python experiments/ood.py runs/NAME --against fashion_mnist --out results/ood

Known are the run's known test images, unknown is every test image of a named set (of a set without a test part, each
of its parts). Both sides pass through the same network in the same scale of pixels. Scores are those of the run's own
kind: of the logits for a run of train.py, nearest neighbours and Mahalanobis distances among the features of the known
training images for one of contrastive.py. A set that is the run's own, by its images, is refused; images and classes
that it shares with the known ones are said. Writes ood.json. Exit codes: 0 done, 2 bad input.
"""

import dataclasses
import sys
from pathlib import Path

import osrjax
from osrjax.evaluation.config import AssessmentConfig
from osrjax.fields import check_named_once
from osrjax.files import write_json
from osrjax.run.launch import FinishedConfig, launch


@dataclasses.dataclass(frozen=True)
class Config(AssessmentConfig, FinishedConfig):
    """Detect images of other data sets."""

    against: tuple[str, ...] = ()
    """Sets of unknown images, named as --data of train.py: npz:FILE, folder:DIRECTORY, cifar100, ..."""
    images: int | None = None
    """Only so many images of every set, evenly over its rows; default: all."""
    out: Path | None = None
    """Directory of ood.json; default: RUN/ood, RUN/ood-2, ..., the first without the answer to another question."""

    def check(self) -> None:
        """Refuses what needs no file to be refused."""
        if self.images is not None and self.images < 1:
            raise ValueError(f"images={self.images} is below 1: give the number of images of each set")
        if not self.against:
            raise ValueError("against is empty: give sets of unknown images, such as npz:svhn_test10k.npz")
        check_named_once(self, "against")


def main(arguments: list[str] | None = None) -> int:
    """Parses, checks, measures, tabulates; returns the exit code."""
    return launch(Config, measure, script="ood.py", description=__doc__, arguments=arguments)


def measure(config: Config) -> int:
    """The whole job; returns the exit code."""
    osrjax.devices.cpu.reuse_host_memory()
    run = config.open()
    foreign = osrjax.run.foreign_sets(run, config.against, images=config.images, data_dir=config.data_dir)
    data, method = run.data, run.method
    out = osrjax.run.result_directory(config, "ood", "ood.json")

    # ------------------------------------------------------------------------------- outputs
    parts = {"train": data.train, "validation": data.validation, "known": data.test_known}
    outputs = {
        name: run.outputs(part.images, batch_size=config.eval_batch_size)
        for name, part in parts.items()
        if name in method.parts
    }
    labels = {name: part.labels for name, part in parts.items()}

    # -------------------------------------------------------------------- assess, one set after another
    found = {"run": str(config.run), "known_classes": list(data.known_names), "score": method.score, "sets": {}}
    found["asked"] = osrjax.run.asked_of(config)
    columns = osrjax.report.OOD_COLUMNS
    for name, unknown in foreign.items():
        outputs["unknown"] = run.outputs(unknown.examples.images, batch_size=config.eval_batch_size)
        assessed = osrjax.methods.assess(
            method, outputs, labels, reject_share=config.reject_share, resamples=config.resamples
        ).results
        found["sets"][name] = {"provenance": unknown.provenance, "shared": unknown.shared, **assessed}
        rows = [
            {"score": score + (" *" if score == method.score else "")}
            | {column: osrjax.report.interval_text(values[metric]) for column, metric in columns.items()}
            for score, values in assessed["scores"].items()
        ]
        print(f"{len(data.test_known.labels)} known test images against {name}, {len(unknown.examples.labels)} images")
        print(osrjax.report.results_table(rows))
        print("".join(f"{name} {text}\n" for text in unknown.shared))

    # --------------------------------------------------------------------------------- write
    write_json(out / "ood.json", found)
    print("* the run's own score; +: the positive class of the rate; [95 % bootstrap interval over test images]")
    print(f"{out / 'ood.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
