"""The picture of scores, images and maps: what is shown stands at its score, and the shares are those of the scores."""

import matplotlib
import numpy as np
import pytest

from osrjax.report import ScoredExamples, examples_figure, spread_over

PLACES = np.array([-5.0, -3.0, -1.0, 1.0])


@pytest.fixture
def examples(rng):
    """Known images around -4, unknown ones around 0, four of each shown."""
    pictures = rng.uniform(-1, 1, (4, 5, 5, 1)).astype(np.float32)
    maps = rng.uniform(0, 1, (4, 5, 5)).astype(np.float32)
    known = ScoredExamples(rng.normal(-4, 1, 50), pictures, maps)
    return known, ScoredExamples(rng.normal(0, 1, 40), pictures[::-1], maps[::-1])


def test_images_are_spread_and_none_comes_twice(rng):
    scores = rng.normal(size=30)
    places = np.linspace(scores.min(), scores.max(), 30)
    assert sorted(spread_over(scores, places)) == list(range(30))
    assert list(spread_over(scores, places[[0, -1]])) == [scores.argmin(), scores.argmax()]
    assert list(spread_over(np.array([1.0, 1.0, 5.0]), np.array([1.0, 1.1]))) == [0, 1]


def test_images_and_maps_stand_at_their_places(examples):
    known, unknown = examples
    figure = examples_figure(known, unknown, PLACES, threshold=-2.0)
    _, *strips = figure.axes
    for axes, shown in zip(strips, examples, strict=True):
        drawn = [(sum(image.get_extent()[:2]) / 2, image) for image in axes.images]
        assert [round(place, 6) for place, _ in drawn] == [place for place in PLACES for _ in range(2)]
        for row, picture in enumerate(shown.pictures):
            (_, image), (_, under) = drawn[2 * row : 2 * row + 2]
            assert image.get_extent()[2] > under.get_extent()[2]
            colours = np.broadcast_to((picture + 1) / 2, (5, 5, 3))
            np.testing.assert_allclose(image.get_array(), colours, atol=1e-6)
            values = shown.maps[row]
            viridis = matplotlib.colormaps["viridis"]((values - values.min()) / (values.max() - values.min()))
            np.testing.assert_allclose(under.get_array(), 0.7 * viridis[..., :3] + 0.3 * colours, atol=1e-5)


def test_shares_and_threshold_are_those_of_the_scores(examples):
    known, unknown = examples
    figure = examples_figure(known, unknown, PLACES, threshold=-2.0)
    texts = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    for text, kind, shown in zip(texts, ("known", "unknown"), examples, strict=True):
        assert text == f"{kind} classes: {np.mean(shown.scores > -2):.0%} called unknown"
    for axes in figure.axes:
        (line,) = axes.lines
        assert list(line.get_xdata()) == [-2.0, -2.0]
    filled = [patch for patch in figure.axes[0].patches if patch.get_fill()]
    assert [round(float(patch.get_data().values.sum()), 9) for patch in filled] == [1.0, 1.0]  # none falls outside


def test_unequal_numbers_are_refused(examples):
    known, unknown = examples
    with pytest.raises(ValueError, match="unknown has 4 pictures, 3 maps and 4 places"):
        examples_figure(known, unknown._replace(maps=unknown.maps[1:]), PLACES, threshold=0.0)
