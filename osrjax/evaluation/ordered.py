"""Scored test images in the order of their score: all that any metric reads, in a few kilobytes.

Every metric of :mod:`osrjax.metrics` looks at the order of the scores alone, ties included. So the sequence of true
and predicted classes, sorted by score, gives each of them again to the last digit, where the scores themselves are a
hundred times larger and tell no more.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Integer

from osrjax import metrics
from osrjax.evaluation.assessment import ScoredImages

__all__ = ["OrderedImages", "metrics_of_order", "order_images"]


class OrderedImages(NamedTuple):
    """Test images of one score, the most familiar first.

    Attributes:
      labels: positions in the known classes; of an unknown image, the number of known classes plus its own position in
        the unknown ones.
      predictions: positions in the known classes, before any rejection.
      tied: it has the score of the image before it.
      rejected: its score is above the threshold of the known validation images.
    """

    labels: Integer[np.ndarray, " images"]
    predictions: Integer[np.ndarray, " images"]
    tied: Bool[np.ndarray, " images"]
    rejected: Bool[np.ndarray, " images"]

    def packed(self) -> Integer[np.ndarray, "3 images"]:
        """Labels, predictions, and tied + 2 rejected, in the smallest type that has room."""
        rows = np.stack([self.labels, self.predictions, self.tied + 2 * self.rejected])
        return rows.astype(np.min_scalar_type(int(rows.max())))

    @staticmethod
    def unpacked(rows: np.ndarray, *, classes: int) -> "OrderedImages":
        """The images that :meth:`packed` has packed.

        Args:
          rows: of one score.
          classes: number of known classes.

        Raises:
          ValueError: rows that no images can have.
        """
        if rows.ndim != 2 or len(rows) != 3 or rows.dtype.kind != "u":
            raise ValueError(f"has shape {rows.shape} and dtype {rows.dtype}, not three rows of whole numbers")
        labels, predictions, flags = rows.astype(np.int64)
        known = labels < classes
        tied, rejected = (flags & 1).astype(bool), (flags & 2).astype(bool)
        if known.all() or not known.any():
            raise ValueError("has no known or no unknown image")
        if predictions.max() >= classes or flags.max() > 3 or tied[0]:
            raise ValueError("has classes or marks that do not exist")
        # Who is rejected comes last, and of equal scores all are or none.
        if (np.diff(rejected.astype(int)) < 0).any() or (np.diff(rejected.astype(int)) * tied[1:]).any():
            raise ValueError("rejects an image and keeps one of a higher score")
        return OrderedImages(labels, predictions, tied, rejected)


def order_images(
    images: ScoredImages,
    labels: Mapping[str, Integer[np.ndarray, " _"]],
    *,
    classes: int,
    reject_share: float = 0.1,
) -> OrderedImages:
    """Sorts scored test images.

    Args:
      images: of one score.
      labels: ``known``, positions in the known classes, and perhaps ``unknown``, positions in the unknown classes.
      classes: number of known classes.
      reject_share: share of the known validation images that the threshold rejects.

    Returns:
      The images in order; of equal scores in that of their classes, so that it does not depend on their rows.

    Raises:
      ValueError: as :func:`osrjax.metrics.rejection_threshold`.
    """
    score = np.concatenate([images.known, images.unknown])
    unknown = labels.get("unknown", np.zeros(len(images.unknown), int))
    label = np.concatenate([labels["known"], classes + unknown])
    predicted = np.concatenate([images.known_predictions, images.unknown_predictions])
    order = np.lexsort((predicted, label, score))
    score = score[order]
    threshold = metrics.rejection_threshold(images.validation, share=reject_share)
    tied = np.append(False, score[1:] == score[:-1])
    return OrderedImages(label[order], predicted[order], tied, metrics.rejected(score, threshold=threshold))


def metrics_of_order(images: OrderedImages, *, classes: int) -> dict[str, float]:
    """Every metric of test images in order.

    Args:
      images: of one score.
      classes: number of known classes.

    Returns:
      The values of :func:`osrjax.metrics.open_set_metrics` for the scores that the images had, and ``rejected_known``
      and ``rejected_unknown``, the shares above the threshold.

    Example:
      >>> images = OrderedImages(np.array([0, 1, 2]), np.array([0, 0, 1]), np.zeros(3, bool), np.array([0, 0, 1]) > 0)
      >>> found = metrics_of_order(images, classes=2)
      >>> found["auroc"], found["closed_set_accuracy"], found["rejected_unknown"]
      (1.0, 0.5, 1.0)
    """
    ranks = np.cumsum(~images.tied).astype(np.float64)
    known = images.labels < classes
    given = ranks[known], ranks[~known], images.predictions[known], images.labels[known]
    threshold = float(ranks[~images.rejected].max(initial=0.0))
    found = metrics.open_set_metrics(*given)
    found["macro_f1"] = metrics.macro_f1(*given, images.predictions[~known], threshold=threshold)
    return found | {
        "rejected_known": float(images.rejected[known].mean()),
        "rejected_unknown": float(images.rejected[~known].mean()),
    }
