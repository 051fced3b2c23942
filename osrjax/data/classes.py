"""Classes as people call them: by name or by id, with their numbers of images."""

import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from osrjax.data.catalogue import open_source
from osrjax.data.checks import whole_numbers
from osrjax.data.source import Source, labels_of

__all__ = ["class_counts", "class_ids", "class_table", "class_tables", "counted", "listed", "renumbered"]


def renumbered(class_names: Sequence[str]) -> bool:
    """Whether a class is named by a number that is not its id, as folders 1 to 12 are.

    Args:
      class_names: one name per class, in the order of the ids.

    Returns:
      True if a number would mean another class as a name than as an id.

    Example:
      >>> renumbered(["0", "1"]), renumbered(["1", "2"]), renumbered(["cat", "dog"])
      (False, True, False)
    """
    return any(value != i for i, value in _values(class_names).items())


def _values(class_names: Sequence[str]) -> dict[int, int]:
    """Id -> number, of the classes that are named by one."""
    return {i: int(name) for i, name in enumerate(class_names) if name.isascii() and name.isdigit()}


def class_ids(words: Iterable[str | int | np.integer], class_names: Sequence[str], *, argument: str) -> tuple[int, ...]:
    """Ids of classes that are given by name or by id.

    Where a class is named by a number that is not its id, as folders 1 to 12 are, numbers mean names alone; a warning
    then says which ids they are.

    Args:
      words: names, or ids as integers.
      class_names: one name per class, in the order of the ids.
      argument: what to call `words` in an error.

    Returns:
      The ids.

    Raises:
      ValueError: for a name that no class has, a number that names no class or several where it has to, and for what
        is neither a text nor an integer.

    Example:
      >>> class_ids(["dog", 0], ["cat", "dog"], argument="known")
      (1, 0)
    """
    words = tuple(words)
    by_name = renumbered(class_names)
    found = []
    for word in words:
        if isinstance(word, str):
            name = unicodedata.normalize("NFC", word)
            meant = [i for i, class_name in enumerate(class_names) if class_name == name]
        else:
            (number,) = whole_numbers([word], argument=argument)
            meant = [i for i, value in _values(class_names).items() if value == number] if by_name else [number]
        if len(meant) > 1:
            raise ValueError(f"{argument}={word!r} names {len(meant)} classes: choose from {listed(class_names)}")
        if not meant and by_name:  # ids are listed nowhere here: they would not be accepted
            some = "give names, since some classes are named by numbers" if isinstance(word, int) else "choose"
            raise ValueError(f"{argument}={word!r} is the name of no class: {some}, of {', '.join(class_names[:20])}")
        if not meant:
            hint = " (separate names by spaces)" if "," in str(word) else ""
            raise ValueError(f"{argument}={word!r} is no class: choose from {listed(class_names)}{hint}")
        found += meant
    if by_name and any(not isinstance(word, str) for word in words):
        pairs = ", ".join(f"{class_names[i]} is id {i}" for i in found)
        warnings.warn(
            f"{argument}: numbers are taken for names of classes, whose ids are others: {pairs}", stacklevel=2
        )
    return tuple(found)


def listed(entries: Sequence[str], *, limit: int = 20) -> str:
    """Entries with their numbers, in one line.

    Args:
      entries: texts.
      limit: how many are shown.

    Returns:
      The line.

    Example:
      >>> listed(["cat", "dog", "eel"], limit=2)
      '0: cat, 1: dog and 1 more'
    """
    more = len(entries) - limit
    shown = ", ".join(f"{i}: {entry}" for i, entry in enumerate(entries[:limit]))
    return shown + (f" and {more} more" if more > 0 else "")


def class_counts(source: Source) -> dict[str, np.ndarray]:
    """How many images each class has; of own files and arrays, no image is read.

    Args:
      source: the data set.

    Returns:
      For each split, the number of images of every class.
    """
    classes = len(source.class_names)
    return {split: np.bincount(labels_of(source, split), minlength=classes) for split in source.splits}


def class_table(source: Source) -> str:
    """Id, name and numbers of images of every class.

    Args:
      source: the data set.

    Returns:
      Lines of text.

    Example:
      >>> class_table(open_source("digits")).splitlines()[:3]
      ['digits', '  id  train  test  name', '   0    142    36  0']
    """
    columns = {"id": range(len(source.class_names)), **class_counts(source)}
    rows = [list(columns), *zip(*columns.values(), strict=True)]
    names = ["name", *source.class_names]
    lines = (
        "  ".join(f"{cell:>{max(4, len(column))}}" for cell, column in zip(row, columns, strict=True)) for row in rows
    )
    return "\n".join([source.name, *(f"{line}  {name}" for line, name in zip(lines, names, strict=True))])


def class_tables(config: Any) -> str:
    """The classes of the data of a configuration, and those of its unknown data.

    Args:
      config: with the fields of :class:`osrjax.data.ImagesConfig`.

    Returns:
      Lines of text, as of :func:`class_table`.

    Raises:
      ValueError: data that is not there.
    """
    names = [config.data, *([config.unknown_data] if config.unknown_data else [])]
    return "\n".join(class_table(open_source(name, data_dir=config.data_dir)) for name in names)


def counted(source: Source) -> list[str]:
    """Each class with its numbers of images, such as "cat (4 train, 2 test)".

    Args:
      source: the data set.

    Returns:
      One text a class.
    """
    counts = class_counts(source)
    return [
        f"{name} ({', '.join(f'{numbers[label]} {split}' for split, numbers in counts.items())})"
        for label, name in enumerate(source.class_names)
    ]
