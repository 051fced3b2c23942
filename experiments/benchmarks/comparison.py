"""What `speed.py --what train | jacobian | gradmix | sweep` have in common: options, the peers, the last line.

No question of its own. A comparison imports it, and so do our sides' processes; the peers' process does not.
"""

import contextlib
import dataclasses
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
from turns import ALLOWED_SPREAD, BEST, Measured, SideError, SideProcess, Verdict

from osrjax.files import json_text

Network = Literal["small_cnn", "wrn16_4", "resnet18"]  # those that have a peer
CLASSES = 6
UNRELIABLE = "unreliable"  # stands in place of a ratio

# Memory that is freed stays in the peers' process, as `devices.cpu.reuse_host_memory` has it on our side (glibc; 8 % of
# small_cnn's step). How its threads wait is left as it is: see SETTLE in turns.py.
PEER_ENVIRONMENT = {
    "GLIBC_TUNABLES": "glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=2147483647"
}


class Program(NamedTuple):
    """A training step of ours, not yet compiled: ``jitted(state, *inputs) -> (state, metrics)``, the state donated."""

    jitted: Any
    state: Any
    inputs: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class ComparisonConfig:
    """Options of every comparison."""

    networks: tuple[Network, ...] = ()
    """Networks to measure, one after another."""
    batch: int | None = None
    """Images at a time."""
    repeats: int = 5
    """Turns of every side, the first of which is left out."""
    smoke: bool = False
    """Seconds-long version: one small network and batch."""


@dataclasses.dataclass(frozen=True)
class PeerConfig(ComparisonConfig):
    """Options of a comparison with PyTorch."""

    default_options: bool = False
    """Measure ours without the compiler options of osrjax.devices.cpu too."""
    torch_python: Path | None = None
    """Python interpreter that has PyTorch; default: the one that runs this."""


def refusal(config: ComparisonConfig, *, least_batch: int = 2) -> str | None:
    """Why a configuration cannot be measured."""
    if config.repeats < 3:
        return f"repeats={config.repeats} is too few for a median: give 3 or more"
    if config.batch is not None and config.batch < least_batch:
        why = "holds no image" if config.batch < 1 else "is too small for batch norm"
        return f"batch={config.batch} {why}: give {least_batch} or more"
    if isinstance(config, PeerConfig) and config.torch_python is not None and not imports_torch(config.torch_python):
        return f"torch-python={str(config.torch_python)!r} cannot import torch: name an interpreter that can, or none"
    return None


def image_shape(network: str) -> tuple[int, int, int]:
    """Height, width and channels of the images that a network is measured on."""
    return (28, 28, 1) if network == "small_cnn" else (32, 32, 3)


# ---------------------------------------------------------------------------------------------- the sides


def our_facts() -> dict[str, Any]:
    """What our side's process runs on."""
    devices = jax.devices()
    words = f"{len(devices)} x {devices[0].device_kind}"
    if jax.default_backend() == "cpu":
        words = f"CPU, {os.cpu_count()} cores, {platform.machine()}, {platform.system()}"
    return {
        "platform": jax.default_backend(),
        "device": words,
        "jax_devices": len(devices),
        "versions": {name: version(name) for name in ("jax", "flax")},
    }


def find_torch() -> bool:
    """Whether this interpreter has PyTorch."""
    return importlib.util.find_spec("torch") is not None


def imports_torch(python: Path) -> bool:
    """Whether another interpreter has PyTorch."""
    try:
        return subprocess.run([python, "-c", "import torch"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def peer_python(config: PeerConfig) -> str | None:
    """The interpreter of the peers; says so if there is none."""
    if config.torch_python is not None:
        return str(config.torch_python)
    if find_torch():
        return sys.executable
    print("No peer to compare with: pip install '.[speed]' adds PyTorch.")
    return None


@contextlib.contextmanager
def both_sides(
    ours: tuple[str, Mapping[str, Any]], theirs: tuple[str, Mapping[str, Any]], python: str | None
) -> Generator[list[SideProcess], None, None]:
    """The processes of our side and of the peers, each a function and its arguments, until the end of the block.

    Without PyTorch, or where ours does not run on a CPU as the peers do, there is one side.
    """
    with contextlib.ExitStack() as processes:
        sides = [processes.enter_context(SideProcess(*ours))]
        if python is not None and sides[0].facts["platform"] != "cpu":
            print("The peers run on the CPU alone: no comparison on another device.")
        elif python is not None:
            peers = SideProcess(*theirs, python=python, environment=PEER_ENVIRONMENT)
            sides.append(processes.enter_context(peers))
        yield sides


# ---------------------------------------------------------------------------------------------- the report


def ran_on(sides: Iterable[SideProcess]) -> dict[str, Any]:
    """Device, versions and threads of the sides, for the last line."""
    found: dict[str, Any] = {"versions": {}}
    for side in sides:
        found["versions"] |= side.facts["versions"]
        found |= {name: side.facts[name] for name in ("device", "torch_threads") if name in side.facts}
    return found


def reliability(found: Mapping[str, Verdict], measured: Mapping[str, Measured]) -> dict[str, Any]:
    """Prints each reason against a ratio; whether all are reliable, for the last line, with spreads and waits.

    Args:
        found: by the name of what was compared.
        measured: by the name of the network.
    """
    reasons = {name: verdict.reason for name, verdict in found.items() if verdict.reason}
    for name, reason in reasons.items():
        print(f"{name}: {UNRELIABLE}: {reason}", flush=True)
    return {
        "reliable": not reasons if found else None,
        "unreliable": reasons,
        "quantile": BEST,
        "allowed_spread": ALLOWED_SPREAD,
        "spreads": {name: {who: round(m.spread(who), 3) for who in m.seconds} for name, m in measured.items()},
        "taken": {name: {who: round(taken, 3) for who, taken in m.taken.items()} for name, m in measured.items()},
        "idle_cores": {name: {who: round(cores, 3) for who, cores in m.idle.items()} for name, m in measured.items()},
    }


def relation(value: float | None) -> str:
    """A ratio as the tables have it."""
    return UNRELIABLE if value is None else f"{value:.2f}"


def of_all(choose: Callable[[list[float]], float], values: Iterable[float | None]) -> float | None:
    """The least favourable number by `min` or `max`; None where there is none, or one of them is not known."""
    given = list(values)
    known = [value for value in given if value is not None]
    return choose(known) if known and len(known) == len(given) else None


def report(what: str, config: ComparisonConfig, error: str | None, measure: Callable[[], dict[str, Any]]) -> int:
    """Refuses, or measures and prints the last line; returns the exit code."""
    if error:
        print(f"speed_{what}.py: {error}", file=sys.stderr)
        return 2
    load = round(os.getloadavg()[0], 2)
    if load > 0.5:
        print(f"The load average is {load}: other processes distort the comparison, wait for a quiet machine.")
    try:
        result = measure()
    except (SideError, OSError) as failure:
        print(f"speed_{what}.py: {failure}", file=sys.stderr)
        return 1
    print(json_text({"what": what, **result, "repeats": config.repeats, "load_average": load}))
    return 0
