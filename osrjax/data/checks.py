"""Values that come from users and their files: right, made right without loss, or refused in one line."""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = [
    "checked_class_names",
    "checked_labels",
    "chosen_rows",
    "first_not_finite",
    "one_line",
    "whole_numbers",
]


def checked_class_names(names: Iterable[str], *, where: str) -> tuple[str, ...]:
    """Names of classes with accents in their composed form, each once.

    Args:
      names: as in the files.
      where: what to call them in an error.

    Returns:
      The names in Unicode's normal form C: "é" is one character, however it was stored.

    Raises:
      ValueError: for an empty or a repeated name, or one with control characters or spaces at its ends.
    """
    names = [unicodedata.normalize("NFC", name) for name in names]
    for name in names:
        if not name or one_line(name) != name:
            raise ValueError(f"{where}: {name!a} is no name for a class: use words with single spaces between them")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{where}: {repeated} stand there more than once, spelt alike: use each class name once")
    return tuple(names)


def one_line(text: str) -> str:
    r"""A text without line breaks and without control characters, which a terminal would obey.

    Args:
      text: of any origin.

    Returns:
      Its words, a single space between them.

    Example:
      >>> one_line("two\n\x1b[31mlines")
      'two [31mlines'
    """
    return " ".join("".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text).split())


def checked_labels(labels: np.ndarray, *, num_classes: int, where: str) -> np.ndarray:
    """Labels as int32.

    Args:
      labels: integers of any width, one an image.
      num_classes: labels must lie in [0, num_classes).
      where: what to call them in an error, such as "cifar10 train".

    Returns:
      The labels, int32.

    Raises:
      ValueError: for a wrong shape or type, or a label out of range.
    """
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        broken = first_not_finite(labels)
        found = "" if broken is None else f" (label {broken} is not finite)"
        raise ValueError(
            f"{where}: labels have shape {labels.shape} and dtype {labels.dtype}{found}: use one integer an image"
            f"{_remedy(labels)}"
        )
    if labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
        row = int(np.argmax((labels < 0) | (labels >= num_classes)))
        raise ValueError(
            f"{where}: labels run from {labels.min()} to {labels.max()}; labels[{row}]={labels[row]} is none of the"
            f" {num_classes} classes, which are 0 to {num_classes - 1}: correct it, or name all classes"
        )
    return labels.astype(np.int32)


def chosen_rows(rows: Any, count: int, *, argument: str) -> np.ndarray:
    """Row numbers from numbers or from a mask.

    Args:
      rows: integers in [0, count), or one boolean for each row.
      count: number of rows that there are.
      argument: what to call `rows` in an error.

    Returns:
      The numbers, int64, in the order given.

    Raises:
      ValueError: for another type or shape, a row that does not exist, or none at all.

    Example:
      >>> chosen_rows([True, False, True], 3, argument="rows")
      array([0, 2])
    """
    array = np.asarray(rows)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{argument} has shape {array.shape}: give at least one row number, in one axis")
    if array.dtype == bool:
        if len(array) != count or not array.any():
            raise ValueError(
                f"{argument} is a mask of {len(array)} rows, {array.sum()} of them true: give one boolean for each of"
                f" {count} rows, some of them true"
            )
        return np.flatnonzero(array)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{argument} has dtype {array.dtype}: give row numbers as integers, or a boolean mask")
    if array.min() < 0 or array.max() >= count:
        raise ValueError(f"{argument} runs from {array.min()} to {array.max()}: use rows 0 to {count - 1}")
    return array.astype(np.int64)


def whole_numbers(values: Iterable[Any], *, argument: str) -> tuple[int, ...]:
    """Integers of any kind as Python's, which JSON can hold; a boolean is none.

    Args:
      values: the numbers.
      argument: what to call them in an error.

    Returns:
      The numbers.

    Raises:
      ValueError: for a value that is no integer.
    """
    values = tuple(values)
    for value in values:
        if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
            raise ValueError(f"{argument}={list(values)} holds {value!r}: give whole numbers")
    return tuple(int(value) for value in values)


def _remedy(labels: np.ndarray) -> str:
    if labels.dtype.kind not in "biuf" or labels.size == 0:
        return ""
    if labels.ndim == 2 and labels.shape[1] == 1:
        return ", labels[:, 0]"
    if labels.ndim == 2 and ((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all():
        return "; these are one-hot: give labels.argmax(axis=1)"
    return ", labels.astype(int)" if labels.ndim == 1 and np.isfinite(labels).all() else ""


def first_not_finite(values: np.ndarray) -> int | None:
    """The first row that holds NaN or infinity; None where there is none.

    Args:
      values: of any type.
    """
    if values.dtype.kind not in "fc" or not values.size:
        return None
    broken = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    return int(np.argmax(broken)) if broken.any() else None
