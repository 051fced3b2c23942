"""Figures of norms and runs say the right numbers and survive missing, infinite and single runs."""

import numpy as np
import pytest
import scipy.stats
from conftest import plain_module
from matplotlib.patches import StepPatch

from osrjax import report
from osrjax.metrics.intervals import t_interval
from osrjax.report import jacobian as jacobian_report
from osrjax.report.curves import KNOWN_COLOUR, UNKNOWN_COLOUR

plain = plain_module(jacobian_report)

GENERATOR = np.random.default_rng(0)
BEFORE = GENERATOR.lognormal(-2, 0.3, 60), GENERATOR.lognormal(-2, 0.3, 40).astype(np.float32)
AFTER = GENERATOR.lognormal(0.5, 0.6, 60), GENERATOR.lognormal(1.2, 0.4, 40).astype(np.float32)
STEPS = np.array([0, 25, 50, 75])
RUNS = GENERATOR.normal(size=(3, 2, 4))


def legend_texts(figure):
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    return [text.get_text() for legend in legends if legend for text in legend.get_texts()]


def draw(figure, tmp_path):
    """Drawing is where matplotlib fails late; the same figure gives the same bytes."""
    png, svg = report.save_figure(figure, tmp_path / "figure")
    assert png.stat().st_size > 5000
    assert svg.stat().st_size > 5000


def test_norm_histograms_share_bins_and_name_jnd(tmp_path):
    figure = jacobian_report.norm_histograms({"before training": BEFORE, "after training": AFTER}, bins=12)
    assert len(figure.axes) == 2
    edges = []
    for axes, (stage, (known, unknown)) in zip(
        figure.axes, {"before training": BEFORE, "after training": AFTER}.items(), strict=True
    ):
        assert axes.get_title() == f"{stage}: JND {unknown.mean() - known.mean():.3g}"
        assert axes.get_xscale() == "log"
        bars = [patch.get_data() for patch in axes.patches if isinstance(patch, StepPatch)]
        assert len(bars) == 4  # a filling and an outline of each kind
        for bar in bars:
            assert bar.values.sum() == pytest.approx(1.0)  # no norm falls outside the bins
            edges.append(bar.edges)
        means = [line.get_xdata()[0] for line in axes.get_lines()]
        assert means == pytest.approx([known.mean(), unknown.mean()])
    assert all((other == edges[0]).all() for other in edges)
    assert legend_texts(figure) == ["known, n = 60", "unknown, n = 40"]
    draw(figure, tmp_path)


@pytest.mark.parametrize(
    ("known", "unknown", "x_scale", "drawn"),
    [
        (AFTER[0], AFTER[1], "linear", "linear"),
        (np.array([1.0, 2.0]), np.array([3.0]), "auto", "linear"),
        (np.array([1.0, 2.0]), np.array([3.0]), "log", "log"),
        (np.array([0.0, 2.0]), np.array([300.0]), "auto", "linear"),
        (np.full(3, 2.0), np.full(2, 2.0), "auto", "linear"),
        (np.zeros(3), np.zeros(2), "auto", "linear"),
    ],
)
def test_norm_histograms_of_any_range(known, unknown, x_scale, drawn, tmp_path):
    figure = jacobian_report.norm_histograms({"after": (known, unknown)}, x_scale=x_scale)
    (axes,) = figure.axes
    assert axes.get_xscale() == drawn
    bars = [patch.get_data() for patch in axes.patches if isinstance(patch, StepPatch)]
    assert all(bar.values.sum() == pytest.approx(1.0) for bar in bars)
    draw(figure, tmp_path)


def test_interpolation_draws_means_and_bands_over_splits(tmp_path):
    fractions = np.linspace(0, 1, 4).astype(np.float32)
    low, high = 1 + np.abs(RUNS), 3 + np.abs(RUNS)
    stages = {"before training": {"m-OvR": low, "softmax": low}, "after training": {"m-OvR": high, "softmax": low}}
    figure = jacobian_report.interpolation_figure(fractions, stages)
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == tuple(stages)
    np.testing.assert_allclose(right.get_lines()[0].get_ydata(), high.mean(axis=(0, 1)))
    (band, _) = right.collections
    intervals = np.array([t_interval(high[..., i]).interval for i in range(4)])
    vertices = band.get_paths()[0].vertices
    assert vertices[:, 1].min() == pytest.approx(intervals.min())
    assert vertices[:, 1].max() == pytest.approx(intervals.max())
    assert right.get_ylim()[0] == 0
    assert legend_texts(figure) == ["m-OvR", "softmax"]
    draw(figure, tmp_path)


def test_dynamics_average_seeds_and_leave_infinite_steps_out(tmp_path):
    values = RUNS.copy()
    values[2, 1] = np.nan  # a missing run
    collapsed = RUNS.copy()
    collapsed[1, 1, 2] = np.inf
    norms = {"known": np.abs(RUNS), "unknown": 1 + np.abs(RUNS)}
    panels = {"JND": {"m-OvR": values}, "Davies-Bouldin index": {"m-OvR": collapsed}, "mean norm": norms}
    figure = jacobian_report.dynamics_figure(STEPS, panels, title="m-OvR")
    jnd, index, norm = figure.axes
    splits = [values[0].mean(axis=0), values[1].mean(axis=0), values[2, 0]]
    np.testing.assert_allclose(jnd.get_lines()[0].get_ydata(), np.mean(splits, axis=0))
    drawn = index.get_lines()[0].get_ydata()
    np.testing.assert_array_equal(np.isnan(drawn), [False, False, True, False])
    assert "infinite" in index.get_title()
    assert "infinite" not in jnd.get_title()
    lines = {line.get_label(): (line.get_color(), line.get_linestyle()) for line in norm.get_lines()}
    assert lines == {"known": (KNOWN_COLOUR, "-"), "unknown": (UNKNOWN_COLOUR, "--")}
    assert legend_texts(figure) == ["known", "unknown"]  # one curve alone needs no legend
    low, high = jnd.get_ylim()
    assert low < np.min(splits)
    assert high > np.max(splits)
    draw(figure, tmp_path)


def test_arms_keep_their_look_in_all_panels(tmp_path):
    arms = {f"arm {k}": RUNS + k for k in range(9)}
    figure = jacobian_report.dynamics_figure(STEPS, {"one": arms, "two": arms}, columns=2)
    looks = [
        {line.get_label(): (line.get_color(), line.get_linestyle()) for line in a.get_lines()} for a in figure.axes
    ]
    assert looks[0] == looks[1]
    assert len(set(looks[0].values())) == 9
    assert legend_texts(figure) == list(arms)
    draw(figure, tmp_path)


def test_a_single_split_has_no_band_and_decades_get_a_logarithmic_axis(tmp_path):
    alone = np.abs(RUNS[:1])
    figure = jacobian_report.dynamics_figure(STEPS, {"norm": {"a": 1e-4 * alone, "b": alone}, "flat": {"a": 0 * alone}})
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear"]
    assert not figure.axes[0].collections
    draw(figure, tmp_path)
    everywhere = np.full((2, 1, 4), np.inf)
    draw(jacobian_report.dynamics_figure(STEPS, {"norm": {"a": everywhere}}), tmp_path)


def test_a_curve_has_the_steps_at_which_its_runs_were_probed(tmp_path):
    shorter, sparser = RUNS.copy(), RUNS.copy()
    shorter[..., 2:] = np.nan
    sparser[..., 1] = np.nan
    figure = jacobian_report.dynamics_figure(STEPS, {"JND": {"all": RUNS, "shorter": shorter, "sparser": sparser}})
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    for name, kept in {"all": [0, 1, 2, 3], "shorter": [0, 1], "sparser": [0, 2, 3]}.items():
        np.testing.assert_array_equal(lines[name].get_xdata(), STEPS[kept])
        np.testing.assert_allclose(lines[name].get_ydata(), RUNS.mean(axis=(0, 1))[kept])
    draw(figure, tmp_path)


def test_correlations_are_those_of_the_runs(tmp_path):
    auroc = RUNS + 0.5 * GENERATOR.normal(size=RUNS.shape)
    index = -RUNS
    index[0, 0, 0] = np.inf
    index[2, 1] = np.nan
    figure = jacobian_report.correlation_figure(STEPS, RUNS, {"AUROC": auroc, "Davies-Bouldin index": index})
    left, right, bar = figure.axes
    for label, coefficient in (("Spearman", scipy.stats.spearmanr), ("Pearson", scipy.stats.pearsonr)):
        runs = [[coefficient(RUNS[i, j], auroc[i, j]).statistic for j in range(2)] for i in range(3)]
        mean, (low, high), n = t_interval(np.array(runs))
        assert f"{label} {mean:.2f} [{low:.2f}, {min(high, 1):.2f}], n = {n}" in left.get_title()
    assert "Pearson -1.00 [-1.00, -1.00], n = 3" in right.get_title()
    points = right.collections[0]
    assert np.ma.masked_invalid(points.get_offsets()).mask.any(axis=1).sum() == 5
    assert "step" in bar.get_ylabel()
    draw(figure, tmp_path)
    flat = jacobian_report.correlation_figure(STEPS, RUNS, {"AUROC": np.full_like(RUNS, 0.5)})
    assert "Spearman not defined" in flat.axes[0].get_title()


def test_known_classes_show_every_order_and_the_mean(tmp_path):
    counts = np.array([2, 4, 6, 8])
    jnd = RUNS.copy()
    jnd[2, :, 3] = np.nan
    figure = jacobian_report.known_classes_figure(counts, jnd)
    (axes,) = figure.axes
    lines = [np.asarray(line.get_ydata()) for line in axes.get_lines() if len(line.get_ydata()) == 4]
    for order, line in zip(jnd, lines[:3], strict=True):
        np.testing.assert_allclose(line, order.mean(axis=0))
    means = [t_interval(jnd[..., i]).mean for i in range(4)]
    assert any(np.allclose(line, means) for line in lines[3:])
    assert legend_texts(figure) == ["one class order, seeds averaged", "mean and 95 % interval over 3 orders"]
    draw(figure, tmp_path)
    box = figure.legends[0].get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
    only = jacobian_report.known_classes_figure(counts, RUNS[:1])
    assert "the only order" in legend_texts(only)
    named = jacobian_report.known_classes_figure(counts, jnd, labels=["a", "b", "c"], title="its name")
    assert legend_texts(named) == ["a", "b", "c", "mean and 95 % interval over 3 orders"]
    assert len({line.get_marker() for line in named.axes[0].get_lines()[:3]}) == 3


def test_the_heat_map_places_every_image_once_and_again_the_same(tmp_path):
    centres = np.eye(4)[:3]
    labels = np.repeat([0, 1, 2], 8)
    known = centres[labels] + 0.05 * GENERATOR.normal(size=(24, 4))
    unknown = np.full((6, 4), 0.5) + 0.05 * GENERATOR.normal(size=(6, 4))
    norms = GENERATOR.lognormal(size=24).astype(np.float32), GENERATOR.lognormal(size=6).astype(np.float32)

    def made(**options):
        return jacobian_report.embedding_heat_map(
            known.astype(np.float32), unknown.astype(np.float32), labels, *norms, class_names=["cat", "dog"], **options
        )

    figure = made()
    left, right, bar = figure.axes
    assert [len(points.get_offsets()) for points in left.collections] == [8, 8, 8, 6]
    assert [len(points.get_offsets()) for points in right.collections] == [24, 6]
    assert legend_texts(figure) == ["cat", "dog", "class 2", "unknown", "known", "unknown"]
    assert (
        len({points.get_paths()[0].vertices.tobytes() for points in left.collections}) == 4
    )  # markers, not colour alone
    np.testing.assert_array_equal(right.collections[0].get_array(), norms[0])
    assert "J(x)" in bar.get_ylabel()
    # Neighbours in the embedding stay neighbours: each image's nearest one has its class.
    place = np.concatenate([points.get_offsets() for points in left.collections])
    distances = np.linalg.norm(place[:, None] - place, axis=-1) + 1e9 * np.eye(30)
    kinds = np.concatenate([labels, np.full(6, 3)])
    assert np.mean(kinds[distances.argmin(axis=1)] == kinds) > 0.9
    for a, b in zip(left.collections, made().axes[0].collections, strict=True):
        np.testing.assert_array_equal(a.get_offsets(), b.get_offsets())
    draw(figure, tmp_path)
    few = made(images=10)
    assert sum(len(points.get_offsets()) for points in few.axes[1].collections) == 10


def test_the_heat_map_of_a_collapsed_network_has_one_place():
    same = np.full((6, 4), 0.5, np.float32)
    figure = jacobian_report.embedding_heat_map(same, same, np.arange(6) % 2, np.zeros(6), np.zeros(6))
    places = np.concatenate([points.get_offsets() for points in figure.axes[0].collections])
    np.testing.assert_array_equal(places, np.zeros((12, 2)))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plain.norm_histograms({"a": (np.array([np.nan]), np.ones(2))}), "norms_known"),
        (lambda: plain.dynamics_figure(STEPS, {"a": {"b": np.nan * RUNS}}), "holds no run"),
    ],
)
def test_malformed_arguments_are_refused_by_name(call, words):
    with pytest.raises(ValueError, match=words):
        call()
