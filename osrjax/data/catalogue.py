"""Opening a data set by its name."""

from pathlib import Path

from osrjax.choices import load
from osrjax.data.source import Source
from osrjax.data.table import DATA_SETS

__all__ = ["SOURCES", "open_source"]

SOURCES = (*(name for name, found in DATA_SETS.items() if found.pair is None), "npz:PATH", "folder:PATH")


def open_source(name: str, *, data_dir: Path | None = None) -> Source:
    """Find a data set on this machine.

    Nothing is downloaded and nothing is decoded yet; a missing set is an error, never another set.

    Args:
      name: "fashion_mnist_small" (inside the package), "digits" (inside scikit-learn), a prepared set
        ("mnist", "fashion_mnist", "cifar10", "cifar100", "svhn_cropped", "tiny_imagenet"), "npz:PATH" for
        arrays or "folder:PATH" for image files.
      data_dir: folder of the prepared sets; TFDS_DATA_DIR or ~/tensorflow_datasets if None.

    Returns:
      The source.

    Raises:
      MissingDataError: if the data is not there, with the command that gets it.
      ValueError: for a name that is none of the above, or data that is not what its name says.

    Example:
      >>> source = open_source("digits")
      >>> source.splits["test"].images.shape, source.complete
      ((359, 8, 8, 1), True)
    """
    kind, colon, path = name.partition(":")
    if colon and kind in ("npz", "folder") and path:
        from osrjax.data import folders, npz_files

        return npz_files.npz_source(Path(path)) if kind == "npz" else folders.folder_source(Path(path))
    if name in DATA_SETS:
        found = DATA_SETS[name]
        if found.pair is not None:
            raise ValueError(
                f"data set name={name!r} is two sets, known classes of {found.pair[0]} and unknown ones of"
                f" {found.pair[1]}: name one of them"
            )
        if found.source is not None:
            return load(found.source)()
        from osrjax.data.prepared import prepared_source

        return prepared_source(name, data_dir=data_dir)
    raise ValueError(f"data set name={name!r} is unknown: choose one of {', '.join(SOURCES)}")
