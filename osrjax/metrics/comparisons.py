"""Which of many differences are there: paired tests over splits, Holm's correction, power, and the n that is needed.

The unit is the class split: differences are taken run by run (same split, same seed), the seeds of a split averaged.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Float

from osrjax.metrics.intervals import Estimate, t_interval

__all__ = ["Comparison", "holm", "paired_comparison", "power", "splits_needed"]


class Comparison(NamedTuple):
    """A paired difference between two methods.

    Attributes:
      difference: mean of a - b over splits, with its 95 % t interval.
      deviation: standard deviation of the splits' differences; nan for a single split.
      p_value: two-sided, of the paired t test; nan for a single split, 0 or 1 where all splits differ alike.
    """

    difference: Estimate
    deviation: float
    p_value: float


def paired_comparison(
    a: Float[np.ndarray, "splits *seeds"], b: Float[np.ndarray, "splits *seeds"], *, level: float = 0.95
) -> Comparison:
    """Difference a - b with its interval and test.

    Args:
      a: one number per split, or per split and seed; nan marks a missing run, and a pair lacking one is left out.
      b: of the other method, in the same order.
      level: of the interval.

    Returns:
      The comparison.

    Raises:
      ValueError: other shapes, or no pair.

    Example:
      >>> found = paired_comparison(np.array([0.9, 0.8, 0.7]), np.array([0.8, 0.75, 0.67]))
      >>> round(found.difference.mean, 3), round(found.p_value, 4)  # t = 0.06 / (0.0361 / sqrt 3)
      (0.06, 0.1022)
    """
    if np.shape(a) != np.shape(b):
        raise ValueError(f"a has shape {np.shape(a)}, b {np.shape(b)}: give the same splits and seeds of both")
    differences = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    estimate = t_interval(differences, level=level)
    rows = differences.reshape(len(differences), -1)
    means = np.array([row[~np.isnan(row)].mean() for row in rows if not np.isnan(row).all()])
    if len(means) < 2:
        return Comparison(estimate, float("nan"), float("nan"))
    deviation = float(means.std(ddof=1))
    if deviation == 0:
        return Comparison(estimate, 0.0, 1.0 if estimate.mean == 0 else 0.0)
    statistic = estimate.mean / (deviation / math.sqrt(len(means)))
    return Comparison(estimate, deviation, float(2 * scipy.stats.t.sf(abs(statistic), len(means) - 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    r"""P values after Holm's correction for the whole family of comparisons.

    .. math:: \tilde p_{(i)} = \max_{j \le i} \min(1, (m - j + 1) \, p_{(j)}).

    Reject where the corrected value is below the level: the family has a wrong rejection with at most that chance.

    Args:
      p_values: of m comparisons; nan (no test) is left out of the count and stays nan.

    Returns:
      Corrected values in the same order.

    Example:
      >>> holm([0.01, 0.04, 0.03])
      [0.03, 0.06, 0.06]

    References:
      Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics, 1979.
    """
    tested = sorted((value, place) for place, value in enumerate(p_values) if not math.isnan(value))
    corrected, largest = [float("nan")] * len(p_values), 0.0
    for rank, (value, place) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * value))
        corrected[place] = largest
    return corrected


def power(difference: float, deviation: float, n: int, *, level: float = 0.05) -> float:
    r"""Chance that a two-sided paired t test over n splits finds a true difference.

    .. math:: P\bigl(|T| > t_{n-1,\,1-\alpha/2}\bigr), \qquad
              T \sim t_{n-1}\bigl(\delta \sqrt n / \sigma\bigr) \text{ (non-central)}.

    Args:
      difference: delta, the true one.
      deviation: sigma, standard deviation of the splits' differences, above 0.
      n: number of splits; below 2 nothing is ever found.
      level: alpha.

    Returns:
      A probability, ``level`` for a difference of 0.

    Raises:
      ValueError: a deviation that is not above 0, or a level outside (0, 1).

    Example:
      >>> round(power(1.0, 1.0, 10), 3)
      0.803

    References:
      Cohen, "Statistical Power Analysis for the Behavioral Sciences", 1988, section 2.
    """
    if not deviation > 0:
        raise ValueError(f"{deviation=} is not above 0: give the standard deviation of the differences")
    if not 0 < level < 1:
        raise ValueError(f"{level=} is not between 0 and 1: give one such as 0.05")
    if n < 2:
        return 0.0
    critical, shift = scipy.stats.t.ppf(1 - level / 2, n - 1), difference * math.sqrt(n) / deviation
    # What a noncentral t leaves below the upper critical value; scipy gives nan where that is nothing.
    missed = scipy.stats.nct.cdf(critical, n - 1, abs(shift)) - scipy.stats.nct.cdf(-critical, n - 1, abs(shift))
    return float(np.clip(1.0 - np.nan_to_num(missed), 0.0, 1.0))


def splits_needed(difference: float, deviation: float, *, wanted: float = 0.8, level: float = 0.05) -> int | None:
    """The smallest number of splits with which a true difference is found often enough.

    Args:
      difference: the true one, not 0.
      deviation: standard deviation of the splits' differences, above 0.
      wanted: power, in (0, 1).
      level: of the test.

    Returns:
      At least 2; None above a million.

    Raises:
      ValueError: a difference of 0, power outside (0, 1), or as :func:`power`.

    Example:
      >>> splits_needed(1.0, 1.0)
      10
    """
    if difference == 0 or not 0 < wanted < 1:
        raise ValueError(f"{difference=}, {wanted=}: give a difference other than 0 and a power such as 0.8")
    low, high = 1, 2
    while power(difference, deviation, high, level=level) < wanted:
        low, high = high, 2 * high
        if high > 2**20:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(difference, deviation, middle, level=level) >= wanted else (middle, high)
    return high
