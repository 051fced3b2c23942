"""Many runs of one training script, each in a directory of its own, started again where they were stopped.

A cell is a run directory and the options that the script gets besides ``--out``. A run is finished when its
directory holds ``results.json``; the log beside the directory begins with the command that made it, so any
cell can be repeated, and runs made with other options are noticed.
"""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

from osrjax.files import json_text, read_json

__all__ = ["REPEAT", "check_finished", "check_same_data", "is_finished", "run_cells", "run_commands"]

REPEAT = "delete the run's directory and give the same command again"  # the remedy for a damaged file of a run


def is_finished(directory: Path) -> bool:
    """Whether the run of a directory has written its results.

    Args:
      directory: of the run; it need not exist.

    Returns:
      True where ``results.json`` is there, which is a run's last file.
    """
    return (directory / "results.json").exists()


def check_finished(cells: Mapping[Path, Sequence[str]]) -> None:
    """Refuses to mix the runs of a grid with finished ones of other options or data.

    Args:
      cells: by run directory, the options of its run without ``--out``.

    Raises:
      ValueError: the log of a finished run begins with another command, or is missing.
    """
    for directory, options in cells.items():
        if not is_finished(directory):
            continue
        log = _log(directory)
        stored = log.read_text().partition("\n")[0] if log.exists() else ""
        if f" {' '.join(options)} --out " not in stored:
            raise ValueError(f"{log} was made with other options: choose another --out, or repeat its --data")


def check_same_data(directories: Iterable[Path]) -> None:
    """Refuses to compare finished runs of one class split that were made of different images.

    Args:
      directories: of the runs; those that are not finished, or of a version without checksums, are let pass.

    Raises:
      ValueError: the file behind a data set's name has changed between two of them.
    """
    first: dict[str, tuple[Path, Any]] = {}
    for directory in filter(is_finished, directories):
        path = directory / "provenance.json"
        stored = read_json(path, REPEAT) if path.exists() else {}
        if "sha256" not in stored:
            continue
        about = json_text([stored.get(name) for name in ("split", "known_names", "images", "image_shape")])
        other, checksums = first.setdefault(about, (directory, stored["sha256"]))
        if checksums != stored["sha256"]:
            raise ValueError(f"{other} and {directory} are of different images: delete one of them, and run it again")


def run_cells(
    script: Path,
    cells: Mapping[Path, Sequence[str]],
    *,
    workers: int = 0,
    compilation_cache: Path | None = None,
) -> list[str]:
    """Runs every unfinished cell in a process of its own; a run that fails does not stop the others.

    Args:
      script: takes the options of a cell and ``--out``.
      cells: by run directory, the options of its run, in the order in which to start them.
      workers: runs at a time, each pinned to its share of the cores; 0: one per core.
      compilation_cache: as for :func:`run_commands`.

    Returns:
      The logs of the runs that failed: the command in the first line, then what it printed.

    Raises:
      ValueError: negative workers.
    """
    commands = {out: [[str(script), *options, "--out", str(out)]] for out, options in cells.items()}
    return run_commands(commands, finished=is_finished, workers=workers, compilation_cache=compilation_cache)


def run_commands(
    cells: Mapping[Path, Sequence[Sequence[str]]],
    *,
    finished: Callable[[Path], bool],
    workers: int = 0,
    compilation_cache: Path | None = None,
) -> list[str]:
    """Runs the Python commands of every unfinished cell, one after another; a cell that fails stops no other.

    Args:
      cells: by directory, commands without the interpreter, in the order in which to start the cells.
      finished: whether the cell of a directory is.
      workers: cells at a time, each pinned to its share of the cores; 0: one per core.
      compilation_cache: directory of JAX's persistent compilation cache, which all commands share.

    Returns:
      The logs of the cells that failed, beside their directories: each command, then what it printed.

    Raises:
      ValueError: negative workers.
    """
    if workers < 0:
        raise ValueError(f"{workers=} must not be negative: give runs at a time, or 0 for one per core")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    workers = workers or max(len(cores), 1)
    shares: Queue[set[int]] = Queue()
    for worker in range(workers):
        shares.put(set(cores[worker::workers]) or set(cores))
    missing = [directory for directory in cells if not finished(directory)]
    print(f"{len(cells) - len(missing)} of {len(cells)} runs are finished", flush=True)
    environment = dict(os.environ)
    if compilation_cache is not None:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(compilation_cache.absolute())
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.02"  # scores are many small programs
    started = time.monotonic()
    ended = itertools.count(1)

    def run(directory: Path) -> str | None:
        directory.parent.mkdir(parents=True, exist_ok=True)
        log, code = _log(directory), 0
        share = shares.get()
        try:
            log.unlink(missing_ok=True)  # never through a link
            with log.open("x") as file:
                for command in cells[directory]:
                    file.write(" ".join([sys.executable, *command]) + "\n")
                    file.flush()
                    process = subprocess.Popen(
                        [sys.executable, *command], env=environment, stdout=file, stderr=subprocess.STDOUT
                    )
                    if share:
                        os.sched_setaffinity(process.pid, share)
                    if code := process.wait():
                        break
        finally:
            shares.put(share)
        seconds, done = time.monotonic() - started, sum(finished(other) for other in cells)
        left = seconds / next(ended) * (len(cells) - done)
        when = f", about {left / 60:.0f} min left" if done < len(cells) else ""
        print(f"{done}/{len(cells)} {directory.name}: exit {code}, {seconds:.0f} s{when}", flush=True)
        return str(log) if code else None

    with ThreadPoolExecutor(workers) as pool:
        return [log for log in pool.map(run, missing) if log]


def _log(directory: Path) -> Path:
    # Not with_suffix: a name such as "m = 0.5" would lose what follows its point.
    return directory.with_name(directory.name + ".log")
