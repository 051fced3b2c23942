"""Outputs of a network from anywhere, as one npz file.

The file has, for each part ``train``, ``validation``, ``known`` and ``unknown``, the arrays ``PART_logits`` and
``PART_embedding`` (one row per image; either may be missing) and ``PART_labels`` (positions in the known classes; of
``unknown``, which need none, any whole numbers). ``head_kernel`` [features, classes] and ``head_bias`` [classes] belong
to ``logits = embedding @ head_kernel + head_bias``. ``train`` is needed by scores with a fit alone. Arrays of other
names are not read. A run's own scores.npz has this form.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from osrjax import scores
from osrjax.files import read_arrays

__all__ = ["StoredOutputs", "read_outputs"]

PARTS = ("train", "validation", "known", "unknown")
OUTPUTS = ("logits", "embedding")
HEAD = ("head_kernel", "head_bias")
NAMES = (*(f"{part}_{name}" for part in PARTS for name in (*OUTPUTS, "labels")), *HEAD)
Rows = Mapping[str, np.ndarray]


class StoredOutputs(NamedTuple):
    """What a file holds, looked at.

    Attributes:
      outputs: by part and name (``logits``, ``embedding``), float32 rows.
      labels: by part, positions in the known classes; of ``unknown``, where they are there, classes of its own.
      classes: number of known classes.
      head: of the embedding, or None.
      cosines: T where the logits are unscaled cosines, otherwise None.
    """

    outputs: Mapping[str, Rows]
    labels: Mapping[str, np.ndarray]
    classes: int
    head: scores.Head | None = None
    cosines: float | None = None

    @property
    def names(self) -> set[str]:
        """What scores can ask for: arrays by name."""
        found = {*self.outputs["known"]}
        found |= {f"train_{name}" for name in self.outputs.get("train", {})}
        return found | ({"head_kernel", "head_bias"} if self.head is not None else set())

    def scaled(self, rows: Rows) -> jax.Array:
        """Logits, where they are cosines times T."""
        return jnp.asarray(rows["logits"]) * (1.0 if self.cosines is None else self.cosines)

    def predicted(self, rows: Rows) -> np.ndarray:
        """The class of the largest logit."""
        return rows["logits"].argmax(axis=-1)


def read_outputs(file: Path, *, cosines: float | None = None) -> StoredOutputs:
    """Reads and checks a file of outputs.

    Args:
      file: npz, in the form of this module's docstring.
      cosines: T where the logits are unscaled cosines.

    Returns:
      Its outputs, in float32.

    Raises:
      ValueError: one line that names the array that is missing, of another length or width than the others, not finite,
        or of another kind than numbers; labels that are no positions in the known classes; logits that are no cosines.
    """
    arrays = read_arrays(file, "write it with numpy.savez", names=NAMES, finite=False, named=True)
    where = f"file={str(file)!r}"
    outputs = {
        part: {name: _rows(where, f"{part}_{name}", arrays) for name in OUTPUTS if f"{part}_{name}" in arrays}
        for part in PARTS
    }
    outputs = {part: rows for part, rows in outputs.items() if rows}
    for part in PARTS[1:]:
        if part not in outputs:
            raise ValueError(f"{where} has neither {part}_logits nor {part}_embedding: store one of them at least")
    wanted = set(outputs["known"])
    for part, rows in outputs.items():
        if part != "train" and set(rows) != wanted:
            raise ValueError(
                f"{where} has {sorted(rows)} of {part} and {sorted(wanted)} of known: store the same of both"
            )
    widths: dict[str, int] = {}
    for part, rows in outputs.items():
        if len({len(values) for values in rows.values()}) > 1:
            counts = ", ".join(f"{len(values)} of {part}_{name}" for name, values in rows.items())
            raise ValueError(f"{where}: {counts} rows: store one row of each per image")
        for name, values in rows.items():
            if widths.setdefault(name, values.shape[1]) != values.shape[1]:
                raise ValueError(
                    f"{where}: {part}_{name} has {values.shape[1]} columns, others {widths[name]}: store those of one"
                    " network"
                )
    labels = {
        part: _labels(where, f"{part}_labels", arrays, len(next(iter(rows.values()))))
        for part, rows in outputs.items()
        if part != "unknown" or "unknown_labels" in arrays
    }
    positions = {part: found for part, found in labels.items() if part != "unknown"}
    classes = widths.get("logits", 1 + max(int(found.max()) for found in positions.values()))
    for part, found in positions.items():
        if not 0 <= found.min() <= found.max() < classes:
            raise ValueError(
                f"{where}: {part}_labels run from {found.min()} to {found.max()}: give positions in the {classes} known"
                " classes, 0 for the first"
            )
    head = _stored_head(where, arrays, widths)
    if cosines is not None:
        _check_cosines(where, outputs, head)
    return StoredOutputs(outputs, labels, classes, head, cosines)


def _check_cosines(where: str, outputs: Mapping[str, Rows], head: scores.Head | None) -> None:
    remedy = "leave out --cosines"
    if head is not None:
        raise ValueError(f"{where} has {', '.join(HEAD)}, whose logits are no cosines: {remedy}, or the head")
    for part, rows in outputs.items():
        largest = np.abs(rows["logits"]).max() if "logits" in rows else 0.0
        if largest > 1.01:  # bfloat16 rounds to 0.004 of a number
            raise ValueError(f"{where}: {part}_logits reach {largest:.3g} and are no cosines: {remedy}")


def _rows(where: str, name: str, arrays: Rows) -> np.ndarray:
    values = arrays[name]
    if values.ndim != 2 or values.dtype.kind not in "fiu" or 0 in values.shape:
        raise ValueError(
            f"{where}: {name} has shape {values.shape} and dtype {values.dtype}: store numbers, a row per image"
        )
    with np.errstate(over="ignore"):
        rows = values.astype(np.float32)
    if values.any() and not rows.any():
        raise ValueError(f"{where}: {name} is 0 everywhere in float32, not as it is stored: scale it up")
    if not np.isfinite(rows).all():
        row = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise ValueError(f"{where}: {name} is not finite in float32, first in row {row}: look for a diverged network")
    return rows


def _labels(where: str, name: str, arrays: Rows, images: int) -> np.ndarray:
    if name not in arrays:
        raise ValueError(f"{where} has no {name}: store the class of each image, 0 for the first known class")
    labels = arrays[name]
    if labels.shape != (images,):
        raise ValueError(f"{where}: {name} has shape {labels.shape} for {images} images: store one class per image")
    whole = labels.dtype.kind in "iu" or (labels.dtype.kind == "f" and (labels == np.round(labels)).all())
    if not whole or not np.isfinite(labels).all():
        raise ValueError(f"{where}: {name} has dtype {labels.dtype}: store whole numbers, one class per image")
    if max(abs(float(labels.min())), float(labels.max())) >= 2**53:
        raise ValueError(f"{where}: {name} reach {float(labels.max()):.3g}: store positions in the known classes")
    return labels.astype(np.int64)


def _stored_head(where: str, arrays: Rows, widths: Mapping[str, int]) -> scores.Head | None:
    given = [name for name in HEAD if name in arrays]
    if not given:
        return None
    if len(given) == 1 or set(widths) != set(OUTPUTS):
        raise ValueError(f"{where} has {given[0]}: store {', '.join(HEAD)}, logits and embeddings, or no head")
    for name in HEAD:
        if arrays[name].dtype.kind not in "fiu":
            raise ValueError(f"{where}: {name} has dtype {arrays[name].dtype}: store numbers")
    with np.errstate(over="ignore"):
        kernel, bias = (arrays[name].astype(np.float32) for name in HEAD)
    wanted = (widths["embedding"], widths["logits"])
    if kernel.shape != wanted or bias.shape != wanted[1:]:
        raise ValueError(
            f"{where}: head_kernel has shape {kernel.shape}, head_bias {bias.shape}: store {wanted} and {wanted[1:]},"
            " the kernel as the transpose of PyTorch's Linear.weight"
        )
    if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
        raise ValueError(f"{where}: head_kernel or head_bias is not finite: look for a diverged network")
    logits, embedding = (np.float64(arrays[f"known_{name}"]) for name in OUTPUTS)
    apart, size = np.abs(embedding @ kernel + bias - logits).max(), np.abs(logits).max()
    if apart > 0.02 * size:  # bfloat16 rounds to 0.004 of a number
        raise ValueError(
            f"{where}: embedding @ head_kernel + head_bias is up to {apart:.3g} from the known logits: store"
            " what the head reads, before any normalisation, or no head"
        )
    return scores.Head(jnp.asarray(kernel), jnp.asarray(bias))
