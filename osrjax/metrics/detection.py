"""Metrics of open-set recognition: on the host, in float64, exact under ties.

A larger score means more unknown, and unknown is the positive class, everywhere. Where two conventions are in use,
there is one function for each, under names that say which. ``scores_known`` and ``scores_unknown`` hold one score for
every test image (a dropped last batch changes every ranking metric); ``predictions`` and ``labels`` are positions in
``known_classes``. Scores that are not finite are refused, since sorting would rank them all the same, and none of them
decides anything (:func:`rejected`).
"""

from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float, Integer
from sklearn import metrics as sklearn_metrics

from osrjax.arrays import class_positions
from osrjax.metrics.ranking import ScoreCounts, ranking_metrics, score_counts

__all__ = [
    "aupr_known_positive",
    "aupr_unknown_positive",
    "auroc",
    "closed_set_accuracy",
    "davies_bouldin",
    "detection_accuracy",
    "fpr_at_95_tpr_known_positive",
    "fpr_at_95_tpr_unknown_positive",
    "jacobian_norm_difference",
    "macro_f1",
    "open_set_metrics",
    "oscr",
    "oscr_curve",
    "rejected",
    "rejection_threshold",
    "roc_curve",
]


def auroc(scores_known: Float[np.ndarray, " known"], scores_unknown: Float[np.ndarray, " unknown"]) -> float:
    """Area under the ROC curve: the probability that an unknown example outscores a known one.

    Ties count one half, so a constant score gives 0.5.

    Args:
      scores_known: finite scores of known examples.
      scores_unknown: finite scores of unknown examples.

    Returns:
      A number in [0, 1]; 1 where every unknown score is above every known one.

    Raises:
      ValueError: scores that are empty, not finite, or not one per example.

    Example:
      >>> auroc(np.array([0.1, 0.4]), np.array([0.4, 0.8]))  # pairs: 1, 1, 1/2, 1
      0.875
    """
    return _ranking("auroc", scores_known, scores_unknown)


def aupr_unknown_positive(
    scores_known: Float[np.ndarray, " known"], scores_unknown: Float[np.ndarray, " unknown"]
) -> float:
    """Average precision at finding unknown examples by a large score (AUPR-out).

    Arguments and errors are those of :func:`auroc`.

    Returns:
      A number in (0, 1]; a constant score gives the share of unknown examples.
    """
    return _ranking("aupr_unknown_positive", scores_known, scores_unknown)


def aupr_known_positive(
    scores_known: Float[np.ndarray, " known"], scores_unknown: Float[np.ndarray, " unknown"]
) -> float:
    """Average precision at finding known examples by a small score (AUPR-in).

    Arguments and errors are those of :func:`auroc`.

    Returns:
      A number in (0, 1]; a constant score gives the share of known examples.
    """
    return _ranking("aupr_known_positive", scores_known, scores_unknown)


def fpr_at_95_tpr_unknown_positive(
    scores_known: Float[np.ndarray, " known"], scores_unknown: Float[np.ndarray, " unknown"]
) -> float:
    """Share of known examples rejected when at least 95 % of the unknown ones are.

    The threshold is the largest that finds 95 % of the unknown examples.

    Arguments and errors are those of :func:`auroc`.

    Returns:
      A number in [0, 1], smaller is better; a constant score gives 1.
    """
    return _ranking("fpr_at_95_tpr_unknown_positive", scores_known, scores_unknown)


def fpr_at_95_tpr_known_positive(
    scores_known: Float[np.ndarray, " known"], scores_unknown: Float[np.ndarray, " unknown"]
) -> float:
    """Share of unknown examples accepted when at least 95 % of the known ones are.

    The threshold is the smallest that accepts 95 % of the known examples. This is the convention of
    most out-of-distribution detection codes.

    Arguments and errors are those of :func:`auroc`.

    Returns:
      A number in [0, 1], smaller is better; a constant score gives 1.
    """
    return _ranking("fpr_at_95_tpr_known_positive", scores_known, scores_unknown)


def detection_accuracy(
    scores_known: Float[np.ndarray, " known"], scores_unknown: Float[np.ndarray, " unknown"]
) -> float:
    """Best balanced accuracy of known against unknown over all thresholds (DetACC).

    The threshold is chosen on the test scores, so the value is an upper bound for any calibrated threshold.

    Arguments and errors are those of :func:`auroc`.

    Returns:
      A number in [0.5, 1]; a constant score gives 0.5.
    """
    return _ranking("detection_accuracy", scores_known, scores_unknown)


def roc_curve(
    scores_known: Float[np.ndarray, " known"], scores_unknown: Float[np.ndarray, " unknown"]
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """ROC curve of detecting unknown examples, with a point for every distinct score.

    Arguments and errors are those of :func:`auroc`.

    Returns:
      Share of known examples rejected and share of unknown ones rejected, both rising from 0 to 1.
    """
    counts = _counts(scores_known, scores_unknown)
    return _shares(counts.known[::-1], counts.known), _shares(counts.unknown[::-1], counts.unknown)


def oscr(
    scores_known: Float[np.ndarray, " known"],
    scores_unknown: Float[np.ndarray, " unknown"],
    correct: Bool[np.ndarray, " known"],
) -> float:
    r"""Open-set classification rate: area under correct classification against false positives.

    .. math:: \frac{1}{N M} \sum_{i=1}^{N} \sum_{j=1}^{M} \mathrm{correct}_i
              \Bigl(1[s_i < s_j] + \tfrac12\, 1[s_i = s_j]\Bigr)

    over N known and M unknown scores: the probability that a known example is classified correctly and
    outscored by an unknown one, also called OpenAUC.

    Args:
      scores_known: finite scores of known examples.
      scores_unknown: finite scores of unknown examples.
      correct: True where a known example gets its own class, before any rejection.

    Returns:
      A number in [0, closed-set accuracy]; a constant score gives half the accuracy.

    Raises:
      ValueError: as :func:`auroc`; or ``correct`` of another length or not boolean.

    Example:
      >>> oscr(np.array([0.1, 0.4]), np.array([0.4, 0.8]), np.array([True, False]))  # (1 + 1) / 4
      0.5

    References:
      Dhamija, Günther and Boult, "Reducing Network Agnostophobia", NeurIPS 2018, arXiv 1811.04110,
      section 4; Wang et al., "OpenAUC: Towards AUC-Oriented Open-Set Recognition", NeurIPS 2022,
      arXiv 2210.13458, the pairwise form.
    """
    return _ranking("oscr", scores_known, scores_unknown, correct)


def oscr_curve(
    scores_known: Float[np.ndarray, " known"],
    scores_unknown: Float[np.ndarray, " unknown"],
    correct: Bool[np.ndarray, " known"],
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """OSCR curve, with a point for every distinct score; its trapezoidal area is :func:`oscr`.

    Args:
      scores_known: finite scores of known examples.
      scores_unknown: finite scores of unknown examples.
      correct: True where a known example gets its own class, before any rejection.

    Returns:
      Share of unknown examples accepted, rising from 0 to 1, and share of known examples that are
      accepted and classified correctly, rising from 0 to the closed-set accuracy.

    Raises:
      ValueError: as :func:`oscr`.
    """
    counts = _counts(scores_known, scores_unknown, correct)
    return _shares(counts.unknown, counts.unknown), _shares(counts.right, counts.known)


def closed_set_accuracy(predictions: Integer[np.ndarray, " known"], labels: Integer[np.ndarray, " known"]) -> float:
    """Share of known examples that get their own class, before any rejection.

    Args:
      predictions: predicted positions in ``known_classes``.
      labels: true positions in ``known_classes``.

    Returns:
      A number in [0, 1].

    Raises:
      ValueError: class positions that are empty, negative, not of an integer dtype, or of two lengths.
    """
    predictions = class_positions("predictions", predictions)
    return float(np.mean(predictions == class_positions("labels", labels, size=predictions.size)))


def rejection_threshold(validation_scores: Float[np.ndarray, " validation"], *, share: float = 0.1) -> float:
    """Threshold that rejects a given share of a known validation set.

    An example counts as unknown where its score is *above* the threshold: the smallest score that rejects no more than
    the share. With ties it rejects fewer, never more.

    Args:
      validation_scores: finite scores of known examples held out of training; never of test or unknown images.
      share: share of them that may be rejected, in [0, 1).

    Returns:
      The threshold, one of the scores.

    Raises:
      ValueError: scores that are empty or not finite; a share outside [0, 1).

    Example:
      >>> rejection_threshold(np.array([0.1, 0.2, 0.3, 0.4, 0.5]), share=0.2)
      0.4

    References:
      Yoshihashi et al., "Classification-Reconstruction Learning for Open-Set Recognition", CVPR 2019,
      arXiv 1812.04246, section 5 (a tenth of the known validation images is rejected).
    """
    if not 0 <= share < 1:
        raise ValueError(f"{share=} is outside [0, 1): give the share of known examples to reject")
    scores = np.sort(_scores("validation_scores", validation_scores))
    above = int(Fraction(str(float(share))) * scores.size)  # as written: 0.29 * 100 is 28.999999999999996
    return float(scores[scores.size - 1 - above])


def rejected(scores: Float[np.ndarray, " examples"], *, threshold: float) -> Bool[np.ndarray, " examples"]:
    """Which examples count as unknown: those that score above the threshold.

    Args:
      scores: finite scores, larger = more unknown.
      threshold: finite, from :func:`rejection_threshold`.

    Returns:
      True where an example is unknown.

    Raises:
      ValueError: scores that are empty or not finite; a threshold that is not finite. NaN is above no threshold, and
        would be a known image.

    Example:
      >>> rejected(np.array([0.1, 0.4, 0.5]), threshold=0.4)
      array([False, False,  True])
    """
    if not np.isfinite(threshold):
        raise ValueError(f"{threshold=} is not finite: calibrate it with rejection_threshold")
    return _scores("scores", scores) > threshold


def macro_f1(
    scores_known: Float[np.ndarray, " known"],
    scores_unknown: Float[np.ndarray, " unknown"],
    predictions: Integer[np.ndarray, " known"],
    labels: Integer[np.ndarray, " known"],
    predictions_unknown: Integer[np.ndarray, " unknown"],
    *,
    threshold: float,
) -> float:
    """Unweighted mean of the F1 of every known class and of the class *unknown*.

    A score above the threshold decides for unknown; any other example keeps its predicted class, so an accepted unknown
    example is a false positive of that class. A class without labels and decisions is left out of the mean.

    Args:
      scores_known: finite scores of known examples.
      scores_unknown: finite scores of unknown examples.
      predictions: predicted classes of the known examples, before any rejection.
      labels: classes of the known examples.
      predictions_unknown: predicted classes of the unknown examples, before any rejection.
      threshold: finite, from :func:`rejection_threshold` on known validation images.

    Returns:
      A number in [0, 1].

    Raises:
      ValueError: as :func:`open_set_metrics`; or a threshold that is not finite.
    """
    decided, actual = _decisions(scores_known, scores_unknown, predictions, labels, predictions_unknown, threshold)
    found = np.unique(np.concatenate([decided, actual]))  # a class may have any number
    decided, actual = np.searchsorted(found, decided), np.searchsorted(found, actual)
    hits, *both = (np.bincount(part, minlength=found.size) for part in (actual[actual == decided], actual, decided))
    return float(np.mean(2 * hits / sum(both)))


def open_set_metrics(
    scores_known: Float[np.ndarray, " known"],
    scores_unknown: Float[np.ndarray, " unknown"],
    predictions: Integer[np.ndarray, " known"],
    labels: Integer[np.ndarray, " known"],
    validation_scores: Float[np.ndarray, " validation"] | None = None,
    predictions_unknown: Integer[np.ndarray, " unknown"] | None = None,
    *,
    share: float = 0.1,
) -> dict[str, float]:
    """Every metric of one score on one split, by name.

    *Cost*: three sorts; a second for a million known and a million unknown scores.

    Args:
      scores_known: finite scores of known examples.
      scores_unknown: finite scores of unknown examples.
      predictions: predicted classes of the known examples, before any rejection.
      labels: classes of the known examples.
      validation_scores: scores of held-out known examples, which set the threshold of :func:`macro_f1`; None leaves
        that out.
      predictions_unknown: predicted classes of the unknown examples; required with ``validation_scores``.
      share: share of the validation examples that the threshold rejects, in [0, 1).

    Returns:
      The names of the functions of this module with their values.

    Raises:
      ValueError: arrays that are empty, of two lengths, not finite or not class positions; only one of
        ``validation_scores`` and ``predictions_unknown``; a share outside [0, 1).

    Example:
      >>> both = np.array([0, 1])
      >>> found = open_set_metrics(np.array([0.1, 0.4]), np.array([0.4, 0.8]), both, both)
      >>> found["auroc"], found["oscr"], found["closed_set_accuracy"]
      (0.875, 0.875, 1.0)
    """
    known, _ = _known_and_unknown(scores_known, scores_unknown)
    labels = class_positions("labels", labels, size=known.size)
    correct = class_positions("predictions", predictions, size=known.size) == labels
    counts = _counts(scores_known, scores_unknown, correct)
    found = {name: float(value) for name, value in ranking_metrics(counts).items()}
    if (validation_scores is None) != (predictions_unknown is None):
        missing = "validation_scores" if validation_scores is None else "predictions_unknown"
        raise ValueError(f"{missing} is None: macro_f1 needs both or neither of the two, give it too")
    if validation_scores is not None and predictions_unknown is not None:
        found["macro_f1"] = macro_f1(
            scores_known,
            scores_unknown,
            predictions,
            labels,
            predictions_unknown,
            threshold=rejection_threshold(validation_scores, share=share),
        )
    return found


def davies_bouldin(embedding: Float[np.ndarray, "batch features"], labels: Integer[np.ndarray, " batch"]) -> float:
    r"""Davies-Bouldin index (DBI): how wide the classes are for their distances.

    .. math:: \frac1K \sum_k \max_{l \ne k} \frac{d_k + d_l}{\lVert c_k - c_l \rVert}

    with c_k the mean of class k and d_k the mean distance to it. Where class means coincide, as in a network that has
    collapsed to one point, it is infinity; scikit-learn gives 0, the best value.

    Args:
      embedding: finite embedding of every example, unit-normalised for comparisons between networks.
      labels: class positions.

    Returns:
      A number from 0, smaller = better separated; infinity where two class means coincide; nan where it is not
      defined, for a single class and where no class has two examples.

    Raises:
      ValueError: an embedding that is not finite or not a row per label; labels that are no positions.

    Example:
      >>> rows = np.array([[0.0], [2.0], [9.0], [11.0]])
      >>> davies_bouldin(rows, np.array([0, 0, 1, 1]))  # (1 + 1) / 9
      0.2222222222222222

    References:
      Davies and Bouldin, "A Cluster Separation Measure", IEEE TPAMI 1979; on known test data: Park et
      al., arXiv 2209.11436, section 4.
    """
    rows = np.asarray(embedding, np.float64)
    if rows.ndim != 2 or rows.size == 0:
        raise ValueError(f"embedding has shape {rows.shape}: give one row of features per example")
    if not np.isfinite(rows).all():
        raise ValueError("embedding holds numbers that are not finite: look for a diverged network")
    labels = class_positions("labels", labels, size=rows.shape[0])
    classes, positions = np.unique(labels, return_inverse=True)
    if not 1 < classes.size < labels.size:
        return float("nan")
    rows = np.ldexp(rows, -np.frexp(np.abs(rows).max())[1])  # no square leaves the range; powers of 2 round nothing
    means = np.stack([rows[positions == k].mean(axis=0) for k in range(classes.size)])
    distances = np.linalg.norm(means[:, None] - means[None], axis=-1)
    between = distances[~np.eye(classes.size, dtype=bool)]
    # Means of equal rows differ by rounding, so "coincide" is relative to the size of the numbers.
    if between.min() <= 1e-12 * np.abs(rows).max():
        return float("inf")
    # The index has no unit, but scikit-learn takes distances below 1e-8 for 0: fix the unit first.
    scaled = (rows - means.mean(axis=0)) / between.max()
    return float(sklearn_metrics.davies_bouldin_score(scaled, labels))


def jacobian_norm_difference(
    norms_known: Float[np.ndarray, " known"], norms_unknown: Float[np.ndarray, " unknown"]
) -> float:
    r"""Jacobian norm difference (JND) between unknown and known examples.

    .. math:: \mathrm{mean}_{unknown} \lVert J \rVert_F - \mathrm{mean}_{known} \lVert J \rVert_F.

    Args:
      norms_known: Frobenius norms of the input Jacobian at known examples.
      norms_unknown: the same at unknown examples.

    Returns:
      A number of either sign; positive where unknown examples have the larger norms.

    Raises:
      ValueError: norms that are empty, negative or not finite.

    Example:
      >>> jacobian_norm_difference(np.array([1.0, 2.0]), np.array([4.0]))
      2.5

    References:
      Park et al., arXiv 2209.11436, eq. 1.
    """
    known, unknown = _scores("norms_known", norms_known), _scores("norms_unknown", norms_unknown)
    for name, norms in (("norms_known", known), ("norms_unknown", unknown)):
        if norms.min() < 0:
            raise ValueError(f"{name} holds {norms.min()}: a norm is not negative, give no logarithms")
    return float(unknown.mean() - known.mean())


def _scores(name: str, values: np.ndarray) -> np.ndarray:
    scores = np.asarray(values, np.float64)
    if scores.ndim != 1 or scores.size == 0:
        raise ValueError(f"{name} has shape {scores.shape}: give one number for each of one example or more")
    finite = np.isfinite(scores)
    if not finite.all():
        first = int(np.argmin(finite))
        raise ValueError(
            f"{name}[{first}]={scores[first]} is not finite ({np.sum(~finite)} of {scores.size} are"
            " not): look for a diverged network, or score in logit or log space"
        )
    return scores


def _known_and_unknown(known: np.ndarray, unknown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _scores("scores_known", known), _scores("scores_unknown", unknown)


def _counts(known: np.ndarray, unknown: np.ndarray, correct: np.ndarray | None = None) -> ScoreCounts:
    known, unknown = _known_and_unknown(known, unknown)
    right = np.ones(known.size, bool) if correct is None else _correct(correct, known.size)
    return score_counts(known, unknown, right)


def _ranking(name: str, known: np.ndarray, unknown: np.ndarray, correct: np.ndarray | None = None) -> float:
    return float(ranking_metrics(_counts(known, unknown, correct))[name])


def _shares(counts: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Shares of all up to each score, from 0."""
    return np.concatenate([[0.0], np.cumsum(counts) / of.sum()])


def _correct(correct: np.ndarray, size: int) -> np.ndarray:
    correct = np.asarray(correct)
    if correct.shape != (size,) or correct.dtype != bool:
        raise ValueError(
            f"correct has shape {correct.shape} and dtype {correct.dtype}, not ({size},) and bool:"
            " give predictions == labels of the known examples"
        )
    return correct


def _decisions(
    scores_known: np.ndarray,
    scores_unknown: np.ndarray,
    predictions: np.ndarray,
    labels: np.ndarray,
    predictions_unknown: np.ndarray,
    threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Decided and actual classes, known examples first; *unknown* is the class above all others."""
    known, unknown = _known_and_unknown(scores_known, scores_unknown)
    labels = class_positions("labels", labels, size=known.size)
    predicted = np.concatenate(
        [
            class_positions("predictions", predictions, size=known.size),
            class_positions("predictions_unknown", predictions_unknown, size=unknown.size),
        ]
    )
    reject = 1 + max(int(predicted.max()), int(labels.max()))
    decided = np.where(rejected(np.concatenate([known, unknown]), threshold=threshold), reject, predicted)
    return decided, np.concatenate([labels, np.full(unknown.size, reject)])
