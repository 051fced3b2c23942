"""Figures of a leaderboard: does accuracy explain detection, and which score ranks first?"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from osrjax.report.curves import CURVE_COLOURS, KNOWN_COLOUR, panel_axes
from osrjax.report.leaderboard import ResultTable, accuracy_correlation, accuracy_points, score_ranks
from osrjax.report.sweep import MARKERS
from osrjax.report.titles import metric_title

__all__ = ["accuracy_figure", "ranks_figure"]

PANELS = 3  # side by side


def accuracy_figure(tables: Sequence[ResultTable], *, metric: str = "auroc") -> Figure:
    """A metric of every run, by the method's own score, against its closed-set accuracy: a panel for each table.

    Args:
      tables: from :func:`osrjax.report.result_tables`, one or more.
      metric: along the vertical axis.

    Returns:
      The figure; the title of a panel has Pearson's correlation over the runs of all methods, and their number.
    """
    figure, axes = panel_axes(len(tables), columns=PANELS, width=4.4, height=4.0)
    labels = sorted({label for table in tables for label in table.own_scores})
    looks = {
        label: (CURVE_COLOURS[i % len(CURVE_COLOURS)], MARKERS[i % len(MARKERS)]) for i, label in enumerate(labels)
    }
    for panel, table in zip(axes, tables, strict=True):
        for label, runs in accuracy_points(table, metric=metric).items():
            colour, marker = looks[label]
            panel.scatter(*runs.T, color=colour, marker=marker, s=36, alpha=0.8, edgecolors="black", linewidths=0.5)
        coefficient, n = accuracy_correlation(table, metric=metric)
        text = f"r = {coefficient:.2f}" if np.isfinite(coefficient) else "r not defined"
        panel.set_title(f"{_title(table)}\n{text}, n = {n} runs", fontsize="medium")
        panel.set_xlabel(metric_title("closed_set_accuracy"))
        panel.set_ylabel(f"{metric_title(metric)}, the method's own score")
    handles = [
        Line2D([], [], linestyle="", color=colour, marker=marker, markeredgecolor="black", label=_plain(label))
        for label, (colour, marker) in looks.items()
    ]
    beside = 2 * min(len(tables), PANELS)
    figure.legend(handles=handles, loc="outside lower center", frameon=False, fontsize="small", ncols=beside)
    return figure


def ranks_figure(tables: Sequence[ResultTable], *, metric: str = "auroc") -> Figure:
    """Mean rank of every score that all runs of a table have: a panel for each table, the best score on top.

    Args:
      tables: from :func:`osrjax.report.result_tables`, one or more.
      metric: by which scores are ranked within each run, 1 for the best.

    Returns:
      The figure: dots for means, thick lines for the middle half of the runs, thin ones for all.
    """
    longest = max(len(score_ranks(table, metric=metric)) for table in tables)
    figure, axes = panel_axes(len(tables), columns=PANELS, width=4.4, height=1.6 + 0.28 * max(longest, 4))
    for panel, table in zip(axes, tables, strict=True):
        ranks = score_ranks(table, metric=metric)
        _draw_ranks(panel, ranks)
        runs = len(next(iter(ranks.values()))) if ranks else 0
        said = f"{len(ranks)} scores, n = {runs} runs" if ranks else "no two scores that all runs have"
        panel.set_title(f"{_title(table)}\n{said}", fontsize="medium")
        panel.set_xlabel(f"rank by {metric_title(metric)}, 1 = best")
    figure.suptitle("mean rank of scores that all runs have,\nmiddle half (thick) and range (thin)", fontsize="medium")
    return figure


def _draw_ranks(panel: Axes, ranks: dict[str, np.ndarray]) -> None:
    for place, found in enumerate(ranks.values()):
        panel.plot([found.min(), found.max()], [place, place], color="0.6", linewidth=1.2, zorder=1)
        panel.plot(np.quantile(found, [0.25, 0.75]), [place, place], color="0.6", linewidth=5, zorder=1)
        panel.plot(found.mean(), place, marker="o", color=KNOWN_COLOUR, markeredgecolor="black", zorder=2)
    panel.set_yticks(range(len(ranks)), [_plain(score) for score in ranks])
    panel.set_ylim(max(len(ranks), 1) - 0.5, -0.5)
    panel.set_xlim(0.5, max(len(ranks), 1) + 0.5)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))


def _title(table: ResultTable) -> str:
    return _plain(f"{table.dataset}, family {table.family}\nunknown: {table.unknown}")


def _plain(text: str) -> str:
    """Text that matplotlib draws as it is: a dollar would begin mathematics."""
    return text.replace("$", r"\$")
