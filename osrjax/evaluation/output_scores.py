"""Every score that stored outputs allow (:mod:`osrjax.evaluation.outputs`), by name, and what it needs."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from osrjax import scores
from osrjax.choices import error_text
from osrjax.evaluation.assessment import ScoredImages, log_entropy, log_max_softmax, open_set_scores, scored_images
from osrjax.evaluation.outputs import HEAD, Rows, StoredOutputs

__all__ = ["OUTPUT_SCORES", "Fits", "OutputScore", "applicable_scores", "score_outputs"]

Scored = dict[str, tuple[np.ndarray, np.ndarray]]
OfRows = Callable[[Rows], tuple[Any, Any]]


class OutputScore(NamedTuple):
    """A score of stored outputs.

    Attributes:
      kind: "outputs", or "fitted" to known training images.
      needs: names of arrays.
      make: fits of stored outputs -> (rows of any images -> scores and predicted classes), fitted where it fits.
    """

    kind: str
    needs: tuple[str, ...]
    make: Callable[["Fits"], OfRows]


class Fits:
    """Stored outputs, and what several scores of theirs share: fitted once, and taken once of the same rows.

    Args:
      stored: from :func:`read_outputs`.
    """

    def __init__(self, stored: StoredOutputs):
        self.stored = stored
        self._taken: dict[str, tuple[Rows, Any]] = {}

    @functools.cached_property
    def bank(self) -> scores.KnnBank:
        """The training embeddings, as :func:`osrjax.scores.fit_knn` refuses or takes them."""
        return scores.fit_knn(*self._train, classes=self.stored.classes)

    @functools.cached_property
    def mahalanobis(self) -> scores.RelativeMahalanobis:
        """Of the training embeddings, from :func:`osrjax.scores.fit_relative_mahalanobis`."""
        return scores.fit_relative_mahalanobis(*self._train, classes=self.stored.classes)

    @property
    def _train(self) -> tuple[np.ndarray, np.ndarray]:
        return self.stored.outputs["train"]["embedding"], self.stored.labels["train"]

    def neighbours(self, rows: Rows) -> tuple[tuple[Any, ...], Any]:
        """:func:`osrjax.scores.neighbour_cosines` of the nearest, the 3 nearest and the 50th, or as many as there are.

        Args:
          rows: an ``embedding`` per image among them.
        """
        sums, kth = (1, min(3, int(self.bank.counts.min()))), min(50, int(self.bank.counts.sum()))
        embedding = rows["embedding"]
        return self._once("cosines", rows, lambda: scores.neighbour_cosines(self.bank, embedding, sums=sums, kth=kth))

    def distances(self, rows: Rows) -> Any:
        """:func:`osrjax.scores.mahalanobis_distances` to the classes.

        Args:
          rows: an ``embedding`` per image among them.
        """
        fitted = self.mahalanobis.classes
        return self._once("distances", rows, lambda: scores.mahalanobis_distances(fitted, rows["embedding"]))

    def _once(self, name: str, rows: Rows, take: Callable[[], Any]) -> Any:
        if name not in self._taken or self._taken[name][0] is not rows:
            self._taken[name] = rows, take()
        return self._taken[name][1]


def _of_logits(score: Callable[..., Any], *others: str) -> OutputScore:
    """A score ``(*others, logits)`` without a fit."""

    def make(fits: Fits) -> OfRows:
        stored = fits.stored
        return lambda rows: (
            score(*(jnp.asarray(rows[name]) for name in others), stored.scaled(rows)),
            stored.predicted(rows),
        )

    return OutputScore("outputs", (*others, "logits"), make)


def _of_embeddings(score: Callable[[Fits, Rows], tuple[Any, Any]], fit: str) -> OutputScore:
    """A score ``(fits, rows)`` that reads a fit by its name."""

    def make(fits: Fits) -> OfRows:
        getattr(fits, fit)  # refused here, if at all
        return functools.partial(score, fits)

    return OutputScore("fitted", ("embedding", "train_embedding"), make)


def _openmax(fits: Fits) -> OfRows:
    stored = fits.stored
    fitted = scores.fit_openmax(stored.scaled(stored.outputs["train"]), stored.labels["train"])
    return lambda rows: (scores.openmax_score(fitted, stored.scaled(rows)), stored.predicted(rows))


def _knn_sum(fits: Fits, rows: Rows) -> tuple[Any, Any]:
    (_, similarities), _ = fits.neighbours(rows)
    return scores.knn_sum_score(similarities), similarities.argmax(axis=-1)


def _knn_ratio(fits: Fits, rows: Rows) -> tuple[Any, Any]:
    (_, similarities), _ = fits.neighbours(rows)
    return scores.knn_ratio_score(similarities), similarities.argmax(axis=-1)


def _kth(fits: Fits, rows: Rows) -> tuple[Any, Any]:
    (nearest, _), kth = fits.neighbours(rows)
    return -kth, nearest.argmax(axis=-1)


def _mahalanobis(fits: Fits, rows: Rows) -> tuple[Any, Any]:
    distances = fits.distances(rows)
    return scores.mahalanobis_score(distances), distances.argmin(axis=-1)


def _relative_mahalanobis(fits: Fits, rows: Rows) -> tuple[Any, Any]:
    score = scores.relative_mahalanobis_score(fits.mahalanobis, rows["embedding"])
    return score, fits.distances(rows).argmin(axis=-1)


def _vim(fits: Fits) -> OfRows:
    stored = fits.stored
    fitted = scores.fit_vim(stored.outputs["train"]["embedding"], _head(stored))
    return lambda rows: (
        scores.vim_score(fitted, jnp.asarray(rows["embedding"]), jnp.asarray(rows["logits"])),
        stored.predicted(rows),
    )


def _react(fits: Fits) -> OfRows:
    stored = fits.stored
    threshold = scores.fit_react(stored.outputs["train"]["embedding"])
    return lambda rows: (
        scores.react_score(threshold, jnp.asarray(rows["embedding"]), _head(stored)),
        stored.predicted(rows),
    )


def _head(stored: StoredOutputs) -> scores.Head:
    assert stored.head is not None  # needs names it
    return stored.head


OUTPUT_SCORES: dict[str, OutputScore] = {
    "max_softmax": _of_logits(log_max_softmax),
    "max_logit": _of_logits(scores.max_logit_score),
    "energy": _of_logits(scores.energy_score),
    "entropy": _of_logits(log_entropy),
    "generalised_entropy": _of_logits(scores.generalised_entropy_score),
    "gradient_norm": _of_logits(scores.gradient_norm_score, "embedding")._replace(needs=("logits", "embedding", *HEAD)),
    "openmax": OutputScore("fitted", ("logits", "train_logits"), _openmax),
    "knn_sum": _of_embeddings(_knn_sum, "bank"),
    "knn_ratio": _of_embeddings(_knn_ratio, "bank"),
    "kth_neighbour": _of_embeddings(_kth, "bank"),
    "mahalanobis": _of_embeddings(_mahalanobis, "mahalanobis"),
    "relative_mahalanobis": _of_embeddings(_relative_mahalanobis, "mahalanobis"),
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
        larger = more unknown; arrays that cannot be written to; without training images the last two are None.

    Returns:
      Scores and predicted classes by name, and by name why a score is missing: the arrays that it needs, what its fit
      refuses, or that it leaves the range of float32.

    Raises:
      ValueError: a score of one's own that raises an error, or is not one finite number per image.
    """
    names, missing = applicable_scores(stored)
    functions: dict[str, OfRows] = {}
    fits = Fits(stored)
    for name in names:
        try:
            functions[name] = OUTPUT_SCORES[name].make(fits)
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


def _read_only(rows: Rows) -> dict[str, np.ndarray]:
    views = {name: np.asarray(values).view() for name, values in rows.items()}
    for view in views.values():
        view.flags.writeable = False
    return views


def _own(
    name: str, function: Callable[..., Any], stored: StoredOutputs, others: Mapping[str, Callable[[Rows], Any]]
) -> Callable[[Rows], tuple[Any, Any]]:
    """A score of the user's, looked at; its classes are those of the largest logit or of the first score there is."""
    if "logits" not in stored.outputs["known"] and not others:
        raise ValueError(f"score={name!r} goes with no predicted class: store logits too, or train_embedding")

    train, labels = stored.outputs.get("train"), stored.labels.get("train")
    of_train = (None if train is None else _read_only(train), None if labels is None else _read_only({"": labels})[""])

    def found(rows: Rows) -> tuple[Any, Any]:
        images = len(next(iter(rows.values())))
        try:
            values = np.asarray(function(_read_only(rows), *of_train))
        except (Exception, SystemExit) as error:
            raise ValueError(f"score={name!r} raises {error_text(error)}: mend it") from error
        if values.shape != (images,):
            raise ValueError(f"score={name!r} gives shape {values.shape} for {images} images: one number per image")
        largest = 1e300  # differences are finite too
        if values.dtype.kind not in "fiu" or not (np.abs(values.astype(np.float64)) <= largest).all():
            raise ValueError(f"score={name!r} gives values that are no finite numbers: mend it")
        classes = stored.predicted(rows) if "logits" in rows else next(iter(others.values()))(rows)[1]
        return values.astype(np.float64), classes

    return found
