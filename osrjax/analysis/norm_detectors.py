"""Input-Jacobian norms as detectors: exact, of a few projections, times a distance; their AUROC and what they cost.

*Cost*. A cotangent pass has the operations of a forward pass: n projections cost 1 + n passes, the exact norm 1 + D for
D features, or 1 + the inputs where those are fewer. Time may differ: what is called exact runs at HIGHEST precision.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from osrjax import scores
from osrjax.analysis.norms import make_norm_plan
from osrjax.devices.cpu import compiler_options
from osrjax.metrics.detection import auroc
from osrjax.models.outputs import BatchFunction, PyTree
from osrjax.train.apply import check_finite

__all__ = ["NORM_DETECTORS", "NORM_PROGRAMS", "DetectorCost", "detector_cost", "image_norms", "norm_detector_aurocs"]

PROJECTIONS = (1, 2, 8)
NORM_PROGRAMS = ("forward", *(f"estimate_{n}" for n in PROJECTIONS), "norm")

# The factors of each detector's score.
NORM_DETECTORS: dict[str, tuple[str, ...]] = {
    "own score": ("own",),
    "distance": ("distance",),
    **{f"norm of {n} projection{'s' * (n > 1)}": (f"estimate_{n}",) for n in PROJECTIONS},
    "exact norm": ("norm",),
    f"norm of {PROJECTIONS[-1]} projections x distance": (f"estimate_{PROJECTIONS[-1]}", "distance"),
    "exact norm x distance": ("norm", "distance"),
}


class DetectorCost(NamedTuple):
    """What a program or a detector costs for one image.

    Attributes:
      passes: forward passes with as many operations.
      seconds: the shortest time of a call, without its compilation, over its images.
    """

    passes: float
    seconds: float


def image_norms(
    function: BatchFunction,
    variables: PyTree,
    images: Float[np.ndarray, "images height width channels"],
    *,
    draws: int = 10,
    seed: int = 0,
    batch_size: int = 20,
) -> tuple[dict[str, np.ndarray], dict[str, DetectorCost]]:
    """Exact norms of images and several independent estimates of each, with the cost of every program.

    The programs take turns, batch by batch, so that all meet the same machine.

    Args:
      function: ``(variables, images) -> outputs``.
      variables: of the network.
      images: floats in [-1, 1].
      draws: of the projections, at least 1; an image has its own, whatever the batch.
      seed: of the projections.
      batch_size: images a call, at least 1; fewer where exact norms need it.

    Returns:
      ``norm``, one for each image, and ``estimate_1``, ``estimate_2``, ``estimate_8`` of ``[draws, images]``; costs by
      the names in ``NORM_PROGRAMS``.

    Raises:
      ValueError: a norm is not finite.
    """
    plan = make_norm_plan(function, variables, images.shape[1:], batch_size=min(batch_size, len(images)))
    size, seconds = plan.batch_size, dict.fromkeys(NORM_PROGRAMS, np.inf)
    rows = np.minimum(np.arange(len(images) + -len(images) % size), len(images) - 1).reshape(-1, size)
    every = [[jax.random.fold_in(jax.random.key(seed), n * draws + draw) for draw in range(draws)] for n in PROJECTIONS]

    def keys(key: Array, row: np.ndarray) -> Array:
        return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(row))

    def compiled(function: Callable[..., Array], *arguments: Any) -> Callable[..., Array]:
        return jax.jit(function, compiler_options=compiler_options()).lower(*arguments).compile()

    def timed(name: str, call: Callable[..., Array], *arguments: Any) -> np.ndarray:
        began = time.perf_counter()
        found = jax.block_until_ready(call(variables, *arguments))
        seconds[name] = min(seconds[name], (time.perf_counter() - began) / size)
        return np.asarray(found)

    first = jnp.asarray(images[rows[0]])
    forward = compiled(function, variables, first)
    estimates = [
        compiled(jax.vmap(partial(_estimate, function, n), (None, 0, 0)), variables, keys(every[0][0], rows[0]), first)
        for n in PROJECTIONS
    ]
    found: dict[str, list[np.ndarray]] = {}
    for row in rows:
        batch = jnp.asarray(images[row])
        timed("forward", forward, batch)
        found.setdefault("norm", []).append(timed("norm", plan.norms, batch))
        for n, estimate, drawn in zip(PROJECTIONS, estimates, every, strict=True):
            values = [timed(f"estimate_{n}", estimate, keys(key, row), batch) for key in drawn]
            found.setdefault(f"estimate_{n}", []).append(np.stack(values))
    arrays = {name: np.concatenate(parts, axis=-1)[..., : len(images)] for name, parts in found.items()}
    check_finite({name: values.T for name, values in arrays.items()})
    passes = (1, *(1 + n for n in PROJECTIONS), 1 + plan.passes)
    return arrays, {name: DetectorCost(count, seconds[name]) for name, count in zip(NORM_PROGRAMS, passes, strict=True)}


def _estimate(function: BatchFunction, projections: int, variables: PyTree, key: Array, image: Array) -> Array:
    return scores.jacobian_estimate_score(function, key, variables, image[None], projections=projections)[0]


def norm_detector_aurocs(
    known: Mapping[str, Float[np.ndarray, "*draws images"]], unknown: Mapping[str, Float[np.ndarray, "*draws images"]]
) -> dict[str, Float[np.ndarray, " draws"]]:
    """AUROC of every detector of ``NORM_DETECTORS``.

    Args:
      known: of known images, the arrays of :func:`image_norms`, ``distance`` from known classes, and ``own``, the
        loss's score; all larger = more unknown.
      unknown: of unknown images.

    Returns:
      By detector, one for each draw of the projections; a single one where there are none.

    Raises:
      ValueError: scores that are not finite, or no image.

    Example:
      >>> known = dict.fromkeys(["own", "distance", "norm"], np.array([1.0, 2.0]))
      >>> known |= dict.fromkeys(["estimate_1", "estimate_2", "estimate_8"], np.array([[1.0, 2.0], [2.0, 1.0]]))
      >>> unknown = known | {"estimate_8": np.array([[3.0, 3.0], [0.0, 3.0]])}
      >>> found = norm_detector_aurocs(known, unknown)
      >>> found["own score"].tolist(), found["norm of 8 projections"].tolist()
      ([0.5], [1.0, 0.5])
    """
    found = {}
    for name, factors in NORM_DETECTORS.items():
        of_known, of_unknown = (
            np.prod(np.broadcast_arrays(*(np.atleast_2d(part[factor]) for factor in factors)), axis=0, dtype=np.float64)
            for part in (known, unknown)
        )
        found[name] = np.array([auroc(*rows) for rows in zip(of_known, of_unknown, strict=True)])
    return found


def detector_cost(detector: str, costs: Mapping[str, DetectorCost]) -> DetectorCost:
    """What a detector costs: the sum of the programs that its factors need, a forward pass for distance or own score.

    Args:
      detector: a name in ``NORM_DETECTORS``.
      costs: by the names in ``NORM_PROGRAMS``.

    Returns:
      The cost for one image.

    Example:
      >>> detector_cost("exact norm x distance", {"forward": DetectorCost(1, 0.25), "norm": DetectorCost(129, 16.0)})
      DetectorCost(passes=130, seconds=16.25)
    """
    parts = [costs[factor if factor in NORM_PROGRAMS else "forward"] for factor in NORM_DETECTORS[detector]]
    return DetectorCost(sum(part.passes for part in parts), sum(part.seconds for part in parts))
