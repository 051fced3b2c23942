"""Intervals: how far a metric moves with the test images, and with the split and the seed.

A *bootstrap* interval of one trained network resamples its test images, known and unknown ones apart (stratified),
and says nothing about another training run. A *t* interval over class splits does. The seeds of a split share its
classes, so they are averaged first, and only the splits count as samples.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import special

from osrjax.metrics.detection import open_set_metrics, rejection_threshold

__all__ = ["Estimate", "bootstrap_interval", "bootstrap_intervals", "paired_difference", "t_interval"]

ENTRIES_AT_ONCE = 2**19  # resampled examples held at a time: 4 MB an array, about a dozen arrays


class Estimate(NamedTuple):
    """A mean over splits, its interval and the number of splits."""

    mean: float
    interval: tuple[float, float]
    n: int


def bootstrap_intervals(
    scores_known: Float[np.ndarray, " known"],
    scores_unknown: Float[np.ndarray, " unknown"],
    predictions: Int[np.ndarray, " known"],
    labels: Int[np.ndarray, " known"],
    validation_scores: Float[np.ndarray, " validation"] | None = None,
    predictions_unknown: Int[np.ndarray, " unknown"] | None = None,
    *,
    share: float = 0.1,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Stratified percentile bootstrap intervals of all of :func:`osrjax.metrics.detection.open_set_metrics`.

    Known and unknown examples are drawn with replacement, each kind as often as it has examples. An example keeps its
    label and prediction, and the threshold of macro-F1 stays as calibrated. *Cost*: one sort, then linear in
    ``resamples`` times examples; below a second for 1000 times 1000.

    Args:
      scores_known: finite scores of known examples.
      scores_unknown: finite scores of unknown examples.
      predictions: predicted classes of the known examples, before any rejection.
      labels: classes of the known examples.
      validation_scores: scores of held-out known examples, which set the threshold of macro-F1.
      predictions_unknown: predicted classes of the unknown examples, with ``validation_scores``.
      share: share of the validation examples that the threshold rejects, in [0, 1).
      resamples: number of bootstrap samples, at least 1; the same seed gives the same samples.
      level: coverage, in (0, 1).
      seed: of the resampling.

    Returns:
      Lower and upper end by name, under the names of :func:`osrjax.metrics.detection.open_set_metrics`.

    Raises:
      ValueError: as :func:`osrjax.metrics.detection.open_set_metrics`; a level outside (0, 1).
    """
    _check_level(level)
    names = open_set_metrics(  # also refuses what is malformed
        scores_known,
        scores_unknown,
        predictions,
        labels,
        validation_scores,
        predictions_unknown,
        share=share,
    )
    threshold = None
    if validation_scores is not None:
        threshold = rejection_threshold(validation_scores, share=share)
    known_draws, unknown_draws = np.random.default_rng(seed).spawn(2)
    values: dict[str, list[np.ndarray]] = {name: [] for name in names}
    done, examples = 0, len(scores_known) + len(scores_unknown)
    while done < resamples:
        count = min(resamples - done, max(1, ENTRIES_AT_ONCE // examples))
        found = _resampled_metrics(
            scores_known,
            scores_unknown,
            predictions,
            labels,
            predictions_unknown,
            threshold,
            known_draws.integers(len(scores_known), size=(count, len(scores_known))),
            unknown_draws.integers(len(scores_unknown), size=(count, len(scores_unknown))),
        )
        for name, samples in values.items():
            samples.append(found[name])
        done += count
    return {name: _percentiles(np.concatenate(v), level) for name, v in values.items()}


def bootstrap_interval(
    statistic: Callable[..., float],
    *samples: Shaped[np.ndarray, "_ ..."],
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Stratified percentile bootstrap interval of any statistic, one call of it a resample.

    Args:
      statistic: takes the resampled arrays and gives a number, such as
        :func:`osrjax.metrics.detection.jacobian_norm_difference`.
      *samples: arrays whose first axes are resampled apart from one another: known and unknown norms,
        or the embeddings of one class each.
      resamples: number of bootstrap samples, at least 1; the same seed gives the same samples.
      level: coverage, in (0, 1).
      seed: of the resampling.

    Returns:
      Lower and upper end.

    Raises:
      ValueError: a level outside (0, 1); an empty sample.

    Example:
      >>> from osrjax.metrics import jacobian_norm_difference
      >>> known, unknown = np.linspace(0.0, 1.0, 50), np.linspace(1.0, 2.0, 50)
      >>> low, high = bootstrap_interval(jacobian_norm_difference, known, unknown)
      >>> round(low, 1), round(high, 1)
      (0.9, 1.1)
    """
    _check_level(level)
    draws = np.random.default_rng(seed)
    values = [
        statistic(*(sample[draws.integers(len(sample), size=len(sample))] for sample in samples))
        for _ in range(resamples)
    ]
    return _percentiles(np.asarray(values, np.float64), level)


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
    _check_level(level)
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


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"{level=} is outside (0, 1): give a coverage such as 0.95")


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [0.5 - 0.5 * level, 0.5 + 0.5 * level])
    return float(low), float(high)


def _resampled_metrics(
    scores_known: np.ndarray,
    scores_unknown: np.ndarray,
    predictions: np.ndarray,
    labels: np.ndarray,
    predictions_unknown: np.ndarray | None,
    threshold: float | None,
    known_indices: np.ndarray,
    unknown_indices: np.ndarray,
) -> dict[str, np.ndarray]:
    """Metrics of many resamples at once, from counts of examples at each distinct score.

    Sorting happens once: a resample is a histogram over the distinct scores in rising order, and every
    ranking metric is a function of its cumulative sums. Ties share a bin, so they are exact.
    """
    scores = np.concatenate([scores_known, scores_unknown]).astype(np.float64)
    distinct, bins = np.unique(scores, return_inverse=True)
    known_bins, unknown_bins = bins[: len(scores_known)], bins[len(scores_known) :]
    correct = np.asarray(predictions) == np.asarray(labels)
    known = _histograms(known_bins[known_indices], distinct.size)
    unknown = _histograms(unknown_bins[unknown_indices], distinct.size)
    # Wrong examples go to one bin more, which is dropped.
    right = _histograms(np.where(correct, known_bins, distinct.size)[known_indices], distinct.size + 1)
    right = right[:, :-1]
    # Twice the number of unknown examples that outscore a known one at each bin, ties counting half.
    outscored = 2 * (len(scores_unknown) - np.cumsum(unknown, axis=1)) + unknown
    pairs = 2 * len(scores_known) * len(scores_unknown)
    unknown_aupr, unknown_fpr, balanced = _detection_metrics(unknown[:, ::-1], known[:, ::-1])
    known_aupr, known_fpr, _ = _detection_metrics(known, unknown)
    found = {
        "closed_set_accuracy": right.sum(axis=1) / len(scores_known),
        "auroc": (known * outscored).sum(axis=1) / pairs,
        "oscr": (right * outscored).sum(axis=1) / pairs,
        "aupr_unknown_positive": unknown_aupr,
        "aupr_known_positive": known_aupr,
        "fpr_at_95_tpr_unknown_positive": unknown_fpr,
        "fpr_at_95_tpr_known_positive": known_fpr,
        "detection_accuracy": balanced,
    }
    if threshold is not None and predictions_unknown is not None:
        reject = 1 + max(int(part.max()) for part in (predictions, labels, predictions_unknown))
        decided = np.where(np.asarray(scores_known) > threshold, reject, predictions)
        decided_unknown = np.where(np.asarray(scores_unknown) > threshold, reject, predictions_unknown)
        # Both indices of the confusion matrix in one: actual class times (K + 1) plus decided class.
        cells = _histograms(
            (np.asarray(labels, np.int64) * (reject + 1) + decided)[known_indices], (reject + 1) ** 2
        ) + _histograms((reject * (reject + 1) + decided_unknown)[unknown_indices], (reject + 1) ** 2)
        confusion = cells.reshape(-1, reject + 1, reject + 1)
        hits = 2 * np.einsum("rkk->rk", confusion)
        totals = confusion.sum(axis=1) + confusion.sum(axis=2)
        # A class with neither label nor decision in a resample has no F1 there.
        found["macro_f1"] = (hits / np.maximum(totals, 1)).sum(axis=1) / (totals > 0).sum(axis=1)
    return found


def _histograms(bins: np.ndarray, size: int) -> np.ndarray:
    """Counts per row of ``bins``, int64 of shape [rows, size]."""
    offsets = size * np.arange(bins.shape[0])[:, None]
    return np.bincount((bins + offsets).ravel(), minlength=bins.shape[0] * size).reshape(-1, size)


def _detection_metrics(positives: np.ndarray, negatives: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average precision, FPR at 95 % TPR and balanced accuracy of counts, most positive bin first."""
    true, false = np.cumsum(positives, axis=1), np.cumsum(negatives, axis=1)
    precision = true / np.maximum(true + false, 1)
    tpr, fpr = true / true[:, -1:], false / false[:, -1:]
    average_precision = (positives * precision).sum(axis=1) / true[:, -1]
    first = np.argmax(tpr >= 0.95, axis=1)
    balanced = np.maximum(0.5 * (tpr + 1.0 - fpr).max(axis=1), 0.5)
    return average_precision, np.take_along_axis(fpr, first[:, None], axis=1)[:, 0], balanced
