"""The idx files in which MNIST and Fashion-MNIST are published."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from osrjax.data.source import (
    DecodedSplits,
    Examples,
    MissingDataError,
    Source,
    checked_examples,
)
from osrjax.files import check_memory, file_sha256

__all__ = ["FASHION_MNIST_CLASSES", "idx_array", "idx_source"]

FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

_PREFIXES = {"train": "train", "test": "t10k"}


def idx_array(path: Path) -> np.ndarray:
    """The uint8 array of an idx file, gzipped or plain.

    Args:
      path: path of the file; a name that ends in .gz is decompressed.

    Returns:
      The array, with the shape that the header gives.

    Raises:
      MissingDataError: if there is no such file.
      ValueError: if it is not an idx file of unsigned bytes, or is cut short.
    """
    if not path.is_file():
        raise MissingDataError(f"{path} does not exist: give the folder of the four idx files")
    # Header: two zero bytes, the type code (8 is unsigned byte), the number of axes, then the axes as
    # big-endian 32-bit integers.
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            start = file.read(4)
            axes = file.read(4 * start[3]) if len(start) == 4 else b""
            if start[:3] != b"\x00\x00\x08" or len(start) < 4 or len(axes) < 4 * start[3]:
                raise ValueError(f"{path}: is not an idx file of unsigned bytes: fetch it again")
            shape = tuple(int(n) for n in np.frombuffer(axes, ">u4"))
            size = math.prod(shape)
            check_memory(size, where=str(path))
            content = file.read(size + 1)  # no more, however much a small file would unpack to
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be decompressed ({error}): fetch it again") from error
    if len(content) != size:
        held = f"more than {size}" if len(content) > size else len(content)
        raise ValueError(f"{path}: holds {held} bytes of pixels, not a {shape} array: fetch it again")
    return np.frombuffer(content, np.uint8).reshape(shape)


def idx_source(directory: Path, *, name: str, class_names: tuple[str, ...]) -> Source:
    """A data set in four idx files, named as MNIST's: train-images-idx3-ubyte and so on, gzipped or not.

    Args:
      directory: folder of the files.
      name: name for the source, such as "mnist".
      class_names: one name per class.

    Returns:
      The source, with splits "train" and "test".

    Raises:
      MissingDataError: if a file is missing.
    """
    directory = Path(directory)

    def file(split: str, part: str) -> Path:
        plain = directory / f"{_PREFIXES[split]}-{part}-ubyte"
        return plain if plain.is_file() else plain.with_name(f"{plain.name}.gz")

    def read(split: str) -> Examples:
        return checked_examples(
            idx_array(file(split, "images-idx3")),
            idx_array(file(split, "labels-idx1")),
            num_classes=len(class_names),
            where=f"{name} {split}",
        )

    for split in _PREFIXES:
        for part in ("images-idx3", "labels-idx1"):
            if not file(split, part).is_file():
                raise MissingDataError(f"{file(split, part)} does not exist: give the folder of the four idx files")
    images = file("train", "images-idx3")
    digest = file_sha256(images)
    return Source(
        name=name,
        provenance=f"idx files in {directory}, sha256 of {images.name} {digest[:12]}",
        complete=True,
        class_names=class_names,
        splits=DecodedSplits({split: lambda split=split: read(split) for split in _PREFIXES}),
    )
