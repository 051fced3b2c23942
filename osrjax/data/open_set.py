"""From a source and a class split to the four parts of an open-set experiment.

Training and validation images come from the train split of the known classes only; test images, and any
image of an unknown class, never take part in training or in choosing a model.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from osrjax.data.checks import whole_numbers
from osrjax.data.classes import listed, renumbered
from osrjax.data.source import Examples, Source, split_of
from osrjax.data.splits import (
    FAMILIES,
    NUM_CLASSES,
    ClassSplit,
    check_split,
    check_tiny_imagenet_order,
    split_dataset,
)

__all__ = ["OpenSetData", "open_set_data", "pseudo_unknown_data"]


@dataclass(frozen=True)
class OpenSetData:
    """The examples of one open-set experiment.

    Attributes:
      train: training images of the known classes; a label is the class's position in `known_classes`.
      validation: images held out from the known classes' train split, labelled likewise.
      test_known: test images of the known classes, labelled likewise.
      test_unknown: test images of the unknown classes, labelled with their original class ids.
      known_classes: original ids of the known classes.
      unknown_classes: original ids of the unknown classes.
      known_names: names of the known classes, in the order of `known_classes`.
      unknown_names: names of the unknown classes, in the order of `unknown_classes`.
      sources: (name, provenance, complete) of the source and, if it is another, of the unknown classes'.
    """

    train: Examples
    validation: Examples
    test_known: Examples
    test_unknown: Examples
    known_classes: tuple[int, ...]
    unknown_classes: tuple[int, ...]
    known_names: tuple[str, ...]
    unknown_names: tuple[str, ...]
    sources: tuple[tuple[str, str, bool], ...]


def open_set_data(
    source: Source,
    split: ClassSplit,
    *,
    validation_share: float = 0.1,
    seed: int,
    unknown_source: Source | None = None,
    unknown_part: str = "test",
) -> OpenSetData:
    """The examples that a class split takes from its source or sources.

    Validation is stratified: the same share of every known class's train images, drawn from the seed and
    the class id alone, so that a class gives the same images in every split.

    Args:
      source: data set with the known classes, and the unknown ones unless `unknown_source` is given.
      split: which classes are known and which unknown.
      validation_share: share of the known train images to hold out, in (0, 1).
      seed: seed of that choice, at least 0.
      unknown_source: second data set, for splits whose unknown ids name its classes (CIFAR+10, CIFAR+50).
      unknown_part: split of the unknown classes' source to test on.

    Returns:
      The examples, in the order of the source.

    Raises:
      ValueError: if split and source do not belong together, a split or class does not exist, a class has no
        images or too few for validation, or the two sources' images differ in shape.

    Example:
      >>> from osrjax.data import open_source
      >>> from osrjax.data.splits import class_split
      >>> data = open_set_data(open_source("digits"), class_split("neal", "digits", 0), seed=0)
      >>> data.known_names, len(data.train.labels), len(data.validation.labels)
      (('0', '1', '2', '4', '5', '9'), 778, 87)
    """
    other = source if unknown_source is None else unknown_source
    check_split(
        split,
        len(source.class_names),
        unknown_num_classes=None if unknown_source is None else len(other.class_names),
    )
    _check_family(split, source, other)
    train = _known_examples(source, "train", split.known)
    test_known = _known_examples(source, "test", split.known)
    unseen = split_of(other, unknown_part)
    if unseen.images.shape[1:] != train.images.shape[1:]:
        raise ValueError(
            f"{other.name} {unknown_part} images have shape {unseen.images.shape[1:]}, those of"
            f" {source.name} train {train.images.shape[1:]}: bring both to one shape"
        )
    held_out = _validation_rows(train.labels, split.known, validation_share, seed)
    return OpenSetData(
        train=_rows(train, ~held_out),
        validation=_rows(train, held_out),
        test_known=test_known,
        test_unknown=_examples_of(unseen, split.unknown, f"{other.name} {unknown_part}"),
        known_classes=split.known,
        unknown_classes=split.unknown,
        known_names=tuple(source.class_names[label] for label in split.known),
        unknown_names=tuple(other.class_names[label] for label in split.unknown),
        sources=tuple(
            (s.name, s.provenance, s.complete)
            for s in ([source] if unknown_source is None else [source, unknown_source])
        ),
    )


def pseudo_unknown_data(data: OpenSetData, held_out: Sequence[int]) -> OpenSetData:
    """The same experiment among the known classes alone, for choosing a recipe.

    Some known classes play the unknown ones. Training and validation leave them out; both test parts are
    *validation* images, so that no test image and no truly unknown class has any say in the choice.

    Args:
      data: the experiment.
      held_out: positions in `data.known_classes` of the classes that play unknown, each once; at least one
        class must remain.

    Returns:
      The experiment on the remaining classes. `validation` and `test_known` are the same images;
      `test_unknown` holds the validation images of the held-out classes with their original ids.

    Raises:
      ValueError: for a position that does not exist, a repeated one, or no class on either side.
    """
    positions = range(len(data.known_classes))
    held_out = whole_numbers(held_out, argument="held_out")
    if (
        not held_out
        or len(set(held_out)) < len(held_out)
        or not set(held_out) <= set(positions)
        or len(held_out) == len(positions)
    ):
        raise ValueError(
            f"held_out={held_out!r} must list some but not all positions 0 to {len(positions) - 1}"
            " of the known classes, each once"
        )
    kept = tuple(position for position in positions if position not in held_out)
    validation = _relabelled(data.validation, kept)
    playing = _rows(data.validation, np.isin(data.validation.labels, held_out))
    ids = np.array(data.known_classes, np.int32)
    return dataclasses.replace(
        data,
        train=_relabelled(data.train, kept),
        validation=validation,
        test_known=validation,
        test_unknown=Examples(playing.images, ids[playing.labels]),
        known_classes=tuple(data.known_classes[position] for position in kept),
        unknown_classes=tuple(data.known_classes[position] for position in held_out),
        known_names=tuple(data.known_names[position] for position in kept),
        unknown_names=tuple(data.known_names[position] for position in held_out),
    )


def _check_family(split: ClassSplit, source: Source, other: Source) -> None:
    """Refuse ids of one data set for the images of another, where the names show it."""
    if split.family not in FAMILIES:
        return
    own_files = ("npz:", "folder:")
    wanted = {"cifar+10": ("cifar10", "cifar100"), "cifar+50": ("cifar10", "cifar100")}.get(
        split.dataset, (split.dataset, split.dataset)
    )
    for part, name, count in zip((source, other), wanted, NUM_CLASSES[split.dataset], strict=True):
        if len(part.class_names) != count or (not part.name.startswith(own_files) and split_dataset(part.name) != name):
            raise ValueError(
                f"split {split.family}/{split.dataset} needs the {count} classes of {name}, not"
                f" {part.name} with {len(part.class_names)}: choose a split of that data set"
            )
        if part.name.startswith(own_files) and renumbered(part.class_names):
            raise ValueError(
                f"split {split.family}/{split.dataset} lists ids, but the classes of {part.name} are named by other"
                f" numbers: {listed(part.class_names)}; give their names, --known NAME NAME"
            )
    if split.dataset == "tiny_imagenet":
        check_tiny_imagenet_order(source.class_names)


def _known_examples(source: Source, part: str, known: tuple[int, ...]) -> Examples:
    examples = _examples_of(split_of(source, part), known, f"{source.name} {part}")
    return _relabelled(examples, known)


def _examples_of(examples: Examples, classes: tuple[int, ...], where: str) -> Examples:
    empty = sorted(set(classes) - set(np.unique(examples.labels).tolist()))
    if empty:
        raise ValueError(f"{where} has no images of classes {empty}: leave them out of the split")
    return _rows(examples, np.isin(examples.labels, classes))


def _relabelled(examples: Examples, kept: tuple[int, ...]) -> Examples:
    """The examples whose label is in `kept`, labelled with its position there."""
    position = np.full(max(int(examples.labels.max()), *kept) + 1, -1, np.int32)
    position[list(kept)] = np.arange(len(kept))
    labels = position[examples.labels]
    return _rows(Examples(examples.images, labels), labels >= 0)


def _rows(examples: Examples, chosen: np.ndarray) -> Examples:
    return Examples(examples.images[chosen], examples.labels[chosen])


def _validation_rows(labels: np.ndarray, known: tuple[int, ...], share: float, seed: int) -> np.ndarray:
    held_out = np.zeros(len(labels), bool)
    for position, class_id in enumerate(known):
        rows = np.flatnonzero(labels == position)
        count = int(share * len(rows) + 0.5)
        if not 0 < count < len(rows):
            raise ValueError(
                f"class {class_id} has {len(rows)} train images, too few to hold out"
                f" validation_share={share!r} and keep some: change the share or add images"
            )
        # The class id, not its position: the choice does not depend on the other known classes.
        rng = np.random.default_rng([seed, class_id])
        held_out[rng.permutation(rows)[:count]] = True
    return held_out
