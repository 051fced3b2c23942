"""Pages of many runs: a sweep, a comparison, the claims about Jacobian norms, the entries of a benchmark."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from osrjax import metrics
from osrjax.files import read_json, reading
from osrjax.report.page.elements import (
    Cell,
    Drawing,
    Page,
    Section,
    details,
    has_drawings,
    link,
    paragraph,
    plain_table,
    table,
)
from osrjax.report.page.run import LARGEST, metric_title, verdict_table
from osrjax.report.tables import estimate_text
from osrjax.run.entries import Entry, find_entries, read_entry

if has_drawings():  # they import Bokeh
    from osrjax.report.page import drawings

__all__ = ["benchmark_page", "claims_page", "comparison_page", "sweep_page"]

REMEDY = "restore it, or give the same command again"
MAIN = ("closed_set_accuracy", "auroc", "oscr")
OF_ENTRY = (*MAIN, "fpr_at_95_tpr_unknown_positive", "rejected_known", "rejected_unknown")
OVER_SPLITS = "Mean [95 % t interval over splits], the seeds of a split averaged first"
SHOWN = 500  # runs with a row of their own


def sweep_page(directory: Path) -> Page:
    """The page of an ablation.

    Args:
      directory: with config.json, results.json and results.csv.

    Raises:
      FileError: a file is damaged.
    """
    config, found = (read_json(directory / f"{name}.json", REMEDY) for name in ("config", "results"))
    with reading(directory / "results.csv", REMEDY):
        lanes = _rows(directory / "results.csv")
        names = list(lanes[0])
        recipe = names[names.index("seed") + 1 : names.index("score")]
        varied = [name for name in recipe if len({lane[name] for lane in lanes}) > 1]
        measured = [
            name
            for name in names[names.index("diverged_at") + 1 : names.index("command")]
            if any(_number(lane[name]) is not None for lane in lanes)
        ]
        many = " x ".join(str(len({lane[name] for lane in lanes})) for name in ("split", "seed"))
    with reading(directory / "results.json", REMEDY):
        arms = [{"arm": arm} | _estimates(values) for arm, values in found["arms"].items()]
        pairs = [
            {"difference": f"{lanes[0]['arm']} - {arm}"} | _estimates(values)
            for arm, values in found["differences"].items()
        ]
    means = [table(arms, OVER_SPLITS)]
    if pairs:
        means.append(table(pairs, "The first arm less another, paired by split and seed"))
    sections = [Section("Arms", means)]
    if "auroc" in measured:
        sections.append(Section("What was varied, and what came out", _sweep_drawings(lanes, varied, measured)))
    if panels := _history(directory / "history.csv", lanes):
        drawing = Drawing("Means over the runs of an arm.", lambda: drawings.dynamics(panels))
        sections.append(Section("During training", [drawing]))
    shown = ["lane", "arm", "split", "seed", *varied, "diverged_at", *measured]
    rows = [{metric_title(name): _table_cell(lane[name]) for name in shown} for lane in lanes[:SHOWN]]
    commands = {f"lane {lane['lane']}": lane["command"] for lane in lanes[:SHOWN]}
    first = f"the first {SHOWN} of {len(lanes)} runs" if len(lanes) > SHOWN else "every run"
    runs = table(rows, f"A row for {first}; one that diverged has no metrics")
    sections += [
        Section("Every run", [runs, details("Commands", plain_table(commands, "The single run that a lane equals"))]),
        Section("How it was made", [details("Configuration", plain_table(config, "config.json"))]),
    ]
    facts = {"arms": str(len(arms)), "runs": str(len(lanes)), "splits x seeds": many}
    return Page(directory.resolve().name, "A sweep", facts, sections)


def _sweep_drawings(lanes: Sequence[Mapping[str, str]], varied: list[str], measured: list[str]) -> list[Drawing]:
    axes = [name for name in (*MAIN, "jnd") if name in measured]
    columns = {name: [_value(lane[name]) for lane in lanes] for name in (varied or ["arm"])[:8] + axes}
    titled = {metric_title(name): values for name, values in columns.items()}
    runs = [
        {name: lane[name] for name in ("arm", "split", "seed")}
        | {metric_title(name): _value(lane[name]) for name in axes}
        for lane in lanes
    ]
    return [
        Drawing(
            "A line for every run, through what was varied and what came out; darker and thicker: higher AUROC.",
            lambda: drawings.parallel_coordinates(titled, colour="AUROC"),
        ),
        Drawing("AUROC against accuracy, a point for every run.", lambda: _points(runs, "arm")),
    ]


def comparison_page(directory: Path) -> Page:
    """The page of a comparison.

    Args:
      directory: the cells of compare.py, OUT/TABLE; its numbers are OUT/TABLE.json.

    Raises:
      FileError: a file is damaged.
    """
    path = directory.with_name(f"{directory.name}.json")
    found, sections = read_json(path, REMEDY), []
    with reading(path, REMEDY):
        for family, numbers in found.items():
            by_kind: dict[tuple, list[dict[str, object]]] = {}
            for name, values in numbers.items():
                difference = " - " in name.partition(" / ")[0]
                row = {"difference" if difference else "arm / score": name} | _estimates(values)
                by_kind.setdefault(tuple(row), []).append(row)
            sections.append(Section(family, [table(rows, OVER_SPLITS) for rows in by_kind.values()]))
    runs = list(_cells(directory))
    if runs:
        plain = [{name: value for name, value in run.items() if name != "run"} for run in runs]
        caption = "AUROC against accuracy, a point for every run, by the score of its own."
        parts = [
            Drawing(caption, lambda: _points(plain, "arm")),
            table(runs, "Every run, by the score of its own"),
        ]
        sections.append(Section("Every run", parts))
    return Page(directory.resolve().name, "A comparison", {"runs": str(len(runs))}, sections)


def claims_page(directory: Path) -> Page:
    """The page of the claims about Jacobian norms.

    Args:
      directory: of jacobian.py, OUT/TABLE, with claims.json.

    Raises:
      FileError: a file is damaged.
    """
    path = directory / "claims.json"
    found = read_json(path, REMEDY)
    with reading(path, REMEDY):
        effects = [
            {
                **{name: effect[name] for name in ("claim", "arm", "effect")},
                "mean": _estimate_cell({"mean": effect["mean"], "interval": effect["interval"], "n": effect["n"]}),
                "n": effect["n"],
                "verdict": effect["verdict"],
            }
            for effect in found["effects"]
        ]
        panels: dict[str, dict[str, Any]] = {}
        for arm, curves in found["curves"]["arms"].items():
            for name in ("norm_known", "norm_unknown", "jnd", "davies_bouldin", "auroc"):
                means = np.array([np.nan if mean is None else mean for mean, *_ in curves[name]], np.float64)
                panels.setdefault(metric_title(name), {})[arm] = (np.array(curves["steps"]), means)
        limit = f"No verdict where the accuracy is below {found['accuracy_threshold']}."
        drawing = Drawing("Means over splits, the seeds of a split averaged first.", lambda: drawings.dynamics(panels))
        sections = [
            Section("Verdicts", [verdict_table(found), paragraph(limit)]),
            Section("During training", [drawing]),
            Section("Effects", [table(effects, OVER_SPLITS)]),
            Section("How it was made", [details("The rule", paragraph(str(found["rule"])))]),
        ]
        done = sum(bool(run.get("finished")) for run in found["runs"])
    facts = {"runs": f"{done} of {len(found['runs'])}"}
    return Page(directory.resolve().name, "Claims about Jacobian norms", facts, sections)


def benchmark_page(directory: Path) -> Page:
    """The page of a benchmark's entries.

    Args:
      directory: with entries at any depth.

    Raises:
      ValueError: no entry, or one that is damaged.
    """
    entries = [read_entry(place) for place in find_entries([directory])]
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        m = entry.manifest
        groups.setdefault(f"{m['dataset']} against {m['unknown']}, {m['family']}", []).append(entry)
    sections = []
    for title, members in groups.items():
        runs = [_entry_row(entry) for entry in members]
        parts = [
            table(_label_rows(members), f"{OVER_SPLITS}; by the score of its own"),
            Drawing("AUROC against accuracy, a point for every entry.", lambda runs=runs: _points(runs, "method")),
            table(runs, "Every entry, by the score of its own"),
        ]
        sections.append(Section(title, parts))
    labels = {entry.manifest["label"] for entry in entries}
    facts = {"entries": str(len(entries)), "methods": str(len(labels)), "protocols": str(len(groups))}
    return Page(directory.resolve().name, "A benchmark", facts, sections)


def _label_rows(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """A row for every method, the highest AUROC first."""
    rows = []
    for label in dict.fromkeys(entry.manifest["label"] for entry in entries):
        own = [entry for entry in entries if entry.manifest["label"] == label]
        splits, seeds = (sorted({entry.manifest[name] for entry in own}) for name in ("split", "seed"))
        row: dict[str, Any] = {"method": label, "entries": len(own)}
        for metric in OF_ENTRY:
            values = np.full((len(splits), len(seeds)), np.nan)
            for entry in own:
                place = splits.index(entry.manifest["split"]), seeds.index(entry.manifest["seed"])
                values[place] = entry.results[entry.manifest["score"]][metric]
            estimate = metrics.t_interval(values)
            row[metric_title(metric)] = Cell(estimate_text(estimate, bounds=metrics.SHARE), estimate.mean)
        rows.append(row)
    return sorted(rows, key=lambda row: -row["AUROC"].value)


def _entry_row(entry: Entry) -> dict[str, Any]:
    manifest, numbers = entry.manifest, entry.results[entry.manifest["score"]]
    row = {"method": manifest["label"], **{name: manifest[name] for name in ("split", "seed", "score")}}
    return row | {metric_title(metric): numbers[metric] for metric in OF_ENTRY}


def _cells(directory: Path) -> Iterator[dict[str, Any]]:
    """Every finished cell of compare.py: arm, split, seed, and what its own score found."""
    for path in sorted(directory.glob("*/results.json")):
        name = path.parent.name
        with reading(path, REMEDY):
            found = read_json(path, REMEDY)
            numbers = found["trained"]["scores"][found["score"]]
            values = {metric_title(metric): numbers[metric]["value"] for metric in MAIN}
        here = path.with_name("page.html").is_file()
        arm, *where = name.replace("_", " ").rsplit("-", 2)
        yield {
            "run": link(name, f"{name}/page.html") if here else name,
            "arm": arm,
            "split and seed": ", ".join(where),
            **values,
        }


def _points(runs: Sequence[Mapping[str, Any]], by: str) -> Any:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        if np.isfinite([run["accuracy"], run["AUROC"]]).all():
            groups.setdefault(str(run[by]), []).append(run)
    return drawings.points(groups, x="accuracy", y="AUROC")


def _estimates(values: Mapping[str, Any]) -> dict[str, object]:
    """Cells of one row of results: estimates with their intervals, and plain values."""
    cells: dict[str, object] = {}
    for name, value in values.items():
        cells[metric_title(name)] = _estimate_cell(value) if isinstance(value, dict) else value
    return cells


def _estimate_cell(found: Mapping[str, Any]) -> Cell:
    mean, (low, high) = found["mean"], found["interval"]
    if mean is None:
        return Cell("–")
    bounds = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    return Cell(f"{mean:.3f}{bounds}", mean)


def _history(path: Path, lanes: Sequence[Mapping[str, str]]) -> dict[str, dict[str, Any]]:
    """Means of every arm over its lanes at every probed step; empty where there are fewer than two steps."""
    if not path.is_file():
        return {}
    with reading(path, REMEDY):
        rows = _rows(path)
        arm_of = {lane["lane"]: lane["arm"] for lane in lanes}
        panels: dict[str, dict[str, Any]] = {}
        for title, name in (("JND", "jnd"), ("DBI", "davies_bouldin"), ("AUROC", "auroc"), ("accuracy", "accuracy")):
            found: dict[str, dict[int, list[float]]] = {}
            for row in rows:
                if (value := _number(row.get(name, ""))) is not None:
                    found.setdefault(arm_of[row["lane"]], {}).setdefault(int(row["step"]), []).append(value)
            curves = {
                arm: (np.array(sorted(steps)), np.array([np.mean(steps[step]) for step in sorted(steps)]))
                for arm, steps in found.items()
            }
            if any(len(steps) > 1 for steps, _ in curves.values()):
                panels[title] = curves
    return panels


def _rows(path: Path) -> list[dict[str, str]]:
    if path.stat().st_size > LARGEST:
        raise ValueError(f"it has more than {LARGEST >> 20} MiB")
    return list(csv.DictReader(io.StringIO(path.read_text())))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _value(text: str) -> float | str:
    """A number, nan where there is none, or the text of a choice."""
    number = _number(text) if text else float("nan")
    return text if number is None else number


def _table_cell(text: str) -> Cell | None:
    if not text:
        return None
    number = _number(text)
    whole = number is not None and number == int(number) and "." not in text
    return Cell(text if number is None or whole else f"{number:.4g}", number)
