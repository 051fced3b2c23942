"""Figures of the input-Jacobian norm: histograms, interpolations, training dynamics, maps of the embedding.

Figures are returned, not shown, and colour never stands alone. Arrays of many runs have the axes splits and seeds
first, with nan for a missing run. Means and 95 % t bands are those of :func:`osrjax.metrics.intervals.t_interval` over
splits; a single split has no band.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter, StrMethodFormatter
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from osrjax.arrays import class_positions
from osrjax.metrics.detection import jacobian_norm_difference
from osrjax.metrics.effects import linear_correlation, rank_correlation
from osrjax.metrics.intervals import SIGNED, Estimate, Range, clipped, t_interval
from osrjax.report.curves import CURVE_COLOURS, CURVE_STYLES, KNOWN_COLOUR, UNKNOWN_COLOUR, panel_axes

__all__ = [
    "correlation_figure",
    "dynamics_figure",
    "embedding_heat_map",
    "interpolation_figure",
    "known_classes_figure",
    "norm_histograms",
]

NORM = r"$\Vert J(x)\Vert_F$"


COLOUR_MAP = "viridis"  # perceptually uniform, readable without red and green


MARKERS = ("o", "s", "^", "D", "v", "P", "<", "*", ">", "p", "h")


KINDS = {"known": (KNOWN_COLOUR, "-"), "unknown": (UNKNOWN_COLOUR, "--")}


def norm_histograms(
    norms: Mapping[str, tuple[Float[np.ndarray, " known"], Float[np.ndarray, " unknown"]]],
    *,
    bins: int = 40,
    x_scale: Literal["auto", "linear", "log"] = "auto",
) -> Figure:
    """Histograms of the norms of known and unknown images, a panel per stage over the same bins.

    Args:
      norms: by stage ("before training", "after training"), finite norms of known and of unknown images.
      bins: number of bins, at least 1.
      x_scale: ``"auto"`` takes a logarithmic axis where all norms are positive and the largest is more than
        30 times the smallest, as they are before and after training.

    Returns:
      A figure with one panel below the other, JND in their titles and the means as lines.

    Raises:
      ValueError: as :func:`osrjax.metrics.detection.jacobian_norm_difference`; a logarithmic axis for a norm of 0.
    """
    differences = {stage: jacobian_norm_difference(*pair) for stage, pair in norms.items()}
    both = np.concatenate([np.asarray(part, np.float64) for pair in norms.values() for part in pair])
    low, high = float(both.min()), float(both.max())
    logarithmic = low < high and (x_scale == "log" or (x_scale == "auto" and low > 0 and high > 30 * low))
    if low == high:
        edges = np.linspace(low - 0.5, high + 0.5, bins + 1)
    else:
        edges = np.geomspace(low, high, bins + 1) if logarithmic else np.linspace(low, high, bins + 1)
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)  # rounding drops no extreme norm
    figure, panels = panel_axes(len(norms), columns=1, width=6.4, height=2.6)
    for axes, (stage, (known, unknown)) in zip(panels, norms.items(), strict=True):
        for (kind, (colour, style)), values, hatch in zip(KINDS.items(), (known, unknown), ("", "///"), strict=True):
            shares = np.histogram(np.asarray(values, np.float64), edges)[0] / len(values)
            fill = to_rgba(colour, 0.3)
            label = f"{kind}, n = {len(values)}"
            axes.stairs(
                shares, edges, fill=True, facecolor=fill, edgecolor=colour, linewidth=0, hatch=hatch, label=label
            )
            axes.stairs(shares, edges, color=colour, linewidth=1.6, linestyle=style)
            mean = float(np.mean(values))
            axes.axvline(mean, color=colour, linewidth=1.6, linestyle=style, ymin=0.93)
        axes.set_title(f"{stage}: JND {differences[stage]:.3g}")
        axes.set_ylim(bottom=0, top=1.12 * axes.dataLim.ymax)
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.set_ylabel("share of the images")
        if logarithmic:
            axes.set_xscale("log")
            label_decades(axes.xaxis)
        axes.set_xlim(edges[0], edges[-1])
    panels[-1].set_xlabel(f"{NORM} (short lines at the top: means)")
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", frameon=False, ncols=2)
    return figure


def interpolation_figure(
    fractions: Float[np.ndarray, " points"],
    profiles: Mapping[str, Mapping[str, Float[np.ndarray, "splits seeds points"]]],
) -> Figure:
    """Norms along lines between images of two known classes: mean and band over splits, a panel per stage.

    Args:
      fractions: of the way, from 0 to 1.
      profiles: by stage ("before training", "after training") and arm, the mean over pairs of every run.

    Returns:
      A figure; each panel has its own vertical axis from 0.

    Raises:
      ValueError: an arm without runs.
    """
    figure, panels = panel_axes(len(profiles), columns=2, width=4.4, height=3.6)
    looks = _looks(profiles.values())
    for axes, (stage, curves) in zip(panels, profiles.items(), strict=True):
        for name, values in curves.items():
            draw_band(axes, fractions, values, name, looks[name])
        axes.set_title(stage)
        axes.set_xlabel("fraction t of the way")
        _fit_frame(axes, curves.values())
        if axes.get_yscale() == "linear":
            axes.set_ylim(bottom=0)
        axes.set_xlim(0, 1)
    panels[0].set_ylabel(r"$\Vert J(x_t)\Vert_F$, mean over pairs")
    _finish_legends(figure, panels, profiles)
    return figure


def dynamics_figure(
    steps: Int[np.ndarray, " steps"],
    panels: Mapping[str, Mapping[str, Float[np.ndarray, "splits seeds steps"]]],
    *,
    columns: int = 3,
    title: str = "",
    bounds: Mapping[str, Range] | None = None,
) -> Figure:
    """What changes over training: a panel per metric, mean and band over splits of every named curve.

    Args:
      steps: at which the metrics were taken.
      panels: by title, curves by name: arms, or "known" and "unknown", which keep their colours. A curve leaves out
        steps at which a run is infinite (the Davies-Bouldin index of a collapsed network) and those without a run,
        where a line joins the neighbours. Positive values over more than two decades get a logarithmic axis.
      columns: panels side by side.
      title: above all panels.
      bounds: by title, the range of a metric, which no band leaves.

    Returns:
      A figure with one legend if all panels show the same curves, otherwise with one per panel.

    Raises:
      ValueError: a curve without runs.
    """
    figure, drawn = panel_axes(len(panels), columns=columns, width=3.6, height=2.8)
    looks = _looks(panels.values())
    for axes, (name, curves) in zip(drawn, panels.items(), strict=True):
        within = (bounds or {}).get(name, (-np.inf, np.inf))
        gaps = [draw_band(axes, steps, values, label, looks[label], within) for label, values in curves.items()]
        _fit_frame(axes, curves.values())
        axes.set_title(name + ("\n(gaps: infinite)" if any(gaps) else ""))
        axes.set_xlabel("step")
    if title:
        figure.suptitle(title)
    _finish_legends(figure, drawn, panels)
    return figure


def correlation_figure(
    steps: Int[np.ndarray, " steps"],
    jnd: Float[np.ndarray, "splits seeds steps"],
    others: Mapping[str, Float[np.ndarray, "splits seeds steps"]],
) -> Figure:
    """Metrics against JND over training, a point per run and step.

    Args:
      steps: at which the metrics were taken; colour and size of the points.
      jnd: Jacobian norm difference.
      others: by name (AUROC, Davies-Bouldin index); infinite values are not drawn.

    Returns:
      A figure with a panel per metric; its title has the mean over splits of the runs' Spearman and Pearson
      coefficients over steps, the latter without infinite values.
    """
    figure, panels = panel_axes(len(others), columns=2, width=4.4, height=4.0)
    points = None
    for axes, (name, values) in zip(panels, others.items(), strict=True):
        shown = np.where(np.isfinite(values), values, np.nan)
        for x, y in zip(jnd.reshape(-1, steps.size), shown.reshape(-1, steps.size), strict=True):
            axes.plot(x, y, color="0.75", linewidth=0.6, zorder=1)
        every = np.broadcast_to(steps, jnd.shape)
        sizes = 12 + 30 * (every - steps[0]) / max(int(steps[-1] - steps[0]), 1)
        points = axes.scatter(
            jnd, shown, c=every, s=sizes, cmap=COLOUR_MAP, edgecolors="black", linewidths=0.3, zorder=2
        )
        coefficients = []
        for label, coefficient in (("Spearman", rank_correlation), ("Pearson", linear_correlation)):
            runs = [[coefficient(x, y) for x, y in zip(*rows, strict=True)] for rows in zip(jnd, values, strict=True)]
            coefficients.append(f"{label} {runs_text(np.asarray(runs))}")
        axes.set_title(f"{name} and JND\n" + "\n".join(coefficients), fontsize="medium")
        axes.set_xlabel("JND")
        axes.set_ylabel(name)
    assert points is not None  # there is at least one metric
    figure.colorbar(points, ax=panels, label="training step (larger points: later)", shrink=0.9)
    return figure


def known_classes_figure(
    counts: Int[np.ndarray, " counts"],
    jnd: Float[np.ndarray, "orders seeds counts"],
    *,
    labels: Sequence[str] = (),
    title: str = "JND and the number of known classes",
) -> Figure:
    """JND against the number of known classes: a thin line per class order, mean and 95 % interval.

    Args:
      counts: numbers of known classes, rising.
      jnd: after training, of one run or more; nan for a missing run.
      labels: of the orders, one for each; without, all look the same.
      title: above the axes.

    Returns:
      A figure with one pair of axes; seeds are averaged within an order.
    """
    figure, (axes,) = panel_axes(1, columns=1, width=6.0, height=4.4)
    for index, order in enumerate(jnd):
        label = labels[index] if labels else None if index else "one class order, seeds averaged"
        marker, shade = ("os^vDPX*"[index % 8], str(0.35 + 0.08 * (index % 5))) if labels else (".", "0.6")
        axes.plot(counts, _mean(order), color=shade, linewidth=1, marker=marker, markersize=5, label=label)
    found = [(k, t_interval(jnd[..., i])) for i, k in enumerate(counts) if not np.isnan(jnd[..., i]).all()]
    means = np.array([estimate.mean for _, estimate in found])
    half = np.array([(e.interval[1] - e.interval[0]) / 2 if e.n > 1 else 0.0 for _, e in found])
    n = max(estimate.n for _, estimate in found)
    axes.errorbar(
        [k for k, _ in found],
        means,
        yerr=half,
        color=KNOWN_COLOUR,
        linewidth=2,
        marker="o",
        capsize=4,
        label=f"mean and 95 % interval over {n} orders" if n > 1 else "the only order",
    )
    axes.set_xticks(counts)
    axes.set_xlabel("number K of known classes")
    axes.set_ylabel("JND after training")
    axes.set_title(title)
    figure.legend(loc="outside lower center", frameon=False, ncols=2, fontsize="small")
    return figure


def embedding_heat_map(
    embedding_known: Float[np.ndarray, "known features"],
    embedding_unknown: Float[np.ndarray, "unknown features"],
    labels_known: Int[np.ndarray, " known"],
    norms_known: Float[np.ndarray, " known"],
    norms_unknown: Float[np.ndarray, " unknown"],
    *,
    class_names: Sequence[str] = (),
    images: int = 1000,
    seed: int = 0,
) -> Figure:
    """The embedding in the plane by t-SNE: classes on the left, Jacobian norms on the right.

    Args:
      embedding_known: unit embedding of known images.
      embedding_unknown: of unknown ones.
      labels_known: class positions.
      norms_known: Frobenius norms of known images.
      norms_unknown: of unknown ones.
      class_names: of the known classes, by position; empty: numbers.
      images: how many of all to place at most, 5 or more, drawn at random; t-SNE takes seconds for a thousand.
      seed: of the draw and of t-SNE.

    Returns:
      A figure with two panels; unknown images are crosses in both. The norms' colours are logarithmic where
      all are positive, and end at the 1st and 99th percentile.

    Raises:
      ValueError: labels that are not one class position for each known image.
    """
    both = np.concatenate([embedding_known, embedding_unknown]).astype(np.float64)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(both))[:images])
    norms = np.concatenate([norms_known, norms_unknown]).astype(np.float64)[chosen]
    labels_known = class_positions("labels_known", labels_known, size=len(embedding_known))
    labels = np.concatenate([labels_known, np.full(len(embedding_unknown), -1)])[chosen]
    perplexity = min(30.0, (len(chosen) - 1) / 3)
    with threadpool_limits(1):  # its threads wait for one another at every step: several times slower on busy cores
        tsne = TSNE(init="pca", perplexity=perplexity, random_state=seed, n_jobs=1)
        points = both[chosen]
        collapsed = (points == points[0]).all()  # no principal axis: one place for all
        place = np.zeros((len(points), 2)) if collapsed else tsne.fit_transform(points)
    figure, (left, right) = panel_axes(2, columns=2, width=5.2, height=4.8)
    unknown = labels == -1
    for position in np.unique(labels[~unknown]):
        name = class_names[position] if position < len(class_names) else f"class {position}"
        marker, colour = (looks[position % len(looks)] for looks in (MARKERS, CURVE_COLOURS))
        rows = place[labels == position]
        left.scatter(*rows.T, s=16, marker=marker, facecolors=to_rgba(colour, 0.6), edgecolors="none", label=name)
    left.scatter(*place[unknown].T, s=14, marker="x", linewidths=0.9, color="0.35", label="unknown")
    low, high = np.percentile(norms, [1, 99])
    scale = LogNorm(low, high) if 0 < low < high else Normalize(low, high)
    for rows, marker, width in ((~unknown, "o", 0.0), (unknown, "x", 0.9)):
        right.scatter(*place[rows].T, c=norms[rows], s=15, marker=marker, linewidths=width, cmap=COLOUR_MAP, norm=scale)
    for axes, title in ((left, "by class"), (right, f"by {NORM}")):
        axes.set_title(f"t-SNE of the unit embedding {title}")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_box_aspect(1)
    # Neutral handles on the right, where colour means the norm.
    kinds = [
        Line2D([], [], linestyle="", color="0.4", marker=m, label=k) for k, m in (("known", "o"), ("unknown", "x"))
    ]
    for axes, handles in ((left, left.get_legend_handles_labels()[0]), (right, kinds)):
        axes.legend(
            handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=3, frameon=False, fontsize="small"
        )
    ticks = LogLocator(subs=(1, 2, 5)) if isinstance(scale, LogNorm) else None
    mappable = ScalarMappable(scale, COLOUR_MAP)
    bar = figure.colorbar(mappable, ax=right, label=NORM, extend="both", shrink=0.9, ticks=ticks, format="%g")
    bar.ax.minorticks_off()
    return figure


def _looks(panels) -> dict[str, tuple[str, str]]:
    """Colour and line style of every curve's name, the same in all panels of a figure."""
    names = dict.fromkeys(name for curves in panels for name in curves if name not in KINDS)
    pairs = {
        name: (CURVE_COLOURS[i % len(CURVE_COLOURS)], CURVE_STYLES[i % len(CURVE_STYLES)])
        for i, name in enumerate(names)
    }
    return {**pairs, **KINDS}


def draw_band(
    axes: Axes,
    x: np.ndarray,
    values: np.ndarray,
    label: str,
    look: tuple[str, str],
    bounds: Range = (-np.inf, np.inf),
) -> bool:
    """Mean over splits with its interval; returns whether infinite values left gaps."""
    colour, style = look
    taken = ~np.isnan(values).all(axis=(0, 1))
    if taken.any():  # else t_interval refuses the curve
        x, values = x[taken], values[..., taken]
    infinite = np.isinf(values).sum(axis=(0, 1)) > 0
    estimates = [
        Estimate(np.nan, (np.nan, np.nan), 0) if infinite[i] else t_interval(values[..., i]) for i in range(len(x))
    ]
    means = np.array([estimate.mean for estimate in estimates])
    axes.plot(x, means, color=colour, linestyle=style, linewidth=1.8, label=label)
    if any(estimate.n > 1 for estimate in estimates):
        band = np.array([clipped(estimate.interval, bounds) for estimate in estimates])
        axes.fill_between(x, band[:, 0], band[:, 1], color=colour, alpha=0.18, linewidth=0)
    return bool(infinite.any())


def _fit_frame(axes: Axes, curves: Iterable[np.ndarray]) -> None:
    """The values of every split lie in the frame; the interval of very few splits may leave it."""
    splits = np.concatenate([_mean(np.moveaxis(values, 1, 0)).ravel() for values in curves])
    splits = splits[np.isfinite(splits)]
    if splits.size == 0:
        return
    low, high = splits.min(), splits.max()
    if 0 < 100 * low < high:  # arms whose norms differ by orders of magnitude
        axes.set_yscale("log")
        axes.set_ylim(0.7 * low, 1.4 * high)
        if high < 1e4 * low:
            label_decades(axes.yaxis)
    elif low < high:
        axes.set_ylim(low - 0.2 * (high - low), high + 0.2 * (high - low))


def label_decades(axis: Axis) -> None:
    """1, 2, 5 of every decade as plain numbers: the default labels overlap within one or two decades."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the first axis, missing entries left out; nan where all are missing."""
    present = ~np.isnan(values)
    totals = np.where(present, values, 0.0).sum(axis=0)
    return np.divide(totals, present.sum(axis=0), out=np.full(totals.shape, np.nan), where=present.any(axis=0))


def _finish_legends(figure: Figure, drawn: list[Axes], panels: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    names = {tuple(curves) for curves in panels.values()}
    if len(names) == 1:
        if len(names.pop()) > 1:
            handles, labels = drawn[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", frameon=False, ncols=min(len(labels), 4))
        return
    for axes, curves in zip(drawn, panels.values(), strict=True):
        if len(curves) > 1:
            axes.legend(frameon=False, fontsize="small")


def runs_text(runs: np.ndarray) -> str:
    """The mean of correlations over splits, with its interval."""
    if np.isnan(runs).all():
        return "not defined"
    mean, interval, n = t_interval(runs)
    low, high = clipped(interval, SIGNED)
    return f"{mean:.2f}" + (f" [{low:.2f}, {high:.2f}]" if n > 1 else "") + f", n = {n}"
