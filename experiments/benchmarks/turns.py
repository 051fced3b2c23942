"""Are two programs compared fairly? Each in a process of its own, in turns, and no ratio where one was disturbed.

    python experiments/benchmarks/turns.py FILE:FUNCTION '{"argument": ...}'     a side; the comparisons start it

A side is the function of a file beside this one. It returns `Work`: what is measured, by name, and what is to be known
about it. Its process makes one turn when it is told to and then waits, so that what is compiled is compiled once and
one side alone computes at any time. A turn is some blocks of equal work, after a little of the same that is not timed:
memory and caches are the side's own again. The first turn of all is left out.

What is compared is each side's 0.2 quantile of seconds per unit of work: a disturbance only ever adds time, so a low
quantile is nearer to the undisturbed time than a median, and unlike the minimum it is met again and again. A side is
unreliable, and there is no ratio but a line that says why, where

* its median block took more than 1.5 times as long as its fastest (the fastest, not the quantile: were nine blocks of
  ten slow, the quantile would be slow too);
* other programs took cores from it for more than a fifth of the time that it ran: if they do so all the time, all of
  its blocks are slow alike (Linux tells; elsewhere the load average must do);
* it computed while it should have waited, in the other side's turns.

This file needs nothing but Python, so that the peers' interpreter needs nothing of ours.
"""

import contextlib
import importlib
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple, Protocol

BEST = 0.2  # the quantile of a side's blocks that is compared
ALLOWED_SPREAD = 1.5  # median block over the fastest, above which there is no ratio
ALLOWED_TAKEN = 0.2  # time of cores taken by other programs, over that which a side had
ALLOWED_IDLE = 0.1  # cores that a side may keep busy while it waits
SHORTEST_WAIT = 0.1  # seconds; a side's own works follow each other at once, and that is no wait
SHORTEST_BLOCK = 0.2  # seconds; fast work is repeated within a block
LONGEST_TURN, MOST_BLOCKS = 1.0, 3  # a turn has one block where a block takes longer
# Seconds between two sides' turns. Threads of OpenMP go round in a loop when their work is done, milliseconds (GNU) or
# a fifth of a second (LLVM, Intel), before they sleep. OMP_WAIT_POLICY=passive would stop that and is not used, because
# it would flatter us: it slows PyTorch's steps down, by a quarter for small_cnn and 4 % for WRN-16-4 on two cores.
SETTLE = 0.25


class Work(NamedTuple):
    """What a side does.

    Attributes:
        calls: does one unit of work each, finished when the call returns.
        facts: what the comparison is told, as JSON can hold it.
    """

    calls: Mapping[str, Callable[[], object]]
    facts: Mapping[str, Any]


class Turn(NamedTuple):
    """One turn.

    Attributes:
        blocks: seconds per unit of work, one for each block.
        taken: seconds of cores that other programs took, for each second that the process had.
        waited: seconds that the process waited before the turn.
        busy: seconds of CPU time that it used meanwhile.
    """

    blocks: list[float]
    taken: float = 0.0
    waited: float = 0.0
    busy: float = 0.0


# ---------------------------------------------------------------------------------------------- the side's process


class Plan(NamedTuple):
    """How often a unit of work is repeated in a block, and how many blocks make a turn."""

    units: int
    blocks: int


def plan_of(call: Callable[[], object], shortest: float, clock: Callable[[], float] = time.perf_counter) -> Plan:
    """The plan for work that was not done before: once to compile it, once to see how long it takes."""
    call()
    start = clock()
    call()
    seconds = clock() - start
    units = max(1, math.ceil(shortest / seconds))
    return Plan(units, max(1, min(MOST_BLOCKS, int(LONGEST_TURN / (units * seconds)))))


def block_times(call: Callable[[], object], plan: Plan, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Seconds per unit of work in each block of a turn."""
    for _ in range(plan.units // 4):  # work that fills a block alone is not changed by cold caches
        call()
    seconds = []
    for _ in range(plan.blocks):
        start = clock()
        for _ in range(plan.units):
            call()
        seconds.append((clock() - start) / plan.units)
    return seconds


def serve(function: str, arguments: dict[str, Any]) -> None:
    """Makes turns as they are asked for on the standard input, until that ends."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is no reply
    file, name = function.split(":")
    work: Work = getattr(importlib.import_module(file), name)(**arguments)
    plans: dict[str, Plan] = {}

    def reply(**values: Any) -> None:
        print(json.dumps(values), file=replies, flush=True)

    reply(names=list(work.calls), facts=work.facts)
    since, used = time.perf_counter(), time.process_time()
    for line in sys.stdin:
        waited, busy = time.perf_counter() - since, time.process_time() - used
        asked = json.loads(line)
        call = work.calls[asked["who"]]
        if asked["who"] not in plans:
            plans[asked["who"]] = plan_of(call, asked["shortest"])
        before = core_seconds()
        blocks = block_times(call, plans[asked["who"]])
        ran, queued, all_ran = (after - start for start, after in zip(before, core_seconds(), strict=True))
        # Threads also wait for each other, and others may run on cores that nobody wanted: neither is a disturbance.
        taken = max(0.0, min(queued, all_ran - ran)) / max(ran, 1e-9)
        time.sleep(asked["settle"])
        since, used = time.perf_counter(), time.process_time()
        reply(blocks=blocks, taken=taken, waited=waited, busy=busy)


def core_seconds() -> tuple[float, float, float]:
    """Seconds so far that this process ran, that its threads waited for a core, and that all of the machine ran.

    The sums are over threads and cores; the last two are 0 where the system does not tell.
    """
    queued = all_ran = 0.0
    for file in Path("/proc/self/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, IndexError, ValueError):  # the thread has ended, or nothing is counted
            queued += int(file.read_text().split()[1]) / 1e9
    with contextlib.suppress(OSError, ValueError):
        user, nice, system, _idle, _iowait, *interrupts = map(int, Path("/proc/stat").read_text().split()[1:9])
        all_ran = (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")
    return time.process_time(), queued, all_ran


# ---------------------------------------------------------------------------------------------- taking turns


class SideError(Exception):
    """A side's process ended before its work was done."""


class Side(Protocol):
    """Whoever makes turns."""

    names: list[str]

    def turn(self, who: str, shortest: float, settle: float) -> Turn:
        """Makes one turn of one kind of work, and waits so long after it."""
        ...


class SideProcess:
    """A side in a process of its own.

    Attributes:
        names: of its kinds of work.
        facts: what it told about them.
    """

    def __init__(
        self,
        function: str,
        arguments: Mapping[str, Any],
        *,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
    ):
        self._function = function
        self._process = subprocess.Popen(
            [python, str(Path(__file__).resolve()), function, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        ready = self._reply()
        self.names: list[str] = ready["names"]
        self.facts: dict[str, Any] = ready["facts"]

    def turn(self, who: str, shortest: float, settle: float) -> Turn:
        """Makes one turn of one kind of work, and waits so long after it."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the missing reply tells more
            self._process.stdin.write(json.dumps({"who": who, "shortest": shortest, "settle": settle}) + "\n")
            self._process.stdin.flush()
        return Turn(**self._reply())

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.communicate()
            code = self._process.returncode
            raise SideError(f"{self._function} ended with exit code {code}: its own message stands above")
        return json.loads(line)

    def __enter__(self) -> "SideProcess":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()  # it holds nothing but memory
        self._process.communicate()


class Measured(NamedTuple):
    """What sides took.

    Attributes:
        seconds: per unit of work, by name: for each turn but the first, its blocks.
        taken: by name, the median of its turns.
        idle: by name, cores that its side kept busy while it waited.
    """

    seconds: dict[str, list[list[float]]]
    taken: dict[str, float]
    idle: dict[str, float]

    def per(self, sizes: Mapping[str, float]) -> "Measured":
        """Seconds per part, where a unit of a work has so many."""
        return self._replace(
            seconds={who: [[t / sizes[who] for t in turn] for turn in turns] for who, turns in self.seconds.items()}
        )

    def best(self, who: str) -> float:
        """The quantile that is compared."""
        return best(block for turn in self.seconds[who] for block in turn)

    def median(self, who: str) -> float:
        """The median of all blocks."""
        return statistics.median(block for turn in self.seconds[who] for block in turn)

    def spread(self, who: str) -> float:
        """The median block over the fastest."""
        return self.median(who) / min(block for turn in self.seconds[who] for block in turn)


def take_turns(
    sides: Sequence[Side], repeats: int, *, names: Iterable[str] | None = None, shortest: float = SHORTEST_BLOCK
) -> Measured:
    """All works (or those named) in turns, so many of each; the first of each, which compiles, is left out."""
    wanted = None if names is None else set(names)
    order = [
        (side, who)
        for whos in zip_longest(*(side.names for side in sides))  # one side after the other: A B A B
        for side, who in zip(sides, whos, strict=True)
        if who is not None and (wanted is None or who in wanted)
    ]
    turns: dict[str, list[Turn]] = {who: [] for _, who in order}
    for _ in range(repeats):
        for side, who in order:
            turns[who].append(side.turn(who, shortest, SETTLE if len(sides) > 1 else 0.0))
        order.append(order.pop(0))  # nobody always follows the same neighbour
    kept = {who: turns[who][1:] for side in sides for who in side.names if who in turns}
    seconds = {who: [turn.blocks for turn in made] for who, made in kept.items()}
    taken = {who: statistics.median(turn.taken for turn in made) for who, made in kept.items()}
    idle = {}
    for side in sides:
        own = [turn for who in side.names for turn in kept.get(who, ()) if turn.waited > SHORTEST_WAIT]
        waited = sum(turn.waited for turn in own)
        idle |= dict.fromkeys(side.names, sum(turn.busy for turn in own) / waited if waited else 0.0)
    return Measured(seconds, taken, {who: idle[who] for who in seconds})


# ---------------------------------------------------------------------------------------------- the verdict


class Verdict(NamedTuple):
    """Whether, and how, two sides compare.

    Attributes:
        ratio: time of the fastest of theirs over that of the fastest of ours; None where a side is unreliable.
        quartiles: of the ratios of the turns' medians; None likewise.
        reason: which side is unreliable and what to do; None where none is.
    """

    ratio: float | None
    quartiles: list[float] | None
    reason: str | None


def compare(measured: Measured, ours: Sequence[str], theirs: Sequence[str]) -> Verdict:
    """Compares the fastest of each side, if all of both were reliable: who was disturbed may have been the fastest."""
    reason = unreliable(measured, [*ours, *theirs])
    if reason:
        return Verdict(None, None, reason)
    our, their = (min(side, key=measured.best) for side in (ours, theirs))
    pairs = [
        statistics.median(b) / statistics.median(a)
        for a, b in zip(measured.seconds[our], measured.seconds[their], strict=True)
    ]
    quartiles = [round(q, 3) for q in statistics.quantiles(pairs, n=4)[::2]]
    return Verdict(round(measured.best(their) / measured.best(our), 3), quartiles, None)


def unreliable(measured: Measured, names: Sequence[str]) -> str | None:
    """Why the times of these are not their speeds, in one line; None where they are."""
    reasons = []
    who = max(names, key=measured.spread)
    if (spread := measured.spread(who)) > ALLOWED_SPREAD:
        reasons.append(f"the median block of {who!r} took {spread:.1f} times as long as its fastest")
    who = max(names, key=measured.taken.__getitem__)
    if (taken := measured.taken[who]) > ALLOWED_TAKEN:
        reasons.append(f"for each second of {who!r} other programs took {taken:.1f} s of its cores")
    who = max(names, key=measured.idle.__getitem__)
    if (idle := measured.idle[who]) > ALLOWED_IDLE:
        reasons.append(f"{who!r} kept {idle:.1f} cores busy while it should have waited")
    if not reasons:
        return None
    return f"{'; '.join(reasons)}: stop what else runs on this machine, and measure again with more --repeats"


def best(times: Iterable[float]) -> float:
    """The quantile that is compared, between the two times next to it; of a single time, that time."""
    ordered = sorted(times)
    place = BEST * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):  # whoever started it has been stopped
        serve(sys.argv[1], json.loads(sys.argv[2]))
