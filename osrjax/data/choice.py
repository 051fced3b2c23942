"""From the data fields of a configuration to a class split and its images; scripts share these fields.

::

    data               a name for open_source                         required
    unknown_data       where unknown test images come from            None: from `data`
    data_dir           directory of prepared sets                     None
    dataset            whose class lists to take from the family      None: what fits `data`
    family, split      family of class splits and index in it         "neal", 0
    openness           of family "random", drawn from split as seed   0.134
    known, unknown     own class ids instead of a family's            empty; unknown: all others
    held_out           known classes that play unknown ones           empty: test images are used
    validation_share   share of the known training images             0.1
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from osrjax.data import splits
from osrjax.data.catalogue import open_source
from osrjax.data.open_set import OpenSetData, open_set_data, pseudo_unknown_data
from osrjax.data.splits import ClassSplit

__all__ = ["DATA_DEFAULTS", "choose_data", "content_of", "describe_data"]

DATA_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "unknown_data": None,
        "data_dir": None,
        "dataset": None,
        "family": "neal",
        "split": 0,
        "openness": 0.134,
        "known": (),
        "unknown": (),
        "held_out": (),
        "validation_share": 0.1,
    }
)


def choose_data(fields: Mapping[str, Any]) -> tuple[ClassSplit, OpenSetData]:
    """The class split that a configuration asks for, and its images.

    The validation images depend on ``split`` alone, so that runs with other seeds and losses can be compared in
    pairs.

    Args:
      fields: the data fields by name, as ``dataclasses.asdict`` of a configuration or the config.json of a run
        gives them; those of :data:`DATA_DEFAULTS` may be absent, other fields are not looked at.

    Returns:
      The split, and the examples that it takes. With ``held_out`` the examples are those of
      :func:`osrjax.data.pseudo_unknown_data`; the split still lists all known classes.

    Raises:
      ValueError: no ``data``; a field that does not exist, is out of range, or does not fit the others.

    Example:
      >>> split, data = choose_data({"data": "digits", "known": [0, 1, 2], "unknown": [7]})
      >>> split.family, data.known_names, data.unknown_names, len(data.test_unknown.labels)
      ('custom', ('0', '1', '2'), ('7',), 36)
    """
    if "data" not in fields:
        raise ValueError(f"fields={sorted(fields)} name no data: give data, such as 'fashion_mnist_small'")
    name = fields["data"]
    given = {field: fields.get(field, default) for field, default in DATA_DEFAULTS.items()}
    known, unknown, held_out = (tuple(given[field]) for field in ("known", "unknown", "held_out"))
    data_dir = None if given["data_dir"] is None else Path(given["data_dir"])
    if given["split"] < 0:
        raise ValueError(f"split={given['split']!r} must not be negative")
    source = open_source(name, data_dir=data_dir)
    unknown_source = open_source(given["unknown_data"], data_dir=data_dir) if given["unknown_data"] else None
    classes = len(source.class_names)
    if unknown and not known:
        raise ValueError(f"unknown={list(unknown)} without known: give the known classes too")
    if known and unknown_source is not None:
        others = len(unknown_source.class_names)
        split = splits.custom_split(known, unknown or range(others), num_classes=classes, unknown_num_classes=others)
    elif known:
        split = splits.custom_split(known, unknown or set(range(classes)) - set(known), num_classes=classes)
    elif given["family"] == "random":
        split = splits.random_split(classes, openness=given["openness"], seed=given["split"])
    else:
        stem = Path(name.partition(":")[2]).stem if ":" in name else name
        split = splits.class_split(given["family"], given["dataset"] or stem, given["split"])
    data = open_set_data(
        source,
        split,
        unknown_source=unknown_source,
        validation_share=given["validation_share"],
        seed=given["split"],
    )
    if held_out:
        missing = sorted(set(held_out) - set(split.known))
        if missing:
            raise ValueError(f"held_out={missing} are not among the known classes {list(split.known)}")
        data = pseudo_unknown_data(data, [split.known.index(c) for c in held_out])
    return split, data


def describe_data(data: OpenSetData, split: ClassSplit) -> str:
    """One line that says what is known and what is not.

    Args:
      data: the examples.
      split: the split that they were taken by.

    Returns:
      Names of the classes (the number of unknown ones above 10) and numbers of images.
    """
    many = len(data.unknown_names) > 10
    unknown = f"{len(data.unknown_names)} classes" if many else ", ".join(data.unknown_names)
    return (
        f"{split.family} split {split.index} of {split.dataset}; known: {', '.join(data.known_names)}; "
        f"unknown: {unknown}; {len(data.train.labels)} training, {len(data.validation.labels)} validation images"
    )


def content_of(data: OpenSetData, split: ClassSplit) -> dict[str, Any]:
    """What a run directory remembers of the data; a run never goes on with other data.

    Args:
      data: the examples.
      split: the split that they were taken by.

    Returns:
      Plain values for the ``content`` of :class:`osrjax.run.Run`: split, names of the classes, sources, shape of an
      image, numbers of images.
    """
    return {
        "split": dataclasses.asdict(split),
        "known_names": list(data.known_names),
        "unknown_names": list(data.unknown_names),
        "sources": [{"name": name, "provenance": text, "complete": complete} for name, text, complete in data.sources],
        "image_shape": data.train.images.shape[1:],
        "images": {
            part: len(getattr(data, part).labels) for part in ("train", "validation", "test_known", "test_unknown")
        },
    }
