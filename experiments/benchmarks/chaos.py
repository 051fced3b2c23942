"""Does a run that is killed again and again end with the same bits as one that nothing happened to?

    python experiments/benchmarks/chaos.py                             20 kills of each; 15 min to an hour on two cores
    python experiments/benchmarks/chaos.py --targets train --kills 5
    python experiments/benchmarks/chaos.py --smoke                     two kills, the smallest runs

For each target one run is left alone and timed. Then the same command is started in another directory, killed with
SIGKILL at a moment drawn uniformly from that time (imports, compilation, writing of checkpoints and evaluation are all
within it), and repeated, until it has been killed so often; at last it may finish. A run that finishes before its kill
is compared too, and a new directory takes the kills that are left. same_bits.py says what is compared. The last line is
one JSON object: `identical`, true if nothing differs anywhere, and for each target how often it was killed, and while
it did what (`phases`). Exit codes: 0 all the same, 1 something differs or a restart failed, 2 bad input.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import tyro
from same_bits import compare

Name = Literal["train", "contrastive", "norms", "sweep"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Kill runs at random moments and compare their results with those of undisturbed runs."""

    targets: tuple[Name, ...] = get_args(Name)
    """train.py, contrastive.py, norms.py (the network comes from a short train.py), ablation.py (sweep)."""
    kills: int = 20
    """Kills of each target."""
    seed: int = 0
    """Seed of the moments."""
    out: Path | None = None
    """Directory of all runs, which must be new or empty; default: a temporary one, kept where something differs."""
    smoke: bool = False
    """Two kills and the smallest runs."""


def main(arguments: list[str] | None = None) -> int:
    """Parses, checks, kills, compares; returns the exit code."""
    config = tyro.cli(Config, args=arguments, description=__doc__)
    if config.smoke:
        config = dataclasses.replace(config, kills=min(config.kills, 2))
    try:
        check(config)
    except ValueError as error:
        print(f"chaos.py: {error}", file=sys.stderr)
        return 2
    out = Path(tempfile.mkdtemp(prefix="chaos-")) if config.out is None else config.out
    found = {name: disturb(name, config, out) for name in dict.fromkeys(config.targets)}
    same = all(result["identical"] for result in found.values())
    if same and config.out is None:
        shutil.rmtree(out)
    print(json.dumps({"identical": same, "kills": sum(r["kills"] for r in found.values()), "targets": found}))
    return 0 if same else 1


def check(config: Config) -> None:
    """Refuses what would fail late."""
    if not config.targets:
        raise ValueError(f"targets is empty: choose from {', '.join(get_args(Name))}")
    if config.kills < 1:
        raise ValueError(f"kills={config.kills} is below 1: give the number of kills of each target")
    if config.seed < 0:
        raise ValueError(f"seed={config.seed} must not be negative")
    for name in config.targets:
        if not TARGETS[name].script.exists():
            raise ValueError(f"targets={name!r} needs {TARGETS[name].script}, which does not exist: leave it out")
    if config.out is not None:
        try:
            config.out.mkdir(parents=True, exist_ok=True)
            taken = any(config.out.iterdir())
        except OSError as error:
            raise ValueError(f"out={str(config.out)!r} cannot be written ({error.strerror}): choose another") from error
        if taken:
            raise ValueError(f"out={str(config.out)!r} is not empty: choose another, or delete it")


# ---------------------------------------------------------------------------------------------- targets


def step_reached(run: Path) -> int:
    """The last step in the log of a run, or the sum over the programs of a sweep; -1 without a log."""
    reached = []
    for log in (*run.glob("metrics.jsonl"), *run.glob("group-*/metrics.jsonl")):
        for line in reversed(log.read_text(errors="replace").splitlines()):
            try:
                reached.append(int(json.loads(line)["step"]))
            except (ValueError, KeyError, TypeError):  # being written
                continue
            break
    return sum(reached) if reached else -1


def phase_of_training(run: Path, output: str, reached_before: int, last: int) -> tuple[str, int]:
    """What a training run is doing, and its last logged step."""
    step = step_reached(run)
    if not output:
        return "starting", step
    if any("tmp" in path.name for path in run.glob("**/checkpoints/*")):
        return "saving", step
    if step == last:
        return "evaluating", step
    return ("training" if step != reached_before else "compiling"), step


def norms_stored(run: Path) -> int:
    """How many norms a directory of the Jacobian driver holds."""
    count = 0
    for file in (*run.glob(".*.npy.partial"), *run.glob("*.npy")):
        try:
            count += int(np.isfinite(np.load(file)).sum())
        except (OSError, ValueError):  # renamed just now
            continue
    return count


def phase_of_norms(run: Path, output: str, reached_before: int, last: int) -> tuple[str, int]:
    """What the Jacobian driver is doing, and how many norms are stored."""
    del output
    stored = norms_stored(run)
    if not (run / "content.json").exists():
        return "starting", stored
    if stored == last:
        return "ending", stored
    return ("computing" if stored != reached_before else "starting or compiling"), stored


class Target(NamedTuple):
    """A kind of run: its command without ``--out``, and what its directory says while it runs.

    Attributes:
      script: of the command.
      options: of the command.
      smoke_options: in their place, with --smoke.
      reached: how far a directory is, in steps or images.
      phase: ``(directory, output, reached at its start, reached at the end)`` to what it does and how far it is.
      takes_run: whether the first argument is a trained run.
    """

    script: Path
    options: str
    smoke_options: str
    reached: Callable[[Path], int] = step_reached
    phase: Callable[[Path, str, int, int], tuple[str, int]] = phase_of_training
    takes_run: bool = False


SCRIPTS = Path(__file__).resolve().parents[1]
TRAIN = "--smoke --probe-images 6 --probe-pairs 2 --test-norms"
TARGETS: dict[str, Target] = {
    "train": Target(
        SCRIPTS / "train.py",
        f"{TRAIN} --steps 400 --save-every 20 --log-every 5 --probe-every 100 --resamples 200",
        "--smoke --steps 60 --save-every 10 --log-every 5 --resamples 0",
    ),
    "contrastive": Target(
        SCRIPTS / "contrastive.py",
        "--smoke --steps 120 --save-every 10 --log-every 5",
        "--smoke",
    ),
    "norms": Target(
        SCRIPTS / "norms.py",
        "--quantities embedding raw_embedding logits --part train --batch-size 8",
        "--batch-size 4",
        norms_stored,
        phase_of_norms,
        takes_run=True,
    ),
    "sweep": Target(
        SCRIPTS / "ablation.py",
        "--smoke --steps 600 --save-every 20 --log-every 5 --probe-every 100",
        "--smoke",
    ),
}


# ---------------------------------------------------------------------------------------------- kills


class FailedStartError(Exception):
    """A start ended neither with exit code 0 nor by our kill."""


def run_until(command: list[str], log: Path, moment: float | None, limit: float, look: Callable[[], Any]) -> Any:
    """Runs a command; at the moment, looks and kills. What the look gave, or None if the command finished before.

    Raises:
      FailedStartError: another exit code than 0, or no end within the limit.
    """
    with log.open("wb") as file:
        # A session of its own: children die with it.
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        code = process.wait(timeout=limit if moment is None else moment)
    except subprocess.TimeoutExpired:
        if moment is None:
            raise FailedStartError(f"no end within {limit:.0f} s; its output: {log}") from None
        return look()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if code:
        lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
        raise FailedStartError(f"exit code {code}: {lines[-1][:300]} (all of it: {log})")
    return None


def disturb(name: Name, config: Config, out: Path) -> dict[str, Any]:
    """One run left alone, others killed; compares them, prints a report, and returns it."""
    target, folder = TARGETS[name], out / name
    folder.mkdir()
    options = (target.smoke_options if config.smoke else target.options).split()
    rng = np.random.default_rng([config.seed, get_args(Name).index(name)])
    report: dict[str, Any] = {"kills": 0, "starts": 0, "rounds": 0, "phases": {}, "hits": [], "compared": []}
    different: list[str] = []
    report |= {"different": different, "identical": False}
    try:
        if target.takes_run:
            options = [str(trained_network(out)), *options]

        def start(run: Path, log: str, moment: float | None, limit: float, last: int = -1) -> tuple[str, int] | None:
            command = [sys.executable, str(target.script), *options, "--out", str(run)]
            before, path = target.reached(run), folder / log
            return run_until(
                command, path, moment, limit, lambda: target.phase(run, path.read_text(errors="replace"), before, last)
            )

        undisturbed, clock = folder / "undisturbed", time.monotonic()
        start(undisturbed, "undisturbed.log", None, 24 * 3600)
        duration = time.monotonic() - clock
        last = target.reached(undisturbed)
        report["seconds"] = round(duration, 1)
        print(f"{name}: {' '.join(options)}: undisturbed {duration:.1f} s", flush=True)
        finished = True
        while report["kills"] < config.kills or not finished:
            if finished:
                report["rounds"] += 1
                run = folder / f"killed-{report['rounds']}"
            moment = rng.uniform(0, duration) if report["kills"] < config.kills else None
            report["starts"] += 1
            hit = start(run, f"start-{report['starts']}.log", moment, 300 + 20 * duration, last)
            finished = hit is None
            if hit is not None and moment is not None:
                report["kills"] += 1
                report["hits"].append([round(moment, 2), *hit])
                print(f"{name}: kill {report['kills']} after {moment:.1f} s, {hit[0]}, {hit[1]} of {last}", flush=True)
                continue
            report["compared"], found = compare(undisturbed, run)
            different += [f"{run.name}: {line}" for line in found]
            if aside := [path.name for path in run.rglob("damaged-*")]:  # no kill may leave a damaged checkpoint
                different.append(f"{run.name}: {', '.join(aside)} was set aside")
        report["identical"] = not different
    except FailedStartError as error:
        different.append(str(error))
    report["phases"] = dict(Counter(phase for _, phase, _ in report["hits"]))
    phases = ", ".join(f"{count} {phase}" for phase, count in report["phases"].items())
    print(f"{name}: {report['kills']} kills ({phases}), {report['starts']} starts, {report['rounds']} runs to the end")
    print(f"{name}: compared {', '.join(report['compared']) or 'nothing'}")
    print(f"{name}: {'identical' if report['identical'] else 'DIFFERENT: ' + '; '.join(different)}", flush=True)
    return report


def trained_network(out: Path) -> Path:
    """A trained run for norms.py: the undisturbed one, if train.py is among the targets before it, or a short one."""
    run = out / "train" / "undisturbed"
    if (run / "results.json").exists():
        return run
    run = out / "network"
    command = [sys.executable, str(TARGETS["train"].script), "--smoke", "--resamples", "0", "--out", str(run)]
    run_until(command, out / "network.log", None, 3600, lambda: None)
    return run


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # the run under test ends with it
    sys.exit(main())
