"""What does training do to the input-Jacobian norm of known and unknown images? Figures, and a verdict on each claim.

    python experiments/jacobian.py bundled                           every figure and claim, bundled images
    python experiments/jacobian.py cifar10 --data npz:cifar10.npz    four arms on CIFAR-10
    python experiments/jacobian.py margin0                           bundled images, the loss and its halves at m = 0
    python experiments/jacobian.py smoke                             all of it in miniature, digits

The rule, fixed before any run. One number per run; the seeds of a split are averaged, then a 95 % t interval over
splits; a correlation is one Spearman rho per run, over its probed steps. An effect holds (fails) if the interval
excludes 0 on the side that the claim names (on the other), else it is undecided; a claim holds if all its effects
do and fails if one does. No verdict where the mean closed-set accuracy of an arm concerned is below 0.85: for
claim (i), whose halves classify nothing, that of the arm with both halves; for claim (f) that of every K.
(a) to (e) are decided by m-OvR and reported for softmax too. n of `bundled`: 5 splits x 3 seeds; for (f), 5 class
orders x 3 seeds, a class order being a permutation of the ten classes whose last two are unknown for every K and
whose first K are known. n of `cifar10`: 3 splits x 1 seed, and no (f). Norms are those of the unit embedding, at test
images, which have no say in training; JND, the Jacobian norm difference, is the mean norm of unknown less that of known
images. `margin0` was added when the first split of `bundled` had shown that the inter
half with its margin hardly trains: 5 splits x 1 seed, no softmax and no (f).

Every cell is one run of experiments/train.py in a directory of its own, so the command resumes where it was stopped.
Written to OUT/TABLE: figures as PNG and SVG, claims.json (every effect with its numbers per split; the numbers of the
curves; every run with its directory, options, revision and metrics before and after training) and claims.txt (the
printed tables).
"""

import dataclasses
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import numpy as np
import tyro

from osrjax import analysis, metrics, report
from osrjax.data.splits import nested_split
from osrjax.fields import check_not_negative
from osrjax.files import number_or_none, read_arrays, read_json, write_json, write_whole
from osrjax.run.grid import REPEAT, check_finished, check_same_data, is_finished, run_cells
from osrjax.run.launch import launch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = tuple[str, str, int]  # arm, group, seed
FigureName = Literal[
    "histograms", "interpolation", "dynamics", "correlation", "known_classes", "losses", "embedding", "halves"
]


@dataclasses.dataclass(frozen=True)
class Config:
    """Run, draw and tabulate."""

    table: Annotated[Literal["bundled", "cifar10", "margin0", "smoke"], tyro.conf.Positional] = "bundled"
    """Which grids of runs."""
    smoke: bool = False
    """The same as the table smoke."""
    out: Path = Path("runs/jacobian")
    """Directory of the runs, figures and tables."""
    data: str | None = None
    """Where the images come from, if not where the table says: cifar10 (prepared by TFDS) or npz:FILE."""
    workers: int = 0
    """Runs at a time, each on its share of the cores; 0: one per core."""
    only_figures: bool = False
    """Draw and tabulate the finished runs and start none."""
    figures: tuple[FigureName, ...] = ()
    """Which figures to draw: those of the paper's figures 3 to 8 and 12, and of the halves of the loss; empty: all."""

    def check(self) -> None:
        """Refuses a negative number of runs at a time."""
        check_not_negative(self, ["workers"])


@dataclasses.dataclass(frozen=True)
class Table:
    """Options of train.py for three sets of runs: the arms over training, K known classes, and one run in full."""

    common: str
    groups: dict[str, str]
    """Name and options of each split: the unit that intervals are taken over."""
    seeds: int
    arms: dict[str, str]
    known_common: str = ""
    counts: tuple[int, ...] = ()
    """Numbers K of known classes, rising."""
    orders: int = 0
    """Class orders, each a permutation of ten classes; the last two are unknown."""
    decides: bool = True
    """Whether (a) to (e) are decided here, or reported alone because the arm called m-OvR is not m-OvR."""
    whole: str = ""
    """Options of a run that measures every test image, for the histograms and the map; empty: its probe images do."""


ARMS = {
    "m-OvR": "--method m_ovr",
    "softmax": "--method softmax",
    "intra half": "--method m_ovr --intra-weight 1 --inter-weight 0",
    "inter half": "--method m_ovr --intra-weight 0 --inter-weight 1",
}
TABLES = {
    "bundled": Table(
        common="--preset bundled --steps 300 --probe-every 30 --probe-images 40 --probe-pairs 8",
        groups={f"neal {k}": f"--family neal --split {k}" for k in range(5)},
        seeds=3,
        arms=ARMS,
        known_common="--preset bundled --method m_ovr --steps 200 --probe-every 200 --probe-images 40 --probe-pairs 4",
        counts=(2, 4, 6, 8),
        orders=5,
        whole="--preset bundled --method m_ovr --split 0 --probe-every 50 --test-norms",
    ),
    "cifar10": Table(
        common="--preset cifar10-small --steps 400 --probe-every 50 --probe-images 40 --probe-pairs 8",
        groups={f"neal {k}": f"--family neal --split {k}" for k in range(3)},
        seeds=1,
        arms=ARMS,
    ),
    "margin0": Table(
        common="--preset bundled --margin 0 --steps 300 --probe-every 30 --probe-images 40 --probe-pairs 8",
        groups={f"neal {k}": f"--family neal --split {k}" for k in range(5)},
        seeds=1,
        arms={arm: options for arm, options in ARMS.items() if arm != "softmax"},
        decides=False,
    ),
    "smoke": Table(
        common="--smoke --probe-every 10 --probe-images 12",
        groups={f"neal {k}": f"--family neal --split {k}" for k in range(2)},
        seeds=1,
        arms=ARMS,
        known_common="--smoke --method m_ovr --probe-every 20 --probe-images 12",
        counts=(2, 4),
        orders=2,
        whole="--smoke --method m_ovr --split 0 --probe-every 10 --probe-images 12 --test-norms",
    ),
}
METHOD, BASELINE = "m-OvR", "softmax"
WHOLE = ("whole", "run", 0)


class Found(NamedTuple):
    """What the finished runs measured: probes by arm, JND and accuracy [orders, seeds, counts], images of one run."""

    probes: dict[str, list[list[dict[str, np.ndarray] | None]]]
    counts: np.ndarray
    jnd: np.ndarray
    accuracy: np.ndarray
    images: dict[str, np.ndarray] | None
    class_names: list[str]


def main(arguments: list[str] | None = None) -> int:
    """Runs what is missing, then draws the figures and prints and stores the verdicts."""
    return launch(Config, work, script="jacobian.py", description=__doc__, arguments=arguments)


def work(config: Config) -> int:
    """The whole job; returns the exit code."""
    if config.smoke:
        config = dataclasses.replace(config, table="smoke")
    table = TABLES[config.table]
    out = config.out / config.table
    options = options_of(table, config.data)
    cells = {cell: out / "-".join(map(str, cell)).replace(" ", "_") for cell in options}
    by_directory = {cells[cell]: line for cell, line in options.items()}
    if config.only_figures and not any(map(is_finished, by_directory)):
        raise ValueError(f"out={str(config.out)!r} has no finished run of {config.table}: leave --only-figures out")
    check_finished(by_directory)
    if not config.only_figures:
        failed = run_cells(
            Path(__file__).with_name("train.py"),
            by_directory,
            workers=config.workers,
            compilation_cache=config.out / "compilation_cache",
        )
        if failed:
            print(f"jacobian.py: {len(failed)} runs failed; their logs: " + ", ".join(failed), file=sys.stderr)
            return 1
    check_same_data(by_directory)
    summarise(config, table, cells, options)
    return 0


def summarise(
    config: Config,
    table: Table,
    cells: dict[Cell, Path],
    options: dict[Cell, list[str]],
) -> None:
    """Draws the figures, prints and stores the verdicts."""
    found = read_runs(table, cells)
    out = config.out / config.table
    figures = out / "figures"
    figures.mkdir(exist_ok=True)
    for name, draw in FIGURES.items():
        if config.figures and name not in config.figures:
            continue
        figure = draw(found)
        print(
            f"figure {name}: " + (str(report.save_figure(figure, figures / name)[0]) if figure else "no finished run")
        )
    records = effects_of(found, decides=table.decides)
    # Added after the first split was seen: which classes are unknown decides the sign of JND.
    roles = {arm: analysis.class_adjusted_norms(probes) for arm, probes in present(found, *ARMS).items()}
    verdicts = {
        letter: metrics.claim_verdict([record for record in records if record["claim"] == letter])
        for letter in analysis.CLAIMS
    }
    runs = [
        {"directory": str(cells[cell]), "options": " ".join(line), **measured(cells[cell])}
        for cell, line in options.items()
    ]
    revisions = {run["revision"] for run in runs if run["finished"]}
    if len(revisions) > 1:
        print(f"jacobian.py: the runs are of {len(revisions)} revisions of the source: {sorted(map(str, revisions))}")
    stored = {
        "table": config.table,
        "rule": __doc__,
        "accuracy_threshold": metrics.ACCURACY,
        "claims": {letter: {"text": analysis.CLAIMS[letter], "verdict": v} for letter, v in verdicts.items()},
        "effects": records,
        "class_adjusted": roles,
        "curves": curves(found),
        "runs": runs,
    }
    write_json(out / "claims.json", stored)
    text = tables_text(config.table, table, cells, records, verdicts, found, roles)
    write_whole(out / "claims.txt", (text + "\n").encode())
    print("\n" + text)
    run = shlex.quote(str(next(filter(is_finished, cells.values()))))
    report.leave_page(out, following=f"osrjax norms {run} --images 500  # or any other run of {out}")


# --------------------------------------------------------------------------------------------- runs


def options_of(table: Table, data: str | None) -> dict[Cell, list[str]]:
    """The options of train.py by cell, in the order of running: seeds outermost, so that a stopped grid is balanced."""
    lines = {WHOLE: table.whole} if table.whole else {}
    for seed in range(table.seeds):
        for group, split in table.groups.items():
            for arm, options in table.arms.items():
                lines[arm, group, seed] = f"{table.common} {options} {split} --seed {seed}"
        for order in range(table.orders):
            for count in table.counts:
                split = nested_split(order, count)
                known, unknown = (" ".join(map(str, classes)) for classes in (split.known, split.unknown))
                lines[f"K{count}", f"order {order}", seed] = (
                    f"{table.known_common} --known {known} --unknown {unknown} --seed {seed}"
                )
    return {cell: f"{line} --resamples 0".split() + (["--data", data] if data else []) for cell, line in lines.items()}


def read_runs(table: Table, cells: dict[Cell, Path]) -> Found:
    """The arrays of every finished run; None and nan where one is missing."""

    def probe(cell: Cell) -> dict[str, np.ndarray] | None:
        if cell not in cells or not is_finished(cells[cell]):
            return None
        known = read_json(cells[cell] / "provenance.json", REPEAT)["split"]["known"]
        return arrays_of(cells[cell] / "probe.npz") | {"known_classes": np.array(known)}

    probes = {
        arm: [[probe((arm, group, seed)) for seed in range(table.seeds)] for group in table.groups] for arm in ARMS
    }
    last = {name: np.full((table.orders, table.seeds, len(table.counts)), np.nan) for name in ("jnd", "accuracy")}
    for i, j, k in np.ndindex(last["jnd"].shape):
        run = probe((f"K{table.counts[k]}", f"order {i}", j))
        for name, values in last.items():
            values[i, j, k] = run[name][-1] if run else np.nan
    shown = next((cell for cell in (WHOLE, *cells) if cell in cells and shows_images(cell, cells[cell])), None)
    names = read_json(cells[shown] / "provenance.json", REPEAT)["known_names"] if shown else []
    images = images_of(cells[shown]) if shown else None
    return Found(probes, np.array(table.counts), last["jnd"], last["accuracy"], images, names)


def shows_images(cell: Cell, directory: Path) -> bool:
    """Whether a run can stand for the histograms and the map: the one in full, else the method's first one."""
    return cell[0] in (WHOLE[0], METHOD) and is_finished(directory)


def images_of(directory: Path) -> dict[str, np.ndarray]:
    """Norms before and after training and the embedding, of every test image or, if not measured, of those probed."""
    if (directory / "norms.npz").exists():
        return arrays_of(directory / "norms.npz")
    probe = arrays_of(directory / "probe.npz")
    found = {"known_labels": probe["labels_known"]}
    for kind in ("known", "unknown"):
        norms = probe[f"norms_{kind}"]
        found |= {
            f"{kind}_before": norms[0],
            f"{kind}_after": norms[-1],
            f"{kind}_embedding": probe[f"embedding_{kind}"],
        }
    return found


def arrays_of(file: Path) -> dict[str, np.ndarray]:
    """Every array of an .npz file."""
    return read_arrays(file, REPEAT, finite=False)


def measured(directory: Path) -> dict:
    """Every metric of the first and last probe of a run, which any figure over runs needs, and its revision."""
    if not is_finished(directory):
        return {"finished": False}
    probe = arrays_of(directory / "probe.npz")
    ends = {name: [number_or_none(probe[name][end]) for end in (0, -1)] for name in analysis.PROBE_METRICS}
    starts = read_json(directory / "provenance.json", REPEAT)["starts"]
    return {"finished": True, "revision": starts[-1]["revision"] if starts else None, "first_and_last": ends}


def curves(found: Found) -> dict:
    """The numbers that the figures over training and over K draw: mean and interval over splits."""

    def estimates(values: np.ndarray, bounds: "metrics.Range") -> list[list[float | None]]:
        triples = []
        for column in np.moveaxis(values, -1, 0):
            column = np.where(np.isinf(column), np.nan, column)  # a collapsed network's Davies-Bouldin index
            estimate = (
                report.estimate_json(metrics.t_interval(column), bounds=bounds) if np.isfinite(column).any() else {}
            )
            triples.append([estimate.get("mean"), *estimate.get("interval", [None, None])])
        return triples

    drawn: dict = {"columns": ["mean", "low", "high"], "arms": {}}
    for arm, probes in present(found, *ARMS).items():
        profiles = analysis.series(probes, "profiles").mean(axis=3)
        drawn["arms"][arm] = {
            "steps": report.probe_steps(probes).tolist(),
            **{
                name: estimates(analysis.series(probes, name), metrics.range_of(name))
                for name in analysis.PROBE_METRICS
            },
            "profile_before": estimates(profiles[:, :, 0], metrics.range_of("norm_known")),
            "profile_after": estimates(profiles[:, :, 1], metrics.range_of("norm_known")),
        }
    if found.counts.size:
        drawn["known_classes"] = {"K": found.counts.tolist(), "jnd": estimates(found.jnd, metrics.range_of("jnd"))}
    return drawn


# ------------------------------------------------------------------------------------------ figures


def present(found: Found, *arms: str) -> dict[str, list[list[dict[str, np.ndarray] | None]]]:
    """Probes of those of the arms that have a finished run."""
    return {arm: found.probes[arm] for arm in arms if any(run for row in found.probes[arm] for run in row)}


def histograms(found: Found) -> "Figure | None":
    """Figure 3: norms of known and unknown images before and after training."""
    if (arrays := found.images) is None:
        return None
    return report.norm_histograms(
        {f"{when} training": (arrays[f"known_{when}"], arrays[f"unknown_{when}"]) for when in ("before", "after")}
    )


def interpolation(found: Found) -> "Figure | None":
    """Figure 4: norms along lines between known classes."""
    return report.probe_interpolation_figure(arms) if (arms := present(found, METHOD, BASELINE)) else None


def dynamics(found: Found) -> "Figure | None":
    """Figure 5: everything over training, m-OvR."""
    return report.probe_dynamics_figure(arms[METHOD], title=METHOD) if (arms := present(found, METHOD)) else None


def correlation(found: Found) -> "Figure | None":
    """Figure 6: AUROC and DBI against JND over training."""
    return report.probe_correlation_figure(arms[METHOD]) if (arms := present(found, METHOD)) else None


def known_classes(found: Found) -> "Figure | None":
    """Figure 7: JND against the number of known classes."""
    if np.isnan(found.jnd).all():
        return None
    return report.known_classes_figure(found.counts, found.jnd)


def losses(found: Found) -> "Figure | None":
    """Figure 8: m-OvR beside softmax over training."""
    return report.probe_arms_figure(arms) if (arms := present(found, METHOD, BASELINE)) else None


def halves(found: Found) -> "Figure | None":
    """Claim (i): each half of the loss alone beside both."""
    arms = present(found, METHOD, "intra half", "inter half")
    return report.probe_arms_figure(arms) if arms else None


def embedding(found: Found) -> "Figure | None":
    """Figure 12: the embedding in the plane, by class and by norm."""
    if (arrays := found.images) is None:
        return None
    return report.embedding_heat_map(
        arrays["known_embedding"],
        arrays["unknown_embedding"],
        arrays["known_labels"],
        arrays["known_after"],
        arrays["unknown_after"],
        class_names=found.class_names,
    )


FIGURES: dict[FigureName, "Callable[[Found], Figure | None]"] = {
    "histograms": histograms,
    "interpolation": interpolation,
    "dynamics": dynamics,
    "correlation": correlation,
    "known_classes": known_classes,
    "losses": losses,
    "halves": halves,
    "embedding": embedding,
}


# ----------------------------------------------------------------------------------------- verdicts


def effects_of(found: Found, *, decides: bool) -> list[dict]:
    """Every effect of every claim that the table has runs for."""
    probes = found.probes
    records = [
        record
        for arm in (METHOD, BASELINE)
        for record in analysis.dynamics_effects(probes[arm], arm=arm, decides=decides and arm == METHOD)
    ]
    if found.counts.size:
        records += analysis.known_classes_effects(found.counts, found.jnd, found.accuracy, arm=METHOD)
    records += analysis.loss_effects(probes[METHOD], probes[BASELINE])
    return records + analysis.half_effects(probes["intra half"], probes["inter half"], probes[METHOD])


def tables_text(
    name: str, table: Table, cells: dict, records: list[dict], verdicts: dict[str, str], found: Found, roles: dict
) -> str:
    """Accuracies, effects and verdicts."""
    done = sum(map(is_finished, cells.values()))
    accuracies = [
        {"arm": arm, "closed-set accuracy": mean_text(analysis.series(probes, "accuracy")[..., -1])}
        for arm, probes in present(found, *table.arms).items()
    ]
    accuracies += [
        {"arm": f"K = {count}", "closed-set accuracy": mean_text(found.accuracy[..., k])}
        for k, count in enumerate(table.counts)
        if not np.isnan(found.accuracy[..., k]).all()
    ]
    shown = [r for r in records if r["verdict"] != metrics.NO_RUN or r["arm"] in table.arms]
    claim_rows = [
        {"claim": letter, "text": analysis.CLAIMS[letter], "verdict": verdict} for letter, verdict in verdicts.items()
    ]
    title = f"{name}: {done} of {len(cells)} runs: {len(table.groups)} splits x {table.seeds} seeds"
    if table.counts:
        title += f"; {table.orders} class orders x {table.seeds} seeds for each K"
    tables = (accuracies, report.effect_rows(shown), report.role_rows(roles), claim_rows)
    return "\n\n".join([title, *(report.results_table(rows) for rows in tables if rows), report.JND])


def mean_text(values: np.ndarray) -> str:
    """Mean and interval over splits of one accuracy per run, some of them there."""
    return report.estimate_text(metrics.t_interval(values), bounds=metrics.SHARE)


if __name__ == "__main__":
    sys.exit(main())
