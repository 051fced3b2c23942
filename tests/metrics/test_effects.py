"""Effect sizes of single runs by hand and against scipy; the rule of the verdicts, its power by simulation."""

import json

import numpy as np
import pytest
import scipy.stats
from conftest import plain_module

from osrjax.metrics import effects, intervals

plain = plain_module(effects)

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [(3.0, 1.5, np.log(2)), (1.0, 4.0, -np.log(4)), (0.0, 2.0, np.log(1e-6)), (2.0, 0.0, np.log(1e6)), (0.0, 0.0, NAN)],
)
def test_log_ratio(a, b, expected):
    assert effects.log_ratio(a, b) == pytest.approx(expected, nan_ok=True)


def test_peak_by_hand():
    # log(6 / 2) and log(1 / 2); the middle of four points is the earlier of the two.
    profiles = np.array([[1.0, 6.0, 2.0, 3.0], [2.0, 1.0, 9.0, 2.0]], np.float32)
    fractions = np.array([0, 1 / 3, 2 / 3, 1], np.float32)
    fractions[1] = 0.4
    assert effects.peak(profiles, fractions) == pytest.approx((np.log(3) + np.log(0.5)) / 2)
    assert np.isnan(effects.peak(np.zeros((2, 4)), fractions.astype(np.float64)))


def test_a_norm_of_zero_moves_the_mean_of_the_peaks_and_not_their_median():
    fractions = np.array([0.0, 0.5, 1.0])
    lines = np.array([[1.0, 3.0, 1.0], [1.0, 2.0, 1.0], [1.0, 0.0, 1.0]])
    assert effects.peak(lines, fractions) == pytest.approx((np.log(3) + np.log(2) + np.log(1e-6)) / 3)
    assert effects.peak(lines, fractions, average=np.median) == pytest.approx(np.log(2))


@pytest.mark.parametrize(
    ("values", "sign", "expected"),
    [
        ([0, 1, 2, 3, 4], 1, 0.5),
        ([0, 3, 3, 3, 4], 1, 0.25 * 2 / 3),
        ([0, 3, 0, 3, 4], 1, 0.25 * 2 / 3),  # the first crossing counts
        ([4, 3, 2.5, 1, 0], -1, 0.5 + 0.25 / 3),
        ([4, INF, INF, 1, 0], -1, 0.75),  # falls from infinity at once where it is finite again
        ([0, 1, INF, 1, 4], 1, 0.25),  # jumps to infinity right after the last finite value
        ([4, INF, 3, 5, 6], 1, 0.0),
        ([INF, 3, 2, 1, 0], -1, NAN),
        ([4, 3, 2, 1, INF], -1, NAN),
        ([4, NAN, 2, 1, 0], -1, NAN),
        ([0, 1, 2, 3, 4], -1, NAN),  # not the change that was asked for
        ([2, 5, 1, 0, 2], 1, NAN),
        ([1, 1, 1, 1, 2], 1, 0.875),
        ([0, 1], 1, NAN),  # before and after alone say nothing of when
    ],
)
def test_half_change_by_hand(values, sign, expected):
    steps = np.array([100, 110, 120, 130, 140])[: len(values)]
    assert effects.half_change(steps, np.array(values, float), sign=sign) == pytest.approx(expected, nan_ok=True)


def test_half_change_finds_the_crossing_of_random_series(rng):
    for _ in range(20):
        values = rng.normal(size=9)
        values[-1] = values[0] + 1.0
        steps = np.cumsum(rng.integers(1, 9, size=9))
        fine = np.linspace(steps[0], steps[-1], 200_001)
        first = fine[np.argmax(np.interp(fine, steps, values) >= values[0] + 0.5)]
        expected = (first - steps[0]) / (steps[-1] - steps[0])
        assert effects.half_change(steps, values, sign=1) == pytest.approx(expected, abs=1e-5)


def test_rank_correlation(rng):
    x, y = rng.integers(5, size=(2, 12)).astype(float)
    rho = np.corrcoef(scipy.stats.rankdata(x), scipy.stats.rankdata(y))[0, 1]
    assert effects.rank_correlation(x, y) == pytest.approx(rho)
    assert effects.rank_correlation(np.array([1.0, INF, 2.0]), np.array([1.0, 3.0, 2.0])) == pytest.approx(1.0)
    for a, b in (([1.0, 2.0], [1.0, 2.0]), ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]), ([1.0, 2.0, 3.0], [1.0, NAN, 3.0])):
        assert np.isnan(effects.rank_correlation(np.array(a), np.array(b)))


def test_curvature_against_polynomial_fits(rng):
    x = rng.normal(size=11) * 3 + 7
    y = np.sqrt(np.abs(x)) + 0.1 * rng.normal(size=11)

    def adjusted(degree):
        left = y - np.polyval(np.polyfit(x, y, degree), x)
        return 1 - (left @ left) / np.var(y) / 11 * 10 / (10 - degree)

    assert effects.curvature(x, y) == pytest.approx(adjusted(2) - adjusted(1))
    x = np.arange(5.0)
    assert effects.curvature(x, (x - 2) ** 2) == pytest.approx(1 + 1 / 3)  # the line explains nothing
    for a, b in ((x, np.ones(5)), (x[:4], x[:4]), (np.array([0.0, 0, 0, 1, 2]), x), (x, np.where(x > 3, INF, x))):
        assert np.isnan(effects.curvature(a, b))


def test_curvature_is_zero_on_average_where_the_truth_is_a_line(rng):
    x = np.arange(13.0)
    gains = [effects.curvature(x, x + 5 * rng.normal(size=13)) for _ in range(1000)]
    assert abs(np.mean(gains)) < 4 * np.std(gains) / np.sqrt(1000)
    assert np.std(gains) > 0


def test_a_detectable_effect_is_found_in_80_of_100_repetitions(rng):
    # Its half-width being random, the sentence holds for the mean one; n = 12 keeps that close.
    half = np.mean([effects.detectable(intervals.t_interval(rng.normal(size=12))) for _ in range(500)])
    found = [intervals.t_interval(rng.normal(half, 1, size=12)).interval[0] > 0 for _ in range(1500)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.05)
    assert effects.detectable(intervals.t_interval(np.array([1.0]))) == INF


HIGH, LOW = np.full((3, 2), 0.9), np.full((3, 2), 0.8)
RISING = np.array([[1.0, 2.0], [1.5, 1.5], [1.0, NAN]])  # split means 1.5, 1.5, 1


def record_of(values, accuracies=(HIGH,), expected=1):
    finished = np.ones(values.shape, bool)
    return effects.effect(values, finished, accuracies, claim="a", name="x", arm="m-OvR", expected=expected)


def test_an_effect_by_hand():
    record = record_of(RISING)
    half = 4.302653 * np.std([1.5, 1.5, 1.0], ddof=1) / np.sqrt(3)
    assert record["mean"] == pytest.approx(4 / 3)
    assert record["interval"] == pytest.approx([4 / 3 - half, 4 / 3 + half])
    assert (record["n"], record["runs"], record["undefined"]) == (3, 5, 1)
    assert record["per_split"] == pytest.approx([1.5, 1.5, 1.0])
    assert (record["claim"], record["effect"], record["arm"], record["expected"]) == ("a", "x", "m-OvR", 1)
    assert record["accuracy"] == pytest.approx(0.9)
    assert record["verdict"] == "holds"
    assert json.loads(json.dumps(record, allow_nan=False)) == record


@pytest.mark.parametrize(
    ("values", "accuracies", "expected", "verdict"),
    [
        (RISING, [HIGH], 1, "holds"),
        (RISING, [HIGH], -1, "fails"),
        (RISING, [HIGH], 0, "reported"),
        (-RISING, [HIGH], -1, "holds"),
        (RISING - 1, [HIGH], 1, "undecided"),
        (RISING, [HIGH, LOW], 1, "no verdict: accuracy"),
        (RISING, [np.full((3, 2), 0.85)], 1, "holds"),
        (RISING, [np.full((3, 2), NAN)], 1, "no verdict: accuracy"),
        (RISING, [LOW], 0, "reported"),
        (np.full((3, 2), NAN), [HIGH], 1, "undefined"),
        (np.array([[1.0, 1.0], [NAN, NAN], [NAN, NAN]]), [HIGH], 1, "undecided"),  # one split has no spread
        (np.ones((3, 2)), [HIGH], 1, "holds"),
    ],
)
def test_verdicts(values, accuracies, expected, verdict):
    record = record_of(values, accuracies, expected)
    assert record["verdict"] == verdict
    json.dumps(record, allow_nan=False)


def test_the_seeds_of_the_accuracy_are_averaged_within_a_split():
    accuracy = np.array([[0.8, NAN], [0.9, 0.9], [0.9, 0.9]])
    assert record_of(RISING, [accuracy])["accuracy"] == pytest.approx((0.8 + 0.9 + 0.9) / 3)


@pytest.mark.parametrize(
    ("verdicts", "claim"),
    [
        (["holds", "holds"], "holds"),
        (["holds", "undecided"], "undecided"),
        (["fails", "undecided"], "fails"),
        (["holds", "no verdict: accuracy"], "no verdict: accuracy"),
        (["fails", "no run"], "no run"),
        (["fails", "undefined"], "undefined"),
        ([], "no run"),
    ],
)
def test_verdict_on_a_claim(verdicts, claim):
    records = [{"expected": 1, "verdict": verdict} for verdict in verdicts]
    assert effects.claim_verdict([*records, {"expected": 0, "verdict": "reported"}]) == claim


def test_an_interval_stays_in_its_range_and_the_verdict_is_that_of_the_whole_one():
    values, finished = np.array([[-0.2], [0.9]]), np.ones((2, 1), bool)
    options = {"claim": "e", "name": "Spearman", "arm": "m-OvR", "expected": 1}
    record = effects.effect(values, finished, [HIGH[:2, :1]], **options, bounds=intervals.SIGNED)
    wide = effects.effect(values, finished, [HIGH[:2, :1]], **options)
    assert record["interval"] == [-1.0, 1.0]
    assert wide["interval"] == pytest.approx([0.35 - 12.7062 * 0.55, 0.35 + 12.7062 * 0.55], rel=1e-5)
    assert {**record, "interval": wide["interval"]} == wide  # what would have been found, too
    single = effects.effect(values[:1], finished[:1], [HIGH[:1, :1]], **options, bounds=intervals.SIGNED)
    assert single["interval"] == [None, None]


def test_malformed_arguments_are_refused_by_name():
    two, three = np.ones(2), np.ones(3)
    for call in (
        lambda: plain.peak(np.ones((1, 3)), two),
        lambda: plain.inner_peaks(np.ones((1, 3)), two),
        lambda: plain.half_change(three, two, sign=1),
        lambda: plain.rank_correlation(three, two),
        lambda: plain.curvature(three, two),
        lambda: plain.effect(three[:, None], two[:, None] > 0, [HIGH], claim="a", name="x", arm="m", expected=1),
    ):
        with pytest.raises(ValueError, match=r"has shape \([23],( 1)?\), not"):
            call()
    with pytest.raises(ValueError, match="infinite"):
        record_of(np.where(RISING > 1, INF, RISING))
    with pytest.raises(ValueError, match=r"from 0\.5 to 1\.0"):
        plain.peak(np.ones((1, 2)), np.array([0.5, 1.0]))


def test_role_effect_against_the_normal_equations(rng):
    """Normal equations in float64 on one column per factor level, the last level of each left out by hand."""
    splits, classes = np.repeat(np.arange(5), 10), np.tile(np.arange(10), 5)
    unknown = np.array([[c in rng.permutation(10)[:4] for c in range(10)] for _ in range(5)]).reshape(-1)
    values = rng.normal(size=5)[splits] + rng.normal(size=10)[classes] + 0.7 * unknown + 0.1 * rng.normal(size=50)
    columns = [np.ones(50)] + [1.0 * (splits == s) for s in range(4)] + [1.0 * (classes == c) for c in range(9)]
    design = np.stack([*columns, 1.0 * unknown], axis=1)
    covariance = np.linalg.inv(design.T @ design)
    coefficients = covariance @ design.T @ values
    error = np.sqrt(np.sum((values - design @ coefficients) ** 2) / 35 * covariance[-1, -1])
    half = scipy.stats.t.ppf(0.975, 35) * error
    role, (low, high), degrees = effects.role_effect(values, splits, classes, unknown)
    assert degrees == 35
    assert (role, low, high) == pytest.approx((coefficients[-1], coefficients[-1] - half, coefficients[-1] + half))
    assert low < 0.7 < high


def test_role_effect_that_the_design_does_not_tell():
    same = np.array([0, 0, 1, 1])
    role, interval, _ = effects.role_effect(np.arange(4.0), same, np.array([0, 1, 0, 1]), np.array([0, 1, 0, 1], bool))
    assert np.isnan([role, *interval]).all()


def test_inner_peaks():
    fractions = np.linspace(0, 1, 5)
    profiles = np.array([[1, 2, 3, 2, 1], [1, 3, 2, 2, 1], [5, 4, 3, 2, 1], [1, 2, 3, 4, 5.0]])
    assert effects.inner_peaks(profiles, fractions) == 0.5
