"""Data sets that TensorFlow Datasets keeps prepared as ArrayRecord files, read without TensorFlow.

They lie under DATA_DIR/NAME/VERSION. Preparing the official ones takes TensorFlow, once a machine; any of
them can be prepared without it from local arrays (see `osrjax.data.prepare`). Nothing here uses the network.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from osrjax.data.decoding import decoded_image
from osrjax.data.source import (
    DecodedSplits,
    Examples,
    MissingDataError,
    Source,
    checked_examples,
)
from osrjax.data.splits import check_tiny_imagenet_order
from osrjax.data.table import DATA_SETS
from osrjax.data.tiny_imagenet import tiny_imagenet_folder_source
from osrjax.files import check_local, check_memory, read_json, reading

__all__ = [
    "MADE_HERE",
    "PREPARED_SETS",
    "Elements",
    "default_data_dir",
    "element_sequence",
    "prepared_source",
    "prepared_versions",
]


PREPARED_SETS = {name: found.published for name, found in DATA_SETS.items() if found.published}

# First words of the description of a set that `osrjax.data.prepare` made; the source's provenance follows.
MADE_HERE = "Prepared by osrjax from "

INSTALL = "pip install tensorflow-datasets array_record importlib_resources"

_CHUNK = 1024  # records in flight while a split is decoded: bounds the memory for encoded bytes


def default_data_dir() -> Path:
    """Where prepared sets are looked for when no folder is named.

    Returns:
      The environment variable TFDS_DATA_DIR, or ~/tensorflow_datasets as in TensorFlow Datasets itself.

    Raises:
      ValueError: the variable names no path of this machine.
    """
    check_local("TFDS_DATA_DIR", os.environ.get("TFDS_DATA_DIR"))
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def prepared_versions(name: str, data_dir: Path) -> list[Path]:
    """Folders of the prepared versions of a set, oldest first.

    Args:
      name: name of the set.
      data_dir: folder of all prepared sets.

    Returns:
      Folders DATA_DIR/NAME/X.Y.Z that hold a finished set; none if it was never prepared.
    """
    found = (info.parent for info in (data_dir / name).glob("*/dataset_info.json"))
    versions = [folder for folder in found if re.fullmatch(r"\d+\.\d+\.\d+", folder.name)]
    return sorted(versions, key=lambda folder: tuple(int(n) for n in folder.name.split(".")))


def prepared_source(name: str, *, data_dir: Path | None = None) -> Source:
    """A published data set that was prepared on this machine.

    The newest prepared version is read. TinyImageNet may also lie there as its authors' folder,
    DATA_DIR/tiny-imagenet-200.

    Args:
      name: one of `PREPARED_SETS`.
      data_dir: folder of the prepared sets; `default_data_dir` if None.

    Returns:
      The source; `complete` compares the number of images with the published one.

    Raises:
      MissingDataError: if the set was not prepared there, with the command that prepares it.
      ValueError: if what lies there cannot be read without TensorFlow, or is another data set.
    """
    data_dir = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    versions = prepared_versions(name, data_dir)
    if not versions:
        if name == "tiny_imagenet" and (data_dir / "tiny-imagenet-200").is_dir():
            return tiny_imagenet_folder_source(data_dir / "tiny-imagenet-200")
        raise MissingDataError(_missing(name, data_dir))
    builder = _builder(versions[-1])
    whole = PREPARED_SETS[name]
    class_names = tuple(builder.info.features["label"].names)
    if name == "tiny_imagenet":
        check_tiny_imagenet_order(class_names)
    if len(class_names) != whole.num_classes:
        raise ValueError(
            f"{versions[-1]}: has {len(class_names)} classes, but {name} has {whole.num_classes}:"
            " remove the folder and prepare the set again"
        )
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    description = builder.info.description or ""
    origin = description if description.startswith(MADE_HERE) else "made by TensorFlow Datasets"

    def read(split: str) -> Examples:
        elements = Elements(_data_source(builder, split), whole.shape[-1], name=f"{versions[-1]} {split}")
        return checked_examples(*elements.stacked(), num_classes=len(class_names), where=f"{name} {split}")

    return Source(
        name=name,
        provenance=f"prepared set {name} {versions[-1].name}: {' '.join(origin.split())}",
        complete=counts.get("train") == whole.train and counts.get("test") == whole.test,
        class_names=class_names,
        splits=DecodedSplits({split: lambda split=split: read(split) for split in counts}),
    )


class Elements:
    """The examples of a prepared split, each decoded when it is asked for.

    Args:
      data_source: random access to undecoded records with "image" and "label".
      channels: 1 for gray, 3 for RGB.
      name: what to call the split in an error.
    """

    def __init__(self, data_source: Any, channels: int, *, name: str):
        self._data_source = data_source
        self._channels = channels
        self._name = name

    def __len__(self) -> int:
        return len(self._data_source)

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        (record,) = self._records([row])
        return {"image": self._decoded(record, row), "label": np.asarray(record["label"], np.int32)}

    def _records(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        with reading(self._name, "remove the set and prepare it again"):
            return list(self._data_source.__getitems__(rows))

    def _decoded(self, record: dict[str, Any], row: int) -> np.ndarray:
        return decoded_image(record["image"], self._channels, name=f"{self._name}: record {row}")

    def stacked(self) -> tuple[np.ndarray, np.ndarray]:
        """All images and labels, in the order of the files."""
        images, labels = None, np.empty(len(self), np.int32)
        for start in range(0, len(self), _CHUNK):
            rows = range(start, min(start + _CHUNK, len(self)))
            for row, record in zip(rows, self._records(rows), strict=True):
                image = self._decoded(record, row)
                if images is None:
                    check_memory(len(self) * image.size, where=self._name)
                    images = np.empty((len(self), *image.shape), np.uint8)
                if image.shape != images.shape[1:]:
                    raise ValueError(
                        f"{self._name}: record {row} has shape {image.shape}, the first one {images.shape[1:]}:"
                        " prepare the set with images of one size"
                    )
                images[row], labels[row] = image, record["label"]
        if images is None:
            images = np.empty((0, 1, 1, self._channels), np.uint8)
        return images, labels


def element_sequence(name: str, split: str, *, data_dir: Path | None = None) -> Elements:
    """Random access to the examples of a prepared split, for sets that do not fit into memory.

    Args:
      name: one of `PREPARED_SETS`.
      split: "train", "test", or a slice that TensorFlow Datasets understands, such as "train[:10%]".
      data_dir: folder of the prepared sets; `default_data_dir` if None.

    Returns:
      A sequence of dictionaries with "image" (uint8) and "label"; feed it to `osrjax.data.stream`.

    Raises:
      MissingDataError: if the set was not prepared there, with the command that prepares it.
      ValueError: if the split does not exist.
    """
    data_dir = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    versions = prepared_versions(name, data_dir)
    if not versions:
        raise MissingDataError(_missing(name, data_dir))
    builder = _builder(versions[-1])
    if split.partition("[")[0] not in builder.info.splits:
        raise ValueError(f"split={split!r} does not exist in {name}: it has {', '.join(builder.info.splits)}")
    return Elements(_data_source(builder, split), PREPARED_SETS[name].shape[-1], name=f"{versions[-1]} {split}")


def _builder(folder: Path):
    try:
        import tensorflow_datasets as tfds  # 1 s of import, only paid by who reads a prepared set
    except ModuleNotFoundError as error:
        raise ValueError(f"{folder} is a prepared set, and {error}: {INSTALL}") from error
    _check_features(folder)
    try:
        builder = tfds.builder_from_directory(str(folder))
    except Exception as error:  # whatever a damaged description makes the JSON and protobuf readers raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{folder}: cannot be read as a prepared set ({reason}): prepare it again") from error
    formats = {f.value for f in builder.info.available_file_formats()}
    if "array_record" not in formats:
        raise ValueError(
            f"{folder}: is prepared as {'/'.join(sorted(formats))}, which only TensorFlow reads: remove it,"
            f" then {_with_tensorflow(folder.parent.name, folder.parent.parent)}"
        )
    files = [Path(file) for split in builder.info.splits.values() for file in split.filepaths]
    if strange := [file for file in files if file.parent != folder]:
        raise ValueError(f"{folder}: dataset_info.json names a file elsewhere, {strange[0]}: prepare the set again")
    return builder


def _check_features(folder: Path) -> None:
    """Refuses a description that names classes elsewhere, whose modules TensorFlow Datasets would import."""
    parts: list[Any] = [read_json(folder / "features.json", "prepare the set again")]
    for part in parts:  # grows by what lies within
        if isinstance(part, list):
            parts += part
        elif isinstance(part, dict):
            parts += part.values()
            for name in ("type", "pythonClassName", "python_class_name"):
                if isinstance(kind := part.get(name), str) and not kind.startswith(
                    "tensorflow_datasets.core.features."
                ):
                    raise ValueError(f"{folder}: features.json names a foreign class {kind!r}: prepare the set again")


def _data_source(builder, split: str):
    import tensorflow_datasets as tfds

    # Decoding is done by `decoded_image`, the same for every source; TFDS would ask for OpenCV first.
    return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})


def _missing(name: str, data_dir: Path) -> str:
    prepare = "python -m osrjax.data.prepare"
    target = f"--name {name} --data-dir {data_dir}"
    if name == "tiny_imagenet":
        return (
            f"data set {name!r} is not under {data_dir}: curl -O"
            " http://cs231n.stanford.edu/tiny-imagenet-200.zip && unzip -q tiny-imagenet-200.zip -d"
            f" {data_dir} (then, to make later starts faster, {prepare} --tiny-imagenet"
            f" {data_dir / 'tiny-imagenet-200'} {target})"
        )
    if name == "fashion_mnist":
        return (
            f"data set {name!r} is not prepared under {data_dir}: apt-get install"
            f" dataset-fashion-mnist && {prepare} --idx /usr/share/datasets/fashion-mnist {target}"
        )
    without = f"--idx DIR {target}" if name == "mnist" else f"--npz FILE {target}"
    return (
        f"data set {name!r} is not prepared under {data_dir}: {_with_tensorflow(name, data_dir)} (or, from"
        f" local files and without TensorFlow, {prepare} {without})"
    )


def _with_tensorflow(name: str, data_dir: Path) -> str:
    # Not the `tfds build` command: in TFDS 4.9.10 that imports Apache Beam as well.
    return (
        "pip install '.[prepare]' && python -c \"import tensorflow_datasets as tfds;"
        f" tfds.builder('{name}', data_dir='{data_dir}',"
        " file_format='array_record').download_and_prepare()\""
    )
