"""The page of a sweep: its arms, what was varied and what came out, and every run."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from osrjax.files import read_json, reading
from osrjax.report.page.elements import REMEDY, Cell, Drawing, Page, Section, details, has_drawings, plain_table, table
from osrjax.report.page.grids import MAIN, OVER_SPLITS, estimate_cells, run_points
from osrjax.report.page.run_figures import LARGEST
from osrjax.report.titles import metric_title

if has_drawings():  # they import Bokeh
    from osrjax.report.page import drawings

__all__ = ["sweep_page"]

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
        arms = [{"arm": arm} | estimate_cells(values) for arm, values in found["arms"].items()]
        pairs = [
            {"difference": f"{lanes[0]['arm']} - {arm}"} | estimate_cells(values)
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
            lambda: drawings.parallel_coordinates(titled, colour=metric_title("auroc")),
        ),
        Drawing("AUROC against accuracy, a point for every run.", lambda: run_points(runs, "arm")),
    ]


def _history(path: Path, lanes: Sequence[Mapping[str, str]]) -> dict[str, dict[str, Any]]:
    """Means of every arm over its lanes at every probed step; empty where there are fewer than two steps."""
    if not path.is_file():
        return {}
    with reading(path, REMEDY):
        rows = _rows(path)
        arm_of = {lane["lane"]: lane["arm"] for lane in lanes}
        panels: dict[str, dict[str, Any]] = {}
        for name in ("jnd", "davies_bouldin", "auroc", "accuracy"):
            found: dict[str, dict[int, list[float]]] = {}
            for row in rows:
                if (value := _number(row.get(name, ""))) is not None:
                    found.setdefault(arm_of[row["lane"]], {}).setdefault(int(row["step"]), []).append(value)
            curves = {
                arm: (np.array(sorted(steps)), np.array([np.mean(steps[step]) for step in sorted(steps)]))
                for arm, steps in found.items()
            }
            if any(len(steps) > 1 for steps, _ in curves.values()):
                panels[metric_title(name)] = curves
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
