"""Contact sheets of attribution maps, and numbers that say where maps lie and how far they move.

Figures are returned, not shown. Images are NHWC in [-1, 1] with 1 or 3 channels. A box is ``(y0, y1, x0, x1)`` and
holds ``[y0, y1) x [x0, x1)``; a peak is ``(row, column)``.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax.numpy as jnp
import matplotlib
import numpy as np
from jaxtyping import Float, Integer, Num
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import Normal, Stroke
from scipy.special import entr

from osrjax.attribution.boxes import box_bounds
from osrjax.augment.pixels import LUMA

__all__ = [
    "SheetColumn",
    "contact_sheet",
    "effective_areas",
    "mass_in_boxes",
    "mass_in_random_boxes",
    "peak_distances",
]

COLOUR_MAP = "viridis"  # perceptually uniform, readable without red and green


OPACITY = 0.7  # of a map over the gray image


TILE = 0.8  # inches


class SheetColumn(NamedTuple):
    """One column of a contact sheet, a picture per row.

    Attributes:
      title: above the column.
      pictures: images, in gray where there is a map over them.
      maps: each shown from its own smallest to its own largest entry.
      boxes: outlined.
      peaks: marked with a cross.
      group: written once above neighbouring columns of the same group.
    """

    title: str
    pictures: Float[np.ndarray, "rows height width channels"]
    maps: Float[np.ndarray, "rows height width"] | None = None
    boxes: Integer[np.ndarray, "rows 4"] | None = None
    peaks: Integer[np.ndarray, "rows 2"] | None = None
    group: str = ""


def contact_sheet(
    columns: Sequence[SheetColumn], *, row_names: Sequence[str], title: str = "", box_name: str = "box"
) -> Figure:
    """Images and maps in rows and columns, pixel for pixel.

    Args:
      columns: pictures of one shape.
      row_names: one per row; a name is written at the first of neighbouring rows that have it.
      title: above the sheet.
      box_name: what the outlines are, for the legend.

    Returns:
      A figure with one picture of all tiles, a colour bar if there are maps, and a legend of what is marked.
    """
    rows, height, width, _ = columns[0].pictures.shape
    gap = max(1, round(0.06 * max(height, width)))
    starts = [column.group != before.group for before, column in pairwise(columns)]
    lefts = np.cumsum([0, *(width + gap * (3 if new_group else 1) for new_group in starts)])
    tops = np.arange(rows) * (height + gap)
    sheet = np.ones((tops[-1] + height, lefts[-1] + width, 3))
    frames, outlines, peaks = [], [], []
    for left, column in zip(lefts, columns, strict=True):
        for row, top in enumerate(tops):
            values = None if column.maps is None else column.maps[row]
            sheet[top : top + height, left : left + width] = tile(column.pictures[row], values)
            frames.append(Rectangle((left - 0.5, top - 0.5), width, height))
            if column.boxes is not None:
                y0, y1, x0, x1 = column.boxes[row]
                outlines.append(Rectangle((left + x0 - 0.5, top + y0 - 0.5), x1 - x0, y1 - y0))
            if column.peaks is not None:
                peaks.append((left + column.peaks[row][1], top + column.peaks[row][0]))

    scale = TILE / max(height, width)
    size = (max(6.0, scale * sheet.shape[1] + 1.4), scale * sheet.shape[0] + 2.0)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.imshow(sheet, interpolation="nearest")
    # Frames show where white images end.
    axes.add_collection(PatchCollection(frames, clip_on=False, facecolor="none", edgecolor="0.6", linewidth=0.5))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize="small")
    axes.xaxis.tick_top()
    axes.set_xticks(lefts + (width - 1) / 2, [column.title for column in columns])
    named = [row == 0 or row_names[row] != row_names[row - 1] for row in range(rows)]
    axes.set_yticks(tops + (height - 1) / 2, [name if new else "" for name, new in zip(row_names, named, strict=True)])
    _name_groups(axes, columns, lefts, width)
    if title:
        figure.suptitle(title, fontsize="medium")
    handles = []
    edge = [Stroke(linewidth=2.6, foreground="black"), Normal()]  # white on black shows on every colour
    if peaks:
        cross: Any = {"marker": "+", "color": "white", "markersize": 6, "markeredgewidth": 1.2, "path_effects": edge}
        axes.plot(*np.transpose(peaks), linestyle="", clip_on=False, scalex=False, scaley=False, **cross)
        handles.append(Line2D([], [], linestyle="", label="largest entry of the map", **cross))
    if outlines:
        outline: Any = {"facecolor": "none", "edgecolor": "white", "linewidth": 1.2, "path_effects": edge}
        axes.add_collection(PatchCollection(outlines, clip_on=False, **outline), autolim=False)
        handles.append(Patch(label=box_name, **outline))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", frameon=False, fontsize="small")
    if any(column.maps is not None for column in columns):
        mappable = ScalarMappable(cmap=COLOUR_MAP)
        bar = figure.colorbar(mappable, ax=axes, location="bottom", shrink=0.5, aspect=40, pad=0.01)
        bar.set_ticks([0, 1], labels=["smallest", "largest"])
        bar.ax.tick_params(length=0, labelsize="small")
        bar.set_label("entry of each map, over the image in gray", fontsize="small")
    return figure


def effective_areas(maps: Float[np.ndarray, "images height width"]) -> Float[np.ndarray, " images"]:
    r"""How much of an image each map spreads over, by its entropy: 1 is uniform, 1 / (height width) is a single pixel.

    .. math:: \frac{1}{HW} \exp\Big(-\sum_{yx} p_{yx} \log p_{yx}\Big), \qquad p = M / \textstyle\sum M.

    Args:
      maps: at any scale; negative entries count as 0.

    Returns:
      float64 shares in (0, 1]; nan for a map without a positive entry.

    Example:
      >>> print(effective_areas(np.array([[[1.0, 1.0], [0.0, 0.0]]])))
      [0.5]
    """
    mass = np.maximum(maps.astype(np.float64), 0.0)
    total = mass.sum(axis=(1, 2), keepdims=True)
    shares = np.divide(mass, total, out=np.full(mass.shape, np.nan), where=total > 0)
    return np.exp(entr(shares).sum(axis=(1, 2))) / (maps.shape[1] * maps.shape[2])


def mass_in_boxes(
    maps: Float[np.ndarray, "images height width"], boxes: Integer[np.ndarray, "images 4"]
) -> Float[np.ndarray, " images"]:
    """Share of each map's sum that lies in its box.

    Args:
      maps: negative entries count as 0.
      boxes: one per map.

    Returns:
      float64 shares in [0, 1]; nan for a map without a positive entry.

    Raises:
      ValueError: another number of boxes than maps.

    Example:
      >>> print(mass_in_boxes(np.array([[[1.0, 3.0]]]), np.array([[0, 1, 1, 2]])))
      [0.75]
    """
    images, height, width = maps.shape
    if boxes.shape != (images, 4):
        raise ValueError(f"{boxes.shape=} is not {(images, 4)}: give one box per map")
    y, x = np.arange(height)[:, None], np.arange(width)
    y0, y1, x0, x1 = (ends[:, None, None] for ends in boxes.T)
    return _weighted_share(maps, (y0 <= y) & (y < y1) & (x0 <= x) & (x < x1))


def mass_in_random_boxes(
    maps: Float[np.ndarray, "images height width"], *, kept: float
) -> Float[np.ndarray, " images"]:
    """Mean share of each map's sum in GradMix's box, over all places that its centre can have.

    Args:
      maps: negative entries count as 0.
      kept: lambda, the share of an image that the box leaves, in (0, 1).

    Returns:
      float64 shares in [0, 1]; nan for a map without a positive entry. No random number is drawn.

    Example:
      >>> print(mass_in_random_boxes(np.ones((1, 4, 4)), kept=0.75))  # of 4 ranges of 2 pixels one is cut to 1
      [0.19140625]
    """
    _, height, width = maps.shape

    def covered(length: int) -> np.ndarray:
        """How often each place of an axis lies in the box."""
        centres = jnp.stack([jnp.arange(length, dtype=jnp.int32)] * 2, axis=-1)
        bounds = np.asarray(box_bounds(centres, jnp.full(length, kept), height=length, width=length))
        places = np.arange(length)[:, None]
        return np.mean((bounds[:, 0] <= places) & (places < bounds[:, 1]), axis=1)

    return _weighted_share(maps, covered(height)[:, None] * covered(width))


def peak_distances(
    peaks: Num[np.ndarray, "images 2"], others: Num[np.ndarray, "#images 2"]
) -> Float[np.ndarray, " images"]:
    """Euclidean distances between peaks, in pixels.

    Args:
      peaks: rows and columns.
      others: of the same images at another time, or one place for all.

    Returns:
      float64 distances.

    Example:
      >>> print(peak_distances(np.array([[0, 0], [3, 4]]), np.array([[0, 0]])))
      [0. 5.]
    """
    return np.linalg.norm(peaks.astype(np.float64) - others, axis=1)


def _weighted_share(maps: np.ndarray, weights: np.ndarray) -> np.ndarray:
    mass = np.maximum(maps.astype(np.float64), 0.0)
    total = mass.sum(axis=(1, 2))
    return np.divide((mass * weights).sum(axis=(1, 2)), total, out=np.full(len(maps), np.nan), where=total > 0)


def tile(picture: np.ndarray, values: np.ndarray | None) -> np.ndarray:
    """The colours of a picture, or of a map over the picture in gray."""
    colours = np.broadcast_to(np.clip((picture.astype(np.float64) + 1) / 2, 0, 1), (*picture.shape[:2], 3))
    if values is None:
        return colours
    span = float(values.max() - values.min())
    shares = (values - values.min()) / span if span > 0 else np.zeros_like(values)
    gray = colours @ np.asarray(LUMA, np.float64)
    return OPACITY * matplotlib.colormaps[COLOUR_MAP](shares)[..., :3] + (1 - OPACITY) * gray[..., None]


def _name_groups(axes, columns: Sequence[SheetColumn], lefts: np.ndarray, width: int) -> None:
    groups = [column.group for column in columns]
    for group in dict.fromkeys(filter(None, groups)):
        first, last = groups.index(group), len(groups) - 1 - groups[::-1].index(group)
        centre = (lefts[first] + lefts[last] + width - 1) / 2
        place = {"xytext": (0, 20), "textcoords": "offset points", "ha": "center", "annotation_clip": False}
        axes.annotate(group, (centre, -0.5), fontsize="medium", **place)
