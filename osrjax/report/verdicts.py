"""Which method of a table is above which: paired differences, corrected for their number, and a rule for the verdict.

The rule, in :func:`verdict`: *above* (or *below*) where Holm's p value is below 0.05 and the 95 % interval of the
difference lies above (below) 0; *no difference above one point* where the whole interval lies within 0.01 of 0;
*undecided* otherwise; none of them where the mean closed-set accuracy of either method is below :data:`GATES`.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from osrjax.metrics.comparisons import Comparison, holm, paired_comparison, power, splits_needed
from osrjax.metrics.effects import ACCURACY, NO_ACCURACY
from osrjax.metrics.intervals import Range
from osrjax.report.leaderboard import ResultTable

__all__ = ["GATES", "LEVEL", "POINT", "PairedVerdict", "gate_of", "paired_verdicts", "verdict"]

LEVEL, POINT, WANTED_POWER = 0.05, 0.01, 0.8
# Mean closed-set accuracy below which methods are not compared, by data set; ACCURACY for all others.
GATES = {"mnist": 0.99, "fashion_mnist": 0.9, "cifar10": 0.9, "cifar+10": 0.9, "cifar+50": 0.9}


class PairedVerdict(NamedTuple):
    """A comparison of the reference method with another.

    Attributes:
      other: label of the other method.
      scores: of the reference and of the other.
      own: True where each has its own score, False where both have a common one.
      found: reference - other, over the runs that both have.
      corrected: p value after Holm's correction over the comparisons of the table of the same kind.
      accuracies: mean closed-set accuracy of the reference and of the other, over the same runs.
      power: chance to find a true difference of ``POINT`` at this n, the spread of the differences taken as the
        true one, at the strictest level of the correction; nan for a single sample.
      needed: samples that find it with 80 % power; None for a single sample, or more than a million.
      verdict: by :func:`verdict`.
    """

    other: str
    scores: tuple[str, str]
    own: bool
    found: Comparison
    corrected: float
    accuracies: tuple[float, float]
    power: float
    needed: int | None
    verdict: str

    @property
    def sees_one_point(self) -> bool:
        """Whether a true difference of ``POINT`` would be found with 80 % power at this n."""
        return self.power >= WANTED_POWER


def gate_of(dataset: str) -> float:
    """The mean closed-set accuracy that a verdict asks of both methods.

    Args:
      dataset: name of the data set.

    Example:
      >>> gate_of("mnist"), gate_of("digits")
      (0.99, 0.85)
    """
    return GATES.get(dataset, ACCURACY)


def verdict(interval: Range, corrected: float, accuracies: tuple[float, float], *, gate: float) -> str:
    """The rule of this module.

    Args:
      interval: 95 % interval of the difference.
      corrected: its p value after Holm's correction; nan for a single sample.
      accuracies: mean closed-set accuracy of both methods.
      gate: the least of them that gives a verdict.

    Returns:
      "above", "below", "no difference above one point", "undecided" or "no verdict: accuracy".

    Example:
      >>> verdict((0.002, 0.03), 0.02, (0.95, 0.94), gate=0.9), verdict((-0.004, 0.008), 0.6, (0.95, 0.94), gate=0.9)
      ('above', 'no difference above one point')
    """
    low, high = interval
    if not all(accuracy >= gate for accuracy in accuracies):
        return NO_ACCURACY
    if corrected < LEVEL and low > 0:
        return "above"
    if corrected < LEVEL and high < 0:
        return "below"
    return "no difference above one point" if low >= -POINT and high <= POINT else "undecided"


def paired_verdicts(
    table: ResultTable, reference: str, *, metric: str = "auroc", common: str | None = None
) -> list[PairedVerdict]:
    """The reference method against each other one, by own scores and by a common score where both have it.

    Differences are taken run by run (same split, same seed). The comparisons by own scores are one family of Holm's
    correction, those by the common score another.

    Args:
      table: one of :func:`osrjax.report.result_tables`.
      reference: label of a method.
      metric: that is compared.
      common: name of a score.

    Returns:
      Comparisons by own scores, then by the common one; none of a method without a run in common with the reference.
    """
    own = table.own_scores
    others = [label for label in dict.fromkeys(label for label, _ in table.results) if label != reference]
    of_own = {other: (own[reference], own[other]) for other in others if {reference, other} <= own.keys()}
    of_common = {
        other: (common, common)
        for other in others
        if common and all((label, common) in table.results for label in (reference, other))
    }
    return [
        *_family(table, reference, of_own, metric, own=True),
        *_family(table, reference, of_common, metric, own=False),
    ]


def _family(
    table: ResultTable, reference: str, scores: Mapping[str, tuple[str, str]], metric: str, *, own: bool
) -> list[PairedVerdict]:
    compared = {other: _compared(table, (reference, other), pair, metric) for other, pair in scores.items()}
    found = {other: pair for other, pair in compared.items() if pair is not None}
    corrected = holm([comparison.p_value for comparison, _ in found.values()])
    level = LEVEL / max(1, sum(not math.isnan(p) for p in corrected))
    gate = gate_of(table.dataset)
    return [
        PairedVerdict(
            *(other, scores[other], own, comparison, p, accuracies),
            *_sight(comparison, level),
            verdict(comparison.difference.interval, p, accuracies, gate=gate),
        )
        for (other, (comparison, accuracies)), p in zip(found.items(), corrected, strict=True)
    ]


def _compared(
    table: ResultTable, labels: tuple[str, str], scores: tuple[str, str], metric: str
) -> tuple[Comparison, tuple[float, float]] | None:
    a, b = (table.values(*of, metric) for of in zip(labels, scores, strict=True))
    together = ~np.isnan(a - b)
    if not together.any():
        return None
    accuracy = [table.values(*of, "closed_set_accuracy") for of in zip(labels, scores, strict=True)]
    first, second = (float(np.mean(values[together])) for values in accuracy)
    return paired_comparison(a, b), (first, second)


def _sight(found: Comparison, level: float) -> tuple[float, int | None]:
    """Power for one point at this n, and the samples that it takes."""
    if math.isnan(found.deviation):
        return math.nan, None
    if found.deviation == 0:
        return 1.0, 2
    needed = splits_needed(POINT, found.deviation, wanted=WANTED_POWER, level=level)
    return power(POINT, found.deviation, found.difference.n, level=level), needed
