"""Scores that ask the network itself, not its outputs: of validation, known and unknown images of a trained method."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from osrjax import scores
from osrjax.analysis.norms import dataset_jacobian_norms
from osrjax.augment.pixels import to_float_host
from osrjax.devices.cpu import compiler_options
from osrjax.evaluation.assessment import ScoredImages
from osrjax.methods.method import Method
from osrjax.models.outputs import BatchFunction, PyTree
from osrjax.train.apply import apply_in_batches, check_finite

__all__ = ["IMAGE_SCORES", "ImageScore", "Limits", "score_image_parts"]

ODIN_STEP = 2 * 0.0014  # the paper's is for pixels in [0, 1]
PROJECTIONS = 8
PARTS = ("validation", "known", "unknown")


class Limits(NamedTuple):
    """What a computation may use, which changes no number, and the seed of what is drawn.

    Attributes:
      batch_size: images at a time; exact norms choose their own.
      memory_budget: bytes, of exact norms.
      seed: of random projections; each image has its own, whatever the batch.
    """

    batch_size: int = 100
    memory_budget: int = 2**30
    seed: int = 0


class ImageScore(NamedTuple):
    """A score of (function, variables, images).

    Attributes:
      of: name of the method's function; None for the unit vector that its loss compares.
      take: ``(function, variables, uint8 images, limits) -> one score per image``, larger = more unknown.
    """

    of: str | None
    take: Callable[[BatchFunction, PyTree, np.ndarray, Limits], np.ndarray]


def _odin(function: BatchFunction, variables: PyTree, images: np.ndarray, limits: Limits) -> np.ndarray:
    score = jax.jit(partial(scores.odin_score, function, step=ODIN_STEP), compiler_options=compiler_options())
    return apply_in_batches(partial(score, variables), images, batch_size=limits.batch_size)


def _norm(function: BatchFunction, variables: PyTree, images: np.ndarray, limits: Limits) -> np.ndarray:
    floats = to_float_host(images)
    return dataset_jacobian_norms({"norm": function}, variables, floats, memory_budget=limits.memory_budget)["norm"]


def _estimate(function: BatchFunction, variables: PyTree, images: np.ndarray, limits: Limits) -> np.ndarray:
    def one(variables: PyTree, key: Array, image: Array) -> Array:
        return scores.jacobian_estimate_score(function, key, variables, image[None], projections=PROJECTIONS)[0]

    count, size = len(images), min(limits.batch_size, len(images))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(limits.seed), jnp.arange(count))
    estimate = jax.jit(jax.vmap(one, (None, 0, 0)), compiler_options=compiler_options())
    batches = np.minimum(np.arange(count + -count % size), count - 1).reshape(-1, size)
    found = [np.asarray(estimate(variables, keys[rows], to_float_host(images[rows]))) for rows in batches]
    return np.concatenate(found)[:count]


LIMITS = Limits()

IMAGE_SCORES: dict[str, ImageScore] = {
    "odin": ImageScore("logits", _odin),
    "jacobian_norm": ImageScore(None, _norm),
    "jacobian_estimate": ImageScore(None, _estimate),
}


def score_image_parts(
    method: Method,
    variables: PyTree,
    images: Mapping[str, UInt8[np.ndarray, "_ height width channels"]],
    like: ScoredImages,
    *,
    names: Sequence[str] = tuple(IMAGE_SCORES),
    limits: Limits = LIMITS,
) -> dict[str, ScoredImages]:
    """Scores of images under a trained network, by entries of ``IMAGE_SCORES``.

    ``odin`` is :func:`osrjax.scores.odin_score` of the logits (cosines times T), with the paper's temperature and step;
    ``jacobian_norm`` is :func:`osrjax.scores.jacobian_norm_score` of the unit vector that the loss compares, per unit
    of pixels in [-1, 1]; ``jacobian_estimate`` the same from eight projections.

    *Cost* an image, in forward passes with as many operations: ``odin`` 3; ``jacobian_estimate`` 9; ``jacobian_norm``
    one more than the features or inputs, whichever are fewer, so hundreds. The images are floats on the host once.

    Args:
      method: of the run.
      variables: of its network.
      images: ``validation``, ``known`` and ``unknown``.
      like: any score of the same images, whose predicted classes are taken over.
      names: of scores; what is listed is computed.
      limits: images at a time, memory and seed.

    Returns:
      Scores and predicted classes by name.

    Raises:
      ValueError: an unknown name, a score of logits where the method has none, or other numbers of images than
        ``like``; all before any work. A network whose score of some image is not finite.
    """
    for name in names:
        if name not in IMAGE_SCORES:
            raise ValueError(f"image_scores={name!r} does not exist: choose from {', '.join(IMAGE_SCORES)}")
        if (of := IMAGE_SCORES[name].of or method.space) not in method.functions:
            raise ValueError(f"image_scores={name!r} needs {of}, which method={method.options.method!r} has not")
    given, wanted = [len(images[part]) for part in PARTS], [len(rows) for rows in like[:3]]
    if given != wanted:
        raise ValueError(f"images of {', '.join(PARTS)} are {given}, the scored ones {wanted}: give the same images")
    every, ends = np.concatenate([images[part] for part in PARTS]), np.cumsum(given)[:-1]
    found = {}
    for name in names:
        of, take = IMAGE_SCORES[name]
        values = take(_function(method, of or method.space), variables, every, limits)
        check_finite({name: values})
        found[name] = ScoredImages(*np.split(values, ends), *like[3:])
    return found


def _function(method: Method, name: str) -> BatchFunction:
    """A function of the method; logits are cosines times T."""
    function, network = method.functions[name], method.make_network(jnp.float32)
    if name != "logits" or getattr(network, "head", None) != "cosine":
        return function
    scale: Any = method.options.scale  # ty: ignore[missing-attribute]  # of every method with a cosine head
    return lambda variables, images: scale * function(variables, images)
