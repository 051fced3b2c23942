"""Intervals over class splits: how far a mean moves with the split and the seed.

The seeds of a split share its classes, so they are averaged first, and only the splits count as samples. A *t* interval
knows nothing of the range of a quantity: few splits give an AUROC above 1. What is shown is cut to it
(:func:`clipped`), which costs no coverage. Intervals over test images are :mod:`osrjax.metrics.bootstrap`.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special

__all__ = [
    "SHARE",
    "SIGNED",
    "Estimate",
    "Range",
    "check_level",
    "clipped",
    "paired_difference",
    "range_of",
    "t_interval",
]

Range = tuple[float, float]
SHARE: Range = (0.0, 1.0)
SIGNED: Range = (-1.0, 1.0)  # a difference of two shares, a correlation
RANGES: dict[str, Range] = dict.fromkeys(
    (
        *("closed_set_accuracy", "accuracy", "auroc", "oscr", "aupr_unknown_positive", "aupr_known_positive"),
        *("fpr_at_95_tpr_unknown_positive", "fpr_at_95_tpr_known_positive", "detection_accuracy", "macro_f1"),
    ),
    SHARE,
) | dict.fromkeys(
    ("davies_bouldin", "norm_known", "norm_unknown", "intra_distance", "inter_distance", "path_length"), (0.0, np.inf)
)


class Estimate(NamedTuple):
    """A mean over splits, its interval and the number of splits."""

    mean: float
    interval: tuple[float, float]
    n: int


def t_interval(values: Float[np.ndarray, "splits *seeds"], *, level: float = 0.95) -> Estimate:
    r"""Mean over class splits with its Student t interval, the seeds of a split averaged first.

    .. math:: \bar x \pm t_{n-1,\,(1 + level)/2} \; s / \sqrt{n}

    with s the standard deviation of the n split means (n - 1 in its denominator).

    Args:
      values: one number per split, or per split and seed; nan marks a missing run. A missing seed is left out of its
        split's mean, and a split without a run is not counted.
      level: coverage, in (0, 1).

    Returns:
      Mean, interval and number n of splits counted. The interval of a single split is (-inf, inf).

    Raises:
      ValueError: values without any run, infinite, or of neither shape; a level outside (0, 1).

    Example:
      >>> mean, (low, high), n = t_interval(np.array([[0.8, 0.9], [0.7, 0.8], [0.9, np.nan]]))
      >>> round(mean, 4), round(low, 4), round(high, 4), n  # means 0.85, 0.75, 0.9; t = 4.303
      (0.8333, 0.6436, 1.0231, 3)
    """
    check_level(level)
    runs = np.asarray(values, np.float64)
    if runs.ndim not in (1, 2):
        raise ValueError(f"values has shape {runs.shape}: give [splits] or [splits, seeds]")
    if np.isinf(runs).any():
        raise ValueError("values holds an infinite number: mark a missing run by nan, or drop it")
    runs = runs[:, None] if runs.ndim == 1 else runs
    present = ~np.isnan(runs)
    counted = present.any(axis=1)
    n = int(counted.sum())
    if n == 0:
        raise ValueError(f"values of shape {runs.shape} holds no run: every entry is missing")
    totals = np.where(present, runs, 0.0).sum(axis=1)[counted]
    means = totals / present.sum(axis=1)[counted]
    mean = float(means.mean())
    if n == 1:
        return Estimate(mean, (-np.inf, np.inf), n)
    half = float(special.stdtrit(n - 1, 0.5 + 0.5 * level) * means.std(ddof=1) / np.sqrt(n))
    return Estimate(mean, (mean - half, mean + half), n)


def paired_difference(
    a: Float[np.ndarray, "splits *seeds"],
    b: Float[np.ndarray, "splits *seeds"],
    *,
    level: float = 0.95,
) -> Estimate:
    """Mean difference a - b between two methods run on the same splits and seeds.

    Differences are taken run by run, then treated as by :func:`t_interval`.

    Args:
      a: one number per split, or per split and seed, of the first method; nan marks a missing run.
      b: the same of the second method. A run that either method misses counts for neither.
      level: coverage, in (0, 1).

    Returns:
      Mean difference, interval and number n of splits counted. The difference is decided where the interval excludes
      0; that of a single split is (-inf, inf).

    Raises:
      ValueError: arrays of two shapes; otherwise as :func:`t_interval`.

    Example:
      >>> mean, (low, high), n = paired_difference(np.array([0.9, 0.8]), np.array([0.8, 0.6]))
      >>> round(mean, 4), round(low, 4), round(high, 4), n  # 0.15 -+ 12.706 * 0.05
      (0.15, -0.4853, 0.7853, 2)
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"a has shape {first.shape} and b {second.shape}: give the same splits and seeds of both")
    for name, runs in (("a", first), ("b", second)):
        if np.isinf(runs).any():
            raise ValueError(f"{name} holds an infinite number: mark a missing run by nan")
    return t_interval(first - second, level=level)


def range_of(metric: str, *, difference: bool = False) -> Range:
    """What values a metric can have.

    Args:
      metric: a name of :func:`osrjax.metrics.open_set_metrics` or of a probe.
      difference: the range of a difference of two instead.

    Returns:
      Lower and upper end, infinite where there is none that is known.

    Example:
      >>> range_of("auroc"), range_of("auroc", difference=True), range_of("norm_known")
      ((0.0, 1.0), (-1.0, 1.0), (0.0, inf))
    """
    low, high = RANGES.get(metric, (-np.inf, np.inf))
    return (low - high, high - low) if difference else (low, high)


def clipped(interval: Range, bounds: Range) -> Range:
    """An interval without the values that the quantity cannot have; it covers what it covered before.

    Args:
      interval: lower and upper end.
      bounds: the range of the quantity, such as ``SHARE``.

    Returns:
      Lower and upper end within the bounds.

    Example:
      >>> clipped((0.04, 1.057), SHARE)
      (0.04, 1.0)
    """
    return max(interval[0], bounds[0]), min(interval[1], bounds[1])


def check_level(level: float) -> None:
    """Refuses a coverage outside (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"{level=} is outside (0, 1): give a coverage such as 0.95")
