"""A user's own image files: one folder per split, in it one folder per class."""

import os
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from osrjax.data.checks import checked_class_names
from osrjax.data.decoding import IMAGE_SUFFIXES, is_gray, stacked_images
from osrjax.data.source import (
    DecodedSplits,
    Examples,
    MissingDataError,
    Source,
    checked_examples,
    covers_every_class,
    named_splits,
)

__all__ = ["Listing", "folder_source", "kinds_text", "listing", "natural_order"]

# Besides what begins with a dot, as ._NAME.png and .DS_Store do.
SYSTEM_NAMES = (
    "__macosx",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    "@eadir",
    "lost+found",
    "$recycle.bin",
    "system volume information",
)


class Listing(NamedTuple):
    """What lies in a folder, but for the files of operating systems.

    Attributes:
      images: files whose names end as image files do, in the order of their names.
      folders: folders, numbers in their names in the order of their values.
      other: all other files.
    """

    images: list[Path]
    folders: list[Path]
    other: list[Path]


def listing(folder: Path) -> Listing:
    """What lies in a folder.

    Args:
      folder: its path.

    Returns:
      Images, folders and other files.

    Raises:
      ValueError: if it cannot be listed.
    """
    try:
        entries = [entry for entry in folder.iterdir() if not _is_of_a_system(entry.name)]
    except OSError as error:
        raise ValueError(f"{folder}: cannot be listed ({error.strerror}): make it readable") from error
    folders = [entry for entry in entries if os.path.isdir(entry)]  # unlike Path.is_dir, this raises nothing
    files = sorted(set(entries) - set(folders), key=lambda file: (unicodedata.normalize("NFC", file.name), file.name))
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    other = [file for file in files if file.suffix.lower() not in IMAGE_SUFFIXES]
    return Listing(images, sorted(folders, key=lambda path: natural_order(path.name)), other)


def natural_order(name: str) -> tuple:
    """Sorts names as people do: numbers in them by value, 2 before 10.

    Args:
      name: the name.

    Returns:
      A key for ``sorted``.

    Example:
      >>> sorted(["10", "a2", "2", "a10"], key=natural_order)
      ['2', '10', 'a2', 'a10']
    """
    parts = re.split("([0-9]+)", unicodedata.normalize("NFC", name))  # text and digits in turn
    return tuple(int(part) if place % 2 else part for place, part in enumerate(parts)), name


def kinds_text(entries: Iterable[Path]) -> str:
    """How many files of which ending, and how many folders.

    Args:
      entries: paths.

    Returns:
      Such as "3 .tif, 1 folder"; empty for none.
    """
    kinds = Counter("folder" if os.path.isdir(path) else path.suffix.lower() or "without ending" for path in entries)
    return ", ".join(f"{count} {kind}{'s' * (kind == 'folder' and count > 1)}" for kind, count in sorted(kinds.items()))


def folder_source(path: Path) -> Source:
    """The data set in a folder: train/CLASS/*.png, test/CLASS/*.png, or jpg, webp, bmp.

    Classes are numbered in the natural order of their folder names over all splits: 2 before 10. A set with ``val`` and
    no ``test`` is tested on ``val``. All images must have the size of the first one. They are read as gray if every
    file is gray, otherwise as RGB; see :mod:`osrjax.data.decoding`. Files of operating systems are passed over; other
    files and folders that are not read are counted in the provenance, with a warning.

    Args:
      path: path of the folder.

    Returns:
      The source; `complete` says whether every class has train and test images and nothing was left out.

    Raises:
      MissingDataError: if there is no such folder.
      ValueError: if it holds no split with classes, a class without images, or names that differ in their accents'
        form alone; at the look-up of a split, if a file cannot be read or has another size.
    """
    path = Path(os.path.expanduser(path))
    if not os.path.isdir(path):
        raise MissingDataError(
            f"image folder {str(path)!r} does not exist: give a folder with train/CLASS/*.png and test/CLASS/*.png"
        )
    files, unread = _files_by_class(path)
    splits, remark = named_splits(files)
    by_split = {split: files[folder] for split, folder in splits.items()}
    class_names = tuple(sorted({name for classes in by_split.values() for name in classes}, key=natural_order))
    number = {name: label for label, name in enumerate(class_names)}
    labels = {
        split: np.array([number[name] for name, found in classes.items() for _ in found], np.int32)
        for split, classes in by_split.items()
    }
    images = {split: [file for found in classes.values() for file in found] for split, classes in by_split.items()}
    channels = 1 if all(is_gray(file) for found in images.values() for file in found) else 3
    if unread:
        endings = ", ".join(IMAGE_SUFFIXES)
        warnings.warn(
            f"{path}: not read: {kinds_text(unread)}; images are SPLIT/CLASS/NAME with {endings}", stacklevel=2
        )
        remark += f", not read: {kinds_text(unread)}"

    def read(split: str) -> Examples:
        return checked_examples(
            stacked_images(images[split], channels),
            labels[split],
            num_classes=len(class_names),
            where=f"{path.name} {splits[split]}",
        )

    return Source(
        name=f"folder:{path}",
        provenance=f"image folder {path}, {sum(map(len, images.values()))} files{remark}",
        complete=covers_every_class(labels, len(class_names)) and not unread,
        class_names=class_names,
        splits=DecodedSplits({split: lambda split=split: read(split) for split in splits}, labels),
    )


def _files_by_class(path: Path) -> tuple[dict[str, dict[str, list[Path]]], list[Path]]:
    """Split -> class -> image files, and whatever looks like data and is in none."""
    found, unread = {}, list((root := listing(path)).images)
    for split in root.folders:
        inside = listing(split)
        if not inside.folders:  # no split
            unread.append(split)
            continue
        names = checked_class_names((folder.name for folder in inside.folders), where=str(split))
        classes = [listing(folder) for folder in inside.folders]
        if empty := [name for name, there in zip(names, classes, strict=True) if not there.images]:
            raise ValueError(
                f"{split}: no images in class folders {empty}: add images ({', '.join(IMAGE_SUFFIXES)}) or remove"
                " the folders"
            )
        found[split.name] = {name: there.images for name, there in zip(names, classes, strict=True)}
        unread += [*inside.images, *inside.other]
        unread += [entry for there in classes for entry in (*there.folders, *there.other)]
    if not found:
        raise ValueError(f"{path}: has no folders SPLIT/CLASS: put the images into train/CLASS and test/CLASS")
    return found, unread


def _is_of_a_system(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_NAMES
