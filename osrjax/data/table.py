"""The data sets by name, what each implies, and the corruptions; nothing is imported or read before one is used."""

import dataclasses
import re
from pathlib import PurePath
from typing import Any, NamedTuple, TypeVar

__all__ = [
    "CORRUPTIONS",
    "DATA_SETS",
    "GENERATED_CORRUPTIONS",
    "SEVERITIES",
    "DataSet",
    "PublishedSet",
    "data_set",
    "resolve_data",
    "set_name",
]

T = TypeVar("T")


class PublishedSet(NamedTuple):
    """What a published data set holds when it is whole."""

    train: int
    test: int
    num_classes: int
    shape: tuple[int, int, int]


class DataSet(NamedTuple):
    """What is known of a data set by its name; the defaults are those of a set that has no entry.

    Attributes:
      source: "module:function" that opens it; None where it is prepared by TFDS, or no single set.
      published: its size, for a set that is prepared by TFDS.
      class_lists: the name under which the split families list its classes; None for its own. Fashion-MNIST and the
        8x8 digits have ten classes and no list of their own in any family: the MNIST ids serve.
      pair: the sets of the known and of the unknown classes, where they are two.
      flip: whether mirrored images are images of the same class.
      crop_padding: padding of the random crop, pixels.
    """

    source: str | None = None
    published: PublishedSet | None = None
    class_lists: str | None = None
    pair: tuple[str, str] | None = None
    flip: bool = True
    crop_padding: int = 4


DATA_SETS = {
    "fashion_mnist_small": DataSet("osrjax.data.bundled:bundled_source", class_lists="mnist"),
    "digits": DataSet("osrjax.data.digits:digits_source", class_lists="mnist", flip=False, crop_padding=1),
    "mnist": DataSet(published=PublishedSet(60_000, 10_000, 10, (28, 28, 1)), flip=False),
    "fashion_mnist": DataSet(published=PublishedSet(60_000, 10_000, 10, (28, 28, 1)), class_lists="mnist"),
    "cifar10": DataSet(published=PublishedSet(50_000, 10_000, 10, (32, 32, 3))),
    "cifar100": DataSet(published=PublishedSet(50_000, 10_000, 100, (32, 32, 3))),
    "svhn_cropped": DataSet(published=PublishedSet(73_257, 26_032, 10, (32, 32, 3)), class_lists="svhn", flip=False),
    "tiny_imagenet": DataSet(published=PublishedSet(100_000, 10_000, 200, (64, 64, 3)), crop_padding=8),
    "cifar+10": DataSet(pair=("cifar10", "cifar100")),
    "cifar+50": DataSet(pair=("cifar10", "cifar100")),
}

# Of osrjax.data.corruptions, in the order of the paper; what is generated has a texture in the place of photographs.
CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)

GENERATED_CORRUPTIONS = tuple("frost (procedural)" if name == "frost" else name for name in CORRUPTIONS)

SEVERITIES = (1, 2, 3, 4, 5)


def set_name(data: str) -> str:
    """The name of a data set: that of a file or directory says which set it holds.

    Args:
      data: as for :func:`osrjax.data.open_source`.

    Returns:
      The name.

    Example:
      >>> set_name("digits"), set_name("npz:images/cifar10.npz")
      ('digits', 'cifar10')
    """
    return PurePath(data.partition(":")[2]).stem if ":" in data else data


def data_set(data: str) -> DataSet:
    """What the name of a data set implies.

    Args:
      data: as for :func:`osrjax.data.open_source`.

    Returns:
      The entry of :data:`DATA_SETS`, or the defaults.

    Example:
      >>> data_set("npz:images/svhn_cropped.npz").flip, data_set("npz:images/mine.npz").flip
      (False, True)
    """
    return DATA_SETS.get(set_name(data), DataSet())


def resolve_data(config: T) -> T:
    """A configuration in which everything is written out that its data set implies.

    ``flip`` and ``crop_padding``, where the configuration has them and they are None, are those of the data set. A
    pair of sets becomes its two sets and its class lists: "cifar+10" is ``data="cifar10"``,
    ``unknown_data="cifar100"``, ``dataset="cifar+10"``. Words for classes that are numbers become integers.

    Args:
      config: a dataclass; one without ``data`` is given back as it is.

    Returns:
      The configuration; resolving it again changes nothing.

    Example:
      >>> from osrjax.data.choice import DataConfig
      >>> config = resolve_data(DataConfig(data="cifar+10"))
      >>> config.data, config.unknown_data, config.dataset
      ('cifar10', 'cifar100', 'cifar+10')
    """
    found: Any = config
    names = {field.name for field in dataclasses.fields(found)}
    if "data" not in names:
        return config
    implied = data_set(found.data)
    changes: dict[str, Any] = {
        name: getattr(implied, name)
        for name in ("flip", "crop_padding")
        if name in names and getattr(found, name) is None
    }
    if found.data in DATA_SETS and implied.pair is not None:
        known, unknown = implied.pair
        changes |= {"data": known, "unknown_data": found.unknown_data or unknown}
        changes["dataset"] = found.dataset or found.data
    for name in names & {"known", "unknown", "held_out"}:
        changes[name] = tuple(int(word) if _is_number(word) else word for word in getattr(found, name))
    return dataclasses.replace(found, **changes)


def _is_number(word: str | int) -> bool:
    """Whether a word is a number as Python writes it: 7 is one, 07 is a name."""
    return isinstance(word, str) and re.fullmatch("0|-?[1-9][0-9]*", word) is not None
