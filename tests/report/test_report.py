"""Figures say the right numbers and survive odd scores; files and tables are exact."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import load_script, plain_module
from matplotlib.patches import StepPatch
from PIL import Image

from osrjax import metrics, report
from osrjax.data import Examples, OpenSetData
from osrjax.report import curves

plain = plain_module(curves)

GENERATOR = np.random.default_rng(0)
KNOWN, UNKNOWN = GENERATOR.normal(0, 1, 60), GENERATOR.normal(1, 1, 40)
CORRECT = GENERATOR.random(60) < 0.8
SCORES = {"m-OvR loss": (KNOWN, UNKNOWN), "energy": (KNOWN, UNKNOWN - 0.5)}


def legend_texts(figure):
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    return [text.get_text() for legend in legends if legend for text in legend.get_texts()]


def area_under(line):
    return np.trapezoid(np.asarray(line.get_ydata(), float), np.asarray(line.get_xdata(), float))


def step_data(axes):
    return [patch.get_data() for patch in axes.patches if isinstance(patch, StepPatch)]


def test_roc_figure_draws_the_curve_and_names_the_area():
    figure = report.roc_figure(SCORES, title="A title")
    (axes,) = figure.axes
    assert axes.get_title() == "A title"
    assert "known" in axes.get_xlabel()
    assert "unknown" in axes.get_ylabel()
    assert legend_texts(figure) == [
        f"m-OvR loss: AUROC {metrics.auroc(KNOWN, UNKNOWN):.3f}",
        f"energy: AUROC {metrics.auroc(KNOWN, UNKNOWN - 0.5):.3f}",
        "chance: 0.500",
    ]
    line = axes.get_lines()[0]
    assert area_under(line) == pytest.approx(metrics.auroc(KNOWN, UNKNOWN))
    styles = {(line.get_color(), line.get_linestyle()) for line in axes.get_lines()}
    assert len(styles) == 3


def test_oscr_figure_draws_the_curve_and_names_the_area():
    figure = report.oscr_figure(SCORES, CORRECT)
    (axes,) = figure.axes
    assert legend_texts(figure) == [
        f"m-OvR loss: OSCR {metrics.oscr(KNOWN, UNKNOWN, CORRECT):.3f}",
        f"energy: OSCR {metrics.oscr(KNOWN, UNKNOWN - 0.5, CORRECT):.3f}",
        f"closed-set accuracy {CORRECT.mean():.3f}",
    ]
    line = axes.get_lines()[0]
    assert area_under(line) == pytest.approx(metrics.oscr(KNOWN, UNKNOWN, CORRECT))
    assert "correctly" in axes.get_ylabel()


def test_curves_stay_distinct_for_many_scores():
    lines = report.roc_figure({str(k): (KNOWN, UNKNOWN) for k in range(28)}).axes[0].get_lines()
    assert len({(line.get_color(), line.get_linestyle()) for line in lines[:28]}) == 28


def test_score_histogram_shows_shares_and_numbers():
    figure = report.score_histogram(KNOWN, UNKNOWN, threshold=1.0, score_name="energy", bins=10)
    (axes,) = figure.axes
    assert axes.get_title().endswith(f"AUROC {metrics.auroc(KNOWN, UNKNOWN):.3f}")
    assert axes.get_xlabel() == "energy"
    assert legend_texts(figure) == [
        f"known, n = 60, {np.mean(KNOWN > 1):.1%} above the threshold",
        f"unknown, n = 40, {np.mean(UNKNOWN > 1):.1%} above the threshold",
        "threshold 1: unknown above it",
    ]
    bars = step_data(axes)
    assert len(bars) == 4  # a filling and an outline of each kind
    for bar in bars:
        assert bar.values.sum() == pytest.approx(1.0)  # no score falls outside the bins
        assert bar.edges[0] == min(KNOWN.min(), UNKNOWN.min())
    assert axes.get_xscale() == "linear"


@pytest.mark.parametrize(
    ("known", "unknown", "x_scale", "drawn"),
    [
        (1e-12 * np.exp(KNOWN), np.exp(UNKNOWN), "auto", "log"),
        (1e-12 * np.exp(KNOWN), np.exp(UNKNOWN), "linear", "linear"),
        (np.exp(KNOWN / 4), np.exp(UNKNOWN / 4), "auto", "linear"),
        (np.exp(KNOWN / 4), np.exp(UNKNOWN / 4), "log", "log"),
        (np.zeros(5), np.exp(UNKNOWN), "auto", "linear"),
        (np.full(5, 2.0), np.full(3, 2.0), "auto", "linear"),
        (np.full(5, 1e-12), np.full(1, 1e-12), "auto", "linear"),
        (np.full(5, -3.4e38), np.full(3, -3.4e38), "auto", "linear"),  # the logarithm of 0, of a single class
        (np.array([1e-40]), np.array([1e30]), "auto", "log"),
    ],
)
def test_score_histogram_of_any_range_keeps_every_score(known, unknown, x_scale, drawn):
    figure = report.score_histogram(known, unknown, x_scale=x_scale)
    (axes,) = figure.axes
    assert axes.get_xscale() == drawn
    assert all(bar.values.sum() == pytest.approx(1.0) for bar in step_data(axes))


def test_save_figure_writes_png_and_reproducible_svg(tmp_path):
    def files(stem):
        return report.save_figure(report.roc_figure(SCORES), stem)

    png, svg = files(tmp_path / "roc.v1")
    assert (png.name, svg.name) == ("roc.v1.png", "roc.v1.svg")
    with Image.open(png) as image:
        assert image.format == "PNG"
        assert min(image.size) >= 600
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")
    assert "m-OvR loss: AUROC" in svg.read_text()  # text stays text
    again = files(tmp_path / "again")
    assert again[0].read_bytes() == png.read_bytes()
    assert again[1].read_bytes() == svg.read_bytes()


def test_the_legend_lies_within_the_histogram_figure():
    figure = report.score_histogram(KNOWN, UNKNOWN, threshold=0.123456)
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert 0 <= box.y0 < box.y1 <= figure.axes[0].get_window_extent().y0


def test_no_global_state_of_matplotlib_is_touched():
    program = "import sys, osrjax.report; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_results_table_aligns_mixed_cells():
    rows = [
        {"method": "m-OvR", "auroc": 0.98765, "interval": (0.9, 0.99999), "n": 5},
        {"method": "softmax", "auroc": np.float32(0.5), "n": np.int64(15), "better": False},
        {"method": "OvR", "auroc": None, "interval": (-np.inf, np.inf), "n": 1, "better": True},
    ]
    assert report.results_table(rows, digits=2).splitlines() == [
        "method   auroc      interval   n  better",
        "-------  -----  ------------  --  ------",
        "m-OvR     0.99  [0.90, 1.00]   5       -",
        "softmax   0.50             -  15      no",
        "OvR          -   [-inf, inf]   1     yes",
    ]


def test_the_main_table_says_which_side_is_positive_and_what_is_undefined():
    value = {"value": 0.5, "low": 0.4, "high": 0.6}
    names = ("auroc", "oscr", "fpr_at_95_tpr_unknown_positive", "detection_accuracy")
    values = dict.fromkeys(names, value) | {"macro_f1": {"value": None, "low": None, "high": None}}
    head, _, row = report.open_set_table({"energy": values}, None, score="energy").splitlines()
    assert "fpr95, unknown +" in head
    assert row.split() == ["energy", "*", *["0.500", "[0.400,", "0.600]"] * 4, "undefined"]
    assert [report.number_text(x) for x in (0.25, None, float("nan"), float("inf"))] == ["0.250", *["undefined"] * 3]


def test_a_run_without_a_davies_bouldin_index_has_a_table():
    train = load_script("train")
    value = {"value": 0.5, "low": None, "high": None}
    names = ("auroc", "oscr", "fpr_at_95_tpr_unknown_positive", "detection_accuracy", "macro_f1", "closed_set_accuracy")
    shares = {"threshold": 0.25, "rejected": {"validation": 0.1, "known": 0.125, "unknown": 0.75}}
    results = {
        "scores": {"ovr": dict.fromkeys(names, value) | shares},
        "validation_accuracy": 0.5,
        "davies_bouldin": None,
    }
    found = dict.fromkeys(("trained", "untrained"), SimpleNamespace(results=results))
    known, unknown = (Examples(np.zeros((n, 1, 1, 1), np.uint8), np.zeros(n, np.int32)) for n in (60, 40))
    data = OpenSetData(known, known, known, unknown, (0,), (1,), ("a",), ("b",), ())
    job: Any = SimpleNamespace(method=SimpleNamespace(score="ovr"), data=data)
    text = train.results_text(found, job, SimpleNamespace(held_out=()))
    assert "Davies-Bouldin undefined\noperating point of ovr: threshold 0.25 rejects 0.100 of validation, 0.125" in text


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plain.score_histogram(KNOWN, UNKNOWN, threshold=float("nan")), "threshold=nan is not finite"),
        (lambda: plain.score_histogram(KNOWN, np.array([])), r"scores_unknown has shape \(0,\)"),
        (lambda: plain.score_histogram(KNOWN + np.nan, UNKNOWN), r"scores_known\[0\]=nan"),
        (lambda: plain.score_histogram(KNOWN, UNKNOWN, x_scale="log"), "x_scale='log' needs positive"),
        (lambda: plain.roc_figure({"a": (KNOWN, UNKNOWN + np.inf)}), r"scores_unknown\[0\]=inf"),
    ],
)
def test_malformed_arguments_are_refused_by_name(call, words):
    with pytest.raises(ValueError, match=words):
        call()
