"""The process of a part of accelerator.py: its cases one after another, each told as a line of JSON when it is done.

    python experiments/benchmarks/accelerator_cases.py FILE:FUNCTION '{"argument": ...}' '["case to leave out"]' '[]'

The function of a file beside this one returns `Cases`. A case that raises is told in one line, and the next one goes
on. The last argument names cases that failed before: they come last. This file needs nothing but Python, so that the
peers' interpreter needs nothing of ours.
"""

import contextlib
import gc
import importlib
import json
import math
import os
import statistics
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

SHORTEST_BLOCK = 0.05  # seconds; fast work is repeated within a block
LONGEST_CASE = 4.0  # seconds of all blocks together, but for FEWEST_BLOCKS
FEWEST_BLOCKS = 3


class Cases(NamedTuple):
    """A part.

    Attributes:
        facts: what its process runs on, as JSON can hold it.
        cases: by name; each does its work and gives plain values.
    """

    facts: Mapping[str, Any]
    cases: Mapping[str, Callable[[], Mapping[str, Any]]]


def timings(
    call: Callable[[], Any],
    wait: Callable[[Any], object],
    *,
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Milliseconds of a call that is compiled already: the median of blocks of calls, and how they spread.

    Args:
        call: starts the work.
        wait: is given the result of a block's last call, and returns when the device has done all of the block.
        repeats: blocks, fewer where they take long.
        clock: seconds.
    """

    def block(calls: int) -> float:
        start = clock()
        for _ in range(calls):
            found = call()
        wait(found)
        return (clock() - start) / calls

    block(1)
    once = max(block(1), 1e-9)
    calls = max(1, math.ceil(SHORTEST_BLOCK / once))
    seconds = [once]  # slow work: a block already
    if calls > 1:
        seconds, once = [], block(calls)  # warm, and without the wait after each call
    blocks = max(FEWEST_BLOCKS, min(repeats, int(LONGEST_CASE / (calls * once))))
    seconds = sorted([*seconds, *(block(calls) for _ in range(blocks - len(seconds)))])
    median = statistics.median(seconds)
    return {
        "ms": 1e3 * median,
        "ms_least": 1e3 * seconds[0],
        "ms_most": 1e3 * seconds[-1],
        "spread": median / seconds[0],
        "blocks": blocks,
        "calls": calls,
    }


def run(part: Cases, tell: Callable[[dict[str, Any]], None], *, skip: Collection[str], last: Collection[str]) -> None:
    """Does the cases and tells of each when it begins and when it has ended."""
    tell({"facts": dict(part.facts), "names": list(part.cases)})
    for name in sorted(part.cases, key=lambda name: name in last):
        if name in skip:
            continue
        tell({"begun": name})
        try:
            found = dict(part.cases[name]())
        except Exception as error:  # whatever an accelerator's library raises
            traceback.print_exc()
            found = {"error": one_line(error)}
        gc.collect()  # arrays that only a cycle holds: the next case needs the memory
        tell({"case": name, "found": found})


def one_line(error: BaseException) -> str:
    """An error's kind and the beginning of its words."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 240, placeholder=" ...")


def main(function: str, arguments: str, skip: str, last: str) -> None:
    """Makes the part and does it; nothing that a library prints is a message."""
    messages = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    file, name = function.split(":")
    part: Cases = getattr(importlib.import_module(file), name)(**json.loads(arguments))

    def tell(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=messages, flush=True)

    run(part, tell, skip=json.loads(skip), last=json.loads(last))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # whoever started it has been stopped
        main(*sys.argv[1:])
