"""What test_distributed.py starts twice: a damaged checkpoint, and a signal between two programs. Prints JSON."""

import argparse
import json
import os
import signal
import time
from pathlib import Path

import jax
import numpy as np

from osrjax.devices import processes, sharding
from osrjax.run.checkpoint import LaneCheckpoints
from osrjax.run.signals import StopSignal


def damaged_checkpoint(directory):
    """The step and reports that are restored where process 1's part of the newest checkpoint is cut."""
    mesh = sharding.sweep_mesh(2)
    state = {"w": np.arange(2 * 5000, dtype=np.float32).reshape(2, 5000), "b": np.ones((2, 3), np.float32)}
    with LaneCheckpoints(directory, lanes=2, mesh=mesh) as kept:
        for step in (5, 10):
            kept.save(step, sharding.spread({**state, "w": state["w"] + step}, sharding.lane_sharding(mesh)))
        kept.wait()
    cut = 0
    for path in (directory / "10" / "state" / "ocdbt.process_1" / "d").iterdir() if processes.is_first() else ():
        os.truncate(path, path.stat().st_size // 2)
        cut += 1
    processes.gather_text("")
    like = sharding.spread(jax.tree.map(np.zeros_like, state), sharding.lane_sharding(mesh))
    with LaneCheckpoints(directory, lanes=2, mesh=mesh) as kept:
        restored = kept.restore_latest(like)
        mine = restored.state["w"].addressable_shards
        right = all(np.array_equal(shard.data, (state["w"] + restored.step)[shard.index]) for shard in mine)
    return {"cut": cut, "step": restored.step, "right": right, "reports": restored.reports}


def signal_between_programs(number):
    """After how many steps of the second program a signal to process 1 stops both, and the exit code."""
    with StopSignal() as stop:
        for _ in range(20):
            assert not stop.reached()
        if number:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(3)  # JAX looks for signals once a second
        for step in range(1, 100):
            if stop.reached():
                return {"stopped": step, "exit_code": stop.exit_code}
            time.sleep(0.05)
    return {"stopped": None}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--coordinator")
    for name in ("processes", "process", "peer-timeout"):
        parser.add_argument(f"--{name}", type=int)
    options = parser.parse_args()
    sharding.start_distributed(
        coordinator=options.coordinator,
        processes=options.processes,
        process=options.process,
        peer_timeout=options.peer_timeout,
    )
    jax.devices()
    found = damaged_checkpoint(options.out / "checkpoints") | signal_between_programs(options.process)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
