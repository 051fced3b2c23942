"""TinyImageNet as its authors distribute it: the unpacked folder tiny-imagenet-200.

The class of an image is its wnid's position in the *sorted* list of the 200 wnids, which is what the named
class splits mean; the file wnids.txt lists them in another order. The labels of the official test images
were never published: everyone tests on the validation images, so they are the "test" split here.
"""

from pathlib import Path

import numpy as np

from osrjax.data.decoding import stacked_images
from osrjax.data.folders import listing
from osrjax.data.source import DecodedSplits, Examples, Source, checked_examples
from osrjax.data.splits import check_tiny_imagenet_order

__all__ = ["tiny_imagenet_folder_source"]


def tiny_imagenet_folder_source(directory: Path) -> Source:
    """TinyImageNet from the folder that tiny-imagenet-200.zip unpacks to.

    Args:
      directory: the folder, with wnids.txt, words.txt, train/ and val/.

    Returns:
      The source, with splits "train" and "test" (the official validation images), 64x64x3, in sorted order
      of wnid and file name. `complete` is True for 500 train and 50 test images of every class.

    Raises:
      ValueError: if the class list is not TinyImageNet's, or a file is missing.
    """
    directory = Path(directory)
    wnids = sorted(_lines(directory / "wnids.txt"))
    check_tiny_imagenet_order(wnids)
    words = dict(line.split("\t", 1) for line in _lines(directory / "words.txt") if "\t" in line)
    number = {wnid: label for label, wnid in enumerate(wnids)}
    files = {
        "train": [
            (file, number[wnid])
            for wnid in wnids
            if (folder := directory / "train" / wnid / "images").is_dir()
            for file in listing(folder).images
        ],
        "test": sorted(_validation_files(directory, number), key=lambda row: (row[1], row[0])),
    }
    for split, rows in files.items():
        if not rows:
            raise ValueError(f"{directory}: has no {split} images: unpack the archive again")

    def read(split: str) -> Examples:
        paths, labels = zip(*files[split], strict=True)
        # Some of the JPEG files are gray: they are read as RGB like all others.
        return checked_examples(
            stacked_images(list(paths), 3),
            np.array(labels, np.int32),
            num_classes=200,
            where=f"tiny_imagenet {split}",
        )

    counts = {split: np.bincount([label for _, label in rows], minlength=200) for split, rows in files.items()}
    return Source(
        name="tiny_imagenet",
        provenance=f"tiny-imagenet-200 files in {directory} (test: its val images)",
        complete=bool((counts["train"] == 500).all() and (counts["test"] == 50).all()),
        class_names=tuple(f"{wnid} {words[wnid].split(',')[0].strip()}" if wnid in words else wnid for wnid in wnids),
        splits=DecodedSplits({split: lambda split=split: read(split) for split in files}),
    )


def _validation_files(directory: Path, number: dict[str, int]) -> list[tuple[Path, int]]:
    rows = []
    for line in _lines(directory / "val" / "val_annotations.txt"):
        name, wnid, *_ = (*line.split("\t"), "")
        if wnid not in number:
            raise ValueError(f"{directory}: val_annotations.txt names an unknown class {wnid!r}: unpack it again")
        if Path(name).name != name:
            raise ValueError(f"{directory}: val_annotations.txt names a file elsewhere, {name!r}: unpack it again")
        rows.append((directory / "val" / "images" / name, number[wnid]))
    return rows


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise ValueError(f"{file} does not exist: unpack tiny-imagenet-200.zip again")
    return file.read_text(encoding="utf-8", errors="replace").splitlines()
