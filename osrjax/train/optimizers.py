"""Optimisers as functions of the hyper-parameters, so that rates and decays stay traced numbers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from osrjax.train.objective import Hyper, PyTree

__all__ = ["Optimizer", "decayed_parameters", "make_adam", "make_sgd"]

Optimizer = Callable[[Hyper], optax.GradientTransformation]


def make_sgd(*, total_steps: int, momentum: float = 0.9, nesterov: bool = False, warmup: float = 0.0) -> Optimizer:
    r"""Returns the paper's optimiser: SGD with momentum, L2 weight decay and a cosine learning rate.

    .. math:: \eta_t = \eta_{end} + (\eta_0 - \eta_{end}) \tfrac12 (1 + \cos(\pi t / T)).

    The decay is added to the gradient before the momentum (L2, not decoupled) and touches kernels and
    prototypes alone: batch normalisation's scales and all biases are left out. It reads ``learning_rate``,
    ``final_learning_rate`` and ``weight_decay`` from ``hyper``.

    Args:
      total_steps: T, at least 1.
      momentum: in [0, 1).
      nesterov: Nesterov's form of the momentum.
      warmup: share of the steps, in [0, 1), in which the rate rises from 0 in a straight line; the cosine has the rest.

    Returns:
      A function from ``hyper`` to an optax transformation.

    Raises:
      ValueError: ``total_steps`` below 1, ``momentum`` or ``warmup`` outside [0, 1).

    References:
      Park et al., arXiv 2209.11436, sec. 5 (recipe); momentum 0.9 and the choice of what decays are ours.
    """
    if total_steps < 1:
        raise ValueError(f"{total_steps=} is below 1: give the number of steps of the whole schedule")
    if not 0 <= momentum < 1:
        raise ValueError(f"{momentum=} is outside [0, 1): give a momentum such as 0.9")

    if not 0 <= warmup < 1:
        raise ValueError(f"{warmup=} is outside [0, 1): give a share of the steps such as 0.2")
    rising = round(warmup * total_steps)

    def sgd(hyper: Hyper) -> optax.GradientTransformation:
        schedule = optax.cosine_decay_schedule(
            hyper["learning_rate"], total_steps - rising, hyper["final_learning_rate"] / hyper["learning_rate"]
        )
        if rising:
            rise = optax.linear_schedule(0.0, hyper["learning_rate"], rising)
            schedule = optax.join_schedules([rise, schedule], [rising])
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
