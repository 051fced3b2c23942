"""What does osrjax do on an accelerator? Numerics, speed, memory and one whole training, in at most eight minutes.

    python experiments/benchmarks/accelerator.py --cifar10 npz:cifar10.npz         one GPU or TPU chip: 8 min
    python experiments/benchmarks/accelerator.py --small --out runs/trial          a trial of the script on any CPU

Parts, each within its own limit of time: `numerics` (the main functions against the CPU of the same machine), `train`,
`gradmix`, `norms` (beside PyTorch on the same device, where this interpreter or --torch-python has it), `sweep`, and
`cifar10-fast` trained whole. A file of --out has what each process told, after every case; the same command goes on
with what is left. At the end: accelerator.json, and accelerator.txt, which is printed.

Exit codes: 0 all that was asked for is done and every limit of the numerics kept; 1 not so: the table says what failed
or was not begun; 2 bad input, or no accelerator.
"""

import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any, Literal, get_args

import accelerator_jobs
from accelerator_jobs import Job
from accelerator_table import passed, report_text

from osrjax.fields import check_above_zero
from osrjax.files import write_json, write_whole
from osrjax.run.launch import launch

Part = Literal["numerics", "train", "gradmix", "norms", "sweep", "cifar10-fast"]
Network = Literal["small_cnn", "wrn16_4", "resnet18"]
DType = Literal["float32", "bfloat16"]
PARTS: tuple[Part, ...] = get_args(Part)
OUR_SHARE = 0.65  # of a part's time, where PyTorch has the rest
NO_DATA = "not run: give CIFAR-10 as --cifar10 npz:FILE (experiments/README.md says how to make the file)"


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure osrjax on an accelerator."""

    out: Path = Path("runs/accelerator")
    """Directory of all results; the same one goes on with what is left."""
    parts: tuple[Part, ...] = PARTS
    """What is measured, in the order of the default."""
    small: bool = False
    """Tiny sizes, and limits for a busy machine, instead of those below, on any device: a trial of the script."""
    cifar10: str | None = None
    """CIFAR-10 for cifar10-fast, as npz:FILE; without it that part is not run."""
    minutes: float = 8.0
    """Time for all of it; what does not fit is not begun."""
    limits: tuple[float, float, float, float, float, float] = (70.0, 85.0, 45.0, 95.0, 75.0, 105.0)
    """Seconds of each part at most, in the order of the parts."""
    torch_python: Path | None = None
    """Python interpreter that has PyTorch; default: the one that runs this."""
    repeats: int = 10
    """Blocks of calls whose median is taken; fewer where calls take long."""
    images: int = 4
    """Images of the numerics of networks; their CPU side is slow."""
    numerics_networks: tuple[Network, ...] = ("small_cnn", "wrn16_4")
    """Networks of the numerics; maps and a training step are those of the first."""
    networks: tuple[Network, ...] = ("small_cnn", "wrn16_4", "resnet18")
    """Networks of the training steps."""
    dtypes: tuple[DType, ...] = ("float32", "bfloat16")
    """Compute dtypes of training and GradMix steps."""
    batch: int = 128
    """Images of a training step."""
    gradmix_networks: tuple[Literal["small_cnn", "resnet18"], ...] = ("resnet18",)
    """Networks of the GradMix steps."""
    gradmix_batch: int = 128
    """Images of a GradMix step, two views of each."""
    norm_network: Network = "wrn16_4"
    """Network whose exact input-Jacobian norms are taken."""
    norm_batches: tuple[int, ...] = (4, 32, 128, 16)
    """Images at a time, in the order of use."""
    lanes: tuple[int, ...] = (1, 16, 64, 4)
    """Lanes of the sweep, in the order of use, each in every layout."""
    lane_batch: int = 128
    """Images of a lane's step, of small_cnn."""

    def check(self) -> None:
        """Refuses sizes out of range."""
        check_above_zero(self, ["minutes", "repeats", "images"])
        for name in ("batch", "gradmix_batch", "lane_batch"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name}={getattr(self, name)} is too small for batch norm: give 2 or more")
        for name in ("limits", "norm_batches", "lanes"):
            if not min(getattr(self, name), default=1) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must all be above 0")
        if self.cifar10 is not None and not self.cifar10.startswith("npz:"):
            raise ValueError(f"cifar10={self.cifar10!r} is no npz:FILE: give the file's name behind npz:")
        if self.cifar10 is not None and not Path(self.cifar10[4:]).is_file():
            raise ValueError(f"cifar10={self.cifar10!r} is not there: give the name of a file")
        if self.torch_python is not None and not os.access(self.torch_python, os.X_OK):
            raise ValueError(f"torch_python={str(self.torch_python)!r} cannot be started: name an interpreter, or none")


SMALL: dict[str, Any] = {
    "minutes": 60.0,  # of a busy machine
    "limits": (600.0,) * len(PARTS),
    "repeats": 3,
    "images": 2,
    "numerics_networks": ("small_cnn",),
    "networks": ("small_cnn",),
    "dtypes": ("float32",),
    "batch": 4,
    "gradmix_networks": ("small_cnn",),
    "gradmix_batch": 4,
    "norm_network": "small_cnn",
    "norm_batches": (2,),
    "lanes": (2,),
    "lane_batch": 4,
}
SMALL_TRAINING = ("--smoke", "--steps", "4", "--network", "fast_cnn")


def main(arguments: list[str] | None = None) -> int:
    """Parses, checks, measures; returns the exit code."""
    return launch(Config, work, script="accelerator.py", description=__doc__, arguments=arguments)


def work(config: Config) -> int:
    """The whole job; returns the exit code."""
    if config.small:
        config = dataclasses.replace(config, **SMALL)
    end = time.monotonic() + 60 * config.minutes
    asked = jobs(config)
    for job in asked.values():
        accelerator_jobs.stored(job, config.out)  # refuses what was measured with other sizes
    try:
        config.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out={str(config.out)!r} cannot be made ({error.strerror}): choose another") from error
    facts = device_facts(config)
    torch = torch_facts(config, facts)
    report = {"device": facts, "torch": torch, "parts": {}, "jobs": {}}
    for part in PARTS:
        if part in config.parts:
            report["parts"][part] = run_part(part, asked, config, report, end)
            print(f"{part}: {report['parts'][part]}", flush=True)
    return finish(report, config)


# ---------------------------------------------------------------------------------------------- what is done


def jobs(config: Config) -> dict[str, Job]:
    """The jobs of the parts that are asked for, by name; a part's own first, then that of its peers."""
    import speed_gradmix  # JAX from here on, but no device
    import speed_train

    python = str(config.torch_python or sys.executable)
    shapes = {network: speed_train.image_shape(network) for network in ("small_cnn", "wrn16_4", "resnet18")}
    recipe = {"shapes": shapes, "classes": speed_train.CLASSES}
    repeats = {"repeats": config.repeats}
    train = {"networks": config.networks, "dtypes": config.dtypes, "batch": config.batch, **repeats}
    gradmix = {**train, "networks": config.gradmix_networks, "batch": config.gradmix_batch}
    norms = {"network": config.norm_network, "batches": config.norm_batches, **repeats}
    sweep = {"network": "small_cnn", "batch": config.lane_batch, "lanes": config.lanes, **repeats}
    numerics = {"networks": config.numerics_networks, "images": config.images}
    found = [
        Job("numerics", "accelerator_numerics:numerics", numerics),
        Job("train", "accelerator_speed:training", train),
        Job(
            "train-torch",
            "accelerator_peers:training",
            {**train, "recipe": {**recipe, "hyper": speed_train.HYPER}},
            python,
        ),
        Job("gradmix", "accelerator_speed:gradmix", gradmix),
        Job(
            "gradmix-torch",
            "accelerator_peers:gradmix",
            {**gradmix, "recipe": {**recipe, "hyper": speed_gradmix.HYPER}},
            python,
        ),
        Job("norms", "accelerator_speed:norms", norms),
        Job("norms-torch", "accelerator_peers:norms", {**norms, "image_shape": shapes[config.norm_network]}, python),
        Job("sweep", "accelerator_speed:sweep", sweep),
    ]
    if config.cifar10 is not None:
        data, out = f"npz:{Path(config.cifar10[4:]).resolve()}", str((config.out / "cifar10-fast").resolve())
        options = SMALL_TRAINING if config.small else ()
        training = {"data": data, "out": out, "options": options}
        found.append(Job("cifar10-fast", "accelerator_training:cifar10_fast", training))
    return {job.name: job for job in found if job.name.removesuffix("-torch") in config.parts}


def device_facts(config: Config) -> dict[str, Any]:
    """What JAX's device is, looked at by a process of its own: a TPU serves one process at a time.

    Raises:
        ValueError: it does not compute, is no accelerator, or is not the one of the results that are there.
    """
    path = config.out / "device.json"
    before = accelerator_jobs.read_json(path, "delete it")["facts"] if path.exists() else None
    path.unlink(missing_ok=True)
    found = accelerator_jobs.run_job(Job("device", "accelerator_speed:device", {}), config.out, 60.0, lambda line: None)
    facts, failed = found["facts"], found["ended"] or found["cases"].get("a sum", {}).get("error")
    if failed or not facts:
        raise ValueError(f"JAX's device does not compute: {failed}; {config.out / 'logs' / 'device.txt'} has its words")
    if before is not None and before.get("device") not in (None, facts["device"]):
        raise ValueError(f"out={str(config.out)!r} has results of {before['device']!r}: give another --out")
    if facts["platform"] == "cpu":
        print("no accelerator was found: JAX sees a CPU alone", flush=True)
        if not config.small:
            raise ValueError("no accelerator: pip install '.[cuda]' or '.[tpu]' on its machine, or try with --small")
    return facts


def torch_facts(config: Config, facts: dict[str, Any]) -> dict[str, Any] | str:
    """What the peers run on, or why there are none: they must have the same kind of device as ours."""
    job = Job("torch", "accelerator_peers:present", {}, str(config.torch_python or sys.executable))
    (config.out / "torch.json").unlink(missing_ok=True)
    found = accelerator_jobs.run_job(job, config.out, 60.0, lambda line: None)
    if found["ended"] or not found["facts"]:
        return f"not measured ({found['ended']}): pip install torch, or name its interpreter by --torch-python"
    if (found["facts"]["device"] == "cpu") != (facts["platform"] == "cpu"):
        return f"not measured: it runs on {found['facts']['device']} and JAX on {facts['device']}"
    return found["facts"]


def run_part(part: Part, asked: dict[str, Job], config: Config, report: dict[str, Any], end: float) -> str:
    """Does the jobs of a part within its limit, adds what they told to the report, and says how the part ended."""
    if part not in asked:
        return NO_DATA
    own = [asked[part], *([asked[f"{part}-torch"]] if f"{part}-torch" in asked else [])]
    stop, states = min(end, time.monotonic() + config.limits[PARTS.index(part)]), []
    for job in own:
        is_peer = job is not own[0]
        if is_peer and isinstance(report["torch"], str):
            continue
        found = accelerator_jobs.stored(job, config.out)
        left = accelerator_jobs.unfinished(found)
        if left != [] or found["ended"]:
            seconds = stop - time.monotonic()
            if not is_peer and len(own) > 1 and not isinstance(report["torch"], str):
                seconds *= OUR_SHARE
            if seconds > accelerator_jobs.SHORTEST:
                found = accelerator_jobs.run_job(job, config.out, seconds, lambda line: print(line, flush=True))
            elif left is None:
                found["ended"] = "not begun, the time is over: give the same command again"
        report["jobs"][job.name] = found
        states.append(f"{'PyTorch ' if is_peer else ''}{state(found)}")
    return "; ".join(states)


def state(found: dict[str, Any]) -> str:
    """How a job stands, in a line that begins with "done" if all of it is."""
    failed = [name for name in found["cases"] if "error" in found["cases"][name]]
    left = [name for name in accelerator_jobs.unfinished(found) or [] if name not in failed]
    rows = [row for case in found["cases"].values() for row in case.get("rows", ())]
    beyond = [row["what"] for row in rows if not passed(row)]
    words = [f"{len(failed)} cases failed" if failed else "", f"{len(left)} not begun" if left else ""]
    words += [f"{len(beyond)} errors above their limits" if beyond else "", found["ended"] or ""]
    return ", ".join(word for word in words if word) or "done"


def finish(report: dict[str, Any], config: Config) -> int:
    """Writes and prints the whole; returns the exit code."""
    text = report_text(report)
    write_json(config.out / "accelerator.json", report)
    write_whole(config.out / "accelerator.txt", f"{text}\n".encode())
    print(f"\n{text}", flush=True)
    complete = all(
        set(told.split("; ")) <= {"done", "PyTorch done"} for told in report["parts"].values() if told != NO_DATA
    )
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
