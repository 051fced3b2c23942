"""Prepare a data set as ArrayRecord files that TensorFlow Datasets reads, without TensorFlow.

    python -m osrjax.data.prepare --npz FILE --name cifar10 --data-dir DIR
    python -m osrjax.data.prepare --idx /usr/share/datasets/fashion-mnist --name fashion_mnist --data-dir DIR
    python -m osrjax.data.prepare --tiny-imagenet DIR/tiny-imagenet-200 --name tiny_imagenet --data-dir DIR

Images are stored as PNG, in the order of the source, and compared with it after writing. The official
builders encode through TensorFlow; a builder whose examples are already encoded bytes does not need it.
"""

import dataclasses
import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from PIL import Image

from osrjax.data.idx import FASHION_MNIST_CLASSES, idx_source
from osrjax.data.npz_files import npz_source
from osrjax.data.prepared import INSTALL, MADE_HERE, PREPARED_SETS, prepared_source, prepared_versions
from osrjax.data.source import Source
from osrjax.data.tiny_imagenet import tiny_imagenet_folder_source
from osrjax.files import check_local

try:
    import tensorflow_datasets as tfds
except ModuleNotFoundError as missing:
    raise SystemExit(f"prepare: {missing}: {INSTALL}") from None

__all__ = ["Config", "main", "prepare"]

VERSION = "1.0.0"


class _ArrayRecordBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes the splits of a source; TFDS takes the set's name from the class attribute `name`."""

    VERSION = tfds.core.Version(VERSION)

    def __init__(self, source: Source, **options: Any):
        self._source = source
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        images = next(iter(self._source.splits.values())).images
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{MADE_HERE}{self._source.provenance}",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=images.shape[1:]),
                    "label": tfds.features.ClassLabel(names=list(self._source.class_names)),
                }
            ),
            # The order of the source is kept, so that a run does not depend on which of the two it reads.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in self._source.splits}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        images, labels = self._source.splits[split]
        for row, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield row, {"image": _png(image), "label": int(label)}


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
    return file.getvalue()


def prepare(source: Source, name: str, data_dir: Path) -> Path:
    """Write a source as a prepared set, and read it back.

    Args:
      source: the data; its class count and image shape must be those of the published set.
      name: which published set this is, one of `PREPARED_SETS`.
      data_dir: folder of all prepared sets.

    Returns:
      The folder of the set, DATA_DIR/NAME/1.0.0.

    Raises:
      ValueError: for an unknown name, a wrong class count or shape, a set that is already prepared, no write
        permission, or pixels that come back different.
    """
    if name not in PREPARED_SETS:
        raise ValueError(f"name={name!r} is unknown: choose one of {', '.join(PREPARED_SETS)}")
    data_dir = Path(data_dir).expanduser()
    if versions := prepared_versions(name, data_dir):
        raise ValueError(f"{versions[-1]} is already prepared: remove it or use another --data-dir")
    whole = PREPARED_SETS[name]
    if len(source.class_names) != whole.num_classes:
        raise ValueError(
            f"{source.name}: has {len(source.class_names)} classes, but {name} has"
            f" {whole.num_classes}: give the file of {name}"
        )
    for split in source.splits:
        shape = source.splits[split].images.shape[1:]
        if shape != whole.shape:
            raise ValueError(
                f"{source.name}: {split} images have shape {shape}, but those of {name} have"
                f" {whole.shape}: give the file of {name}"
            )
    builder_class = type(name, (_ArrayRecordBuilder,), {"name": name}, skip_registration=True)
    check_local("data_dir", data_dir)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        builder = builder_class(source, data_dir=str(data_dir), file_format="array_record")
        with tempfile.TemporaryDirectory() as downloads:  # nothing is downloaded, but TFDS wants a folder
            builder.download_and_prepare(download_dir=downloads)
    except OSError as error:
        raise ValueError(f"data_dir={str(data_dir)!r} cannot be written to: {error}") from error
    written = prepared_source(name, data_dir=data_dir)
    for split in source.splits:
        for ours, theirs in zip(source.splits[split], written.splits[split], strict=True):
            if not np.array_equal(ours, theirs):
                raise ValueError(f"{builder.data_dir}: {split} came back different: remove it")
    return Path(builder.data_dir)


@dataclasses.dataclass(frozen=True)
class Config:
    """Prepare a data set as ArrayRecord files that TensorFlow Datasets reads, without TensorFlow."""

    name: str
    """which published set this is: mnist, fashion_mnist, cifar10, cifar100, svhn_cropped, tiny_imagenet"""
    data_dir: Path
    """folder of the prepared sets (what open_source and TFDS_DATA_DIR call the data directory)"""
    npz: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """an .npz file with S_images, S_labels for every split S, and classes"""
    idx: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """a folder of the four idx files of mnist or fashion_mnist, gzipped or not"""
    tiny_imagenet: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """the unpacked folder tiny-imagenet-200"""


def _source(config: Config) -> Source:
    given = [f for f in ("npz", "idx", "tiny_imagenet") if getattr(config, f) is not None]
    if len(given) != 1:
        raise ValueError("give exactly one of --npz, --idx and --tiny-imagenet")
    if config.npz is not None:
        return npz_source(config.npz)
    if config.tiny_imagenet is not None:
        return tiny_imagenet_folder_source(config.tiny_imagenet)
    names = {
        "mnist": tuple(str(digit) for digit in range(10)),
        "fashion_mnist": FASHION_MNIST_CLASSES,
    }
    if config.name not in names:
        raise ValueError(f"--idx holds mnist or fashion_mnist, not name={config.name!r}")
    return idx_source(Path(str(config.idx)), name=config.name, class_names=names[config.name])


def main() -> None:
    """Command line."""
    config = tyro.cli(Config, prog="python -m osrjax.data.prepare")
    try:
        folder = prepare(_source(config), config.name, config.data_dir)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    written = prepared_source(config.name, data_dir=config.data_dir)
    counts = ", ".join(f"{len(written.splits[split].labels)} {split}" for split in written.splits)
    whole = "complete" if written.complete else "not the whole published set"
    print(f"{folder}: {counts} images, read back identical, {whole}")


if __name__ == "__main__":
    main()
