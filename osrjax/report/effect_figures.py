"""Effects of claims in a figure, a row for each arm: means, intervals, and the side on which the claim wants them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from osrjax.metrics.intervals import Range
from osrjax.report.curves import panel_axes

__all__ = ["Point", "effects_figure"]

SHADE = "0.9"


class Point(NamedTuple):
    """An effect in a figure.

    Attributes:
      record: of :func:`osrjax.metrics.effect`.
      look: which of the figure's looks it has.
      wanted: where its claim wants the interval, if anywhere.
    """

    record: Mapping[str, Any]
    look: str
    wanted: Range | None = None


def effects_figure(
    rows: Mapping[str, Sequence[Point]],
    looks: Mapping[str, tuple[str, str, str]],
    *,
    origin: float,
    label: str,
    title: str = "",
    largest: float | None = None,
    linear: float | None = None,
) -> Figure:
    """Effects as points with their intervals, those of a row one below the other.

    Args:
      rows: by arm; an effect without a mean leaves its place empty.
      looks: label, colour and marker, by name.
      origin: where a vertical line stands.
      label: of the horizontal axis.
      title: above the axes.
      largest: right end of the axis.
      linear: where effects reach beyond ten times this number, the axis is logarithmic from it on.

    Returns:
      A figure with one pair of axes, shaded where a claim wants the interval.
    """
    most = max(map(len, rows.values()))
    figure, (axes,) = panel_axes(1, columns=1, width=6.4, height=1.6 + (0.3 + 0.05 * most) * len(rows))
    height = 0.68 / most  # of a point's place, rows having 1
    shaded: list[tuple[Range, float]] = []
    for row, points in enumerate(rows.values()):
        for place, (record, look, wanted) in enumerate(points):
            y = row + height * (place - (len(points) - 1) / 2)
            if record["mean"] is None:
                continue
            _, colour, marker = looks[look]
            if None not in record["interval"]:
                axes.plot(record["interval"], [y, y], color=colour, linewidth=1.6, alpha=0.7)
            axes.plot(record["mean"], y, marker=marker, color=colour, markersize=5)
            if wanted is not None:
                shaded.append((wanted, y))
    axes.update_datalim([(end, y) for wanted, y in shaded for end in wanted if math.isfinite(end)])
    axes.axvline(origin, color="0.6", linewidth=1)
    axes.set_yticks(range(len(rows)), [arm.replace("$", r"\$") for arm in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    if linear is not None and max(map(abs, axes.dataLim.intervalx)) > 10 * linear:
        axes.set_xscale("symlog", linthresh=linear)
        axes.xaxis.set_major_formatter("{x:g}")
        label += f" (logarithmic beyond {linear:g})"
    axes.autoscale_view(scaley=False)  # of the scale that it has now
    if largest is not None:
        axes.set_xlim(right=largest)
    left, right = axes.get_xlim()
    for (low, high), y in shaded:
        low, high = max(low, left), min(high, right)
        axes.add_patch(Rectangle((low, y - height / 2), high - low, height, color=SHADE, linewidth=0, zorder=0))
    axes.set_xlim(left, right)
    axes.set_xlabel(label)
    axes.set_title(title)
    shown = {point.look for points in rows.values() for point in points if point.record["mean"] is not None}
    handles: list[Any] = [
        Line2D([], [], linestyle="", color=colour, marker=marker, label=text)
        for name, (text, colour, marker) in looks.items()
        if name in shown
    ]
    if shaded:
        handles.append(Patch(color=SHADE, label="where the claim wants the interval"))
    figure.legend(handles=handles, loc="outside lower center", frameon=False, fontsize="small", ncols=2)
    return figure
