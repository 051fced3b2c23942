"""Figures and tables of a finished run.

A figure is returned, not shown, and touches no global state of matplotlib. Two colours that colour-blind
readers tell apart stand for known and unknown everywhere, and never stand alone: line style or hatching
says the same.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, Integer
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from osrjax import metrics
from osrjax.evaluation.assessment import ScoredImages
from osrjax.files import written_whole

__all__ = [
    "draw_scores",
    "histogram_edges",
    "oscr_figure",
    "panel_axes",
    "progress_figure",
    "roc_figure",
    "save_figure",
    "score_histogram",
]

KNOWN_COLOUR, UNKNOWN_COLOUR = "#0072B2", "#D55E00"  # blue and vermilion of Okabe and Ito, 2008


CURVE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")


CURVE_STYLES = ("-", "--", "-.", ":")


def score_histogram(
    scores_known: Float[np.ndarray, " known"],
    scores_unknown: Float[np.ndarray, " unknown"],
    *,
    title: str = "Scores of known and unknown test images",
    score_name: str = "score (larger = more unknown)",
    threshold: float | None = None,
    bins: int = 40,
    x_scale: Literal["auto", "linear", "log"] = "auto",
) -> Figure:
    """Histograms of the scores of known and of unknown examples over the same bins.

    Bars are shares of each kind, so that the two can be compared whatever their numbers.

    Args:
      scores_known: finite scores of known examples.
      scores_unknown: finite scores of unknown examples.
      title: above the axes; the AUROC is added to it.
      score_name: label of the horizontal axis.
      threshold: drawn as a line with the shares of both kinds that lie above it.
      bins: number of bins, at least 1.
      x_scale: ``"auto"`` takes a logarithmic axis where all scores are positive and span more than
        three decades, as losses do.

    Returns:
      A figure with one pair of axes.

    Raises:
      ValueError: as :func:`osrjax.metrics.detection.auroc`; a logarithmic axis for scores that are not all positive; a
        threshold that is not finite.
    """
    auroc = metrics.auroc(scores_known, scores_unknown)
    edges, logarithmic = histogram_edges(scores_known, scores_unknown, bins=bins, x_scale=x_scale)
    figure, axes = _axes(f"{title}\nAUROC {auroc:.3f}")
    kinds = (
        ("known", scores_known, KNOWN_COLOUR, "", "-"),
        ("unknown", scores_unknown, UNKNOWN_COLOUR, "///", "--"),
    )
    for name, scores, colour, hatch, style in kinds:
        shares = np.histogram(np.asarray(scores, np.float64), edges)[0] / len(scores)
        label = f"{name}, n = {len(scores)}"
        if threshold is not None:
            label += f", {np.mean(metrics.rejected(scores, threshold=threshold)):.1%} above the threshold"
        axes.stairs(
            shares,
            edges,
            fill=True,
            facecolor=to_rgba(colour, 0.3),
            edgecolor=colour,
            linewidth=0,
            hatch=hatch,
            label=label,
        )
        axes.stairs(shares, edges, color=colour, linewidth=1.8, linestyle=style)
    if threshold is not None:
        label = f"threshold {threshold:.4g}: unknown above it"
        axes.axvline(threshold, color="black", linewidth=1.5, linestyle=":", label=label)
    if logarithmic:
        axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.set_xlabel(score_name)
    axes.set_ylabel("share of the images of each kind")
    # Below the axes, since bars may reach anywhere inside them.
    figure.legend(loc="outside lower center", frameon=False)
    return figure


def histogram_edges(
    scores_known: Float[np.ndarray, " known"],
    scores_unknown: Float[np.ndarray, " unknown"],
    *,
    bins: int = 40,
    x_scale: Literal["auto", "linear", "log"] = "auto",
) -> tuple[Float[np.ndarray, " edges"], bool]:
    """The bins that both histograms of scores have, and whether they are of equal width in the logarithm.

    Args:
      scores_known: as for :func:`score_histogram`, as are the others.
      scores_unknown: finite scores.
      bins: number of bins.
      x_scale: of the axis.

    Returns:
      ``bins + 1`` edges, and True for a logarithmic axis.

    Raises:
      ValueError: a logarithmic axis for scores that are not all positive.
    """
    both = np.concatenate([scores_known, scores_unknown]).astype(np.float64)
    low, high = float(both.min()), float(both.max())
    if x_scale == "log" and low <= 0:
        raise ValueError(f'{x_scale=} needs positive scores, the smallest is {low}: use "linear"')
    logarithmic = low < high and (x_scale == "log" or (x_scale == "auto" and low > 0 and high > 1e3 * low))
    if low == high:  # all tied: one visible bar in the middle
        edges = np.linspace(low - 0.5, high + 0.5, bins + 1)
    elif logarithmic:
        edges = np.geomspace(low, high, bins + 1)
    else:
        edges = np.linspace(low, high, bins + 1)
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)  # rounding drops no extreme score
    return edges, logarithmic


def roc_figure(
    scores: Mapping[str, tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]],
    *,
    title: str = "ROC of detecting unknown images",
) -> Figure:
    """ROC curves, one for each named score, with the area in the legend.

    Args:
      scores: by name, the finite scores of known and of unknown examples.
      title: above the axes.

    Returns:
      A figure with one pair of axes; unknown is the positive class.

    Raises:
      ValueError: as :func:`osrjax.metrics.detection.auroc`.
    """
    figure, axes = _axes(title)
    for index, (name, (known, unknown)) in enumerate(scores.items()):
        fpr, tpr = metrics.roc_curve(known, unknown)
        area = metrics.auroc(known, unknown)
        _draw_curve(axes, index, fpr, tpr, f"{name}: AUROC {area:.3f}")
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, label="chance: 0.500")
    _finish_unit_square(axes)
    axes.set_xlabel("share of known images rejected (false positives)")
    axes.set_ylabel("share of unknown images rejected (true positives)")
    axes.legend(loc="lower right")
    return figure


def oscr_figure(
    scores: Mapping[str, tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]],
    correct: Bool[np.ndarray, " known"],
    *,
    title: str = "Open-set classification rate",
) -> Figure:
    """OSCR curves, one for each named score of one classifier, with the area in the legend.

    Args:
      scores: by name, the finite scores of known and of unknown examples.
      correct: True where a known example gets its own class, before any rejection.
      title: above the axes.

    Returns:
      A figure with one pair of axes; the curves end at the closed-set accuracy.

    Raises:
      ValueError: as :func:`osrjax.metrics.detection.oscr`.
    """
    figure, axes = _axes(title)
    for index, (name, (known, unknown)) in enumerate(scores.items()):
        fpr, ccr = metrics.oscr_curve(known, unknown, correct)
        area = metrics.oscr(known, unknown, correct)
        _draw_curve(axes, index, fpr, ccr, f"{name}: OSCR {area:.3f}")
    accuracy = float(np.mean(correct))
    axes.axhline(accuracy, color="0.6", linewidth=1, label=f"closed-set accuracy {accuracy:.3f}")
    _finish_unit_square(axes)
    axes.set_xlabel("unknown images accepted")
    axes.set_ylabel("known images correctly accepted")
    figure.legend(loc="outside lower center", frameon=False, ncols=2)
    return figure


def progress_figure(
    curves: Mapping[str, tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]],
    *,
    title: str = "Accuracy during training",
) -> Figure:
    """Validation accuracy over seconds of training, a curve for each run, with the last point in the legend.

    Args:
      curves: by name, seconds and accuracies (:func:`osrjax.run.validation_curve`).
      title: above the axes.

    Returns:
      A figure with one pair of axes.
    """
    figure, axes = _axes(title)
    for index, (name, (seconds, accuracy)) in enumerate(curves.items()):
        _draw_curve(axes, index, seconds, accuracy, f"{name}: {accuracy[-1]:.3f} after {seconds[-1]:.0f} s")
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds of training steps")
    axes.set_ylabel("accuracy on known validation images")
    axes.legend(loc="lower right")
    return figure


def draw_scores(
    directory: Path, scored: Mapping[str, ScoredImages], labels: Integer[np.ndarray, " known"], *, own: str
) -> None:
    """The figures of a finished run: histogram of its own score, ROC and OSCR curves of every score.

    Args:
      directory: made if it does not exist.
      scored: scores and predictions by name; one whose name ends in ``_embedding`` is left out, being of another space.
      labels: of the known test images, positions in the known classes.
      own: the score of the histogram, whose predictions the OSCR curve takes.

    Raises:
      ValueError: scores that no curve can be drawn of.
    """
    pairs = {n: (images.known, images.unknown) for n, images in scored.items() if not n.endswith("_embedding")}
    directory.mkdir(exist_ok=True)
    save_figure(score_histogram(*pairs[own], score_name=f"{own} (larger = more unknown)"), directory / "scores")
    save_figure(roc_figure(pairs), directory / "roc")
    save_figure(oscr_figure(pairs, scored[own].known_predictions == labels), directory / "oscr")


def save_figure(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Writes a figure as PNG and as SVG, the same bytes for the same figure.

    Args:
      figure: from a function of this module, or any other.
      stem: path without suffix, in a directory that exists; ``runs/roc`` gives ``runs/roc.png`` and
        ``runs/roc.svg``.

    Returns:
      The two paths.

    Raises:
      FileError: they cannot be written.
    """
    png, svg = stem.with_name(stem.name + ".png"), stem.with_name(stem.name + ".svg")
    with written_whole(png) as file:
        figure.savefig(file, format="png", dpi=150)
    # Text stays text, to be searched and edited; a fixed salt and no date make the file reproducible.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "osrjax"}), written_whole(svg) as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
    return png, svg


def panel_axes(
    count: int, *, columns: int, width: float, height: float, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of several panels, those of the last row that are not needed left out.

    Args:
      count: of panels.
      columns: side by side, at most.
      width: of a panel, in inches.
      height: of a panel, in inches.
      sharey: one vertical axis for all.

    Returns:
      The figure, and the axes of each panel.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    drawn = list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).ravel())
    for axes in drawn[count:]:
        axes.remove()
    for axes in drawn[:count]:
        axes.grid(visible=True, color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, drawn[:count]


def _axes(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    axes.grid(visible=True, color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _draw_curve(axes: Axes, index: int, x: np.ndarray, y: np.ndarray, label: str) -> None:
    # Colour and line style change together; their periods share no factor: 28 distinct curves.
    colour = CURVE_COLOURS[index % len(CURVE_COLOURS)]
    style = CURVE_STYLES[index % len(CURVE_STYLES)]
    axes.plot(x, y, color=colour, linestyle=style, linewidth=1.8, label=label)


def _finish_unit_square(axes: Axes) -> None:
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_box_aspect(1)
