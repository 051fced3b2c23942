"""What every data source gives: named splits of uint8 images with int32 labels, and where they came from."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from osrjax.data.checks import checked_labels, first_not_finite

__all__ = [
    "DecodedSplits",
    "Examples",
    "MissingDataError",
    "Source",
    "Splits",
    "checked_examples",
    "covers_every_class",
    "labels_of",
    "named_splits",
    "split_of",
]

LARGE = 500_000  # pixels


class Examples(NamedTuple):
    """Images with their labels, in host memory.

    Attributes:
      images: uint8 pixels, shape [batch, height, width, channels] with 1 channel for gray and 3 for RGB.
      labels: int32 class numbers, shape [batch].
    """

    images: np.ndarray
    labels: np.ndarray


@runtime_checkable
class Splits(Protocol):
    """Split name to examples: a dictionary, or `DecodedSplits`.

    Not `Mapping[str, Examples]`: a run-time type checker would look up a value to check it, and decode it.
    """

    def __getitem__(self, name: str, /) -> Examples:
        """The examples of a split."""

    def __iter__(self) -> Iterator[str]:
        """The names."""

    def __len__(self) -> int:
        """Number of splits."""

    def __contains__(self, name: object, /) -> bool:
        """True if there is such a split."""


@dataclass(frozen=True)
class Source:
    """A data set that was found and can be read.

    Attributes:
      name: the name that opened it.
      provenance: one line for the reader of a result: where the images came from, and their version or hash.
      complete: whether this is the whole published set; for a user's own files, whether every class has
        train and test images and nothing was left out.
      class_names: one name per class; the label of a class is its position.
      splits: split name to examples, decoded at the first look-up.
    """

    name: str
    provenance: str
    complete: bool
    class_names: tuple[str, ...]
    splits: Splits


class MissingDataError(ValueError):
    """A data set is not on this machine; the message holds the command that gets it."""


class DecodedSplits(Mapping[str, Examples]):
    """Splits that are read when first looked up, then kept.

    Args:
      read: split name to a function that reads the split.
      labels: split name to labels, where these are known before the images are read.
    """

    def __init__(self, read: Mapping[str, Callable[[], Examples]], labels: Mapping[str, np.ndarray] | None = None):
        self.labels = dict(labels or {})
        self._read = dict(read)
        self._kept: dict[str, Examples] = {}

    def __getitem__(self, name: str) -> Examples:
        if name not in self._kept:
            self._kept[name] = self._read[name]()
        return self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)


def split_of(source: Source, split: str) -> Examples:
    """The examples of one split, or an error that lists the splits.

    Args:
      source: the source.
      split: name of the split.

    Returns:
      Its examples.

    Raises:
      ValueError: if the source has no such split, or labels that are no class numbers.
    """
    if split not in source.splits:
        raise ValueError(f"split={split!r} does not exist in {source.name}: it has {', '.join(source.splits)}")
    images, labels = source.splits[split]
    classes = len(source.class_names)
    return Examples(images, checked_labels(labels, num_classes=classes, where=f"{source.name} {split}"))


def labels_of(source: Source, split: str) -> np.ndarray:
    """The labels of one split, without its images where that is possible.

    Args:
      source: the source.
      split: name of a split that it has.

    Returns:
      One label an image.
    """
    known = source.splits.labels if isinstance(source.splits, DecodedSplits) else {}
    return known[split] if split in known else source.splits[split].labels


def named_splits(names: Iterable[str]) -> tuple[dict[str, str], str]:
    """What the splits of a user's own files are called: a set with val and no test is tested on val.

    Args:
      names: as in the files.

    Returns:
      Name of a split -> its name in the files, and a remark for the provenance.

    Example:
      >>> named_splits(["train", "val"])
      ({'train': 'train', 'test': 'val'}, ' (test: its val split)')
    """
    found = {name: name for name in names}
    if "val" in found and "test" not in found:
        found["test"] = found.pop("val")
        return found, " (test: its val split)"
    return found, ""


def covers_every_class(labels: Mapping[str, np.ndarray], num_classes: int) -> bool:
    """True if every class has both train and test images.

    Args:
      labels: split name to labels.
      num_classes: number of classes.

    Returns:
      True if both splits exist and hold every label.
    """
    return all(split in labels and len(np.unique(labels[split])) == num_classes for split in ("train", "test"))


def checked_examples(images: np.ndarray, labels: np.ndarray, *, num_classes: int, where: str) -> Examples:
    """Examples with the types and shapes that the rest of the package relies on.

    Gray images without a channel axis, [batch, height, width], get one. Images of one value, of 0 and 1 alone, or of
    more than half a million pixels are taken with a warning.

    Args:
      images: uint8 pixels.
      labels: integers of any width.
      num_classes: labels must lie in [0, num_classes).
      where: what to call the arrays in an error, such as "cifar10 train".

    Returns:
      The examples: images uint8 with four axes, labels int32.

    Raises:
      ValueError: for a wrong shape or type, unequal lengths, or a label out of range.
    """
    if images.dtype != np.uint8:
        broken = first_not_finite(images)
        found = "" if broken is None else f", and image {broken} is not finite: mend or leave out such images, then"
        raise ValueError(f"{where}: images have dtype {images.dtype}{found or ':'} convert them to uint8 in 0 to 255")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape[1:]:
        raise ValueError(
            f"{where}: images have shape {images.shape}: use (n, height, width, channels) with"
            " 1 or 3 channels, or (n, height, width)"
        )
    if len(images) == 0:
        raise ValueError(f"{where}: there are no images: give at least one")
    labels = checked_labels(labels, num_classes=num_classes, where=where)
    if len(images) != len(labels):
        raise ValueError(f"{where}: {len(images)} images but {len(labels)} labels: give one label an image")
    for doubt in _doubts(images):
        source = where.rpartition(" ")[0]  # one text for all splits: Python shows it once
        warnings.warn(f"{source}: images {doubt}", stacklevel=2)
    return Examples(images, labels)


def _doubts(images: np.ndarray) -> Iterator[str]:
    """What may be meant, but seldom is."""
    height, width = images.shape[1:3]
    if height * width > LARGE:
        yield f"have {height}x{width} pixels, which takes gigabytes in training: resize them, to 224x224 or less"
    low, high = int(images.min()), int(images.max())
    if low == high:
        yield f"hold the value {low} alone: look for where their pixels were lost"
    elif high == 1:
        yield "hold 0 and 1 alone, of 0 to 255: multiply them by 255 if they were scaled to 1"
