"""Make the bundled images: the first 600 train and 100 test images of each class of Fashion-MNIST.

    python -m osrjax.data.build_fashion_mnist_small --from DIR [--to FILE]

DIR holds the four idx files. Debian and Ubuntu put them into /usr/share/datasets/fashion-mnist:
    apt-get install dataset-fashion-mnist
The file is a plain .npz (`numpy.load` reads it) whose members are compressed with LZMA, classes one after
another, which makes it a seventh smaller than `numpy.savez_compressed`. The same input gives the same bytes.
"""

import dataclasses
import io
import sys
import zipfile
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from osrjax.data.bundled import PATH, examples_sha256
from osrjax.data.idx import FASHION_MNIST_CLASSES, idx_source
from osrjax.data.source import Examples

__all__ = ["Config", "build", "main"]

PER_CLASS = {"train": 600, "test": 100}


def build(directory: Path, file: Path) -> dict[str, str]:
    """Choose the images and write them.

    Args:
      directory: folder of the four idx files of Fashion-MNIST.
      file: the .npz file to write.

    Returns:
      Split name to sha256 of the decoded arrays.

    Raises:
      ValueError: if a file is missing or holds too few images of a class.
    """
    source = idx_source(directory, name="fashion_mnist", class_names=FASHION_MNIST_CLASSES)
    arrays, digests = {}, {}
    for split, count in PER_CLASS.items():
        images, labels = source.splits[split]
        of_class = [np.flatnonzero(labels == label)[:count] for label in range(10)]
        short = [label for label, rows in enumerate(of_class) if len(rows) < count]
        if short:
            raise ValueError(f"{directory}: fewer than {count} {split} images of classes {short}")
        rows = np.concatenate(of_class)
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images[rows], labels[rows]
        digests[split] = examples_sha256(Examples(images[rows], labels[rows]))
    arrays["classes"] = np.array(FASHION_MNIST_CLASSES)
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, array, allow_pickle=False)
            # A ZipInfo of its own carries a fixed date, so that the bytes do not depend on the clock.
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue(), zipfile.ZIP_LZMA)
    return digests


@dataclasses.dataclass(frozen=True)
class Config:
    """Make the bundled Fashion-MNIST images from the four idx files."""

    directory: Annotated[Path, tyro.conf.arg(name="from", metavar="DIR")]
    """folder of the four idx files; that of Debian's package is /usr/share/datasets/fashion-mnist"""
    to: Path = PATH
    """the .npz file to write"""


def main() -> None:
    """Command line."""
    config = tyro.cli(Config, prog="python -m osrjax.data.build_fashion_mnist_small")
    try:
        digests = build(config.directory, config.to)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{config.to}: {config.to.stat().st_size} bytes")
    for split, digest in digests.items():
        print(f"{split} sha256 {digest}")


if __name__ == "__main__":
    main()
