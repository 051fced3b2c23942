"""Figures that can be looked into, as models of Bokeh: known and unknown differ in colour, line style and hatching.

The only module that imports Bokeh before a page is put together; where it is missing nothing calls this one.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from bokeh.layouts import column
from bokeh.models import (
    BoxZoomTool,
    CrosshairTool,
    DataRange1d,
    FixedTicker,
    HoverTool,
    Legend,
    NumeralTickFormatter,
    Span,
)
from bokeh.palettes import Viridis256
from bokeh.plotting import figure

from osrjax.report.curves import CURVE_COLOURS, KNOWN_COLOUR, UNKNOWN_COLOUR, histogram_edges

__all__ = ["curves", "dynamics", "histogram", "parallel_coordinates", "points"]

DASHES = ("solid", "dashed", "dotted", "dashdot")
MARKERS = ("circle", "triangle", "square", "diamond", "inverted_triangle", "plus", "star", "x", "hex")
LOOKS = {"known": (KNOWN_COLOUR, "solid", "circle"), "unknown": (UNKNOWN_COLOUR, "dashed", "triangle")}
TOOLS = "pan,box_zoom,wheel_zoom,reset,save"
ABREAST = 3  # entries of a legend above
POINTS = 400  # of a curve: more than a screen shows

Curve = tuple[np.ndarray, np.ndarray]


def histogram(known: np.ndarray, unknown: np.ndarray, *, threshold: float | None, score: str) -> Any:
    """Scores of known and of unknown images, each as shares of its kind, and the threshold between them.

    Args:
      known: finite scores.
      unknown: finite scores.
      threshold: above it an image is called unknown; None for none.
      score: name of the axis.
    """
    edges, logarithmic = histogram_edges(known, unknown)
    axes = _axes(f"{score} (larger = more unknown)", "share of the images", x_type="log" if logarithmic else "linear")
    shown, entries = [], []
    for kind, scores, hatch in (("known", known, None), ("unknown", unknown, "right_diagonal_line")):
        counts = np.histogram(np.asarray(scores, np.float64), edges)[0]
        colour, dash, _ = LOOKS[kind]
        source = {
            "left": edges[:-1].tolist(),
            "right": edges[1:].tolist(),
            "top": (counts / len(scores)).tolist(),
            "count": counts.tolist(),
        }
        # Bokeh's own hatching has a colour of its own: the bars of both kinds stay apart where they overlap.
        bars = axes.quad(
            left="left", right="right", top="top", bottom=0, source=source, fill_color=colour, fill_alpha=0.3,
            line_color=None, hatch_pattern=hatch, hatch_color=colour, hatch_alpha=0.6, name=kind,
        )  # fmt: skip
        steps = axes.line(
            np.repeat(edges, 2).tolist(),
            [0.0, *np.repeat(counts / len(scores), 2).tolist(), 0.0],
            line_color=colour,
            line_dash=dash,
            line_width=1.8,
        )
        shown.append(bars)
        entries.append((f"{kind}, n = {len(scores)}", [bars, steps]))
    if threshold is not None:
        top = max(max(bars.data_source.data["top"]) for bars in shown)
        line = axes.line([threshold, threshold], [0, top], line_color="black", line_dash="dotted", line_width=2)
        entries.append((f"threshold {threshold:.4g}: unknown above it", [line]))
    words = [("", "$name"), ("score", "@left{0.[000]} to @right{0.[000]}"), ("images", "@count, @top{0.0%}")]
    axes.add_tools(HoverTool(renderers=shown, tooltips=words))
    axes.yaxis.formatter = NumeralTickFormatter(format="0%")
    axes.y_range.start = 0
    _add_legend(axes, entries)
    return axes


def curves(
    found: Mapping[str, Curve],
    *,
    x: str,
    y: str,
    y_type: Literal["linear", "log"] = "linear",
    unit: bool = False,
    legends: Mapping[str, str] | None = None,
) -> Any:
    """Curves on one pair of axes.

    Args:
      found: by name, places and values of equal length; values that are not finite leave gaps.
      x: name of the horizontal axis.
      y: name of the vertical one.
      y_type: of the vertical axis.
      unit: both axes from 0 to 1, with the diagonal's frame square.
      legends: what the legend says, where that is not the name.
    """
    axes = _axes(x, y, y_type=y_type, height=420 if unit else 300)
    _draw_curves(axes, found, x=x, legends=legends or {})
    if unit:
        axes.x_range.start = axes.y_range.start = -0.02
        axes.x_range.end = axes.y_range.end = 1.02
    return axes


def dynamics(panels: Mapping[str, Mapping[str, Curve]]) -> Any:
    """What changes over training: a panel below the other, over the same steps, under one crosshair.

    Args:
      panels: by title, curves by name.
    """
    steps: Any = DataRange1d()
    line = Span(dimension="height", line_dash="dotted", line_color="#555555")
    drawn, said = [], []
    for number, (title, found) in enumerate(panels.items()):
        values = np.concatenate([y[np.isfinite(y)] for _, y in found.values()])
        wide = values.size and 0 < 100 * values.min() < values.max()
        last, kind = number == len(panels) - 1, "log" if wide else "linear"
        named = len(found) > 1 and list(found) not in said  # a legend holds for the panels below it
        said.append(list(found))
        height = 160 + 35 * last + 24 * -(-len(found) // ABREAST) * named
        axes = _axes("step" if last else "", title, y_type=kind, x_range=steps, height=height)
        _draw_curves(axes, found, x="step", legends={}, side="above" if named else None)
        axes.add_tools(CrosshairTool(overlay=line, dimensions="height"))
        axes.min_border_left = 76
        drawn.append(axes)
    return column(drawn, sizing_mode="stretch_width")


def points(groups: Mapping[str, Sequence[Mapping[str, Any]]], *, x: str, y: str) -> Any:
    """A point for every run.

    Args:
      groups: by name, runs as values by column, the same columns in each; ``x`` and ``y`` are numbers among them.
      x: column of the horizontal axis.
      y: of the vertical one.
    """
    axes = _axes(x, y, height=420)
    entries = []
    for index, (name, runs) in enumerate(groups.items()):
        columns = {f"c{i}": [run[column] for run in runs] for i, column in enumerate(runs[0])}
        keys = {column: f"c{i}" for i, column in enumerate(runs[0])}
        glyphs = axes.scatter(
            keys[x], keys[y], source=columns, marker=MARKERS[index % len(MARKERS)], size=9, name=_plain(name),
            color=CURVE_COLOURS[index % len(CURVE_COLOURS)], fill_alpha=0.5,
        )  # fmt: skip
        words = [("", "$name"), *((_plain(column), f"@{key}") for column, key in keys.items())]
        axes.add_tools(HoverTool(renderers=[glyphs], tooltips=words, visible=index == 0))
        entries.append((name, [glyphs]))
    _add_legend(axes, entries)
    return axes


def parallel_coordinates(columns: Mapping[str, Sequence[Any]], *, colour: str) -> Any:
    """A line for every run through its value of each column, from the smallest below to the largest above.

    Args:
      columns: by name, a value a run: numbers, with nan for none, or texts, which are spaced evenly in their order.
      colour: the column, of numbers, that gives colour and width.
    """
    axes = _axes("", "", height=380)
    places = {name: _places(values) for name, values in columns.items()}
    across = list(range(len(columns)))
    heights = np.array([place for place, _ in places.values()]).T
    shade = places[colour][0]
    source = {
        "xs": [across] * len(heights),
        "ys": heights.tolist(),
        "shade": [Viridis256[int(235 * (1 - value))] if np.isfinite(value) else "#bbbbbb" for value in shade],
        "width": [1 + 2 * value if np.isfinite(value) else 1.0 for value in shade],
    } | {f"c{i}": [_shown(value) for value in values] for i, values in enumerate(columns.values())}
    axes.segment(across, [0] * len(across), across, [1] * len(across), line_color="#777777")
    lines = axes.multi_line("xs", "ys", source=source, line_color="shade", line_width="width", line_alpha=0.75)
    lines.hover_glyph = lines.glyph.clone(line_color="#D55E00", line_width=4, line_alpha=1)
    axes.add_tools(HoverTool(renderers=[lines], tooltips=[(_plain(n), f"@c{i}") for i, n in enumerate(columns)]))
    for place, (_, (low, high)) in zip(across, places.values(), strict=True):
        for words, height, baseline in ((low, -0.02, "top"), (high, 1.02, "bottom")):
            axes.text(
                [place], [height], text=[_plain(words)], text_align="center", text_baseline=baseline,
                text_font_size="11px",
            )  # fmt: skip
    axes.xaxis.ticker = FixedTicker(ticks=across)
    axes.xaxis.major_label_overrides = {place: _plain(name) for place, name in zip(across, columns, strict=True)}
    axes.xaxis.major_label_orientation = 0.35
    axes.yaxis.visible = axes.xgrid.visible = axes.ygrid.visible = False
    axes.x_range.start, axes.x_range.end = -0.5, len(columns) - 0.5
    axes.y_range.start, axes.y_range.end = -0.12, 1.12
    return axes


def _axes(
    x: str,
    y: str,
    *,
    height: int = 320,
    x_type: Literal["linear", "log"] = "linear",
    y_type: Literal["linear", "log"] = "linear",
    x_range: Any = None,
) -> Any:
    more = {} if x_range is None else {"x_range": x_range}
    axes: Any = figure(
        height=height,
        sizing_mode="stretch_width",
        x_axis_type=x_type,
        y_axis_type=y_type,
        tools=TOOLS,
        active_drag=None,  # a finger on a figure scrolls the page
        active_scroll=None,
        **more,
    )
    axes.toolbar.logo = None
    axes.toolbar.autohide = True
    axes.output_backend = "canvas"
    axes.outline_line_color = None
    for axis, name in ((axes.xaxis, x), (axes.yaxis, y)):
        axis.axis_label = _plain(name)
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "12px"
        axis.minor_tick_line_color = None
    axes.grid.grid_line_color = "#e6e6e6"
    axes.select(BoxZoomTool)
    return axes


def _draw_curves(
    axes: Any, found: Mapping[str, Curve], *, x: str, legends: Mapping[str, str], side: str | None = "below"
) -> None:
    entries, shown = [], []
    for index, (name, (places, values)) in enumerate(found.items()):
        colour, dash, marker = LOOKS.get(
            name,
            (CURVE_COLOURS[index % len(CURVE_COLOURS)], DASHES[index % len(DASHES)], MARKERS[index % len(MARKERS)]),
        )
        places, values = _thinned(places, values)
        source = {"x": places.tolist(), "y": values.tolist()}
        lines = [
            axes.line("x", "y", source=source, line_color=colour, line_dash=dash, line_width=1.8, name=_plain(name))
        ]
        if len(places) <= 40:
            lines.append(axes.scatter("x", "y", source=source, marker=marker, size=6, color=colour))
        shown.append(lines[0])
        entries.append((legends.get(name, name), lines))
    words = [("", "$name"), (_plain(x), "@x{0.[0000]}"), ("value", "@y{0.[0000]}")]
    axes.add_tools(HoverTool(renderers=shown, tooltips=words, line_policy="nearest"))
    if side is not None:
        _add_legend(axes, entries, side=side)


def _add_legend(axes: Any, entries: Sequence[tuple[str, list[Any]]], *, side: str = "below") -> None:
    """Outside the axes, since curves may go anywhere inside; a click on an entry hides what it names."""
    legend = Legend(
        items=[(_plain(words), drawn) for words, drawn in itertools.islice(entries, 24)],
        location="top_left",
        ncols=ABREAST if side == "above" else 1 + (len(entries) > 3),
        click_policy="hide",
        border_line_color=None,
        label_text_font_size="12px",
        spacing=1,
    )
    axes.add_layout(legend, side)


def _thinned(places: np.ndarray, values: np.ndarray) -> Curve:
    """Points of a curve, no more than are seen: evenly along its length, both ends among them."""
    places, values = np.asarray(places, np.float64), np.asarray(values, np.float64)
    if len(places) <= POINTS:
        return places, values
    moves = [np.abs(np.diff(np.nan_to_num(axis))) for axis in (places, values)]
    length = np.concatenate([[0.0], np.cumsum(sum(move / (np.sum(move) or 1.0) for move in moves))])
    chosen = np.unique(np.searchsorted(length, np.linspace(0, length[-1], POINTS)).clip(0, len(places) - 1))
    chosen = np.union1d(chosen, [0, len(places) - 1])
    return places[chosen], values[chosen]


def _places(values: Sequence[Any]) -> tuple[np.ndarray, tuple[str, str]]:
    """Heights from 0 to 1, nan where there is no value, and what stands at both ends."""
    if any(isinstance(value, str) for value in values):
        names = sorted(set(map(str, values)))
        heights = np.array([names.index(str(value)) / max(len(names) - 1, 1) for value in values])
        return heights, (names[0], names[-1])
    numbers = np.array(values, np.float64)
    finite = numbers[np.isfinite(numbers)]
    if not finite.size:
        return numbers, ("", "")
    low, high = finite.min(), finite.max()
    return (numbers - low) / (high - low) if high > low else numbers * 0 + 0.5, (_shown(low), _shown(high))


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)


def _plain(words: str) -> str:
    """A name as it is: what Bokeh would take for mathematics or for a field is broken up."""
    return (
        words.replace("$", "$\N{ZERO WIDTH SPACE}")
        .replace("@", "@\N{ZERO WIDTH SPACE}")
        .replace("\\", "\\\N{ZERO WIDTH SPACE}")
    )
