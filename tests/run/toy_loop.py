"""A toy step in the real loop, whose state after every step is known by hand."""

import json

import jax
import jax.numpy as jnp

from osrjax.run.checkpoint import Checkpoints
from osrjax.run.directory import Run
from osrjax.run.loop import train_loop
from osrjax.run.signals import StopSignal

ADD = jax.jit(lambda state, value: ({"sum": state["sum"] + value}, {"loss": value, "twice": 2.0 * value}))


def squares(start):
    """The input of step n is n^2."""
    return ((step + 1.0) ** 2 for step in range(start, 10**9))


def looped(directory, *, train_step=ADD, inputs=squares, kill_at=None, state=None, **options):
    """Runs the loop in a directory; `kill_at` raises where a process would be killed."""

    def guarded(state, value):
        if kill_at is not None and value == kill_at**2:
            raise KeyboardInterrupt
        return train_step(state, value)

    settings = {"script": "toy.py", "steps": 10, "batch_size": 4, "log_every": 2, "save_every": 5}
    settings |= {"validate": lambda state: 1.0 / float(state["sum"]), "remedy": "Lower nothing"}
    with (
        Run(directory, {"toy": True}) as run,
        StopSignal() as stop,
        Checkpoints(directory / "checkpoints") as kept,
    ):
        state = {"sum": jnp.zeros(())} if state is None else state
        return train_loop(run, kept, stop, state, guarded, inputs, **(settings | options))


def logged(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
