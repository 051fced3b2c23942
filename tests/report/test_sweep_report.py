"""The table and the figures over the arms of a sweep, against numbers worked out by hand."""

import io

import numpy as np
import pytest

from osrjax.report import sweep as sweep_report

# Two splits with two seeds each. Differences to "b", averaged over seeds: 0.02 and 0.04.
AUROC = {
    "a": np.array([[0.80, 0.82], [0.90, 0.92]]),
    "b": np.array([[0.79, 0.79], [0.88, 0.86]]),
    "c": np.array([[np.nan, np.nan], [np.nan, np.nan]]),
}
ACCURACY = {"a": np.full((2, 2), 0.95), "b": np.array([[0.94, 0.96], [0.95, 0.95]]), "c": AUROC["c"]}
T_975_ONE_DEGREE, T_80_ONE_DEGREE = 12.7062, 1.3764


def test_differences_are_paired_and_have_t_intervals_over_splits():
    text, numbers = sweep_report.arms_table({"closed_set_accuracy": ACCURACY, "auroc": AUROC}, {"a": 0, "b": 0, "c": 4})
    difference = numbers["differences"]["b"]
    half = T_975_ONE_DEGREE * (0.02 / np.sqrt(2)) / np.sqrt(2)  # the standard deviation of 0.02 and 0.04
    assert difference["auroc"]["mean"] == pytest.approx(0.03)
    assert difference["auroc"]["interval"] == pytest.approx([0.03 - half, 0.03 + half], 1e-4)
    assert difference["detectable"] == pytest.approx(half * (1 + T_80_ONE_DEGREE / T_975_ONE_DEGREE), 1e-4)
    assert difference["verdict"] == "undecided"
    assert difference["closed_set_accuracy"]["mean"] == pytest.approx(0)
    assert numbers["arms"]["a"]["auroc"]["mean"] == pytest.approx(0.86)
    assert numbers["arms"]["c"] == {"diverged": 4}
    assert numbers["differences"]["c"] == {}
    rows = text.splitlines()
    assert [row.split()[:3] for row in rows if row[:2] in ("a ", "b ", "c ")][:3] == [
        ["a", "4", "0"],
        ["b", "4", "0"],
        ["c", "4", "4"],
    ]
    assert any(row.startswith("a - b") and row.rstrip().endswith("undecided") for row in rows)


def test_intervals_stay_in_the_range_of_their_metric_and_jnd_is_explained():
    values = {
        "closed_set_accuracy": {"a": np.array([[0.9], [0.99]]), "b": np.array([[0.9], [0.95]])},
        "auroc": {"a": np.array([[0.5], [0.9]]), "b": np.array([[0.9], [0.3]])},
        "jnd": {"a": np.array([[0.1], [1.0]]), "b": np.array([[0.0], [0.1]])},
    }
    text, numbers = sweep_report.arms_table(values, {"a": 0, "b": 0})
    arm, difference = numbers["arms"]["a"], numbers["differences"]["b"]
    assert arm["auroc"]["interval"] == [0.0, 1.0]
    assert difference["auroc"]["interval"] == [-1.0, 1.0]
    half = T_975_ONE_DEGREE * 0.5  # of the differences -0.4 and 0.6: deviation / sqrt(2) = 0.5
    assert difference["detectable"] == pytest.approx(half * (1 + T_80_ONE_DEGREE / T_975_ONE_DEGREE), 1e-4)
    assert arm["jnd"]["interval"] == pytest.approx(
        [0.55 - T_975_ONE_DEGREE * 0.45, 0.55 + T_975_ONE_DEGREE * 0.45], 1e-4
    )
    assert "JND: Jacobian norm difference, the mean input-Jacobian norm of unknown less that of known" in text
    figure = sweep_report.response_figure(
        {"margin": ([0.0, 1.0], np.stack(list(values["auroc"].values())))}, metric="AUROC", bounds=(0.0, 1.0)
    )
    (bars,) = figure.axes[0].containers[0][2]
    np.testing.assert_allclose([segment[:, 1] for segment in bars.get_segments()], [[0, 1], [0, 1]], atol=1e-12)


def test_one_arm_alone_has_no_differences():
    text, numbers = sweep_report.arms_table(
        {name: {"a": values["a"]} for name, values in (("closed_set_accuracy", ACCURACY), ("auroc", AUROC))}, {"a": 0}
    )
    assert "difference" not in text
    assert numbers["differences"] == {}


def test_an_inaccurate_arm_gets_no_verdict():
    accuracy = ACCURACY | {"b": np.full((2, 2), 0.5)}
    _, numbers = sweep_report.arms_table({"closed_set_accuracy": accuracy, "auroc": AUROC}, {"a": 0, "b": 0})
    assert numbers["differences"]["b"]["verdict"] == "no verdict: accuracy"


def drawn(figure):
    figure.savefig(io.BytesIO(), format="png")
    return figure


def test_a_metric_along_its_values_in_their_order_with_a_gap_where_no_run_is():
    found = np.stack([AUROC["b"], AUROC["a"], AUROC["c"]])
    figure = drawn(sweep_report.response_figure({"margin": ([0.5, 0.0, 1.0], found)}, metric="AUROC"))
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.5", "1"]
    mean = axes.containers[0].lines[0]
    assert mean.get_xdata() == pytest.approx([0, 1])
    assert mean.get_ydata() == pytest.approx([0.86, 0.83])


def test_the_arms_along_each_value_differ_in_it_alone():
    grid = {f"{m} {t}": {"method": "x", "m": m, "t": t} for m in (0.5, 0.0, 1.0) for t in (8.0, 2.0)}
    grid["other"] = {"method": "y", "m": 0.25, "t": 8.0}
    found = {arm: np.full((2, 1), float(index)) for index, arm in enumerate(grid)}
    panels = sweep_report.response_panels(grid, found, fields={"m": "margin", "t": "T"})
    ((title, (values, metric)),) = panels.items()  # two values of T are too few
    assert (title, values) == ("margin (T 8)", [0.5, 0.0, 1.0])
    np.testing.assert_array_equal(metric, np.array([0, 2, 4])[:, None, None] * np.ones((1, 2, 1)))
    assert sweep_report.response_panels({}, {}, fields={"m": "margin"}) == {}


def test_two_metrics_of_every_arm():
    jnd = {name: 2 * values for name, values in AUROC.items()}
    figure = drawn(sweep_report.arms_figure(jnd, AUROC, x="JND", y="AUROC"))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert "2 arms" in figure.axes[0].get_title()
    figure = sweep_report.arms_figure(jnd, AUROC, x="JND", y="AUROC", together="as a split has it")
    assert figure.axes[0].get_title() == "AUROC and JND of 2 arms\nas a split has it"


def test_panels_that_are_many_stand_in_two_columns():
    found = np.stack([AUROC["b"], AUROC["a"]])
    panels = {name: ([0.0, 1.0], found) for name in ("margin", "T", "weight decay")}
    figure = drawn(sweep_report.response_figure(panels, metric="AUROC"))
    assert [axes.get_xlabel() for axes in figure.axes] == list(panels)
    left = [axes.get_position().x0 for axes in figure.axes]
    assert left[0] == pytest.approx(left[2])
    assert left[0] < left[1]
