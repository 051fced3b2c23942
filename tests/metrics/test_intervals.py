"""Intervals over splits against scipy's t interval and hand numbers."""

import numpy as np
import pytest
from conftest import plain_module
from scipy import stats

from osrjax.metrics import intervals, open_set_metrics

plain = plain_module(intervals)


def test_t_interval_equals_scipy():
    values = np.random.default_rng(9).normal(0.8, 0.1, 5)
    mean, interval, n = intervals.t_interval(values, level=0.9)
    expected = stats.t.interval(0.9, 4, loc=values.mean(), scale=stats.sem(values))
    assert n == 5
    assert mean == pytest.approx(values.mean())
    np.testing.assert_allclose(interval, expected, rtol=1e-10)


def test_seeds_are_averaged_within_a_split_before_anything_else():
    """Ten seeds of three splits are three samples, not thirty."""
    generator = np.random.default_rng(10)
    runs = generator.normal(0, 0.01, (3, 10)) + np.array([[0.7], [0.8], [0.9]])
    assert intervals.t_interval(runs) == intervals.t_interval(runs.mean(axis=1))
    assert intervals.t_interval(runs).n == 3


def test_pairing_removes_what_splits_share():
    generator = np.random.default_rng(11)
    b = generator.normal(0, 0.2, (5, 1)) + generator.normal(0, 0.01, (5, 3))
    a = b + 0.05 + generator.normal(0, 0.01, (5, 3))
    mean, (low, high), n = intervals.paired_difference(a, b)
    assert n == 5
    assert mean == pytest.approx((a - b).mean())
    assert 0 < low < 0.05 < high
    unpaired = intervals.t_interval(a).interval[0] - intervals.t_interval(b).interval[1]
    assert unpaired < 0
    reverse = intervals.paired_difference(b, a)
    assert reverse.mean == pytest.approx(-mean)
    assert reverse.interval == pytest.approx((-high, -low))


def test_missing_runs_are_left_out_in_pairs():
    nan = np.nan
    a = np.array([[1.0, nan], [3.0, 5.0], [nan, nan], [2.0, 4.0]])
    b = np.array([[0.5, 9.0], [1.0, nan], [1.0, 1.0], [1.0, 1.0]])
    # Differences by split: 0.5 (seed 0 alone); 2 (seed 0 alone); none; (1 + 3) / 2.
    expected = intervals.t_interval(np.array([0.5, 2.0, 2.0]))
    assert intervals.paired_difference(a, b) == expected
    assert expected.n == 3


def test_one_split_decides_nothing():
    mean, (low, high), n = intervals.paired_difference(np.array([[0.9, 0.8]]), np.array([[0.8, 0.5]]))
    assert mean == pytest.approx(0.2)
    assert (low, high, n) == (-np.inf, np.inf, 1)


def test_intervals_are_cut_to_the_range_of_the_quantity():
    _, interval, _ = intervals.t_interval(np.array([0.5, 0.6]))
    half = 12.7062 * np.std([0.5, 0.6], ddof=1) / np.sqrt(2)
    assert interval == pytest.approx((0.55 - half, 0.55 + half), rel=1e-5)  # [-0.085, 1.185]
    assert intervals.clipped(interval, intervals.range_of("auroc")) == (0.0, 1.0)
    assert intervals.clipped(interval, intervals.range_of("jnd")) == interval
    assert intervals.clipped(interval, intervals.range_of("norm_known")) == (0.0, interval[1])
    assert intervals.clipped((-9.3, 9.8), intervals.SIGNED) == (-1.0, 1.0)
    scores, labels = np.arange(3.0), np.arange(3)
    found = open_set_metrics(scores, scores, labels, labels, scores, labels)
    assert {intervals.range_of(name) for name in found} == {intervals.SHARE}
    assert intervals.range_of("jnd", difference=True) == (-np.inf, np.inf)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: intervals.t_interval(np.full((2, 2), np.nan)), "holds no run"),
        (lambda: intervals.t_interval(np.array([])), "holds no run"),
        (lambda: intervals.t_interval(np.array([1.0, np.inf])), "infinite"),
        (lambda: plain.t_interval(np.ones((2, 2, 2))), r"shape \(2, 2, 2\)"),
        (lambda: intervals.t_interval(np.ones(3), level=95.0), "level=95.0"),
        (
            lambda: plain.paired_difference(np.ones((5, 3)), np.ones((5, 2))),
            r"a has shape \(5, 3\) and b \(5, 2\)",
        ),
        (
            lambda: intervals.paired_difference(np.array([1.0, np.inf]), np.array([1.0, np.inf])),
            "a holds an infinite",
        ),
    ],
)
def test_malformed_arguments_are_refused_by_name(call, words):
    with pytest.raises(ValueError, match=words):
        call()
