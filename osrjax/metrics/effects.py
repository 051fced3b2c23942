"""Effect sizes of single runs, and the rule that turns those of many runs into a verdict.

The rule: one number per run, the seeds of a split averaged, a 95 % t interval over splits. An effect *holds* if the
interval lies on the expected side of 0, *fails* if it lies on the other, and is *undecided* otherwise. There is no
verdict if the mean closed-set accuracy of an arm is below a gate, :data:`ACCURACY` unless said. A claim holds if all
its effects with an expected sign hold, and fails if one of them fails.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float, Int

from osrjax.files import number_or_none
from osrjax.metrics import intervals
from osrjax.metrics.intervals import Estimate

__all__ = [
    "ACCURACY",
    "NO_RUN",
    "claim_verdict",
    "curvature",
    "detectable",
    "effect",
    "half_change",
    "inner_peaks",
    "linear_correlation",
    "log_ratio",
    "peak",
    "rank_correlation",
    "role_effect",
]

ACCURACY = 0.85  # mean closed-set accuracy below which models give no verdict


SMALLEST_RATIO = 1e-6  # float32 does not tell a smaller ratio of norms from 0


NO_ACCURACY, NO_RUN, REPORTED, UNDEFINED = "no verdict: accuracy", "no run", "reported", "undefined"


def log_ratio(a: float, b: float) -> float:
    """Logarithm of a / b for numbers that are not negative, such as a mean norm after and before training.

    Args:
      a: numerator.
      b: denominator.

    Returns:
      log(a / b), the ratio kept within 1e-6 and 1e6 so that the norm 0 of a collapsed network counts as a
      large change and not as a missing run; nan where both are 0.

    Example:
      >>> round(log_ratio(2.0, 1.0), 3), round(log_ratio(0.0, 1.0), 3)
      (0.693, -13.816)
    """
    if a == 0 and b == 0:
        return float("nan")
    ratio = np.inf if b == 0 else a / b
    return float(np.log(np.clip(ratio, SMALLEST_RATIO, 1 / SMALLEST_RATIO)))


def peak(
    profiles: Float[np.ndarray, "pairs points"],
    fractions: Float[np.ndarray, " points"],
    *,
    average: Callable[[Sequence[float]], Any] = np.mean,
) -> float:
    """Middle of interpolation profiles against their ends: log of middle over mean of the ends, mean over pairs.

    A concave rise from one end to the other is above 0 too: :func:`inner_peaks` says where the largest value lies.

    Args:
      profiles: norms along each line, not negative.
      fractions: where they were taken, rising from 0 to 1; the one nearest to 0.5 is the middle.
      average: of the pairs; the median is not moved by a norm of 0, whose log counts as that of 1e-6.

    Returns:
      A number above 0 where the middle exceeds the ends.

    Raises:
      ValueError: fractions that do not go from 0 to 1, or are not one for each point.

    Example:
      >>> round(peak(np.array([[1.0, 4.0, 3.0]]), np.array([0.0, 0.5, 1.0])), 3)  # log(4 / 2)
      0.693
    """
    _check_alike("fractions", fractions, np.shape(profiles)[1:])
    if fractions[0] != 0 or fractions[-1] != 1:
        raise ValueError(f"fractions go from {fractions[0]} to {fractions[-1]}: the ends of a line are 0 and 1")
    rows = np.asarray(profiles, np.float64)
    middle = int(np.abs(np.asarray(fractions, np.float64) - 0.5).argmin())
    return float(average([log_ratio(row[middle], 0.5 * (row[0] + row[-1])) for row in rows]))


def inner_peaks(profiles: Float[np.ndarray, "pairs points"], fractions: Float[np.ndarray, " points"]) -> float:
    """Share of interpolation profiles that are largest in the inner half of the line.

    Args:
      profiles: norms along each line.
      fractions: where they were taken, in [0, 1]; the inner half is [0.25, 0.75].

    Returns:
      A number in [0, 1]; of equal largest values the first counts.

    Raises:
      ValueError: not one fraction for each point.

    Example:
      >>> inner_peaks(np.array([[1.0, 4.0, 3.0], [1.0, 2.0, 3.0]]), np.array([0.0, 0.5, 1.0]))
      0.5
    """
    _check_alike("fractions", fractions, np.shape(profiles)[1:])
    found = np.asarray(fractions)[np.asarray(profiles).argmax(axis=1)]
    return float(np.mean((found >= 0.25) & (found <= 0.75)))


def half_change(steps: Int[np.ndarray, " steps"], values: Float[np.ndarray, " steps"], *, sign: int) -> float:
    """When half of the total change was first reached, as a fraction of the training length.

    Args:
      steps: rising.
      values: at those steps, linear in between; infinite ones in the middle count as on their side of half.
      sign: 1 where the change in question is a rise, -1 where it is a fall.

    Returns:
      A number in (0, 1); nan for fewer than 3 values, where they do not change that way from first to last, or
      where the first or last is not finite.

    Raises:
      ValueError: not one step for each value.

    Example:
      >>> half_change(np.array([0, 10, 20]), np.array([8.0, 3.0, 0.0]), sign=-1)  # 4 is met at step 8
      0.4
    """
    _check_alike("steps", steps, np.shape(values))
    x, y = np.asarray(steps, np.float64), sign * np.asarray(values, np.float64)
    if y.size < 3 or not (np.isfinite(y[[0, -1]]).all() and y[-1] > y[0]) or np.isnan(y).any():
        return float("nan")
    half = 0.5 * y[0] + 0.5 * y[-1]
    after = int(np.argmax(y >= half))  # above 0, since the first value lies below half
    left, right = y[after - 1], y[after]
    # An infinite neighbour puts the crossing at the finite one, the limit of a steep line.
    share = 1.0 if np.isneginf(left) else 0.0 if np.isposinf(right) else (half - left) / (right - left)
    return float((x[after - 1] + share * (x[after] - x[after - 1]) - x[0]) / (x[-1] - x[0]))


def rank_correlation(x: Float[np.ndarray, " points"], y: Float[np.ndarray, " points"]) -> float:
    """Spearman's rho of one run.

    Args:
      x: one value per point; infinity counts as the largest.
      y: another.

    Returns:
      A number in [-1, 1]; nan for fewer than 3 points, and where x or y is constant or holds a nan.

    Raises:
      ValueError: x and y of two shapes.

    Example:
      >>> round(rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 9.0])), 3)
      1.0
    """
    _check_alike("x", x, np.shape(y))
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.size < 3 or np.isnan(x).any() or np.isnan(y).any() or np.all(x == x[0]) or np.all(y == y[0]):
        return float("nan")
    return float(scipy.stats.spearmanr(x, y).statistic)


def linear_correlation(x: Float[np.ndarray, " points"], y: Float[np.ndarray, " points"]) -> float:
    """Pearson's r over the points that are finite.

    Args:
      x: one value per point.
      y: another.

    Returns:
      A number in [-1, 1]; nan for fewer than 3 points, and where x or y is constant.

    Raises:
      ValueError: x and y of two shapes.

    Example:
      >>> round(linear_correlation(np.array([1.0, 2.0, 3.0, np.inf]), np.array([1.0, 4.0, 9.0, 0.0])), 3)
      0.99
    """
    _check_alike("x", x, np.shape(y))
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if x.size < 3 or np.all(x == x[0]) or np.all(y == y[0]):
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def curvature(x: Float[np.ndarray, " points"], y: Float[np.ndarray, " points"]) -> float:
    r"""Gain in adjusted R^2 of a parabola over a line as a prediction of y from x.

    .. math:: \bar R^2_d = 1 - (1 - R^2_d) \, (n - 1) / (n - d - 1)

    for degree d and n points: the adjustment makes the gain 0 on average where the truth is a line with independent
    deviations. Deviations that depend on their predecessors, as along training, make it somewhat positive: 0.02 on
    average for a random walk of 11 points.

    Args:
      x: one value per point.
      y: another.

    Returns:
      A number above 0 where the relation bends; nan for fewer than 5 points, fewer than 4 distinct x, a
      constant y, or a value that is not finite.

    Raises:
      ValueError: x and y of two shapes.

    Example:
      >>> x = np.arange(5.0)
      >>> round(curvature(x, x**2), 3)  # the line has R^2 = 0.9195, adjusted 0.893
      0.107
    """
    _check_alike("x", x, np.shape(y))
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n = x.size
    if not (np.isfinite(x).all() and np.isfinite(y).all()) or n < 5 or np.unique(x).size < 4 or np.all(y == y[0]):
        return float("nan")
    z = (x - x.mean()) / x.std()
    adjusted = []
    for degree in (1, 2):
        basis, _ = np.linalg.qr(np.vander(z, degree + 1))
        left_over = y - basis @ (basis.T @ y)
        share = (left_over**2).sum() / ((y - y.mean()) ** 2).sum()
        adjusted.append(1 - share * (n - 1) / (n - degree - 1))
    return float(adjusted[1] - adjusted[0])


def role_effect(
    values: Float[np.ndarray, " cells"],
    split: Int[np.ndarray, " cells"],
    image_class: Int[np.ndarray, " cells"],
    unknown: Bool[np.ndarray, " cells"],
) -> tuple[float, tuple[float, float], int]:
    """What being unknown adds to a number, the class of the images and the split held fixed.

    Unknown and known classes of one split differ in more than their role. Where a class is known in some splits and
    unknown in others, least squares on ``split + class + role`` tells the role's part from the class's.

    Args:
      values: one number for each class of each split, such as the log of its mean norm.
      split: of each number.
      image_class: class of the images behind it.
      unknown: whether that class is unknown in that split.

    Returns:
      The role's coefficient; its 95 % t interval, which takes the numbers as independent given the three
      factors; the degrees of freedom. nan where the design does not tell the role from the class, or leaves no
      degree of freedom.

    Example:
      >>> split, image_class = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 2, 0, 1, 2])
      >>> unknown = np.array([False, False, True, True, False, False])
      >>> values = np.array([0.0, 1.0, 2.5, 1.5, 2.0, 3.0])  # class + split + 0.5 where unknown
      >>> round(role_effect(values, split, image_class, unknown)[0], 6)
      0.5
    """
    design = np.concatenate(
        [split[:, None] == np.unique(split), image_class[:, None] == np.unique(image_class)[1:], unknown[:, None]],
        axis=1,
    ).astype(np.float64)
    rank = int(np.linalg.matrix_rank(design))
    degrees = len(values) - rank
    if degrees < 1 or np.linalg.matrix_rank(design[:, :-1]) == rank:
        return float("nan"), (float("nan"), float("nan")), degrees
    coefficients = np.linalg.lstsq(design, values)[0]
    left_over = values - design @ coefficients
    variance = left_over @ left_over / degrees * np.linalg.pinv(design.T @ design)[-1, -1]
    half = float(scipy.stats.t.ppf(0.975, degrees) * np.sqrt(max(variance, 0.0)))
    role = float(coefficients[-1])
    return role, (role - half, role + half), degrees


def detectable(estimate: Estimate) -> float:
    """The true difference from 0 that an experiment of this n and spread finds in about 80 of 100 repetitions.

    Args:
      estimate: a mean with its 95 % t interval.

    Returns:
      A number in the unit of the mean; infinity for a single split.

    Example:
      >>> round(detectable(intervals.t_interval(np.array([-1.0, 0.0, 1.0]))), 3)
      3.097
    """
    if estimate.n < 2:
        return float("inf")
    low, high = estimate.interval
    t_interval, t_power = scipy.stats.t.ppf((0.975, 0.8), estimate.n - 1)
    return float((high - low) / 2 * (1 + t_power / t_interval))


def effect(
    values: Float[np.ndarray, "splits seeds"],
    finished: Bool[np.ndarray, "splits seeds"],
    accuracies: Sequence[Float[np.ndarray, "splits seeds"]],
    *,
    claim: str,
    name: str,
    arm: str,
    expected: int,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    gate: float = ACCURACY,
) -> dict[str, Any]:
    """An effect with its interval and verdict, as plain JSON values.

    Args:
      values: one number per run; nan where the run is missing or the effect is not defined in it.
      finished: the runs that are there, whether the effect is defined in them or not.
      accuracies: closed-set accuracy of the runs of each arm concerned, nan where a run is missing; the
        smallest of the arms' means is held against ``gate``. An arm without runs gives no verdict.
      claim: letter of the claim.
      name: of the effect.
      arm: whose runs these are.
      expected: 1 or -1, the sign that the claim asks for; 0 for what is reported without a verdict.
      bounds: the range of the effect, such as :data:`osrjax.metrics.SIGNED`, which its interval does not leave.
      gate: least mean accuracy that gives a verdict.

    Returns:
      claim, effect, arm, mean, interval (None for an infinite end), n (splits counted), runs (counted),
      undefined (finished runs without the effect), per_split (seeds averaged; None for a split without
      runs), expected, accuracy, verdict (holds, fails, undecided, reported, no run, undefined, or no
      verdict: accuracy), and detectable, the true effect found with 80 % power.

    Raises:
      ValueError: infinite values; ``finished`` of another shape.
    """
    _check_alike("finished", finished, np.shape(values))
    defined = ~np.isnan(values)
    record: dict[str, Any] = {
        "claim": claim,
        "effect": name,
        "arm": arm,
        "mean": None,
        "interval": [None, None],
        "n": 0,
        "runs": int(defined.sum()),
        "undefined": int((finished & ~defined).sum()),
        "per_split": [
            number_or_none(row[~np.isnan(row)].mean()) if defined[i].any() else None for i, row in enumerate(values)
        ],
        "expected": expected,
        "accuracy": None,
        "verdict": UNDEFINED if finished.any() else NO_RUN,
        "detectable": None,
    }
    if not defined.any():
        return record
    estimate = intervals.t_interval(values)
    known = all(not np.isnan(part).all() for part in accuracies)
    accuracy = min(intervals.t_interval(part).mean for part in accuracies) if known else None
    low, high = estimate.interval
    if expected == 0:
        verdict = REPORTED
    elif accuracy is None or accuracy < gate:
        verdict = NO_ACCURACY
    elif low > 0 or high < 0:
        verdict = "holds" if (low > 0) == (expected > 0) else "fails"
    else:
        verdict = "undecided"
    return {
        **record,
        "mean": estimate.mean,
        "interval": [number_or_none(end) for end in intervals.clipped((low, high), bounds)]
        if estimate.n > 1
        else [None] * 2,
        "n": estimate.n,
        "accuracy": accuracy,
        "verdict": verdict,
        "detectable": number_or_none(detectable(estimate)),
    }


def claim_verdict(effects: Iterable[Mapping[str, Any]]) -> str:
    """The verdict on a claim from those of its effects that have an expected sign.

    Args:
      effects: records of one claim, from :func:`effect`.

    Returns:
      "no run" if an effect has none; "undefined" if an effect is defined in none; "no verdict: accuracy" if models are
      too inaccurate; "fails" if one fails; "holds" if all hold; otherwise "undecided".

    Example:
      >>> claim_verdict([{"expected": 1, "verdict": "holds"}, {"expected": 0, "verdict": "reported"}])
      'holds'
    """
    verdicts = [record["verdict"] for record in effects if record["expected"] != 0]
    for verdict in (NO_RUN, UNDEFINED, NO_ACCURACY, "fails", "undecided"):
        if verdict in verdicts:
            return verdict
    return "holds" if verdicts else NO_RUN


def _check_alike(name: str, values: np.ndarray, shape: tuple[int, ...]) -> None:
    if np.shape(values) != shape:
        raise ValueError(f"{name} has shape {np.shape(values)}, not {shape}: give one for each value")
