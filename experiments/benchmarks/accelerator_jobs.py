"""Processes of accelerator.py: each does the cases of a job, and what it tells is written down after every case.

A process that ends within a case, by a crash or at its limit, loses that case alone: it counts as failed, and the
others are done by the next process. Cases that failed are tried again, last, when the same command is given again.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import accelerator_cases

from osrjax.files import read_json, write_json

GRACE = 15.0  # seconds to save a training's state
SHORTEST = 5.0  # seconds below which no process is started


class Job(NamedTuple):
    """What a process does.

    Attributes:
        name: of its file, without ``.json``.
        function: ``FILE:FUNCTION`` of its cases.
        arguments: of that function, as JSON can hold them.
        python: its interpreter.
    """

    name: str
    function: str
    arguments: Mapping[str, Any]
    python: str = sys.executable


def stored(job: Job, directory: Path) -> dict[str, Any]:
    """What is known of a job.

    Raises:
        ValueError: it was done with other arguments.
    """
    arguments = json.loads(json.dumps(job.arguments))
    path = directory / f"{job.name}.json"
    if not path.exists():
        return {"job": job.name, "arguments": arguments, "facts": {}, "names": None, "cases": {}, "ended": None}
    found = read_json(path, "delete it")
    if found.get("arguments") != arguments:
        raise ValueError(f"out={str(directory)!r} holds a {path.name} of other sizes: give another --out")
    return found


def unfinished(found: Mapping[str, Any]) -> list[str] | None:
    """Names of the cases that failed or were not begun; None where not even the names are known."""
    if found["names"] is None:
        return None
    return [name for name in found["names"] if "error" in found["cases"].get(name, {"error": None})]


def run_job(job: Job, directory: Path, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Does what is left of a job within a limit of time.

    Args:
        job: what is done.
        directory: has its file, and in ``logs`` what its processes say.
        seconds: for all of its processes.
        say: is given a line for each case that has ended.

    Returns:
        What is known of it, as its file has it; ``ended`` is a line where a process ended early.
    """
    found, end = stored(job, directory), time.monotonic() + seconds
    before = [name for name, case in found["cases"].items() if "error" in case]
    tried: set[str] = set()
    while (left := end - time.monotonic()) > SHORTEST:
        skip = [name for name, case in found["cases"].items() if "error" not in case or name in tried]
        begun, found["ended"] = _process(job, found, directory, left, skip, before, tried, say)
        if begun is None:  # all were told of, or none was begun
            break
        tried.add(begun)
        found["cases"][begun] = {"error": found["ended"]}
        say(f"{job.name}: {begun}: {found['ended']}")
    write_json(directory / f"{job.name}.json", found)
    return found


def _process(job, found, directory, seconds, skip, last, tried, say) -> tuple[str | None, str | None]:
    """One process; the case within which it ended, and why it ended early."""
    (directory / "logs").mkdir(exist_ok=True)
    log = directory / "logs" / f"{job.name}.txt"
    words = [job.function, *(json.dumps(value) for value in (job.arguments, skip, last))]
    command = [job.python, str(Path(accelerator_cases.__file__).resolve()), *words]
    begun, end = None, time.monotonic() + seconds
    with (
        log.open("a") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=_environment()) as process,
        _ended_after(process, seconds),
    ):
        assert process.stdout is not None
        for line in process.stdout:
            message = json.loads(line)
            begun = message.get("begun")
            if "names" in message:
                found |= message
            elif "case" in message:
                name = message["case"]
                tried.add(name)
                found["cases"][name] = message["found"]
                say(f"{job.name}: {name}: {_in_a_word(message['found'])}")
            write_json(directory / f"{job.name}.json", found)
    if time.monotonic() >= end:
        return begun, f"ended at its limit of {seconds:.0f} s"
    code = process.returncode
    return begun, f"its process ended with {_code(code)}: {_last_line(log)}" if code else None


@contextlib.contextmanager
def _ended_after(process: subprocess.Popen, seconds: float):
    """Ends a process when its time is over, and in any case at the end of the block."""
    timers = [threading.Timer(seconds, process.terminate), threading.Timer(seconds + GRACE, process.kill)]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
        process.wait()
    finally:
        for timer in timers:
            timer.cancel()
        process.kill()


def _environment() -> dict[str, str]:
    """Ours; JAX takes memory as it needs it, so that the peers have some, and sees the CPU beside the accelerator."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and "cpu" not in platforms.split(","):
        platforms += ",cpu"
    return {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ, "JAX_PLATFORMS": platforms}


def _in_a_word(found: Mapping[str, Any]) -> str:
    return found.get("error") or (f"{found['ms']:.3f} ms" if "ms" in found else "done")


def _code(code: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"exit code {code}"


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "nothing was said"
