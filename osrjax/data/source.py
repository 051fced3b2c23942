"""What every data source gives: named splits of uint8 images with int32 labels, and where they came from."""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

__all__ = [
    "DecodedSplits",
    "Examples",
    "MissingDataError",
    "Source",
    "Splits",
    "checked_examples",
    "decoded_image",
    "split_of",
]


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
        train and test images.
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
    """

    def __init__(self, read: Mapping[str, Callable[[], Examples]]):
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
      ValueError: if the source has no such split.
    """
    if split not in source.splits:
        raise ValueError(f"split={split!r} does not exist in {source.name}: it has {', '.join(source.splits)}")
    return source.splits[split]


def checked_examples(images: np.ndarray, labels: np.ndarray, *, num_classes: int, where: str) -> Examples:
    """Examples with the types and shapes that the rest of the package relies on.

    Gray images without a channel axis, [batch, height, width], get one.

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
        broken = _first_not_finite(images)
        found = "" if broken is None else f", and image {broken} is not finite: mend or leave out such images, then"
        raise ValueError(f"{where}: images have dtype {images.dtype}{found or ':'} convert them to uint8 in 0 to 255")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"{where}: images have shape {images.shape}: use (n, height, width, channels) with"
            " 1 or 3 channels, or (n, height, width)"
        )
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        broken = _first_not_finite(labels)
        found = "" if broken is None else f" (label {broken} is not finite)"
        raise ValueError(
            f"{where}: labels have shape {labels.shape} and dtype {labels.dtype}{found}: use one integer an image"
        )
    if len(images) != len(labels):
        raise ValueError(f"{where}: {len(images)} images but {len(labels)} labels: give one label an image")
    if len(images) == 0:
        raise ValueError(f"{where}: there are no images: give at least one")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        row = int(np.argmax((labels < 0) | (labels >= num_classes)))
        raise ValueError(
            f"{where}: labels run from {low} to {high}, the first that is out of range is number {row}: with"
            f" {num_classes} classes they must lie in 0 to {num_classes - 1}"
        )
    return Examples(images, labels.astype(np.int32))


def _first_not_finite(values: np.ndarray) -> int | None:
    """The first row that holds NaN or infinity."""
    if values.dtype.kind not in "fc" or not values.size:
        return None
    broken = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    return int(np.argmax(broken)) if broken.any() else None


def decoded_image(file: bytes | Path | IO[bytes], channels: int) -> UInt8[np.ndarray, "height width channels"]:
    """The pixels of an encoded image.

    Args:
      file: encoded bytes (PNG, JPEG, WebP), or a path, or an open file.
      channels: 1 for gray, 3 for RGB; an image of the other kind is converted.

    Returns:
      The pixels.

    Raises:
      ValueError: if the file is not an image that can be read.
    """
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            # 16-bit and float images would be clipped, not scaled, on the way to 8 bits.
            if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
                raise ValueError(f"its mode {image.mode!r} does not hold 8-bit gray or RGB")
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        what = f"{len(file)} bytes" if isinstance(file, bytes) else str(file)
        raise ValueError(f"{what}: cannot be read as an image: {error}") from error
    return pixels.reshape(*pixels.shape[:2], channels)
