"""How much faster are many lanes of one program than as many runs, one after another?

    python experiments/speed.py --what sweep                     16 lanes, 800 and 200 steps: 14 to 20 min on two cores
    python experiments/speed.py --what sweep --steps 200         6 min
    python experiments/speed.py --what sweep --steps             steps alone: 1 min

The peer is ourselves. Steps: a single lane's jitted step beside a step of all lanes, by layout. Whole runs: runs of
experiments/train.py, one process after another, beside experiments/ablation.py with the same lanes, start-up and
compilation included; the runs also draw figures and bootstrap intervals, which the sweep does not. Half of the runs are
made before the sweep and half after it, then the sweep once more if `--seconds` allow. Times are the 0.2 quantiles of
blocks of steps, or of whole runs (turns.py says why).

The last line is one JSON object. `steady_ratio`: the time of a single lane's step over the sweep's time per lane-step,
for each layout in `steady_ratios`, and there for large matrix products with as many floating-point operations, which
no layout will pass. `total_ratio`: that of whole runs at the first of `steps` (`total_ratios` has all): as many times a
run as there are lanes, over the sweep. Both are null where a side is unreliable, which `reliable`, `unreliable` and
`spreads` tell. `repeated` is false where time sufficed for one sweep only: how far another would differ is not known.
"""

import dataclasses
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comparison
import sweep_lanes
import tyro
from turns import Measured, SideProcess, Turn, Verdict, compare, core_seconds, take_turns, unreliable

RUN, SWEEP = "a run of train.py", "a sweep of ablation.py"
MOST_SWEEPS = 2


@dataclasses.dataclass(frozen=True)
class Config(comparison.ComparisonConfig):
    """Measure training steps of many lanes in one program, and whole sweeps."""

    networks: tuple[comparison.Network, ...] = ("small_cnn",)
    """Networks whose steps are measured, one after another; whole runs are of small_cnn."""
    batch: int | None = None
    """Images of a lane's step; default: 128."""
    repeats: int = 5
    """Turns of every side, the first of which is left out."""
    lanes: int = 16
    """Lanes of the sweep."""
    steps: tuple[int, ...] = (800, 200)
    """Steps of the whole runs that are compared with a sweep; none: only steps are timed."""
    seconds: float = 900.0
    """Time for the whole runs of each number of steps, within which the sweep is repeated."""


def main(arguments: list[str] | None = None) -> int:
    """Parses, measures, prints; returns the exit code."""
    config = tyro.cli(Config, args=arguments, description=__doc__)
    if config.smoke:
        smoke = dataclasses.replace(config, networks=("small_cnn",), batch=8, repeats=3)
        config = dataclasses.replace(smoke, lanes=2, steps=config.steps[:1])
    return comparison.report("sweep", config, refusal(config), lambda: sweep_speed(config))


def refusal(config: Config) -> str | None:
    """Why a configuration cannot be measured."""
    if config.lanes < 2:
        return f"lanes={config.lanes} is no sweep: give 2 or more"
    if min(config.steps, default=1) < 1:
        return f"steps={min(config.steps)} trains nothing: give 1 or more"
    return comparison.refusal(config)


def sweep_speed(config: Config) -> dict[str, Any]:
    """Prints and gives the speed of lanes in one program against single steps and single runs."""
    found: dict[str, Verdict] = {}
    steady: dict[str, dict[str, float | None]] = {}
    measured, machine = {}, {}
    for network in config.networks:
        seen, machine = step_times(network, config)
        measured[network] = seen
        verdicts = {who: compare(seen, [who], [sweep_lanes.SINGLE]) for who in seen.seconds}
        steady[network] = {who: verdict.ratio for who, verdict in verdicts.items()}
        found[f"{network}, steps"] = verdicts[sweep_lanes.AUTO]
    totals, seconds, repeated, run_seconds = {}, {}, {}, {}
    for steps in config.steps:
        seen, verdict = whole_runs_compared(steps, config)
        measured[f"{steps} steps"], found[f"{steps} steps"], totals[steps] = seen, verdict, verdict.ratio
        seconds[steps] = round(config.lanes * seen.best(RUN), 1), round(seen.best(SWEEP), 1)
        repeated[steps] = len(seen.seconds[SWEEP]) > 1
        run_seconds[steps] = {who: [round(turn[0], 1) for turn in turns] for who, turns in seen.seconds.items()}
    return {
        "total_ratio": totals.get(config.steps[0]) if config.steps else None,
        "steady_ratio": comparison.of_all(min, (ratios[sweep_lanes.AUTO] for ratios in steady.values())),
        "total_ratios": totals,
        "steady_ratios": steady,
        "seconds": seconds,
        "run_seconds": run_seconds,
        "repeated": repeated,
        "lanes": config.lanes,
        **comparison.reliability(found, measured),
        **machine,
    }


# ---------------------------------------------------------------------------------------------- steps


def step_times(network: str, config: Config) -> tuple[Measured, dict[str, Any]]:
    """Prints and gives seconds per lane-step, and what they were measured on."""
    case = {"network": network, "batch": config.batch or 128, "lanes": config.lanes}
    layouts = [sweep_lanes.AUTO] if config.smoke else list(sweep_lanes.LAYOUTS)
    with (
        SideProcess("sweep_lanes:single_lane", case) as single,
        SideProcess("sweep_lanes:lanes_together", {**case, "layouts": layouts}) as lanes,
    ):
        seen = take_turns([single, lanes], config.repeats)
        machine = {**comparison.ran_on([single, lanes]), "jax_devices": lanes.facts["jax_devices"]}
    seen = seen.per(dict.fromkeys(seen.seconds, config.lanes))
    print(f"{'case':10} {'who':35} {'lanes':>5} {'ms/lane-step':>12} {'spread':>6} {'single / it':>12}")
    for who in seen.seconds:
        told = comparison.relation(compare(seen, [who], [sweep_lanes.SINGLE]).ratio)
        figures = f"{config.lanes:5d} {1e3 * seen.best(who):12.2f} {seen.spread(who):6.2f} {told:>12}"
        print(f"{network:10} {who:35} {figures}", flush=True)
    return seen, machine


# ---------------------------------------------------------------------------------------------- whole runs


def whole_runs_compared(steps: int, config: Config) -> tuple[Measured, Verdict]:
    """Prints and gives seconds of runs and sweeps, and how they compare."""
    with tempfile.TemporaryDirectory() as directory:
        single, sweep = starters(config.lanes, steps, Path(directory), smoke=config.smoke)
        seen = whole_runs(config.lanes, single, sweep, config.seconds)
    together, reason = len(seen.seconds[SWEEP]), unreliable(seen, [RUN, SWEEP])
    sequential = config.lanes * seen.best(RUN)
    ratio = None if reason else round(sequential / seen.best(SWEEP), 3)
    told = "" if together > 1 else " (once: how far another sweep would differ is not known)"
    print(
        f"{config.lanes} runs of {steps} steps: {sequential:.1f} s one after another, "
        f"{seen.best(SWEEP):.1f} s as lanes{told}: {comparison.relation(ratio)}",
        flush=True,
    )
    return seen, Verdict(ratio, None, reason)


def whole_runs(lanes: int, single: Callable[[int], Turn], sweep: Callable[[int], Turn], seconds: float) -> Measured:
    """Half of the runs, a sweep, the other half, and a sweep again if there is time for it.

    Args:
        lanes: runs to make.
        single: makes the run of a seed; its one block is the run.
        sweep: makes the sweep of a number; its one block is the sweep.
        seconds: for all of them.
    """
    runs = [single(seed) for seed in range(lanes // 2)]
    sweeps = [sweep(0)]
    runs += [single(seed) for seed in range(lanes // 2, lanes)]
    while len(sweeps) < MOST_SWEEPS and sum(made.blocks[0] for made in [*runs, *sweeps, sweeps[-1]]) <= seconds:
        sweeps.append(sweep(len(sweeps)))
    made = {RUN: runs, SWEEP: sweeps}
    return Measured(
        seconds={who: [turn.blocks for turn in turns] for who, turns in made.items()},
        taken={who: statistics.median(turn.taken for turn in turns) for who, turns in made.items()},
        idle=dict.fromkeys(made, 0.0),  # nobody waits
    )


def starters(
    lanes: int, steps: int, directory: Path, *, smoke: bool
) -> tuple[Callable[[int], Turn], Callable[[int], Turn]]:
    """What starts a run of a seed and a sweep of a number: each a process of its own, from its start to its end."""
    scripts = Path(__file__).resolve().parents[1]
    recipe = ["--smoke"] if smoke else ["--steps", str(steps)]

    def single(seed: int) -> Turn:
        out = ["--out", str(directory / f"single-{seed}")]
        return finished([str(scripts / "train.py"), *recipe, "--seed", str(seed), *out])

    def sweep(number: int) -> Turn:
        command = [str(scripts / "ablation.py"), *recipe, "--seeds", str(lanes), "--splits", "0", "--probe-images", "0"]
        return finished([*command, "--out", str(directory / f"sweep-{number}")])

    return single, sweep


def finished(command: list[str]) -> Turn:
    """Runs a script to its end: its seconds as one block, and what other programs had of the cores meanwhile."""
    start, before, (_, _, all_before) = time.perf_counter(), _children_seconds(), core_seconds()
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr[-500:]}")
    seconds, ran, (_, _, all_after) = time.perf_counter() - start, _children_seconds() - before, core_seconds()
    return Turn([seconds], taken=max(0.0, all_after - all_before - ran) / max(ran, 1e-9))


def _children_seconds() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


if __name__ == "__main__":
    signal.signal(
        signal.SIGTERM, lambda number, frame: sys.exit(128 + number)
    )  # the run that it waits for ends with it
    sys.exit(main())
