"""Scores as a picture: histograms of known and unknown images over the images themselves and their attribution maps."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from osrjax import metrics
from osrjax.report.attribution import tile
from osrjax.report.curves import KNOWN_COLOUR, UNKNOWN_COLOUR

__all__ = ["ScoredExamples", "examples_figure", "spread_over"]

KINDS = (("known", KNOWN_COLOUR, "", "-"), ("unknown", UNKNOWN_COLOUR, "///", "--"))


class ScoredExamples(NamedTuple):
    """Images of one kind, and some of them to show.

    Attributes:
      scores: of all images; larger = more unknown.
      pictures: of the images to show, from the smallest score on, values in [-1, 1].
      maps: of the same images, each shown from its own smallest to its own largest entry.
    """

    scores: Float[np.ndarray, " images"]
    pictures: Float[np.ndarray, "shown height width channels"]
    maps: Float[np.ndarray, "shown height width"]


def spread_over(scores: Float[np.ndarray, " images"], places: Float[np.ndarray, " shown"]) -> Int[np.ndarray, " shown"]:
    """The images whose scores lie nearest to given places, no image twice.

    Args:
      scores: one an image, at least as many as places.
      places: scores, in ascending order.

    Returns:
      Positions in ``scores``, one a place.

    Example:
      >>> print(spread_over(np.array([0.0, 5.0, 0.1, 9.0]), np.array([0.0, 0.2, 8.0])))
      [0 2 3]
    """
    distances, chosen = np.abs(np.subtract.outer(places, scores)), []
    for row in distances:
        row[chosen] = np.inf
        chosen.append(int(np.argmin(row)))
    return np.array(chosen)


def examples_figure(
    known: ScoredExamples,
    unknown: ScoredExamples,
    places: Float[np.ndarray, " shown"],
    *,
    threshold: float,
    score_name: str = "score",
    bins: int = 40,
) -> Figure:
    """Histograms of the scores; under them, at their places on the same axis, images and their maps.

    Args:
      known: images of known classes.
      unknown: images of unknown classes.
      places: scores under which the shown images stand, evenly spaced.
      threshold: above it an image is called unknown.
      score_name: label of the axis.
      bins: of the histograms.

    Returns:
      A figure 7 inches wide.

    Raises:
      ValueError: pictures, maps and places that are not equally many; scores or a threshold that are not finite.
    """
    both = {"known": known, "unknown": unknown}
    for kind, examples in both.items():
        if not len(examples.pictures) == len(examples.maps) == len(places):
            counts = f"{len(examples.pictures)} pictures, {len(examples.maps)} maps and {len(places)} places"
            raise ValueError(f"{kind} has {counts}: give as many of each")
    places = places.astype(np.float64)
    step = float(places[-1] - places[0]) / max(len(places) - 1, 1) or 1.0
    left, right = places[0] - step / 2, places[-1] + step / 2
    # 6.3 inches of axes: tiles that are about square for square images.
    _, height, width, _ = known.pictures.shape
    row = min(2.0, 6.3 / len(places) * height / width)
    figure = Figure(figsize=(7, 2.45 + 4 * row), layout="constrained")
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.03, hspace=0.0)
    top, *strips = figure.subplots(3, 1, sharex=True, height_ratios=[1.4, 2 * row, 2 * row])

    edges = np.linspace(left, right, bins + 1)
    for (kind, colour, hatch, style), examples in zip(KINDS, both.values(), strict=True):
        shares = np.histogram(np.clip(examples.scores, left, right), edges)[0] / len(examples.scores)
        above = metrics.rejected(examples.scores, threshold=threshold)
        label = f"{kind} classes: {np.mean(above):.0%} called unknown"
        face = to_rgba(colour, 0.3)
        top.stairs(shares, edges, fill=True, facecolor=face, edgecolor=colour, linewidth=0, hatch=hatch, label=label)
        top.stairs(shares, edges, color=colour, linewidth=1.8, linestyle=style)
    top.set_ylim(0, 1.2 * top.get_ylim()[1])  # room for the words beside the threshold
    for text, offset, side in (("called known", -6, "right"), ("called unknown", 6, "left")):
        place: Any = {"xytext": (offset, -2), "textcoords": "offset points", "va": "top", "ha": side}
        top.annotate(text, (threshold, 1), xycoords=("data", "axes fraction"), **place)
    top.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    top.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    top.set_ylabel("images")
    top.spines[["top", "right"]].set_visible(False)
    top.tick_params(labelbottom=True)
    auroc = metrics.auroc(known.scores, unknown.scores)
    top.set_xlabel(f"{score_name} (larger = more unknown), AUROC {auroc:.3f}")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)

    for axes, (kind, colour, _, style), examples in zip(strips, KINDS, both.values(), strict=True):
        _draw_tiles(axes, examples, places, step, colour, style)
        axes.set_ylabel(f"{kind} images,\nattribution", color=colour)
    for axes in (top, *strips):
        axes.axvline(threshold, color="black", linewidth=1.5, linestyle=":", zorder=3)
        axes.set_xlim(left, right)
    return figure


def _draw_tiles(
    axes: Axes, examples: ScoredExamples, places: Float[np.ndarray, " shown"], step: float, colour: str, style: str
) -> None:
    """A row of images and a row of their maps, each at its place."""
    half = 0.46 * step
    for place, picture, values in zip(places, examples.pictures, examples.maps, strict=True):
        for bottom, pixels in ((1, tile(picture, None)), (0, tile(picture, values))):
            extent = (place - half, place + half, bottom + 0.04, bottom + 0.96)
            axes.imshow(pixels, extent=extent, interpolation="nearest", aspect="auto")
        frame: Any = {"fill": False, "edgecolor": colour, "linestyle": style, "linewidth": 1.8}
        axes.add_patch(Rectangle((place - half, 0.04), 2 * half, 1.92, **frame))
    axes.set_ylim(0, 2)
    axes.set_yticks([])
    axes.tick_params(bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
