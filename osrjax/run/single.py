"""One run from its first step to its last: the loop of a program with its checkpoints, signals and probes."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from osrjax.analysis.probe import ProbeSets, make_probe, write_probe
from osrjax.data.open_set import OpenSetData
from osrjax.devices import processes
from osrjax.methods.method import Method
from osrjax.run.checkpoint import Checkpoints
from osrjax.run.directory import Run
from osrjax.run.loop import LoopResult, train_loop
from osrjax.run.program import Program
from osrjax.run.signals import StopSignal
from osrjax.train.step import TrainState

__all__ = ["kept_probe", "outputs_of_parts", "train_single", "write_outputs"]


def train_single(
    run: Run,
    program: Program,
    config: Any,
    *,
    script: str,
    steps: int,
    validate: Callable[[TrainState], float],
    probe: Callable[[TrainState, int], str | None] | None = None,
) -> LoopResult:
    """Trains, or goes on from the newest checkpoint of the run.

    Args:
      run: open.
      program: of the run.
      config: has ``batch_size``, ``learning_rate``, ``log_every``, ``save_every``, ``probe_every``, ``profile_steps``.
      script: name of the script, which begins the lines of errors.
      steps: of the whole run.
      validate: accuracy of a state on known validation images.
      probe: from :func:`kept_probe`; None for none.

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
            batch_size=config.batch_size,
            log_every=config.log_every,
            save_every=config.save_every,
            validate=validate,
            remedy=f"Lower learning_rate={config.learning_rate}",
            probe=probe,
            probe_every=config.probe_every,
            profile_steps=config.profile_steps,
        )


def kept_probe(
    run: Run,
    method: Method,
    data: OpenSetData,
    sets: ProbeSets | None,
    untrained: Callable[[], TrainState],
    *,
    steps: int,
    eval_batch_size: int,
) -> Callable[[TrainState, int], str | None] | None:
    """Returns ``probe(state, step)``, which keeps what it finds, for probe.npz and as a line of the log.

    It runs on one device of process 0, for which the others wait. It says what was not finite, or gives None.

    Args:
      run: open.
      method: of the run.
      data: of the run.
      sets: the images that are probed; None for no probe.
      untrained: the state to look at before the first step.
      steps: of the whole run; lines between images are followed at both ends.
      eval_batch_size: images of a forward pass.

    Returns:
      The function, or None without ``sets``.
    """
    if sets is None:
        return None
    found = make_probe(method, data, sets, profile_steps=(0, steps), eval_batch_size=eval_batch_size)

    def probe(state: TrainState, step: int) -> str | None:
        state = state if step else untrained()
        trouble = ""
        if run.writes:
            try:
                arrays, logged = found(state.variables, step)
            except FloatingPointError as error:
                trouble = str(error)
            else:
                write_probe(run.directory / "probes", arrays)
                run.log(step, logged)
        return processes.gather_text(trouble)[0] or None

    return probe


def outputs_of_parts(
    program: Program, state: TrainState, method: Method, data: OpenSetData
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """What an assessment reads.

    Args:
      program: of the run.
      state: of the network.
      method: says which parts.
      data: of the run.

    Returns:
      Outputs by part and name, and labels by part: positions in the known classes, of unknown images class ids.
    """
    images = {
        "train": data.train,
        "validation": data.validation,
        "known": data.test_known,
        "unknown": data.test_unknown,
    }
    parts = {part: images[part] for part in images if part in method.parts}
    outputs = {part: program.outputs(state, examples.images) for part, examples in parts.items()}
    return outputs, {part: examples.labels for part, examples in parts.items()}


def write_outputs(
    run: Run, outputs: Mapping[str, Mapping[str, np.ndarray]], labels: Mapping[str, np.ndarray], state: TrainState
) -> None:
    """Keeps scores.npz and network.npz, of which everything can be assessed again.

    Args:
      run: open.
      outputs: by part and name.
      labels: by part.
      state: after the last step.
    """
    stored = {f"{part}_{name}": rows for part, values in outputs.items() for name, rows in values.items()}
    run.write_arrays("scores.npz", stored | {f"{part}_labels": rows for part, rows in labels.items()})
    run.write_network(state.variables)
    run.remember_files("scores.npz", "network.npz")
