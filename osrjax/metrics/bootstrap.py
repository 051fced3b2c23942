"""Bootstrap intervals: how far a metric of one trained network moves with its test images.

Known and unknown images are resampled apart (stratified). The intervals say nothing about another training run: those
over class splits are :mod:`osrjax.metrics.intervals`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer, Shaped

from osrjax.arrays import class_positions
from osrjax.metrics.detection import open_set_metrics, rejected, rejection_threshold
from osrjax.metrics.intervals import check_level
from osrjax.metrics.ranking import ScoreCounts, ranking_metrics

__all__ = ["bootstrap_interval", "bootstrap_intervals"]

ENTRIES_AT_ONCE = 2**19  # resampled examples held at a time: 4 MB an array, about a dozen arrays


def bootstrap_intervals(
    scores_known: Float[np.ndarray, " known"],
    scores_unknown: Float[np.ndarray, " unknown"],
    predictions: Integer[np.ndarray, " known"],
    labels: Integer[np.ndarray, " known"],
    validation_scores: Float[np.ndarray, " validation"] | None = None,
    predictions_unknown: Integer[np.ndarray, " unknown"] | None = None,
    *,
    share: float = 0.1,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Stratified percentile bootstrap intervals of all of :func:`osrjax.metrics.detection.open_set_metrics`.

    Known and unknown examples are drawn with replacement, each kind as often as it has examples. An example keeps its
    label and prediction, and the threshold of macro-F1 stays as calibrated. *Cost*: one sort, then linear in
    ``resamples`` times examples and classes; below a second for 1000 times 1000. *Memory*: about 120 bytes an example
    or class, or 50 MB where that is more (experiments/benchmarks/bootstrap.py).

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
      ValueError: as :func:`osrjax.metrics.detection.open_set_metrics`; a level outside (0, 1); no resample.
    """
    check_level(level)
    _check_resamples(resamples)
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
    examples = _ranked(
        scores_known, scores_unknown, predictions, labels, predictions_unknown=predictions_unknown, threshold=threshold
    )
    known_draws, unknown_draws = np.random.default_rng(seed).spawn(2)
    values: dict[str, list[np.ndarray]] = {name: [] for name in names}
    at_once = max(1, ENTRIES_AT_ONCE // (len(scores_known) + len(scores_unknown) + examples.classes))
    for done in range(0, resamples, at_once):
        count = min(resamples - done, at_once)
        found = _resampled_metrics(
            examples,
            _times_drawn(known_draws, len(scores_known), count),
            _times_drawn(unknown_draws, len(scores_unknown), count),
        )
        for name, samples in values.items():
            samples.append(found[name])
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
      Lower and upper end; nan where the statistic is nan in a resample.

    Raises:
      ValueError: a level outside (0, 1); an empty sample; no resample.

    Example:
      >>> from osrjax.metrics import jacobian_norm_difference
      >>> known, unknown = np.linspace(0.0, 1.0, 50), np.linspace(1.0, 2.0, 50)
      >>> low, high = bootstrap_interval(jacobian_norm_difference, known, unknown)
      >>> round(low, 1), round(high, 1)
      (0.9, 1.1)
    """
    check_level(level)
    _check_resamples(resamples)
    draws = np.random.default_rng(seed)
    values = [
        statistic(*(sample[draws.integers(len(sample), size=len(sample))] for sample in samples))
        for _ in range(resamples)
    ]
    return _percentiles(np.asarray(values, np.float64), level)


def _check_resamples(resamples: int) -> None:
    if resamples < 1:
        raise ValueError(f"{resamples=} is below 1: give the number of bootstrap samples, such as 1000")


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [0.5 - 0.5 * level, 0.5 + 0.5 * level])
    return float(low), float(high)


class _Examples(NamedTuple):
    """What all resamples share: where each example counts. Sorting happens once, here."""

    known: np.ndarray  # place of each score among all distinct ones, which rise
    unknown: np.ndarray
    distinct: int
    correct: np.ndarray
    confusion: "_Confusion | None"

    @property
    def classes(self) -> int:
        return 0 if self.confusion is None else self.confusion.classes


class _Confusion(NamedTuple):
    """Classes, unknown among them, as places among those that occur."""

    labels: np.ndarray
    decided: np.ndarray
    decided_unknown: np.ndarray
    reject: int
    classes: int


def _ranked(
    scores_known: np.ndarray,
    scores_unknown: np.ndarray,
    predictions: np.ndarray,
    labels: np.ndarray,
    *,
    predictions_unknown: np.ndarray | None,
    threshold: float | None,
) -> _Examples:
    predictions, labels = class_positions("predictions", predictions), class_positions("labels", labels)
    scores = np.concatenate([scores_known, scores_unknown]).astype(np.float64)
    distinct, places = np.unique(scores, return_inverse=True)
    known, unknown = np.split(places, [len(scores_known)])
    confusion = None
    if threshold is not None and predictions_unknown is not None:
        guesses = class_positions("predictions_unknown", predictions_unknown)
        reject = 1 + max(int(part.max()) for part in (predictions, labels, guesses))
        above = rejected(scores, threshold=threshold)
        decided = np.where(above, reject, np.concatenate([predictions, guesses]))
        found, classes = np.unique(np.concatenate([labels, decided, [reject]]), return_inverse=True)
        ends = np.cumsum([len(labels), len(predictions), len(guesses)])
        confusion = _Confusion(*np.split(classes, ends)[:3], reject=found.size - 1, classes=found.size)
    return _Examples(known, unknown, distinct.size, predictions == labels, confusion)


def _times_drawn(draws: np.random.Generator, examples: int, resamples: int) -> np.ndarray:
    """How often each example is drawn, [resamples, examples]."""
    times = np.empty((resamples, examples), np.int32)
    for row in times:
        row[:] = np.bincount(draws.integers(examples, size=examples), minlength=examples)
    return times


def _resampled_metrics(
    examples: _Examples, known_times: np.ndarray, unknown_times: np.ndarray
) -> dict[str, np.ndarray]:
    """Metrics of many resamples at once, from how often each example is in them.

    A resample is a histogram over the distinct scores in rising order, :class:`osrjax.metrics.ranking.ScoreCounts`.
    """
    known = _sums(examples.known, known_times, examples.distinct)
    unknown = _sums(examples.unknown, unknown_times, examples.distinct)
    right = _sums(examples.known, known_times * examples.correct, examples.distinct)
    found = ranking_metrics(ScoreCounts(known, unknown, right))
    if examples.confusion is not None:
        found["macro_f1"] = _resampled_f1(examples.confusion, known_times, unknown_times)
    return found


def _resampled_f1(confusion: _Confusion, known_times: np.ndarray, unknown_times: np.ndarray) -> np.ndarray:
    """Macro-F1 of many resamples: of the confusion matrix only its diagonal and its margins."""
    labels, decided, decided_unknown, reject, classes = confusion
    hits = _sums(labels, known_times * (decided == labels), classes)
    totals = _sums(labels, known_times, classes) + _sums(decided, known_times, classes)
    totals += _sums(decided_unknown, unknown_times, classes)
    hits[:, reject] += unknown_times @ (decided_unknown == reject).astype(np.int64)
    totals[:, reject] += len(decided_unknown)
    # A class with neither label nor decision in a resample has no F1 there.
    return (2 * hits / np.maximum(totals, 1)).sum(axis=1) / (totals > 0).sum(axis=1)


def _sums(places: np.ndarray, times: np.ndarray, size: int) -> np.ndarray:
    """Sum of the times at each place, float64 of shape [rows, size]."""
    rows = len(times)
    if rows == 1:
        return np.bincount(places, times[0], size)[None]
    places = places + size * np.arange(rows)[:, None]
    return np.bincount(places.ravel(), times.ravel(), rows * size).reshape(rows, size)
