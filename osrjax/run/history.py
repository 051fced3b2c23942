"""What a run logged on its way, read back from its metrics.jsonl."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from osrjax.run.finished import open_finished

__all__ = ["ValidationCurve", "validation_curve"]


class ValidationCurve(NamedTuple):
    """Validation accuracy over the time that the steps took.

    Attributes:
      seconds: of steps alone, without start, validation and probes.
      accuracy: on known validation images.
    """

    seconds: Float[np.ndarray, " points"]
    accuracy: Float[np.ndarray, " points"]


def validation_curve(directory: Path) -> ValidationCurve:
    """The curve of a run of a script that trains one network.

    Args:
      directory: of the run, finished or not; a point for every checkpoint (``--save-every``).

    Returns:
      The curve.

    Raises:
      ValueError: no run directory, or one whose log holds no validation.
    """
    needed = ("config.json", "provenance.json", "metrics.jsonl")
    batch_size = open_finished(directory, argument="run", needed=needed).number("batch_size")
    seconds, before, points = 0.0, 0, []
    for line in (directory / "metrics.jsonl").read_text().splitlines():
        logged = json.loads(line)
        if speed := logged.get("train/images_per_second"):
            seconds += (logged["step"] - before) * batch_size / speed
            before = logged["step"]
            if "validation/accuracy" in logged:
                points.append((seconds, logged["validation/accuracy"]))
    if not points:
        raise ValueError(f"run={str(directory)!r} has logged no validation: give a run of experiments/train.py")
    return ValidationCurve(*np.asarray(points, np.float64).T)
