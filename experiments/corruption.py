"""How much accuracy does a network lose on corrupted images? 15 corruptions at 5 severities, for a finished run.

    python experiments/corruption.py runs/NAME                                   corruptions generated here
    python experiments/corruption.py runs/NAME --corrupted CIFAR-10-C            the published files
    python experiments/corruption.py runs/NAME --baseline runs/OTHER --images 100 --severities 1 3 5
    python experiments/corruption.py runs/NAME --entry ENTRY                     into its entry, for leaderboard.py

Closed-set accuracy on the known test images, clean and corrupted: by the classifier's logits, or for a run of
contrastive.py by nearest neighbours among the clean known training images, in the projection. Generated corruptions are
those of osrjax/data/corruptions.py: the parameters of CIFAR-10-C, and a texture in the place of the photographs of
frost.
Writes corruption.json. Exit codes: 0 done, 2 bad input.
"""

import dataclasses
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np

import osrjax
from osrjax.data.table import CORRUPTIONS, GENERATED_CORRUPTIONS, SEVERITIES
from osrjax.evaluation.config import AssessmentConfig
from osrjax.fields import Execution, check_not_negative
from osrjax.files import write_json
from osrjax.run.launch import FinishedConfig, launch

if TYPE_CHECKING:
    from osrjax.data import Examples
    from osrjax.run import FinishedRun


@dataclasses.dataclass(frozen=True)
class Config(AssessmentConfig, FinishedConfig):
    """Measure the corruption robustness of a run."""

    corrupted: Path | None = None
    """Folder of the published files (CIFAR-10-C or CIFAR-100-C): NAME.npy and labels.npy; default: generate."""
    corruptions: tuple[str, ...] = ()
    """Only these, such as fog; default: all 15."""
    severities: tuple[int, ...] = SEVERITIES
    """Which of the severities 1 to 5."""
    images: int | None = None
    """Only the first so many known test images of each class; default: all."""
    baseline: Path | None = None
    """A finished run on the same data, whose errors the relative mCE is in units of (the paper's is AlexNet)."""
    out: Path | None = None
    """Directory of corruption.json; default: RUN/corruption-generated or RUN/corruption-published, with a number
    where that has the answer to another question."""
    entry: Annotated[Path | None, Execution] = None
    """The entry that evaluate.py has made of the run: corruption.json goes there, and the leaderboard shows it."""
    seed: int = 0
    """Seed of the generated corruptions."""

    def check(self) -> None:
        """Refuses what would fail late."""
        if not self.severities or not set(self.severities) <= set(SEVERITIES):
            raise ValueError(f"severities={list(self.severities)} must be some of 1, 2, 3, 4, 5")
        for name, values in (("severities", self.severities), ("corruptions", self.corruptions)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name}={list(values)} repeats some: give each once")
        if self.images is not None and self.images < 1:
            raise ValueError(f"images={self.images} is below 1: give the number of images of each class")
        check_not_negative(self, ["seed"])
        for name in ("out", "baseline"):
            if self.entry is not None and getattr(self, name) is not None:
                raise ValueError(
                    f"{name}={str(getattr(self, name))!r} with entry={str(self.entry)!r}: give one of them"
                )
        if self.corrupted is not None and not self.corrupted.is_dir():
            raise ValueError(f"corrupted={str(self.corrupted)!r} is no folder: give the unpacked one of CIFAR-10-C")


def main(arguments: list[str] | None = None) -> int:
    """Parses, checks, measures, tabulates; returns the exit code."""
    return launch(Config, measure, script="corruption.py", description=__doc__, arguments=arguments)


def measure(config: Config) -> int:
    """The whole job; returns the exit code."""
    from tqdm import tqdm

    osrjax.devices.cpu.reuse_host_memory()
    published = config.corrupted is not None
    names = chosen_corruptions(config.corruptions, CORRUPTIONS if published else GENERATED_CORRUPTIONS)
    runs = [config.open()]
    if config.baseline is not None:
        runs.append(config.open_run(config.baseline, argument="baseline"))
        check_same_images(*runs)
    data = runs[0].data
    if published and runs[0].config.get("held_out"):
        raise ValueError(f"run={str(config.run)!r} chose a recipe without test images: leave --corrupted out")
    kind = "published" if published else "generated"
    if config.entry is None:
        out = osrjax.run.result_directory(config, f"corruption-{kind}", "corruption.json")
    else:
        out = config.entry
        osrjax.run.check_entry_of(out, runs[0])
    clean = first_of_each_class(data.test_known, config.images)

    def corrupted_images(name: str, severity: int) -> "Examples":
        if config.corrupted is None:
            return osrjax.data.Examples(
                osrjax.data.corrupt(clean.images, name, severity=severity, seed=config.seed), clean.labels
            )
        stored = osrjax.data.published_corruption(config.corrupted, name, severity=severity)
        return first_of_each_class(known_images(stored, data.known_classes, clean.images.shape[1:]), config.images)

    corrupted_images(names[0], config.severities[0])  # refuses unfit files before any network is compiled
    classifiers = [make_classifier(run, config.eval_batch_size) for run in runs]
    right_clean = np.stack([classify(clean.images) == clean.labels for classify in classifiers])
    cells = list(itertools.product(names, config.severities))
    right, same_labels = [], True
    for name, severity in tqdm(cells, unit="set", disable=None):
        examples = corrupted_images(name, severity)
        same_labels &= np.array_equal(examples.labels, clean.labels)
        right.append([classify(examples.images) == examples.labels for classify in classifiers])
    shape = (len(names), len(config.severities), len(runs), -1)
    correct = np.moveaxis(np.array(right).reshape(shape), 2, 0)  # [runs, corruptions, severities, images]
    found = summary(config, runs[0], names, right_clean, correct)
    if not same_labels:
        found["notes"].append(
            "the labels of the corrupted images are not those of the run's test images, in their order"
        )
    print(results_text(config, found))
    if config.entry is None:
        write_json(out / "corruption.json", found | {"asked": osrjax.run.asked_of(config)})
    else:  # which is kept and given away: without the folders of this machine
        del found["run"]
        osrjax.run.keep_corruption(out, found | {"corruptions": Path(found["corruptions"]).name})
    print(f"{out / 'corruption.json'}")
    return 0


def chosen_corruptions(names: tuple[str, ...], available: tuple[str, ...]) -> tuple[str, ...]:
    """The corruptions asked for, or all; "frost" finds its stand-in too."""
    by_name = {name.split(" ")[0]: name for name in available} | {name: name for name in available}
    for name in names:
        if name not in by_name:
            raise ValueError(f"corruptions={name!r} does not exist: choose from {', '.join(available)}")
    return tuple(by_name[name] for name in names) or available


def check_same_images(run: "FinishedRun", baseline: "FinishedRun") -> None:
    """Refuses a baseline whose errors are about other images."""
    ours, theirs = run.data, baseline.data
    if ours.known_classes != theirs.known_classes or not np.array_equal(
        ours.test_known.images, theirs.test_known.images
    ):
        raise ValueError(f"baseline={str(baseline.directory)!r} has other known test images: give a run of the split")


def first_of_each_class(examples: "Examples", count: int | None) -> "Examples":
    """The first `count` examples of every class, in their order; all for None."""
    if count is None:
        return examples
    rows = [np.flatnonzero(examples.labels == label)[:count] for label in np.unique(examples.labels)]
    chosen = np.sort(np.concatenate(rows))
    return osrjax.data.Examples(examples.images[chosen], examples.labels[chosen])


def known_images(examples: "Examples", known_classes: tuple[int, ...], shape: tuple[int, ...]) -> "Examples":
    """The examples of the known classes, labelled with their positions there."""
    if examples.images.shape[1:] != shape:
        raise ValueError(f"corrupted has images {examples.images.shape[1:]}, the run {shape}: give files of its data")
    absent = sorted(set(known_classes) - set(examples.labels.tolist()))
    if absent:
        raise ValueError(f"corrupted has no image of the known classes {absent}: give files of the run's data")
    positions = np.full(examples.labels.max() + 1, -1, np.int32)
    positions[list(known_classes)] = np.arange(len(known_classes))
    labels = positions[examples.labels]
    return osrjax.data.Examples(examples.images[labels >= 0], labels[labels >= 0])


def make_classifier(run: "FinishedRun", batch_size: int) -> Callable[[np.ndarray], np.ndarray]:
    """A function from images to predicted positions in the known classes, by the run's own score."""
    method, train = run.method, run.data.train
    fitted = None
    if method.fit:
        fitted = method.fit(
            {method.scored: run.outputs(train.images, batch_size=batch_size)[method.scored]}, train.labels
        )

    def classify(images: np.ndarray) -> np.ndarray:
        outputs = {method.scored: run.outputs(images, batch_size=batch_size)[method.scored]}
        return method.scores(fitted, outputs)[method.score][1]

    return classify


def summary(
    config: Config, run: "FinishedRun", names: tuple[str, ...], right_clean: np.ndarray, correct: np.ndarray
) -> dict:
    """Everything that was measured, as JSON values; intervals resample images, each with all its corruptions."""
    errors = 1.0 - correct.mean(axis=-1)  # [runs, corruptions, severities]
    by_image = np.moveaxis(1.0 - correct.mean(axis=2), -1, 0)  # [images, runs, corruptions]

    def estimate(statistic: Callable[[np.ndarray], float], images: np.ndarray) -> dict[str, float | None]:
        value, low, high = statistic(images), None, None
        if config.resamples:
            low, high = osrjax.metrics.bootstrap_interval(statistic, images, resamples=config.resamples)
        return {"value": float(value), "low": low, "high": high}

    found = {
        "run": str(config.run),
        "corruptions": "generated, seed " + str(config.seed) if config.corrupted is None else str(config.corrupted),
        "classifier": run.method.classifier,
        "known_classes": list(run.data.known_names),
        "images": correct.shape[-1],
        "severities": list(config.severities),
        "clean_accuracy": estimate(np.mean, right_clean[0].astype(float)),
        "accuracy": {
            name: {str(severity): 1.0 - error for severity, error in zip(config.severities, row, strict=True)}
            for name, row in zip(names, errors[0].tolist(), strict=True)
        },
        "mean_accuracy": estimate(np.mean, 1.0 - by_image[:, 0].mean(axis=-1)),
        "mean_corruption_error": estimate(np.mean, by_image[:, 0].mean(axis=-1)),
        "notes": [],
    }
    if "frost (procedural)" in names:
        found["notes"].append("frost (procedural) is a texture, not the paper's corruption by photographs of frost")
    if config.baseline is not None:
        found["baseline"] = {
            "run": str(config.baseline),
            "clean_accuracy": float(right_clean[1].mean()),
            "mean_accuracy": float(correct[1].mean()),
        }
        perfect = [name for name, row in zip(names, errors[1], strict=True) if not row.any()]
        if perfect:
            found["notes"].append(f"no relative mCE: the baseline makes no error under {', '.join(perfect)}")
        else:

            def relative(images: np.ndarray) -> float:
                ours, theirs = images.mean(axis=0)
                return float(np.mean(ours / theirs))

            found["relative_corruption_error"] = {
                name: float(ours.sum() / theirs.sum()) for name, ours, theirs in zip(names, *errors, strict=True)
            }
            value = {"value": osrjax.data.mean_corruption_error(errors[0], errors[1]), "low": None, "high": None}
            # Resamples then hold some of the baseline's errors: none of 20 is missed but once in 10^8 or more.
            if (by_image[:, 1] > 0).sum(axis=0).min() >= 20:
                value = estimate(relative, by_image) | {"value": value["value"]}
            found["relative_mean_corruption_error"] = value
    return found


def results_text(config: Config, found: dict) -> str:
    """The table, one row a corruption, and the means."""
    relative = found.get("relative_corruption_error", {})
    rows = []
    for name, accuracies in found["accuracy"].items():
        cells = {f"severity {severity}": accuracy for severity, accuracy in accuracies.items()}
        row = {"accuracy": name, **cells, "mean": float(np.mean(list(accuracies.values())))}
        rows.append(row | ({"error / baseline's": relative[name]} if relative else {}))
    columns = [name for name in rows[0] if name not in ("accuracy", "error / baseline's")]
    rows.append({"accuracy": "mean", **{name: float(np.mean([row[name] for row in rows])) for name in columns}})
    cells = f"{len(found['accuracy'])} corruptions ({found['corruptions']}) at severities {list(config.severities)}"
    lines = [
        osrjax.report.results_table(rows),
        f"{cells}; {found['images']} known test images; class by {found['classifier']}; [95 % bootstrap interval]",
        f"clean accuracy {osrjax.report.interval_text(found['clean_accuracy'])}",
        f"mean accuracy {osrjax.report.interval_text(found['mean_accuracy'])}",
        f"mean corruption error, not normalised: {osrjax.report.interval_text(found['mean_corruption_error'])}",
    ]
    if "relative_mean_corruption_error" in found:
        text = osrjax.report.interval_text(found["relative_mean_corruption_error"])
        lines.append(f"mean corruption error relative to the baseline: {text}")
    if "baseline" in found:
        base = found["baseline"]
        lines.append(
            f"baseline {base['run']}: clean accuracy {base['clean_accuracy']:.3f}, mean {base['mean_accuracy']:.3f}"
        )
    return "\n".join(lines + [f"note: {note}" for note in found["notes"]])


if __name__ == "__main__":
    sys.exit(main())
