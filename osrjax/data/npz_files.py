"""A user's own arrays: one .npz file with S_images and S_labels for every split S."""

import math
import os
import zipfile
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from osrjax.data.checks import checked_class_names, checked_labels, one_line
from osrjax.data.source import (
    DecodedSplits,
    Examples,
    MissingDataError,
    Source,
    checked_examples,
    covers_every_class,
    named_splits,
)
from osrjax.files import check_memory, file_sha256

__all__ = ["npz_source"]

HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def npz_source(path: Path) -> Source:
    """The data set in an .npz file.

    For every split S, such as train and test, the file holds ``S_images`` (uint8, [n, height, width,
    channels], or [n, height, width] for gray) and ``S_labels`` (integers); optionally ``classes`` (one name
    a class, in label order) and ``note`` (one line on the origin). Without ``classes`` the largest label
    gives the number of classes. A set with ``val`` and no ``test``, such as TinyImageNet, is tested on
    ``val``: the split is called "test" then, and the provenance says so.

    Args:
      path: path of the file.

    Returns:
      The source; `complete` says whether every class has train and test images.

    Raises:
      MissingDataError: if there is no such file.
      ValueError: if the file is not an .npz file of that form, or labels have a wrong shape, type or value; at the
        look-up of a split, if its images have.
    """
    path = Path(os.path.expanduser(path))
    if not os.path.isfile(path):
        raise MissingDataError(
            f"npz file {str(path)!r} does not exist: give the path of an .npz file with train_images,"
            " train_labels, test_images and test_labels"
        )
    arrays = _arrays(path)
    members = sorted(name.removesuffix("_images") for name in arrays if name.endswith("_images"))
    if not members:
        raise ValueError(
            f"{path}: has no array S_images for a split S, only {sorted(arrays)}: name the arrays"
            " train_images, train_labels, test_images, test_labels"
        )
    for member in members:
        if f"{member}_labels" not in arrays:
            raise ValueError(f"{path}: has {member}_images but no {member}_labels: add the labels")
    labels = {member: _array(path, f"{member}_labels") for member in members}
    class_names = _class_names(path, arrays, labels)
    splits, remark = named_splits(members)
    by_split = {
        split: checked_labels(labels[member], num_classes=len(class_names), where=f"{path.name} {member}")
        for split, member in splits.items()
    }
    note = f": {one_line(str(_array(path, 'note')))}" if "note" in arrays else ""

    def read(split: str) -> Examples:
        return checked_examples(
            _array(path, f"{splits[split]}_images"),
            by_split[split],
            num_classes=len(class_names),
            where=f"{path.name} {splits[split]}",
        )

    return Source(
        name=f"npz:{path}",
        provenance=f"npz file {path.name}, sha256 {file_sha256(path)[:12]}{note}{remark}",
        complete=covers_every_class(by_split, len(class_names)),
        class_names=class_names,
        splits=DecodedSplits({split: lambda split=split: read(split) for split in splits}, by_split),
    )


def _arrays(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    except Exception as error:  # whatever a damaged file makes zipfile raise
        raise ValueError(f"{path}: is not an .npz file: write it with numpy.savez") from error


@contextmanager
def _member(path: Path, name: str) -> Generator[tuple[IO[bytes], int]]:
    """The file of an array inside, and its size."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            yield file, archive.getinfo(f"{name}.npy").file_size
    except Exception as error:  # in words of our own: numpy's advise to load it unsafely
        raise ValueError(f"{path}: array {name} cannot be read, it is damaged: write the file again") from error


def _array(path: Path, name: str) -> np.ndarray:
    """One array, its size compared with its header and with the memory before it is read."""
    with _member(path, name) as (file, size):
        shape, _, dtype = HEADER_READERS[np.lib.format.read_magic(file)](file)
        size -= file.tell()
    if dtype.hasobject:
        raise ValueError(
            f"{path}: array {name} holds Python objects: store it as an array of uint8, of integers or of text"
        )
    if (wanted := math.prod(shape) * dtype.itemsize) != size:
        raise ValueError(f"{path}: array {name} is not of the shape {shape} that it says: write the file again")
    check_memory(wanted, where=f"{path}: array {name}")
    with _member(path, name) as (file, _):
        return np.lib.format.read_array(file, allow_pickle=False)


def _class_names(path: Path, arrays: Collection[str], labels: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    if "classes" in arrays:
        classes = _array(path, "classes")
        if classes.ndim != 1 or classes.dtype.kind != "U":
            raise ValueError(f"{path}: classes must be a 1-D array of strings, each class name once")
        return checked_class_names(classes.tolist(), where=f"{path}: classes")
    largest = max((int(y.max()) for y in labels.values() if y.size and y.dtype.kind in "iu"), default=0)
    images = sum(found.size for found in labels.values())
    for member, y in labels.items():  # else the names alone might not fit in memory
        if y.size and y.dtype.kind in "iu" and int(y.max()) >= max(1000, 10 * images):
            raise ValueError(
                f"{path}: {member}_labels[{int(y.argmax())}] is {int(y.max())}: number the classes from 0, or name them"
                " in an array classes"
            )
    return tuple(str(label) for label in range(largest + 1))
