"""Pages of many runs: a comparison, the claims about Jacobian norms, the entries of a benchmark."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from osrjax import metrics
from osrjax.files import read_json, reading
from osrjax.report.page.elements import (
    REMEDY,
    Cell,
    Drawing,
    Page,
    Section,
    details,
    has_drawings,
    link,
    paragraph,
    table,
)
from osrjax.report.page.run import verdict_table
from osrjax.report.tables import estimate_text
from osrjax.report.titles import metric_title
from osrjax.run.directory import PAGE
from osrjax.run.entries import Entry, find_entries, read_entry

if has_drawings():  # they import Bokeh
    from osrjax.report.page import drawings

__all__ = [
    "MAIN",
    "OVER_SPLITS",
    "benchmark_page",
    "claims_page",
    "comparison_page",
    "estimate_cells",
    "run_points",
]

MAIN = ("closed_set_accuracy", "auroc", "oscr")
OF_ENTRY = (*MAIN, "fpr_at_95_tpr_unknown_positive", "rejected_known", "rejected_unknown")
OVER_SPLITS = "Mean [95 % t interval over splits], the seeds of a split averaged first"


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
                row = {"difference" if difference else "arm / score": name} | estimate_cells(values)
                by_kind.setdefault(tuple(row), []).append(row)
            sections.append(Section(family, [table(rows, OVER_SPLITS) for rows in by_kind.values()]))
    runs = list(_cells(directory))
    if runs:
        plain = [{name: value for name, value in run.items() if name != "run"} for run in runs]
        caption = "AUROC against accuracy, a point for every run, by the score of its own."
        parts = [
            Drawing(caption, lambda: run_points(plain, "arm")),
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
            Drawing("AUROC against accuracy, a point for every entry.", lambda runs=runs: run_points(runs, "method")),
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
    return sorted(rows, key=lambda row: -row[metric_title("auroc")].value)


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
        here = path.with_name(PAGE).is_file()
        arm, *where = name.replace("_", " ").rsplit("-", 2)
        yield {
            "run": link(name, f"{name}/{PAGE}") if here else name,
            "arm": arm,
            "split and seed": ", ".join(where),
            **values,
        }


def run_points(runs: Sequence[Mapping[str, Any]], by: str) -> Any:
    """AUROC against accuracy, a point for every run.

    Args:
      runs: columns of each, the titles of both among them; one where these are not finite is left out.
      by: the column that gives colour and marker.
    """
    x, y = metric_title("closed_set_accuracy"), metric_title("auroc")
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        if np.isfinite([run[x], run[y]]).all():
            groups.setdefault(str(run[by]), []).append(run)
    return drawings.points(groups, x=x, y=y)


def estimate_cells(values: Mapping[str, Any]) -> dict[str, object]:
    """Cells of one row of results: estimates with their intervals, and plain values.

    Args:
      values: by name, plain values, or ``{"mean": ..., "interval": [...], ...}``.
    """
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
