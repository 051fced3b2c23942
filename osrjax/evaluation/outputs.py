"""Outputs of a network from anywhere, as one npz file, and every score that they allow.

The file has, for each part ``train``, ``validation``, ``known`` and ``unknown``, the arrays ``PART_logits`` and
``PART_embedding`` (one row per image; either may be missing) and ``PART_labels`` (positions in the known classes; of
``unknown``, which need none, any whole numbers). ``head_kernel`` [features, classes] and ``head_bias`` [classes] belong
to ``logits = embedding @ head_kernel + head_bias``. ``train`` is needed by scores with a fit alone. Arrays of other
names are not read. A run's own scores.npz has this form.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from osrjax import scores
from osrjax.evaluation.assessment import ScoredImages, open_set_scores, scored_images
from osrjax.files import read_arrays

__all__ = ["OUTPUT_SCORES", "OutputScore", "StoredOutputs", "applicable_scores", "read_outputs", "score_outputs"]

PARTS = ("train", "validation", "known", "unknown")
OUTPUTS = ("logits", "embedding")
HEAD = ("head_kernel", "head_bias")
NAMES = (*(f"{part}_{name}" for part in PARTS for name in (*OUTPUTS, "labels")), *HEAD)
Rows = Mapping[str, np.ndarray]
Scored = dict[str, tuple[np.ndarray, np.ndarray]]


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


class OutputScore(NamedTuple):
    """A score of stored outputs.

    Attributes:
      kind: "outputs", or "fitted" to known training images.
      needs: names of arrays.
      make: stored -> (rows of any images -> scores and predicted classes), fitted where it fits.
    """

    kind: str
    needs: tuple[str, ...]
    make: Callable[[StoredOutputs], Callable[[Rows], tuple[Any, Any]]]


def _of_logits(score: Callable[..., Any], *others: str) -> OutputScore:
    """A score ``(*others, logits)`` without a fit."""

    def make(stored: StoredOutputs) -> Callable[[Rows], tuple[Any, Any]]:
        return lambda rows: (
            score(*(jnp.asarray(rows[name]) for name in others), stored.scaled(rows)),
            stored.predicted(rows),
        )

    return OutputScore("outputs", (*others, "logits"), make)


def _openmax(stored: StoredOutputs) -> Callable[[Rows], tuple[Any, Any]]:
    fitted = scores.fit_openmax(stored.scaled(stored.outputs["train"]), stored.labels["train"])
    return lambda rows: (scores.openmax_score(fitted, stored.scaled(rows)), stored.predicted(rows))


def _neighbours(score: Callable[[Any], Any], most: int = 3) -> OutputScore:
    def make(stored: StoredOutputs) -> Callable[[Rows], tuple[Any, Any]]:
        bank = scores.fit_knn(stored.outputs["train"]["embedding"], stored.labels["train"], classes=stored.classes)
        neighbours = min(most, int(bank.counts.min()))

        def found(rows: Rows) -> tuple[Any, Any]:
            similarities = scores.class_similarities(bank, rows["embedding"], neighbours=neighbours)
            return score(similarities), similarities.argmax(axis=-1)

        return found

    return OutputScore("fitted", ("embedding", "train_embedding"), make)


def _kth(stored: StoredOutputs, most: int = 50) -> Callable[[Rows], tuple[Any, Any]]:
    bank = scores.fit_knn(stored.outputs["train"]["embedding"], stored.labels["train"], classes=stored.classes)
    neighbours = min(most, int(bank.counts.sum()))

    def found(rows: Rows) -> tuple[Any, Any]:
        nearest = scores.class_similarities(bank, rows["embedding"], neighbours=1).argmax(axis=-1)
        return scores.kth_neighbour_score(bank, rows["embedding"], neighbours=neighbours), nearest

    return found


def _mahalanobis(*, relative: bool) -> OutputScore:
    def make(stored: StoredOutputs) -> Callable[[Rows], tuple[Any, Any]]:
        train = stored.outputs["train"]["embedding"], stored.labels["train"]
        fitted = scores.fit_relative_mahalanobis(*train, classes=stored.classes)

        def found(rows: Rows) -> tuple[Any, Any]:
            distances = scores.mahalanobis_distances(fitted.classes, rows["embedding"])
            score = scores.mahalanobis_score(distances)
            if relative:
                score = scores.relative_mahalanobis_score(fitted, rows["embedding"])
            return score, distances.argmin(axis=-1)

        return found

    return OutputScore("fitted", ("embedding", "train_embedding"), make)


def _vim(stored: StoredOutputs) -> Callable[[Rows], tuple[Any, Any]]:
    fitted = scores.fit_vim(stored.outputs["train"]["embedding"], _head(stored))
    return lambda rows: (
        scores.vim_score(fitted, jnp.asarray(rows["embedding"]), jnp.asarray(rows["logits"])),
        stored.predicted(rows),
    )


def _react(stored: StoredOutputs) -> Callable[[Rows], tuple[Any, Any]]:
    threshold = scores.fit_react(stored.outputs["train"]["embedding"])
    return lambda rows: (
        scores.react_score(threshold, jnp.asarray(rows["embedding"]), _head(stored)),
        stored.predicted(rows),
    )


def _head(stored: StoredOutputs) -> scores.Head:
    assert stored.head is not None  # needs names it
    return stored.head


OUTPUT_SCORES: dict[str, OutputScore] = {
    "max_softmax": _of_logits(scores.max_softmax_score),
    "max_logit": _of_logits(scores.max_logit_score),
    "energy": _of_logits(scores.energy_score),
    "entropy": _of_logits(scores.entropy_score),
    "generalised_entropy": _of_logits(scores.generalised_entropy_score),
    "gradient_norm": _of_logits(scores.gradient_norm_score, "embedding")._replace(needs=("logits", "embedding", *HEAD)),
    "openmax": OutputScore("fitted", ("logits", "train_logits"), _openmax),
    "knn_sum": _neighbours(scores.knn_sum_score),
    "knn_ratio": _neighbours(scores.knn_ratio_score),
    "kth_neighbour": OutputScore("fitted", ("embedding", "train_embedding"), _kth),
    "mahalanobis": _mahalanobis(relative=False),
    "relative_mahalanobis": _mahalanobis(relative=True),
    "vim": OutputScore("fitted", ("logits", "embedding", "train_embedding", *HEAD), _vim),
    "react": OutputScore("fitted", ("logits", "embedding", "train_embedding", *HEAD), _react),
}


def read_outputs(file: Path, *, cosines: float | None = None) -> StoredOutputs:
    """Reads and checks a file of outputs.

    Args:
      file: npz, in the form of this module's docstring.
      cosines: T where the logits are unscaled cosines.

    Returns:
      Its outputs, in float32.

    Raises:
      ValueError: one line that names the array that is missing, of another length or width than the others, not finite,
        or of another kind than numbers; labels that are no positions in the known classes.
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
    return StoredOutputs(outputs, labels, classes, _stored_head(where, arrays, widths), cosines)


def applicable_scores(stored: StoredOutputs) -> tuple[list[str], dict[str, str]]:
    """Which scores can be taken.

    Args:
      stored: from :func:`read_outputs`.

    Returns:
      The names of those whose arrays are there, and what the others miss, by name.
    """
    missing = {
        name: ", ".join(need for need in score.needs if need not in stored.names)
        for name, score in OUTPUT_SCORES.items()
    }
    return [name for name in OUTPUT_SCORES if not missing[name]], {name: why for name, why in missing.items() if why}


def score_outputs(
    stored: StoredOutputs, *, own: Mapping[str, Callable[..., Any]] | None = None
) -> tuple[dict[str, ScoredImages], dict[str, str]]:
    """Every applicable score of validation, known and unknown images.

    Args:
      stored: from :func:`read_outputs`.
      own: scores of the user's, by name: ``(rows by name, train rows by name, train labels) -> one score per image``,
        larger = more unknown; without training images the last two are None.

    Returns:
      Scores and predicted classes by name, and by name why a score is missing: the arrays that it needs, what its fit
      refuses, or that it leaves the range of float32.

    Raises:
      ValueError: a score of one's own that is not one finite number per image.
    """
    names, missing = applicable_scores(stored)
    functions: dict[str, Callable[[Rows], tuple[Any, Any]]] = {}
    for name in names:
        try:
            functions[name] = OUTPUT_SCORES[name].make(stored)
        except ValueError as error:  # training images that this one cannot be fitted to
            missing[name] = str(error)
    for name, function in (own or {}).items():
        functions[name] = _own(name, function, stored, functions)

    def found(rows: Rows) -> Scored:
        scored = {} if stored.cosines is None or "logits" not in rows else _cosine_scores(stored, rows)
        scored |= {name: function(rows) for name, function in functions.items()}
        return {name: (np.asarray(values), np.asarray(classes)) for name, (values, classes) in scored.items()}

    scored = scored_images(found, stored.outputs)
    for name, images in scored.items():
        values = np.concatenate(images[:3])
        if not np.isfinite(values).all():
            missing[name] = f"not finite in float32 for {np.sum(~np.isfinite(values))} of {len(values)} images"
    return {name: images for name, images in scored.items() if name not in missing}, missing


def _cosine_scores(stored: StoredOutputs, rows: Rows) -> Scored:
    found = open_set_scores(rows["logits"], head="cosine", scale=float(stored.cosines or 1.0))
    return {name: (values, stored.predicted(rows)) for name, values in found.items()}


def _own(
    name: str, function: Callable[..., Any], stored: StoredOutputs, others: Mapping[str, Callable[[Rows], Any]]
) -> Callable[[Rows], tuple[Any, Any]]:
    """A score of the user's, looked at; its classes are those of the largest logit or of the first score there is."""
    if "logits" not in stored.outputs["known"] and not others:
        raise ValueError(f"score={name!r} goes with no predicted class: store logits too, or train_embedding")

    def found(rows: Rows) -> tuple[Any, Any]:
        images = len(next(iter(rows.values())))
        values = np.asarray(function(rows, stored.outputs.get("train"), stored.labels.get("train")))
        if values.shape != (images,):
            raise ValueError(f"score={name!r} gives shape {values.shape} for {images} images: one number per image")
        if values.dtype.kind not in "fiu" or not np.isfinite(values).all():
            raise ValueError(f"score={name!r} gives values that are no finite numbers: mend it")
        classes = stored.predicted(rows) if "logits" in rows else next(iter(others.values()))(rows)[1]
        return values.astype(np.float64), classes

    return found


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
