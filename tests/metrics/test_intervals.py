"""Intervals against naive resampling, scipy's t interval and hand numbers."""

import numpy as np
import pytest
from conftest import plain_module
from scipy import stats

from osrjax import metrics
from osrjax.metrics import intervals

plain = plain_module(intervals)


def example(seed, *, known=40, unknown=30, rounded_to=None):
    """Arguments of open_set_metrics, with three classes and a macro-F1."""
    generator = np.random.default_rng(seed)
    scores = [generator.normal(0, 1, known), generator.normal(1, 1, unknown)]
    if rounded_to is not None:
        scores = [np.round(s / rounded_to) * rounded_to for s in scores]
    labels = generator.integers(0, 3, known)
    predictions = np.where(generator.random(known) < 0.8, labels, (labels + 1) % 3)
    validation, guesses = generator.normal(0, 1, 50), generator.integers(0, 3, unknown)
    return (*scores, predictions, labels, validation, guesses)


@pytest.mark.parametrize("rounded_to", [None, 0.5, 8.0], ids=["continuous", "rounded", "all tied"])
def test_every_resample_equals_the_metrics_of_the_resampled_arrays(rounded_to):
    known, unknown, predictions, labels, validation, guesses = example(0, rounded_to=rounded_to)
    generator = np.random.default_rng(1)
    rows, columns = generator.integers(40, size=(25, 40)), generator.integers(30, size=(25, 30))
    rows[0], columns[0] = 3, 5  # one example of each kind, drawn again and again
    found = intervals._resampled_metrics(
        known,
        unknown,
        predictions,
        labels,
        guesses,
        metrics.rejection_threshold(validation),
        rows,
        columns,
    )
    for index, (i, j) in enumerate(zip(rows, columns, strict=True)):
        expected = metrics.open_set_metrics(known[i], unknown[j], predictions[i], labels[i], validation, guesses[j])
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name][index] == pytest.approx(value, abs=1e-12), name


def test_intervals_equal_those_of_a_naive_bootstrap():
    """Another generator and a plain loop: the ends agree up to the noise of 2000 resamples."""
    known, unknown, predictions, labels, validation, guesses = example(2, known=80, unknown=60)
    found = intervals.bootstrap_intervals(
        known, unknown, predictions, labels, validation, guesses, resamples=2000, level=0.9
    )
    generator = np.random.RandomState(3)
    naive = []
    for _ in range(200):
        i, j = generator.randint(80, size=80), generator.randint(60, size=60)
        naive.append(metrics.open_set_metrics(known[i], unknown[j], predictions[i], labels[i], validation, guesses[j]))
    assert found.keys() == naive[0].keys()
    for name, (low, high) in found.items():
        values = np.array([n[name] for n in naive])
        expected = np.quantile(values, [0.05, 0.95])
        np.testing.assert_allclose([low, high], expected, atol=0.5 * values.std(), err_msg=name)


def test_resamples_do_not_depend_on_how_many_are_held_at_once(monkeypatch):
    arguments = example(4)
    whole = intervals.bootstrap_intervals(*arguments, resamples=50, seed=5)
    monkeypatch.setattr(intervals, "ENTRIES_AT_ONCE", 7 * 70)
    assert intervals.bootstrap_intervals(*arguments, resamples=50, seed=5) == whole
    assert intervals.bootstrap_intervals(*arguments, resamples=50, seed=6) != whole


def test_intervals_without_a_validation_set_have_no_macro_f1():
    arguments = example(6)
    found = intervals.bootstrap_intervals(*arguments[:4], resamples=50)
    with_f1 = intervals.bootstrap_intervals(*arguments, resamples=50)
    assert set(with_f1) - set(found) == {"macro_f1"}
    for name, (low, high) in found.items():
        assert with_f1[name] == (low, high)
        assert low <= metrics.open_set_metrics(*arguments[:4])[name] <= high


def test_a_wider_level_gives_a_wider_interval():
    arguments = example(7)
    wide = intervals.bootstrap_intervals(*arguments, resamples=200, level=0.99)
    for name, (low, high) in intervals.bootstrap_intervals(*arguments, resamples=200, level=0.5).items():
        assert wide[name][0] < low < high < wide[name][1]


def test_bootstrap_interval_of_a_mean_is_the_normal_one():
    sample = np.random.default_rng(8).normal(5, 2, 400)
    low, high = intervals.bootstrap_interval(np.mean, sample, resamples=2000)
    half = 1.96 * sample.std() / 20
    np.testing.assert_allclose([low, high], [sample.mean() - half, sample.mean() + half], atol=0.1 * half)


def test_bootstrap_interval_resamples_each_sample_apart():
    embeddings = [np.random.default_rng(k).normal(4 * k, 1, (20, 2)) for k in range(3)]

    def index(*classes):
        assert [len(rows) for rows in classes] == [20, 20, 20]
        return metrics.davies_bouldin(np.concatenate(classes), np.repeat(np.arange(3), 20))

    low, high = intervals.bootstrap_interval(index, *embeddings, resamples=50, seed=1)
    assert 0 < low < index(*embeddings) < high
    assert (low, high) == intervals.bootstrap_interval(index, *embeddings, resamples=50, seed=1)


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


ARGUMENTS = example(12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: intervals.bootstrap_intervals(*ARGUMENTS, level=1.0), "level=1.0"),
        (lambda: intervals.bootstrap_intervals(*ARGUMENTS, share=1.5), "share=1.5"),
        (
            lambda: intervals.bootstrap_intervals(ARGUMENTS[0] + np.inf, *ARGUMENTS[1:]),
            r"scores_known\[0\]=inf",
        ),
        (lambda: intervals.bootstrap_intervals(*ARGUMENTS[:5]), "predictions_unknown is None"),
        (lambda: intervals.bootstrap_interval(np.mean, np.ones(3), level=0.0), "level=0.0"),
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
