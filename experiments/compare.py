"""Which loss, or which mixing, detects unknown classes best under one recipe? Many runs, one table.

    python experiments/compare.py bundled                            4 losses x 5 splits x 3 seeds
    python experiments/compare.py cifar10 --data npz:cifar10.npz     4 losses x 2 families x 3 splits
    python experiments/compare.py recipe                             what decides the recipe, known classes only
    python experiments/compare.py mixing                             6 ways to mix x 5 splits x 3 seeds
    python experiments/compare.py mixing-cifar10 --data npz:cifar10.npz     the same x 3 splits
    python experiments/compare.py mixing-layers                      which stages' maps place the box of GradMix
    python experiments/compare.py mixing-fill                        what fills the box of GradMix
    python experiments/compare.py mixing-sharper --data npz:fashion_mnist.npz    a sharper map, on pseudo-unknowns
    python experiments/compare.py mixing-m-ovr                       GradMix for m-OvR; mixing-softmax: for softmax
    python experiments/compare.py mixing-all --data npz:cifar10.npz --unknown-data npz:svhn.npz    OOD detection
    python experiments/compare.py ssl                                mixing without labels, by a linear probe
    python experiments/compare.py mixing-all ... --only-table        the same with what ood.py and corruption.py found

Every cell is one run of experiments/train.py (of contrastive.py for `ssl` and those of mixing but mixing-m-ovr and
mixing-softmax) in a directory of its own, so the command resumes where it was stopped, and any cell can be repeated by
the command in its log. Intervals: seeds are averaged within a split, then a 95 % t interval over splits; differences
are taken run by run (same split, same seed) and treated alike. Where ood.py or corruption.py (of generated corruptions)
have left their files in the runs' directories, as they do by default, their figures are tabulated too.
"""

import dataclasses
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from osrjax import metrics, report
from osrjax.data.splits import class_split
from osrjax.fields import check_not_negative
from osrjax.files import read_arrays, read_json, write_json, write_whole
from osrjax.run.grid import REPEAT, check_finished, check_same_data, is_finished, run_cells
from osrjax.run.launch import launch


@dataclasses.dataclass(frozen=True)
class Config:
    """Run and tabulate one comparison."""

    table: Annotated[
        Literal[
            "bundled",
            "cifar10",
            "recipe",
            "smoke",
            "mixing",
            "mixing-cifar10",
            "mixing-layers",
            "mixing-fill",
            "mixing-sharper",
            "mixing-m-ovr",
            "mixing-softmax",
            "mixing-all",
            "ssl",
        ],
        tyro.conf.Positional,
    ]
    """Which comparison."""
    out: Path = Path("runs/compare")
    """Directory of the runs and tables."""
    data: str | None = None
    """Where the images come from, if not where the comparison says: cifar10 (prepared by TFDS) or npz:FILE."""
    unknown_data: str | None = None
    """Where unknown test images come from, for mixing-all: svhn_cropped (prepared by TFDS) or npz:FILE."""
    workers: int = 0
    """Runs at a time, each on its share of the cores; 0: one per core."""
    only_table: bool = False
    """Tabulate the finished runs and start none."""

    def check(self) -> None:
        """Refuses a negative number of runs at a time."""
        check_not_negative(self, ["workers"])


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Arms (options of the script), the rows of cells to run each on, and what differences are taken against."""

    arms: dict[str, str]
    common: str
    groups: dict[str, str]
    """Name and options of each split: the unit that intervals are taken over."""
    seeds: int
    reference: str
    script: str = "train.py"
    gate: tuple[str, float] | None = None
    """An arm and the closed-set accuracy that it must reach for the comparison to count."""
    columns: tuple[str, ...] = ()
    """Figures of the run itself, not of a score, that get a column: names of ``FIGURES``."""


LOSSES = {
    "m-OvR": "--method m_ovr",
    "OvR": "--method ovr",
    "cosine softmax": "--method cosine_softmax",
    "softmax": "--method softmax",
}
MIXING = {
    "none": "--mixing none",
    "Mixup": "--mixing mixup",
    "CutMix": "--mixing cutmix",
    "random box": "--mixing random_box",
    "GradMix, sign +1": "--mixing gradmix --cam-sign 1",
    "GradMix, sign -1": "--mixing gradmix --cam-sign -1",
}
MASKS = {arm: MIXING[arm] for arm in ("none", "random box", "GradMix, sign +1", "GradMix, sign -1")}
NEAL = {f"neal {k}": f"--family neal --split {k}" for k in range(5)}
COMPARISONS = {
    "bundled": Comparison(
        arms=LOSSES,
        common="--preset bundled --steps 400",
        groups=NEAL,
        seeds=3,
        reference="m-OvR",
    ),
    "cifar10": Comparison(
        arms=LOSSES,
        common="--preset cifar10-small",
        groups={
            f"{family} {k}": f"--family {family} --split {k}"
            for family, indices in (("neal", (0, 1, 2)), ("split_2020", (0, 2, 3)))
            for k in indices  # split 1 of split_2020 repeats split 0
        },
        seeds=1,
        reference="m-OvR",
    ),
    "recipe": Comparison(  # known classes of neal split 0 only, each left out once; no test image is looked at
        arms={
            "m-OvR": "",
            "800 steps": "--steps 800",
            "T = 16": "--scale 16",
            "m = 0.25": "--margin 0.25",
            "m = 0.5 on the target": "--method m_ovr_target",
            "OvR": "--method ovr",
            "softmax": "--method softmax",
        },
        common="--preset bundled --family neal --split 0 --steps 400 --scale 32",
        groups={f"without {a} {b}": f"--held-out {a} {b}" for a, b in ((0, 1), (2, 4), (5, 9))},
        seeds=1,
        reference="m-OvR",
    ),
    "smoke": Comparison(
        arms={"m-OvR": "--method m_ovr", "softmax": "--method softmax"},
        common="--smoke",
        groups={f"neal {k}": f"--split {k}" for k in range(2)},
        seeds=1,
        reference="m-OvR",
    ),
    "mixing": Comparison(
        arms=MIXING,
        gate=("none", 0.85),
        common="--preset bundled",
        groups=NEAL,
        seeds=3,
        reference="random box",
        script="contrastive.py",
    ),
    "mixing-cifar10": Comparison(
        arms=MIXING,
        common="--preset cifar10-small --steps 60 --no-untrained",
        groups={name: NEAL[name] for name in ("neal 0", "neal 1", "neal 2")},
        seeds=1,
        reference="random box",
        script="contrastive.py",
    ),
    "mixing-layers": Comparison(
        arms={f"stages {stages}": f"--cam-layers {stages}" for stages in ("1", "2", "3", "2 3", "1 2 3")},
        common="--preset bundled --steps 150 --mixing gradmix",
        groups=NEAL,
        seeds=1,
        reference="stages 1 2 3",
        script="contrastive.py",
    ),
    "mixing-fill": Comparison(
        arms={fill: f"--fill {fill}" for fill in ("noise", "paste", "mean")},  # gray: noise_pixel would be noise
        common="--preset bundled --steps 150 --mixing gradmix",
        groups=NEAL,
        seeds=1,
        reference="noise",
        script="contrastive.py",
    ),
    "mixing-sharper": Comparison(  # known classes alone: the last two of each split play unknown
        arms={
            "random box": MIXING["random box"],
            "all stages, sign +1": "--mixing gradmix",
            "stage 3, sign -1": "--mixing gradmix --cam-layers 3 --cam-sign -1",  # the sharpest of concentration.py
        },
        gate=("all stages, sign +1", 0.9),
        common="--preset bundled --dataset fashion_mnist --steps 700 --no-untrained --no-linear-probe",
        groups={
            f"neal {k}": f"{NEAL[f'neal {k}']} --held-out {' '.join(map(str, known[-2:]))}"
            for k in range(5)
            for known in [class_split("neal", "fashion_mnist", k).known]
        },
        seeds=1,
        reference="stage 3, sign -1",
        script="contrastive.py",
    ),
    "mixing-m-ovr": Comparison(
        arms=MASKS, common="--preset bundled --steps 200 --method m_ovr", groups=NEAL, seeds=1, reference="random box"
    ),
    "mixing-softmax": Comparison(
        arms=MASKS, common="--preset bundled --steps 200 --method softmax", groups=NEAL, seeds=1, reference="random box"
    ),
    "mixing-all": Comparison(  # all classes known: the unknown images are those of another data set
        arms=MASKS,
        common="--preset cifar10-all-small --steps 60 --no-untrained",
        groups={f"seed {k}": f"--split {k} --seed {k}" for k in range(3)},
        seeds=1,
        reference="random box",
        script="contrastive.py",
        columns=("linear probe accuracy",),
    ),
    "ssl": Comparison(
        arms=MASKS,
        common="--preset ssl",
        groups=NEAL,
        seeds=1,
        reference="random box",
        script="contrastive.py",
        columns=("linear probe accuracy",),
    ),
}
METRICS = ("closed_set_accuracy", "auroc", "oscr")
# Where results.json has a figure of the run itself, if at all.
FIGURES = {"linear probe accuracy": ("linear_probe", "accuracy")}
ATTRIBUTION = {"in the box": ("attribution", "mass_in_box"), "in a random box": ("attribution", "mass_in_random_box")}


def main(arguments: list[str] | None = None) -> int:
    """Runs what is missing, then prints and stores the table."""
    return launch(Config, work, script="compare.py", description=__doc__, arguments=arguments)


def work(config: Config) -> int:
    """The whole job; returns the exit code."""
    comparison = COMPARISONS[config.table]
    cells = {
        (arm, group, seed): config.out / config.table / f"{arm}-{group}-{seed}".replace(" ", "_")
        for seed in range(comparison.seeds)  # seeds outermost: a stopped comparison is still balanced
        for group in comparison.groups
        for arm in comparison.arms
    }
    options = {out: options_of(config, comparison, cell) for cell, out in cells.items()}
    if config.only_table and not any(map(is_finished, options)):
        raise ValueError(f"out={str(config.out)!r} has no finished run of {config.table}: leave --only-table out")
    check_finished(options)
    if not config.only_table:
        failed = run_cells(
            Path(__file__).with_name(comparison.script),
            options,
            workers=config.workers,
            compilation_cache=config.out / "compilation_cache",
        )
        if failed:
            print(f"compare.py: {len(failed)} runs failed; their logs: " + ", ".join(failed), file=sys.stderr)
            return 1
    check_same_data(options)
    texts, numbers = [], {}
    for family in dict.fromkeys(group.split()[0] for group in comparison.groups):
        groups = {group: options for group, options in comparison.groups.items() if group.split()[0] == family}
        text, numbers[family] = tabulate(dataclasses.replace(comparison, groups=groups), cells)
        texts.append(f"{config.table}, {family}: {text}")
    text = "\n\n".join(texts)
    write_whole(config.out / f"{config.table}.txt", (text + "\n").encode())
    write_json(config.out / f"{config.table}.json", numbers)
    print(text)
    place, run = config.out / config.table, shlex.quote(str(next(filter(is_finished, options))))
    report.leave_page(place, following=f"osrjax evaluate {run} --images  # or any other run of {place}")
    return 0


def options_of(config: Config, comparison: Comparison, cell: tuple[str, str, int]) -> list[str]:
    """The options of the script for one cell."""
    arm, group, seed = cell
    # Where no split tells the groups apart, their seeds do.
    seeding = "" if "--seed" in comparison.groups[group] else f"--seed {seed}"
    options = f"{comparison.common} {comparison.arms[arm]} {comparison.groups[group]} {seeding} --resamples 0"
    return (
        options.split()
        + (["--data", config.data] if config.data else [])
        + (["--unknown-data", config.unknown_data] if config.unknown_data else [])
    )


def tabulate(comparison: Comparison, cells: dict) -> tuple[str, dict]:
    """Mean and interval of every arm and score, and differences to the reference arm, as text and as JSON values."""
    cells = {cell: out for cell, out in cells.items() if cell[1] in comparison.groups}
    results = read_finished(cells, "results.json")
    shape = (len(comparison.groups), comparison.seeds)
    values = partial(collect, comparison, results)

    def score_values(arm: str, score: str, metric: str) -> np.ndarray:
        return values(arm, "trained", "scores", score, metric, "value")

    scores_of, own_score = {}, {}
    for arm in comparison.arms:
        done = [cell for cell in results if cell[0] == arm]
        if done:
            scores_of[arm] = list(results[done[0]]["trained"]["scores"])
            own_score[arm] = results[done[0]]["score"]
    rows, numbers = [], {}
    for arm, names in scores_of.items():
        for score in names:
            found = {metric: metrics.t_interval(score_values(arm, score, metric)) for metric in METRICS}
            if score == own_score[arm]:
                found |= means_of({name: values(arm, *FIGURES[name]) for name in comparison.columns})
            texts, numbers[f"{arm} / {score}"] = shown(found)
            rows.append({"arm": arm, "score": score + (" *" if score == own_score[arm] else ""), **texts})
    differences = []
    reference = comparison.reference
    for arm in comparison.arms:
        if arm == reference or arm not in own_score or reference not in own_score:
            continue
        pairs = {
            metric: metrics.paired_difference(
                score_values(reference, own_score[reference], metric), score_values(arm, own_score[arm], metric)
            )
            for metric in METRICS
        }
        pairs |= means_of(
            {name: values(reference, *FIGURES[name]) - values(arm, *FIGURES[name]) for name in comparison.columns}
        )
        texts, numbers[f"{reference} - {arm}"] = shown(pairs, difference=True)
        texts["auroc difference found with 80 % power"] = report.number_text(metrics.detectable(pairs["auroc"]))
        differences.append({"difference of the scores marked *": f"{reference} - {arm}", **texts})
    title = (
        f"{len(results)} of {len(cells)} runs: {shape[0]} splits x {shape[1]} seeds, mean [95 % t interval over splits]"
    )
    if comparison.gate is not None:
        arm, least = comparison.gate
        if arm in own_score:
            accuracy = metrics.t_interval(score_values(arm, own_score[arm], "closed_set_accuracy")).mean
            met = "met" if accuracy >= least else "NOT met: no verdicts"
            title += f"\nthe arm {arm!r} should reach an accuracy of {least}: {accuracy:.3f}, {met}"
    angles, attributions = [], []
    for arm in own_score:
        outs = [cells[cell] for cell in results if cell[0] == arm]
        if "cosine" in scores_of[arm]:
            medians = np.mean([median_angles(out) for out in outs], axis=0)
            names = ("known to own prototype", "known to the others", "unknown to the nearest")
            angles.append(
                {"median angle, degrees": arm, **{n: f"{m:.0f}" for n, m in zip(names, medians, strict=True)}}
            )
            numbers[f"{arm} / median angles"] = dict(zip(names, medians.tolist(), strict=True))
        masses = means_of({name: values(arm, *path) for name, path in ATTRIBUTION.items()})
        if masses:
            texts, numbers[f"{arm} / attribution mass"] = shown(masses)
            attributions.append({"attribution mass": arm, **texts})
    tables = [rows, differences, angles, attributions]
    for more in (foreign_sets(comparison, cells, results, own_score), corrupted_images(comparison, cells)):
        tables += more[0]
        numbers |= more[1]
    tables = [report.results_table(table) for table in tables if table]
    return "\n\n".join([title, *tables]), numbers


def read_finished(cells: dict, file: str) -> dict:
    """What a file holds in the directory of every finished run that has it."""
    return {
        cell: read_json(out / file, REPEAT) for cell, out in cells.items() if is_finished(out) and (out / file).exists()
    }


def collect(comparison: Comparison, results: dict, arm: str, *path: str) -> np.ndarray:
    """One figure of an arm's runs, [groups, seeds], from what :func:`read_finished` gives; nan where there is none."""
    found = np.full((len(comparison.groups), comparison.seeds), np.nan)
    for i, group in enumerate(comparison.groups):
        for seed in range(comparison.seeds):
            value = results.get((arm, group, seed))
            for key in path:
                value = (value or {}).get(key)
            found[i, seed] = np.nan if value is None else value
    return found


Tables = tuple[list[list[dict]], dict[str, dict]]


def arms_and_differences(comparison: Comparison, figures: dict[str, dict[str, np.ndarray]], what: str) -> Tables:
    """A table of means of every arm, one of the differences to the reference arm, and the numbers of both."""
    numbers, rows, differences = {}, [], []
    for arm, columns in figures.items():
        found = means_of(columns)
        if not found:
            continue
        texts, numbers[f"{arm} / {what}"] = shown(found)
        rows.append({what: arm} | texts)
        reference = figures.get(comparison.reference, {})
        pairs = {name: reference[name] - values for name, values in columns.items() if name in reference}
        if arm != comparison.reference and (found := means_of(pairs)):
            name = f"{comparison.reference} - {arm}"
            texts, numbers[f"{name} / {what}"] = shown(found, difference=True)
            differences.append({f"difference, {what}": name} | texts)
    return [rows, differences], numbers


def foreign_sets(comparison: Comparison, cells: dict, results: dict, own_score: dict[str, str]) -> Tables:
    """The runs' own unknown images and the sets of their ood.json, by the runs' own score; empty without such files."""
    found = read_finished(cells, "ood/ood.json")
    sets = dict.fromkeys(name for run in found.values() for name in run["sets"])
    tables, numbers = [], {}
    for name in ["the runs' own unknown images", *sets] if sets else []:
        source = partial(collect, comparison, found) if name in sets else partial(collect, comparison, results)
        path = ("sets", name, "scores") if name in sets else ("trained", "scores")
        figures = {
            arm: {column: source(arm, *path, score, metric, "value") for column, metric in report.OOD_COLUMNS.items()}
            for arm, score in own_score.items()
        }
        kind, _, file = name.partition(":")  # of a file the name says enough
        what = f"{kind}:{Path(file).name}" if file else name
        counted = sum(name in run["sets"] for run in found.values()) if name in sets else len(results)
        more = arms_and_differences(comparison, figures, what + missing_runs(counted, cells))
        tables += more[0]
        numbers |= more[1]
    return tables, numbers


def corrupted_images(comparison: Comparison, cells: dict) -> Tables:
    """Accuracies on generated corruptions, from the runs' corruption.json; empty without such files."""
    found = read_finished(cells, "corruption-generated/corruption.json")
    if not found:
        return [], {}
    what = report.corruptions_text(found.values())
    columns = {cell: report.corruption_columns(run) for cell, run in found.items()}
    names = next(iter(columns.values()))
    figures = {arm: {name: collect(comparison, columns, arm, name) for name in names} for arm in comparison.arms}
    return arms_and_differences(comparison, figures, what + missing_runs(len(found), cells))


def missing_runs(found: int, cells: dict) -> str:
    """How many runs stand behind a table, if not all."""
    return "" if found == len(cells) else f", {found} of {len(cells)} runs"


def means_of(runs: dict[str, np.ndarray]) -> dict[str, "metrics.Estimate"]:
    """Mean and interval over splits by name, without the names that no run has."""
    return {name: metrics.t_interval(values) for name, values in runs.items() if not np.isnan(values).all()}


def shown(
    estimates: dict[str, "metrics.Estimate"], *, difference: bool = False
) -> tuple[dict[str, str], dict[str, dict]]:
    """Texts and JSON values of estimates by name; all that is tabulated here is a share, or a difference of two."""
    bounds = metrics.SIGNED if difference else metrics.SHARE
    texts = {name: report.estimate_text(estimate, bounds=bounds) for name, estimate in estimates.items()}
    return texts, {name: report.estimate_json(estimate, bounds=bounds) for name, estimate in estimates.items()}


def median_angles(out: Path) -> tuple[float, float, float]:
    """Of known images to their own prototype and to the others, of unknown images to the nearest, in degrees."""
    stored = read_arrays(out / "scores.npz", REPEAT, names=("known_logits", "unknown_logits", "known_labels"))
    known, unknown = (np.degrees(np.arccos(np.clip(stored[f"{part}_logits"], -1, 1))) for part in ("known", "unknown"))
    own = np.eye(known.shape[1], dtype=bool)[stored["known_labels"]]
    return float(np.median(known[own])), float(np.median(known[~own])), float(np.median(unknown.min(axis=1)))


if __name__ == "__main__":
    sys.exit(main())
