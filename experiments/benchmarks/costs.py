"""What scales with what, on paper? Operations, bytes and communication on 1 to 256 chips: training, norms, sweeps.

    python experiments/benchmarks/costs.py        training steps of every preset, 1, 8, 64, 256 chips: 4 min of one core
    python experiments/benchmarks/costs.py --presets norms estimate sweep
    python experiments/benchmarks/costs.py --presets train:cifar10-wrn16-4 --chips 8 64
    python experiments/benchmarks/costs.py --platform v5e --presets train:cifar10-wrn16-4

Compiles the step that train.py and contrastive.py take with `--stream`, sharded over so many devices, and reads the
compiler's cost analysis and the collectives of the optimised program; nothing is run, and no accelerator is needed.
`weak`: every chip has as many images as the preset has in all; `strong`: the preset's batch is shared, down to one
image a chip. With `--platform cpu` the compiler is that for CPUs: operations and collectives are those of any
platform to a percent, but it fuses less than others and counts more bytes; `--platform v5e` and `v5p` have the
compiler of TPUs, without a TPU: `pip install '.[tpu]'`, and two to twenty minutes for each program.

`norms:` and `estimate:` are exact Jacobian norms, or 8 projections, of 10 000 images at 20 checkpoints, each chip with
its own images; `sweep:N` are 10 000 steps of N lanes of the small network, on no more chips than lanes. Passes that a
program makes in a loop, which compilers count once, are counted by hand; bytes are overstated where few are counted.

Times are of the chip's published figures (the library's module `costs` has the sources), as if each peak were reached.
"hidden from" is the batch of a chip from which on arithmetic takes longer than communication, "a tenth" ten times as
long. Other presets compile to the same steps: those of other data with the same image size, and cifar10-all-r18,
svhn-r18.
"""

import dataclasses
import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import Literal

import jax
import tyro
from compiled_analysis import ANALYSES, SMOKE as SMOKE_ANALYSES, calls_of
from compiled_steps import TOPOLOGIES, Cache, Program
from cost_tables import Row, call_summary, call_table, cost_table, hours_table, summary, time_table

from osrjax.analysis import costs
from osrjax.files import write_json


@dataclasses.dataclass(frozen=True)
class Config:
    """Compile training steps, norms and sweeps for many chips and say what they cost."""

    presets: tuple[str, ...] = ()
    """KIND:PRESET, such as train:bundled or norms:resnet18, or KIND for all of a kind; default: all training steps."""
    chips: tuple[int, ...] = (1, 8, 64, 256)
    """Numbers of chips."""
    platform: Literal["cpu", "v5e", "v5p"] = "cpu"
    """Whose compiler: cpu, or a TPU's, which takes minutes for each program."""
    times: tuple[Literal["v5e", "v5p", "h100"], ...] = ("v5e", "v5p", "h100")
    """Chips whose times are told."""
    flops: float | None = None
    """Operations a second, instead of the published peak of every chip in `times`."""
    highest_flops: float | None = None
    """The same at the highest precision, in which norms are exact."""
    memory_gib: float = 12.0
    """Memory of a chip that a call of norms may take: it decides how many passes are made at a time."""
    memory: float | None = None
    """Bytes a second to and from memory, instead of the published ones."""
    link: float | None = None
    """Bytes a second that a chip sends to its neighbours, instead of the published ones."""
    far_link: float | None = None
    """Bytes a second that a chip sends beyond its neighbours, instead of the published ones."""
    hop: float | None = None
    """Seconds from chip to chip, instead of those assumed."""
    cache: Path = Path("runs/costs-cache.json")
    """What was compiled before; a program is recognised by its text before optimisation."""
    json: Path | None = None
    """Where to write all figures as JSON."""
    smoke: bool = False
    """Seconds-long version: a small network and batch on 1 and 2 chips."""


PRESETS = {
    "train:bundled": Program("train", "small_cnn", (28, 28, 1), 6, 128),
    "train:cifar10-wrn16-4": Program("train", "wrn16_4", (32, 32, 3), 6, 128, "all"),
    "train:cifar10-classifier32": Program("train", "classifier32", (32, 32, 3), 6, 128, "all"),
    "train:cifar10-resnet18": Program("train", "resnet18", (32, 32, 3), 6, 128, "all"),
    "train:tiny_imagenet-wrn16-4": Program("train", "wrn16_4", (64, 64, 3), 20, 128, "all", 8),
    "contrastive:bundled": Program("contrastive", "small_cnn", (28, 28, 1), 6, 64),
    "contrastive:cifar10-r18": Program("contrastive", "resnet18", (32, 32, 3), 6, 256),
    "contrastive:tiny-imagenet-r18": Program("contrastive", "resnet18", (64, 64, 3), 20, 256),
}
FIGURES = ("flops", "highest_flops", "memory", "link", "far_link", "hop")
SMOKE = {"train:smoke": Program("train", "small_cnn", (8, 8, 1), 3, 8)}


def main(arguments: list[str] | None = None) -> int:
    """Parses, compiles, prints; returns the exit code."""
    config = tyro.cli(Config, args=arguments, description=__doc__)
    programs, analyses = PRESETS, ANALYSES
    if config.smoke:
        programs, analyses = SMOKE, SMOKE_ANALYSES
        config = dataclasses.replace(config, chips=(1, 2) if config.platform == "cpu" else (1, 4))
    try:
        check(config)
        names = chosen(config.presets or tuple(programs), (*programs, *analyses))
        prepare_devices(config)
        cache = Cache(config.cache)
        if config.json:
            make_folder(config.json, "json")
    except ValueError as error:
        print(f"costs.py: {error}", file=sys.stderr)
        return 2
    chips: dict[str, costs.Chip] = {name: adjusted(costs.CHIPS[name], config) for name in config.times}
    rows, calls = [], []
    for name in names:
        seconds = time.perf_counter()
        if name in programs:
            rows += rows_of(name, programs[name], config.chips, cache, config.platform)
        else:
            memory = int(config.memory_gib * 2**30)
            calls += calls_of(name, analyses[name], config.chips, cache, config.platform, memory)
        print(f"{name}: {time.perf_counter() - seconds:.0f} s", file=sys.stderr, flush=True)
    if rows:
        print(cost_table(rows, config.platform))
        for chip_name, chip in chips.items():
            print("\n" + time_table(rows, chip_name, chip))
    if calls:
        print(call_table(calls, config.platform) + "\n\n" + hours_table(calls, chips))
    if config.json:
        write_json(config.json, summary(rows, chips, config.platform) | {"calls": call_summary(calls, chips)})
    return 0


# ---------------------------------------------------------------------------------------------- what is asked for


def make_folder(path: Path, name: str) -> None:
    """The directory of a file that is written at the end; refuses one that cannot be, before any work."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{name}={str(path)!r} cannot be written ({error.strerror}): choose another file") from error


def chosen(presets: tuple[str, ...], known: tuple[str, ...]) -> list[str]:
    """Presets by name or kind, each once."""
    found = []
    for preset in presets:
        those = [name for name in known if preset in (name, name.partition(":")[0])]
        if not those:
            raise ValueError(f"presets={preset!r} does not exist: choose from {', '.join(known)}")
        found += those
    return list(dict.fromkeys(found))


def check(config: Config) -> None:
    """Refuses what cannot be compiled or compared."""
    if not config.chips:
        raise ValueError("chips is empty: give at least one number, such as 8")
    for devices in config.chips:
        if devices < 1:
            raise ValueError(f"chips={devices} is below 1: give numbers such as 1 8 64 256")
        known = TOPOLOGIES.get(config.platform)
        if known and devices not in known:
            raise ValueError(
                f"chips={devices} is no slice of {config.platform}: choose from {', '.join(map(str, known))}"
            )
    for name in (*FIGURES, "memory_gib"):
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value!r} must be above 0")
    if config.platform != "cpu" and importlib.util.find_spec("libtpu") is None:
        raise ValueError(f"platform={config.platform!r} needs the compiler of TPUs: pip install '.[tpu]', or use cpu")


def adjusted(chip: costs.Chip, config: Config) -> costs.Chip:
    """The chip with the figures that the command line gives."""
    given = {name: getattr(config, name) for name in FIGURES}
    return chip._replace(**{name: value for name, value in given.items() if value is not None})


def rows_of(name: str, program: Program, chips: tuple[int, ...], cache: Cache, platform: str) -> list[Row]:
    """A preset's step on so many chips under both scalings."""
    return [
        Row(name, how, cache.cost(program, devices, batch, platform))
        for devices in chips
        for batch, how in batches(program.batch_size, devices).items()
    ]


def batches(batch_size: int, devices: int) -> dict[int, str]:
    """Images a chip under weak and strong scaling, the same for one chip."""
    shared = max(1, batch_size // devices)
    return {batch_size: "both"} if shared == batch_size else {batch_size: "weak", shared: "strong"}


# ---------------------------------------------------------------------------------------------- devices


def prepare_devices(config: Config) -> None:
    """Virtual CPU devices, as many as there are chips, before JAX looks for devices."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # libtpu would ask the network which TPU it runs on
    jax.config.update("jax_platforms", "cpu")
    wanted = max(config.chips) if config.platform == "cpu" else 1
    try:
        jax.config.update("jax_num_cpu_devices", wanted)
    except RuntimeError as error:  # another part of this process has started JAX
        if len(jax.devices()) < wanted:
            raise ValueError(f"chips={wanted} but this process has {len(jax.devices())} devices") from error


if __name__ == "__main__":
    sys.exit(main())
