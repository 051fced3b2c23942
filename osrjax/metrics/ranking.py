"""Every ranking metric as a function of counts: how many known and unknown examples have each distinct score.

Scores are sorted once, whatever is asked of them. Ties share a count, so they are exact; all counts and products of two
are whole numbers below 2^53.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

__all__ = ["ScoreCounts", "ranking_metrics", "score_counts"]


class ScoreCounts(NamedTuple):
    """Whole numbers of any dtype, the distinct scores rising along the last axis.

    Attributes:
      known: known examples with each score.
      unknown: unknown examples.
      right: known examples that get their own class.
    """

    known: Shaped[np.ndarray, "*sets scores"]
    unknown: Shaped[np.ndarray, "*sets scores"]
    right: Shaped[np.ndarray, "*sets scores"]


def score_counts(
    known: Float[np.ndarray, " known"], unknown: Float[np.ndarray, " unknown"], correct: Bool[np.ndarray, " known"]
) -> ScoreCounts:
    """Counts of finite scores.

    Args:
      known: scores of known examples, one or more.
      unknown: scores of unknown examples.
      correct: True where a known example gets its own class.

    Returns:
      One count per distinct score. *Cost*: sorts of values, none of places, which take several times as long.

    Example:
      >>> score_counts(np.array([1.0, 2.0, 1.0]), np.array([2.0, 5.0]), np.array([True, True, False])).known
      array([2, 1, 0])
    """
    ordered = np.sort(np.concatenate([known, unknown]))
    last = np.append(ordered[1:] != ordered[:-1], True)
    distinct, up_to = ordered[last], 1 + np.flatnonzero(last)
    known_up_to, right_up_to = (np.searchsorted(np.sort(part), distinct, "right") for part in (known, known[correct]))
    return ScoreCounts(*(np.diff(part, prepend=0) for part in (known_up_to, up_to - known_up_to, right_up_to)))


def ranking_metrics(counts: ScoreCounts) -> dict[str, Any]:
    """Every metric that depends on the ranking alone, and the closed-set accuracy.

    Args:
      counts: with at least one known and one unknown example in each set.

    Returns:
      By the names of the functions of :mod:`osrjax.metrics.detection`, one value per set.
    """
    known, unknown, right = counts
    number_known, number_unknown = known.sum(axis=-1), unknown.sum(axis=-1)
    # Twice the number of unknown examples that outscore a known one at each score, ties counting half.
    outscored = 2 * (number_unknown[..., None] - np.cumsum(unknown, axis=-1)) + unknown
    pairs = 2 * number_known * number_unknown
    found = {
        "closed_set_accuracy": right.sum(axis=-1) / number_known,
        "auroc": (known * outscored).sum(axis=-1) / pairs,
        "oscr": (right * outscored).sum(axis=-1) / pairs,
    }
    del outscored  # there may be many examples
    unknown_aupr, unknown_fpr, balanced = _detection(unknown[..., ::-1], known[..., ::-1])
    known_aupr, known_fpr, _ = _detection(known, unknown)
    return found | {
        "aupr_unknown_positive": unknown_aupr,
        "aupr_known_positive": known_aupr,
        "fpr_at_95_tpr_unknown_positive": unknown_fpr,
        "fpr_at_95_tpr_known_positive": known_fpr,
        "detection_accuracy": balanced,
    }


def _detection(positives: np.ndarray, negatives: np.ndarray) -> tuple[Any, Any, Any]:
    """Average precision, FPR at 95 % TPR and balanced accuracy of counts, most positive score first."""
    true, false = np.cumsum(positives, axis=-1), np.cumsum(negatives, axis=-1)
    precision = true / np.maximum(true + false, 1)
    average_precision = (positives * precision).sum(axis=-1) / true[..., -1]
    del precision
    tpr, fpr = true / true[..., -1:], false / false[..., -1:]
    first = np.argmax(tpr >= 0.95, axis=-1)
    balanced = np.maximum(0.5 * (tpr + 1.0 - fpr).max(axis=-1), 0.5)
    return average_precision, np.take_along_axis(fpr, first[..., None], axis=-1)[..., 0], balanced
