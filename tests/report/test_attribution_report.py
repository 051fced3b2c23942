"""Contact sheets show the right pixels, boxes and peaks; the numbers beside them are those of plain loops."""

import math

import matplotlib
import numpy as np
import pytest
from conftest import plain_module
from matplotlib.collections import PatchCollection
from scipy.stats import entropy

from osrjax import report
from osrjax.report import attribution as attribution_report
from osrjax.report.attribution import SheetColumn, contact_sheet


@pytest.fixture
def columns(rng):
    """Images of 5 x 4 pixels; two groups of a map with marks and an image, one map of them constant."""
    pictures = rng.uniform(-1, 1, (3, 5, 4, 3)).astype(np.float32)
    maps = rng.uniform(0, 9, (3, 5, 4)).astype(np.float32)
    maps[2] = 4.0
    boxes, peaks = np.array([[0, 2, 1, 4], [3, 5, 0, 4], [1, 1, 2, 2]]), np.array([[1, 2], [4, 0], [0, 3]])
    return [
        SheetColumn("image", pictures),
        SheetColumn("sum", pictures, maps, boxes, peaks, "one"),
        SheetColumn("masked", -pictures, group="one"),
        SheetColumn("sum", pictures[::-1], maps[::-1], boxes[::-1], peaks[::-1], "other"),
    ]


def tiles(axes, columns):
    """Upper left corner and pixels of every tile, found from the ticks that name rows and columns."""
    rows, height, width, _ = columns[0].pictures.shape
    sheet = np.asarray(axes.images[0].get_array())
    for x, column in zip(axes.get_xticks(), columns, strict=True):
        for row, y in zip(range(rows), axes.get_yticks(), strict=True):
            top, left = round(y - (height - 1) / 2), round(x - (width - 1) / 2)
            yield column, row, top, left, sheet[top : top + height, left : left + width]


def test_every_tile_is_its_picture_or_its_map_over_gray(columns):
    figure = contact_sheet(columns, row_names=["a", "a", "b"])
    covered = 0
    for column, row, _, _, pixels in tiles(figure.axes[0], columns):
        colours = (column.pictures[row] + 1) / 2
        if column.maps is not None:
            values = column.maps[row]
            shares = (values - values.min()) / max(values.max() - values.min(), 1e-9)
            gray = colours @ [0.299, 0.587, 0.114]
            viridis = matplotlib.colormaps["viridis"](shares)[..., :3]
            colours = 0.7 * viridis + 0.3 * np.stack([gray] * 3, axis=-1)
        np.testing.assert_allclose(pixels, colours, atol=1e-5)
        covered += pixels[..., 0].size
    sheet = np.asarray(figure.axes[0].images[0].get_array())
    assert (sheet == 1).all(axis=-1).sum() == sheet[..., 0].size - covered  # the rest is white


def test_boxes_and_peaks_lie_on_their_tiles(columns):
    axes, _ = contact_sheet(columns, row_names=["a", "a", "b"]).axes
    frames, boxes = (found for found in axes.collections if isinstance(found, PatchCollection))
    assert len(frames.get_paths()) == 12
    ends = [path.get_extents().extents for path in boxes.get_paths()]  # x0, y0, x1, y1
    (line,) = axes.get_lines()
    peaks = list(line.get_xydata())
    expected = [(tile[0], *tile[1:4]) for tile in tiles(axes, columns) if tile[0].boxes is not None]
    assert len(ends) == len(peaks) == len(expected) == 6
    for (column, row, top, left), found, peak in zip(expected, ends, peaks, strict=True):
        y0, y1, x0, x1 = column.boxes[row]
        # Pixel i reaches from i - 1/2 to i + 1/2.
        assert found.tolist() == [left + x0 - 0.5, top + y0 - 0.5, left + x1 - 0.5, top + y1 - 0.5]
        assert peak.tolist() == [left + column.peaks[row][1], top + column.peaks[row][0]]


def test_names_titles_and_legend_say_what_is_what(columns, tmp_path):
    figure = contact_sheet(columns, row_names=["a", "a", "b"], title="A title", box_name="the box")
    axes, bar = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["image", "sum", "masked", "sum"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "", "b"]
    x = axes.get_xticks()
    groups = {text.get_text(): text.xy[0] for text in axes.texts}
    assert groups == {"one": (x[1] + x[2]) / 2, "other": x[3]}
    assert x[1] - x[0] == x[3] - x[2] > x[2] - x[1]  # groups stand apart
    assert figure.get_suptitle() == "A title"
    assert [label.get_text() for label in bar.get_xticklabels()] == ["smallest", "largest"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["largest entry of the map", "the box"]
    for path in report.save_figure(figure, tmp_path / "sheet"):
        assert path.stat().st_size > 5000
    for part in (figure.legends[0], *axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels()):
        box = part.get_window_extent()
        assert min(box.x0, box.y0) >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1


def test_gray_pictures_alone_need_neither_legend_nor_colour_bar(rng, tmp_path):
    pictures = rng.uniform(-1, 1, (1, 28, 28, 1)).astype(np.float32)
    figure = contact_sheet([SheetColumn("image", pictures)], row_names=["a"])
    (axes,) = figure.axes
    assert not figure.legends
    ((_, _, _, _, pixels),) = tiles(axes, [SheetColumn("image", pictures)])
    np.testing.assert_allclose(pixels, np.repeat((pictures[0] + 1) / 2, 3, axis=-1), atol=1e-6)
    assert report.save_figure(figure, tmp_path / "sheet")[0].stat().st_size > 2000


@pytest.mark.parametrize("shape", [(6, 6), (7, 4)])
@pytest.mark.parametrize("kept", [0.5, 0.7, 0.99])
def test_masses_are_those_of_loops_over_pixels_and_places(rng, shape, kept):
    height, width = shape
    maps = rng.normal(size=(4, height, width)).astype(np.float32)
    maps[3] = -1.0
    positive = np.where(maps > 0, maps, 0).astype(np.float64)
    half_height, half_width = (math.floor(math.floor(length * math.sqrt(1 - kept)) / 2) for length in shape)

    def box(row, column):
        rows = max(row - half_height, 0), min(row + half_height, height)
        return (*rows, max(column - half_width, 0), min(column + half_width, width))

    def share(image, ends):
        y0, y1, x0, x1 = ends
        return positive[image, y0:y1, x0:x1].sum() / positive[image].sum()

    places = [(row, column) for row in range(height) for column in range(width)]
    boxes = np.array([box(*places[k]) for k in rng.integers(0, len(places), 4)])
    inside = attribution_report.mass_in_boxes(maps, boxes)
    anywhere = attribution_report.mass_in_random_boxes(maps, kept=kept)
    np.testing.assert_allclose(inside[:3], [share(k, boxes[k]) for k in range(3)], rtol=1e-12)
    expected = [np.mean([share(k, box(*place)) for place in places]) for k in range(3)]
    np.testing.assert_allclose(anywhere[:3], expected, rtol=1e-12)
    assert np.isnan([inside[3], anywhere[3]]).all()  # a map without mass has none anywhere


def test_effective_areas(rng):
    maps = rng.normal(size=(6, 5, 6)).astype(np.float32)
    maps[5] = -1.0
    found = attribution_report.effective_areas(maps)
    expected = [np.exp(entropy(np.maximum(one, 0).ravel().astype(np.float64))) / 30 for one in maps]
    np.testing.assert_allclose(found[:5], expected[:5], rtol=1e-12)
    assert np.isnan(found[5])
    np.testing.assert_allclose(attribution_report.effective_areas(np.full((1, 4, 4), 7e30, np.float32)), 1)


def test_boxes_that_are_not_one_a_map_are_refused():
    with pytest.raises(ValueError, match=r"boxes.shape=\(1, 4\) is not \(2, 4\)"):
        plain_module(attribution_report).mass_in_boxes(np.ones((2, 3, 3)), np.array([[0, 1, 0, 1]]))


def test_peak_distances(rng):
    peaks, others = rng.integers(0, 32, (2, 9, 2))
    expected = [math.dist(a, b) for a, b in zip(peaks, others, strict=True)]
    np.testing.assert_allclose(attribution_report.peak_distances(peaks, others), expected)
    from_centre = [math.dist(a, (15.5, 15.5)) for a in peaks]
    np.testing.assert_allclose(attribution_report.peak_distances(peaks, np.array([[15.5, 15.5]])), from_centre)
