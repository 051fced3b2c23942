"""Which classes are known and which are unknown: named families, random draws, and a user's own lists.

Class ids are the usual integer labels of a data set. CIFAR+10 and CIFAR+50 take known classes from
CIFAR10 and unknown ones from CIFAR100 (fine labels). TinyImageNet ids index the *sorted* list of its 200
wnids; code that indexes ``wnids.txt`` in file order names other classes with the same numbers.
Results under different families are results of different tasks: name the family with every number.
"""

import functools
import hashlib
import json
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from osrjax.data.checks import whole_numbers
from osrjax.data.table import DATA_SETS, DataSet

__all__ = [
    "FAMILIES",
    "NUM_CLASSES",
    "ClassSplit",
    "check_split",
    "check_tiny_imagenet_order",
    "class_split",
    "custom_split",
    "distinct_splits",
    "has_lists",
    "listed_split",
    "nested_split",
    "openness",
    "random_split",
    "split_dataset",
]

FAMILIES = ("split_2020", "neal", "macro_f1", "cssr", "cac")


# (classes of the known set, classes of the unknown set); one number each where both are one set.
NUM_CLASSES = {
    "mnist": (10, 10),
    "svhn": (10, 10),
    "cifar10": (10, 10),
    "cifar+10": (10, 100),
    "cifar+50": (10, 100),
    "tiny_imagenet": (200, 200),
}


# sha256 of the 200 wnids of tiny-imagenet-200, sorted and joined by newlines.
_SORTED_WNIDS_SHA256 = "add4bf0c8712ef7fb4bca98e3bbaf07101636c5db62cce486fd2af71cc11caf8"


@dataclass(frozen=True)
class ClassSplit:
    """A list of known and a list of unknown classes, with its name.

    Attributes:
      family: a named family, "random" or "custom".
      dataset: the data set whose ids these are, as the family spells it; "any" for random and custom lists.
      index: position in the family, or the seed of a random draw.
      known: ids of the known classes; the training label of a class is its position here.
      unknown: ids of the unknown classes.
      two_sets: whether the unknown ids name classes of a second data set, so that equal numbers are
        different classes.
    """

    family: str
    dataset: str
    index: int
    known: tuple[int, ...]
    unknown: tuple[int, ...]
    two_sets: bool = False

    def __post_init__(self):
        for name, ids in (("known", self.known), ("unknown", self.unknown)):
            if not ids:
                raise ValueError(f"{name}={ids!r} names no class: list at least one class id")
            if len(set(ids)) < len(ids):
                repeated = sorted({i for i in ids if ids.count(i) > 1})
                raise ValueError(f"{name}={ids!r} repeats {repeated}: list every class once")
        shared = sorted(set(self.known) & set(self.unknown))
        if shared and not self.two_sets:
            raise ValueError(
                f"known={self.known!r} and unknown={self.unknown!r} share {shared}: a class is either known or unknown"
            )


def check_split(split: ClassSplit, num_classes: int, *, unknown_num_classes: int | None = None) -> None:
    """Check that every class id of a split exists in its data set.

    Args:
      split: the split.
      num_classes: number of classes of the data set with the known classes.
      unknown_num_classes: number of classes of the set with the unknown classes; the same set by default.

    Raises:
      ValueError: if an id is too large, or if the ids need one data set and two are given or vice versa.
    """
    if split.two_sets != (unknown_num_classes is not None):
        raise ValueError(
            f"split {split.family}/{split.dataset} has two_sets={split.two_sets}: give a second"
            " data set for the unknown classes exactly when it is True"
        )
    sides = (
        ("known", split.known, num_classes),
        ("unknown", split.unknown, unknown_num_classes or num_classes),
    )
    for name, ids, count in sides:
        outside = sorted(i for i in ids if not 0 <= i < count)
        if outside:
            raise ValueError(
                f"{name} classes {outside} do not exist in a data set of {count} classes: use ids 0 to {count - 1}"
            )


def split_dataset(name: str) -> str:
    """Name under which the split families list a data set.

    Fashion-MNIST and the 8x8 digits have no lists of their own: the MNIST ids serve.

    Args:
      name: name of a data set or of a source, such as "fashion_mnist_small".

    Returns:
      The families' name; the argument itself where it needs no translation.

    Example:
      >>> split_dataset("fashion_mnist_small"), split_dataset("svhn_cropped"), split_dataset("cifar10")
      ('mnist', 'svhn', 'cifar10')
    """
    found = DATA_SETS.get(name, DataSet())
    return found.class_lists or name


def has_lists(family: str, dataset: str) -> bool:
    """Whether a family lists classes for a data set.

    Args:
      family: one of `FAMILIES`.
      dataset: as for `class_split`.

    Returns:
      True if it does.
    """
    return split_dataset(dataset) in _class_splits()[family]


def class_split(family: str, dataset: str, index: int) -> ClassSplit:
    """One class split of a named family, with a warning where the family repeats it.

    Args:
      family: one of `FAMILIES`: "split_2020" (the lists of the ARPL code), "neal" (those that circulate as
        Neal et al. 2018), "macro_f1" (for F-measures), "cssr", "cac".
      dataset: "mnist", "svhn", "cifar10", "cifar+10", "cifar+50", "tiny_imagenet", or the name of a source
        that uses one of these lists (see `split_dataset`). Not every family has every data set.
      index: which of the splits, from 0.

    Returns:
      The split. Its ``dataset`` is the families' name, so "fashion_mnist" becomes "mnist".

    Raises:
      ValueError: for a family, data set or index that does not exist, with the list of those that do.

    Example:
      >>> split = class_split("neal", "fashion_mnist_small", 0)
      >>> split.dataset, split.known, split.unknown
      ('mnist', (0, 1, 2, 4, 5, 9), (3, 6, 7, 8))
    """
    if family not in FAMILIES:
        raise ValueError(f"family={family!r} is unknown: choose one of {', '.join(FAMILIES)}")
    table = _class_splits()[family]
    key = split_dataset(dataset)
    if key not in table:
        raise ValueError(f"family {family!r} has no {dataset!r}: it has {', '.join(table)}")
    known, unknown = table[key]["known"], table[key]["unknown"]
    if not 0 <= index < len(known):
        raise ValueError(f"index={index!r} does not exist in {family}/{key}: it has splits 0 to {len(known) - 1}")
    twins = [i for i, ids in enumerate(known) if set(ids) == set(known[index])]
    if len(twins) > 1:
        distinct = len({frozenset(ids) for ids in known})
        warnings.warn(
            f"{family}/{key}: splits {twins} have the same known classes, so its {len(known)} splits"
            f" hold {distinct} distinct known sets",
            stacklevel=2,
        )
    two_sets = key in ("cifar+10", "cifar+50")
    return ClassSplit(family, key, index, tuple(known[index]), tuple(unknown[index]), two_sets)


def listed_split(family: str, dataset: str, index: int) -> ClassSplit | None:
    """The class split of a family, without a warning, or None where no family lists it.

    Args:
      family: any name.
      dataset: as for :func:`class_split`, or any other name.
      index: any number.

    Example:
      >>> listed_split("neal", "mnist", 0).known, listed_split("custom", "mnist", 0)
      ((0, 1, 2, 4, 5, 9), None)
    """
    if family not in FAMILIES or not has_lists(family, dataset):
        return None
    if not 0 <= index < len(_class_splits()[family][split_dataset(dataset)]["known"]):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # splits that repeat known classes
        return class_split(family, dataset, index)


def distinct_splits(family: str, dataset: str) -> tuple[int, ...]:
    """The splits of a family whose known classes are not those of an earlier one.

    Args:
      family: as for :func:`class_split`.
      dataset: as for :func:`class_split`.

    Returns:
      Indices for :func:`class_split`.

    Raises:
      ValueError: as :func:`class_split`.

    Example:
      >>> distinct_splits("split_2020", "cifar10"), distinct_splits("neal", "cifar+10")
      ((0, 2, 3, 4), (0,))
    """
    if family not in FAMILIES or not has_lists(family, dataset):
        raise ValueError(f"family={family!r} has no lists for {dataset!r}: choose another of {', '.join(FAMILIES)}")
    known = [frozenset(ids) for ids in _class_splits()[family][split_dataset(dataset)]["known"]]
    return tuple(index for index, ids in enumerate(known) if known.index(ids) == index)


def random_split(
    num_classes: int,
    *,
    num_known: int | None = None,
    openness: float | None = None,
    seed: int,
) -> ClassSplit:
    """A class split drawn from a seed.

    With `num_known` alone, every other class is unknown. With `openness` alone, every class is used, in the numbers
    whose openness is nearest. With both, so is the number of unknown classes, and the rest is left out. `known` keeps
    the order of the draw, as in the named families.

    Args:
      num_classes: number of classes to draw from, at least 2.
      num_known: number of known classes, 1 to num_classes - 1.
      openness: the openness asked for, in (0, 1), by the formula of 2013 (see `openness`).
      seed: seed of the draw, at least 0.

    Returns:
      The split; its family is "random" and its index is the seed.

    Raises:
      ValueError: if both options are missing or a number is out of range.

    Example:
      >>> split = random_split(10, openness=0.134, seed=0)
      >>> len(split.known), len(split.unknown)
      (6, 4)
    """
    if num_known is None and openness is None:
        raise ValueError("num_known=None and openness=None: give at least one of them")
    if num_known is not None and not 1 <= num_known < num_classes:
        raise ValueError(f"num_known={num_known!r} is out of range: use 1 to {num_classes - 1}")
    if openness is not None and not 0.0 < openness < 1.0:
        raise ValueError(f"openness={openness!r} is out of range: use a number in (0, 1)")
    sizes = (
        [(k, num_classes - k) for k in range(1, num_classes)]
        if num_known is None
        else [(num_known, u) for u in range(1, num_classes - num_known + 1)]
    )
    known, unknown = sizes[-1] if openness is None else _nearest(sizes, openness)
    order = [int(i) for i in np.random.default_rng(seed).permutation(num_classes)]
    return ClassSplit("random", "any", seed, tuple(order[:known]), tuple(order[known : known + unknown]))


def _nearest(sizes: Sequence[tuple[int, int]], target: float) -> tuple[int, int]:
    return min(sizes, key=lambda size: abs(openness(*size) - target))


def nested_split(order: int, num_known: int, num_classes: int = 10) -> ClassSplit:
    """The first classes of a class order known, its last two unknown: more known classes, the same unknown ones.

    Args:
      order: number of the class order, a permutation of all classes.
      num_known: number of known classes, 1 to num_classes - 2.
      num_classes: number of classes of the data set.

    Returns:
      The split, of family "custom"; its index is the order.

    Raises:
      ValueError: a negative order, or a number of known classes that is out of range.

    Example:
      >>> nested_split(0, 2).known, nested_split(0, 4).known, nested_split(0, 4).unknown
      ((8, 7), (8, 7, 4, 0), (1, 5))
    """
    if order < 0:
        raise ValueError(f"order={order!r} is negative: number class orders from 0")
    if not 1 <= num_known <= num_classes - 2:
        raise ValueError(f"num_known={num_known!r} is out of range: use 1 to {num_classes - 2}")
    classes = [int(i) for i in np.random.default_rng([20, order]).permutation(num_classes)]
    return ClassSplit("custom", "any", order, tuple(classes[:num_known]), tuple(classes[-2:]))


def custom_split(
    known: Iterable[int | np.integer],
    unknown: Iterable[int | np.integer],
    num_classes: int,
    *,
    unknown_num_classes: int | None = None,
) -> ClassSplit:
    """A split from a user's own class lists.

    Args:
      known: ids of the known classes, each once.
      unknown: ids of the unknown classes, each once.
      num_classes: number of classes of the data set.
      unknown_num_classes: number of classes of a second data set that the unknown ids belong to, for tasks
        such as CIFAR10 against SVHN; None if both lists name classes of one set.

    Returns:
      The split, of family "custom".

    Raises:
      ValueError: for an empty list, a repeated or shared class, an id that does not exist or is no integer.

    Example:
      >>> custom_split([0, 2, 4], [1, 3], 5).known
      (0, 2, 4)
    """
    two_sets = unknown_num_classes is not None
    known, unknown = whole_numbers(known, argument="known"), whole_numbers(unknown, argument="unknown")
    split = ClassSplit("custom", "any", 0, known, unknown, two_sets)
    check_split(split, num_classes, unknown_num_classes=unknown_num_classes)
    return split


def openness(known: int, unknown: int) -> float:
    r"""How much of the test classes was never trained on.

    .. math:: 1 - \sqrt{\frac{2 K}{2 K + U}}

    with K known and U unknown classes: the definition of 2013 where the K known classes are both the trained and
    the target classes. Some papers print :math:`1 - \sqrt{K / (K + U)}` under the same name: 6 known and 4 unknown
    classes are 13.40 % by the first and 22.54 % by the second.

    Args:
      known: number of known classes, at least 1.
      unknown: number of unknown classes, at least 0.

    Returns:
      The openness, 0 without unknown classes and below 1.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> round(openness(6, 4), 4)
      0.134

    References:
      Scheirer et al., "Toward Open Set Recognition", IEEE PAMI 35(7), 2013.
    """
    if known < 1 or unknown < 0:
        raise ValueError(f"known={known!r}, unknown={unknown!r}: use counts from 1 and from 0")
    return 1.0 - math.sqrt(2 * known / (2 * known + unknown))


def check_tiny_imagenet_order(class_names: Sequence[str]) -> None:
    """Check that class ids are positions in the sorted list of TinyImageNet's 200 wnids.

    Args:
      class_names: one name per class in id order; each starts with the wnid, optionally followed by a space
        and words.

    Raises:
      ValueError: if the wnids or their order differ, since every named split would mean other classes.
    """
    wnids = [name.split(" ", 1)[0] for name in class_names]
    digest = hashlib.sha256("\n".join(wnids).encode()).hexdigest()
    if digest != _SORTED_WNIDS_SHA256:
        raise ValueError(
            f"class_names ({len(wnids)} names, first {wnids[:1]!r}, sha256 {digest[:12]}) is not the"
            " sorted list of TinyImageNet's 200 wnids: number the classes in sorted wnid order"
        )


@functools.cache
def _class_splits() -> dict[str, Any]:
    text = Path(__file__).with_name("class_splits.json").read_text(encoding="utf-8")
    return json.loads(text)
