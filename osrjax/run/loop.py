"""The step loop of a run: everything that happens between two steps, the same for every script that trains.

Resuming, logging, checkpoints, the stop at a non-finite value and the stop by a signal live here; what a step
does, what it reads and how a state is validated are functions that the caller gives. Steps are dispatched from
Python and never waited for: their metrics stay on the device until a step that logs.
"""

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from osrjax.run.checkpoint import Checkpoints, UnreadableCheckpointsError
from osrjax.run.directory import Run
from osrjax.run.environment import provenance
from osrjax.run.progress import Progress
from osrjax.run.signals import StopSignal

__all__ = ["LoopResult", "check_profile_steps", "train_loop"]

Metrics = dict[str, Any]


class LoopResult(NamedTuple):
    """How a loop ended.

    Attributes:
      state: after the last step that was taken.
      exit_code: 0 if that was the last step of the run and no signal came before; otherwise what the script exits with:
        1 after a non-finite value, 2 without a readable checkpoint, 128 + the number of a signal.
      best_step: the stored step with the highest validation accuracy; None if nothing is stored.
    """

    state: Any
    exit_code: int
    best_step: int | None


def train_loop(
    run: Run,
    checkpoints: Checkpoints,
    stop: StopSignal,
    state: Any,
    train_step: Callable[[Any, Any], tuple[Any, Metrics]],
    inputs: Callable[[int], Iterator[Any]],
    *,
    script: str,
    steps: int,
    batch_size: int,
    log_every: int,
    save_every: int,
    validate: Callable[[Any], float],
    remedy: str,
    on_host: Callable[[Metrics], Metrics] | None = None,
    probe: Callable[[Any, int], str | None] | None = None,
    probe_every: int = 0,
    profile_steps: tuple[int, int] | None = None,
) -> LoopResult:
    """Takes the steps that a run still lacks, from its latest checkpoint on; logs, validates and saves on the way.

    Lines of metrics.jsonl hold ``train/NAME`` of every metric of the step, ``train/images_per_second``, and
    ``validation/accuracy`` where a checkpoint is saved. A run that is killed goes on from its latest checkpoint
    and logs the steps after it again. What ends the loop early is printed.

    Args:
      run: open; its start is recorded and its log opened here.
      checkpoints: open; closed by the caller.
      stop: entered; a request stops the loop after the current step, which is saved first.
      state: a new state, a tree of arrays; the run's own is restored in its place where there is one.
      train_step: ``(state, inputs) -> (state, metrics)`` with scalars on the device, among them ``loss``, or what
        ``on_host`` makes them of; it may consume the state.
      inputs: ``start -> iterator`` over the inputs of the steps after ``start`` (:func:`osrjax.train.make_inputs`).
      script: name of the script, which begins the lines of errors.
      steps: number of steps of the whole run.
      batch_size: images a step, for the speed.
      log_every: steps between logged metrics.
      save_every: steps between checkpoints; the last step is saved whatever it is.
      validate: accuracy of a state on known validation images, by which the best checkpoint is kept; a
        FloatingPointError stops the run, and the state is not saved.
      remedy: what to change after a non-finite value, such as ``"Lower learning_rate=0.1"``.
      on_host: makes the scalars of a step from its metrics, then NumPy arrays.
      probe: ``(state, step)``, called before the first step, every ``probe_every`` steps and after the last one; it
        logs and keeps what it finds, and says what was not finite, which stops the run, or returns None.
      probe_every: steps between probes, at least 1 with ``probe``.
      profile_steps: first and last step of a trace by ``jax.profiler`` that process 0 writes to ``profile/`` of the
        run; of a run that goes on, those that are left.

    Returns:
      The state, the exit code and the best step.

    Raises:
      ValueError: ``steps``, ``log_every`` or ``save_every`` below 1, or ``probe_every`` with a probe;
        ``profile_steps`` that are no steps of the run.
    """
    intervals = {"steps": steps, "log_every": log_every, "save_every": save_every}
    for name, value in (intervals | {"probe_every": probe_every} if probe is not None else intervals).items():
        if value < 1:
            raise ValueError(f"{name}={value!r} is below 1: give a number of steps")
    check_profile_steps(profile_steps, steps)
    try:
        restored = checkpoints.restore_latest(state)
    except UnreadableCheckpointsError as error:
        if run.writes:
            print(f"{script}: {error}", file=sys.stderr)
        return LoopResult(state, 2, None)
    if run.writes:
        run.record_start(provenance())
    start = 0
    if restored is not None:
        start, state = restored.step, restored.state
        if run.writes:
            for line in restored.reports:
                print(line, file=sys.stderr)
            print(f"going on from step {start}", flush=True)
    # A line of step 0 belongs to its probe, which is taken again where nothing was restored.
    run.start_log(start if restored is not None else -1)
    progress = Progress(steps, initial=start, show=run.writes)

    first, last = profile_steps if profile_steps is not None and run.writes else (0, 0)
    tracing = False

    def ended(exit_code: int) -> LoopResult:
        progress.close()
        if tracing:
            jax.profiler.stop_trace()
        checkpoints.wait()
        return LoopResult(state, exit_code, checkpoints.best_step())

    def stopped_by(reason: str) -> LoopResult:
        """Says why the run ends here and what is left of it."""
        result = ended(1)
        stored = checkpoints.steps()
        good = f"the checkpoint of step {max(stored)} is good" if stored else "none was saved"
        if run.writes:
            print(f"{script}: {reason}: stopped; {good}. {remedy}", file=sys.stderr)
        return result

    if probe is not None and start == 0 and (trouble := probe(state, 0)):
        return stopped_by(trouble)
    step_inputs = inputs(start)
    pending = []  # device scalars of steps not yet looked at: reading them would wait for the device
    clock, clock_step = time.perf_counter(), start
    for step in range(start + 1, steps + 1):
        if first <= step <= last and not tracing:
            jax.block_until_ready(state)
            jax.profiler.start_trace(run.directory / "profile")
            tracing = True
        state, step_metrics = train_step(state, next(step_inputs))
        if tracing and step == last:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            tracing = False
        pending.append((step, step_metrics))
        progress.update()
        stopping = stop.reached()  # asked once: a signal may come at any line below
        saving = step % save_every == 0 or step == steps or stopping
        probing = probe is not None and (step % probe_every == 0 or step == steps)
        if not (saving or probing or step % log_every == 0):
            continue
        for logged_step, values in jax.device_get(pending):
            values = on_host(values) if on_host else values
            if broken := [name for name, value in values.items() if not np.isfinite(value)]:
                return stopped_by(f"non-finite {', '.join(broken)} at step {logged_step}")
        pending = []
        now = time.perf_counter()
        speed = (step - clock_step) * batch_size / (now - clock)
        record = {f"train/{name}": float(value) for name, value in values.items()}
        progress.show(step, values, speed=speed)
        if saving:
            try:
                record["validation/accuracy"] = accuracy = validate(state)
            except FloatingPointError as error:
                return stopped_by(f"{error} at step {step}")
        run.log(step, {**record, "train/images_per_second": speed})
        if probing and (trouble := probe(state, step)):
            return stopped_by(trouble)
        # After line and probe: what lies beyond the last checkpoint is dropped or replaced on resuming.
        if saving:
            checkpoints.save(step, state, accuracy=accuracy)
        clock, clock_step = time.perf_counter(), step
        if stopping:
            result = ended(stop.exit_code)
            if run.writes:
                print(f"{script}: stopped by {stop.name} after saving step {step}; the same command goes on")
            return result
    return ended(0)


def check_profile_steps(profile_steps: tuple[int, int] | None, steps: int) -> None:
    """Refuses a window that holds no step of a run.

    Args:
      profile_steps: first and last step of the window, or None.
      steps: of the run.

    Raises:
      ValueError: a first step below 1 or after the last one, or a last step after the run's.
    """
    if profile_steps is not None and not 1 <= profile_steps[0] <= profile_steps[1] <= steps:
        raise ValueError(f"profile_steps={profile_steps!r}: give a first and a last one of the steps 1 to {steps}")
