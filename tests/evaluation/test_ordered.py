"""Scored images in order give every metric of the scores that they had."""

import re

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from osrjax.evaluation import OrderedImages, ScoredImages, metrics_of_order, order_images
from osrjax.metrics import open_set_metrics, rejected, rejection_threshold


def scored(rng, *, known=60, unknown=40, decimals=1, classes=4):
    """Scores with many ties, classes that are often right."""
    labels = {"known": rng.integers(0, classes, known), "unknown": rng.integers(0, 3, unknown)}
    guesses = np.where(rng.random(known) < 0.8, labels["known"], rng.integers(0, classes, known))
    values = [np.round(rng.normal(shift, 1, n), decimals) for shift, n in ((0, 50), (0, known), (1, unknown))]
    predictions = rng.integers(0, classes, 50), guesses, rng.integers(0, classes, unknown)
    return ScoredImages(*values, *predictions), labels


@pytest.mark.parametrize("decimals", [0, 1, 8])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.99])
def test_every_metric_is_rebuilt_to_the_last_digit(rng, decimals, share):
    images, labels = scored(rng, decimals=decimals)
    arrays = images.known, images.unknown, images.known_predictions, labels["known"]
    wanted = open_set_metrics(*arrays, images.validation, images.unknown_predictions, share=share)
    ordered = order_images(images, labels, classes=4, reject_share=share)
    found = metrics_of_order(OrderedImages.unpacked(ordered.packed(), classes=4), classes=4)
    threshold = rejection_threshold(images.validation, share=share)
    for part in ("known", "unknown"):
        wanted[f"rejected_{part}"] = float(np.mean(rejected(getattr(images, part), threshold=threshold)))
    assert found == wanted
    truth = np.repeat([0, 1], [60, 40])
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, np.concatenate([images.known, images.unknown])))


def test_neither_the_rows_order_nor_the_scores_scale_matters(rng):
    images, labels = scored(rng)
    turned = ScoredImages(*(rows[::-1] for rows in images))
    turned = turned._replace(**{part: np.exp(getattr(turned, part)) for part in ("validation", "known", "unknown")})
    one = order_images(images, labels, classes=4)
    other = order_images(turned, {name: rows[::-1] for name, rows in labels.items()}, classes=4)
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(first, second)


def test_classes_of_unknown_images_come_along_where_they_are_known(rng):
    images, labels = scored(rng)
    known_too = order_images(images, labels, classes=4).labels
    np.testing.assert_array_equal(np.bincount(known_too[known_too >= 4] - 4), np.bincount(labels["unknown"]))
    alone = order_images(images, {"known": labels["known"]}, classes=4)
    assert set(alone.labels) == {0, 1, 2, 3, 4}
    assert metrics_of_order(alone, classes=4) == metrics_of_order(order_images(images, labels, classes=4), classes=4)


def test_one_byte_a_number_where_that_has_room(rng):
    images, labels = scored(rng)
    assert order_images(images, labels, classes=4).packed().dtype == np.uint8
    many = {**labels, "unknown": labels["unknown"] + 300}
    packed = order_images(images, many, classes=4).packed()
    assert packed.dtype == np.uint16
    assert OrderedImages.unpacked(packed, classes=4).labels.max() == 4 + many["unknown"].max()


GOOD = [[0, 4, 1], [0, 1, 1], [0, 1, 2]]  # marks are 1: tied with the image before, 2: rejected
BAD = {
    "has shape (2, 3) and dtype uint8": np.uint8(GOOD[:2]),
    "dtype int64, not three rows": np.int64(GOOD),
    "has no known or no unknown image": np.uint8([[0, 1, 1], *GOOD[1:]]),
    "classes or marks that do not exist": np.uint8([GOOD[0], [0, 4, 1], GOOD[2]]),
    "or marks that do not exist": np.uint8([*GOOD[:2], [0, 1, 4]]),
    "marks that do not exist": np.uint8([*GOOD[:2], [1, 1, 2]]),
    "rejects an image and keeps one of a higher": np.uint8([*GOOD[:2], [0, 2, 0]]),
    "rejects an image and keeps one": np.uint8([*GOOD[:2], [0, 0, 3]]),
}


@pytest.mark.parametrize("message", list(BAD))
def test_rows_that_no_images_can_have_are_refused(message):
    OrderedImages.unpacked(np.uint8(GOOD), classes=4)
    with pytest.raises(ValueError, match=re.escape(message)):
        OrderedImages.unpacked(BAD[message], classes=4)
