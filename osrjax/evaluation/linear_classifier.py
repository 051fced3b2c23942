"""How much a frozen network's features say about the classes: a linear classifier on top of them, on the host.

The classifier is a logistic regression, which has one optimum and no epochs to choose from. Its penalty is given,
or chosen on a part of the TRAINING images; the test features take no part in any choice.
"""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from osrjax.arrays import class_positions

__all__ = ["PENALTIES", "LinearProbe", "linear_probe", "top_accuracy"]

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)


class LinearProbe(NamedTuple):
    """What a linear classifier says about the test images.

    Attributes:
      predictions: the class of the largest logit.
      logits: one per class up to the largest training label; -inf for a class without training images.
      penalty: the one that was given or chosen.
      converged: whether the optimiser met its tolerance in every fit; if not, more iterations may help.
    """

    predictions: Integer[np.ndarray, " test"]
    logits: Float[np.ndarray, "test classes"]
    penalty: float
    converged: bool


def linear_probe(
    train_features: Float[np.ndarray, "train features"],
    train_labels: Integer[np.ndarray, " train"],
    test_features: Float[np.ndarray, "test features"],
    *,
    penalty: float | None = None,
    held_out_share: float = 0.2,
    max_iterations: int = 300,
    seed: int = 0,
) -> LinearProbe:
    r"""Logistic regression on standardised features of a frozen network.

    .. math:: \min_{W, b} \frac{1}{N} \sum_i -\log \mathrm{softmax}(W u_i + b)_{y_i} + \frac{p}{2} \lVert W \rVert^2,

    where u are the features less their mean over the training images, divided by their deviation there (a feature
    that is constant there becomes 0 in u). The penalty p counts per image, so it means the same for any N.

    Args:
      train_features: of training images, without augmentation.
      train_labels: their classes, two or more.
      test_features: of the images to classify.
      penalty: p, above 0; None: that of ``PENALTIES`` which classifies a held-out part of each training class
        best, of equals the largest; the regression is then fitted to all training images.
      held_out_share: the part held out to choose the penalty, in (0, 1); a class always keeps an image.
      max_iterations: of L-BFGS, for each fit.
      seed: of the draw of the part held out.

    Returns:
      Predictions and logits of the test images.

    Raises:
      ValueError: features of two widths, or empty; labels of another length, negative or not of an integer dtype; a
        share outside (0, 1), or one that holds out no image. scikit-learn refuses a single class, a negative penalty
        and what is not finite.

    Example:
      >>> train, labels = np.array([[0.0], [1.0], [5.0], [6.0]]), np.array([0, 0, 1, 1])
      >>> linear_probe(train, labels, np.array([[2.0], [4.0]]), penalty=0.1).predictions
      array([0, 1])

    References:
      Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", arXiv 2002.05709,
      appendix on transfer learning: regularised logistic regression by L-BFGS, the penalty from validation images.
    """
    train, test = np.asarray(train_features), np.asarray(test_features)
    for name, features in (("train_features", train), ("test_features", test)):
        if features.ndim != 2 or features.size == 0 or features.shape[1] != train.shape[1]:
            raise ValueError(f"{name} has shape {features.shape}: give rows as wide as {train.shape=}, at least one")
    labels = class_positions("train_labels", train_labels, size=len(train))
    if not 0 < held_out_share < 1:
        raise ValueError(f"{held_out_share=} is outside (0, 1): give a share such as 0.2")
    choice_converged = True
    if penalty is None:
        held_out = _held_out(labels, held_out_share, seed)
        if not held_out.any():
            raise ValueError(
                f"{held_out_share=} holds out none of {len(labels)} images: give a larger one or a penalty"
            )
        penalty, choice_converged = _choose(train, labels, held_out, max_iterations)
    logits, converged = _fit(train, labels, test, penalty, max_iterations)
    return LinearProbe(logits.argmax(axis=1), logits, penalty, choice_converged and converged)


def top_accuracy(
    logits: Float[np.ndarray, "test classes"], labels: Integer[np.ndarray, " test"], *, top: int = 1
) -> float:
    """Share of images whose own class is among the ``top`` classes with the largest logits.

    Args:
      logits: one per class; only their order counts. A tie counts against the image's own class.
      labels: in [0, classes).
      top: 1 or 5 as a rule, at least 1 and at most the number of classes.

    Returns:
      A number in [0, 1].

    Raises:
      ValueError: labels of another length or dtype than integers, or outside [0, classes); no image; a logit that is
        NaN; ``top`` outside [1, classes].

    Example:
      >>> logits = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
      >>> top_accuracy(logits, np.array([0, 1])), top_accuracy(logits, np.array([0, 1]), top=2)
      (0.5, 1.0)
    """
    if logits.ndim != 2 or np.isnan(logits).any():
        raise ValueError(f"{logits.shape=} must be one row of numbers for each image, none of them NaN")
    classes = logits.shape[1]
    positions = class_positions("labels", labels, size=len(logits), classes=classes)
    if not 1 <= top <= classes:
        raise ValueError(f"{top=} is not in [1, {classes}]: give at most the number of classes")
    own = np.take_along_axis(logits, positions[:, None], axis=1)
    # The own class counts itself.
    return float(np.mean((logits >= own).sum(axis=1) <= top))


def _held_out(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Marks the share of each class, never all of one, drawn from the seed."""
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        held_out[rng.permutation(rows)[: min(int(share * len(rows) + 0.5), len(rows) - 1)]] = True
    return held_out


def _choose(train: np.ndarray, labels: np.ndarray, held_out: np.ndarray, max_iterations: int) -> tuple[float, bool]:
    """The largest of the penalties that classify the rows held out best, and whether every fit converged."""
    accuracies, converged = {}, True
    for penalty in sorted(PENALTIES, reverse=True):
        logits, fit_converged = _fit(train[~held_out], labels[~held_out], train[held_out], penalty, max_iterations)
        accuracies[penalty] = np.mean(logits.argmax(axis=1) == labels[held_out])
        converged = converged and fit_converged
    return max(accuracies, key=lambda penalty: accuracies[penalty]), converged  # the first of equals


def _fit(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, penalty: float, max_iterations: int
) -> tuple[np.ndarray, bool]:
    """Logits of the test rows, and whether the optimiser met its tolerance."""
    mean, deviation = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    # Equal numbers differ from their mean by rounding, which must not be blown up to a deviation of 1.
    varies = deviation > 1e-7 * np.abs(train).max(axis=0)
    scale = np.where(varies, 1 / np.where(varies, deviation, 1.0), 0.0)
    standard, standard_test = (((part - mean) * scale).astype(np.float32) for part in (train, test))
    model = LogisticRegression(C=1 / (penalty * len(labels)), max_iter=max_iterations)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(standard, labels)
    converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    decisions = model.decision_function(standard_test).astype(np.float32)
    if decisions.ndim == 1:  # two classes: scikit-learn gives the difference of their logits
        decisions = np.stack([-decisions / 2, decisions / 2], axis=1)
    logits = np.full((len(test), int(labels.max()) + 1), -np.inf, np.float32)
    logits[:, model.classes_] = decisions
    return logits, converged
