"""From the data fields of a configuration to a class split and its images; scripts share these fields."""

import dataclasses
import shlex
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from osrjax.data import splits
from osrjax.data.catalogue import open_source
from osrjax.data.classes import class_ids, counted, listed
from osrjax.data.open_set import OpenSetData, open_set_data, pseudo_unknown_data
from osrjax.data.source import Source
from osrjax.data.splits import ClassSplit
from osrjax.data.table import resolve_data, set_name
from osrjax.fields import Execution, Place, check_not_negative, check_type

__all__ = ["DataConfig", "ImagesConfig", "choose_data", "describe_data"]


@dataclasses.dataclass(frozen=True)
class ImagesConfig:
    """Which images, and which of their classes are known, but for the index of the class split."""

    data: Annotated[str, Place] = "fashion_mnist_small"
    """fashion_mnist_small (bundled), digits, mnist, fashion_mnist, cifar10, cifar100, svhn_cropped,
    tiny_imagenet (prepared by TFDS), npz:FILE, or folder:DIRECTORY; cifar+10 and cifar+50: known classes of
    cifar10, unknown ones of cifar100."""
    unknown_data: Annotated[str | None, Place] = None
    """Where unknown test images come from, if not from `data`: cifar100 or npz:FILE for CIFAR+10 and +50."""
    data_dir: Annotated[Path | None, Execution] = None
    """Directory of prepared TFDS sets; default: TFDS's own."""
    dataset: str | None = None
    """Whose class lists to take from the split family (mnist, svhn, cifar10, cifar+10, cifar+50,
    tiny_imagenet); default: what fits `data`."""
    family: str = "neal"
    """Family of class splits: neal, split_2020, macro_f1, cssr, cac; random: drawn from split as the seed."""
    openness: float = 0.134
    """With family=random: 1 - sqrt(2 K / (2 K + U)) for K known and U unknown classes (0.134: 6 and 4)."""
    known: tuple[str | int, ...] = ()
    """Your own known classes, by name or id, instead of a family's."""
    unknown: tuple[str | int, ...] = ()
    """Your own unknown classes, by name or id; empty: all others."""
    held_out: tuple[str | int, ...] = ()
    """Recipe selection: known classes to leave out of training as pseudo-unknowns, by name or id. Validation
    images then take the place of test images, which are never seen."""
    list_classes: Annotated[bool, Execution] = False
    """Print id, name and number of images of every class of the data, and end."""
    validation_share: float = 0.1
    """Share of the known training images held out for validation."""

    def check(self) -> None:
        """Refuses what needs no image to be refused; the rest is refused where the images are taken."""
        if self.unknown and not self.known:
            raise ValueError(f"unknown={list(self.unknown)} without known: give the known classes too")


@dataclasses.dataclass(frozen=True)
class DataConfig(ImagesConfig):
    """Which images, and which of their classes are known."""

    split: int = 0
    """Index of the split in its family. The validation images depend on it alone."""

    def check(self) -> None:
        """Refuses an index below 0."""
        check_not_negative(self, ["split"])


def choose_data(fields: DataConfig | Mapping[str, Any]) -> tuple[ClassSplit, OpenSetData]:
    """The class split that a configuration asks for, and its images.

    The validation images depend on ``split`` alone, so that runs with other seeds and losses can be compared in
    pairs.

    Args:
      fields: a configuration, or the data fields by name, as the config.json of a run gives them: those of
        :class:`DataConfig` but ``data`` may be absent, other fields are not looked at.

    Returns:
      The split, and the examples that it takes. With ``held_out`` the examples are those of
      :func:`osrjax.data.pseudo_unknown_data`; the split still lists all known classes.

    Raises:
      ValueError: no ``data``; a field that does not exist, is out of range, or does not fit the others.

    Example:
      >>> split, data = choose_data({"data": "digits", "known": [0, 1, 2], "unknown": [7]})
      >>> split.family, data.known_names, data.unknown_names, len(data.test_unknown.labels)
      ('custom', ('0', '1', '2'), ('7',), 36)
    """
    config = resolve_data(fields if isinstance(fields, DataConfig) else _config_of(fields))
    ImagesConfig.check(config)
    DataConfig.check(config)
    source = open_source(config.data, data_dir=config.data_dir)
    unknown_source = open_source(config.unknown_data, data_dir=config.data_dir) if config.unknown_data else None
    split = _class_split(config, source, unknown_source)
    data = open_set_data(
        source, split, unknown_source=unknown_source, validation_share=config.validation_share, seed=config.split
    )
    shared = sorted(name for name in {*data.known_names} & {*data.unknown_names} if not name.isdigit())
    if unknown_source is not None and shared:
        warnings.warn(
            f"unknown_data={config.unknown_data!r} has classes of known names, {', '.join(shared)}, which count as"
            " unknown: name the others by --unknown if they show the same",
            stacklevel=2,
        )
    if config.held_out:
        held_out = class_ids(config.held_out, source.class_names, argument="held_out")
        missing = sorted(set(held_out) - set(split.known))
        if missing:
            raise ValueError(f"held_out={missing} are not among the known classes {list(split.known)}")
        data = pseudo_unknown_data(data, [split.known.index(c) for c in held_out])
    return split, data


def _config_of(fields: Mapping[str, Any]) -> DataConfig:
    """The configuration whose fields, as JSON values or not, are given by name."""
    if "data" not in fields:
        raise ValueError(f"fields={sorted(fields)} name no data: give data, such as 'fashion_mnist_small'")
    given = {field.name: fields[field.name] for field in dataclasses.fields(DataConfig) if field.name in fields}
    for name in ("known", "unknown", "held_out"):
        classes = given.get(name, ())
        if not isinstance(classes, Iterable) or isinstance(classes, str | Mapping):
            raise ValueError(f"{name}={classes!r} is no list: give names or ids of classes, such as [0, 1]")
        given[name] = tuple(classes)
    if isinstance(given.get("data_dir"), str):
        given["data_dir"] = Path(given["data_dir"])
    for name, hint in get_type_hints(DataConfig).items():
        if name in given:
            check_type(name, given[name], hint)
    return DataConfig(**given)


def _class_split(config: DataConfig, source: Source, unknown_source: Source | None) -> ClassSplit:
    """The classes of a configuration, by their own lists, by a draw, or by a family."""
    others = source if unknown_source is None else unknown_source
    classes = len(source.class_names)
    if config.known:
        known = class_ids(config.known, source.class_names, argument="known")
        unknown = class_ids(config.unknown, others.class_names, argument="unknown")
        if unknown_source is None:
            unknown = unknown or tuple(set(range(classes)) - set(known))
            if not unknown:
                raise ValueError(f"known={list(config.known)} are all classes: leave one out, or give unknown_data")
            return splits.custom_split(known, unknown, num_classes=classes)
        count = len(others.class_names)
        return splits.custom_split(known, unknown or range(count), num_classes=classes, unknown_num_classes=count)
    if config.family == "random":
        return splits.random_split(classes, openness=config.openness, seed=config.split)
    name = config.dataset or set_name(config.data)
    if ":" in config.data and config.family in splits.FAMILIES and not splits.has_lists(config.family, name):
        raise ValueError(
            f"data={config.data!r} is of your own: name its known classes, such as --known {_example(source)}, all"
            f" others are unknown then; it has {listed(counted(source))} (--list-classes prints all)"
        )
    try:
        return splits.class_split(config.family, name, config.split)
    except ValueError as error:
        raise ValueError(str(error).replace("index=", "split=", 1)) from error


def _example(source: Source) -> str:
    """The first half of the classes, at most three, as words of a command line."""
    return shlex.join(source.class_names[: min(3, max(2, len(source.class_names) // 2))])


def describe_data(data: OpenSetData, split: ClassSplit) -> str:
    """One line that says what is known and what is not.

    Args:
      data: the examples.
      split: the split that they were taken by.

    Returns:
      The sets, and whose class ids the split's family lists for them, where it has none of their own; names of the
      classes (the number of unknown ones above 10) and numbers of images.
    """
    many = len(data.unknown_names) > 10
    unknown = f"{len(data.unknown_names)} classes" if many else ", ".join(data.unknown_names)
    sets = " and ".join(name for name, _, _ in data.sources)
    lists = "" if split.dataset in ("any", sets) else f" by the class ids of {split.dataset}"
    return (
        f"{split.family} split {split.index} of {sets}{lists}; known: {', '.join(data.known_names)}; "
        f"unknown: {unknown}; {len(data.train.labels)} training, {len(data.validation.labels)} validation images"
    )
