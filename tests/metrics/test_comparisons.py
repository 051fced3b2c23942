"""Paired tests, Holm's correction and power against scipy, hand numbers and simulation."""

import numpy as np
import pytest
import scipy.stats
from conftest import plain_module

from osrjax.metrics import comparisons
from osrjax.metrics.comparisons import holm, paired_comparison, power, splits_needed


def test_a_paired_comparison_equals_scipy(rng):
    a, b = rng.normal(size=(2, 6, 3))
    a[2, 1] = b[4] = np.nan
    kept = [np.nanmean(row) for row in a - b if not np.isnan(row).all()]
    found = paired_comparison(a, b)
    wanted = scipy.stats.ttest_1samp(kept, 0)
    assert found.p_value == pytest.approx(wanted.pvalue)
    assert found.difference.interval == pytest.approx(tuple(wanted.confidence_interval()))
    assert (found.difference.n, found.deviation) == (5, pytest.approx(np.std(kept, ddof=1)))


def test_a_single_split_and_splits_that_differ_alike():
    assert np.isnan(paired_comparison(np.array([[0.9, 0.8]]), np.array([[0.7, 0.7]])).p_value)
    assert paired_comparison(np.array([0.5, 0.5]), np.array([0.5, 0.5])).p_value == 1
    assert paired_comparison(np.array([0.75, 0.75]), np.array([0.5, 0.5])).p_value == 0
    with pytest.raises(ValueError, match="the same splits and seeds"):
        plain_module(comparisons).paired_comparison(np.zeros(3), np.zeros(2))


def test_holm_by_hand():
    # 0.005 * 4, then 0.01 * 3, 0.03 * 2, and 0.04, which must not be smaller than the one before.
    assert holm([0.03, 0.005, 0.04, 0.01]) == pytest.approx([0.06, 0.02, 0.06, 0.03])
    corrected = holm([0.9, float("nan"), 0.8])
    assert (corrected[0], corrected[2]) == (1.0, 1.0)
    assert np.isnan(corrected[1])
    assert holm([]) == []


def test_holm_rejects_wrongly_in_at_most_so_many_families(rng):
    families = rng.uniform(size=(2000, 8))  # p values where nothing differs
    assert np.mean([min(holm(list(family))) < 0.05 for family in families]) < 0.065


@pytest.mark.parametrize(("difference", "deviation", "n"), [(1.0, 1.5, 5), (0.0, 1.0, 4), (-0.8, 1.0, 12)])
def test_power_equals_a_simulation(rng, difference, deviation, n):
    draws = difference + deviation * rng.normal(size=(20_000, n))
    found = np.mean(scipy.stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05)
    assert power(difference, deviation, n) == pytest.approx(found, abs=0.012)


def test_splits_needed_are_the_fewest():
    for difference, deviation in ((1.0, 1.0), (0.01, 0.02), (3.0, 0.1)):
        n = splits_needed(difference, deviation)
        assert power(difference, deviation, n) >= 0.8
        assert n == 2 or power(difference, deviation, n - 1) < 0.8
    assert splits_needed(1e-9, 1.0) is None
    assert power(1.0, 1.0, 1) == 0
    for call in (lambda: splits_needed(0.0, 1.0), lambda: power(1.0, 0.0, 3), lambda: power(1.0, 1.0, 3, level=2.0)):
        with pytest.raises(ValueError, match="give"):
            call()
