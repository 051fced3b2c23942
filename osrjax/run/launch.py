"""How every script starts: parse, join processes, refuse, open the directory, run, exit code.

A script has a configuration, put together from the parents here, in ``data/choice`` and in ``evaluation/config`` and
fields of its own, a function ``build`` that holds everything that can be refused, and the work. Its ``main`` is one
line, :func:`launch_run`; that of a script without a run directory of its own is :func:`launch`. Nothing heavy is
imported before the command line is understood: not even JAX for ``--help``.

Exit codes: what the work returns; 2 for bad input, said in one line, when nothing was started; 1 for a file that
cannot be written or read, and for several processes of which one is lost; 141 where nobody reads the output any more.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import tyro

from osrjax.data.table import resolve_data
from osrjax.fields import (
    Execution,
    Place,
    check_above_zero,
    check_directories,
    check_fields,
    check_seed,
    execution_fields,
    marked_fields,
    plain_fields,
)
from osrjax.files import FileError
from osrjax.run.output import plain_output, until_closed
from osrjax.run.parsing import Smoke, parse, preset_config

if TYPE_CHECKING:
    from osrjax.run.directory import Run
    from osrjax.run.finished import FinishedRun

__all__ = [
    "EntriesConfig",
    "FinishedConfig",
    "ImagesOfRunsConfig",
    "Job",
    "MovedConfig",
    "RunConfig",
    "RunsConfig",
    "SingleRunConfig",
    "launch",
    "launch_run",
]


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Where a training writes, how often, and which devices and processes share it."""

    preset: Annotated[str, Execution] = "bundled"
    """The named recipe that gives the defaults of all other fields; listed above."""
    smoke: Annotated[bool, Execution] = False
    """Other defaults, for a run of seconds: digits, few steps, small batches."""
    out: Annotated[Path | None, Execution] = None
    """Run directory; the same command with the same directory resumes. Default: runs/ + a name of the run."""
    log_every: Annotated[int, Execution] = 20
    """Steps between logged metrics."""
    save_every: Annotated[int, Execution] = 200
    """Steps between checkpoints; each also measures the validation accuracy."""
    devices: Annotated[int | None, Execution] = None
    """Devices to share each batch; default: all."""
    distributed: Annotated[Literal["none", "auto"], Execution] = "none"
    """auto: join the processes of a TPU pod, Slurm, GKE or Open MPI job; where JAX sees none of these, one process."""
    coordinator: Annotated[str | None, Execution] = None
    """HOST:PORT of process 0, to join processes anywhere else; with `processes` and `process`."""
    processes: Annotated[int | None, Execution] = None
    """Number of processes that share the run."""
    process: Annotated[int | None, Execution] = None
    """Number of this one, from 0 on."""
    peer_timeout: Annotated[int, Execution] = 100
    """Seconds without a sign of life after which a process counts as dead and ends the others."""
    start_timeout: Annotated[int, Execution] = 300
    """Seconds to wait at the start until all processes are there."""
    profile_steps: Annotated[tuple[int, int] | None, Execution] = None
    """First and last step of a profile (jax.profiler, to profile/); take some after the first, which compiles."""
    compilation_cache: Annotated[Path | None, Execution] = None
    """Directory of JAX's persistent compilation cache; default: none."""

    def check(self) -> None:
        """Refuses intervals of no step; devices and processes are refused where they are looked for."""
        check_above_zero(self, ["log_every", "save_every"])


@dataclasses.dataclass(frozen=True)
class SingleRunConfig(RunConfig):
    """The same for one training with one seed."""

    seed: int = 0
    """Seed of initialisation, order and augmentation. The validation images depend on the split alone."""
    stream: Annotated[bool, Execution] = False
    """Send each batch to the devices (grain, addressed by step) instead of keeping the training images there,
    for sets that do not fit in device memory. The batches are the same."""

    def check(self) -> None:
        """Refuses a seed that JAX cannot read."""
        check_seed(self)


@dataclasses.dataclass(frozen=True)
class EntriesConfig:
    """Which entries a command reads."""

    entries: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Directories with entries, at any depth."""
    pages: tuple[Path, ...] = ()
    """Pages to make anew: what stands between a line <!-- NAME --> and <!-- end -->, and the figures that they show."""

    def check(self) -> None:
        """Refuses a command without entries."""
        check_directories(self, "entries", "a directory with entries, at any depth")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MovedConfig:
    """Where the data and the code of a finished run are now."""

    own_method: Annotated[str | None, Execution] = None
    """Of a run of a method of one's own: its MODULE:FUNCTION, named again since that code is imported."""
    data: Annotated[str | None, Execution] = None
    """Where the run's data is now, if it has moved: npz:FILE, say; the checksums must be those of the run."""
    unknown_data: Annotated[str | None, Execution] = None
    """The same of the set of its unknown classes, if that is another."""
    data_dir: Annotated[Path | None, Execution] = None
    """Directory of prepared TFDS sets; default: where the run found them."""

    def open_run(self, directory: Path, *needed: str, argument: str = "run") -> "FinishedRun":
        """Opens a run.

        Args:
          directory: of the run.
          *needed: files that must be there besides configuration, provenance and network.
          argument: what the user knows the directory by.

        Returns:
          The run.

        Raises:
          ValueError: as :func:`osrjax.run.open_finished`.
        """
        from osrjax.run.directory import check_files

        files = ("config.json", "provenance.json", "network.npz", *needed)
        check_files(directory, files, argument=argument)
        from osrjax.run.finished import open_finished  # JAX and Flax from here on

        return open_finished(
            directory,
            argument=argument,
            needed=files,
            data_dir=self.data_dir,
            own_method=self.own_method,
            data=self.data,
            unknown_data=self.unknown_data,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinishedConfig(MovedConfig):
    """A question to a finished run."""

    run: Annotated[Path, tyro.conf.Positional]
    """A finished run directory of experiments/train.py or experiments/contrastive.py."""

    def open(self, *needed: str) -> "FinishedRun":
        """Opens the run; arguments and errors as :meth:`osrjax.run.MovedConfig.open_run`."""
        return self.open_run(self.run, *needed)


@dataclasses.dataclass(frozen=True)
class RunsConfig(MovedConfig):
    """A question to finished runs, which are compared over class splits."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Finished run directories of experiments/train.py or experiments/contrastive.py."""

    def check(self) -> None:
        """Refuses a command without runs."""
        if not self.runs:
            raise ValueError("runs is empty: give finished run directories")

    def open_runs(self, arm: "Callable[[FinishedRun], str] | None" = None) -> "dict[str, list[list[FinishedRun]]]":
        """Opens the runs.

        Args:
          arm: what runs are grouped by; default: their method.

        Returns:
          By arm, the runs of each class split.

        Raises:
          ValueError: as :meth:`open_run`; splits of several families or data sets, over which nothing is a mean.
        """
        runs = [self.open_run(place, argument="runs") for place in self.runs]
        found: dict[str, dict[Any, list[FinishedRun]]] = {}
        for run in runs:
            if (run.split.family, run.split.dataset) != (runs[0].split.family, runs[0].split.dataset):
                raise ValueError(
                    f"runs={str(run.directory)!r} has a split of {run.split.family}, {run.split.dataset}, the first of"
                    f" {runs[0].split.family}, {runs[0].split.dataset}: give the runs of one at a time"
                )
            name = arm(run) if arm else run.method.options.method
            found.setdefault(name, {}).setdefault(run.split, []).append(run)
        return {name: list(splits.values()) for name, splits in found.items()}


@dataclasses.dataclass(frozen=True)
class ImagesOfRunsConfig(RunsConfig):
    """A question to some test images of finished runs, which are compared over class splits."""

    images: int = 100
    """Known test images, and as many unknown ones; of each class as many as of any other."""

    def check(self) -> None:
        """Refuses what needs no file to be refused."""
        check_above_zero(self, ["images"])


@runtime_checkable
class Job(Protocol):
    """What ``build`` of a script gives; besides these a job has whatever the work reads."""

    @property
    def header(self) -> str:
        """One line about the run, for its first line of output."""

    @property
    def content(self) -> Mapping[str, Any]:
        """Plain values that say which data the run is about; it never goes on with other data."""

    @property
    def images(self) -> np.ndarray:
        """Training images, which several processes compare."""


AnyConfig = TypeVar("AnyConfig")
AnyRunConfig = TypeVar("AnyRunConfig", bound=RunConfig)
AnyJob = TypeVar("AnyJob", bound=Job)


@until_closed
def launch(
    config_class: type[AnyConfig],
    work: Callable[[AnyConfig], int],
    *,
    script: str,
    description: str | None,
    presets: Mapping[str, AnyConfig] | None = None,
    smoke: Smoke | None = None,
    arguments: list[str] | None = None,
) -> int:
    """Starts a script that has no run directory of its own.

    Args:
      config_class: a frozen dataclass; its classes' methods ``check`` refuse bad values.
      work: config -> exit code; a ValueError that it raises is bad input.
      script: name of the script, which begins its messages.
      description: for ``--help``.
      presets: by name, the defaults that ``--preset`` chooses from; the first one where it is not given.
      smoke: by field, other defaults with ``--smoke``; or a function that gives them for a preset.
      arguments: the words after the script's name; those of this process for None.

    Returns:
      The exit code.
    """
    try:
        config = parse(config_class, arguments, description=description, presets=presets, smoke=smoke, prog=script)
        with plain_output():
            check_fields(config)
            return work(config)
    except ValueError as error:
        return _refuse(script, error)


def _refuse(script: str, error: ValueError) -> int:
    """Says in one line what is refused, whatever the names in it hold; returns the exit code."""
    with plain_output():
        print(f"{script}: {' '.join(str(error).splitlines())}", file=sys.stderr)
    return 2


@until_closed
def launch_run(
    config_class: type[AnyRunConfig],
    build: Callable[[AnyRunConfig], AnyJob],
    work: Callable[[AnyRunConfig, AnyJob, "Run"], int],
    *,
    script: str,
    description: str | None,
    presets: Mapping[str, AnyRunConfig],
    smoke: Smoke | None = None,
    prefix: str = "",
    before: Callable[[AnyRunConfig], object] | None = None,
    memory: str = "lower batch_size, or use more devices",
    arguments: list[str] | None = None,
) -> int:
    """Starts a script that trains, in one process or in one of several.

    The data set's implications are written out first (:func:`osrjax.data.resolve_data`), and each class of the
    configuration checks its own fields; in one process that comes before JAX is imported.

    Args:
      config_class: a frozen dataclass; its classes' methods ``check`` refuse bad values.
      build: config -> :class:`Job`; holds everything else that can be refused, and starts nothing.
      work: config, job, run -> exit code; the run is open, and closed afterwards.
      script: name of the script, which begins its messages.
      description: for ``--help``.
      presets: by name, the defaults that ``--preset`` chooses from; the first one where it is not given.
      smoke: by field, other defaults with ``--smoke``; or a function that gives them for a preset.
      prefix: begins the default name of a run directory.
      before: is called with the configuration before anything makes JAX look for its devices.
      memory: the remedy where the memory of a device is exhausted.
      arguments: the words after the script's name; those of this process for None.

    Returns:
      The exit code.
    """
    try:
        asked = parse(config_class, arguments, description=description, presets=presets, smoke=smoke)
        config = resolve_data(asked)
        alone = config.distributed == "none" and config.coordinator is None
        if alone:
            check_fields(config)
        if getattr(config, "list_classes", False):
            from osrjax.data.classes import class_tables

            print(class_tables(config))
            return 0
        from osrjax.devices import processes, sharding  # JAX from here on

        sharding.start_distributed(
            mode=config.distributed,
            coordinator=config.coordinator,
            processes=config.processes,
            process=config.process,
            peer_timeout=config.peer_timeout,
            start_timeout=config.start_timeout,
        )
    except ValueError as error:  # every refusal of bad input is one; later errors keep their traceback
        return _refuse(script, error)

    def possible() -> AnyJob:
        if not alone:
            check_fields(config)
        return build(config)

    with plain_output(), processes.end_together(script, memory=memory):
        try:
            if before is not None:
                before(config)
            job = processes.refuse_together(possible)
            run = _open(asked, config, job, preset_config(presets, smoke, asked), prefix)
        except ValueError as error:
            return _refuse(script, error) if processes.is_first() else 2
        try:
            with run:
                return _work(config, job, run, work)
        except (
            FileError,
            FloatingPointError,
        ) as error:  # a full disk, say: what was saved is there for the same command
            return processes.fail(script, error)


def _open(asked: RunConfig, config: RunConfig, job: Job, preset: RunConfig, prefix: str) -> "Run":
    """The run directory, opened by all processes or by none."""
    from osrjax.methods.find import method_source
    from osrjax.run.directory import open_run
    from osrjax.run.names import run_name

    kind, content = type(config), dict(job.content)
    fields = plain_fields(config)
    if "method" in fields:
        content |= method_source(fields["method"])
    missing_data = {"data": fields["data"]} if "data" in fields else {}
    return open_run(
        config.out or Path("runs") / run_name(asked, preset, prefix=prefix),
        fields,
        content=content,
        ignore=execution_fields(kind),
        places=marked_fields(kind, Place),
        defaults=plain_fields(resolve_data(kind(**missing_data))),
        argument="out",
        images=job.images,
    )


def _work(config: AnyRunConfig, job: AnyJob, run: "Run", work: Callable[[AnyRunConfig, AnyJob, "Run"], int]) -> int:
    """The work, unless it was done before; returns the exit code."""
    from osrjax.devices import processes
    from osrjax.run.directory import PAGE

    if processes.is_first():
        print(f"{run.directory}: {job.header}", flush=True)
    if (done := run.read_json("results.json")) is not None:
        if not isinstance(table := done.get("table"), str):
            raise FileError(
                f"{run.directory / 'results.json'} holds no table: delete it and give the same command again"
            )
        if processes.is_first():
            print("finished before; the stored results:\n" + table)
            if (page := run.directory / PAGE).is_file():
                print(f"page: {page}")
        return 0
    if config.compilation_cache:
        import jax

        jax.config.update("jax_compilation_cache_dir", str(config.compilation_cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return work(config, job, run)
