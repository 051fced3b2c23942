"""A method: what changes when the loss changes, as one value.

A method is made by a function ``(options, task) -> Method``: options are what a user can choose
(:mod:`osrjax.methods.options`), the task is what the run is about. The same call with the stored options of a finished
run gives the method of that run back.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array

from osrjax.data.open_set import OpenSetData
from osrjax.evaluation.assessment import Assessment, ScoredImages, assess_scored, scored_images
from osrjax.methods.options import Options
from osrjax.models.outputs import BatchFunction
from osrjax.train.objective import Objective
from osrjax.train.optimizers import Optimizer

__all__ = [
    "Attributed",
    "Method",
    "Needs",
    "Task",
    "assess",
    "check_data",
    "check_image_shape",
    "predicted_classes",
    "score_images",
]

PyTree = Any
MOST_PIXELS = 512 * 512
Outputs = Mapping[str, np.ndarray]


class Task(NamedTuple):
    """What a method has to know of a run beside its options.

    Attributes:
      classes: number of known classes.
      image_shape: height, width, channels.
      steps: of the learning-rate schedule.
    """

    classes: int
    image_shape: tuple[int, int, int]
    steps: int


class Attributed(NamedTuple):
    """The loss whose attribution a method's maps show.

    Attributes:
      name: of the loss, for titles.
      view: ``(key, uint8 images) -> float images``: the images as the loss sees them.
      views: how many views of an image the loss sees, each by a key of its own.
      loss: ``(outputs of the network for the views one behind the other, labels) -> scalar``; a label of -1 is an
        image of an unknown class.
    """

    name: str
    view: Callable[[Array, Array], Array]
    views: int
    loss: Callable[[Any, Array], Array]


class Needs(NamedTuple):
    """The least that a method can work with: images a batch, known classes, training images of each class."""

    batch: int = 1
    classes: int = 1
    images: int = 1


class Method(NamedTuple):
    """Network, objective, optimiser, and what is made of the network's outputs.

    Attributes:
      options: that it was made of.
      task: that it was made for.
      make_network: dtype -> network.
      make_objective: network -> objective (:mod:`osrjax.train.objective`).
      optimizer: hyper -> optax transformation.
      hyper: exactly the hyper-parameters that objective and optimiser read.
      functions: by name, ``(variables, images) -> values`` of the float32 network, whose input Jacobians are studied.
      outputs: ``(variables, float images) -> {name: one row per image}``, what is kept of an image.
      fit: ``(outputs of the training images, their labels) -> whatever scores need``; None where nothing is fitted.
      scores: ``(fitted, outputs) -> {name: (one score per image, one predicted class per image)}``; larger = more
        unknown.
      score: the score that is reported first.
      scored: the output that it is taken of.
      spaces: name of a Davies-Bouldin index -> the output that it is taken of; the first is the unit vector that the
        loss compares.
      attributed: the loss whose attribution is drawn.
      needs: the least that it can work with.
      classifier: how a class is predicted, in words.
    """

    options: Options
    task: Task
    make_network: Callable[[DTypeLike], Any]
    make_objective: Callable[[Any], Objective]
    optimizer: Optimizer
    hyper: Mapping[str, float]
    functions: Mapping[str, BatchFunction]
    outputs: Callable[[PyTree, Array], dict[str, Array]]
    fit: Callable[[Outputs, np.ndarray], Any] | None
    scores: Callable[[Any, Outputs], dict[str, tuple[np.ndarray, np.ndarray]]]
    score: str
    scored: str
    spaces: Mapping[str, str]
    attributed: Attributed
    needs: Needs = Needs()
    classifier: str = "largest logit"

    @property
    def space(self) -> str:
        """The output that the loss compares, at unit norm; a name of ``functions`` and of the outputs."""
        return next(iter(self.spaces.values()))

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the data whose outputs an assessment reads."""
        return ("validation", "known", "unknown", *(["train"] if self.fit else []))


def check_image_shape(shape: Sequence[int], where: str) -> None:
    """Refuses images of more than 512 x 512 pixels: the first layers of a network on them take gigabytes an image.

    Args:
      shape: height, width, channels.
      where: begins the error.

    Raises:
      ValueError: they are larger.
    """
    if shape[0] * shape[1] > MOST_PIXELS:
        raise ValueError(f"{where} has image_shape={list(shape)}, above {MOST_PIXELS} pixels: give smaller images")


def check_data(method: Method, data: OpenSetData, *, batch_size: int) -> None:
    """Refuses images that a method cannot work with.

    Args:
      method: to train.
      data: of the run.
      batch_size: images a step.

    Raises:
      ValueError: a method made for other data, a batch too small or larger than the training set, padding as large as
        the images, too few classes, too few images of a class, or a part of the data without images, of which nothing
        could be measured in the end.
    """
    check_image_shape(data.train.images.shape[1:], "data")
    needs, images = method.needs, len(data.train.labels)
    made_for, given = method.task[:2], (len(data.known_classes), data.train.images.shape[1:])
    if made_for != given:
        raise ValueError(
            f"the method is made for classes={made_for[0]}, image_shape={made_for[1]}, the data has {given[0]} classes"
            f" and images of {given[1]}: make it with the Task of the data"
        )
    for part in ("validation", "test_known", "test_unknown"):
        if not len(getattr(data, part).labels):
            raise ValueError(f"data.{part} holds no image: give some, since every metric reads them")
    if batch_size < needs.batch:
        raise ValueError(f"{batch_size=} is too small for method={method.options.method!r}: give {needs.batch} or more")
    if batch_size > images:
        raise ValueError(f"{batch_size=} exceeds the {images} training images: lower it")
    height, width = data.train.images.shape[1:3]
    if (padding := getattr(method.options, "crop_padding", None) or 0) >= min(height, width):
        raise ValueError(f"crop_padding={padding} leaves crops without a pixel of {height}x{width} images: lower it")
    if len(data.known_classes) < needs.classes:
        raise ValueError(f"known_classes={list(data.known_classes)} is a single class: give two or more")
    fewest = int(np.bincount(data.train.labels, minlength=len(data.known_classes)).min())
    if fewest < needs.images:
        raise ValueError(
            f"neighbours={needs.images} exceeds the {fewest} training images of a class: lower it, lower"
            " validation_share, or add images"
        )


def predicted_classes(
    method: Method, outputs: Outputs, train: Outputs | None = None, train_labels: np.ndarray | None = None
) -> np.ndarray:
    """The class that the method's own score prefers for every image.

    Args:
      method: whose outputs they are.
      outputs: of the images, ``method.scored`` at least.
      train: of the training images, where the method fits.
      train_labels: theirs.

    Returns:
      Positions in the known classes.
    """
    fitted = None if method.fit is None else method.fit(train or {}, np.asarray(train_labels))
    return method.scores(fitted, outputs)[method.score][1]


def score_images(
    method: Method, outputs: Mapping[str, Outputs], train_labels: np.ndarray | None = None
) -> dict[str, ScoredImages]:
    """Every score of validation, known and unknown images.

    Args:
      method: whose outputs they are.
      outputs: by part, those of ``method.parts``.
      train_labels: of the training images, where the method fits.

    Returns:
      Scores and predicted classes by name.
    """
    fitted = None if method.fit is None else method.fit(outputs["train"], np.asarray(train_labels))
    return scored_images(lambda rows: method.scores(fitted, rows), outputs)


def assess(
    method: Method,
    outputs: Mapping[str, Outputs],
    labels: Mapping[str, np.ndarray],
    *,
    reject_share: float = 0.1,
    resamples: int = 1000,
    seed: int = 0,
) -> Assessment:
    """All scores x all metrics of one network.

    Args:
      method: of the network.
      outputs: by part, those of ``method.parts``.
      labels: by part but ``unknown``, positions in the known classes.
      reject_share: share of known VALIDATION images that the threshold of macro-F1 rejects.
      resamples: bootstrap resamples; 0 for no intervals.
      seed: of the bootstrap.

    Returns:
      The scored images, and plain JSON values (:func:`osrjax.evaluation.assessment.assess_scored`).
    """
    scored = score_images(method, outputs, labels.get("train"))
    return assess_scored(
        scored,
        labels,
        score=method.score,
        spaces={name: outputs["known"][output] for name, output in method.spaces.items()},
        reject_share=reject_share,
        resamples=resamples,
        seed=seed,
    )
