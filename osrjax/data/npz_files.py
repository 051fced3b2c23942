"""A user's own arrays: one .npz file with S_images and S_labels for every split S."""

import hashlib
import lzma
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from osrjax.data.source import (
    DecodedSplits,
    Examples,
    MissingDataError,
    Source,
    checked_examples,
)

__all__ = ["covers_every_class", "npz_source"]


# What numpy's and zipfile's readers raise for a file that is damaged, encrypted or of another kind.
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


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
      ValueError: if the file is not an .npz file of that form; at the look-up of a split, if its arrays
        have a wrong shape, type or label.
    """
    path = Path(path).expanduser()
    if not path.is_file():
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
    origin = f"npz file {path.name}, sha256 {_sha256(path)[:12]}"
    if "note" in arrays:
        origin += f": {' '.join(str(_array(path, 'note')).split())}"
    splits = {member: member for member in members}
    if "val" in splits and "test" not in splits:
        splits["test"] = splits.pop("val")
        origin += " (test: its val split)"

    def read(split: str) -> Examples:
        member = splits[split]
        return checked_examples(
            _array(path, f"{member}_images"),
            labels[member],
            num_classes=len(class_names),
            where=f"{path.name} {member}",
        )

    return Source(
        name=f"npz:{path}",
        provenance=origin,
        complete=covers_every_class({split: labels[member] for split, member in splits.items()}, len(class_names)),
        class_names=class_names,
        splits=DecodedSplits({split: lambda split=split: read(split) for split in splits}),
    )


def covers_every_class(labels: Mapping[str, np.ndarray], num_classes: int) -> bool:
    """True if every class has both train and test images.

    Args:
      labels: split name to labels.
      num_classes: number of classes.

    Returns:
      True if both splits exist and hold every label.
    """
    return all(split in labels and len(np.unique(labels[split])) == num_classes for split in ("train", "test"))


def _arrays(path: Path) -> list[str]:
    try:
        # numpy would leave a file that it opened itself open when it is no zip archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return list(archive.files)
    except (*UNREADABLE, TypeError) as error:
        # TypeError: a .npy file loads as an array, which is no context manager.
        raise ValueError(f"{path}: is not an .npz file: write it with numpy.savez") from error


def _array(path: Path, name: str) -> np.ndarray:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return archive[name]
    except UNREADABLE as error:
        raise ValueError(f"{path}: array {name} cannot be read: {error}") from error


def _class_names(path: Path, arrays: list[str], labels: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    if "classes" in arrays:
        classes = _array(path, "classes")
        if classes.ndim != 1 or classes.dtype.kind != "U" or len(set(classes.tolist())) < len(classes):
            raise ValueError(f"{path}: classes must be a 1-D array of strings, each class name once")
        return tuple(str(name) for name in classes)
    largest = max((int(y.max()) for y in labels.values() if y.size and y.dtype.kind in "iu"), default=0)
    images = sum(found.size for found in labels.values())
    for member, y in labels.items():  # else the names alone might not fit in memory
        if y.size and y.dtype.kind in "iu" and int(y.max()) >= max(1000, 10 * images):
            raise ValueError(
                f"{path}: {member}_labels[{int(y.argmax())}] is {int(y.max())}: number the classes from 0, or name them"
                " in an array classes"
            )
    return tuple(str(label) for label in range(largest + 1))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
