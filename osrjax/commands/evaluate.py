"""How well do the outputs of ANY network tell unknown images? Every score, every metric, from one npz file or run.

    osrjax evaluate outputs.npz
    osrjax evaluate outputs.npz --cosines 16                     logits are cosines, to be times 16
    osrjax evaluate outputs.npz --own my_scores:margin           a score of one's own as well
    osrjax evaluate runs/NAME                                    a finished run, scored again
    osrjax evaluate runs/NAME --images                           fitted scores too: its images once more
    osrjax evaluate runs/NAME --against npz:svhn_test10k.npz     whole other sets as unknown images

The file holds logits and embeddings of known training, known validation, known test and unknown test images, made by
any framework (osrjax/evaluation/outputs.py has the names of its arrays; experiments/examples/make_outputs.py makes
one). Scores whose arrays are missing are listed with what they need. Thresholds come from the known validation images.

Written to OUT: results.json and results.txt (the table), figures/, and an entry for leaderboard.py: manifest.json,
scores.npz, of a run with a probe probe.npz. Seconds. Exit code 2: bad input, nothing written.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import tyro

import osrjax
from osrjax.choices import load_own
from osrjax.data.splits import listed_split
from osrjax.data.table import set_name
from osrjax.fields import check_above_zero, check_named_once, check_not_negative, check_printable, check_resamples
from osrjax.files import check_no_links
from osrjax.run.launch import MovedConfig, launch

if TYPE_CHECKING:
    from osrjax.data import OpenSetData


@dataclasses.dataclass(frozen=True)
class Config(MovedConfig):
    """Score stored outputs."""

    file: Annotated[Path, tyro.conf.Positional]
    """An npz file of outputs, or the directory of a finished run."""
    cosines: float | None = None
    """T, where the logits of a file are unscaled cosines."""
    own: tuple[str, ...] = ()
    """Scores of one's own as MODULE:FUNCTION: (rows, train rows, train labels) -> one score per image, larger = more
    unknown; rows have the arrays `logits` and `embedding` that are there, of validation and test images alike."""
    images: bool = False
    """Of a run: pass its images through its network again, for scores that are fitted to training images."""
    image_scores: tuple[str, ...] = ()
    """Of a run: scores of its function and images too: odin, jacobian_estimate, jacobian_norm (hundreds of passes)."""
    against: tuple[str, ...] = ()
    """Of a run, instead of its own unknown images: whole sets, named as --data of train.py, each an entry."""
    dataset: str | None = None
    """Of a run: the unknown classes that its family lists for this set (cifar+50 for a run of cifar+10). Of a file: the
    data set as tables call it."""
    label: str | None = None
    """The method as tables call it; default: its name, or the file's."""
    family: str = "custom"
    """Of a file: the family of class splits that its classes are from. Where it lists them for the data set, labels are
    positions in its list, and tables set the file beside runs on the same images."""
    split: int = 0
    """Of a file: the index of the split in its family."""
    seed: int = 0
    """Of a file: of the training."""
    recipe: str | None = None
    """Kept in the manifest: how the network was trained."""
    study: str | None = None
    """Kept in the manifest: the study of benchmark.py that the training belongs to."""
    score: str | None = None
    """The score that is the method's own; default: the first."""
    reject_share: float = 0.1
    """Share of known validation images that the threshold of macro-F1 rejects."""
    resamples: int = 1000
    """Bootstrap resamples of the intervals over test images; 0: none."""
    draw: bool = True
    """Draw the figures."""
    out: Path | None = None
    """Where results go; default: the file's path with .evaluation in place of its suffix, RUN/evaluation of a run."""

    def check(self) -> None:
        """Refuses numbers out of range, and what does nothing."""
        check_not_negative(self, ["split", "seed"])
        check_resamples(self)
        check_named_once(self, "against")
        check_named_once(self, "image_scores")
        if self.cosines is not None:
            check_above_zero(self, ["cosines"])
            if not math.isfinite(self.cosines):
                raise ValueError(f"cosines={self.cosines} is no T: give the number that cosines are multiplied by")
        for name in ("label", "dataset", "family"):
            if getattr(self, name) is not None:
                check_printable(name, getattr(self, name))
        if not 0 < self.reject_share < 1:
            raise ValueError(f"reject_share={self.reject_share!r} must be between 0 and 1, such as 0.1")
        if self.against and self.dataset is not None:
            raise ValueError(f"dataset={self.dataset!r} with against={list(self.against)}: give one of the two")


class Subject(NamedTuple):
    """Scored images of one network against one set of unknown images."""

    directory: Path
    scored: "dict[str, osrjax.evaluation.ScoredImages]"
    missing: dict[str, str]
    labels: dict[str, np.ndarray]
    space: np.ndarray
    manifest: dict[str, Any]
    probe: Path | None = None


def main(arguments: list[str] | None = None, *, script: str = "evaluate.py") -> int:
    """Parses, checks, scores; returns the exit code."""
    return launch(Config, evaluate, script=script, description=__doc__, arguments=arguments)


def evaluate(config: Config) -> int:
    """The whole job; returns the exit code."""
    if not config.file.exists():
        raise ValueError(f"file={str(config.file)!r} does not exist: give an npz file of outputs, or a finished run")
    if config.out is not None and (config.out / "config.json").exists():
        raise ValueError(f"out={str(config.out)!r} is a run, whose files would be replaced: choose another directory")
    if config.out is not None and config.out.exists() and not config.out.is_dir():
        raise ValueError(f"out={str(config.out)!r} is a file: give a directory")
    own = {path: load_own(path) for path in config.own}
    for path, function in own.items():
        if not callable(function):
            raise ValueError(f"own={path!r} is no function, but {type(function).__name__}: give one")
    subjects = subjects_of_run if config.file.is_dir() else subjects_of_file
    for subject in list(subjects(config, own)):  # nothing is written before all of them are scored
        # ---------------------------------------------------------------------------- metrics
        scored = subject.scored
        if not scored:
            missing = "; ".join(f"{name} needs {why}" for name, why in subject.missing.items())
            raise ValueError(f"file={str(config.file)!r} allows no score: {missing}")
        first = config.score or subject.manifest.get("score") or next(iter(scored))
        if first not in scored:
            raise ValueError(f"score={first!r} is not among those of this file: choose from {', '.join(scored)}")
        found = osrjax.evaluation.assess_scored(
            *(scored, subject.labels),
            score=first,
            spaces={"davies_bouldin": subject.space},
            reject_share=config.reject_share,
            resamples=config.resamples,
        ).results

        # ------------------------------------------------------------------------------ write
        out, table = subject.directory, table_of(found, subject.missing, first, intervals=config.resamples > 0)
        with osrjax.files.writing(out):
            out.mkdir(parents=True, exist_ok=True)
        if config.draw:
            with osrjax.files.writing(out / "figures"):
                osrjax.report.draw_scores(out / "figures", scored, subject.labels["known"], own=first)
        osrjax.files.write_whole(out / "results.txt", (table + "\n").encode())
        results = {**found, "score": first, "not_applicable": subject.missing, "table": table}
        osrjax.files.write_json(out / "results.json", results)
        classes = len(subject.manifest["known_names"])
        ordered = {
            name: osrjax.evaluation.order_images(
                images, subject.labels, classes=classes, reject_share=config.reject_share
            )
            for name, images in scored.items()
        }
        numbers = {name: found[name] for name in ("validation_accuracy", "davies_bouldin")}
        manifest = {**subject.manifest, **numbers, "score": first, "recipe": config.recipe}
        manifest["reject_share"] = config.reject_share
        manifest |= {} if config.study is None else {"study": config.study}
        probe = None
        if subject.probe is not None:
            probe = osrjax.files.read_arrays(subject.probe, osrjax.run.REPEAT, finite=False)
            # Embeddings, for pictures, are most of it.
            probe |= {name: rows.astype(np.float16) for name, rows in probe.items() if name.startswith("embedding_")}
        osrjax.run.write_entry(out, manifest, ordered, probe=probe)
        print(f"{table}\nwritten to {out}")
    return 0


def subjects_of_file(config: Config, own: dict[str, Callable[..., Any]]) -> Iterator[Subject]:
    """The outputs in a file."""
    of_runs = {
        "images": False,
        "image_scores": (),
        "against": (),
        "data": None,
        "unknown_data": None,
        "data_dir": None,
        "own_method": None,
    }
    for name, default in of_runs.items():
        if (value := getattr(config, name)) != default:
            raise ValueError(f"{name}={value!r} belongs to a run, file={str(config.file)!r} is none: leave it out")
    stored = osrjax.evaluation.read_outputs(config.file, cosines=config.cosines)
    scored, missing = osrjax.evaluation.score_outputs(stored, own=own)
    known, name, labels = stored.outputs["known"], config.file.stem, dict(stored.labels)
    if "unknown" in labels:
        labels["unknown"] = np.unique(labels["unknown"], return_inverse=True)[1]
    # Of a split that no family lists it is known only that it is another than the others of its family.
    names = [f"{config.family} {config.split}: {position}" for position in range(stored.classes)]
    if listed := listed_split(config.family, config.dataset or name, config.split):
        names = [str(number) for number in listed.known]
        if len(names) != stored.classes:
            raise ValueError(
                f"file={str(config.file)!r} has {stored.classes} known classes, family {config.family} lists"
                f" {len(names)} in split {config.split} of {listed.dataset}: give the split that it is of"
            )
    manifest = {
        "label": config.label or name,
        "method": "outputs",
        "dataset": config.dataset or name,
        **{field: getattr(config, field) for field in ("family", "split", "seed")},
        "known_names": names,
        "cosines": config.cosines,
        "unknown_names": [],
        "unknown": config.dataset or name,
        "images": {part: len(next(iter(rows.values()))) for part, rows in stored.outputs.items()},
        "seconds": {},
    }
    directory = config.out or config.file.with_suffix(".evaluation")
    yield Subject(
        directory,
        scored,
        missing,
        labels,
        known["embedding" if "embedding" in known else "logits"],
        manifest,
    )


def subjects_of_run(config: Config, own: dict[str, Callable[..., Any]]) -> Iterator[Subject]:
    """The outputs of a run, against its own unknown images or others."""
    for name, default in {"cosines": None, "family": "custom", "split": 0, "seed": 0}.items():
        if (value := getattr(config, name)) != default:
            raise ValueError(f"{name}={value!r} is known of a run: leave it out")
    run = config.open_run(config.file, "scores.npz", argument="file")
    if config.out is None:
        check_no_links(config.file)
    own_name = run.config.get("dataset") or set_name(run.config["data"])
    directory = config.out or config.file / "evaluation"

    def subject(out: Path, unknown: str, data: "OpenSetData | None", outputs: dict, labels: dict) -> Subject:
        scored, missing = osrjax.run.score_run(run, outputs, labels, own=own)
        if config.image_scores:
            images = {part: found.images for part, found in osrjax.run.parts_of(data or run.data).items()}
            scored |= osrjax.analysis.score_image_parts(
                *(run.method, run.variables, images, scored[run.method.score]), names=config.image_scores
            )
        manifest = osrjax.run.manifest_of_run(
            run, data, label=config.label or run.method.options.method, unknown=unknown
        )
        classes = {
            number: place for place, number in enumerate(run.split.unknown if data is None else data.unknown_classes)
        }
        labels = {**labels, "unknown": np.array([classes[label] for label in labels["unknown"].tolist()])}
        space = outputs["known"][run.method.space]
        probe = run.directory / "probe.npz"
        own_images = unknown == own_name and probe.exists()
        return Subject(
            *(out, scored, missing, labels, space, {**manifest, "score": run.method.score}),
            probe=probe if own_images else None,
        )

    if not (config.images or config.against or config.dataset):
        yield subject(directory, own_name, None, *osrjax.run.stored_outputs(run))
        return
    osrjax.devices.cpu.reuse_host_memory()
    parts = osrjax.run.parts_of(run.data)
    if config.against:
        foreign = osrjax.run.foreign_sets(run, config.against, data_dir=config.data_dir)
        known = osrjax.run.outputs_of_images(run, {name: parts[name] for name in ("train", "validation", "known")})
        for name, unknown in foreign.items():
            print("".join(f"{name} {text}\n" for text in unknown.shared), end="")
            outputs, labels = osrjax.run.outputs_of_images(run, {"unknown": unknown.examples})
            short = set_name(name).replace("/", "-")
            data = dataclasses.replace(
                run.data,
                test_unknown=unknown.examples,
                unknown_names=unknown.class_names,
                unknown_classes=tuple(range(len(unknown.class_names))),
            )
            yield subject(directory / short, short, data, known[0] | outputs, known[1] | labels)
        return
    data = run.data if config.dataset is None else run.data_of_lists(config.dataset)
    outputs, labels = osrjax.run.outputs_of_images(run, osrjax.run.parts_of(data))
    yield subject(directory, config.dataset or own_name, data, outputs, labels)


def table_of(found: dict[str, Any], missing: dict[str, str], first: str, *, intervals: bool) -> str:
    """One row per score, then what is not applicable."""
    images = f"{found['known_images']} known and {found['unknown_images']} unknown images"
    images = f"[95 % bootstrap interval over {images}]" if intervals else images
    lines = [
        osrjax.report.open_set_table(found["scores"], None, score=first),
        osrjax.report.operating_point_text(found["scores"][first], score=first),
        f"* shown in the histogram; unknown = positive; {images}",
        *(f"not applicable: {name} ({why})" for name, why in missing.items()),
    ]
    return "\n".join(lines)
