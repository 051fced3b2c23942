"""What a run logged on its way, read back from its metrics.jsonl."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from osrjax.files import read_text, reading
from osrjax.run.finished import open_finished

__all__ = ["ValidationCurve", "training_seconds", "validation_curve"]

_AGAIN = "restore it, or train again"


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
      ValueError: no run directory, or one whose log is damaged or holds no validation.
    """
    needed = ("config.json", "provenance.json", "metrics.jsonl")
    batch_size = open_finished(directory, argument="run", needed=needed).number("batch_size")
    points = [
        (seconds, logged["validation/accuracy"])
        for seconds, logged in _logged(directory, batch_size)
        if "validation/accuracy" in logged
    ]
    if not points:
        raise ValueError(f"run={str(directory)!r} has logged no validation: give a run of experiments/train.py")
    return ValidationCurve(*np.asarray(points, np.float64).T)


def training_seconds(directory: Path, *, batch_size: int) -> float | None:
    """Seconds that the logged steps of a run took, without start, compiling, validation and probes.

    Args:
      directory: of the run.
      batch_size: images a step.

    Returns:
      The sum over all of its starts; None where the run has no log.

    Raises:
      ValueError: the log is damaged.
    """
    return max((seconds for seconds, _ in _logged(directory, batch_size)), default=None)


def _logged(directory: Path, batch_size: int) -> Iterator[tuple[float, dict[str, Any]]]:
    """The lines of the training's log, each with the seconds of the steps so far."""
    path, seconds, before = directory / "metrics.jsonl", 0.0, 0
    if not path.exists():
        return
    text = read_text(path, _AGAIN, limit=2**28)
    with reading(path, _AGAIN):
        for line in text.splitlines():
            logged = json.loads(line)
            if speed := logged.get("train/images_per_second"):
                seconds += (logged["step"] - before) * batch_size / speed
                before = logged["step"]
                yield seconds, logged
