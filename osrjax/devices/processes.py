"""What the processes of one run agree on: who writes, what is refused, how all end.

JAX's runtime joins them (:func:`osrjax.devices.sharding.start_distributed`), carries what they tell each other and
watches them. With one process everything here does nothing.
"""

import hashlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from osrjax.files import json_text

__all__ = [
    "check_alike",
    "check_shared",
    "end_together",
    "fail",
    "gather_text",
    "is_first",
    "is_lost",
    "refuse_together",
]

T = TypeVar("T")


_TEXT = 2048  # bytes of a text that processes tell each other


# What JAX says of a peer that is gone: its own service, then the transports of CPU and GPU collectives.
_LOST = ("coordination", "heartbeat", "Barrier", "Gloo", "Connection closed by peer", "NCCL", "UNAVAILABLE")


def is_first() -> bool:
    """Whether this is process 0, which alone prints and writes."""
    return jax.process_index() == 0


def gather_text(text: str) -> list[str]:
    """The texts of all processes, in the order of their numbers; each waits for all.

    Args:
      text: this process's; cut after 2048 bytes.

    Returns:
      One text a process.

    Example:
      >>> gather_text("ready")
      ['ready']
    """
    if jax.process_count() == 1:
        return [text]
    from jax.experimental import multihost_utils

    encoded = text.encode()[:_TEXT]
    row = np.frombuffer(encoded.ljust(_TEXT, b"\0"), np.uint8)
    return [bytes(found).rstrip(b"\0").decode(errors="ignore") for found in multihost_utils.process_allgather(row)]


def refuse_together(check: Callable[[], T]) -> T:
    """What a function gives, or the refusal of any process in all of them.

    Args:
      check: raises ValueError where it refuses.

    Returns:
      Its result.

    Raises:
      ValueError: some process refused; with its message.
    """
    if jax.process_count() == 1:
        return check()
    result, refusal = None, ""
    try:
        result = check()
    except ValueError as error:
        refusal = str(error) or type(error).__name__
    refusals = gather_text(refusal)
    for number, text in enumerate(refusals):
        if text:
            everywhere = all(other == text for other in refusals)
            raise ValueError(text if everywhere else f"process {number}: {text}")
    return result  # ty: ignore[invalid-explicit-return]


def check_alike(values: Mapping[str, Any]) -> None:
    """Refuses processes that were started with different configurations or found different data.

    Args:
      values: plain JSON values that must be the same in all processes.

    Raises:
      ValueError: a value differs.
    """
    digests = {name: hashlib.sha256(json_text(value).encode()).hexdigest()[:8] for name, value in values.items()}
    for number, found in enumerate(gather_text(" ".join(digests.values()))):
        for name, mine, other in zip(digests, digests.values(), found.split(" "), strict=False):
            if mine != other:
                raise ValueError(
                    f"process {number} has another {name} than process {jax.process_index()}, which has"
                    f" {str(values[name])[:100]!r}: give all processes the same command and data"
                )


def check_shared(path: str | Path, *, wait: float = 10.0) -> None:
    """Refuses a directory of process 0 that another process does not see.

    Args:
      path: a file that process 0 has written.
      wait: seconds that a network file system may take to show it.

    Raises:
      ValueError: it is not there.
    """
    deadline = time.monotonic() + wait
    while not Path(path).exists():
        if time.monotonic() > deadline:
            raise ValueError(f"{str(path)!r} of process 0 is not there: give an --out on a file system that all share")
        time.sleep(0.1)


def is_lost(error: Exception) -> bool:
    """Whether an error says that another process of the run is gone.

    Args:
      error: raised by JAX or by what uses its runtime.

    Returns:
      False where there is no other process.
    """
    return jax.process_count() > 1 and any(word in f"{type(error).__name__}: {error}" for word in _LOST)


@contextmanager
def end_together(script: str, *, memory: str = "lower batch_size, or use more devices") -> Generator[None]:
    """Ends this process at once when an error leaves the block, so that no other process waits for it.

    A Python process that leaves in the usual way first waits for its peers, who wait for it. An error that says that
    a peer is gone, or that a device has no memory left, becomes one line, any other keeps its traceback; all exit
    with 1. With one process other errors pass. An interrupt from the keyboard, where no step loop takes it, becomes a
    line and the exit code 130.

    Args:
      script: name of the script, which begins the line.
      memory: the remedy where memory is exhausted.
    """
    try:
        yield
    except BrokenPipeError:  # nobody reads the output any more
        if jax.process_count() == 1:
            raise
        _leave(128 + signal.SIGPIPE)
    except Exception as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
            reason = str(error).strip().splitlines()[0][:200]
            line = f"{script}: a device has too little memory ({reason}): stopped; {memory}"
            print(line, file=sys.stderr, flush=True)
            if jax.process_count() == 1:
                raise SystemExit(1) from None
        elif jax.process_count() == 1:
            raise
        elif is_lost(error):
            reason = str(error).strip().splitlines()[0][:200]
            line = (
                f"{script}: process {jax.process_index()} lost another process of the run ({reason}): stopped; the same"
                " command goes on from the last checkpoint, if there is one, with any number of processes"
            )
            print(line, file=sys.stderr, flush=True)
        else:
            traceback.print_exc()
        _leave(1)
    except KeyboardInterrupt:
        if is_first():
            line = f"{script}: interrupted: stopped; the same command goes on from the last checkpoint, if there is one"
            print(line, file=sys.stderr, flush=True)
        if jax.process_count() == 1:
            raise SystemExit(130) from None
        _leave(130)


def fail(script: str, error: Exception) -> int:
    """Says in one line what ended this process; alone it returns the exit code, among others it ends at once.

    Args:
      script: name of the script, which begins the line.
      error: with a message for the user.

    Returns:
      1.
    """
    print(f"{script}: {error}", file=sys.stderr, flush=True)
    if jax.process_count() > 1:
        _leave(1)
    return 1


def _leave(code: int) -> None:
    with suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
