"""Training as pure functions: a state, a step, an evaluation.

``step(state, batch, key, hyper) -> (state, metrics)`` is not jitted: the caller writes
``jax.jit(step, donate_argnums=0)`` for one run or ``jax.vmap(step, ...)`` for several.
An *optimizer* here is a function of the hyper-parameters that returns an optax transformation,
since optax binds learning rate and weight decay when a transformation is built: built inside the traced step,
they stay traced numbers.

With a batch sharded over devices, batch normalisation computes the statistics of the GLOBAL batch: by itself under
``jit``, and by an ``axis_name`` in an objective of :func:`osrjax.parallel.data_parallel`, which sums gradients once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, UInt8

from osrjax import augment, sharding
from osrjax.models import ContrastiveNetwork, OpenSetNetwork
from osrjax.objectives import Batch, Hyper, Objective

__all__ = [
    "Optimizer",
    "Predictions",
    "TrainState",
    "apply_in_batches",
    "decayed_parameters",
    "estimate_statistics",
    "evaluate",
    "init_state",
    "make_adam",
    "make_sgd",
    "make_train_step",
]

PyTree = Any
Optimizer = Callable[[Hyper], optax.GradientTransformation]


class TrainState(NamedTuple):
    """All that a run must keep to go on: the step, parameters, running statistics, optimiser state."""

    step: Int[Array, ""]
    params: PyTree
    stats: PyTree
    opt_state: optax.OptState


class Predictions(NamedTuple):
    """Host arrays, one row per evaluated image, in the order of the images."""

    logits: Float[np.ndarray, "examples classes"]
    embedding: Float[np.ndarray, "examples features"]


def make_sgd(*, total_steps: int, momentum: float = 0.9, nesterov: bool = False) -> Optimizer:
    r"""Returns the paper's optimiser: SGD with momentum, L2 weight decay and a cosine learning rate.

    .. math:: \eta_t = \eta_{end} + (\eta_0 - \eta_{end}) \tfrac12 (1 + \cos(\pi t / T)).

    The decay is added to the gradient before the momentum (L2, not decoupled) and touches kernels and
    prototypes alone: batch normalisation's scales and all biases are left out. It reads ``learning_rate``,
    ``final_learning_rate`` and ``weight_decay`` from ``hyper``.

    Args:
      total_steps: T, at least 1.
      momentum: in [0, 1).
      nesterov: Nesterov's form of the momentum.

    Returns:
      A function from ``hyper`` to an optax transformation.

    Raises:
      ValueError: ``total_steps`` below 1 or ``momentum`` outside [0, 1).

    References:
      Park et al., arXiv 2209.11436, sec. 5 (recipe); momentum 0.9 and the choice of what decays are ours.
    """
    if total_steps < 1:
        raise ValueError(f"{total_steps=} is below 1: give the number of steps of the whole schedule")
    if not 0 <= momentum < 1:
        raise ValueError(f"{momentum=} is outside [0, 1): give a momentum such as 0.9")

    def sgd(hyper: Hyper) -> optax.GradientTransformation:
        schedule = optax.cosine_decay_schedule(
            hyper["learning_rate"], total_steps, hyper["final_learning_rate"] / hyper["learning_rate"]
        )
        return optax.chain(
            optax.add_decayed_weights(hyper["weight_decay"], mask=decayed_parameters),
            optax.trace(momentum, nesterov=nesterov),
            optax.scale_by_learning_rate(schedule),
        )

    return sgd


def make_adam() -> Optimizer:
    r"""Returns GradMix's optimiser: Adam without weight decay and a cosine learning rate.

    .. math:: \eta_t = \eta_{end} + (\eta_0 - \eta_{end}) \tfrac12 (1 + \cos(\pi \min(t / T, 1))).

    It reads ``learning_rate``, ``final_learning_rate`` and ``schedule_steps`` (T) from ``hyper``. The authors'
    schedule ends at 0.512 of the first learning rate (0.8 cubed). A state of zeros starts a schedule anew.

    Returns:
      A function from ``hyper`` to an optax transformation.

    References:
      Kingma and Ba, arXiv 1412.6980; recipe of Xu et al., arXiv 2505.12803, as in its code.
    """

    def adam(hyper: Hyper) -> optax.GradientTransformation:
        first, last = hyper["learning_rate"], hyper["final_learning_rate"]

        def schedule(count: Any) -> Any:
            share = jnp.minimum(count / hyper["schedule_steps"], 1.0)
            return last + (first - last) * 0.5 * (1.0 + jnp.cos(jnp.pi * share))

        return optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(schedule))

    return adam


def decayed_parameters(params: PyTree) -> PyTree:
    """Marks the parameters that weight decay touches: kernels and prototypes.

    Args:
      params: a parameter tree of nested mappings.

    Returns:
      The same tree with True for kernels and prototypes, False for scales and biases.

    Example:
      >>> decayed_parameters({"conv": {"kernel": 0.0}, "norm": {"scale": 0.0}, "prototypes": 0.0})
      {'conv': {'kernel': True}, 'norm': {'scale': False}, 'prototypes': True}
    """
    return jax.tree.map_with_path(lambda path, _: path[-1].key in ("kernel", "prototypes"), params)


def init_state(
    key: Array,
    network: OpenSetNetwork | ContrastiveNetwork,
    optimizer: Optimizer,
    hyper: Hyper,
    *,
    image_shape: tuple[int, int, int],
) -> TrainState:
    """Fresh parameters, statistics and optimiser state; pure, so that ``vmap`` over keys gives an ensemble.

    Args:
      key: consumed.
      network: the network to initialise.
      optimizer: as for :func:`make_train_step`.
      hyper: any values; only the structure of the optimiser state depends on them.
      image_shape: height, width, channels.

    Returns:
      The state at step 0.
    """
    variables = network.init(key, jnp.zeros((1, *image_shape)), train=False)
    params, stats = variables["params"], variables["batch_stats"]
    return TrainState(jnp.zeros((), jnp.int32), params, stats, optimizer(hyper).init(params))


def make_train_step(
    objective: Objective, optimizer: Optimizer
) -> Callable[[TrainState, Batch, Array, Hyper], tuple[TrainState, dict[str, Array]]]:
    """Returns ``step(state, batch, key, hyper) -> (state, metrics)``, pure and not jitted.

    The key is folded with the step number, so one key serves the whole run and the random numbers of a step
    depend on nothing that came before: a resumed run draws what an undisturbed one would have drawn.

    Args:
      objective: what to minimise; for a batch over several devices from :func:`osrjax.parallel.data_parallel`.
      optimizer: a function from ``hyper`` to an optax transformation.

    Returns:
      The step. Its metrics are the objective's, and ``loss``, ``grad_norm``, ``update_norm``, ``param_norm``
      (global Euclidean norms; the first two of the step taken, the last one before it).
    """

    def step(state: TrainState, batch: Batch, key: Array, hyper: Hyper) -> tuple[TrainState, dict[str, Array]]:
        step_key = jax.random.fold_in(key, state.step)
        differentiate = jax.value_and_grad(objective, has_aux=True)
        (loss, aux), grads = differentiate(state.params, state.stats, batch, step_key, hyper)
        updates, opt_state = optimizer(hyper).update(grads, state.opt_state, state.params)
        metrics = {
            "loss": loss,
            **aux.metrics,
            "grad_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            "param_norm": optax.tree.norm(state.params),
        }
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, aux.stats, opt_state), metrics

    return step


def estimate_statistics(
    state: TrainState,
    network: OpenSetNetwork | ContrastiveNetwork,
    images: UInt8[np.ndarray, "examples height width channels"],
    *,
    batch_size: int,
    batches: int = 50,
    mesh: jax.sharding.Mesh | None = None,
) -> TrainState:
    """The state with running statistics estimated on images, its parameters untouched.

    An untrained network has mean 0 and variance 1 as running statistics, which describe none of its layers:
    what it would give with them is an artefact. Successive batches, from the first image on and round again.

    Args:
      state: its parameters are used as they are.
      network: the network that the parameters belong to.
      images: known TRAINING images.
      batch_size: images a batch.
      batches: how many; with a momentum of 0.9 the initial statistics keep a weight of 0.9 to that power.
      mesh: devices to share each batch, a multiple of their number; None for the default device.

    Returns:
      The state with new ``stats``.
    """

    @jax.jit
    def update(params: PyTree, stats: PyTree, rows: Array) -> PyTree:
        variables = {"params": params, "batch_stats": stats}
        _, updated = network.apply(variables, augment.to_float(rows), train=True, mutable="batch_stats")
        return updated["batch_stats"]

    stats = state.stats
    for batch in range(batches):
        rows = np.arange(batch * batch_size, (batch + 1) * batch_size) % len(images)
        stats = update(state.params, stats, _placed(images[rows], mesh))
    return state._replace(stats=stats)


def evaluate(
    forward: Callable[[Float[Array, "batch height width channels"]], Any],
    images: UInt8[np.ndarray, "examples height width channels"],
    *,
    batch_size: int,
    mesh: jax.sharding.Mesh | None = None,
) -> Predictions:
    """Outputs of a network for every image, none left out.

    The last batch is padded with copies of the first image and the padding's rows are dropped, so that one
    compiled program serves all batches and no metric loses its last examples. The images must not interact:
    ``forward`` uses running statistics.

    Args:
      forward: jitted; float32 images in [-1, 1] to an object with ``logits`` and ``embedding``.
      images: at least one; the same in every process.
      batch_size: images a call, at least 1; raised to a multiple of the number of devices.
      mesh: devices to share each batch; ``forward`` then gives its results to all (``out_shardings`` replicated).
        None for the default device.

    Returns:
      Logits and embeddings, in the order of the images.

    Raises:
      ValueError: no image, or a ``batch_size`` below 1.
    """

    def predict(rows: Array) -> Predictions:
        outputs = forward(rows)
        return Predictions(outputs.logits, outputs.embedding)

    return apply_in_batches(predict, images, batch_size=batch_size, mesh=mesh)


def apply_in_batches(
    forward: Callable[[Float[Array, "batch height width channels"]], PyTree],
    images: UInt8[np.ndarray, "examples height width channels"],
    *,
    batch_size: int,
    mesh: jax.sharding.Mesh | None = None,
) -> PyTree:
    """Whatever a function gives for every image, as host arrays; padding and errors are those of :func:`evaluate`.

    Args:
      forward: jitted; float32 images in [-1, 1] to a tree of arrays with one row per image.
      images: at least one.
      batch_size: images a call, at least 1.
      mesh: as for :func:`evaluate`.

    Returns:
      The tree with NumPy arrays, in the order of the images; all of it in every process.
    """
    if batch_size < 1 or not len(images):
        raise ValueError(f"{batch_size=} with {len(images)=}: give at least one image and a batch of at least 1")
    if mesh is not None:
        batch_size += -batch_size % mesh.shape["data"]
    parts = []
    for start in range(0, len(images), batch_size):
        rows = images[start : start + batch_size]
        missing = batch_size - len(rows)
        padded = np.concatenate([rows, np.repeat(images[:1], missing, axis=0)]) if missing else rows
        parts.append(jax.tree.map(np.asarray, forward(augment.to_float(_placed(padded, mesh)))))
    # Padding stands in the last batch alone, at its end.
    return jax.tree.map(lambda *arrays: np.concatenate(arrays)[: len(images)], *parts)


def _placed(images: np.ndarray, mesh: jax.sharding.Mesh | None) -> Array:
    """The images on the default device, or spread over those of a mesh."""
    return jnp.asarray(images) if mesh is None else sharding.spread(images, sharding.batch_sharding(mesh))
