"""`cifar10-fast` trained whole by experiments/train.py on one device, for accelerator.py."""

import runpy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import accelerator_speed
from accelerator_cases import Cases

from osrjax.files import read_json


def cifar10_fast(data: str, out: str, options: Sequence[str]) -> Cases:
    """One training, from reading the data to its results; stopped at a limit, it goes on when asked for again."""

    def training() -> dict[str, Any]:
        script = Path(__file__).resolve().parents[1] / "train.py"
        resumed, start = (Path(out) / "checkpoints").exists(), time.perf_counter()
        code = runpy.run_path(str(script))["main"](training_words(data, out, options))
        if code:
            why = "stopped at the limit, its state saved" if code == 143 else f"exit code {code}, its words in logs"
            raise RuntimeError(f"train.py: {why}")
        seconds = time.perf_counter() - start
        results = read_json(Path(out) / "results.json", "delete it")
        scores = results["trained"]["scores"]
        return {
            "seconds": seconds,
            "resumed": resumed,
            "steps": results["steps"],
            "closed_set_accuracy": scores[results["score"]]["closed_set_accuracy"],
            "auroc": {name: score["auroc"] for name, score in scores.items()},
            "score": results["score"],
        }

    return Cases(accelerator_speed.facts(), {"cifar10-fast": training})


def training_words(data: str, out: str, options: Sequence[str]) -> list[str]:
    """The command line of the training."""
    return ["--preset", "cifar10-fast", "--data", data, "--out", out, "--devices", "1", *options]
