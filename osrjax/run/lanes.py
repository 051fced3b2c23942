"""Many runs as lanes of one compiled program: built, trained, resumed and assessed together.

::

    lanes = [Lane(f"m = {m}", make_method({"method": "m_ovr", "margin": m}, task), data, seed=0) for m in (0.0, 0.5)]
    found = train_lanes("runs/margins", lanes, steps=200, batch_size=128)
    [lane["auroc"] for lane in found.lanes]

The methods of one call differ in the values of their hyper-parameters alone; what else differs (network, loss,
augmentation, number of known classes) needs a call of its own. How lanes share devices is
:mod:`osrjax.train.layout`; what a step of them is, :mod:`osrjax.train.sweep`.
"""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from osrjax import metrics
from osrjax.data.identity import parts_sha256
from osrjax.devices import processes
from osrjax.files import FileError
from osrjax.methods.method import assess, check_data, predicted_classes, score_images
from osrjax.methods.options import structure_of
from osrjax.run.checkpoint import LaneCheckpoints
from osrjax.run.directory import Run
from osrjax.run.lane_program import Lane, LanesProgram, build_lanes
from osrjax.run.loop import train_loop
from osrjax.run.signals import StopSignal
from osrjax.train import sweep
from osrjax.train.layout import Layout, choose_layout, lane_mesh

__all__ = ["LANE_HISTORY", "LANE_METRICS", "LaneResults", "train_lanes"]

OWN_METRICS = ("closed_set_accuracy", "auroc", "oscr", "detection_accuracy", "fpr_at_95_tpr_unknown_positive")
NORMS = ("jnd", "norm_known", "norm_unknown")
LANE_METRICS = (*OWN_METRICS, "davies_bouldin", *NORMS)
LANE_HISTORY = ("auroc", "accuracy", "davies_bouldin", *NORMS)


class LaneResults(NamedTuple):
    """How the lanes ended.

    Attributes:
      exit_code: 0 if all steps were taken; otherwise as :class:`osrjax.run.loop.LoopResult` has it, and nothing else.
      lanes: for each ``diverged_at`` (None for those that did not) and, unless it diverged, ``LANE_METRICS`` of the
        method's own score, and ``scores``, all scores x all metrics.
      history: what was found during training, rows of ``lane``, ``step`` and ``LANE_HISTORY``.
    """

    exit_code: int
    lanes: list[dict[str, Any]]
    history: list[dict[str, Any]]


def train_lanes(
    directory: str | Path,
    lanes: Sequence[Lane],
    *,
    steps: int,
    batch_size: int,
    config: Mapping[str, Any] | None = None,
    layout: Layout | None = None,
    devices: int | None = None,
    log_every: int = 50,
    save_every: int = 200,
    probe_every: int = 0,
    eval_batch_size: int = 500,
    reject_share: float = 0.1,
    resamples: int = 0,
    profile_steps: tuple[int, int] | None = None,
    stop: StopSignal | None = None,
    script: str = "train_lanes",
) -> LaneResults:
    """Trains and assesses lanes as one compiled program; the same call goes on where it was stopped.

    A lane computes what a single run with its method and seed computes, up to the order of sums. A lane that diverges
    is reported and hurts no other.

    Args:
      directory: of checkpoints, log, outputs and results.
      lanes: one or more; all methods have the same structure.
      steps: of every lane, those of the methods' task.
      batch_size: of every lane.
      config: plain values that a later call with the same directory must repeat, besides steps, batch size and lanes.
      layout: None for the fastest known one.
      devices: to spread the lanes over; None for all.
      log_every: steps between logged metrics.
      save_every: steps between checkpoints.
      probe_every: steps between looks at every lane, besides the one after the last step; 0 for that one alone.
      eval_batch_size: images of an evaluation call.
      reject_share: share of known validation images that the threshold of macro-F1 rejects.
      resamples: bootstrap resamples of every lane's own intervals; 0 for none.
      profile_steps: first and last step of a profile.
      stop: entered; None for one of its own.
      script: begins the lines of errors.

    Returns:
      The results, also in results.json of the directory; outputs.npz has what every lane gave, and where the images of
      each part are among its rows.

    Raises:
      ValueError: no lane, lanes that need a call of their own, other steps than those of the methods, data that a
        method cannot work with, or a batch that the devices cannot share.
      FileError: the directory cannot be used.
    """
    directory = Path(directory)
    check_alike(lanes)
    if steps != lanes[0].method.task.steps:
        raise ValueError(f"{steps=}, but the methods are made for {lanes[0].method.task.steps}: give the Task as many")
    for lane in lanes:
        check_data(lane.method, lane.data, batch_size=batch_size)
    mesh = lane_mesh(len(lanes), batch_size=batch_size, devices=devices)
    fields = dict(config or {}) | {"steps": steps, "batch_size": batch_size, "lanes": [lane.name for lane in lanes]}
    for number, (_, method, data, seed, _) in enumerate(lanes):
        images = {"known_names": data.known_names, "training_images": len(data.train.labels)}
        fields[f"lane {number}"] = {"seed": seed, "hyper": dict(method.hyper), **images}
    sets = {id(lane.data): number for number, lane in reversed(list(enumerate(lanes)))}  # its first lane
    content = {f"images of lane {lane}": parts_sha256(lanes[lane].data) for lane in sets.values()}
    with ExitStack() as opened:
        run = opened.enter_context(open_group(directory, fields, content))
        kept = opened.enter_context(LaneCheckpoints(directory / "checkpoints", lanes=len(lanes), mesh=mesh))
        done = run.read_json("results.json")
        finished = processes.gather_text("yes" if done is not None else "")[0]  # others may see process 0's file late
        if finished:
            processes.check_shared(directory / "results.json")
            done = done if done is not None else run.read_json("results.json")
            return LaneResults(0, done["lanes"], done["history"])
        stop = stop or opened.enter_context(StopSignal())
        layout = layout or choose_layout()
        program = build_lanes(lanes, batch_size=batch_size, eval_batch_size=eval_batch_size, layout=layout, mesh=mesh)
        latest: dict[str, Any] = {}

        def train_step(state, inputs):
            state, latest["metrics"] = program.step(state, inputs)
            return state, latest["metrics"]

        def mean_metrics(metrics_of: dict[str, np.ndarray]) -> dict[str, Any]:
            """The mean of every metric over the lanes that have not diverged, and how many have."""
            of_lanes = {name: values[: len(lanes)] for name, values in metrics_of.items()}  # without padding
            alive = ~of_lanes.pop("diverged")
            count = max(np.sum(alive), 1)
            means = {n: np.sum(values, where=alive, dtype=np.float64) / count for n, values in of_lanes.items()}
            return means | {"diverged_lanes": np.sum(~alive)}

        def look(state: sweep.SweepState, step: int) -> str | None:
            """Logs the training metrics of every lane and, every probe_every steps, what a probe finds."""
            found = {}
            if step:
                metrics_of = {n: np.asarray(values) for n, values in latest["metrics"].items() if n != "diverged"}
                for lane in range(len(lanes)):
                    found |= {f"lane/{lane:03d}/{name}": values[lane] for name, values in metrics_of.items()}
            if step == steps or (step and probe_every and step % probe_every == 0):
                for lane, values in enumerate(probed_lanes(lanes, program, state)):
                    found |= {f"lane/{lane:03d}/probe/{name}": value for name, value in values.items()}
            if found:
                run.log(step, {name: float(value) for name, value in found.items() if np.isfinite(value)})
            return None

        trained = train_loop(
            run,
            kept,
            stop,
            program.new_state(),
            train_step,
            lambda start: map(program.batches, itertools.count(start)),
            script=script,
            steps=steps,
            batch_size=batch_size * len(lanes),
            log_every=log_every,
            save_every=save_every,
            validate=lambda state: mean_accuracy(lanes, program, state),
            on_host=mean_metrics,
            remedy="Lower the learning rate",
            probe=look,
            probe_every=math.gcd(log_every, probe_every),
            profile_steps=profile_steps,
        )
        if trained.exit_code:
            return LaneResults(trained.exit_code, [], [])
        state = trained.state
        found = assessed_lanes(lanes, program, state, steps=steps, reject_share=reject_share, resamples=resamples)
        outputs = {name: values[:, : len(lanes)].swapaxes(0, 1) for name, values in program.outputs(state).items()}
        images = {
            f"rows of lane {lane} {part}": rows for lane in sets.values() for part, rows in program.rows[lane].items()
        }
        images["rows are those of lane"] = np.array([sets[id(lane.data)] for lane in lanes])
        run.write_arrays("outputs.npz", outputs | images)
        result = {"lanes": found, "history": history_of(run.directory / "metrics.jsonl") if run.writes else []}
        run.write_json("results.json", result)
        return LaneResults(0, result["lanes"], result["history"])


def check_alike(lanes: Sequence[Lane]) -> None:
    """Refuses what one program cannot train: it would train the first lane's method under the name of another."""
    if not lanes:
        raise ValueError("lanes is empty: give one or more")

    first, *others = [dict(structure_of(lane.method.options)) | lane.method.task._asdict() for lane in lanes]
    for lane, other in zip(lanes[1:], others, strict=True):
        differing = sorted(name for name in first | other if first.get(name) != other.get(name))
        if differing:
            raise ValueError(
                f"lanes {lanes[0].name!r} and {lane.name!r} differ in {', '.join(differing)}: give each a call of its"
                " own"
            )


def open_group(directory: Path, fields: dict[str, Any], content: dict[str, Any]) -> Run:
    """The directory of some lanes; what refuses it now is no bad input any more."""
    try:
        return Run(directory, fields, content=content, writes=processes.is_first())
    except ValueError as error:
        raise FileError(str(error)) from error


# ------------------------------------------------------------------------------------------- the assessment


def outputs_of(program: LanesProgram, state: sweep.SweepState, lane: int, names: Sequence[str] = ()) -> dict[str, dict]:
    """What one lane's network gave for the images of each part."""
    found = program.outputs(state)
    return {
        part: {name: found[name][rows, lane] for name in names or found} for part, rows in program.rows[lane].items()
    }


def mean_accuracy(lanes: Sequence[Lane], program: LanesProgram, state: sweep.SweepState) -> float:
    """Validation accuracy, the mean over the lanes that have not diverged; 0 where all have."""
    found = []
    for number in np.flatnonzero(program.diverged(state)[: len(lanes)] == 0).tolist():
        method, data = lanes[number].method, lanes[number].data
        outputs = outputs_of(program, state, number, [method.scored])
        if not all(np.isfinite(part[method.scored]).all() for part in outputs.values()):
            continue  # broken by the last update, as the next step will find
        predicted = predicted_classes(method, outputs["validation"], outputs.get("train"), data.train.labels)
        found.append(metrics.closed_set_accuracy(predicted, data.validation.labels))
    return float(np.mean(found)) if found else 0.0


def norm_metrics(norms: np.ndarray, known: int) -> dict[str, float]:
    """JND and mean norms of one lane."""
    norms_known, norms_unknown = np.split(norms, [known])
    return {
        "jnd": metrics.jacobian_norm_difference(norms_known, norms_unknown),
        "norm_known": float(norms_known.mean(dtype=np.float64)),
        "norm_unknown": float(norms_unknown.mean(dtype=np.float64)),
    }


def lane_norms_of(lanes: Sequence[Lane], program: LanesProgram, state: sweep.SweepState) -> list[dict[str, float]]:
    """JND and mean norms of every lane; nothing for one whose norms are not finite or not taken."""
    if program.norms is None:
        return [{}] * len(lanes)
    rows = program.norms(state)
    counts = [len(lane.probes.known) if lane.probes is not None else 0 for lane in lanes]
    return [
        norm_metrics(row, known) if np.isfinite(row).all() else {} for row, known in zip(rows, counts, strict=False)
    ]


def probed_lanes(lanes: Sequence[Lane], program: LanesProgram, state: sweep.SweepState) -> list[dict[str, float]]:
    """The figures of ``LANE_HISTORY`` for every lane; nothing for one whose outputs are not finite."""
    found = []
    for number, (lane, norms) in enumerate(zip(lanes, lane_norms_of(lanes, program, state), strict=True)):
        method, labels = lane.method, lane.data.test_known.labels
        outputs = outputs_of(program, state, number, sorted({method.scored, method.space}))
        if not all(np.isfinite(part[method.scored]).all() for part in outputs.values()):
            found.append({})
            continue
        scored = score_images(method, outputs, lane.data.train.labels)[method.score]
        found.append(
            {
                "auroc": metrics.auroc(scored.known, scored.unknown),
                "accuracy": metrics.closed_set_accuracy(scored.known_predictions, labels),
                "davies_bouldin": metrics.davies_bouldin(outputs["known"][method.space], labels),
                **norms,
            }
        )
    return found


def assessed_lanes(
    lanes: Sequence[Lane],
    program: LanesProgram,
    state: sweep.SweepState,
    *,
    steps: int,
    reject_share: float,
    resamples: int,
) -> list[dict[str, Any]]:
    """The results of every lane: the metrics of its loss's own score, norms, and where it diverged."""
    diverged = program.diverged(state)
    found = []
    for number, (lane, norms) in enumerate(zip(lanes, lane_norms_of(lanes, program, state), strict=True)):
        method, data = lane.method, lane.data
        outputs = outputs_of(program, state, number)
        # The last update may break what no step sees any more.
        ended_well = all(np.isfinite(part[method.scored]).all() for part in outputs.values())
        values: dict[str, Any] = {"diverged_at": int(diverged[number]) or (None if ended_well else steps)}
        if values["diverged_at"] is None:
            labels = {"train": data.train.labels, "validation": data.validation.labels, "known": data.test_known.labels}
            results = assess(method, outputs, labels, reject_share=reject_share, resamples=resamples).results
            own = results["scores"][method.score]
            values |= {name: own[name]["value"] for name in OWN_METRICS}
            values |= {"davies_bouldin": results["davies_bouldin"], "scores": results["scores"], **norms}
        found.append(values)
    return found


def history_of(path: Path) -> list[dict[str, Any]]:
    """The probes in a metrics.jsonl: lane, step and figures."""
    history = []
    for line in path.read_text().splitlines():
        logged = json.loads(line)
        lanes: dict[int, dict[str, Any]] = {}
        for name, value in logged.items():
            _, *path_of = name.split("/")
            if len(path_of) == 3 and path_of[1] == "probe":
                lanes.setdefault(int(path_of[0]), {})[path_of[2]] = value
        history += [{"lane": lane, "step": logged["step"], **values} for lane, values in lanes.items()]
    return history
