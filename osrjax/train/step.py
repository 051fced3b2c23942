"""Training as pure functions: a state, a step, an evaluation.

``step(state, batch, key, hyper) -> (state, metrics)`` is not jitted: the caller writes
``jax.jit(step, donate_argnums=0)`` for one run or ``jax.vmap(step, ...)`` for several.
An *optimizer* here is a function of the hyper-parameters that returns an optax transformation,
since optax binds learning rate and weight decay when a transformation is built: built inside the traced step,
they stay traced numbers.

With a batch sharded over devices, batch normalisation computes the statistics of the GLOBAL batch: by itself under
``jit``, and by an ``axis_name`` in an objective of :func:`osrjax.train.data_parallel`, which sums gradients once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from osrjax.train.objective import Batch, Hyper, Objective
from osrjax.train.optimizers import Optimizer

__all__ = ["TrainState", "init_state", "make_train_step"]

from osrjax.train.objective import PyTree


class TrainState(NamedTuple):
    """All that a run must keep to go on: the step, parameters, running statistics, optimiser state."""

    step: Int[Array, ""]
    params: PyTree
    stats: PyTree
    opt_state: optax.OptState

    @property
    def variables(self) -> dict[str, PyTree]:
        """What ``network.apply`` takes."""
        return {"params": self.params, "batch_stats": self.stats}


def init_state(
    key: Array,
    network: Any,
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
      objective: what to minimise; for a batch over several devices from :func:`osrjax.train.parallel.data_parallel`.
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
