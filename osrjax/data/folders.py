"""A user's own image files: one folder per split, in it one folder per class."""

from pathlib import Path

import numpy as np
from PIL import Image

from osrjax.data.npz_files import covers_every_class
from osrjax.data.source import (
    DecodedSplits,
    Examples,
    MissingDataError,
    Source,
    checked_examples,
    decoded_image,
)

__all__ = ["IMAGE_SUFFIXES", "folder_source", "stacked_images"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def folder_source(path: Path) -> Source:
    """The data set in a folder: train/CLASS/*.png, test/CLASS/*.png, or jpg, webp, bmp.

    Classes are numbered in the sorted order of their folder names over all splits. All images must have
    the size of the first one. They are read as gray if every file is gray, otherwise as RGB.

    Args:
      path: path of the folder.

    Returns:
      The source; `complete` says whether every class has train and test images.

    Raises:
      MissingDataError: if there is no such folder.
      ValueError: if it holds no split with classes, or a class without images; at the look-up of a split,
        if a file cannot be read or has another size.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        raise MissingDataError(
            f"image folder {str(path)!r} does not exist: give a folder with train/CLASS/*.png and test/CLASS/*.png"
        )
    # A folder without sub-folders is no split.
    splits = {split.name: classes for split in _folders(path) if (classes := _folders(split))}
    if not splits:
        raise ValueError(f"{path}: has no folders SPLIT/CLASS: put the images into train/CLASS and test/CLASS")
    class_names = tuple(sorted({folder.name for classes in splits.values() for folder in classes}))
    files: dict[str, list[Path]] = {}
    labels: dict[str, np.ndarray] = {}
    for split, classes in splits.items():
        by_class = {folder.name: _image_files(folder) for folder in classes}
        empty = [name for name, found in by_class.items() if not found]
        if empty:
            raise ValueError(
                f"{path / split}: no images in class folders {empty}: add images"
                f" ({', '.join(IMAGE_SUFFIXES)}) or remove the folders"
            )
        files[split] = [file for found in by_class.values() for file in found]
        labels[split] = np.array([class_names.index(name) for name, found in by_class.items() for _ in found], np.int32)
    gray = all(_is_gray(file) for found in files.values() for file in found)
    channels = 1 if gray else 3

    def read(split: str) -> Examples:
        return checked_examples(
            stacked_images(files[split], channels),
            labels[split],
            num_classes=len(class_names),
            where=f"{path.name} {split}",
        )

    return Source(
        name=f"folder:{path}",
        provenance=f"image folder {path}, {sum(map(len, files.values()))} files",
        complete=covers_every_class(labels, len(class_names)),
        class_names=class_names,
        splits=DecodedSplits({split: lambda split=split: read(split) for split in splits}),
    )


def stacked_images(files: list[Path], channels: int) -> np.ndarray:
    """The pixels of image files of one size.

    Args:
      files: paths, at least one.
      channels: 1 for gray, 3 for RGB.

    Returns:
      uint8 pixels [files, height, width, channels].

    Raises:
      ValueError: if a file cannot be read or has another size than the first one.
    """
    first = decoded_image(files[0], channels)
    images = np.empty((len(files), *first.shape), np.uint8)
    for row, file in enumerate(files):
        image = decoded_image(file, channels)
        if image.shape != first.shape:
            raise ValueError(
                f"{file}: has size {image.shape[:2]} but {files[0].name} has {first.shape[:2]}:"
                " bring all images to one size"
            )
        images[row] = image
    return images


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in _entries(path) if p.is_dir() and not p.name.startswith("."))


def _image_files(folder: Path) -> list[Path]:
    return sorted(p for p in _entries(folder) if p.suffix.lower() in IMAGE_SUFFIXES)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise ValueError(f"{folder}: cannot be listed ({error.strerror}): make it readable") from error


def _is_gray(file: Path) -> bool:
    try:
        with Image.open(file) as image:  # reads the header only
            return image.mode in ("1", "L", "LA")
    except OSError as error:
        raise ValueError(f"{file}: cannot be read as an image: {error}") from error
