"""Which images these are: checksums of pixels and labels, by which a run knows its data whatever its name and place.

*Cost*. Every image of the parts that a class split takes is hashed once a start: 1 to 2 GB a second with the SHA
instructions of a processor, 0.4 without, so CIFAR-10 takes a tenth to half a second, TinyImageNet one to four.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from osrjax.data.bundled import examples_sha256
from osrjax.data.open_set import OpenSetData
from osrjax.data.splits import ClassSplit

__all__ = ["PARTS", "content_of", "image_digests", "other_content", "parts_sha256"]

PARTS = ("train", "validation", "test_known", "test_unknown")


def parts_sha256(data: OpenSetData) -> dict[str, str]:
    """The checksum of each part of an experiment.

    Args:
      data: the examples.

    Returns:
      :func:`osrjax.data.bundled.examples_sha256` by part, of pixels and labels.
    """
    return {part: examples_sha256(getattr(data, part)) for part in PARTS}


def image_digests(images: np.ndarray) -> list[bytes]:
    """A checksum of each image alone, of its pixels: equal images have equal ones.

    Args:
      images: uint8, [n, height, width, channels].

    Returns:
      n checksums of 16 bytes.

    Example:
      >>> first, second, third = image_digests(np.array([[[[1]]], [[[2]]], [[[1]]]], np.uint8))
      >>> first == third, first == second
      (True, False)
    """
    return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]


def content_of(data: OpenSetData, split: ClassSplit) -> dict[str, Any]:
    """What a run directory remembers of the data; a run never goes on with other data.

    Args:
      data: the examples.
      split: the split that they were taken by.

    Returns:
      Plain values for the ``content`` of :class:`osrjax.run.Run`: split, names of the classes, sources, shape of an
      image, and by part numbers of images and checksums.
    """
    return {
        "split": dataclasses.asdict(split),
        "known_names": list(data.known_names),
        "unknown_names": list(data.unknown_names),
        "sources": [{"name": name, "provenance": text, "complete": complete} for name, text, complete in data.sources],
        "image_shape": data.train.images.shape[1:],
        "images": {part: len(getattr(data, part).labels) for part in PARTS},
        "sha256": parts_sha256(data),
    }


def other_content(stored: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """In what the data of a run and the data found now differ.

    What an earlier version did not remember is not asked for. Where checksums were remembered they decide, whatever
    the sources are called; where not, what the sources said of themselves.

    Args:
      stored: what a run remembers, of :func:`content_of` or mappings of such, as JSON values.
      found: the same of now.

    Returns:
      Names, none where it is the same data.

    Example:
      >>> other_content({"sha256": {"train": "a"}, "images": 3}, {"sha256": {"train": "b"}, "images": 3, "new": 1})
      ['sha256']
    """
    differing = []
    for name in (name for name in found if name in stored):
        before, now = stored[name], found[name]
        if name == "sources":
            same = "sha256" in stored or _origins(before) == _origins(now)
        elif isinstance(now, Mapping) and "sources" in now and isinstance(before, Mapping):
            same = not other_content(before, now)
        else:
            same = before == now
        if not same:
            differing.append(name)
    return differing


def _origins(sources: Any) -> Any:
    """What sources say of themselves, without the names and paths that opened them."""
    if isinstance(sources, list) and all(isinstance(source, Mapping) for source in sources):
        return [source.get("provenance") for source in sources]
    return sources
