"""One of two processes, started alone: what it says, and how it ends."""

import os
import socket
import subprocess
import sys

import pytest

START = """
import sys
from osrjax.devices import sharding
process = int(sys.argv[2])
try:
    sharding.start_distributed(
        coordinator=sys.argv[1], processes=2, process=process,
        start_timeout=int(sys.argv[3]), patience=float(sys.argv[4]),
    )
except ValueError as error:
    print(error, file=sys.stderr)
    sys.exit(3)
"""


@pytest.fixture
def address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def start(*arguments):
    command = [sys.executable, "-c", START, *map(str, arguments)]
    return subprocess.Popen(command, env={**os.environ, "JAX_PLATFORMS": "cpu"}, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("process", "code", "lines"),
    [
        (
            0,
            2,
            [
                "process 0 of 2 waits up to 2 s for all others to reach {}: give them the same command, each its own"
                " --process",
                "not all of 2 processes reached {} in 2 s: give them the same command, each its own --process",
            ],
        ),
        (
            1,
            3,
            [
                "process 1 of 2 waits up to 2 s for process 0 at {}: start it there, or correct the address",
                "coordinator='{}' does not answer after 2 s ([Errno 111] Connection refused): start process 0 there, or"
                " correct the address",
            ],
        ),
    ],
)
def test_a_process_alone_says_whom_it_waits_for_and_ends(address, process, code, lines):
    _, error = (started := start(address, process, 2, 0.2)).communicate(timeout=60)
    assert started.returncode == code, error
    assert [line for line in error.splitlines() if address in line] == [line.format(address) for line in lines]


def test_processes_that_come_in_time_say_nothing(address):
    started = [start(address, process, 50, 50) for process in (0, 1)]
    for process in started:
        _, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        assert address not in error
