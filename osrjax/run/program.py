"""The compiled functions of one run: what a method and its data become on the devices."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from osrjax.data.source import Examples
from osrjax.devices import sharding
from osrjax.devices.cpu import compiler_options
from osrjax.methods.method import Method
from osrjax.train.apply import apply_in_batches, check_finite, estimate_statistics
from osrjax.train.batches import gather_batch, make_inputs
from osrjax.train.parallel import data_parallel
from osrjax.train.step import TrainState, init_state, make_train_step

__all__ = ["Program", "Stage", "make_program"]


class Stage(NamedTuple):
    """Steps that come before the others, with a learning-rate schedule and an optimiser of their own.

    Attributes:
      steps: how many; 0 for no such stage.
      hyper: hyper-parameters that differ from the method's.
    """

    steps: int
    hyper: Mapping[str, float]


class Program(NamedTuple):
    """What a training loop and an assessment call.

    Attributes:
      new_state: () -> the state at step 0, compiled as one program.
      untrained: () -> that state with running statistics estimated on training images.
      step: (state, inputs) -> (state, metrics); consumes the state.
      inputs: start -> iterator over the inputs of the steps after it.
      outputs: (state, uint8 images) -> host arrays by name, one row per image; the method's outputs, or a
        :class:`osrjax.train.NotFiniteError`.
    """

    new_state: Callable[[], TrainState]
    untrained: Callable[[], TrainState]
    step: Callable[[TrainState, Any], tuple[TrainState, dict[str, Any]]]
    inputs: Callable[[int], Iterator[Any]]
    outputs: Callable[[TrainState, np.ndarray], dict[str, np.ndarray]]


def make_program(
    method: Method,
    train: Examples,
    *,
    seed: int,
    batch_size: int,
    mesh: jax.sharding.Mesh,
    first_stage: Stage | None = None,
    streamed: bool = False,
    eval_batch_size: int = 500,
) -> Program:
    """Builds and jits, and computes nothing yet.

    Args:
      method: to train.
      train: training images.
      seed: of initialisation, order and augmentation.
      batch_size: over all devices.
      mesh: of :func:`osrjax.devices.sharding.data_mesh`.
      first_stage: steps with other hyper-parameters before those of the method; None for none.
      streamed: send each batch to the devices instead of keeping all images there.
      eval_batch_size: images of a call of ``outputs``.

    Returns:
      The functions; each is compiled at its first call.
    """
    network = method.make_network(method.options.dtype)
    objective = data_parallel(method.make_objective, network, mesh)
    step_function = make_train_step(objective, method.optimizer)
    hyper = {name: jnp.float32(value) for name, value in method.hyper.items()}
    first_stage = first_stage or Stage(0, {})
    first_steps = first_stage.steps
    first_hyper = hyper | {name: jnp.float32(value) for name, value in first_stage.hyper.items()}
    init_key, train_key = jax.random.split(jax.random.key(seed))
    options, everywhere = compiler_options(), sharding.replicated(mesh)

    def staged_step(state: TrainState, images, indices, key, hyper, first_hyper):
        """One step of the stage that the state is in; the second stage begins with a new optimiser."""
        if first_steps:
            begins, first = state.step == first_steps, state.step < first_steps
            fresh = jax.tree.map(lambda leaf: jnp.where(begins, jnp.zeros_like(leaf), leaf), state.opt_state)
            state = state._replace(opt_state=fresh)
            hyper = {name: jnp.where(first, first_hyper[name], value) for name, value in hyper.items()}
        return step_function(state, gather_batch(images, indices, mesh=mesh), key, hyper)

    compiled_step = jax.jit(staged_step, donate_argnums=0, out_shardings=everywhere, compiler_options=options)
    forward = jax.jit(method.outputs, out_shardings=everywhere, compiler_options=options)
    image_shape = train.images.shape[1:]
    # Compiled as one program: initialising layer by layer takes many times as long.
    new_state = jax.jit(
        lambda: init_state(init_key, network, method.optimizer, hyper, image_shape=image_shape),
        out_shardings=everywhere,
    )

    def outputs(state: TrainState, images: np.ndarray) -> dict[str, np.ndarray]:
        apply = partial(forward, state.variables)
        found = apply_in_batches(apply, images, batch_size=eval_batch_size, mesh=mesh)
        check_finite(found)
        return found

    return Program(
        new_state=new_state,
        untrained=lambda: estimate_statistics(new_state(), network, train.images, batch_size=batch_size, mesh=mesh),
        step=lambda state, inputs: compiled_step(state, *inputs, train_key, hyper, first_hyper),
        inputs=make_inputs(train, batch_size=batch_size, seed=seed, mesh=mesh, streamed=streamed),
        outputs=outputs,
    )
