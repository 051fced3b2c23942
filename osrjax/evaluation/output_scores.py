"""Every score that stored outputs allow (:mod:`osrjax.evaluation.outputs`), by name, and what it needs."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from osrjax import scores
from osrjax.evaluation.assessment import ScoredImages, open_set_scores, scored_images
from osrjax.evaluation.outputs import HEAD, Rows, StoredOutputs

__all__ = ["OUTPUT_SCORES", "OutputScore", "applicable_scores", "score_outputs"]

Scored = dict[str, tuple[np.ndarray, np.ndarray]]


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
