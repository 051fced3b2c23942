"""What the arms of a sweep found: a table with differences to the first arm, and figures.

As in :mod:`osrjax.report.jacobian`, arrays of many runs have the axes splits and seeds, with nan for a missing run, and
intervals are 95 % t intervals over splits.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from osrjax.metrics.effects import ACCURACY, effect, rank_correlation
from osrjax.metrics.intervals import Range, clipped, range_of, t_interval
from osrjax.report.curves import CURVE_COLOURS, KNOWN_COLOUR, panel_axes
from osrjax.report.tables import JND, estimate_json, estimate_text, results_table

__all__ = ["arms_figure", "arms_table", "response_figure", "response_panels"]

MARKERS = ("o", "s", "^", "D", "v", "P", "<", "*", ">", "p", "h", "X")


def arms_table(
    values: Mapping[str, Mapping[str, Float[np.ndarray, "splits seeds"]]], diverged: Mapping[str, int]
) -> tuple[str, dict[str, Any]]:
    """Every arm's metrics, and the paired differences between the first arm and each other one.

    Differences are those of accuracy, AUROC, OSCR and JND, as far as they are given. The verdict is that of
    :func:`osrjax.metrics.effects.effect` for claim (h), that the first arm has the higher AUROC.

    Args:
      values: by metric (``closed_set_accuracy`` and ``auroc`` among them) and arm; a metric without a run is left out.
      diverged: by arm, how many of its runs diverged; gives the arms and their order.

    Returns:
      The text of both tables, and the same as JSON values: ``arms``, and ``differences`` with ``verdict`` and
      ``detectable``, the AUROC difference that would have been found with 80 % power.
    """
    reference, *others = diverged
    numbers: dict[str, Any] = {"arms": {}, "differences": {}}
    rows, differences = [], []
    for arm, count in diverged.items():
        row: dict[str, Any] = {"arm": arm, "lanes": values["auroc"][arm].size, "diverged": count}
        numbers["arms"][arm] = {"diverged": count}
        for name, found in values.items():
            if not np.isnan(found[arm]).all():
                estimate = t_interval(found[arm])
                row[name] = estimate_text(estimate, bounds=range_of(name))
                numbers["arms"][arm][name] = estimate_json(estimate, bounds=range_of(name))
        rows.append(row)
    for arm in others:
        row, record = {"difference": f"{reference} - {arm}"}, {}
        for name in [name for name in ("closed_set_accuracy", "auroc", "oscr", "jnd") if name in values]:
            pair = values[name][reference] - values[name][arm]
            if not np.isnan(pair).all():
                estimate = t_interval(pair)
                bounds = range_of(name, difference=True)
                row[name] = estimate_text(estimate, bounds=bounds)
                record[name] = estimate_json(estimate, bounds=bounds)
        if "auroc" in record:
            accuracy = [values["closed_set_accuracy"][name] for name in (reference, arm)]
            found = effect(
                values["auroc"][reference] - values["auroc"][arm],
                ~np.isnan(accuracy[1]),
                accuracy,
                claim="h",
                name=f"auroc of {reference} over {arm}",
                arm=arm,
                expected=1,
            )
            record |= {"verdict": found["verdict"], "detectable": found["detectable"]}
            row["auroc difference found with 80 % power"] = (
                "-" if found["detectable"] is None else f"{found['detectable']:.3f}"
            )
            row["the reference is better"] = found["verdict"]
        differences.append(row)
        numbers["differences"][arm] = record
    lines = [results_table(rows)]
    if any("jnd" in row for row in rows):
        lines.append(JND)
    if differences:
        lines += [
            "",
            results_table(differences),
            '"holds": the interval of the AUROC difference lies above 0; "fails": below; no verdict where an arm\'s'
            f" accuracy is below {ACCURACY}",
        ]
    return "\n".join(lines), numbers


def response_panels(
    recipes: Mapping[str, Mapping[str, Any]],
    found: Mapping[str, Float[np.ndarray, "splits seeds"]],
    *,
    fields: Mapping[str, str],
) -> dict[str, tuple[list[float], Float[np.ndarray, "values splits seeds"]]]:
    """The arms along each hyper-parameter that more than two of them differ in alone, for :func:`response_figure`.

    Args:
      recipes: by arm, its fields.
      found: by arm, a metric.
      fields: titles of the hyper-parameters, by field; every recipe has a number there.

    Returns:
      By title, values and the metric of their runs. Of the slices through a grid the first is taken, and the title says
      where it lies.

    Example:
      >>> recipes = {arm: {"margin": margin, "scale": 8} for arm, margin in (("a", 0.5), ("b", 0.0), ("c", 1.0))}
      >>> found = {arm: np.ones((1, 1)) for arm in recipes}
      >>> {title: values for title, (values, _) in response_panels(recipes, found, fields={"margin": "m"}).items()}
      {'m': [0.5, 0.0, 1.0]}
    """
    panels = {}
    for field, title in fields.items():
        along: dict[str, dict[float, str]] = {}  # arms that differ in this field alone
        for arm, recipe in recipes.items():
            along.setdefault(repr(sorted({**recipe, field: None}.items())), {})[recipe[field]] = arm
        longest = max(along.values(), key=len, default={})
        if len(longest) > 2:
            fixed = recipes[next(iter(longest.values()))]
            others = [name for name in fields if name != field and len({r[name] for r in recipes.values()}) > 1]
            several = sum(len(slice_) == len(longest) for slice_ in along.values()) > 1
            at = f" ({', '.join(f'{fields[name]} {fixed[name]:g}' for name in others)})" if several else ""
            panels[title + at] = (list(longest), np.stack([found[arm] for arm in longest.values()]))
    return panels


def response_figure(
    panels: Mapping[str, tuple[Sequence[float], Float[np.ndarray, "values splits seeds"]]],
    *,
    metric: str,
    bounds: Range = (-np.inf, np.inf),
    unit: str = "split",
) -> Figure:
    """A metric along each of several hyper-parameters: a panel each, values in equal steps in their order.

    Args:
      panels: by the hyper-parameter's name, its values and the metric of their runs; a value without a run
        leaves a gap.
      metric: what the axis is called.
      bounds: the range of the metric, which no interval leaves.
      unit: what a sample is called.

    Returns:
      The figure: mean and interval over splits, thin lines for the splits, seeds averaged.
    """
    columns = min(len(panels), 2)
    figure, drawn = panel_axes(len(panels), columns=columns, width=max(4.2, 5.0 / columns), height=3.2, sharey=True)
    for axes, (name, (values, found)) in zip(drawn, panels.items(), strict=True):
        order = np.argsort(values)
        places = np.arange(len(values))
        for split in np.moveaxis(found[order], 1, 0):
            axes.plot(places, _means(split), color="0.75", linewidth=0.8, zorder=1)
        estimates = [None if np.isnan(runs).all() else t_interval(runs) for runs in found[order]]
        shown = [(place, estimate) for place, estimate in zip(places, estimates, strict=True) if estimate is not None]
        means = np.array([estimate.mean for _, estimate in shown])
        ends = [clipped(e.interval, bounds) if e.n > 1 else (e.mean, e.mean) for _, e in shown]
        axes.errorbar(
            [place for place, _ in shown],
            means,
            yerr=np.abs(np.array(ends).reshape(-1, 2) - means[:, None]).T,
            color=KNOWN_COLOUR,
            marker="o",
            linewidth=1.8,
            capsize=4,
            zorder=2,
        )
        axes.set_xticks(places, [f"{values[i]:g}" for i in order])
        axes.set_xlim(-0.3, len(values) - 0.7)  # also where the first or last value has no run
        axes.set_xlabel(name)
    for axes in drawn[::columns]:
        axes.set_ylabel(metric)
    n = max((found.shape[1] for _, found in panels.values()), default=1)
    over = f"and 95 % interval over {n} {unit}s; thin: each {unit}" if n > 1 else f"of one {unit}"
    figure.suptitle(f"{metric}: mean {over}", fontsize="medium")
    return figure


def arms_figure(
    first: Mapping[str, Float[np.ndarray, "splits seeds"]],
    second: Mapping[str, Float[np.ndarray, "splits seeds"]],
    *,
    x: str,
    y: str,
    together: str = "",
) -> Figure:
    """Two metrics of every arm against each other: small points for runs, a large one for the arm's mean.

    Args:
      first: by arm, the metric along the horizontal axis.
      second: by arm, the other one.
      x: name of the first.
      y: name of the second.
      together: how they go together, for the title; default: Spearman's coefficient over the means of the arms.

    Returns:
      The figure.
    """
    figure = Figure(figsize=(8.0, 4.8), layout="constrained")
    axes = figure.subplots()
    means = []
    for index, arm in enumerate(first):
        present = ~(np.isnan(first[arm]) | np.isnan(second[arm]))
        if not present.any():
            continue
        colour, marker = CURVE_COLOURS[index % len(CURVE_COLOURS)], MARKERS[index % len(MARKERS)]
        runs = first[arm][present], second[arm][present]
        means.append((runs[0].mean(), runs[1].mean()))
        axes.scatter(*runs, color=colour, marker=marker, s=10, alpha=0.35, linewidths=0)
        axes.scatter(*means[-1], color=colour, marker=marker, s=80, edgecolors="black", linewidths=0.8, label=arm)
    rho = rank_correlation(*np.array(means).T) if len(means) > 2 else float("nan")
    together = together or (f"Spearman {rho:.2f} over their means" if np.isfinite(rho) else "")
    axes.set_title("\n".join(filter(None, (f"{y} and {x} of {len(means)} arms", together))))
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(visible=True, color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return figure


def _means(split: np.ndarray) -> np.ndarray:
    """Over seeds, missing ones left out; nan where all are missing."""
    present = ~np.isnan(split)
    totals = np.where(present, split, 0.0).sum(axis=1)
    return np.divide(totals, present.sum(axis=1), out=np.full(len(split), np.nan), where=present.any(axis=1))
