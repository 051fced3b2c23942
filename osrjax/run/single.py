"""One run from its first step to its last: the loop of a program with its checkpoints and signals."""

from collections.abc import Callable
from typing import Any

from osrjax.run.checkpoint import Checkpoints
from osrjax.run.directory import Run
from osrjax.run.loop import LoopResult, train_loop
from osrjax.run.program import Program
from osrjax.run.signals import StopSignal

__all__ = ["train_single"]


def train_single(
    run: Run,
    program: Program,
    *,
    script: str,
    steps: int,
    batch_size: int,
    log_every: int,
    save_every: int,
    validate: Callable[[Any], float],
    remedy: str,
    probe: Callable[[Any, int], str | None] | None = None,
    probe_every: int = 0,
    profile_steps: tuple[int, int] | None = None,
) -> LoopResult:
    """Trains, or goes on from the newest checkpoint of the run.

    Args:
      run: open.
      program: of the run.
      script: as in :func:`osrjax.run.train_loop`, as are all others.
      steps: of the whole run.
      batch_size: images a step.
      log_every: steps between logged metrics.
      save_every: steps between checkpoints.
      validate: accuracy of a state.
      remedy: what to change after a non-finite value.
      probe: a look every so many steps.
      probe_every: how many.
      profile_steps: first and last step of a profile.

    Returns:
      The state, the exit code and the best step.
    """
    with StopSignal() as stop, Checkpoints(run.directory / "checkpoints") as kept:
        return train_loop(
            run,
            kept,
            stop,
            program.new_state(),
            program.step,
            program.inputs,
            script=script,
            steps=steps,
            batch_size=batch_size,
            log_every=log_every,
            save_every=save_every,
            validate=validate,
            remedy=remedy,
            probe=probe,
            probe_every=probe_every,
            profile_steps=profile_steps,
        )
