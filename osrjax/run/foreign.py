"""Whole foreign data sets as unknown images of a finished run."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from osrjax.data import Examples, OpenSetData, Source, image_digests, open_source
from osrjax.run.finished import FinishedRun

__all__ = ["ForeignSet", "foreign_sets"]


class ForeignSet(NamedTuple):
    """Images of another data set.

    Attributes:
      examples: images, and labels of that set.
      class_names: of that set.
      provenance: where they came from, one line.
      shared: what the set has in common with the run's known classes, sentences without their subject.
    """

    examples: Examples
    class_names: tuple[str, ...]
    provenance: str
    shared: list[str]


def foreign_sets(
    run: FinishedRun, names: Sequence[str], *, images: int | None = None, data_dir: Path | None = None
) -> dict[str, ForeignSet]:
    """The unknown images of foreign sets: their test parts, or of a set without one each of its parts.

    Args:
      run: whose known classes they are against.
      names: of the sets, as for :func:`osrjax.data.open_source`.
      images: at most so many of each part, evenly over its rows; None for all.
      data_dir: directory of prepared sets.

    Returns:
      By name, with the part's where it is no test part.

    Raises:
      ValueError: a set that is the run's own, by its name or images, or whose images have another shape.
    """
    shape, data, found = tuple(run.provenance["image_shape"]), run.data, {}
    tested = set(image_digests(data.test_known.images))
    known = tested.union(*(image_digests(part.images) for part in (data.train, data.validation)))
    for name in names:
        own = ValueError(f"against={name!r} is the run's own data, whose classes it knows: give another set")
        if name == run.config.get("data"):
            raise own
        source = open_source(name, data_dir=data_dir)
        for part in ["test"] if "test" in source.splits else source.splits:
            pixels, labels = source.splits[part]
            if pixels.shape[1:] != shape:
                raise ValueError(f"against={name!r} has images {pixels.shape[1:]}, the run {shape}: give such images")
            digests = image_digests(pixels)
            if tested <= set(digests) or known.issuperset(digests):
                raise own
            # Evenly over the set: the first rows of a sorted one would be of one class.
            count = min(images or len(pixels), len(pixels))
            rows = np.linspace(0, len(pixels), count, endpoint=False).astype(int)
            examples = Examples(pixels[rows], labels[rows])
            shared = shared_with_known(data, source, sum(digests[row] in known for row in rows), len(rows))
            key = name if part == "test" else f"{name} {part}"
            found[key] = ForeignSet(examples, source.class_names, source.provenance, shared)
    return found


def shared_with_known(data: OpenSetData, source: Source, images: int, of: int) -> list[str]:
    """What a set has in common with the run's known classes: images, and names that are no numbers."""
    names = [name for name in data.known_names if name in source.class_names and not name.isdigit()]
    texts = {
        f"holds {images} images of the run's known classes among {of}, counted as unknown here": images,
        f"has classes that are named like known ones: {', '.join(names)}": names,
    }
    return [text for text, there in texts.items() if there]
